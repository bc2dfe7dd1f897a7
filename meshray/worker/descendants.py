"""What a dead worker leaves behind, and its end (FAULTS 14).

The zygote is the parent of all workers and adopts what they leave (PR_SET_CHILD_SUBREAPER). While a worker lives, its
subprocesses are its own affair: they may outlive the task that started them, as in Ray. When it dies:

1. its process group is killed while its zombie still keeps the number, so no stranger can have it;
2. what had left the group becomes a child of the zygote. It is killed when its session is the dead worker's, or when
   the worker's id stands in the environment that it was started with, and its own children after it.

A process that was only forked, never started as a program, and made a session of its own is a daemon by intent: it is
left alone. So is the double-forked daemon of a worker that lives.

A resource tracker (of multiprocessing, or of what is made like it) is killed last. It ends by itself when all that held
the other end of its pipe are dead, and takes away the semaphores and segments that they had no time to: files in
/dev/shm, which nobody else knows. So where a dead worker had one, or a process below it, its group is not killed at
once but process by process, as in 2, and the tracker has `TRACKER_TIMEOUT_S`. One that was stopped is woken for that.
"""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress

from meshray.wire.forking import PROCESS_VARIABLE

_MARK = PROCESS_VARIABLE.encode() + b"="
_UNMARKED = b"-"
_GONE = b""
_ENVIRON_MAX_BYTES = 4 << 20
_TRACKER = re.compile(rb"from [\w.]+\.resource_tracker import main; ?main\(")
"""The program of a tracker, as `python -c` gets it: that of multiprocessing since Python 3.8, and that of loky."""
_COMMAND_MAX_BYTES = 4096

TRACKER_TIMEOUT_S = 1.0
"""How long the tracker of a dead worker may take to clean up: it needs milliseconds (I5: nothing is left after 2 s)."""

LOOKED_AT_MAX = 1000
"""Among so many processes, at most, a tracker is looked for when a worker dies: to look at one takes some 30 us."""

UNCLEAR_TIMEOUT_S = 1.0
LOOK_AGAIN_S = 0.02
"""How long an orphan whose environment cannot be seen is looked at again, and how soon each time."""


def kill_group(pid: int) -> None:
    """Kill the process group that `pid` leads. The caller's duty: `pid` is a child of this process, not yet reaped."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


class Descendants:
    """Whose each child of this process is: a worker, or something that a worker has left."""

    def __init__(self) -> None:
        self.workers: dict[int, bytes] = {}  # pid -> process id; changed by the zygote at fork and wait
        self._dead: set[int] = set()  # pids of workers that are gone, while orphans are left
        self._trackers: dict[int, float] = {}  # pids of trackers that clean up, and until when: by `sweep`
        self._unclear: dict[
            int, float
        ] = {}  # pids whose environment was not to be seen, and until when one looks again
        self._look_at: float | None = None  # when that is; None while nothing is unclear

    def on_worker_dead(self, pid: int) -> None:
        """It was taken out of `workers`, and is a child not yet reaped: kill its group, or leave that to `sweep`."""
        if not any(map(_is_tracker, _all_below([orphan for orphan in self._orphans() if orphan != pid]))):
            kill_group(pid)

    def on_worker_gone(self, pid: int) -> None:
        """It was reaped: its session is nobody's. `sweep` comes next."""
        self._dead.add(pid)

    @property
    def next_expiry(self) -> float | None:
        """When `sweep` has something to do at the latest, though nobody has ended."""
        times = [*self._trackers.values(), *((self._look_at,) if self._look_at is not None else ())]
        return min(times, default=None)

    def sweep(self, now: float) -> bool:
        """Kill the orphans that no living worker answers for; whether any was there, or was just going.

        Their ends are reported by SIGCHLD, and their own children come here then: call it again after each, and at
        `next_expiry`.
        """
        orphans = self._orphans()
        self._trackers = {pid: until for pid, until in self._trackers.items() if pid in orphans}
        self._unclear = {pid: until for pid, until in self._unclear.items() if pid in orphans}
        self._look_at = None
        if not orphans:
            self._dead.clear()
            return False
        alive = {process_id.hex().encode() for process_id in self.workers.values()}
        busy = False
        for pid in orphans:
            mark = _mark_of(pid)
            if self._session_is_dead(pid) or mark not in (_UNMARKED, _GONE, *alive):
                busy = True
                if _is_tracker(pid):
                    if pid not in self._trackers:
                        os.kill(pid, signal.SIGCONT)  # it may be stopped, with the rest of a job
                    if now < self._trackers.setdefault(pid, now + TRACKER_TIMEOUT_S):
                        continue
                    self._trackers[pid] = now + TRACKER_TIMEOUT_S
                os.kill(pid, signal.SIGKILL)  # our own child: nobody else can have reaped it
            elif mark == _GONE and now < self._unclear.setdefault(pid, now + UNCLEAR_TIMEOUT_S):
                busy = True  # it is just going, or its program is just being loaded, and nothing tells when it is
                self._look_at = now + LOOK_AGAIN_S
        return busy

    def _orphans(self) -> list[int]:
        """Children of this process that are no workers. None where the kernel does not list them."""
        return [pid for pid in _children_of(os.getpid(), os.getpid()) if pid not in self.workers]

    def _session_is_dead(self, pid: int) -> bool:
        with suppress(ProcessLookupError):
            session = os.getsid(pid)
            return session in self._dead and session not in self.workers
        return False


def _children_of(pid: int, thread: int) -> list[int]:
    """Those that a thread of this process has forked."""
    try:
        with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
            return list(map(int, file.read().split()))
    except OSError:
        return []  # it is gone; or built without CONFIG_PROC_CHILDREN: the process groups are all that we reach


def _all_below(pids: list[int]) -> list[int]:
    """These processes and what descends from them, at most `LOOKED_AT_MAX` and the children of the last."""
    found = list(pids)
    for pid in found:  # it grows meanwhile
        if len(found) >= LOOKED_AT_MAX:
            break
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                found += _children_of(pid, int(thread))
    return found


def _mark_of(pid: int) -> bytes:
    """The worker that started the program of `pid`, or `_UNMARKED`, or `_GONE` when it cannot be seen (yet, or any
    more)."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read(_ENVIRON_MAX_BYTES)
    except OSError:
        return _GONE
    if not variables:
        return _GONE  # a zombie, one whose program is just being loaded, or one without an environment
    marks = (entry[len(_MARK) :] for entry in variables.split(b"\0") if entry.startswith(_MARK))
    return next(marks, _UNMARKED)


def _is_tracker(pid: int) -> bool:
    """Whether it runs the program of a resource tracker."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return any(map(_TRACKER.match, file.read(_COMMAND_MAX_BYTES).split(b"\0")))
    except OSError:
        return False
