"""The peer's side of its zygotes: one per interpreter, asked for workers, replaced when it dies.

Nothing here waits: a request that does not fit into the socket is queued, answers are read when they are there, and a
zygote that must be started is started without waiting for it to be ready. A worker is named by its process id, which is
never used twice, so an answer cannot be taken for another's.

A zygote that dies takes its workers with it (they get SIGKILL). Requests it had not got yet go to its successor; the
others fail. After `start_crashes_max` deaths within `start_crashes_window_s` requests fail at once, with the last words
of the zygote, until the window has passed.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from socket import socket
from typing import NamedTuple

from meshray.config import Config
from meshray.peer.children import describe_exit
from meshray.transport.epoll import READ, WRITE, Epoll
from meshray.wire.forking import Exited, Fork, Forked, NotForked, Ready, pack, receive, send_packet, socket_pair

_LAST_WORDS_MAX_BYTES = 2048

_START = """\
import sys
home, *path = sys.argv[2:]
sys.path[:0] = [home] if home else []
sys.path += [entry for entry in path if entry not in sys.path]
from meshray.worker.zygote import main
main()
"""
"""As `python -m meshray.worker.zygote 3`, with the place where meshray is, and those where what it needs may be (last:
they shadow nothing). In PYTHONPATH they would reach the programs that tasks start."""


class Interpreter(NamedTuple):
    """What a zygote runs on: a driver's `sys.executable` and `sys.prefix`."""

    executable: str
    prefix: str


class WorkerForked(NamedTuple):
    """A worker runs. `pidfd` is the receiver's to close."""

    process_id: bytes
    pid: int
    pidfd: int


class ForkFailed(NamedTuple):
    """There is no such worker, and will not be."""

    process_id: bytes
    reason: str


class WorkerExited(NamedTuple):
    """A worker is gone; `code` as `subprocess` has it (-11: killed by signal 11)."""

    process_id: bytes
    code: int


class ZygoteDied(NamedTuple):
    """A zygote is gone, and these workers with it: their exit codes will not be known."""

    interpreter: Interpreter
    reason: str
    workers: list[bytes]


ZygoteEvent = WorkerForked | ForkFailed | WorkerExited | ZygoteDied


