"""The zygote: a clean, preloaded process with one thread that forks workers in milliseconds.

It begins in one of two ways: `fork_zygote()`, a copy of the peer just after its imports, which costs no second start of
an interpreter; or `python -m meshray.worker.zygote <fd>`, for the interpreter of a driver in another environment and
when a zygote has to be replaced. It lives in its own session and ends, with everything it made, when its socket to the
peer closes or the peer dies (PDEATHSIG is SIGTERM here, not SIGKILL, so that it can still kill what workers started).
Workers die with the zygote (PDEATHSIG SIGKILL).

A fork copies one thread only, and a loaded numpy has threads and a generator that all copies would share. Therefore the
zygote has one thread and no numpy; it looks before each fork and refuses otherwise.
"""

from __future__ import annotations

import gc
import importlib
import math
import os
import pkgutil
import select
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress

from meshray.wire.forking import (
    Exited,
    Fork,
    Forked,
    NotForked,
    Ready,
    ZygoteMessage,
    pack,
    receive,
    send_packet,
    socket_pair,
)
from meshray.worker import birth
from meshray.worker.descendants import Descendants, kill_group

PRELOAD = (
    "msgspec",
    "cloudpickle",
    "meshray.observe.*",
    "meshray.store.*",
    "meshray.runtime.*",
    "meshray.worker.*",
)
"""What every worker needs, loaded once, with all that these import. `package.*` means each module of the package. Never
numpy, and nothing of what only the LAN needs (core, wire and transport have such rooms)."""

PRELOAD_LATER = ("asyncio", "concurrent.futures.thread")
"""What some workers need: loaded once there is nothing else to do, since it would delay the first worker by 50 ms."""

_IDLE_MS = 500

FORBIDDEN = ("numpy",)
"""Modules that must not be loaded before a fork."""

BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

_END_TIMEOUT_S = 1.5
"""How long the zygote waits for killed workers before it leaves them to the kernel (I5: nothing is left after 2 s)."""


def fork_zygote() -> tuple[int, socket.socket]:
    """Fork this process into a zygote: its pid, and our end of the socket to it.

    Call it from the main thread of the peer, after its imports and before its first thread or lock.
    The zygote closes all other descriptors. Raises `RuntimeError` when this process is not clean any more.
    """
    check_clean()
    ours, theirs = socket_pair()
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    code = 1
    try:
        fd = theirs.fileno()
        ours.detach()  # closed with all others
        birth.close_all_but(fd)
        birth.die_with_parent(signal.SIGTERM, parent)
        serve(theirs)
        code = 0
    except BaseException:  # the copy of the peer must not go on as a second peer
        traceback.print_exc()
    finally:
        os._exit(code)


