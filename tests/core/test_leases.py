"""Who gets the slots: granting, fairness, debts, the ends of leases."""

from __future__ import annotations

from random import Random
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshray.config import DEFAULT, Config
from meshray.core.demands import Wanted
from meshray.core.effects import ActorSlot, ActorWaits, JobForgotten, KillProcess, Send, StartWorker
from meshray.core.leases import Leases
from meshray.core.placement import Here, Member, Placement
from meshray.ids import peer_of
from meshray.resources import to_amounts
from meshray.strategy import LabelTest, Strategy
from meshray.wire.messages import (
    AskAlso,
    Bind,
    Code,
    Demand,
    Exit,
    Failure,
    Infeasible,
    JobInfo,
    JobWanted,
    LeaseGranted,
    LeaseLost,
    LeaseRevoked,
    LeaseWanted,
    LoadNow,
    Profile,
    Result,
)

OWN = ("/usr/bin/python", "/usr")
CRASH = Failure("WorkerCrashedError", "killed by signal 11 (SIGSEGV)")
M = TypeVar("M")


def driver(number: int) -> bytes:
    return b"node____drv" + number.to_bytes(5, "big")


def job_info(job: bytes, interpreter: tuple[str, str] = OWN) -> JobInfo:
    return JobInfo(job, interpreter[0], interpreter[1], [], "/", "", "ns")


class Host:
    """One peer's leases with workers that start at once, and submitters that remember what they were told."""

    def __init__(self, jobs: int = 1, config: Config = DEFAULT, **total: float) -> None:
        self.leases = Leases(to_amounts(total), OWN, config)
        self.now = 0.0
        self.starts_workers = True
        self.told: list[tuple[bytes, Any]] = []
        self.started: list[StartWorker] = []
        self.killed: list[bytes] = []
        self.exiting: list[bytes] = []
        self.slots: list[ActorSlot] = []
        self.waits: list[ActorWaits] = []
        self.forgotten: list[bytes] = []  # jobs
        self._workers = 0
        for number in range(jobs):
            self.leases.on_job_started(job_info(driver(number)))

    def perform(self) -> None:
        while effects := self.leases.take_effects():
            for effect in effects:
                if isinstance(effect, Send):
                    self.told.append((effect.to, effect.message))
                    if isinstance(effect.message, Exit):
                        self.exiting.append(effect.to)
                elif isinstance(effect, StartWorker):
                    self.started.append(effect)
                    if self.starts_workers:
                        self.ready(effect.ticket)
                elif isinstance(effect, KillProcess):
                    self.killed.append(effect.process)
                elif isinstance(effect, ActorSlot):
                    self.slots.append(effect)
                elif isinstance(effect, ActorWaits):
                    self.waits.append(effect)
                elif isinstance(effect, JobForgotten):
                    self.forgotten.append(effect.job)
        self.leases.check()

    def ready(self, ticket: int) -> bytes:
        self._workers += 1
        process = b"node____wrk" + self._workers.to_bytes(5, "big")
        self.leases.on_worker_ready(ticket, process, self.now)
        return process

    def demand(self, submitter: bytes, count: int, class_id: int = 1, depth: int = 0, **request: float) -> None:
        amounts = to_amounts(request or {"CPU": 1})
        profile = Profile(gpus="GPU" in amounts)
        self.leases.on_demand(submitter, Demand(class_id, count, amounts, profile, depth, f"f{depth}"), self.now)
        self.perform()

    def thaw(self, worker: bytes, submitter: bytes, kill: bool = False) -> None:
        self.leases.on_thawed(worker, submitter, kill, self.now)
        self.perform()

    def give_back(self, submitter: bytes, *granted: LeaseGranted) -> None:
        self.leases.on_returned(submitter, [grant.lease for grant in granted], self.now)
        self.perform()

    def die(self, process: bytes, finished: list[Result] | None = None, started: list[int] | None = None) -> None:
        self.leases.on_process_died(process, finished or [], started or [], CRASH, self.now)
        self.perform()

    def wait(self, seconds: float) -> None:
        """Time passes; ticks come when they were asked for."""
        until = self.now + seconds
        for _ in range(1000):
            deadline = self.leases.deadline()
            if deadline is None or deadline > until:
                break
            self.now = max(self.now, deadline)
            self.leases.tick(self.now)
            self.perform()
        else:
            raise AssertionError(f"asks for ticks for ever, at {deadline}")
        self.now = until

    def take(self, kind: type[M], to: bytes | None = None) -> list[M]:
        """What was told of this kind since the last time, and forget it."""
        found = [(who, said) for who, said in self.told if isinstance(said, kind) and to in (None, who)]
        self.told = [entry for entry in self.told if entry not in found]
        return [said for _, said in found]

    def available(self, name: str = "CPU") -> float:
        return self.leases.available().get(name, 0) / 10_000


A, B = driver(0), driver(1)


def test_grants_up_to_the_slots_and_binds_first() -> None:
    host = Host(CPU=2)
    host.demand(A, 5)
    granted = host.take(LeaseGranted, A)
    assert len(granted) == 2
    assert host.available() == 0
    order = [type(said).__name__ for _, said in host.told]
    assert order == ["Bind", "Bind"]
    bind = host.take(Bind)[0]
    assert bind.env["OMP_NUM_THREADS"] == "1"
    assert bind.env["CUDA_VISIBLE_DEVICES"] == ""
    host.give_back(A, granted[0])
    assert [grant.worker for grant in host.take(LeaseGranted)] == [granted[0].worker]  # the warm one, not bound again
    assert not host.take(Bind)


def test_a_demand_is_absolute_and_may_be_repeated() -> None:
    host = Host(CPU=4)
    host.demand(A, 2)
    host.demand(A, 2)
    assert len(host.take(LeaseGranted)) == 2


def test_a_grant_nobody_wants_any_more_is_dropped_before_it_is_told() -> None:
    host = Host(CPU=2)
    host.starts_workers = False
    host.demand(A, 2)
    host.demand(A, 0)
    assert host.available() == 2
    assert len(host.started) == 2
    for started in host.started:
        host.ready(started.ticket)
    host.perform()
    assert not host.take(LeaseGranted)


def test_prestarted_workers_serve_whoever_comes() -> None:
    host = Host(CPU=2)
    host.leases.start(host.now)
    host.perform()
    assert [started.job for started in host.started] == [None, None]
    host.demand(A, 2)
    assert len(host.started) == 2


def test_another_interpreter_never_gets_a_generic_worker() -> None:
    host = Host(CPU=2)
    host.leases.start(host.now)
    host.leases.on_job_started(job_info(driver(7), ("/venv/bin/python", "/venv")))
    host.demand(driver(7), 1)
    assert host.started[-1].job is not None
    assert host.started[-1].job.prefix == "/venv"
    assert len(host.take(LeaseGranted)) == 1


def test_who_wants_a_place_for_a_job_that_is_not_known_is_refused() -> None:
    host = Host(jobs=0, CPU=1)
    host.leases.request_actor_slot(b"actor".ljust(24), driver(7), {"CPU": 10_000}, {}, Profile(actor=True), host.now)
    host.perform()
    (refused,) = host.waits
    assert refused.strange
    assert driver(7).hex() in refused.message


def test_a_job_that_is_over_can_come_for_its_detached_actors() -> None:
    host = Host(jobs=0, CPU=1)
    needed = {driver(7)}
    host.leases.job_is_needed = needed.__contains__
    host.leases.on_job_left(job_info(driver(7)), host.now)
    assert host.leases.knows_job(driver(7))
    assert not host.leases.serves(driver(7))
    host.leases.request_actor_slot(b"actor".ljust(24), driver(7), {"CPU": 10_000}, {}, Profile(actor=True), host.now)
    host.perform()
    assert len(host.slots) == 1
    needed.clear()
    host.leases.release_actor(b"actor".ljust(24), host.now)
    host.perform()
    host.die(host.slots[0].worker)
    assert not host.leases.knows_job(driver(7))


