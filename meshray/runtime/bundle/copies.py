"""The copies of programs that a host has: one per content, made by the first worker that needs it.

::

    <node folder>/code.tidying  locked by whoever removes what nobody uses
    <node folder>/code/
        <hash>/         a copy
        <hash>.lock     locked (flock) by whoever removes it, shared by all who use it
        <hash>.making   locked by whoever makes it, from the fetch, which may take long, to the end; then it goes. Not
                        the copy's own lock: whoever waited to have that one alone would wait for the ends of all who
                        use it
        <hash>.new/     a copy that is being made; <hash>.old/: one that is being removed

A worker holds its lock until it ends, however it ends: the kernel lets go of it. So a copy that nobody uses can be told
from one in use, and whoever makes one removes those that nobody has used for longest. The peer has no part in this, but
that the folder goes with its own.

Who has a lock waits for none but in this order: `<hash>.making`, `code.tidying`. Of `<hash>.lock` only users wait, who
have none of the others then.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from meshray.local import remove_folder
from meshray.runtime.bundle.archive import ArchiveError, content_hash, unpack

FOLDER = "code"


class Copies:
    """The copies below the folder of a node."""

    def __init__(self, node_folder: Path, entries_max: int, kept_max: int) -> None:
        self._folder = node_folder / FOLDER
        self._tidying = node_folder / f"{FOLDER}.tidying"
        self._entries_max = entries_max
        self._kept_max = kept_max  # copies that nobody uses and that stay

    def use(self, content: bytes, fetch: Callable[[], bytes | memoryview]) -> tuple[Path, int]:
        """The copy of this content, made from what `fetch` gives where there is none, and the descriptor that keeps it:
        it stays open for as long as the copy is used. Waits while another worker makes it.

        Raises `ArchiveError` when the archive is another one or not safe to unpack, `OSError`, and what `fetch` raises.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        copy = self._folder / content.hex()
        while True:
            lock = self._open_lock(_lock_of(copy), fcntl.LOCK_SH)
            if copy.is_dir():
                os.utime(copy)
                return copy, lock
            os.close(lock)
            path = copy.with_suffix(".making")
            making = self._open_lock(path, fcntl.LOCK_EX)
            try:
                if not copy.is_dir():
                    self._make(copy, content, fetch())
            finally:
                path.unlink(missing_ok=True)  # who waits for it looks again
                os.close(making)  # between this and the next turn somebody may remove it again: then it is made again

    def _make(self, copy: Path, content: bytes, archive: bytes | memoryview) -> None:
        """All of it or nothing. Its `.making` is ours."""
        if content_hash(archive) != content:
            raise ArchiveError(f"its hash is {content_hash(archive).hex()}")
        tidying = self._open_lock(self._tidying, fcntl.LOCK_EX)
        try:
            self._tidy(copy.name)
        finally:
            os.close(tidying)
        new = copy.with_suffix(".new")
        remove_folder(new)  # of one who was killed while he made it
        try:
            unpack(archive, new, self._entries_max)
            os.rename(new, copy)
        except BaseException:
            remove_folder(new)
            raise

    def _tidy(self, but: str) -> None:
        """Remove the copies that nobody has used for longest, beyond those that are kept. `code.tidying` is ours."""
        idle = []
        for path in self._folder.iterdir():
            if path.suffix == "" and path.name != but:
                try:
                    idle.append((path.stat().st_mtime_ns, path))
                except FileNotFoundError:
                    continue  # somebody else tidies up
        idle.sort()
        for _, path in idle[: max(0, len(idle) - self._kept_max)]:
            self._remove_if_idle(path)

    def _remove_if_idle(self, copy: Path) -> None:
        try:
            lock = self._open_lock(_lock_of(copy), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # it is in use
        old = copy.with_suffix(".old")
        try:
            remove_folder(old)
            if copy.is_dir():  # else somebody else has removed it since we looked
                os.rename(copy, old)  # what is half removed must not look like a copy
            os.unlink(_lock_of(copy))
            remove_folder(old)
        finally:
            os.close(lock)

    @staticmethod
    def _open_lock(path: Path, how: int) -> int:
        """The lock of this file, taken. Raises `BlockingIOError` if asked not to wait."""
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, how)
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
            except FileNotFoundError:
                pass  # whoever removed the copy took its lock along, while we waited for it
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)


def _lock_of(copy: Path) -> Path:
    return copy.with_suffix(".lock")
