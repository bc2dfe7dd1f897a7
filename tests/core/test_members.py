"""The table of members, and the order of news."""

from __future__ import annotations

from random import Random

import pytest

from meshray.core.members import NEWER, OLDER, RULES, SAME, Members, State, Verdict
from meshray.wire.gossip import LEFT, Alive


def alive(label: str, incarnation: int = 0, python: str = "3.11") -> Alive:
    return Alive(label.encode().ljust(8, b"."), incarnation, label, (f"{label}:7117",), python)


def members(*labels: str, remembered_max: int = 100) -> Members:
    table = Members(alive("me"), remembered_max, 0.0)
    for label in labels:
        table.add(alive(label), 0.0)
    return table


def test_the_order_is_alive_suspect_alive_again_dead() -> None:
    """alive(N) < suspect(N) < alive(N+1), and nothing raises the dead."""
    assert RULES[State.ALIVE, "suspect"][SAME] is Verdict.SUSPECTED
    assert RULES[State.SUSPECT, "alive"][SAME] is Verdict.STALE
    assert RULES[State.SUSPECT, "alive"][NEWER] is Verdict.REFUTED
    for (state, _), verdicts in RULES.items():
        assert verdicts[OLDER] is Verdict.STALE
        if state in (State.DEAD, State.LEFT):
            assert set(verdicts) == {Verdict.STALE}


def test_every_pair_has_a_rule() -> None:
    assert set(RULES) == {(state, news) for state in State for news in ("alive", "suspect")}


def test_a_verdict_compares_incarnations() -> None:
    table = members("a")
    member = table.table[alive("a").node]
    table.renew(member, alive("a", 5), 1.0)
    assert table.verdict(member, "suspect", 4) is Verdict.STALE
    assert table.verdict(member, "suspect", 5) is Verdict.SUSPECTED
    assert table.verdict(member, "alive", 5) is Verdict.STALE
    assert table.verdict(member, "alive", 6) is Verdict.RENEWED


def test_a_life_from_joining_to_the_grave() -> None:
    table = members("a", "b")
    member = table.table[alive("a").node]
    assert (table.count, member.lives, member.since) == (3, True, 0.0)
    table.suspect(member, 0, 1.0)
    assert (member.state, member.since) == (State.SUSPECT, 1.0)
    table.renew(member, alive("a", 1), 2.0)
    assert (member.state, member.since, member.incarnation) == (State.ALIVE, 2.0, 1)
    table.bury(member.node, "no answer", 3.0)
    assert (member.state, member.since, member.reason, table.count) == (State.DEAD, 3.0, "no answer", 2)
    assert [other.name for other in table.living()] == ["b"]


def test_the_dead_stay_dead() -> None:
    table = members("a")
    member = table.bury(alive("a").node, LEFT, 1.0)
    assert member.state is State.LEFT
    with pytest.raises(AssertionError, match="stay dead.*'a'"):
        table.renew(member, alive("a", 9), 2.0)
    with pytest.raises(AssertionError, match="no suspects"):
        table.suspect(member, 9, 2.0)
    with pytest.raises(AssertionError, match="dead already"):
        table.bury(member.node, "again", 2.0)
    with pytest.raises(AssertionError, match="this peer lives"):
        table.bury(table.node, "", 2.0)


def test_so_many_dead_are_remembered_the_latest() -> None:
    table = members(remembered_max=3)
    for number in range(10):
        table.bury(b"stranger"[:7] + bytes([number]), "gone", float(number))
    assert [member.node[-1] for member in table.dead()] == [7, 8, 9]
    assert len(table.table) == 4
    assert sum(len(bucket) for bucket in table.buckets) == 4


def test_equal_tables_have_equal_digests_whatever_their_history() -> None:
    one, other = members("a", "b", "c"), Members(alive("b"), 100, 0.0)
    for label in ("c", "x", "me", "a"):
        other.add(alive(label), 0.0)
    assert one.digests != other.digests
    other.bury(alive("x").node, "no answer", 1.0)
    assert one.digests == other.digests
    one.renew(one.table[alive("a").node], alive("a", 1), 1.0)
    assert one.digests != other.digests
    other.suspect(other.table[alive("a").node], 1, 1.0)
    assert one.digests == other.digests  # of ids and incarnations; suspicions pass or lead to another


def test_a_sample_is_of_the_alive_and_of_different_ones() -> None:
    table = members(*(f"m{number}" for number in range(40)))
    random = Random(1)
    for number in range(10):
        table.suspect(table.table[alive(f"m{number}").node], 0, 0.0)
    avoided = alive("m20").node
    for count in (1, 3, 12, 100):
        chosen = table.sample(count, random, without=avoided)
        assert len({member.node for member in chosen}) == len(chosen) == min(count, 29)
        assert all(member.state is State.ALIVE and member.node != avoided for member in chosen)


def test_the_rank_counts_those_held_for_alive() -> None:
    table = members("a", "z")
    assert table.rank() == (3, alive("a").node)
    table.suspect(table.table[alive("a").node], 0, 0.0)
    assert table.rank() == (2, alive("me").node)


def test_another_minor_version_is_marked() -> None:
    table = members()
    assert table.add(alive("a", python="3.12"), 0.0).incompatible
    assert not table.add(alive("b"), 0.0).incompatible


def test_round_trips_are_smoothed() -> None:
    member = members("a").table[alive("a").node]
    member.on_round_trip(0.1)
    assert member.rtt_s == 0.1
    member.on_round_trip(0.9)
    assert member.rtt_s == pytest.approx(0.2)


def test_its_record_is_told_with_its_newest_load() -> None:
    member = members("a").table[alive("a").node]
    assert member.current() is member.record
    member.version, member.load = 3, b"busy"
    told = member.current()
    assert told is not None
    assert (told.version, told.load, told.addresses) == (3, b"busy", member.addresses)
