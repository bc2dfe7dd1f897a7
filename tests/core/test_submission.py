"""Which worker runs which task: binding, depth, retries, cancelling, leases taken and given back."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from meshray.config import DEFAULT
from meshray.core.pending import DONE, IN_FLIGHT, READY, WAITING, Mean, Pending, gone_failure
from meshray.core.scheduling import SchedulingClass
from meshray.core.shipped import FUNCTION_BYTES
from meshray.core.submission import Submission
from meshray.ids import peer_of
from meshray.strategy import Strategy
from meshray.wire.messages import (
    AskAlso,
    Blob,
    Demand,
    Failure,
    KillWorker,
    LeaseGranted,
    LeaseLost,
    LeaseReturned,
    Place,
    Profile,
    Push,
    Result,
    Task,
)

PEER = peer_of(b"the-node")
CRASH = Failure("WorkerCrashedError", "killed by signal 9 (SIGKILL)")
BLOB = Blob(b"f" * 16, "work", b"pickled")
VALUE = b"value"
MS = 1_000_000


def worker(number: int) -> bytes:
    return PEER[:8] + number.to_bytes(8, "big")


class Shell:
    """A submission core, and what it said."""

    def __init__(self, **config: Any) -> None:
        self.core = Submission(PEER, msgspec.structs.replace(DEFAULT, **config))
        self.now = 0.0
        self.mean = Mean()
        self.cls = self.core.new_class({"CPU": 10_000}, Profile(), 0)
        self.sent: list[tuple[bytes, Any]] = []
        self._tasks = 0

    def task(self, **fields: Any) -> Pending:
        """One more task, not ready yet."""
        self._tasks += 1
        task = Pending(self._tasks.to_bytes(24, "big"), BLOB.hash, b"", [], self.mean)
        task.blob, task.name, task.cls = BLOB, "work", self.cls
        for name, value in fields.items():
            setattr(task, name, value)
        return task

    def submit(self, count: int = 1, **fields: Any) -> list[Pending]:
        tasks = [self.task(**fields) for _ in range(count)]
        for task in tasks:
            self.core.on_ready(task)
        self.fill()
        return tasks

    def fill(self) -> list[tuple[bytes, Any]]:
        """Decide; what was said is returned and remembered."""
        self.core.fill(self.now)
        said = [(effect.to, effect.message) for effect in self.core.take_effects()]
        self.sent += said
        return said

    def grant(
        self, lease: int, number: int | None = None, cls: SchedulingClass | None = None
    ) -> list[tuple[bytes, Any]]:
        message = LeaseGranted(lease, (cls or self.cls).id, worker(lease if number is None else number))
        self.core.on_granted(message, self.now)
        return self.fill()

    def demands(self) -> list[int]:
        return [message.count for _, message in self.sent if isinstance(message, Demand)]

    def pushed(self, lease: int) -> list[Task]:
        return [
            task
            for _, message in self.sent
            if isinstance(message, Push) and message.lease == lease
            for task in message.tasks
        ]

    def returned(self) -> list[int]:
        return [lease for _, message in self.sent if isinstance(message, LeaseReturned) for lease in message.leases]

    def results(self, lease: int, results: list[Result], busy_ns: int = 0) -> list[tuple[Pending, Result]]:
        done = self.core.on_results(worker(lease), lease, results, busy_ns, self.now)
        self.fill()
        return done

    def lose(self, lease: int, finished: list[Result], started: list[int]) -> list[tuple[Pending, Result]]:
        done = self.core.on_lost(LeaseLost(lease, worker(lease), finished, started, CRASH), self.now)
        self.fill()
        return done


def check_idle(core: Submission) -> None:
    for cls in core.classes():
        assert cls.idle == sum(not lease.in_flight for lease in cls.leases.values())


# -- demand and binding ------------------------------------------------------------------------------------------------


def test_a_task_is_bound_when_a_lease_comes_and_not_before() -> None:
    shell = Shell()
    (task,) = shell.submit()
    assert shell.demands() == [1]
    assert task.state == READY
    shell.grant(1)
    assert task.state == IN_FLIGHT
    assert [(to, type(message)) for to, message in shell.sent] == [(PEER, Demand), (worker(1), Push)]


def test_the_demand_follows_what_is_ready() -> None:
    shell = Shell()
    tasks = shell.submit(3)
    assert shell.demands() == [3]
    for task in tasks:
        assert not shell.core.cancel(task)
    shell.fill()
    assert shell.demands() == [3, 0], "cancelled tasks want no leases"
    shell.submit(5000)
    assert shell.demands()[-1] == 1024, "bounded"


def test_a_lease_for_a_class_that_is_not_known_goes_back() -> None:
    shell = Shell()
    shell.core.on_granted(LeaseGranted(5, 99, worker(5)), 0.0)
    shell.fill()
    assert shell.returned() == [5]


def test_a_repeated_grant_changes_nothing() -> None:
    shell = Shell()
    shell.submit(2)
    shell.grant(1)
    shell.grant(1)
    check_idle(shell.core)
    assert len(shell.pushed(1)) == 1


def test_functions_are_shipped_once_per_worker() -> None:
    shell = Shell()
    shell.mean.add(1000)
    shell.submit(2)
    shell.grant(1)
    shell.results(1, [Result(1, [VALUE]), Result(2, [VALUE])])
    shell.submit(1)
    pushes = [message for _, message in shell.sent if isinstance(message, Push)]
    assert [len(push.blobs) for push in pushes] == [1, 0]
    assert pushes[1].acknowledged == 2
    assert pushes[1].tasks[0].seq == 3


# -- functions ---------------------------------------------------------------------------------------------------------


def closure(number: int, size: int = 0, mean: Mean | None = None) -> dict[str, Any]:
    """Fields of a task of a function of its own, which has not run before."""
    blob = Blob(bytes([number]) * 16, f"closure{number}", bytes(size))
    return {"function": blob.hash, "blob": blob, "mean": mean or Mean()}


def shipped(shell: Shell) -> list[tuple[list[int], list[int]]]:
    """The functions that each push has brought, and those that it has said to forget."""
    pushes = [message for _, message in shell.sent if isinstance(message, Push)]
    return [([blob.hash[0] for blob in push.blobs], [function[0] for function in push.forget]) for push in pushes]


def test_functions_beyond_the_bound_are_forgotten_and_shipped_again() -> None:
    shell = Shell(functions_max_bytes=2 * FUNCTION_BYTES)
    shell.grant(1)
    for seq, number in enumerate((1, 2, 1, 3, 1, 2), 1):
        shell.submit(1, **closure(number))
        shell.results(1, [Result(seq, [VALUE])])
    assert shipped(shell) == [([1], []), ([2], []), ([], []), ([3], [2]), ([], []), ([2], [3])]


def test_functions_in_flight_are_not_forgotten_and_bound_what_is_pushed_ahead() -> None:
    shell = Shell(functions_max_bytes=3 * FUNCTION_BYTES)
    shell.mean.add(1000)
    for number in (1, 2, 1, 3, 4, 1):
        shell.submit(1, **closure(number, mean=shell.mean))
    shell.grant(1)
    assert shipped(shell) == [([1, 2, 3], [])], "with the fourth there would be too many"
    assert len(shell.pushed(1)) == 4
    shell.results(1, [Result(1, [VALUE])])
    assert len(shipped(shell)) == 1, "its function is in flight once more"
    shell.results(1, [Result(2, [VALUE])])
    assert len(shipped(shell)) == 1, "what a push has brought stays until all of it is done"
    shell.results(1, [Result(3, [VALUE]), Result(4, [VALUE])])
    assert shipped(shell)[1:] == [([4], [2])]


def test_a_task_that_is_given_back_has_its_function_where_it_was() -> None:
    shell = Shell(functions_max_bytes=2 * FUNCTION_BYTES)
    shell.mean.add(1000)
    shell.submit(1, **closure(1, mean=shell.mean))
    shell.submit(1, **closure(2, mean=shell.mean))
    shell.grant(1)
    assert not shell.core.on_given_back(worker(1), 1, [2], 0.0)
    shell.results(1, [Result(1, [VALUE])])
    assert shipped(shell) == [([1, 2], []), ([], [])]
    assert shell.pushed(1)[-1].function == bytes([2]) * 16


def test_a_function_larger_than_the_bound_runs() -> None:
    shell = Shell(functions_max_bytes=FUNCTION_BYTES)
    shell.mean.add(1000)
    for number in (1, 2, 3):
        shell.submit(1, **closure(number, size=9000, mean=shell.mean))
    shell.grant(1)
    for seq in (1, 2, 3):
        shell.results(1, [Result(seq, [VALUE])])
    assert shipped(shell) == [([1], []), ([2], [1]), ([3], [2])]


def test_what_each_worker_has_is_its_own() -> None:
    shell = Shell(functions_max_bytes=FUNCTION_BYTES)
    for lease in (1, 2):
        shell.submit(1, **closure(1))
        shell.grant(lease)
    shell.results(1, [Result(1, [VALUE])])
    shell.submit(1, **closure(2))
    shell.results(1, [Result(2, [VALUE])])
    shell.results(2, [Result(1, [VALUE])])
    assert shipped(shell) == [([1], []), ([1], []), ([2], [1])]


# -- depth -------------------------------------------------------------------------------------------------------------


def test_an_unknown_function_goes_one_at_a_time_and_a_short_one_in_batches() -> None:
    shell = Shell()
    shell.submit(100)
    shell.grant(1)
    assert len(shell.pushed(1)) == 1
    shell.results(1, [Result(1, [VALUE])], busy_ns=MS // 10)
    expected = int(DEFAULT.in_flight_work_s * 1e9 / (MS // 10))
    assert len(shell.pushed(1)) - 1 in (expected, expected - 1)


def test_a_long_one_is_not_pushed_ahead() -> None:
    shell = Shell()
    shell.mean.add(50 * MS)
    shell.submit(10)
    shell.grant(1)
    assert len(shell.pushed(1)) == 1


def test_two_leases_share_what_there_is() -> None:
    shell = Shell()
    shell.mean.add(0.25 * MS)
    shell.submit(10)
    shell.core.on_granted(LeaseGranted(1, shell.cls.id, worker(1)), 0.0)
    shell.core.on_granted(LeaseGranted(2, shell.cls.id, worker(2)), 0.0)
    shell.fill()
    assert len(shell.pushed(1)) == len(shell.pushed(2)) == 5


def test_what_is_not_worth_a_wake_is_not_divided() -> None:
    """Ten tasks of a microsecond go to one worker; the one that is awake gets the next ones, too, until it has more
    than waking another one would cost."""
    shell = Shell()
    shell.mean.add(1000)
    shell.submit(10)
    shell.core.on_granted(LeaseGranted(1, shell.cls.id, worker(1)), 0.0)
    shell.core.on_granted(LeaseGranted(2, shell.cls.id, worker(2)), 0.0)
    shell.fill()
    assert len(shell.pushed(1)) == 10
    assert shell.pushed(2) == []
    shell.submit(10)
    shell.fill()
    assert len(shell.pushed(1)) == 20
    assert shell.pushed(2) == []
    shell.submit(800)
    shell.fill()
    assert len(shell.pushed(1)) == DEFAULT.in_flight_max_tasks
    assert len(shell.pushed(2)) == 820 - DEFAULT.in_flight_max_tasks


def test_large_arguments_bound_what_is_pushed_ahead() -> None:
    shell = Shell(push_batch_max_bytes=1000)
    shell.mean.add(1000)
    shell.submit(10, args=b"x" * 600)
    shell.grant(1)
    assert len(shell.pushed(1)) == 2


# -- what an attempt says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"retry_exceptions": True},
        {"retry_exceptions": (ValueError,)},
        {"name": "another"},
        {"returns": 0},
        {"returns": 3},
        {"nested": True},
        {"deps": [b"dep"]},
        {"attempt": 2},
    ],
    ids=str,
)
def test_an_attempt_carries_what_its_worker_must_know(fields: dict[str, Any]) -> None:
    shell = Shell()
    shell.submit(**fields)
    shell.grant(1)
    (task,) = shell.pushed(1)
    for name, value in fields.items():
        assert getattr(task, name) == (bool(value) if name == "retry_exceptions" else value)


# -- results and retries -----------------------------------------------------------------------------------------------


def test_a_result_counts_once() -> None:
    shell = Shell()
    (task,) = shell.submit()
    shell.grant(1)
    result = Result(1, [VALUE])
    assert shell.results(1, [result]) == [(task, result)]
    assert task.state == DONE
    assert shell.results(1, [result]) == []
    assert shell.core.on_results(worker(2), 1, [result], 0, 0.0) == []
    assert shell.core.on_results(worker(9), 9, [result], 0, 0.0) == []
    assert shell.core.stale == 3
    check_idle(shell.core)


def raised(kind: type[BaseException]) -> Failure:
    ancestors = "\n".join(f"{each.__module__}.{each.__name__}" for each in kind.__mro__)
    return Failure("TaskError", "text", details={"ancestors": ancestors})


@pytest.mark.parametrize(
    ("wanted", "failure", "again"),
    [
        (True, raised(ValueError), True),
        (False, raised(ValueError), False),
        ((ValueError,), raised(UnicodeError), True),
        ((KeyError, LookupError), raised(IndexError), True),
        ((KeyError,), raised(ValueError), False),
        (True, CRASH, False),
        (True, Failure("TaskCancelledError", ""), False),
        ((ValueError,), Failure("TaskError", "without a word on its type"), False),
    ],
)
def test_which_failures_are_tried_again(wanted: Any, failure: Failure, again: bool) -> None:
    shell = Shell()
    (task,) = shell.submit(retry_exceptions=wanted, retries_left=1)
    shell.grant(1)
    done = shell.results(1, [Result(1, [failure])])
    assert bool(done) is not again
    if again:
        assert task.attempt == 1
        assert shell.pushed(1)[1].attempt == 1
        assert shell.results(1, [Result(2, [failure])])[0][1].values == [failure], "no retry is left"


def test_what_a_failed_attempt_left_behind_is_told_to_the_shell() -> None:
    shell = Shell()
    (task,) = shell.submit(retry_exceptions=True, retries_left=-1)
    shell.grant(1)
    assert shell.results(1, [Result(1, [raised(ValueError)], kept=True)]) == []
    assert shell.core.kept_by_failed == [(worker(1), task)]


def starved(seq: int) -> Result:
    return Result(seq, [Failure("ObjectLostError", "lost")], lost=(Place(bytes(28), b"far-node", "ab-1", 9),))


def test_one_whose_arguments_are_lost_waits_for_others_uncharged() -> None:
    shell = Shell()
    shell.core.wants_starved = True
    (task,) = shell.submit(retries_left=0)
    shell.grant(1)
    assert shell.results(1, [starved(1)]) == []
    assert shell.core.starved == [(task, starved(1))]
    assert shell.core.kept_by_failed == []
    assert (task.state, task.attempt, task.retries_left) == (WAITING, 1, 0)
    check_idle(shell.core)
    shell.core.on_ready(task)
    shell.fill()
    assert [each.attempt for each in shell.pushed(1)] == [0, 1]
    assert shell.results(1, [Result(2, [b"value"])])[0][0] is task


def test_where_nobody_looks_for_lost_arguments_the_task_fails() -> None:
    shell = Shell()
    (task,) = shell.submit()
    shell.grant(1)
    assert shell.results(1, [starved(1)]) == [(task, starved(1))]
    assert task.state == DONE


def test_a_cancelled_one_waits_for_no_arguments() -> None:
    shell = Shell()
    shell.core.wants_starved = True
    (task,) = shell.submit()
    shell.grant(1)
    assert shell.core.cancel(task)
    assert shell.results(1, [starved(1)]) == [(task, starved(1))]


def test_a_variant_for_a_place_knows_of_which_class_it_is() -> None:
    shell = Shell()
    task = shell.task()
    shell.core.settle_near(task, {b"far-node": 1 << 30})
    assert task.cls is not shell.cls
    assert task.cls.base is shell.cls


def test_a_death_charges_what_had_begun() -> None:
    shell = Shell()
    shell.mean.add(1000)
    tasks = shell.submit(5, retries_left=1)
    shell.grant(1)
    shell.grant(2)
    assert [task.seq for task in tasks] == [1, 2, 3, 4, 5]
    done = shell.lose(1, [Result(1, [VALUE])], [2])
    assert done == [(tasks[0], Result(1, [VALUE]))]
    assert [task.retries_left for task in tasks] == [1, 0, 1, 1, 1]
    assert [task.task_id for task in shell.pushed(2)] == [task.task_id for task in tasks[1:]], "in their old order"
    assert all(task.attempt == 1 for task in shell.pushed(2))
    ((failed, result),) = shell.lose(2, [], [1])
    assert failed is tasks[1]
    assert isinstance(result.values[0], Failure)
    assert result.values[0].kind == "WorkerCrashedError"
    check_idle(shell.core)


def test_the_death_of_an_idle_worker_leaves_the_books_in_order() -> None:
    shell = Shell()
    shell.submit()
    shell.grant(1)
    shell.results(1, [Result(1, [VALUE])])
    shell.lose(1, [], [])
    assert shell.cls.idle == 0
    assert not shell.cls.leases
    assert shell.returned() == [], "there is nothing to give back"


def test_given_back_tasks_go_first_and_uncharged() -> None:
    shell = Shell()
    shell.mean.add(1000)
    tasks = shell.submit(4, retries_left=0)
    shell.grant(1)
    shell.grant(2)
    shell.core.on_given_back(worker(1), 1, [2, 3, 4], 0.0)
    shell.fill()
    assert sorted(task.task_id for task in shell.pushed(2)) <= [task.task_id for task in tasks[1:]]
    assert all(task.retries_left == 0 and task.attempt == 0 for task in tasks)
    assert shell.core.on_given_back(worker(1), 1, [2], 0.0) == []
    assert shell.core.stale == 1
    check_idle(shell.core)


def test_what_came_back_from_behind_a_long_task_goes_elsewhere() -> None:
    """It may be what the long one waits for: pushed to the same worker again, it would come back for ever."""
    shell = Shell()
    shell.mean.add(0.5 * MS)
    shell.submit(3)
    shell.grant(1)
    assert len(shell.pushed(1)) == 3
    shell.core.on_given_back(worker(1), 1, [2, 3], 0.0)
    shell.fill()
    assert len(shell.pushed(1)) == 3
    assert shell.demands()[-1] == 3, "one lease, and two tasks that need another"
    shell.grant(2)
    assert len(shell.pushed(2)) == 2
    shell.results(1, [Result(1, [VALUE])])
    shell.results(2, [Result(1, [VALUE]), Result(2, [VALUE])])
    shell.submit(2)
    assert (len(shell.pushed(1)), len(shell.pushed(2))) == (4, 3), "it takes tasks again"
    check_idle(shell.core)


def kind_of(result: Result) -> str:
    (failure,) = result.values
    assert isinstance(failure, Failure)
    return failure.kind


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_cancelled_tasks() -> None:
    shell = Shell()
    shell.mean.add(1000)
    waiting = shell.task()
    assert not shell.core.cancel(waiting)
    assert waiting.state == DONE
    first, second, third = shell.submit(3, retries_left=3)
    assert not shell.core.cancel(second)
    shell.grant(1)
    assert [task.task_id for task in shell.pushed(1)] == [first.task_id, third.task_id]
    assert [shell.core.cancel(task) for task in (first, third)] == [True, True], "the worker must be told"
    ((task, result),) = shell.core.on_given_back(worker(1), 1, [third.seq], 0.0)
    assert task is third
    assert kind_of(result) == "TaskCancelledError"
    shell.core.kill_worker(first)
    assert shell.fill()[-1] == (PEER, KillWorker(1, first.seq))
    ((task, result),) = shell.lose(1, [], [first.seq])
    assert task is first
    assert kind_of(result) == "TaskCancelledError"


def test_a_cancelled_task_is_not_retried_and_may_still_have_a_value() -> None:
    shell = Shell()
    shell.mean.add(1000)
    one, two = shell.submit(2, retries_left=3, retry_exceptions=True)
    shell.grant(1)
    shell.core.cancel(one)
    shell.core.cancel(two)
    failed, value = Result(1, [raised(ValueError)]), Result(2, [VALUE])
    assert shell.results(1, [failed, value]) == [(one, failed), (two, value)]


# -- giving back -------------------------------------------------------------------------------------------------------


def test_an_idle_lease_goes_back_after_a_while_and_the_wish_before_it() -> None:
    shell = Shell()
    shell.submit()
    shell.grant(1)
    shell.now = 1.0
    shell.results(1, [Result(1, [VALUE])])
    shell.core.tick(1.1, 0.2)
    assert not shell.core.take_effects()
    shell.core.tick(1.3, 0.2)
    assert [type(effect.message) for effect in shell.core.take_effects()] == [Demand, LeaseReturned]
    assert not shell.core.busy


def test_an_idle_lease_goes_back_at_once_when_another_class_has_none() -> None:
    shell = Shell()
    shell.submit()
    shell.grant(1)
    shell.results(1, [Result(1, [VALUE])])
    other = shell.core.new_class({"CPU": 20_000}, Profile(), 0)
    shell.core.on_ready(shell.task(cls=other))
    shell.fill()
    shell.core.tick(0.0, 10.0)
    assert LeaseReturned([1]) in [effect.message for effect in shell.core.take_effects()]


def test_a_revoked_lease_gets_no_more_and_goes_back_when_it_is_empty() -> None:
    shell = Shell()
    shell.mean.add(50 * MS)
    shell.submit(3)
    shell.grant(1)
    shell.core.on_revoked(1)
    shell.fill()
    assert shell.returned() == []
    shell.results(1, [Result(1, [VALUE])])
    assert shell.returned() == [1]
    assert len(shell.pushed(1)) == 1
    shell.grant(2)
    shell.core.on_revoked(7)
    assert len(shell.pushed(2)) == 1


def test_a_lease_that_somebody_waits_for_goes_back_after_a_short_pause() -> None:
    """Once nothing is in flight and nothing is ready. Not at once: a synchronous caller's next call comes soon."""
    pause_s = DEFAULT.lease_idle_wanted_s
    shell = Shell()
    shell.mean.add(50 * MS)
    shell.submit(2)
    shell.grant(1)
    shell.core.on_wanted(1)
    shell.core.on_wanted(1)
    shell.core.on_wanted(7)
    shell.results(1, [Result(1, [VALUE])])
    shell.core.tick(shell.now + 10, 20.0)
    assert not shell.core.pressed, "there is more to do"
    shell.results(1, [Result(2, [VALUE])])
    assert shell.core.pressed
    shell.core.tick(shell.now + pause_s / 2, 20.0)
    shell.fill()
    assert shell.returned() == []
    assert shell.core.pressed
    shell.core.tick(shell.now + pause_s, 20.0)
    shell.fill()
    assert shell.returned() == [1]
    assert shell.demands()[-1] == 0
    assert not shell.core.pressed
    check_idle(shell.core)


