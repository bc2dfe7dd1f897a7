"""Who must still answer before a dead process may be forgotten?

Theory. A process that died may have sent references to others which nobody else keeps alive: they were pinned under its
carriers. Its holds must stay until everybody has accounted for what it had sent. So each death opens a *departure*: all
processes attached at that time are asked, and each answers after its own Holds, on the same link. When all have
answered, the departure is *settled*, and the dead one's holds go.

A witness that dies before it has answered may itself have passed references on. Its silence counts as an answer only
when its own departure is settled: those to whom it had passed them have then told of theirs. There is no circle in
this: who died earlier is never asked about who died later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Departures:
    """The open departures. A method that may complete some returns them, in order; each stays open until it is closed,
    so that its owner may wait for more than answers."""

    def __init__(self) -> None:
        self._silent: dict[bytes, set[bytes]] = {}  # the dead -> witnesses that have not answered, dead ones included
        self._asked: dict[bytes, set[bytes]] = {}  # witness -> the dead it has not answered for; no empty sets

    def __contains__(self, process: bytes) -> bool:
        return process in self._silent

    def unanswered_by(self, witness: bytes) -> list[bytes]:
        """For which of the dead this witness has not accounted yet."""
        return sorted(self._asked.get(witness, ()))

    def __len__(self) -> int:
        return len(self._silent)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._silent)

    def open(self, process: bytes, witnesses: Iterable[bytes]) -> list[bytes]:
        """`process` died; `witnesses` are those that live now."""
        assert process not in self._silent, f"{process.hex()} died twice"
        silent = self._silent[process] = set(witnesses)
        assert process not in silent, f"{process.hex()} cannot be a witness of its own death"
        for witness in silent:
            self._asked.setdefault(witness, set()).add(process)
        return [] if silent else [process]

    def answered(self, witness: bytes, process: bytes) -> list[bytes]:
        """`witness` has accounted for what `process` had sent to it. Unknown pairs are ignored."""
        silent = self._silent.get(process)
        if silent is None or witness not in silent:
            return []
        silent.discard(witness)
        asked = self._asked[witness]
        asked.discard(process)
        if not asked:
            del self._asked[witness]
        return [] if silent else [process]

    def close(self, process: bytes) -> list[bytes]:
        """It is settled: what it had not answered counts as answered. Others may be complete with this."""
        assert not self._silent[process], f"{process.hex()} is not complete"
        del self._silent[process]
        complete = []
        for earlier in sorted(self._asked.pop(process, ())):
            silent = self._silent[earlier]
            silent.discard(process)
            if not silent:
                complete.append(earlier)
        return complete
