"""Who gets the slots of this peer?

Theory. Submitters say how many leases of a class they could use (`Demand`, absolute); actors ask for one place each.
Whenever something changes, `_pump` does three things:

1. *Grant*: in fair order (`demands`), whatever fits takes its slots (`slots`) and becomes a grant that awaits a
   worker (`grants`).
2. *Assign*: each awaiting grant gets a worker that fits (`assignment`, `workers`); for those left, workers are started.
   So slots are never promised twice.
3. *Revoke*: leases that have served their time while somebody waits are called back (`quantum`).

A lease ends in one of four ways: returned by its submitter; lost, when its worker dies; with its job; or after its
submitter. For that, the leases of a dead submitter are *frozen*: its workers may be running what the peer adopts
(`core.adoption`), which says for each when nothing of the dead one runs there any more (`on_thawed`). Ids of leases
are never reused, so what arrives late for an ended one is ignored and counted in `stale`.
"""

from __future__ import annotations

from collections.abc import Callable

from meshray.config import Config
from meshray.core.assignment import Assignment, Device
from meshray.core.demands import ACTOR_DEPTH, Demands, Key, Wanted
from meshray.core.effects import Core, Send
from meshray.core.grants import Grant, Grants
from meshray.core.quantum import next_look, reserves, victims, wished_for
from meshray.core.slots import CPU
from meshray.core.trouble import chain_of_waits, tell, trouble
from meshray.core.workers import Interpreter, Worker, Workers
from meshray.resources import Amounts
from meshray.wire.messages import (
    Demand,
    Failure,
    JobInfo,
    LeaseLost,
    LeaseRevoked,
    LeaseWanted,
    Profile,
    Result,
)


