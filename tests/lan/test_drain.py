"""A member that is stopped drains: what runs there ends or is handed back, what lies there goes elsewhere."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.lan.network import Lan, Program
from tests.lan.peers import CLI, Peer, agree
from tests.lan.test_objects import MB, Sharer, copies, expected, home
from tests.lan.test_tasks import Caller
from tests.until import until

pytestmark = pytest.mark.fault(16)

MakeLan = Callable[..., Lan]


def members(lan: MakeLan, *names: str, options: tuple[str, ...] = (), **of: tuple[str, ...]) -> dict[str, Peer]:
    """Peers on hosts of these names, all with `options`, and some with more."""
    network = lan(*names)
    peers = {name: Peer(network[name], *options, *of.get(name, ())) for name in names}
    agree(*peers.values())
    return peers


def begin_stop(peer: Peer, work_s: float) -> Program:
    """`meshray stop` that has been heard."""
    stopping = peer.host.start(*CLI, "stop", "--timeout", f"{work_s:g}", **peer.environment)
    until(lambda: peer.logged("being stopped") or not peer.program.running(), f"it is told: {peer.program}")
    return stopping


def ended(peer: Peer, stopping: Program) -> None:
    assert peer.program.wait() == 0, peer.program
    assert stopping.wait() == 0, stopping
    assert any("stopped" in line for line in stopping.lines), stopping


def large_copies(peer: Peer) -> bool:
    """Whether it has any but that of the program's own folder."""
    return copies(peer)["come_bytes"] >= 5 * MB


def member_of(peer: Peer, other: str) -> dict[str, Any]:
    """How a peer sees another one, by its home."""
    return next(member for member in peer.mesh()["members"] if member["home"] == other)


def test_what_runs_there_ends_there_and_what_waits_goes_elsewhere(lan: MakeLan) -> None:
    """Not one execution too many, and nothing is charged: no task may be repeated."""
    peers = members(lan, "a", "b", options=("--resources", '{"disk": 2}'))
    driver, there = Caller(peers["a"].host), home(peers["b"])
    driver.run(2, 10.0, node=there, max_retries=0)  # on a busy machine the command alone takes seconds to start
    until(lambda: driver.executions() == 2, "they run there")
    driver.tell(do="run", key="more", count=6, seconds=0.2, options={"resources": {"disk": 1}, "max_retries": 0})
    stopping = begin_stop(peers["b"], 60.0)
    until(lambda: member_of(peers["a"], there)["leaving"], "all hear that it leaves")
    assert member_of(peers["a"], there)["state"] == "alive", peers["b"].program
    assert "leaves" in peers["a"].host.run(*CLI, "status"), peers["b"].program
    assert {value["node"] for value in driver.get()} == {there}
    answer = driver.tell(do="get", key="more")
    assert len(answer["values"]) == 6, answer
    ended(peers["b"], stopping)
    assert driver.executions() == 8
    until(lambda: peers["a"].states()[peers["b"].first] == "left", "it has said goodbye")


@pytest.mark.slow
def test_what_takes_too_long_is_handed_back_uncharged(lan: MakeLan) -> None:
    peers = members(lan, "a", "b", a=("--num-cpus", "2"))
    driver, there = Caller(peers["a"].host), home(peers["b"])
    driver.run(1, 10.0, node=there, soft=True, max_retries=1)
    driver.tell(do="run", key="once", count=1, seconds=600.0, options={"node": there, "max_retries": 0})
    until(lambda: driver.executions() == 2, "they run there")
    ended(peers["b"], begin_stop(peers["b"], 0.5))
    (value,) = driver.get()
    assert value["node"] == driver.node, "it ran again, here"
    answer = driver.tell(do="get", key="once")
    assert answer["error"] == "WorkerCrashedError", answer
    assert "host b left" in answer["text"]
    assert driver.executions() == 3, "what may run once is not run again"


def test_a_second_signal_ends_it_at_once(lan: MakeLan) -> None:
    peers = members(lan, "a", "b")
    driver, there = Caller(peers["a"].host), home(peers["b"])
    driver.run(1, 600.0, node=there, max_retries=0)
    until(lambda: driver.executions() == 1, "it runs there")
    peers["b"].program.signal(signal.SIGTERM)
    until(lambda: peers["b"].logged("being stopped (SIGTERM)"), "it has heard")
    began = time.monotonic()
    peers["b"].program.signal(signal.SIGTERM)
    assert peers["b"].program.wait() == 0, peers["b"].program
    assert time.monotonic() - began < 10.0, "its work would have had 10 s more"
    assert driver.tell(do="get")["error"] == "NodeDiedError"


