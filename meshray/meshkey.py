"""The mesh key of this host: 32 random bytes that make it a member, and where they lie.

Theory. Whoever has the key is a member, and a member runs code on every other one; so the file is guarded like a
private SSH key, and everything public is derived from it by keyed BLAKE2b, each purpose with a personalisation of its
own (so that no two derivations can ever give the same bytes)::

    key id    blake2b(key=secret, person="meshray key id",  size=8)   which key: current, next, or one we do not have
    mesh id   blake2b(key=secret, person="meshray mesh id", size=8)   which mesh: of its *first* key, and kept since
    subkeys   blake2b(key=secret, person=purpose,           size=32)  one per use: adverts, CURVE

Both ids are public: they stand in every advert. The mesh id outlives the keys: during a rotation (PROTOCOLS 9: `stage`
gives members the next key, `switch` makes it the current one) some members use the old key and some the new one, and
they are still one mesh. In `home_folder()`, 0700::

    mesh.key         the current key, 32 bytes, 0600
    mesh.key.next    the next key, while a rotation is under way
    mesh.id          the mesh id as hex; only where it may differ from that of the current key
    mesh.lock        what changes and reads take turns by

Every change happens under a lock of the folder, and each file appears whole, by a rename: two starts at once make one
key, and a crash leaves the old state or the new one. The previous key is not kept: an expelled member has it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NoReturn

from meshray.errors import MeshrayError
from meshray.local import home_folder, home_place

KEY_BYTES = 32
ID_BYTES = 8
SUBKEY_BYTES = 32

CURRENT_FILE = "mesh.key"
NEXT_FILE = "mesh.key.next"
MESH_ID_FILE = "mesh.id"
LOCK_FILE = "mesh.lock"

_LOCK_TIMEOUT_S = 10.0  # whoever holds the folder longer is stopped or stuck: changes take milliseconds
_LOOK_AGAIN_S = 0.005
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class MeshKeyError(MeshrayError):
    """The mesh key is missing, damaged, or readable by others; the text names the file and what mends it."""


class NoMeshKeyError(MeshKeyError):
    """There is no mesh key on this host."""


class KeysBusyError(MeshKeyError):
    """Another process changes the keys at this moment; later it may go."""


class MeshKey:
    """One key. Equal keys are equal; what is shown of one is its id, and none is ever pickled."""

    __slots__ = ("id", "secret")

    def __init__(self, secret: bytes) -> None:
        """Raises `ValueError` for anything but 32 bytes, and for zeros (a file that was never written)."""
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a mesh key has {KEY_BYTES} bytes, this one {len(secret)}")
        if not any(secret):
            raise ValueError("a mesh key of zeros is none")
        self.secret = bytes(secret)
        self.id = self.derive(b"meshray key id", ID_BYTES)

    @classmethod
    def generate(cls) -> MeshKey:
        return cls(os.urandom(KEY_BYTES))

    def derive(self, purpose: bytes, size: int = SUBKEY_BYTES) -> bytes:
        """`size` bytes for one purpose (at most 16 bytes long), which tell nothing of the key or of other purposes."""
        return blake2b(key=self.secret, person=purpose, digest_size=size).digest()

    def founded_mesh(self) -> bytes:
        """The id of the mesh whose first key this is."""
        return self.derive(b"meshray mesh id", ID_BYTES)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MeshKey) and other.secret == self.secret

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"MeshKey({self.id.hex()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a mesh key is not pickled: it never leaves its host but in a join token")


@dataclass(frozen=True, slots=True)
class MeshKeys:
    """What this host holds: the mesh it belongs to, its current key, and the next one while a rotation is under way."""

    mesh: bytes
    current: MeshKey
    next: MeshKey | None = None

    def by_id(self, key_id: bytes) -> MeshKey | None:
        """The key with this id, None when this host does not have it."""
        return next((key for key in (self.current, self.next) if key is not None and key.id == key_id), None)


def is_here() -> bool:
    """Whether this host has a mesh key, sound or not. Makes no folder and takes no lock."""
    return os.path.lexists(home_place() / CURRENT_FILE)


# -- reading -----------------------------------------------------------------------------------------------------------


def load(wait_s: float = _LOCK_TIMEOUT_S) -> MeshKeys:
    """The keys of this host. `wait_s`, here and below: how long another process may take that changes them.

    Raises `NoMeshKeyError` when there is none, `MeshKeyError` when a file is damaged or lets others in, `FolderError`
    when the folder does.
    """
    with _locked(home_folder(), fcntl.LOCK_SH, wait_s) as home:
        return _load(home)


def _load(home: Path) -> MeshKeys:
    """The caller holds the folder's lock."""
    current = _read_key(home / CURRENT_FILE)
    if current is None:
        raise NoMeshKeyError(
            f"there is no mesh key on this host ({home / CURRENT_FILE}): `meshray start` makes a mesh, if there is "
            "none; to belong to one that is there, join it with a token of one of its members (`meshray join`)"
        )
    return MeshKeys(_mesh_id(home, current), current, _read_key(home / NEXT_FILE))


