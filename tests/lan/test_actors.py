"""Actors on any host: placed, called, found, started again, and ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.lan.network import Host, Lan
from tests.lan.peers import Peer, agree
from tests.until import until

MakeLan = Callable[..., Lan]


class Failed(Exception):
    """What was asked for ended with an error; its type and text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Driver:
    """A running `tests.lan.stage`."""

    def __init__(self, host: Host, **environment: str) -> None:
        self.host = host
        self.program = host.start("python", "-m", "tests.lan.stage", **environment)
        self._answers = 0
        self.node = str(self._answer())

    def _answer(self) -> Any:
        self._answers += 1
        until(lambda: len(self.program.json_lines()) >= self._answers or not self.program.running(), repr(self.program))
        found: list[dict[str, Any]] = self.program.json_lines()
        assert len(found) >= self._answers, self.program
        answer = found[self._answers - 1]
        if "error" in answer:
            raise Failed(answer["error"], answer["text"])
        return answer["answer"]

    def do(self, what: str, key: str = "log", **told: Any) -> Any:
        self.begin(what, key, **told)
        return self._answer()

    def begin(self, what: str, key: str = "log", **told: Any) -> None:
        """Without waiting for the answer; `end` does."""
        self.program.tell(json.dumps({"do": what, "key": key, **told}))

    def end(self) -> Any:
        return self._answer()

    def leave(self) -> None:
        self.program.tell(json.dumps({"do": "end"}))
        assert self._answer() == "ended"
        assert self.program.wait() == 0, self.program


def node_of(peer: Peer) -> str:
    """Its home: what its processes are named by."""
    return str(peer.status()["node_id"])


def hosts(lan: MakeLan, *names: str, **options: tuple[str, ...]) -> tuple[Lan, dict[str, Peer]]:
    """Hosts with a peer each; `options` by name."""
    network = lan(*names)
    peers = {name: Peer(network[name], *options.get(name, ())) for name in names}
    agree(*peers.values())
    return network, peers


ONLY_B = ("--resources", '{"slot": 4}')


class TestAnywhere:
    def test_an_actor_lives_where_its_resource_is_and_is_called_from_everywhere_in_order(self, lan: MakeLan) -> None:
        network, peers = hosts(lan, "a", "b", "c", b=ONLY_B)
        a = Driver(network["a"])
        a.do("create", options={"resources": {"slot": 1}})
        a.do("call", count=500)
        assert a.do("wait") == {"count": 500, "errors": []}
        assert a.do("relay", node=node_of(peers["c"]), count=100) == list(range(100))
        assert a.do("relay", node=node_of(peers["b"]), count=100) == list(range(100))
        found = a.do("notes")
        assert found["node"] == node_of(peers["b"])
        assert found["notes"][f"driver on {a.node}"] == list(range(500))
        assert sorted(map(len, found["notes"].values())) == [100, 100, 500]
        assert all(numbers == sorted(numbers) for numbers in found["notes"].values())
        a.do("kill")
        a.do("call", count=1)
        assert a.do("wait") == {"count": 1, "errors": ["ActorDiedError"]}

    @pytest.mark.slow
    def test_an_actor_that_was_placed_by_its_node_ends_with_its_last_handle_on_any_host(self, lan: MakeLan) -> None:
        network, peers = hosts(lan, "a", "b", "c")
        a = Driver(network["a"])
        a.do("create", options={"node": node_of(peers["b"])})
        pid = a.do("notes")["pid"]
        assert a.do("keep", node=node_of(peers["c"])) == node_of(peers["c"])
        assert a.do("kept", count=50) == list(range(50))

        def runs() -> bool:
            return any(each["pid"] == pid for each in peers["b"].status()["processes"])

        assert runs()
        a.do("drop")  # the keeper goes, and with it the last handle
        until(lambda: not runs(), "the actor ends")

    def test_nobody_is_asked_for_what_nobody_has(self, lan: MakeLan) -> None:
        network, _ = hosts(lan, "a", "b")
        a = Driver(network["a"])
        a.do("create", options={"resources": {"nowhere": 1}})
        until(lambda: any("nowhere" in line for line in a.program.lines), "the driver is told")
        a.do("create", "other", options={"node": "00" * 8})
        with pytest.raises(Failed, match=r"ActorUnschedulableError.*no such node"):
            a.do("notes", "other")


