from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import meshray as ray
from meshray import context
from meshray.actor import exit_actor
from meshray.api.actors import ActorClass, ActorHandle
from meshray.api.methods import is_async_class
from tests.api.fake import FakeRuntime, FakeTask, handle_object, travelled


class Base:
    kind = "counter"

    def inherited(self, a: int) -> int:
        return a


class Counter(Base):
    """Counts."""

    class Inner: ...

    alias = dict[str, int]

    def __init__(self, start: int = 0) -> None:
        self.value = start

    def add(self, n: int = 1, *, twice: bool = False) -> int:
        self.value += n * (2 if twice else 1)
        return self.value

    @ray.method(num_returns=2, max_task_retries=5, retry_exceptions=[ValueError])
    def pair(self) -> tuple[int, int]:
        return self.value, self.value

    @classmethod
    def made(cls, a: int) -> str:
        return cls.__name__

    @staticmethod
    def still(a: int) -> int:
        return a

    @property
    def shown(self) -> int:
        return self.value

    @functools.lru_cache  # noqa: B019
    def cached(self, a: int) -> int:
        return a

    def __call__(self, a: int) -> int:
        return a

    def stream(self) -> Iterator[int]:
        yield 1


@pytest.fixture
def handle(fake: FakeRuntime) -> ActorHandle:
    return ray.remote(Counter).remote(5)


def test_an_actor_is_made_called_and_shown(fake: FakeRuntime, handle: ActorHandle) -> None:
    assert ray.get(handle.add.remote(2)) == 7
    assert ray.get(handle.add.remote(n=1, twice=True)) == 9
    assert repr(handle) == f"Actor(Counter, {handle._actor_id.hex()})"
    call = fake.calls[1]
    assert call[:5] == ("call_actor", handle._actor_id.binary(), "add", (2,), {})
    assert call[5].request == {}


def test_the_class_keeps_its_face() -> None:
    cls = ray.remote(Counter)
    assert isinstance(cls, ActorClass)
    assert (cls.__name__, cls.__doc__, cls.__module__) == ("Counter", "Counts.", __name__)
    assert repr(cls) == "ActorClass(Counter)"
    with pytest.raises(TypeError, match=r"Counter\.remote\(\)"):
        cls()
    with pytest.raises(TypeError, match="takes no subclasses"):
        exec("class Sub(cls): ...", {"cls": cls})


def test_direct_calls_of_methods_say_remote(handle: ActorHandle) -> None:
    with pytest.raises(TypeError, match=r"add\.remote\(\)"):
        handle.add(1)


def test_inherited_class_and_static_methods_are_methods(handle: ActorHandle) -> None:
    assert ray.get(handle.inherited.remote(3)) == 3
    assert ray.get(handle.made.remote(1)) == "Counter"
    assert ray.get(handle.still.remote(4)) == 4
    assert ray.get(handle.cached.remote(4)) == 4
    assert ray.get(handle.__call__.remote(6)) == 6
    for name in ("inherited", "made", "still", "cached", "__call__"):
        with pytest.raises(TypeError, match=name):
            getattr(handle, name).remote()


@pytest.mark.parametrize("name", ["shown", "kind", "Inner", "alias", "value", "__init__x"])
def test_what_is_no_method_is_no_attribute(handle: ActorHandle, name: str) -> None:
    with pytest.raises(AttributeError, match=f"Counter has no method '{name}'"):
        getattr(handle, name)
    assert not hasattr(handle, name)


def test_a_typo_is_answered_with_what_is_near(handle: ActorHandle) -> None:
    with pytest.raises(AttributeError, match="near are: inherited"):
        _ = handle.inherted
    with pytest.raises(AttributeError, match="cannot be set"):
        handle.value = 3
    assert {"add", "pair", "inherited", "__ray_ready__"} <= set(dir(handle))
    assert "shown" not in dir(handle)