def test_a_job_that_ends_before_its_code_is_known_does_without_it() -> None:
    host = Host(jobs=0, CPU=1)
    host.leases.job_is_needed = lambda job: True
    host.leases.on_job_started(job_info(driver(7)), code_follows=True)
    host.leases.on_job_ended(driver(7), frozenset(), host.now)
    host.leases.request_actor_slot(b"actor".ljust(24), driver(7), {"CPU": 10_000}, {}, Profile(actor=True), host.now)
    host.perform()
    assert len(host.slots) == 1


def test_two_jobs_never_share_a_worker() -> None:
    host = Host(2, CPU=1)
    host.demand(A, 1)
    (first,) = host.take(LeaseGranted)
    host.demand(A, 0)
    host.give_back(A, first)
    host.demand(B, 1)
    (second,) = host.take(LeaseGranted, B)
    assert second.worker != first.worker


def test_a_job_gets_nothing_before_its_code_is_known() -> None:
    host = Host(CPU=2)
    theirs = driver(7)
    info = job_info(theirs)
    whole = msgspec.structs.replace(info, code=Code(b"hash"))
    host.leases.on_job_started(info, code_follows=True)
    host.demand(theirs, 1)
    host.leases.request_actor_slot(b"actor".ljust(24), theirs, {"CPU": 10_000}, {}, Profile(actor=True), host.now)
    host.perform()
    assert not host.take(LeaseGranted)
    assert not host.slots
    host.demand(A, 2)  # others do not wait for it, nor are they asked to leave
    taken = host.take(LeaseGranted, A)
    assert len(taken) == 2
    host.wait(1.0)
    assert not host.take(LeaseRevoked)
    assert not host.take(LeaseWanted)
    host.leases.on_code_known(whole, host.now)
    host.leases.on_code_known(msgspec.structs.replace(info, code=Code(b"other")), host.now)
    host.perform()
    assert host.take(LeaseWanted, A) or host.take(LeaseRevoked, A)
    host.demand(A, 0)
    host.give_back(A, *taken)
    assert len(host.take(LeaseGranted, theirs)) == 1
    assert len(host.slots) == 1
    assert [bind.job for bind in host.take(Bind) if bind.job.job == theirs] == [whole, whole]


def test_when_its_host_is_gone_a_job_does_without_code() -> None:
    host = Host(CPU=2)
    theirs = driver(7)
    info = job_info(theirs)
    host.leases.on_job_started(info, code_follows=True)
    host.leases.on_member_gone(b"somebody", "it is dead", host.now)
    host.leases.request_actor_slot(b"actor".ljust(24), theirs, {"CPU": 10_000}, {}, Profile(actor=True), host.now)
    host.perform()
    assert not host.slots
    host.leases.on_member_gone(theirs[:8], "it is dead", host.now)
    host.perform()
    assert len(host.slots) == 1
    assert [bind.job.code for bind in host.take(Bind)] == [Code()]


def test_a_host_that_comes_back_before_anything_has_run_without_code_tells_it_after_all() -> None:
    host = Host(CPU=2)
    theirs = driver(7)
    info = job_info(theirs)
    host.leases.on_job_started(info, code_follows=True)
    host.leases.on_member_gone(theirs[:8], "it is dead", host.now)
    host.leases.on_job_started(info, code_follows=True)
    host.demand(theirs, 1)
    assert not host.take(LeaseGranted)
    host.leases.on_code_known(msgspec.structs.replace(info, code=Code(b"hash")), host.now)
    host.perform()
    assert len(host.take(LeaseGranted, theirs)) == 1


def test_a_job_that_ends_before_its_code_is_known() -> None:
    host = Host(jobs=0, CPU=2)
    info = job_info(driver(7))
    host.leases.on_job_started(info, code_follows=True)
    host.demand(driver(7), 1)
    host.leases.on_job_ended(driver(7), frozenset(), host.now)
    host.perform()
    assert not host.leases.serves(driver(7))
    assert not host.leases.waiting()
    host.leases.on_job_started(msgspec.structs.replace(info, code=Code()))  # its host was cut off for a while
    host.demand(driver(7), 1)
    assert len(host.take(LeaseGranted)) == 1


def test_a_job_whose_driver_is_gone_is_known_for_its_detached_actors_and_then_forgotten() -> None:
    host = Host(jobs=0, CPU=2)
    job, needed = driver(7), {driver(7)}
    host.leases.job_is_needed = lambda job: job in needed
    actor_id = b"actor".ljust(24)
    host.leases.request_actor_slot(actor_id, job, {"CPU": 10_000}, {}, Profile(actor=True), host.now)
    host.wait(5.0)
    assert not host.slots, "nothing is known of it"
    host.leases.on_job_left(job_info(job), host.now)
    host.leases.on_job_left(msgspec.structs.replace(job_info(job), code=Code(b"other")), host.now)
    host.perform()
    assert [slot.actor_id for slot in host.slots] == [actor_id]
    assert [bind.job for bind in host.take(Bind)] == [job_info(job)]
    assert host.leases.knows_job(job)
    assert not host.leases.serves(job), "it is over for everything else"
    host.leases.release_actor(actor_id, host.now)
    host.perform()
    host.die(host.slots[0].worker)
    assert not host.forgotten
    needed.clear()
    host.leases.tidy(host.now)
    host.leases.tidy(host.now)
    host.perform()
    assert host.forgotten == [job]
    assert not host.leases.knows_job(job)


def test_an_actor_that_nobody_needs_does_not_wait_for_its_job() -> None:
    host = Host(jobs=0, CPU=2)
    needed = [True]
    host.leases.job_is_needed = lambda job: needed[0]
    host.leases.request_actor_slot(bytes(24), driver(7), {"CPU": 10_000}, {}, Profile(actor=True), host.now)
    host.leases.release_actor(bytes(24), host.now)
    host.leases.on_job_left(job_info(driver(7)), host.now)
    host.perform()
    assert not host.slots
    host.leases.request_actor_slot(bytes(24), driver(8), {"CPU": 10_000}, {}, Profile(actor=True), host.now)
    needed[0] = False
    host.leases.tidy(host.now)
    host.perform()
    assert [told.strange for told in host.waits] == [True]


def test_a_job_that_had_to_do_without_code_has_it_after_all() -> None:
    host = Host(jobs=0, CPU=2)
    info = job_info(driver(7))
    host.leases.job_is_needed = lambda job: True
    host.leases.on_job_started(info, code_follows=True)
    host.leases.on_member_gone(driver(7)[:8], "it is dead", host.now)
    host.leases.on_job_left(msgspec.structs.replace(info, code=Code(b"hash")), host.now)
    host.leases.request_actor_slot(bytes(24), driver(7), {"CPU": 10_000}, {}, Profile(actor=True), host.now)
    host.perform()
    assert [bind.job.code for bind in host.take(Bind)] == [Code(b"hash")]


def test_round_robin_by_job() -> None:
    host = Host(2, CPU=4)
    host.starts_workers = False
    host.demand(A, 1)
    host.demand(B, 100)
    for started in host.started:
        host.ready(started.ticket)
    host.starts_workers = True
    host.perform()
    host.demand(A, 100)
    granted = host.take(LeaseGranted, B)
    assert len(granted) == 3
    for grant in granted[:2]:
        host.give_back(B, grant)
    assert len(host.take(LeaseGranted, A)) == 2  # the first and one of the two; the other went to B
    assert len(host.take(LeaseGranted, B)) == 1


