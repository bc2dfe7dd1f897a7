from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

import meshray as ray
from tests.api.fake import FakeRuntime, travelled


def test_get_of_one_and_of_many(fake: FakeRuntime) -> None:
    a, b = ray.put(1), ray.put(2)
    assert ray.get(a) == 1
    assert ray.get([b, a, b], timeout=0) == [2, 1, 2]
    assert ray.get([]) == []
    assert fake.calls == [("get", [a], None), ("get", [b, a, b], 0)]


@pytest.mark.parametrize("wrong", [1, "x", None, (), {}, object()])
def test_get_of_no_reference(fake: FakeRuntime, wrong: Any) -> None:
    with pytest.raises(ValueError, match="get takes an ObjectRef or a list"):
        ray.get(wrong)
    with pytest.raises(TypeError, match="get takes a list of ObjectRefs"):
        ray.get([ray.put(1), wrong])


@pytest.mark.parametrize("call", [ray.get, ray.wait])
def test_timeouts_are_checked(fake: FakeRuntime, call: Any) -> None:
    refs = [ray.put(1)]
    for wrong, error in [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)]:
        with pytest.raises(error, match="timeout"):
            call(refs, timeout=wrong)
    call(refs, timeout=0.5)


def test_put_of_a_reference(fake: FakeRuntime) -> None:
    ref = ray.put(1)
    with pytest.raises(TypeError, match="put it into a list"):
        ray.put(ref)
    assert ray.get(ray.put([ref])) == [ref]


def test_wait(fake: FakeRuntime) -> None:
    refs = [ray.put(i) for i in range(3)]
    assert ray.wait(refs) == (refs[:1], refs[1:])
    assert ray.wait(refs, num_returns=3) == (refs, [])
    assert ray.wait([]) == ([], [])


@pytest.mark.parametrize("wrong", [1, None, (1,), {1}])
def test_wait_takes_lists(fake: FakeRuntime, wrong: Any) -> None:
    with pytest.raises(TypeError, match="wait takes a list"):
        ray.wait(wrong)
    with pytest.raises(TypeError, match="wait takes a list"):
        ray.wait(ray.put(1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="wait takes a list of ObjectRefs, and there is 5"):
        ray.wait([ray.put(1), 5])  # type: ignore[arg-type]


def test_wait_refuses_duplicates_and_wrong_numbers(fake: FakeRuntime) -> None:
    ref = ray.put(1)
    with pytest.raises(ValueError, match="duplicates"):
        ray.wait([ref, ref])
    for wrong in (0, -1, 2):
        with pytest.raises(ValueError, match="num_returns"):
            ray.wait([ref], num_returns=wrong)
    for text in ("1", 1.0, True):
        with pytest.raises(TypeError, match="num_returns"):
            ray.wait([ref], num_returns=text)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="fetch_local"):
        ray.wait([ref], fetch_local=1)  # type: ignore[arg-type]


def test_cancel(fake: FakeRuntime) -> None:
    ref = ray.put(1)
    ray.cancel(ref)
    ray.cancel(ref, force=True, recursive=False)
    assert fake.calls == [("cancel", ref, False, True), ("cancel", ref, True, False)]
    with pytest.raises(TypeError, match="cancel takes an ObjectRef"):
        ray.cancel([ref])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="force"):
        ray.cancel(ref, force=1)  # type: ignore[arg-type]

    class Actor: ...

    with pytest.raises(TypeError, match="kill"):
        ray.cancel(ray.remote(Actor).remote())  # type: ignore[arg-type]


def test_references(fake: FakeRuntime) -> None:
    ref = ray.put(7)
    assert bytes.fromhex(ref.hex()) == ref.binary()
    assert ref.task_id().binary() == ref.binary()[:24]
    assert ref.future().result() == 7

    async def awaited() -> int:
        return await ref

    assert asyncio.run(awaited()) == 7


def test_a_reference_of_bytes_is_counted_and_the_nil_one_is_not(fake: FakeRuntime) -> None:
    ref = ray.put(7)
    assert not ref.is_nil()
    for made in (ray.ObjectRef.from_hex(ref.hex()), ray.ObjectRef.from_binary(bytes(ref))):
        assert made == ref
    assert fake.adopted == [ref.binary()] * 2
    nil = ray.ObjectRef.nil()
    assert nil.is_nil()
    assert nil.task_id().is_nil()
    assert ray.ObjectRef.from_hex(nil.hex()) == travelled(nil) == nil
    assert fake.adopted == [ref.binary()] * 2
    assert not fake.exported


@pytest.mark.parametrize("wrong", [None, 5, b"short", "zz", "abcd", "f" * 57])
def test_a_reference_of_wrong_bytes(fake: FakeRuntime, wrong: Any) -> None:
    for make in (ray.ObjectRef.from_hex, ray.ObjectRef.from_binary):
        with pytest.raises((TypeError, ValueError), match="ObjectRef"):
            make(wrong)
    assert not fake.adopted


def test_a_reference_that_programs_build_wrongly_only_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    ignored: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", ignored.append)
    with pytest.raises(TypeError):
        ray.ObjectRef()  # type: ignore[call-arg]
    gc.collect()
    assert not ignored
