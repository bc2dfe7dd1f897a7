"""Tasks run on any host: where there is room, what is asked for, or where a program says; and again when one dies."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.lan.network import Host, Lan
from tests.lan.peers import Peer, agree
from tests.lan.test_members import PARTITION_S, SHORT_S, pause
from tests.until import until

MakeLan = Callable[..., Lan]


class Caller:
    """A running `tests.lan.caller`: a driver on a host. `folder` is where its tasks leave one file per execution."""

    def __init__(self, host: Host, **environment: str) -> None:
        self.host = host
        self.folder = host.folder / "executions"
        self.folder.mkdir()
        self.program = host.start("python", "-m", "tests.lan.caller", **environment)
        self._answers = 0
        self.node = str(self._answer()["node"])

    def _answer(self) -> dict[str, Any]:
        self._answers += 1
        until(lambda: len(self.program.json_lines()) >= self._answers or not self.program.running(), repr(self.program))
        found: list[dict[str, Any]] = self.program.json_lines()
        assert len(found) >= self._answers, self.program
        return found[self._answers - 1]

    def tell(self, **told: Any) -> dict[str, Any]:
        self.program.tell(json.dumps({"folder": str(self.folder), "seconds": 0.0, "count": 1, **told}))
        return self._answer()

    def run(self, count: int, seconds: float, **options: Any) -> None:
        """Submit tasks; `get` waits for them."""
        self.tell(do="run", count=count, seconds=seconds, options=options)

    def get(self) -> list[dict[str, Any]]:
        answer = self.tell(do="get")
        assert "values" in answer, answer
        values: list[dict[str, Any]] = answer["values"]
        return values

    def executions(self) -> int:
        return len(list(self.folder.iterdir()))

    def nodes(self) -> set[str]:
        """Where something has begun."""
        return {file.name.partition("-")[0] for file in self.folder.iterdir()}


def two(lan: MakeLan, *options: str, preset: str = "test") -> tuple[Lan, Peer, Peer, Caller]:
    """Hosts a and b with two CPUs each; b has `options` more. A driver on a."""
    network = lan("a", "b")
    a, b = (
        Peer(network["a"], "--labels", '{"zone": "near"}', preset=preset),
        Peer(network["b"], "--labels", '{"zone": "far"}', *options, preset=preset),
    )
    agree(a, b)
    return network, a, b, Caller(network["a"])


def at_once(values: list[dict[str, Any]]) -> bool:
    """Whether there was a moment at which all of them ran."""
    return max(value["began"] for value in values) < min(value["ended"] for value in values)


def test_four_tasks_run_at_once_on_two_hosts_of_two_cpus(lan: MakeLan) -> None:
    _, _, b, driver = two(lan)
    driver.run(4, 3.0)  # longer than the first worker of another host takes to have the program
    values = driver.get()
    counts = Counter(value["node"] for value in values)
    assert counts == {driver.node: 2, b.status()["node_id"]: 2}
    assert at_once(values)
    until(lambda: any("host=b) it runs" in line for line in driver.program.lines), "what they print is shown here")
    assert not any("host=a" in line for line in driver.program.lines)


def test_what_runs_elsewhere_is_not_shown_as_waiting(lan: MakeLan) -> None:
    _, a, b, driver = two(lan)
    driver.run(9, 60.0)
    until(lambda: driver.executions() == 4, "both hosts are full")
    until(lambda: [entry["count"] for entry in a.status()["waiting"]] == [5], f"five wait: {a.status()['waiting']}")
    assert all(entry["host"] == "a" for entry in b.status()["waiting"]), "the same ones, which wait there as well"
    driver.run(1, 0.0, resources={"tape": 1})
    until(lambda: any("tape" in entry["request"] for entry in a.status()["waiting"]), "it waits as well")
    (told,) = [entry for entry in a.status()["waiting"] if "tape" in entry["request"]]
    assert told["reason"].endswith("there is {CPU: 2, tape: 0} on this host, {CPU: 2, tape: 0} on b")


def test_what_only_the_other_host_has(lan: MakeLan) -> None:
    _, _, b, driver = two(lan, "--resources", '{"disk": 1}', "--num-gpus", "1")
    there = b.status()["node_id"]
    driver.run(2, 0.1, resources={"disk": 1})  # one after the other: there is one
    assert {value["node"] for value in driver.get()} == {there}
    driver.run(2, 0.1, num_gpus=0.5)
    assert {value["node"] for value in driver.get()} == {there}
    driver.run(2, 0.1, label_selector={"zone": "far"})
    assert {value["node"] for value in driver.get()} == {there}
    driver.run(2, 0.1, label_selector={"zone": "!far"})
    assert {value["node"] for value in driver.get()} == {driver.node}
    driver.run(2, 0.1, node=there)
    assert {value["node"] for value in driver.get()} == {there}
    driver.run(4, 0.1, scheduling_strategy="SPREAD")
    assert Counter(value["node"] for value in driver.get()) == {there: 2, driver.node: 2}
    told = driver.tell(do="nodes")
    rows = {node["NodeID"]: node for node in told["nodes"]}
    assert set(rows) == {there, driver.node}
    assert rows[there]["NodeName"] == "b"
    assert rows[there]["Alive"] is True
    assert rows[there]["Resources"]["disk"] == rows[there]["Resources"]["GPU"] == 1
    assert rows[there]["Labels"]["zone"] == "far"
    assert rows[there]["NodeManagerAddress"] == driver.host.ipv4.rpartition(".")[0] + ".2"
    assert told["total"]["CPU"] == 4
    assert told["total"]["disk"] == told["total"]["GPU"] == 1
    until(lambda: driver.tell(do="nodes")["available"]["CPU"] == 4, "all is free again")


def test_a_task_of_a_task_asks_the_peer_of_its_own_host(lan: MakeLan) -> None:
    _, _, b, driver = two(lan, "--resources", '{"disk": 1}')
    driver.tell(do="nest", count=4, seconds=0.1, options={"resources": {"disk": 0.5}})
    there = b.status()["node_id"]
    values = [value for pair in driver.get() for value in pair]
    assert {value["node"] for value in values} == {there}
    driver.tell(do="nest", count=4, seconds=0.1, options={"node": driver.node})
    values = [value for pair in driver.get() for value in pair]
    assert {value["node"] for value in values} == {driver.node}


def test_many_functions_of_which_no_worker_has_room_for_all(lan: MakeLan) -> None:
    _, _, b, driver = two(lan)
    there = b.status()["node_id"]
    for options in ({"node": there}, {"node": there}, {"scheduling_strategy": "SPREAD"}, {"node": driver.node}, {}):
        driver.tell(do="closures", count=100, options=options)  # a worker has room for eleven
        answer = driver.tell(do="get")
        assert answer["values"] == list(range(100)), answer


@pytest.mark.fault(5)
def test_a_host_that_dies_has_its_tasks_run_elsewhere(lan: MakeLan) -> None:
    network, _, b, driver = two(lan)
    driver.run(4, 4.0, max_retries=1)
    until(lambda: driver.executions() == 4, "all of them run")
    dead = b.status()["node_id"]
    network["b"].power_off()
    values = driver.get()
    assert {value["node"] for value in values} == {driver.node}
    assert driver.executions() == 6  # two ran twice
    told = [line for line in driver.program.lines if line.startswith("meshray: host b")]
    assert len(told) == 2, driver.program
    silent = "meshray: host b is not answering: what runs there is started again elsewhere once it is held for dead"
    assert told[0] == silent
    assert told[1].startswith("meshray: host b is dead: no answer")
    assert "; what ran there is started again elsewhere" in told[1]
    until(lambda: [node["Alive"] for node in driver.tell(do="nodes")["nodes"]] == [True, False], "its death is shown")
    driver.tell(do="run", options={"node": dead})
    answer = driver.tell(do="get")
    assert answer["error"] == "TaskUnschedulableError", answer
    assert dead in answer["text"]
    driver.run(2, 0.0, node=dead, soft=True)
    assert {value["node"] for value in driver.get()} == {driver.node}


@pytest.mark.fault(5)
def test_a_peer_that_is_killed_takes_its_workers_along_and_its_tasks_run_elsewhere(lan: MakeLan) -> None:
    """Its host goes on; nobody but the kernel and the workers themselves can end what ran there."""
    network, _, b, driver = two(lan)
    driver.run(2, 6.0, node=b.status()["node_id"], soft=True, max_retries=1)
    until(lambda: driver.executions() == 2, "they run there")
    assert len(set(network["b"].processes()) - {b.program.pid, b.asker.pid}) >= 2
    b.program.kill()
    until(lambda: set(network["b"].processes()) == {b.asker.pid}, "its workers are gone")
    assert {value["node"] for value in driver.get()} == {driver.node}
    assert driver.executions() == 4


@pytest.mark.slow
def test_no_retries_are_left_for_what_ran_on_a_dead_host(lan: MakeLan) -> None:
    network, _, _, driver = two(lan)
    driver.run(4, 4.0, max_retries=0)
    until(lambda: driver.executions() == 4, "all of them run")
    network["b"].power_off()
    answer = driver.tell(do="get")
    assert answer["error"] == "NodeDiedError", answer
    assert "is gone: host b is dead: no answer" in answer["text"]
    assert driver.executions() == 4


@pytest.mark.fault(21)
def test_a_short_partition_fails_nothing_and_doubles_nothing(lan: MakeLan) -> None:
    network, _, _, driver = two(lan, preset="default")
    driver.run(8, 3.0)
    until(lambda: len(driver.nodes()) == 2, "both hosts have begun")
    network.partition("a", "b")
    pause(PARTITION_S)
    network.heal()
    values = driver.get()
    assert len({value["node"] for value in values}) == 2
    assert driver.executions() == 8


@pytest.mark.slow
@pytest.mark.fault(12)
def test_a_short_stop_retries_nothing(lan: MakeLan) -> None:
    _, _, b, driver = two(lan)
    driver.run(8, 3.0)
    until(lambda: len(driver.nodes()) == 2, "both hosts have begun")
    b.program.signal(signal.SIGSTOP)
    pause(SHORT_S)
    b.program.signal(signal.SIGCONT)
    assert len({value["node"] for value in driver.get()}) == 2
    assert driver.executions() == 8


@pytest.mark.slow
@pytest.mark.fault(11)
def test_a_peer_that_wakes_after_its_death_sentence_gives_up_what_it_did_for_others(lan: MakeLan) -> None:
    network = lan("a", "b", "c")  # of two, each might hold the other for dead
    a, b, c = Peer(network["a"]), Peer(network["b"]), Peer(network["c"], "--num-cpus", "0")
    agree(a, b, c)
    driver = Caller(network["a"])
    driver.run(4, 10.0, max_retries=1)
    until(lambda: driver.executions() == 4, "all of them run")
    b.program.signal(signal.SIGSTOP)
    until(lambda: a.states()[b.first] == c.states()[b.first] == "dead", "it is held for dead")
    b.program.signal(signal.SIGCONT)
    until(lambda: b.mesh()["lives"] > 1, "it learns that")
    until(lambda: not any(p["state"] == "leased" for p in b.status()["processes"]), "nothing runs there for others")
    agree(a, b, c)
    values = driver.get()
    assert len(values) == 4
    assert driver.executions() == 6
    driver.run(4, 3.0)
    assert len({value["node"] for value in driver.get()}) == 2  # it is one of us again


def test_what_nobody_has_is_reported_and_runs_once_somebody_joins(lan: MakeLan) -> None:
    network = lan("a", "b", "c")
    a, b = Peer(network["a"]), Peer(network["b"])
    agree(a, b)
    driver = Caller(network["a"])
    driver.run(1, 0.0, resources={"disk": 1})
    until(lambda: any("disk: 1" in line and "on b" in line for line in driver.program.lines), "it says what is there")
    c = Peer(network["c"], "--resources", '{"disk": 2}')
    assert driver.get()[0]["node"] == c.status()["node_id"]


def test_a_driver_that_dies_leaves_nothing_on_other_hosts(lan: MakeLan) -> None:
    _, _, b, driver = two(lan)
    driver.run(4, 60.0)
    until(lambda: driver.executions() == 4, "all of them run")
    driver.program.kill()
    until(lambda: not any(p["state"] == "leased" for p in b.status()["processes"]), "its job is gone there")
