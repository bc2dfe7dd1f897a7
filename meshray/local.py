"""The folders of this host: where peers of one user live, which of them are alive, and what dead ones left behind.

Theory. Nothing central lists the peers of a host; the file system does. A *claimed folder* is a folder with a file
`lock` in it on which its owner holds a POSIX record lock:

- the kernel drops the lock when the owner ends, however it ends, so "the lock is held" means "its owner lives": no pid
  in a file has to be trusted, and a pid that was used again deceives nobody;
- the lock is not inherited by forked children, so a zygote or a worker never keeps a dead peer alive;
- but a process that closes *any* descriptor of the file loses its own lock: an owner never opens its lock file again
  (`is_claimed` answers for its own claims from memory).

Claiming and sweeping happen under a lock of the parent folder (flock on the folder itself), so that no sweep takes a
folder that is just being claimed. Whoever leaves last takes the parent along, unless the user named it. Two parents::

    <runtime>/                        MESHRAY_RUNTIME_DIR, or $XDG_RUNTIME_DIR/meshray, or
                                      $TMPDIR/meshray-<uid>, or /tmp/meshray-<uid>: the first that is there and
                                      short enough for the paths of sockets
        <node hex>/                   one peer: lock, peer.json, peer.log
            <process hex>             one Unix socket per process; the peer's own is 0000000000000000
        <name>.crashed.log            what a peer has left that crashed, or lost its folder (`crashes`)
    /dev/shm/meshray-<uid>/
        <node hex>/                   its shared memory: lock, segments

All folders are 0700, and one that belongs to somebody else, or lets somebody else in, is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from meshray.errors import MeshrayError
from meshray.ids import NODE_BYTES, PROCESS_BYTES

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The minor version of this interpreter. Code travels only between equal ones."""

SHARED_MEMORY = Path("/dev/shm")
SOCKET_PATH_MAX = 107
"""`sun_path` of a Unix socket address is 108 bytes with its final zero."""

MAKE_TRIES = 10
"""So often in a row a folder that we make may vanish before we look at it."""

PARENT_LOCK_TIMEOUT_S = 10.0
"""Claims and sweeps take milliseconds; whoever holds the parent's lock longer is stopped or stuck."""

REMOVABLE_PARTS = 3
"""What is removed is at least so deep: `/`, a folder in it, and ours in that."""

_NODE_NAME = re.compile(f"[0-9a-f]{{{2 * NODE_BYTES}}}")
_PEER_SUFFIX = bytes(PROCESS_BYTES - NODE_BYTES)
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid


class FolderError(MeshrayError):
    """A folder of meshray cannot be used; the text names it and what mends it."""


class NameTakenError(MeshrayError):
    """A peer of this name runs already; the text names it."""


class PeerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`peer.json`: what a peer tells the programs of its host."""

    node: str  # hex of the node id
    pid: int
    name: str
    private: bool  # belongs to one driver and ends with it; nobody else attaches
    ready: bool  # it serves
    folder: str  # the node folder
    store: str = ""  # the folder of its segments
    version: str = ""  # of meshray
    protocol: int = 0
    python: str = ""  # "3.11"
    executable: str = ""
    started_at: float = 0.0  # wall clock, for people
    mesh_port: int = 0  # of TCP, where it listens for others of its mesh; 0: it is off the network
    mesh_bind: list[str] = []  # the addresses where it does, as it was told; none: all of the LAN


# -- places ------------------------------------------------------------------------------------------------------------


def runtime_folder() -> Path:
    """The folder of this user's peers on this host; made when it is not there.

    Raises `FolderError` when it cannot be made, belongs to another user, or lets other users in.
    """
    folder, chosen = _runtime_place()
    if chosen:
        return private_folder(folder, follow=True, hint="MESHRAY_RUNTIME_DIR names it")
    return private_folder(folder, hint="set MESHRAY_RUNTIME_DIR to use another")


def runtime_place() -> Path:
    """Where the runtime folder is or would be; nothing is made."""
    return _runtime_place()[0]


def log_places() -> list[Path]:
    """Where the logs are that peers have left: in the runtime folder, or, of one that has lost it together with what it
    lay in, in the one that was next. Nothing is made."""
    place, chosen = _runtime_place()
    return [place] if chosen else list(dict.fromkeys([place, _temporary_place()]))


def _runtime_place() -> tuple[Path, bool]:
    """Where the runtime folder is or would be, and whether the user named it."""
    chosen = os.environ.get("MESHRAY_RUNTIME_DIR")
    if chosen:
        return Path(chosen).absolute(), True
    system = os.environ.get("XDG_RUNTIME_DIR")
    if system and _owned_by_us(Path(system)) and _has_room_for_sockets(Path(system) / "meshray"):
        return Path(system) / "meshray", False
    return _temporary_place(), False


def _temporary_place() -> Path:
    """The runtime folder of a user who has no other."""
    temporary, name = Path(os.environ.get("TMPDIR") or "/tmp"), f"meshray-{os.getuid()}"
    if not temporary.is_dir() or not _has_room_for_sockets(temporary / name):
        temporary = Path("/tmp")
    return temporary / name


def _has_room_for_sockets(runtime: Path) -> bool:
    """Whether the paths of the sockets in a runtime folder are short enough. Batch systems like to make long ones."""
    longest = runtime / bytes(NODE_BYTES).hex() / bytes(PROCESS_BYTES - NODE_BYTES).hex()
    return len(os.fsencode(longest)) <= SOCKET_PATH_MAX


def home_folder() -> Path:
    """The folder of what lasts (keys, settings): MESHRAY_HOME, else ~/.config/meshray; made when it is not there."""
    place = home_place()
    if os.environ.get("MESHRAY_HOME"):
        return private_folder(place, follow=True, hint="MESHRAY_HOME names it")
    return private_folder(place)


def home_place() -> Path:
    """Where the home folder is or would be; nothing is made."""
    chosen = os.environ.get("MESHRAY_HOME")
    if chosen:
        return Path(chosen).absolute()
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "meshray"


def places() -> list[Path]:
    """All that is ours on this host, there or not: the folders of keys, of peers, and of segments."""
    found = [runtime_place(), _store_place()]
    with contextlib.suppress(RuntimeError):  # a user without a home has no home folder either
        found.append(home_place())
    return found


def store_root() -> Path:
    """The parent of the store folders in shared memory; made when it is not there. Raises `FolderError`."""
    return private_folder(_store_place())


def _store_place() -> Path:
    return SHARED_MEMORY / f"meshray-{os.getuid()}"


def node_folder(node: bytes) -> Path:
    """Where the peer with this id lives; nothing is made."""
    return runtime_folder() / node.hex()


def peer_process(node: bytes) -> bytes:
    """The process id of a peer itself."""
    return node + _PEER_SUFFIX


def socket_path(folder: Path, process_id: bytes) -> str:
    """Where a process of the peer in `folder` receives.

    Raises `FolderError` when the path is longer than a Unix socket can have.
    """
    path = str(folder / process_id[-(PROCESS_BYTES - NODE_BYTES) :].hex())
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_MAX:
        raise FolderError(
            f"the socket path {path} has {length} bytes, and Unix sockets allow {SOCKET_PATH_MAX}: "
            "set MESHRAY_RUNTIME_DIR to a folder with a shorter path"
        )
    return path


def private_folder(folder: Path, *, follow: bool = False, hint: str = "") -> Path:
    """`folder`, made with mode 0700 when it is not there.

    Raises `FolderError` when it cannot be made, is no folder, belongs to another user, or lets other users in. A link
    in its place is refused (in /tmp anybody can plant one), unless `follow`: the user named the folder.
    """
    hint = f" ({hint})" if hint else ""
    try:
        found = _made(folder, follow)
    except OSError as error:
        raise FolderError(f"cannot make the folder {folder}{hint}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise FolderError(f"{folder} is no folder{hint}")
    if found.st_uid != os.getuid():
        raise FolderError(f"the folder {folder} belongs to user {found.st_uid}, not to {os.getuid()}{hint}")
    if found.st_mode & 0o077:
        raise FolderError(
            f"the folder {folder} lets other users in (mode {stat.S_IMODE(found.st_mode):04o}){hint}: "
            f"run `chmod 700 {folder}`"
        )
    return folder


def _made(folder: Path, follow: bool) -> os.stat_result:
    """What is there, made if need be. Again when it vanishes in between: the last peer of somebody removes it."""
    for left in reversed(range(MAKE_TRIES)):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            return os.stat(folder, follow_symlinks=follow)
        except FileNotFoundError:
            if not left:
                raise
    raise AssertionError("there is a first try")


def remove_folder(folder: Path) -> None:
    """Remove a folder of ours and all in it, links as links. What cannot be removed stays, for the next sweep.

    Raises `ValueError` for what meshray never makes: a relative path (the empty one is the working directory), `/` and
    what lies directly in it. A mistake elsewhere must not cost a machine. (`shutil` would cost every program's start
    4 ms.)
    """
    if not folder.is_absolute() or ".." in folder.parts or len(folder.parts) < REMOVABLE_PARTS:
        raise ValueError(f"{str(folder)!r} is no folder of meshray's: it is not removed")
    _remove(folder)


def remove_folder_of(node: str, folder: str) -> None:
    """Remove a folder of a peer, as its record names it, if it is left. `node`: hex of its id, which is a part of the
    path; what a record says otherwise is not believed, and left alone."""
    if _NODE_NAME.fullmatch(node) and node in Path(folder).parts:
        remove_folder(Path(folder))


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):
        with os.scandir(folder) as entries:
            inside = list(entries)
        for entry in inside:
            if entry.is_dir(follow_symlinks=False):
                _remove(Path(entry.path))
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
        os.rmdir(folder)


def _owned_by_us(folder: Path) -> bool:
    try:
        return folder.stat().st_uid == os.getuid()
    except OSError:
        return False


# -- claims ------------------------------------------------------------------------------------------------------------

_claimed_here: dict[str, int] = {}  # folders claimed by this process -> its pid (a forked child holds none of them)


class Claim:
    """A folder that this process holds until `release`, or until it ends."""

    def __init__(self, folder: Path, fd: int) -> None:
        self.folder = folder
        self._fd = fd  # of the locked file; -1 after release
        self._pid = os.getpid()  # a forked child releases nothing

    def publish(self, record: PeerRecord) -> None:
        """Write `peer.json`, all of it or nothing."""
        fresh = self.folder / "peer.json.new"
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(record)))
        os.replace(fresh, self.folder / "peer.json")

    def release(self) -> None:
        """Remove the folder with everything in it, and let go. A repeat, or a call in a forked child, does nothing."""
        if self._fd < 0 or os.getpid() != self._pid:
            return
        remove_folder(self.folder)
        _claimed_here.pop(str(self.folder), None)
        os.close(self._fd)
        self._fd = -1
        _remove_empty_parent(self.folder.parent)

    def __repr__(self) -> str:
        return f"Claim({self.folder}{'' if self._fd >= 0 else ', released'})"


def claim_peer(
    node: bytes, name: str, *, private: bool, version: str = "", protocol: int = 0
) -> tuple[Claim, PeerRecord]:
    """Make and hold the folder of a peer of this process; sweep what dead peers left.

    The record is written with `ready=False`; the peer publishes it again, with `ready=True`, once it serves.
    Raises `NameTakenError` when a peer of that name runs (private ones share names freely), `FolderError`.
    """
    socket_path(runtime_place() / node.hex(), peer_process(node))  # too long a path is told before anything is made
    runtime_folder()
    sweep()
    with _parent_lock(runtime_folder) as parent:
        for other in () if private else _records(parent):
            if not other.private and other.name == name:
                raise NameTakenError(
                    f"a peer named {name!r} runs on this host already (pid {other.pid}, {other.folder}): "
                    "attach to it, stop it with `meshray stop`, or give this one another --name"
                )
        claim = _claim(parent, node.hex())
        record = PeerRecord(
            node=node.hex(),
            pid=os.getpid(),
            name=name,
            private=private,
            ready=False,
            folder=str(claim.folder),
            version=version,
            protocol=protocol,
            python=PYTHON,
            executable=sys.executable,
            started_at=time.time(),
        )
        claim.publish(record)
    return claim, record


def claim_store(node: bytes) -> Claim:
    """Make and hold the folder of a peer's segments in shared memory. Raises `FolderError`, `OSError`."""
    with _parent_lock(store_root) as parent:
        return _claim(parent, node.hex())