def test_sole_copies_go_to_their_owners_host(lan: MakeLan) -> None:
    peers = members(lan, "a", "b", "c")
    driver, b, c = Sharer(peers["a"].host), home(peers["b"]), home(peers["c"])
    for name, seed in ("x", 1), ("y", 2), ("gone", 3):
        driver.tell("make", name=name, size=5 * MB, seed=seed, node=b)
        driver.tell("wait", name=name)
    full = peers["b"].status()["store"]["sealed_bytes"]
    driver.tell("drop", name="gone")
    until(lambda: peers["b"].status()["store"]["sealed_bytes"] < full, "nobody needs that one")
    ended(peers["b"], begin_stop(peers["b"], 5.0))
    assert copies(peers["a"])["fetched"] == 2
    assert large_copies(peers["a"])
    assert driver.tell("digest", names=["x", "y"], nodes=[c])["digests"] == [[expected(5 * MB, 1), expected(5 * MB, 2)]]
    assert driver.tell("get", name="x")["digest"] == expected(5 * MB, 1)
    driver.tell("drop", name="x")
    driver.tell("drop", name="y")
    until(lambda: not large_copies(peers["a"]) and not large_copies(peers["c"]), "the copies go with the objects")


@pytest.mark.slow
def test_a_copy_that_its_owners_host_has_no_room_for_goes_to_another_one(lan: MakeLan) -> None:
    small = ("--object-store-memory", str(8 * MB))
    peers = members(lan, "a", "b", "c", a=small)
    driver, b, c = Sharer(peers["a"].host), home(peers["b"]), home(peers["c"])
    driver.tell("make", name="x", size=20 * MB, seed=1, node=b)
    driver.tell("wait", name="x")
    ended(peers["b"], begin_stop(peers["b"], 5.0))
    assert not large_copies(peers["a"])
    assert large_copies(peers["c"])
    assert driver.tell("digest", names=["x"], nodes=[c])["digests"] == [[expected(20 * MB, 1)]]
    driver.tell("drop", name="x")
    until(lambda: not large_copies(peers["c"]), "the copy goes with the object")


@pytest.mark.slow
def test_programs_of_the_host_that_leaves_hear_why(lan: MakeLan) -> None:
    peers = members(lan, "a", "b")
    driver = Caller(peers["b"].host)
    driver.run(1, 600.0, node=driver.node, max_retries=3)
    until(lambda: driver.executions() == 1, "it runs there")
    ended(peers["b"], begin_stop(peers["b"], 0.5))
    answer = driver.tell(do="get")
    assert answer["error"] == "NodeDiedError"
    assert "was stopped (meshray stop)" in answer["text"]
    driver.program.tell("")


def test_status_tells_of_stores_and_homes(lan: MakeLan) -> None:
    peers = members(lan, "a", "b", b=("--object-store-memory", str(100 * MB)))
    driver, there = Sharer(peers["a"].host), home(peers["b"])
    driver.tell("make", name="x", size=5 * MB, seed=1, node=there)
    until(lambda: 5 * MB <= member_of(peers["a"], there)["store_used_bytes"] <= 10 * MB, "it is told by gossip")
    assert member_of(peers["a"], there)["store_total_bytes"] == 100 * MB
    text = peers["a"].host.run(*CLI, "status")
    assert there in text
    assert "store " in text
    assert json.loads(peers["a"].host.run(*CLI, "status", "--json"))[0]["leaving"] == ""


def test_actors_go_on_elsewhere_uncharged_if_they_may_start_again(lan: MakeLan) -> None:
    """One that may, one that may not; each lives on the host that leaves, and belongs to the other one."""
    peers = members(lan, "a", "b", b=("--resources", '{"disk": 2}'))
    program = peers["a"].host.start("python", "-m", "tests.lan.lodgers")
    until(lambda: "ready" in program.lines, repr(program))
    ended(peers["b"], begin_stop(peers["b"], 5.0))
    program.tell("")
    assert program.wait() == 0, program
    lines = program.lines
    assert "the call that ran: done" in lines, program
    assert f"after that: {home(peers['a'])}, restarted" in lines, program
    (died,) = [line for line in lines if line.startswith("the other one: ActorDiedError")]
    assert "its host b was stopped" in died


@pytest.mark.slow
@pytest.mark.parametrize("which", ["sockets", "store"])
def test_a_member_whose_folder_is_taken_away_ends_and_others_take_its_work(lan: MakeLan, which: str) -> None:
    """As systemd does when the last login of a user ends: no worker that it starts there could attach."""
    peers = members(lan, "a", "b", options=("--resources", '{"disk": 2}'))
    a, b = peers["a"], peers["b"]
    driver, there = Caller(a.host), home(b)
    driver.run(1, 3.0, node=there, max_retries=0)
    until(lambda: driver.executions() == 1, "it runs there")
    if which == "sockets":
        run = b.host.folder / "run"
        run.rename(b.host.folder / "taken away")
        run.mkdir(mode=0o700)
    else:
        b.host.run("mv", f"/dev/shm/meshray-{os.getuid()}", "/dev/shm/taken away")
    driver.tell(do="run", key="more", count=4, seconds=0.1, options={"resources": {"disk": 1}, "max_retries": 0})
    assert [value["node"] for value in driver.get()] == [there], b.program
    assert len(driver.tell(do="get", key="more")["values"]) == 4, b.program
    assert b.program.wait() == 1, b.program
    assert b.logged("loginctl enable-linger"), b.program
    until(lambda: a.states()[b.first] == "left", "it has said goodbye")
