"""The local health score."""

from __future__ import annotations

from meshray.core.health import Health


def test_the_score_stays_within_its_bounds() -> None:
    health = Health(7)
    health.on_answer()
    assert (health.score, health.multiplier) == (0, 1)
    health.on_trouble(3)
    health.on_trouble()
    assert (health.score, health.multiplier) == (4, 5)
    health.on_trouble(100)
    assert health.multiplier == 8
    for _ in range(10):
        health.on_answer()
    assert health.multiplier == 1


def test_no_missing_nack_is_no_trouble() -> None:
    health = Health(7)
    health.on_trouble(0)
    assert health.score == 0