def test_one_that_is_idle_when_somebody_begins_to_wait_goes_back_too() -> None:
    shell = Shell()
    shell.submit(1)
    shell.grant(1)
    shell.results(1, [Result(1, [VALUE])])
    assert not shell.core.pressed
    shell.core.on_wanted(1)
    shell.fill()
    assert shell.core.pressed
    shell.core.tick(shell.now + DEFAULT.lease_idle_wanted_s, 20.0)
    shell.fill()
    assert shell.returned() == [1]


def test_who_never_keeps_an_idle_lease_does_not_keep_one_that_is_wanted() -> None:
    """As the peer, which ticks when something happens and not by a clock: it would keep it for ever."""
    shell = Shell()
    shell.submit(1)
    shell.grant(1)
    shell.core.on_wanted(1)
    shell.results(1, [Result(1, [VALUE])])
    shell.core.tick(shell.now, 0.0)
    shell.fill()
    assert shell.returned() == [1]
    assert not shell.core.pressed


# -- everything at once ------------------------------------------------------------------------------------------------


class Run:
    """A peer and workers that do as they like; each event comes at a random time, per link in order."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.shell = Shell()
        self.tasks: list[Pending] = []
        self.charged: dict[bytes, int] = {}
        self.budget: dict[bytes, int] = {}
        self.outcomes: dict[bytes, Result] = {}
        self.cancelled: set[bytes] = set()
        self.leases: dict[int, list[Task]] = {}  # what its worker has and has not answered
        self.next_lease = 1
        self.seen = 0

    def go(self) -> None:
        steps = [self.submit, self.grant, self.answer, self.answer, self.give_back, self.kill, self.revoke, self.cancel]
        for _ in range(200):
            self.random.choice(steps)()
            self.settle()
        for _ in range(10_000):
            if len(self.outcomes) == len(self.tasks):
                break
            self.grant()
            self.answer()
            self.settle()
        assert len(self.outcomes) == len(self.tasks), "every task has an outcome in the end"
        for task in self.tasks:
            result = self.outcomes[task.task_id].values[0]
            kind = result.kind if isinstance(result, Failure) else "value"
            assert kind != "TaskCancelledError" or task.task_id in self.cancelled
            charged = self.charged.get(task.task_id, 0)
            assert charged <= self.budget[task.task_id] + 1
            assert kind != "WorkerCrashedError" or charged == self.budget[task.task_id] + 1
        self.shell.now += 100
        self.shell.core.tick(self.shell.now, 0.2)
        self.settle()
        assert not self.shell.core.busy
        assert self.shell.cls.demanded == 0

    def settle(self) -> None:
        self.shell.fill()
        for to, message in self.shell.sent[self.seen :]:
            if isinstance(message, Push):
                assert to == worker(message.lease)
                self.leases[message.lease] += message.tasks
            elif isinstance(message, LeaseReturned):
                for lease in message.leases:
                    assert not self.leases.pop(lease), "returned with tasks in flight"
        self.seen = len(self.shell.sent)
        check_idle(self.shell.core)

    def done(self, done: list[tuple[Pending, Result]]) -> None:
        for task, result in done:
            assert task.task_id not in self.outcomes, "two outcomes"
            assert task.state == DONE
            self.outcomes[task.task_id] = result

    def submit(self) -> None:
        for _ in range(self.random.randint(1, 6)):
            retries = self.random.randint(0, 2)
            task = self.shell.task(retries_left=retries)
            self.tasks.append(task)
            self.budget[task.task_id] = retries
            self.shell.core.on_ready(task)

    def grant(self) -> None:
        if len(self.leases) < 3 and self.shell.cls.demanded > len(self.leases):
            self.leases[self.next_lease] = []
            self.shell.core.on_granted(
                LeaseGranted(self.next_lease, self.shell.cls.id, worker(self.next_lease)), self.shell.now
            )
            self.next_lease += 1

    def some_lease(self) -> int:
        return self.random.choice(sorted(self.leases)) if self.leases else 0

    def answer(self) -> None:
        lease = self.some_lease()
        if lease and self.leases[lease]:
            count = self.random.randint(1, len(self.leases[lease]))
            results = [Result(task.seq, [VALUE]) for task in self.leases[lease][:count]]
            del self.leases[lease][:count]
            self.done(self.shell.core.on_results(worker(lease), lease, results, count * 10_000, self.shell.now))

    def give_back(self) -> None:
        lease = self.some_lease()
        if lease and len(self.leases[lease]) > 1:
            seqs = [task.seq for task in self.leases[lease][1:]]
            del self.leases[lease][1:]
            self.done(self.shell.core.on_given_back(worker(lease), lease, seqs, self.shell.now))

    def kill(self) -> None:
        lease = self.some_lease()
        if not lease or self.random.random() < 0.5:
            return
        tasks = self.leases.pop(lease)
        cut = self.random.randint(0, len(tasks))
        finished = [Result(task.seq, [VALUE]) for task in tasks[:cut]]
        started = [task.seq for task in tasks[cut : cut + 1]]
        for task in tasks[cut : cut + 1]:
            self.charged[task.task_id] = self.charged.get(task.task_id, 0) + 1
        self.done(self.shell.core.on_lost(LeaseLost(lease, worker(lease), finished, started, CRASH), self.shell.now))

    def revoke(self) -> None:
        lease = self.some_lease()
        if lease:
            self.shell.core.on_revoked(lease)

    def cancel(self) -> None:
        alive = [task for task in self.tasks if task.state != DONE]
        if not alive:
            return
        task = self.random.choice(alive)
        self.cancelled.add(task.task_id)
        if not self.shell.core.cancel(task):
            self.done([(task, Result(0, [Failure("TaskCancelledError", "")]))])


@pytest.mark.parametrize("seed", range(200))
def test_every_task_has_one_outcome_whatever_happens(seed: int) -> None:
    Run(seed).go()


def test_values_of_references_and_new_functions_bound_what_is_pushed_ahead() -> None:
    shell = Shell()
    shell.mean.add(1000)
    shell.submit(40, deps=[bytes(90_000)])
    shell.grant(1)
    shell.fill()
    assert len(shell.pushed(1)) == 12  # a MiB, and the one that exceeds it

    shell = Shell()
    shell.mean.add(1000)
    for number in range(10):
        blob = Blob(bytes([number]) * 16, "large", bytes(700_000))
        shell.submit(1, function=blob.hash, blob=blob)
    shell.grant(1)
    shell.fill()
    assert len(shell.pushed(1)) == 2


def test_all_attempts_are_charged_when_the_journal_could_not_name_those_that_had_begun() -> None:
    shell = Shell()
    shell.mean.add(1000)
    first, second = shell.submit(2, retries_left=1)
    second.retries_left = 0
    shell.grant(1)
    shell.fill()
    done = shell.core.on_lost(LeaseLost(1, worker(1), [], [], CRASH, True), 0.0)
    assert [task for task, _ in done] == [second]
    assert (first.state, first.retries_left) == (READY, 0)


def test_what_a_host_that_leaves_has_ended_is_not_charged_and_not_repeated_if_it_may_not_be() -> None:
    shell = Shell()
    shell.mean.add(1000)
    first, second = shell.submit(2, retries_left=1)
    second.retries_left = 0
    shell.grant(1)
    shell.fill()
    done = shell.core.on_lost(LeaseLost(1, worker(1), [], [first.seq, second.seq], CRASH, left=True), 0.0)
    assert [task for task, _ in done] == [second]
    assert (first.state, first.retries_left, first.attempt) == (READY, 1, 1)


def test_a_worker_that_died_without_a_lease_is_forgotten() -> None:
    shell = Shell()
    shell.grant(1)
    shell.core.on_revoked(1)
    assert shell.core._links
    shell.core.on_process_died(worker(1))
    assert not shell.core._links


# -- other hosts -------------------------------------------------------------------------------------------------------

THERE = peer_of(b"node_two")


def stranger(number: int) -> bytes:
    return THERE[:8] + number.to_bytes(8, "big")


def ask_also(shell: Shell, count: int, peer: bytes = THERE, hops: int = 1) -> list[tuple[bytes, Any]]:
    shell.core.on_ask_also(AskAlso(shell.cls.id, peer, count, hops))
    return shell.fill()


def grant_there(shell: Shell, lease: int, number: int | None = None) -> list[tuple[bytes, Any]]:
    shell.core.on_granted(LeaseGranted(lease, shell.cls.id, stranger(number or lease)), shell.now)
    return shell.fill()


def demanded(said: list[tuple[bytes, Any]], peer: bytes = THERE) -> list[int]:
    return [message.count for to, message in said if isinstance(message, Demand) and to == peer]


def test_a_host_that_comes_back_has_no_functions_of_before() -> None:
    shell = Shell()
    shell.submit(1, retries_left=1)
    grant_there(shell, 7)
    assert not shell.core.on_node_gone(THERE, gone_failure(THERE[:8], "cut off"), 0.0)
    grant_there(shell, 8, number=7)
    assert [len(blobs) for blobs, _ in shipped(shell)] == [1, 1]


def test_another_peer_is_asked_for_what_it_may_give() -> None:
    shell = Shell()
    shell.cls.job = b"job"
    shell.submit(5)
    said = ask_also(shell, 2, hops=2)
    assert demanded(said) == [2]
    (demand,) = [message for to, message in said if to == THERE]
    assert (demand.hops, demand.job, demand.request) == (2, b"job", {"CPU": 10_000})
    assert not ask_also(shell, 2, PEER), "our own is asked anyway"


def test_no_more_is_asked_for_than_is_ready() -> None:
    shell = Shell()
    shell.submit(3)
    assert demanded(ask_also(shell, 10)) == [3]


def test_nobody_is_asked_when_nothing_is_ready() -> None:
    shell = Shell()
    shell.submit(1)
    shell.grant(1)
    assert not ask_also(shell, 2)


def test_a_hint_that_is_repeated_is_followed_again() -> None:
    shell = Shell()
    shell.submit(5)
    assert demanded(ask_also(shell, 2)) == [2]
    assert demanded(ask_also(shell, 2)) == [2], "it may not have arrived"


def test_all_are_told_when_nothing_is_ready_any_more() -> None:
    shell = Shell()
    tasks = shell.submit(3)
    ask_also(shell, 2)
    ask_also(shell, 1, peer_of(b"nodethre"))
    grant_there(shell, 7)
    for task in tasks:
        shell.core.cancel(task)
    said = shell.fill()
    assert demanded(said) == [1], "what it has given is kept for the moment"
    assert demanded(said, peer_of(b"nodethre")) == [0]
    assert demanded(said, PEER) == [0]
    assert list(shell.cls.asked) == [THERE]


def test_what_was_given_there_goes_back_there() -> None:
    shell = Shell()
    (task,) = shell.submit(1)
    ask_also(shell, 1)
    (push,) = [message for to, message in grant_there(shell, 7) if to == stranger(7)]
    assert isinstance(push, Push)
    shell.core.kill_worker(task)
    assert shell.core.take_effects()[-1].to == THERE
    shell.core.on_results(stranger(7), 7, [Result(1, [VALUE])], MS, shell.now)
    shell.fill()
    shell.core.tick(shell.now + 1, 0.2)
    said = [(effect.to, effect.message) for effect in shell.core.take_effects()]
    assert [type(message) for to, message in said if to == THERE] == [Demand, LeaseReturned]
    assert demanded(said) == [0]
    assert not [message for to, message in said if to == PEER and isinstance(message, LeaseReturned)]
    shell.fill()
    assert not shell.cls.asked


def test_leases_of_others_count_for_them_alone() -> None:
    shell = Shell()
    shell.submit(8)
    ask_also(shell, 2)
    grant_there(shell, 7)
    shell.core.on_granted(LeaseGranted(1, shell.cls.id, worker(1)), shell.now)
    shell.fill()
    assert (len(shell.cls.leases), shell.cls.abroad) == (2, 1)
    assert list(shell.cls.leases) == [1, 7], "those here come first"
    shell.submit(20)
    assert demanded(shell.sent, PEER)[-1] == 27, "one that it has, and 26 that are ready"


def test_what_others_have_begun_waits_no_more() -> None:
    """As who looks at this peer's status sees it."""
    shell = Shell()
    shell.submit(12)
    shell.grant(1)
    shell.fill()
    assert demanded(shell.sent, PEER) == [12]
    ask_also(shell, 4)
    for lease in (7, 8):
        grant_there(shell, lease)
    shell.sent.clear()
    shell.core.tick(shell.now, 0.2)
    said = shell.fill()
    assert demanded(said, PEER) == [10], "one that it has, and nine that are ready"
    assert demanded(said) == [], "it keeps its place there: more than that are ready"
    grant_there(shell, 9)
    shell.core.tick(shell.now, 0.2)
    assert demanded(shell.fill(), PEER) == [], "not each time"
    shell.core.tick(shell.now + shell.core._config.demand_again_s, 0.2)
    assert demanded(shell.fill(), PEER) == [9]
    shell.core.tick(shell.now + 9, 0.2)
    assert demanded(shell.fill(), PEER) == [], "that is so already"


