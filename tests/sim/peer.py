"""The shell of the peer's cores in a simulation: messages in, effects out, and the faults of its surroundings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshray.config import Config
from meshray.core.actors import Actors
from meshray.core.effects import (
    ActorPlaced,
    ActorSlot,
    ActorWaits,
    DeathOver,
    KillProcess,
    Later,
    ReleaseActorSlot,
    RequestActorSlot,
    Send,
    StartWorker,
    SweepSegments,
    UnlinkSegment,
)
from meshray.core.foreigners import Foreigners
from meshray.core.leases import Leases
from meshray.core.lives import Life
from meshray.core.object_table import Record, Stage
from meshray.core.objects import Objects
from meshray.core.store_accounts import StoreAccounts
from meshray.ids import node_of, peer_of
from meshray.wire import messages as m
from tests.sim.world import NODE, World, process_id


class SimPeer:
    """One peer, which gives its slots to actors. `on_freed(record)` hears of each record that ends; `new_host(label,
    job)` makes the worker of that label, once it is bound to a job."""

    def __init__(
        self, world: World, config: Config, capacity: int = 1 << 40, node: bytes = NODE, alone: bool = True
    ) -> None:
        self.world = world
        self.node = node
        self.process = peer_of(node)
        self.alive = True
        self.store = StoreAccounts(config, capacity)
        self.objects = Objects(config, node, self.store, alone)
        self.actors = Actors(config, node, self.objects)
        self.on_freed: Callable[[Record], None] = lambda record: None
        self.leases = Leases({"CPU": 20_000}, ("python", "/usr"), config)
        self.leases.job_is_needed = lambda job: any(
            actor.spec.job == job and actor.life is not Life.DEAD for actor in self.actors.all()
        )
        self.new_host: Callable[[str, bytes], object] = lambda label, job: None
        self.files: dict[str, bytes] = {}  # segment -> maker: what lies in the store folder
        self.jobs_ended: set[bytes] = set()
        self.gone: set[bytes] = set()  # hosts that this one knows to be gone
        self.foreigners = Foreigners()
        self.dealt: dict[bytes, set[bytes]] = {}  # process of this host -> nodes that it dealt with
        self._next_deadline = float("inf")
        table = self.objects.table
        real = table._on_free

        def on_free(record: Record) -> None:
            self.on_freed(record)
            real(record)

        table._on_free = on_free
        world.parties[self.process] = self
        world.checks.append(self.check)

    def check(self) -> None:
        self.objects.check()
        self.actors.check()
        self.leases.check()

    # -- processes ---------------------------------------------------------------------------------------------------

    def attach(self, process: bytes, job: bytes) -> None:
        if process == job:
            self.leases.on_job_started(m.JobInfo(job, "python", "/usr", [], "/", "", "ns"))
        self.objects.on_process_attached(process, 1000 + len(self.world.parties), job)

    def process_died(
        self, process: bytes, finished: dict[bytes, list[m.Result]], lost: list[tuple[bytes, Any]]
    ) -> None:
        """Its pidfd is readable. `finished`: its journal by submitter; `lost`: what leases say, and to whom."""
        now = self.world.now
        journal = {caller: (results, []) for caller, results in finished.items()}
        for to, message in lost:
            self.world.send(self.process, to, message)
        self.leases.on_process_died(process, [], [], m.Failure("WorkerCrashedError", "killed"), now)
        self.actors.on_process_died(process, "killed by signal 9 (SIGKILL)", journal, now)
        self.perform()
        told = frozenset(peer_of(node) for node in self.dealt.pop(process, set()) - self.gone)
        for peer in sorted(told):
            self.world.send(self.process, peer, m.ProcessDied(process))
        self.foreigners.on_local_died(process, told)
        self.objects.on_process_died(process, "it was killed", told)
        self.perform()

    def end_job(self, job: bytes) -> list[bytes]:
        """Returns the processes of the job that are to be killed."""
        self.jobs_ended.add(job)
        self.actors.on_job_ended(job)
        survivors = self.leases.on_job_ended(job, self.actors.survivors_of(job), self.world.now)
        doomed = [p for p, its in self.objects._jobs.items() if its == job and p not in survivors]
        self.objects.on_job_ended(job, survivors)
        self.leases.on_driver_gone(job, self.world.now)
        self.perform()
        return [process for process in doomed if self.objects.is_attached(process)]

    # -- other hosts -------------------------------------------------------------------------------------------------

    def passes(self, source: bytes, to: bytes) -> bool:
        """Whether a message between hosts goes on from here: neither end is known to be gone."""
        here, there = (source, to) if node_of(source) == self.node else (to, source)
        if node_of(there) in self.gone:
            return False
        if here == self.process:
            return True
        if not self.objects.is_attached(here):
            return False
        self.dealt.setdefault(here, set()).add(node_of(there))
        if there != peer_of(there):
            self.foreigners.add(there, b"")
        self.foreigners.met(there, here)
        return True

    def host_gone(self, node: bytes) -> None:
        """The detector says so."""
        if not self.alive:
            return
        self.gone.add(node)
        for process in sorted(self.objects._attached):
            self.world.send(self.process, process, m.NodeGone(node))
        self.foreigners.on_host_gone(node)
        self.objects.foreign.on_host_gone(node, "it was killed")
        self.perform()

    def _nowhere(self, node: bytes) -> None:
        """Something was said to a host that is gone."""
        if self.alive:
            self.objects.foreign.on_unreachable(node, "it was killed")
            self.perform()

    def foreign_death(self, process: bytes) -> None:
        """As `core.road` does it."""
        if self.foreigners.settles(process):
            return
        witnesses = {each for each in self.foreigners.who_met(process) if self.objects.is_attached(each)}
        self.foreigners.on_died(process, witnesses)
        for witness in sorted(witnesses):
            self.world.send(self.process, witness, m.ProcessDied(process))
        if not witnesses:
            self.objects.on_foreign_death_seen(process)

    def death_over(self, process: bytes) -> None:
        for peer in self.foreigners.on_local_settled(process):
            self.world.send(self.process, peer, m.DeathSettled(process))
        for foreigner in self.foreigners.settled_witness(process):
            self.objects.on_foreign_death_seen(foreigner)

    # -- messages ----------------------------------------------------------------------------------------------------

    def receive(self, source: bytes, message: Any) -> None:
        objects, actors, now = self.objects, self.actors, self.world.now
        match message:
            case m.Promote():
                objects.on_promote(source, message)
            case m.Resolve():
                objects.on_resolve(source, message)
            case m.Hold():
                objects.on_hold(source, message)
            case m.Release():
                objects.on_release(source, message)
            case m.Fetch():
                objects.on_fetch(source, message)
            case m.Forget():
                objects.on_forget(source, message)
            case m.Sealed():
                objects.on_sealed(source, message)
            case m.DeathSeen():
                objects.on_death_seen(source, message)
                if self.foreigners.on_answer(source, message.process):
                    objects.on_foreign_death_seen(message.process)
            case m.HoldDone():
                objects.foreign.on_hold_done(source, message)
            case m.Fetched():
                objects.foreign.on_fetched(source, message)
            case m.Lodged():
                objects.foreign.on_lodged(source, message)
            case m.ProcessDied():
                self.foreign_death(message.process)
            case m.DeathSettled():
                for witness in self.foreigners.on_settled(message.process):
                    self.world.send(self.process, witness, message)
            case m.CreditRequest():
                self.store.on_credit_request(source, message, now)
            case m.PoolTrimmed():
                self.store.on_trimmed(source, message)
            case m.CreateActor():
                actors.on_create(source, message, now)
            case m.ActorReady():
                actors.on_ready(source, message, now)
            case m.ActorExit():
                actors.on_exit(source, message, now)
            case m.WatchActor():
                actors.on_watch(source, message)
            case m.KillActor():
                actors.on_kill(source, message)
            case m.FindActor():
                actors.on_find(source, message)
            case _:
                raise AssertionError(f"the peer cannot read {message!r}")
        self.perform()

    def perform(self) -> None:
        """Effects of all cores, until there are none."""
        cores = (self.leases, self.actors, self.objects, self.store)
        while effects := next((found for core in cores if (found := core.take_effects())), None):
            for effect in effects:
                self._perform(effect)
        times = (self.leases.deadline(), self.actors.next_deadline(), self.store.next_deadline())
        deadline = min((time for time in times if time is not None), default=self._next_deadline)
        if deadline < self._next_deadline:
            self._next_deadline = max(deadline, self.world.now)
            self.world.at(self._next_deadline - self.world.now, self._tick)

    def _later(self, number: int) -> None:
        if self.alive:
            self.objects.foreign.on_later(number)
            self.perform()

    def _tick(self) -> None:
        self._next_deadline = float("inf")
        self.leases.tick(self.world.now)
        self.actors.tick(self.world.now)
        self.store.tick(self.world.now)
        self.perform()

    def _perform(self, effect: Any) -> None:
        leases, now = self.leases, self.world.now
        match effect:
            case Send(message=m.Bind()):
                self.new_host(effect.to[8:].decode().strip("\0"), effect.message.job.job)
            case Send() if node_of(effect.to) in self.gone:
                self.world.at(0.0, lambda: self._nowhere(node_of(effect.to)))
            case Send():
                self.world.send(self.process, effect.to, effect.message)
            case StartWorker():
                self.world.at(self.world.random.random() * 0.02, lambda: self._started(effect.ticket))
            case DeathOver():
                self.death_over(effect.process)
            case Later():
                self.world.at(effect.seconds, lambda: self._later(effect.number))
            case UnlinkSegment():
                self.files.pop(effect.segment, None)
            case SweepSegments():
                for segment in [s for s, maker in self.files.items() if maker == effect.process]:
                    if segment not in effect.keep:
                        del self.files[segment]
            case KillProcess():
                victim: Any = self.world.parties[effect.process]
                if victim.alive:
                    victim.die()
            case RequestActorSlot():
                leases.request_actor_slot(
                    effect.actor_id, effect.job, effect.request, effect.running_request, effect.profile, now
                )
            case ActorSlot():
                self.actors.on_slot(effect.actor_id, effect.worker, now)
            case ActorPlaced():
                leases.actor_placed(effect.actor_id, now)
            case ReleaseActorSlot():
                leases.release_actor(effect.actor_id, now)
            case ActorWaits():
                assert not effect.broken, "no worker has failed to start"
            case _:
                raise AssertionError(f"the shell cannot perform {effect!r}")

    def _started(self, ticket: int) -> None:
        """A worker without a job: it is nobody yet."""
        self.leases.on_worker_ready(ticket, process_id(f"h{ticket}", self.node), self.world.now)
        self.perform()


def lost_in(record: Record) -> bool:
    """Whether the object had no value to lose."""
    return record.stage in (Stage.LOST, Stage.EXPECTED)
