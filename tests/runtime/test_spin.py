"""When a spin is made, how it ends, and that spins in vain become rare."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from meshray.runtime.spin import SPIN_SKIPS_MAX, Spin

WAITER = SimpleNamespace(missing=1)


def test_what_comes_at_once_is_found_and_found_again() -> None:
    spin = Spin(lambda: True)
    assert all(spin.finds(WAITER) for _ in range(100))


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its time nor a core that is taken from us ends a spin."""
    monkeypatch.setattr("meshray.runtime.spin.SPIN_S", 1000.0)
    monkeypatch.setattr("meshray.runtime.spin.SPIN_YIELD_S", 1000.0)


@pytest.mark.usefixtures("endless")
def test_it_looks_until_something_has_come() -> None:
    looks = iter([False, False, True])
    assert Spin(lambda: next(looks)).finds(WAITER)


def test_a_core_that_was_taken_from_us_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshray.runtime.spin.SPIN_S", 1000.0)
    monkeypatch.setattr("meshray.runtime.spin.SPIN_YIELD_S", 0.0)
    assert not Spin(lambda: False).finds(WAITER)


def test_after_one_in_vain_the_next_waits_sleep_at_once_and_more_of_them_each_time() -> None:
    looked: list[bool] = []
    spin = Spin(lambda: bool(looked.append(True)))
    rounds: list[int] = []  # the waits that were worth a look
    for number in range(2000):
        looked.clear()
        assert not spin.finds(WAITER)
        if looked:
            rounds.append(number)
    assert rounds[:5] == [0, 2, 6, 14, 30]
    assert rounds[-1] - rounds[-2] == SPIN_SKIPS_MAX + 1


def test_one_that_is_worth_it_forgets_those_in_vain() -> None:
    answers = [False, True]
    spin = Spin(lambda: answers[0])
    while spin.skips < 10:
        assert not spin.finds(WAITER)
    answers.reverse()
    while not spin.finds(WAITER):
        pass
    answers.reverse()
    assert not spin.finds(WAITER)
    assert spin.skips == 1


@pytest.mark.usefixtures("endless")
def test_it_ends_when_nothing_is_missing_any_more() -> None:
    """Another thread has brought it."""
    waiter = SimpleNamespace(missing=1)
    looks: list[int] = []

    def stirs() -> bool:
        looks.append(1)
        waiter.missing = 0
        return False

    assert not Spin(stirs).finds(waiter)
    assert len(looks) == 1