def test_wrong_arguments_are_refused_before_they_are_sent(fake: FakeRuntime, handle: ActorHandle) -> None:
    sent = len(fake.calls)
    with pytest.raises(TypeError, match=r"Counter\(\): "):
        ray.remote(Counter).remote(1, 2)
    for args, kwargs in [((1, 2), {}), ((), {"m": 1})]:
        with pytest.raises(TypeError, match=r"Counter\.add\(\): "):
            handle.add.remote(*args, **kwargs)
        with pytest.raises(TypeError, match=r"Counter\.add\(\): "):
            travelled(handle).add.remote(*args, **kwargs)
    assert len(fake.calls) == sent


def test_a_class_without_constructor_takes_nothing(fake: FakeRuntime) -> None:
    ray.remote(Base).remote()
    with pytest.raises(TypeError):
        ray.remote(Base).remote(1)


def test_options_of_methods(fake: FakeRuntime, handle: ActorHandle) -> None:
    refs = handle.pair.remote()
    assert ray.get(refs) == [5, 5]
    options = fake.calls[-2][5]
    assert (options.num_returns, options.max_retries, options.retry_exceptions) == (2, 5, (ValueError,))
    assert handle.add.options(num_returns=0, name="adding", max_task_retries=-1).remote() is None
    options = fake.calls[-1][5]
    assert (options.num_returns, options.max_retries, options.name) == (0, -1, "adding")
    with pytest.raises(ValueError, match="Invalid option keyword 'num_cpus'"):
        handle.add.options(num_cpus=1)
    with pytest.raises(NotImplementedError, match="concurrency_group"):
        handle.add.options(concurrency_group="io")


def test_methods_take_the_actors_retries(fake: FakeRuntime) -> None:
    handle = ray.remote(max_restarts=1, max_task_retries=4)(Counter).remote()
    travelled(handle).add.remote()
    assert fake.calls[-1][5].max_retries == 4
    travelled(handle).pair.remote()
    assert fake.calls[-1][5].max_retries == 5


def test_generators_are_refused_at_the_call(handle: ActorHandle) -> None:
    with pytest.raises(NotImplementedError, match="Counter.stream is a generator"):
        handle.stream.remote()


def test_misuse_of_method() -> None:
    with pytest.raises(ValueError, match="Invalid option keyword 'num_cpus'"):
        ray.method(num_cpus=1)
    with pytest.raises(ValueError, match="at least one option"):
        ray.method()
    with pytest.raises(TypeError, match="goes onto a method"):
        ray.method(num_returns=2)(5)


def test_handles_travel_and_are_counted_as_references(fake: FakeRuntime, handle: ActorHandle) -> None:
    counted = handle_object(handle._actor_id.binary())
    again = travelled({"actor": [handle]})["actor"][0]
    assert again == handle
    assert hash(again) == hash(handle)
    assert repr(again) == repr(handle)
    assert fake.exported == [counted]
    assert fake.adopted == [counted]
    assert ray.get(again.add.remote(1)) == 6
    method = travelled(handle.add.options(num_returns=0))
    assert method.remote() is None
    assert travelled(handle.pair).remote()


def test_a_dropped_handle_is_noticed_at_once(fake: FakeRuntime) -> None:
    gc.disable()  # a cycle would keep it until the collector comes
    try:
        handle = ray.remote(Counter).remote()
        handle.add.remote()
        counted = handle_object(handle._actor_id.binary())
        context.dropped.clear()
        method = handle.add
        alive = weakref.ref(handle)
        del handle
        assert alive() is None
        assert counted not in context.dropped  # the method still needs the actor
        del method
        assert counted in context.dropped
    finally:
        gc.enable()


def test_special_methods(fake: FakeRuntime, handle: ActorHandle) -> None:
    assert ray.get(handle.__ray_ready__.remote())
    assert ray.get(handle.__ray_call__.remote(lambda self, n: self.value + n, 1)) == 6
    assert ray.get(handle.__ray_terminate__.remote())
    with pytest.raises(TypeError, match="__ray_call__"):
        handle.__ray_call__.remote()


