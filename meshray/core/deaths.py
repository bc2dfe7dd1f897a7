"""When may what a dead process held be let go of, with other hosts in the play?

Theory. `core.departures` says who must account for what a dead process had sent: the processes of its host, and the
peers of the hosts it had dealt with, each in the name of its own processes (`core.road` asks these).

Between an answer and the end of the holds stand two more waits, both bounded by the life of other hosts:

- *known*: what the witnesses hold may belong to other hosts. Their `Hold`s have reached this peer, and must have
  reached the owners before anybody lets go. The same before this peer answers for its processes.
- *doubt*: a witness may be gone with its host, or answer while deaths of its own are open (`others`): who got
  references from those may not have told yet. Then the holds stay for `doubt_s`, by which time every host has heard of
  every death. They cost memory meanwhile, and nothing else.

So an answer to another host waits for living processes and for owners, and never for a death of one's own, unless that
came after the question: dead processes of several hosts cannot wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from meshray.core.borrows import Borrows
from meshray.core.departures import Departures
from meshray.ids import peer_of
from meshray.wire.messages import DeathSeen, Message


class Deaths:
    """See the head of this file. `settled(process)` is called for each process of this host of which all is known;
    `later(event)` calls back after the time of doubt."""

    def __init__(
        self,
        borrows: Borrows,
        say: Callable[[bytes, Message], None],
        settled: Callable[[bytes], None],
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        self._borrows = borrows
        self._say = say
        self._settled = settled
        self._later = later
        self._departures = Departures()
        self._doubtful: set[bytes] = set()  # open ones whose holds are to stay for a while
        self._unknown: dict[bytes, int] = {}  # complete, but for Holds of ours up to a mark; in order
        self._answers: dict[bytes, int] = {}  # the same for foreign ones, for which we are to answer

    def __contains__(self, process: bytes) -> bool:
        """Whether this death is open."""
        return process in self._departures

    def __iter__(self) -> Iterator[bytes]:
        """The open deaths of this host."""
        return iter(self._departures)

    def __len__(self) -> int:
        return len(self._departures) + len(self._answers)

    def unanswered_by(self, process: bytes) -> list[bytes]:
        """For which of the dead this process has not accounted."""
        return self._departures.unanswered_by(process)

    # -- events ------------------------------------------------------------------------------------------------------

    def on_died(self, process: bytes, witnesses: Iterable[bytes]) -> None:
        """A process of this host died, and its witnesses are being told."""
        self._advance(self._departures.open(process, witnesses))

    def on_seen(self, witness: bytes, message: DeathSeen) -> None:
        """A process, or a peer, has accounted for what the dead one had sent to it."""
        if message.others and message.process in self._departures:
            self._doubtful.add(message.process)
        self._advance(self._departures.answered(witness, message.process))

    def on_host_gone(self, peer: bytes) -> None:
        """It accounts for nothing any more."""
        for process in self._departures.unanswered_by(peer):
            self._doubtful.add(process)
            self._advance(self._departures.answered(peer, process))

    def answer_for(self, process: bytes) -> None:
        """Our processes have accounted for this one of another host: its peer is told, once owners know what they
        have."""
        mark = self._borrows.mark()
        if self._borrows.is_known(mark):
            self._answer(process)
        else:
            self._answers[process] = mark

    def on_known(self) -> None:
        """Owners have answered Holds."""
        for process in self._known(self._answers):
            self._answer(process)
        for process in self._known(self._unknown):
            self._close(process)

    def _known(self, waiting: dict[bytes, int]) -> list[bytes]:
        known = [process for process, mark in waiting.items() if self._borrows.is_known(mark)]
        for process in known:
            del waiting[process]
        return known

    # -- the way to the end ------------------------------------------------------------------------------------------

    def _answer(self, process: bytes) -> None:
        self._say(peer_of(process), DeathSeen(process, others=len(self._departures) > 0))

    def _advance(self, complete: list[bytes]) -> None:
        for process in complete:
            if process in self._doubtful:
                self._doubtful.discard(process)
                self._later(partial(self._await_known, process))
            else:
                self._await_known(process)

    def _await_known(self, process: bytes) -> None:
        mark = self._borrows.mark()
        if self._borrows.is_known(mark):
            self._close(process)
        else:
            self._unknown[process] = mark

    def _close(self, process: bytes) -> None:
        complete = self._departures.close(process)
        self._settled(process)
        self._advance(complete)
