"""What workers print, on its way to their drivers: read without waiting, cut into lines, named.

Each worker has two pipes, whose write ends go to the zygote with the request to fork. Their end is never waited for: a
grandchild may hold a pipe open, so at a worker's death what is in the pipe is read, and the pipe is closed. A line is
bounded; a longer one goes on as several. Of stderr the last words are kept for `WorkerCrashedError`.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path

from meshray.config import Config
from meshray.observe.markers import split_markers
from meshray.transport.epoll import Epoll
from meshray.wire.messages import LogLine

_READ_MAX_BYTES = 64 * 1024
"""Per pipe and turn, so that one worker that prints without end does not stop the peer's loop."""

_NAME_MAX = 1024

_OURS = re.escape(os.fsencode(Path(__file__).parents[1]))
_OURS_IN_A_CRASH = re.compile(rb'Extension modules: |  File "%b/[^"]*", line \d+ in ' % _OURS)
"""Of what `faulthandler` writes, what says nothing about the user's program: our own frames (a traceback of Python's
has a comma before `in`), and all modules in C that are loaded."""


class Logs:
    """The pipes of all workers. Wait for `fd`, call `on_ready`, take `take_lines()`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._poll = Epoll()
        self.fd = self._poll.fd
        self._workers: dict[bytes, _WorkerLog] = {}
        self._by_fd: dict[int, tuple[_WorkerLog, _Pipe]] = {}  # read ends of workers that run
        self._held: set[int] = set()  # those of these that are not watched
        self._lines: dict[bytes, list[LogLine]] = {}  # per worker, since the last take_lines()

    def open(self, process_id: bytes) -> tuple[int, int]:
        """Make the pipes of a new worker: the write ends for stdout and stderr, the caller's to pass on or close."""
        out, stdout = os.pipe()
        try:
            err, stderr = os.pipe()
        except OSError:
            os.close(out)
            os.close(stdout)
            raise
        pipes = _Pipe(out, False), _Pipe(err, True)
        self._workers[process_id] = _WorkerLog(process_id, pipes, self._config.stderr_tail_bytes)
        return stdout, stderr

    def on_forked(self, process_id: bytes, pid: int) -> None:
        """The worker runs: its pipes are read from now on."""
        worker = self._workers[process_id]
        worker.pid = pid
        for pipe in worker.pipes:
            self._by_fd[pipe.fd] = worker, pipe
            self._poll.watch(pipe.fd)

    def hold(self, held: Callable[[bytes], bool] | None) -> None:
        """From now on read nothing of workers for which `held` is true; None: read all. A repeat changes nothing."""
        if held is None and not self._held:
            return
        for fd, (worker, _) in self._by_fd.items():
            if (held is not None and held(worker.process_id)) == (fd in self._held):
                continue
            if fd in self._held:
                self._held.remove(fd)
                self._poll.watch(fd)
            else:
                self._held.add(fd)
                self._poll.unwatch(fd)

    def on_ready(self) -> None:
        """`fd` was readable: read some of each pipe that has something."""
        for fd in self._poll.ready():
            worker, pipe = self._by_fd[fd]
            if not self._read(worker, pipe, _READ_MAX_BYTES):
                self._flush(worker, pipe)
                self._close(pipe)

    def take_lines(self) -> dict[bytes, list[LogLine]]:
        """All lines since the last call, by worker, in order."""
        lines, self._lines = self._lines, {}
        return lines

    def close(self, process_id: bytes) -> str:
        """The worker is dead (or was never born): read what it had printed; the last words of its stderr.

        Its last lines come with the next `take_lines`. Bounded by what a pipe holds: a grandchild may still write.
        """
        worker = self._workers.pop(process_id, None)
        if worker is None:
            return ""
        for pipe in worker.pipes:
            if pipe.fd >= 0:
                if worker.pid:
                    self._read(worker, pipe, fcntl.fcntl(pipe.fd, fcntl.F_GETPIPE_SZ))
                self._flush(worker, pipe)
                self._close(pipe)
        return worker.last_words()

    def close_all(self) -> None:
        """Drop everything: the peer ends."""
        for process_id in list(self._workers):
            self.close(process_id)
        self._poll.close()

    def _read(self, worker: _WorkerLog, pipe: _Pipe, most: int) -> bool:
        """Read up to about `most` bytes; False at the end of the pipe."""
        while most > 0:
            try:
                chunk = os.read(pipe.fd, min(most, _READ_MAX_BYTES))
            except BlockingIOError:
                return True
            if not chunk:
                return False
            most -= len(chunk)
            for line in pipe.cut(chunk, self._config.log_line_max_bytes):
                self._on_line(worker, pipe, line)
        return True

    def _on_line(self, worker: _WorkerLog, pipe: _Pipe, line: bytes) -> None:
        """One line, with a marker in it or not."""
        text, name = split_markers(line)
        if text or name is None:
            lines = self._lines.setdefault(worker.process_id, [])
            # What a terminal would show of a line that was written over: progress bars.
            shown = text.rstrip(b"\r").rpartition(b"\r")[2]
            for piece in _pieces(shown, self._config.log_line_max_bytes):
                lines.append(LogLine(pipe.source, worker.pid, piece.decode("utf-8", "replace"), pipe.stderr))
            if pipe.stderr:
                worker.remember(shown)
        if name is not None:
            pipe.source = name[:_NAME_MAX]

    def _flush(self, worker: _WorkerLog, pipe: _Pipe) -> None:
        """What has no newline is a line, too, once nothing follows."""
        if pipe.rest:
            self._on_line(worker, pipe, bytes(pipe.rest))
            pipe.rest.clear()

    def _close(self, pipe: _Pipe) -> None:
        if self._by_fd.pop(pipe.fd, None) is not None:
            if pipe.fd in self._held:
                self._held.remove(pipe.fd)
            else:
                self._poll.unwatch(pipe.fd)
        os.close(pipe.fd)
        pipe.fd = -1


