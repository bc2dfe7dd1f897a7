"""The shell of the peer's cores in a simulation: messages in, effects out, and the faults of its surroundings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshray.config import Config
from meshray.core.actors import Actors
from meshray.core.effects import (
    ActorPlaced,
    KillProcess,
    ReleaseActorSlot,
    RequestActorSlot,
    Send,
    SweepSegments,
    UnlinkSegment,
)
from meshray.core.object_table import Record, Stage
from meshray.core.objects import Objects
from meshray.core.store_accounts import StoreAccounts
from meshray.wire import messages as m
from tests.sim.world import NODE, PEER, World


class SimPeer:
    """One peer. `on_freed(record)` hears of each record that ends; `journal_of(process)` is what a dead worker left."""

    def __init__(self, world: World, config: Config, capacity: int = 1 << 40) -> None:
        self.world = world
        self.process = PEER
        self.alive = True
        self.store = StoreAccounts(config, capacity)
        self.objects = Objects(config, NODE, self.store)
        self.actors = Actors(config, NODE, self.objects)
        self.on_freed: Callable[[Record], None] = lambda record: None
        self.start_worker: Callable[[bytes], bytes] = lambda actor_id: b""
        self.files: dict[str, bytes] = {}  # segment -> maker: what lies in the store folder
        self.slots: dict[bytes, bytes] = {}  # actor -> its worker, b"" while it waits for one
        self.jobs_ended: set[bytes] = set()
        self._next_deadline = float("inf")
        table = self.objects._table
        real = table._on_free

        def on_free(record: Record) -> None:
            self.on_freed(record)
            real(record)

        table._on_free = on_free
        world.parties[PEER] = self
        world.checks.append(self.check)

    def check(self) -> None:
        self.objects.check()
        self.actors.check()

    # -- processes ---------------------------------------------------------------------------------------------------

    def attach(self, process: bytes, job: bytes) -> None:
        self.objects.on_process_attached(process, 1000 + len(self.world.parties), job)

    def process_died(
        self, process: bytes, finished: dict[bytes, list[m.Result]], lost: list[tuple[bytes, Any]]
    ) -> None:
        """Its pidfd is readable. `finished`: its journal by submitter; `lost`: what leases say, and to whom."""
        now = self.world.now
        journal = {caller: (results, []) for caller, results in finished.items()}
        for to, message in lost:
            self.world.send(PEER, to, message)
        self.actors.on_process_died(process, "killed by signal 9 (SIGKILL)", journal, now)
        self.perform()
        self.objects.on_process_died(process, "it was killed")
        self.perform()

    def end_job(self, job: bytes) -> list[bytes]:
        """Returns the processes of the job that are to be killed."""
        self.jobs_ended.add(job)
        survivors = self.actors.survivors_of(job)
        doomed = [p for p, its in self.objects._jobs.items() if its == job and p not in survivors]
        self.actors.on_job_ended(job)
        self.objects.on_job_ended(job, survivors)
        self.perform()
        return [process for process in doomed if self.objects.is_attached(process)]

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
        while effects := [*self.actors.take_effects(), *self.objects.take_effects(), *self.store.take_effects()]:
            for effect in effects:
                self._perform(effect)
        deadlines = [d for d in (self.actors.next_deadline(), self.store.next_deadline()) if d is not None]
        if deadlines and min(deadlines) < self._next_deadline:
            self._next_deadline = max(min(deadlines), self.world.now)
            self.world.at(self._next_deadline - self.world.now, self._tick)

    def _tick(self) -> None:
        self._next_deadline = float("inf")
        self.actors.tick(self.world.now)
        self.store.tick(self.world.now)
        self.perform()

    def _perform(self, effect: Any) -> None:
        match effect:
            case Send():
                self.world.send(PEER, effect.to, effect.message)
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
                assert effect.actor_id not in self.slots, "a second slot for one actor"
                self.slots[effect.actor_id] = b""
                self.world.at(self.world.random.random() * 0.02, lambda: self._give_slot(effect.actor_id))
            case ReleaseActorSlot():
                self.slots.pop(effect.actor_id, None)
            case ActorPlaced():
                assert self.slots[effect.actor_id], "placed without a slot"
            case _:
                raise AssertionError(f"the shell cannot perform {effect!r}")

    def _give_slot(self, actor_id: bytes) -> None:
        if self.slots.get(actor_id) == b"":
            worker = self.slots[actor_id] = self.start_worker(actor_id)
            self.actors.on_slot(actor_id, worker, self.world.now)
            self.perform()


def lost_in(record: Record) -> bool:
    """Whether the object had no value to lose."""
    return record.stage in (Stage.LOST, Stage.EXPECTED)
