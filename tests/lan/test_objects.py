"""Large values go where they are needed: from the host that made them, or from one that has a copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.lan.network import Host, Lan
from tests.lan.peers import Peer, agree
from tests.lan.test_road import Speaker
from tests.until import until

MakeLan = Callable[..., Lan]
SHARER = Path(__file__).with_name("sharer.py")

MB = 1_000_000
FRAME_BYTES = 1514


@cache
def expected(size: int, seed: int) -> str:
    """The digest of a value (see `tests.lan.sharer`)."""
    from tests.lan.sharer import digest, value

    return digest(value(size, seed))


class Sharer:
    """A running `tests.lan.sharer`, in a folder of its own: what goes along to other hosts is small, and no value in a
    store that would be counted with the others."""

    def __init__(self, host: Host, **environment: str) -> None:
        self.host = host
        folder = host.folder / "program"
        folder.mkdir()
        shutil.copy(SHARER, folder)
        self.program = host.start("python", str(folder / SHARER.name), **environment)
        self._answers = 0
        self.node = str(self.answer()["node"])

    def answer(self) -> dict[str, Any]:
        self._answers += 1
        until(lambda: len(self.program.json_lines()) >= self._answers or not self.program.running(), repr(self.program))
        found: list[dict[str, Any]] = self.program.json_lines()
        assert len(found) >= self._answers, self.program
        return found[self._answers - 1]

    def begin(self, do: str, **told: Any) -> None:
        self.program.tell(json.dumps({"do": do, **told}))

    def tell(self, do: str, **told: Any) -> dict[str, Any]:
        self.begin(do, **told)
        answer = self.answer()
        assert "error" not in answer, answer
        return answer


def start(lan: MakeLan, *names: str, **options: Any) -> tuple[Lan, dict[str, Peer], Sharer]:
    """Hosts, and a driver on the first one."""
    network = lan(*names, **options)
    peers = {name: Peer(network[name]) for name in names}
    agree(*peers.values())
    return network, peers, Sharer(network[names[0]])


def home(peer: Peer) -> str:
    return str(peer.status()["node_id"])


def copies(peer: Peer) -> dict[str, int]:
    """What it has of values of other hosts, and has served."""
    found: dict[str, int] = peer.status()["store"]["copies"]
    return found


def in_use(peer: Peer) -> int:
    """Bytes of its store that hold living objects."""
    return int(peer.status()["store"]["sealed_bytes"])


def test_a_value_goes_to_the_task_that_needs_it(lan: MakeLan) -> None:
    _, peers, driver = start(lan, "a", "b", offload=True)
    size = 50 * MB
    driver.tell("put", name="x", size=size, seed=1)
    b = home(peers["b"])
    assert driver.tell("digest", names=["x"], nodes=[b])["digests"] == [[expected(size, 1)]]
    fetched = copies(peers["b"])["fetched"]
    assert fetched == 1
    assert driver.tell("digest", names=["x"], nodes=[b, b], nested=True)["digests"] == [[expected(size, 1)]] * 2
    assert copies(peers["b"])["fetched"] == 1, "one copy serves all processes of a host"
    driver.tell("drop", name="x")
    until(lambda: in_use(peers["a"]) == 0, "its owner frees it")
    until(lambda: copies(peers["b"])["whole"] == 0, "its copy goes with it")


def test_a_result_comes_back_from_the_host_that_made_it(lan: MakeLan) -> None:
    _, peers, driver = start(lan, "a", "b", offload=True)
    size = 50 * MB
    driver.tell("make", name="y", size=size, seed=2, node=home(peers["b"]))
    assert driver.tell("get", name="y")["digest"] == expected(size, 2)
    assert in_use(peers["b"]) > size, "it lies where it was made"
    assert driver.tell("get", name="y")["digest"] == expected(size, 2)
    assert copies(peers["a"])["fetched"] == 1
    driver.tell("drop", name="y")
    until(lambda: in_use(peers["b"]) == 0, "it is freed where it lies")
    until(lambda: copies(peers["a"])["whole"] == 0, "its copy goes with it")


@pytest.mark.slow
def test_references_go_round_and_what_they_stand_for_stays(lan: MakeLan) -> None:
    _, peers, driver = start(lan, "a", "b", "c", offload=True)
    size = 3 * MB
    driver.tell("make", name="x", size=size, seed=3, node=home(peers["b"]))
    for name in ("c", "b", "c"):
        driver.tell("pass", name="x", node=home(peers[name]))
    assert driver.tell("digest", names=["x"], nodes=[home(peers["c"])])["digests"] == [[expected(size, 3)]]
    assert driver.tell("get", name="x")["digest"] == expected(size, 3)
    driver.tell("drop", name="x")
    until(lambda: all(in_use(peer) == 0 for peer in peers.values()), "it is freed")


@pytest.mark.fault(5, 61)
def test_a_reference_on_another_host_keeps_a_value_until_that_host_dies(lan: MakeLan) -> None:
    network, peers, driver = start(lan, "a", "b", offload=True)
    size, b = 3 * MB, home(peers["b"])
    driver.tell("put", name="x", size=size, seed=7)
    driver.tell("keep", name="x", node=b)
    driver.tell("drop", name="x")
    assert driver.tell("raw", size=size, seed=8, node=b)["digests"] == [[expected(size, 8)]]
    until(lambda: size <= in_use(peers["a"]) < 2 * size, "the argument is gone, and what is kept there stays")
    network["b"].power_off()
    until(lambda: in_use(peers["a"]) == 0, "it is freed when nobody can have it any more")


@pytest.mark.fault(44)
def test_those_that_have_a_copy_serve_others(lan: MakeLan) -> None:
    _, peers, driver = start(lan, "a", "b", "c", "d", offload=True)
    size = 40 * MB
    driver.tell("put", name="x", size=size, seed=4)
    nodes = [home(peers[name]) for name in ("b", "c", "d")]
    assert driver.tell("digest", names=["x"], nodes=nodes)["digests"] == [[expected(size, 4)]] * 3
    served = {name: copies(peer)["served_bytes"] for name, peer in peers.items()}
    assert served["a"] < 2 * size, f"the host that made it served more than half of it all: {served}"
    assert sum(served.values()) <= 3.2 * size, f"hardly anything went twice: {served}"


@pytest.mark.slow
@pytest.mark.fault(30)
def test_a_source_that_dies_halfway_is_replaced_by_another_copy(lan: MakeLan) -> None:
    network, peers, driver = start(lan, "a", "b", "c", offload=True)
    size = 40 * MB
    driver.tell("make", name="x", size=size, seed=5, node=home(peers["b"]))
    assert driver.tell("digest", names=["x"], nodes=[home(peers["c"])])["digests"] == [[expected(size, 5)]]
    network.rule(["b", "c"], "a", rate=100e6, queue_bytes=300_000)
    driver.begin("get", name="x")
    until(lambda: copies(peers["a"])["come_bytes"] > 4 * MB, "some of it has come")
    assert copies(peers["a"])["fetching"] == 1
    network["b"].power_off()
    answer = driver.answer()
    assert answer.get("digest") == expected(size, 5), answer


@pytest.mark.slow
@pytest.mark.fault(31)
def test_a_transfer_that_stalls_goes_on_from_another_copy(lan: MakeLan) -> None:
    """Large packets of its source vanish, so no more of it comes; what is small passes, and the source is a member."""
    network, peers, driver = start(lan, "a", "b", "c")
    size = 20 * MB
    driver.tell("make", name="x", size=size, seed=5, node=home(peers["b"]))
    assert driver.tell("digest", names=["x"], nodes=[home(peers["c"])])["digests"] == [[expected(size, 5)]]
    before = {name: copies(peers[name])["served_bytes"] for name in ("b", "c")}
    network.rule(["b", "c"], "a", rate=40e6, queue_bytes=300_000)
    driver.begin("get", name="x")
    until(lambda: copies(peers["a"])["come_bytes"] > 4 * MB, "some of it has come")
    served = {name: copies(peers[name])["served_bytes"] - count for name, count in before.items()}
    source = max(served, key=served.__getitem__)
    network.rule(source, "a", frame_max_bytes=600)
    answer = driver.answer()
    assert answer.get("digest") == expected(size, 5), answer
    assert peers["a"].states()[peers[source].first] in ("alive", "suspect")
    assert peers["a"].mesh()["lives"] == peers[source].mesh()["lives"] == 1
    (other,) = set(before) - {source}
    assert copies(peers[other])["served_bytes"] - before[other] > size // 2, "the rest came from there"


@pytest.mark.slow
@pytest.mark.fault(22)
def test_results_stay_on_a_host_that_was_cut_off_while_they_are_needed(lan: MakeLan) -> None:
    network, peers, driver = start(lan, "a", "b", offload=True)
    size, b = 3 * MB, home(peers["b"])
    for seed, name in enumerate(("needed", "dropped")):
        driver.tell("make", name=name, size=size, seed=seed, node=b)
        driver.tell("wait", name=name)
    assert in_use(peers["b"]) > 2 * size
    network.partition("a", "b")
    until(lambda: all("is gone for what runs here" in repr(peer.program) for peer in peers.values()), "both see it")
    driver.tell("drop", name="dropped")
    network.heal()
    agree(*peers.values())
    until(lambda: in_use(peers["b"]) < 2 * size, "what nobody needs any more goes with the time of doubt")
    assert driver.tell("get", name="needed")["digest"] == expected(size, 0)
    driver.tell("drop", name="needed")
    until(lambda: in_use(peers["b"]) == 0, "and the other one when it is dropped")


@pytest.mark.fault(5)
def test_a_value_whose_only_host_is_gone_is_lost_and_that_is_said(lan: MakeLan) -> None:
    network, peers, driver = start(lan, "a", "b", offload=True)
    driver.tell("make", name="x", size=5 * MB, seed=6, node=home(peers["b"]), retries=0)
    driver.tell("put there", name="y", size=5 * MB, node=home(peers["b"]))
    driver.tell("wait", name="x")
    there = home(peers["b"])
    network["b"].power_off()
    driver.begin("get", name="x")
    answer = driver.answer()
    assert answer.get("error") == "ObjectLostError", answer
    assert f"lay on host b (node {there})" in answer["text"]
    assert "It is not made again: its owner has nothing to make it again of" in answer["text"]
    driver.begin("get", name="y")
    answer = driver.answer()
    assert answer.get("error") == "OwnerDiedError", answer
    driver.tell("drop", name="x")


@cache
def grown(size: int, seed: int, times: int) -> str:
    from tests.lan.sharer import digest, value

    return digest(value(size, seed) + times)


@pytest.mark.fault(5, 64)
def test_results_whose_only_host_is_gone_are_made_again(lan: MakeLan) -> None:
    network, peers, driver = start(lan, "a", "b", "c", offload=True)
    size, b, c = 3 * MB, home(peers["b"]), home(peers["c"])
    driver.tell("make", name="x", size=size, seed=9, node=b, soft=True)
    driver.tell("grow", name="y", of="x", node=b)
    driver.tell("grow", name="z", of="y", node=b)
    driver.tell("grow", name="last", of="z", node=b)
    driver.tell("wait", name="last")
    driver.tell("drop", name="y")
    until(lambda: in_use(peers["b"]) < 4 * size, "y is freed")
    network["b"].power_off()
    digests = driver.tell("digest", names=["x"], nodes=[c])["digests"]
    assert digests == [[expected(size, 9)]], "the argument of a task that has begun to run"
    digests = driver.tell("digest", names=["z"], nodes=[c], nested=True)["digests"]
    assert digests == [[grown(size, 9, 2)]], "one that another host asks for, and that is made of what was freed"
    assert driver.tell("get", name="last")["digest"] == grown(size, 9, 3)
    for name in ("x", "z", "last"):
        driver.tell("drop", name=name)
    until(lambda: in_use(peers["a"]) + in_use(peers["c"]) == 0, "nothing is left of what was made twice")


@pytest.mark.slow
@pytest.mark.fault(5)
def test_an_actor_waits_for_arguments_that_are_made_again(lan: MakeLan) -> None:
    network, peers, driver = start(lan, "a", "b", "c", offload=True)
    size, b, c = 3 * MB, home(peers["b"]), home(peers["c"])
    driver.tell("make", name="x", size=size, seed=10, node=b, soft=True)
    driver.tell("wait", name="x")
    network["b"].power_off()
    assert driver.tell("call", names=["x"], node=c)["digests"] == [expected(size, 10)]


@pytest.mark.slow
@pytest.mark.fault(5)
def test_it_is_made_again_as_often_as_its_retries_allow(lan: MakeLan) -> None:
    network = lan("a", "b", "c", offload=True)
    peers = {name: Peer(network[name], *(("--num-cpus", "0") if name == "a" else ())) for name in ("a", "b", "c")}
    agree(*peers.values())
    driver = Sharer(network["a"])
    size = 3 * MB
    driver.tell("make", name="x", size=size, seed=11, node=home(peers["b"]), soft=True, retries=1)
    driver.tell("wait", name="x")
    network["b"].power_off()
    assert driver.tell("digest", names=["x"], nodes=[home(peers["c"])])["digests"] == [[expected(size, 11)]]
    network["c"].power_off()
    driver.begin("get", name="x")
    answer = driver.answer()
    assert answer.get("error") == "ObjectReconstructionFailedError", answer
    assert "no retries are left" in answer["text"]


@pytest.mark.slow
@pytest.mark.fault(29)
def test_a_word_is_not_behind_a_value_on_a_slow_link(lan: MakeLan) -> None:
    """The network keeps 8 MB before it drops anything, and whatever it keeps comes before the next word."""
    network, peers, driver = start(lan, "a", "b")
    one, other = Speaker(network["a"]), Speaker(network["b"])
    size = 16 * MB
    driver.tell("make", name="x", size=size, seed=9, node=home(peers["b"]))
    driver.tell("wait", name="x")
    network["b"].run("sh", "-c", "echo reno > /proc/sys/net/ipv4/tcp_congestion_control")  # it fills any queue
    network.rule("b", "a", rate=10e6, queue_bytes=8 * MB)
    driver.begin("get", name="x")

    def come() -> int:
        return copies(peers["a"])["come_bytes"]

    until(lambda: come() > 3 * MB, "some of it has come")
    queued = []
    answers = 0
    while come() < size * 3 // 4:
        one.say(other, 1)
        answers += 1
        until(lambda answers=answers: one.look()["heard"].get("Results") == answers, "the answer")  # type: ignore[misc]
        counts = network.stats()["b>a"]
        queued.append(counts["in"] - sum(counts.get(end, 0) for end in ("out", "lost", "overflowed", "refused")))
    assert max(queued) * FRAME_BYTES < MB // 2, f"so many frames waited in the network at a time: {queued}"
    answer = driver.answer()
    assert answer.get("digest") == expected(size, 9), answer
