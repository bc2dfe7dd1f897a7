"""Which functions a receiver has, and is told to forget."""

from __future__ import annotations

import random

import pytest

from meshray.core.shipped import FUNCTION_BYTES, Shipped, weight_of
from meshray.wire.messages import Blob

NOTHING_IN_FLIGHT = 1 << 60


def blob(number: int, size: int = 0) -> Blob:
    return Blob(bytes([number]) * 16, f"f{number}", bytes(size))


def with_room_for(count: int) -> Shipped:
    return Shipped(count * FUNCTION_BYTES)


def test_what_was_used_longest_ago_goes_first() -> None:
    shipped = with_room_for(2)
    a, b, c = blob(1), blob(2), blob(3)
    assert not shipped.use(a.hash, 1)
    shipped.add(a, 1)
    shipped.add(b, 2)
    assert shipped.use(a.hash, 3)
    assert shipped.trim(NOTHING_IN_FLIGHT) == []
    shipped.add(c, 4)
    assert shipped.trim(NOTHING_IN_FLIGHT) == [b.hash]
    assert [each.hash in shipped for each in (a, b, c)] == [True, False, True]
    assert shipped.bytes == 2 * FUNCTION_BYTES


def test_what_is_in_flight_stays() -> None:
    shipped = with_room_for(1)
    for number in (1, 2, 3):
        shipped.add(blob(number), number)
    assert shipped.trim(oldest=2) == [blob(1).hash]
    assert len(shipped) == 2, "beyond the bound, and in flight"
    assert shipped.trim(oldest=3) == [blob(2).hash]


def test_a_function_that_is_larger_than_the_bound_is_there_alone() -> None:
    shipped = with_room_for(2)
    shipped.add(blob(1), 1)
    large = blob(2, 10 * FUNCTION_BYTES)
    shipped.add(large, 2)
    assert shipped.trim(oldest=2) == [blob(1).hash]
    assert large.hash in shipped
    shipped.add(blob(3), 3)
    assert shipped.trim(oldest=3) == [large.hash]
    shipped.add(large, 4)
    shipped.use(blob(3).hash, 5)
    shipped.use(large.hash, 6)
    assert shipped.trim(NOTHING_IN_FLIGHT) == [blob(3).hash, large.hash], "if nothing is in flight"
    assert not shipped.use(large.hash, 7)
    assert (len(shipped), shipped.bytes) == (0, 0)


def test_what_may_be_added() -> None:
    shipped = with_room_for(3)
    shipped.add(blob(1), 1)
    shipped.add(blob(2), 2)
    assert shipped.room(oldest=1) == FUNCTION_BYTES
    assert shipped.room(oldest=2) == 2 * FUNCTION_BYTES
    assert shipped.room(NOTHING_IN_FLIGHT) == 3 * FUNCTION_BYTES
    assert [shipped.adds(blob(number), 2) for number in (1, 2, 3)] == [FUNCTION_BYTES, 0, FUNCTION_BYTES]


def test_a_function_is_not_shipped_twice() -> None:
    shipped = with_room_for(3)
    shipped.add(blob(1), 1)
    with pytest.raises(AssertionError, match="f1 is shipped twice"):
        shipped.add(blob(1), 2)


@pytest.mark.parametrize("seed", range(50))
def test_sender_and_receiver_agree_whatever_is_used(seed: int) -> None:
    """A receiver that does what it is told has what it needs, and no more than the bound."""
    rng = random.Random(seed)
    blobs = [blob(number, rng.randrange(3) * 1000) for number in range(12)]
    largest = max(map(weight_of, blobs))
    bound = rng.randint(1, 4) * 3000
    shipped = Shipped(bound)
    there: dict[bytes, Blob] = {}
    in_flight: dict[int, Blob] = {}
    number = 0
    for _ in range(400):
        used = rng.choice(blobs)
        oldest = next(iter(in_flight), number + 1)
        adds = shipped.adds(used, oldest)
        if not in_flight or not adds or adds <= shipped.room(oldest):
            number += 1
            in_flight[number] = used
            new = not shipped.use(used.hash, number)
            if new:
                shipped.add(used, number)
                for function in shipped.trim(next(iter(in_flight))):
                    del there[function]
                assert used.hash not in there
                there[used.hash] = used
        assert all(each.hash in there for each in in_flight.values())
        assert sum(map(weight_of, there.values())) == shipped.bytes <= max(bound, largest)
        assert len(there) == len(shipped)
        for done in [each for each in in_flight if rng.random() < 0.3]:
            del in_flight[done]
