from __future__ import annotations

import functools
import inspect
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import meshray as ray
from meshray.api.functions import RemoteFunction
from tests.api.fake import FakeRuntime, travelled


def plus(a: int, b: int = 1) -> int:
    """Adds."""
    return a + b


def test_a_remote_function_submits_and_keeps_its_face(fake: FakeRuntime) -> None:
    f = ray.remote(plus)
    assert isinstance(f, RemoteFunction)
    assert (f.__name__, f.__doc__, f.__module__) == ("plus", "Adds.", __name__)
    assert f.__wrapped__ is plus  # type: ignore[attr-defined]
    assert list(inspect.signature(f).parameters) == ["a", "b"]
    ref = f.remote(1, b=2)
    assert isinstance(ref, ray.ObjectRef)
    assert repr(ref) == f"ObjectRef({ref.hex()})"
    assert ray.get(ref) == 3
    assert repr(f) == "RemoteFunction(plus)"


def test_a_direct_call_says_remote(fake: FakeRuntime) -> None:
    with pytest.raises(TypeError, match=r"plus\.remote\(\)"):
        ray.remote(plus)(1)


def test_numbers_of_returns(fake: FakeRuntime) -> None:
    @ray.remote(num_returns=2)
    def pair() -> tuple[int, int]:
        return 1, 2

    assert ray.get(pair.remote()) == [1, 2]
    assert pair.options(num_returns=0).remote() is None
    assert isinstance(pair.options(num_returns=1).remote(), ray.ObjectRef)


def test_options_add_to_those_before_and_leave_the_original(fake: FakeRuntime) -> None:
    f = ray.remote(num_cpus=2, max_retries=0)(plus)
    g = f.options(num_cpus=0.5, name="adding")
    g.remote(1)
    f.remote(1)
    (_, spec_g, _, _, with_more), (_, spec_f, _, _, plain) = fake.calls
    assert spec_f is spec_g  # one function to ship
    assert (plain.request, plain.max_retries, plain.name) == ({"CPU": 20_000}, 0, "")
    assert (with_more.request, with_more.max_retries, with_more.name) == ({"CPU": 5_000}, 0, "adding")


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"c": 2}), ((1, 2), {"b": 2})])
def test_wrong_arguments_are_refused_before_they_are_sent(
    fake: FakeRuntime, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=r"plus\(\): "):
        ray.remote(plus).remote(*args, **kwargs)
    assert not fake.calls


def test_it_travels_with_its_options(fake: FakeRuntime) -> None:
    f = travelled(ray.remote(num_cpus=2)(plus))
    assert ray.get(f.remote(1)) == 2
    assert fake.calls[0][4].request == {"CPU": 20_000}


def test_it_can_be_captured_also_by_itself(fake: FakeRuntime) -> None:
    @ray.remote
    def fact(n: int) -> int:
        return 1 if n == 0 else n * int(ray.get(fact.remote(n - 1)))

    @ray.remote
    def outer(n: int) -> int:
        return int(ray.get(fact.remote(n)))

    assert ray.get(travelled(outer).remote(5)) == 120
    inner = travelled(fact)
    assert ray.get(inner.remote(4)) == 24


def test_a_function_that_refers_to_itself_keeps_its_defaults(fake: FakeRuntime) -> None:
    @ray.remote
    def down(n: int, total: int = 0, *, step: int = 1) -> Any:
        return down, n, total, step

    # As a worker gets it: the function itself, which holds its remote form.
    again = travelled(down.__wrapped__)(1)[0]
    assert isinstance(again, RemoteFunction)
    assert ray.get(again.remote(3, step=2))[1:] == (3, 0, 2)
    assert ray.get(again.remote(3))[1:] == (3, 0, 1)
    with pytest.raises(TypeError, match="missing a required argument"):
        again.remote()


def test_anything_callable_can_be_remote(fake: FakeRuntime) -> None:
    assert ray.get(ray.remote(lambda x: x + 1).remote(1)) == 2
    assert ray.get(ray.remote(max).remote(1, 2)) == 2
    assert ray.get(ray.remote(functools.partial(plus, 1)).remote(5)) == 6
    assert callable(ray.remote(random.random).remote)


@pytest.mark.parametrize("thing", [5, "f", None, [plus]])
def test_what_is_not_callable_cannot(thing: object) -> None:
    with pytest.raises(TypeError, match="function or a class"):
        ray.remote(thing)  # type: ignore[call-overload]


def test_misuse_of_the_decorator() -> None:
    f = ray.remote(plus)
    with pytest.raises(TypeError, match="remote already"):
        ray.remote(f)
    with pytest.raises(TypeError, match="keywords only"):
        ray.remote(plus, 5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="keywords only"):
        ray.remote(plus, num_cpus=1)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="Invalid option keyword 'num_cpu'"):
        ray.remote(num_cpu=1)
    assert isinstance(ray.remote()(plus), RemoteFunction)


def test_generators_and_coroutines_are_refused_with_advice() -> None:
    def generator() -> Iterator[int]:
        yield 1

    async def coroutine() -> None: ...

    async def async_generator() -> AsyncIterator[int]:
        yield 1

    for function in (generator, async_generator):
        with pytest.raises(NotImplementedError, match="num_returns='streaming'"):
            ray.remote(function)
    with pytest.raises(ValueError, match=r"asyncio\.run"):
        ray.remote(coroutine)


def test_attributes_of_the_function_do_not_get_in_the_way(fake: FakeRuntime) -> None:
    def f() -> int:
        return 7

    f.options = "mine"  # type: ignore[attr-defined]
    f._spec = "mine"  # type: ignore[attr-defined]
    assert ray.get(ray.remote(f).remote()) == 7
