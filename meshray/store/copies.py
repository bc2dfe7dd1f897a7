"""Files of copies: a value of another host is written here piece by piece, by the peer, and sealed when it is whole.

The peer maps nothing and unpickles nothing: it writes with `pwrite`, which tells a full file system by an ordinary
error, and reads with `pread`. A file that is written again keeps its pages, so it is filled at the speed of memory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from meshray.store import files
from meshray.store.files import NO_STAMP, PAGE_BYTES, STAMP_BYTES


def copy_capacity(nbytes: int) -> int:
    """The size of the file for a value: it is fetched far less often than values are put, so nothing is rounded up to
    size classes."""
    return -(-(nbytes + STAMP_BYTES) // PAGE_BYTES) * PAGE_BYTES


class CopyFiles:
    """The files of one peer's copies, in the store folder. The ones that are being written are kept open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, int] = {}  # name -> descriptor, until it is sealed or dropped

    def open(self, name: str, capacity: int, fresh: bool) -> None:
        """Begin to write. What lay in it before cannot be opened any more. Raises `OSError`."""
        if name not in self._open:
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT | os.O_EXCL if fresh else 0)
            self._open[name] = os.open(self._folder / name, flags, 0o600)
        if not fresh:
            os.pwrite(self._open[name], NO_STAMP, capacity - STAMP_BYTES)

    def write(self, name: str, offset: int, data: Sequence[bytes | memoryview]) -> None:
        """Some bytes, one after the other. Raises `ObjectStoreFullError` or `OutOfDiskError` when the file system is full, else
        `OSError`."""
        files.write_at(self._folder, self._open[name], offset, data)

    def seal(self, name: str, capacity: int, object_id: bytes, size: int) -> None:
        """All of it is there. Raises as `write`."""
        files.stamp_at(self._folder, self._open[name], capacity, object_id, size)
        os.close(self._open.pop(name))

    def drop(self, name: str) -> None:
        """Remove it. Unknown ones are ignored."""
        descriptor = self._open.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)
        files.unlink_segment(self._folder, name)

    def close(self) -> None:
        """The end: what is open is closed. The files go with the folder."""
        while self._open:
            os.close(self._open.popitem()[1])


def read_piece(folder: Path, name: str, offset: int, rooms: list[memoryview]) -> None:
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
