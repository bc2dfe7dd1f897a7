"""Whose room in the store is what? Segments and credit of one host.

Theory. Writing needs no round trip: a process holds *credit*, granted in steps, and says `Sealed` afterwards. Room is
charged to the process that was granted it, and stays charged through the whole life of a file::

    credit (not written yet) -> live (a segment whose object lives) -> pool (freed: may be written again) -> given back

of which the peer knows two figures per process: `charged`, all of it, and `live`. `PoolTrimmed` says what went back. So

    used = sum of charged over living processes + live segments of dead ones  <=  capacity

(less or equal but for what a dead process had sealed without our knowledge.) A full store asks for pools and unused
credit, and serves waiting requests in order of arrival, so that a large one is not starved by small ones; after
`store_wait_s` a request fails and says who holds what.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import Struct

from meshray.config import Config
from meshray.core.effects import Core, Send, SweepSegments, UnlinkSegment
from meshray.wire.messages import (
    CreditGranted,
    CreditRequest,
    Failure,
    Place,
    PoolTrimmed,
    SealedSegment,
    SegmentsFree,
    TrimPool,
)

HOLDERS_SHOWN = 5
"""How many of the largest objects an ObjectStoreFullError names."""


class StoreStats(Struct, frozen=True):
    """A snapshot, in bytes; `waiting` counts requests."""

    capacity: int
    used: int
    live: int
    segments: int
    waiting: int
    refused: int


@dataclass(slots=True)
class _Segment:
    """One file whose object lives."""

    name: str
    object_id: bytes
    maker: bytes
    size: int
    capacity: int


@dataclass(slots=True)
class _Account:
    """One living process."""

    pid: int
    charged: int = 0  # credit, live and pool together; grows by grants, shrinks by PoolTrimmed
    live: int = 0  # capacity of its segments in `_Segment`s; never above `charged`
    made: set[str] = field(default_factory=set)  # names of those


@dataclass(slots=True)
class _Waiting:
    """A request that found no room."""

    process: bytes
    request: int
    size: int
    deadline: float


class StoreAccounts(Core):
    """The books of one store folder of `capacity` bytes. `in_transit(segment)`: whether some of it is on its way to
    another host, so that it must not be written again (`store.transit`)."""

    def __init__(self, config: Config, capacity: int, in_transit: Callable[[str], bool]) -> None:
        super().__init__()
        self.capacity = capacity
        self.used = 0  # see the theory above
        self._config = config
        self._in_transit = in_transit
        self._accounts: dict[bytes, _Account] = {}  # from Attach to death
        self._segments: dict[str, _Segment] = {}  # by name, while the object lives
        self._of_object: dict[bytes, list[_Segment]] = {}  # mostly one; two after a retry. No empty lists
        self._orphans: dict[bytes, set[str]] = {}  # a dead maker -> its live segments. No empty sets
        self._pids: dict[bytes, int] = {}  # pids of dead makers in `_orphans`, for messages to people
        self._queue: deque[_Waiting] = deque()
        self._refused = 0  # messages that made no sense

    # -- processes ---------------------------------------------------------------------------------------------------

    def on_process_attached(self, process: bytes, pid: int) -> None:
        """A repeat changes nothing."""
        self._accounts.setdefault(process, _Account(pid))

    def on_process_died(self, process: bytes) -> None:
        """Its unused credit and its pool return at once; segments of living objects stay, charged to nobody."""
        account = self._accounts.pop(process, None)
        if account is None:
            return
        self._queue = deque(waiting for waiting in self._queue if waiting.process != process)
        self.used -= account.charged - account.live
        self._pids[process] = account.pid
        if account.made:
            self._orphans[process] = account.made
        self._serve()

    def on_death_settled(self, process: bytes) -> None:
        """Everybody has told which segments of the dead are in use: the rest of its files can go."""
        self._effects.append(SweepSegments(process, tuple(sorted(self._orphans.get(process, ())))))
        if process not in self._orphans:
            self._pids.pop(process, None)

    # -- segments ----------------------------------------------------------------------------------------------------

    def knows_segment(self, name: str) -> bool:
        """Whether this file holds a living object."""
        return name in self._segments

    def has(self, name: str, object_id: bytes, size: int) -> bool:
        """Whether this file holds this value."""
        segment = self._segments.get(name)
        return segment is not None and segment.object_id == object_id and segment.size == size

    def lodged(self, node: bytes) -> list[Place]:
        """The segments here that hold objects of other hosts; `node` is this one."""
        return [
            Place(segment.object_id, node, segment.name, segment.size)
            for segment in self._segments.values()
            if not segment.object_id.startswith(node)
        ]

    def on_sealed(self, sender: bytes, sealed: SealedSegment) -> bool:
        """A file was written. False when that was known, or cannot be right: the name is in use for another object."""
        known = self._segments.get(sealed.segment)
        if known is not None:
            self._refused += known.object_id != sealed.object_id
            return False
        maker = sealed.maker or sender
        segment = _Segment(sealed.segment, sealed.object_id, maker, sealed.size, sealed.capacity)
        self._segments[segment.name] = segment
        self._of_object.setdefault(segment.object_id, []).append(segment)
        account = self._accounts.get(maker)
        if account is None:  # the maker is dead, and somebody else has told us of its file
            self._orphans.setdefault(maker, set()).add(segment.name)
            self._pids.setdefault(maker, 0)
            self.used += segment.capacity
            return True
        account.made.add(segment.name)
        account.live += segment.capacity
        if account.live > account.charged:  # it wrote more than it was granted: the books follow the facts
            self.used += account.live - account.charged
            account.charged = account.live
        return True

    def on_pooled(self, sender: bytes, object_id: bytes) -> None:
        """The sender keeps its files of this object in its pool: they are to be Sealed anew, not given back."""
        for segment in [each for each in self._of_object.get(object_id, ()) if each.maker == sender]:
            self._remove(segment)
        if self._queue:  # somebody waits for room: it shall not rest in a pool
            self._effects.append(Send(sender, TrimPool()))

    def on_object_freed(self, object_id: bytes) -> bool:
        """Nobody uses the object any more: its files go back to their makers, or away with them. True when one of the
        makers is dead: then another process may have made the object once more."""
        of_dead = False
        for segment in list(self._of_object.get(object_id, ())):
            self._remove(segment)
            if segment.maker in self._accounts:
                self._give_back(segment)
            else:
                of_dead = True
                self._effects.append(UnlinkSegment(segment.name))
        self._serve()
        return of_dead

    def _remove(self, segment: _Segment) -> None:
        """Out of the books. A living maker stays charged: the file goes into its pool."""
        del self._segments[segment.name]
        others = self._of_object[segment.object_id]
        others.remove(segment)
        if not others:
            del self._of_object[segment.object_id]
        account = self._accounts.get(segment.maker)
        if account is not None:
            account.made.discard(segment.name)
            account.live -= segment.capacity
            return
        self.used -= segment.capacity
        orphans = self._orphans[segment.maker]
        orphans.discard(segment.name)
        if not orphans:
            del self._orphans[segment.maker]
            self._pids.pop(segment.maker, None)

    def _give_back(self, segment: _Segment) -> None:
        again = not self._in_transit(segment.name)
        last = self._effects[-1] if self._effects else None
        free = last.message if isinstance(last, Send) and last.to == segment.maker else None
        if isinstance(free, SegmentsFree) and free.again == again:
            free.segments.append(segment.name)
            return
        self._effects.append(Send(segment.maker, SegmentsFree([segment.name], again)))
        if self._queue:  # somebody waits for room: it shall not rest in a pool
            self._effects.append(Send(segment.maker, TrimPool()))

    # -- credit ------------------------------------------------------------------------------------------------------

    def on_credit_request(self, sender: bytes, message: CreditRequest, now: float) -> None:
        """`sender` needs `message.size` bytes more. Answered with one CreditGranted per request."""
        if sender not in self._accounts:
            self._refused += 1
            return
        if message.size > self.capacity:
            text = f"an object of {_mib(message.size)} does not fit into the object store of {_mib(self.capacity)}"
            self._refuse(sender, message.request, f"{text}; start with a larger object_store_memory")
            return
        self._queue.append(_Waiting(sender, message.request, message.size, now + self._config.store_wait_s))
        self._serve()
        if self._queue:
            for process, account in self._accounts.items():
                if account.charged > account.live:
                    self._effects.append(Send(process, TrimPool()))

    def on_trimmed(self, sender: bytes, message: PoolTrimmed) -> None:
        """`sender` unlinked files of its pool or gave credit back."""
        account = self._accounts.get(sender)
        if account is None:
            return
        size = min(message.size, account.charged - account.live)
        self._refused += size != message.size
        account.charged -= size
        self.used -= size
        self._serve()

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        return self._queue[0].deadline if self._queue else None

    def tick(self, now: float) -> None:
        """Requests that waited too long fail."""
        while self._queue and self._queue[0].deadline <= now:
            waiting = self._queue.popleft()
            text = (
                f"no room for {_mib(waiting.size)} in the object store of {_mib(self.capacity)} within "
                f"{self._config.store_wait_s:g} s: {_mib(self.used)} are in use. {self._largest()}"
            )
            self._refuse(waiting.process, waiting.request, text)
            self._serve()

    def _serve(self) -> None:
        """Grant what fits, in order of arrival."""
        while self._queue and self._queue[0].size <= self.capacity - self.used:
            waiting = self._queue.popleft()
            room = self.capacity - self.used
            size = max(waiting.size, min(self._config.store_credit_bytes, room // 8))
            self._accounts[waiting.process].charged += size
            self.used += size
            self._effects.append(Send(waiting.process, CreditGranted(waiting.request, size)))

    def _refuse(self, process: bytes, request: int, text: str) -> None:
        self._effects.append(Send(process, CreditGranted(request, 0, Failure("ObjectStoreFullError", text))))

    def _largest(self) -> str:
        largest = heapq.nlargest(HOLDERS_SHOWN, self._segments.values(), key=lambda segment: segment.capacity)
        if not largest:
            return "No object is in it: all of it is credit and pools of living processes"
        parts = (f"{s.object_id.hex()} ({_mib(s.size)}, made by pid {self._pid_of(s.maker)})" for s in largest)
        return f"The largest of {len(self._segments)} objects: {', '.join(parts)}"

    def _pid_of(self, process: bytes) -> str:
        account = self._accounts.get(process)
        return str(account.pid) if account is not None else f"{self._pids.get(process, 0) or '?'}, which has ended"

    # -- for people and tests ----------------------------------------------------------------------------------------

    def live_segments(self) -> dict[str, bytes]:
        """Name to object id of every file whose object lives."""
        return {name: segment.object_id for name, segment in self._segments.items()}

    def stats(self) -> StoreStats:
        live = sum(segment.capacity for segment in self._segments.values())
        return StoreStats(self.capacity, self.used, live, len(self._segments), len(self._queue), self._refused)

    def check(self) -> None:
        """Assert that the books agree."""
        charged = sum(account.charged for account in self._accounts.values())
        orphans = sum(self._segments[name].capacity for names in self._orphans.values() for name in names)
        assert self.used == charged + orphans, f"used {self.used} is not {charged} charged + {orphans} of the dead"
        for process, account in self._accounts.items():
            live = sum(self._segments[name].capacity for name in account.made)
            assert account.live == live <= account.charged, f"{process.hex()}: {account!r} with {live} live"


def is_made_by(segment: str, process: bytes) -> bool:
    """Whether a file is of this process: names are the last 8 bytes of its id in hex, a dash, and a number."""
    return segment.startswith(process[-8:].hex() + "-")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB" if size >= 100 * 1024 else f"{size} bytes"
