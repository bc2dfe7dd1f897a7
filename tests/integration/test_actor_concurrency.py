"""Actors that run several calls at a time: on threads, and on an event loop."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import meshray as ray
from meshray import context
from meshray.actor import exit_actor
from meshray.ids import PROCESS_BYTES
from tests.until import until

LIMIT_S = 30.0

pytestmark = pytest.mark.usefixtures("shared_mesh")


def get(refs: Any) -> Any:
    return ray.get(refs, timeout=LIMIT_S)


@ray.remote
def after(seconds: float, value: Any) -> Any:
    time.sleep(seconds)
    return value


@ray.remote
class Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self) -> int:
        self.value += 1
        return self.value

    def pid(self) -> int:
        return os.getpid()

    def leave(self) -> None:
        exit_actor()


class TestThreads:
    def test_calls_run_side_by_side(self) -> None:
        @ray.remote(max_concurrency=4)
        class Meeting:
            def __init__(self) -> None:
                self.barrier = threading.Barrier(4, timeout=LIMIT_S)

            def meet(self) -> int:
                return self.barrier.wait()

        meeting = Meeting.remote()
        assert sorted(get([meeting.meet.remote() for _ in range(4)])) == [0, 1, 2, 3]
        assert sorted(get([meeting.meet.remote() for _ in range(8)])) == [0, 0, 1, 1, 2, 2, 3, 3]

    def test_no_more_than_asked_for(self) -> None:
        @ray.remote(max_concurrency=2)
        class Crowd:
            def __init__(self) -> None:
                self.inside = self.most = 0

            def enter(self) -> None:
                self.inside += 1
                self.most = max(self.most, self.inside)
                time.sleep(0.02)
                self.inside -= 1

            def max(self) -> int:
                return self.most

        crowd = Crowd.remote()
        get([crowd.enter.remote() for _ in range(10)])
        assert get(crowd.max.remote()) == 2

    def test_a_slow_call_does_not_keep_the_result_of_a_fast_one(self) -> None:
        @ray.remote(max_concurrency=2)
        class Mixed:
            def __init__(self) -> None:
                self.event = threading.Event()

            def fast(self) -> str:
                return "fast"

            def slow(self) -> str:
                return "released" if self.event.wait(LIMIT_S) else "timed out"

            def release(self) -> None:
                self.event.set()

        mixed = Mixed.remote()
        fast, slow = [mixed.fast.remote() for _ in range(20)], mixed.slow.remote()
        assert get(fast) == ["fast"] * 20
        get(mixed.release.remote())
        assert get(slow) == "released"

    def test_context_exceptions_and_nested_calls_in_threads(self) -> None:
        @ray.remote(max_concurrency=3)
        class Busy:
            def ask(self, number: int) -> tuple[int, str | None]:
                value = ray.get(after.remote(0, number), timeout=LIMIT_S)
                return value, ray.get_runtime_context().get_task_id()

            def fail(self) -> None:
                raise KeyError("in a thread")

        busy = Busy.remote()
        refs = [busy.ask.remote(number) for number in range(9)]
        assert get(refs) == [(number, ref.task_id().hex()) for number, ref in enumerate(refs)]
        with pytest.raises(KeyError, match="in a thread"):
            get(busy.fail.remote())

    def test_exit_actor_in_a_thread(self) -> None:
        counter = Counter.options(max_concurrency=2).remote()
        pid = get(counter.pid.remote())
        with pytest.raises(ray.exceptions.ActorDiedError, match="exit_actor"):
            get(counter.leave.remote())
        with pytest.raises(ray.exceptions.ActorDiedError, match="exit_actor"):
            get(counter.add.remote())
        until(lambda: not psutil.pid_exists(pid))

    def test_the_last_handle_ends_it(self) -> None:
        counter = Counter.options(max_concurrency=2).remote()
        pid = get(counter.pid.remote())
        del counter
        until(lambda: not psutil.pid_exists(pid))


@ray.remote(max_concurrency=2)
class Two:
    """An actor whose two threads can be kept busy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[Any] = []

    def hold(self, name: str) -> None:
        """Until there is a file `go`, and, if that names a process, until this one has heard of its death."""
        (self.folder / name).touch()
        go, engine = self.folder / "go", context.runtime().engine  # type: ignore[attr-defined]
        until(go.exists)
        process = go.read_bytes()
        if process:
            until(lambda: process in engine.dead)
            raised = engine.pump.enter()  # what hears of it holds the lock until it has done all that follows
            engine.pump.leave(raised)

    def note(self, what: Any) -> Any:
        self.notes.append(what)
        return what

    def all(self) -> list[Any]:
        return self.notes


