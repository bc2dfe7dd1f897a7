"""Who makes the pending objects of a dead submitter: each case of the table in `core.adoption`, and what it costs."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import pytest

from meshray.config import DEFAULT, Config
from meshray.core.adoption import Adoption
from meshray.core.effects import Send, ThawLease
from meshray.core.heirs import Heir
from meshray.core.objects import Objects
from meshray.core.store_accounts import StoreAccounts
from meshray.ids import FIRST_RETURN
from meshray.wire.messages import (
    Blob,
    Borrowed,
    CarrierDone,
    DeathSeen,
    Demand,
    Failure,
    Hold,
    LeaseGranted,
    LeaseReturned,
    Lineage,
    Orphan,
    OrphanDone,
    Orphans,
    Place,
    Profile,
    Promote,
    Promoted,
    Push,
    Release,
    Resolve,
    Result,
    Results,
    Retried,
)
from tests.transit import none_in_transit

NODE = b"the-node"
PEER = NODE + bytes(8)
DRIVER, SUBMITTER, EXECUTOR, OTHER = (NODE + label.ljust(8, b"\0") for label in (b"drv", b"sub", b"exe", b"oth"))
FUNCTION = Blob(b"f" * 16, "f", b"code")
CRASH = Failure("WorkerCrashedError", "killed")
NOBODY: frozenset[bytes] = frozenset()
M = TypeVar("M")


def task(number: int, process: bytes = SUBMITTER) -> bytes:
    return process + number.to_bytes(8, "big")


def ref(number: int, process: bytes = SUBMITTER) -> bytes:
    return task(number, process) + FIRST_RETURN


def lineage(number: int, retries: int = 0, **changes: Any) -> Lineage:
    cpu = {"CPU": 10_000}
    made = Lineage(
        task(number), FUNCTION.hash, FUNCTION, b"", [], [], 1, 0, retries, False, False, cpu, Profile(), 1, "f"
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


class Host:
    """A peer with a driver, a submitter and two executors; the driver holds what the submitter promotes."""

    def __init__(self, config: Config = DEFAULT) -> None:
        self.objects = Objects(config, NODE, StoreAccounts(config, 1 << 40, none_in_transit))
        self.adoption = Adoption(config, PEER, self.objects)
        self.sent: list[tuple[bytes, Any]] = []
        self.thawed: list[ThawLease] = []
        self.lease = 0
        for process in (DRIVER, SUBMITTER, EXECUTOR, OTHER):
            self.objects.on_process_attached(process, 1, DRIVER)

    def perform(self) -> None:
        while effects := [*self.adoption.take_effects(), *self.objects.take_effects()]:
            for effect in effects:
                if isinstance(effect, Send):
                    self.sent.append((effect.to, effect.message))
                elif isinstance(effect, ThawLease):
                    self.thawed.append(effect)
        self.adoption.check()
        self.objects.check()

    def take(self, kind: type[M]) -> list[M]:
        found = [message for _, message in self.sent if isinstance(message, kind)]
        self.sent = [entry for entry in self.sent if not isinstance(entry[1], kind)]
        return found

    def promote(self, *lineages: Lineage, held: bool = True) -> None:
        records = [Promoted(made.task_id + FIRST_RETURN, None, [], made) for made in lineages]
        self.objects.on_promote(SUBMITTER, Promote(records))
        if held:
            self.objects.on_hold(DRIVER, Hold(0, [record.object_id for record in records]))
        self.perform()

    def die(
        self, process: bytes = SUBMITTER, finished: list[Result] | None = None, executors: frozenset[bytes] = NOBODY
    ) -> None:
        self.adoption.on_process_died(process, finished or [], CRASH, 0.0, executors)
        self.objects.on_process_died(process, "killed")
        self.perform()

    def seen(self, *witnesses: bytes, process: bytes = SUBMITTER) -> None:
        for witness in witnesses:
            self.adoption.on_death_seen(witness, DeathSeen(process))
            self.objects.on_death_seen(witness, DeathSeen(process))
        self.perform()

    def orphans(self, finished: Any = (), running: Any = (), begun: Any = ()) -> None:
        self.adoption.on_orphans(EXECUTOR, Orphans(SUBMITTER, list(finished), list(running), list(begun)), 0.0)
        self.perform()

    def lose_patience(self) -> None:
        deadline = self.adoption.next_deadline()
        assert deadline == DEFAULT.adoption_patience_s
        self.adoption.tick(deadline)
        assert self.adoption.next_deadline() is None
        self.perform()

    def settle(self) -> None:
        self.die()
        self.seen(DRIVER, EXECUTOR, OTHER)

    def run(self) -> Push | None:
        """Grant what is demanded; what is pushed then."""
        demands = [demand for demand in self.take(Demand) if demand.count]
        if not demands:
            return None
        self.lease += 1
        self.adoption.on_own(LeaseGranted(self.lease, demands[-1].class_id, EXECUTOR), 0.0)
        self.perform()
        (push,) = self.take(Push)
        return push

    def value(self, number: int) -> Any:
        return self.objects.value_of(ref(number))


@pytest.mark.fault(8)
def test_a_task_that_never_began_is_submitted_again_uncharged() -> None:
    host = Host()
    host.promote(lineage(1))
    host.settle()
    push = host.run()
    assert push is not None
    assert (push.tasks[0].task_id, push.blobs) == (task(1), [FUNCTION])
    host.adoption.on_results(EXECUTOR, Results(push.lease, [Result(push.tasks[0].seq, [b"v"])]), 0.0)
    host.perform()
    assert host.value(1) == b"v"
    assert host.take(LeaseReturned)
    assert not host.adoption.heirs()


@pytest.mark.fault(8)
def test_nothing_happens_before_everybody_has_told() -> None:
    host = Host()
    host.promote(lineage(1))
    host.die()
    host.seen(DRIVER, OTHER)
    assert host.run() is None
    assert host.value(1) is None
    host.seen(EXECUTOR)
    assert host.run() is not None


@pytest.mark.fault(8, 9)
def test_a_result_that_an_executor_still_had_counts() -> None:
    host = Host()
    inside = ref(7, EXECUTOR)
    host.objects.on_promote(EXECUTOR, Promote([Promoted(inside, b"inner")]))
    host.promote(lineage(1))
    host.die()
    host.orphans(finished=[Orphan(task(1), 0, 1, 5, Result(5, [b"v"], [[inside]]))])
    assert host.take(CarrierDone) == [CarrierDone([task(1)])]
    host.objects.on_release(EXECUTOR, Release([inside]))
    host.seen(DRIVER, EXECUTOR, OTHER)
    assert host.value(1) == b"v"
    assert host.objects.value_of(inside) == b"inner"
    assert host.run() is None
    host.objects.on_release(DRIVER, Release([ref(1)]))
    assert not host.objects.knows(inside)


@pytest.mark.fault(8)
def test_what_runs_is_waited_for_and_its_lease_stays() -> None:
    host = Host()
    host.promote(lineage(1))
    host.die()
    host.orphans(running=[Orphan(task(1), 0, 1, 5)])
    host.seen(DRIVER, EXECUTOR, OTHER)
    assert host.run() is None
    assert [thaw.worker for thaw in host.thawed] == [DRIVER, OTHER]
    done = OrphanDone(SUBMITTER, Orphan(task(1), 0, 1, 5, Result(5, [b"v"])))
    host.adoption.on_orphan_done(EXECUTOR, done, 0.0)
    host.perform()
    assert host.value(1) == b"v"
    assert host.thawed[-1] == ThawLease(EXECUTOR, SUBMITTER)


@pytest.mark.fault(8)
def test_what_runs_and_was_never_promoted_is_killed() -> None:
    host = Host()
    host.die()
    host.orphans(running=[Orphan(task(1), 0, 1, 5)])
    host.seen(EXECUTOR)
    assert host.thawed == [ThawLease(EXECUTOR, SUBMITTER, kill=True)]


@pytest.mark.fault(1, 8)
@pytest.mark.parametrize("retries", [0, 1])
def test_the_death_of_who_runs_it_is_charged(retries: int) -> None:
    host = Host()
    host.promote(lineage(1, retries))
    host.die()
    host.orphans(running=[Orphan(task(1), 0, 1, 5)])
    host.seen(DRIVER, EXECUTOR, OTHER)
    host.die(EXECUTOR)
    push = host.run()
    assert (push is not None) == bool(retries)
    assert host.value(1) == (None if retries else CRASH)


@pytest.mark.fault(1, 8)
def test_the_journal_of_who_ran_it_counts() -> None:
    host = Host()
    host.promote(lineage(1))
    host.die()
    host.orphans(running=[Orphan(task(1), 0, 1, 5)])
    host.seen(DRIVER, EXECUTOR, OTHER)
    host.die(EXECUTOR, [Result(5, [b"v"])])
    assert host.value(1) == b"v"


@pytest.mark.fault(8, 9)
def test_a_lost_result_is_charged() -> None:
    host = Host()
    host.promote(lineage(1), lineage(2, retries=1))
    host.die()
    host.orphans(begun=[Orphan(task(1), 0), Orphan(task(2), 0)])
    host.seen(DRIVER, EXECUTOR, OTHER)
    assert isinstance(host.value(1), Failure)
    assert host.value(1).kind == "WorkerCrashedError"
    push = host.run()
    assert push is not None
    assert [each.task_id for each in push.tasks] == [task(2)]
    assert push.tasks[0].attempt == 1


@pytest.mark.fault(8)
def test_silence_is_charged() -> None:
    host = Host()
    host.promote(lineage(1))
    host.die()
    host.seen(DRIVER, OTHER)
    host.die(EXECUTOR)  # it may have run it
    host.seen(DRIVER, OTHER, process=EXECUTOR)
    assert host.value(1).kind == "WorkerCrashedError"


@pytest.mark.fault(8)
def test_a_death_that_the_submitter_had_not_accounted_for_is_charged() -> None:
    host = Host()
    host.promote(lineage(1))
    host.die(EXECUTOR)
    host.die()
    host.seen(DRIVER, OTHER, process=EXECUTOR)
    host.seen(DRIVER, OTHER)
    assert host.value(1).kind == "WorkerCrashedError"


def test_retries_that_the_submitter_told_of_are_not_charged_twice() -> None:
    heir = Heir(lineage(1, retries=3), FUNCTION, SUBMITTER, DRIVER, 0)
    heir.on_retried(1, 2)
    assert not heir.on_seen(0)  # that one is paid for
    assert heir.charge()
    assert (heir.attempt, heir.retries_left) == (2, 2)


def test_retries_that_the_submitter_had_no_time_to_tell_of_are_charged() -> None:
    heir = Heir(lineage(1, retries=3), FUNCTION, SUBMITTER, DRIVER, 0)
    assert heir.on_seen(1)
    assert heir.charge()
    assert (heir.attempt, heir.retries_left) == (2, 1)
    assert heir.on_seen(3)
    assert not heir.charge()


def test_retried_reaches_its_task() -> None:
    host = Host()
    host.promote(lineage(1, retries=1))
    host.adoption.on_retried(OTHER, Retried(task(1), 1, 0))  # not its submitter
    host.adoption.on_retried(SUBMITTER, Retried(task(1), 1, 0))
    (heir,) = host.adoption.heirs()
    assert (heir.attempt, heir.retries_left) == (1, 0)


@pytest.mark.fault(8)
def test_an_exception_to_retry_is_tried_again() -> None:
    host = Host()
    host.promote(lineage(1, retries=1, retry_exceptions=["builtins.ValueError"]))
    host.die()
    failure = Failure("TaskError", "no", details={"ancestors": "builtins.ValueError\nbuiltins.Exception"})
    host.orphans(finished=[Orphan(task(1), 0, 1, 5, Result(5, [failure]))])
    host.seen(DRIVER, EXECUTOR, OTHER)
    push = host.run()
    assert push is not None
    assert push.tasks[0].retry_exceptions
    host.adoption.on_results(EXECUTOR, Results(push.lease, [Result(push.tasks[0].seq, [failure])]), 0.0)
    host.perform()
    assert host.value(1) == failure


@pytest.mark.fault(8)
def test_what_nobody_holds_is_given_up() -> None:
    host = Host()
    host.promote(lineage(1), held=False)
    host.settle()
    assert host.run() is None
    assert not host.objects.knows(ref(1))
    assert not host.adoption.heirs()


@pytest.mark.fault(8)
def test_arguments_are_pinned_and_waited_for() -> None:
    host = Host()
    argument, inside = ref(1), ref(9)
    host.objects.on_promote(SUBMITTER, Promote([Promoted(inside, b"kept")]))
    host.promote(lineage(1), held=False)
    host.promote(lineage(2, deps=[Borrowed(argument)], pins=[argument, inside]))
    host.settle()
    assert host.objects.value_of(inside) == b"kept"
    push = host.run()
    assert push is not None
    assert [each.task_id for each in push.tasks] == [task(1)]
    place = Place(argument, NODE, "segment", 1 << 20)
    host.adoption.on_results(EXECUTOR, Results(push.lease, [Result(push.tasks[0].seq, [place])]), 0.0)
    host.perform()
    (push,) = host.take(Push) or [host.run()]
    assert push is not None
    assert push.tasks[0].deps == [Borrowed(argument)]
    host.adoption.on_results(EXECUTOR, Results(push.lease, [Result(push.tasks[0].seq, [b"v"])]), 0.0)
    host.perform()
    assert host.value(2) == b"v"
    assert not host.objects.knows(argument)
    assert not host.objects.knows(inside)


@pytest.mark.fault(8)
def test_a_failed_argument_fails_the_task() -> None:
    host = Host()
    host.promote(lineage(1), lineage(2, deps=[Borrowed(ref(1))], pins=[ref(1)]))
    host.die()
    host.orphans(begun=[Orphan(task(1), 0)])
    host.seen(DRIVER, EXECUTOR, OTHER)
    assert host.value(2) == host.value(1)
    assert host.value(2).kind == "WorkerCrashedError"


@pytest.mark.fault(8, 64)
def test_evicted_lineage_is_an_error_of_its_own() -> None:
    host = Host(msgspec.structs.replace(DEFAULT, lineage_max_records=1))
    host.promote(lineage(1), lineage(2))
    host.objects.on_promote(SUBMITTER, Promote([Promoted(ref(3), None, evicted=True), Promoted(ref(4), None)]))
    host.objects.on_hold(DRIVER, Hold(0, [ref(3), ref(4)]))
    host.settle()
    assert host.value(2).kind == host.value(3).kind == "ObjectReconstructionFailedError"
    assert host.value(4).kind == "OwnerDiedError"  # a call of an actor: it has no lineage
    assert host.run() is not None


@pytest.mark.fault(7)
def test_the_end_of_the_job_ends_all() -> None:
    host = Host()
    host.promote(lineage(1), lineage(2))
    host.settle()
    assert host.run() is not None
    host.objects.on_job_ended(DRIVER)
    host.adoption.on_job_ended(DRIVER)
    host.perform()
    assert host.value(1).kind == host.value(2).kind == "OwnerDiedError"
    assert not host.adoption.heirs()
    assert host.run() is None


def test_a_living_submitter_is_left_alone() -> None:
    host = Host()
    host.promote(lineage(1))
    host.objects.on_resolve(SUBMITTER, Resolve([Promoted(ref(1), b"v")]))
    host.perform()
    assert not host.adoption.heirs()
    host.settle()
    assert host.value(1) == b"v"


# -- silence -----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(10)
def test_who_never_had_a_lease_of_the_dead_one_keeps_nothing_waiting_and_costs_nothing() -> None:
    host = Host()
    host.promote(lineage(1))
    host.die(executors=frozenset({EXECUTOR}))
    host.seen(DRIVER, EXECUTOR)
    assert host.run() is None
    host.lose_patience()
    push = host.run()
    assert push is not None
    host.adoption.on_results(EXECUTOR, Results(push.lease, [Result(push.tasks[0].seq, [b"v"])]), 0.0)
    host.perform()
    assert host.value(1) == b"v"
    host.seen(OTHER)
    assert not host.adoption.heirs()


@pytest.mark.fault(10)
def test_a_silent_executor_is_charged_where_the_retries_allow_it_and_awaited_where_not() -> None:
    host = Host()
    host.promote(lineage(1), lineage(2, retries=1), lineage(3, retries=-1))
    host.die(executors=frozenset({EXECUTOR}))
    host.seen(DRIVER, OTHER)
    host.lose_patience()
    heirs = {heir.lineage.task_id: heir for heir in host.adoption.heirs()}
    assert heirs[task(1)].task is None
    assert heirs[task(2)].retries_left == 0
    assert heirs[task(2)].task is not None
    assert heirs[task(3)].task is not None
    host.seen(EXECUTOR)  # it has begun nothing
    assert heirs[task(1)].task is not None


@pytest.mark.fault(10)
def test_a_silent_executor_that_dies_is_charged_once() -> None:
    host = Host()
    host.promote(lineage(1, retries=1))
    host.die(executors=frozenset({EXECUTOR, OTHER}))
    host.seen(DRIVER)
    host.lose_patience()
    (heir,) = host.adoption.heirs()
    assert heir.task is None, "two may have begun it, one retry is left"
    host.die(EXECUTOR)
    assert heir.task is None
    host.seen(OTHER)
    assert heir.task is not None
    assert heir.retries_left == 0


@pytest.mark.fault(10)
def test_what_the_silent_tell_of_a_task_that_was_submitted_again_comes_too_late() -> None:
    host = Host()
    inside = ref(7, EXECUTOR)
    host.objects.on_promote(EXECUTOR, Promote([Promoted(inside, b"inner")]))
    host.promote(lineage(1, retries=3), lineage(2, retries=3))
    host.die(executors=frozenset({EXECUTOR}))
    host.seen(DRIVER, OTHER)
    host.lose_patience()
    host.thawed.clear()
    host.orphans(
        finished=[Orphan(task(1), 0, 1, 5, Result(5, [b"old"], [[inside]]))], running=[Orphan(task(2), 0, 1, 6)]
    )
    assert host.take(CarrierDone) == [CarrierDone([task(1)])]
    host.seen(EXECUTOR)
    assert host.thawed == [ThawLease(EXECUTOR, SUBMITTER, kill=True)]
    assert host.value(1) is None
    assert all(heir.runner is None for heir in host.adoption.heirs())


@pytest.mark.fault(10)
def test_what_only_the_dead_and_perhaps_the_silent_hold_waits_for_them() -> None:
    host = Host()
    host.promote(lineage(1), held=False)
    host.die()
    host.seen(DRIVER, EXECUTOR)
    host.lose_patience()
    assert host.run() is None
    assert host.objects.knows(ref(1))
    host.objects.on_hold(OTHER, Hold(0, [ref(1)]))
    host.seen(OTHER)
    assert host.run() is not None


@pytest.mark.fault(8)
def test_the_functions_of_a_living_submitter_are_those_that_it_counts_on() -> None:
    """A lineage that is here keeps its own; one that comes when it was forgotten brings it again."""
    host = Host()
    other = Blob(b"g" * 16, "g", b"code")
    host.promote(
        lineage(1),
        lineage(2, function=other.hash, blob=other, forget=[FUNCTION.hash]),
        lineage(3, blob=FUNCTION, forget=[other.hash]),
        lineage(4, blob=None),
    )
    assert host.adoption._blobs == {SUBMITTER: {FUNCTION.hash: FUNCTION}}
    assert [heir.blob for heir in host.adoption.heirs()] == [FUNCTION, other, FUNCTION, FUNCTION]
    host.settle()
    assert not host.adoption._blobs
    assert host.adoption.adopted == 4


@pytest.mark.fault(8)
def test_functions_count_as_long_as_a_lineage_holds_them_each_once() -> None:
    host = Host(msgspec.structs.replace(DEFAULT, lineage_max_bytes=20_000))
    large, other = Blob(FUNCTION.hash, "f", bytes(12_000)), Blob(b"g" * 16, "g", bytes(12_000))
    host.promote(lineage(1, blob=large))
    host.promote(*(lineage(number, blob=None) for number in (2, 3, 4)))
    host.promote(lineage(5, function=other.hash, blob=other))
    assert [heir.lineage.task_id for heir in host.adoption.heirs()] == [task(number) for number in (1, 2, 3, 4)]
    host.objects.on_resolve(SUBMITTER, Resolve([Promoted(ref(number), b"v") for number in (1, 2, 3)]))
    host.perform()
    host.promote(lineage(6, function=other.hash, blob=None))
    assert len(host.adoption.heirs()) == 1, "one still holds the first function"
    host.objects.on_resolve(SUBMITTER, Resolve([Promoted(ref(4), b"v")]))
    host.perform()
    host.promote(lineage(7, function=other.hash, blob=None))
    assert [heir.blob for heir in host.adoption.heirs()] == [other]
