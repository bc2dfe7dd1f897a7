"""Starting a peer process, and what its starter holds of it.

The child is told everything through descriptors, nothing by its command line::

    0   the starter's `sys.path` and the settings (`encode_settings`), then /dev/null
    2   until it has a log of its own: the starter's pipe, so that a failing interpreter or import is reported too
    3   the same pipe: a record separator and one line of JSON (RFC 7464), `Ready` once it serves, or `Refused`

It is run by the path of `boot/__main__.py`, which loads this very package from this very folder: it works from a
checkout without installation, from any working directory, and `sys.path` gets nothing that could shadow a module.
`posix_spawn` does not copy the driver, however large it is, and runs no Python between fork and exec.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path

import msgspec

from meshray.config import DEFAULT
from meshray.errors import MeshrayError
from meshray.ids import new_node
from meshray.interrupts import HeldInterrupts
from meshray.local import PeerRecord, remove_folder_of, sweep

SETTINGS_FD = 0
READY_FD = 3
RECORD_SEPARATOR = "\x1e"
SETTINGS_MAX_BYTES = 60_000
"""They must fit into a pipe (64 KiB) that nobody reads yet."""

START_TIMEOUT_S = 30.0
"""A peer serves after about 0.15 s; a machine that swaps or has a cold disk may take seconds."""

DESCRIPTORS_MIN = 32
"""Of a driver, and of a peer: that has about twenty for itself, and six for each worker while it starts (`service`)."""

_BOOT = Path(__file__).parent / "boot" / "__main__.py"
_RESET_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGUSR1)
_FD_FLOOR = 10  # the pipes are moved above the numbers that the child gives them


class PeerStartError(MeshrayError):
    """A peer did not start; the text says why, in the words of the peer where it had any."""


class TooFewDescriptorsError(PeerStartError):
    """A process may not have as many files open as its part in a mesh takes; the text says how many it takes."""


class MeshSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a peer joins its mesh. The key is no part of it: the peer reads it itself."""

    seeds: list[str] = []  # host:port, as given
    bind: list[str] = []  # addresses to listen at; none: all of the LAN
    port: int = DEFAULT.mesh_port  # 0: any that is free
    guest: bool = False  # it serves only when it has joined through the seeds, and through nothing else


class PeerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer is told at its start. None: detected."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    resources: dict[str, float] = {}
    labels: dict[str, str] = {}
    object_store_memory: int | None = None  # bytes
    name: str = ""  # "" = the host's
    driver_pid: int = 0  # the driver that a private peer serves and ends with; 0: a standing peer
    preset: str = "default"  # of config
    node: bytes = b""  # drawn by the starter
    mesh: MeshSettings | None = None  # None: off the network
    foreground: bool = False  # prints to the starter's terminal instead of a log

    @property
    def private(self) -> bool:
        return self.driver_pid != 0


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The peer serves."""

    record: PeerRecord
    warnings: list[str] = []  # for the user: what it found that should be mended
    listens: bool = True  # at the port of its mesh, where it has one: there is an interface for that


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The peer does not start."""

    error: str


class Started:
    """A peer that this process has started and that serves. A standing one may be forgotten at once."""

    def __init__(self, pid: int, ready: Ready) -> None:
        self.pid = pid
        self.record = ready.record
        self.warnings = ready.warnings
        self.listens = ready.listens
        self.node = bytes.fromhex(ready.record.node)
        self.folder = Path(ready.record.folder)
        self.exit_status: int | None = None  # as os.waitpid gives it, once the peer has ended

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait until the peer has ended; reap it, and remove what it could not. False when it still runs then."""
        if self.exit_status is None:
            self.exit_status = _reap(self.pid, timeout_s)
            if self.exit_status is not None:
                self._remove_folders()
        return self.exit_status is not None

    def kill(self) -> None:
        """End the peer by force. A repeat does nothing."""
        if not self.wait_ended(0):
            os.kill(self.pid, signal.SIGKILL)  # not reaped yet, so the pid is still its own
            self.wait_ended(START_TIMEOUT_S)

    def _remove_folders(self) -> None:
        """A peer that ended by force leaves its folders."""
        remove_folder_of(self.record.node, self.record.folder)
        remove_folder_of(self.record.node, self.record.store)
        with contextlib.suppress(MeshrayError):
            sweep()  # it was the last one, maybe, and would have taken along what its folders lay in

    def __repr__(self) -> str:
        return f"Started({self.record.name!r}, pid={self.pid}, {self.folder})"


class Starting:
    """A peer on its way. Its starter does something else meanwhile, then calls `wait`."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self._pipe = pipe  # -1 once read

    def wait(self, timeout_s: float = START_TIMEOUT_S) -> Started:
        """The peer, once it serves.

        Raises `PeerStartError` with its own words when it does not; then, and when interrupted, nothing of it is left.
        """
        try:
            told = self._read(time.monotonic() + timeout_s)
        except BaseException as error:
            self.abandon(error)
            raise
        os.close(self._pipe)
        self._pipe = -1
        before, _, line = told.partition(RECORD_SEPARATOR)
        try:
            answer = msgspec.json.decode(line, type=Ready | Refused)
        except msgspec.MsgspecError:
            status = _reap(self.pid, 1.0)
            how = "it closed its pipe" if status is None else describe_exit(status)
            raise PeerStartError(f"the peer process did not start ({how}). {told.strip()}") from None
        if isinstance(answer, Refused):
            _reap(self.pid, 1.0)
            raise PeerStartError(answer.error)
        warnings = [*before.splitlines(), *answer.warnings]
        return Started(self.pid, msgspec.structs.replace(answer, warnings=warnings))

    def _read(self, give_up_at: float) -> str:
        """What the child tells until the end of its answer, or of itself."""
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        told = b""
        while True:
            left_s = give_up_at - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                text = told.decode("utf-8", "replace")
                raise PeerStartError(f"the peer process (pid {self.pid}) does not serve in time. {text}")
            part = os.read(self._pipe, 65536)
            told += part
            if not part or (told.endswith(b"\n") and RECORD_SEPARATOR.encode() in told):
                return told.decode("utf-8", "replace")

    def abandon(self, error: BaseException) -> None:
        """End it, because of this error, instead of `wait`."""
        with HeldInterrupts(error):
            os.close(self._pipe)
            self._pipe = -1
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            _reap(self.pid, 1.0)
            with contextlib.suppress(MeshrayError):
                sweep()


