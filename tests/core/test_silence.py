"""Who has not told of a dead submitter, and what that costs."""

from __future__ import annotations

from meshray.core.silence import Silence

DEAD, EXECUTOR, OTHER, LATER = b"dead", b"executor", b"other", b"later"
PATIENCE_S = 5.0
NOBODYS, ITS = frozenset[bytes](), frozenset([DEAD])


def silence(*executors: bytes) -> Silence:
    made = Silence(PATIENCE_S)
    made.on_died(DEAD, [], frozenset(executors), NOBODYS, 1.0)
    return made


def test_patience_ends_once() -> None:
    made = silence()
    assert made.next_deadline() == 1.0 + PATIENCE_S
    made.tick(5.9)
    assert not made.is_overdue(DEAD)
    made.tick(6.0)
    assert made.is_overdue(DEAD)
    assert made.overdue() == [DEAD]
    assert made.next_deadline() is None
    made.on_settled(DEAD)
    assert made.overdue() == []


def test_living_executors_cost_until_they_tell_and_nobody_else_does() -> None:
    made = silence(EXECUTOR, OTHER)
    assert made.cost(DEAD) == 2
    assert made.on_answered(LATER, DEAD) is False
    assert made.on_answered(EXECUTOR, DEAD) is False
    assert made.cost(DEAD) == 1
    assert made.awaits(OTHER, DEAD)
    assert not made.awaits(EXECUTOR, DEAD)


def test_who_dies_without_telling_costs_once_and_for_good() -> None:
    made = silence(EXECUTOR)
    made.on_died(EXECUTOR, [], NOBODYS, ITS, 2.0)
    made.on_died(OTHER, [], NOBODYS, None, 2.0)  # it has served more than is remembered
    assert made.cost(DEAD) == 2
    assert made.on_settled(DEAD) == 2
    assert made.cost(DEAD) == 0


def test_who_never_had_a_lease_of_the_dead_can_have_begun_nothing_for_it() -> None:
    made = silence(EXECUTOR)
    made.on_died(OTHER, [DEAD], NOBODYS, frozenset([LATER]), 2.0)
    made.on_answered(EXECUTOR, DEAD)
    assert made.cost(DEAD) == 0
    assert made.on_settled(DEAD) == 0
    assert made.cost(OTHER) == 0, "nor can the dead for one that dies later"


def test_who_died_earlier_may_have_begun_something_for_one_that_has_not_told_of_it() -> None:
    made = Silence(PATIENCE_S)
    made.on_died(EXECUTOR, [], NOBODYS, ITS, 1.0)
    made.on_died(OTHER, [], NOBODYS, frozenset([LATER]), 1.0)
    made.on_died(DEAD, [EXECUTOR, OTHER], NOBODYS, NOBODYS, 2.0)
    assert made.on_settled(DEAD) == 1


def test_who_dies_after_it_has_told_costs_nothing() -> None:
    made = silence(EXECUTOR)
    made.on_answered(EXECUTOR, DEAD)
    made.on_died(EXECUTOR, [], NOBODYS, ITS, 2.0)
    assert made.on_settled(DEAD) == 0


def test_what_nobody_wants_is_known_when_its_worker_has_told_all() -> None:
    made = silence(EXECUTOR)
    made.on_unwanted(EXECUTOR, DEAD)
    assert made.on_answered(EXECUTOR, DEAD) is True
    assert made.on_answered(EXECUTOR, OTHER) is None
    assert not made.awaits(EXECUTOR, OTHER)