def serve(sock: socket.socket) -> None:
    """Be a zygote until the peer lets go of `sock` or SIGTERM comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the driver's
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with suppress(PermissionError):  # it leads its session already
        os.setsid()
    birth.set_name("meshray-zygote")
    birth.adopt_orphans()
    birth.read_nothing()
    for variable in BLAS_VARIABLES:
        os.environ[variable] = "1"
    missing = load(PRELOAD)
    zygote = Zygote(sock)
    zygote.send(Ready(os.getpid(), f"{sys.version_info.major}.{sys.version_info.minor}", missing))
    zygote.run()


def load(names: tuple[str, ...]) -> list[str]:
    """Import these for all workers to come, and tell loudly what is missing; see `preload`."""
    missing = preload(names)
    for name in missing:
        sys.stderr.write(f"meshray zygote: could not load {name}\n")
        sys.stderr.flush()
    gc.collect()
    gc.freeze()  # the collector of a worker would otherwise write to, and so copy, all pages
    return missing


def preload(names: tuple[str, ...]) -> list[str]:
    """Import these; the ones that could not be imported, with the reason.

    Raises `RuntimeError` naming the module that brings in a forbidden one.
    """
    missing = []
    for name in _expand(names):
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken module breaks the workers that need it, not the zygote
            missing.append(f"{name}: {type(error).__name__}: {error}")
        for forbidden in FORBIDDEN:
            if forbidden in sys.modules:
                raise RuntimeError(f"{name} loads {forbidden}, which must not be loaded in a zygote")
    return missing


def _expand(names: tuple[str, ...]) -> list[str]:
    """The names, with `package.*` replaced by the modules in it."""
    expanded = []
    for name in names:
        if not name.endswith(".*"):
            expanded.append(name)
            continue
        package = importlib.import_module(name[:-2])
        expanded += [f"{name[:-1]}{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    return expanded


def check_clean() -> None:
    """Raise `RuntimeError`, saying what is wrong, unless a fork of this process is safe."""
    loaded = [name for name in FORBIDDEN if name in sys.modules]
    if loaded:
        raise RuntimeError(f"{', '.join(loaded)} must not be loaded in a process that forks workers")
    threads = threading.active_count()
    with suppress(FileNotFoundError):  # no /proc
        threads = max(threads, len(os.listdir("/proc/self/task")))
    if threads != 1:
        raise RuntimeError(f"a process that forks workers must have one thread, this one has {threads}")


class Zygote:
    """The loop: fork when asked, tell of ends, kill what the dead have left."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock  # to the peer; blocking: there is nothing else to do
        self._family = Descendants()  # the workers, and what they leave
        self._ending = False  # set by SIGTERM, and when the peer's end is closed
        self._wake, self._waker = socket.socketpair()  # the numbers of signals that came
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, _pass)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

    def run(self) -> None:
        """Serve until the end, then end everything."""
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        later = False  # whether PRELOAD_LATER was loaded
        while not self._ending:
            ready = {fd for fd, _ in poller.poll(self._patience_ms(later))}
            if not ready and not later:
                later = True
                load(PRELOAD_LATER)
            if self._wake.fileno() in ready:
                self._on_signals()
            elif self._family.next_expiry is not None:
                self._family.sweep(time.monotonic())
            if self._sock.fileno() in ready and not self._ending:
                self._on_message()
        self._end()

    def _patience_ms(self, later: bool) -> float | None:
        """How long to wait for signals and messages."""
        expiry = self._family.next_expiry
        if expiry is not None:
            return max(0.0, (expiry - time.monotonic()) * 1000)
        return None if later else _IDLE_MS

    def send(self, message: ZygoteMessage, fds: tuple[int, ...] = ()) -> None:
        """Tell the peer; if it is gone, it is time to end."""
        try:
            send_packet(self._sock, pack(message), fds)
        except OSError:
            self._ending = True

    def _on_signals(self) -> None:
        with suppress(BlockingIOError):
            if signal.SIGTERM in self._wake.recv(4096):
                self._ending = True
        self._reap()

    def _on_message(self) -> None:
        try:
            message, fds = receive(self._sock)
        except ConnectionError:
            self._ending = True
            return
        try:
            if message is None:
                self._ending = True
            elif isinstance(message, Fork) and len(fds) == 2:
                self._fork(message, fds[0], fds[1])
            else:
                raise RuntimeError(f"a zygote got {message} with {len(fds)} descriptors")
        finally:
            for fd in fds:
                os.close(fd)

    def _fork(self, request: Fork, stdout: int, stderr: int) -> None:
        zygote = os.getpid()
        try:
            check_clean()
            pid = os.fork()
        except (OSError, RuntimeError) as error:
            self.send(NotForked(request.process_id, f"the zygote could not fork: {error}"))
            return
        if not pid:
            birth.run_worker(request, stdout, stderr, zygote)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so it is the child; reaped like an orphan
            self.send(NotForked(request.process_id, f"the zygote could not watch its child: {error}"))
            return
        self._family.workers[pid] = request.process_id
        self.send(Forked(request.process_id, pid), (pidfd,))
        os.close(pidfd)

    def _reap(self) -> None:
        """Wait for all that ended, workers and orphans, and tell of the workers."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if ended is None:
                break
            pid = ended.si_pid
            process_id = self._family.workers.pop(pid, None)
            if process_id is not None:
                self._family.on_worker_dead(pid)  # before the wait: the zombie keeps the number
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if process_id is not None:
                self._family.on_worker_gone(pid)
                self.send(Exited(process_id, code))
        self._family.sweep(time.monotonic())

    def _end(self) -> None:
        """Kill all workers and what they left, and wait for it, a bounded time."""
        deadline = time.monotonic() + _END_TIMEOUT_S
        for pid in self._family.workers:
            os.kill(pid, signal.SIGKILL)  # what it had started follows with its end
        while True:
            self._reap()
            now = time.monotonic()
            left = deadline - now
            if left <= 0 or not (self._family.workers or self._family.sweep(now)):
                break
            select.select([self._wake], [], [], min(left, 0.1))
            with suppress(BlockingIOError):
                self._wake.recv(4096)
        for pid in self._family.workers:
            kill_group(pid)
        self._family.sweep(math.inf)


def _pass(number: int, frame: object) -> None:
    """A signal's number reaches the loop through the wake-up descriptor."""


def main() -> None:
    """`python -m meshray.worker.zygote <fd>`"""
    parent = os.getppid()
    birth.die_with_parent(signal.SIGTERM, parent)
    serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # the peer waits, and an interpreter takes long to end (`boot.process.end`)


if __name__ == "__main__":
    main()
