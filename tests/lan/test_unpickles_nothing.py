"""The hook of `tests.integration.test_peer_unpickles_nothing` in the peers of two hosts, while a program works on both,
and while one of them leaves and moves on what lies there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.test_peer_unpickles_nothing import HOOK
from tests.lan.network import REPOSITORY, Host, Lan
from tests.lan.peers import Peer, agree
from tests.until import until

PROGRAM = """
import os, sys
import helper
import numpy
import meshray as ray

ray.init(address="auto", namespace="hostile")


@ray.remote(resources={"there": 1})
def add(x, y=0):
    return helper.plain(x) + y


@ray.remote(resources={"there": 1}, max_retries=0)
def fail():
    raise helper.Odd("no", {"x": 1})


@ray.remote(resources={"there": 1})
def ones():
    return numpy.ones(1_000_000)


@ray.remote(resources={"there": 1})
def nested(refs):
    return [add.remote(ray.get(refs[0]), 1), ray.put(numpy.arange(100_000)), ray.put([helper.Bomb()])]


@ray.remote(resources={"there": 1}, max_restarts=1)
class Counter:
    def __init__(self, start):
        self.count = start

    def add(self, by):
        self.count += by
        return self.count, ray.put([self.count])


assert ray.get([add.remote(index, index) for index in range(20)]) == [2 * index for index in range(20)]
inner = ray.get(nested.remote([ray.put(3)]))
assert ray.get(inner[0]) == 4 and ray.get(inner[1]).sum() == sum(range(100_000))
large = ray.put(numpy.ones(1_000_000))
assert ray.get(add.remote(large, large)).sum() == 2_000_000
try:
    ray.get(fail.remote())
except ray.exceptions.TaskError as error:  # it cannot be rebuilt
    assert "no" in str(error)
else:
    raise AssertionError
counter = Counter.options(name="count", lifetime="detached").remote(helper.Start())
assert ray.get(ray.get(counter.add.remote(1))[1]) == [6]
mover = Counter.options(resources={}, num_cpus=0).remote(1)
kept = ones.remote()
ray.wait([kept], fetch_local=False)
print("works", flush=True)
sys.stdin.readline()  # the other host leaves meanwhile
assert ray.get(kept).sum() == 1_000_000
assert ray.get(mover.add.remote(1))[0] == 2
print("done", flush=True)
"""

HELPER = """
import os


class Odd(Exception):
    def __init__(self, text, extra):
        super().__init__(text)


class Bomb:
    def __reduce__(self):
        return os.abort, ()  # it would end whoever unpickles it


class Start(int):
    def __new__(cls, value=5):
        return super().__new__(cls, value)


def plain(x):
    return x
"""


@pytest.mark.fault(47)
def test_whatever_goes_between_hosts_their_peers_unpickle_nothing(lan: Callable[..., Lan]) -> None:
    network = lan("a", "b")
    a, b = network["a"], network["b"]
    for host in (a, b):
        (host.folder / "hook").mkdir()
        (host.folder / "hook" / "sitecustomize.py").write_text(HOOK)
        (host.folder / "unpickled").touch()
    peers = Peer(a, **hooked(a)), Peer(b, "--resources", '{"there": 4}', "--num-cpus", "4", **hooked(b))
    agree(*peers)
    pids = [str(peer.status()["pid"]) for peer in peers]  # as their hosts count
    (a.folder / "program").mkdir()
    (a.folder / "program" / "program.py").write_text(PROGRAM)
    (a.folder / "program" / "helper.py").write_text(HELPER)
    program = a.start("python", str(a.folder / "program" / "program.py"), **hooked(a))
    until(lambda: "works" in program.lines or not program.running(), f"it has used both: {program}")
    peers[1].stop()
    program.tell("")
    assert program.wait() == 0, program
    peers[0].stop()
    for host, pid in zip((a, b), pids, strict=True):
        noted = [line.split() for line in (host.folder / "unpickled").read_text().splitlines()]
        assert pid in {loader for _, loader, _ in noted}, "the hook was in its workers, which were forked from it"
        assert pid not in {by for by, _, _ in noted}, noted


def hooked(host: Host) -> dict[str, str]:
    return {
        "PYTHONPATH": f"{host.folder / 'hook'}:{REPOSITORY}",
        "MESHRAY_TEST_UNPICKLED": str(host.folder / "unpickled"),
    }
