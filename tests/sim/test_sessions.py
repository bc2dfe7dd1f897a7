"""Links and their streams under a seed: nothing lost, doubled or out of order, or its sender is told.

Each seed is a mesh of three whose connections break at any moment, swallow, double and hold back messages, and whose
peers are killed and replaced at their addresses. See `links.py` for what is checked after each step.
"""

from __future__ import annotations

from random import Random

import pytest

from meshray.wire.peers import STREAMS
from tests.sim.links import HASTY, Net
from tests.sim.seeds import seeds

SEEDS = 200
FAULTS_S = 1.2
"""For so long connections break and peers die; then all must become quiet, and everything must have arrived."""


def run(seed: int) -> Net:
    """One seed, to its end."""
    net = Net(seed)
    fate = Random(f"fate {seed}")
    kills, cuts, net.late = fate.choice((0.0, 0.02, 0.1)), fate.choice((0.0, 0.05, 0.3)), fate.choice((0.0, 0.1))

    def step() -> None:
        if net.now > FAULTS_S:
            return
        for one in list(net.listening.values()):
            for node in sorted(one.up):
                for _ in range(fate.choice((0, 0, 1, 12))):
                    net.send(one, node, fate.choice(STREAMS))
            one.turn()
        if fate.random() < cuts:
            net.cut_some()
        if fate.random() < kills and net.listening:
            net.replace(fate.choice(list(net.listening.values())))
        if kills:
            net.suspect_all_dead(0.05)
        net.at(fate.random() * 0.1, step)

    net.at(0.0, step)
    net.run(until=FAULTS_S)
    net.swallow = net.lose = net.full = net.blocked = net.late = 0.0
    for _, _, connection in net.connections:
        if connection.swallows:
            net.cut(connection)  # heartbeats find a connection that carries nothing
    for sender, key, connection in net.connections:
        if not connection.open:
            sender.lost(key, connection)
    net.run(until=FAULTS_S + 120.0)
    net.suspect_all_dead(1.0)
    net.run(until=FAULTS_S + 240.0)
    net.check_all_arrived()
    return net


@pytest.mark.fault(17, 28, 32)
@pytest.mark.parametrize("block", range(4))
def test_what_is_sent_arrives_once_and_in_order_or_its_sender_is_told(block: int) -> None:
    arrived = 0
    for seed in seeds(block * SEEDS // 4, (block + 1) * SEEDS // 4):
        try:
            arrived += sum(run(seed).arrived.values())
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error
    assert arrived > SEEDS  # the net does carry something


def test_the_faults_do_happen() -> None:
    """The simulation is worth nothing where it is kinder than the network."""
    nets = [run(seed) for seed in range(40)]
    sessions = [s for net in nets for one in net.everyone for link in one.links for s in link.sessions.values()]
    assert sum(session.duplicates for session in sessions) > 50
    assert sum(session.gaps for session in sessions) > 50
    assert sum(session.replayed for session in sessions) > 50
    reasons = {reason.name for net in nets for one in net.everyone for reason in one.reasons}
    assert {"REPLACED", "OTHER", "DEAD"} <= reasons


def test_a_seed_repeats_exactly() -> None:
    assert run(7).arrived == run(7).arrived


CUTS_S = 5.0
"""For so long pairs are blocked, some for long enough to give each other up, in one direction or in both."""


def run_cuts(seed: int) -> Net:
    """One seed: pairs are cut off from each other alone, again and again, and reached again."""
    net = Net(seed, config=HASTY)
    fate = Random(f"cuts {seed}")
    net.hold, lonely, kills = fate.choice((0.3, 0.7)), fate.choice((0.1, 0.4)), fate.choice((0.0, 0.02, 0.1))
    net.late, heals, seldom = fate.choice((0.0, 0.05, 0.3)), lonely / fate.choice((4, 8)), fate.choice((1, 20))

    def step() -> None:
        if net.now > CUTS_S:
            return
        for one in list(net.listening.values()):
            for node in sorted(one.up):
                if fate.random() < 1 / seldom:  # a pair that says nothing has to be given up all the same
                    for _ in range(fate.choice((0, 1, 6))):
                        net.send(one, node, fate.choice(STREAMS))
            one.turn()
        if fate.random() < lonely / 4 and len(net.listening) > 1:
            net.block(*fate.sample(sorted(net.listening), 2), both=fate.random() < 0.6)
        if fate.random() < heals:
            net.heal()
        if fate.random() < 0.1:
            net.cut_some()
        if fate.random() < kills and net.listening:
            net.replace(fate.choice(list(net.listening.values())))
        net.suspect_all_dead(0.02, mistaken=0.0)
        net.at(fate.random() * 0.1, step)

    net.at(0.0, step)
    net.run(until=CUTS_S)
    net.swallow = net.lose = net.full = net.blocked = net.late = 0.0
    net.heal()
    for _, _, connection in net.connections:
        if connection.swallows:
            net.cut(connection)
    for sender, key, connection in net.connections:
        if not connection.open:
            sender.lost(key, connection)
    net.run(until=CUTS_S + 2.0)
    for one in list(net.listening.values()):
        for other in list(net.listening.values()):
            if other is not one and other.node not in one.up:
                one.redials.on_down(other.node, net.now)  # who came while it was blocked knows nobody yet
        one.turn()
    net.run(until=CUTS_S + 20.0)
    net.suspect_all_dead(1.0, mistaken=0.0)
    net.run(until=CUTS_S + 40.0)
    net.check_all_arrived()
    net.check_all_linked()
    return net


@pytest.mark.fault(23, 24, 25)
@pytest.mark.parametrize("block", range(4))
def test_a_pair_that_was_cut_off_begins_anew_and_both_ends_agree(block: int) -> None:
    arrived = 0
    for seed in seeds(block * SEEDS // 4, (block + 1) * SEEDS // 4):
        try:
            arrived += sum(run_cuts(seed).arrived.values())
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error
    assert arrived > 10 * SEEDS


def test_pairs_do_begin_anew() -> None:
    nets = [run_cuts(seed) for seed in range(20)]
    assert max(len(eras) for net in nets for eras in net.eras.values()) > 2
    epochs = {link.epoch for net in nets for one in net.everyone for link in one.links}
    assert max(epochs) > 2
    assert sum(one.links.stale for net in nets for one in net.everyone) > 100
