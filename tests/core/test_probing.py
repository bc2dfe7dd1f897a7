"""Whom to probe, and what comes of it."""

from __future__ import annotations

import math
from random import Random

import pytest

from meshray.config import DEFAULT
from meshray.core.health import Health
from meshray.core.members import Member, Members
from meshray.core.probing import Kind, Probe, Probing, Relay
from tests.core.test_members import alive, members

T, FIRST, P = DEFAULT.probe_timeout_s, DEFAULT.probe_first_timeout_s, DEFAULT.probe_interval_s


class Fixture:
    def __init__(self, *labels: str, seed: int = 1) -> None:
        self.members: Members = members()
        self.health = Health(DEFAULT.health_max)
        self.probing = Probing(DEFAULT, self.members, self.health, Random(seed), 0.0)
        for label in labels:
            self.members.add(alive(label), 0.0)
            self.probing.on_joined(alive(label).node)

    def member(self, label: str, rtt_s: float | None = 0.001) -> Member:
        member = self.members.table[alive(label).node]
        member.rtt_s = rtt_s
        return member


def test_each_member_is_probed_once_per_round_in_changing_order() -> None:
    labels = [f"m{number}" for number in range(8)]
    fixture = Fixture(*labels)
    rounds = []
    for _ in range(6):
        targets = [fixture.probing.next_target(0.0) for _ in labels]
        rounds.append([target.name for target in targets if target is not None])
        assert sorted(rounds[-1]) == labels
    assert len({tuple(names) for names in rounds}) > 1


def test_the_dead_are_passed_over_and_alone_there_is_nobody() -> None:
    fixture = Fixture("a", "b")
    fixture.members.bury(alive("a").node, "no answer", 0.0)
    for _ in range(4):
        target = fixture.probing.next_target(0.0)
        assert target is not None
        assert target.name == "b"
    fixture.members.bury(alive("b").node, "no answer", 0.0)
    assert fixture.probing.next_target(5.0) is None
    assert fixture.probing.next_round_at == 5.0 + P


def test_a_time_out_follows_round_trips_and_health() -> None:
    fixture = Fixture("a")
    assert fixture.probing.timeout_s(fixture.member("a", None)) == FIRST
    assert fixture.probing.timeout_s(fixture.member("a", 0.01)) == T
    assert fixture.probing.timeout_s(fixture.member("a", 0.4)) == pytest.approx(1.6)
    fixture.health.on_trouble(2)
    assert fixture.probing.timeout_s(fixture.member("a", 0.01)) == 3 * T
    fixture.probing.next_target(0.0)
    assert fixture.probing.next_round_at == 3 * P


def test_an_answer_ends_it_well_and_tells_the_round_trip() -> None:
    fixture = Fixture("a")
    fixture.health.on_trouble()
    member = fixture.member("a", None)
    probe = fixture.probing.begin(member, Kind.ROUND, 1.0)
    assert fixture.probing.on_ack(probe.seq, member.node, 1.2) is probe
    assert member.rtt_s == pytest.approx(0.2)
    assert fixture.health.score == 0
    assert fixture.probing.on_ack(probe.seq, member.node, 1.3) is None, "a repeat"
    assert fixture.probing.due(100.0) == ([], [], [])


def test_without_an_answer_helpers_are_asked_and_then_it_has_failed() -> None:
    fixture = Fixture("a", "b", "c", "d", "e")
    probe = fixture.probing.begin(fixture.member("a"), Kind.ROUND, 0.0)
    assert fixture.probing.due(T - 0.01) == ([], [], [])
    assert fixture.probing.due(T) == ([probe], [], [])
    helpers = fixture.probing.asked(probe)
    assert len(helpers) == DEFAULT.probe_helpers
    assert fixture.member("a") not in helpers
    assert fixture.probing.due(T + 0.1) == ([], [], [])
    fixture.probing.on_nack(probe.seq, helpers[0].node)
    fixture.probing.on_nack(probe.seq, helpers[0].node)
    assert len(probe.silent) == DEFAULT.probe_helpers - 1
    assert fixture.probing.due(P) == ([], [probe], [])
    assert fixture.probing.probes == {}


