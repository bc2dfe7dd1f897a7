"""What belongs to a program's own folder, and what is left out?

All files, folders, and links that lead to these. Not what is hidden (`.git`, `.env`), made by tools from what is there
(`__pycache__`, `node_modules`, virtual environments), or no file (sockets, devices); and never the folders of meshray
itself, with the keys of the mesh: whoever has the program shall not have these. Of a folder that is everybody's
(`own.Own.shared`), and of one that is too large, Python sources alone.

A program writes while its folder is read. A file that changes meanwhile is read again, a few times; one that is gone is
not part of it; one that grows for ever (a log) is taken with the size it had.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from meshray.runtime.bundle.archive import NAME_MAX_BYTES, PATH_MAX_BYTES, Entry
from meshray.runtime.bundle.own import Own, is_within, our_folders

MADE_BY_TOOLS = frozenset({"__pycache__", "node_modules"})
ENVIRONMENT_MARKS = ("pyvenv.cfg", "conda-meta")
"""What is at the top of a virtual environment (PEP 405), and of one of conda's."""

READS_MAX = 3
"""So often a file is read that changes while it is read."""

EXAMPLES_MAX = 5
"""So many names stand for all that was left out for one reason."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may go along, and how long it may be looked for."""

    bytes_max: int
    entries_max: int  # files, folders and links that go along
    looked_max: int  # entries of folders that are looked at
    look_s: float


@dataclass(slots=True)
class Gathered:
    """What goes along, ready for `archive.pack`, and what does not though somebody may miss it."""

    found: list[tuple[Entry, bytes]] = field(default_factory=list)
    only_sources: str = ""  # why nothing but Python sources go along
    cut_short: bool = False  # a bound was met also with these
    left_out: dict[str, list[str]] = field(default_factory=dict)  # reason -> paths, at most one more than are shown

    def leave_out(self, path: str, reason: str) -> None:
        paths = self.left_out.setdefault(reason, [])
        if len(paths) <= EXAMPLES_MAX:
            paths.append(path)

    def complaint(self) -> str:
        """What goes along and what was left out, for people; "" when nothing was."""
        said = [f"only its Python files, since {self.only_sources}"] if self.only_sources else []
        for reason, paths in self.left_out.items():
            names = ", ".join(paths[:EXAMPLES_MAX])
            said.append(f"not {names}{', ...' if len(paths) > EXAMPLES_MAX else ''} ({reason})")
        return "; ".join(said)


class TooMuchError(Exception):
    """A bound was met; the text says which."""


class StoppedError(Exception):
    """Nobody wants it any more."""


def gather(
    own: Own, bounds: Bounds, stopped: Callable[[], bool], clock: Callable[[], float] = time.monotonic
) -> Gathered:
    """Read what goes along. Raises `OSError` when the folder itself cannot be read, `StoppedError`."""
    reason = own.shared
    if not reason:
        try:
            return _Gathering(own, bounds, stopped, clock).everything()
        except TooMuchError as error:
            reason = f"it {error}"
    return _Gathering(own, bounds, stopped, clock).sources(reason)


