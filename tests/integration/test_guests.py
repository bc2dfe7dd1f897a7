"""`init("host:port")`: a private peer that joins a mesh through a member, here on loopback; or says why it cannot."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import meshray
from meshray import meshkey
from meshray.cli.client import Visit
from meshray.errors import AuthenticationError
from meshray.local import find_peers
from meshray.meshkey import MeshKey
from meshray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.ports import free_port
from tests.until import until


@pytest.fixture(autouse=True)
def preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHRAY_PRESET", "test")


@pytest.fixture
def port() -> Iterator[int]:
    """Where a standing member listens."""
    meshkey.make(MeshKey.generate())
    port = free_port()
    words = [
        "start",
        "--preset",
        "test",
        "--num-cpus",
        "2",
        "--name",
        "standing",
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    cli(*words)
    yield port
    cli("stop", "--all")


def cli(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "meshray.cli", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def members() -> dict[str, tuple[str, float]]:
    """As the standing peer sees them: name -> state, CPUs; of several the last."""
    (record,) = find_peers()
    with Visit(record) as visit:
        mesh: dict[str, Any] = visit.ask("status")["mesh"]
    return {
        ("standing" if member["is_self"] else "guest"): (member["state"], member["total"].get("CPU", 0.0))
        for member in mesh["members"]
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_it_joins_and_leaves_with_the_program(port: int, host: str) -> None:
    context = meshray.init(f"{host}:{port}")
    until(lambda: members() == {"standing": ("alive", 2.0), "guest": ("alive", 0.0)}, "it is a member without slots")
    assert meshray.nodes()[0]["NodeID"] == context["node_id"]
    assert meshray.get(meshray.put(1)) == 1
    (private,) = (record for record in find_peers(private=True) if record.private)
    assert private.mesh_port == 0  # nobody is told to attach to it, and no token names it
    meshray.shutdown()
    until(lambda: members()["guest"][0] == "left", "it has said goodbye")
    assert [record.name for record in find_peers(private=True)] == ["standing"]


def test_it_leaves_with_a_program_that_is_killed(port: int) -> None:
    program = (
        "import os, signal, sys, meshray\n"
        "meshray.init(sys.argv[1])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )  # fmt: skip
    subprocess.run([sys.executable, "-c", program, f"127.0.0.1:{port}"], check=False, env=os.environ)
    until(lambda: members().get("guest", ("",))[0] == "left", "it has said goodbye")


def test_it_brings_nothing(port: int) -> None:
    with pytest.raises(ValueError, match="joins as a guest, without resources of its own"):
        meshray.init(f"127.0.0.1:{port}", num_cpus=1)
    assert not meshray.is_initialized()


@meshray.remote(num_cpus=0)
def where() -> str:
    return meshray.get_runtime_context().get_node_id()


@meshray.remote(num_cpus=0, scheduling_strategy="SPREAD")
class Somewhere:
    def where(self) -> str:
        return meshray.get_runtime_context().get_node_id()


GUEST = """
import sys, meshray
from meshray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Node

context = meshray.init(sys.argv[1])

@meshray.remote(num_cpus=0)
def where():
    return meshray.get_runtime_context().get_node_id()

@meshray.remote(num_cpus=0)
class Somewhere:
    def where(self):
        return meshray.get_runtime_context().get_node_id()

mine, there = (node["NodeID"] for node in meshray.nodes())
assert set(meshray.get([where.options(scheduling_strategy="SPREAD").remote() for _ in range(4)])) == {there}
assert meshray.get(Somewhere.options(scheduling_strategy="SPREAD").remote().where.remote()) == there
here = Node(mine, soft=False)
assert meshray.get(where.options(scheduling_strategy=here).remote()) == mine
assert meshray.get(Somewhere.options(scheduling_strategy=here).remote().where.remote()) == mine
print(mine, flush=True)
sys.stdin.read()
"""


def test_it_runs_what_its_own_program_sends_there_and_nothing_else(port: int) -> None:
    words = [sys.executable, "-c", GUEST, f"127.0.0.1:{port}"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        guest = program.stdout.readline().strip()
        assert guest, "the program has failed"
        meshray.init("auto")
        standing = meshray.get_runtime_context().get_node_id()
        until(lambda: len(meshray.nodes()) == 2, "both are there")
        own = next(node for node in meshray.nodes() if node["NodeID"] == standing)["Resources"]
        for name in ("CPU", "memory"):
            assert meshray.cluster_resources()[name] == own[name]
        spread = where.options(scheduling_strategy="SPREAD")
        lean = where.options(scheduling_strategy="SPREAD", memory=1)
        assert set(meshray.get([*(spread.remote() for _ in range(8)), *(lean.remote() for _ in range(8))])) == {
            standing
        }
        actors = [Somewhere.remote() for _ in range(3)]
        assert set(meshray.get([actor.where.remote() for actor in actors])) == {standing}
        there = NodeAffinitySchedulingStrategy(guest, soft=False)
        with pytest.raises(meshray.exceptions.TaskUnschedulableError, match="a guest, which runs only what its own"):
            meshray.get(where.options(scheduling_strategy=there).remote())
        meshray.shutdown()
        program.stdin.close()
    assert program.returncode == 0


def test_the_address_may_come_from_the_environment(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHRAY_ADDRESS", f"127.0.0.1:{port}")
    meshray.init()
    until(lambda: members().get("guest", ("",))[0] == "alive", "it is a member")
    meshray.shutdown()


def test_without_a_key() -> None:
    with pytest.raises(AuthenticationError, match="needs the key of that mesh, and this host has none"):
        meshray.init("127.0.0.1:7637")
    assert find_peers(private=True) == []


def test_with_the_key_of_another_mesh(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as here:
        here.setenv("MESHRAY_HOME", str(tmp_path / "other"))
        meshkey.make(MeshKey.generate())
        with pytest.raises(ConnectionError, match=f"127.0.0.1:{port} does not let us in: .*another key"):
            meshray.init(f"127.0.0.1:{port}")
    assert set(members()) == {"standing"}


def test_where_nobody_answers() -> None:
    meshkey.make(MeshKey.generate())
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionError, match=f"cannot be joined through {address}: no peer has answered there within"):
        meshray.init(address)
    assert find_peers(private=True) == []


def test_where_something_else_answers() -> None:
    meshkey.make(MeshKey.generate())
    with socket.create_server(("127.0.0.1", 0)) as other:  # takes connections, and says nothing
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"cannot be joined through {address}"):
            meshray.init(address)


def test_a_name_that_nobody_knows() -> None:
    meshkey.make(MeshKey.generate())
    with pytest.raises(ConnectionError, match="no address is known for that name"):
        meshray.init("no-such-host.invalid:7637")


@pytest.mark.parametrize("address", ["desk:x", "10.0.0.300:7637", "[fe80::1:7637", "desk:0"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match="init: address: .* is no"):
        meshray.init(address)


def test_a_program_that_names_no_host_loads_nothing_of_it() -> None:
    program = "import sys, json, meshray; meshray.init('local', num_cpus=1); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    modules = json.loads(done.stdout)
    assert not {"meshray.runtime.guest", "meshray.seeds", "meshray.meshkey"} & set(modules)
