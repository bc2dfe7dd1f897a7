"""Two hosts that cannot reach each other, while a third one sees both: work goes where it can, and comes back.

All use the `test` preset: a link is given up 6 s after the last word, and nobody is declared dead, since the third host
vouches for both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.lan.network import Lan
from tests.lan.peers import Peer, agree
from tests.lan.test_actors import ONLY_B, Driver, node_of
from tests.lan.test_objects import MB, Sharer, expected, home
from tests.lan.test_road import Speaker
from tests.lan.test_tasks import Caller
from tests.until import until

MakeLan = Callable[..., Lan]


def cut(network: Lan, both_ways: bool = True) -> None:
    """Nothing passes from a to b, or both ways."""
    network.rule("a", "b", block=True)
    if both_ways:
        network.rule("b", "a", block=True)


def speaks(one: Speaker, other: Speaker) -> bool:
    """One says something: whether it is answered, and not told that the other one's host is gone."""

    def told() -> tuple[int, int]:
        look = one.look()
        return look["heard"].get("Results", 0), len(look["gone"])

    before = told()
    one.say(other, 1)
    until(lambda: told() != before, "an answer, or that there is none")
    return told()[0] > before[0]


@pytest.mark.parametrize(
    "both_ways",
    [
        pytest.param(True, marks=pytest.mark.fault(24)),
        pytest.param(False, marks=[pytest.mark.slow, pytest.mark.fault(23)]),
    ],
)
def test_a_pair_gives_each_other_up_and_speaks_anew(lan: MakeLan, both_ways: bool) -> None:
    network = lan("a", "b", "c")
    a, b, c = (Peer(host) for host in network.hosts.values())
    agree(a, b, c)
    one, other, third = (Speaker(host) for host in network.hosts.values())
    assert speaks(one, other)
    assert speaks(other, one)
    cut(network, both_ways)  # nobody says anything: it is noticed all the same
    until(lambda: one.look()["gone"] == [node_of(b)], "a has given b up")
    until(lambda: other.look()["gone"] == [node_of(a)], "and b a")
    assert speaks(third, one)
    assert speaks(third, other)
    assert not speaks(one, other)
    agree(a, b, c)
    assert (a.mesh()["lives"], b.mesh()["lives"]) == (1, 1)
    network.heal()
    until(lambda: speaks(one, other), "they speak again")
    until(lambda: speaks(other, one), "both ways")
    assert (a.mesh()["lives"], b.mesh()["lives"]) == (1, 1), "nobody was declared dead"
    assert third.look()["gone"] == []


@pytest.mark.slow
@pytest.mark.fault(24)
def test_tasks_run_where_they_can_be_reached(lan: MakeLan) -> None:
    network = lan("a", "b", "c")
    a, b, c = Peer(network["a"], "--num-cpus", "0"), Peer(network["b"]), Peer(network["c"])
    agree(a, b, c)
    driver = Caller(network["a"])
    driver.run(4, 9.0, max_retries=1)
    until(lambda: driver.executions() == 4, "all of them run")
    cut(network)
    values = driver.get()
    assert Counter(value["node"] for value in values) == {node_of(c): 4}
    assert driver.executions() == 6
    driver.run(4, 0.1)
    assert {value["node"] for value in driver.get()} == {node_of(c)}
    driver.tell(do="run", options={"node": node_of(b)})
    answer = driver.tell(do="get", timeout=2.0)
    assert answer["error"] == "GetTimeoutError", "it lives, and waits for a way there"
    network.heal()
    answer = driver.tell(do="get")
    assert "values" in answer, answer
    driver.run(4, 3.0)  # longer than a worker takes to start
    assert {value["node"] for value in driver.get()} == {node_of(b), node_of(c)}


