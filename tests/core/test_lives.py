"""The life of one actor, as a table."""

from __future__ import annotations

import pytest

from meshray.config import DEFAULT
from meshray.core.lives import NEXT, Actor, Life
from meshray.wire.messages import Blob, CreateActor, Profile


def actor(max_restarts: int = 0) -> Actor:
    blob, job = Blob(b"h" * 16, "Counter", b""), b"j" * 16
    spec = CreateActor(b"a" * 24, blob, b"", [], {}, {}, Profile(actor=True), max_restarts, 0, 0, job, b"", name="one")
    return Actor(spec, job)


def test_every_pair_that_is_not_in_the_table_is_an_error_that_tells_the_actor() -> None:
    for life, following in NEXT.items():
        for other in Life:
            one = actor()
            one.life = life
            if other in following:
                one.enter(other)
                assert one.life is other
            else:
                with pytest.raises(AssertionError, match=f"cannot become {other.value}.*'one'.*{life.value}"):
                    one.enter(other)


def test_a_change_of_life_ends_what_it_was_waiting_for() -> None:
    one = actor()
    one.enter(Life.STARTING)
    one.enter(Life.BACKOFF)
    one.deadline = 5.0
    one.enter(Life.PLACING)
    assert one.deadline is None


def test_the_dead_stay_dead() -> None:
    assert NEXT[Life.DEAD] == frozenset()
    assert all(Life.DEAD in following for life, following in NEXT.items() if life is not Life.DEAD)


def test_restarts_are_counted() -> None:
    none, two, always = actor(), actor(2), actor(-1)
    assert (none.may_restart(), two.may_restart(), always.may_restart()) == (False, True, True)
    two.restarts = always.restarts = 2
    assert (two.may_restart(), always.may_restart()) == (False, True)


def test_pauses_double_up_to_a_bound_and_a_long_life_ends_them() -> None:
    one = actor(-1)
    pauses = [one.pause_s(DEFAULT, now=0.0) for _ in range(9)]
    assert pauses[:4] == [0.0, DEFAULT.actor_backoff_s, 2 * DEFAULT.actor_backoff_s, 4 * DEFAULT.actor_backoff_s]
    assert pauses[-1] == DEFAULT.actor_backoff_max_s
    assert one.pause_s(DEFAULT, now=2 * DEFAULT.actor_backoff_max_s) == 0.0
