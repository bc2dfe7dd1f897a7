"""Who holds a TCP port of this host? As far as /proc tells: it shows the processes of one's own user, and root all."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from meshray.observe.notes import printable

PROC = Path("/proc")
_LISTENS = "0A"  # TCP_LISTEN of the kernel's table


PLACES = ("MESHRAY_RUNTIME_DIR", "XDG_RUNTIME_DIR")
"""What says in which runtime folder a peer lives; the first one counts."""

PEER_PROGRAM = "meshray/boot/__main__.py"
"""In the command line of every peer (`launch.command`)."""

COMMAND_MAX_CHARS = 80
"""Of another program's command line people see so much."""


class Holder(NamedTuple):
    """A process that listens at a port."""

    pid: int
    user: int
    words: list[str]  # its command line
    environment: dict[str, str]  # as it was when it began


def holder_of(port: int, proc: Path = PROC) -> Holder | None:
    """A process that listens at this port, at any address; None when there is none that we may look at."""
    links = {f"socket:[{inode}]" for inode in _listening(port, proc)}
    if not links:
        return None
    for folder in proc.iterdir():
        if folder.name.isdecimal() and not links.isdisjoint(_links(folder)):
            with suppress(OSError):  # it ends just now
                words = [os.fsdecode(word) for word in (folder / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")]
                return Holder(int(folder.name), folder.stat().st_uid, words, _environment(folder))
    return None


def _listening(port: int, proc: Path) -> Iterator[str]:
    """The inodes of the sockets that listen there."""
    for table in ("tcp", "tcp6"):
        with suppress(OSError):  # a system without IPv6, or without /proc
            for line in (proc / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _links(folder: Path) -> Iterator[str]:
    """What the descriptors of a process lead to."""
    with suppress(OSError), os.scandir(folder / "fd") as entries:
        for entry in entries:
            with suppress(OSError):  # closed just now
                yield os.readlink(entry.path)


def _environment(folder: Path) -> dict[str, str]:
    entries = (folder / "environ").read_bytes().split(b"\0")
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if entry)
    return {name: value for name, _, value in pairs}


def describe(holder: Holder) -> str:
    """Who has the port, where it is none of the peers that are found here: for people."""
    owner = "of yours" if holder.user == os.getuid() else f"of user {holder.user}"
    if not any(word.endswith(PEER_PROGRAM) for word in holder.words):
        command = printable(" ".join(holder.words))
        command = command if len(command) <= COMMAND_MAX_CHARS else f"{command[: COMMAND_MAX_CHARS - 3]}..."
        return (
            f"It is a program {owner}, pid {holder.pid}: `{command}`. Give this one another --port, or start it with "
            "--local"
        )
    set_there = {name: holder.environment[name] for name in PLACES if name in holder.environment}
    words = [f"{name}={shlex.quote(value)}" for name, value in set_there.items()]
    if missing := [f"-u {name}" for name in PLACES if name not in set_there]:
        words = ["env", *missing, *words]
    return (
        f"It is a peer {owner}, pid {holder.pid}, with another runtime folder: `{printable(' '.join(words))} meshray "
        "stop` ends it. Or give this one another --port"
    )