def test_a_number_that_two_peers_have_given_goes_back() -> None:
    shell = Shell()
    shell.submit(4)
    ask_also(shell, 2)
    shell.grant(7)
    said = grant_there(shell, 7)
    assert [message for to, message in said if to == THERE and isinstance(message, LeaseReturned)]
    assert shell.cls.leases[7].link.worker == worker(7)
    shell.core.on_lost(LeaseLost(7, stranger(7), [], [], CRASH), shell.now)
    assert 7 in shell.cls.leases, "that was the other one"


def test_a_host_that_is_gone_is_charged_with_all_that_was_there() -> None:
    shell = Shell()
    spent, left = shell.task(retries_left=0), shell.task(retries_left=2)
    for task in (spent, left):
        shell.core.on_ready(task)
    shell.fill()
    ask_also(shell, 2)
    grant_there(shell, 7)
    grant_there(shell, 8)
    assert spent.state == left.state == IN_FLIGHT
    assert shell.core.works_at(THERE[:8])
    gone = gone_failure(THERE[:8], "its peer is dead")
    done = shell.core.on_node_gone(THERE[:8], gone, shell.now)
    assert [task for task, _ in done] == [spent]
    assert done[0][1].values[0].kind == "NodeDiedError"
    assert (left.state, left.retries_left, left.attempt) == (READY, 1, 1)
    assert not shell.cls.leases
    assert not shell.core.works_at(THERE[:8])
    assert not shell.cls.asked
    assert shell.cls.idle == shell.cls.abroad == 0
    assert demanded(shell.fill()) == []
    assert not shell.core.on_node_gone(THERE[:8], gone, shell.now)


