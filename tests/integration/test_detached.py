"""Detached actors in a standing peer, and handles when meshes and programs end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import meshray as ray
from tests.until import until

LIMIT_S = 30.0


def get(refs: Any) -> Any:
    return ray.get(refs, timeout=LIMIT_S)


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def peer(_leaves_nothing: None) -> Iterator[None]:
    run("-m", "meshray.cli", "start", "--local", "--num-cpus", "2", "--num-gpus", "0")
    yield
    if ray.is_initialized():
        ray.shutdown()
    run("-m", "meshray.cli", "stop", "--all")


CREATOR = """
import os, sys
import numpy as np
import meshray as ray

@ray.remote
class Store:
    def __init__(self, array, inside):
        self.array, self.inside, self.values = array, inside, {}
    def put(self, key, value):
        self.values[key] = value
        return len(self.values)
    def get(self, key):
        return self.values[key]
    def pid(self):
        return os.getpid()
    def parts(self):
        return float(self.array.sum()), ray.get(self.inside[0], timeout=30)
    def reconstructed(self):
        return ray.get_runtime_context().was_current_actor_reconstructed
    def child(self):
        self.helper = Store.remote(np.ones(3), [ray.put("of the child")])
        return ray.get(self.helper.parts.remote(), timeout=30)
    def task(self):
        return ray.get(double.remote(21), timeout=30)

@ray.remote
def double(x):
    return 2 * x

ray.init(address="auto", namespace="app")
array = ray.put(np.ones(200_000))
options = dict(name="store", lifetime="detached", max_restarts=1, max_task_retries=1)
store = Store.options(**options).remote(array, [ray.put("inside")])
mortal = Store.options(name="mortal").remote(array, [])
assert ray.get(store.put.remote("key", "value"), timeout=30) == 1
print(ray.get(store.pid.remote(), timeout=30), ray.get(mortal.pid.remote(), timeout=30))
"""


@pytest.fixture
def creator(tmp_path: Path) -> Path:
    path = tmp_path / "creator.py"
    path.write_text(CREATOR)
    return path


def test_it_outlives_its_program_and_is_found_by_another(peer: None, creator: Path) -> None:
    store_pid, mortal_pid = map(int, run(str(creator)).split())
    until(lambda: not psutil.pid_exists(mortal_pid))
    ray.init(address="auto", namespace="app")
    store = ray.get_actor("store")
    assert get(store.pid.remote()) == store_pid
    assert get(store.get.remote("key")) == "value"
    assert get(store.parts.remote()) == (200_000.0, "inside")
    with pytest.raises(ValueError, match="mortal"):
        ray.get_actor("mortal")
    with pytest.raises(ValueError, match="'app'"):
        ray.get_actor("store", namespace="other")
    with pytest.raises(ValueError, match="taken"):
        ray.remote(_Other).options(name="store", lifetime="detached").remote()
    assert get(store.task.remote()) == 42
    assert get(store.child.remote()) == (3.0, "of the child")
    del store
    ray.shutdown()
    ray.init(address="auto", namespace="another")
    store = ray.get_actor("store", namespace="app")
    assert get(store.get.remote("key")) == "value"
    ray.kill(store)
    until(lambda: not psutil.pid_exists(store_pid))
    with pytest.raises(ray.exceptions.ActorDiedError, match="kill"):
        get(store.get.remote("key"))


class _Other:
    pass


@pytest.mark.fault(3)
def test_it_is_restarted_after_its_creator_is_gone(peer: None, creator: Path) -> None:
    store_pid, _ = map(int, run(str(creator)).split())
    ray.init(address="auto", namespace="app")
    store = ray.get_actor("store")
    os.kill(store_pid, signal.SIGKILL)
    assert get(store.reconstructed.remote()) is True
    assert get(store.parts.remote()) == (200_000.0, "inside")
    assert get(store.task.remote()) == 42
    pid = get(store.pid.remote())
    ray.shutdown()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(pid))
    ray.init(address="auto", namespace="app")

    def is_free() -> bool:
        try:
            ray.get_actor("store")
        except ValueError:
            return True
        return False

    until(is_free)


@pytest.mark.fault(7)
def test_it_lives_on_when_its_program_is_killed(peer: None, creator: Path) -> None:
    text = creator.read_text() + "\nsys.stdout.flush()\nimport signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    creator.write_text(text)
    done = subprocess.run([sys.executable, str(creator)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    store_pid, mortal_pid = map(int, done.stdout.split())
    until(lambda: not psutil.pid_exists(mortal_pid))
    ray.init(address="auto", namespace="app")
    assert get(ray.get_actor("store").pid.remote()) == store_pid


def test_two_programs_do_not_see_each_others_actors_without_a_namespace(peer: None, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import meshray as ray\n"
        "ray.init(address='auto')\n"
        "try:\n    ray.get_actor('mine')\n"
        "except ValueError:\n    print('not found')\n"
        "else:\n    print('found')\n"
    )
    ray.init(address="auto")
    mine = ray.remote(_Other).options(name="mine").remote()
    get(mine.__ray_ready__.remote())
    assert run(str(program)).strip() == "not found"


def test_results_of_an_ended_program_are_not_kept_by_a_detached_actor(peer: None, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import meshray as ray\n"
        "ray.init(address='auto', namespace='app')\n"
        "keeper = ray.get_actor('keeper')\n"
        "ray.get(keeper.keep.remote([ray.put('seen'), ray.put('unseen')]), timeout=30)\n"
        "print(ray.get(keeper.look.remote(0), timeout=30))\n"
    )

    class Keeper:
        def keep(self, box: list[Any]) -> None:
            self.box = box

        def look(self, index: int) -> Any:
            return ray.get(self.box[index], timeout=LIMIT_S)

    ray.init(address="auto", namespace="app")
    keeper = ray.remote(Keeper).options(name="keeper", lifetime="detached").remote()
    get(keeper.__ray_ready__.remote())
    assert run(str(program)).strip() == "seen"
    with pytest.raises(ray.exceptions.OwnerDiedError, match="job"):
        get(keeper.look.remote(1))
    ray.kill(keeper)


def test_a_handle_of_an_ended_mesh() -> None:
    ray.init(num_cpus=1)
    old = ray.remote(_Other).remote()
    ref = old.__ray_ready__.remote()
    get(ref)
    ray.shutdown()
    ray.init(num_cpus=1)
    with pytest.raises(ray.exceptions.ObjectLostError):
        get(ref)
    with pytest.raises(ray.exceptions.ActorDiedError, match="another mesh"):
        get(old.__ray_ready__.remote())
    ray.kill(old)
    new = ray.remote(_Other).remote()
    assert get(new.__ray_ready__.remote()) is True
    ray.shutdown()


def test_a_detached_actor_of_a_private_mesh_ends_with_it(caplog: pytest.LogCaptureFixture) -> None:
    ray.init(num_cpus=1)
    actor = ray.remote(_Other).options(name="private", lifetime="detached").remote()
    pid = get(actor.__ray_call__.remote(lambda self: os.getpid()))
    assert "the detached actor private ends with this program" in caplog.text
    ray.shutdown()
    until(lambda: not psutil.pid_exists(pid))
