"""Which pieces of values were asked for by other hosts, and which of them can be sent now?

Theory. What is asked for (`Pull`) waits here, as a few bytes, until the link to the asker has room: only then it is
read. So a peer that serves many keeps nothing for them, and a slow one holds up nobody else. Over a slow link a piece
is sent in parts: the asker takes whatever comes next.

A value may be served from the segment in which it was made, or from our copy of it, also while that is not whole: a
piece that has not come yet waits. Nothing is pinned for this. Whether the segment still holds the value is looked up at
the moment of sending, and only this peer gives segments free, in the same thread; what is gone by then is answered with
`NoPiece`, and what is sent from the segment's own memory is not written again before it has left (`store.transit`).
That the value stays while somebody needs it is the matter of references.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from msgspec import Struct

from meshray.config import Config
from meshray.core.effects import Core, Send
from meshray.ids import peer_of
from meshray.wire.messages import NoPiece, Place, Pull


class Reading(Struct, frozen=True):
    """A piece that can be sent: `size` bytes at `offset` of the file `segment`."""

    to: bytes
    place: Place
    segment: str
    offset: int
    size: int


class Serving(Core):
    """The queues of one peer, one per asker. `find(place)` gives the file and how many bytes of the value are in it, or
    None when it is not here."""

    def __init__(self, config: Config, find: Callable[[Place], tuple[str, int] | None]) -> None:
        super().__init__()
        self._config = config
        self._find = find
        self._queues: dict[bytes, deque[Pull]] = {}  # by asker, the one that was served last at the end. No empty ones
        self.served = 0  # pieces
        self.served_bytes = 0

    def on_pull(self, sender: bytes, message: Pull) -> None:
        """A piece is wanted."""
        queue = self._queues.setdefault(sender, deque())
        if len(queue) >= self._config.pulls_max or message.offset + message.size > message.place.size:
            self._effects.append(Send(sender, NoPiece(message.place)))
            if not queue:
                del self._queues[sender]
            return
        queue.append(message)

    def next(self, portion: Callable[[bytes], int]) -> Reading | None:
        """The next piece to be read and sent; None: nothing now. `portion(asker)`: how large it may be, 0 while the
        link takes none. Askers take turns."""
        for peer in list(self._queues):
            if at_most := portion(peer):
                reading = self._next_for(peer, at_most)
                if reading is not None:
                    return reading
        return None

    def _next_for(self, peer: bytes, at_most: int) -> Reading | None:
        queue = self._queues.pop(peer)
        found: Reading | None = None
        waiting: deque[Pull] = deque()
        stuck: set[Place] = set()  # values whose next piece has not come yet, or that are not here
        while queue:
            pull = queue.popleft()
            place = pull.place
            if place in stuck:
                waiting.append(pull)
                continue
            where = self._find(place)
            if where is None:
                self._effects.append(Send(peer, NoPiece(place)))
                queue = deque(other for other in queue if other.place != place)
            elif pull.offset + pull.size > where[1]:
                stuck.add(place)
                waiting.append(pull)
            else:
                size = min(pull.size, at_most)
                found = Reading(peer, place, where[0], pull.offset, size)
                self.served += 1
                self.served_bytes += size
                if size < pull.size:
                    queue.appendleft(Pull(place, pull.offset + size, pull.size - size))
                break
        waiting.extend(queue)
        if waiting:
            self._queues[peer] = waiting
        return found

    def on_unread(self, reading: Reading) -> None:
        """It could not be read now, for a reason that passes: it is the next one for its asker again."""
        self.served -= 1
        self.served_bytes -= reading.size
        pull = Pull(reading.place, reading.offset, reading.size)
        self._queues.setdefault(reading.to, deque()).appendleft(pull)

    def on_unreadable(self, reading: Reading) -> None:
        """The file could not be read: the asker has to turn to somebody else."""
        self._effects.append(Send(reading.to, NoPiece(reading.place)))

    def on_host_gone(self, node: bytes) -> None:
        """Nothing is sent there any more."""
        self._queues.pop(peer_of(node), None)

    @property
    def pending(self) -> bool:
        """Whether anything is asked for."""
        return bool(self._queues)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))
