"""Meshes of peers under every fault that concerns membership, a seed each.

What must hold stands in each test; what holds always is checked in `tests/sim/mesh.py`. The bounds are derived in
`docs/membership.md`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshray.config import DEFAULT, Config, preset
from meshray.core.gossip import copies
from meshray.core.member_effects import MemberView
from meshray.core.suspicion import shortest_s
from tests.sim.mesh import FALL_BACK_S, MeshHost, MeshWorld
from tests.sim.seeds import seeds
from tests.sim.traffic import busy, joined, measure

SEEDS = seeds(0, 36)
SIZES = (2, 3, 4, 5, 6, 8, 10, 12, 15)


def detection_s(config: Config, count: int, *, noisy: bool = False, multiplier: int = 1) -> float:
    """From the death of one of `count` members until all know (docs/membership.md)."""
    first = config.probe_first_timeout_s * multiplier
    round_s = max(config.probe_interval_s * multiplier, 2 * first)
    probed = first if noisy else (2 * count - 1) * config.probe_interval_s * multiplier + round_s
    spread = copies(config, count) * config.gossip_interval_s
    return probed + shortest_s(config, count) + max(first, config.last_probe_s) + spread


def healing_s(config: Config, count: int) -> float:
    """From the end of the last fault until all agree, whatever has happened (docs/membership.md)."""
    meeting = 1.25 * config.contact_interval_s * count
    rejoining = FALL_BACK_S + 1.25 * config.contact_interval_s
    return meeting + rejoining + detection_s(config, count, multiplier=1 + config.health_max) + config.sync_interval_s


def mesh(seed: int, sizes: tuple[int, ...] = SIZES) -> MeshWorld:
    world = MeshWorld(seed)
    world.stalls = world.random.random() < 0.5
    world.start_mesh(world.random.choice(sizes))
    return world


def split(world: MeshWorld) -> tuple[list[int], list[int]]:
    """Cut the mesh into two, the smaller part first."""
    order = list(range(len(world.hosts)))
    world.random.shuffle(order)
    at = world.random.randint(1, len(order) - 1)
    world.cut(order[:at], order[at:])
    return (order[:at], order[at:]) if 2 * at <= len(order) else (order[at:], order[:at])


def nobody_died(world: MeshWorld) -> None:
    """Neither now nor by what is still under way; and nothing is suspected in the end."""
    world.run_for(25.0)
    assert world.deaths == [], world.story()
    assert world.rejoins == []
    world.run_until(lambda: all(v.state == "alive" for h in world.running() for v in h.membership.view()), 60.0)
    assert world.agrees()


def view_of(host: MeshHost, other: MeshHost) -> MemberView:
    found = host.membership.member(other.node)
    assert found is not None
    return found


# -- deaths that are true ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_every_crash_is_known_to_all_within_the_bound(seed: int) -> None:
    world = mesh(seed)
    noisy = seed % 2 == 0
    victim = world.random.choice(world.hosts)
    victim.crash(noisy)
    world.run_until(world.agrees, detection_s(DEFAULT, len(world.hosts), noisy=noisy))
    assert {node for _, _, node, _ in world.deaths} == {victim.node}
    assert world.rejoins == []


@pytest.mark.parametrize("seed", seeds(0, 12))
def test_half_of_the_mesh_crashes_at_once(seed: int) -> None:
    world = mesh(seed, (6, 8, 10))
    victims = world.random.sample(world.hosts, len(world.hosts) // 2)
    for victim in victims:
        victim.crash(noisy=world.random.random() < 0.5)
    world.run_until(world.agrees, detection_s(DEFAULT, len(world.hosts), multiplier=1 + DEFAULT.health_max))
    assert world.false_deaths() == []


@pytest.mark.parametrize("seed", seeds(0, 12))
def test_who_says_goodbye_is_not_suspected(seed: int) -> None:
    world = mesh(seed)
    leaver = world.random.choice(world.hosts)
    leaver.leave()
    world.run_until(world.agrees, 5.0)
    assert {reason for *_, reason in world.deaths} <= {"left"}


# -- deaths that would be false ----------------------------------------------------------------------------------------


@pytest.mark.fault(21)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_partition_of_five_seconds_kills_nobody(seed: int) -> None:
    world = mesh(seed, (*SIZES, 20, 25))
    split(world)
    world.run_for(5.0)
    world.heal()
    nobody_died(world)


@pytest.mark.parametrize("seed", seeds(0, 12))
def test_the_test_preset_is_five_times_as_quick_and_as_patient(seed: int) -> None:
    config = preset("test")
    world = MeshWorld(seed, config)
    world.stalls = True
    world.start_mesh(world.random.choice(SIZES))
    split(world)
    world.run_for(1.0)
    world.heal(late_s=1.4 / 5)
    nobody_died(world)
    victim = world.random.choice(world.hosts)
    victim.crash(noisy=False)
    world.run_until(world.agrees, detection_s(config, len(world.hosts)))


@pytest.mark.fault(12)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_short_stop_kills_nobody(seed: int) -> None:
    world = mesh(seed)
    victim = world.random.choice(world.hosts)
    victim.pause()
    world.run_for(world.random.uniform(0.5, 5.0))
    victim.resume()
    nobody_died(world)


@pytest.mark.fault(46)
@pytest.mark.parametrize("seed", seeds(0, 12))
def test_a_stopped_peer_that_suspected_somebody_accuses_nobody_when_it_goes_on(seed: int) -> None:
    world = mesh(seed, (3, 5, 8))
    world.loss = 0.3  # so that there are suspicions and probes under way, though not for long enough to die of them
    world.run_for(3.0)
    for victim in world.hosts[1:]:
        victim.pause()
    world.loss = 0.0
    world.run_for(2.5)
    for victim in world.hosts[1:]:
        victim.resume()
    nobody_died(world)


@pytest.mark.fault(20)
@pytest.mark.parametrize("seed", seeds(0, 24))
@pytest.mark.parametrize("loss", [0.01, 0.05])
def test_lost_and_doubled_messages_kill_nobody(seed: int, loss: float) -> None:
    world = mesh(seed)
    world.loss, world.doubling = loss, 0.1
    world.run_for(60.0)
    world.loss = world.doubling = 0.0
    nobody_died(world)


@pytest.mark.fault(20)
@pytest.mark.parametrize("seed", seeds(0, 12))
def test_with_a_fifth_of_all_messages_lost_there_is_one_mesh_again_in_the_end(seed: int) -> None:
    world = mesh(seed)
    world.loss = 0.2
    world.run_for(60.0)
    world.loss = 0.0
    world.run_until(world.agrees, healing_s(DEFAULT, len(world.hosts)))


@pytest.mark.fault(19)
@pytest.mark.parametrize("seed", seeds(0, 12))
def test_slow_links_with_jitter_kill_nobody(seed: int) -> None:
    world = MeshWorld(seed)
    world.latency_s = (0.001, 0.2)
    world.start_mesh(world.random.choice(SIZES))
    world.run_for(60.0)
    nobody_died(world)


@pytest.mark.fault(23)
@pytest.mark.parametrize("seed", seeds(0, 12))
def test_a_block_in_one_direction_kills_nobody_while_others_see_both(seed: int) -> None:
    world = mesh(seed, (3, 4, 5, 6, 10))
    one, other = world.random.sample(range(len(world.hosts)), 2)
    world.cut([one], [other], one_way=True)
    world.run_for(60.0)
    world.heal()
    nobody_died(world)


@pytest.mark.fault(24)
@pytest.mark.parametrize("seed", seeds(0, 12))
def test_two_that_are_cut_from_each_other_live_for_each_other_while_others_see_both(seed: int) -> None:
    world = mesh(seed, (3, 4, 5, 6, 10))
    one, other = world.random.sample(world.hosts, 2)
    world.cut([one.index], [other.index])
    one.hears_broken(other.node)
    other.hears_broken(one.node)
    assert not view_of(one, other).reachable
    world.run_for(60.0)
    world.heal()
    nobody_died(world)
    assert view_of(one, other).reachable


@pytest.mark.fault(25)
@pytest.mark.parametrize("seed", seeds(0, 12))
def test_a_bridge_between_two_halves_keeps_them_together(seed: int) -> None:
    world = mesh(seed, (3, 5, 6, 7, 10))
    order = list(range(len(world.hosts)))
    world.random.shuffle(order)
    half = 1 + (len(order) - 1) // 2
    world.cut(order[1:half], order[half:])  # order[0] sees both
    world.run_for(60.0)
    world.heal()
    nobody_died(world)


@pytest.mark.fault(25)
@pytest.mark.parametrize("seed", seeds(0, 12))
def test_after_a_ring_of_links_there_is_one_mesh_again(seed: int) -> None:
    world = mesh(seed, (5, 6, 7, 8, 10))
    count = len(world.hosts)
    for one in range(count):
        world.cut([one], [other for other in range(count) if (other - one) % count not in (0, 1, count - 1)])
    world.run_for(60.0)
    world.heal()
    world.run_until(world.agrees, healing_s(DEFAULT, count))


@pytest.mark.fault(26)
@pytest.mark.parametrize("seed", seeds(0, 12))
def test_a_link_that_flaps_kills_nobody_and_does_not_keep_the_mesh_talking(seed: int) -> None:
    world = mesh(seed, (3, 4, 6, 10))
    one, other = world.random.sample(world.hosts, 2)
    world.stalls = False
    before = world.sent
    for _ in range(40):
        world.cut([one.index], [other.index])
        one.hears_broken(other.node)
        other.hears_broken(one.node)
        world.run_for(world.random.random())
        world.heal()
        world.run_for(world.random.random())
    flaps_s, count = 40.0, len(world.hosts)
    assert (world.sent - before) / flaps_s < 8 * count + 40  # at rest it is 2 per peer
    nobody_died(world)


# -- who was dead and lives --------------------------------------------------------------------------------------------


@pytest.mark.fault(11)
@pytest.mark.parametrize("seed", SEEDS)
def test_who_was_stopped_past_its_death_sentence_comes_back_as_new(seed: int) -> None:
    world = mesh(seed)
    victim = world.random.choice(world.hosts)
    old = victim.node
    victim.pause()
    world.run_until(world.agrees, detection_s(DEFAULT, len(world.hosts)))
    world.run_for(world.random.uniform(0.0, 30.0))
    deaths = len(world.deaths)
    victim.resume()
    world.run_until(lambda: world.agrees() and len(world.running()) == len(world.hosts), 10.0)
    assert victim.node != old
    assert [index for _, index, _ in world.rejoins] == [victim.index]
    assert len(world.deaths) == deaths, "it has accused somebody"


@pytest.mark.fault(58)
@pytest.mark.parametrize("clock_stands", [False, True])
@pytest.mark.parametrize("seed", seeds(0, 12))
def test_a_suspended_laptop_accuses_nobody_and_comes_back_as_new(seed: int, clock_stands: bool) -> None:
    world = mesh(seed, (2, 3, 4, 5, 6))
    laptop = world.random.choice(world.hosts)
    old = laptop.node
    laptop.pause()
    world.run_for(600.0)
    deaths = len(world.deaths)
    away = world.random.random() < 0.5  # the network takes a while to come back
    if away:
        world.stalls = False
        world.cut([laptop.index], [host.index for host in world.hosts if host is not laptop])
    laptop.resume(clock_stood_for=600.0 if clock_stands else 0.0, lost=True)
    if away:
        world.run_for(5.0)
        world.heal()
    world.run_until(lambda: world.agrees() and len(world.running()) == len(world.hosts), 15.0)
    assert laptop.node != old
    assert [index for _, index, _ in world.rejoins] == [laptop.index]
    assert len(world.deaths) == deaths, "it has accused somebody"


@pytest.mark.fault(22)
@pytest.mark.parametrize("seed", SEEDS)
def test_after_a_long_partition_the_smaller_part_comes_back_as_new(seed: int) -> None:
    """90 s: each side has declared all of the other dead, which takes a small part longest (no confirmations, ill)."""
    world = mesh(seed)
    smaller, larger = split(world)
    world.run_for(90.0)
    world.heal()
    world.run_until(world.agrees, healing_s(DEFAULT, len(world.hosts)))
    assert len(world.rejoins) == len(smaller)
    if len(smaller) < len(larger):
        assert {index for _, index, _ in world.rejoins} == set(smaller)


@pytest.mark.fault(22)
@pytest.mark.parametrize("seed", SEEDS)
def test_after_any_partition_there_is_one_mesh(seed: int) -> None:
    world = mesh(seed)
    for _ in range(world.random.randint(1, 3)):
        split(world)
        world.run_for(world.random.uniform(5.0, 25.0))
        if world.random.random() < 0.5:
            world.heal()
            world.run_for(world.random.uniform(0.0, 5.0))
    world.heal()
    world.run_until(world.agrees, healing_s(DEFAULT, len(world.hosts)))


# -- clocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.fault(57)
@pytest.mark.parametrize("seed", seeds(0, 12))
def test_clocks_at_different_rates_kill_nobody(seed: int) -> None:
    world = mesh(seed)
    for host in world.hosts:
        before = host.clock()
        host.rate = world.random.uniform(0.99, 1.01)
        host.offset += before - host.clock()
    world.run_for(120.0)
    nobody_died(world)


@pytest.mark.fault(55, 56)
@pytest.mark.parametrize("seed", seeds(0, 24))
def test_clocks_that_jump_kill_nobody(seed: int) -> None:
    world = mesh(seed)
    for _ in range(10):
        host = world.random.choice(world.hosts)
        host.jump(world.random.choice((1.5, 5.0, -5.0, 3600.0, -3600.0, 86400.0)))
        world.run_for(world.random.uniform(0.0, 6.0))
    nobody_died(world)


# -- all of it ---------------------------------------------------------------------------------------------------------


class Chaos:
    """Faults of all kinds, one after the other, in the same mesh."""

    def __init__(self, world: MeshWorld) -> None:
        self.world = world
        self.random = world.random
        world.loss = self.random.choice((0.0, 0.01, 0.05, 0.2))
        world.doubling = self.random.choice((0.0, 0.1))
        world.latency_s = self.random.choice(((0.0002, 0.002), (0.001, 0.2)))

    def fault(self) -> None:
        acts: list[Callable[[MeshHost], None]] = [self.crash, self.restart, self.stop, self.part, self.heal, self.load]
        self.random.choice(acts)(self.random.choice(self.world.hosts))
        self.world.run_for(self.random.choice((0.1, 1.0, 3.0, 6.0, 15.0, 40.0)))

    def crash(self, host: MeshHost) -> None:
        if host.up:
            host.crash(noisy=self.random.random() < 0.5)

    def restart(self, host: MeshHost) -> None:
        if host.index in self.world.crashed:
            self.world.crashed.discard(host.index)
            host.start([other.address for other in self.world.hosts if other is not host])

    def stop(self, host: MeshHost) -> None:
        if host.paused:
            host.resume(lost=self.random.random() < 0.3)
        elif host.up:
            host.pause()

    def part(self, host: MeshHost) -> None:
        order = list(range(len(self.world.hosts)))
        self.random.shuffle(order)
        at = self.random.randint(1, len(order) - 1)
        self.world.cut(order[:at], order[at:], one_way=self.random.random() < 0.2)

    def heal(self, host: MeshHost) -> None:
        self.world.heal()

    def load(self, host: MeshHost) -> None:
        data = self.random.randbytes(self.random.randint(0, 50))
        host.event(lambda m, now: m.set_load(data, now))

    def end(self) -> None:
        self.world.heal()
        self.world.loss = self.world.doubling = 0.0
        self.world.latency_s = (0.0002, 0.002)
        for host in self.world.hosts:
            if host.paused:
                host.resume()
            elif self.random.random() < 0.7:
                self.restart(host)


@pytest.mark.fault(20, 22, 23, 25, 26)
@pytest.mark.parametrize("seed", seeds(0, 60))
def test_after_chaos_there_is_one_mesh(seed: int) -> None:
    world = mesh(seed)
    chaos = Chaos(world)
    for _ in range(world.random.randint(3, 12)):
        chaos.fault()
    chaos.end()
    world.run_until(world.agrees, healing_s(DEFAULT, len(world.hosts)))


# -- joining, visibility, loads ----------------------------------------------------------------------------------------


@pytest.mark.fault(42)
@pytest.mark.parametrize("seed", seeds(0, 3))
def test_a_hundred_join_within_a_second(seed: int) -> None:
    world, took_s = joined(100, seed)
    assert took_s < DEFAULT.sync_interval_s
    world.run_for(20.0)
    assert world.deaths == []


@pytest.mark.timeout(600)  # about 20 s of CPU; a hang guard for machines that do much else
def test_a_thousand_join_at_once() -> None:
    world, took_s = joined(1000, counts_bytes=False)
    assert took_s < DEFAULT.sync_interval_s
    world.run_for(3.0)
    assert world.deaths == []


@pytest.mark.parametrize("seed", seeds(0, 6))
def test_two_meshes_with_one_key_become_one(seed: int) -> None:
    world = MeshWorld(seed)
    world.add_hosts(9)
    for host in world.hosts:
        host.start([world.hosts[0 if host.index < 4 else 4].address])
    world.run_for(20.0)
    assert sorted(len(host.living) for host in world.hosts) == [3] * 4 + [4] * 5
    world.hosts[2].event(lambda m, now: m.join((world.hosts[7].address,), now))  # as discovery would say
    world.run_until(world.agrees, 10.0)
    assert world.deaths == world.rejoins == []


@pytest.mark.fault(51)
@pytest.mark.parametrize("seed", seeds(0, 6))
def test_another_minor_version_of_python_is_a_marked_member(seed: int) -> None:
    world = MeshWorld(seed)
    world.add_hosts(4)
    world.add_hosts(2, python="3.12")
    for host in world.hosts:
        host.start([world.hosts[0].address])
    world.run_for(1.0)
    world.run_until(world.agrees, 30.0)
    for host in world.hosts:
        marked = {view.node for view in host.membership.view() if view.incompatible}
        assert marked == {other.node for other in world.hosts if other.python != host.python}


@pytest.mark.parametrize("seed", seeds(0, 12))
def test_the_newest_load_of_each_reaches_all(seed: int) -> None:
    world = mesh(seed)
    world.loss, world.doubling, world.latency_s = 0.05, 0.1, (0.0002, 0.1)
    for host in world.hosts:
        for _ in range(5):
            host.event(lambda m, now: m.set_load(world.random.randbytes(20), now))
            world.run_for(world.random.random() * 0.3)

    def same() -> bool:
        loads = {host.node: next(v.load for v in host.membership.view() if v.is_self) for host in world.hosts}
        return all(view.load == loads[view.node] for host in world.hosts for view in host.membership.view())

    world.run_until(same, 2 * len(world.hosts) * DEFAULT.probe_interval_s + 10.0)


def test_the_traffic_of_a_peer_does_not_grow_with_the_mesh() -> None:
    small, _ = joined(10)
    large, _ = joined(120)
    for world in (small, large):
        world.run_for(60.0)
    at_rest = measure(small, 40.0), measure(large, 40.0)
    for world in (small, large):
        busy(world)
        world.run_for(15.0)
    changing = measure(small, 20.0), measure(large, 20.0)
    for few, many in (at_rest, changing):
        assert many.messages < 1.3 * few.messages + 1
        assert many.size < 1.3 * few.size + 50
