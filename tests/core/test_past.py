"""Epochs of links only grow, also of those that were forgotten; the dead stay dead while they are remembered."""

from __future__ import annotations

from meshray.core.past import Past

A, B, C = b"node---a", b"node---b", b"node---c"


def test_the_next_link_has_a_larger_epoch() -> None:
    past = Past(2)
    assert past.epoch_for(A) == 0
    assert not past.may_begin_anew(A)
    past.on_over(A, 0)
    assert (past.epoch_for(A), past.epoch_for(B)) == (1, 0)
    assert past.may_begin_anew(A)
    past.on_over(A, 5)  # the other side was ahead
    past.on_over(A, 3)
    assert past.epoch_for(A) == 6


def test_whoever_was_forgotten_begins_above_all_that_were() -> None:
    past = Past(2)
    past.on_over(A, 7)
    past.on_over(B, 1)
    past.on_over(A, 8)  # remembered anew
    past.on_over(C, 2)
    assert not past.may_begin_anew(B)
    assert past.epoch_for(B) == 2
    past.on_over(B, 2)
    assert [past.epoch_for(node) for node in (A, B, C, b"stranger")] == [9, 9, 9, 9]  # a was forgotten


def test_the_dead() -> None:
    past = Past(1)
    past.on_over(A, 4)
    past.on_dead(A, "10.0.0.1:7000")
    assert A in past
    assert past.where_dead(A) == "10.0.0.1:7000"
    assert not past.may_begin_anew(A)
    assert past.epoch_for(A) == 5
    past.on_dead(B, "")
    assert A not in past
    assert past.where_dead(A) is None
    assert past.epoch_for(A) == 5


def test_who_is_none_of_us_stays_so_while_it_is_remembered() -> None:
    past = Past(2)
    for node in (A, B, A, C):
        past.on_strange(node)
    assert [past.is_strange(node) for node in (A, B, C)] == [True, False, True]
    assert A not in past