class TestFailures:
    @pytest.mark.fault(5)
    def test_a_host_that_dies_takes_its_actors_along_and_they_start_elsewhere(self, lan: MakeLan) -> None:
        network, peers = hosts(lan, "a", "b", "c", b=ONLY_B, c=ONLY_B)
        a = Driver(network["a"])
        a.do("create", options={"resources": {"slot": 1}, "max_restarts": 1, "max_task_retries": -1})
        first = a.do("notes")["node"]
        name = next(name for name, peer in peers.items() if node_of(peer) == first)
        assert name != "a"
        network[name].power_off()
        a.do("call", count=20)
        assert a.do("wait") == {"count": 20, "errors": []}
        found = a.do("notes")
        assert found["node"] not in (first, a.node)
        assert found["notes"] == {f"driver on {a.node}": list(range(20))}

    @pytest.mark.slow
    @pytest.mark.fault(3, 5)
    def test_without_restarts_calls_fail_and_say_why(self, lan: MakeLan) -> None:
        network, _ = hosts(lan, "a", "b", b=ONLY_B)
        a = Driver(network["a"])
        a.do("create", options={"resources": {"slot": 1}})
        a.do("notes")
        network["b"].power_off()
        a.do("call", count=3)
        errors = a.do("wait")["errors"]
        assert set(errors) <= {"ActorDiedError", "ActorUnavailableError"}
        assert len(errors) == 3
        with pytest.raises(Failed, match="ActorDiedError"):
            a.do("notes")

    @pytest.mark.fault(5, 9)
    def test_an_owner_that_dies_takes_its_actors_along(self, lan: MakeLan) -> None:
        network, peers = hosts(lan, "a", "b", "c", b=ONLY_B)
        a, c = Driver(network["a"]), Driver(network["c"])
        a.do("create", options={"resources": {"slot": 1}, "name": "log", "namespace": "stage"})
        c.do("find", name="log")
        pid = c.do("notes")["pid"]
        network["a"].power_off()
        until(lambda: all(each["pid"] != pid for each in peers["b"].status()["processes"]), "b has ended it")
        with pytest.raises(Failed, match="ActorDiedError"):
            c.do("notes")
        until(lambda: not finds(c, "log"), "its name is nobody's")

    @pytest.mark.fault(7)
    def test_a_driver_that_ends_takes_its_actors_along_everywhere(self, lan: MakeLan) -> None:
        network, peers = hosts(lan, "a", "b", b=ONLY_B)
        a = Driver(network["a"])
        a.do("create", options={"resources": {"slot": 1}})
        a.do("notes")
        a.leave()
        until(lambda: all(each["kind"] != "actor" for each in peers["b"].status()["processes"]), "b has ended it")


def finds(driver: Driver, name: str) -> bool:
    try:
        driver.do("find", "another", name=name)
    except Failed as error:
        if error.kind != "ValueError":
            raise
        return False
    return True


def bound_to_a_stopped_host(lan: MakeLan, max_restarts: int) -> tuple[dict[str, Peer], Driver]:
    """The detached actor "log" asks for the host `a`, where its program has ended, and which is stopped. The peers, and
    a program on `b` that has called it before."""
    network, peers = hosts(lan, "a", "b")
    a = Driver(network["a"])
    a.do("create", options={"name": "log", "lifetime": "detached", "max_restarts": max_restarts, "node": a.node})
    assert a.do("notes")["node"] == a.node
    a.leave()
    b = Driver(network["b"])
    b.do("find", name="log")
    assert b.do("notes")["node"] == a.node
    peers["a"].stop()
    return peers, b