def test_deepest_first_within_a_job() -> None:
    host = Host(CPU=1)
    host.demand(A, 1, class_id=1)
    (first,) = host.take(LeaseGranted)
    host.demand(A, 1, class_id=2)
    host.demand(A, 1, class_id=3, depth=2)
    host.demand(A, 1, class_id=4, depth=1)
    host.demand(A, 0, class_id=1)
    host.give_back(A, first)
    assert [grant.class_id for grant in host.take(LeaseGranted)] == [3]


def test_a_second_driver_begins_after_the_quantum() -> None:
    host = Host(2, CPU=2)
    host.demand(A, 1_000_000)
    granted = host.take(LeaseGranted, A)
    host.wait(5)
    assert not host.take(LeaseRevoked)  # nobody else waits
    host.demand(B, 1)
    host.wait(0)
    (revoked,) = host.take(LeaseRevoked, A)
    host.give_back(A, next(grant for grant in granted if grant.lease == revoked.lease))
    assert len(host.take(LeaseGranted, B)) == 1
    assert not host.take(LeaseGranted, A)


def test_who_could_serve_somebody_is_told_once() -> None:
    """So that a lease that lies idle comes back at once, before any quantum."""
    host = Host(2, CPU=2)
    host.demand(A, 2)
    granted = host.take(LeaseGranted, A)
    host.demand(B, 1)
    assert {each.lease for each in host.take(LeaseWanted, A)} == {grant.lease for grant in granted}
    host.demand(B, 2)
    assert not host.take(LeaseWanted)
    host.demand(A, 1)
    host.give_back(A, granted[0])
    assert len(host.take(LeaseGranted, B)) == 1


def test_a_young_lease_serves_its_quantum() -> None:
    host = Host(2, CPU=1)
    host.demand(A, 10)
    host.demand(B, 10)
    host.wait(DEFAULT.lease_quantum_s / 2)
    assert not host.take(LeaseRevoked)
    host.wait(DEFAULT.lease_quantum_s)
    assert len(host.take(LeaseRevoked, A)) == 1


def test_equal_shares_are_left_alone() -> None:
    host = Host(2, CPU=2)
    host.demand(A, 1)
    host.demand(B, 1)
    host.demand(A, 50)
    host.demand(B, 50)
    host.wait(10)
    assert not host.take(LeaseRevoked)


def test_a_blocked_worker_gives_its_cpu_and_wakes_into_debt() -> None:
    host = Host(CPU=1, GPU=1)
    host.demand(A, 1, CPU=1, GPU=1)
    (outer,) = host.take(LeaseGranted)
    host.leases.on_blocked(outer.worker, 1, host.now)
    assert (host.available(), host.available("GPU")) == (1, 0)  # the device is not given back
    host.demand(outer.worker, 1, depth=1)
    (inner,) = host.take(LeaseGranted, outer.worker)
    host.leases.on_unblocked(outer.worker, 1, host.now)
    assert host.leases.slots.debt == 10_000
    host.demand(outer.worker, 2, depth=1)
    assert not host.take(LeaseGranted)
    host.give_back(outer.worker, inner)
    assert host.leases.slots.debt == 0
    assert not host.take(LeaseGranted)  # the debt is repaid, nothing is free
    host.demand(outer.worker, 0, depth=1)
    host.demand(A, 0)
    host.give_back(A, outer)
    assert host.available() == 1


def test_blocks_are_idempotent_by_since() -> None:
    host = Host(CPU=1)
    host.demand(A, 1)
    (lease,) = host.take(LeaseGranted)
    for _ in range(2):
        host.leases.on_blocked(lease.worker, 3, host.now)
    for _ in range(2):
        host.leases.on_unblocked(lease.worker, 3, host.now)
    host.leases.on_blocked(lease.worker, 3, host.now)  # late
    host.perform()
    assert host.available() == 0


def test_a_lease_returned_by_a_blocked_worker_is_counted_once() -> None:
    host = Host(CPU=1)
    host.demand(A, 1)
    (lease,) = host.take(LeaseGranted)
    host.leases.on_blocked(lease.worker, 1, host.now)
    host.give_back(A, lease)
    host.leases.on_unblocked(lease.worker, 1, host.now)
    host.perform()
    assert host.leases.slots.used["CPU"] == 10_000  # granted again; the late wake charged nobody


def test_recursion_through_get_200_deep_on_two_cpus() -> None:
    host = Host(CPU=2)
    submitter = A
    chain = []
    for depth in range(200):
        host.demand(submitter, 1, depth=depth)
        (lease,) = host.take(LeaseGranted, submitter)
        host.leases.on_blocked(lease.worker, 1, host.now)
        chain.append((submitter, lease))
        submitter = lease.worker
    for submitter, lease in reversed(chain):
        host.leases.on_unblocked(lease.worker, 1, host.now)
        host.demand(submitter, 0)
        host.give_back(submitter, lease)
    assert host.available() == 2
    assert host.leases.workers.counts() == {"starting": 0, "leased": 0, "idle": 201}  # and a spare one
    host.wait(DEFAULT.worker_idle_s + 1)
    assert host.leases.workers.counts()["idle"] == 2


def test_a_dead_worker_is_told_with_its_journal() -> None:
    host = Host(CPU=1)
    host.demand(A, 1)
    (lease,) = host.take(LeaseGranted)
    result = Result(4, [b"x"])
    host.die(lease.worker, [result], [5])
    (lost,) = host.take(LeaseLost, A)
    assert (lost.lease, lost.finished, lost.started, lost.failure) == (lease.lease, [result], [5], CRASH)
    (again,) = host.take(LeaseGranted, A)
    assert again.worker != lease.worker
    host.give_back(A, lease)  # late: ignored
    assert host.leases.stale == 1


def frozen() -> tuple[Host, LeaseGranted, LeaseGranted]:
    """A host where a submitter has died: its own lease, and the one it left behind."""
    host = Host(CPU=2)
    host.demand(A, 1)
    (outer,) = host.take(LeaseGranted)
    host.demand(outer.worker, 1, depth=1)
    (inner,) = host.take(LeaseGranted, outer.worker)
    host.die(outer.worker, started=[1])
    return host, outer, inner


def test_the_leases_of_a_dead_submitter_are_frozen() -> None:
    host, outer, inner = frozen()
    assert not host.killed
    host.demand(A, 3)
    assert all(grant.worker != inner.worker for grant in host.take(LeaseGranted, A))
    host.thaw(inner.worker, A)  # whose it is not
    host.give_back(outer.worker, inner)  # late
    assert not host.take(LeaseGranted)
    host.thaw(inner.worker, outer.worker)
    (again,) = host.take(LeaseGranted, A)
    assert again.worker == inner.worker


def test_a_frozen_worker_that_runs_what_nobody_wants_is_killed() -> None:
    host, outer, inner = frozen()
    host.thaw(inner.worker, outer.worker, kill=True)
    assert host.killed == [inner.worker]
    host.die(inner.worker)
    assert not host.take(LeaseLost, outer.worker)
    assert host.available() == 1  # the driver asks for one again


def test_the_end_of_a_job_takes_frozen_workers() -> None:
    host, _, inner = frozen()
    host.leases.on_job_ended(A, frozenset(), host.now)
    host.perform()
    assert inner.worker in host.killed


def test_a_worker_does_not_get_its_own_tasks() -> None:
    host = Host(CPU=2)
    host.demand(A, 1)
    (outer,) = host.take(LeaseGranted)
    host.demand(A, 0)
    host.give_back(A, outer)  # its task has ended, what it submitted has not
    host.demand(outer.worker, 2, depth=1)
    assert all(grant.worker != outer.worker for grant in host.take(LeaseGranted, outer.worker))


