"""The processes of this host that a peer watches: its workers, and the drivers that attached.

Death is a readable pidfd, never the end of a pipe. A worker's exit code comes from its zygote at about the same time,
in either order; one event tells of both. If the zygote is dead or silent, the event comes without the code, and the
peer kills what is left of the worker in the zygote's place.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import NamedTuple

from meshray.peer.leftovers import kill_left_by
from meshray.transport.epoll import Epoll

_CODE_TIMEOUT_S = 0.5
"""How long a death waits for the exit code: the zygote needs a millisecond, unless it is stopped or overrun."""

_PIDFD_SIGNAL_PROCESS_GROUP = 1 << 2  # linux/pidfd.h, since Linux 6.9


class ProcessEnded(NamedTuple):
    """A watched process is gone. Told once."""

    process_id: bytes
    pid: int
    exit_text: str  # "killed by signal 11 (SIGSEGV)", "exit code 3", "ended"
    code: int | None  # as `subprocess` has it; None when it is not known
    is_worker: bool


class _Child:
    """One watched process."""

    __slots__ = ("dead_since", "exit_code_lost", "is_worker", "pid", "pidfd", "process_id")

    def __init__(self, process_id: bytes, pid: int, pidfd: int, is_worker: bool) -> None:
        self.process_id = process_id
        self.pid = pid
        self.pidfd = pidfd  # ours until the end is told
        self.is_worker = is_worker
        self.exit_code_lost = False  # its zygote is gone
        self.dead_since: float | None = None  # when the pidfd said so, while the code is still to come


class Children:
    """Wait for `fd`, call `on_ready`, take `take_ended()` after each call."""

    def __init__(self) -> None:
        self._poll = Epoll()
        self.fd = self._poll.fd
        self._by_id: dict[bytes, _Child] = {}
        self._by_fd: dict[int, _Child] = {}  # those whose death was not seen yet, which are watched
        self._codeless: dict[bytes, _Child] = {}  # dead ones whose exit code is still to come
        self._ended: list[ProcessEnded] = []
        self._unswept: list[bytes] = []  # dead workers whose leftovers no zygote has killed

    def add_worker(self, process_id: bytes, pid: int, pidfd: int) -> None:
        """Watch a worker; `pidfd` is taken over."""
        self._add(_Child(process_id, pid, pidfd, True))

    def add_driver(self, process_id: bytes, pid: int) -> None:
        """Watch a driver that attached; a repeat changes nothing. Raises `ProcessLookupError` when it is gone."""
        if process_id not in self._by_id:
            self._add(_Child(process_id, pid, os.pidfd_open(pid), False))

    def __contains__(self, process_id: bytes) -> bool:
        return process_id in self._by_id

    def __len__(self) -> int:
        return len(self._by_id)

    def pid_of(self, process_id: bytes) -> int | None:
        """The pid of a watched process."""
        child = self._by_id.get(process_id)
        return child.pid if child else None

    def on_ready(self, now: float) -> None:
        """`fd` was readable: see who is dead."""
        for pidfd in self._poll.ready():
            child = self._by_fd[pidfd]
            self._unwatch(child)
            if not child.is_worker or child.exit_code_lost:
                self._end(child, None)
            else:
                child.dead_since = now
                self._codeless[child.process_id] = child

    def on_exit_code(self, process_id: bytes, code: int) -> None:
        """The zygote waited for a worker: it is dead, whether its pidfd was seen or not."""
        child = self._by_id.get(process_id)
        if child is not None:
            self._end(child, code)

    def on_zygote_died(self, process_ids: list[bytes]) -> None:
        """Of these workers no exit code will come; they are dead or about to be."""
        for process_id in process_ids:
            child = self._by_id.get(process_id)
            if child is None:
                continue
            child.exit_code_lost = True
            if child.dead_since is not None:
                self._end(child, None)

    def next_expiry(self) -> float | None:
        """When `expire` has something to do at the latest."""
        for child in self._codeless.values():  # who has died first comes first
            assert child.dead_since is not None
            return child.dead_since + _CODE_TIMEOUT_S
        return None

    def expire(self, now: float) -> None:
        """Tell of deaths whose exit code did not come in time."""
        while (at := self.next_expiry()) is not None and at <= now:
            self._end(next(iter(self._codeless.values())), None)

    def take_ended(self) -> list[ProcessEnded]:
        """All deaths since the last call."""
        if self._unswept:
            kill_left_by(self._unswept)
            self._unswept = []
        ended, self._ended = self._ended, []
        return ended

    def kill(self, process_id: bytes, number: int = signal.SIGKILL) -> bool:
        """Send a signal, to that very process and no other. False when it is not watched or gone."""
        child = self._by_id.get(process_id)
        if child is None or child.dead_since is not None:
            return False
        try:
            signal.pidfd_send_signal(child.pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def release(self, process_id: bytes) -> None:
        """Watch it no more: a driver that detached."""
        child = self._by_id.get(process_id)
        if child is not None:
            self._drop(child)

    def close(self) -> None:
        """Watch nothing any more."""
        for child in list(self._by_id.values()):
            self._drop(child)
        self._poll.close()

    def _add(self, child: _Child) -> None:
        assert child.process_id not in self._by_id, f"process {child.process_id.hex()} (pid {child.pid}) came twice"
        try:
            self._poll.watch(child.pidfd)
        except OSError:
            os.close(child.pidfd)
            raise
        self._by_id[child.process_id] = child
        self._by_fd[child.pidfd] = child

    def _end(self, child: _Child, code: int | None) -> None:
        if child.is_worker and code is None:
            kill_group_of(child.pidfd, child.pid)
            self._unswept.append(child.process_id)
        self._drop(child)
        text = describe_exit(code) if child.is_worker else "ended"
        self._ended.append(ProcessEnded(child.process_id, child.pid, text, code, child.is_worker))

    def _drop(self, child: _Child) -> None:
        del self._by_id[child.process_id]
        self._codeless.pop(child.process_id, None)
        self._unwatch(child)
        os.close(child.pidfd)

    def _unwatch(self, child: _Child) -> None:
        if self._by_fd.pop(child.pidfd, None) is not None:
            self._poll.unwatch(child.pidfd)


def describe_exit(code: int | None) -> str:
    """How a process ended, for people."""
    if code is None:
        return "gone, exit status unknown"
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"killed by signal {-code}"
    return f"killed by signal {-code} ({name})"


def kill_group_of(pidfd: int, pid: int) -> None:
    """Kill the process group of a dead worker, which nobody may have reaped or somebody may have.

    By the pidfd, which no other process can ever be behind; before Linux 6.9 by number, unless the number is a living
    process's: then the group is empty, since a number is not given away while a group has it.
    """
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL, None, _PIDFD_SIGNAL_PROCESS_GROUP)
    except ProcessLookupError:
        return
    except OSError:
        if not os.path.exists(f"/proc/{pid}"):
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