class Zygotes:
    """All zygotes of this peer.

    Wait for `fd`, then call `on_ready`. Take `take_events()` after each call of `fork` and `on_ready`.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._poll = Epoll()
        self.fd = self._poll.fd
        self._zygotes: dict[Interpreter, _Zygote] = {}  # the living ones
        self._deaths: dict[Interpreter, deque[float]] = {}  # when the last ones died, at most start_crashes_max
        self._last_words: dict[Interpreter, str] = {}  # why the last one died
        self._paths: dict[Interpreter, list[str]] = {}  # where each finds meshray: the last driver's `sys.path`
        self._events: list[ZygoteEvent] = []

    def start_default(self, forked: tuple[int, socket]) -> Interpreter:
        """Take over the zygote that `fork_zygote()` made of this very process, as that of this interpreter."""
        interpreter = Interpreter(sys.executable, sys.prefix)
        pid, sock = forked
        self._zygotes[interpreter] = _Zygote(pid, sock, self._poll)
        return interpreter

    def fork(
        self,
        interpreter: Interpreter,
        request: Fork,
        stdout: int,
        stderr: int,
        now: float,
        path: list[str] | None = None,
    ) -> None:
        """Ask for a worker: `WorkerForked` or `ForkFailed` follows. The descriptors are taken over.

        `path` is the driver's `sys.path`: where another interpreter finds meshray, if it is not installed there.
        """
        try:
            packet = pack(request)
            if path is not None:
                self._paths[interpreter] = path
            zygote = self._zygotes.get(interpreter) or self._start(interpreter, now)
        except (OSError, ValueError) as error:
            os.close(stdout)
            os.close(stderr)
            self._events.append(ForkFailed(request.process_id, str(error)))
            return
        zygote.outbox.append(_Request(request.process_id, packet, stdout, stderr))
        zygote.flush()

    @property
    def waits_for_room(self) -> bool:
        """Whether a request did not fit into its socket."""
        return any(zygote.wants_room() for zygote in self._zygotes.values())

    def on_ready(self, now: float) -> None:
        """Read and write whatever can be."""
        for interpreter, zygote in list(self._zygotes.items()):
            zygote.read_last_words()
            died = zygote.is_dead()
            zygote.receive(self._events)
            if died:
                self._on_death(interpreter, zygote, now)
            else:
                zygote.flush()

    def take_events(self) -> list[ZygoteEvent]:
        """All events since the last call, in order."""
        events, self._events = self._events, []
        return events

    def close(self, timeout_s: float) -> None:
        """End all zygotes and so all workers; those that have not ended by then are killed. Waits."""
        for zygote in self._zygotes.values():
            zygote.hang_up()
        for zygote in self._zygotes.values():
            select.select([zygote.pidfd], [], [], timeout_s)
            if not zygote.is_dead():
                signal.pidfd_send_signal(zygote.pidfd, signal.SIGKILL)
            zygote.reap()
            zygote.close()
        self._zygotes.clear()
        self._poll.close()

    def _start(self, interpreter: Interpreter, now: float) -> _Zygote:
        """Start a zygote. Raises `OSError` when it cannot be started, or when too many died lately."""
        deaths = self._deaths.get(interpreter)
        if (
            deaths
            and len(deaths) == self._config.start_crashes_max
            and now - deaths[0] < self._config.start_crashes_window_s
        ):
            raise OSError(
                f"the zygote of {interpreter.executable} died {len(deaths)} times "
                f"in {now - deaths[0]:.0f} s, the last time with: {self._last_words[interpreter]}"
            )
        zygote = self._zygotes[interpreter] = _spawn(interpreter, self._paths.get(interpreter, []), self._poll)
        return zygote

    def _on_death(self, interpreter: Interpreter, zygote: _Zygote, now: float) -> None:
        del self._zygotes[interpreter]
        reason = zygote.reap()
        self._deaths.setdefault(interpreter, deque(maxlen=self._config.start_crashes_max)).append(now)
        self._last_words[interpreter] = reason
        for process_id in zygote.asked:
            self._events.append(ForkFailed(process_id, f"the zygote died: {reason}"))
        self._events.append(ZygoteDied(interpreter, reason, list(zygote.workers)))
        waiting, zygote.outbox = zygote.outbox, deque()
        zygote.close()
        if not waiting:
            return
        try:
            successor = self._start(interpreter, now)
        except OSError as error:
            for request in waiting:
                request.close()
                self._events.append(ForkFailed(request.process_id, str(error)))
        else:
            successor.outbox = waiting
            successor.flush()


class _Request(NamedTuple):
    """A request on its way to a zygote; its descriptors are ours until it is sent."""

    process_id: bytes
    packet: bytes
    stdout: int
    stderr: int

    def close(self) -> None:
        os.close(self.stdout)
        os.close(self.stderr)


class _Zygote:
    """One zygote: its socket, what it was asked, which workers it has."""

    def __init__(self, pid: int, sock: socket, poll: Epoll, errors: int = -1) -> None:
        self.pid = pid  # not reaped while this object lives, so the number stays its own
        self.pidfd = os.pidfd_open(pid)
        self.sock = sock
        self.outbox: deque[_Request] = deque()  # not sent yet
        self.asked: dict[bytes, None] = {}  # process ids that were sent and not answered
        self.workers: dict[bytes, None] = {}  # process ids that live
        self._errors = errors  # its stderr; -1 when it writes into ours
        self._last_words = b""  # the end of its stderr
        self._ended = False  # the socket is at its end: nothing more to read
        self._broken = False  # it takes nothing more: the zygote is dying
        sock.setblocking(False)
        self._poll = poll
        self._watched = 0  # for what `sock` is watched
        self._poll.watch(self.pidfd)
        if errors >= 0:
            self._poll.watch(errors)
        self._watch()

    def _watch(self) -> None:
        """For messages until its end, and for room while there are requests that did not fit."""
        events = (0 if self._ended else READ) | (WRITE if self.wants_room() else 0)
        if events == self._watched:
            return
        if not events:
            self._poll.unwatch(self.sock.fileno())
        elif self._watched:
            self._poll.change(self.sock.fileno(), events)
        else:
            self._poll.watch(self.sock.fileno(), events)
        self._watched = events

    def wants_room(self) -> bool:
        return bool(self.outbox) and not self._broken

    def flush(self) -> None:
        """Send what the socket takes."""
        self._push()
        self._watch()

    def _push(self) -> None:
        while self.wants_room():
            request = self.outbox[0]
            try:
                send_packet(self.sock, request.packet, (request.stdout, request.stderr))
            except BlockingIOError:
                return
            except OSError:
                self._broken = True  # its pidfd will say so, too, and its successor gets the request
                return
            self.outbox.popleft()
            request.close()
            self.asked[request.process_id] = None

    def receive(self, events: list[ZygoteEvent]) -> None:
        """Read all that is there."""
        self._take(events)
        self._watch()

    def _take(self, events: list[ZygoteEvent]) -> None:
        while not self._ended:
            try:
                message, fds = receive(self.sock)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # told once, when it ended with requests unread; what it had sent can still be read
            except (OSError, ValueError) as error:
                self._last_words += f"\n{error}".encode()
                self._fail()
                return
            if message is None:
                self._ended = True
            elif isinstance(message, Forked) and fds:
                self.asked.pop(message.process_id, None)
                self.workers[message.process_id] = None
                events.append(WorkerForked(message.process_id, message.pid, fds.pop()))
            elif isinstance(message, NotForked):
                self.asked.pop(message.process_id, None)
                events.append(ForkFailed(message.process_id, message.reason))
            elif isinstance(message, Exited):
                self.workers.pop(message.process_id, None)
                events.append(WorkerExited(message.process_id, message.code))
            elif not isinstance(message, Ready):
                raise AssertionError(f"a zygote sent {message} with {len(fds)} descriptors")
            for fd in fds:
                os.close(fd)

    def _fail(self) -> None:
        """Its messages cannot be read any more (for one, no descriptor was free): end it, and so its workers."""
        self._ended = self._broken = True
        signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)

    def read_last_words(self) -> None:
        """Pass its stderr on to ours, and remember the end of it."""
        if self._errors < 0:
            return
        try:
            text = os.read(self._errors, 1 << 16)
        except BlockingIOError:
            return
        if not text:
            self._close_errors()
            return
        sys.stderr.write(text.decode("utf-8", "replace"))
        self._last_words = (self._last_words + text)[-_LAST_WORDS_MAX_BYTES:]

    def is_dead(self) -> bool:
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(0))

    def reap(self) -> str:
        """Wait for the zygote, which is dead or dying; how it ended and what it said."""
        with suppress(ChildProcessError):
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.read_last_words()
            words = self._last_words.decode("utf-8", "replace").strip()
            return f"{describe_exit(code)}\n{words}" if words else describe_exit(code)
        return "somebody else waited for it"

    def hang_up(self) -> None:
        """At the end of its socket a zygote ends."""
        self._ended = self._broken = True
        self._watch()
        self.sock.close()

    def close(self) -> None:
        self.hang_up()
        self._poll.unwatch(self.pidfd)
        os.close(self.pidfd)
        if self._errors >= 0:
            self._close_errors()
        while self.outbox:
            self.outbox.popleft().close()

    def _close_errors(self) -> None:
        self._poll.unwatch(self._errors)
        os.close(self._errors)
        self._errors = -1


def _spawn(interpreter: Interpreter, path: list[str], poll: Epoll) -> _Zygote:
    """Start a fresh interpreter as a zygote. Raises `OSError`. The zygote dies with the thread that calls this."""
    ours, theirs = socket_pair()
    errors, theirs_errors = os.pipe()
    try:
        pid = os.posix_spawn(
            interpreter.executable,
            [interpreter.executable, "-P", "-c", _START, "3", *_search_path(interpreter, path)],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs_errors, 2), (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)],
        )
    except OSError as error:
        os.close(errors)
        ours.close()
        raise OSError(f"cannot start {interpreter.executable}: {error}") from error
    finally:
        os.close(theirs_errors)
        theirs.close()
    os.set_blocking(errors, False)
    return _Zygote(pid, ours, poll, errors)


def _search_path(interpreter: Interpreter, path: list[str]) -> list[str]:
    """First the entry from which a driver has meshray ("" where it is installed), then all; for our own, ours."""
    if interpreter == (sys.executable, sys.prefix):
        return [str(Path(__file__).parents[2]), *sys.path]
    for entry in path:
        with suppress(OSError, ValueError):
            if (Path(entry) / "meshray" / "worker" / "zygote.py").is_file():
                return [entry, *path]
    return ["", *path]