@pytest.mark.slow
@pytest.mark.fault(24)
def test_values_come_from_where_they_can_be_reached(lan: MakeLan) -> None:
    network = lan("a", "b", "c", offload=True)
    peers = {name: Peer(network[name]) for name in ("a", "b", "c")}
    agree(*peers.values())
    driver = Sharer(network["a"])
    size = 5 * MB
    for name, seed in (("x", 1), ("y", 2)):
        driver.tell("make", name=name, size=size, seed=seed, node=home(peers["b"]), retries=0)
    assert driver.tell("digest", names=["x"], nodes=[home(peers["c"])])["digests"] == [[expected(size, 1)]]
    driver.tell("wait", name="y")
    cut(network)
    driver.begin("get", name="x")
    answer = driver.answer()
    assert answer.get("digest") == expected(size, 1), answer
    driver.begin("get", name="y")
    answer = driver.answer()
    assert answer.get("error") == "ObjectLostError", answer
    network.heal()

    def made_there() -> bool:
        driver.begin("make", name="z", size=size, seed=3, node=home(peers["b"]))
        assert "error" not in driver.answer()
        driver.begin("get", name="z")
        answer = driver.answer()
        assert answer.get("digest") == expected(size, 3) or answer.get("error") == "TaskUnschedulableError", answer
        return "digest" in answer

    until(made_there, "b makes and gives values again")


@pytest.mark.slow
@pytest.mark.fault(24)
def test_a_value_that_one_reader_cannot_reach_comes_by_way_of_its_owners_host(lan: MakeLan) -> None:
    """Nothing is made again: nothing could be."""
    network = lan("a", "b", "c", offload=True)
    peers = {name: Peer(network[name]) for name in network.hosts}
    agree(*peers.values())
    driver = Sharer(network["a"])
    b, c = home(peers["b"]), home(peers["c"])
    one, other = Speaker(network["b"]), Speaker(network["c"])
    assert speaks(one, other)
    network.partition("b", "c")
    until(lambda: one.look()["gone"] == [c], "b has given c up")
    until(lambda: other.look()["gone"] == [b], "and c b")
    size = 5 * MB
    for name, seed in (("x", 1), ("y", 2)):
        driver.tell("make", name=name, size=size, seed=seed, node=b, soft=True, retries=0)
        driver.tell("wait", name=name)
    assert driver.tell("digest", names=["x"], nodes=[c])["digests"] == [[expected(size, 1)]]
    assert driver.tell("digest", names=["y"], nodes=[c], nested=True)["digests"] == [[expected(size, 2)]]
    assert driver.tell("get", name="x")["digest"] == expected(size, 1)
    assert driver.tell("get", name="y")["digest"] == expected(size, 2)


@pytest.mark.slow
@pytest.mark.fault(24)
def test_an_actor_starts_where_its_owner_can_reach_it_and_lives_once(lan: MakeLan) -> None:
    network = lan("a", "b", "c")
    peers = {name: Peer(network[name], *(ONLY_B if name != "a" else ())) for name in network.hosts}
    agree(*peers.values())
    driver = Driver(network["a"])
    driver.do("create", options={"resources": {"slot": 1}, "max_restarts": -1, "max_task_retries": -1})
    first = driver.do("notes")
    name = next(name for name, peer in peers.items() if node_of(peer) == first["node"])
    (other,) = {"b", "c"} - {name}
    network.partition("a", name)
    driver.do("call", count=20)
    assert driver.do("wait") == {"count": 20, "errors": []}
    found = driver.do("notes")
    assert found["node"] == node_of(peers[other])
    assert found["notes"] == {f"driver on {driver.node}": list(range(20))}
    assert not any(each["pid"] == first["pid"] for each in peers[name].status()["processes"]), "it has ended there"
    network.heal()
    driver.do("call", count=5)
    assert driver.do("wait") == {"count": 5, "errors": []}


@pytest.mark.slow
@pytest.mark.fault(25)
def test_a_ring_in_which_each_reaches_its_neighbours_only(lan: MakeLan) -> None:
    network = lan("a", "b", "c", "d")
    peers = {name: Peer(network[name], *(("--num-cpus", "0") if name == "a" else ())) for name in network.hosts}
    agree(*peers.values())
    driver = Caller(network["a"])
    driver.run(6, 9.0, max_retries=1)
    until(lambda: driver.executions() == 6, "all of them run")
    network.partition("a", "c")
    network.partition("b", "d")
    values = driver.get()
    assert {value["node"] for value in values} == {node_of(peers["b"]), node_of(peers["d"])}
    assert driver.executions() == 8, "those of c ran twice, and no others"
    assert all(peer.mesh()["lives"] == 1 for peer in peers.values())
    network.heal()
    agree(*peers.values())
