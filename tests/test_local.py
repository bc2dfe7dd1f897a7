"""The folders of a host: who may use them, who lives in them, what the dead leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshray import local
from meshray.ids import new_node, new_process
from meshray.local import FolderError, NameTakenError


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A host of its own for each test: a runtime folder and a shared memory."""
    memory = tmp_path / "shm"
    memory.mkdir()
    monkeypatch.setattr(local, "SHARED_MEMORY", memory)
    runtime = Path("/tmp") / f"mr-{os.getpid()}-{new_node().hex()[:6]}"
    monkeypatch.setenv("MESHRAY_RUNTIME_DIR", str(runtime))
    yield runtime
    local.remove_folder(runtime)
    assert not runtime.exists()


def test_only_what_is_ours_is_removed(host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    node = new_node().hex()
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(local, "_remove", lambda folder: pytest.fail(f"{folder} would be gone"))
        for folder in ("", ".", "kept", "..", "/", "/etc", "/tmp/..", f"{tmp_path}/kept/../kept"):
            with pytest.raises(ValueError, match="is not removed"):
                local.remove_folder(Path(folder))
        for name, folder in ((node, ""), (node, str(kept)), ("", str(kept)), ("kept", str(kept)), ("/", "/")):
            local.remove_folder_of(name, folder)  # what a record says


def test_the_folder_of_a_peer_is_removed(host: Path, tmp_path: Path) -> None:
    node = new_node().hex()
    store = tmp_path / node / "store"
    store.mkdir(parents=True)
    (store / "segment").touch()
    (tmp_path / "outside").touch()
    (store / "link").symlink_to(tmp_path)
    local.remove_folder_of(node, str(store))
    assert not store.exists()
    assert (tmp_path / "outside").exists()


def test_a_folder_that_vanishes_before_it_is_looked_at_is_made_again(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last peer of somebody else removes it, empty as it is."""
    look, vanish = os.stat, [True, True]

    def stat(path: Path, **options: bool) -> os.stat_result:
        if path == host and vanish and vanish.pop():
            host.rmdir()
        return look(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(local.os, "stat", stat)
        assert local.runtime_folder() == host
    assert not vanish
    assert host.is_dir()
    with monkeypatch.context() as patch:
        patch.setattr(local.os, "stat", lambda path, **options: look(path if path != host else host / "never"))
        with pytest.raises(FolderError, match="cannot make the folder .*: No such file"):
            local.private_folder(host)


HOLD = """
import os, sys
from pathlib import Path
from meshray import local
local.SHARED_MEMORY = Path(sys.argv[1])
node = bytes.fromhex(sys.argv[2])
claim, record = local.claim_peer(node, "other", private=False)
store = local.claim_store(node)
(store.folder / "segment").write_bytes(b"x")
import msgspec
claim.publish(msgspec.structs.replace(record, ready=True, store=str(store.folder)))
print("held", flush=True)
sys.stdin.read()
"""


class OtherProcess:
    """Another process that claims the folders of a peer, until it is killed."""

    def __init__(self, node: bytes) -> None:
        command = [sys.executable, "-c", HOLD, str(local.SHARED_MEMORY), node.hex()]
        root = str(Path(local.__file__).parent.parent)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"held\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def other() -> Iterator[tuple[bytes, OtherProcess]]:
    node = new_node()
    process = OtherProcess(node)
    yield node, process
    process.kill()


class TestFolders:
    def test_it_is_made_private(self, host: Path) -> None:
        assert local.runtime_folder() == host
        assert host.stat().st_mode & 0o777 == 0o700

    def test_one_that_lets_others_in_is_refused_by_name(self, host: Path) -> None:
        host.mkdir(mode=0o700)
        host.chmod(0o750)
        with pytest.raises(FolderError, match=f"{host}.*0750.*MESHRAY_RUNTIME_DIR.*chmod 700"):
            local.runtime_folder()
        assert host.stat().st_mode & 0o777 == 0o750

    def test_one_of_another_user_is_refused_by_name(self, host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        host.mkdir(mode=0o700)
        monkeypatch.setattr(os, "getuid", lambda: host.stat().st_uid + 1)
        with pytest.raises(FolderError, match=f"{host} belongs to user {host.stat().st_uid}"):
            local.runtime_folder()

    def test_a_file_in_its_place_is_refused(self, host: Path) -> None:
        host.write_text("")
        with pytest.raises(FolderError, match="no folder"):
            local.runtime_folder()
        host.unlink()

    def test_a_link_planted_in_temp_is_refused(
        self, host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("MESHRAY_RUNTIME_DIR")
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        host.mkdir(mode=0o700)
        monkeypatch.setenv("TMPDIR", str(host))
        target = tmp_path / "target"
        target.mkdir(mode=0o700)
        (host / f"meshray-{os.getuid()}").symlink_to(target)
        with pytest.raises(FolderError, match="no folder"):
            local.runtime_folder()

    def test_the_order_of_places(self, host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MESHRAY_RUNTIME_DIR")
        host.mkdir(mode=0o700)
        monkeypatch.setenv("TMPDIR", str(host))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(host / "missing"))
        assert local.runtime_folder() == host / f"meshray-{os.getuid()}"
        (host / "missing").mkdir()
        assert local.runtime_folder() == host / "missing" / "meshray"

    def test_a_folder_in_which_sockets_have_no_room_is_passed_over(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        long = tmp_path / ("x" * 100)
        long.mkdir(mode=0o700)
        monkeypatch.delenv("MESHRAY_RUNTIME_DIR")
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
        monkeypatch.setenv("TMPDIR", str(long))
        assert local.runtime_place() == Path(f"/tmp/meshray-{os.getuid()}")
        assert local.socket_path(local.runtime_place() / ("0" * 16), bytes(16))
        monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
        assert local.runtime_place() == Path(f"/tmp/meshray-{os.getuid()}"), "as for every other program"

    def test_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MESHRAY_HOME", str(tmp_path / "home"))
        assert local.home_folder() == tmp_path / "home"
        assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700

    def test_too_long_a_socket_path_names_the_variable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MESHRAY_RUNTIME_DIR", str(tmp_path / ("x" * 80)))
        with pytest.raises(FolderError, match=r"107.*MESHRAY_RUNTIME_DIR"):
            local.claim_peer(new_node(), "a", private=False)
        assert not local.runtime_place().exists(), "nothing was made"

    def test_a_socket_path_is_the_process_in_the_node_folder(self, host: Path) -> None:
        node = new_node()
        process = new_process(node)
        assert local.socket_path(local.node_folder(node), process) == f"{host}/{node.hex()}/{process[8:].hex()}"
        assert local.socket_path(host, local.peer_process(node)) == f"{host}/{'0' * 16}"


class TestClaims:
    def test_a_claim_lives_until_it_is_released(self) -> None:
        node = new_node()
        claim, record = local.claim_peer(node, "a", private=False)
        assert local.is_claimed(claim.folder)
        assert claim.folder.stat().st_mode & 0o777 == 0o700
        assert (claim.folder / "peer.json").stat().st_mode & 0o777 == 0o600
        assert local.read_record(claim.folder) == record
        claim.release()
        assert not claim.folder.exists()
        assert not local.is_claimed(claim.folder)
        claim.release()

    def test_only_a_peer_that_serves_is_found(self) -> None:
        from msgspec.structs import replace

        claim, record = local.claim_peer(new_node(), "a", private=False)
        assert local.find_peers() == []
        claim.publish(replace(record, ready=True))
        assert [found.name for found in local.find_peers()] == ["a"]
        claim.release()
        assert local.find_peers() == []

    def test_private_peers_are_found_only_when_asked_for_and_share_names(self) -> None:
        from msgspec.structs import replace

        claims = []
        for _ in range(2):
            claim, record = local.claim_peer(new_node(), "a", private=True)
            claim.publish(replace(record, ready=True))
            claims.append(claim)
        assert local.find_peers() == []
        assert len(local.find_peers(private=True)) == 2
        for claim in claims:
            claim.release()

    def test_a_name_is_taken_once(self) -> None:
        claim, _ = local.claim_peer(new_node(), "a", private=False)
        with pytest.raises(NameTakenError, match=rf"'a'.*pid {os.getpid()}.*--name"):
            local.claim_peer(new_node(), "a", private=False)
        second, _ = local.claim_peer(new_node(), "b", private=False)
        claim.release()
        second.release()

    def test_a_forked_child_neither_holds_nor_releases(self) -> None:
        claim, _ = local.claim_peer(new_node(), "a", private=False)
        pid = os.fork()
        if not pid:
            claim.release()
            os._exit(0 if local.claimed_by(claim.folder) == os.getppid() else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert claim.folder.exists()
        claim.release()

    def test_looking_at_ones_own_claim_does_not_lose_it(self) -> None:
        claim, _ = local.claim_peer(new_node(), "a", private=False)
        assert local.is_claimed(claim.folder)
        local.sweep()
        pid = os.fork()
        if not pid:
            os._exit(0 if local.is_claimed(claim.folder) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        claim.release()


class TestSweep:
    def test_the_living_stay(self, other: tuple[bytes, OtherProcess]) -> None:
        assert local.sweep() == []
        (found,) = local.find_peers()
        assert found.node == other[0].hex()
        assert found.pid == local.claimed_by(Path(found.folder)) == other[1].process.pid

    @pytest.mark.fault(18)
    def test_the_dead_go_with_their_segments(self, other: tuple[bytes, OtherProcess]) -> None:
        (found,) = local.find_peers()
        fd = local.open_peer(found)
        assert fd is not None
        os.close(fd)
        other[1].kill()
        assert local.find_peers() == []
        assert local.open_peer(found) is None
        assert sorted(local.sweep()) == sorted([found.folder, found.store])
        assert not Path(found.folder).exists()
        assert not Path(found.store).exists()

    @pytest.mark.fault(18)
    def test_a_pid_that_was_used_again_is_no_peer(self, other: tuple[bytes, OtherProcess]) -> None:
        from msgspec.structs import replace

        (found,) = local.find_peers()
        other[1].kill()
        assert local.open_peer(replace(found, pid=os.getpid())) is None

    @pytest.mark.fault(18)
    def test_the_last_of_the_dead_takes_along_what_its_folders_lay_in(
        self, host: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("MESHRAY_RUNTIME_DIR")
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        host.mkdir(mode=0o700)
        monkeypatch.setenv("TMPDIR", str(host))
        place = local.runtime_folder()
        local.sweep()
        assert not place.exists(), "somebody else has removed the folder of the dead before"

    def test_what_is_no_node_is_left_alone(self, host: Path) -> None:
        local.runtime_folder()
        (host / "notes").mkdir()
        (host / "0123456789abcdef").symlink_to(host / "notes")
        assert local.sweep() == []
        assert (host / "notes").exists()

    def test_a_folder_with_neither_lock_nor_record_goes(self, host: Path) -> None:
        local.runtime_folder()
        (host / "0123456789abcdef" / "deep").mkdir(parents=True)
        assert local.sweep() == [f"{host}/0123456789abcdef"]

    def test_a_new_peer_sweeps(self, other: tuple[bytes, OtherProcess]) -> None:
        (found,) = local.find_peers()
        os.kill(other[1].process.pid, signal.SIGKILL)
        other[1].process.wait()
        claim, _ = local.claim_peer(new_node(), "other", private=False)
        assert not Path(found.folder).exists()
        claim.release()
