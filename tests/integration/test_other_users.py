"""What another user of the host can read of a peer that works, and where it can attach: nothing, and nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import meshray
from meshray import meshkey
from meshray.local import find_peers, runtime_folder
from meshray.meshkey import MeshKey
from meshray.seeds import Seed, remember_peers
from tests.ports import free_port

NOBODY = 65534

INTRUDER = """
import json, os, socket, sys
paths = json.load(sys.stdin)
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))


def works(what, path):
    try:
        what(path)
    except OSError:
        return False
    return True


def connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


ways = {"list": os.listdir, "read": lambda path: open(path, "rb").read(1), "write": lambda path: open(path, "ab"),
        "make": lambda path: os.mkdir(path + "/made"), "attach": connect}
print(json.dumps([[name, path] for path in paths for name, way in ways.items() if works(way, path)]))
"""


@meshray.remote
class Worker:
    def pid(self, array: object) -> int:
        print("prints")
        return os.getpid()


def cli(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "meshray.cli", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def places(_leaves_nothing: None) -> Iterator[list[Path]]:
    """The folders of a member with a program that works, on a host where everybody may do everything that is not
    forbidden by the member itself: it was started without a umask."""
    runtime_folder().parent.chmod(0o755)  # of the test
    before = os.umask(0)
    try:
        meshkey.make(key := MeshKey.generate())
        remember_peers(key.founded_mesh(), [Seed("10.0.0.1", 7637)])
        cli("start", "--preset", "test", "--num-cpus", "1", "--num-gpus", "0", "--bind", "127.0.0.1", "--port",
            str(free_port()))  # fmt: skip
        (record,) = find_peers()
        meshray.init("auto", log_to_driver=False)
        yield [runtime_folder(), Path(record.store), Path(os.environ["MESHRAY_HOME"])]
        meshray.shutdown()
        cli("stop", "--all")
    finally:
        os.umask(before)


def all_of(places: list[Path]) -> list[Path]:
    """The folders, what they lie in where that is ours as well, and all that is in them."""
    _, store, _ = places
    return [store.parent, *(path for place in places for path in (place, *sorted(place.rglob("*"))))]


def test_another_user_reads_nothing_and_attaches_nowhere(places: list[Path]) -> None:
    large = meshray.put(bytes(1_000_000))
    worker = Worker.options(name="worker").remote()
    pid = meshray.get(worker.pid.remote(large))
    (record,) = find_peers()
    found = all_of(places)
    for wanted in ("mesh.key", "peers.json", "peer.json", "peer.log", "lock"):
        assert any(path.name == wanted for path in found), wanted
    assert any(path.is_socket() for path in found)
    assert any(path.is_relative_to(record.store) and path.stat().st_size >= 1_000_000 for path in found), "the value"

    open_ = []
    for path in found:
        with suppress(FileNotFoundError):  # it has just gone
            if path.lstat().st_mode & 0o077:
                open_.append(str(path))
    assert open_ == []
    secret = meshkey.load().current.secret
    for process in (record.pid, pid):
        words = Path(f"/proc/{process}/cmdline").read_bytes()  # everybody may read it
        assert secret not in words
        assert secret.hex().encode() not in words

    if os.geteuid() == 0:  # else nobody can be somebody else
        paths = [*map(str, found), *(f"/proc/{it}/{name}" for it in (record.pid, pid) for name in ("environ", "fd"))]
        for_all = places[0].with_name("for all")
        for_all.write_text("")
        for_all.chmod(0o644)
        assert intrude([str(for_all), *paths]) == [["read", str(for_all)]]
        for_all.unlink()


def intrude(paths: list[str]) -> list[list[str]]:
    """What somebody else can do with these."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", INTRUDER, str(NOBODY)],
        input=json.dumps(paths), capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: list[list[str]] = json.loads(done.stdout)
    return found