class Leases(Core):
    """The slots and workers of one peer. Events are `on_...` and the three calls of `core.actors`.

    `job_is_needed(job)` says whether an ended job has an actor that may still want a worker; the shell sets it.
    """

    def __init__(
        self, total: Amounts, interpreter: Interpreter, config: Config, devices: tuple[Device, ...] = ()
    ) -> None:
        """`interpreter`: the peer's own; `devices`: its GPUs, in the order of their places in `slots`."""
        super().__init__()
        self.job_is_needed: Callable[[bytes], bool] = _not_needed
        self._config = config
        self._grants = Grants(total)
        self.slots = self._grants.slots
        cpus = -(-self.slots.total.get(CPU, 0) // 10_000)
        self.workers = Workers(config, interpreter, cpus, self._emit)
        self._assignment = Assignment(self._grants, self.workers, devices, self._emit)
        self._demands = Demands()
        self._jobs: dict[bytes, JobInfo] = {}  # while its driver lives, or a worker that is bound to it
        self._ended: set[bytes] = set()  # those of them whose driver is gone
        self._look_again: float | None = None  # when a lease may have served its time
        self.stale = 0  # messages about leases, classes or waits that are no more

    def _emit(self, effect: object) -> None:
        self._effects.append(effect)  # not the list's own method: `take_effects` replaces the list

    # -- jobs --------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """The peer begins to serve."""
        self.workers.prestart(now)

    def on_job_started(self, info: JobInfo) -> None:
        self._jobs.setdefault(info.job, info)

    def on_job_ended(self, job: bytes, survivors: frozenset[bytes], now: float) -> frozenset[bytes]:
        """Its driver is gone, or left: all that works for it is killed, except `survivors`, which host its detached
        actors, and what works for those. Everybody who goes on is the answer."""
        if job not in self._jobs or job in self._ended:
            return survivors
        self._ended.add(job)
        for wanted in [wanted for wanted in self._demands if wanted.job == job and not wanted.is_actor]:
            if self.workers.get(wanted.submitter) is None:  # its driver; this peer; a dead worker, frozen
                self._drop(wanted, "its job ended")
        going_on = set(survivors)
        for worker in self.workers.of_job(job):
            if self._root_of(worker) in survivors:
                going_on.add(worker.process)
            else:
                self.workers.kill(worker, "its job ended")
        for wanted in [wanted for wanted in self._demands if wanted.job == job and not wanted.is_actor]:
            if wanted.submitter not in going_on and self.workers.get(wanted.submitter) is not None:
                self._drop(wanted, "its job ended")  # else its death would be awaited with new grants
        self._pump(now)
        return frozenset(going_on)

    def _root_of(self, worker: Worker) -> bytes:
        """Who has caused what this worker does: itself if it hosts an actor or idles, else the root of its
        submitter; b"" if tasks of two workers run at each other's, which have ended themselves then."""
        for _ in range(len(self._grants) + 1):
            grant = self._grants.get(worker.grant)
            if grant is None or grant.wanted.is_actor:
                return worker.process
            parent = self.workers.get(grant.wanted.submitter)
            if parent is None:
                return grant.wanted.submitter
            worker = parent
        return b""

    def _forget_ended(self) -> None:
        """Jobs that ended go with the last of what their detached actors had asked for. Workers may be left idle."""
        for job in list(self._ended):
            if self.job_is_needed(job) or any(wanted.job == job for wanted in self._demands):
                continue
            workers = self.workers.of_job(job)
            for worker in workers:
                self.workers.kill(worker, "its job ended")
            if not workers:
                self._ended.discard(job)
                del self._jobs[job]
                self._demands.forget_job(job)
                self.workers.forget_job(job)

    # -- submitters --------------------------------------------------------------------------------------------------

    def on_demand(self, submitter: bytes, demand: Demand, now: float, for_job: bytes = b"") -> None:
        """`for_job`: of a peer that submits for others."""
        job = self.job_of(submitter) if not for_job else for_job if self.serves(for_job) else None
        key = (submitter, demand.class_id)
        wanted = self._demands.get(key)
        if job is None or (wanted is None and not demand.count):
            self.stale += job is None
            return
        if wanted is None:
            wanted = self._new_class(key, job, demand.request, demand.profile, demand.depth, demand.name, now)
        if not wanted.waits:
            wanted.since = now
        wanted.count, wanted.name = min(demand.count, self._config.workers_max), demand.name
        self._cancel_excess(wanted)
        self._demands.discard_if_empty(wanted)
        self._pump(now)

    def on_returned(self, submitter: bytes, leases: list[int], now: float) -> None:
        for lease in leases:
            grant = self._grants.get(lease)
            if grant is None or grant.wanted.key[0] != submitter or not grant.worker or grant.orphan:
                self.stale += 1
                continue
            worker = self.workers.get(grant.worker)
            assert worker is not None, f"{grant} outlived its worker"
            self._end_grant(grant)
            self.workers.release(worker, now)
        self._pump(now)

    def _new_class(
        self, key: Key, job: bytes, request: Amounts, profile: Profile, depth: int, name: str, now: float
    ) -> Wanted:
        never = self.slots.why_never(request)
        wanted = Wanted(key, job, dict(request), profile, depth, name, since=now, never=never)
        self._demands.add(wanted)
        return wanted

    def _cancel_excess(self, wanted: Wanted) -> None:
        """Grants that await a worker, and are wanted no more; the latest first."""
        if len(wanted.grants) > wanted.count:
            for lease in sorted(wanted.grants & self._grants.awaiting.keys(), reverse=True):
                if len(wanted.grants) > wanted.count:
                    self._end_grant(self._grants[lease])

    def on_thawed(self, worker: bytes, submitter: bytes, kill: bool, now: float) -> None:
        """Nothing of a dead submitter runs on this worker any more; `kill`: what runs is not wanted. No effect unless
        it holds a frozen lease of that one."""
        grant = self.grant_of(worker)
        if grant is None or not grant.orphan or grant.wanted.key[0] != submitter:
            return
        found = self.workers.get(worker)
        assert found is not None
        if kill:
            self.workers.kill(found, "its submitter is gone")
        elif not found.dying:
            self._end_grant(grant)
            self.workers.release(found, now)
        self._pump(now)

    def on_driver_gone(self, process: bytes, now: float) -> None:
        """A driver's process is no more; its job was ended by `on_job_ended`."""
        self._drop_submitter(process)
        self._pump(now)

    # -- actors ------------------------------------------------------------------------------------------------------

    def request_actor_slot(
        self,
        actor_id: bytes,
        job: bytes,
        request: Amounts,
        running_request: Amounts,
        profile: Profile,
        now: float,
    ) -> None:
        """An actor wants a dedicated worker: answered by `ActorSlot`, once. A repeat changes nothing."""
        key = (actor_id, 0)
        if job not in self._jobs:
            self.stale += 1
            return
        if self._demands.get(key) is None:
            wanted = self._new_class(key, job, request, profile, ACTOR_DEPTH, "", now)
            wanted.running_request = dict(running_request)
            wanted.count = 1
            self._pump(now)

    def actor_placed(self, actor_id: bytes, now: float) -> None:
        """Its constructor has run: it keeps only what it needs while it lives."""
        wanted = self._demands.get((actor_id, 0))
        for grant in self._grants.of(wanted) if wanted else ():
            assert wanted is not None
            assert wanted.running_request is not None
            self._grants.shrink(grant, wanted.running_request)
        self._pump(now)

    def release_actor(self, actor_id: bytes, now: float) -> None:
        """It needs no place any more. A worker that still hosts it is killed."""
        wanted = self._demands.get((actor_id, 0))
        if wanted is not None:
            self._drop(wanted, "its actor ended")
        self._pump(now)

    # -- workers -----------------------------------------------------------------------------------------------------

    def on_worker_ready(self, ticket: int, process: bytes, now: float) -> None:
        """The worker of a StartWorker has attached."""
        if self.workers.on_ready(ticket, process, now):
            self._pump(now)

    def on_worker_start_failed(self, ticket: int, text: str, now: float) -> None:
        """It died before it attached. `text`: how, and its last lines."""
        self.workers.on_start_failed(ticket, text, now)
        self._report(now)
        self._pump(now)

    def on_blocked(self, process: bytes, since: int, now: float) -> None:
        """It waits in `get`: its CPU is free for others."""
        worker = self.workers.get(process)
        if worker is None or since <= worker.woke_since:
            self.stale += 1
            return
        worker.waits_since = since
        grant = self._grants.get(worker.grant)
        if grant is not None and self._grants.block(grant):
            self._pump(now)

    def on_unblocked(self, process: bytes, since: int, now: float) -> None:
        """It runs again, at once: what is not free becomes a debt."""
        worker = self.workers.get(process)
        if worker is None or since <= worker.woke_since:
            self.stale += 1
            return
        worker.woke_since = since
        if worker.waits_since is None or worker.waits_since > since:
            return
        worker.waits_since = None
        grant = self._grants.get(worker.grant)
        if grant is not None:
            self._grants.wake(grant)

    def on_process_died(
        self,
        process: bytes,
        finished: list[Result],
        started: list[int],
        failure: Failure,
        now: float,
        all_started: bool = False,
    ) -> None:
        """A worker is gone. `finished`, `started`, `all_started`: of the journal, what concerns `lease_of(process)`;
        `failure`: WorkerCrashedError with how it ended."""
        for wanted in self._demands.of_submitter(process):
            if wanted.job in self._ended:
                self._drop(wanted, "its submitter is gone, and its job has ended")
            else:
                self._freeze(wanted)
        worker = self.workers.on_died(process)
        if worker is not None:
            grant = self._grants.get(worker.grant)
            hosts = grant is not None and grant.wanted.is_actor  # its death is its actor's affair
            unused = not worker.used and not finished and not started and not hosts
            if unused and not worker.dying and worker.key is not None:
                self.workers.on_crash(worker.key.job, failure.message, now)
            if grant is not None:
                self._lose(grant, LeaseLost(grant.id, grant.worker, finished, started, failure, all_started), now)
            self._report(now)
        self._pump(now)

    def _lose(self, grant: Grant, lost: LeaseLost, now: float) -> None:
        wanted = grant.wanted
        if wanted.is_actor:
            wanted.count = 0
        elif not grant.orphan:
            self._effects.append(Send(wanted.submitter, lost))
        wanted.since = now
        self._end_grant(grant)

    def _drop_submitter(self, process: bytes) -> None:
        """It asks for nothing any more, and takes no results: what runs for it is killed."""
        for wanted in self._demands.of_submitter(process):
            self._drop(wanted, "its submitter is gone")

    def _freeze(self, wanted: Wanted) -> None:
        """Its submitter is a worker that died: nobody pushes to its leases any more, but something may run there."""
        wanted.count = 0
        for grant in self._grants.of(wanted):
            if grant.worker:
                grant.orphan = True
            else:
                self._end_grant(grant)
        self._demands.discard_if_empty(wanted)

    def _drop(self, wanted: Wanted, reason: str) -> None:
        """Nobody stands behind a class any more: its grants end, at once or when their workers are dead."""
        wanted.count = 0
        for grant in self._grants.of(wanted):
            worker = self.workers.get(grant.worker)
            if worker is None:
                self._end_grant(grant)
            else:
                grant.orphan = True
                self.workers.kill(worker, reason)
        self._demands.discard_if_empty(wanted)

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Time has passed: see `deadline`."""
        self.workers.tick(now, self._waits_for_others)
        self._report(now)
        self._pump(now)

    def deadline(self) -> float | None:
        """When `tick` is wanted next, if nothing happens before; None: not at all."""
        times = [time for time in (self.workers.deadline(), self._look_again) if time is not None]
        times += [
            wanted.since + self._config.infeasible_after_s
            for wanted in self._demands
            if wanted.waits and wanted.never and not wanted.told
        ]
        if self._grants.awaiting and self.workers.at_cap:
            awaiting = [grant.wanted for grant in self._grants.awaiting.values() if not grant.wanted.told]
            times += [wanted.since + self._config.infeasible_after_s for wanted in awaiting]
        return min(times, default=None)

    def _waits_for_others(self, worker: Worker) -> bool:
        """Whether an idle worker has tasks of its own under way: its results are still wanted."""
        return bool(self._demands.of_submitter(worker.process))

    # -- granting ----------------------------------------------------------------------------------------------------

    def _pump(self, now: float) -> None:
        if self._ended:
            self._forget_ended()
        while self._grant_next(now):
            pass
        self._assignment.run(self._jobs, now)
        waiting = [wanted for wanted in self._demands.waiting() if not wanted.never]
        self._look_again = None
        if waiting:
            for grant in victims(waiting, self._grants, self.slots.free(), now, self._config):
                grant.revoked = True
                self._effects.append(Send(grant.wanted.submitter, LeaseRevoked(grant.id)))
            for grant in wished_for(waiting, self._grants, self.slots.free()):
                grant.wished = True
                self._effects.append(Send(grant.wanted.submitter, LeaseWanted(grant.id)))
            self._look_again = next_look(waiting, self._grants, now, self._config)
        self.slots.check()

    def _grant_next(self, now: float) -> bool:
        """Give slots to the first in fair order for whom there is room."""
        reserved: set[str] = set()  # resources that wait for a large request
        for wanted in self._demands.waiting():
            if wanted.never or self._paused(wanted.job, now) or not reserved.isdisjoint(wanted.request):
                continue
            if self.slots.fits(wanted.request):
                self._grants.make(wanted, now)
                self._demands.served(wanted, now)
                return True
            if reserves(wanted, self._grants, self.slots.total, now, self._config):
                reserved.update(wanted.request)
        return False

    def _paused(self, job: bytes, now: float) -> bool:
        budget = self.workers.budgets.get(job)
        return budget is not None and now < budget.paused_until

    def _end_grant(self, grant: Grant) -> None:
        """Its slots are free again."""
        self._grants.end(grant)
        self._demands.discard_if_empty(grant.wanted)

    # -- telling people ----------------------------------------------------------------------------------------------

    def _report(self, now: float) -> None:
        """Tell those who wait why they will wait long, once, and once more when that has changed."""
        capped = self._grants.awaiting and self.workers.at_cap
        at_cap = chain_of_waits(self._grants, self._config.workers_max) if capped else ""
        for wanted in list(self._demands):
            if wanted.waits or wanted.told or not self._grants.awaiting.keys().isdisjoint(wanted.grants):
                patience_over = now >= wanted.since + self._config.infeasible_after_s
                text = trouble(wanted, self._jobs[wanted.job], self.workers, at_cap, patience_over)
                if text is not None and text != wanted.told:
                    self._emit(tell(wanted, text, self.workers.at_cap))

    # -- reading -----------------------------------------------------------------------------------------------------

    def job_of(self, process: bytes) -> bytes | None:
        """The job that a driver is, or that a worker is bound to; None for a stranger, or one without a job."""
        worker = self.workers.get(process)
        if worker is not None:
            return None if worker.key is None or worker.dying else worker.key.job
        return process if process in self._jobs and process not in self._ended else None

    def serves(self, job: bytes) -> bool:
        """Whether this peer may submit something for a job."""
        return job in self._jobs and job not in self._ended

    def lease_of(self, process: bytes) -> int:
        """The lease that a worker serves; 0 for none."""
        worker = self.workers.get(process)
        return worker.grant if worker is not None else 0

    def workers_for(self, submitter: bytes) -> frozenset[bytes]:
        """Those that serve leases of this submitter."""
        grants = (grant for wanted in self._demands.of_submitter(submitter) for grant in self._grants.of(wanted))
        return frozenset(grant.worker for grant in grants if grant.worker)

    def served_by(self, process: bytes) -> frozenset[bytes] | None:
        """Whose leases this worker has ever had; none for a process that is no worker. None: anybody's."""
        worker = self.workers.get(process)
        if worker is None:
            return frozenset()
        return None if worker.served_more else frozenset(worker.served)

    def worker_of(self, lease: int, submitter: bytes) -> bytes:
        """The worker of a lease that this submitter holds; b"" when it holds none of that number."""
        grant = self._grants.get(lease)
        return grant.worker if grant is not None and grant.wanted.key[0] == submitter else b""

    def available(self) -> dict[str, int]:
        """What is free, for people."""
        return self.slots.free()

    def waiting(self) -> list[Wanted]:
        """For reading: the classes that want more than they have, in fair order."""
        return self._demands.waiting()

    def grant_of(self, process: bytes) -> Grant | None:
        """For reading: what a worker serves."""
        return self._grants.get(self.lease_of(process))

    def check(self) -> None:
        """Assert that the books agree. For tests and simulations: it costs time."""
        self._grants.check()
        serving = {worker.grant: worker.process for worker in self.workers if worker.grant}
        assert serving == {grant.id: grant.worker for grant in self._grants if grant.worker}


def _not_needed(job: bytes) -> bool:
    return False