class TestNames:
    def test_a_named_actor_is_found_from_every_host_and_only_one_is_made(self, lan: MakeLan) -> None:
        network, _ = hosts(lan, "a", "b", "c")
        drivers = [Driver(host) for host in network.hosts.values()]
        options = {"name": "log", "get_if_exists": True, "lifetime": "detached"}
        for driver in drivers:  # all at once
            driver.begin("create", options=options)
        for driver in drivers:
            driver.end()
        for driver in drivers:
            driver.do("call", count=10)
            assert driver.do("wait") == {"count": 10, "errors": []}
        found = [driver.do("notes") for driver in drivers]
        assert len({each["pid"] for each in found}) == 1
        assert len(found[0]["notes"]) == 3
        with pytest.raises(Failed, match=r"ActorAlreadyExistsError|ValueError"):
            drivers[2].do("create", "other", options={"name": "log"})
        drivers[1].do("kill")
        until(lambda: not any(finds(driver, "log") for driver in drivers), "the name is free")
        drivers[0].do("create", options={"name": "log"})

    @pytest.mark.slow
    def test_a_detached_actor_outlives_its_driver_on_another_host(self, lan: MakeLan) -> None:
        network, _ = hosts(lan, "a", "b", "c", b=ONLY_B)
        a = Driver(network["a"])
        a.do("create", options={"resources": {"slot": 1}, "name": "log", "lifetime": "detached"})
        before = a.do("notes")
        a.leave()
        c = Driver(network["c"])
        c.do("find", name="log")
        assert c.do("notes")["pid"] == before["pid"]

    @pytest.mark.slow
    @pytest.mark.fault(62)
    def test_of_two_of_one_name_the_older_one_stays_when_a_partition_heals(self, lan: MakeLan) -> None:
        network, peers = hosts(lan, "a", "b")
        a, b = Driver(network["a"]), Driver(network["b"])
        network.partition("a", "b")
        until(lambda: all(len(peer.alive()) == 1 for peer in peers.values()), "each side holds the other for dead")
        a.do("create", options={"name": "log"})
        a.do("notes")
        b.do("create", options={"name": "log"})
        b.do("notes")
        network.heal()

        def conflict() -> bool:
            try:
                b.do("notes")
            except Failed as error:
                return "name conflict" in str(error)
            return False

        until(conflict, "the younger one has ended")
        assert a.do("notes")["node"] == a.node
        b.do("find", name="log")
        assert b.do("notes")["node"] == a.node


