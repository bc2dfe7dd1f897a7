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

from collections.abc import Iterable


class Departures:
    """The open departures. Each method returns the processes that it settled, in order."""

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

    def open(self, process: bytes, witnesses: Iterable[bytes]) -> list[bytes]:
        """`process` died; `witnesses` are those that live now."""
        assert process not in self._silent, f"{process.hex()} died twice"
        silent = self._silent[process] = set(witnesses)
        assert process not in silent, f"{process.hex()} cannot be a witness of its own death"
        for witness in silent:
            self._asked.setdefault(witness, set()).add(process)
        return [] if silent else self._settle(process)

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
        return [] if silent else self._settle(process)

    def _settle(self, process: bytes) -> list[bytes]:
        settled = [process]
        for dead in settled:  # grows while it runs: one end may settle others
            del self._silent[dead]
            for earlier in self._asked.pop(dead, ()):
                silent = self._silent[earlier]
                silent.discard(dead)
                if not silent:
                    settled.append(earlier)
        return settled