def test_the_end_of_a_job_takes_its_workers() -> None:
    host = Host(2, CPU=4)
    host.demand(A, 2)
    host.demand(B, 1)
    mine = {grant.worker for grant in host.take(LeaseGranted, A)}
    host.leases.on_job_ended(A, frozenset(), host.now)
    host.perform()
    assert set(host.killed) == mine
    for worker in mine:
        host.die(worker)
    assert host.available() == 3
    host.demand(A, 1)
    assert not host.take(LeaseGranted, A)


def test_gpus_are_ids() -> None:
    host = Host(CPU=8, GPU=2)
    host.demand(A, 2, class_id=1, GPU=0.5)
    halves = host.take(LeaseGranted)
    assert [grant.gpu_ids for grant in halves] == [[0], [0]]
    host.demand(A, 1, class_id=2, GPU=1)
    assert [grant.gpu_ids for grant in host.take(LeaseGranted)] == [[1]]
    assert [bind.env["CUDA_VISIBLE_DEVICES"] for bind in host.take(Bind)] == ["0", "0", "1"]
    host.demand(A, 3, class_id=1, GPU=0.5)
    assert not host.take(LeaseGranted)


def test_fractions_do_not_share_what_is_left_of_two_devices() -> None:
    host = Host(GPU=2)
    host.demand(A, 2, class_id=1, GPU=0.6)
    assert [grant.gpu_ids for grant in host.take(LeaseGranted)] == [[0], [1]]
    host.demand(A, 1, class_id=2, GPU=0.8)  # 0.4 + 0.4 are free
    assert not host.take(LeaseGranted)


@pytest.mark.parametrize("request_", [{"CPU": 9.0}, {"GPU": 1.5}, {"unicorn": 1.0}])
def test_what_can_never_run_is_told_once(request_: dict[str, float]) -> None:
    host = Host(CPU=2, GPU=2)
    host.demand(A, 1, **request_)
    host.wait(DEFAULT.infeasible_after_s / 2)
    assert not host.take(Infeasible)
    host.wait(30)
    (told,) = host.take(Infeasible, A)
    assert next(iter(request_)) in told.message
    host.demand(A, 1, class_id=2)
    assert len(host.take(LeaseGranted)) == 1


def test_a_crash_loop_at_start_pauses_and_is_told() -> None:
    host = Host(CPU=1)
    host.starts_workers = False
    host.demand(A, 1)
    for crash in range(DEFAULT.start_crashes_max):
        host.leases.on_worker_start_failed(host.started[crash].ticket, "exit code 1\nImportError: zmq", host.now)
        host.perform()
    assert len(host.started) == DEFAULT.start_crashes_max
    (told,) = host.take(Infeasible, A)
    assert "ImportError: zmq" in told.message
    host.wait(1.1)
    assert len(host.started) == DEFAULT.start_crashes_max + 1
    host.ready(host.started[-1].ticket)
    host.perform()
    assert len(host.take(LeaseGranted, A)) == 1
    assert [told.message for told in host.take(Infeasible, A)] == [""]


def test_workers_that_die_before_their_first_task_are_a_crash_loop_too() -> None:
    host = Host(CPU=1)
    host.demand(A, 1)
    for _ in range(DEFAULT.start_crashes_max):
        (lease,) = host.take(LeaseGranted)
        host.die(lease.worker)
    assert not host.take(LeaseGranted)
    assert len(host.take(Infeasible)) == 1
    host.wait(1.1)
    assert len(host.take(LeaseGranted)) == 1


def test_a_worker_that_never_gets_ready_is_given_up() -> None:
    host = Host(CPU=1)
    host.starts_workers = False
    host.demand(A, 1)
    host.wait(DEFAULT.worker_start_timeout_s + 1)
    assert len(host.started) == 2
    assert not host.leases.workers.on_ready(host.started[0].ticket, b"late" * 4, host.now)


def test_the_cap_on_workers_names_the_chain() -> None:
    config = msgspec.structs.replace(DEFAULT, workers_max=3)
    host = Host(config=config, CPU=1)
    submitter = A
    for depth in range(3):
        host.demand(submitter, 1, depth=depth)
        (lease,) = host.take(LeaseGranted)
        host.leases.on_blocked(lease.worker, 1, host.now)
        submitter = lease.worker
    host.demand(submitter, 1, depth=3)
    host.wait(2)
    (told,) = host.take(Infeasible, submitter)
    assert told.message == (
        "all 3 workers that this peer may have are taken (workers_max); 3 of them wait for others: f0 -> f1 -> f2"
    )


def test_the_cap_on_workers_says_what_sets_it_and_whom_actors_take() -> None:
    config = msgspec.structs.replace(DEFAULT, workers_max=2, workers_max_by="ulimit -n")
    host = Host(config=config, CPU=8)
    for number in range(2):
        request_actor(host, number)
    host.demand(A, 1)
    host.wait(2)
    (told,) = host.take(Infeasible, A)
    assert told.message == (
        "all 2 workers that this peer may have are taken (ulimit -n); an actor keeps its own until it ends"
    )


def test_at_the_cap_an_idle_worker_makes_room() -> None:
    config = msgspec.structs.replace(DEFAULT, workers_max=1)
    host = Host(2, config, CPU=1)
    host.demand(A, 1)
    (lease,) = host.take(LeaseGranted)
    host.demand(A, 0)
    host.give_back(A, lease)
    host.demand(B, 1)
    host.die(lease.worker)
    assert len(host.take(LeaseGranted, B)) == 1


def actor(number: int) -> bytes:
    return A + number.to_bytes(8, "big")


def request_actor(host: Host, number: int, job: bytes = A, running: float = 0, **request: float) -> None:
    amounts = to_amounts(request or {"CPU": 1})
    keeps = to_amounts({"CPU": running})
    host.leases.request_actor_slot(actor(number), job, amounts, keeps, Profile(actor=True), host.now)
    host.perform()


def test_an_actor_that_waits_has_a_name() -> None:
    host = Host(CPU=1)
    host.demand(A, 1)
    profile = Profile(actor=True)
    host.leases.request_actor_slot(actor(1), A, {"CPU": 10_000}, {}, profile, host.now, name="Counter")
    (wanted,) = host.leases.waiting()
    assert (wanted.name, wanted.is_actor) == ("Counter", True)


def test_an_actor_is_placed_and_keeps_only_what_it_needs() -> None:
    host = Host(CPU=1)
    request_actor(host, 1)
    request_actor(host, 1)
    request_actor(host, 2)
    (slot,) = host.slots
    assert slot.actor_id == actor(1)
    host.leases.actor_placed(actor(1), host.now)
    host.perform()
    assert [slot.actor_id for slot in host.slots] == [actor(1), actor(2)]
    assert host.slots[0].worker != host.slots[1].worker
    host.die(host.slots[0].worker)
    host.leases.release_actor(actor(2), host.now)
    host.perform()
    assert host.killed == [host.slots[1].worker]
    host.die(host.slots[1].worker)
    assert host.available() == 1


@pytest.mark.fault(16)
def test_an_actor_that_comes_again_waits_for_the_end_of_its_last_worker_here() -> None:
    """Its owner gave the place back, and this peer has become its owner."""
    host = Host(CPU=2)
    request_actor(host, 1)
    (slot,) = host.slots
    host.leases.release_actor(actor(1), host.now)
    host.perform()
    assert host.killed == [slot.worker]
    request_actor(host, 1)
    assert len(host.slots) == 1, "nobody lives twice"
    host.die(slot.worker)
    assert len(host.slots) == 2
    assert host.slots[1].worker != slot.worker


