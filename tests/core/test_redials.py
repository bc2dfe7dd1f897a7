"""Whoever is down is tried again and again, in turn, until it is up or gone."""

from __future__ import annotations

from meshray.core.redials import Redials

A, B = b"node---a", b"node---b"


def test_tried_again_until_it_is_up() -> None:
    redials = Redials(2.0)
    assert redials.next_at() is None
    redials.on_down(A, 0.0)
    redials.on_down(B, 1.0)
    redials.on_down(A, 1.5)  # a trial has failed: the next one comes when it would have
    assert redials.next_at() == 2.0
    assert redials.take_due(1.9) == []
    assert redials.take_due(2.0) == [A]
    assert redials.take_due(10.0) == [B, A]
    assert redials.on_up(A)
    assert not redials.on_up(A)
    assert redials.next_at() == 12.0


def test_nobody_tries_who_is_gone() -> None:
    redials = Redials(2.0)
    redials.on_down(A, 0.0)
    redials.on_gone(A)
    redials.on_gone(B)
    assert redials.take_due(100.0) == []
    assert redials.next_at() is None