def _claim(parent: Path, name: str) -> Claim:
    """Make and lock `parent/name`. The caller holds the parent's lock."""
    folder = parent / name
    os.mkdir(folder, 0o700)
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _claimed_here[str(folder)] = os.getpid()
    return Claim(folder, fd)


def is_claimed(folder: Path) -> bool:
    """Whether the owner of `folder` lives."""
    return claimed_by(folder) is not None


def claimed_by(folder: Path) -> int | None:
    """The pid of the owner of `folder`, None when it is gone. (0: an owner in another pid namespace.)"""
    if _claimed_here.get(str(folder)) == os.getpid():
        return os.getpid()
    try:
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not sys.platform.startswith("linux"):
            return _probe_by_locking(fd)
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else max(0, pid)
    finally:
        os.close(fd)


def _probe_by_locking(fd: int) -> int | None:
    """Where the layout of `struct flock` is not known: take the lock for a moment (two probes may hide a death from
    each other for that moment)."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return 0
    return None


@contextlib.contextmanager
def _parent_lock(make: Callable[[], Path]) -> Iterator[Path]:
    """One claim or sweep at a time in the folder that `make` gives (and makes again, should its last user remove it
    while we wait). Raises `FolderError` when it is not to be had in time."""
    give_up_at = time.monotonic() + PARENT_LOCK_TIMEOUT_S
    while True:
        parent = make()
        try:
            fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            _lock_until(fd, parent, give_up_at)
            if _is_still(fd, parent):
                yield parent
                return
        finally:
            os.close(fd)  # and with it the lock


def _lock_until(fd: int, parent: Path, give_up_at: float) -> None:
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up_at:
                waited = f"for more than {PARENT_LOCK_TIMEOUT_S:g} s"
                raise FolderError(f"{parent} is locked by another process {waited}") from None
            time.sleep(0.005)


def _is_still(fd: int, path: Path) -> bool:
    """Whether `path` names what `fd` has open."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_empty_parent(parent: Path) -> None:
    """The last one out takes the parent along. A folder that the user named stays."""
    place, chosen = _runtime_place()
    if chosen and parent == place:
        return
    with contextlib.suppress(OSError, FolderError), _parent_lock(lambda: _existing(parent)):
        os.rmdir(parent)  # fails while anything is in it