def test_an_actor_that_comes_again_and_goes_leaves_nothing() -> None:
    host = Host(CPU=2)
    request_actor(host, 1)
    (slot,) = host.slots
    for _ in range(2):
        host.leases.release_actor(actor(1), host.now)
        request_actor(host, 1)
    host.leases.release_actor(actor(1), host.now)
    host.perform()
    host.die(slot.worker)
    assert len(host.slots) == 1


def test_an_actors_next_place_waits_for_the_death_of_the_worker_of_its_last_life() -> None:
    host = Host(CPU=2)
    request_actor(host, 1)
    host.leases.release_actor(actor(1), host.now)
    request_actor(host, 1)
    request_actor(host, 1)
    assert len(host.slots) == 1
    host.die(host.slots[0].worker)
    assert [slot.actor_id for slot in host.slots] == [actor(1), actor(1)]
    assert host.available() == 1
    host.leases.release_actor(actor(1), host.now)
    request_actor(host, 1)
    host.leases.release_actor(actor(1), host.now)
    host.perform()
    host.die(host.slots[1].worker)
    assert len(host.slots) == 2, "it is wanted no more"
    assert host.available() == 2


def test_an_actor_comes_before_queued_tasks_of_its_job() -> None:
    host = Host(CPU=2)
    host.demand(A, 1000)
    granted = {grant.lease: grant for grant in host.take(LeaseGranted)}
    request_actor(host, 1)
    host.wait(DEFAULT.lease_yield_s * 2)
    (revoked,) = host.take(LeaseRevoked, A)
    host.give_back(A, granted[revoked.lease])
    assert len(host.slots) == 1


def test_an_actor_that_outlives_its_job_keeps_its_helpers_and_restarts() -> None:
    host = Host(CPU=4)
    request_actor(host, 1)
    host.demand(host.slots[0].worker, 1)
    (helper,) = host.take(LeaseGranted, host.slots[0].worker)
    host.demand(A, 1)
    (own,) = host.take(LeaseGranted, A)
    host.leases.job_is_needed = lambda job: job == A
    going_on = host.leases.on_job_ended(A, frozenset({host.slots[0].worker}), host.now)
    assert going_on == {host.slots[0].worker, helper.worker}
    host.perform()
    assert host.killed == [own.worker]
    host.die(own.worker)
    host.die(host.slots[0].worker)
    assert host.killed == [own.worker, helper.worker]
    host.die(helper.worker)
    request_actor(host, 1)
    assert len(host.slots) == 2


def test_idle_helpers_of_an_actor_that_outlived_its_job_end_with_it() -> None:
    host = Host(CPU=4)
    request_actor(host, 1)
    (hosts,) = host.slots
    host.demand(hosts.worker, 1)
    (helper,) = host.take(LeaseGranted, hosts.worker)
    alive = True
    host.leases.job_is_needed = lambda _: alive
    host.leases.on_job_ended(A, frozenset({hosts.worker}), host.now)
    host.demand(hosts.worker, 0)
    host.give_back(hosts.worker, helper)
    assert not host.killed, "it may be needed again"
    alive = False
    host.leases.release_actor(actor(1), host.now)
    host.die(hosts.worker)
    assert host.killed == [hosts.worker, helper.worker]
    host.die(helper.worker)
    assert not host.leases.serves(A)
    assert not host.leases.jobs.known


def test_an_actor_that_can_never_be_placed_is_told_to_its_job() -> None:
    host = Host(CPU=1)
    request_actor(host, 1, CPU=5)
    host.wait(3)
    (waits,) = host.waits
    assert waits.job == A
    assert "CPU" in waits.message


def test_a_large_request_is_not_starved_by_small_ones() -> None:
    host = Host(CPU=2)
    host.demand(A, 100)
    held = host.take(LeaseGranted)
    host.demand(A, 1, class_id=2, CPU=2)
    for _ in range(20):
        host.wait(DEFAULT.lease_quantum_s)
        for revoked in host.take(LeaseRevoked):
            host.give_back(A, next(grant for grant in held if grant.lease == revoked.lease))
        granted = host.take(LeaseGranted)
        held += granted
        if any(grant.class_id == 2 for grant in granted):
            return
    raise AssertionError("the large request never ran")


def test_a_submitter_that_dies_with_its_job_gets_nothing_more() -> None:
    """Between the end of a job and the death of its workers, what they had asked for must not be granted any more."""
    host = Host(3, CPU=3)
    host.demand(A, 1)
    (parent,) = host.take(LeaseGranted)
    host.demand(parent.worker, 3, 1, 1)
    children = host.take(LeaseGranted)
    host.leases.on_process_died(A, [], [], CRASH, host.now)
    host.leases.on_job_ended(A, frozenset(), host.now)
    host.perform()
    host.die(children[0].worker)
    host.demand(parent.worker, 4, 2, 1)
    assert not host.take(LeaseGranted)
    for process in list(host.killed):
        host.die(process)
    assert not any(host.leases.slots.used.values())


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes in whatever order: the books balance after each step, and all slots are free at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.host = Host(3, CPU=3, GPU=1)
        self.live: list[tuple[bytes, LeaseGranted]] = []
        self.jobs = {driver(number) for number in range(3)}
        self.since = 0

    def collect(self) -> None:
        self.live += [(who, said) for who, said in self.host.told if isinstance(said, LeaseGranted)]
        self.host.told.clear()

    @rule(
        job=st.integers(0, 2), count=st.integers(0, 4), class_id=st.integers(0, 3), nested=st.booleans(), data=st.data()
    )
    def demand(self, job: int, count: int, class_id: int, nested: bool, data: st.DataObject) -> None:
        submitter = driver(job)
        if nested and self.live:
            submitter = data.draw(st.sampled_from(self.live))[1].worker
        request = [{"CPU": 1.0}, {"CPU": 2.0}, {"CPU": 1.0, "GPU": 0.5}, {"CPU": 0.5}][class_id]
        self.host.demand(submitter, count, class_id, int(nested), **request)
        self.collect()

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        if self.live:
            entry = data.draw(st.sampled_from(self.live))
            self.live.remove(entry)
            self.host.give_back(*entry)
            self.collect()

    @rule(data=st.data(), wakes=st.booleans())
    def block(self, data: st.DataObject, wakes: bool) -> None:
        if self.live:
            worker = data.draw(st.sampled_from(self.live))[1].worker
            self.since += 1
            self.host.leases.on_blocked(worker, self.since, self.host.now)
            if wakes:
                self.host.leases.on_unblocked(worker, self.since, self.host.now)
            self.host.perform()
            self.collect()

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        if self.live:
            worker = data.draw(st.sampled_from(self.live))[1].worker
            self.host.die(worker, started=[1])
            self.collect()

    @rule(number=st.integers(0, 3), ends=st.booleans())
    def actor(self, number: int, ends: bool) -> None:
        if ends:
            self.host.leases.release_actor(actor(number), self.host.now)
            self.host.perform()
        else:
            request_actor(self.host, number)
        self.collect()

    @rule(job=st.integers(0, 2))
    def end_job(self, job: int) -> None:
        self.jobs.discard(driver(job))
        self.host.leases.on_process_died(driver(job), [], [], CRASH, self.host.now)
        self.host.leases.on_job_ended(driver(job), frozenset(), self.host.now)
        self.host.perform()
        self.collect()

    @rule(seconds=st.sampled_from([0.02, 0.2, 70.0]))
    def time(self, seconds: float) -> None:
        self.host.wait(seconds)
        self.collect()

    @rule()
    def bury(self) -> None:
        for gone in (self.host.killed, self.host.exiting):
            for process in gone:
                self.host.die(process)
            gone.clear()
        self.collect()

    @invariant()
    def balances(self) -> None:
        self.host.leases.check()

    def teardown(self) -> None:
        for number in range(4):
            self.host.leases.release_actor(actor(number), self.host.now)
        for job in self.jobs:
            self.host.leases.on_job_ended(job, frozenset(), self.host.now)
        self.host.perform()
        while self.host.killed or self.host.exiting:
            self.bury()
        used = {name: amount for name, amount in self.host.leases.slots.used.items() if amount}
        assert not used, f"left behind: {used}"
        assert not self.host.leases.jobs.known


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, phases=(Phase.explicit, Phase.generate)
)


