"""What is to leave for one other host next?

What this peer itself says goes first, in its order, while the link takes anything. What it relays for processes waits
behind the window of the link, and pairs of processes take turns by message, so a pair that has much to say holds up no
other, and none holds up the peers. What a pair says stays in its order.

A process that has died says farewell when the last of its messages has left.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from meshray.wire.messages import Message

Pair = tuple[bytes, bytes]
"""Source and destination, both processes."""


class Parcel(NamedTuple):
    """One message on its way to another host: decoded yet if it is of our own peer, encoded if it was relayed."""

    destination: bytes
    source: bytes
    message: Message | bytes


class Way:
    """The way to one home."""

    def __init__(self, home: bytes) -> None:
        self.home = home
        self.give_up_at: float | None = None  # while nobody knows a life of it; None: there is one
        self.introduced: set[bytes] = set()  # processes of this host that were made known there
        self.jobs: set[bytes] = set()  # jobs that were made known there, or from there
        self.dealt: set[bytes] = set()  # living processes of this host that have spoken with it, either way
        self._own: deque[Parcel] = deque()
        self.own_count = 0  # what waits of our own peer, in either kind
        self._pairs: dict[Pair, deque[bytes | Parcel]] = {}  # no empty ones; whose turn it is comes first
        self._bytes: dict[Pair, int] = {}  # what waits of them
        self._waiting: dict[bytes, int] = {}  # source -> how many of its pairs wait
        self._farewells: dict[bytes, Parcel] = {}  # of dead processes of which something still waits

    def say(self, parcel: Parcel) -> None:
        """Our own peer says something."""
        self._own.append(parcel)
        self.own_count += 1

    def relay(self, pair: Pair, data: bytes | Parcel) -> None:
        """A process says something; or our own peer something that can wait, which takes its turn as a pair does."""
        waiting = self._pairs.get(pair)
        if waiting is None:
            waiting = self._pairs[pair] = deque()
            self._waiting[pair[0]] = self._waiting.get(pair[0], 0) + 1
            self._bytes[pair] = 0
        waiting.append(data)
        self._bytes[pair] += _size(data)
        self.own_count += isinstance(data, Parcel)

    def bytes_of(self, pair: Pair) -> int:
        """What waits of this pair."""
        return self._bytes.get(pair, 0)

    def farewell(self, process: bytes, parcel: Parcel) -> None:
        """The process is dead: say this after all it has said."""
        self.introduced.discard(process)
        self.dealt.discard(process)
        if process in self._waiting:
            self._farewells[process] = parcel
        else:
            self.say(parcel)

    def has_own(self) -> bool:
        return bool(self._own)

    def __bool__(self) -> bool:
        return bool(self._own or self._pairs)

    def next_own(self) -> Parcel | None:
        """What our peer has to say next."""
        if not self._own:
            return None
        self.own_count -= 1
        return self._own.popleft()

    def next_relayed(self) -> Parcel | None:
        """What is to be relayed next."""
        if not self._pairs:
            return None
        pair = next(iter(self._pairs))
        waiting = self._pairs.pop(pair)
        data = waiting.popleft()
        if waiting:
            self._pairs[pair] = waiting
            self._bytes[pair] -= _size(data)
        else:
            del self._bytes[pair]
            self._one_less(pair[0])
        if isinstance(data, Parcel):
            self.own_count -= 1
            return data
        return Parcel(pair[1], pair[0], data)

    def drop(self, destination: bytes) -> None:
        """That one is dead: what waits for it is for nobody."""
        for pair in [pair for pair in self._pairs if pair[1] == destination]:
            del self._bytes[pair]
            self.own_count -= sum(isinstance(data, Parcel) for data in self._pairs.pop(pair))
            self._one_less(pair[0])

    def _one_less(self, source: bytes) -> None:
        left = self._waiting[source] - 1
        if left:
            self._waiting[source] = left
            return
        del self._waiting[source]
        farewell = self._farewells.pop(source, None)
        if farewell is not None:
            self.say(farewell)

    def sources(self) -> set[bytes]:
        """Processes of which something waits."""
        return set(self._waiting)


def _size(data: bytes | Parcel) -> int:
    """Bytes that count against the window of a process; our own peer has none."""
    return 0 if isinstance(data, Parcel) else len(data)
