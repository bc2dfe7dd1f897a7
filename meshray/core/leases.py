"""Who gets the slots of this peer?

Theory. Submitters say how many leases of a class they could use (`Demand`, absolute); actors ask for one place each.
Whenever something changes, `_pump` does three things:

1. *Grant*: in fair order, whatever fits takes its slots and becomes a grant that awaits a worker (`granting`).
2. *Assign*: each awaiting grant gets a worker that fits (`assignment`, `workers`); for those left, workers are started.
   So slots are never promised twice.
3. *Revoke*: leases that have served their time while somebody waits are called back (`quantum`).

How leases end stands in `lease_ends`, how jobs do in `jobs`; what of this concerns other hosts in `spill_back`, actors
in `actor_slots`; what is told to those who will wait long in `trouble`. Ids of leases are never reused, so what arrives
late for an ended one is ignored and counted in `stale`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from meshray.config import Config
from meshray.core.actor_slots import ActorSlots
from meshray.core.assignment import Assignment, Device
from meshray.core.deadlines import earliest
from meshray.core.demands import ACTOR_DEPTH, Demands, Wanted
from meshray.core.effects import Core, RequestActorSlot, Send
from meshray.core.granting import Granting
from meshray.core.grants import Grant, Grants
from meshray.core.jobs import Jobs
from meshray.core.lease_books import Books
from meshray.core.lease_ends import LeaseEnds
from meshray.core.placement import NOWHERE, Here, Member, Placement
from meshray.core.quantum import next_look, victims, wished_for
from meshray.core.slots import CPU
from meshray.core.spill_back import SpillBack
from meshray.core.trouble import Troubles
from meshray.core.workers import Interpreter, Worker, Workers
from meshray.ids import NODE_BYTES, PROCESS_BYTES, peer_of
from meshray.resources import Amounts
from meshray.strategy import ANYWHERE, Strategy
from meshray.wire.messages import Demand, Failure, JobInfo, LeaseRevoked, LeaseWanted, LoadNow, Profile, Result


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
        self._grants = Grants(total, here.node)
        self.slots = self._grants.slots
        self.placement = Placement(here, self.slots, config)
        cpus = -(-self.slots.total.get(CPU, 0) // 10_000)
        self.workers = Workers(config, interpreter, cpus, self._emit)
        self._assignment = Assignment(self._grants, self.workers, devices, self._emit)
        self._demands = Demands()
        books = self._books = Books(config, self._grants, self._demands, self.workers, self.placement, self._emit)
        self._ends = LeaseEnds(books)
        self.jobs = Jobs(books, self._ends, self._is_needed)
        self._actor_slots = ActorSlots(books, self.jobs, self._ends)
        self._granting = Granting(books, self.jobs)
        self._spill_back = SpillBack(books, self.jobs)
        self._troubles = Troubles(books, self.jobs)
        self._look_again: float | None = None  # when a lease may have served its time
        self._ask_at: float | None = None  # when a class that waits may ask somebody else
        self.stale = 0  # messages about leases, classes or waits that are no more

    def _emit(self, effect: object) -> None:
        self._effects.append(effect)

    def _is_needed(self, job: bytes) -> bool:
        return self.job_is_needed(job)  # which is set later

    # -- jobs --------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """The peer begins to serve."""
        self.workers.prestart(now)

    def on_job_started(self, info: JobInfo, *, code_follows: bool = False) -> None:
        """A driver of this host has attached, or a job of another host may have work done here. `code_follows`: its
        workers need code that is not known yet. What it asks for waits for `on_code_known`."""
        self.jobs.on_started(info, code_follows)

    def on_code_known(self, info: JobInfo, now: float) -> None:
        """The same job, with its code. A repeat changes nothing: one job never has two kinds of workers."""
        if self.jobs.on_code_known(info):
            self._pump(now)

    def on_job_left(self, info: JobInfo, now: float) -> None:
        """A job of another host, whose driver may be gone: a detached actor of it may be started here. With its code,
        unless workers of it do without. No effect when that was known."""
        self.jobs.on_left(info)
        self._pump(now)

    def tidy(self, now: float) -> None:
        """Something may be needed no more: forget jobs of which that is so."""
        if self.jobs.ended:
            self._pump(now)

    def on_job_ended(self, job: bytes, survivors: frozenset[bytes], now: float) -> frozenset[bytes]:
        """Its driver is gone, or left: all that works for it is killed, except `survivors`, which host its detached
        actors, here or elsewhere, and what works for those. Everybody who goes on is the answer."""
        if not self.jobs.serves(job):
            return survivors
        going_on = self.jobs.end(job, survivors)
        self._pump(now)
        return going_on

    # -- submitters --------------------------------------------------------------------------------------------------

    def on_demand(self, submitter: bytes, demand: Demand, now: float, for_job: bytes = b"") -> None:
        """`for_job`: of a peer that submits for others, or of a process of another host."""
        foreign = self._books.is_foreign(submitter)
        for_job = for_job or (demand.job if foreign else b"")
        job = self.jobs.of_process(submitter) if not for_job else for_job if self.jobs.serves(for_job) else None
        key = (submitter, demand.class_id)
        wanted = self._demands.get(key)
        if job is None or (wanted is None and not demand.count):
            self.stale += job is None
            if job is None and foreign and len(for_job) == PROCESS_BYTES and demand.count:
                self._spill_back.on_strange_job(peer_of(submitter), for_job, demand.request)
            return
        if wanted is None:
            if foreign and len(self._demands) >= self._config.foreign_classes_max:
                self.stale += 1
                if demand.count:
                    self._spill_back.on_too_many(peer_of(submitter), demand.request)
                return
            wanted = self._books.new_class(key, job, demand, now)
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
        self._ends.cancel_excess(wanted)
        self._demands.discard_if_empty(wanted)
        self._pump(now)
        if wanted.hops and wanted.waits:
            self._spill_back.on_no_room(peer_of(submitter), wanted.request)

    def on_returned(self, submitter: bytes, leases: list[int], now: float) -> None:
        for lease in leases:
            grant = self._grants.get(lease)
            if grant is None or grant.wanted.key[0] != submitter or not grant.worker or grant.orphan:
                self.stale += 1
                continue
            worker = self.workers.get(grant.worker)
            assert worker is not None, f"{grant} outlived its worker"
            self._ends.end(grant)
            self.workers.release(worker, now)
        self._pump(now)

    def on_thawed(self, worker: bytes, submitter: bytes, kill: bool, now: float) -> None:
        """Nothing of a dead submitter runs on this worker any more; `kill`: what runs is not wanted. No effect unless
        it holds a frozen lease of that one."""
        if self._ends.thaw(worker, submitter, kill, now):
            self._pump(now)

    def on_driver_gone(self, process: bytes, now: float) -> None:
        """A driver's process is no more; its job was ended by `on_job_ended`."""
        self._ends.drop_submitter(process)
        self._pump(now)

    # -- other hosts -------------------------------------------------------------------------------------------------

    def on_member(self, member: Member, now: float) -> None:
        """A member is there, or tells its load."""
        if self.placement.on_member(member):
            self._look_again_at_all(now)
        else:
            self._on_load_told(now)

    def _on_load_told(self, now: float) -> None:
        if self._spill_back.on_load_told(now):
            self._pump(now)

    def on_member_gone(self, node: bytes, reason: str, now: float, out_of_reach: bool = False) -> None:
        """It is no member any more; or only not for us (`out_of_reach`)."""
        self._spill_back.on_peer_gone(peer_of(node))
        self.placement.on_gone(node, reason, out_of_reach)
        self.jobs.on_member_gone(node)
        self._look_again_at_all(now)

    def _look_again_at_all(self, now: float) -> None:
        if len(self._demands):
            self._troubles.report(now)
            self._pump(now)

    def on_member_leaves(self, node: bytes, now: float) -> None:
        """It is being stopped: who was sent there goes elsewhere."""
        self.placement.on_leaves(node)
        self._spill_back.forget_asked(node)
        self._look_again_at_all(now)

    def on_load_now(self, peer: bytes, message: LoadNow, now: float) -> None:
        """A peer that could not serve a demand at once says how full it is."""
        self.placement.on_load(peer[:NODE_BYTES], message.used)
        self._on_load_told(now)

    def on_node_gone(self, node: bytes, now: float) -> None:
        """A host is gone or was cut off: nothing is done for its processes any more, and who was sent there may have to
        be sent again."""
        self._spill_back.forget_asked(node)
        self._ends.drop_host(node)
        self._look_again_at_all(now)

    def knows_job(self, job: bytes) -> bool:
        """Whether workers of a job can be had here; of one that has ended, for its detached actors."""
        return job in self.jobs.known

    def job_info(self, job: bytes, ended: bool = False) -> JobInfo | None:
        """A job that this peer serves; None for others. `ended`: or one that goes on for its detached actors."""
        return self.jobs.known.get(job) if ended or self.jobs.serves(job) else None

    def on_foreign_process_died(self, process: bytes, now: float) -> None:
        """So says its peer."""
        if self._books.is_foreign(process):
            self._ends.drop_submitter(process)
            self._pump(now)

    # -- the end of this peer ----------------------------------------------------------------------------------------

    def leave(self, now: float) -> None:
        """This peer is being stopped. Nothing more is granted, but to tasks that run here: they may wait for theirs."""
        self._granting.leave()
        self.placement.on_leaves(self.placement.node)
        self._ends.call_back_all()
        self._pump(now)

    @property
    def leaving(self) -> bool:
        """Whether this peer is being stopped."""
        return self._granting.leaving

    def works(self) -> bool:
        """Whether tasks run here, or may."""
        return any(grant.worker and not grant.wanted.is_actor for grant in self._grants)

    def running(self) -> int:
        """In how many workers tasks run, or may."""
        return sum(bool(grant.worker) and not grant.wanted.is_actor for grant in self._grants)

    def end_work(self, now: float) -> None:
        """What still runs has had its time: its submitters may try it elsewhere, and are not charged for that."""
        self._granting.end_work()
        self._ends.end_work()
        self._pump(now)

    # -- actors ------------------------------------------------------------------------------------------------------

    def actor_host(
        self, request: RequestActorSlot, waits_at: bytes, avoided: Collection[bytes], now: float
    ) -> bytes | None:
        """See `Placement.actor_host`."""
        return self._actor_slots.host_for(request, waits_at, avoided, now)

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
        demand = Demand(0, 1, dict(request), profile, ACTOR_DEPTH, name, strategy, hops=int(guest))
        if self._actor_slots.request(actor_id, job, demand, running_request):
            self._pump(now)

    def actor_placed(self, actor_id: bytes, now: float) -> None:
        """Its constructor has run: it keeps only what it needs while it lives."""
        self._actor_slots.on_placed(actor_id)
        self._pump(now)

    def release_actor(self, actor_id: bytes, now: float) -> None:
        """It needs no place any more. A worker that still hosts it is killed."""
        self._actor_slots.release(actor_id)
        self._pump(now)

    # -- workers -----------------------------------------------------------------------------------------------------

    def on_worker_ready(self, ticket: int, process: bytes, now: float) -> None:
        """The worker of a StartWorker has attached."""
        if self.workers.on_ready(ticket, process, now):
            self._pump(now)

    def on_worker_start_failed(self, ticket: int, text: str, now: float) -> None:
        """It died before it attached. `text`: how, and its last lines."""
        self.workers.on_start_failed(ticket, text, now)
        self._troubles.report(now)
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
            if wanted.job in self.jobs.ended:
                self._ends.drop(wanted, "its submitter is gone, and its job has ended")
            else:
                self._ends.freeze(wanted)
        worker = self.workers.on_died(process)
        if worker is not None:
            self._ends.on_worker_died(worker, finished, started, failure, now, all_started)
            self._troubles.report(now)
        self._pump(now)

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Time has passed: see `deadline`."""
        self.workers.tick(now, self._waits_for_others)
        self._troubles.report(now)
        self._pump(now)

    def deadline(self) -> float | None:
        """When `tick` is wanted next, if nothing happens before; None: not at all."""
        known = earliest(
            self.workers.deadline(),
            self._look_again,
            self._granting.pass_at,
            self._ask_at,
            self._spill_back.news_at,
        )
        if not self._demands and not self._grants.awaiting:
            return known
        times = [] if known is None else [known]
        times += [
            wanted.since + self._config.infeasible_after_s
            for wanted in self._demands
            if wanted.waits and wanted.never and not wanted.told and self._troubles.why_never(wanted)
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
        granting, spill_back = self._granting, self._spill_back
        if self._actor_slots.following:
            self._actor_slots.admit_following(now)
        if self.jobs.ended:
            self.jobs.forget_ended()
        if spill_back.news_at is not None and now >= spill_back.news_at:
            spill_back.look_at_loads(now)
        self.placement.forget_promises(now)
        while granting.grant_next(now):
            pass
        self._assignment.run(self.jobs.known, now)
        if spill_back.refused and not granting.leaving:
            spill_back.tell_the_refused()
        self._ask_at = spill_back.ask_others(now) if self.placement.members else None
        waiting = [wanted for wanted in self._demands.waiting() if granting.may_have(wanted, now)]
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

    # -- reading -----------------------------------------------------------------------------------------------------

    def serves(self, job: bytes) -> bool:
        """Whether this peer may submit something for a job."""
        return self.jobs.serves(job)

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
        return self._troubles.why_never(wanted) or wanted.told

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
