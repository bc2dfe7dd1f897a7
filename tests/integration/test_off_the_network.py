"""A peer without a mesh key, or told to stay off the network, is as small as it ever was."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from meshray import meshkey
from meshray.cli import showing, starting
from meshray.cli.commands import meshray as command
from meshray.launch import PeerSettings
from meshray.local import find_peers
from meshray.meshkey import MeshKey

OF_THE_LAN = ("zmq", "zeroconf", "psutil")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MESHRAY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def loaded(pid: int) -> set[str]:
    """Which of these packages a process has mapped something of (each has a part in C)."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {name for name in OF_THE_LAN if f"/{name}/" in maps}


def descriptors(pid: int) -> int:
    """How many a process may have open."""
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]


def start(*words: str, code: int = 0, alone: bool = False) -> str:
    return run("start", "--preset", "test", *words, code=code, before=network_of_its_own() if alone else [])


def network_of_its_own() -> list[str]:
    """What to put before a command so that no mesh of another program on this machine is heard; nothing where the
    kernel forbids it."""
    as_root = [] if os.getuid() == 0 else ["--map-root-user"]
    command = ["unshare", "--net", *as_root, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    possible = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if possible and possible.returncode == 0 else []


def run(*words: str, code: int = 0, before: Sequence[str] = ()) -> str:
    """In a process of its own, which leaves the peer to the system."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "meshray.cli", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def stop() -> None:
    run("stop", "--all")


def test_what_the_packages_look_like_when_they_are_loaded() -> None:
    program = "import os, zmq, zeroconf, psutil; print(os.getpid(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert loaded(int(other.stdout.readline())) == set(OF_THE_LAN)
        other.communicate(b"\n")


def test_start_without_a_key(home: Path) -> None:
    told = start("--local")
    try:
        (record,) = find_peers()
        assert record.mesh_port == 0
        assert loaded(record.pid) == set()
        assert "meshray token" not in told
        assert not home.exists()
    finally:
        stop()


def test_start_with_a_key_and_local() -> None:
    meshkey.make(MeshKey.generate())
    start("--local")
    try:
        (record,) = find_peers()
        assert record.mesh_port == 0
        assert loaded(record.pid) == set()
    finally:
        stop()


def test_a_program_its_peer_and_its_workers(mesh: ModuleType) -> None:
    meshkey.make(MeshKey.generate())

    @mesh.remote
    def pids() -> tuple[int, int]:
        return os.getpid(), os.getppid()

    worker, zygote = mesh.get(pids.remote())
    assert loaded(worker) == set()
    assert loaded(zygote) == set()
    (record,) = find_peers(private=True)
    assert loaded(record.pid) == set()


def test_the_peer_of_a_program_stays_off_the_network_though_there_is_a_key() -> None:
    assert PeerSettings().mesh is None


def test_who_names_members_needs_their_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = start("--join", "10.0.0.1", code=1)
    assert "--join needs a mesh, and this host has no mesh key" in told
    monkeypatch.setenv("MESHRAY_SEEDS", "10.0.0.1")
    assert "MESHRAY_SEEDS needs a mesh, and this host has no mesh key" in start(code=1)
    assert not home.exists()
    assert find_peers() == []


@pytest.mark.parametrize(
    ("option", "named"),
    [(("--bind", "192.0.2.1"), "no interface of this host has the address"), (("--join", "desk:x"), "is no address")],
)
def test_no_key_is_made_for_a_peer_that_cannot_be_started(option: tuple[str, str], named: str, home: Path) -> None:
    assert named in start("--new", *option, code=1)
    assert not home.exists()


def test_start_without_a_key_makes_one_where_no_mesh_is_heard(home: Path) -> None:
    told = start("--bind", "127.0.0.1", "--port", "17638", alone=True)
    try:
        assert "listening for a mesh on its network" in told
        assert f"Mesh {meshkey.load().mesh.hex()} is made; its key is on this host only" in told
        assert "meshray token | ssh OTHER meshray join" in told
        assert (home / "mesh.key").stat().st_mode & 0o777 == 0o600
        (record,) = find_peers()
        assert record.mesh_port == 17638
    finally:
        stop()
    told = start("--bind", "127.0.0.1", "--port", "17638", alone=True)  # and the second start joins it
    stop()
    assert "listening for a mesh" not in told


def test_local_excludes_them() -> None:
    assert "--local excludes --new" in start("--local", "--new", code=2)
    assert "--local excludes --port" in start("--local", "--port", "7000", code=2)


def test_new_makes_a_key_once() -> None:
    settings = starting.choose_mesh(False, True, "10.0.0.1,desk.lan:7000", ("127.0.0.1",), None)
    assert settings is not None
    assert (settings.seeds, settings.bind, settings.port) == (["10.0.0.1:7637", "desk.lan:7000"], ["127.0.0.1"], 7637)
    meshkey.make(MeshKey.generate())
    told = start("--new", code=1)
    assert f"belongs to mesh {meshkey.load().mesh.hex()} already" in told


def test_new_starts_a_member_and_says_how_to_bring_in_the_next() -> None:
    told = start("--new", "--bind", "127.0.0.1", "--port", "17637")
    try:
        assert "is made; its key is on this host only" in told
        assert "meshray token | ssh OTHER meshray join" in told
        (record,) = find_peers()
        assert record.mesh_port == 17637
        assert loaded(record.pid) == set(OF_THE_LAN)
        (zygote,) = Path(f"/proc/{record.pid}/task/{record.pid}/children").read_text().split()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert descriptors(record.pid) == hard
        assert descriptors(int(zygote)) == soft  # what programs expect: some do something for each one that may be
        shown = run("status")
        assert f"Mesh {meshkey.load().mesh.hex()}: 1 member; this one listens at 127.0.0.1:17637" in shown
    finally:
        stop()


def test_watching_shows_it_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(showing.time, "sleep", sleep)
    done = CliRunner().invoke(command, ["status", "--watch"])
    assert done.output.count("No peer runs on this host.") == 3


def test_a_seed_that_is_none_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    meshkey.make(MeshKey.generate())
    monkeypatch.setenv("MESHRAY_SEEDS", "desk:x")
    assert "MESHRAY_SEEDS: 'desk:x' is no address" in start(code=1)