def _existing(parent: Path) -> Path:
    """For `_parent_lock` where nothing shall be made. Raises `FileNotFoundError`."""
    parent.stat()
    return parent


def open_peer(record: PeerRecord) -> int | None:
    """A pidfd of the peer in `record`, to signal it and to wait for its end; None when it is gone.

    The caller closes it. The lock is asked after the pidfd was opened, so a pid that was used again is never signalled.
    """
    try:
        fd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return None
    if is_claimed(Path(record.folder)):
        return fd
    os.close(fd)
    return None


# -- finding and sweeping ----------------------------------------------------------------------------------------------


def find_peers(private: bool = False) -> list[PeerRecord]:
    """The peers of this user that serve on this host, by name; with `private`, also those of single programs.

    Raises `FolderError` when the runtime folder is not ours alone: what stands in it is not believed.
    """
    if not runtime_place().exists():
        return []
    runtime_folder()
    return sorted(
        (record for record in _records(runtime_place()) if record.ready and (private or not record.private)),
        key=lambda record: (record.name, record.node),
    )


def read_record(folder: Path) -> PeerRecord | None:
    """The record of the peer in `folder`; None when there is none that can be read."""
    try:
        return msgspec.json.decode((folder / "peer.json").read_bytes(), type=PeerRecord)
    except (OSError, msgspec.MsgspecError):
        return None


def sweep() -> list[str]:
    """Remove the folders, sockets and segments of this user's dead peers, and what they lay in if that is empty then;
    the removed folders' paths."""
    removed: list[str] = []
    for parent in (runtime_place(), _store_place()):
        if not _owned_by_us(parent):
            continue
        folders = _claimable(parent)
        if folders and all(is_claimed(folder) for folder in folders):
            continue  # the ordinary case takes no lock
        with contextlib.suppress(FileNotFoundError):  # the last one out has taken the parent along
            removed += _sweep_under(parent)
        _remove_empty_parent(parent)
    return removed


def _sweep_under(parent: Path) -> list[str]:
    removed = []
    with _parent_lock(lambda: _existing(parent)):
        for folder in _claimable(parent):
            if not is_claimed(folder):
                remove_folder(folder)
                removed.append(str(folder))
    return removed


def _claimable(parent: Path) -> list[Path]:
    """The folders in `parent` that have the name of a node; links and other people's things are none."""
    try:
        with os.scandir(parent) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if _NODE_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []


def _records(parent: Path) -> list[PeerRecord]:
    """The records of all living peers in `parent`, also of those that do not serve yet."""
    records = (read_record(folder) for folder in _claimable(parent) if is_claimed(folder))
    return [record for record in records if record is not None]