# -- other hosts -------------------------------------------------------------------------------------------------------

THERE = b"node_two"
STRANGER = THERE + b"worker__"
FOREIGN_JOB = THERE + b"driver__"


def test_what_waits_behind_a_large_request_passes_without_anything_happening() -> None:
    """A task waits for its own, which a large request keeps away from what is free: nobody else does anything."""
    host = Host(2, CPU=2)
    host.demand(A, 2)
    parent, _busy = host.take(LeaseGranted, A)
    host.leases.on_blocked(parent.worker, 1, host.now)
    host.demand(B, 1, CPU=2)
    host.wait(DEFAULT.lease_quantum_s * 2)
    host.demand(parent.worker, 1, depth=1)
    assert not host.take(LeaseGranted, parent.worker), "the large one keeps its place"
    host.wait(DEFAULT.lease_reserve_s * 2)
    assert len(host.take(LeaseGranted, parent.worker)) == 1


def meshed(jobs: int = 1, config: Config = DEFAULT, labels: dict[str, str] | None = None, **total: float) -> Host:
    """A peer among others; its drivers have its home node in their ids."""
    host = Host(jobs, config, **total)
    amounts = host.leases.slots.total
    host.leases = Leases(amounts, OWN, config, here=Here(b"node____", labels or {}, Random(1)))
    for number in range(jobs):
        host.leases.on_job_started(job_info(driver(number)))
    return host


def tell(host: Host, node: bytes, used: float = 0, **total: float) -> None:
    member = Member(node, node.decode(), to_amounts(total), to_amounts({"CPU": used}), {})
    host.leases.on_member(member, host.now)
    host.perform()


def foreign_demand(host: Host, count: int, job: bytes = FOREIGN_JOB, submitter: bytes = STRANGER) -> None:
    host.leases.on_demand(submitter, Demand(1, count, to_amounts({"CPU": 1}), hops=1), host.now, job)
    host.perform()


def test_numbers_of_leases_of_two_peers_differ() -> None:
    numbers = []
    for node in (b"\0\0\0\0\0\0\0\1", b"\xff" * 8, b"node____"):
        leases = Leases(to_amounts({"CPU": 1}), OWN, DEFAULT, here=Here(node))
        leases.on_job_started(job_info(A))
        host = Host(0, CPU=1)
        host.leases = leases
        host.leases.on_demand(node + b"submittr", Demand(1, 1, to_amounts({"CPU": 1})), 0.0, A)
        host.perform()
        numbers.append(host.take(LeaseGranted)[0].lease)
    assert len({number >> 40 for number in numbers}) == 3
    assert max(numbers) < 2**62
    assert numbers[0] == 1


def test_what_does_not_fit_here_may_be_asked_for_elsewhere() -> None:
    host = meshed(CPU=2)
    tell(host, THERE, CPU=4, used=1)
    host.demand(A, 6)
    assert len(host.take(LeaseGranted, A)) == 2
    assert host.take(AskAlso, A) == [AskAlso(1, peer_of(THERE), 3, 1)]
    host.demand(A, 6)
    assert not host.take(AskAlso)


def test_without_others_nobody_is_asked() -> None:
    host = meshed(CPU=1)
    host.demand(A, 5)
    host.wait(5)
    assert not host.take(AskAlso)


def test_a_load_that_shows_room_is_a_hint_at_once() -> None:
    host = meshed(CPU=1)
    tell(host, THERE, CPU=2, used=2)
    host.demand(A, 3)
    assert host.take(AskAlso, A) == [AskAlso(1, peer_of(THERE), 2, 1)], "it queues there"
    host.wait(DEFAULT.ask_again_s)
    tell(host, THERE, CPU=2)
    assert host.take(AskAlso, A) == [AskAlso(1, peer_of(THERE), 2, 1)]


def test_loads_that_come_close_together_are_looked_at_together() -> None:
    host = meshed(config=msgspec.structs.replace(DEFAULT, ask_busy_max=1), CPU=1)
    nodes = {b"first___", b"second__", b"third___", b"fourth__"}
    for node in nodes:
        tell(host, node, CPU=2, used=2)
    host.demand(A, 9)
    (queues,) = host.take(AskAlso)
    one, other, another = sorted(nodes - {queues.peer[:8]})
    host.now += 0.1
    tell(host, one, CPU=2)
    assert [ask.peer for ask in host.take(AskAlso)] == [peer_of(one)], "at once after a pause"
    since = host.now
    tell(host, other, CPU=2)
    host.leases.on_load_now(peer_of(another), LoadNow({}), host.now)
    host.perform()
    assert not host.take(AskAlso)
    assert host.leases.deadline() == since + DEFAULT.look_again_s
    host.wait(DEFAULT.look_again_s)
    assert {ask.peer for ask in host.take(AskAlso)} == {peer_of(other), peer_of(another)}


