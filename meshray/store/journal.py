"""The crash journal of a worker: what its death must not lose and must not charge to others (PROTOCOLS 2).

Theory. Tasks travel to a worker in batches and results travel back in batches. When the worker dies, somebody has to
know which attempts had finished (their results are delivered), which had begun (they are charged), and that all others
never started (they run elsewhere, uncharged). The worker writes that into a small shared mapping; a kernel keeps its
stores when it kills the process, so the peer reads the file after the death. No system call is made on the way.

Layout of the file, in 8-byte words::

    0         magic, with the version of this layout
    1         size of the file in bytes
    2         end of the log: the commit word
    3         number of attempts that run beyond the slots; sticky when a source beyond the table began one
    4..       SLOTS words: keys of the attempts that have begun; slot 0 is the one of the main thread
    ..        SOURCES words: per source, the first sequence number that is not acknowledged
    ..        SOURCES x 2 words: per source, its 16 bytes
    ..        half A of the log; half B of the log

A *key* is `source index << 48 | seq`. A source is who pushed the attempt: a lease (`source_of_lease`) or the process
that calls an actor. A record is `key, size, payload` padded to words. `end` lies in the half that is in use; a log runs
from the beginning of that half to `end`.

Crash consistency: whatever order a reader could see is decided by single aligned 8-byte stores. A record is written
beyond `end`, then `end` is moved over it. Compaction copies what is not acknowledged into the other half, then moves
`end` there. A key in a slot counts as begun only if no record and no acknowledgement has it, so slots need no clearing
on the fast path. A kill between any two stores therefore leaves, at worst, a finished attempt counted as begun.

Compaction would read every record once, which costs more than writing it. So a *mark* is kept now and then: the end of
the log, and the highest number of each source below it. What lies below a mark whose numbers are all acknowledged is
passed over unread.

One thread writes (`Journal`); an actor with several threads uses `ConcurrentJournal`, the same file behind a lock.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock

from msgspec import Struct

MAGIC = int.from_bytes(b"mrjrnl01", "little")
SLOTS = 1024
SOURCES = 1024
SOURCE_BYTES = 16
SEQ_BITS = 48
SEQ_MASK = (1 << SEQ_BITS) - 1

_END = 2
_MORE = 3
_SLOT = 4
_ACKED = _SLOT + SLOTS
_TABLE = _ACKED + SOURCES
_LOG = _TABLE + 2 * SOURCES

SIZE_MIN_BYTES = _LOG * 8 + 2 * 64
"""A journal this small works, and never has room for more than one tiny result."""

_READ_MAX_BYTES = 64 << 20
_LEASE_PREFIX = bytes(8)  # no process id begins so: a node id is drawn at random, and 0 is nobody's
_STICKY = 1 << 32  # in word 3: an attempt of a source without an index began


def source_of_lease(lease: int) -> bytes:
    """The 16 bytes by which the journal knows a lease."""
    return _LEASE_PREFIX + lease.to_bytes(8, "big")


def lease_of_source(source: bytes) -> int | None:
    """The lease that a source is; None when it is a process that calls an actor."""
    return int.from_bytes(source[8:], "big") if source.startswith(_LEASE_PREFIX) else None


# -- the peer's side ---------------------------------------------------------------------------------------------------


class JournalContents(Struct, frozen=True):
    """What a dead worker left. Sequence numbers are per source; acknowledged ones do not appear."""

    finished: list[tuple[bytes, int, bytes]]  # (source, seq, encoded result), in order of completion
    started: list[tuple[bytes, int]]  # begun and not finished
    more_started: bool  # attempts beyond the tables had begun: every one that is not `finished` counts as begun
    damaged: bool = False  # the worker scribbled over it: what stands here was readable before the damage


def create(path: str | Path, size: int) -> None:
    """Make an empty journal at `path` (0600, it must not exist), its blocks allocated.

    Raises `OSError` when there is no room for it: better here than as SIGBUS in the worker. Raises `ValueError` when
    `size` is too small for its tables.
    """
    if size < SIZE_MIN_BYTES:
        raise ValueError(f"a journal of {size} bytes has no room for its tables ({SIZE_MIN_BYTES} bytes)")
    blank = struct.pack("=4Q", MAGIC, size, _LOG, 0)
    blank += bytes(_ACKED * 8 - len(blank)) + struct.pack("=Q", SEQ_MASK + 1)  # what has no source is never wanted
    blank += bytes(size - len(blank))
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        written = 0
        while written < size:
            written += os.pwrite(fd, blank[written:], written)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def read(path: str | Path) -> JournalContents:
    """What the dead worker of this journal left.

    Bounded by the size of the file and total: garbage gives `damaged`, never an exception but `OSError` (no file).
    """
    with open(path, "rb") as file:
        return parse(file.read(_READ_MAX_BYTES))


def parse(raw: bytes) -> JournalContents:
    """The same, from the bytes of the file."""
    if len(raw) < SIZE_MIN_BYTES:
        return JournalContents([], [], more_started=True, damaged=True)
    words = memoryview(raw)[: len(raw) & ~7].cast("Q")
    if words[0] != MAGIC or words[1] != len(raw):
        return JournalContents([], [], more_started=True, damaged=True)
    finished, sound = _parse_log(raw, words)
    done = {(source, seq) for source, seq, _ in finished}
    started: dict[tuple[bytes, int], None] = {}
    for key in words[_SLOT : _SLOT + SLOTS]:
        if key:
            named = _name(raw, words, key)
            if named is not None and named not in done:
                started[named] = None
    return JournalContents(finished, list(started), more_started=bool(words[_MORE]) or not sound, damaged=not sound)


def _parse_log(raw: bytes, words: memoryview) -> tuple[list[tuple[bytes, int, bytes]], bool]:
    """The records that are not acknowledged, the last word on each, and whether the log made sense up to its end."""
    records: dict[tuple[bytes, int], bytes] = {}
    end = words[_END]
    at = next((start for start, bound in _halves(len(words)) if start <= end <= bound), 0)
    if not at:
        return [], False
    while at + 2 <= end:
        key, size = words[at], words[at + 1]
        following = at + 2 + ((size + 7) >> 3)
        if following > end:
            break
        named = _name(raw, words, key)
        if named is not None:
            records[named] = raw[(at + 2) * 8 : (at + 2) * 8 + size]
        at = following
    return [(source, seq, payload) for (source, seq), payload in records.items()], at == end


def _halves(total: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Beginning and bound of both halves. A word lies between them, so that `end` is in one of them only."""
    half = (total - _LOG - 1) // 2
    return (_LOG, _LOG + half), (_LOG + half + 1, _LOG + 2 * half + 1)


