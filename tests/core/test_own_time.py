"""Time that was not lived does not count."""

from __future__ import annotations

import pytest

from meshray.core.own_time import OwnTime


def test_time_passes_as_planned() -> None:
    own = OwnTime(100.0, slack_s=0.25)
    own.next_at = 101.0
    assert own.advance(100.5) == 0.0
    assert own.advance(101.2) == 0.0  # a little late
    assert own.time == pytest.approx(101.2)


@pytest.mark.fault(56, 58)
def test_a_jump_forward_is_time_away() -> None:
    own = OwnTime(0.0, slack_s=0.25)
    own.next_at = 1.0
    assert own.advance(601.25) == pytest.approx(600.0)
    assert own.time == pytest.approx(1.25)
    own.next_at = 2.0
    assert own.to_shell(own.next_at) == pytest.approx(602.0)
    assert own.advance(602.0) == 0.0
    assert own.time == pytest.approx(2.0)


@pytest.mark.fault(56)
def test_a_jump_back_stops_the_time_once() -> None:
    own = OwnTime(1000.0, slack_s=0.25)
    own.next_at = 1001.0
    assert own.advance(10.0) == 0.0
    assert own.time == 1000.0
    assert own.advance(10.5) == 0.0
    assert own.time == 1000.5


def test_rounding_never_leaves_a_moment_that_does_not_come() -> None:
    """The shell asks at `to_shell(next_at)`: then own time must have reached `next_at`, whatever was rounded."""
    own = OwnTime(0.1, slack_s=0.25)
    now = 0.1
    for step in range(2000):
        own.next_at = own.time + 0.1 + step * 1e-7
        now = own.to_shell(own.next_at) + (1234.567 if step % 50 == 0 else 0.0)
        own.advance(now)
        assert own.time >= own.next_at
