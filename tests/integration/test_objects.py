"""Objects between real processes: put, get, wait, references everywhere, arrays that are not copied, what is freed."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import pickle
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from meshray import context
from meshray.exceptions import GetTimeoutError, ObjectLostError, OwnerDiedError, TaskError
from tests.until import until

GET_S = 30.0
LARGE = 200_000  # items; more than goes inline


def segments() -> list[str]:
    """The files in the store of this mesh."""
    return os.listdir(context.runtime().engine.store.folder)  # type: ignore[attr-defined]


def sealed_segments() -> int:
    """How many objects the store of this mesh holds, by the peer's books."""
    return int(context.runtime().ask("status")["store"]["objects"])


def digest(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.tobytes() if value.dtype != object else pickle.dumps(value.tolist())
    return hashlib.sha256(value).hexdigest()


# -- get, put ----------------------------------------------------------------------------------------------------------


def test_get_keeps_order_and_takes_duplicates(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def slow(n: int) -> int:
        time.sleep(0.02 * (3 - n))
        return n

    refs = [slow.remote(n) for n in range(3)]
    assert ray.get([*refs, refs[0], refs[0]], timeout=GET_S) == [0, 1, 2, 0, 0]
    assert ray.get(refs[1], timeout=GET_S) == 1
    assert ray.get([]) == []


def test_get_twice_gives_equal_values(shared_mesh: ModuleType) -> None:
    ray = shared_mesh
    ref = ray.put({"a": [1, 2, 3]})
    first = ray.get(ref)
    first["a"].append(4)
    assert ray.get(ref) == {"a": [1, 2, 3]}


@pytest.mark.parametrize("size", [3, LARGE])
def test_put_takes_the_value_as_it_is_now(shared_mesh: ModuleType, size: int) -> None:
    ray = shared_mesh
    array = np.zeros(size)
    ref = ray.put(array)

    @ray.remote
    def total(values: Any) -> float:
        return float(values.sum())

    later = total.remote(array)
    array += 1
    assert ray.get(ref, timeout=GET_S).sum() == 0
    assert ray.get(later, timeout=GET_S) == 0


def test_a_value_is_what_it_was_when_it_was_returned(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ray = shared_mesh
    returned, changed = tmp_path / "returned", tmp_path / "changed"

    @ray.remote
    def make() -> Any:
        kept = np.zeros(LARGE)

        def change() -> None:
            while not returned.exists():
                time.sleep(0.002)
            kept.fill(1)
            changed.touch()

        threading.Thread(target=change).start()
        return kept

    ref = make.remote()
    ray.wait([ref], timeout=GET_S)
    returned.touch()
    until(changed.exists, "the worker to change its array")
    assert ray.get(ref, timeout=GET_S).sum() == 0


def test_timeouts_of_get(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ray = shared_mesh
    go = tmp_path / "go"

    @ray.remote
    def hold() -> int:
        while not go.exists():
            time.sleep(0.002)
        return 5

    ref, there = hold.remote(), ray.put(1)
    for timeout in (0, 0.05):
        with pytest.raises(GetTimeoutError):
            ray.get(ref, timeout=timeout)
        with pytest.raises(TimeoutError, match=f"after {timeout} s: 1 of 2 values"):
            ray.get([there, ref], timeout=timeout)
    assert ray.get(there, timeout=0) == 1
    go.touch()
    assert ray.get(ref, timeout=GET_S) == 5


def test_timeout_zero_is_a_poll_that_ends(shared_mesh: ModuleType) -> None:
    """A program that only polls gets its value: the poll itself receives."""
    ray = shared_mesh

    @ray.remote
    def one() -> int:
        return 1

    ref = one.remote()
    value = None

    def poll() -> bool:
        nonlocal value
        try:
            value = ray.get(ref, timeout=0)
        except GetTimeoutError:
            return False
        return True

    until(poll, "the value by polling")
    assert value == 1


def test_the_first_error_is_raised_without_waiting_for_the_rest(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ray = shared_mesh
    go = tmp_path / "go"

    @ray.remote
    def hold() -> int:
        while not go.exists():
            time.sleep(0.002)
        return 5

    @ray.remote
    def fail(text: str) -> None:
        raise ValueError(text)

    held, one, two = hold.remote(), fail.remote("one"), fail.remote("two")
    with pytest.raises(ValueError, match="one|two"):
        ray.get([held, one, two], timeout=GET_S)
    ray.wait([one, two], num_returns=2, timeout=GET_S)
    for _ in range(2):
        with pytest.raises(ValueError, match="one"):
            ray.get([held, one, two], timeout=GET_S)  # the failures were there before
        with pytest.raises(ValueError, match="two"):
            ray.get([two, held, one], timeout=GET_S)
    go.touch()
    assert ray.get(held, timeout=GET_S) == 5


# -- wait --------------------------------------------------------------------------------------------------------------


@pytest.mark.fault(60)
def test_wait_over_ready_failed_and_lost(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ray = shared_mesh
    go = tmp_path / "go"

    @ray.remote
    def hold() -> int:
        while not go.exists():
            time.sleep(0.002)
        return 5

    @ray.remote
    def fail() -> None:
        raise ValueError("failed")

    @ray.remote(max_retries=0)
    def lose() -> None:
        os._exit(1)

    held, failed, lost, there = hold.remote(), fail.remote(), lose.remote(), ray.put(1)
    refs = [held, failed, lost, there]
    ready, rest = ray.wait(refs, num_returns=3, timeout=GET_S)
    assert ready == [failed, lost, there]
    assert rest == [held]
    assert ray.wait(refs, timeout=0) == ([failed], [held, lost, there])  # no more than was asked for, in order
    ready, rest = ray.wait(refs, num_returns=4, timeout=0.05)
    assert len(ready) == 3
    assert rest == [held]
    go.touch()
    assert ray.wait(refs, num_returns=4, timeout=GET_S) == (refs, [])
    for ref, kind in ((failed, ValueError), (lost, Exception)):
        with pytest.raises(kind):
            ray.get(ref, timeout=GET_S)


def test_wait_for_borrowed_references(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def quick() -> int:
        return 1

    @ray.remote
    def waits(refs: list[Any]) -> int:
        ready, rest = ray.wait(refs, num_returns=2, timeout=20)
        return len(ready) * 10 + len(rest)

    assert ray.get(waits.remote([quick.remote(), ray.put(3)]), timeout=GET_S) == 20


# -- references --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, LARGE])
def test_top_level_references_are_replaced_and_others_are_not(shared_mesh: ModuleType, size: int) -> None:
    ray = shared_mesh

    @ray.remote
    def kinds(a: Any, b: Any, *, c: Any, d: Any) -> tuple[str, ...]:
        return *(type(each).__name__ for each in (a, b[0], c, d["x"])), str(float(ray.get(b[0])[0]))

    @ray.remote
    def make() -> Any:
        return np.ones(size)

    for ref in (ray.put(np.ones(size)), make.remote()):
        expected = ("ndarray", "ObjectRef", "ndarray", "ObjectRef", "1.0")
        assert ray.get(kinds.remote(ref, [ref], c=ref, d={"x": ref}), timeout=GET_S) == expected
    assert ray.get(kinds.remote(make.remote(), [make.remote()], c=make.remote(), d={"x": make.remote()}), timeout=GET_S)


def test_references_returned_inside_results(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def small() -> int:
        return 11

    @ray.remote
    def make(size: int) -> dict[str, Any]:
        return {"put": ray.put(np.full(size, 7)), "task": small.remote(), "deep": [ray.put([ray.put(size)])]}

    for size in (3, LARGE):
        got = ray.get(make.remote(size), timeout=GET_S)  # nobody holds the outer reference any more
        gc.collect()
        assert ray.get(got["put"], timeout=GET_S).tolist() == [7] * size
        assert ray.get(got["task"], timeout=GET_S) == 11
        inner = ray.get(got["deep"][0], timeout=GET_S)
        del got
        assert ray.get(inner[0], timeout=GET_S) == size


def test_a_chain_of_borrowers(shared_mesh: ModuleType) -> None:
    """Each level borrows from the one above, which ends before the one below has read it."""
    ray = shared_mesh

    @ray.remote
    def pass_on(box: list[Any], depth: int) -> Any:
        if depth:
            return [pass_on.remote(box, depth - 1)]
        return [box[0]]

    for size in (3, LARGE):
        value = [pass_on.remote([ray.put(np.arange(size))], 4)]
        while isinstance(value, list):
            value = ray.get(value[0], timeout=GET_S)
        assert value.sum() == np.arange(size).sum()


def test_references_kept_by_an_actor(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    class Keeper:
        def __init__(self) -> None:
            self.kept: list[Any] = []

        def keep(self, box: list[Any]) -> None:
            self.kept += box

        def total(self) -> float:
            return float(sum(np.sum(ray.get(ref)) for ref in self.kept))

        def give(self) -> list[Any]:
            return self.kept

        def drop(self) -> None:
            self.kept = []

    before = sealed_segments()
    keeper = Keeper.remote()
    ref = ray.put(np.ones(LARGE))
    ray.get([keeper.keep.remote([ref]), keeper.keep.remote([ray.put(2)])], timeout=GET_S)
    del ref
    gc.collect()
    assert ray.get(keeper.total.remote(), timeout=GET_S) == LARGE + 2
    given = ray.get(keeper.give.remote(), timeout=GET_S)
    ray.get(keeper.drop.remote(), timeout=GET_S)
    assert ray.get(given[0], timeout=GET_S).sum() == LARGE
    del given
    until(lambda: sealed_segments() <= before, "the segment to be freed")


@pytest.mark.fault(61)
def test_references_in_closures_and_exceptions(shared_mesh: ModuleType) -> None:
    ray = shared_mesh
    captured = ray.put(np.arange(LARGE))

    @ray.remote
    def by_closure() -> int:
        return int(ray.get(captured)[-1])

    class Carries(Exception):
        def __init__(self, ref: Any) -> None:
            super().__init__("see ref")
            self.ref = ref

    @ray.remote
    def fail() -> None:
        raise Carries(ray.put(np.arange(LARGE)))

    assert ray.get(by_closure.remote(), timeout=GET_S) == LARGE - 1
    with pytest.raises(TaskError) as caught:
        ray.get(fail.remote(), timeout=GET_S)
    ref = caught.value.ref  # type: ignore[attr-defined]
    del caught
    gc.collect()
    assert int(ray.get(ref, timeout=GET_S)[-1]) == LARGE - 1


@pytest.mark.fault(61)
def test_references_dropped_while_they_are_fetched(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def make() -> Any:
        return [ray.put(np.ones(LARGE))]

    @ray.remote
    def use(box: list[Any]) -> float:
        ray.wait(box, timeout=0)  # asks for it
        box.clear()
        return 1.0

    before = sealed_segments()
    results = [use.remote(ray.get(make.remote(), timeout=GET_S)) for _ in range(10)]
    for _ in range(5):
        ray.wait(ray.get(make.remote(), timeout=GET_S), timeout=0)
    assert ray.get(results, timeout=GET_S) == [1.0] * 10
    del results
    gc.collect()
    until(lambda: sealed_segments() <= before, "the segments to be freed")


def test_a_reference_pickled_by_the_program(shared_mesh: ModuleType) -> None:
    """Out of band: it lives until the job ends."""
    ray = shared_mesh
    data = pickle.dumps(ray.put("kept"))
    gc.collect()
    assert ray.get(pickle.loads(data), timeout=GET_S) == "kept"

    @ray.remote
    def read(data: bytes) -> Any:
        return ray.get(pickle.loads(data))

    assert ray.get(read.remote(data), timeout=GET_S) == "kept"


def test_a_reference_made_of_bytes_counts(shared_mesh: ModuleType) -> None:
    ray = shared_mesh
    original = ray.put(["kept"])
    text = original.hex()
    copy = ray.ObjectRef.from_hex(text)
    del original
    gc.collect()
    assert ray.get(copy, timeout=GET_S) == ["kept"]

    @ray.remote
    def read(text: str, keep: Any) -> Any:
        return ray.get(ray.ObjectRef.from_hex(text))

    assert ray.get(read.remote(text, [copy]), timeout=GET_S) == ["kept"]
    del copy
    gc.collect()

    def freed() -> bool:
        try:
            return bool(ray.get(ray.ObjectRef.from_hex(text), timeout=GET_S) is None)
        except ObjectLostError as error:
            return "freed" in str(error)

    until(freed, "the object to be freed")
    with pytest.raises(OwnerDiedError, match="another mesh"):
        ray.get(ray.ObjectRef.from_binary(b"x" * 28), timeout=GET_S)


def test_the_nil_reference(shared_mesh: ModuleType) -> None:
    ray = shared_mesh
    nil = ray.ObjectRef.nil()

    @ray.remote
    def same(value: Any) -> Any:
        return value

    assert ray.get(same.remote([nil]), timeout=GET_S) == [nil]
    for ask in (ray.get, lambda ref: ray.wait([ref]), lambda ref: ray.get(same.remote(ref), timeout=GET_S)):
        with pytest.raises(ObjectLostError, match="stands for no object"):
            ask(nil)
    with pytest.raises(ObjectLostError, match="stands for no object"):
        nil.future().result(GET_S)
    ray.cancel(nil)


# -- arrays ------------------------------------------------------------------------------------------------------------

ARRAYS = {
    "empty": np.zeros((3, 0, 2)),
    "0-d": np.array(7.5),
    "fortran": np.asfortranarray(np.arange(60_000.0).reshape(200, 300)),
    "strided": np.arange(200_000)[::2],
    "negative strides": np.arange(200_000)[::-1],
    "transposed": np.arange(60_000).reshape(20, 30, 100).transpose(2, 0, 1),
    "broadcast": np.broadcast_to(np.arange(10), (20_000, 10)),
    "structured": np.zeros(20_000, dtype=[("a", "i4"), ("b", "f8")]),
    "objects": np.array([1, "two", None, [4]], dtype=object),
    "dates": np.arange("2020-01-01", "2022-01-01", dtype="datetime64[D]"),
    "strings": np.array(["ab", "cde"] * 40_000),
    "large": np.random.default_rng(1).random((1000, 500)),
}


@pytest.mark.fault(45)
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_every_kind(shared_mesh: ModuleType, name: str) -> None:
    ray = shared_mesh
    array = ARRAYS[name]

    @ray.remote
    def same(value: Any) -> Any:
        return value

    for ref in (ray.put(array), same.remote(array), same.remote(ray.put(array))):
        got = ray.get(ref, timeout=GET_S)
        assert got.dtype == array.dtype
        assert got.shape == array.shape
        assert digest(got) == digest(array)
        assert name != "fortran" or got.flags.f_contiguous


@pytest.mark.parametrize("value", [b"x" * 300_000, "ü" * 300_000, bytearray(300_000), list(range(100_000))], ids=type)
def test_large_values_that_are_no_arrays(shared_mesh: ModuleType, value: Any) -> None:
    ray = shared_mesh

    @ray.remote
    def same(value: Any) -> Any:
        return value

    for ref in (ray.put(value), same.remote(value)):
        got = ray.get(ref, timeout=GET_S)
        assert got == value
        assert type(got) is type(value)


def test_large_arrays_are_read_only_and_not_copied(shared_mesh: ModuleType) -> None:
    ray = shared_mesh
    ref = ray.put(np.arange(LARGE))

    @ray.remote
    def look(array: Any) -> tuple[bool, bool]:
        return array.flags.writeable, array.flags.owndata

    assert ray.get(look.remote(ref), timeout=GET_S) == (False, False)
    one, two = ray.get(ref), ray.get(ref)
    address = one.__array_interface__["data"][0]
    assert address == two.__array_interface__["data"][0]
    assert not one.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        one[0] = 1


def test_views_keep_the_data_when_the_reference_is_gone(shared_mesh: ModuleType) -> None:
    """I9: what get returned hashes to what was put, though segments are freed and written anew all the time."""
    ray = shared_mesh

    @ray.remote
    def make(n: int) -> Any:
        return np.full(LARGE, n)

    kept: list[tuple[int, Any]] = []
    for n in range(40):
        array = ray.get(make.remote(n) if n % 2 else ray.put(np.full(LARGE, n)), timeout=GET_S)
        if n % 4 < 2:
            kept.append((n, array[10:20]))  # a slice of it is enough
        del array
    for n, part in kept:
        base = part.base if part.base is not None and part.base.shape == (LARGE,) else part
        assert (base == n).all()
    engine = context.runtime().engine  # type: ignore[attr-defined]
    assert engine.store.stats().freed_under_view == 0
    assert engine.store.stats().recycled_writes > 0


def test_views_kept_by_a_task_that_has_ended(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    class Holder:
        def keep(self, array: Any) -> None:
            self.part = array[5:]

        def check(self) -> bool:
            return bool((self.part == 3).all())

    holder = Holder.remote()
    ref = ray.put(np.full(LARGE, 3))
    ray.get(holder.keep.remote(ref), timeout=GET_S)
    del ref
    for n in range(10):  # would write into its segment, if that had been freed
        ray.get(ray.put(np.full(LARGE, n)))
    assert ray.get(holder.check.remote(), timeout=GET_S)


def test_everything_is_freed_in_the_end(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def make(box: Any) -> list[Any]:
        return [ray.put(np.ones(LARGE)), box]

    @ray.remote
    def fail(array: Any) -> None:
        raise ValueError("with an array in its frame")

    gc.collect()
    before = sealed_segments()
    value = [ray.put(np.ones(LARGE))]
    for _ in range(4):
        value = ray.get(make.remote(value), timeout=GET_S)
    with pytest.raises(ValueError):
        ray.get(fail.remote(ray.put(np.ones(LARGE))), timeout=GET_S)
    arrays = [ray.get(value[0], timeout=GET_S)]
    assert arrays[0].sum() == LARGE
    del value, arrays
    gc.collect()
    until(lambda: sealed_segments() <= before, "the segments to be freed")
    engine = context.runtime().engine  # type: ignore[attr-defined]
    until(lambda: not engine.pins, f"pins to end: {engine.pins}")


# -- await and futures -------------------------------------------------------------------------------------------------


def test_await_and_futures(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def double(n: int) -> int:
        if n < 0:
            raise ValueError("negative")
        return 2 * n

    async def all_of_them() -> list[int]:
        one = await double.remote(1)
        more = await asyncio.gather(*(double.remote(n) for n in range(50)))
        with pytest.raises(ValueError, match="negative"):
            await double.remote(-1)
        return [one, *more, await asyncio.wait_for(double.remote(60).as_future(), GET_S)]

    assert asyncio.run(asyncio.wait_for(all_of_them(), GET_S)) == [2, *range(0, 100, 2), 120]
    future: Future[int] = double.remote(4).future()
    assert future.result(GET_S) == 8
    assert isinstance(double.remote(-1).future().exception(GET_S), ValueError)
    array = ray.put(np.ones(LARGE)).future().result(GET_S)
    assert array.sum() == LARGE
