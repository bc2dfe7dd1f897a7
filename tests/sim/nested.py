"""Nested submitters in a simulation: the shipped cores on both sides, and user code that is a plan.

General layout. A `Plan` is what a task does: how long it runs, which tasks it submits, what they get from each other,
and whose references it returns. `Process` is a driver or a worker: `core.records`, `core.submission` and
`worker.orphans` as shipped, and a faithful model of the engine around them. Its peer is that of `nested_peer`, from
which it gets its leases. The value of a task is its number plus those of its arguments, so that each result can be
checked (I9). A worker may also be given an actor: then its constructor is a plan, and so is each of its methods.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec

from meshray.core.pending import DONE, WAITING, Mean, Pending
from meshray.core.plain import results_of, tasks_of
from meshray.core.records import Birth, Carrier, Record, Records
from meshray.core.scheduling import SchedulingClass
from meshray.core.submission import Submission
from meshray.ids import FIRST_RETURN, owner_process_of
from meshray.refs import ObjectRef
from meshray.wire import messages as m
from meshray.worker.orphans import Item, Orphanage
from tests.sim.functions import Kept, function_of
from tests.sim.nested_peer import NestedPeer
from tests.sim.world import PEER, World, process_id

FUNCTION = m.Blob(b"f" * 16, "f", b"code")
CPU = {"CPU": 10_000}


@dataclass
class Plan:
    """What one task does."""

    number: int
    seconds: float
    retries: int = 3
    children: list[Plan] = field(default_factory=list)
    argument: int = -1  # of a child: the sibling that it gets the value of
    inside: int = -1  # of a child: the sibling whose reference it gets, and returns
    returned: list[int] = field(default_factory=list)  # the children whose references it returns
    gets: list[int] = field(default_factory=list)  # the children whose values it waits for before it returns
    cpus: int = 10_000  # what it asks for, in ten-thousandths
    expected: int = 0  # its value


class _Handle(ObjectRef[Any]):
    """A handle that reports its death to its own process, not to the one that runs the simulation."""

    __slots__ = ("queue",)

    def __init__(self, object_id: bytes, queue: deque[Any]) -> None:
        self._id = object_id
        self.queue = queue

    def __del__(self) -> None:
        self.queue.append(self._id)


class Process:
    """A driver or a worker; what `runtime.engine` and `worker.executor` do, in short."""

    def __init__(self, world: World, peer: NestedPeer, label: str, history: History, driver: bool = False) -> None:
        self.world, self.peer_shell, self.label, self.history = world, peer, label, history
        self.process, self.peer, self.config = process_id(label), PEER, peer.config
        self.alive = True
        self.queue: deque[Any] = deque()
        self.records = Records(PEER, self.queue, lambda _: None, lambda _: True, None if driver else peer.config)
        self.submission = Submission(PEER, peer.config)
        self.pins: dict[tuple[bytes, bytes], list[Any]] = {}
        self.dead: dict[bytes, None] = {}
        self.classes: dict[tuple[int, int], SchedulingClass] = {}  # by depth and CPUs
        self.orphans = Orphanage(self)  # type: ignore[arg-type]
        self.functions = Kept(peer.config, history.seen)
        self.items: deque[Item] = deque()
        self.done: deque[tuple[Item, m.Result]] = deque()
        self.at_hand: Item | None = None
        self.running: Item | None = None
        self.running_since = 0.0
        self.blocked = False  # what runs waits for tasks of its own
        self.blocks = 0
        self.mean: Mean | None = None  # of all functions: many short tasks are then pushed at once
        self.actor: m.StartActor | None = None  # what it hosts
        self.journal: dict[int, tuple[dict[int, m.Result], set[int]]] = {}  # lease -> finished, started
        self.count = 0
        self._ticking = False
        self._will_hold_back = False
        world.parties[self.process] = self

    # -- what Orphanage asks of its engine ---------------------------------------------------------------------------

    def send(self, to: bytes, message: Any) -> None:
        self.flush()
        if to not in self.dead:
            self.world.send(self.process, to, message)

    def pin_for_peer(self, receiver: bytes, carrier: bytes) -> None:
        refs = self.pins.pop((receiver, carrier), None)
        if refs is not None:
            self.pins[PEER, carrier] = refs

    # -- handles and tasks -------------------------------------------------------------------------------------------

    def handle(self, object_id: bytes, carrier: Carrier | None) -> _Handle:
        self.queue.append(Birth(object_id, carrier))
        return _Handle(object_id, self.queue)

    def passing(self, object_ids: list[bytes]) -> list[Any]:
        """Handles that leave this process."""
        self.queue.extend(map(Birth, object_ids))
        self.records.drain()
        for object_id in object_ids:
            self.records.promote(self.records.table[object_id])
        return [_Handle(object_id, self.queue) for object_id in object_ids]

    def submit(self, plan: Plan, depth: int, argument: _Handle | None = None, inside: _Handle | None = None) -> _Handle:
        self.count += 1
        task_id = self.process + self.count.to_bytes(8, "big")
        ids = [inside.binary()] if inside is not None else []
        args = msgspec.msgpack.encode((plan.number, ids))
        blob = function_of(plan.number)
        task = Pending(task_id, blob.hash, args, [], self.mean or Mean())
        refs: list[Any] = self.passing(ids)
        task.nested, task.plain = bool(refs), not depth
        if argument is not None:
            task.dep_refs = [self.handle(argument.binary(), None)]
            refs += task.dep_refs
        task.refs = refs or None
        task.blob = blob
        task.retries_left = plan.retries
        key = (depth, plan.cpus)
        if key not in self.classes:
            self.classes[key] = self.submission.new_class({"CPU": plan.cpus}, m.Profile(), depth)
        task.cls = self.classes[key]
        object_id = task_id + FIRST_RETURN
        record = self.records.table[object_id] = Record(object_id, True, 1, task)
        task.records.append(record)
        self.history.plans[task_id] = plan
        if argument is None:
            self.submission.on_ready(task)
        else:
            self.records.drain()
            task.deps = [None]
            self._await(self.records.table[argument.binary()], lambda found: self._argument_is_there(task, found))
        return _Handle(object_id, self.queue)

    def _await(self, record: Record, waiter: Callable[[Record], None]) -> None:
        if record.value is not None:
            waiter(record)
            return
        if record.waiters is None:
            record.waiters = []
        record.waiters.append(waiter)
        self.records.fetch([record])

    def _argument_is_there(self, task: Pending, record: Record) -> None:
        if isinstance(record.value, m.Failure):
            task.state = DONE
            self._complete([(task, m.Result(0, [record.value]))], b"")
        elif task.state == WAITING:
            task.deps = [record.value]
            task.nested = task.nested or bool(record.contained) or record.inside is not None
            self.submission.on_ready(task)

    def _complete(self, done: list[tuple[Pending, m.Result]], worker: bytes) -> None:
        for task, result in done:
            refs, task.refs = task.refs, None
            if refs is not None and result.kept:
                self.pins[worker, task.task_id] = refs
            contained: list[Any] | None = None
            if result.contained:
                carrier = Carrier(task.task_id, worker)
                contained = []
                for object_id in result.contained[0]:
                    self.records.borrow(object_id, carrier)
                    contained.append(_Handle(object_id, self.queue))
                if not self.records.end_carrier(carrier):
                    self.send(worker, m.CarrierDone([task.task_id]))
            del refs
            self.records.settle(task.records[0], result.values[0], contained)

    # -- messages ----------------------------------------------------------------------------------------------------

    def receive(self, source: bytes, message: Any) -> None:
        if source in self.dead:
            return
        now = self.world.now
        match message:
            case m.Bind():
                self.orphans.driver = message.job.job
            case m.Push():
                self._on_push(source, message, message.tasks)
            case m.PlainPush():
                self._on_push(source, message, tasks_of(message))
            case m.PlainResults():
                tasks = self.submission.on_plain_results(
                    source, message.lease, message.seq, len(message.values), 1, now
                )
                outcomes = zip(tasks, results_of(message), strict=True)
                self._complete([(task, result) for task, result in outcomes if task is not None], source)
            case m.Results():
                self._complete(self.submission.on_results(source, message.lease, message.results, 1, now), source)
            case m.GivenBack():
                self._complete(self.submission.on_given_back(source, message.lease, message.seqs, now), source)
            case m.LeaseGranted():
                self.submission.on_granted(message, now)
            case m.LeaseWanted():
                self.submission.on_wanted(message.lease)
            case m.LeaseRevoked():
                self.submission.on_revoked(message.lease)
            case m.LeaseLost():
                self._complete(self.submission.on_lost(message, now), message.worker)
            case m.CarrierDone():
                for carrier in message.carriers:
                    self.pins.pop((source, carrier), None)
            case m.HoldDone():
                self.records.on_hold_done(message.token)
            case m.Fetched():
                self.records.drain()
                self.records.on_fetched(message)
            case m.ProcessDied():
                self._on_process_died(message.process)
            case m.DeathSettled():
                for key in [key for key in self.pins if key[0] == message.process]:
                    del self.pins[key]
            case m.StartActor():
                self.actor = message
                self._construct(message)
            case m.ActorState():
                return
            case m.Exit():
                self.die()
                return
        self.turn()

    def _on_process_died(self, process: bytes) -> None:
        self.dead[process] = None
        self.items = deque(item for item in self.items if item[0] != process)
        self.orphans.tell(process, self.done, self.at_hand)
        self.functions.on_submitter_gone(process, self.at_hand[2].function if self.at_hand is not None else b"")
        self.records.drain()
        self.records.on_process_died(process)
        self.send(PEER, m.DeathSeen(process))

    def turn(self) -> None:
        if not self.alive:
            return
        self.records.drain()
        self._send_results()
        self.submission.fill(self.world.now)
        self.flush()
        if self.submission.busy and not self._ticking:
            self._ticking = True
            self.world.later(self.process, 0.02, self._tick)
        if self.running is None and self.items:
            self._begin(self.items.popleft())
        elif self.items and not self._will_hold_back:
            self._will_hold_back = True
            due = self.running_since + self.config.hold_back_after_s
            self.world.later(self.process, max(0.0, due - self.world.now), self._hold_back)

    def _tick(self) -> None:
        self._ticking = False
        if self.alive:
            self.submission.tick(self.world.now, 0.01)
            self.turn()

    def flush(self) -> None:
        self.records.drain()
        for core in (self.records, self.submission):
            for effect in core.take_effects():
                if effect.to not in self.dead:
                    self.world.send(self.process, effect.to, effect.message)

    # -- running -----------------------------------------------------------------------------------------------------

    def _on_push(self, source: bytes, message: m.Push | m.PlainPush, tasks: list[m.Task]) -> None:
        self.functions.on_push(source, message)
        if message.lease not in self.journal:
            self.journal = {message.lease: ({}, set())}
        finished, _ = self.journal[message.lease]
        for seq in [seq for seq in finished if seq <= message.acknowledged]:
            del finished[seq]
        self.orphans.on_acknowledged(message.lease, message.acknowledged)
        self.items.extend((source, message.lease, task) for task in tasks)

    def _begin(self, item: Item) -> None:
        """The main thread takes a task: its arguments first."""
        self.at_hand = self.running = item
        self.running_since = self.world.now
        source, lease, task = item
        assert task.function in self.functions, f"{self.label} lacks the function of {task}"
        self.journal[lease][1].add(task.seq)
        self.history.begun[task.task_id] += 1
        self.history.first_begun.setdefault(task.task_id, self.world.now)
        assert isinstance(task.args, bytes)
        number, ids = msgspec.msgpack.decode(task.args)
        carrier = Carrier(task.task_id, source)
        scope = SimpleNamespace(item=item, carrier=carrier, refs=[self.handle(i, carrier) for i in ids], value=number)
        missing = [dep.object_id for dep in task.deps if isinstance(dep, m.Borrowed)]
        scope.value += sum(msgspec.msgpack.decode(dep) for dep in task.deps if isinstance(dep, bytes))
        borrowed = [self.handle(object_id, carrier) for object_id in missing]
        self.records.drain()
        if not borrowed:
            self._run(scope)
        for ref in borrowed:  # at most one
            record = self.records.table[ref.binary()]
            if record.value is None:
                self._block()
            self._await(record, lambda record: self._fetched(scope, record, ref))  # noqa: B023
        self.turn()

    def _fetched(self, scope: Any, record: Record, ref: _Handle) -> None:
        assert isinstance(record.value, bytes), "an adopted task began without its argument"
        scope.value += msgspec.msgpack.decode(record.value)
        self._unblock()
        self._run(scope)

    def _run(self, scope: Any) -> None:
        """User code: some children now, the others later."""
        plan = self.history.plans[scope.item[2].task_id]
        scope.children = []
        half = len(plan.children) // 2
        self._submit_children(scope, plan, plan.children[:half])
        self.world.later(self.process, plan.seconds, lambda: self._return(scope, plan, half))

    def _submit_children(self, scope: Any, plan: Plan, children: list[Plan]) -> None:
        for child in children:
            argument = scope.children[child.argument] if child.argument >= 0 else None
            inside = scope.children[child.inside] if child.inside >= 0 else None
            scope.children.append(self.submit(child, scope.item[2].depth + 1, argument, inside))

    def _return(self, scope: Any, plan: Plan, half: int) -> None:
        if self.alive:
            self._submit_children(scope, plan, plan.children[half:])
            self._get([scope.children[index] for index in plan.gets], lambda failed: self._end(scope, plan, failed))

    def _end(self, scope: Any, plan: Plan, failed: m.Failure | None) -> None:
        """The function returns, or raises what its `get` has raised."""
        source, lease, task = scope.item
        inside = [scope.children[index].binary() for index in plan.returned] + [ref.binary() for ref in scope.refs]
        pinned = self.passing(inside)
        if pinned:
            self.pins[PEER if source in self.dead else source, task.task_id] = pinned
        value: Any = msgspec.msgpack.encode(scope.value) if failed is None else failed
        result = m.Result(task.seq, [value], [inside] if inside else [])
        scope.children.clear()
        scope.refs.clear()
        self.records.drain()
        if self.records.end_carrier(scope.carrier):
            result.kept = True
        finished, started = self.journal[lease]
        started.discard(task.seq)
        finished[task.seq] = result
        self.running = None
        self.done.append((scope.item, result))
        self.turn()

    def _send_results(self) -> None:
        while self.done:
            item, result = self.done.popleft()
            source, lease, _ = item
            if source != self.orphans.driver and self.orphans.takes(item, result):
                continue
            value = result.values[0]
            if type(value) is bytes and not result.contained and not result.kept:
                self.send(source, m.PlainResults(lease, result.seq, [value]))
            else:
                self.send(source, m.Results(lease, [result]))

    # -- waiting in a task -------------------------------------------------------------------------------------------

    def _get(self, refs: list[_Handle], then: Callable[[m.Failure | None], None]) -> None:
        """`then(failure)` runs in the main thread when all values are there, or one is a failure."""
        self.records.drain()
        records = [self.records.table[ref.binary()] for ref in refs]
        missing = [record for record in records if record.value is None]
        if missing:
            self._block()
        left = len(missing)

        def on_value(_: Record) -> None:
            nonlocal left
            left -= 1
            if not left:
                self.world.later(self.process, 0.0, wake)

        def wake() -> None:
            if self.alive:
                self._unblock()
                failures = [record.value for record in records if isinstance(record.value, m.Failure)]
                then(failures[0] if failures else None)
                self.turn()

        for record in missing:
            self._await(record, on_value)
        if not missing:
            self.world.later(self.process, 0.0, wake)
        self.turn()

    def _block(self) -> None:
        """One of the tasks behind may be what it waits for."""
        assert not self.blocked
        self._give_back()
        self.blocked = True
        self.blocks += 1
        self.send(PEER, m.Blocked(self.blocks))

    def _unblock(self) -> None:
        if self.blocked:
            self.blocked = False
            self.send(PEER, m.Unblocked(self.blocks))

    def _hold_back(self) -> None:
        """What waits behind a long task goes elsewhere."""
        self._will_hold_back = False
        if self.alive and self.running is not None:
            if self.world.now - self.running_since >= self.config.hold_back_after_s - 1e-9:
                self._give_back()
            self.turn()

    def _give_back(self) -> None:
        items, self.items = self.items, deque()
        for source, lease, task in items:
            self.send(source, m.GivenBack(lease, [task.seq]))

    # -- an actor ----------------------------------------------------------------------------------------------------

    def _construct(self, message: m.StartActor) -> None:
        plan = self.history.actors[message.actor_id]
        self.world.later(self.process, plan.seconds, lambda: self._call(plan, lambda: self._constructed(message)))

    def _constructed(self, message: m.StartActor) -> None:
        random = self.world.random
        failure = m.Failure("TaskError", "no") if random.random() < 0.05 else None
        self.send(PEER, m.ActorReady(message.actor_id, message.incarnation, failure))
        self._be_called(random.randint(0, 3))

    def _be_called(self, times: int) -> None:
        """Methods that it runs, one after the other; after the last one some actors end themselves."""
        if not self.alive or self.actor is None:
            return
        plan = self.history.actors[self.actor.actor_id]
        if times:
            self.world.later(
                self.process,
                self.world.random.random() * 0.05,
                lambda: self._call(plan, lambda: self._be_called(times - 1)),
            )
        elif self.world.random.random() < 0.2:
            self.send(PEER, m.ActorExit(self.actor.actor_id, self.actor.incarnation))
            self.world.later(self.process, 0.005, self.die)
        self.turn()

    def _call(self, plan: Plan, then: Callable[[], None]) -> None:
        """Its code submits tasks, and waits for them."""
        if self.alive:
            self._get([self.submit(child, 1) for child in plan.children], lambda _: then())

    # -- the end -----------------------------------------------------------------------------------------------------

    def die(self) -> None:
        if not self.alive:
            return
        self.world.kill(self.process)
        self.world.at(self.world.random.random() * 0.005, self._death_is_noticed)

    def _death_is_noticed(self) -> None:
        lease = self.peer_shell.leases.lease_of(self.process)
        finished, started = self.journal.get(lease, ({}, set()))
        self.peer_shell.process_died(self.process, list(finished.values()), sorted(started))


@dataclass
class History:
    """What has happened, for the checks."""

    plans: dict[bytes, Plan] = field(default_factory=dict)  # task -> what it does
    actors: dict[bytes, Plan] = field(default_factory=dict)  # actor -> what its code does
    mean: Mean = field(default_factory=Mean)  # of all functions, where they share one
    begun: Counter[bytes] = field(default_factory=Counter)  # task -> executions
    first_begun: dict[bytes, float] = field(default_factory=dict)  # task -> when
    seen: Counter[str] = field(default_factory=Counter)  # what happened to functions


class Driver(Process):
    """The user's program: it submits plans, and fetches every reference that it gets, however deep."""

    def __init__(self, world: World, peer: NestedPeer, history: History, label: str = "driver") -> None:
        super().__init__(world, peer, label, history, driver=True)
        self.orphans.driver = self.process
        self.asked: dict[bytes, _Handle] = {}
        self.values: dict[bytes, Any] = {}
        self.actors: dict[bytes, _Handle] = {}
        peer.start_job(self.process)

    def ask(self, ref: _Handle) -> None:
        object_id = ref.binary()
        if object_id in self.asked:
            return
        self.asked[object_id] = ref
        self.records.drain()
        self._await(self.records.table[object_id], self._got)

    def _got(self, record: Record) -> None:
        self.values[record.id] = record.value
        ids = [ref.binary() for ref in record.contained or ()]
        if record.inside is not None:
            ids = self.inside_of[record.id]
        for object_id in ids:
            self.ask(self.handle(object_id, record.inside))

    def receive(self, source: bytes, message: Any) -> None:
        if isinstance(message, m.Fetched):
            self.inside_of = {promoted.object_id: promoted.contained for promoted in message.records}
        super().receive(source, message)

    def create_actor(self, plan: Plan, restarts: int, keeps: int, detached: bool) -> None:
        """`keeps`: the CPU that it needs while it lives, in ten-thousandths."""
        self.count += 1
        actor_id = self.process + self.count.to_bytes(8, "big")
        record = self.records.table[actor_id + FIRST_RETURN] = Record(actor_id + FIRST_RETURN, True, 1)
        record.value, record.promoted = b"", True  # CreateActor makes its record at the peer
        self.actors[actor_id] = _Handle(record.id, self.queue)
        self.history.actors[actor_id] = plan
        message = m.CreateActor(
            actor_id, FUNCTION, b"", [], {"CPU": plan.cpus}, {"CPU": keeps} if keeps else {}, m.Profile(actor=True),
            restarts, 0, 0, self.process, b"", detached=detached,
        )  # fmt: skip
        self.send(PEER, message)
        self.turn()

    def let_go(self) -> None:
        """Of an actor."""
        if self.actors:
            del self.actors[next(iter(self.actors))]
            self.turn()

    def leave(self) -> None:
        """`shutdown()`: what it had said still arrives."""
        self.send(PEER, m.Detach(1))
        self.alive = False

    def _death_is_noticed(self) -> None:
        self.peer_shell.end_job(self.process)
        self.peer_shell.forget_driver(self.process)

    def owner_is_dead(self, object_id: bytes) -> bool:
        owner: Any = self.world.parties.get(owner_process_of(object_id))
        return owner is None or not owner.alive
