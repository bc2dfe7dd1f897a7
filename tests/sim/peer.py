"""The shell of the peer's cores in a simulation: messages in, effects out, and the faults of its surroundings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from meshray.config import Config
from meshray.core.actors import Actors
from meshray.core.effects import (
    ActorPlaced,
    ActorSlot,
    ActorWaits,
    Dealt,
    DeathOver,
    DetachedChanged,
    DetachedLost,
    DropCopy,
    JobForgotten,
    KillProcess,
    Later,
    NameChanged,
    OpenCopy,
    ReleaseActorSlot,
    RequestActorSlot,
    SealCopy,
    Send,
    StartWorker,
    SweepSegments,
    UnlinkSegment,
    WriteCopy,
)
from meshray.core.fetches import Fetches
from meshray.core.foreigners import Foreigners
from meshray.core.leases import Leases
from meshray.core.lives import Life
from meshray.core.moves import Moves
from meshray.core.object_table import Record, Stage
from meshray.core.objects import Objects
from meshray.core.serving import Serving
from meshray.core.store_accounts import StoreAccounts
from meshray.core.whereabouts import Whereabouts
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
        self.store = StoreAccounts(config, capacity, self._in_transit)
        self.objects = Objects(config, node, self.store, alone)
        self.fetches = Fetches(config, node, lambda size: size, self._in_transit)
        self.whereabouts = Whereabouts(self.objects.knows)
        self.serving = Serving(config, self._find)
        self.moves = Moves(config, node, self.objects.knows, self._keeper)
        self.leaving: set[bytes] = set()  # hosts that are being stopped
        self.asked_to_move: set[m.Place] = set()
        self.moved: dict[m.Place, bytes] = {}  # values that were taken from here -> by which peer
        self.data: dict[str, bytes] = {}  # segment -> what is in its file
        self.transit: Counter[str] = Counter()  # segment -> pieces of it that have not left
        self.minds_transit = True
        self._serves_again = False
        if not alone:
            self.objects.object_freed = self.whereabouts.on_object_freed
            self.store.on_process_attached(self.process, 1)
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
        self.asks_hosts = True  # a test sees what happens otherwise
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
        self.fetches.check()

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
        dealt = self.dealt.pop(process, set()) - self.gone
        told = frozenset(peer_of(node) for node in dealt) if self.asks_hosts else frozenset()
        for peer in sorted(told):
            self.world.send(self.process, peer, m.ProcessDied(process))
        self.foreigners.on_local_died(process, told)
        self.fetches.on_process_died(process)
        self.objects.on_process_died(process, "it was killed", told)
        self.perform()

    def end_job(self, job: bytes) -> list[bytes]:
        """Returns the processes of the job that are to be killed."""
        self.jobs_ended.add(job)
        self.actors.on_job_ended(job)
        survivors = self.leases.on_job_ended(job, self.actors.survivors_of(job), self.world.now)
        doomed = [p for p, its in self.objects.owners.jobs.items() if its == job and p not in survivors]
        self.objects.on_job_ended(job, survivors)
        self.leases.on_driver_gone(job, self.world.now)
        self.perform()
        return [process for process in doomed if self.objects.is_attached(process)]

    # -- other hosts -------------------------------------------------------------------------------------------------

    def passes(self, source: bytes, to: bytes) -> bool:
        """Whether a message between hosts goes on from here: neither end is known to be gone."""
        here, there = (source, to) if node_of(source) == self.node else (to, source)
        if node_of(there) in self.gone:
            if here == source and self.objects.is_attached(here):
                self.world.send(self.process, here, m.NodeGone(node_of(there)))
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
        for process in sorted(self.objects.owners.attached):
            if node in self.dealt.get(process, ()):
                self.world.send(self.process, process, m.NodeGone(node))
        self.foreigners.on_host_gone(node)
        self.objects.foreign.on_host_gone(node, "it was killed")
        self.whereabouts.on_host_gone(node)
        self.serving.on_host_gone(node)
        self.fetches.on_host_gone(node, self.world.now)
        self.moves.on_host_gone(node)
        self.perform()

    def _keeper(self, tried: Collection[bytes]) -> bytes | None:
        """As `core.placement` does it."""
        peers = [party.process for party in self.world.parties.values() if isinstance(party, SimPeer)]
        there = [peer for peer in sorted(peers) if node_of(peer) not in self.gone | self.leaving | {self.node}]
        others = [peer for peer in there if peer not in tried]
        return self.world.random.choice(others) if others else None

    def leave(self) -> None:
        """It is stopped, and no task runs here any more: values go elsewhere (`meshray.peer.draining`)."""
        places = [
            place
            for place in self.store.lodged(self.node)
            if node_of(place.object_id) not in self.gone
            and peer_of(place.object_id) in self.objects.holders_of(place.object_id)
        ]
        self.asked_to_move = {*places, *self.fetches.kept()}
        self.moves.leave(sorted(self.asked_to_move, key=lambda place: (place.object_id, place.segment)))
        self.perform()

    def _nowhere(self, node: bytes) -> None:
        """Something was said to a host that is gone."""
        if self.alive:
            self.objects.foreign.on_unreachable(node, "it was killed")
            self.fetches.on_host_gone(node, self.world.now)
            self.moves.on_host_gone(node)
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
            case m.Refetch():
                objects.losses.on_refetch(source, message)
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
            case m.Bring() if objects.is_attached(source) or source == self.process:
                self.fetches.on_bring(source, message, now)
            case m.Unused():
                self.fetches.on_unused(source, message)
            case m.Bring():
                pass  # its process is dead
            case m.Found():
                self.fetches.on_found(source, message, now)
            case m.Piece():
                self.fetches.on_piece(source, message, now)
            case m.NoPiece():
                self.fetches.on_no_piece(source, message, now)
            case m.Expired():
                self.fetches.on_expired(source, message)
            case m.CreditGranted():
                self.fetches.on_granted(message, now)
            case m.TrimPool():
                self.fetches.on_trim_pool()
            case m.Seek():
                self.whereabouts.on_seek(source, message)
            case m.Whole():
                self.whereabouts.on_whole(source, message)
            case m.CopiesGone():
                self.whereabouts.on_copies_gone(source, message)
            case m.Keep():
                self.moves.on_keep(source, message)
            case m.Kept():
                if not message.missing:
                    self.moved.update(dict.fromkeys(message.places, source))
                self.moves.on_kept(source, message)
            case m.Brought():
                self.moves.on_brought(message)
            case m.PeerLeaves():
                self.leaving.add(node_of(source))
            case m.Pull():
                self.serving.on_pull(source, message)
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
        cores = (
            self.leases, self.actors, self.objects, self.store, self.fetches, self.whereabouts, self.serving,
            self.moves,
        )  # fmt: skip
        while effects := next((found for core in cores if (found := core.take_effects())), None):
            for effect in effects:
                self._perform(effect)
        if self.serving.pending:
            self._serve()
        times = (
            self.leases.deadline(), self.actors.next_deadline(), self.store.next_deadline(),
            self.fetches.next_deadline(),
        )  # fmt: skip
        deadline = min((time for time in times if time is not None), default=self._next_deadline)
        if deadline < self._next_deadline:
            self._next_deadline = max(deadline, self.world.now)
            self.world.at(self._next_deadline - self.world.now, self._tick)

    def _later(self, number: int) -> None:
        if self.alive:
            self.objects.foreign.on_later(number)
            self.perform()

    def _in_transit(self, segment: str) -> bool:
        return self.minds_transit and self.transit[segment] > 0

    def _left(self, segment: str, offset: int, data: bytes) -> None:
        """Bytes of a segment, which were there when they were sent, are not needed any more."""
        self.transit[segment] -= 1
        there = self.data.get(segment)  # None: it is unlinked, and its memory stays as it was
        assert there is None or there[offset : offset + len(data)] == data, (
            f"{segment} was written while it was in transit"
        )

    def _find(self, place: m.Place) -> tuple[str, int] | None:
        if place.node != self.node:
            return self.fetches.look_up(place)
        return (place.segment, place.size) if self.store.has(place.segment, place.object_id, place.size) else None

    def _serve(self) -> None:
        """Pieces leave on a plane of their own, while links are open."""
        closed = False

        def portion(peer: bytes) -> int:
            nonlocal closed
            closed = closed or self.world.random.random() < 0.2
            return 0 if closed or node_of(peer) in self.gone else self.world.random.choice((5, 1 << 20))

        while (reading := self.serving.next(portion)) is not None:
            data = self.data[reading.segment][reading.offset : reading.offset + reading.size]
            piece = m.Piece(reading.place, reading.offset, [memoryview(data)])
            self.world.send(self.process, reading.to, piece, "bulk")
            self.transit[reading.segment] += 1  # it leaves at some time, maybe long after it has arrived
            self.world.at(self.world.random.random() * 0.2, partial(self._left, reading.segment, reading.offset, data))
        if closed and not self._serves_again:
            self._serves_again = True
            self.world.at(0.0005, self._serve_again)
        if effects := self.serving.take_effects():
            for effect in effects:
                self._perform(effect)

    def _serve_again(self) -> None:
        self._serves_again = False
        if self.alive:
            self.perform()

    def _tick(self) -> None:
        if not self.alive:
            return
        self._next_deadline = float("inf")
        self.leases.tick(self.world.now)
        self.actors.tick(self.world.now)
        self.store.tick(self.world.now)
        self.fetches.tick(self.world.now)
        self.perform()

    def _perform(self, effect: Any) -> None:
        leases, now = self.leases, self.world.now
        match effect:
            case Send(message=m.Bind()):
                self.new_host(effect.to[8:].decode().strip("\0"), effect.message.job.job)
            case Send() if effect.to == self.process:
                self.receive(self.process, effect.message)
            case Send() if node_of(effect.to) in self.gone:
                self.world.at(0.0, lambda: self._nowhere(node_of(effect.to)))
            case Send():
                self.world.send(self.process, effect.to, effect.message)
            case StartWorker():
                self.world.at(self.world.random.random() * 0.02, lambda: self._started(effect.ticket))
            case Dealt():
                self.dealt.setdefault(effect.process, set()).add(effect.node)
            case DeathOver():
                self.death_over(effect.process)
            case Later():
                self.world.at(effect.seconds, lambda: self._later(effect.number))
            case OpenCopy():
                assert effect.fresh != (effect.segment in self.files), f"{effect}: {self.files.keys()}"
                self.files[effect.segment] = self.process
                self.data[effect.segment] = bytes(effect.capacity)
            case WriteCopy():
                before, data = self.data[effect.segment], b"".join(effect.data)
                end = effect.offset + len(data)
                assert end <= len(before), "it is written beyond its end"
                self.data[effect.segment] = before[: effect.offset] + data + before[end:]
            case SealCopy():
                assert effect.size <= effect.capacity
                self.fetches.on_sealed(effect.segment, now)
            case DropCopy():
                del self.files[effect.segment], self.data[effect.segment]
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
            case NameChanged() | DetachedChanged() | DetachedLost() | JobForgotten():
                return  # for other hosts to know
            case _:
                raise AssertionError(f"the shell cannot perform {effect!r}")

    def _started(self, ticket: int) -> None:
        """A worker without a job: it is nobody yet."""
        self.leases.on_worker_ready(ticket, process_id(f"h{ticket}", self.node), self.world.now)
        self.perform()


def lost_in(record: Record) -> bool:
    """Whether the object had no value to lose."""
    return record.stage in (Stage.LOST, Stage.EXPECTED)
