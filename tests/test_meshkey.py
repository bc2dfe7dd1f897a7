from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from meshray import meshkey
from meshray.errors import MeshrayError
from meshray.meshkey import MeshKey, MeshKeyError, NoMeshKeyError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MESHRAY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def files(home: Path) -> set[str]:
    return {path.name for path in home.iterdir()} - {meshkey.LOCK_FILE}


class TestKeys:
    def test_ids_and_subkeys_are_derived_and_differ_by_purpose(self) -> None:
        key, other = MeshKey(bytes(range(32))), MeshKey(bytes(range(1, 33)))
        assert key.id.hex() == "0778c25454bfca66"  # pinned: members of all versions have to agree
        assert key.founded_mesh().hex() == "cee9b5f8670b538b"
        assert key.derive(b"a") != key.derive(b"b")
        assert len(key.derive(b"a")) == 32
        assert key.id != other.id
        assert key == MeshKey(bytes(range(32)))
        assert key != other

    def test_a_key_shows_and_pickles_nothing(self) -> None:
        key = MeshKey(bytes(range(32)))
        keys = meshkey.MeshKeys(key.founded_mesh(), key)
        assert key.secret.hex() not in repr(keys)
        assert repr(key.secret) not in repr(keys)
        with pytest.raises(TypeError, match="never leaves"):
            pickle.dumps(key)

    @pytest.mark.parametrize("secret", [b"", b"x" * 31, b"x" * 33, bytes(32)])
    def test_what_is_no_key(self, secret: bytes) -> None:
        with pytest.raises(ValueError, match="mesh key"):
            MeshKey(secret)


class TestMaking:
    def test_the_first_call_makes_it_and_the_next_finds_it(self, home: Path) -> None:
        with pytest.raises(NoMeshKeyError, match=rf"no mesh key.*{home}.*meshray join"):
            meshkey.load()
        keys, made = meshkey.load_or_make()
        assert made
        assert keys.mesh == keys.current.founded_mesh()
        assert keys.next is None
        assert meshkey.load_or_make() == (keys, False)
        assert files(home) == {"mesh.key"}

    def test_only_the_owner_may_read_it_whatever_the_umask(self, home: Path) -> None:
        before = os.umask(0)
        try:
            meshkey.load_or_make()
        finally:
            os.umask(before)
        assert home.stat().st_mode & 0o777 == 0o700
        assert (home / "mesh.key").stat().st_mode & 0o777 == 0o600
        assert (home / "mesh.key").stat().st_size == 32

    def test_many_starts_at_once_make_one_key(self, home: Path) -> None:
        program = (
            "import sys\n"
            "from meshray import meshkey\n"
            "sys.stdin.readline()\n"
            "keys, made = meshkey.load_or_make()\n"
            "print(keys.current.id.hex(), made)\n"
        )
        started = [
            subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(6)
        ]
        told = []
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in started:
            told.append(process.communicate(timeout=60)[0].split())
        assert len({key for key, _ in told}) == 1
        assert sorted(made for _, made in told) == ["False"] * 5 + ["True"]

    def test_a_writer_that_was_killed_is_no_obstacle(self, home: Path) -> None:
        home.mkdir(mode=0o700)
        (home / "mesh.key.new").write_bytes(b"half")
        keys, made = meshkey.load_or_make()
        assert made
        assert meshkey.load() == keys


class TestGuard:
    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
    def test_a_file_open_to_others_is_refused(self, home: Path, mode: int) -> None:
        meshkey.load_or_make()
        (home / "mesh.key").chmod(mode)
        with pytest.raises(MeshKeyError, match=rf"{home}/mesh.key.*mode {mode:04o}.*chmod 600"):
            meshkey.load()

    def test_a_folder_open_to_others_is_refused(self, home: Path) -> None:
        meshkey.load_or_make()
        home.chmod(0o755)
        with pytest.raises(MeshrayError, match=rf"chmod 700 {home}"):
            meshkey.load()

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
    def test_a_file_of_somebody_else_is_refused(self, home: Path) -> None:
        meshkey.load_or_make()
        os.chown(home / "mesh.key", 12345, 0)
        with pytest.raises(MeshKeyError, match="belongs to user 12345, not to 0"):
            meshkey.load()

    @pytest.mark.parametrize("data", [b"", b"x" * 31, b"x" * 33, b"x" * 5000, bytes(32)])
    def test_a_damaged_file_is_refused_and_kept(self, home: Path, data: bytes) -> None:
        meshkey.load_or_make()
        (home / "mesh.key").write_bytes(data)
        with pytest.raises(MeshKeyError, match=r"damaged.*meshray join"):
            meshkey.load_or_make()
        assert (home / "mesh.key").read_bytes() == data

    def test_a_link_or_a_folder_is_refused(self, home: Path, tmp_path: Path) -> None:
        meshkey.load_or_make()
        (home / "mesh.key").rename(tmp_path / "elsewhere")
        (home / "mesh.key").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(MeshKeyError, match="cannot be read"):
            meshkey.load()
        (home / "mesh.key").unlink()
        (home / "mesh.key").mkdir()
        with pytest.raises(MeshKeyError, match="no ordinary file"):
            meshkey.load()
        (home / "mesh.key").rmdir()
        os.mkfifo(home / "mesh.key", 0o600)  # and it does not hang
        with pytest.raises(MeshKeyError, match="no ordinary file"):
            meshkey.load()

    def test_a_damaged_mesh_id_is_refused(self, home: Path) -> None:
        meshkey.load_or_make()
        (home / "mesh.id").write_text("beef")
        with pytest.raises(MeshKeyError, match=r"mesh\.id holds no mesh id"):
            meshkey.load()


