"""A hook in live peers: whatever programs send, make and fail at, the peer unpickles nothing.

The floors of the house forbid it the modules (`pyproject.toml`); here it is looked at from outside. A `sitecustomize`
is loaded by every interpreter that starts meanwhile, the peer's among them, and not anew by workers, which are forked
from it: they have its hook, with another pid.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshray.local import find_peers
from tests.until import until

REPOSITORY = Path(__file__).parents[2]

HOOK = """
import os, pickle, sys
import _pickle

FILE = os.environ["MESHRAY_TEST_UNPICKLED"]
LOADED_BY = os.getpid()


def noted(what):
    fd = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{os.getpid()} {LOADED_BY} {what}\\n".encode())
    os.close(fd)


def hook(event, arguments):
    if event == "pickle.find_class":
        noted(event)


sys.addaudithook(hook)


def watched(name, original):
    if isinstance(original, type):
        class Watched(original):
            def __init__(self, *arguments, **options):
                noted(name)
                super().__init__(*arguments, **options)
        return Watched

    def call(*arguments, **options):
        noted(name)
        return original(*arguments, **options)
    return call


for module in (pickle, _pickle):  # a pickle without names of classes makes no event
    for name in ("load", "loads", "Unpickler"):
        setattr(module, name, watched(f"{module.__name__}.{name}", getattr(module, name)))
"""

PROGRAM = """
import numpy
import meshray as ray

ray.init(address="auto", namespace="hostile")


class Odd(Exception):
    def __init__(self, text, extra):
        super().__init__(text)
        self.extra = extra


class Bomb:
    def __reduce__(self):
        return os.abort, ()


import os


@ray.remote
def add(x, y=0):
    return x + y


@ray.remote(max_retries=0)
def fail():
    raise Odd("no", {"x": 1})


@ray.remote
def nested(refs):
    return [add.remote(ray.get(refs[0]), 1), ray.put(numpy.arange(100_000))]


@ray.remote
class Counter:
    def __init__(self, start):
        self.count = start

    def add(self, by):
        self.count += by
        return self.count, ray.put([self.count])


@ray.remote
def dies(ref_in_list):
    os.kill(os.getpid(), 9)


counter = Counter.options(name="count", lifetime="detached").remote(5)
refs = [add.remote(index, index) for index in range(50)]
assert ray.get(refs) == [2 * index for index in range(50)]
inner = ray.get(nested.remote([refs[3]]))
assert ray.get(inner[0]) == 7 and ray.get(inner[1]).sum() == sum(range(100_000))
assert ray.get(counter.add.remote(1))[0] == 6
large = ray.put(numpy.ones(1_000_000))
assert ray.get(add.remote(large, large)).sum() == 2_000_000
try:
    ray.get(fail.remote())
except ray.exceptions.TaskError as error:  # it cannot be rebuilt
    assert "no" in str(error)
else:
    raise AssertionError
bomb = ray.put([Bomb()])  # it would end whoever unpickles it
holds = ray.put([bomb])
try:
    ray.get(dies.options(max_retries=1).remote([large]))
except ray.exceptions.WorkerCrashedError:
    pass
assert ray.get(ray.get_actor("count").add.remote(1))[0] == 7
print("done", flush=True)
"""


@pytest.mark.fault(47)
def test_whatever_a_program_does_its_peer_unpickles_nothing(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    (tmp_path / "program.py").write_text(PROGRAM)
    unpickled = tmp_path / "unpickled"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}",
        "MESHRAY_TEST_UNPICKLED": str(unpickled),
    }

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, timeout=100, check=False, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("-m", "meshray.cli", "start", "--local", "--num-cpus", "2", "--num-gpus", "0")
    (record,) = find_peers()
    try:
        assert run(str(tmp_path / "program.py")).endswith("done\n")
        until(lambda: find_peers() == [record], "the peer lives")
    finally:
        run("-m", "meshray.cli", "stop")
    noted = [line.split() for line in unpickled.read_text().splitlines()]
    by = {int(pid) for pid, _, _ in noted}
    assert str(record.pid) in {loader for _, loader, _ in noted}, (
        "the hook was in its workers, which were forked from it"
    )
    assert {what for _, _, what in noted} >= {"pickle.find_class"}
    assert record.pid not in by, [line for line in noted if int(line[0]) == record.pid]
