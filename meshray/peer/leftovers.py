"""Processes that a worker left and no zygote knows any more: its zygote was killed, too.

They are found by the worker's id in the environment that they were started with. The whole of /proc is read, so this is
for the day a zygote dies, not for the end of each worker.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress

from meshray.wire.forking import PROCESS_VARIABLE

_MARK = PROCESS_VARIABLE.encode() + b"="
_ENVIRON_MAX_BYTES = 4 << 20


def kill_left_by(ids: Iterable[bytes]) -> int:
    """Kill what dead workers left; `ids` are process ids, or node ids for all workers of a peer. How many it was."""
    marks = tuple(_MARK + prefix.hex().encode() for prefix in ids)
    killed = 0
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            with suppress(OSError):  # it has ended, or is another user's
                killed += _kill_if_marked(int(name), marks)
    return killed


def _kill_if_marked(pid: int, marks: tuple[bytes, ...]) -> bool:
    """Opened before its environment is read: if the number passes on meanwhile, the signal goes to nobody."""
    pidfd = os.pidfd_open(pid)
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read(_ENVIRON_MAX_BYTES)
        if not any(variable.startswith(marks) for variable in variables.split(b"\0")):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    finally:
        os.close(pidfd)
