"""A peer with another minor version of Python is a member like all others, and no code goes there: no task, no actor,
none that is inherited. What runs there stays there (docs/failure-model.md)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lan.network import REPOSITORY, Lan
from tests.lan.peers import CLI, Peer, agree
from tests.lan.scene import has_of_others
from tests.lan.test_actors import Driver, Failed, finds, node_of
from tests.lan.test_objects import MB, Sharer, copies, expected
from tests.lan.test_tasks import Caller
from tests.until import until

pytestmark = pytest.mark.fault(51)

MakeLan = Callable[..., Lan]

OTHER = {
    "TEST_PYTHON": "3.99",
    "PYTHONPATH": os.pathsep.join((str(Path(__file__).with_name("another_python")), str(REPOSITORY))),
}
"""The environment of the programs of a host that has another Python (`another_python/sitecustomize.py`)."""


def hosts(lan: MakeLan, *names: str) -> tuple[Lan, dict[str, Peer]]:
    """Hosts with a peer each. `other` has another Python, and more of everything: all would go there if it could."""
    network = lan(*names, "other")
    peers = {name: Peer(network[name]) for name in names}
    much = ("--num-cpus", "16", "--resources", '{"disk": 4}', "--labels", '{"zone": "far"}')
    peers["other"] = Peer(network["other"], *much, **OTHER)
    agree(*peers.values())
    return network, peers


def test_it_is_a_member_and_everybody_sees_why_it_gets_no_code(lan: MakeLan) -> None:
    network, peers = hosts(lan, "a", "b")
    for name in ("a", "b"):
        rows = {member["name"]: (member["python"], member["incompatible"]) for member in peers[name].mesh()["members"]}
        own = str(peers[name].status()["python"])
        assert rows == {"a": (own, False), "b": (own, False), "other": ("3.99", True)}
    assert "Python 3.99 (another version: gets no closures)" in network["a"].run(*CLI, "status")
    rows = {member["name"]: member["incompatible"] for member in peers["other"].mesh()["members"]}
    assert rows == {"a": True, "b": True, "other": False}
    network["a"].power_off()
    until(lambda: all(peers[name].states()[peers["a"].first] == "dead" for name in ("b", "other")), "both see a death")


def test_tasks_pass_it_by(lan: MakeLan) -> None:
    network, peers = hosts(lan, "a", "b")
    driver = Caller(network["a"])
    there, usual = node_of(peers["other"]), {driver.node, node_of(peers["b"])}
    driver.run(12, 0.5)
    assert {value["node"] for value in driver.get()} == usual
    driver.run(8, 0.0, scheduling_strategy="SPREAD")
    assert Counter(value["node"] for value in driver.get()) == dict.fromkeys(usual, 4)
    driver.run(4, 0.0, node=there, soft=True)
    assert {value["node"] for value in driver.get()} <= usual
    driver.tell(do="nest", count=4, options={"scheduling_strategy": "SPREAD"})
    assert {value["node"] for pair in driver.get() for value in pair} <= usual
    driver.run(1, 0.0, node=there)
    answer = driver.tell(do="get")
    assert answer["error"] == "TaskUnschedulableError", answer
    assert "another Python, on other" in answer["text"]
    driver.run(1, 0.0, resources={"disk": 1})
    until(lambda: any("another Python, on other" in line for line in driver.program.lines), "it says why none runs it")
    network.add("d")
    d = Peer(network["d"], "--resources", '{"disk": 1}')
    assert {value["node"] for value in driver.get()} == {node_of(d)}
    assert not has_of_others(peers["other"])


@pytest.mark.slow
def test_actors_pass_it_by_when_they_are_made_started_again_and_inherited(lan: MakeLan) -> None:
    network, peers = hosts(lan, "a", "b", "c")
    a, b = Driver(network["a"]), Driver(network["b"])
    there = node_of(peers["other"])
    lasting = {"max_restarts": -1, "max_task_retries": -1, "num_cpus": 0, "lifetime": "detached"}
    names = [f"log{number}" for number in range(6)]  # each has an heir of its own
    for name in names:
        a.do("create", name, options={"name": name, "scheduling_strategy": "SPREAD", **lasting})
        assert a.do("notes", name)["node"] != there
        b.do("find", name, name=name)
        b.do("notes", name)
    a.do("create", "asks for it", options={"node": there})
    with pytest.raises(Failed, match=r"ActorUnschedulableError.*another Python"):
        a.do("notes", "asks for it")
    network["a"].power_off()  # those that lived there start elsewhere, and all of them have new owners
    usual = {b.node, node_of(peers["c"])}
    for name in names:
        until(lambda name=name: finds(b, name), "it has a new owner")
        b.do("find", f"{name} again", name=name)
        assert b.do("notes", f"{name} again")["node"] in usual
    assert not has_of_others(peers["other"])


@pytest.mark.slow
def test_a_program_there_works_on_its_own_host(lan: MakeLan) -> None:
    network, peers = hosts(lan, "a", "b")
    there = node_of(peers["other"])
    driver = Caller(network["other"], **OTHER)
    assert driver.node == there
    driver.run(20, 0.5)  # more than there are CPUs
    assert {value["node"] for value in driver.get()} == {there}
    driver.run(4, 0.0, scheduling_strategy="SPREAD")
    assert {value["node"] for value in driver.get()} == {there}
    driver.run(1, 0.0, node=node_of(peers["a"]))
    answer = driver.tell(do="get")
    assert answer["error"] == "TaskUnschedulableError", answer
    stage = Driver(network["other"], **OTHER)
    stage.do("create", options={"scheduling_strategy": "SPREAD", "name": "log", "lifetime": "detached"})
    assert stage.do("notes")["node"] == there
    sharer = Sharer(network["other"], **OTHER)
    sharer.tell("make", name="x", size=3 * MB, seed=1, node=there)
    assert sharer.tell("get", name="x")["digest"] == expected(3 * MB, 1)
    assert all(copies(peers[name])["fetched"] == 0 for name in ("a", "b"))
    peers["other"].stop()
    assert not any(has_of_others(peers[name]) for name in ("a", "b")), "what it leaves nobody else can run"


def test_its_actors_are_not_found_and_their_names_are_taken_all_the_same(lan: MakeLan) -> None:
    """Calls may have code in them, and what they return as well."""
    network, _ = hosts(lan, "a")
    a, other = Driver(network["a"]), Driver(network["other"], **OTHER)
    for one, another, name in (a, other, "one"), (other, a, "two"):
        one.do("create", name, options={"name": name, "lifetime": "detached"})
        before = one.do("notes", name)
        with pytest.raises(Failed, match=r"ValueError.*another minor version of Python"):
            another.do("find", name, name=name)
        with pytest.raises(Failed, match=r"ActorAlreadyExistsError.*another minor version of Python"):
            another.do("create", name, options={"name": name, "get_if_exists": True})
        with pytest.raises(Failed, match="ActorAlreadyExistsError"):
            another.do("create", name, options={"name": name})
        one.do("find", "again", name=name)
        assert one.do("notes", "again") == before
        one.do("kill", name)
        until(lambda one=one, name=name: not finds(one, name), "the name is free")
        another.do("create", name, options={"name": name})
        assert another.do("notes", name)["node"] == another.node
