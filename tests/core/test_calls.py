"""Calls of actors, as their caller sees them: order, restarts, retries, cancelling."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshray.core.calls import PUSH_MAX_BYTES, WINDOW_CALLS, ActorLink, Calls, Done
from meshray.core.pending import DONE, IN_FLIGHT, Mean, Pending
from meshray.wire.messages import ActorState, Failure, Push, Result, Task, WatchActor

PEER = b"P" * 16
ACTOR = b"A" * 24
WORKERS = [bytes([number]) * 16 for number in range(1, 100)]
GONE = Failure("ActorDiedError", "it is dead")


class Caller:
    """A process that calls one actor."""

    def __init__(self) -> None:
        self.core = Calls(PEER)
        self.link: ActorLink = self.core.link(ACTOR)
        self.made: list[Pending] = []
        self.sent: list[tuple[bytes, Any]] = []
        self.done: dict[bytes, Result] = {}

    def call(self, *, ready: bool = True, retries: int = 0, retry_exceptions: bool = False) -> Pending:
        task_id = b"C" * 16 + (len(self.made) + 1).to_bytes(8, "big")
        call = Pending(task_id, b"method", b"", [], Mean())
        call.name, call.cls = f"call {len(self.made)}", self.link
        call.retries_left, call.retry_exceptions = retries, retry_exceptions
        self.made.append(call)
        self.note(self.core.on_call(self.link, call, ready))
        return call

    def note(self, done: Done) -> None:
        for call, result in done:
            assert call.state == DONE
            assert call.task_id not in self.done, f"told twice: {call!r}"
            self.done[call.task_id] = result

    def state(self, incarnation: int, worker: bytes = b"", failure: Failure | None = None, **journal: Any) -> None:
        self.note(self.core.on_state(ActorState(ACTOR, incarnation, worker, failure, **journal)))

    def results(self, worker: bytes, *results: Result) -> None:
        self.note(self.core.on_results(worker, list(results)))

    def pushes(self) -> list[tuple[bytes, Push]]:
        self.core.fill()
        sent = [(effect.to, effect.message) for effect in self.core.take_effects()]
        self.sent += sent
        return [(to, message) for to, message in sent if isinstance(message, Push)]

    def pushed(self) -> list[Task]:
        return [task for _, push in self.pushes() for task in push.tasks]


@pytest.fixture
def caller() -> Caller:
    return Caller()


@pytest.fixture
def alive(caller: Caller) -> Caller:
    caller.state(1, WORKERS[0])
    return caller


def ok(task: Task) -> Result:
    return Result(task.seq, [b"value"])


def test_the_peer_is_asked_once(caller: Caller) -> None:
    assert caller.core.link(ACTOR) is caller.link
    assert [effect.message for effect in caller.core.take_effects()] == [WatchActor(ACTOR)]


def test_calls_wait_for_the_actor_and_go_in_one_push(caller: Caller) -> None:
    calls = [caller.call() for _ in range(3)]
    assert caller.pushes() == []
    caller.state(1, WORKERS[0])
    ((to, push),) = caller.pushes()
    assert to == WORKERS[0]
    assert push.lease == 0
    assert [task.task_id for task in push.tasks] == [call.task_id for call in calls]
    assert [task.seq for task in push.tasks] == [1, 2, 3]


def test_one_that_is_not_ready_holds_the_later_ones(alive: Caller) -> None:
    first, waiting, last = alive.call(), alive.call(ready=False), alive.call()
    assert [task.task_id for task in alive.pushed()] == [first.task_id]
    alive.core.on_ready(alive.link, waiting)
    assert [task.task_id for task in alive.pushed()] == [waiting.task_id, last.task_id]


@pytest.mark.parametrize("how", ["drop", "cancel"])
def test_one_that_will_never_be_ready_holds_nobody(alive: Caller, how: str) -> None:
    never, last = alive.call(ready=False), alive.call()
    assert alive.pushed() == []
    assert not getattr(alive.core, how)(never)
    assert [task.task_id for task in alive.pushed()] == [last.task_id]
    assert never.state == DONE


def test_results_and_what_is_acknowledged(alive: Caller) -> None:
    alive.call(), alive.call(), alive.call()
    one, two, three = alive.pushed()
    alive.results(WORKERS[0], ok(two))
    assert alive.link.acknowledged == 0
    alive.results(WORKERS[0], ok(one), ok(one))
    assert alive.link.acknowledged == 2
    alive.results(WORKERS[0], ok(three))
    assert alive.link.acknowledged == 3
    assert len(alive.done) == 3
    assert alive.core.stale == 1


def test_results_of_a_stranger_are_stale(alive: Caller) -> None:
    alive.call()
    (task,) = alive.pushed()
    alive.results(WORKERS[5], ok(task))
    assert alive.core.stale == 1
    assert not alive.done


def test_the_window(alive: Caller) -> None:
    for _ in range(WINDOW_CALLS + 10):
        alive.call()
    tasks = alive.pushed()
    assert len(tasks) == WINDOW_CALLS
    alive.results(WORKERS[0], *(ok(task) for task in tasks[:5]))
    assert len(alive.pushed()) == 5


class TestDeath:
    def test_everything_fails_with_the_reason_and_later_calls_too(self, alive: Caller) -> None:
        alive.call()
        alive.pushed()
        waiting = alive.call(ready=False)
        alive.state(1, failure=GONE)
        later = alive.call()
        assert [result.values for result in alive.done.values()] == [[GONE]] * 3
        assert waiting.state == later.state == DONE
        assert not alive.core.outstanding(ACTOR)
        alive.state(2, WORKERS[1])
        assert alive.link.state == "dead"

    def test_what_the_journal_says_was_finished_counts(self, alive: Caller) -> None:
        alive.call(), alive.call()
        one, two = alive.pushed()
        alive.state(1, failure=GONE, finished=[ok(one)], started=[two.seq])
        assert alive.done[one.task_id].values == [b"value"]
        assert alive.done[two.task_id].values == [GONE]

    def test_what_was_at_the_worker_counts_as_begun_since_it_may_have_sealed_a_segment(self, alive: Caller) -> None:
        pushed = alive.call()
        alive.pushed()
        waiting = alive.call(ready=False)
        alive.state(1, failure=GONE)
        assert (pushed.attempt, waiting.attempt) == (1, 0)


class TestRestart:
    def test_the_one_that_had_begun_fails_and_the_others_go_again_in_order(self, alive: Caller) -> None:
        begun, *others = [alive.call() for _ in range(4)]
        tasks = alive.pushed()
        later = alive.call(ready=False)
        alive.state(2, started=[tasks[0].seq])
        assert alive.done[begun.task_id].values[0].kind == "ActorUnavailableError"  # type: ignore[union-attr]
        assert alive.pushed() == []
        alive.state(2, WORKERS[1])
        again = alive.pushed()
        assert [task.task_id for task in again] == [call.task_id for call in others]
        assert [task.seq for task in again] == [1, 2, 3]
        assert [task.attempt for task in again] == [1, 1, 1]
        assert begun.attempt == 1  # it may have sealed a segment
        alive.core.on_ready(alive.link, later)
        assert [task.seq for task in alive.pushed()] == [4]

    def test_retries_are_charged_to_what_had_begun_only(self, alive: Caller) -> None:
        begun, queued = alive.call(retries=1), alive.call(retries=1)
        one, two = alive.pushed()
        alive.state(2, started=[one.seq])
        assert (begun.retries_left, queued.retries_left) == (0, 1)
        assert not alive.done
        alive.state(2, WORKERS[1])
        one, two = alive.pushed()
        alive.state(3, started=[one.seq, two.seq])
        assert list(alive.done) == [begun.task_id]
        assert queued.retries_left == 0

    def test_a_cancelled_one_is_not_tried_again(self, alive: Caller) -> None:
        call = alive.call(retries=-1)
        alive.pushed()
        assert alive.core.cancel(call)
        alive.state(2)
        assert alive.done[call.task_id].values[0].kind == "TaskCancelledError"  # type: ignore[union-attr]

    def test_what_speaks_of_an_older_incarnation_is_stale(self, alive: Caller) -> None:
        alive.state(2, WORKERS[1])
        alive.state(1, WORKERS[0])
        assert alive.link.worker == WORKERS[1]

    def test_a_new_owner_may_count_from_an_older_one_on(self, alive: Caller) -> None:
        """Two had taken it over, and this caller has seen one give way to the other."""
        alive.state(3, WORKERS[1])
        call = alive.call()
        alive.pushed()
        alive.state(2, WORKERS[2], all_started=True)
        assert alive.done[call.task_id].values[0].kind == "ActorUnavailableError"  # type: ignore[union-attr]
        assert alive.link.worker == WORKERS[2]

    def test_its_death_is_told_by_one_that_has_never_known_it(self, alive: Caller) -> None:
        call = alive.call()
        alive.state(0, failure=GONE)
        assert alive.done[call.task_id].values == [GONE]

    def test_results_of_the_incarnation_before_are_stale(self, alive: Caller) -> None:
        alive.call()
        (task,) = alive.pushed()
        alive.state(2, WORKERS[1])
        alive.results(WORKERS[0], ok(task))
        assert not alive.done
        assert alive.core.stale == 1


class TestKill:
    def test_no_call_reaches_a_worker_that_is_about_to_die(self, alive: Caller) -> None:
        alive.core.on_kill(ACTOR, no_restart=True)
        call = alive.call()
        alive.state(1, WORKERS[0])
        assert alive.pushed() == []
        alive.state(1, failure=GONE)
        assert alive.done[call.task_id].values == [GONE]

    def test_nor_one_of_which_we_hear_too_late(self, caller: Caller) -> None:
        caller.core.on_kill(ACTOR, no_restart=True)
        caller.call()
        caller.state(1, WORKERS[0])
        assert caller.pushed() == []

    def test_with_a_restart_it_waits_for_the_next(self, alive: Caller) -> None:
        alive.core.on_kill(ACTOR, no_restart=False)
        call = alive.call()
        assert alive.pushed() == []
        alive.state(2)
        alive.state(2, WORKERS[1])
        assert [task.task_id for task in alive.pushed()] == [call.task_id]

    def test_an_unknown_one(self, caller: Caller) -> None:
        caller.core.on_kill(b"B" * 24, no_restart=True)


class TestExceptions:
    FAILED = Failure("TaskError", "ValueError", details={"ancestors": "builtins.ValueError\nbuiltins.Exception"})

    def test_they_are_retried_in_the_old_order(self, alive: Caller) -> None:
        calls = [alive.call(retries=1, retry_exceptions=True) for _ in range(3)]
        tasks = alive.pushed()
        alive.results(WORKERS[0], *(Result(task.seq, [self.FAILED]) for task in tasks))
        assert not alive.done
        again = alive.pushed()
        assert [task.task_id for task in again] == [call.task_id for call in calls]
        alive.results(WORKERS[0], *(Result(task.seq, [self.FAILED]) for task in again))
        assert len(alive.done) == 3

    def test_not_when_cancelled(self, alive: Caller) -> None:
        call = alive.call(retries=-1, retry_exceptions=True)
        (task,) = alive.pushed()
        alive.core.cancel(call)
        alive.results(WORKERS[0], Result(task.seq, [self.FAILED]))
        assert list(alive.done) == [call.task_id]


def test_calls_that_a_worker_dropped_were_cancelled(alive: Caller) -> None:
    call = alive.call()
    (task,) = alive.pushed()
    alive.note(alive.core.on_given_back(WORKERS[0], [task.seq, 77]))
    assert alive.done[call.task_id].values[0].kind == "TaskCancelledError"  # type: ignore[union-attr]


def test_forgetting(alive: Caller) -> None:
    alive.call()
    assert alive.core.outstanding(ACTOR)
    (task,) = alive.pushed()
    alive.results(WORKERS[0], ok(task))
    assert not alive.core.outstanding(ACTOR)
    alive.core.forget(ACTOR)
    assert alive.core.known(ACTOR) is None
    assert alive.pushes() == [(WORKERS[0], Push(0, 1, []))]


def test_numbers_are_not_used_twice_for_one_incarnation(alive: Caller) -> None:
    """Its journal still knows the calls from before: they would be taken for the new ones when it dies."""
    alive.call(), alive.call()
    old = alive.pushed()
    alive.results(WORKERS[0], *map(ok, old))
    alive.core.forget(ACTOR)
    alive.link = alive.core.link(ACTOR)
    alive.state(1, WORKERS[0])
    call = alive.call()
    (new,) = alive.pushed()
    assert new.seq == 3
    assert alive.link.acknowledged == 2
    alive.state(2, finished=[ok(task) for task in old])
    assert call.task_id not in alive.done


def test_numbers_are_forgotten_with_the_process(alive: Caller) -> None:
    alive.call()
    alive.results(WORKERS[0], *map(ok, alive.pushed()))
    alive.core.forget(ACTOR)
    alive.core.on_process_died(WORKERS[0])
    assert not alive.core._numbers


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.booleans(), st.sampled_from([0, 1, -1])),
        st.tuples(st.just("ready"), st.integers(0, 40)),
        st.tuples(st.just("drop"), st.integers(0, 40)),
        st.tuples(st.just("cancel"), st.integers(0, 40)),
        st.tuples(st.just("run"), st.integers(1, 5)),
        st.tuples(st.just("crash"), st.integers(0, 3)),
        st.tuples(st.just("start")),
    ),
    max_size=60,
)


@given(STEPS)
def test_the_order_of_remote_is_kept_whatever_happens(steps: list[tuple[Any, ...]]) -> None:
    """Property: first executions are in the order of `.remote()`; every call ends exactly once; none
    begins more often than allowed."""
    caller = Caller()
    incarnation, worker = 1, WORKERS[0]
    caller.state(incarnation, worker)
    inbox: list[Task] = []  # of the worker
    begun: list[bytes] = []
    asked: dict[bytes, int] = {}  # how often a call may be tried again

    def pick(number: int) -> Pending | None:
        waiting = [call for call in caller.made if call.state == "waiting"]
        return waiting[number % len(waiting)] if waiting else None

    def fill() -> None:
        for to, push in caller.pushes():
            assert to == worker
            assert [task.seq for task in push.tasks] == sorted(task.seq for task in push.tasks)
            inbox.extend(push.tasks)

    def run(count: int) -> None:
        for task in inbox[:count]:
            begun.append(task.task_id)
            caller.results(worker, ok(task))
        del inbox[:count]

    def crash(running: int) -> None:
        nonlocal incarnation, worker
        started = inbox[:running]
        begun.extend(task.task_id for task in started)
        inbox.clear()
        incarnation += 1
        caller.state(incarnation, started=[task.seq for task in started])
        worker = b""

    def start() -> None:
        nonlocal worker
        if not worker:
            worker = WORKERS[incarnation]
            caller.state(incarnation, worker)

    for step in [*steps, ("start",)]:
        match step:
            case ("call", ready, retries):
                asked[caller.call(ready=ready, retries=retries).task_id] = retries
            case ("ready", number):
                if (call := pick(number)) is not None:
                    caller.core.on_ready(caller.link, call)
            case ("drop", number):
                if (call := pick(number)) is not None:
                    caller.core.drop(call)
                    caller.done[call.task_id] = Result(0, [])
            case ("cancel", number):
                if number < len(caller.made) and caller.made[number].state not in (DONE, IN_FLIGHT):
                    assert not caller.core.cancel(caller.made[number])
                    caller.done[caller.made[number].task_id] = Result(0, [])
            case ("run", count):
                run(count)
            case ("crash", running):
                if worker:
                    crash(running)
            case ("start",):
                start()
        fill()
    for call in caller.made:
        caller.core.on_ready(caller.link, call)
    fill()
    run(len(inbox))
    assert caller.done.keys() == {call.task_id for call in caller.made}
    assert not caller.core.outstanding(ACTOR)
    firsts = list(dict.fromkeys(begun))
    assert firsts == sorted(firsts)
    for call in caller.made:
        allowed = asked[call.task_id]
        assert allowed < 0 or begun.count(call.task_id) <= 1 + allowed


def test_calls_that_gathered_while_the_actor_started_travel_in_messages_that_can_arrive(caller: Caller) -> None:
    for _ in range(900):
        caller.call().args = bytes(90_000)
    caller.state(1, WORKERS[0])
    pushes = [push for _, push in caller.pushes()]
    assert [task.seq for push in pushes for task in push.tasks] == list(range(1, 901))
    assert max(sum(len(task.args) for task in push.tasks) for push in pushes) < 2 * PUSH_MAX_BYTES


def test_values_of_references_count_for_what_one_push_carries(caller: Caller) -> None:
    for _ in range(100):
        caller.call().deps = [bytes(90_000)] * 2
    caller.state(1, WORKERS[0])
    assert len(caller.pushes()) > 10


def test_calls_given_back_make_room_for_those_that_wait(alive: Caller) -> None:
    for _ in range(WINDOW_CALLS + 3):
        alive.call()
    tasks = alive.pushed()
    assert len(tasks) == WINDOW_CALLS
    for call in alive.made[:WINDOW_CALLS]:
        alive.core.cancel(call)
    alive.note(alive.core.on_given_back(WORKERS[0], [task.seq for task in tasks]))
    assert len(alive.pushed()) == 3


def test_all_calls_count_as_begun_when_the_journal_could_not_name_them(alive: Caller) -> None:
    once, twice = alive.call(), alive.call(retries=1)
    alive.pushed()
    alive.state(2, all_started=True)
    assert once.task_id in alive.done
    assert (twice.state, twice.retries_left) == ("ready", 0)


def test_what_a_failed_call_left_behind_is_told_to_the_shell(alive: Caller) -> None:
    call = alive.call(retries=1, retry_exceptions=True)
    (task,) = alive.pushed()
    alive.results(WORKERS[0], Result(task.seq, [Failure("TaskError", "boom")], kept=True))
    assert call.state == "ready"
    assert alive.core.kept_by_failed == [(WORKERS[0], call)]


HOST = WORKERS[0][:8]


def test_a_host_that_is_out_of_reach_fails_what_is_in_flight_and_the_owner_is_asked(alive: Caller) -> None:
    lost, retried = alive.call(), alive.call(retries=1)
    assert len(alive.pushed()) == 2
    alive.note(alive.core.on_node_gone(WORKERS[1][:8], "host b is dead: no answer"))
    assert not alive.done
    assert alive.core.knows_at(HOST)
    alive.note(alive.core.on_node_gone(HOST, "host b is dead: no answer"))
    later = alive.call()
    assert alive.pushed() == []
    assert alive.sent[-1] == (PEER, WatchActor(ACTOR))
    (failure,) = alive.done[lost.task_id].values
    assert isinstance(failure, Failure)
    assert failure.kind == "ActorUnavailableError"
    assert failure.message.endswith("it could not be reached any more: host b is dead: no answer")
    alive.state(1, WORKERS[0])  # it lives, says its owner
    tasks = alive.pushed()
    assert [(task.task_id, task.seq) for task in tasks] == [(retried.task_id, 3), (later.task_id, 4)]
    alive.results(WORKERS[0], *map(ok, tasks))
    assert alive.done[later.task_id].values == [b"value"]


def test_a_host_that_is_out_of_reach_may_be_dead(alive: Caller) -> None:
    retried = alive.call(retries=1)
    alive.pushed()
    alive.note(alive.core.on_node_gone(HOST, "host b is dead: no answer"))
    alive.state(2, all_started=True)
    assert alive.pushed() == []
    alive.state(2, WORKERS[1])
    assert [(task.task_id, task.seq) for task in alive.pushed()] == [(retried.task_id, 1)]
    assert alive.core.on_results(WORKERS[0], [Result(1, [b"late"])]) == []
    assert alive.core.stale == 1


def test_a_kill_counts_more_than_being_in_reach_again(alive: Caller) -> None:
    alive.note(alive.core.on_node_gone(HOST, "host b is dead: no answer"))
    alive.core.on_kill(ACTOR, False)
    alive.call()
    alive.state(1, WORKERS[0])
    assert alive.pushed() == []
