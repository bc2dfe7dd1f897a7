"""Programs on two of three hosts go on while the network and the hosts misbehave; at the end all was right, and nothing
is left (`tests.lan.scene`).

Where nobody may die the peers have the `default` preset, whose detector is patient for 7 s; where some do, the `test`
preset. What happens to members alone is shown in `test_members.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.lan.network import Lan
from tests.lan.scene import Clocks, Scene
from tests.lan.test_members import PARTITION_S, pause
from tests.until import until

pytestmark = pytest.mark.timeout(400)
"""Longer than any `until` in them, which says more of what hangs."""

MakeLan = Callable[..., Lan]

SMALL = 400_000
"""Bytes of an array where the network is slow: TCP makes little of a way that loses frames, or mixes their order. Some
pieces of what is then on its way at one time."""


def patient(lan: MakeLan, *names: str, **options: Any) -> Scene:
    """A scene in which nobody may be held for dead."""
    return Scene(lan(*names or ("a", "b", "c")), preset="default", **options)


def hasty(lan: MakeLan, *names: str, **options: Any) -> Scene:
    """A scene in which somebody will be."""
    return Scene(lan(*names or ("a", "b", "c")), preset="test", retries=10, **options)


def end_with_the_same(scene: Scene) -> list[dict[str, Any]]:
    """Nobody has died, and nothing was done twice."""
    reports = scene.end_well()
    first = {peer.first for peer in scene.peers.values()}
    until(
        lambda: all(peer.alive() == first for peer in scene.peers.values()),  # a suspicion is refuted, a death never
        f"nobody has died: {[peer.states() for peer in scene.peers.values()]} of {first}",
    )
    homes = {str(peer.status()["node_id"]) for peer in scene.peers.values()}
    assert all(set(report["placed"]) == homes for report in reports), "all of them have worked"
    return reports


class TestNobodyDies:
    @pytest.mark.fault(19)
    @pytest.mark.parametrize(
        ("delay", "jitter"),
        [
            (0.02, 0.019),
            pytest.param(0.1, 0.099, marks=pytest.mark.slow),
            pytest.param(0.2, 0, marks=pytest.mark.slow),
        ],
    )
    def test_latency_and_jitter(self, lan: MakeLan, delay: float, jitter: float) -> None:
        scene = patient(lan, size=SMALL)
        scene.network.everywhere(delay=delay, jitter=jitter)
        scene.go_on()
        end_with_the_same(scene)

    @pytest.mark.slow
    @pytest.mark.fault(20)
    @pytest.mark.parametrize("loss", [0.01, 0.05, 0.2])
    def test_lost_packets(self, lan: MakeLan, loss: float) -> None:
        scene = patient(lan, size=SMALL)
        scene.network.everywhere(loss=loss)
        scene.go_on()
        scene.network.heal()
        end_with_the_same(scene)

    @pytest.mark.slow
    @pytest.mark.fault(23)
    def test_a_block_in_one_direction(self, lan: MakeLan) -> None:
        scene = patient(lan)
        scene.network.rule("c", ["a", "b"], block=True)
        pause(PARTITION_S)
        scene.network.heal()
        end_with_the_same(scene)

    @pytest.mark.slow
    @pytest.mark.fault(24, 25)
    def test_two_that_only_a_third_one_reaches(self, lan: MakeLan) -> None:
        """For longer than anybody would be suspected, and shorter than an actor's host may be out of hearing."""
        scene = patient(lan)
        scene.network.partition("b", "c")
        pause(8.0)
        scene.network.heal()
        end_with_the_same(scene)

    @pytest.mark.slow
    @pytest.mark.fault(25)
    def test_a_ring(self, lan: MakeLan) -> None:
        """Each reaches two of the three others."""
        scene = patient(lan, "a", "b", "c", "d")
        scene.network.partition("a", "c")
        scene.network.partition("b", "d")
        pause(8.0)
        scene.network.heal()
        end_with_the_same(scene)

    @pytest.mark.slow
    @pytest.mark.fault(26, 28)
    @pytest.mark.parametrize("how", ["cable", "interface", "switch"])
    @pytest.mark.parametrize("name", ["a", "c"])
    def test_a_link_that_flaps(self, lan: MakeLan, how: str, name: str) -> None:
        scene = patient(lan)
        down, up = ways(scene.network, name, how)
        draws = random.Random(name)
        for _ in range(6):
            down()
            pause(draws.uniform(0.1, 1.5))
            up()
            pause(draws.uniform(0.5, 3.0))
        end_with_the_same(scene)

    @pytest.mark.slow
    @pytest.mark.fault(28)
    def test_connections_are_refused(self, lan: MakeLan) -> None:
        """As by a firewall that says so: each attempt fails at once."""
        scene = patient(lan)
        others = [scene.network[name] for name in ("a", "b")]
        routes = [line for host in others for line in (f"prohibit {host.ipv4}/32", f"prohibit {host.ipv6}/128")]
        scene.network["c"].ip(*(f"route add {route}" for route in routes))
        pause(PARTITION_S)
        scene.network["c"].ip(*(f"route del {route}" for route in routes))
        end_with_the_same(scene)

    @pytest.mark.slow
    @pytest.mark.fault(28)
    @pytest.mark.parametrize("name", ["a", "c"])
    def test_another_address(self, lan: MakeLan, name: str) -> None:
        scene = patient(lan)
        host = scene.network[name]
        host.ip(f"address del {host.ipv4}/24 dev eth0", "address add 10.77.0.55/24 dev eth0",
                "route replace 224.0.0.0/4 dev eth0")  # fmt: skip
        scene.go_on()
        end_with_the_same(scene)

    @pytest.mark.slow
    @pytest.mark.fault(12, 46, 56, 58)
    @pytest.mark.parametrize("name", ["a", "c"])
    def test_a_host_that_is_suspended(self, lan: MakeLan, name: str) -> None:
        scene = patient(lan)
        scene.network[name].suspend()
        pause(PARTITION_S)
        scene.network[name].resume()
        end_with_the_same(scene)

    @pytest.mark.slow
    @pytest.mark.fault(55, 56)
    def test_clocks_that_jump(self, lan: MakeLan) -> None:
        """The wall clock by an hour and back; the others by what a machine may be stopped for and not die of it."""
        network = lan("a", "b", "c")
        clocks = {name: Clocks(network.folder / f"clocks of {name}") for name in network.hosts}
        scene = Scene(network, "default", environment=lambda host: clocks[host.name].environment)
        for name, wall_s, steady_s in ("a", 3600.0, 0.0), ("b", -3600.0, 0.0), ("c", 86400.0, 5.0), ("a", 0.0, 5.0):
            clocks[name].set(wall_s, steady_s)
            scene.go_on(1)
        end_with_the_same(scene)