def check_descriptors(who: str, limit: int) -> None:
    """Raise `TooFewDescriptorsError` when `who` may have so few files open that it would only ever wait for more.
    `limit`: as `resource.getrlimit` has it."""
    if limit != resource.RLIM_INFINITY and limit < DESCRIPTORS_MIN:
        raise TooFewDescriptorsError(
            f"{who} needs {DESCRIPTORS_MIN} file descriptors at least, and may have {limit} (ulimit -n)"
        )


def spawn_peer(settings: PeerSettings, *, private: bool = False) -> Starting:
    """Start a peer process and return at once; a private one ends with this process.

    Raises `PeerStartError` when there is nothing to start it with.
    """
    check_descriptors("a peer", resource.getrlimit(resource.RLIMIT_NOFILE)[1])  # it raises its own up to that
    if private:
        settings = msgspec.structs.replace(settings, driver_pid=os.getpid())
    if not sys.executable:
        raise PeerStartError("this interpreter does not know its own path (sys.executable is empty)")
    settings_fd, settings_end = _pipe()
    ready_end, ready_fd = _pipe()
    try:
        os.write(settings_end, encode_settings(settings))
        pid = os.posix_spawn(
            sys.executable,
            command(),
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, settings_fd, SETTINGS_FD),
                (os.POSIX_SPAWN_DUP2, ready_fd, READY_FD),
                (os.POSIX_SPAWN_DUP2, ready_fd, 2),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            ],
            setsid=True,  # a Ctrl-C in the driver's terminal is the driver's alone
            setsigmask=[],
            setsigdef=_RESET_SIGNALS,
        )
    except OSError as error:
        os.close(ready_end)
        raise PeerStartError(f"cannot start {sys.executable}: {error.strerror}") from error
    except BaseException:
        os.close(ready_end)
        raise
    finally:
        for fd in (settings_fd, settings_end, ready_fd):
            os.close(fd)
    return Starting(pid, ready_end)


def start_peer(settings: PeerSettings, *, private: bool = False, timeout_s: float = START_TIMEOUT_S) -> Started:
    """Start a peer and wait until it serves. Raises `PeerStartError`."""
    return spawn_peer(settings, private=private).wait(timeout_s)


def start_private(settings: PeerSettings, timeout_s: float = START_TIMEOUT_S) -> Started:
    """Start this driver's own peer and wait until it serves. Raises `PeerStartError`."""
    return start_peer(settings, private=True, timeout_s=timeout_s)


def exec_peer(settings: PeerSettings) -> None:
    """Become a peer: for `--foreground`. Raises `PeerStartError` when that is not possible; else it does not return."""
    check_descriptors("a peer", resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    settings_fd, settings_end = _pipe()
    os.write(settings_end, encode_settings(msgspec.structs.replace(settings, foreground=True)))
    os.close(settings_end)
    os.dup2(settings_fd, SETTINGS_FD)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execv(sys.executable, command())
    except OSError as error:
        raise PeerStartError(f"cannot start {sys.executable}: {error.strerror}") from error


def command() -> list[str]:
    """The command line of a peer. `-P`: the working directory of whoever starts it shadows no module."""
    return [sys.executable, "-P", str(_BOOT)]


def encode_settings(settings: PeerSettings) -> bytes:
    """What the child reads first (`boot/__main__.py`). Raises `PeerStartError` when it is too large."""
    complete = msgspec.structs.replace(settings, node=settings.node or new_node())
    paths = os.fsencode("\0".join(path for path in sys.path if os.path.isabs(path)))
    data = len(paths).to_bytes(4, "big") + paths + msgspec.msgpack.encode(complete)
    if len(data) > SETTINGS_MAX_BYTES:
        raise PeerStartError(f"the settings of the peer take {len(data)} bytes of at most {SETTINGS_MAX_BYTES}")
    return data


def describe_exit(status: int) -> str:
    """A status of `os.waitpid`, for people."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"killed by signal {-code}"


def _pipe() -> tuple[int, int]:
    """A pipe above the low descriptors, closed on exec."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _FD_FLOOR) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]


def _reap(pid: int, timeout_s: float) -> int | None:
    """The exit status of a child, None when it still runs after `timeout_s`; 0 when somebody else has reaped it."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found or timeout_s <= 0:
            return status if found else None
        fd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll(timeout_s * 1000)
        finally:
            os.close(fd)
        found, status = os.waitpid(pid, os.WNOHANG)
        return status if found else None
    except ChildProcessError:
        return 0