def _mesh_id(home: Path, current: MeshKey) -> bytes:
    return _read_mesh_id(home / MESH_ID_FILE) or current.founded_mesh()


def load_or_make() -> tuple[MeshKeys, bool]:
    """The keys of this host, made when there are none, and whether this call made them. Raises as `load`."""
    try:
        return load(), False
    except NoMeshKeyError:
        made = make(MeshKey.generate())
        return load(), made


def make(key: MeshKey) -> bool:
    """Make `key` the first key of a mesh. False, and nothing changed, when this host has a key already."""
    with _locked(home_folder()) as home:
        if _read_key(home / CURRENT_FILE) is not None:
            return False
        _remove(home / NEXT_FILE, home / MESH_ID_FILE)
        _write(home / CURRENT_FILE, key.secret)
        return True


# -- changing ----------------------------------------------------------------------------------------------------------


def join(mesh: bytes, key: MeshKey, *, replace: bool = False) -> bool:
    """Make this host a member of `mesh`. False, and nothing changed, when it is one with this very key.

    Raises `MeshKeyError` when it has another key, unless `replace`.
    """
    with _locked(home_folder()) as home:
        before = _read_key(home / CURRENT_FILE)
        if before is not None and before == key and _mesh_id(home, before) == mesh:
            return False
        if before is not None and not replace and _mesh_id(home, before) == mesh:
            raise MeshKeyError(
                f"this host has another key of this very mesh (key {before.id.hex()}, the token has {key.id.hex()}): "
                "it was changed without this host, or the token was made before that. `meshray join --replace` "
                "takes the one of the token; `meshray key show` on a member says which it uses"
            )
        if before is not None and not replace:
            raise MeshKeyError(
                f"this host has another mesh key already (key {before.id.hex()}, in {home / CURRENT_FILE}); "
                "`meshray join --replace` takes its place: its own mesh is then lost to this host"
            )
        if before is not None:  # in between there is no key: never a key with the id of another mesh
            _remove(home / CURRENT_FILE)
        _remove(home / NEXT_FILE)
        if mesh == key.founded_mesh():
            _remove(home / MESH_ID_FILE)
        else:
            _write(home / MESH_ID_FILE, mesh.hex().encode() + b"\n")
        _write(home / CURRENT_FILE, key.secret)
        return True


def stage(key: MeshKey, mesh: bytes | None = None, wait_s: float = _LOCK_TIMEOUT_S) -> tuple[MeshKeys, bool]:
    """Keep `key` as the next one of this host's mesh. The keys that it has now, and whether this call changed them:
    not when that one is staged, or current, already.

    Raises `NoMeshKeyError`; `MeshKeyError` when another key is staged, or `mesh` is given and is not ours.
    """
    with _locked(home_folder(), wait_s=wait_s) as home:
        keys = _load(home)
        if mesh is not None and mesh != keys.mesh:
            raise MeshKeyError(f"that is a key of mesh {mesh.hex()}; this host belongs to mesh {keys.mesh.hex()}")
        if keys.by_id(key.id) is not None:
            return keys, False
        if keys.next is not None:
            raise MeshKeyError(
                f"another next key is staged already (key {keys.next.id.hex()}): finish that change by `meshray key "
                "switch`, or give it up by `meshray key unstage` on every member that has it"
            )
        _write(home / MESH_ID_FILE, keys.mesh.hex().encode() + b"\n")  # before the key that it will outlive changes
        _write(home / NEXT_FILE, key.secret)
        return MeshKeys(keys.mesh, keys.current, key), True


def unstage() -> MeshKey | None:
    """Forget the next key; it, or None when none was staged. Raises `NoMeshKeyError`."""
    with _locked(home_folder()) as home:
        keys = _load(home)
        if keys.next is not None:
            _remove(home / NEXT_FILE)
        return keys.next


