"""What can make a lost value again, for how long, and in which order."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

import pytest
from msgspec.structs import replace

from meshray.config import Config, preset
from meshray.core.calls import ActorLink
from meshray.core.effects import Send
from meshray.core.pending import DONE, Mean, Pending
from meshray.core.records import Record, Records
from meshray.core.remaking import Remaking
from meshray.core.scheduling import SchedulingClass
from meshray.ids import FIRST_RETURN, object_of
from meshray.refs import ObjectRef
from meshray.wire.messages import Blob, Failure, Place, Profile, Promoted, Resolve, Value

PEER, SELF, NODE = b"the-peer" + bytes(8), b"the-peer" + b"the-self", b"far-node"
CONFIG = preset("test")
CLS = SchedulingClass(1, {"CPU": 10_000}, Profile(), 1)
FUNCTION = Blob(b"f" * 16, "f", b"code")


class Handle(ObjectRef[Any]):
    """A handle that tells a queue of its own when it dies."""

    __slots__ = ("queue",)

    def __init__(self, object_id: bytes, queue: deque[Any]) -> None:
        super().__init__(object_id)
        self.queue = queue

    def __del__(self) -> None:
        self.queue.append(self._id)


class Process:
    """Records and origins; what the engine does around them; and tasks that run when they are told to."""

    def __init__(self, config: Config = CONFIG, checks: bool = True) -> None:
        self.checks = checks  # after each task; else the books are looked at when a test asks for them
        queue: deque[Any] = deque()
        self.records = Records(PEER, queue, self.on_idle)
        self.handle = lambda object_id: Handle(object_id, queue)
        self.core = Remaking(config, self.records, self.handle)
        numbers = itertools.count(1)
        self.core.new_task_id = self.new_task_id = lambda: SELF + next(numbers).to_bytes(8, "big")
        self.segments = itertools.count(1)
        self.ran: list[Pending] = []

    def on_idle(self, record: Record) -> None:
        self.core.forget(record.id)

    # -- programs ----------------------------------------------------------------------------------------------------

    def own(self, object_id: bytes, value: Value | None = None, task: Pending | None = None) -> Handle:
        self.records.table[object_id] = Record(object_id, True, 1, task, value)
        return self.handle(object_id)

    def put(self, value: Value = b"small") -> Handle:
        return self.own(self.new_task_id() + FIRST_RETURN, value)

    def submit(self, *refs: Handle, returns: int = 1, inside: list[Handle] | None = None, **told: Any) -> list[Handle]:
        """A task that was not run yet."""
        blob = told.pop("blob", FUNCTION)
        task = Pending(self.new_task_id(), blob.hash, told.pop("args", b"args"), [], Mean(), returns, blob)
        task.name, task.cls, task.retries_left = "f", told.pop("cls", CLS), told.pop("retries", 3)
        assert not told, told
        handles = [self.own(object_of(task.task_id, index), None, task) for index in range(returns)]
        task.records = [self.records.table[handle.binary()] for handle in handles]
        top, nested = list(refs), list(inside or ())
        for ref in (*top, *nested):
            self.records.table[ref.binary()].count += 1
        task.dep_refs = [self.handle(ref.binary()) for ref in top] or None
        task.refs = [*(self.handle(ref.binary()) for ref in nested), *(task.dep_refs or ())] or None
        return handles

    def run(self, task: Pending, *values: Value) -> None:
        """It runs, and its results count. Without values, they are large."""
        table = self.records.table
        self.ran.append(task)
        task.deps = [table[ref.binary()].value for ref in task.dep_refs or ()]
        assert None not in task.deps, f"{task!r} ran before its arguments were there"
        made = list(values) or [self.place(object_of(task.task_id, index)) for index in range(task.returns)]
        refs, task.refs, task.state = task.refs, None, DONE
        if any(isinstance(value, Place) for value in made) or self.core.knows(task.task_id):
            self.core.keep(task, made, refs)
        for record, value in zip(task.records, made, strict=True):
            self.records.settle(record, value, None)
        task.dep_refs = refs = None
        self.records.drain()
        if self.checks:
            self.check()

    def place(self, object_id: bytes) -> Place:
        return Place(object_id, NODE, f"abcd-{next(self.segments)}", 1 << 20)

    def make(self, *refs: Handle, **told: Any) -> Handle:
        """A task that has run, with one large result."""
        (handle,) = self.submit(*refs, **told)
        self.run(self.task_of(handle))
        return handle

    # -- what is there -----------------------------------------------------------------------------------------------

    def record(self, handle: Handle) -> Record:
        return self.records.table[handle.binary()]

    def value(self, handle: Handle) -> Any:
        return self.record(handle).value

    def task_of(self, handle: Handle) -> Pending:
        task = self.record(handle).task
        assert isinstance(task, Pending)
        return task

    def lose(self, handle: Handle) -> list[Pending] | None:
        tasks = self.core.lose(self.record(handle))
        self.check()
        return tasks

    def origins(self) -> int:
        self.check()
        return self.core.stats().origins

    def check(self) -> None:
        self.records.drain()
        self.core.check()


# -- made again --------------------------------------------------------------------------------------------------------


def test_a_lost_result_is_made_by_its_task_as_one_more_attempt() -> None:
    process = Process()
    handle = process.make()
    before = process.value(handle)
    (again,) = process.lose(handle) or []
    assert process.value(handle) is None
    assert (again.task_id, again.attempt, again.retries_left) == (process.ran[0].task_id, 1, 2)
    assert (again.function, again.args, again.blob, again.cls) == (FUNCTION.hash, b"args", FUNCTION, CLS)
    process.run(again)
    assert isinstance(process.value(handle), Place)
    assert process.value(handle) != before


def test_who_finds_out_later_waits_for_the_same_execution() -> None:
    process = Process()
    first, second = process.submit(returns=2)
    process.run(process.task_of(first))
    (again,) = process.lose(first) or []
    assert process.lose(second) == []
    assert process.value(second) is None
    process.run(again)
    assert process.value(first) != process.value(second)
    assert None not in (process.value(first), process.value(second))


def test_what_is_still_there_is_not_replaced_and_its_second_value_is_a_spare() -> None:
    process = Process()
    first, second = process.submit(returns=2)
    process.run(process.task_of(first))
    kept = process.value(second)
    (again,) = process.lose(first) or []
    process.run(again)
    assert process.value(second) == kept
    assert process.lose(second) == [], "no third execution"
    assert process.value(second) not in (kept, None)
    assert len(process.lose(second) or []) == 1


def test_a_return_that_nobody_holds_any_more_is_let_go_of_at_once() -> None:
    process = Process()
    first, second = process.submit(returns=2)
    process.run(process.task_of(first))
    gone = second.binary()
    del second
    process.check()
    (again,) = process.lose(first) or []
    assert gone in process.records.table
    process.run(again)
    assert gone not in process.records.table


def test_it_may_run_as_often_as_its_retries_allow() -> None:
    process = Process()
    handle = process.make(retries=2)
    for _ in range(2):
        (again,) = process.lose(handle) or []
        process.run(again)
    assert process.lose(handle) == []
    failure = process.value(handle)
    assert failure.kind == "ObjectReconstructionFailedError"
    assert "no retries are left" in failure.message


def test_one_that_may_always_be_retried_may_always_be_made_again() -> None:
    process = Process()
    handle = process.make(retries=-1)
    for _ in range(10):
        (again,) = process.lose(handle) or []
        assert again.retries_left == -1
        process.run(again)


def test_what_the_second_execution_raises_is_its_value() -> None:
    process = Process()
    handle = process.make()
    (again,) = process.lose(handle) or []
    process.run(again, Failure("TaskError", "boom"))
    assert process.value(handle) == Failure("TaskError", "boom")
    assert process.origins() == 0, "it lies in no store any more"


def test_a_promoted_one_is_resolved_anew() -> None:
    process = Process()
    handle = process.make()
    process.records.promote(process.record(handle))
    (again,) = process.lose(handle) or []
    process.records.take_effects()
    process.run(again)
    (effect,) = process.records.take_effects()
    assert effect == Send(PEER, Resolve([Promoted(handle.binary(), process.value(handle))]))


def test_one_that_is_held_elsewhere_is_made_for_others() -> None:
    process = Process()
    handle = process.make()
    process.records.promote(process.record(handle))
    object_id, lost = handle.binary(), process.value(handle)
    del handle
    assert process.origins() == 1, "in scope elsewhere"
    process.records.take_effects()
    record = Record(object_id, True, 0, value=lost, promoted=True, exposed=True)
    (again,) = process.core.lose(record) or []
    process.run(again)
    assert [effect.message.records[0].object_id for effect in process.records.take_effects()] == [object_id]
    process.core.forget(object_id)
    assert process.origins() == 0


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_small_arguments_stand_in_the_origin() -> None:
    process = Process()
    argument = process.put(b"seven")
    handle = process.make(argument)
    argument_id = argument.binary()
    del argument
    process.check()
    assert argument_id not in process.records.table, "it keeps nothing alive"
    (again,) = process.lose(handle) or []
    process.run(again)
    assert list(again.deps) == [b"seven"]
    del again
    process.ran.clear()
    process.check()
    assert list(process.records.table) == [handle.binary()]


def test_an_argument_that_is_in_scope_is_taken_as_it_is() -> None:
    process = Process()
    argument = process.make()
    handle = process.make(argument)
    (again,) = process.lose(handle) or []
    assert [ref.binary() for ref in again.dep_refs or ()] == [argument.binary()]
    assert process.record(argument).count == 2


@pytest.mark.fault(64)
def test_a_chain_of_a_hundred_freed_arguments_is_made_again_from_its_beginning() -> None:
    process = Process()
    handle = process.make()
    for _ in range(99):
        handle = process.make(handle)
    process.check()
    assert list(process.records.table) == [handle.binary()], "what is in between is freed"
    assert process.origins() == 100
    process.ran.clear()
    tasks = process.lose(handle) or []
    assert len(tasks) == 100
    for task in tasks:
        process.run(task)
    assert isinstance(process.value(handle), Place)
    del tasks, task
    process.ran.clear()
    process.check()
    assert list(process.records.table) == [handle.binary()]
    del handle
    assert process.origins() == 0


def test_a_chain_of_any_length_ends_without_recursion() -> None:
    process = Process(checks=False)
    handle = process.make()
    for _ in range(1500):
        handle = process.make(handle)
        process.ran.clear()
    assert process.origins() == 1501
    del handle
    assert process.origins() == 0


def test_one_copy_of_a_freed_argument_serves_all_that_need_it() -> None:
    process = Process()
    argument = process.make()
    users = [process.make(argument) for _ in range(10)]
    del argument
    process.check()
    tasks = [task for user in users for task in process.lose(user) or []]
    assert len(tasks) == 11
    for task in tasks:
        process.run(task)
    assert len({task.deps[0] for task in tasks[1:]}) == 1


def test_a_value_that_was_put_and_freed_cannot_be_made_again() -> None:
    process = Process()
    argument = process.put(process.place(SELF + bytes(12)))
    handle = process.make(argument)
    argument_id = argument.binary()
    del argument
    process.check()
    assert process.lose(handle) == []
    assert process.value(handle).kind == "ObjectReconstructionFailedError"
    assert f"object {argument_id.hex()}, an argument of f, was freed" in process.value(handle).message


def test_what_arguments_refer_to_must_be_there() -> None:
    process = Process()
    inner = process.make()
    handle, other = process.make(inside=[inner]), process.make(inside=[inner])
    (again,) = process.lose(handle) or []
    assert [ref.binary() for ref in again.refs or ()] == [inner.binary()]
    process.run(again)
    again.refs = None
    del inner, again
    process.check()
    assert process.lose(other) == []
    assert "to which the arguments of f refer, was freed" in process.value(other).message


def test_large_arguments_are_not_kept() -> None:
    process = Process()
    handle = process.make(args=process.place(SELF + bytes(12)))
    assert process.lose(handle) == []
    assert "its arguments were large" in process.value(handle).message


def test_when_what_it_needs_may_not_run_again_nothing_does() -> None:
    process = Process()
    argument = process.make(retries=1)
    handle = process.make(argument)
    (again,) = process.lose(argument) or []
    process.run(again)
    del argument, again
    process.ran.clear()
    process.check()
    assert process.lose(handle) == []
    assert "it needs a result of f that was freed: no retries are left" in process.value(handle).message


# -- what is kept, and for how long ------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [{"retries": 0}, {"cls": ActorLink(SELF + bytes(8))}], ids=["no retries", "an actor"])
def test_of_what_may_not_run_again_nothing_is_kept(told: dict[str, Any]) -> None:
    process = Process()
    handle = process.make(**told)
    before = process.value(handle)
    assert process.origins() == 0
    assert process.lose(handle) is None
    assert process.value(handle) == before, "as it was"


def test_where_there_are_no_other_hosts_nothing_is_kept() -> None:
    process = Process()
    process.core.off = True
    handle = process.make()
    assert process.origins() == 0
    assert process.lose(handle) is None


def test_of_small_results_nothing_is_kept() -> None:
    process = Process()
    small, large = process.submit(returns=2)
    process.run(process.task_of(small), b"small", process.place(large.binary()))
    assert process.origins() == 1
    assert process.lose(small) is None
    del large
    assert process.origins() == 0
    (only,) = process.submit()
    process.run(process.task_of(only), b"small")
    assert process.origins() == 0


def test_an_origin_lives_as_long_as_a_return_or_what_was_made_of_it() -> None:
    process = Process()
    first = process.make()
    second = process.make(first)
    third = process.make(second)
    del first, second
    assert process.origins() == 3
    del third
    assert process.origins() == 0


@pytest.mark.fault(64)
def test_the_oldest_are_evicted_and_say_so() -> None:
    process = Process(replace(CONFIG, remake_max_records=3))
    first = process.make()
    second = process.make(first)
    del first
    others = [process.make() for _ in range(3)]
    assert process.core.stats().evicted == 2
    assert process.lose(second) == []
    failure = process.value(second)
    assert failure.kind == "ObjectReconstructionFailedError"
    assert "to make room for newer tasks" in failure.message
    assert all(process.lose(other) for other in others)


def test_the_bytes_of_arguments_are_bounded_too() -> None:
    process = Process(replace(CONFIG, remake_max_bytes=10_000))
    handles = [process.make(process.put(b"x" * 3000)) for _ in range(5)]
    assert process.core.stats().bytes <= 10_000
    kept = [bool(process.lose(handle)) for handle in handles]
    assert kept == sorted(kept)
    assert 0 < sum(kept) < 5


def test_the_bytes_of_functions_are_bounded_too_and_each_counts_once() -> None:
    process = Process(replace(CONFIG, remake_max_bytes=10_000))
    blob = Blob(b"g" * 16, "g", bytes(4000))
    alike = [process.make(blob=blob) for _ in range(8)]
    assert process.core.stats().evicted == 0
    assert process.core.stats().bytes < 10_000
    others = [process.make(blob=Blob(bytes([number]) * 16, "h", bytes(3000))) for number in range(5)]
    assert process.core.stats().bytes <= 10_000
    process.core.check()
    assert not any(map(process.lose, alike))
    kept = [bool(process.lose(handle)) for handle in others]
    assert kept == sorted(kept)
    assert 0 < sum(kept) < 5


def test_a_variant_for_a_place_that_is_lost_is_not_asked_for_again() -> None:
    process = Process()
    variant = SchedulingClass(2, CLS.request, CLS.profile, 1)
    variant.base = CLS
    (again,) = process.lose(process.make(cls=variant)) or []
    assert again.cls is CLS


def test_what_was_cancelled_is_not_made_again() -> None:
    """It came too late for the task, which has a value; nobody wants another execution of it."""
    process = Process()
    (handle,) = process.submit()
    process.task_of(handle).cancelled = True
    process.run(process.task_of(handle))
    assert process.core.stats().origins == 0
    assert process.core.lose(process.record(handle)) is None