def test_what_members_tell_costs_a_peer_no_more_than_it_may_however_large_the_mesh(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = meshed(CPU=1)
    nodes = [b"n%07d" % number for number in range(100)]
    for node in nodes:
        tell(host, node, CPU=2, used=2)
    for class_id in range(40):
        host.demand(A, 2, class_id)
    host.take(AskAlso)
    looks = 0
    ranked = Placement._ranked

    def count(placement: Placement, wanted: Wanted) -> dict[int, list[Member]]:
        nonlocal looks
        looks += 1
        return ranked(placement, wanted)

    monkeypatch.setattr(Placement, "_ranked", count)
    for number in range(1, 401):  # for two seconds, each host twice a second
        host.now += 0.005
        tell(host, nodes[number % 100], CPU=2, used=2 - number % 2)
    by_themselves = 40 * 2 / DEFAULT.ask_again_s  # each class looks for one more queue
    assert 40 < looks <= 2 * DEFAULT.look_rate / 100 + 40 + by_themselves


def test_what_only_others_have_is_not_infeasible() -> None:
    host = meshed(CPU=1)
    tell(host, THERE, CPU=2, disk=1)
    host.demand(A, 1, CPU=1, disk=1)
    assert host.take(AskAlso, A) == [AskAlso(1, peer_of(THERE), 1, 1)]
    host.wait(10)
    assert not host.take(Infeasible)


def test_what_nobody_has_is_reported_until_a_member_comes_that_has_it() -> None:
    host = meshed(CPU=1)
    tell(host, b"small___", CPU=2)
    host.demand(A, 1, CPU=1, disk=1)
    host.wait(2)
    (told,) = host.take(Infeasible, A)
    assert told.message == (
        "no member can ever run it: it asks for {CPU: 1, disk: 1}, there is {CPU: 1, disk: 0} on this host, "
        "{CPU: 2, disk: 0} on small___"
    )
    assert not told.hopeless
    (wanted,) = host.leases.waiting()
    assert host.leases.why_waits(wanted) == told.message, "for who looks, as for who waits"
    tell(host, THERE, CPU=2, disk=1)
    assert not host.leases.why_waits(wanted)
    assert [said.message for said in host.take(Infeasible, A)] == [""]
    assert host.take(AskAlso, A) == [AskAlso(1, peer_of(THERE), 1, 1)]
    host.leases.on_member_gone(THERE, "dead", host.now)
    host.wait(2)
    assert "disk: 1" in host.take(Infeasible, A)[0].message


@pytest.mark.fault(24)
def test_a_node_that_is_out_of_reach_may_be_in_reach_again() -> None:
    host = meshed(CPU=1)
    tell(host, THERE, CPU=2)
    host.leases.on_member_gone(THERE, "no answer", host.now, out_of_reach=True)
    demand = Demand(1, 1, to_amounts({"CPU": 1}), strategy=Strategy(node=THERE))
    host.leases.on_demand(A, demand, host.now)
    host.perform()
    host.wait(2)
    (told,) = host.take(Infeasible, A)
    assert not told.hopeless
    assert "cannot be reached from here: no answer" in told.message
    assert "ever" not in told.message
    tell(host, THERE, CPU=2)
    assert [said.message for said in host.take(Infeasible, A)] == [""]
    assert host.take(AskAlso, A) == [AskAlso(1, peer_of(THERE), 1, 1)]
    host.leases.on_member_gone(THERE, "no answer", host.now, out_of_reach=True)
    host.perform()
    assert ["cannot be reached" in said.message for said in host.take(Infeasible, A)] == [True]
    host.leases.on_member_gone(THERE, "dead", host.now)
    host.perform()
    (told,) = host.take(Infeasible, A)
    assert told.hopeless
    assert "no such node" in told.message


def test_an_actor_that_was_created_elsewhere_and_is_ours_hears_that_its_node_is_gone() -> None:
    """A guest does not: its own peer knows."""
    for guest in (False, True):
        host = meshed(CPU=1)
        tell(host, THERE, CPU=2)
        host.leases.request_actor_slot(
            THERE + bytes(16), A, to_amounts({"CPU": 1}), {}, Profile(actor=True), host.now, Strategy(node=b"gone____"),
            guest=guest,
        )  # fmt: skip
        host.perform()
        assert not host.waits
        host.wait(2)
        assert [told.hopeless for told in host.waits] == ([] if guest else [True])


def test_a_node_that_is_not_there_will_never_be() -> None:
    host = meshed(CPU=1)
    tell(host, THERE, CPU=2)
    strategy = Strategy(node=b"gone____")
    host.leases.on_demand(A, Demand(1, 1, to_amounts({"CPU": 1}), strategy=strategy), host.now)
    host.perform()
    assert not host.take(Infeasible)
    host.wait(2)
    (told,) = host.take(Infeasible, A)
    assert told.hopeless
    assert b"gone____".hex() in told.message


def test_alone_too_a_strategy_is_kept() -> None:
    host = meshed(CPU=1, labels={"zone": "a"})
    for class_id, strategy in enumerate(
        (Strategy(node=b"node____"), Strategy(hard=(LabelTest("zone", ("a",)),)), Strategy(spread=True)), 1
    ):
        host.leases.on_demand(A, Demand(class_id, 1, to_amounts({"CPU": 0.1}), strategy=strategy), host.now)
        host.perform()
        assert len(host.take(LeaseGranted, A)) == 1, strategy
    strategy = Strategy(hard=(LabelTest("zone", ("b",)),))
    host.leases.on_demand(A, Demand(9, 1, to_amounts({"CPU": 0.1}), strategy=strategy), host.now)
    host.wait(2)
    (told,) = host.take(Infeasible, A)
    assert "zone=b" in told.message
    assert not told.hopeless


def test_a_submitter_of_another_host_is_one_like_others() -> None:
    host = meshed(CPU=2)
    host.leases.on_job_started(job_info(FOREIGN_JOB))
    foreign_demand(host, 5)
    granted = host.take(LeaseGranted, STRANGER)
    assert len(granted) == 2
    assert host.take(LoadNow, peer_of(THERE)) == [LoadNow({"CPU": 20_000})], "it could not have all"
    host.demand(A, 1)
    host.wait(DEFAULT.lease_quantum_s * 2)
    (revoked,) = host.take(LeaseRevoked, STRANGER)
    host.leases.on_returned(STRANGER, [revoked.lease], host.now)
    host.perform()
    assert len(host.take(LeaseGranted, A)) == 1
    host.die(granted[0].worker if granted[0].lease != revoked.lease else granted[1].worker, started=[1])
    assert len(host.take(LeaseLost, STRANGER)) == 1


def test_a_demand_for_a_job_that_is_not_known_asks_for_it() -> None:
    host = meshed(CPU=2)
    foreign_demand(host, 1)
    assert host.take(JobWanted, peer_of(THERE)) == [JobWanted(FOREIGN_JOB)]
    assert host.leases.stale == 1
    foreign_demand(host, 0)
    assert not host.take(JobWanted), "nothing is asked for"
    host.leases.on_job_started(job_info(FOREIGN_JOB))
    foreign_demand(host, 1)
    assert len(host.take(LeaseGranted, STRANGER)) == 1
    assert host.leases.job_info(FOREIGN_JOB) is not None


def test_a_host_that_is_gone_takes_its_demands_along() -> None:
    host = meshed(CPU=3)
    host.leases.on_job_started(job_info(FOREIGN_JOB))
    foreign_demand(host, 2)
    host.demand(A, 2)
    host.take(LeaseGranted)
    host.leases.on_node_gone(THERE, host.now)
    host.perform()
    assert len(host.killed) == 2
    for worker in list(host.killed):
        host.die(worker)
    assert not host.take(LeaseLost), "nobody is there to hear of it"
    assert len(host.take(LeaseGranted, A)) == 1, "the second one"
    assert host.available() == 1


def test_a_foreign_submitter_that_died_is_nobody() -> None:
    host = meshed(CPU=2)
    host.leases.on_job_started(job_info(FOREIGN_JOB))
    foreign_demand(host, 1)
    foreign_demand(host, 1, submitter=THERE + b"another_")
    host.leases.on_foreign_process_died(STRANGER, host.now)
    host.leases.on_foreign_process_died(driver(0), host.now)  # it is no foreigner
    host.perform()
    assert len(host.killed) == 1


def test_a_job_that_is_over_only_here_loses_its_leases_aloud() -> None:
    """Its driver's host is out of sight, but its submitter lives on a third one."""
    host = meshed(CPU=2)
    job = b"node_far" + b"driver__"
    host.leases.on_job_started(job_info(job))
    foreign_demand(host, 1, job)
    (granted,) = host.take(LeaseGranted, STRANGER)
    host.leases.on_job_ended(job, frozenset(), host.now)
    host.perform()
    host.die(granted.worker, started=[1])
    (lost,) = host.take(LeaseLost, STRANGER)
    assert lost.started == [1]
    foreign_demand(host, 1, job)
    assert host.take(JobWanted, peer_of(THERE)) == [JobWanted(job)]


def test_a_job_that_comes_back_before_its_last_worker_is_dead() -> None:
    host = meshed(CPU=2)
    host.leases.on_job_started(job_info(FOREIGN_JOB))
    foreign_demand(host, 1)
    (granted,) = host.take(LeaseGranted, STRANGER)
    host.leases.on_job_ended(FOREIGN_JOB, frozenset(), host.now)
    host.leases.on_job_started(job_info(FOREIGN_JOB))
    host.perform()
    host.die(granted.worker)
    foreign_demand(host, 1)
    assert len(host.take(LeaseGranted, STRANGER)) == 1


def test_who_goes_on_elsewhere_keeps_its_leases() -> None:
    host = meshed(CPU=2)
    host.leases.on_job_started(job_info(FOREIGN_JOB))
    foreign_demand(host, 1)
    foreign_demand(host, 1, submitter=THERE + b"another_")
    host.leases.on_job_ended(FOREIGN_JOB, frozenset({STRANGER}), host.now)
    host.perform()
    assert len(host.killed) == 1
    assert host.leases.workers_for(STRANGER)


def test_nothing_is_revoked_for_what_must_run_elsewhere() -> None:
    """It waits for a place on the host that it asks for."""
    for strategy in (Strategy(node=THERE, soft=True), Strategy(spread=True)):
        host = meshed(2, CPU=1)
        tell(host, THERE, used=1, CPU=1)
        host.demand(A, 100)
        host.take(LeaseGranted)
        demand = Demand(7, 1, to_amounts({"CPU": 1}), strategy=strategy)
        if strategy.spread:
            host.leases.placement._turn = 0 if THERE < b"node____" else 1
        host.leases.on_demand(B, demand, host.now)
        host.perform()
        host.wait(DEFAULT.spread_wait_s / 2)
        assert not host.take(LeaseRevoked), strategy
        assert not host.take(LeaseWanted), strategy


def test_who_was_sent_here_in_vain_hears_when_there_is_room() -> None:
    """A peer that believed this one to be full would go on to: loads that changed between two looks are not told."""
    host = meshed(CPU=1)
    host.leases.on_job_started(job_info(FOREIGN_JOB))
    host.demand(A, 1)
    (mine,) = host.take(LeaseGranted, A)
    foreign_demand(host, 1)
    assert host.take(LoadNow, peer_of(THERE)) == [LoadNow({"CPU": 10_000})]
    foreign_demand(host, 0)  # it was begun elsewhere
    assert not host.take(LoadNow)
    host.demand(A, 0)
    host.give_back(A, mine)
    assert host.take(LoadNow, peer_of(THERE)) == [LoadNow({})]
    host.wait(10)
    assert not host.take(LoadNow), "once"


def test_who_is_served_at_last_hears_when_there_is_room_again() -> None:
    host = meshed(CPU=1)
    host.leases.on_job_started(job_info(FOREIGN_JOB))
    host.demand(A, 1)
    (mine,) = host.take(LeaseGranted, A)
    foreign_demand(host, 1)
    host.take(LoadNow)
    host.demand(A, 0)
    host.give_back(A, mine)
    (theirs,) = host.take(LeaseGranted, STRANGER)
    assert not host.take(LoadNow), "its own lease takes all"
    foreign_demand(host, 0)
    host.give_back(STRANGER, theirs)
    assert host.take(LoadNow, peer_of(THERE)) == [LoadNow({})]


def test_those_sent_here_in_vain_are_forgotten_with_their_host() -> None:
    host = meshed(CPU=1)
    tell(host, THERE, CPU=1)
    host.leases.on_job_started(job_info(FOREIGN_JOB))
    host.demand(A, 1)
    (mine,) = host.take(LeaseGranted, A)
    foreign_demand(host, 1)
    host.leases.on_node_gone(THERE, host.now)
    host.leases.on_member_gone(THERE, "dead", host.now)
    host.perform()
    host.take(LoadNow)
    host.demand(A, 0)
    host.give_back(A, mine)
    assert not host.take(LoadNow)


def test_foreign_classes_are_bounded() -> None:
    host = meshed(config=msgspec.structs.replace(DEFAULT, foreign_classes_max=3), CPU=1)
    host.leases.on_job_started(job_info(FOREIGN_JOB))
    for number in range(5):
        foreign_demand(host, 1, submitter=THERE + number.to_bytes(8, "big"))
    assert len(host.leases.waiting()) == 2
    assert host.leases.stale == 2
    full = LoadNow({"CPU": 10_000})
    assert host.take(LoadNow, peer_of(THERE)) == [full] * 4, "two that wait, and two that are sent elsewhere"
    foreign_demand(host, 0, submitter=THERE + b"one more")
    assert not host.take(LoadNow), "it wants nothing"


def test_a_class_that_came_a_long_way_names_others_when_it_is_sent_here_directly() -> None:
    host = meshed(CPU=1)
    host.leases.on_job_started(job_info(FOREIGN_JOB))
    tell(host, b"third___", CPU=4)
    request = to_amounts({"CPU": 1})
    for hops in (DEFAULT.hops_max, 1):
        host.leases.on_demand(STRANGER, Demand(1, 3, request, hops=hops), host.now, FOREIGN_JOB)
        host.perform()
        named = [(ask.peer, ask.hops) for ask in host.take(AskAlso, STRANGER)]
        assert named == ([] if hops == DEFAULT.hops_max else [(peer_of(b"third___"), 2)])


class TestLeaving:
    def test_nothing_more_is_granted_and_what_was_is_called_back(self) -> None:
        host = Host(CPU=2)
        host.demand(A, 3)
        first, second = host.take(LeaseGranted)
        host.leases.leave(host.now)
        host.perform()
        assert {revoked.lease for revoked in host.take(LeaseRevoked)} == {first.lease, second.lease}
        assert host.leases.works()
        host.give_back(A, first)
        assert host.leases.works(), "the other one runs something"
        host.give_back(A, second)
        assert not host.leases.works()
        assert not host.take(LeaseGranted), "A wants more, and gets none here"

    def test_a_grant_that_awaits_its_worker_is_dropped(self) -> None:
        host = Host(CPU=1)
        host.starts_workers = False
        host.demand(A, 1)
        host.leases.leave(host.now)
        host.ready(host.started[0].ticket)
        host.perform()
        assert not host.take(LeaseGranted)
        assert host.available() == 1

    def test_a_task_that_runs_here_may_wait_for_its_own(self) -> None:
        host = Host(CPU=2)
        host.demand(A, 1)
        (parent,) = host.take(LeaseGranted)
        host.leases.leave(host.now)
        host.demand(parent.worker, 1, depth=1)
        (child,) = host.take(LeaseGranted, parent.worker)
        host.demand(parent.worker, 0, depth=1)
        host.give_back(parent.worker, child)
        host.give_back(A, parent)
        assert not host.leases.works()

    def test_what_has_had_its_time_is_killed_and_its_submitter_hears_why(self) -> None:
        host = Host(CPU=2)
        host.demand(A, 2)
        first, second = host.take(LeaseGranted)
        host.leases.leave(host.now)
        host.die(first.worker, started=[1])
        (crashed,) = host.take(LeaseLost)
        assert not crashed.left, "it died by itself"
        host.leases.end_work(host.now)
        host.perform()
        assert host.killed == [second.worker]
        host.die(second.worker, started=[2])
        (lost,) = host.take(LeaseLost)
        assert lost.left
        assert "left" in lost.failure.message
        assert not host.leases.works()
        host.demand(A, 1)
        assert not host.take(LeaseGranted)

    def test_who_was_killed_for_another_reason_before_is_charged(self) -> None:
        host = meshed(CPU=1)
        job = b"node_far" + b"driver__"
        host.leases.on_job_started(job_info(job))
        foreign_demand(host, 1, job)
        (granted,) = host.take(LeaseGranted, STRANGER)
        host.leases.on_job_ended(job, frozenset(), host.now)
        host.leases.leave(host.now)
        host.leases.end_work(host.now)
        host.perform()
        assert host.killed == [granted.worker]
        host.die(granted.worker, started=[1])
        (lost,) = host.take(LeaseLost, STRANGER)
        assert not lost.left
        assert "left" not in lost.failure.message