def switch(to: bytes | None = None, wait_s: float = _LOCK_TIMEOUT_S) -> MeshKeys:
    """Make the next key the current one, and forget the old one. With `to`, the id of a key, only if it is that one;
    nothing is done when that is the current one already.

    Raises `MeshKeyError` when none is staged, or another one.
    """
    with _locked(home_folder(), wait_s=wait_s) as home:
        keys = _load(home)
        if to is not None and keys.current.id == to:
            return keys
        if keys.next is None:
            raise MeshKeyError(
                f"no next key is staged on this host ({home / NEXT_FILE}): `meshray key stage` does that"
            )
        if to is not None and keys.next.id != to:
            raise MeshKeyError(f"the next key of this host is {keys.next.id.hex()}, not {to.hex()}")
        os.replace(home / NEXT_FILE, home / CURRENT_FILE)
        _sync(home)
        return _load(home)


# -- files -------------------------------------------------------------------------------------------------------------


def _read_key(path: Path) -> MeshKey | None:
    """The key in a file; None when there is no file. Raises `MeshKeyError` when it is not as safe as it has to be."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:  # a link, or not readable
        raise MeshKeyError(f"the mesh key {path} cannot be read: {error.strerror}") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise MeshKeyError(f"the mesh key {path} is no ordinary file")
        if found.st_uid != os.geteuid():
            raise MeshKeyError(f"the mesh key {path} belongs to user {found.st_uid}, not to {os.geteuid()}")
        if found.st_mode & 0o077:
            raise MeshKeyError(
                f"the mesh key {path} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}): run "
                f"`chmod 600 {path}`, and if anybody else can log in here, change the key (`meshray key stage`)"
            )
        data = os.read(fd, KEY_BYTES + 1)
    finally:
        os.close(fd)
    try:
        return MeshKey(data)
    except ValueError:
        raise MeshKeyError(
            f"the mesh key {path} is damaged ({found.st_size} bytes instead of {KEY_BYTES} random ones): "
            "join the mesh again with a token of another member (`meshray join`) after removing it"
        ) from None


def _read_mesh_id(path: Path) -> bytes | None:
    try:
        text = path.read_bytes()[: 2 * ID_BYTES + 2]
    except FileNotFoundError:
        return None
    try:
        mesh = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        mesh = b""
    if len(mesh) != ID_BYTES:
        raise MeshKeyError(f"{path} holds no mesh id ({2 * ID_BYTES} hexadecimal digits); another member has it, too")
    return mesh


def _write(path: Path, data: bytes) -> None:
    """Write a file, all of it or nothing, 0600 from its first moment. The caller holds the folder's lock."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)  # of a writer that was killed
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)  # whatever the umask is
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(fresh, path)
    _sync(path.parent)


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    _sync(paths[0].parent)


def _sync(folder: Path) -> None:
    """A rename outlives a power cut once its folder is on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _locked(home: Path, how: int = fcntl.LOCK_EX, wait_s: float = _LOCK_TIMEOUT_S) -> Iterator[Path]:
    """One change at a time, and none while somebody reads. Raises `KeysBusyError` when the lock is not had in time,
    `MeshKeyError` when nothing can be written there.

    The lock is a file, not the folder: on NFS, where homes often are, a lock needs a file that is open for writing.
    """
    try:
        fd = os.open(home / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if how != fcntl.LOCK_SH or error.errno not in _READ_ONLY:
            raise _failed(home, how, error) from error
        fd = -1  # it can be read only: nobody of this host changes it
    try:
        if fd >= 0:
            _lock(home, fd, how, wait_s)
        yield home
    except OSError as error:
        raise _failed(home, how, error) from error
    finally:
        if fd >= 0:
            os.close(fd)  # and with it the lock


def _lock(home: Path, fd: int, how: int, wait_s: float) -> None:
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up_at:
                raise KeysBusyError(f"{home} is locked by another process (waited {wait_s:g} s)") from None
            time.sleep(_LOOK_AGAIN_S)  # flock has no time-out of its own


def _failed(home: Path, how: int, error: OSError) -> MeshKeyError:
    what = "read" if how == fcntl.LOCK_SH else "changed"
    return MeshKeyError(f"the keys in {home} cannot be {what}: {error.strerror or error}")
