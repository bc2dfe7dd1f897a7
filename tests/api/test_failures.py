from __future__ import annotations

import pickle
import threading
from typing import Any

import msgspec
import pytest

from meshray import errors
from meshray.config import DEFAULT
from meshray.errors import ActorDiedError, GetTimeoutError, MeshrayError, TaskError
from meshray.runtime.failures import (
    TRACEBACK_MAX,
    exception_from_failure,
    failure_from_exception,
    to_failure,
)
from meshray.wire.messages import Failure


def over_the_wire(failure: Failure) -> Failure:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(failure), type=Failure)


def fail_in(task: str, error: BaseException) -> Exception:
    """What `get` raises when `task` let `error` out."""
    try:
        raise error
    except BaseException as caught:
        failure = failure_from_exception(caught, task_name=task, pid=5, host="box")
    return exception_from_failure(over_the_wire(failure))


def test_an_exception_arrives_with_type_text_traceback_and_cause() -> None:
    error = fail_in("f", ValueError("boom"))
    assert isinstance(error, TaskError)
    assert isinstance(error, ValueError)
    assert str(error).startswith("ValueError: boom\n\nin f (pid=5, host=box)\nTraceback")
    assert "raise error" in str(error)
    assert isinstance(error.cause, ValueError)
    assert error.args == ("boom",)
    assert error.task_name == "f"


def test_hops_add_sections_and_tell_nothing_twice() -> None:
    error = fail_in("inner", ValueError("boom"))
    for hop in range(3):
        error = fail_in(f"outer{hop}", error)
    text = str(error)
    assert isinstance(error, ValueError)
    assert isinstance(error, TaskError)
    assert type(error.cause) is ValueError
    assert error.task_name == "inner"
    assert text.startswith("ValueError: boom\n")
    assert text.count("in inner (") == 1
    for hop in range(3):
        assert text.count(f"came through outer{hop} (") == 1
    assert text.count("Traceback (most recent call last)") == 4


def test_two_hundred_hops_stay_bounded_and_keep_both_ends() -> None:
    error = fail_in("first", ValueError("boom"))
    for hop in range(200):
        error = fail_in(f"hop{hop}", error)
    assert isinstance(error, TaskError)
    assert len(str(error)) < TRACEBACK_MAX + 1000
    assert "in first (" in str(error)
    assert "came through hop199 (" in str(error)


def test_what_failed_argument_propagation_forwards_is_the_same_failure() -> None:
    error = fail_in("f", ValueError("boom"))
    assert isinstance(error, TaskError)
    again = exception_from_failure(over_the_wire(to_failure(error)))
    assert str(again) == str(error)
    assert isinstance(again, ValueError)


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.code = 5
        self.lock = threading.Lock()