def hold_both(two: Any, folder: Path) -> list[Any]:
    holding = [two.hold.remote(name) for name in ("one", "two")]
    until(lambda: (folder / "one").exists() and (folder / "two").exists())
    return holding


class TestCallsBehindBusyThreads:
    def test_a_cancelled_one_never_runs(self, tmp_path: Path) -> None:
        two = Two.remote(tmp_path)
        holding = hold_both(two, tmp_path)
        notes = [two.note.remote(number) for number in range(5)]
        for note in notes[:3]:
            ray.cancel(note)
        for note in notes[:3]:
            with pytest.raises(ray.exceptions.TaskCancelledError):
                get(note)
        (tmp_path / "go").touch()
        assert get([*holding, *notes[3:]]) == [None, None, 3, 4]
        assert get(two.all.remote()) == [3, 4]

    def test_those_of_a_dead_caller_never_run(self, tmp_path: Path) -> None:
        @ray.remote
        class Caller:
            def call(self, two: Any) -> bytes:
                self.refs = [two.note.remote("of the dead") for _ in range(3)]
                return bytes(self.refs[0].binary()[:PROCESS_BYTES])

        two, caller = Two.remote(tmp_path), Caller.remote()
        holding = hold_both(two, tmp_path)
        process = get(caller.call.remote(two))
        mine = two.note.remote("mine")
        ray.kill(caller)
        (tmp_path / "named").write_bytes(process)
        (tmp_path / "named").rename(tmp_path / "go")
        get([*holding, mine])
        assert get(two.all.remote()) == ["mine"]