def test_a_lost_lease_of_another_peer() -> None:
    shell = Shell()
    shell.submit(2)
    ask_also(shell, 1)
    grant_there(shell, 7)
    shell.core.on_lost(LeaseLost(7, stranger(7), [], [1], CRASH), shell.now)
    said = shell.fill()
    assert shell.cls.abroad == 0
    assert not demanded(said), "what it was told stands: it may give another one"
    grant_there(shell, 8)
    assert shell.cls.abroad == 1


def test_few_short_tasks_are_not_worth_asking_elsewhere() -> None:
    shell = Shell(ask_also_work_s=0.005)
    shell.mean.add(MS)
    shell.submit(1)
    shell.grant(1)
    shell.submit(6)
    assert len(shell.cls.ready) > 0
    assert not ask_also(shell, 2)
    shell.submit(10)
    assert demanded(shell.sent) == [2]


def test_a_quick_task_does_not_wait_for_the_end_of_a_long_one_while_others_have_room() -> None:
    shell = Shell()
    shell.mean.add(MS)
    shell.grant(1)
    long, quick = shell.submit(2)
    assert long.state == quick.state == IN_FLIGHT
    ask_also(shell, 1)
    shell.core.on_given_back(worker(1), 1, [quick.seq], 0.02)
    shell.fill()
    assert demanded(ask_also(shell, 1)) == [1], "the lease that is there begins nothing before the long one is done"