class TestReadOnly:
    """A home that can be read only, as in a container: root is stopped by nothing but the mount, so its errors stand
    in for it."""

    @pytest.fixture
    def read_only(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> MeshKey:
        keys, _ = meshkey.load_or_make()
        (home / meshkey.LOCK_FILE).unlink()
        opened = os.open

        def open_it(path: str | Path, flags: int, mode: int = 0o777) -> int:
            if Path(path).parent == home and flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return opened(path, flags, mode)

        monkeypatch.setattr(os, "open", open_it)
        return keys.current

    def test_it_is_read(self, read_only: MeshKey, home: Path) -> None:
        assert meshkey.load().current == read_only
        assert files(home) == {"mesh.key"}

    def test_it_is_not_changed_and_the_reason_is_told(self, read_only: MeshKey, home: Path) -> None:
        key = MeshKey.generate()
        for change in (
            lambda: meshkey.make(key),
            lambda: meshkey.join(key.founded_mesh(), key, replace=True),
            lambda: meshkey.stage(key),
            meshkey.unstage,
            meshkey.switch,
        ):
            with pytest.raises(MeshKeyError, match=f"{home} cannot be changed: Read-only file system"):
                change()  # type: ignore[operator]
        assert meshkey.load().current == read_only

    def test_a_disk_that_fails_midway(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(fd: int, data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            with pytest.raises(MeshKeyError, match="cannot be changed: No space left on device"):
                meshkey.make(MeshKey.generate())
        assert meshkey.make(MeshKey.generate())


class TestJoining:
    def test_another_key_is_replaced_only_when_told(self, home: Path) -> None:
        first, second = MeshKey.generate(), MeshKey.generate()
        assert meshkey.join(first.founded_mesh(), first)
        assert not meshkey.join(first.founded_mesh(), first)
        with pytest.raises(MeshKeyError, match=rf"{first.id.hex()}.*--replace"):
            meshkey.join(second.founded_mesh(), second)
        assert meshkey.load().current == first
        assert meshkey.join(second.founded_mesh(), second, replace=True)
        assert meshkey.load() == meshkey.MeshKeys(second.founded_mesh(), second)
        assert files(home) == {"mesh.key"}

    def test_a_mesh_that_has_changed_its_key_keeps_its_id(self, home: Path) -> None:
        mesh = MeshKey.generate().founded_mesh()
        key = MeshKey.generate()
        meshkey.join(mesh, key)
        assert meshkey.load() == meshkey.MeshKeys(mesh, key)
        other = MeshKey.generate()
        meshkey.stage(MeshKey.generate())
        meshkey.join(other.founded_mesh(), other, replace=True)
        assert meshkey.load() == meshkey.MeshKeys(other.founded_mesh(), other)  # neither its id nor its next key stay

    def test_a_first_key_is_made_only_where_there_is_none(self) -> None:
        keys, _ = meshkey.load_or_make()
        assert not meshkey.make(MeshKey.generate())
        assert meshkey.load() == keys


class TestRotation:
    def test_stage_and_switch(self, home: Path) -> None:
        keys, _ = meshkey.load_or_make()
        following = MeshKey.generate()
        staged, changed = meshkey.stage(following, keys.mesh)
        assert changed
        assert meshkey.stage(following, keys.mesh) == (staged, False)
        assert staged == meshkey.load()
        assert (staged.mesh, staged.current, staged.next) == (keys.mesh, keys.current, following)
        assert staged.by_id(keys.current.id) == keys.current
        assert staged.by_id(following.id) == following
        assert staged.by_id(bytes(8)) is None
        switched = meshkey.switch()
        assert switched == meshkey.load()
        assert (switched.mesh, switched.current, switched.next) == (keys.mesh, following, None)
        assert files(home) == {"mesh.key", "mesh.id"}  # the old key is nowhere

    def test_out_of_turn(self) -> None:
        with pytest.raises(NoMeshKeyError):
            meshkey.stage(MeshKey.generate())
        keys, _ = meshkey.load_or_make()
        with pytest.raises(MeshKeyError, match="no next key is staged"):
            meshkey.switch()
        assert meshkey.stage(keys.current) == (keys, False)
        stranger = MeshKey.generate()
        with pytest.raises(MeshKeyError, match=stranger.founded_mesh().hex()):
            meshkey.stage(stranger, stranger.founded_mesh())
        meshkey.stage(MeshKey.generate())
        with pytest.raises(MeshKeyError, match="another next key"):
            meshkey.stage(MeshKey.generate())
