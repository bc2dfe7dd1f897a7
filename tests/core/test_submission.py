"""Which worker runs which task: binding, depth, retries, cancelling, leases taken and given back."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from meshray.config import DEFAULT
from meshray.core.pending import DONE, IN_FLIGHT, READY, Mean, Pending
from meshray.core.submission import SchedulingClass, Submission
from meshray.ids import peer_of
from meshray.wire.messages import (
    Blob,
    Demand,
    Failure,
    KillWorker,
    LeaseGranted,
    LeaseLost,
    LeaseReturned,
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


def test_a_worker_that_died_without_a_lease_is_forgotten() -> None:
    shell = Shell()
    shell.grant(1)
    shell.core.on_revoked(1)
    assert shell.core._links
    shell.core.on_process_died(worker(1))
    assert not shell.core._links
