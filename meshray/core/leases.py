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

import math
from collections.abc import Callable, Collection

import msgspec

from meshray.config import Config
from meshray.core.assignment import Assignment, Device
from meshray.core.demands import ACTOR_DEPTH, Demands, Key, Wanted
from meshray.core.effects import ActorWaits, Core, JobForgotten, RequestActorSlot, Send
from meshray.core.grants import Grant, Grants
from meshray.core.placement import NOWHERE, Here, Member, Placement
from meshray.core.quantum import next_look, reservation_ends, reserves, victims, wished_for
from meshray.core.slots import CPU
from meshray.core.trouble import all_taken, tell, trouble
from meshray.core.workers import Interpreter, Worker, Workers
from meshray.ids import NODE_BYTES, PROCESS_BYTES, peer_of
from meshray.resources import Amounts
from meshray.strategy import ANYWHERE, Strategy
from meshray.wire.messages import (
    AskAlso,
    Code,
    Demand,
    Failure,
    JobInfo,
    JobWanted,
    LeaseLost,
    LeaseRevoked,
    LeaseWanted,
    LoadNow,
    Profile,
    Result,
)

NO_CODE = Code()
"""No copy of the program's own folder."""


class Leases(Core):
    """The slots and workers of one peer. Events are `on_...` and the three calls of `core.actors`.

    `job_is_needed(job)` says whether an ended job has an actor that may still want a worker; the shell sets it.
    """

    def __init__(
        self,
        total: Amounts,
        interpreter: Interpreter,
        config: Config,
        devices: tuple[Device, ...] = (),
        here: Here = NOWHERE,
    ) -> None:
        """`interpreter`: the peer's own; `devices`: its GPUs, in the order of their places in `slots`."""
        super().__init__()
        self.job_is_needed: Callable[[bytes], bool] = _not_needed
        self._config = config
        self._node, self._name = here.node, here.name
        self._grants = Grants(total, here.node)
        self.slots = self._grants.slots
        self.placement = Placement(here, self.slots, config)
        cpus = -(-self.slots.total.get(CPU, 0) // 10_000)
        self.workers = Workers(config, interpreter, cpus, self._emit)
        self._assignment = Assignment(self._grants, self.workers, devices, self._emit)
        self._demands = Demands()
        # Actors that want a place again while the worker of their last one is being killed: job, what is asked for,
        # what it keeps. No class is in here that wants anything.
        self._following: dict[Key, tuple[bytes, Demand, dict[str, int]]] = {}
        self._jobs: dict[bytes, JobInfo] = {}  # while its driver lives, it is needed, or a worker is bound to it
        self._ended: set[bytes] = set()  # those of them whose driver is gone
        self._codeless: set[bytes] = set()  # those of them that get nothing before their code is known
        self._look_again: float | None = None  # when a lease may have served its time
        self._pass_at: float | None = None  # when what a large request keeps for itself may go to others
        self._ask_at: float | None = None  # when a class that waits may ask somebody else
        self._news_at: float | None = None  # when loads that were told will be looked at; None: there are none
        self._looked_at = -math.inf  # when they were, the last time
        self._refused: dict[bytes, dict[str, int]] = {}  # peers that believe this one to be full -> what was asked for
        self.leaving = False  # this peer is being stopped
        self._work_is_over = False  # and what ran has had its time
        self.stale = 0  # messages about leases, classes or waits that are no more

    def _emit(self, effect: object) -> None:
        self._effects.append(effect)  # not the list's own method: `take_effects` replaces the list

    # -- jobs --------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """The peer begins to serve."""
        self.workers.prestart(now)

    def on_job_started(self, info: JobInfo, *, code_follows: bool = False) -> None:
        """A driver of this host has attached, or a job of another host may have work done here. `code_follows`: its
        workers need code that is not known yet. What it asks for waits for `on_code_known`."""
        if code_follows and (info.job not in self._jobs or self._does_without(info.job)):
            self._codeless.add(info.job)
        elif not code_follows and info.job in self._codeless:
            self._codeless.discard(info.job)
            self._jobs[info.job] = info
        self._jobs.setdefault(info.job, info)
        self._ended.discard(info.job)  # its host was lost, and is there again before the last of its workers is dead

    def _does_without(self, job: bytes) -> bool:
        """Whether a job was to do without code, and nothing has come of that."""
        return self._jobs[job].code == NO_CODE and not self.workers.of_job(job)

    def on_code_known(self, info: JobInfo, now: float) -> None:
        """The same job, with its code. A repeat changes nothing: one job never has two kinds of workers."""
        if info.job in self._codeless:
            self._codeless.discard(info.job)
            self._jobs[info.job] = info
            self._pump(now)

    def on_job_left(self, info: JobInfo, now: float) -> None:
        """A job of another host, whose driver may be gone: a detached actor of it may be started here. With its code,
        unless workers of it do without. No effect when that was known."""
        job = info.job
        if job not in self._jobs:
            self._jobs[job] = info
            self._ended.add(job)
        elif job in self._codeless or self._does_without(job):
            self._codeless.discard(job)
            self._jobs[job] = info
        self._pump(now)

    def tidy(self, now: float) -> None:
        """Something may be needed no more: forget jobs of which that is so."""
        if self._ended:
            self._pump(now)

    def _do_without(self, job: bytes) -> None:
        """The code of a job will not become known: what waits for it goes on without."""
        if job in self._codeless:
            self._codeless.discard(job)
            self._jobs[job] = msgspec.structs.replace(self._jobs[job], code=NO_CODE)

    def on_job_ended(self, job: bytes, survivors: frozenset[bytes], now: float) -> frozenset[bytes]:
        """Its driver is gone, or left: all that works for it is killed, except `survivors`, which host its detached
        actors, here or elsewhere, and what works for those. Everybody who goes on is the answer."""
        if job not in self._jobs or job in self._ended:
            return survivors
        self._ended.add(job)
        self._do_without(job)  # nobody will tell it any more, and a detached actor of it may start here
        for wanted in [wanted for wanted in self._demands if wanted.job == job and not wanted.is_actor]:
            # Its driver; this peer; a dead worker, frozen; one of another host that does not go on.
            if self.workers.get(wanted.submitter) is None and wanted.submitter not in survivors:
                self._drop(wanted, "its job ended", told=self._is_foreign(wanted.submitter))
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
                self._codeless.discard(job)
                del self._jobs[job]
                self._demands.forget_job(job)
                self.workers.forget_job(job)
                self._emit(JobForgotten(job))

    # -- submitters --------------------------------------------------------------------------------------------------

    def on_demand(self, submitter: bytes, demand: Demand, now: float, for_job: bytes = b"") -> None:
        """`for_job`: of a peer that submits for others, or of a process of another host."""
        foreign = self._is_foreign(submitter)
        for_job = for_job or (demand.job if foreign else b"")
        job = self.job_of(submitter) if not for_job else for_job if self.serves(for_job) else None
        key = (submitter, demand.class_id)
        wanted = self._demands.get(key)
        if job is None or (wanted is None and not demand.count):
            self.stale += job is None
            if job is None and foreign and len(for_job) == PROCESS_BYTES and demand.count:
                self._emit(Send(peer_of(submitter), JobWanted(for_job)))
                self._refused[peer_of(submitter)] = demand.request  # it was sent here in vain, for now
            return
        if wanted is None:
            if foreign and len(self._demands) >= self._config.foreign_classes_max:
                self.stale += 1
                if demand.count:  # as if all were in use: who was sent here goes elsewhere
                    self._emit(Send(peer_of(submitter), LoadNow(dict(self.slots.total))))
                    self._refused[peer_of(submitter)] = demand.request
                return
            wanted = self._new_class(key, job, demand, now)
        if not wanted.waits:
            wanted.wait_anew(now)
        elif demand.count > wanted.count:
            wanted.look_anew()
        hops = max(demand.hops, foreign)
        if hops < wanted.hops:
            wanted.looked = -1  # it came by a long way and may name nobody; now it was sent here more directly
        wanted.hops = hops
        wanted.count, wanted.name = min(demand.count, self._config.workers_max), demand.name
        if demand.near:
            wanted.near = demand.near
        self._cancel_excess(wanted)
        self._demands.discard_if_empty(wanted)
        self._pump(now)
        if wanted.hops and wanted.waits:  # whoever sent it here thought that there was room
            self._emit(Send(peer_of(submitter), LoadNow(self._in_use())))
            self._refused[peer_of(submitter)] = wanted.request

    def _tell_the_refused(self) -> None:
        """There is room now for what others were sent here for in vain. Loads would tell it later, or never, where they
        have missed that there was none."""
        if self.leaving or len(self._demands) >= self._config.foreign_classes_max:
            return
        for peer in [peer for peer, request in self._refused.items() if self.slots.fits(request)]:
            del self._refused[peer]
            self._emit(Send(peer, LoadNow(self._in_use())))

    def _in_use(self) -> dict[str, int]:
        return {name: amount for name, amount in self.slots.used.items() if amount}

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

    def _new_class(self, key: Key, job: bytes, demand: Demand, now: float) -> Wanted:
        never = self.slots.why_never(demand.request) or self.placement.why_not_here(
            demand.strategy, job, self._is_foreign(key[0])
        )
        wanted = Wanted(
            key, job, dict(demand.request), demand.profile, demand.depth, demand.name, since=now, never=never,
            strategy=demand.strategy, hops=max(demand.hops, self._is_foreign(key[0])),
        )  # fmt: skip
        self._demands.add(wanted)
        return wanted

    def _is_foreign(self, process: bytes) -> bool:
        """Whether it is of another host: its own peer tells of its end."""
        return bool(self._node) and not process.startswith(self._node)

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

    # -- other hosts -------------------------------------------------------------------------------------------------

    def on_member(self, member: Member, now: float) -> None:
        """A member is there, or tells its load."""
        if self.placement.on_member(member):
            self._look_again_at_all(now)
        else:
            self._on_load_told(now)

    def _on_load_told(self, now: float) -> None:
        """In a large mesh that happens all the time: each class that waits looks at what came together."""
        if self._news_at is None:
            waiting = sum(wanted.waits for wanted in self._demands)
            if not waiting:
                return  # who begins to wait looks at all
            pause_s = max(self._config.look_again_s, waiting * len(self.placement.members) / self._config.look_rate)
            self._news_at = max(now, self._looked_at + pause_s)
        if now >= self._news_at:
            self._pump(now)

    def on_member_gone(self, node: bytes, reason: str, now: float, out_of_reach: bool = False) -> None:
        """It is no member any more; or only not for us (`out_of_reach`)."""
        self._refused.pop(peer_of(node), None)
        self.placement.on_gone(node, reason, out_of_reach)
        for job in [job for job in self._codeless if job.startswith(node)]:
            self._do_without(job)
        self._look_again_at_all(now)

    def _look_again_at_all(self, now: float) -> None:
        if len(self._demands):
            self._report(now)
            self._pump(now)

    def on_member_leaves(self, node: bytes, now: float) -> None:
        """It is being stopped: who was sent there goes elsewhere."""
        self.placement.on_leaves(node)
        for wanted in self._demands:
            wanted.forget_asked(node)
        self._look_again_at_all(now)

    def on_load_now(self, peer: bytes, message: LoadNow, now: float) -> None:
        """A peer that could not serve a demand at once says how full it is."""
        self.placement.on_load(peer[:NODE_BYTES], message.used)
        self._on_load_told(now)

    def on_node_gone(self, node: bytes, now: float) -> None:
        """A host is gone or was cut off: nothing is done for its processes any more, and who was sent there may have to
        be sent again."""
        for wanted in self._demands:
            wanted.forget_asked(node)
        for wanted in [wanted for wanted in self._demands if wanted.key[0].startswith(node) and not wanted.is_actor]:
            self._drop(wanted, "its submitter's host is gone")
        self._look_again_at_all(now)

    def knows_job(self, job: bytes) -> bool:
        """Whether workers of a job can be had here; of one that has ended, for its detached actors."""
        return job in self._jobs

    def job_info(self, job: bytes, ended: bool = False) -> JobInfo | None:
        """A job that this peer serves; None for others. `ended`: or one that goes on for its detached actors."""
        return self._jobs.get(job) if ended or self.serves(job) else None

    def on_foreign_process_died(self, process: bytes, now: float) -> None:
        """So says its peer."""
        if self._is_foreign(process):
            self._drop_submitter(process)
            self._pump(now)

    # -- the end of this peer ----------------------------------------------------------------------------------------

    def leave(self, now: float) -> None:
        """This peer is being stopped. Nothing more is granted, but to tasks that run here: they may wait for theirs."""
        self.leaving = True
        self.placement.on_leaves(self._node)
        for grant in list(self._grants):
            if grant.wanted.is_actor or self._is_nested(grant.wanted):
                continue
            if not grant.worker:
                self._end_grant(grant)
            elif not grant.comes_back:
                grant.revoked = True
                self._effects.append(Send(grant.wanted.submitter, LeaseRevoked(grant.id)))
        self._pump(now)

    def works(self) -> bool:
        """Whether tasks run here, or may."""
        return any(grant.worker and not grant.wanted.is_actor for grant in self._grants)

    def running(self) -> int:
        """In how many workers tasks run, or may."""
        return sum(bool(grant.worker) and not grant.wanted.is_actor for grant in self._grants)

    def end_work(self, now: float) -> None:
        """What still runs has had its time: its submitters may try it elsewhere, and are not charged for that."""
        self._work_is_over = True
        for grant in list(self._grants):
            worker = self.workers.get(grant.worker)
            if not grant.wanted.is_actor and worker is not None and not worker.dying:
                grant.left = True
                self.workers.kill(worker, "its host leaves")
        self._pump(now)

    def _is_nested(self, wanted: Wanted) -> bool:
        """Whether something that runs here waits for this, maybe."""
        worker = self.workers.get(wanted.submitter)
        return worker is not None and not worker.dying

    # -- actors ------------------------------------------------------------------------------------------------------

    def actor_host(
        self, request: RequestActorSlot, waits_at: bytes, avoided: Collection[bytes], now: float
    ) -> bytes | None:
        """See `Placement.actor_host`."""
        wanted = Wanted(
            (request.actor_id, 0), request.job, dict(request.request), request.profile, ACTOR_DEPTH, request.name,
            running_request=request.running_request, strategy=request.strategy,
        )  # fmt: skip
        return self.placement.actor_host(wanted, waits_at, avoided, now) if self.placement.members else None

    def request_actor_slot(
        self,
        actor_id: bytes,
        job: bytes,
        request: Amounts,
        running_request: Amounts,
        profile: Profile,
        now: float,
        strategy: Strategy = ANYWHERE,
        name: str = "",
        guest: bool = False,
    ) -> None:
        """An actor wants a dedicated worker: answered by `ActorSlot`, once; or by `ActorWaits`, if there will be none.
        A repeat changes nothing. While the worker that it had here is being killed, it waits for that; and for its job,
        if nothing is known of that yet (`on_job_left`). `guest`: it is another peer's, which says itself if no member
        can have it."""
        key = (actor_id, 0)
        if job not in self._jobs and not self.job_is_needed(job):
            self._refuse(key, job)
            return
        known = self._demands.get(key)
        if known is None or not known.count:
            demand = Demand(0, 1, dict(request), profile, ACTOR_DEPTH, name, strategy, hops=int(guest))
            self._following[key] = (job, demand, dict(running_request))
            self._pump(now)

    def _admit_following(self, now: float) -> None:
        """Actors whose last worker here is dead, or that had none. One whose job is not known waits for it."""
        for key in [key for key, (job, _, _) in self._following.items() if self._demands.get(key) is None]:
            job, demand, running_request = self._following[key]
            if job not in self._jobs and self.job_is_needed(job):
                continue
            del self._following[key]
            if job not in self._jobs:
                self._refuse(key, job)
                continue
            wanted = self._new_class(key, job, demand, now)
            wanted.running_request = running_request
            wanted.hops = demand.hops  # one of ours may have been created at another host, whose heir this one is
            wanted.count = 1

    def _refuse(self, key: Key, job: bytes) -> None:
        """An actor of a job that nobody has told, or that was not needed any more: who waits would wait for ever."""
        text = f"host {self._name} does not know the program that it belongs to (job {job.hex()})"
        self._emit(ActorWaits(key[0], job, text, strange=True))

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
        self._following.pop((actor_id, 0), None)
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
                if grant.left:
                    failure = msgspec.structs.replace(failure, message=f"host {self._name} left: {failure.message}")
                lost = LeaseLost(grant.id, grant.worker, finished, started, failure, all_started, grant.left)
                self._lose(grant, lost, now)
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

    def _drop(self, wanted: Wanted, reason: str, told: bool = False) -> None:
        """Nobody stands behind a class any more: its grants end, at once or when their workers are dead. `told`: its
        submitter may think otherwise, so it hears of lost leases: only this host may hold its job for over."""
        wanted.count = 0
        for grant in self._grants.of(wanted):
            worker = self.workers.get(grant.worker)
            if worker is None:
                self._end_grant(grant)
            else:
                grant.orphan = not told
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
        known = (self.workers.deadline(), self._look_again, self._pass_at, self._ask_at, self._news_at)
        times = [time for time in known if time is not None]
        times += [
            wanted.since + self._config.infeasible_after_s
            for wanted in self._demands
            if wanted.waits and wanted.never and not wanted.told and self._why_never(wanted)
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
        if self._following:
            self._admit_following(now)
        if self._ended:
            self._forget_ended()
        if self._news_at is not None and now >= self._news_at:
            self._news_at, self._looked_at = None, now
            self.placement.look_anew()
        self.placement.forget_promises(now)
        while self._grant_next(now):
            pass
        self._assignment.run(self._jobs, now)
        if self._refused:
            self._tell_the_refused()
        self._ask_at = None
        if self.placement.members:
            self._ask_others(now)
        waiting = [wanted for wanted in self._demands.waiting() if self._may_have(wanted, now)]
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
        self._pass_at, pass_at = None, math.inf
        for wanted in self._demands.waiting():
            if not self._may_have(wanted, now):
                continue
            if not reserved.isdisjoint(wanted.request):
                self._pass_at = pass_at
                continue
            if self.slots.fits(wanted.request):
                self._grants.make(wanted, now)
                self.placement.on_granted(wanted)
                self._demands.served(wanted, now)
                return True
            if reserves(wanted, self._grants, self.slots.total, now, self._config):
                reserved.update(wanted.request)
                pass_at = min(pass_at, reservation_ends(wanted, now, self._config))
        return False

    def _may_have(self, wanted: Wanted, now: float) -> bool:
        """Whether slots of this host are for it, now, if there are any."""
        if self.leaving and (self._work_is_over or not self._is_nested(wanted)):
            return False
        if wanted.never or wanted.job in self._codeless or self._paused(wanted.job, now):
            return False
        return self.placement.may_grant(wanted, now)

    def _ask_others(self, now: float) -> None:
        """Tell the submitters of classes that wait whom to ask as well."""
        times: list[float] = []
        for wanted in self._demands.waiting():
            if wanted.is_actor or wanted.job in self._ended or wanted.job in self._codeless:
                continue
            for ask in self.placement.asks(wanted, now):
                also = AskAlso(wanted.key[1], peer_of(ask.node), ask.count, wanted.hops + 1)
                self._emit(Send(wanted.submitter, also))
            times.append(self.placement.next_look(wanted))
        self._ask_at = min(times, default=None)

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
        at_cap = all_taken(self._grants, self._config) if capped else ""
        for wanted in list(self._demands):
            if wanted.waits or wanted.told or not self._grants.awaiting.keys().isdisjoint(wanted.grants):
                patience_over = now >= wanted.since + self._config.infeasible_after_s
                never = self._why_never(wanted)
                text = trouble(wanted, never, self._jobs[wanted.job], self.workers, at_cap, patience_over)
                if text and wanted.hops:  # its people are at another host
                    text = f"on host {self._name}: {text}"
                if text is not None and text != wanted.told:
                    self._emit(tell(wanted, text, self.workers.at_cap, bool(never) and self._is_hopeless(wanted)))

    def _why_never(self, wanted: Wanted) -> str:
        """Why no member can ever meet it; "" when one can, or when that is for the submitter's own peer to tell."""
        if not wanted.never or wanted.hops or self.placement.somebody_could(wanted):
            return ""
        why = self.placement.why_nobody(wanted)
        return why if self.placement.waits_for_reach(wanted) else f"no member can ever run it: {why}"

    def _is_hopeless(self, wanted: Wanted) -> bool:
        return self.placement.is_hopeless(wanted)

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

    def why_waits(self, wanted: Wanted) -> str:
        """For people: why it will wait long, in words; "" when it only waits for its turn."""
        return self._why_never(wanted) or wanted.told

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
