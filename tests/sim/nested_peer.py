"""The shell of a peer that grants leases: all its cores as shipped, and workers that it starts, with what goes wrong.

Effects are performed in the order of the real shell (`peer.perform`), deaths and ends of jobs told in that of
`peer.ends` and `peer.jobs`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshray.config import Config
from meshray.core.actors import Actors
from meshray.core.adoption import Adoption
from meshray.core.effects import (
    AbandonStart,
    ActorPlaced,
    ActorSlot,
    ActorWaits,
    DetachedChanged,
    DetachedLost,
    JobForgotten,
    KillProcess,
    NameChanged,
    ReleaseActorSlot,
    RequestActorSlot,
    Send,
    StartWorker,
    SweepSegments,
    ThawLease,
    UnlinkSegment,
)
from meshray.core.leases import Leases
from meshray.core.lives import Life
from meshray.core.objects import Objects
from meshray.core.store_accounts import StoreAccounts
from meshray.wire import messages as m
from tests.sim.world import NODE, PEER, World
from tests.transit import none_in_transit

if TYPE_CHECKING:
    from tests.sim.nested import Process

OWN = ("python", "/usr")


@dataclass
class StartFaults:
    """What goes wrong with workers on their way, while it does: probabilities."""

    until: float = 0.0  # afterwards all starts go well
    fails: float = 0.0  # it dies before it attaches
    hangs: float = 0.0  # it never attaches
    dies_bound: float = 0.0  # it dies as soon as it is bound


class NestedPeer:
    """One peer with CPUs; `new_worker` makes the process that a StartWorker stands for."""

    def __init__(self, world: World, config: Config, cpus: int) -> None:
        self.world, self.process, self.alive, self.config = world, PEER, True, config
        self.store = StoreAccounts(config, 1 << 40, none_in_transit)
        self.objects = Objects(config, NODE, self.store)
        self.actors = Actors(config, NODE, self.objects)
        self.adoption = Adoption(config, PEER, self.objects)
        self.leases = Leases({"CPU": cpus * 10_000}, OWN, config)
        self.leases.job_is_needed = self._has_living_actors
        self.new_worker: Callable[[], Process] = lambda: None  # type: ignore[assignment, return-value]
        self.processes: list[Process] = []  # the workers that it has started
        self.faults = StartFaults()
        self.jobs_ended: set[bytes] = set()
        self.waits: set[bytes] = set()  # processes whose last word was Blocked
        self.seen: Counter[str] = Counter()  # effects and messages of this peer, by kind; "debt": steps in debt
        self._starting: set[int] = set()  # tickets whose worker is on its way
        self._next_tick = float("inf")
        world.parties[PEER] = self
        world.checks.append(self.check)

    def check(self) -> None:
        self.objects.check()
        self.actors.check()
        self.leases.check()
        self.adoption.check()
        self.check_running()

    def check_running(self) -> None:
        """I4, without the books: who runs a task serves the lease that it came with, and all of them take no more than
        there is, but for those that woke."""
        taken = 0
        for process in self.processes:
            if not process.alive or process.running is None:
                continue
            grant = self.leases.grant_of(process.process)
            assert grant is not None, f"{process.label} runs a task without a lease"
            assert grant.id == process.running[1], f"{process.label} runs {process.running}, and serves {grant}"
            if process.process not in self.waits:
                taken += grant.wanted.request["CPU"]
        slots = self.leases.slots
        assert taken <= slots.total["CPU"] + slots.debt, f"the tasks that run take {taken}: {slots}"
        self.seen["debt"] += bool(slots.debt)

    def _has_living_actors(self, job: bytes) -> bool:
        return any(actor.spec.job == job and actor.life is not Life.DEAD for actor in self.actors.all())

    # -- jobs and deaths ---------------------------------------------------------------------------------------------

    def start_job(self, driver: bytes, interpreter: tuple[str, str] = OWN) -> None:
        self.leases.on_job_started(m.JobInfo(driver, *interpreter, [], "/", "", "ns"))
        self.objects.on_process_attached(driver, 1, driver)

    def process_died(self, process: bytes, finished: list[m.Result], started: list[int]) -> None:
        """Its pidfd is readable; its journal, for the lease that it served."""
        failure, now = m.Failure("WorkerCrashedError", "killed"), self.world.now
        executors, served = self.leases.workers_for(process), self.leases.served_by(process)
        self.leases.on_process_died(process, finished, started, failure, now)
        self.actors.on_process_died(process, "killed by signal 9 (SIGKILL)", {}, now)
        self.adoption.on_process_died(process, finished, failure, now, executors, served)
        self.objects.on_process_died(process, "it was killed")
        self.perform()

    def end_job(self, job: bytes) -> None:
        """Its driver has detached, or died."""
        self.jobs_ended.add(job)
        self.actors.on_job_ended(job)
        survivors = self.leases.on_job_ended(job, self.actors.survivors_of(job), self.world.now)
        self.objects.on_job_ended(job, survivors)
        self.adoption.on_job_ended(job)

    def _on_detach(self, driver: bytes) -> None:
        self.end_job(driver)
        self.world.at(self.world.random.random() * 0.02, lambda: self.forget_driver(driver))

    def forget_driver(self, driver: bytes) -> None:
        """It is no more, for all cores."""
        now = self.world.now
        self.leases.on_driver_gone(driver, now)
        self.actors.on_process_died(driver, "its driver has ended", {}, now)
        self.objects.on_process_died(driver, "its driver has ended")
        self.perform()

    # -- messages ----------------------------------------------------------------------------------------------------

    def receive(self, source: bytes, message: Any) -> None:
        leases, objects, adoption, actors = self.leases, self.objects, self.adoption, self.actors
        now = self.world.now
        if isinstance(message, m.Blocked):
            self.waits.add(source)
        elif isinstance(message, m.Unblocked):
            self.waits.discard(source)
        handlers: dict[type, Callable[[], None]] = {
            m.Demand: lambda: leases.on_demand(source, message, now),
            m.LeaseReturned: lambda: leases.on_returned(source, message.leases, now),
            m.Blocked: lambda: leases.on_blocked(source, message.since, now),
            m.Unblocked: lambda: leases.on_unblocked(source, message.since, now),
            m.Promote: lambda: objects.on_promote(source, message),
            m.Resolve: lambda: objects.on_resolve(source, message),
            m.Hold: lambda: objects.on_hold(source, message),
            m.Release: lambda: objects.on_release(source, message),
            m.Fetch: lambda: objects.on_fetch(source, message),
            m.Retried: lambda: adoption.on_retried(source, message),
            m.Orphans: lambda: adoption.on_orphans(source, message, now),
            m.OrphanDone: lambda: adoption.on_orphan_done(source, message, now),
            m.Results: lambda: adoption.on_results(source, message, now),
            m.PlainResults: lambda: adoption.on_results(source, message, now),
            m.GivenBack: lambda: adoption.on_given_back(source, message, now),
            m.CarrierDone: lambda: None,
            m.CreateActor: lambda: actors.on_create(source, message, now),
            m.ActorReady: lambda: actors.on_ready(source, message, now),
            m.ActorExit: lambda: actors.on_exit(source, message, now),
            m.KillActor: lambda: actors.on_kill(source, message),
            m.Detach: lambda: self._on_detach(source),
        }
        if isinstance(message, m.DeathSeen):
            adoption.on_death_seen(source, message)
            objects.on_death_seen(source, message)
        else:
            handlers[type(message)]()
        self.perform()

    # -- effects -----------------------------------------------------------------------------------------------------

    def perform(self) -> None:
        cores: tuple[Any, ...] = (self.leases, self.actors, self.adoption, self.objects, self.store)
        while effects := next((found for core in cores if (found := core.take_effects())), None):
            for effect in effects:
                self._perform(effect)
        times = (self.leases.deadline(), self.actors.next_deadline(), self.adoption.next_deadline())
        deadlines = [time for time in times if time is not None]
        if deadlines and min(deadlines) < self._next_tick:
            self._next_tick = max(min(deadlines), self.world.now)
            self.world.at(self._next_tick - self.world.now, self._tick)

    def _tick(self) -> None:
        self._next_tick = float("inf")
        self.leases.tick(self.world.now)
        self.actors.tick(self.world.now)
        self.adoption.tick(self.world.now)
        self.perform()

    def _perform(self, effect: Any) -> None:
        leases, now = self.leases, self.world.now
        self.seen[type(effect.message if isinstance(effect, Send) else effect).__name__] += 1
        match effect:
            case Send(to=to, message=message) if to == PEER:
                self._tell_ourselves(message)
            case Send():
                self._send(effect.to, effect.message)
            case StartWorker():
                self._start(effect.ticket)
            case AbandonStart():
                self._starting.discard(effect.ticket)
            case KillProcess():
                self.world.parties[effect.process].die()  # type: ignore[attr-defined]
            case ThawLease():
                leases.on_thawed(effect.worker, effect.submitter, effect.kill, now)
            case ActorSlot():
                self.actors.on_slot(effect.actor_id, effect.worker, now)
            case RequestActorSlot():
                leases.request_actor_slot(
                    effect.actor_id, effect.job, effect.request, effect.running_request, effect.profile, now
                )
            case ActorPlaced():
                leases.actor_placed(effect.actor_id, now)
            case ReleaseActorSlot():
                leases.release_actor(effect.actor_id, now)
            case ActorWaits():
                if effect.broken:
                    self.actors.on_slot_failed(effect.actor_id, effect.message)
            case UnlinkSegment() | SweepSegments() | NameChanged() | DetachedChanged():  # heirs are of other hosts
                return
            case DetachedLost() | JobForgotten():
                return
            case _:
                raise AssertionError(f"the shell cannot perform {effect!r}")

    def _send(self, to: bytes, message: Any) -> None:
        if isinstance(message, m.Bind):
            self.objects.on_process_attached(to, 1, message.job.job)
            if self._goes_wrong(self.faults.dies_bound):
                self.world.at(self.world.random.random() * 0.002, self.world.parties[to].die)  # type: ignore[attr-defined]
        self.world.send(PEER, to, message)

    def _tell_ourselves(self, message: Any) -> None:
        now = self.world.now
        if isinstance(message, m.Demand):
            job = self.adoption.job_of_class(message.class_id)
            if self.leases.serves(job):
                self.leases.on_demand(PEER, message, now, job)
            elif job:
                self.adoption.on_job_ended(job)
        elif isinstance(message, m.LeaseReturned):
            self.leases.on_returned(PEER, message.leases, now)
        else:
            self.adoption.on_own(message, now)

    # -- workers on their way ----------------------------------------------------------------------------------------

    def _goes_wrong(self, probability: float) -> bool:
        return self.world.now < self.faults.until and self.world.random.random() < probability

    def _start(self, ticket: int) -> None:
        self._starting.add(ticket)
        if self._goes_wrong(self.faults.hangs):
            return
        fails = self._goes_wrong(self.faults.fails)
        self.world.at(self.world.random.random() * 0.01, lambda: self._started(ticket, fails))

    def _started(self, ticket: int, fails: bool) -> None:
        if ticket not in self._starting:
            return  # it was given up, and killed
        self._starting.discard(ticket)
        if fails:
            self.leases.on_worker_start_failed(ticket, "exit code 1", self.world.now)
        else:
            worker = self.new_worker()
            self.processes.append(worker)
            self.objects.on_process_attached(worker.process, 1)
            self.leases.on_worker_ready(ticket, worker.process, self.world.now)
        self.perform()