def test_a_hint_is_followed_when_nothing_is_done_for_a_while() -> None:
    """Too long to be pushed behind what runs, too short to be worth asking elsewhere: it waited for an hour."""
    shell = Shell()
    shell.mean.add(4 * MS)
    shell.grant(1)
    long, quick = shell.submit(2)
    assert (long.state, quick.state) == (IN_FLIGHT, READY)
    assert not demanded(ask_also(shell, 1))
    shell.now = DEFAULT.hold_back_after_s / 2
    shell.core.tick(shell.now, 1.0)
    assert not demanded(shell.fill()), "it may be done at any moment"
    shell.now = DEFAULT.hold_back_after_s
    shell.core.tick(shell.now, 1.0)
    assert demanded(shell.fill()) == [1]
    shell.core.tick(shell.now, 1.0)
    assert not demanded(shell.fill()), "once"


def test_leases_that_were_called_back_begin_nothing_more() -> None:
    shell = Shell()
    shell.mean.add(MS)
    shell.submit(1)
    shell.grant(1)
    shell.core.on_revoked(1)
    shell.submit(1)
    assert demanded(ask_also(shell, 1)) == [1]


def test_spread_runs_one_task_per_lease() -> None:
    shell = Shell()
    shell.mean.add(1000.0)
    shell.cls = shell.core.new_class({"CPU": 10_000}, Profile(), 0, Strategy(spread=True))
    shell.submit(4)
    ask_also(shell, 2)
    (push,) = [message for _, message in shell.grant(1) if isinstance(message, Push)]
    assert len(push.tasks) == 1
    (push,) = [message for _, message in grant_there(shell, 7) if isinstance(message, Push)]
    assert len(push.tasks) == 1
    shell.core.on_results(stranger(7), 7, [Result(1, [VALUE])], MS, shell.now)
    said = shell.fill()
    returned = [(to, message) for to, message in said if isinstance(message, Demand | LeaseReturned)]
    assert [(to, type(message)) for to, message in returned] == [(THERE, Demand), (THERE, LeaseReturned)]
    assert demanded(said) == [1], "less by the one that it gave, before that goes back"


