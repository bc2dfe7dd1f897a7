"""What a dead worker leaves behind, and its end (FAULTS 14).

The zygote is the parent of all workers and adopts what they leave (PR_SET_CHILD_SUBREAPER). While a worker lives, its
subprocesses are its own affair: they may outlive the task that started them, as in Ray. When it dies:

1. its process group is killed while its zombie still keeps the number, so no stranger can have it;
2. what had left the group becomes a child of the zygote. It is killed when its session is the dead worker's, or when
   the worker's id stands in the environment that it was started with, and its own children after it.

A process that was only forked, never started as a program, and made a session of its own is a daemon by intent: it is
left alone. So is the double-forked daemon of a worker that lives.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from meshray.wire.forking import PROCESS_VARIABLE

_MARK = PROCESS_VARIABLE.encode() + b"="
_UNMARKED = b"-"
_GONE = b""
_ENVIRON_MAX_BYTES = 4 << 20


def kill_group(pid: int) -> None:
    """Kill the process group that `pid` leads. The caller's duty: `pid` is a child of this process, not yet reaped."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


class Descendants:
    """Whose each child of this process is: a worker, or something that a worker has left."""

    def __init__(self) -> None:
        self.workers: dict[int, bytes] = {}  # pid -> process id; changed by the zygote at fork and wait
        self._dead: set[int] = set()  # pids of workers that are gone, while orphans are left

    def on_worker_gone(self, pid: int) -> None:
        """The worker was taken out of `workers`: its session is nobody's."""
        self._dead.add(pid)

    def sweep(self) -> bool:
        """Kill the orphans that no living worker answers for; whether any was there, or was just going.

        Their ends are reported by SIGCHLD, and their own children come here then: call it again after each.
        """
        orphans = self._orphans()
        if not orphans:
            self._dead.clear()
            return False
        alive = {process_id.hex().encode() for process_id in self.workers.values()}
        busy = False
        for pid in orphans:
            mark = _mark_of(pid)
            if self._session_is_dead(pid) or mark not in (_UNMARKED, _GONE, *alive):
                os.kill(pid, signal.SIGKILL)  # our own child: nobody else can have reaped it
                busy = True
            busy |= mark == _GONE
        return busy

    def _orphans(self) -> list[int]:
        """Children of this process that are no workers. None where the kernel does not list them."""
        try:
            with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
                return [pid for pid in map(int, file.read().split()) if pid not in self.workers]
        except OSError:
            return []  # built without CONFIG_PROC_CHILDREN: the process groups are all that we reach

    def _session_is_dead(self, pid: int) -> bool:
        with suppress(ProcessLookupError):
            session = os.getsid(pid)
            return session in self._dead and session not in self.workers
        return False


def _mark_of(pid: int) -> bytes:
    """The worker that started the program of `pid`, or `_UNMARKED`, or `_GONE` when it cannot be seen (any more)."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read(_ENVIRON_MAX_BYTES)
    except OSError:
        return _GONE
    if not variables:
        return _GONE  # a zombie
    marks = (entry[len(_MARK) :] for entry in variables.split(b"\0") if entry.startswith(_MARK))
    return next(marks, _UNMARKED)
