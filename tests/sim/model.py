"""A process in a simulation: the shipped counting (`core.records`) and a faithful model of the runtime around it.

What the model adds are the rules that a runtime must keep, each of which the simulation can break on purpose (`Rules`):

1. *settle*: handles kept for a receiver that died stay until the peer says DeathSettled: it may have passed them on.
2. *hold*: before DeathSeen, the peer is told of living references that came from the dead process.
3. *refuse*: after DeathSeen, nothing that still arrives from the dead process is taken.
4. *announce*: places that came from the dead process are told again (Sealed with `maker`), before DeathSeen; but only
   those that are still referenced here: another one was released already, and would stay for ever.
5. *retried*: the returns of a task that ran more than once are released even when its value is small: a lost attempt
   may have sealed a segment for them.
6. *calm*: while a question that makes the asker a holder is open, no handle of an actor is released.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from meshray.core.records import Birth, Carrier, Record, Records
from meshray.ids import FIRST_RETURN, NODE_BYTES, node_of, object_of, owner_process_of
from meshray.wire import messages as m
from tests.sim.peer import SimPeer
from tests.sim.world import World, process_id

LARGE = 64
"""Bytes of a large value: it is copied in earnest."""


@dataclass(frozen=True)
class Rules:
    """What this runtime obeys."""

    settle: bool = True
    hold: bool = True
    refuse: bool = True
    announce: bool = True
    retried: bool = True
    calm: bool = True


class Ref:
    """A handle: counted from its birth (see `Process.ref`) to its collection."""

    __slots__ = ("_id", "_queue")

    def __init__(self, object_id: bytes, queue: deque[Any]) -> None:
        self._id = object_id
        self._queue = queue

    def __del__(self) -> None:
        self._queue.append(self._id)

    def binary(self) -> bytes:
        return self._id


@dataclass
class Submitted:
    """A task of this process that is not done."""

    task_id: bytes
    worker: bytes
    record: Record
    refs: list[Ref]
    push: m.Task
    attempt: int = 0


@dataclass
class Running:
    """A task that runs here."""

    source: bytes
    task: m.Task
    carrier: Carrier
    refs: list[Ref]
    views: list[Ref]


@dataclass
class Process:
    """A driver or a worker."""

    world: World
    peer: SimPeer
    label: str
    job: bytes
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        self.process = process_id(self.label, self.peer.node)
        self.alive = True
        self.queue: deque[Any] = deque()
        self.records = Records(self.peer.process, self.queue, self._on_idle, self._on_release)
        self.variables: list[Ref] = []  # what user code holds
        self.views: list[Ref] = []  # arrays over segments that it holds: counted like handles, but nobody can pass them
        self.pins: dict[tuple[bytes, bytes], list[Ref]] = {}  # (receiver, carrier)
        self.tasks: dict[int, Submitted] = {}
        self.running: dict[bytes, Running] = {}
        self.journal: dict[bytes, list[m.Result]] = {}  # submitter -> results
        self.attempts: dict[bytes, int] = {}  # object -> attempts beyond the first
        self.makers: dict[bytes, bytes] = {}  # object -> who wrote its segment, where that was another
        self.dead: set[bytes] = set()
        self.gone: set[bytes] = set()  # hosts
        self.count = 0
        self.failures: list[tuple[bytes, m.Failure]] = []
        self.finding = 0  # questions that are open
        self.creating: dict[int, Ref] = {}  # request -> handle of a named actor that may not come to be
        self.put_off: list[bytes] = []  # actor handles to let go of when none is
        self.states: dict[bytes, m.ActorState] = {}  # the last of each actor
        self.hosted: m.StartActor | None = None
        self.reading: dict[int, tuple[m.Place, Ref]] = {}  # values of other hosts that were asked for, by request
        self.uses: dict[str, int] = {}  # copies that are being read
        self.unread: list[tuple[m.Place, m.Failure]] = []
        self.job = self.job or self.process
        self.world.parties[self.process] = self
        self.peer.attach(self.process, self.job)

    # -- handles -----------------------------------------------------------------------------------------------------

    def ref(self, object_id: bytes, carrier: Carrier | None = None) -> Ref:
        """A new handle."""
        self.queue.append(Birth(object_id, carrier))
        return Ref(object_id, self.queue)

    def new_id(self) -> bytes:
        self.count += 1
        object_id = object_of(self.process + self.count.to_bytes(8, "big"), 0)
        self.world.born[object_id] = len(self.world.born)
        return object_id

    def own(self, value: Any, task: Any = None) -> tuple[Record, Ref]:
        """A record of this process's own, with its first handle."""
        record = Record(self.new_id(), True, 1, task)
        self.records.table[record.id] = record
        record.value = value
        return record, Ref(record.id, self.queue)

    def passing(self, refs: list[Ref]) -> list[Ref]:
        """Handles on their way out: copies, promoted."""
        copies = [self.ref(ref.binary()) for ref in refs]
        self.records.drain()
        for ref in copies:
            self.records.promote(self.records.table[ref.binary()])
        return copies

    def some(self, refs: list[Ref], at_most: int = 3) -> list[Ref]:
        return self.world.random.sample(refs, min(len(refs), self.world.random.randint(0, at_most)))

    def flush(self) -> None:
        """What the counting has to say."""
        self.records.drain()
        for effect in self.records.take_effects():
            self.world.send(self.process, effect.to, effect.message)

    def say(self, to: bytes, message: Any) -> None:
        """After all that was to be said before."""
        self.flush()
        self.world.send(self.process, to, message)

    def _on_idle(self, record: Record) -> None:
        if isinstance(record.value, m.Place) or record.exposed:
            self.world.send(self.process, self.peer.process, m.Release([record.id]))

    def _on_release(self, record: Record) -> bool:
        if self.finding and self.rules.calm and record.id.endswith(FIRST_RETURN):
            self.put_off.append(record.id)
            return False
        return True

    # -- what user code does -----------------------------------------------------------------------------------------

    def write(self, object_id: bytes) -> m.Place:
        """A sealed segment."""
        self.count += 1
        place = m.Place(object_id, self.peer.node, f"{self.process[-8:].hex()}-{self.count:x}", LARGE)
        self.peer.files[place.segment] = self.process
        self.peer.data[place.segment] = self.world.truth[place] = blake2b(
            repr(place).encode(), digest_size=LARGE
        ).digest()
        self.say(self.peer.process, m.Sealed([m.SealedSegment(object_id, place.segment, LARGE, LARGE)]))
        return place

    def put(self) -> None:
        record, ref = self.own(b"small")
        if self.world.random.random() < 0.4:
            record.value = self.write(record.id)
        record.contained = self.passing(self.some(self.variables)) or None
        self.variables.append(ref)
        self.flush()

    def drop(self) -> None:
        for kind in (self.variables, self.views):
            if kind:
                kind.pop(self.world.random.randrange(len(kind)))
        self.flush()

    def drop_all(self) -> None:
        self.variables.clear()
        self.views.clear()
        self.flush()

    def submit(self, worker: bytes) -> None:
        """A task with references inside its arguments, and values of the store on top of them."""
        nested = self.passing(self.some(self.variables))
        deps: list[Any] = []
        for ref in self.some(self.variables, 2):
            record = self.records.table[ref.binary()]
            if record.owned and isinstance(record.value, m.Place):
                record.exposed = True
                deps.append(record.value)
                nested.append(self.ref(record.id))
        args = b"".join(ref.binary() for ref in nested if ref.binary() not in {dep.object_id for dep in deps})
        record, ref = self.own(None)
        task = m.Task(self.count, record.id[:24], b"f", args, deps, nested=True)
        record.task = submitted = Submitted(task.task_id, worker, record, nested, task)
        self.tasks[task.seq] = submitted
        self.variables.append(ref)
        self.say(worker, m.Push(1, 0, [task]))

    def get(self) -> None:
        """Ask for the value of something borrowed."""
        wanted = [self.records.table[ref.binary()] for ref in self.some(self.variables)]
        self.records.fetch([record for record in wanted if not record.owned])
        self.flush()

    def read(self) -> None:
        """Look into values that lie on other hosts."""
        values = [self.records.table[ref.binary()].value for ref in self.variables]
        places = [value for value in values if isinstance(value, m.Place) and value.node != self.peer.node]
        for place in self.world.random.sample(places, min(2, len(places))):
            self.count += 1
            self.reading[self.count] = place, self.ref(place.object_id)
            self.say(self.peer.process, m.Bring(self.count, place))

    def _on_Brought(self, source: bytes, message: m.Brought) -> None:
        place, ref = self.reading.pop(message.request)
        if message.failure is not None:
            self.unread.append((place, message.failure))
            return
        assert message.place is not None
        self.uses[message.place.segment] = self.uses.get(message.place.segment, 0) + 1
        self.compare(place, message.place)
        self.world.at(self.world.random.random() * 0.05, lambda: self._end_use(place, message.place, ref))

    def compare(self, place: m.Place, copy: m.Place | None) -> None:
        assert copy is not None
        assert copy.node == self.peer.node
        assert self.peer.data[copy.segment][: copy.size] == self.world.truth[place], (
            f"{place!r} is not what it was (I9)"
        )

    def _end_use(self, place: m.Place, copy: m.Place | None, ref: Ref) -> None:
        if not self.alive or copy is None:
            return
        self.compare(place, copy)  # nobody has written into it meanwhile
        self.uses[copy.segment] -= 1
        asked = any(other == place for other, _ in self.reading.values())
        if not self.uses[copy.segment] and not asked:
            self.say(self.peer.process, m.Unused([copy.segment]))
        del ref
        self.flush()

    def die(self) -> None:
        """SIGKILL."""
        self.world.kill(self.process)
        self.variables.clear()
        self.world.at(self.world.random.random() * 0.005, self._death_is_noticed)

    def _death_is_noticed(self) -> None:
        if not self.peer.alive:
            return
        living: list[Any] = [p for p in self.world.parties.values() if isinstance(p, Process) and p.alive]
        failure = m.Failure("WorkerCrashedError", "killed")
        lost = [
            (p.process, m.LeaseLost(1, self.process, self.journal.get(p.process, []), [], failure))
            for p in living
            if any(task.worker == self.process for task in p.tasks.values()) or p.process in self.journal
        ]
        self.peer.process_died(self.process, self.journal, lost)
        if self.process == self.job:
            for process in self.peer.end_job(self.job):
                victim: Any = self.world.parties[process]
                if victim.alive:
                    victim.die()

    # -- messages ----------------------------------------------------------------------------------------------------

    def receive(self, source: bytes, message: Any) -> None:
        if self.is_gone(source) and self.rules.refuse:
            return
        handler = getattr(self, f"_on_{type(message).__name__}", None)
        if handler is not None:
            handler(source, message)
        self.flush()

    def is_gone(self, process: bytes) -> bool:
        """Whether it is known here that it is dead."""
        return process in self.dead or node_of(process) in self.gone

    def _on_Push(self, source: bytes, message: m.Push) -> None:
        for task in message.tasks:
            carrier = Carrier(task.task_id, source)
            assert isinstance(task.args, bytes)
            ids = [task.args[at : at + 28] for at in range(0, len(task.args), 28)]
            places = {dep.object_id for dep in task.deps if isinstance(dep, m.Place)}
            refs = [self.ref(object_id, carrier) for object_id in [*ids, *sorted(places)]]
            self.records.drain()
            views = [ref for ref in refs if ref.binary() in places]
            refs = [ref for ref in refs if ref.binary() not in places]
            self.running[task.task_id] = Running(source, task, carrier, refs, views)
            self.world.at(self.world.random.random() * 0.02, lambda task_id=task.task_id: self._finish(task_id))

    def _finish(self, task_id: bytes) -> None:
        """The function has returned; a large value is sealed now and told of a moment later."""
        if not self.alive:
            return
        random = self.world.random
        value: Any = b"small"
        if random.random() < 0.4:
            value = self.write(object_of(task_id, 0))
        self.world.at(random.random() * 0.002, lambda: self._reply(task_id, value))

    def _reply(self, task_id: bytes, value: Any) -> None:
        if not self.alive:
            return
        running = self.running.pop(task_id)
        source = running.source
        # A result holds only what is older than itself: counting never ends a circle, and user code makes one rarely.
        born = self.world.born
        age = born[object_of(task_id, 0)]
        reachable = [ref for ref in running.refs + self.variables if born[ref.binary()] < age]
        contained = self.passing(self.some(reachable)) if not self.is_gone(source) else []
        self.variables += self.some(running.refs, 1)
        self.views += self.some(running.views, 1)
        running.refs = running.views = reachable = []
        self.records.drain()
        kept = self.records.end_carrier(running.carrier)
        self.flush()
        if self.is_gone(source):
            return
        if contained:
            self.pins[source, task_id] = contained
        result = m.Result(running.task.seq, [value], [[ref.binary() for ref in contained]] if contained else [], kept)
        self.journal.setdefault(source, []).append(result)
        self.say(source, m.Results(1, [result]))

    def _on_Results(self, source: bytes, message: m.Results) -> None:
        for result in message.results:
            task = self.tasks.get(result.seq)
            if task is not None and task.worker == source:
                self._complete(task, result, source)

    def _complete(self, task: Submitted, result: m.Result, worker: bytes) -> None:
        del self.tasks[result.seq]
        refs, task.refs = task.refs, []
        if result.kept:
            self.pins[worker, task.task_id] = refs
        contained: list[Ref] = []
        if result.contained:
            carrier = Carrier(task.task_id, worker)
            for object_id in result.contained[0]:
                self.records.borrow(object_id, carrier)
                contained.append(Ref(object_id, self.queue))
            if not self.records.end_carrier(carrier):
                self.say(worker, m.CarrierDone([task.task_id]))
        value = result.values[0]
        if isinstance(value, m.Place):
            self.makers[value.object_id] = worker
        if self.rules.retried and self.attempts.get(task.record.id):
            task.record.exposed = True  # an earlier attempt may have written a segment that nobody spoke of
        self.records.settle(task.record, value, contained or None)  # type: ignore[arg-type]

    def _on_LeaseLost(self, source: bytes, message: m.LeaseLost) -> None:
        """From the peer: what had finished counts; the rest runs again, or fails."""
        worker = message.worker
        for result in message.finished:
            task = self.tasks.get(result.seq)
            if task is None or task.worker != worker:
                continue
            value = result.values[0]
            if isinstance(value, m.Place) and self.rules.announce:
                self._announce(value, worker)
            self._complete(task, result, worker)
        for task in [task for task in self.tasks.values() if task.worker == worker]:
            self._again(task)

    def _again(self, task: Submitted) -> None:
        processes = [p for p in self.world.parties.values() if isinstance(p, Process) and p.peer.alive]
        attached = [p.process for p in processes if p.peer.objects.is_attached(p.process)]
        others = [p for p in attached if p not in (self.process, task.worker)]
        self.attempts[task.record.id] = self.attempts.get(task.record.id, 0) + 1
        if others and self.world.random.random() < 0.7:
            task.worker = self.world.random.choice(others)
            self.say(task.worker, m.Push(1, 0, [task.push]))
        else:
            self._complete(task, m.Result(task.push.seq, [m.Failure("WorkerCrashedError", "killed")]), task.worker)

    def _announce(self, place: m.Place, maker: bytes) -> None:
        if place.node != self.peer.node:
            self.say(self.peer.process, m.Lodged([place]))
            return
        self.say(
            self.peer.process,
            m.Sealed([m.SealedSegment(place.object_id, place.segment, place.size, place.size, maker)]),
        )

    def _on_ProcessDied(self, source: bytes, message: m.ProcessDied) -> None:
        process = message.process
        self.dead.add(process)
        self._account_for(process)
        self.say(self.peer.process, m.DeathSeen(process))
        if not self.rules.settle:
            self._unpin(process)

    def _on_NodeGone(self, source: bytes, message: m.NodeGone) -> None:
        self.gone.add(message.node)
        self._account_for(message.node)
        self.world.at(self.peer.objects._config.doubt_s, lambda: self._unpin(message.node))

    def _account_for(self, dead: bytes) -> None:
        """What had come from a process, or from all those of a host."""
        self.records.drain()
        if self.rules.hold and len(dead) == NODE_BYTES:
            self.records.on_host_gone(dead)
        elif self.rules.hold:
            covered = [
                record
                for record in self.records.table.values()
                if not record.held and any(carrier.source == dead for carrier in record.carriers or ())
            ]
            for record in covered:
                record.held = True
            if covered:
                self.say(self.peer.process, m.Hold(0, [record.id for record in covered]))
        if self.rules.announce:
            for record in list(self.records.table.values()):
                if isinstance(record.value, m.Place) and self.makers.get(record.id) == dead:
                    self._announce(record.value, dead)
        for task in [task for task in self.tasks.values() if task.worker.startswith(dead)]:
            self._again(task)

    def _on_DeathSettled(self, source: bytes, message: m.DeathSettled) -> None:
        self._unpin(message.process)

    def _unpin(self, process: bytes) -> None:
        for key in [key for key in self.pins if key[0].startswith(process)]:
            del self.pins[key]

    def _on_CarrierDone(self, source: bytes, message: m.CarrierDone) -> None:
        for carrier in message.carriers:
            self.pins.pop((source, carrier), None)

    def _on_HoldDone(self, source: bytes, message: m.HoldDone) -> None:
        self.records.on_hold_done(message.token)

    def _on_Fetched(self, source: bytes, message: m.Fetched) -> None:
        self.records.drain()
        self.records.on_fetched(message)
        for promoted in message.records:
            record = self.records.table.get(promoted.object_id)
            if isinstance(promoted.value, m.Failure):
                self.failures.append((promoted.object_id, promoted.value))
            if record is not None and record.inside is not None and self.world.random.random() < 0.7:
                for object_id in promoted.contained:
                    self.variables.append(self.ref(object_id, record.inside))

    def _on_SegmentsFree(self, source: bytes, message: m.SegmentsFree) -> None:
        for segment in message.segments:
            assert self.peer.files.get(segment) == self.process, f"{segment} is not ours to use again"
            del self.peer.files[segment]
            if message.again:
                self.peer.data[segment] = bytes(LARGE)  # written again
            else:
                del self.peer.data[segment]
            self.say(self.peer.process, m.PoolTrimmed(LARGE))

    # -- actors ------------------------------------------------------------------------------------------------------

    def create_actor(
        self, name: str = "", detached: bool = False, restarts: int = 0, get_if_exists: bool = False
    ) -> None:
        """An actor whose constructor gets references; a handle of it."""
        record, ref = self.own(b"")
        record.promoted = True  # CreateActor makes its record at the peer
        actor_id = record.id[:24]
        args = [copy.binary() for copy in self.passing(self.some(self.variables, 2))]
        blob = m.Blob(bytes(16), "A", b"")
        request = 0
        if name:  # `.remote()` waits for the answer: until then nobody gets the handle
            self.finding += 1
            request = self.count
            self.creating[request] = ref
        cpu = {"CPU": 10_000}
        message = m.CreateActor(
            actor_id, blob, b"", [], cpu, cpu if restarts else {}, m.Profile(actor=True), restarts, 0, 0, self.job,
            b"", name, "", detached, get_if_exists, request, args,
        )  # fmt: skip
        self.say(self.peer.process, message)
        if not name:
            self.variables.append(ref)
            self.say(self.peer.process, m.WatchActor(actor_id))

    def find(self, name: str) -> None:
        self.finding += 1
        self.count += 1
        self.say(self.peer.process, m.FindActor(self.count, name, ""))

    def _on_ActorFound(self, source: bytes, message: m.ActorFound) -> None:
        created = self.creating.pop(message.request, None)
        if message.actor_id and message.created:
            assert created is not None, "an answer to nothing"
            self.variables.append(created)
            self.say(self.peer.process, m.WatchActor(message.actor_id))
        elif message.actor_id:
            object_id = message.actor_id + FIRST_RETURN
            self.records.drain()
            record = self.records.table.get(object_id)
            if record is None:
                record = self.records.table[object_id] = Record(object_id, False, 0)
            record.held = True
            self.variables.append(self.ref(object_id))
            self.records.drain()
            self.say(self.peer.process, m.WatchActor(message.actor_id))
        self.finding -= 1  # only now: the new handle is counted
        if not self.finding:
            put_off, self.put_off = self.put_off, []
            for object_id in put_off:
                self.records.let_go(object_id)

    def handles(self) -> list[bytes]:
        """Actors of which user code here holds a handle."""
        return sorted({ref.binary()[:24] for ref in self.variables if ref.binary()[:24] in self.peer_actors()})

    def peer_actors(self) -> set[bytes]:
        return {actor.spec.actor_id for actor in self.peer.actors.all()}

    def kill_actor(self, no_restart: bool) -> None:
        handles = self.handles()
        if handles:
            self.say(self.peer.process, m.KillActor(self.world.random.choice(handles), no_restart))

    def watch(self) -> None:
        for actor_id in self.handles():
            self.say(self.peer.process, m.WatchActor(actor_id))

    def _on_ActorState(self, source: bytes, message: m.ActorState) -> None:
        known = self.states.get(message.actor_id)
        assert known is None or known.failure is None or message.failure is not None, "a dead actor came back"
        assert known is None or message.incarnation >= known.incarnation or message.failure, "an older incarnation"
        self.states[message.actor_id] = message

    def _on_StartActor(self, source: bytes, message: m.StartActor) -> None:
        self.hosted = message
        self.world.at(self.world.random.random() * 0.01, self._constructed)

    def _constructed(self) -> None:
        if self.alive and self.hosted is not None:
            failure = m.Failure("TaskError", "no") if self.world.random.random() < 0.1 else None
            self.say(self.peer.process, m.ActorReady(self.hosted.actor_id, self.hosted.incarnation, failure))
            if failure is None and self.world.random.random() < 0.1:
                self.say(self.peer.process, m.ActorExit(self.hosted.actor_id, self.hosted.incarnation))
                self.world.at(0.01, self._leave)

    def _on_Exit(self, source: bytes, message: m.Exit) -> None:
        if self.world.random.random() < 0.7:  # others hang, and are killed
            self.world.at(self.world.random.random() * 0.01, self._leave)

    def _leave(self) -> None:
        if self.alive:
            self.die()


def excused(process: Process, object_id: bytes) -> bool:
    """Whether the owner of an object has died or its job ended: then it may be lost."""
    owner: Any = process.world.parties.get(owner_process_of(object_id))
    return owner is None or not owner.alive or owner.job in owner.peer.jobs_ended
