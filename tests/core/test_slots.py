"""The books of one peer's resources."""

from __future__ import annotations

import pytest

from meshray.core.slots import Slots, subtract
from meshray.resources import to_amounts


def slots(**total: float) -> Slots:
    return Slots(to_amounts(total))


def test_what_was_taken_comes_back_exactly() -> None:
    books = slots(CPU=1, licence=0.3)
    parts = [to_amounts({"CPU": 0.1, "licence": 0.03})] * 10
    for part in parts:
        assert books.fits(part)
        books.take(part)
    assert not books.fits(to_amounts({"CPU": 0.0001}))
    for part in parts:
        books.give(part)
    assert books.free() == books.total


def test_a_wake_is_a_debt_that_is_repaid() -> None:
    books = slots(CPU=1)
    one = to_amounts({"CPU": 1})
    books.take(one)
    books.block(10_000)
    books.take(one)
    books.wake(10_000)
    assert (books.debt, books.free()["CPU"]) == (10_000, 0)
    books.give(one)
    assert (books.debt, books.fits(one)) == (0, False)
    books.give(one)
    assert books.fits(one)


def test_to_take_more_than_there_is_breaks_i4() -> None:
    books = slots(CPU=1)
    with pytest.raises(AssertionError, match="granted"):
        books.take(to_amounts({"CPU": 2}))
    with pytest.raises(AssertionError, match="I4"):
        books.give(to_amounts({"CPU": 1}))


def test_fractions_of_gpus_are_packed_so_that_whole_ones_stay_whole() -> None:
    books = slots(GPU=3)
    assert books.take(to_amounts({"GPU": 0.5})) == (0,)
    assert books.take(to_amounts({"GPU": 0.7})) == (1,)
    assert books.take(to_amounts({"GPU": 0.3})) == (1,)
    assert books.take(to_amounts({"GPU": 1})) == (2,)
    assert not books.fits(to_amounts({"GPU": 0.6}))
    books.give(to_amounts({"GPU": 0.7}), (1,))
    assert books.take(to_amounts({"GPU": 0.6})) == (1,)


def test_several_gpus_are_whole_ones() -> None:
    books = slots(GPU=3)
    books.take(to_amounts({"GPU": 0.1}))
    assert books.take(to_amounts({"GPU": 2})) == (1, 2)
    assert "whole" in books.why_never(to_amounts({"GPU": 1.5}))


def test_why_never_says_what_is_asked_and_what_is_there() -> None:
    books = slots(CPU=2)
    assert books.why_never(to_amounts({"CPU": 2})) == ""
    assert (
        books.why_never(to_amounts({"CPU": 1, "GPU": 1})) == "it asks for {CPU: 1, GPU: 1}, there is {CPU: 2, GPU: 0}"
    )


def test_subtract() -> None:
    assert subtract({"CPU": 3, "GPU": 1}, {"CPU": 1, "GPU": 1, "x": 9}) == {"CPU": 2}