def test_tasks_go_where_their_large_arguments_lie() -> None:
    shell = Shell(locality_min_bytes=1000)
    small, large, spread = shell.task(), shell.task(), shell.task()
    spread.cls = shell.core.new_class({"CPU": 10_000}, Profile(), 0, Strategy(spread=True))
    shell.core.settle_near(small, {THERE[:8]: 999})
    shell.core.settle_near(spread, {THERE[:8]: 5000})
    assert small.cls is shell.cls
    assert spread.cls.strategy.spread
    near = {THERE[:8]: 5000, PEER[:8]: 3000}
    shell.core.settle_near(large, near)
    assert large.cls is not shell.cls
    shell.core.on_ready(large)
    (demand,) = [message for _, message in shell.fill() if isinstance(message, Demand)]
    assert demand.near == near
    assert demand.request == shell.cls.request
    other = shell.task()
    shell.core.settle_near(other, {THERE[:8]: 2000})
    assert other.cls is large.cls


def test_what_no_member_can_ever_run_fails() -> None:
    shell = Shell()
    waiting = shell.submit(2)
    shell.core.cancel(waiting[1])
    done = shell.core.on_unschedulable(shell.cls.id, "there is no such node")
    assert [task for task, _ in done] == [waiting[0]]
    failure = done[0][1].values[0]
    assert failure.kind == "TaskUnschedulableError"
    assert "no such node" in failure.message
    assert demanded(shell.fill(), PEER) == [0]
    assert not shell.core.on_unschedulable(99, "")