def test_names(fake: FakeRuntime) -> None:
    cls = ray.remote(Counter).options(name="c", get_if_exists=True)
    first = cls.remote(1)
    assert cls.remote(2) == first
    found = ray.get_actor("c")
    assert found == first
    assert ray.get(found.add.remote()) == 2
    with pytest.raises(ValueError, match="nobody"):
        ray.get_actor("nobody")
    with pytest.raises(TypeError, match="name takes a str"):
        ray.get_actor(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="namespace cannot be"):
        ray.get_actor("c", namespace="")


def test_kill(fake: FakeRuntime, handle: ActorHandle) -> None:
    ray.kill(handle)
    ray.kill(handle, no_restart=False)
    actor = handle._actor_id.binary()
    assert fake.calls[-2:] == [("kill_actor", actor, True), ("kill_actor", actor, False)]
    with pytest.raises(ValueError, match="cancel"):
        ray.kill(ray.put(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="handle of an actor"):
        ray.kill(Counter)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no_restart"):
        ray.kill(handle, no_restart=1)  # type: ignore[arg-type]


def test_the_class_travels_and_is_captured(fake: FakeRuntime) -> None:
    cls = ray.remote(num_cpus=2)(Counter)

    @ray.remote
    def make() -> Any:
        return cls.remote(3)

    handle = ray.get(travelled(make).remote())
    assert ray.get(handle.add.remote()) == 4
    assert fake.calls[1][4].request == {"CPU": 20_000}


def test_options_of_the_class_share_what_is_shipped(fake: FakeRuntime) -> None:
    cls = ray.remote(Counter)
    cls.remote()
    cls.options(max_restarts=-1).remote()
    (_, plain, _, _, _), (_, other, _, _, options) = fake.calls
    assert plain is other
    assert options.max_restarts == -1


def test_async_classes_are_recognised() -> None:
    class Async(Base):
        async def go(self) -> None: ...

    class Heir(Async): ...

    assert is_async_class(Async)
    assert is_async_class(Heir)
    assert not is_async_class(Counter)


def test_exit_actor_is_for_actors(fake: FakeRuntime) -> None:
    with pytest.raises(TypeError, match="none"):
        exit_actor()
    fake.task = FakeTask(actor_id=b"a" * 24)
    with pytest.raises(SystemExit):
        exit_actor()


def test_a_half_built_handle_does_not_recurse() -> None:
    with pytest.raises(AttributeError):
        _ = ActorHandle.__new__(ActorHandle).add


def test_a_class_that_refers_to_itself_keeps_its_constructor(fake: FakeRuntime) -> None:
    @ray.remote
    class Tree:
        def __init__(self, depth: int, name: str = "root") -> None:
            self.name = name

        def own_class(self) -> Any:
            return Tree

    again = travelled(Tree.__wrapped__)(1).own_class()
    again.remote(2)
    again.remote(2, name="leaf")
    with pytest.raises(TypeError, match="missing a required argument"):
        again.remote()


class Tuned:
    LIMIT = 5

    @staticmethod
    def plan(n: int) -> int:
        return n * Tuned.LIMIT

    @classmethod
    def named(cls) -> str:
        return cls.__name__

    def act(self) -> None: ...


def test_constants_and_functions_of_the_class_stay_in_reach() -> None:
    remote = ActorClass(Tuned, {})
    assert (remote.LIMIT, remote.plan(2), remote.named()) == (5, 10, "Tuned")
    with pytest.raises(AttributeError, match=r"create an actor with Tuned\.remote\(\.\.\.\), and call its act\.remote"):
        remote.act.remote()
    with pytest.raises(AttributeError, match=r"ActorClass\(.*Tuned\) has no attribute 'none'"):
        remote.none  # noqa: B018
    with pytest.raises(AttributeError):
        ActorClass.__new__(ActorClass).anything  # noqa: B018
