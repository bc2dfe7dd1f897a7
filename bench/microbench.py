"""The rows of `ray microbenchmark`, written against any module with Ray's API.

A row is a function that gets the `Kit`, prepares what it needs, and returns the call to time and what one
call counts for.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.timing import Pace, rate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.child import Report

Timed = tuple[Callable[[], object], float]  # one call, and what it counts for
Builder = Callable[["Kit"], Timed]

BUILDERS: dict[str, dict[str, Builder]] = {}  # group -> row -> how to prepare it


def row(group: str, name: str) -> Callable[[Builder], Builder]:
    def enter(builder: Builder) -> Builder:
        BUILDERS.setdefault(group, {})[name] = builder
        return builder

    return enter


def measure(group: str, report: Report, subject: str, pace: Pace) -> None:
    """All wanted rows of a group in one mesh of all CPUs."""
    ray = importlib.import_module(subject)
    ray.init()
    kit = Kit(ray, pace)

    for name, builder in BUILDERS[group].items():

        def timed(builder: Builder = builder) -> Any:
            call, counts_for = builder(kit)
            return rate(call, counts_for, pace)

        report.row(name, timed)
    ray.shutdown()


@cache
def touched(count: int) -> NDArray[np.int64]:
    """`count` integers whose pages are really there; made once per process."""
    return np.ones(count, dtype=np.int64)


class Kit:
    """What the rows share: the module, remote functions and classes, and sizes."""

    def __init__(self, ray: Any, pace: Pace) -> None:
        self.ray = ray
        self.callers = 4
        self.servers = max(1, (os.cpu_count() or 1) // 2)
        self._scale = pace.scale

        @ray.remote
        def small_value() -> bytes:
            return b"ok"

        @ray.remote(num_cpus=0)
        class Actor:
            def small_value(self) -> bytes:
                return b"ok"

            def small_value_arg(self, x: object) -> bytes:
                return b"ok"

            def small_value_batch(self, n: int) -> None:
                ray.get([small_value.remote() for _ in range(n)])

        @ray.remote
        class AsyncActor:
            async def small_value(self) -> bytes:
                return b"ok"

            async def small_value_with_arg(self, x: object) -> bytes:
                return b"ok"

        @ray.remote(num_cpus=0)
        class Client:
            def __init__(self, servers: list[Any]) -> None:
                self.servers = servers

            def small_value_batch(self, n: int) -> None:
                ray.get([server.small_value.remote() for server in self.servers for _ in range(n)])

            def small_value_batch_arg(self, n: int) -> None:
                x = ray.put(0)
                ray.get([server.small_value_arg.remote(x) for server in self.servers for _ in range(n)])

        @ray.remote
        def call_actors(actors: list[Any], n: int) -> None:
            ray.get([actors[i % len(actors)].small_value.remote() for i in range(n)])

        self.small_value = small_value
        self.Actor: Any = Actor
        self.AsyncActor: Any = AsyncActor
        self.Client: Any = Client
        self.call_actors = call_actors

    def batch(self, count: int) -> int:
        """A large batch, smaller when the pace is quick."""
        return int(count * self._scale)

    def calls_sync(self, actor: Any) -> Timed:
        """One call of an actor and its `get` at a time. The method is looked up each time, as programs do."""
        return lambda: self.ray.get(actor.small_value.remote()), 1

    def calls_async(self, actor: Any) -> Timed:
        """1,000 calls in flight."""
        return lambda: self.ray.get([actor.small_value.remote() for _ in range(1000)]), 1000


# -- objects -----------------------------------------------------------------------------------------------------------


@row("objects", "single client get calls (Plasma Store)")
def get_small(kit: Kit) -> Timed:
    value = kit.ray.put(0)
    return lambda: kit.ray.get(value), 1


@row("objects", "single client put calls (Plasma Store)")
def put_small(kit: Kit) -> Timed:
    return lambda: kit.ray.put(0), 1


@row("objects", "multi client put calls (Plasma Store)")
def put_small_by_many(kit: Kit) -> Timed:
    ray = kit.ray

    @ray.remote
    def do_put_small() -> None:
        for _ in range(100):
            ray.put(0)

    return lambda: ray.get([do_put_small.remote() for _ in range(10)]), 1000


@row("objects", "single client put gigabytes")
def put_large(kit: Kit) -> Timed:
    array = touched(100 * 1024 * 1024)
    return lambda: kit.ray.put(array), 8 * 0.1


@row("objects", "multi client put gigabytes")
def put_large_by_many(kit: Kit) -> Timed:
    ray = kit.ray

    @ray.remote
    def do_put() -> None:
        from bench.microbench import touched

        array = touched(10 * 1024 * 1024)
        for _ in range(10):
            ray.put(array)

    return lambda: ray.get([do_put.remote() for _ in range(10)]), 10 * 8 * 0.1


@row("objects", "single client get object containing 10k refs")
def get_many_refs(kit: Kit) -> Timed:
    ray = kit.ray

    @ray.remote
    def create_object_containing_refs() -> list[Any]:
        return [ray.put(1) for _ in range(10_000)]

    container = create_object_containing_refs.remote()
    return lambda: ray.get(container), 1


# -- tasks -------------------------------------------------------------------------------------------------------------


@row("tasks", "single client tasks and get batch")
def tasks_and_get(kit: Kit) -> Timed:
    call, _ = tasks_async(kit)
    return call, 1


@row("tasks", "single client wait 1k refs")
def wait_one_by_one(kit: Kit) -> Timed:
    ray = kit.ray

    def wait_for_all() -> None:
        not_ready = [kit.small_value.remote() for _ in range(1000)]
        fetch_local = True  # once is enough: Ray goes on fetching after `wait` has returned
        for _ in range(1000):
            _, not_ready = ray.wait(not_ready, fetch_local=fetch_local)
            fetch_local = False

    return wait_for_all, 1


@row("tasks", "single client tasks sync")
def tasks_sync(kit: Kit) -> Timed:
    small_value = kit.small_value
    return lambda: kit.ray.get(small_value.remote()), 1


@row("tasks", "single client tasks async")
def tasks_async(kit: Kit) -> Timed:
    small_value = kit.small_value
    return lambda: kit.ray.get([small_value.remote() for _ in range(1000)]), 1000


@row("tasks", "multi client tasks async")
def tasks_by_many(kit: Kit) -> Timed:
    n = kit.batch(10_000)
    actors = [kit.Actor.remote() for _ in range(kit.callers)]
    return lambda: kit.ray.get([a.small_value_batch.remote(n) for a in actors]), n * len(actors)


# -- actors ------------------------------------------------------------------------------------------------------------


@row("actors", "1:1 actor calls sync")
def actor_sync(kit: Kit) -> Timed:
    return kit.calls_sync(kit.Actor.remote())


@row("actors", "1:1 actor calls async")
def actor_async(kit: Kit) -> Timed:
    return kit.calls_async(kit.Actor.remote())


@row("actors", "1:1 actor calls concurrent")
def actor_concurrent(kit: Kit) -> Timed:
    return kit.calls_async(kit.Actor.options(max_concurrency=16).remote())


@row("actors", "1:n actor calls async")
def one_to_many(kit: Kit) -> Timed:
    n = kit.batch(5000)
    client = kit.Client.remote([kit.Actor.remote() for _ in range(kit.servers)])
    return lambda: kit.ray.get(client.small_value_batch.remote(n)), n * kit.servers


@row("actors", "n:n actor calls async")
def many_to_many(kit: Kit) -> Timed:
    n = kit.batch(5000)
    actors = [kit.Actor.remote() for _ in range(kit.servers)]
    return lambda: kit.ray.get([kit.call_actors.remote(actors, n) for _ in range(kit.callers)]), n * kit.callers


@row("actors", "n:n actor calls with arg async")
def many_to_many_with_argument(kit: Kit) -> Timed:
    n = kit.batch(1000)
    clients = [kit.Client.remote([kit.Actor.remote()]) for _ in range(kit.servers)]
    return lambda: kit.ray.get([c.small_value_batch_arg.remote(n) for c in clients]), n * len(clients)


# -- async actors ------------------------------------------------------------------------------------------------------


@row("async actors", "1:1 async-actor calls sync")
def async_actor_sync(kit: Kit) -> Timed:
    return kit.calls_sync(kit.AsyncActor.remote())


@row("async actors", "1:1 async-actor calls async")
def async_actor_async(kit: Kit) -> Timed:
    return kit.calls_async(kit.AsyncActor.remote())


@row("async actors", "1:1 async-actor calls with args async")
def async_actor_with_arguments(kit: Kit) -> Timed:
    actor = kit.AsyncActor.remote()
    return lambda: kit.ray.get([actor.small_value_with_arg.remote(i) for i in range(1000)]), 1000


@row("async actors", "1:n async-actor calls async")
def one_to_many_async(kit: Kit) -> Timed:
    n = kit.batch(5000)
    client = kit.Client.remote([kit.AsyncActor.remote() for _ in range(kit.servers)])
    return lambda: kit.ray.get(client.small_value_batch.remote(n)), n * kit.servers


@row("async actors", "n:n async-actor calls async")
def many_to_many_async(kit: Kit) -> Timed:
    n = kit.batch(5000)
    actors = [kit.AsyncActor.remote() for _ in range(kit.servers)]
    return lambda: kit.ray.get([kit.call_actors.remote(actors, n) for _ in range(kit.callers)]), n * kit.callers
