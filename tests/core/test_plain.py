"""Runs of plain attempts and results: column by column they say the same as struct by struct."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshray.config import DEFAULT
from meshray.core.calls import Calls
from meshray.core.pending import DONE, IN_FLIGHT, Mean, Pending, wire_task
from meshray.core.plain import RUN_MIN, plain_push, results_message, results_of, tasks_of
from meshray.core.submission import Submission
from meshray.wire.codec import ProtocolError, decode, encode
from meshray.wire.messages import (
    ActorState,
    Blob,
    Failure,
    LeaseGranted,
    Place,
    PlainPush,
    PlainResults,
    Profile,
    Push,
    Result,
    Results,
)

PEER, WORKER, OTHER = b"P" * 16, b"W" * 16, b"O" * 16
ACTOR = b"A" * 24
BLOBS = [Blob(letter.encode() * 16, letter, b"pickled") for letter in "fg"]
PLACE = Place(b"o" * 28, b"n" * 8, "segment", 200_000)
FAILURE = Failure("TaskError", "no")


def pending(number: int, blob: Blob = BLOBS[0], args: bytes = b"", **fields: Any) -> Pending:
    task = Pending(number.to_bytes(24, "big"), blob.hash, args, [], Mean(), blob=blob, plain=True)
    for name, value in fields.items():
        setattr(task, name, value)
    return task


class Submitter:
    """A submission core with one lease, and what it has pushed."""

    def __init__(self) -> None:
        self.core = Submission(PEER, DEFAULT)
        self.cls = self.core.new_class({"CPU": 10_000}, Profile(), 0)

    def push(self, tasks: list[Pending]) -> Push | PlainPush:
        """The one message in which these leave: a known mean lets them all go at once."""
        for task in tasks:
            task.cls = self.cls
            task.mean.ns = 1000.0
            self.core.on_ready(task)
        self.core.on_granted(LeaseGranted(1, self.cls.id, WORKER), 0.0)
        self.core.fill(0.0)
        (message,) = [e.message for e in self.core.take_effects() if isinstance(e.message, Push | PlainPush)]
        return message


@given(st.lists(st.sampled_from([b"", b"one", b"another"]), min_size=1, max_size=20), st.integers(1, 2**40))
def test_a_run_says_what_its_tasks_say(args: list[bytes], seq: int) -> None:
    run = [pending(number, args=each) for number, each in enumerate(args)]
    push = decode(encode(plain_push(7, 3, seq, run, [BLOBS[0]], [BLOBS[1].hash])))
    assert isinstance(push, PlainPush)
    tasks = [wire_task(task, number, 0) for number, task in enumerate(run, seq)]
    assert tasks_of(push) == tasks
    assert (push.lease, push.acknowledged, push.blobs, push.forget) == (7, 3, [BLOBS[0]], [BLOBS[1].hash])


@given(
    st.lists(st.builds(lambda value, kept: ([value], kept), st.binary(max_size=9), st.just(False)), max_size=12),
    st.lists(
        st.sampled_from([([b"1", b"2"], False), ([], False), ([PLACE], False), ([FAILURE], False), ([b"1"], True)]),
        max_size=1,
    ),
)
def test_results_come_back_as_they_were_in_either_form(plain: list[Any], other: list[Any]) -> None:
    results = [Result(seq, values, [], kept) for seq, (values, kept) in enumerate([*plain, *other], 5)]
    message = results_message(7, results, 1000)
    assert isinstance(message, PlainResults) == (len(results) >= RUN_MIN and not other)
    assert (results_of(message) if isinstance(message, PlainResults) else message.results) == results
    assert decode(encode(message)) == message


def test_results_with_a_gap_or_with_references_inside_are_no_run() -> None:
    run = [Result(seq, [b"v"]) for seq in range(1, 9)]
    assert type(results_message(1, run, 0)) is PlainResults
    assert type(results_message(1, run[:3] + run[4:], 0)) is Results
    run[5] = Result(6, [b"v"], [[b"i" * 28]])
    assert type(results_message(1, run, 0)) is Results


@pytest.mark.fault(47)
@pytest.mark.parametrize(("ids", "args"), [(bytes(23), []), (bytes(48), [b"one"]), (b"", [b"one"])])
def test_columns_of_different_lengths_are_refused(ids: bytes, args: list[bytes]) -> None:
    good = PlainPush(1, 0, 1, BLOBS[0].hash, bytes(24), [b"one"])
    data = encode(good).replace(encode(good.task_ids), encode(ids)).replace(encode(good.args), encode(args))
    assert data != encode(good)
    with pytest.raises(ProtocolError):
        decode(data)


# -- who makes them ----------------------------------------------------------------------------------------------------


def test_many_alike_tasks_leave_as_a_run() -> None:
    tasks = [pending(number, args=b"x") for number in range(10)]
    push = Submitter().push(tasks)
    assert isinstance(push, PlainPush)
    assert [task.task_id for task in tasks_of(push)] == [task.task_id for task in tasks]
    assert push.blobs == [BLOBS[0]]
    assert all(task.state == IN_FLIGHT and task.seq == push.seq + i for i, task in enumerate(tasks))


@pytest.mark.parametrize(
    "odd",
    [{"plain": False}, {"attempt": 1}, {"nested": True}, {"dep_refs": [], "deps": [b"1"]}, {"blob": 1}],
    ids=lambda odd: next(iter(odd)),
)
@pytest.mark.parametrize("where", [0, 4, 9])
def test_one_that_has_more_to_say_makes_them_leave_as_structs(odd: dict[str, Any], where: int) -> None:
    tasks = [pending(number) for number in range(10)]
    if "blob" in odd:
        tasks[where] = pending(where, BLOBS[1])
    else:
        tasks[where] = pending(where, **odd)
    push = Submitter().push(tasks)
    assert isinstance(push, Push)
    assert push.tasks == [wire_task(task, task.seq, 0) for task in tasks]
    assert {blob.hash for blob in push.blobs} == {task.function for task in tasks}


def test_a_single_task_leaves_as_a_struct() -> None:
    assert isinstance(Submitter().push([pending(1)]), Push)


# -- who gets them -----------------------------------------------------------------------------------------------------


def test_a_run_of_values_finishes_its_tasks_once() -> None:
    submitter = Submitter()
    tasks = [pending(number) for number in range(10)]
    first = submitter.push(tasks).seq  # type: ignore[union-attr]
    core = submitter.core
    assert core.on_plain_results(OTHER, 1, first, 3, 0, 0.0) == [None] * 3, "not the worker of this lease"
    assert core.on_plain_results(WORKER, 2, first, 3, 0, 0.0) == [None] * 3, "no such lease"
    assert core.on_plain_results(WORKER, 1, first, 4, 4000, 0.0) == tasks[:4]
    assert core.on_plain_results(WORKER, 1, first + 2, 8, 0, 0.0) == [None, None, *tasks[4:]]
    assert core.stale == 8
    assert all(task.state == DONE and task.lease is None for task in tasks)
    assert submitter.cls.idle == 1


def test_a_run_of_values_that_nobody_waits_for_changes_nothing() -> None:
    submitter = Submitter()
    tasks = [pending(number) for number in range(10)]
    first = submitter.push(tasks).seq  # type: ignore[union-attr]
    assert submitter.core.on_plain_results(WORKER, 1, first + 10, 5, 0, 0.0) == [None] * 5
    assert submitter.core.on_plain_results(WORKER, 1, first, 10, 0, 0.0) == tasks
    assert submitter.core.on_plain_results(WORKER, 1, first, 10, 0, 0.0) == [None] * 10
    assert submitter.cls.idle == 1, "the lease became idle once"


def test_calls_of_one_method_leave_as_a_run_and_their_values_finish_them() -> None:
    core = Calls(PEER)
    link = core.link(ACTOR)
    core.on_state(ActorState(ACTOR, 1, WORKER))
    calls = [Pending(number.to_bytes(24, "big"), b"method", b"", [], Mean(), plain=True) for number in range(8)]
    for call in calls:
        core.on_call(link, call, True)
    core.fill()
    (push,) = [e.message for e in core.take_effects() if isinstance(e.message, PlainPush)]
    assert (push.lease, push.seq, push.function) == (0, 1, b"method")
    assert core.on_plain_results(OTHER, 1, 8) == [None] * 8
    assert core.on_plain_results(WORKER, 1, 5) == calls[:5]
    assert core.on_plain_results(WORKER, 4, 5) == [None, None, *calls[5:]]
    assert all(call.state == DONE for call in calls)
    assert link.acknowledged == 8


def test_calls_of_two_methods_leave_as_structs_in_their_order() -> None:
    core = Calls(PEER)
    link = core.link(ACTOR)
    core.on_state(ActorState(ACTOR, 1, WORKER))
    methods = [b"a", b"a", b"b", b"a", b"a"]
    for number, method in enumerate(methods):
        core.on_call(link, Pending(number.to_bytes(24, "big"), method, b"", [], Mean(), plain=True), True)
    core.fill()
    (push,) = [e.message for e in core.take_effects() if isinstance(e.message, Push)]
    assert [task.function for task in push.tasks] == methods
