"""Many files as one sequence of bytes, and back.

An archive is ::

    magic(4)  length of the index(u32, little endian)  index  the contents of its files, one after the other

The index is msgpack of all entries, in the order of their paths, each folder before what is in it. It says nothing of
times, owners or permissions, only whether a file may be executed. So equal contents make equal archives, and the hash
of an archive is the name of its content.

Whoever unpacks one trusts nothing. Names are single path components, below folders that the archive itself names; files
are made where there was none; links are made last, and lead to what was just made. So nothing is written, and nothing
leads, outside of the new folder.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import msgspec

HASH_BYTES = 32
NAME_MAX_BYTES = 255
"""Of one path component, on all file systems that we know."""

PATH_MAX_BYTES = 1024
"""Of a path within an archive: with the folder before it, it stays below PATH_MAX (4096)."""

INDEX_MAX_BYTES = 32 << 20
"""Of an index: beyond what `code_max_files` entries with long names take."""

_MAGIC = b"mrc1"
_HEADER = struct.Struct("<4sI")

Kind = Literal["file", "program", "folder", "link"]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One file, folder or link."""

    path: str  # from the root of the archive, "/" between the names
    kind: Kind  # a program is a file that may be executed
    size: int = 0  # bytes of a file
    target: str = ""  # of a link: the path of the file or folder that it stands for


class ArchiveError(ValueError):
    """These bytes are no archive that we would unpack."""


def content_hash(archive: bytes | memoryview) -> bytes:
    """The name of what is inside."""
    return blake2b(archive, digest_size=HASH_BYTES).digest()


def parts(path: str) -> list[str]:
    """By these, entries are sorted: what is in a folder comes right behind it."""
    return path.split("/")


# -- packing -----------------------------------------------------------------------------------------------------------


def pack(found: Iterable[tuple[Entry, bytes]]) -> bytes:
    """One archive of these entries with the contents of files; in any order, every folder named.

    Raises `ArchiveError` for what `unpack` would refuse.
    """
    ordered = sorted(found, key=lambda each: parts(each[0].path))
    entries = [entry for entry, _ in ordered]
    contents = [content for entry, content in ordered if content]
    check(entries, sum(map(len, contents)))
    index = msgspec.msgpack.encode(entries)
    if len(index) > INDEX_MAX_BYTES:
        raise ArchiveError(f"the index takes {len(index)} bytes of at most {INDEX_MAX_BYTES}")
    return b"".join((_HEADER.pack(_MAGIC, len(index)), index, *contents))


# -- unpacking ---------------------------------------------------------------------------------------------------------


def unpack(archive: bytes | memoryview, folder: Path, entries_max: int) -> None:
    """Make `folder`, which is not there, with all that is inside. What was made until an error stays.

    Raises `ArchiveError`, and `OSError` for what the file system says.
    """
    view = memoryview(archive)
    entries, at = read_index(view, entries_max)
    os.mkdir(folder, 0o700)
    links = []
    for entry in entries:
        path = f"{folder}/{entry.path}"  # ten thousand `Path`s would take as long as the files
        if entry.kind == "folder":
            os.mkdir(path, 0o700)
        elif entry.kind == "link":
            links.append((path, entry.target))
        else:
            _write(path, view[at : at + entry.size], 0o700 if entry.kind == "program" else 0o600)
            at += entry.size
    for path, target in links:
        os.symlink(os.path.relpath(folder / target, os.path.dirname(path)), path)


def _write(path: str, content: memoryview, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        while content:
            content = content[os.write(fd, content) :]
    finally:
        os.close(fd)


def read_index(view: memoryview, entries_max: int) -> tuple[list[Entry], int]:
    """The entries, checked, and where the contents begin. Raises `ArchiveError`."""
    if len(view) < _HEADER.size:
        raise ArchiveError(f"it has {len(view)} bytes")
    magic, length = _HEADER.unpack(view[: _HEADER.size])
    at = _HEADER.size + length
    if magic != _MAGIC or length > INDEX_MAX_BYTES or at > len(view):
        raise ArchiveError(f"it begins with {bytes(view[: _HEADER.size])!r}")
    try:
        entries = msgspec.msgpack.decode(view[_HEADER.size : at], type=list[Entry])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ArchiveError(f"its index cannot be read: {error}") from None
    if len(entries) > entries_max:
        raise ArchiveError(f"it has {len(entries)} entries of at most {entries_max}")
    check(entries, len(view) - at)
    return entries, at


def check(entries: list[Entry], size: int) -> None:
    """Raise `ArchiveError` unless all of these may be made below one folder, and their files have `size` bytes."""
    kinds: dict[str, Kind] = {}
    before: list[str] = []
    for entry in entries:
        names = parts(entry.path)
        if not (names > before):
            raise ArchiveError(f"{entry.path!r} is out of order, or there twice")
        _check_names(entry.path, names)
        above = entry.path.rpartition("/")[0]
        if above and kinds.get(above) != "folder":
            raise ArchiveError(f"{entry.path!r} is in no folder")
        if entry.size < 0 or (entry.size and entry.kind in ("folder", "link")):
            raise ArchiveError(f"{entry.path!r} ({entry.kind}) has {entry.size} bytes")
        size -= entry.size
        kinds[entry.path], before = entry.kind, names
    if size:
        raise ArchiveError(f"its contents have {size} bytes more than its index says")
    for entry in entries:
        if entry.kind == "link" and kinds.get(entry.target, "link") == "link":
            raise ArchiveError(f"{entry.path!r} leads to {entry.target!r}, which is nothing of the archive")


def _check_names(path: str, names: list[str]) -> None:
    try:
        lengths = [len(name.encode()) for name in names]
    except UnicodeEncodeError:
        raise ArchiveError(f"{path!r} is no text") from None
    if sum(lengths) + len(lengths) > PATH_MAX_BYTES or max(lengths) > NAME_MAX_BYTES:
        raise ArchiveError(f"a path is too long: {path[:80]!r}...")
    for name in names:
        if name in ("", ".", "..") or "\0" in name:
            raise ArchiveError(f"{path!r} is no path within a folder")
