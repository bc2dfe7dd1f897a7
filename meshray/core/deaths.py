"""When may what a dead process held be let go of, with other hosts in the play?

Theory. `core.departures` says who must account for what a dead process had sent: the processes of its host, and the
peers of hosts whose processes it had to do with, each in the name of all of its own. Such a peer asks its processes in
turn (a departure of a foreign process), and answers when all of them have.

Between an answer and the end of the holds stand two more waits, both bounded by the life of other hosts:

- *known*: what the witnesses hold may belong to other hosts. Their `Hold`s have reached this peer, and must have reached
  the owners before anybody lets go.
- *doubt*: a witness may be gone with its host, or answer while deaths of its own are open (`others`): who got references
  from those may not have told yet. Then the holds stay for `doubt_s`, by which time every host has heard of every
  death. They cost memory meanwhile, and nothing else.

Nothing here waits for anything but living processes and the answers of living peers, so no circle of dead ones on
several hosts can wait for each other: an answer to another host never waits for a death of one's own to be settled,
unless that happened after the question had come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from meshray.core.borrows import Borrows
from meshray.core.departures import Departures
from meshray.ids import node_of, peer_of
from meshray.wire.messages import DeathSeen, DeathSettled, Message, ProcessDied


class Deaths:
    """See the head of this file. `settled(process)` is called for each process of this host of which all is known;
    `later(event)` calls back after the time of doubt."""

    def __init__(
        self,
        node: bytes,
        borrows: Borrows,
        say: Callable[[bytes, Message], None],
        settled: Callable[[bytes], None],
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        self._node = node
        self._borrows = borrows
        self._say = say
        self._settled = settled
        self._later = later
        self._departures = Departures()
        self._hosts: dict[bytes, tuple[bytes, ...]] = {}  # a dead process of ours -> peers that were asked, while open
        self._doubtful: set[bytes] = set()  # dead ones of ours whose holds are to stay for a while
        self._unknown: dict[bytes, int] = {}  # complete, but for Holds of ours up to a mark; in order
        self._moot: set[bytes] = set()  # foreign dead ones whose peer waits for no answer

    def __contains__(self, process: bytes) -> bool:
        """Whether this death is open."""
        return process in self._departures

    def __len__(self) -> int:
        return len(self._departures)

    def unanswered_by(self, process: bytes) -> int:
        """For how many of the dead this process has not accounted."""
        return self._departures.unanswered_by(process)

    # -- events ------------------------------------------------------------------------------------------------------

    def on_died(self, process: bytes, witnesses: Iterable[bytes], hosts: Iterable[bytes] = ()) -> None:
        """A process of this host died. `hosts`: the peers of the hosts that it dealt with."""
        asked = tuple(hosts)
        self._hosts[process] = asked
        everybody = [*sorted(witnesses), *asked]
        for witness in everybody:
            self._say(witness, ProcessDied(process))
        self._advance(self._departures.open(process, everybody))

    def on_foreign_death(self, process: bytes, witnesses: Iterable[bytes]) -> None:
        """The peer of another host asks what our processes had from a dead one of its own. A repeat changes nothing."""
        self._moot.discard(process)
        if process in self._departures:
            return
        everybody = sorted(witnesses)
        for witness in everybody:
            self._say(witness, ProcessDied(process))
        self._advance(self._departures.open(process, everybody))

    def on_seen(self, witness: bytes, message: DeathSeen) -> None:
        """A process, or a peer, has accounted for what the dead one had sent to it."""
        if message.others:
            self._doubtful.add(message.process)
        self._advance(self._departures.answered(witness, message.process))

    def on_host_gone(self, peer: bytes) -> None:
        """It accounts for nothing any more, and asks nothing."""
        self._moot.update(dead for dead in self._departures if peer_of(dead) == peer)
        for process in self._departures.unanswered(peer):
            self._doubtful.add(process)
            self._advance(self._departures.answered(peer, process))

    def on_known(self) -> None:
        """Owners have answered Holds."""
        for process in [each for each, mark in self._unknown.items() if self._borrows.is_known(mark)]:
            if self._unknown.pop(process, None) is not None:
                self._close(process)

    # -- the way to the end ------------------------------------------------------------------------------------------

    def _advance(self, complete: list[bytes]) -> None:
        for process in complete:
            if process in self._doubtful:
                self._doubtful.discard(process)
                self._later(lambda process=process: self._await_known(process))
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
        if node_of(process) == self._node:
            self._settled(process)
            for peer in self._hosts.pop(process):
                self._say(peer, DeathSettled(process))
        elif process in self._moot:
            self._moot.discard(process)
        else:
            others = any(node_of(dead) == self._node for dead in self._departures)
            self._say(peer_of(process), DeathSeen(process, others))
        self._advance(complete)
