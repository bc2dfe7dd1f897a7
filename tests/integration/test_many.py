"""Much of everything at once."""

from __future__ import annotations

import gc
import weakref
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from meshray import context
from tests.until import until

GET_S = 60.0


def records() -> int:
    """How many objects this process knows of."""
    return len(context.runtime().engine.records.table)  # type: ignore[attr-defined]


@pytest.mark.fault(41)
def test_ten_thousand_arguments(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def add(*numbers: int) -> int:
        return sum(numbers)

    refs = [ray.put(n) for n in range(5_000)]
    assert ray.get(add.remote(*refs, *range(5_000)), timeout=GET_S) == 2 * sum(range(5_000))

    @ray.remote
    def count(box: list[Any]) -> int:
        return int(sum(ray.get(box)))

    assert ray.get(count.remote(refs), timeout=GET_S) == sum(range(5_000))


@pytest.mark.fault(41)
def test_ten_thousand_references_in_one_get_and_in_one_object(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def same(n: int) -> int:
        return n

    refs = [same.remote(n) for n in range(10_000)]
    ready, rest = ray.wait(refs, num_returns=10_000, timeout=GET_S)
    assert len(ready) == 10_000
    assert not rest
    assert ray.get(refs, timeout=GET_S) == list(range(10_000))
    box = ray.put(refs)
    del refs, ready
    gc.collect()
    assert ray.get(ray.get(box, timeout=GET_S), timeout=GET_S) == list(range(10_000))

    @ray.remote
    def read(box: list[Any]) -> int:
        return int(sum(ray.get(box)))

    assert ray.get(read.remote(box), timeout=GET_S) == sum(range(10_000))


@pytest.mark.fault(41)
def test_three_thousand_returns(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote(num_returns=3_000)
    def many(size: int) -> Any:
        return [np.full(size, n) for n in range(3_000)]

    for size in (1, 50):
        assert [int(value[0]) for value in ray.get(many.remote(size), timeout=GET_S)] == list(range(3_000))


@pytest.mark.fault(41)
def test_a_hundred_thousand_references_dropped_at_once(shared_mesh: ModuleType) -> None:
    ray = shared_mesh
    gc.collect()
    before = records()

    @ray.remote
    def nothing() -> None:
        return None

    refs = [ray.put(n) for n in range(70_000)] + [nothing.remote() for _ in range(30_000)]
    shared = [ray.put(n) for n in range(2_000)]
    box = ray.put(shared)
    del refs, shared, box
    gc.collect()
    assert ray.get(ray.put(1), timeout=GET_S) == 1
    until(lambda: records() <= before, "all records to go", 60.0)


@pytest.mark.fault(41)
def test_two_hundred_levels_of_nested_gets(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def down(levels: int) -> int:
        return 1 + int(ray.get(down.remote(levels - 1))) if levels else 0

    assert ray.get(down.remote(200), timeout=100) == 200
    assert ray.get(down.remote(3), timeout=GET_S) == 3
    total = ray.cluster_resources()
    until(lambda: ray.available_resources() == total, "every slot to be free again")


@pytest.mark.fault(41)
def test_an_object_nested_two_hundred_deep(shared_mesh: ModuleType) -> None:
    ray = shared_mesh
    value: Any = ray.put("bottom")
    for _ in range(200):
        value = ray.put([value])

    @ray.remote
    def dig(value: Any) -> Any:
        while isinstance(value, list):
            value = ray.get(value[0])
        return value

    assert ray.get(dig.remote(value), timeout=GET_S) == "bottom"
    until_before = records()
    del value
    gc.collect()
    until(lambda: records() < until_before - 150, "the chain to be freed")


def test_a_long_chain_of_dependent_tasks(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def add_one(n: int) -> int:
        return n + 1

    ref = ray.put(0)
    for _ in range(500):
        ref = add_one.remote(ref)
    assert ray.get(ref, timeout=GET_S) == 500


def test_a_tree_of_large_arrays(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def add(a: Any, b: Any) -> Any:
        return a + b

    layer = [ray.put(np.full(50_000, n)) for n in range(32)]
    while len(layer) > 1:
        layer = [add.remote(a, b) for a, b in zip(layer[::2], layer[1::2], strict=True)]
    assert (ray.get(layer[0], timeout=GET_S) == sum(range(32))).all()


def test_functions_of_which_a_program_makes_many_go_with_what_they_have_captured(shared_mesh: ModuleType) -> None:
    ray = shared_mesh
    captured = [np.full(10, n) for n in range(4)]
    alive = [weakref.ref(each) for each in captured]

    def run(each: Any) -> int:
        @ray.remote
        def total() -> int:
            return int(each.sum())

        return int(ray.get(total.remote(), timeout=GET_S))

    assert [run(each) for each in captured] == [0, 10, 20, 30]
    del captured
    until(lambda: gc.collect() >= 0 and not any(each() is not None for each in alive), "what they had captured to go")


def test_a_function_whose_pickling_submits_another_one(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def three() -> int:
        return 3

    class Late:
        """Becomes a number on its way."""

        def __reduce__(self) -> Any:
            return int, (ray.get(three.remote(), timeout=GET_S),)

    late = Late()

    @ray.remote
    def captured() -> Any:
        return late

    assert ray.get(captured.remote(), timeout=GET_S) == 3


def test_options_that_come_and_go(shared_mesh: ModuleType) -> None:
    """More than are remembered, each at the address of one that is gone."""
    ray = shared_mesh

    @ray.remote
    def name() -> str:
        return str(ray.get_runtime_context().get_task_name())

    for number in range(1_100):
        ref = name.options(name=f"n{number}").remote()
        if number % 10 == 0:
            assert ray.get(ref, timeout=GET_S) == f"n{number}"
    assert ray.get(name.remote(), timeout=GET_S).endswith("name")