@ray.remote
class Loop:
    """An asynchronous actor with a bit of everything."""

    def __init__(self) -> None:
        self.events: dict[str, asyncio.Event] = {}
        self.inside = self.most = 0
        self.notes: list[Any] = []
        self.loop = asyncio.get_running_loop()

    def _event(self, name: str) -> asyncio.Event:
        return self.events.setdefault(name, asyncio.Event())

    async def wait_for(self, name: str) -> str:
        self.notes.append(f"waits for {name}")
        try:
            await asyncio.wait_for(self._event(name).wait(), LIMIT_S)
        except asyncio.CancelledError:
            self.notes.append(f"{name} was cancelled")
            raise
        return name

    async def set(self, name: str) -> None:
        self._event(name).set()

    async def note(self, what: Any) -> None:
        self.notes.append(what)

    def all(self) -> list[Any]:
        return list(self.notes)

    async def crowd(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(0.01)
        self.inside -= 1

    def max(self) -> int:
        return self.most

    async def resolve(self, refs: list[Any]) -> list[Any]:
        return list(await asyncio.gather(*refs))

    async def ask(self, value: Any) -> Any:
        return await after.remote(0, value)

    async def block(self, value: Any) -> Any:
        return ray.get(after.remote(0, value), timeout=LIMIT_S)

    def sync(self, value: Any) -> Any:
        return value

    async def fail(self) -> None:
        await asyncio.sleep(0)
        raise KeyError("in a coroutine")

    async def get_failed(self, refs: list[Any]) -> str:
        try:
            await refs[0]
        except KeyError as error:
            return str(error)
        return "nothing"

    async def same_loop(self) -> bool:
        return asyncio.get_running_loop() is self.loop

    async def context(self) -> tuple[str | None, str | None, str | None]:
        await asyncio.sleep(0.01)
        context = ray.get_runtime_context()
        elsewhere = await asyncio.to_thread(lambda: ray.get_runtime_context().get_task_id())
        return context.get_actor_id(), context.get_task_id(), elsewhere

    async def pid(self) -> int:
        return os.getpid()

    async def leave(self) -> None:
        await asyncio.sleep(0)
        exit_actor()

    async def die(self) -> None:
        os._exit(5)


class TestEventLoop:
    def test_calls_are_interleaved(self) -> None:
        loop = Loop.remote()
        waiting = [loop.wait_for.remote("go") for _ in range(50)]
        loop.set.remote("go")
        assert get(waiting) == ["go"] * 50

    def test_they_begin_in_order(self) -> None:
        loop = Loop.remote()
        for number in range(500):
            loop.note.remote(number)
        assert get(loop.all.remote()) == list(range(500))

    def test_the_bound_on_concurrency(self) -> None:
        loop = Loop.options(max_concurrency=3).remote()
        get([loop.crowd.remote() for _ in range(20)])
        assert get(loop.max.remote()) == 3

    def test_a_thousand_at_once_by_default(self) -> None:
        loop = Loop.remote()
        waiting = [loop.wait_for.remote("go") for _ in range(999)]
        loop.set.remote("go")
        assert get(waiting) == ["go"] * 999

    def test_references_are_awaited(self) -> None:
        loop = Loop.remote()
        refs = [after.remote(0.01 * number, number) for number in range(5)]
        assert get(loop.resolve.remote([*refs, ray.put(np.arange(100_000))]))[:5] == [0, 1, 2, 3, 4]
        assert get([loop.ask.remote(number) for number in range(20)]) == list(range(20))

    def test_references_of_other_actors_and_of_itself(self) -> None:
        one, two = Loop.remote(), Loop.remote()
        waiting = two.wait_for.remote("released")
        chain = one.resolve.remote([waiting, one.ask.remote("mine")])
        two.set.remote("released")
        assert get(chain) == ["released", "mine"]

    def test_a_blocking_get_inside(self) -> None:
        loop = Loop.remote()
        assert get([loop.block.remote(number) for number in range(5)]) == list(range(5))

    def test_exceptions(self) -> None:
        loop = Loop.remote()
        failing = loop.fail.remote()
        with pytest.raises(KeyError, match="in a coroutine") as caught:
            get(failing)
        assert "Loop.fail" in str(caught.value)
        assert "in a coroutine" in get(loop.get_failed.remote([failing]))

    def test_methods_that_are_no_coroutines_run_on_the_loop_too(self) -> None:
        loop = Loop.remote()
        assert get([loop.sync.remote(7), loop.same_loop.remote()]) == [7, True]
        assert get(loop.__ray_call__.remote(lambda self, x: len(self.notes) + x, 5)) == 5
        assert get(loop.__ray_ready__.remote()) is True

    def test_context(self) -> None:
        loop = Loop.remote()
        refs = [loop.context.remote() for _ in range(5)]
        expected = [(loop._actor_id.hex(), ref.task_id().hex(), ref.task_id().hex()) for ref in refs]
        assert get(refs) == expected

    def test_a_result_does_not_wait_for_others(self) -> None:
        loop = Loop.remote()
        slow = loop.wait_for.remote("end")
        assert get([loop.sync.remote(number) for number in range(10)]) == list(range(10))
        loop.set.remote("end")
        assert get(slow) == "end"

    def test_what_a_coroutine_submits_leaves_while_it_sleeps(self) -> None:
        @ray.remote
        class Sender:
            async def send(self, to: Any) -> None:
                for number in range(3):
                    to.note.remote(number)
                await asyncio.sleep(LIMIT_S)

        sender, loop = Sender.remote(), Loop.remote()
        sending = sender.send.remote(loop)
        until(lambda: get(loop.all.remote()) == [0, 1, 2])
        ray.cancel(sending)

    def test_results_with_references_and_arrays(self) -> None:
        loop = Loop.remote()
        array = np.ones(100_000)
        assert np.array_equal(get(loop.sync.remote(array)), array)
        (ref,) = get(loop.sync.remote([ray.put(5)]))
        assert get(ref) == 5


class TestCancelInTheLoop:
    def test_a_running_coroutine_gets_a_cancelled_error(self) -> None:
        loop = Loop.remote()
        ref = loop.wait_for.remote("nothing")
        until(lambda: get(loop.all.remote()) == ["waits for nothing"])
        ray.cancel(ref)
        with pytest.raises(ray.exceptions.TaskCancelledError):
            get(ref)
        assert get(loop.all.remote()) == ["waits for nothing", "nothing was cancelled"]

    def test_at_any_moment(self) -> None:
        loop = Loop.remote()
        get(loop.__ray_ready__.remote())
        for number in range(100):
            ref = loop.wait_for.remote("nothing")
            if number % 3 == 0:
                get(loop.sync.remote(number))
            ray.cancel(ref)
            with pytest.raises(ray.exceptions.TaskCancelledError):
                get(ref)
        assert get(loop.sync.remote("alive")) == "alive"

    def test_queued_behind_the_bound(self) -> None:
        loop = Loop.options(max_concurrency=1).remote()
        first, victim, last = loop.wait_for.remote("go"), loop.note.remote("victim"), loop.note.remote("last")
        ray.cancel(victim)
        with pytest.raises(ray.exceptions.TaskCancelledError):
            get(victim)
        ray.cancel(first)
        get(last)
        assert get(loop.all.remote())[-1] == "last"
        assert "victim" not in get(loop.all.remote())

    def test_what_it_has_submitted_is_cancelled_with_it(self) -> None:
        loop, other = Loop.remote(), Loop.remote()

        @ray.remote
        class Front:
            async def forward(self, other: Any) -> Any:
                return await other.wait_for.remote("nothing")

        front = Front.remote()
        ref = front.forward.remote(other)
        until(lambda: get(other.all.remote()) == ["waits for nothing"])
        ray.cancel(ref)
        with pytest.raises(ray.exceptions.TaskCancelledError):
            get(ref)
        until(lambda: get(other.all.remote())[-1] == "nothing was cancelled")
        assert get(loop.sync.remote(1)) == 1

    def test_force_is_an_error(self) -> None:
        loop = Loop.remote()
        ref = loop.wait_for.remote("nothing")
        with pytest.raises(ValueError, match="kill"):
            ray.cancel(ref, force=True)
        loop.set.remote("nothing")
        assert get(ref) == "nothing"


class TestEndOfTheLoop:
    def test_exit_actor(self) -> None:
        loop = Loop.remote()
        pid = get(loop.pid.remote())
        with pytest.raises(ray.exceptions.ActorDiedError, match="exit_actor"):
            get(loop.leave.remote())
        with pytest.raises(ray.exceptions.ActorDiedError, match="exit_actor"):
            get(loop.sync.remote(1))
        until(lambda: not psutil.pid_exists(pid))

    def test_terminate(self) -> None:
        loop = Loop.remote()
        pid = get(loop.pid.remote())
        with pytest.raises(ray.exceptions.ActorDiedError):
            get(loop.__ray_terminate__.remote())
        until(lambda: not psutil.pid_exists(pid))

    def test_the_last_handle_goes_while_calls_run(self) -> None:
        loop = Loop.remote()
        pid = get(loop.pid.remote())
        refs = [loop.ask.remote(number) for number in range(5)]
        del loop
        assert get(refs) == list(range(5))
        until(lambda: not psutil.pid_exists(pid))

    @pytest.mark.fault(3)
    def test_it_dies_with_many_calls_in_flight_and_starts_again(self) -> None:
        loop = Loop.options(max_restarts=1, max_task_retries=1).remote()
        waiting = [loop.wait_for.remote("go") for _ in range(10)]
        until(lambda: len(get(loop.all.remote())) == 10)
        dying = loop.die.options(max_task_retries=0).remote()
        with pytest.raises(ray.exceptions.ActorError):
            get(dying)
        loop.set.remote("go")
        assert get(waiting) == ["go"] * 10

    def test_a_constructor_that_fails(self) -> None:
        @ray.remote
        class Broken:
            def __init__(self) -> None:
                raise KeyError("asynchronous")

            async def call(self) -> None:
                pass

        with pytest.raises(ray.exceptions.ActorDiedError, match="asynchronous"):
            get(Broken.remote().call.remote())

    def test_a_constructor_that_starts_a_task_of_its_own(self) -> None:
        @ray.remote
        class Ticker:
            def __init__(self) -> None:
                self.ticks = 0
                self.task = asyncio.get_running_loop().create_task(self._tick())

            async def _tick(self) -> None:
                while True:
                    self.ticks += 1
                    await asyncio.sleep(0.001)

            async def count(self) -> int:
                return self.ticks

        ticker = Ticker.remote()
        until(lambda: get(ticker.count.remote()) > 5)


def test_await_in_the_driver() -> None:
    async def main() -> list[Any]:
        loop = Loop.remote()
        return list(await asyncio.gather(*(loop.ask.remote(number) for number in range(10))))

    assert asyncio.run(main()) == list(range(10))
