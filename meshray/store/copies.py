"""Files of copies: a value of another host is written here piece by piece, by the peer, and sealed when it is whole.

A fresh file is written with `pwrite`, which tells a full file system by an ordinary error, and gives pages that need
not be cleared first. One that is written again has its pages: in shared memory they are mapped, and written there, in
half of the time (`store.spans`). Pages that are not known to be there are left to `pwrite`. The peer unpickles nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from meshray.store import files
from meshray.store.files import NO_STAMP, PAGE_BYTES, STAMP_BYTES
from meshray.store.mapping import Mapping
from meshray.store.spans import SPAN_BYTES, Spans


def copy_capacity(nbytes: int) -> int:
    """The size of the file for a value: it is fetched far less often than values are put, so nothing is rounded up to
    size classes."""
    return -(-(nbytes + STAMP_BYTES) // PAGE_BYTES) * PAGE_BYTES


class CopyFiles:
    """The files of one peer's copies, in the store folder. The ones that are being written are kept open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps = files.is_shared_memory(folder)
        self._open: dict[str, int] = {}  # name -> descriptor, until it is sealed or dropped
        self._again: dict[str, int] = {}  # those of them that were written before -> capacity
        self.spans = Spans(writable=True)

    def open(self, name: str, capacity: int, fresh: bool) -> None:
        """Begin to write. What lay in it before cannot be opened any more. Raises `OSError`."""
        if name not in self._open:
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT | os.O_EXCL if fresh else 0)
            self._open[name] = os.open(self._folder / name, flags, 0o600)
        if not fresh:
            os.pwrite(self._open[name], NO_STAMP, capacity - STAMP_BYTES)
            if self._maps:
                self._again[name] = capacity

    def write(self, name: str, offset: int, data: Sequence[bytes | memoryview]) -> None:
        """Some bytes, one after the other. Raises `ObjectStoreFullError` or `OutOfDiskError` when the file system is
        full, else `OSError`."""
        end = offset + sum(map(len, data))
        number, start = divmod(offset, SPAN_BYTES)
        span = self._span(name, number) if end <= (number + 1) * SPAN_BYTES else None
        if span is not None and span.populate(start, start + end - offset):
            for piece in data:
                start = span.write_at(start, piece)
        else:
            files.write_at(self._folder, self._open[name], offset, data)

    def _span(self, name: str, number: int) -> Mapping | None:
        """A part of a file that was written before, mapped."""
        capacity = self._again.get(name)
        if capacity is None:
            return None
        span = self.spans.find(name, number)
        if span is None:
            try:
                span = self.spans.map(name, number, self._open[name], capacity)
            except OSError:
                return None  # no room for another mapping: it is written through the file system
        return span

    def seal(self, name: str, capacity: int, object_id: bytes, size: int) -> None:
        """All of it is there. Raises as `write`."""
        files.stamp_at(self._folder, self._open[name], capacity, object_id, size)
        os.close(self._open.pop(name))
        self._again.pop(name, None)

    def drop(self, name: str) -> None:
        """Remove it. Unknown ones are ignored."""
        self.spans.forget(name)
        self._again.pop(name, None)
        descriptor = self._open.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)
        files.unlink_segment(self._folder, name)

    def close(self) -> None:
        """The end: what is open is closed. The files go with the folder."""
        self.spans.clear()
        while self._open:
            os.close(self._open.popitem()[1])


def read_piece(folder: Path, name: str, offset: int, rooms: Sequence[bytearray | memoryview]) -> None:
    """Fill `rooms`, one after the other, with bytes of a segment, whoever made it. Raises `OSError` when it is gone, or
    has fewer."""
    descriptor = files.open_segment(folder, name)
    try:
        size = os.preadv(descriptor, rooms, offset)
    finally:
        os.close(descriptor)
    missing = sum(map(len, rooms)) - size
    if missing:
        raise OSError(f"{name} ends {missing} bytes too early")
