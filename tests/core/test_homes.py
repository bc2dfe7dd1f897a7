"""Which life of a peer is there."""

from __future__ import annotations

from meshray.core.homes import OVER_MAX, Homes

ME, H = b"me......", b"home...."
L1, L2, L3 = b"life...1", b"life...2", b"life...3"


def test_the_newest_life_counts_in_whatever_order_rumours_come() -> None:
    homes = Homes(ME)
    assert homes.on_told(L2, H, 2) is None
    assert homes.on_told(L1, H, 1) is None  # a late rumour of a life that is over
    assert homes.life_of(H) == L2
    assert homes.on_told(L3, H, 3) == L2
    assert homes.life_of(H) == L3
    assert homes.is_over(L2)
    assert homes.on_told(L2, H, 2) is None
    assert homes.life_of(H) == L3


def test_the_end_of_the_current_life_is_that_of_the_home_and_of_another_one_is_not() -> None:
    homes = Homes(ME)
    homes.on_told(L2, H, 2)
    homes.on_told(L1, H, 1)
    assert homes.on_over(L1) is None
    assert homes.on_over(L2) == H
    assert homes.life_of(H) is None
    assert homes.home_of(L2) is None
    assert homes.on_over(L2) is None
    assert homes.on_told(L2, H, 2) is None
    assert homes.current() == []


def test_after_our_own_end_lives_that_we_held_for_dead_may_be_there() -> None:
    homes = Homes(ME)
    homes.on_told(L1, H, 1)
    homes.on_told(L2, b"other...", 1)
    homes.on_over(L2)
    assert homes.clear() == [H]
    assert homes.current() == []
    homes.on_told(L1, H, 1)
    homes.on_told(L2, b"other...", 1)
    assert homes.current() == [H, b"other..."]


def test_a_life_with_two_homes_or_with_ours_is_strange() -> None:
    homes = Homes(ME)
    homes.on_told(L1, ME, 1)
    homes.on_told(L2, H, 1)
    homes.on_told(L2, b"other...", 2)
    homes.on_told(L2, H, 1)
    assert homes.strange == 2
    assert homes.current() == [H]


def test_lives_that_are_over_are_forgotten_in_the_end() -> None:
    homes = Homes(ME)
    for number in range(OVER_MAX + 1):
        homes.on_over(b"%08d" % number)
    assert not homes.is_over(b"%08d" % 0)
    assert homes.is_over(b"%08d" % 1)