class _Gathering:
    """One look through the folder."""

    def __init__(self, own: Own, bounds: Bounds, stopped: Callable[[], bool], clock: Callable[[], float]) -> None:
        self._root = os.path.realpath(own.folder)
        self._ours = our_folders()
        self._packages_only = bool(own.shared)
        self._bounds = bounds
        self._stopped = stopped
        self._clock = clock
        self._give_up_at = clock() + bounds.look_s
        self._looked = 0
        self._size = 0
        self._result = Gathered()

    # -- the two ways ------------------------------------------------------------------------------------------------

    def everything(self) -> Gathered:
        """Raises `TooMuchError`."""
        found: list[Entry] = []
        links: list[Entry] = []
        for entry in self._walk(self._is_part):
            (links if entry.kind == "link" else found).append(entry)
            self._check_count(len(found) + len(links))
            self._check_size(self._size + entry.size)
            self._size += entry.size
        self._size = 0
        for entry in found:
            self._take(entry)
        self._take_links(links, {})
        return self._result

    def sources(self, reason: str) -> Gathered:
        """As much as the bounds allow of all Python sources, those nearest to the root first."""
        folders: dict[str, Entry] = {}
        taken: set[str] = set()
        links = []
        try:
            for entry in self._walk(self._is_source_folder):
                if entry.kind == "folder":
                    folders[entry.path] = entry
                elif not entry.path.endswith(".py") and entry.kind != "link":
                    self._result.only_sources = reason
                elif entry.kind == "link":
                    links.append(entry)
                    self._check_count(len(self._result.found) + len(links))
                else:
                    missing = [each for each in _above(entry.path) if each not in taken]
                    self._check_count(len(self._result.found) + len(links) + len(missing) + 1)
                    self._check_size(self._size + entry.size)
                    taken.update(missing)
                    self._result.found += [(folders[path], b"") for path in missing]
                    self._take(entry)
        except TooMuchError as error:
            self._result.only_sources = f"{reason}, and not even all of these: it {error}"
            self._result.cut_short = True
        self._take_links(links, folders)
        return self._result

    # -- looking -----------------------------------------------------------------------------------------------------

    def _walk(self, enters: Callable[[str, os.DirEntry[str]], bool]) -> Iterator[Entry]:
        """What belongs to the folder: each level by name, a folder before what is in it. `enters(path, folder)` says
        which folders do."""
        waiting = deque([""])
        while waiting:
            above = waiting.popleft()
            for item in self._list(above):
                path = f"{above}/{item.name}" if above else item.name
                entry = self._look_at(path, item)
                if entry is None or (entry.kind == "folder" and not enters(path, item)):
                    continue
                if entry.kind == "folder":
                    waiting.append(path)
                yield entry

    def _list(self, path: str) -> list[os.DirEntry[str]]:
        """What is in a folder, by name, without what is hidden. Raises `OSError` for the root."""
        if self._stopped():
            raise StoppedError
        found = []
        try:
            with os.scandir(os.path.join(self._root, path)) as items:
                for item in items:
                    self._looked += 1
                    if self._looked > self._bounds.looked_max:
                        raise TooMuchError(f"has more than {self._bounds.looked_max} files and folders")
                    if not item.name.startswith("."):
                        found.append(item)
        except OSError as error:
            if not path:
                raise
            self._give_up(path, error)
        if self._clock() > self._give_up_at:
            raise TooMuchError(f"takes longer than {self._bounds.look_s:g} s to look through")
        return sorted(found, key=lambda item: item.name)

    def _look_at(self, path: str, item: os.DirEntry[str]) -> Entry | None:
        """One thing in a folder; None when it does not go along."""
        try:
            if not _is_name(path, item.name):
                self._result.leave_out(ascii(path), "such names do not travel")
                return None
            if item.is_symlink():
                return self._look_at_link(path)
            status = item.stat(follow_symlinks=False)
        except OSError as error:
            self._give_up(path, error)
            return None
        if stat.S_ISDIR(status.st_mode):
            return Entry(path, "folder")
        if not stat.S_ISREG(status.st_mode):
            return None
        return Entry(path, "program" if status.st_mode & stat.S_IXUSR else "file", status.st_size)

    def _look_at_link(self, path: str) -> Entry | None:
        target = os.path.realpath(os.path.join(self._root, path))
        if not os.path.lexists(target) or target == self._root:
            return None
        if not is_within(target, [self._root]):
            self._result.leave_out(path, "they lead out of the folder")
            return None
        return Entry(path, "link", target=os.path.relpath(target, self._root))

    def _is_part(self, path: str, folder: os.DirEntry[str]) -> bool:
        if folder.name in MADE_BY_TOOLS or os.path.join(self._root, path) in self._ours:
            return False
        return not any(os.path.lexists(os.path.join(folder.path, mark)) for mark in ENVIRONMENT_MARKS)

    def _is_source_folder(self, path: str, folder: os.DirEntry[str]) -> bool:
        return self._is_part(path, folder) and (
            not self._packages_only or "/" in path or os.path.isfile(os.path.join(folder.path, "__init__.py"))
        )

    # -- taking ------------------------------------------------------------------------------------------------------

    def _take(self, entry: Entry) -> None:
        """Read a file, or just take a folder. Raises `TooMuchError`."""
        if entry.kind == "folder":
            self._result.found.append((entry, b""))
            return
        if self._stopped():
            raise StoppedError
        try:
            content = self._read(os.path.join(self._root, entry.path))
        except OSError as error:
            self._give_up(entry.path, error)
            return
        if content is None:
            return
        self._check_size(self._size + len(content))
        self._size += len(content)
        self._result.found.append((Entry(entry.path, entry.kind, len(content)), content))

    def _read(self, path: str) -> bytes | None:
        """A file as it was at one time, or at least as it was last; None when it is no file any more."""
        content = b""
        for _ in range(READS_MAX):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                before = os.fstat(fd)
                if not stat.S_ISREG(before.st_mode):
                    return None
                self._check_size(self._size + before.st_size)
                content = _read_up_to(fd, before.st_size)
                after = os.fstat(fd)
            finally:
                os.close(fd)
            if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
                break
        return content

    def _take_links(self, links: list[Entry], folders: Mapping[str, Entry]) -> None:
        """Those that lead to what goes along, each with those `folders` above it that do not go along anyway."""
        there = {entry.path for entry, _ in self._result.found}
        above = set(there)
        for link in links:
            if link.target not in there:
                continue
            missing = [path for path in _above(link.path) if path not in above]
            if len(self._result.found) + len(missing) >= self._bounds.entries_max:
                self._result.leave_out(link.path, "they are too many")
                continue
            above.update(missing)
            self._result.found += [(folders[path], b"") for path in missing]
            self._result.found.append((link, b""))

    # -- bounds ------------------------------------------------------------------------------------------------------

    def _check_count(self, count: int) -> None:
        if count > self._bounds.entries_max:
            raise TooMuchError(f"has more than {self._bounds.entries_max} files")

    def _check_size(self, size: int) -> None:
        if size > self._bounds.bytes_max:
            raise TooMuchError(f"has more than {self._bounds.bytes_max >> 20} MiB")

    def _give_up(self, path: str, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # it was removed while we looked
            self._result.leave_out(path, f"they cannot be read: {error.strerror}")


def _above(path: str) -> list[str]:
    """The folders that a path is in, the outermost first."""
    names = path.split("/")[:-1]
    return ["/".join(names[:count]) for count in range(1, len(names) + 1)]


def _is_name(path: str, name: str) -> bool:
    """Whether an archive can have it. (A name that is no UTF-8 has surrogates.)"""
    try:
        return len(name.encode()) <= NAME_MAX_BYTES and len(path.encode()) < PATH_MAX_BYTES
    except UnicodeEncodeError:
        return False


def _read_up_to(fd: int, size: int) -> bytes:
    chunks: list[bytes] = []
    while size > 0 and (chunk := os.read(fd, min(size, 1 << 20))):
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)