def _name(raw: bytes, words: memoryview, key: int) -> tuple[bytes, int] | None:
    """Source and sequence number of a key; None when it is acknowledged or names no source."""
    index, seq = key >> SEQ_BITS, key & SEQ_MASK
    if not 0 < index < SOURCES or seq < words[_ACKED + index]:
        return None
    at = (_TABLE + 2 * index) * 8
    return raw[at : at + SOURCE_BYTES], seq


# -- the worker's side -------------------------------------------------------------------------------------------------

_PACKED_MAX = 512


def _packer(size: int) -> Callable[..., None]:
    """One C call that writes a whole record of `size` payload bytes."""
    return struct.Struct(f"=QQ{size}s").pack_into


class Journal:
    """The writing end, of one thread.

    `source()` gives the handle of a pusher; then, per attempt, `started(handle, seq)` and `finished(handle, seq, ...)`.
    Sequence numbers of one source are below 2**48, never used twice, and acknowledged in order.
    """

    __slots__ = (
        "_bound",
        "_dirty",
        "_end",
        "_file",
        "_fresh",
        "_handles",
        "_kept",
        "_last",
        "_marks",
        "_packers",
        "_retired",
        "_start",
        "words",
    )

    def __init__(self, path: str | Path) -> None:
        """Map the journal that the peer created at `path`. Raises `ValueError` when it is none."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._file = mmap.mmap(fd, 0, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
        finally:
            os.close(fd)
        self.words: memoryview = memoryview(self._file).cast("Q")
        if len(self._file) < SIZE_MIN_BYTES or self.words[0] != MAGIC or self.words[1] != len(self._file):
            self.close()
            raise ValueError(f"no journal of this version: {path}")
        self._end: int = self.words[_END]  # as committed
        self._start, self._bound = _halves(len(self.words))[0]  # the half in use
        self._dirty = False  # something was acknowledged since the last compaction
        self._kept = self._end  # the end of what the last compaction has copied
        self._last: dict[int, int] = {}  # source -> its highest seq above `_kept`
        self._marks: list[tuple[int, dict[int, int]]] = []  # (an end above `_kept`, what `_last` was there), ascending
        self._handles: dict[bytes, int] = {}  # source -> its index << 48
        self._fresh: Iterator[int] = iter(range(1, SOURCES))  # indices that were never used; 0 is nobody
        self._retired: list[int] = []  # indices of forgotten sources: usable again after a compaction
        self._packers: list[Callable[..., None] | None] = [None] * _PACKED_MAX  # by size, made when needed

    # -- the fast path --

    def started(self, source: int, seq: int) -> None:
        """The attempt begins now. `source` is a handle of `source()`."""
        self.words[_SLOT] = source | seq

    def finished(self, source: int, seq: int, encoded: bytes) -> bool:
        """The attempt is over, with this result.

        False when there is no room: nothing was written, and the attempt still counts as begun. Then seal the value in
        the store and call again with its place; if that has no room either, call `unrecorded`.
        """
        size = len(encoded)
        at = self._end
        end = at + 2 + ((size + 7) >> 3)
        if end > self._bound:
            if not self._make_room(2 + ((size + 7) >> 3)):
                return False
            at = self._end
            end = at + 2 + ((size + 7) >> 3)
        if size < _PACKED_MAX:
            pack = self._packers[size]
            if pack is None:
                pack = self._packers[size] = _packer(size)
            pack(self._file, at << 3, source | seq, size, encoded)
        else:
            self.words[at] = source | seq
            self.words[at + 1] = size
            self._file[(at + 2) << 3 : ((at + 2) << 3) + size] = encoded
        self.words[_END] = self._end = end  # the commit
        self._last[source] = seq
        return True

    # -- per message --

    def source(self, name: bytes) -> int:
        """The handle of a pusher (16 bytes), the same one each time until `forget`.

        Handle 0 when more than SOURCES are alive: its attempts count as begun, all of them, when the worker dies.
        """
        handle = self._handles.get(name)
        if handle is None:
            if len(name) != SOURCE_BYTES:
                raise ValueError(f"a source has {SOURCE_BYTES} bytes, got {name!r}")
            index = self._free_index()
            if not index:
                self.words[_MORE] |= _STICKY
                return 0
            at = (_TABLE + 2 * index) * 8
            self._file[at : at + SOURCE_BYTES] = name
            self.words[_ACKED + index] = 0
            handle = self._handles[name] = index << SEQ_BITS
        return handle

    def acknowledged(self, source: int, upto_seq: int) -> None:
        """Results of the source up to this one have arrived (-1: none). Repeats and older ones change nothing."""
        at = _ACKED + (source >> SEQ_BITS)
        if upto_seq >= self.words[at]:
            self.words[at] = upto_seq + 1
        self._dirty = True
        marked = self._marks[-1][0] if self._marks else self._kept
        if self._end - marked > (self._bound - self._start) >> 4:
            self._marks.append((self._end, self._last.copy()))

    def forget(self, name: bytes) -> None:
        """Nobody will ask for attempts of this source: its lease is over, its process is gone. Its handle is void.

        The caller's duty: none of its attempts runs any more.
        """
        handle = self._handles.pop(name, None)
        if handle is not None:
            self.words[_ACKED + (handle >> SEQ_BITS)] = SEQ_MASK + 1
            self._retired.append(handle >> SEQ_BITS)
            self._dirty = True

    def unrecorded(self, source: int, seq: int) -> None:
        """The attempt is over and could not be written down: it counts as begun until it is acknowledged."""
        for slot in range(_SLOT + 1, _SLOT + SLOTS):
            key = self.words[slot]
            if not key or self._is_settled(key):
                self.words[slot] = source | seq
                return
        self.words[_MORE] |= _STICKY

    def close(self) -> None:
        """Unmap. The file belongs to the peer."""
        self.words.release()
        self._file.close()

    # -- room --

    def _is_settled(self, key: int) -> bool:
        """Whether the attempt of a key was acknowledged."""
        return bool((key & SEQ_MASK) < self.words[_ACKED + (key >> SEQ_BITS)])

    def _make_room(self, needed: int) -> bool:
        """Drop what was acknowledged since the last time; whether `needed` words fit now."""
        if self._dirty:
            self._compact()
        return self._end + needed <= self._bound

    def _compact(self) -> None:
        """Copy the records that are still wanted into the other half, then switch over to it."""
        file = self._file
        halves = _halves(len(self.words))
        start, bound = halves[self._start == halves[0][0]]
        to = start
        for begin, end in (*self._wanted(self._start, self._kept), *self._wanted(self._passed_over(), self._end)):
            file[to << 3 : (to + end - begin) << 3] = file[begin << 3 : end << 3]
            to += end - begin
        self.words[_END] = self._end = self._kept = to  # the commit
        self._start, self._bound = start, bound
        self._dirty = False
        self._last.clear()
        self._marks.clear()

    def _passed_over(self) -> int:
        """Up to where, above `_kept`, everything is acknowledged for sure."""
        for end, last in reversed(self._marks):
            if all(self._is_settled(source | seq) for source, seq in last.items()):
                return end
        return self._kept

    def _wanted(self, at: int, end: int) -> Iterator[tuple[int, int]]:
        """The stretches of records from `at` to `end` that are not acknowledged."""
        words = self.words
        begin = -1
        while at < end:
            key = words[at]
            if (key & SEQ_MASK) < words[_ACKED + (key >> SEQ_BITS)]:
                if begin >= 0:
                    yield begin, at
                    begin = -1
            elif begin < 0:
                begin = at
            at += 2 + ((words[at + 1] + 7) >> 3)
        if begin >= 0:
            yield begin, end

    def _free_index(self) -> int:
        """An index to which no record and no slot refers; 0 when there is none."""
        index = next(self._fresh, 0)
        if not index and self._retired:
            self._compact()
            retired = frozenset(self._retired)
            for slot in range(_SLOT, _SLOT + SLOTS):
                if self.words[slot] >> SEQ_BITS in retired:
                    self.words[slot] = 0
            self._fresh = iter(self._retired)
            self._retired = []
            index = next(self._fresh)
        return index


class ConcurrentJournal:
    """The writing end for an actor that runs several calls at once: any thread may call. Takes the journal over."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lock = Lock()
        journal.words[_SLOT] = 0
        self._free = list(range(_SLOT + SLOTS // 2, _SLOT, -1))  # the upper half is left to `unrecorded`
        self._slots: dict[int, int] = {}  # key -> slot, of the attempts that run

    def source(self, name: bytes) -> int:
        with self._lock:
            return self._journal.source(name)

    def started(self, source: int, seq: int) -> None:
        if not source:
            return  # without an index: all of its attempts count as begun already
        with self._lock:
            words = self._journal.words
            if self._free:
                slot = self._free.pop()
                words[slot] = source | seq
            else:
                slot = 0
                words[_MORE] += 1
            self._slots[source | seq] = slot

    def finished(self, source: int, seq: int, encoded: bytes) -> bool:
        if not source:
            return True
        with self._lock:
            last = self._journal._last
            highest = last.get(source, -1)
            if not self._journal.finished(source, seq, encoded):
                return False
            if highest > seq:
                last[source] = highest  # calls end in any order
            self._release(source | seq)
            return True

    def unrecorded(self, source: int, seq: int) -> None:
        with self._lock:
            words = self._journal.words
            for slot in range(_SLOT + SLOTS // 2 + 1, _SLOT + SLOTS):
                if not words[slot] or self._journal._is_settled(words[slot]):
                    words[slot] = source | seq
                    break
            else:
                words[_MORE] |= _STICKY
            self._release(source | seq)

    def acknowledged(self, source: int, upto_seq: int) -> None:
        with self._lock:
            self._journal.acknowledged(source, upto_seq)

    def forget(self, name: bytes) -> None:
        with self._lock:
            self._journal.forget(name)

    def close(self) -> None:
        with self._lock:
            self._journal.close()

    def _release(self, key: int) -> None:
        """The attempt's place among the running ones is free again."""
        slot = self._slots.pop(key, None)
        if slot is None:
            return
        if slot:
            self._journal.words[slot] = 0
            self._free.append(slot)
        else:
            self._journal.words[_MORE] -= 1
