"""Actors: state, order, handles, names, methods, resources, context, and their end in good order."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import meshray as ray
from meshray.actor import exit_actor
from meshray.exceptions import ActorDiedError
from tests.until import until

LIMIT_S = 30.0

pytestmark = pytest.mark.usefixtures("shared_mesh")


def get(refs: Any) -> Any:
    return ray.get(refs, timeout=LIMIT_S)


@ray.remote
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    def pid(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise KeyError("missing")

    def leave(self) -> None:
        exit_actor()


@ray.remote
class Notes:
    """Writes down what it is told, in order."""

    def __init__(self) -> None:
        self.notes: list[Any] = []

    def note(self, *what: Any) -> None:
        self.notes.append(what if len(what) != 1 else what[0])

    def all(self) -> list[Any]:
        return self.notes


@ray.remote
def after(seconds: float, value: Any) -> Any:
    time.sleep(seconds)
    return value


class TestState:
    def test_it_keeps_its_state_between_calls(self) -> None:
        counter = Counter.remote(10)
        assert get([counter.add.remote() for _ in range(200)]) == list(range(11, 211))

    def test_two_actors_share_nothing(self) -> None:
        one, two = Counter.remote(), Counter.remote()
        get([one.add.remote(5), two.add.remote(7)])
        assert get([one.add.remote(), two.add.remote()]) == [6, 8]
        assert get(one.pid.remote()) != get(two.pid.remote())

    def test_an_exception_in_a_method_is_raised_by_get_and_the_actor_lives_on(self) -> None:
        counter = Counter.remote()
        with pytest.raises(KeyError) as caught:
            get(counter.fail.remote())
        assert isinstance(caught.value, ray.exceptions.TaskError)
        assert "Counter.fail" in str(caught.value)
        assert get(counter.add.remote()) == 1

    def test_attributes_that_are_replaced_are_seen(self) -> None:
        counter = Counter.remote()
        assert get(counter.add.remote()) == 1

        def replace(instance: Any) -> None:
            instance.add = lambda amount=1: "replaced"

        get(counter.__ray_call__.remote(replace))
        assert get(counter.add.remote()) == "replaced"

    def test_large_arguments_and_results(self) -> None:
        @ray.remote
        class Keeper:
            def __init__(self, array: np.ndarray) -> None:
                self.array = array

            def sum_with(self, other: np.ndarray) -> float:
                return float(self.array.sum() + other.sum())

            def give(self) -> np.ndarray:
                return self.array

        array = np.ones(300_000)
        keeper = Keeper.remote(array)
        assert get(keeper.sum_with.remote(array * 2)) == 900_000.0
        given = get(keeper.give.remote())
        assert np.array_equal(given, array)
        assert not given.flags.writeable

    def test_static_class_and_inherited_methods(self) -> None:
        class Base:
            def inherited(self) -> str:
                return "inherited"

            @staticmethod
            def static(x: int) -> int:
                return x + 1

            @classmethod
            def of_class(cls) -> str:
                return cls.__name__

        class Derived(Base):
            pass

        actor = ray.remote(Derived).remote()
        assert get([actor.inherited.remote(), actor.static.remote(1), actor.of_class.remote()]) == [
            "inherited",
            2,
            "Derived",
        ]


class TestOrder:
    def test_calls_of_one_caller_run_in_order(self) -> None:
        notes = Notes.remote()
        for number in range(3000):
            notes.note.remote(number)
        assert get(notes.all.remote()) == list(range(3000))

    def test_a_call_whose_argument_is_not_ready_holds_the_later_ones(self) -> None:
        notes = Notes.remote()
        slow = after.remote(0.2, "slow")
        notes.note.remote("first")
        notes.note.remote(slow)
        for number in range(50):
            notes.note.remote(number)
        assert get(notes.all.remote()) == ["first", "slow", *range(50)]

    def test_a_call_whose_argument_fails_does_not_hold_the_later_ones(self) -> None:
        @ray.remote
        def fail_slowly() -> None:
            time.sleep(0.1)
            raise KeyError("argument")

        notes = Notes.remote()
        failing = notes.note.remote(fail_slowly.remote())
        later = [notes.note.remote(number) for number in range(5)]
        with pytest.raises(KeyError, match="argument"):
            get(failing)
        get(later)
        assert get(notes.all.remote()) == [0, 1, 2, 3, 4]

    def test_each_of_several_callers_sees_its_own_order(self) -> None:
        @ray.remote
        def write(notes: Any, name: str) -> None:
            ray.get([notes.note.remote(name, number) for number in range(200)], timeout=LIMIT_S)

        notes = Notes.remote()
        get([write.remote(notes, name) for name in "abcd"])
        written = get(notes.all.remote())
        assert len(written) == 800
        for name in "abcd":
            assert [number for who, number in written if who == name] == list(range(200))

    def test_a_cancelled_call_that_waits_for_its_argument_does_not_hold_the_later_ones(self) -> None:
        notes = Notes.remote()
        waiting = notes.note.remote(after.remote(5, "never"))
        later = notes.note.remote("later")
        ray.cancel(waiting)
        with pytest.raises(ray.exceptions.TaskCancelledError):
            get(waiting)
        get(later)
        assert get(notes.all.remote()) == ["later"]


class TestHandles:
    def test_in_the_arguments_of_a_task_and_in_containers(self) -> None:
        @ray.remote
        def use(counter: Any, inside: dict[str, Any]) -> int:
            ray.get(inside["counter"].add.remote(10), timeout=LIMIT_S)
            return ray.get(counter.add.remote(), timeout=LIMIT_S)

        counter = Counter.remote()
        assert get(use.remote(counter, {"counter": counter})) == 11

    def test_kept_by_another_actor_after_the_creator_let_go(self) -> None:
        @ray.remote
        class Keeper:
            def keep(self, handle: Any) -> None:
                self.handle = handle

            def use(self) -> int:
                return ray.get(self.handle.add.remote(), timeout=LIMIT_S)

        keeper, counter = Keeper.remote(), Counter.remote()
        get(keeper.keep.remote(counter))
        pid = get(counter.pid.remote())
        del counter
        assert get([keeper.use.remote() for _ in range(3)]) == [1, 2, 3]
        ray.kill(keeper)
        until(lambda: not psutil.pid_exists(pid))

    def test_returned_by_a_task_that_made_the_actor(self) -> None:
        @ray.remote
        def make(start: int) -> Any:
            return Counter.remote(start)

        counter = get(make.remote(5))
        assert get(counter.add.remote()) == 6

    def test_put_and_taken_out_again(self) -> None:
        counter = Counter.remote()
        kept = ray.put([counter])
        del counter
        (counter,) = get(kept)
        del kept
        assert get(counter.add.remote()) == 1

    def test_in_the_constructor_of_another(self) -> None:
        @ray.remote
        class Front:
            def __init__(self, back: Any) -> None:
                self.back = back

            def add(self) -> int:
                return ray.get(self.back.add.remote(), timeout=LIMIT_S)

        front = Front.remote(Counter.remote(41))
        assert get(front.add.remote()) == 42

    def test_an_actor_gives_out_a_handle_to_itself(self) -> None:
        @ray.remote
        class Me:
            def me(self) -> Any:
                return ray.get_runtime_context().current_actor

            def hello(self) -> str:
                return "hello"

        me = Me.remote()
        again = get(me.me.remote())
        assert again == me
        del me
        assert get(again.hello.remote()) == "hello"

    def test_actors_that_call_each_other_and_themselves_without_waiting(self) -> None:
        @ray.remote
        class Ball:
            def __init__(self) -> None:
                self.hits = 0

            def hit(self, other: Any, left: int, done: Any) -> None:
                self.hits += 1
                if left:
                    other.hit.remote(ray.get_runtime_context().current_actor, left - 1, done)
                else:
                    done.note.remote("over")

            def count(self) -> int:
                return self.hits

            def again(self, left: int) -> None:
                self.hits += 1
                if left:
                    ray.get_runtime_context().current_actor.again.remote(left - 1)

        one, two, done = Ball.remote(), Ball.remote(), Notes.remote()
        one.hit.remote(two, 49, done)
        until(lambda: get(done.all.remote()) == ["over"])
        assert get([one.count.remote(), two.count.remote()]) == [25, 25]
        get(one.again.remote(9))
        until(lambda: get(one.count.remote()) == 35)

    def test_methods_travel_too(self) -> None:
        @ray.remote
        def call(method: Any) -> int:
            return ray.get(method.remote(3), timeout=LIMIT_S)

        counter = Counter.remote()
        assert get(call.remote(counter.add)) == 3

    def test_many_callers_and_many_actors(self) -> None:
        @ray.remote
        def call(actors: list[Any], times: int) -> int:
            return len(ray.get([actor.add.remote() for _ in range(times) for actor in actors], timeout=LIMIT_S))

        actors = [Counter.remote() for _ in range(3)]
        assert get([call.remote(actors, 100) for _ in range(4)]) == [300] * 4
        assert get([actor.add.remote(0) for actor in actors]) == [400] * 3


class TestNames:
    def test_found_by_name(self) -> None:
        counter = Counter.options(name="by name").remote(1)
        found = ray.get_actor("by name")
        assert found == counter
        assert get(found.add.remote()) == 2

    def test_found_by_name_in_a_task(self) -> None:
        @ray.remote
        def find() -> int:
            return ray.get(ray.get_actor("in a task").add.remote(), timeout=LIMIT_S)

        counter = Counter.options(name="in a task").remote(1)
        assert get(find.remote()) == 2
        assert get(counter.add.remote()) == 3

    def test_unknown_names(self) -> None:
        with pytest.raises(ValueError, match=r"no actor named 'nobody'.*init\(\) was given none"):
            ray.get_actor("nobody")
        with pytest.raises(ValueError, match="no actor named 'nobody' in namespace 'elsewhere'$"):
            ray.get_actor("nobody", namespace="elsewhere")

    def test_a_name_that_is_taken(self) -> None:
        kept = Counter.options(name="taken").remote()
        with pytest.raises(ValueError, match="taken"):
            Counter.options(name="taken").remote()
        with pytest.raises(ray.exceptions.ActorAlreadyExistsError):
            Counter.options(name="taken").remote()
        assert get(kept.add.remote()) == 1

    def test_get_if_exists(self) -> None:
        one = Counter.options(name="shared", get_if_exists=True).remote(5)
        two = Counter.options(name="shared", get_if_exists=True).remote(500)
        assert one == two
        assert get([one.add.remote(), two.add.remote()]) == [6, 7]

    def test_get_if_exists_from_many_tasks_at_once_makes_one_actor(self) -> None:
        @ray.remote
        def join() -> str:
            counter = Counter.options(name="joined", get_if_exists=True, lifetime="detached").remote()
            ray.get(counter.add.remote(), timeout=LIMIT_S)
            return counter._actor_id.hex()

        assert len(set(get([join.remote() for _ in range(8)]))) == 1
        counter = ray.get_actor("joined")
        assert get(counter.add.remote(0)) == 8
        ray.kill(counter)

    def test_namespaces(self) -> None:
        here = Counter.options(name="spaced").remote(1)
        there = Counter.options(name="spaced", namespace="elsewhere").remote(100)
        assert get(ray.get_actor("spaced").add.remote()) == 2
        assert get(ray.get_actor("spaced", namespace="elsewhere").add.remote()) == 101
        assert here != there

    def test_a_name_is_free_after_kill_and_after_the_last_handle(self) -> None:
        first = Counter.options(name="reused").remote()
        get(first.add.remote())
        ray.kill(first)
        second = Counter.options(name="reused").remote()
        assert get(second.add.remote()) == 1
        del second

        def is_free() -> bool:
            try:
                ray.get_actor("reused")
            except ValueError:
                return True
            return False

        until(is_free)
        assert get(Counter.options(name="reused").remote().add.remote()) == 1


class TestMethods:
    def test_several_returns(self) -> None:
        @ray.remote
        class Splitter:
            @ray.method(num_returns=2)
            def split(self, pair: tuple[int, int]) -> tuple[int, int]:
                return pair

            @ray.method(num_returns=0)
            def nothing(self) -> None:
                return None

            def three(self) -> list[int]:
                return [1, 2, 3]

        splitter = Splitter.remote()
        one, two = splitter.split.remote((1, 2))
        assert get([one, two]) == [1, 2]
        assert splitter.nothing.remote() is None
        assert get(splitter.three.options(num_returns=3).remote()) == [1, 2, 3]
        wrong = splitter.three.options(num_returns=2).remote()
        with pytest.raises(ValueError, match="3 values"):
            get(wrong[0])

    def test_exceptions_are_retried_where_asked_for(self) -> None:
        @ray.remote
        class Flaky:
            def __init__(self) -> None:
                self.tries = 0

            @ray.method(max_task_retries=3, retry_exceptions=[ConnectionError])
            def listed(self, until: int, error: type[Exception]) -> int:
                self.tries += 1
                if self.tries < until:
                    raise error(f"try {self.tries}")
                return self.tries

            def plain(self) -> int:
                self.tries += 1
                raise ConnectionError(f"try {self.tries}")

            def count(self) -> int:
                return self.tries

        flaky = Flaky.remote()
        assert get(flaky.listed.remote(4, ConnectionResetError)) == 4
        flaky = Flaky.remote()
        with pytest.raises(ConnectionError, match="try 4"):
            get(flaky.listed.remote(9, ConnectionError))
        flaky = Flaky.remote()
        with pytest.raises(ValueError, match="try 1"):
            get(flaky.listed.remote(9, ValueError))
        with pytest.raises(ConnectionError, match="try 2"):
            get(flaky.plain.remote())
        with pytest.raises(ConnectionError, match="try 5"):
            get(flaky.plain.options(max_task_retries=2, retry_exceptions=True).remote())
        assert get(flaky.count.remote()) == 5

    def test_special_methods(self) -> None:
        counter = Counter.remote(1)
        assert get(counter.__ray_ready__.remote()) is True
        assert get(counter.__ray_call__.remote(lambda self, x: self.value + x, 10)) == 11
        pid = get(counter.pid.remote())
        last = counter.add.remote()
        ended = counter.__ray_terminate__.remote()
        assert get(last) == 2
        with pytest.raises(ray.exceptions.ActorDiedError):
            get(ended)
        with pytest.raises(ray.exceptions.ActorDiedError):
            get(counter.add.remote())
        until(lambda: not psutil.pid_exists(pid))

    def test_references_in_containers_are_kept(self) -> None:
        @ray.remote
        class Shelf:
            def put(self, box: list[Any]) -> None:
                self.box = box

            def look(self) -> Any:
                return ray.get(self.box[0], timeout=LIMIT_S)

            def give(self) -> list[Any]:
                return self.box

        shelf = Shelf.remote()
        ref = ray.put(np.arange(50_000))
        get(shelf.put.remote([ref]))
        del ref
        assert get(shelf.look.remote())[-1] == 49_999
        (back,) = get(shelf.give.remote())
        ray.kill(shelf)
        assert get(back)[-1] == 49_999


class TestConstructor:
    def test_references_among_its_arguments(self) -> None:
        @ray.remote
        class Sum:
            def __init__(self, value: int, inside: list[Any], array: np.ndarray) -> None:
                self.parts = (value, inside[0], array)

            def sum(self) -> float:
                value, ref, array = self.parts
                return value + ray.get(ref, timeout=LIMIT_S) + float(array.sum())

        actor = Sum.remote(after.remote(0.1, 1), [ray.put(10)], ray.put(np.ones(100_000)))
        assert get(actor.sum.remote()) == 100_011.0
        assert get(actor.sum.remote()) == 100_011.0

    def test_a_failure_is_the_cause_that_every_call_tells(self) -> None:
        @ray.remote
        class Broken:
            def __init__(self, what: str) -> None:
                raise ZeroDivisionError(what)

            def use(self) -> None:
                pass

        broken = Broken.remote("by nothing")
        for _ in range(2):
            with pytest.raises(ray.exceptions.ActorDiedError, match="by nothing") as caught:
                get(broken.use.remote())
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            assert "__init__" in str(caught.value)
            assert broken._actor_id.hex() in str(caught.value)

    def test_a_failed_argument(self) -> None:
        @ray.remote
        def fail() -> None:
            raise KeyError("no argument")

        counter = Counter.remote(fail.remote())
        with pytest.raises(ray.exceptions.ActorDiedError, match="no argument"):
            get(counter.add.remote())

    def test_a_class_that_cannot_be_loaded(self) -> None:
        class Trap:
            def __reduce__(self) -> Any:
                return _fail_to_load, ()

        trap = Trap()

        @ray.remote
        class Caught:
            def use(self) -> Any:
                return trap

        with pytest.raises(ray.exceptions.ActorDiedError, match="it cannot be loaded"):
            get(Caught.remote().use.remote())

    def test_wrong_arguments(self) -> None:
        with pytest.raises(TypeError):
            Counter.remote(1, 2, 3)
        counter = Counter.remote()
        with pytest.raises(TypeError):
            counter.add.remote(1, 2)
        with pytest.raises(AttributeError, match="nonsense"):
            counter.nonsense  # noqa: B018
        with pytest.raises(TypeError):
            Counter.remote(threading.Lock())

    def test_it_may_wait_for_tasks_on_a_mesh_that_is_full(self) -> None:
        @ray.remote(num_cpus=2)
        class Greedy:
            def __init__(self) -> None:
                self.value = ray.get(after.options(num_cpus=2).remote(0, 5), timeout=LIMIT_S)

            def use(self) -> int:
                return self.value + ray.get(after.options(num_cpus=2).remote(0, 6), timeout=LIMIT_S)

        assert get(Greedy.remote().use.remote()) == 11

    def test_leaving_in_the_constructor(self) -> None:
        @ray.remote
        class Shy:
            def __init__(self) -> None:
                exit_actor()

            def use(self) -> None:
                pass

        with pytest.raises(ray.exceptions.ActorDiedError, match="exit_actor"):
            get(Shy.remote().use.remote())


def _fail_to_load() -> None:
    raise RuntimeError("it cannot be loaded")


class TestEnd:
    def test_the_last_handle_ends_it_after_the_calls_that_are_queued(self) -> None:
        notes = Notes.remote()

        @ray.remote
        class Worker:
            def work(self, notes: Any, number: int) -> int:
                time.sleep(0.05)
                ray.get(notes.note.remote(number), timeout=LIMIT_S)
                return os.getpid()

        worker = Worker.remote()
        refs = [worker.work.remote(notes, number) for number in range(5)]
        del worker
        pids = get(refs)
        assert get(notes.all.remote()) == [0, 1, 2, 3, 4]
        until(lambda: not psutil.pid_exists(pids[0]))

    def test_nobody_waits_for_the_queued_calls_and_they_run_all_the_same(self) -> None:
        notes = Notes.remote()

        @ray.remote
        class Worker:
            def work(self, notes: Any, number: int) -> None:
                time.sleep(0.05)
                notes.note.remote(number)

        worker = Worker.remote()
        for number in range(3):
            worker.work.remote(notes, number)
        del worker
        until(lambda: get(notes.all.remote()) == [0, 1, 2])

    def test_an_actor_that_nobody_ever_called(self) -> None:
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        Counter.remote()
        held = Counter.remote()
        pid = get(held.pid.remote())
        del held
        until(lambda: not psutil.pid_exists(pid))
        until(lambda: not _actors_alive(before))

    @pytest.mark.parametrize("how", ["exit_actor", "terminate", "sys.exit", "last handle"])
    @pytest.mark.parametrize("ends", [True, False])
    def test_what_was_registered_for_the_end_runs(self, how: str, ends: bool, tmp_path: Path) -> None:
        """As in every program; but a handler that does not end keeps no actor alive."""

        @ray.remote
        class Leaver:
            def __init__(self, file: Path, ends: bool) -> None:
                if not ends:
                    atexit.register(threading.Event().wait)
                atexit.register(file.touch)

            def leave(self, how: str) -> None:
                if how == "sys.exit":
                    sys.exit(3)
                if how == "exit_actor":
                    exit_actor()

            def pid(self) -> int:
                return os.getpid()

        leaver = Leaver.remote(tmp_path / "ended", ends)
        pid = get(leaver.pid.remote())
        if how == "last handle":
            del leaver
        else:
            with pytest.raises(ActorDiedError):
                get(leaver.__ray_terminate__.remote() if how == "terminate" else leaver.leave.remote(how))
        until(lambda: not psutil.pid_exists(pid))
        assert (tmp_path / "ended").exists()

    def test_exit_actor(self) -> None:
        counter = Counter.remote()
        pid = get(counter.pid.remote())
        done, leaving = counter.add.remote(), counter.leave.remote()
        behind = counter.add.remote()
        assert get(done) == 1
        for ref in (leaving, behind, counter.add.remote()):
            with pytest.raises(ray.exceptions.ActorDiedError, match="exit_actor"):
                get(ref)
        until(lambda: not psutil.pid_exists(pid))

    def test_kill(self) -> None:
        counter = Counter.remote()
        pid = get(counter.pid.remote())
        ray.kill(counter)
        with pytest.raises(ray.exceptions.ActorDiedError, match="kill"):
            get(counter.add.remote())
        until(lambda: not psutil.pid_exists(pid))
        ray.kill(counter)  # once more does nothing

    def test_kill_before_it_has_started(self) -> None:
        counter = Counter.remote()
        ray.kill(counter)
        with pytest.raises(ray.exceptions.ActorDiedError, match="kill"):
            get(counter.add.remote())

    def test_an_actor_that_a_task_made_and_dropped(self) -> None:
        @ray.remote
        def make() -> int:
            counter = Counter.remote()
            return ray.get(counter.pid.remote(), timeout=LIMIT_S)

        pid = get(make.remote())
        until(lambda: not psutil.pid_exists(pid))


def _actors_alive(before: set[int]) -> bool:
    return ray.available_resources().get("CPU") != 2.0


class TestContext:
    def test_ids_and_names(self) -> None:
        @ray.remote
        class Curious:
            def __init__(self) -> None:
                context = ray.get_runtime_context()
                self.early = (context.get_actor_id(), context.get_actor_name(), context.was_current_actor_reconstructed)

            def look(self) -> dict[str, Any]:
                context = ray.get_runtime_context()
                return {
                    "early": self.early,
                    "actor": context.get_actor_id(),
                    "name": context.get_actor_name(),
                    "task": context.get_task_id(),
                    "task_name": context.get_task_name(),
                    "namespace": context.namespace,
                    "job": context.get_job_id(),
                    "node": context.get_node_id(),
                    "gpus": ray.get_gpu_ids(),
                    "resources": context.get_assigned_resources(),
                    "canceled": context.is_canceled(),
                }

        curious = Curious.options(name="curious", num_cpus=0.5).remote()
        ref = curious.look.remote()
        seen = get(ref)
        own = ray.get_runtime_context()
        assert seen["actor"] == curious._actor_id.hex()
        assert seen["early"] == (seen["actor"], "curious", False)
        assert seen["name"] == "curious"
        assert seen["task"] == ref.task_id().hex()
        assert seen["task_name"] == "Curious.look"
        assert seen["namespace"] == own.namespace
        assert seen["job"] == own.get_job_id()
        assert seen["node"] == own.get_node_id()
        assert seen["gpus"] == []
        assert seen["resources"] == {"CPU": 0.5}
        assert seen["canceled"] is False

    def test_threads_of_the_users_own_belong_to_the_actor(self) -> None:
        import concurrent.futures

        @ray.remote
        class Threaded:
            def look(self) -> Any:
                with concurrent.futures.ThreadPoolExecutor(1) as pool:
                    return pool.submit(lambda: ray.get_runtime_context().get_actor_id()).result()

        actor = Threaded.remote()
        assert get(actor.look.remote()) == actor._actor_id.hex()

    def test_outside_of_actors(self) -> None:
        assert ray.get_runtime_context().get_actor_id() is None
        with pytest.raises(RuntimeError):
            ray.get_runtime_context().current_actor  # noqa: B018
        with pytest.raises(TypeError):
            exit_actor()


class TestResources:
    def test_one_cpu_to_place_and_none_while_alive(self) -> None:
        until(lambda: ray.available_resources().get("CPU") == 2.0)
        actors = [Counter.remote() for _ in range(4)]
        get([actor.add.remote() for actor in actors])
        assert ray.available_resources()["CPU"] == 2.0

    def test_what_is_asked_for_is_held_and_given_back(self) -> None:
        until(lambda: ray.available_resources().get("CPU") == 2.0)
        actor = Counter.options(num_cpus=1.5).remote()
        get(actor.add.remote())
        assert ray.available_resources()["CPU"] == 0.5
        waiting = Counter.options(num_cpus=1).remote()
        ready, _ = ray.wait([waiting.add.remote()], timeout=0.1)
        assert not ready
        ray.kill(actor)
        assert get(waiting.add.remote()) == 2
        assert ray.available_resources()["CPU"] == 1.0
        del waiting
        until(lambda: ray.available_resources().get("CPU") == 2.0)

    def test_the_call_that_was_waiting_is_not_lost(self) -> None:
        hog = Counter.options(num_cpus=2).remote()
        get(hog.add.remote())
        refs = [Counter.remote().add.remote() for _ in range(3)]
        del hog
        assert get(refs) == [1, 1, 1]


class TestCancel:
    def test_queued_calls_never_run(self, tmp_path: Path) -> None:
        notes = Notes.remote()
        get(notes.__ray_ready__.remote())
        gate = tmp_path / "gate"

        def hold(instance: Any) -> None:
            while not gate.exists():
                time.sleep(0.01)

        holding = notes.__ray_call__.remote(hold)
        victims = [notes.note.remote("victim") for _ in range(3)]
        last = notes.note.remote("last")
        for victim in victims:
            ray.cancel(victim)
        for victim in victims:
            with pytest.raises(ray.exceptions.TaskCancelledError):
                get(victim)
        gate.touch()
        get([holding, last])
        assert get(notes.all.remote()) == ["last"]

    def test_a_running_one_sees_a_flag(self) -> None:
        @ray.remote
        class Patient:
            def run(self, notes: Any) -> str:
                ray.get(notes.note.remote("runs"), timeout=LIMIT_S)
                give_up_at = time.monotonic() + LIMIT_S
                while not ray.get_runtime_context().is_canceled():
                    if time.monotonic() > give_up_at:
                        return "saw nothing"
                    time.sleep(0.01)
                return "saw the flag"

        notes, patient = Notes.remote(), Patient.remote()
        ref = patient.run.remote(notes)
        until(lambda: get(notes.all.remote()) == ["runs"])
        ray.cancel(ref)
        assert get(ref) == "saw the flag"

    def test_force_is_an_error(self) -> None:
        counter = Counter.remote()
        ref = counter.__ray_call__.remote(lambda self: time.sleep(0.2))
        with pytest.raises(ValueError, match="kill"):
            ray.cancel(ref, force=True)
        get(ref)

    def test_a_finished_one_stays_as_it_is(self) -> None:
        counter = Counter.remote()
        ref = counter.add.remote()
        assert get(ref) == 1
        ray.cancel(ref)
        assert get(ref) == 1


def test_results_do_not_wait_for_the_next_call() -> None:
    notes = Notes.remote()
    get(notes.__ray_ready__.remote())
    gate = Notes.remote()

    def until_open(instance: Any, gate: Any) -> None:
        give_up_at = time.monotonic() + LIMIT_S
        while not ray.get(gate.all.remote(), timeout=LIMIT_S) and time.monotonic() < give_up_at:
            time.sleep(0.01)

    fast, slow = notes.note.remote("fast"), notes.__ray_call__.remote(until_open, gate)
    get(fast)
    gate.note.remote("open")
    get(slow)


def test_a_hundred_actors() -> None:
    actors = [Counter.remote(number) for number in range(100)]
    assert get([actor.add.remote() for actor in actors]) == list(range(1, 101))
    pids = get([actor.pid.remote() for actor in actors])
    assert len(set(pids)) == 100
    del actors
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_an_actor_that_can_never_be_placed_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    actor = Counter.options(num_cpus=64).remote()
    ref = actor.add.remote()
    seen = []

    def reported() -> bool:
        captured = capfd.readouterr()
        seen.append(captured.out + captured.err)
        return "64" in "".join(seen)

    until(reported)
    assert "meshray: actor Counter waits: " in "".join(seen)  # it is not the actor that says so
    ready, _ = ray.wait([ref], timeout=0)
    assert not ready
    ray.kill(actor)
    with pytest.raises(ray.exceptions.ActorDiedError):
        get(ref)