def test_a_helper_may_answer_also_after_its_nack_but_nobody_else() -> None:
    fixture = Fixture("a", "b", "c", "d", "e")
    probe = fixture.probing.begin(fixture.member("a"), Kind.ROUND, 0.0)
    fixture.probing.due(T)
    helpers = {member.node for member in fixture.probing.asked(probe)}
    stranger = next(m.node for m in fixture.members.living() if m.node not in helpers and m.name != "a")
    assert fixture.probing.on_ack(probe.seq, stranger, 0.6) is None
    one = next(iter(helpers))
    fixture.probing.on_nack(probe.seq, one)
    assert fixture.probing.on_ack(probe.seq, one, 0.7) is probe
    assert fixture.member("a").rtt_s == 0.001, "a detour says nothing of the round trip"


@pytest.mark.parametrize(("kind", "lasts_s"), [(Kind.URGENT, T), (Kind.LAST, DEFAULT.last_probe_s)])
def test_urgent_ones_ask_helpers_at_once(kind: Kind, lasts_s: float) -> None:
    fixture = Fixture(*"abcdefghijkl")
    probe = fixture.probing.begin(fixture.member("a"), kind, 0.0)
    assert fixture.probing.is_probed(alive("a").node, kind)
    assert fixture.probing.due(0.0) == ([probe], [], [])
    many = DEFAULT.last_probe_helpers if kind is Kind.LAST else DEFAULT.probe_helpers
    assert len(fixture.probing.asked(probe)) == many
    assert fixture.probing.due(lasts_s - 0.01)[1] == []
    assert fixture.probing.due(lasts_s)[1] == [probe]


def test_a_relay_says_nack_after_most_of_the_time_and_may_answer_later() -> None:
    fixture = Fixture("a", "b")
    target, asker = alive("a").node, alive("b").node
    seq = fixture.probing.begin_relay(asker, 77, target, 0.5, 10.0)
    assert seq is not None
    assert fixture.probing.due(10.39) == ([], [], [])
    _, _, nacks = fixture.probing.due(10.4)
    assert [(relay.asker, relay.asker_seq) for relay in nacks] == [(asker, 77)]
    assert fixture.probing.due(10.45) == ([], [], [])
    ended = fixture.probing.on_ack(seq, target, 10.46)
    assert isinstance(ended, Relay)
    assert ended.asker_seq == 77


def test_a_relay_is_answered_by_its_target_only_and_ends() -> None:
    fixture = Fixture("a", "b")
    seq = fixture.probing.begin_relay(alive("b").node, 77, alive("a").node, 0.5, 10.0)
    assert seq is not None
    assert fixture.probing.on_ack(seq, alive("b").node, 10.1) is None
    fixture.probing.due(10.5)
    assert fixture.probing.relays == {}
    assert fixture.probing.due_at == math.inf


def test_relays_are_bounded() -> None:
    fixture = Fixture("a", "b")
    for number in range(DEFAULT.probe_relays_max):
        assert fixture.probing.begin_relay(alive("b").node, number, alive("a").node, 0.5, 0.0) is not None
    assert fixture.probing.begin_relay(alive("b").node, 1, alive("a").node, 0.5, 0.0) is None


@pytest.mark.fault(46)
def test_who_was_away_lets_its_probes_go_and_probes_again() -> None:
    fixture = Fixture("a", "b")
    fixture.probing.begin(fixture.member("a"), Kind.ROUND, 0.0)
    fixture.probing.begin_relay(alive("b").node, 1, alive("a").node, 0.5, 0.0)
    fixture.probing.abandon(100.0)
    assert fixture.probing.due(200.0) == ([], [], [])
    assert fixture.probing.next_round_at == 100.0


def test_probes_of_the_dead_are_forgotten() -> None:
    fixture = Fixture("a", "b")
    fixture.probing.begin(fixture.member("a"), Kind.ROUND, 0.0)
    kept: Probe = fixture.probing.begin(fixture.member("b"), Kind.ROUND, 0.0)
    fixture.probing.forget(alive("a").node)
    assert list(fixture.probing.probes.values()) == [kept]