class TestHeirs:
    """Detached actors whose owner's peer is gone."""

    @pytest.mark.fault(16)
    def test_a_peer_that_is_stopped_hands_its_detached_actors_over(self, lan: MakeLan) -> None:
        """One that lives there is started elsewhere, one that lives on a third host goes on."""
        network, peers = hosts(lan, "a", "b", "c", b=ONLY_B)
        a = Driver(network["a"])
        a.do("create", "here", options={"name": "here", "lifetime": "detached", "max_restarts": 1})
        a.do(
            "create",
            "there",
            options={"name": "there", "lifetime": "detached", "resources": {"slot": 1}, "namespace": "stage"},
        )
        a.do("call", "there", count=5)
        a.do("wait", "there")
        assert a.do("notes", "here")["node"] == a.node
        there = a.do("notes", "there")
        c = Driver(network["c"])
        for name in ("here", "there"):
            c.do("find", name, name=name)
            c.do("notes", name)
        a.leave()
        peers["a"].stop()
        assert c.do("notes", "there") == there
        assert c.do("notes", "here")["node"] in (c.node, node_of(peers["b"]))
        for name in ("here", "there"):
            c.do("find", f"{name} again", name=name)
        assert c.do("notes", "there again") == there
        c.do("kill", "there again")
        until(lambda: not finds(c, "there"), "its new owner lets it be killed")

    @pytest.mark.slow
    @pytest.mark.fault(5)
    def test_a_peer_that_dies_is_inherited_where_most_are_left(self, lan: MakeLan) -> None:
        network, peers = hosts(lan, "a", "b", "c")
        a, c = Driver(network["a"]), Driver(network["c"])
        a.do("create", options={"name": "log", "lifetime": "detached", "max_restarts": -1, "max_task_retries": -1})
        c.do("find", name="log")
        assert c.do("notes")["node"] == a.node
        network["a"].power_off()
        assert c.do("notes")["node"] in (c.node, node_of(peers["b"]))
        c.do("find", "again", name="log")

    @pytest.mark.slow
    @pytest.mark.fault(16)
    def test_an_actor_that_lives_with_its_heir_goes_on_there(self, lan: MakeLan) -> None:
        """Of two hosts one is stopped: the guest of the other one is its own from then on."""
        network, peers = hosts(lan, "a", "b", b=ONLY_B)
        a, b = Driver(network["a"]), Driver(network["b"])
        options = {"max_restarts": -1, "max_task_retries": -1, "resources": {"slot": 1}}
        a.do("create", options={"name": "log", "lifetime": "detached", **options})
        b.do("find", name="log")
        before = b.do("notes")
        assert before["node"] == b.node
        a.leave()
        peers["a"].stop()
        after = b.do("notes")
        assert (after["node"], after["pid"]) == (b.node, before["pid"])

    @pytest.mark.slow
    @pytest.mark.fault(22)
    def test_who_has_lost_sight_of_an_owner_for_a_while_calls_its_actor_again(self, lan: MakeLan) -> None:
        """The heir of the actor is asked meanwhile, and has nothing to say."""
        network, peers = hosts(lan, "a", "b", "c")
        a, c = Driver(network["a"]), Driver(network["c"])
        options = {"max_restarts": -1, "max_task_retries": -1, "num_cpus": 0}
        a.do("create", options={"name": "log", "lifetime": "detached", **options})
        c.do("find", name="log")
        assert c.do("notes")["node"] == a.node
        network.partition("c", ("a", "b"))
        until(
            lambda: len(peers["a"].alive()) == 2 and len(peers["c"].alive()) == 1, "each side holds the other for dead"
        )
        network.heal()
        until(lambda: all(len(peer.alive()) == 3 for peer in peers.values()), "healed")
        assert a.do("notes")["node"] == a.node
        c.do("find", "again", name="log")
        assert c.do("notes", "again")["node"] == a.node
        c.leave()
        later = Driver(network["c"])
        later.do("find", name="log")
        assert later.do("notes")["node"] == a.node

    @pytest.mark.fault(16)
    def test_an_heir_that_came_after_the_program_had_ended_starts_its_actors(self, lan: MakeLan) -> None:
        """All hosts are replaced one after the other, and whoever has an actor by then was told of its program by
        another heir."""
        network = lan("a", "b", "c", "d")
        peers = {name: Peer(network[name]) for name in "ab"}
        agree(*peers.values())
        a = Driver(network["a"])
        names = [f"p{number}" for number in range(4)]
        for name in names:
            a.do("create", name, options={"name": name, "lifetime": "detached", "max_restarts": 2})
            assert a.do("notes", name)["node"]
        a.leave()
        for old, new in ("a", "c"), ("b", "d"):
            peers[new] = Peer(network[new])
            agree(*peers.values())
            peers.pop(old).stop()
            caller = Driver(network[new])
            for name in names:
                caller.do("find", name, name=name)
                assert caller.do("notes", name)["node"] in map(node_of, peers.values())
            caller.leave()

    @pytest.mark.fault(16)
    def test_an_actor_that_asks_for_a_host_that_is_gone_is_dead_for_that_reason(self, lan: MakeLan) -> None:
        peers, b = bound_to_a_stopped_host(lan, max_restarts=2)
        with pytest.raises(Failed, match=r"ActorUnschedulableError.*no such node"):
            b.do("notes")
        assert peers["b"].logged("no such node") == 1
        until(lambda: not finds(b, "log"), "its name is nobody's")

    @pytest.mark.fault(16)
    def test_callers_hear_what_an_actor_waits_for_that_no_host_can_have_now(self, lan: MakeLan) -> None:
        network, peers = hosts(lan, "a", "b", "c", a=ONLY_B)
        a = Driver(network["a"])
        options = {"resources": {"slot": 1}, "max_restarts": 2, "max_task_retries": -1}
        a.do("create", options={"name": "log", "lifetime": "detached", **options})
        assert a.do("notes")["node"] == a.node
        a.leave()
        drivers = [Driver(network[name]) for name in "bc"]
        for driver in drivers:
            driver.do("find", name="log")
            assert driver.do("notes")["node"] == a.node
        peers.pop("a").stop()
        for driver in drivers:
            driver.begin("notes")

        def told(driver: Driver) -> bool:
            return any("waits: " in line and "slot" in line for line in driver.program.lines)

        until(
            lambda: all(map(told, drivers)),
            "both programs are told: " + "".join(repr(each.program) for each in drivers),
        )
        assert [each for peer in peers.values() for each in peer.status()["waiting"] if "slot" in each["reason"]]
        assert sum(peer.logged("waits: ") for peer in peers.values()) == 1
        new = Peer(network["a"], *ONLY_B, folder="again")
        assert {driver.end()["node"] for driver in drivers} == {node_of(new)}

    @pytest.mark.fault(16)
    def test_one_that_may_not_start_again_is_dead_at_once_when_its_host_is_stopped(self, lan: MakeLan) -> None:
        _, b = bound_to_a_stopped_host(lan, max_restarts=0)
        with pytest.raises(Failed, match=r"ActorDiedError.*its host was stopped"):
            b.do("notes")
        assert not finds(b, "log")
