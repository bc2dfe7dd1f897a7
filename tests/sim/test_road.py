"""The road under a seed: processes die at any moment, hosts die, are declared dead and come back, lose each other."""

from __future__ import annotations

from random import Random

import pytest

from tests.sim.road import Net
from tests.sim.seeds import seeds

SEEDS = 200
FAULTS_S = 2.0


def run(seed: int) -> Net:
    """One seed, to its end."""
    net = Net(seed)
    fate = Random(f"fate {seed}")
    kills, ends, offs = fate.choice((0.0, 0.03, 0.1)), fate.choice((0.0, 0.02, 0.05)), fate.choice((0.0, 0.01))
    breaks = fate.choice((0.0, 0.03, 0.1))
    for host in net.hosts:
        net.everyone.append(host.new_process(driver=True))
    jobs = [process.id for process in net.everyone]

    def step() -> None:
        if net.now > FAULTS_S:
            return
        living = [process for process in net.everyone if process.alive]
        for process in living:
            for _ in range(fate.choice((0, 0, 1, 4))):
                other = fate.choice(net.everyone)
                if other.host is not process.host:
                    process.say(other.id)
        hosts = [host for host in net.hosts if host.alive]
        host = fate.choice(hosts)
        if len(host.processes) < 4:
            net.everyone.append(host.new_process(fate.choice([b"", *jobs])))
        if fate.random() < kills and host.processes:
            host.kill(fate.choice(list(host.processes.values())))
        if fate.random() < ends:
            net.declare_dead(host)
        if fate.random() < offs and len(hosts) > 2:
            net.power_off(host)
        if fate.random() < breaks and len(hosts) > 1:
            net.break_link(*fate.sample(hosts, 2))
        net.at(net.now + fate.random() * 0.05, step)

    net.at(0.0, step)
    net.run(until=FAULTS_S)
    net.check()
    net.run(until=FAULTS_S + 60.0)
    net.check()
    net.check_quiet()
    return net


@pytest.mark.fault(9, 11, 22, 24, 25)
@pytest.mark.parametrize("block", range(4))
def test_what_is_said_is_heard_or_its_sender_is_told(block: int) -> None:
    heard = 0
    for seed in seeds(block * SEEDS // 4, (block + 1) * SEEDS // 4):
        try:
            net = run(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error
        heard += sum(len(said) for process in net.everyone for said in process.heard.values())
    assert heard > 10 * SEEDS  # the road does carry something


def test_the_faults_do_happen() -> None:
    nets = [run(seed) for seed in range(40)]
    everyone = [process for net in nets for process in net.everyone]
    assert sum(len(process.dead) for process in everyone) > 100
    assert sum(sum(process.era.values()) for process in everyone) > 100
    assert any(max(host.epochs.values(), default=0) > 2 for net in nets for host in net.hosts)
    assert any(host.number > 2 for net in nets for host in net.hosts)
    assert any(not host.alive for net in nets for host in net.hosts)
    dropped = sum(
        (host.road.counters for net in nets for host in net.hosts), start=type(nets[0].hosts[0].road.counters)()
    )
    assert dropped["relays from before an end"] > 10
    assert dropped["messages to the dead"] > 10


def test_a_seed_repeats_exactly() -> None:
    one, other = run(3), run(3)
    assert [process.heard for process in one.everyone] == [process.heard for process in other.everyone]
