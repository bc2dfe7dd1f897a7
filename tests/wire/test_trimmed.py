from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from meshray.wire.payload import dump_trimmed, load_exception
from meshray.wire.trimmed import PARTS_MAX, TEXT_MAX

LARGE = 100_000
MAX = 20_000


def back(error: BaseException) -> Any:
    """What arrives of it."""
    pickled, _ = dump_trimmed(error, MAX)
    assert len(pickled) <= MAX
    return load_exception(pickled)[0]


class Counted(Exception):
    """Its constructor has no use for a text in the place of the numbers."""

    def __init__(self, numbers: list[int], name: str) -> None:
        super().__init__(numbers, name)
        self.total = sum(numbers)
        self.numbers = numbers


class Slotted(Exception):
    __slots__ = ("large", "small")


class BadReduce(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        raise RuntimeError("no")


def test_a_long_text_is_cut_and_the_class_stays() -> None:
    error = back(KeyError("k" * LARGE))
    assert type(error) is KeyError
    assert error.args == ("k" * TEXT_MAX + f"[... {LARGE - TEXT_MAX} characters left out]",)


def test_bytes_stay_bytes() -> None:
    assert back(ValueError(b"b" * LARGE, 3)).args == (b"b" * TEXT_MAX, 3)


def test_what_is_small_stays_and_what_is_large_is_named_or_missing() -> None:
    error = Counted(list(range(LARGE)), "mine")
    error.add_note("a note")
    arrived = back(error)
    assert type(arrived) is Counted
    assert arrived.args == ("<builtins.list left out>", "mine")
    assert arrived.total == error.total
    assert not hasattr(arrived, "numbers")
    assert arrived.__notes__ == ["a note"]


def test_fields_of_built_in_types_and_slots() -> None:
    error = FileNotFoundError(2, "no such file", "name")
    error.large = bytes(LARGE)  # type: ignore[attr-defined]
    arrived = back(error)
    assert str(arrived) == str(error)
    assert arrived.errno == 2
    slotted = Slotted("x")
    slotted.large, slotted.small = bytes(LARGE), 1
    arrived = back(slotted)
    assert arrived.small == 1
    assert not hasattr(arrived, "large")


def test_derived_attributes_are_those_that_were_and_not_derived_anew() -> None:
    error = json.JSONDecodeError("wrong", "\n" * LARGE, LARGE - 1)
    arrived = back(error)
    assert type(arrived) is json.JSONDecodeError
    assert (str(arrived), arrived.lineno) == (str(error), LARGE)


def test_what_cannot_be_pickled_is_left_out_as_well() -> None:
    error = ValueError(threading.Lock(), bytes(LARGE), 1)
    assert back(error).args == ("<_thread.lock left out>", b"\0" * TEXT_MAX, 1)
    assert type(back(BadReduce("x" * LARGE))) is BadReduce


@pytest.mark.parametrize("count", [PARTS_MAX, PARTS_MAX + 7, 10 * PARTS_MAX])
def test_many_arguments_are_not_looked_at_one_by_one(count: int) -> None:
    args = back(ValueError(*range(count))).args
    assert args[:PARTS_MAX] == tuple(range(PARTS_MAX))
    assert args[PARTS_MAX:] == ((f"<{count - PARTS_MAX} more left out>",) if count > PARTS_MAX else ())


def test_many_small_ones_take_no_more_than_there_is_room_for() -> None:
    args = back(ValueError(*["x" * 1000] * 50)).args
    assert 5 < args.count("x" * 1000) < 50
    assert args.count("<builtins.str left out>") == 50 - args.count("x" * 1000)


def test_a_class_that_is_too_large_itself_does_not_travel() -> None:
    class Large(Exception):
        table = b"x" * LARGE

    assert dump_trimmed(Large(), MAX) == (b"", [])


def test_a_built_in_type_that_takes_no_text_does_not_travel() -> None:
    assert dump_trimmed(ExceptionGroup("group", [ValueError("x" * LARGE)]), MAX) == (b"", [])


def test_what_is_left_out_is_named() -> None:
    error = ValueError("small", bytes(LARGE))
    error.lock, error.code = threading.Lock(), 5  # type: ignore[attr-defined]
    assert dump_trimmed(error, MAX)[1] == ["args[1]", "lock"]
    assert dump_trimmed(ValueError(*range(PARTS_MAX + 7)), MAX)[1] == [f"args[{PARTS_MAX}:]"]
    assert dump_trimmed(ValueError("small"), MAX)[1] == []