def ways(network: Lan, name: str, how: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Take a host off the network and bring it back: its cable, its own interface, or what the switch lets pass."""
    host, others = network[name], [other for other in network.hosts if other != name]
    if how == "cable":
        return lambda: network.pull_cable(name), lambda: network.plug_cable(name)
    if how == "interface":
        return lambda: host.ip("link set eth0 down"), lambda: host.ip(
            "link set eth0 up", "route replace 224.0.0.0/4 dev eth0", f"address replace {host.ipv6}/64 dev eth0 nodad"
        )
    return lambda: network.partition(name, others), network.heal


class TestSomeDie:
    @pytest.mark.slow
    @pytest.mark.fault(17)
    def test_a_peer_that_starts_again_within_a_second(self, lan: MakeLan) -> None:
        scene = hasty(lan)
        old = scene.peers["c"]
        old.program.kill()
        scene.start("c")
        until(lambda: scene.peers["a"].states()[old.first] == "dead", "the old one is dead")
        scene.end_well(deaths=True)

    @pytest.mark.slow
    @pytest.mark.fault(23)
    @pytest.mark.parametrize(("silent", "to"), [("c", "ab"), ("a", "bc"), ("ab", "c"), ("b", "c")])
    def test_a_long_block_in_one_direction(self, lan: MakeLan, silent: str, to: str) -> None:
        scene = hasty(lan)
        scene.network.rule(silent, to, block=True)
        pause(8.0)
        scene.network.heal()
        scene.end_well(deaths=True)

    @pytest.mark.slow
    @pytest.mark.fault(22, 28)
    @pytest.mark.parametrize("how", ["cable", "interface", "switch"])
    @pytest.mark.parametrize("name", ["a", "b", "c"])
    def test_a_host_that_was_cut_off_for_long(self, lan: MakeLan, name: str, how: str) -> None:
        scene = hasty(lan)
        down, up = ways(scene.network, name, how)
        down()
        other = scene.peers["b" if name == "a" else "a"]
        until(lambda: other.states()[scene.peers[name].first] == "dead", "it is held for dead")
        up()
        scene.end_well(deaths=True)

    @pytest.mark.slow
    @pytest.mark.fault(11, 58)
    @pytest.mark.parametrize("name", ["a", "b", "c"])
    def test_a_host_that_sleeps_past_its_death(self, lan: MakeLan, name: str) -> None:
        scene = hasty(lan)
        scene.network[name].suspend()
        other = scene.peers["b" if name == "a" else "a"]
        until(lambda: other.states()[scene.peers[name].first] == "dead", "it is held for dead")
        scene.network[name].resume()
        scene.end_well(deaths=True)


class Chaos:
    """Faults as a seed draws them. The hosts of the programs may be cut off and sleep, the others come and go, too."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self.scene, self.network = scene, scene.network
        self.draws = random.Random(seed)
        self.drains = 0

    def fault(self) -> None:
        acts = (self.appear, self.leave, self.die, self.sleep, self.sleep, self.part, self.hush, self.lose, self.heal)
        self.draws.choice(acts)()
        pause(self.draws.choice((0.1, 0.5, 1.5, 3.0)))

    def others(self) -> list[str]:
        """Hosts without a program."""
        return [name for name in self.scene.peers if name not in "ab"]

    def appear(self) -> None:
        if len(self.others()) < 3:
            name = self.network.add("cdefghijklmnopqrstuvwxyz"[len(self.network.hosts) - 2]).name
            self.tell(f"{name} appears")
            self.scene.start(name)

    def leave(self) -> None:
        if self.others():
            name = self.draws.choice(self.others())
            self.tell(f"{name} leaves")
            self.drains += 1
            self.scene.peers.pop(name).stop()

    def die(self) -> None:
        if self.others():
            name = self.draws.choice(self.others())
            self.tell(f"{name} dies")
            self.scene.peers.pop(name)
            self.network[name].power_off()

    def sleep(self) -> None:
        name, seconds = self.draws.choice(list(self.scene.peers)), self.draws.choice((0.5, 2.0, 5.0))
        self.tell(f"{name} sleeps for {seconds:g} s")
        self.network[name].suspend()
        pause(seconds)
        self.network[name].resume()

    def part(self) -> None:
        names = list(self.network.hosts)
        side = self.draws.sample(names, self.draws.randrange(1, len(names)))
        self.tell(f"{' '.join(side)} are cut off")
        self.network.partition(side, set(names) - set(side))

    def hush(self) -> None:
        one, other = self.draws.sample(list(self.scene.peers), 2)
        self.tell(f"{one} is not heard by {other}")
        self.network.rule(one, other, block=True)

    def lose(self) -> None:
        self.tell("packets are lost")
        self.network.everywhere(loss=0.05, delay=0.01, jitter=0.01)

    def heal(self) -> None:
        self.tell("all heals")
        self.network.heal()

    def tell(self, what: str) -> None:
        print(what, flush=True)


@pytest.mark.slow
@pytest.mark.fault(5, 11, 12, 16, 20, 22, 23, 25, 26, 58)
@pytest.mark.parametrize("seed", range(4))
def test_chaos(lan: MakeLan, seed: int) -> None:
    scene = Scene(lan("a", "b", "c", seed=seed), preset="test", retries=20)
    chaos = Chaos(scene, seed)
    for _ in range(12):
        chaos.fault()
    chaos.heal()
    scene.end_well(deaths=True, drains=chaos.drains)
