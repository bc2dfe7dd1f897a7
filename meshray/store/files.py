"""One segment as a file: how large it is, how it is named, how it is written, and how one tells whose value is in it.

Theory. A segment holds a payload from offset 0, and in its last 64 bytes a *stamp*: the id of the object and the size
of its payload. A place that names a segment which was written again since is thereby seen to be stale.

Files are allocated in full when they are made. A hole in a file of shared memory would be filled at the first touch,
and where the file system is full by then the kernel kills the process instead of giving an error. A fresh file is
written by `pwritev` from the user's buffers: about twice as fast as touching fresh pages, and ENOSPC is an ordinary
error.

Sizes go in eighths of a power of two, so that a freed segment serves the next value of about its size. At most 1/9 of
a segment is thereby unused (1/18 on average), which is accounted as used. One page more holds the stamp and the pickle
around an array: without it the arrays that people make most, of 2^n bytes, would waste the most.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from meshray.errors import ObjectStoreFullError, OutOfDiskError

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STAMP_BYTES = 64

_STAMP = struct.Struct("<8s28s4xQ16x")
_MAGIC = b"meshray1"
NO_STAMP = bytes(STAMP_BYTES)
assert _STAMP.size == STAMP_BYTES

_VECTORS_MAX = 1024  # IOV_MAX of Linux and macOS
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def capacity_for(nbytes: int) -> int:
    """The size of the file for a payload of `nbytes`: the next size class that holds it and the stamp."""
    beyond_a_page = max(0, nbytes + STAMP_BYTES - PAGE_BYTES)
    step = max(PAGE_BYTES, 1 << max(0, beyond_a_page.bit_length() - 4))
    return PAGE_BYTES + -(-beyond_a_page // step) * step


def segment_name(process: bytes, number: int) -> str:
    """The name of the `number`-th segment that `process` made. No name is used twice."""
    return f"{segment_prefix(process)}{number:x}"


def segment_prefix(process: bytes) -> str:
    """How the names of all segments of `process` begin."""
    return process[-8:].hex() + "-"


def is_segment_name(name: str) -> bool:
    """Whether `name` is one path component of the form that `segment_name` gives (it came from outside)."""
    process, _, number = name.partition("-")
    return len(process) == 16 and process.isalnum() and number.isalnum() and name.isascii()


def segments_of(folder: Path, process: bytes) -> list[str]:
    """The segments that a process made and that are still there: what a dead one left, sealed or not."""
    prefix = segment_prefix(process)
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.name.startswith(prefix))


def unlink_segment(folder: Path, name: str) -> int:
    """Remove a segment; views of it stay valid. Returns the bytes of the file, 0 when it was gone already."""
    if not is_segment_name(name):
        return 0
    path = folder / name
    try:
        size = path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    return size


def open_segment(folder: Path, name: str) -> int:
    """A descriptor to read it by. Raises `OSError`, `FileNotFoundError` when it is gone or `name` is none."""
    if not is_segment_name(name):
        raise FileNotFoundError(errno.ENOENT, "that is no name of a segment", name)
    return os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


# -- the stamp ---------------------------------------------------------------------------------------------------------


def stamp(object_id: bytes, size: int) -> bytes:
    """The last bytes of a segment that holds this object."""
    return _STAMP.pack(_MAGIC, object_id, size)


def is_stamped(last_bytes: bytes, object_id: bytes, size: int) -> bool:
    """Whether a segment that ends so holds this object."""
    return last_bytes == stamp(object_id, size)


def unstamp(path: Path, capacity: int) -> bool:
    """Take the stamp off a segment that is not mapped. False when its file is gone."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        os.pwrite(fd, NO_STAMP, capacity - STAMP_BYTES)
    finally:
        os.close(fd)
    return True


# -- writing -----------------------------------------------------------------------------------------------------------


def create(path: Path, capacity: int, pieces: Sequence[bytes | bytearray | memoryview], last_bytes: bytes) -> None:
    """Make the file of a segment, allocate it in full and write it: the pieces from offset 0, `last_bytes` at its end.

    Leaves nothing behind when it fails. Raises `ObjectStoreFullError` or `OutOfDiskError` when the file system is full,
    else `OSError`.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        end = _write_all(fd, pieces)
        _allocate(fd, end, capacity)
        os.pwrite(fd, last_bytes, capacity - STAMP_BYTES)
    except BaseException as error:  # Ctrl-C included: half a segment is of no use
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise _no_room(path.parent, capacity) from error
        raise
    finally:
        os.close(fd)


def rewrite(path: Path, capacity: int, pieces: Sequence[bytes | bytearray | memoryview], last_bytes: bytes) -> None:
    """Write a segment that exists anew, through the file system. Raises as `create`; the file stays then."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        _write_all(fd, pieces)
        os.pwrite(fd, last_bytes, capacity - STAMP_BYTES)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _no_room(path.parent, capacity) from error
        raise
    finally:
        os.close(fd)


def write_at(folder: Path, fd: int, offset: int, pieces: Sequence[bytes | memoryview]) -> None:
    """Write some pieces, one after the other, of a segment that is made piece by piece; `folder` is where it lies.
    Raises as `create`."""
    try:
        _write_all(fd, pieces, offset)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _no_room(folder, sum(map(len, pieces))) from error
        raise


def stamp_at(folder: Path, fd: int, capacity: int, object_id: bytes, size: int) -> None:
    """Complete a segment that was made piece by piece: allocate what is behind the payload, and stamp it. Raises as
    `create`."""
    try:
        _allocate(fd, size, capacity)
        os.pwrite(fd, stamp(object_id, size), capacity - STAMP_BYTES)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _no_room(folder, capacity - size) from error
        raise


def _write_all(fd: int, pieces: Iterable[bytes | bytearray | memoryview], offset: int = 0) -> int:
    """Write the pieces one after the other from `offset` on; returns the end."""
    rest = [memoryview(piece) for piece in pieces if len(piece)]
    first = 0
    while first < len(rest):
        written = os.pwritev(fd, rest[first : first + _VECTORS_MAX], offset)
        offset += written
        while first < len(rest) and written >= len(rest[first]):
            written -= len(rest[first])
            first += 1
        if written:
            rest[first] = rest[first][written:]
    return offset


def _allocate_posix(fd: int, start: int, end: int) -> None:
    if end > start:
        os.posix_fallocate(fd, start, end - start)


def _allocate_by_writing(fd: int, start: int, end: int) -> None:
    zeros = bytes(1 << 20)
    while start < end:
        start += os.pwrite(fd, zeros[: end - start], start)


_allocate: Callable[[int, int, int], None] = (
    _allocate_posix if hasattr(os, "posix_fallocate") else _allocate_by_writing  # macOS has none
)


def _no_room(folder: Path, capacity: int) -> ObjectStoreFullError | OutOfDiskError:
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    text = f"no room for {capacity:,} bytes in {folder}: its file system has {free:,} bytes left"
    if is_shared_memory(folder):
        return ObjectStoreFullError(f"{text}; free objects, or give it more: mount -o remount,size=... /dev/shm")
    return OutOfDiskError(text)


def is_shared_memory(folder: Path) -> bool:
    """Whether segments of this folder are memory, not files on a disk."""
    return folder.is_relative_to("/dev/shm")