class _Pipe:
    """The read end of one stream of one worker."""

    __slots__ = ("fd", "rest", "source", "stderr")

    def __init__(self, fd: int, stderr: bool) -> None:
        os.set_blocking(fd, False)
        self.fd = fd  # -1 once it is closed
        self.stderr = stderr
        self.rest = bytearray()  # the beginning of a line whose end has not come
        self.source = ""  # who prints; changes with a marker

    def cut(self, chunk: bytes, line_max_bytes: int) -> list[bytes]:
        """The lines that `chunk` completes, without their newlines."""
        *lines, rest = (bytes(self.rest) + chunk).split(b"\n")
        *pieces, rest = _pieces(rest, line_max_bytes)
        self.rest[:] = rest
        lines += pieces
        return lines


class _WorkerLog:
    """Both streams of one worker, and the end of what came through stderr."""

    __slots__ = ("_tail", "_tail_bytes", "_tail_max_bytes", "pid", "pipes", "process_id")

    def __init__(self, process_id: bytes, pipes: tuple[_Pipe, _Pipe], tail_max_bytes: int) -> None:
        self.process_id = process_id
        self.pid = 0  # 0 until it is forked
        self.pipes = pipes
        self._tail: deque[bytes] = deque()  # the last lines of stderr
        self._tail_bytes = 0
        self._tail_max_bytes = tail_max_bytes

    def remember(self, line: bytes) -> None:
        if _OURS_IN_A_CRASH.match(line):
            return  # the user's lines come first, and then so many of ours that his would be pushed out
        self._tail.append(line)
        self._tail_bytes += len(line) + 1
        while self._tail_bytes > self._tail_max_bytes and len(self._tail) > 1:
            self._tail_bytes -= len(self._tail.popleft()) + 1

    def last_words(self) -> str:
        """The last lines of stderr, at most the given bytes."""
        return b"\n".join(self._tail)[-self._tail_max_bytes :].decode("utf-8", "replace")


def _pieces(line: bytes, line_max_bytes: int) -> list[bytes]:
    """A line in pieces of at most so many bytes."""
    pieces = []
    while len(line) > line_max_bytes:
        cut = _boundary(line, line_max_bytes)
        pieces.append(line[:cut])
        line = line[cut:]
    pieces.append(line)
    return pieces


def _boundary(line: bytes, at: int) -> int:
    """The last boundary of a UTF-8 character at or before `at`."""
    for cut in range(at, max(at - 4, 0), -1):
        if line[cut] & 0xC0 != 0x80:
            return cut
    return at
