"""What peers of this host that have crashed have left: the end of their logs.

A peer that ends takes its folder along, and with it `peer.log`. One that crashes, a standing one, or has to end since
somebody has removed its folder, keeps the end of it::

    <runtime>/<name>.crashed.log      0600, the last crash of the peer of that name; a few of them, the newest

It lies there until somebody removes it, or the host starts anew.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from meshray.local import log_places, runtime_folder

KEPT_MAX = 8
"""Logs that are kept: of so many names. Those beyond go, the oldest first."""

KEPT_MAX_BYTES = 256 * 1024
"""Of one log, its end: the traceback, and what came before."""

SUFFIX = ".crashed.log"
_NAME_MAX_CHARS = 200
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")


class Crash(NamedTuple):
    """One that left its log."""

    name: str  # of the peer, as far as a file can be called so
    at: float  # wall clock, for people
    log: Path


def keep(log: Path, name: str) -> Path:
    """Keep the end of this log of a peer; where. Raises `OSError`, `FolderError`."""
    kept = runtime_folder() / _file_name(name)
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - KEPT_MAX_BYTES))
        end = file.read(KEPT_MAX_BYTES)
    with contextlib.suppress(FileNotFoundError):
        kept.unlink()
    fd = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(end)
    others = [crash for crash in found() if crash.log != kept]
    for old in others[KEPT_MAX - 1 :]:
        old.log.unlink(missing_ok=True)
    return kept


def found() -> list[Crash]:
    """Those that are kept, the newest first."""
    crashes = []
    for place in log_places():
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX) and entry.is_file(follow_symlinks=False):
                    found = entry.stat(follow_symlinks=False)
                    if found.st_uid == os.getuid():  # in /tmp it may lie in a folder of somebody else's
                        crashes.append(Crash(entry.name.removesuffix(SUFFIX), found.st_mtime, Path(entry.path)))
    return sorted(crashes, key=lambda crash: -crash.at)


def of_peer(name: str) -> Crash | None:
    """That of the last peer of this name."""
    return next((crash for crash in found() if crash.log.name == _file_name(name)), None)


def _file_name(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name)[:_NAME_MAX_CHARS] + SUFFIX
