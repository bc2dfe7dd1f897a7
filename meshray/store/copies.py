"""Files of copies: a value of another host is written here piece by piece, by the peer, and sealed when it is whole.

A fresh file is written with `pwrite`, which tells a full file system by an ordinary error, and gives pages that need
not be cleared first. One that is written again has its pages: in shared memory they are mapped, and written there, in
half of the time. The mapping is kept for the next time, of not too much memory and not for long (`unmap`), since the
kernel counts what a process has mapped as its own when it looks for one to kill. Pages that are not known to be there
are left to `pwrite`. The peer unpickles nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from meshray.store import files
from meshray.store.files import NO_STAMP, PAGE_BYTES, STAMP_BYTES
from meshray.store.mapping import Mapping

MAPPED_MAX_BYTES = 1 << 30
"""A bound on the files that are mapped to be written again; larger ones never are."""

MAPPED_MAX_FILES = 256
"""And on their number, so that thousands of small ones neither take the mappings that a process may have, nor are
counted each time one is opened."""


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
        self._mapped: dict[str, Mapping] = {}  # by name, the one that was opened last at the end

    def open(self, name: str, capacity: int, fresh: bool) -> None:
        """Begin to write. What lay in it before cannot be opened any more. Raises `OSError`."""
        if name not in self._open:
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT | os.O_EXCL if fresh else 0)
            self._open[name] = os.open(self._folder / name, flags, 0o600)
        if not fresh:
            os.pwrite(self._open[name], NO_STAMP, capacity - STAMP_BYTES)
            if self._maps and capacity <= MAPPED_MAX_BYTES:
                self._map(name, capacity)

    def _map(self, name: str, capacity: int) -> None:
        mapping = self._mapped.pop(name, None)
        if mapping is None:
            try:
                mapping = Mapping(self._open[name], capacity, writable=True)
            except OSError:
                return  # no room for another mapping: it is written through the file system
        self._mapped[name] = mapping
        while len(self._mapped) > MAPPED_MAX_FILES or self._mapped_bytes() > MAPPED_MAX_BYTES:
            del self._mapped[next(iter(self._mapped))]

    def _mapped_bytes(self) -> int:
        return sum(mapping.capacity for mapping in self._mapped.values())

    def write(self, name: str, offset: int, data: Sequence[bytes | memoryview]) -> None:
        """Some bytes, one after the other. Raises `ObjectStoreFullError` or `OutOfDiskError` when the file system is
        full, else `OSError`."""
        mapping = self._mapped.get(name)
        if mapping is not None and mapping.populate(offset, offset + sum(map(len, data))):
            for piece in data:
                offset = mapping.write_at(offset, piece)
        else:
            files.write_at(self._folder, self._open[name], offset, data)

    def unmap(self) -> None:
        """Nothing has been written for a while."""
        self._mapped.clear()

    def seal(self, name: str, capacity: int, object_id: bytes, size: int) -> None:
        """All of it is there. Raises as `write`."""
        files.stamp_at(self._folder, self._open[name], capacity, object_id, size)
        os.close(self._open.pop(name))

    def drop(self, name: str) -> None:
        """Remove it. Unknown ones are ignored."""
        self._mapped.pop(name, None)
        descriptor = self._open.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)
        files.unlink_segment(self._folder, name)

    def close(self) -> None:
        """The end: what is open is closed. The files go with the folder."""
        self._mapped.clear()
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