class ReduceFails(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle for you")


class InitFails(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first}/{second}")
        self.first = first


class OfNothing(ExceptionGroup[Exception]):
    """Its built-in base cannot do without what is missing."""

    def __init__(self, text: str, errors: list[Exception]) -> None:
        super().__init__(text, errors)
        self.args = ()


class StrFails(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


@pytest.mark.fault(49)
@pytest.mark.parametrize(
    "error", [Unpicklable(), ReduceFails("x"), InitFails(1, 2)], ids=lambda each: type(each).__name__
)
def test_an_exception_that_cannot_be_pickled_or_rebuilt_keeps_its_class(error: Exception) -> None:
    """Also after more hops, and pickled by the program: its constructor is never called."""
    first = fail_in("f", error)
    hops = fail_in("third", fail_in("second", first))
    for arrived in (first, hops, pickle.loads(pickle.dumps(first))):
        assert isinstance(arrived, TaskError)
        assert isinstance(arrived, type(error))
        assert type(arrived.cause) is type(error)
        assert arrived.cause.args == error.args
        assert str(arrived.cause) == str(error)
        assert "in f (pid=5, host=box)" in str(arrived)
        assert "Only the text" not in str(arrived)


def test_what_is_missing_of_an_exception_is_said() -> None:
    arrived = fail_in("f", Unpicklable())
    assert str(arrived).count("missing what cannot be pickled, or is too large: lock.)") == 1
    assert isinstance(arrived, Unpicklable)
    assert arrived.code == 5
    assert not hasattr(arrived, "lock")
    assert "missing" not in str(fail_in("f", InitFails(1, 2)))


@pytest.mark.fault(49)
def test_an_exception_of_which_nothing_can_be_made_arrives_as_text_that_says_why() -> None:
    arrived = fail_in("f", OfNothing("group", [ValueError()]))
    assert type(arrived) is TaskError
    assert arrived.cause is None
    assert "OfNothing" in arrived.headline
    assert "Only the text of this exception came, so it is not caught by its class: it cannot be rebuilt" in str(
        arrived
    )
    assert "define __reduce__" in str(arrived)


class Large(LookupError):
    def __init__(self, numbers: list[int]) -> None:
        super().__init__(numbers)
        self.total = sum(numbers)


def test_an_exception_that_is_too_large_keeps_its_class_and_says_what_is_missing() -> None:
    """Also after more hops, and pickled by the program: its constructor could not be called again."""
    numbers = list(range(500_000))
    arrived = fail_in("f", Large(numbers))
    hops = fail_in("third", fail_in("second", arrived))
    for error in (arrived, hops, pickle.loads(pickle.dumps(arrived))):
        assert isinstance(error, TaskError)
        assert isinstance(error, Large)
        assert error.total == sum(numbers)
        assert type(error.cause) is Large
        assert error.cause.args == ("<builtins.list left out>",)
        assert int(error.exception_bytes) > DEFAULT.exception_max_bytes
        text = str(error)
        assert text.count(f"pickles to {int(error.exception_bytes):,} bytes, and at most 1,048,576 go along") == 1
        assert "exception_max_bytes" in text


def test_an_exception_of_which_nothing_small_can_be_made_says_how_large_it_was() -> None:
    arrived = fail_in("f", ExceptionGroup("group", [ValueError("x" * (2 << 20))]))
    assert type(arrived) is TaskError
    assert arrived.cause is None
    assert "so only its text came" in str(arrived)
    assert int(arrived.exception_bytes) > 2 << 20


@pytest.mark.fault(49)
def test_an_exception_without_a_text_arrives() -> None:
    arrived = fail_in("f", StrFails())
    assert isinstance(arrived, StrFails)
    assert "StrFails: <its __str__ raised RuntimeError>" in str(arrived)


def test_bytes_that_rebuild_to_nothing_give_a_plain_task_error() -> None:
    arrived = exception_from_failure(Failure(kind="TaskError", message="ValueError: x", cause=b"garbage"))
    assert type(arrived) is TaskError
    assert str(arrived).startswith("ValueError: x\n\n(Only the text of this exception came")
    assert "it cannot be rebuilt where it has arrived: UnpicklingError" in str(arrived)


def test_an_error_of_the_mesh_keeps_class_details_and_cause() -> None:
    error = ActorDiedError("it is gone", actor_id="ab")
    error.__cause__ = ValueError("from its __init__")
    arrived = exception_from_failure(over_the_wire(to_failure(error)))
    assert type(arrived) is ActorDiedError
    assert str(arrived) == "it is gone"
    assert arrived.actor_id == "ab"
    assert isinstance(arrived.__cause__, ValueError)


def test_an_error_of_the_mesh_that_fails_a_task_is_both() -> None:
    arrived = fail_in("f", GetTimeoutError("too slow"))
    assert isinstance(arrived, TaskError)
    assert isinstance(arrived, GetTimeoutError)
    assert isinstance(arrived, TimeoutError)


def test_an_unknown_kind_is_a_plain_error_that_names_it() -> None:
    arrived = exception_from_failure(Failure(kind="FromTheFuture", message="hm"))
    assert type(arrived) is MeshrayError
    assert "FromTheFuture" in str(arrived)
    assert type(exception_from_failure(Failure(kind="task_error", message="hm"))) is MeshrayError


def test_a_subclass_made_by_a_program_travels_as_its_nearest_class() -> None:
    class Mine(errors.ObjectLostError):
        pass

    assert to_failure(Mine("x")).kind == "ObjectLostError"


def test_system_exit_of_a_task_does_not_end_its_caller() -> None:
    arrived = fail_in("f", SystemExit(3))
    assert type(arrived) is TaskError
    assert isinstance(arrived.cause, SystemExit)


def test_texts_no_message_could_carry_are_escaped_and_cut() -> None:
    arrived = fail_in("f", ValueError("\ud800" + "x" * 200_000))
    assert isinstance(arrived, ValueError)
    assert "characters left out" in str(arrived)
    assert "\\ud800" in str(arrived)
