"""What can fail in a task, and how the caller sees it."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import traceback
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from meshray.exceptions import ActorDiedError, ObjectStoreFullError, TaskError, WorkerCrashedError
from tests.until import until

GET_S = 30.0


class Coded(Exception):
    """Cannot be rebuilt by its constructor from what it passes on to `Exception`."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code


class Kept(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        self.more = {"a": [1]}


class Bomb:
    """Explodes at one end of its way."""

    def __init__(self, when: str) -> None:
        self.when = when

    def __getstate__(self) -> dict[str, str]:
        if self.when == "pickled":
            raise ArithmeticError("exploded while it was pickled")
        return self.__dict__

    def __setstate__(self, state: dict[str, str]) -> None:
        if state["when"] == "unpickled":
            raise ArithmeticError("exploded while it was unpickled")
        if state["when"] == "exits":
            os._exit(7)
        self.__dict__.update(state)


def locked_exception() -> Exception:
    error = ValueError("holds a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    return error


# -- exceptions --------------------------------------------------------------------------------------------------------


def test_an_exception_is_both_a_task_error_and_its_own_type(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def fail() -> None:
        raise Kept(42)

    with pytest.raises(Kept) as caught:
        ray.get(fail.remote(), timeout=GET_S)
    error: Any = caught.value
    assert isinstance(error, TaskError)
    assert error.code == 42
    assert error.more == {"a": [1]}
    assert type(error.cause) is Kept
    assert error.cause.code == 42
    assert "raise Kept(42)" in str(error)
    assert "in fail (pid=" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, Kept)
    assert isinstance(again, TaskError)
    assert str(again) == str(error)


def test_an_exception_crosses_several_hops(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def inner() -> None:
        raise Kept(1)

    @ray.remote
    def middle() -> Any:
        return ray.get(inner.remote())

    @ray.remote
    def outer(value: Any) -> Any:
        return value

    for ref in (middle.remote(), outer.remote(middle.remote()), outer.remote(value=outer.remote(middle.remote()))):
        with pytest.raises(Kept) as caught:
            ray.get(ref, timeout=GET_S)
        text = str(caught.value)
        assert type(caught.value.cause) is Kept  # type: ignore[attr-defined]
        assert "raise Kept(1)" in text
        assert "in inner" in text
        assert "came through middle" in text


def test_an_exception_that_was_caught_in_between(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def inner() -> None:
        raise Kept(1)

    @ray.remote
    def outer() -> str:
        try:
            ray.get(inner.remote())
        except Kept as error:
            return f"caught {error.code}"
        return "nothing"

    assert ray.get(outer.remote(), timeout=GET_S) == "caught 1"


@pytest.mark.parametrize(
    "kind", [KeyboardInterrupt, GeneratorExit, StopIteration, FileNotFoundError], ids=lambda k: k.__name__
)
def test_unusual_exceptions(shared_mesh: ModuleType, kind: type[BaseException]) -> None:
    ray = shared_mesh

    @ray.remote(max_retries=0)
    def fail() -> None:
        raise kind(2, "text")

    with pytest.raises(TaskError, match=kind.__name__) as caught:
        ray.get(fail.remote(), timeout=GET_S)
    assert isinstance(caught.value.cause, kind)


def test_a_failed_argument_fails_the_task_with_that_error(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def fail() -> None:
        raise Kept(3)

    @ray.remote
    def use(*args: Any, **kwargs: Any) -> str:
        return "ran"

    failed = fail.remote()
    for ref in (use.remote(1, failed), use.remote(x=failed), use.remote(use.remote(failed))):
        with pytest.raises(Kept):
            ray.get(ref, timeout=GET_S)
    assert ray.get(use.remote([failed]), timeout=GET_S) == "ran"  # inside a container it is nobody's business


def test_tracebacks_of_actors_begin_in_the_users_code(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    class Plain:
        def __init__(self, how: str = "") -> None:
            if how:
                raise LookupError(how)

        def fail(self) -> None:
            raise LookupError("here")

    class Async:
        async def fail(self) -> None:
            raise LookupError("here")

    plain, coroutines = ray.remote(Plain), ray.remote(Async)
    actors = plain.remote(), coroutines.remote(), plain.options(max_concurrency=2).remote(), plain.remote("at birth")
    for actor in actors:
        with pytest.raises((LookupError, ActorDiedError)) as caught:
            ray.get(actor.fail.remote(), timeout=GET_S)
        text = str(caught.value)
        assert "test_task_errors.py" in text
        assert "meshray/worker" not in text


# -- what cannot be pickled --------------------------------------------------------------------------------------------


@pytest.mark.fault(49)
def test_exceptions_that_cannot_travel_whole(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def fail(how: str) -> None:
        if how == "rebuilt":
            raise Coded(5, "cannot be rebuilt")
        if how == "bomb":
            error = ValueError("bomb")
            error.bomb = Bomb("pickled")  # type: ignore[attr-defined]
            raise error
        raise locked_exception()

    with pytest.raises(Coded, match="cannot be rebuilt") as rebuilt:
        ray.get(fail.remote("rebuilt"), timeout=GET_S)
    assert rebuilt.value.code == 5
    for how, text, missing in (("locked", "holds a lock", "lock"), ("bomb", "ValueError: bomb", "bomb")):
        with pytest.raises(ValueError, match=text) as caught:
            ray.get(fail.remote(how), timeout=GET_S)
        assert isinstance(caught.value, TaskError)
        assert type(caught.value.cause) is ValueError
        assert f"or is too large: {missing}.)" in str(caught.value)
        assert "in fail (pid=" in str(caught.value)


def test_an_exception_that_is_too_large_is_caught_by_its_class(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def fail() -> None:
        raise KeyError("k" * (2 << 20))

    @ray.remote
    class Failing:
        def __init__(self) -> None:
            raise KeyError(bytes(2 << 20))

        def ping(self) -> None: ...

    @ray.remote
    def outer() -> None:
        ray.get(fail.remote())

    for ref in (fail.remote(), outer.remote()):
        with pytest.raises(KeyError) as caught:
            ray.get(ref, timeout=GET_S)
        assert "at most 1,048,576 go along (exception_max_bytes" in str(caught.value)
    with pytest.raises(ActorDiedError, match="exception_max_bytes") as died:
        ray.get(Failing.remote().ping.remote(), timeout=GET_S)
    assert isinstance(died.value.__cause__, KeyError)


def test_an_error_is_shown_without_our_frames(shared_mesh: ModuleType) -> None:
    """Where we were when it came says nothing to anybody."""
    ray = shared_mesh

    @ray.remote
    def fail() -> None:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom") as caught:
        ray.get(fail.remote(), timeout=GET_S)
    functions = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert functions == ["test_an_error_is_shown_without_our_frames"]


def test_a_full_store_shows_none_of_our_frames(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def make() -> bytes:
        return bytes(int(ray.cluster_resources()["object_store_memory"]) + 1)

    with pytest.raises(ObjectStoreFullError, match="does not fit") as caught:
        ray.get(make.remote(), timeout=GET_S)
    assert "Traceback" not in str(caught.value)


@pytest.mark.fault(49)
def test_arguments_that_cannot_be_pickled(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def task(first: Any, second: Any = None) -> int:
        return 1

    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"second.*lock"):
        task.remote(1, [lock])
    with pytest.raises(TypeError, match="second"):
        task.remote(1, second={"x": lock})
    with pytest.raises(TypeError, match=r"^put: .*lock"):
        ray.put(lock)
    with pytest.raises(ArithmeticError, match="while it was pickled") as caught:
        task.remote(Bomb("pickled"))
    assert any("the arguments of" in note and "task" in note for note in caught.value.__notes__)
    captured = ray.remote(lambda: lock)
    with pytest.raises(TypeError, match="lock") as refused:
        captured.remote()
    assert refused.value.__cause__ is None, "frames of picklers explain nothing"
    assert refused.value.__suppress_context__
    assert ray.get(task.remote(1), timeout=GET_S) == 1


@pytest.mark.fault(49)
def test_results_that_cannot_be_pickled(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote(num_returns=2)
    def two(bad: Any) -> Any:
        return 1, threading.Lock()

    @ray.remote
    def one(how: str) -> Any:
        return Bomb("pickled") if how == "bomb" else {"deep": [threading.Lock()]}

    with pytest.raises(TypeError, match=r"the result of one: .*lock.*\(at result\['deep'\]\[0\]\)") as caught:
        ray.get(one.remote("lock"), timeout=GET_S)
    assert "Traceback" not in str(caught.value), "no line of the user's is to blame, and ours are none of his business"
    with pytest.raises(ArithmeticError, match="while it was pickled"):
        ray.get(one.remote("bomb"), timeout=GET_S)
    for ref in two.remote(1):
        with pytest.raises(TypeError, match=r"the result of two: .*lock.*result\[1\]"):
            ray.get(ref, timeout=GET_S)


@pytest.mark.fault(49)
def test_values_that_cannot_be_unpickled(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote(max_retries=0)
    def task(value: Any) -> int:
        return 1

    @ray.remote
    def make() -> Any:
        return Bomb("unpickled")

    for ref in (task.remote(Bomb("unpickled")), task.remote(ray.put(Bomb("unpickled"))), task.remote(make.remote())):
        with pytest.raises(ArithmeticError, match="while it was unpickled"):
            ray.get(ref, timeout=GET_S)
    made = make.remote()
    for _ in range(2):
        with pytest.raises(ArithmeticError, match="while it was unpickled"):
            ray.get(made, timeout=GET_S)
    with pytest.raises(WorkerCrashedError, match="7"):
        ray.get(task.remote(Bomb("exits")), timeout=GET_S)
    assert ray.get(task.remote(1), timeout=GET_S) == 1


# -- wrong arguments ---------------------------------------------------------------------------------------------------


def test_wrong_arguments_are_refused_at_once(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def task(a: int, *, b: int = 2) -> int:
        return a + b

    for call in (task.remote, lambda: task.remote(1, 2), lambda: task.remote(1, c=3)):
        with pytest.raises(TypeError, match="task"):
            call()
    assert ray.get(task.remote(1, b=3), timeout=GET_S) == 4


# -- errors that nobody fetches ----------------------------------------------------------------------------------------


def test_an_error_that_nobody_fetches_is_logged_once(shared_mesh: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    ray = shared_mesh

    @ray.remote(num_returns=2)
    def both(text: str) -> None:
        raise ValueError(text)

    @ray.remote
    def one(text: str) -> None:
        raise ValueError(text)

    @ray.remote(num_returns=0)
    def none(text: str) -> None:
        raise ValueError(text)

    ray.wait(both.remote("forgotten pair"), num_returns=2, timeout=GET_S)
    ray.wait([one.remote("forgotten one")], timeout=GET_S)
    one.remote("never looked at")
    none.remote("without a reference")
    for text in ("forgotten pair", "forgotten one", "never looked at", "without a reference"):
        until(lambda text=text: f"ValueError: {text}" in caplog.text, f"a line about {text!r}")  # type: ignore[misc]
    messages = [record.getMessage() for record in caplog.records]
    assert sum("forgotten pair" in message for message in messages) == 1
    assert any(
        "nobody fetched the error of one" in message and "raise ValueError(text)" in message for message in messages
    )


def test_an_error_that_was_fetched_or_passed_on_is_not_logged(
    shared_mesh: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    ray = shared_mesh

    @ray.remote
    def fail(text: str, _: Any = None) -> None:
        raise ValueError(text)

    @ray.remote
    def use(value: Any) -> None:
        return None

    refs = [fail.remote("seen"), fail.remote("seen as well")]
    ray.wait(refs, num_returns=2, timeout=GET_S)
    with pytest.raises(ValueError):
        ray.get(refs, timeout=GET_S)
    with pytest.raises(ValueError):
        ray.get(use.remote(fail.remote("passed on")), timeout=GET_S)
    assert isinstance(fail.remote("by a future").future().exception(GET_S), ValueError)
    cancelled = use.remote(fail.options(num_cpus=2).remote("x"))
    with pytest.raises(ValueError):
        ray.get(cancelled, timeout=GET_S)
    del refs, cancelled
    gc.collect()
    fail.remote("the last one")
    until(lambda: "the last one" in caplog.text, "the line that tells that all before were looked at")
    assert "seen" not in caplog.text
    assert "passed on" not in caplog.text
    assert "by a future" not in caplog.text


# -- reports of workers that die ---------------------------------------------------------------------------------------


def test_large_values_survive_a_crash_of_the_batch(shared_mesh: ModuleType) -> None:
    """What had finished counts, also when it lies in the store."""
    ray = shared_mesh

    @ray.remote(max_retries=0)
    def task(n: int) -> Any:
        if n == 5:
            os.kill(os.getpid(), 9)
        return np.full(50_000, n) if n % 2 else n

    ray.get([task.remote(0) for _ in range(20)], timeout=GET_S)
    refs = [task.remote(n) for n in range(10)]
    for n, ref in enumerate(refs):
        if n == 5:
            with pytest.raises(WorkerCrashedError):
                ray.get(ref, timeout=GET_S)
        else:
            assert np.max(ray.get(ref, timeout=GET_S)) == n
