"""How long a suspicion lasts."""

from __future__ import annotations

import math

import pytest

from meshray.config import DEFAULT, preset
from meshray.core.suspicion import ACCUSERS_MAX, Suspicions, lasts_s, shortest_s

S = DEFAULT.suspicion_mult * DEFAULT.probe_interval_s


def test_the_shortest_time_grows_with_the_logarithm() -> None:
    assert [shortest_s(DEFAULT, count) for count in (1, 2, 10, 100, 1000)] == pytest.approx([S, S, S, 2 * S, 3 * S])
    assert shortest_s(preset("test"), 10) == pytest.approx(S / 5)


def test_confirmations_bring_it_down_the_first_ones_most() -> None:
    times = [lasts_s(DEFAULT, 10, confirmations) for confirmations in range(4)]
    assert times[0] == DEFAULT.suspicion_max_mult * S
    assert times[2] == times[3] == S
    assert times[1] == pytest.approx(times[0] - (times[0] - S) * math.log(2) / math.log(3))


def test_in_a_small_mesh_all_who_can_confirm_are_enough() -> None:
    assert lasts_s(DEFAULT, 2, 0) == S
    assert lasts_s(DEFAULT, 3, 0) == DEFAULT.suspicion_max_mult * S
    assert lasts_s(DEFAULT, 3, 1) == S


def test_an_accuser_counts_once_and_never_the_suspect() -> None:
    suspicions = Suspicions(DEFAULT)
    suspicion = suspicions.begin(b"x", 3, (b"a",), 10.0)
    assert not suspicions.confirm(suspicion, (b"a", b"x"))
    assert suspicions.over_at(suspicion, 10) == 10.0 + lasts_s(DEFAULT, 10, 0)
    assert suspicions.confirm(suspicion, (b"b",))
    assert suspicions.over_at(suspicion, 10) == 10.0 + lasts_s(DEFAULT, 10, 1)
    assert suspicions.confirm(suspicion, (b"c", b"d"))
    assert not suspicions.confirm(suspicion, (b"e",)), "there were enough"
    assert suspicions.over_at(suspicion, 10) == 10.0 + S


def test_without_an_accuser_it_lasts_as_long_as_with_one() -> None:
    suspicions = Suspicions(DEFAULT)
    suspicion = suspicions.begin(b"x", 3, (b"x",), 10.0)
    assert suspicions.over_at(suspicion, 10) == 10.0 + lasts_s(DEFAULT, 10, 0)


def test_accusers_are_bounded() -> None:
    suspicion = Suspicions(DEFAULT).begin(b"x", 0, tuple(bytes([n]) for n in range(100)), 0.0)
    assert len(suspicion.accusers) == ACCUSERS_MAX


def test_it_is_over_once_and_then_waits_for_the_last_probe() -> None:
    suspicions = Suspicions(DEFAULT)
    suspicions.begin(b"x", 0, (b"a", b"b", b"c"), 0.0)
    suspicions.begin(b"y", 0, (b"a", b"b", b"c"), 1.0)
    assert suspicions.next_at(10) == S
    assert suspicions.take_over(S - 0.1, 10) == []
    assert [s.node for s in suspicions.take_over(S, 10)] == [b"x"]
    assert suspicions.take_over(S, 10) == []
    assert suspicions.next_at(10) == S + 1.0
    suspicions.end(b"y")
    assert suspicions.next_at(10) == math.inf


def test_the_time_depends_on_how_many_there_are_now() -> None:
    suspicions = Suspicions(DEFAULT)
    suspicions.begin(b"x", 0, (b"a", b"b", b"c"), 0.0)
    assert (suspicions.next_at(10), suspicions.next_at(1000)) == (S, 3 * S)


def test_an_answer_gives_the_suspect_time_anew() -> None:
    suspicions = Suspicions(DEFAULT)
    suspicions.begin(b"x", 0, (b"a", b"b", b"c"), 0.0)
    suspicions.take_over(S, 10)
    suspicions.answered(b"x", S + 1.0)
    assert suspicions.next_at(10) == 2 * S + 1.0
    suspicions.answered(b"unknown", 0.0)


def test_who_was_away_begins_again() -> None:
    suspicions = Suspicions(DEFAULT)
    suspicions.begin(b"x", 0, (b"a", b"b", b"c"), 0.0)
    suspicions.take_over(S, 10)
    suspicions.begin_again(100.0)
    assert suspicions.next_at(10) == 100.0 + S
