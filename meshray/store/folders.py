"""Where segments live, how much may lie there, and what is removed after a peer that died.

Shared memory is a file system that is often too small (64 MB in a container by default). Then segments are files in the
peer's own folder, on a disk: slower, and told with what mends it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from meshray.config import DEFAULT

SHARED_MEMORY = Path("/dev/shm")

_FILE_SYSTEM_PART = 0.95
"""Of what a file system has left, so that other programs of the host can still make a small file there."""

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


class StoreFolder(NamedTuple):
    """Where a peer's segments go; the folder is not made yet."""

    folder: Path
    shared_memory: bool
    warning: str  # "" in shared memory


def choose_folder(
    node_hex: str, uid: int, minimum: int, fallback: Path, shared_memory: Path = SHARED_MEMORY
) -> StoreFolder:
    """The folder of a peer's segments: in shared memory when `minimum` bytes are free there, else `fallback`.

    Makes nothing. The warning says why it is not in shared memory, and how to mend that.
    """
    slow = f"Large objects go to files in {fallback} instead, which is slower."
    try:
        free = free_bytes(shared_memory)
    except OSError as error:
        return StoreFolder(fallback, False, f"There is no shared memory at {shared_memory} ({error.strerror}). {slow}")
    parent = shared_memory / f"meshray-{uid}"
    if not os.access(shared_memory, os.W_OK | os.X_OK):
        why = f"nothing can be made in {shared_memory} by this user (is it mounted read-only?)"
        return StoreFolder(fallback, False, f"Shared memory cannot be used: {why}. {slow}")
    if not _is_free_or_ours(parent, uid):
        why = f"{parent} belongs to somebody else, or lets others in"
        return StoreFolder(
            fallback, False, f"Shared memory cannot be used: {why}. {slow} Remove {parent} to mend this."
        )
    if free < minimum:
        why = f"{shared_memory} has {free:,} bytes free of the {minimum:,} that the object store needs"
        mend = f"mount -o remount,size=SIZE {shared_memory} (in a container: --shm-size=SIZE, with ipc: private)"
        return StoreFolder(fallback, False, f"Shared memory is too small: {why}. {slow} To mend this: {mend}.")
    return StoreFolder(parent / node_hex, True, "")


def _is_free_or_ours(folder: Path, uid: int) -> bool:
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return True
    return folder.is_dir() and not folder.is_symlink() and found.st_uid == uid and not found.st_mode & 0o077


def make_folder(folder: Path) -> Path:
    """Make a new store folder, 0700 like its parent where that has to be made. Raises `OSError` when it exists."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder.parent, 0o700)
    os.mkdir(folder, 0o700)
    return folder


def free_bytes(folder: Path) -> int:
    """What the file system of a folder has left for this user. Raises `OSError`."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def memory_bytes() -> int:
    """The memory of this host, or of the container where that has less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _CGROUP_LIMITS:
        try:
            total = min(total, int(path.read_text()))
        except (OSError, ValueError):  # no such cgroup version, or "max"
            continue
    return total


def default_capacity(folder: Path, fraction: float = DEFAULT.store_fraction) -> int:
    """`object_store_memory` by default: a part of RAM, within what the folder's file system has left."""
    nearest = folder
    while not nearest.exists():
        nearest = nearest.parent
    return min(int(memory_bytes() * fraction), int(free_bytes(nearest) * _FILE_SYSTEM_PART))


def sweep(folder: Path) -> int:
    """Remove a dead peer's store folder with all that is in it. Returns the bytes that became free.

    Links are removed, not followed; what cannot be removed stays for the next sweep.
    """
    freed = 0
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                freed += entry.stat(follow_symlinks=False).st_blocks * 512
                os.unlink(entry.path)
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return freed
