"""Freed segments that wait to be written again."""

from __future__ import annotations

import random

import pytest

from meshray.store.files import capacity_for
from meshray.store.pool import Pool, Segment


def segment(name: str, nbytes: int) -> Segment:
    return Segment(name, capacity_for(nbytes))


def test_the_last_freed_is_taken_first() -> None:
    pool = Pool(1 << 30)
    for now, name in enumerate("abc"):
        assert pool.put(segment(name, 200_000), now) == []
    assert [found.name for found in (pool.take(200_000), pool.take(200_000)) if found] == ["c", "b"]
    assert len(pool) == 1


@pytest.mark.parametrize("nbytes", [100_000, 150_000, 3 << 20, 1 << 30])
def test_waste_is_bounded(nbytes: int) -> None:
    capacity = capacity_for(nbytes)
    for _ in range(3):
        pool = Pool(1 << 40)
        pool.put(Segment("x", capacity), 0)
        assert pool.take(nbytes) is not None
        assert pool.take(nbytes) is None
        capacity = capacity_for(capacity)
    pool = Pool(1 << 40)
    pool.put(Segment("x", capacity), 0)
    assert pool.take(nbytes) is None
    pool.put(Segment("x", capacity_for(nbytes // 2)), 0)
    assert pool.take(nbytes) is None


def test_expiry_and_clearing() -> None:
    pool = Pool(1 << 30)
    for now, name in enumerate("abc"):
        pool.put(segment(name, 200_000 << now), now)
    assert [found.name for found in pool.expired(1.5)] == ["a", "b"]
    assert pool.expired(1.5) == []
    assert [found.name for found in pool.clear()] == ["c"]
    assert (len(pool), pool.nbytes) == (0, 0)


def test_the_books_are_right_whatever_happens() -> None:
    draw = random.Random(1)
    pool = Pool(10 << 20)
    for now in range(2000):
        match draw.randrange(4):
            case 0 | 1:
                pool.put(segment(str(now), draw.randrange(1, 4 << 20)), now)
            case 2:
                found = pool.take(draw.randrange(1, 4 << 20))
                assert found is None or found not in list(pool)
            case _:
                pool.expired(now - 20)
        assert pool.nbytes == sum(found.capacity for found in pool) <= 10 << 20
