"""What one process does with the store of its host: write values, open them, free segments, spend its credit.

Theory. A segment that this process made is in one of three states: *being written* (a `Draft`), *sealed* (it holds a
value), *pooled* (free, still allocated). `free` follows the peer's word that nobody uses the segment any more. Of a
foreign segment there is only a mapping here.

Room is the peer's to give. This process holds `credit`, bytes that it may allocate unasked; fresh segments take from
it, recycled ones cost nothing since they never gave their room back. Whatever leaves the pool becomes credit again, and
`trim` and `give_back` return credit to the peer: they return the number to tell it.

A value is written in three steps: `reserve` a segment, `fill` it, `seal` it. Any thread may call every method.

The store's lock is held for short moments only, never while bytes are copied. It is re-entrant, because a collection
may run a program's `__del__` in the middle of a method, and that may put or get. The end of a view takes no lock (see
`mapping`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meshray.config import DEFAULT, Config
from meshray.errors import ObjectLostError, ObjectStoreFullError, OutOfDiskError
from meshray.store import files
from meshray.store.files import STAMP_BYTES
from meshray.store.mapping import Mapping
from meshray.store.pool import Pool, Segment
from meshray.wire.messages import Place, SealedSegment

if TYPE_CHECKING:  # the peer imports rooms of this store, and is to load no pickler
    from meshray.wire.payload import Payload


class NeedCredit(Exception):
    """A fresh segment of `size` bytes takes more than the credit that is left: ask the peer for `size`, then again."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes of store credit are needed")
        self.size = size


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What one process holds of the store."""

    credit: int  # bytes it may still allocate
    sealed: int  # its segments that hold values
    sealed_bytes: int  # their capacity
    pooled: int
    pooled_bytes: int
    foreign: int  # segments of others that are mapped here
    fresh_writes: int
    recycled_writes: int
    freed_under_view: int  # segments that were freed while a view of them lived here; must stay 0


class Draft:
    """A segment that is being written."""

    __slots__ = ("fresh", "object_id", "path", "segment", "size")

    def __init__(self, folder: Path, segment: Segment, object_id: bytes, size: int, fresh: bool) -> None:
        self.path = folder / segment.name
        self.segment = segment
        self.object_id = object_id
        self.size = size
        self.fresh = fresh  # its file does not exist yet

    def fill(self, payload: Payload) -> None:
        """Write the payload, whose size is the reserved one. Once.

        Raises `ObjectStoreFullError` or `OutOfDiskError` when the file system is full, `OSError`; then abandon it.
        """
        assert payload.nbytes == self.size, f"{self.size} bytes were reserved for a payload of {payload.nbytes}"
        last_bytes = files.stamp(self.object_id, self.size)
        if self.fresh:
            files.create(self.path, self.segment.capacity, payload.pieces, last_bytes)
        elif files.is_shared_memory(self.path):
            self._copy(payload, last_bytes)
        else:  # a disk that copies on write may be full even for a file that is there: never find that out by a touch
            files.rewrite(self.path, self.segment.capacity, payload.pieces, last_bytes)

    def _copy(self, payload: Payload, last_bytes: bytes) -> None:
        mapping = self.segment.mapping
        if mapping is None:
            mapping = self.segment.mapping = _map(self.path, writable=True)
        mapping.populate()
        offset = 0
        for piece in payload.pieces:
            offset = mapping.write_at(offset, piece)
        mapping.write_at(mapping.capacity - STAMP_BYTES, last_bytes)


class SegmentStore:
    """The store as one process sees it."""

    def __init__(
        self,
        folder: Path | str,
        node: bytes,
        process: bytes,
        config: Config = DEFAULT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = Path(folder)  # of the peer's segments; the peer made it
        self.credit = 0  # bytes this process may allocate unasked
        self.sealed: list[SealedSegment] = []  # to be told to the peer; `take_sealed` drains it
        self._node = node
        self._process = process
        self._prefix = files.segment_prefix(process)  # of the names of this process's segments
        self._pid = os.getpid()  # a forked child removes nothing
        self._clock = clock
        self._idle_s = config.pool_idle_s
        self._credit_kept = config.store_credit_bytes
        self._lock = threading.RLock()
        self._numbers = 0  # segments made so far: each has a name of its own
        self._sealed: dict[str, Segment] = {}  # this process's segments that hold values, by name
        self._pool = Pool(config.pool_max_bytes)
        self._foreign: dict[str, Mapping] = {}  # segments of other processes, by name
        self._fresh_writes = 0
        self._recycled_writes = 0
        self._freed_under_view = 0

    # -- writing -------------------------------------------------------------------------------------------------------

    def write(self, object_id: bytes, payload: Payload) -> Place:
        """Write a value and seal it: `reserve`, `fill` and `seal` in one.

        Raises `NeedCredit`; `ObjectStoreFullError` or `OutOfDiskError` when the file system is full even without this
        process's pool.
        """
        while True:
            draft = self.reserve(object_id, payload.nbytes)
            try:
                draft.fill(payload)
            except (ObjectStoreFullError, OutOfDiskError):
                self.abandon(draft)
                with self._lock:
                    if not self._drop(self._pool.clear()):
                        raise
            except BaseException:
                self.abandon(draft)
                raise
            else:
                return self.seal(draft)

    def reserve(self, object_id: bytes, nbytes: int) -> Draft:
        """Take a segment for a payload of `nbytes`: from the pool, else a fresh one.

        Raises `NeedCredit` when a fresh one is needed and the credit is too small.
        """
        with self._lock:
            segment = self._pool.take(nbytes)
            if segment is not None:
                return Draft(self.folder, segment, object_id, nbytes, fresh=False)
            capacity = files.capacity_for(nbytes)
            if self.credit < capacity:
                raise NeedCredit(capacity)
            self.credit -= capacity
            self._numbers += 1
            segment = Segment(files.segment_name(self._process, self._numbers), capacity)
            return Draft(self.folder, segment, object_id, nbytes, fresh=True)

    def seal(self, draft: Draft) -> Place:
        """The draft was filled: from now on it is immutable. Puts it into the outbox for the peer."""
        segment = draft.segment
        news = SealedSegment(draft.object_id, segment.name, draft.size, segment.capacity)
        with self._lock:
            segment.object_id = draft.object_id
            segment.size = draft.size
            self._sealed[segment.name] = segment
            self._fresh_writes += draft.fresh
            self._recycled_writes += not draft.fresh
            self.sealed.append(news)
        return Place(draft.object_id, self._node, segment.name, draft.size)

    def abandon(self, draft: Draft) -> None:
        """The draft could not be filled, or nobody wants it: its room is credit again."""
        with self._lock:
            self._drop([draft.segment])

    def take_sealed(self) -> list[SealedSegment]:
        """What the peer has to be told, since the last call."""
        with self._lock:
            taken, self.sealed = self.sealed, []
        return taken

    def created(self, name: str) -> bool:
        """Whether this is a segment of this process that holds a value."""
        return name in self._sealed

    # -- reading -------------------------------------------------------------------------------------------------------

    def open(self, place: Place, on_last_view: Callable[[], None] | None = None) -> memoryview:
        """A read-only view of the payload at `place`, a place of this host, in a time that does not depend on its size.

        `on_last_view` is called once, when the view and all that was made from it (arrays, slices) are gone: in any
        thread, between any two bytecodes; it may only append to a deque or the like. Every `open` has its own. The
        caller holds a pin for the segment from before this call until then.

        Raises `ObjectLostError` when the segment is gone or holds another object by now.
        """
        with self._lock:
            own = place.segment.startswith(self._prefix)
            mapping = self._own_mapping(place) if own else self._foreign_mapping(place)
            return mapping.view(place.size, on_last_view)

    def _own_mapping(self, place: Place) -> Mapping:
        segment = self._sealed.get(place.segment)
        if segment is None or segment.object_id != place.object_id or segment.size != place.size:
            raise self._lost(place, "its segment was freed")
        if segment.mapping is None:
            segment.mapping = self._map_existing(place, writable=True)
        return segment.mapping

    def _foreign_mapping(self, place: Place) -> Mapping:
        mapping = self._foreign.get(place.segment) or self._map_existing(place, writable=False)
        end = mapping.capacity - STAMP_BYTES
        if not 0 <= place.size <= end or not files.is_stamped(
            mapping.bytes_at(end, STAMP_BYTES), place.object_id, place.size
        ):
            raise self._lost(place, "its segment holds another object by now, or none")
        self._foreign[place.segment] = mapping
        return mapping

    def _map_existing(self, place: Place, *, writable: bool) -> Mapping:
        if not files.is_segment_name(place.segment):
            raise self._lost(place, "that is no name of a segment")
        try:
            return _map(self.folder / place.segment, writable=writable)
        except FileNotFoundError:
            raise self._lost(place, "its segment is gone") from None

    def _lost(self, place: Place, why: str) -> ObjectLostError:
        text = f"object {place.object_id.hex()} is not at its place ({place.segment!r} in {self.folder}): {why}"
        return ObjectLostError(text, object_id=place.object_id.hex())

    # -- freeing -------------------------------------------------------------------------------------------------------

    def free(self, name: str, *, again: bool = True) -> None:
        """Nobody uses this segment of ours any more: it waits in the pool to be written again.

        Not `again`: it is unlinked instead. Names that are not sealed segments of this process (a repeat) are ignored.
        A segment of which a view lives here nevertheless is never written again: it is unlinked, the view stays valid,
        and the case is counted.
        """
        with self._lock:
            segment = self._sealed.pop(name, None)
            if segment is None:
                return
            segment.object_id = b""
            segment.size = 0
            viewed = segment.mapping is not None and segment.mapping.viewed
            self._freed_under_view += viewed
            if viewed or not again or not self._unstamp(segment):
                self._drop([segment])
            else:
                self._drop(self._pool.put(segment, self._clock()))

    def _unstamp(self, segment: Segment) -> bool:
        """From now on its old place cannot be opened. False when the file is gone."""
        if segment.mapping is None:
            return files.unstamp(self.folder / segment.name, segment.capacity)
        segment.mapping.write_at(segment.capacity - STAMP_BYTES, files.NO_STAMP)
        return True

    def forget(self, name: str) -> None:
        """This process holds a foreign segment no more: unmap it, at once or with its last view. Unknown: ignored."""
        with self._lock:
            self._foreign.pop(name, None)

    def add_credit(self, nbytes: int) -> None:
        """The peer granted room."""
        with self._lock:
            self.credit += nbytes

    def trim(self, now: float) -> int:
        """Unlink what has rested in the pool for too long, and return the room beyond one step of credit.

        Returns the bytes to tell the peer of (PoolTrimmed); they are no longer this process's.
        """
        with self._lock:
            self._drop(self._pool.expired(now - self._idle_s))
            surplus = max(0, self.credit - self._credit_kept)
            self.credit -= surplus
            return surplus

    def give_back(self) -> int:
        """Unlink the whole pool and give up all credit. Returns the bytes to tell the peer of."""
        with self._lock:
            self._drop(self._pool.clear())
            surplus, self.credit = self.credit, 0
            return surplus

    def close(self) -> None:
        """The end of this process's part: its pool goes. What it sealed stays, the peer has it; views stay valid."""
        with self._lock:
            if os.getpid() == self._pid:
                self._drop(self._pool.clear())
            self._sealed.clear()
            self._foreign.clear()

    def _drop(self, dropped: list[Segment]) -> int:
        """Unlink segments; their room becomes credit. Returns how much. With the lock."""
        room = 0
        for segment in dropped:
            segment.mapping = None
            files.unlink_segment(self.folder, segment.name)
            room += segment.capacity
        self.credit += room
        return room

    def stats(self) -> StoreStats:
        return StoreStats(
            credit=self.credit,
            sealed=len(self._sealed),
            sealed_bytes=sum(segment.capacity for segment in self._sealed.values()),
            pooled=len(self._pool),
            pooled_bytes=self._pool.nbytes,
            foreign=len(self._foreign),
            fresh_writes=self._fresh_writes,
            recycled_writes=self._recycled_writes,
            freed_under_view=self._freed_under_view,
        )

    def __repr__(self) -> str:
        return f"<SegmentStore in {self.folder}: {self.stats()}>"


def _map(path: Path, *, writable: bool) -> Mapping:
    """Map a segment's file. Raises `OSError`, `FileNotFoundError` when it is gone."""
    fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return Mapping(fd, os.fstat(fd).st_size, writable=writable)
    finally:
        os.close(fd)
