"""A process in a simulation that makes lost values again: `model.Process` with the shipped `core.remaking` and
`runtime.lost`.

What the model adds: tasks have references at the top level of their arguments, whose values their worker brings before
it begins; who reads a value of another host and hears that it is lost, looks elsewhere and reads again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meshray.config import Config
from meshray.core.pending import DONE, IN_FLIGHT, READY, WAITING, Mean, Pending
from meshray.core.records import Birth, Carrier, Record
from meshray.core.scheduling import SchedulingClass
from meshray.refs import ObjectRef
from meshray.runtime.copies import Loans
from meshray.runtime.lost import LostValues
from meshray.wire import messages as m
from tests.sim.model import Process, Ref, Running, Submitted

CLS = SchedulingClass(1, {"CPU": 10_000}, m.Profile(), 1)
BLOB = m.Blob(b"f" * 16, "f", b"code")


@dataclass
class History:
    """What has happened, for the invariants."""

    begun: Counter[bytes] = field(default_factory=Counter)  # task -> executions
    allowed: dict[bytes, int] = field(default_factory=dict)  # task -> retries that it was given
    spent: set[bytes] = field(default_factory=set)  # tasks that were done with no retries left
    told: Counter[str] = field(default_factory=Counter)  # failures that were told, and what was looked for again


class Handle(ObjectRef[Any]):
    """A handle that reports its death to its own process, not to the one that runs the simulation."""

    __slots__ = ("queue",)

    def __init__(self, object_id: bytes, queue: deque[Any]) -> None:
        self._id = object_id
        self.queue = queue

    def __del__(self) -> None:
        self.queue.append(self._id)


class Engine:
    """A process as `runtime.lost` sees it: also in place of its `submission` and `dependencies`."""

    def __init__(self, process: Remaker, config: Config) -> None:
        self.process, self.config, self.at = process, config, self
        self.is_alone = False
        self.records, self.peer, self.send = process.records, process.peer.process, process.say
        self.inbox: deque[Pending] = deque()
        self.starved: list[tuple[Pending, m.Result]] = []
        self.submission = self.dependencies = self.copies = self
        self.process_id = process.process
        self.events: deque[Any] = deque()  # ends of loans; the model says by itself what it uses

    def fail(self, task: Pending, failure: m.Failure) -> None:
        self.process.end(task, m.Result(0, [failure]), b"")

    def ask(self, places: list[m.Place], loans: Loans, waiter: Callable[[], None]) -> None:
        """As `runtime.copies` does it, but that nothing is held."""
        for place in places:
            self.process.lend(place, loans, waiter)

    def on_ready(self, task: Pending) -> None:
        self.process.push(task)

    def resolve(self, task: Pending, refs: list[Any], ready: Callable[[], None]) -> bool:
        """Whether all arguments are there; else `ready()` follows. One that failed fails the task."""
        for ref in refs:
            record = self.records.table[ref.binary()]
            if record.value is None:
                record.add_waiter(lambda _: self._again(task, refs, ready))
                if not record.owned and not record.fetching:
                    self.records.fetch([record])
                return False
            if isinstance(record.value, m.Failure):
                self.fail(task, record.value)
                return False
            record.exposed = True
        task.deps = [self.records.table[ref.binary()].value for ref in refs]
        return True

    def _again(self, task: Pending, refs: list[Any], ready: Callable[[], None]) -> None:
        if task.state == WAITING and self.resolve(task, refs, ready):
            ready()


@dataclass
class Remaker(Process):
    """See the head of this file."""

    config: Config = field(default_factory=Config)
    history: History = field(default_factory=History)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.engine = Engine(self, self.config)
        self.lost = LostValues(self.engine)  # type: ignore[arg-type]
        self.remaking = self.lost.remaking
        self.remaking.new_task_id = lambda: self.new_id()[:24]
        self.remaking._handle = lambda object_id: Handle(object_id, self.queue)
        self.pending: dict[int, Pending] = {}  # what `tasks` run, by sequence number
        self.bringing: dict[bytes, int] = {}  # task that waits for its arguments -> how many are on their way
        self.missed: dict[bytes, dict[m.Place, m.Failure]] = {}  # those of them that are lost
        self.puts: set[bytes] = set()
        self.lending: dict[int, tuple[Loans, Callable[[], None]]] = {}  # copies for others, by request

    def ref(self, object_id: bytes, carrier: Any = None) -> Any:
        self.queue.append(Birth(object_id, carrier))
        return Handle(object_id, self.queue)

    def flush(self) -> None:
        engine = getattr(self, "engine", None)
        while engine is not None and engine.inbox:
            task = engine.inbox.popleft()
            refs = task.dep_refs or []
            if engine.resolve(task, refs, lambda task=task: self.push(task)):
                self.push(task)
        super().flush()

    def _on_idle(self, record: Record) -> None:
        self.remaking.forget(record.id)
        super()._on_idle(record)

    def get(self) -> None:
        """Ask for the values of all that is borrowed."""
        self.records.drain()
        self.records.fetch([self.records.table[ref.binary()] for ref in self.variables])
        self.flush()

    def put(self) -> None:
        super().put()
        self.puts.add(self.variables[-1].binary())

    def read_borrowed(self) -> None:
        """Look into all that is borrowed, as far as it is known where it lies."""
        records = [self.records.table[ref.binary()] for ref in self.variables]
        values = [record.value for record in records if not record.owned]
        for place in dict.fromkeys(value for value in values if isinstance(value, m.Place)):
            if place.node != self.peer.node:
                self.bring(place)
        self.flush()

    # -- submitting --------------------------------------------------------------------------------------------------

    def submit(self, worker: bytes) -> None:
        """A task with references at the top level of its arguments, and inside."""
        random, table = self.world.random, self.records.table
        inside = self.passing(self.some(self.variables, 1))
        self.records.drain()
        top = [ref for ref in self.some(self.variables, 2) if table[ref.binary()].owned]
        record, ref = self.own(None)
        task = Pending(record.id[:24], BLOB.hash, b"", [record], Mean(), 1, BLOB, "f", CLS)
        task.retries_left = self.history.allowed[task.task_id] = random.choice((0, 1, 3, 3, -1, -1))
        task.dep_refs = [self.ref(each.binary()) for each in top]
        task.refs = [*inside, *task.dep_refs]
        record.task = task
        self.variables.append(ref)
        self.engine.inbox.append(task)
        self.flush()

    def push(self, task: Pending) -> None:
        """All its arguments are there: it goes to anybody who lives."""
        processes = [p for p in self.world.parties.values() if isinstance(p, Process) and p.alive]
        others = [p.process for p in processes if p is not self and not self.is_gone(p.process)]
        if not others:
            self.end(task, m.Result(0, [m.Failure("WorkerCrashedError", "nobody is left")]), b"")
            return
        task.state = IN_FLIGHT
        self.count += 1
        task.seq = self.count
        top = {ref.binary() for ref in task.dep_refs or ()}
        args = b"".join(ref.binary() for ref in task.refs or () if ref.binary() not in top)
        places = [dep for dep in task.deps if isinstance(dep, m.Place)]
        push = m.Task(task.seq, task.task_id, b"f", args, places, attempt=task.attempt, nested=True)  # type: ignore[arg-type]
        worker = self.world.random.choice(others)
        self.tasks[task.seq] = Submitted(task.task_id, worker, task.records[0], [], push, task.attempt)
        self.pending[task.seq] = task
        self.world.born.setdefault(task.records[0].id, len(self.world.born))
        self.say(worker, m.Push(1, 0, [push]))

    def _again(self, task: Submitted) -> None:
        """Its worker is dead."""
        del self.tasks[task.push.seq]
        pending = self.pending.pop(task.push.seq)
        pending.attempt += 1  # also of the last one: it may have sealed a segment
        if pending.retries_left == 0:
            self.end(pending, m.Result(0, [m.Failure("WorkerCrashedError", "killed")]), task.worker)
            return
        pending.retries_left -= pending.retries_left > 0
        pending.state = READY
        self.push(pending)

    def _complete(self, task: Submitted, result: m.Result, worker: bytes) -> None:
        del self.tasks[result.seq]
        pending = self.pending.pop(result.seq)
        if result.kept:
            self.pins[worker, task.task_id] = list(pending.refs or ())
        if result.lost:
            self.history.told["starved"] += 1
            pending.state = WAITING
            pending.attempt += 1
            self.engine.starved.append((pending, result))
            self.lost.on_starved()
        else:
            self.end(pending, result, worker)

    def end(self, task: Pending, result: m.Result, worker: bytes) -> None:
        """As `FinishedTasks.complete` does it."""
        task.state = DONE
        value, record = result.values[0], task.records[0]
        contained: list[Any] | None = None
        if result.contained and result.contained[0]:
            contained = self._receive(task.task_id, result.contained[0], worker)
        if isinstance(value, m.Place):
            self.makers[value.object_id] = worker
        if task.attempt:
            record.exposed = True
        if not task.retries_left:
            self.history.spent.add(task.task_id)
        refs, task.refs = task.refs, None
        if isinstance(value, m.Place) or self.remaking.knows(task.task_id):
            self.remaking.keep(task, result.values, refs, [contained] if contained else None)
        self.records.settle(record, value, contained)
        task.dep_refs = None
        self.flush()

    def _receive(self, task_id: bytes, object_ids: list[bytes], worker: bytes) -> list[Any]:
        carrier = Carrier(task_id, worker)
        handles = []
        for object_id in object_ids:
            self.records.borrow(object_id, carrier)
            handles.append(Handle(object_id, self.queue))
            if self.world.random.random() < 0.7:  # the program has looked into it
                self.variables.append(self.ref(object_id))
        if not self.records.end_carrier(carrier):
            self.say(worker, m.CarrierDone([task_id]))
        return handles

    # -- running -----------------------------------------------------------------------------------------------------

    def _finish(self, task_id: bytes) -> None:
        """It brings its arguments before it begins; they may be lost."""
        if not self.alive:
            return
        running = self.running[task_id]
        foreign = [dep for dep in running.task.deps if isinstance(dep, m.Place) and dep.node != self.peer.node]
        if foreign and task_id not in self.bringing:
            self.bringing[task_id] = len(foreign)
            for place in foreign:
                self.bring(place, task_id)
            return
        self.bringing.pop(task_id, None)
        self.history.begun[task_id] += 1
        super()._finish(task_id)

    def _starve(self, task_id: bytes, running: Running) -> None:
        """Nothing of it has run."""
        del self.running[task_id], self.bringing[task_id]
        failures = self.missed.pop(task_id)
        running.refs, running.views = [], []
        self.records.drain()
        kept = self.records.end_carrier(running.carrier)
        self.flush()
        if not self.is_gone(running.source):
            failure = next(iter(failures.values()))
            self.say(running.source, m.Results(1, [m.Result(running.task.seq, [failure], [], kept, tuple(failures))]))

    # -- reading -----------------------------------------------------------------------------------------------------

    def bring(self, place: m.Place, task_id: bytes = b"") -> None:
        self.count += 1
        ref: Any = None if task_id else self.ref(place.object_id)
        self.reading[self.count] = place, ref
        if task_id:
            self.reading[self.count] = place, task_id  # type: ignore[assignment]
        self.say(self.peer.process, m.Bring(self.count, place))

    def lend(self, place: m.Place, loans: Loans, waiter: Callable[[], None]) -> None:
        """Have a copy for others."""
        self.count += 1
        self.reading[self.count] = place, None
        self.lending[self.count] = loans, waiter
        self.say(self.peer.process, m.Bring(self.count, place))

    def _on_copy(self, place: m.Place, message: m.Brought) -> None:
        loans, waiter = self.lending.pop(message.request)
        loans.on_brought(place, message.failure)
        if message.place is not None:
            self.history.told["lent"] += 1
            self._drop_unless_used(place, message.place)
        waiter()

    def _drop_unless_used(self, place: m.Place, copy: m.Place) -> None:
        self.compare(place, copy)
        if not self.uses.get(copy.segment) and not any(other == place for other, _ in self.reading.values()):
            self.say(self.peer.process, m.Unused([copy.segment]))

    def _on_Brought(self, source: bytes, message: m.Brought) -> None:
        place, whose = self.reading[message.request]
        if message.request in self.lending:
            del self.reading[message.request]
            self._on_copy(place, message)
            return
        if isinstance(whose, bytes):
            del self.reading[message.request]
            self._on_argument(whose, place, message)
        elif message.failure is not None and message.failure.kind == "ObjectLostError":
            del self.reading[message.request]
            self.history.told["lost"] += 1
            self._look_elsewhere(place, whose, message.failure)
        else:
            super()._on_Brought(source, message)

    def _on_argument(self, task_id: bytes, place: m.Place, message: m.Brought) -> None:
        if message.failure is not None:
            self.missed.setdefault(task_id, {})[place] = message.failure
        elif message.place is not None:
            self._drop_unless_used(place, message.place)
        self.bringing[task_id] -= 1
        if not self.bringing[task_id]:
            if task_id in self.missed:
                self._starve(task_id, self.running[task_id])
            else:
                self._finish(task_id)

    def _look_elsewhere(self, place: m.Place, ref: Ref, failure: m.Failure) -> None:
        """As `get` does it."""
        self.records.drain()
        record = self.records.table[place.object_id]
        if record.value == place:
            why = self.lost.look_elsewhere(record, failure)
            if why is not None:
                self.failures.append((record.id, why))
                return
        if record.value is None:
            record.add_waiter(lambda record, ref=ref: self._read_again(record, ref))  # type: ignore[misc]
        else:
            self._read_again(record, ref)

    def _read_again(self, record: Record, ref: Ref) -> None:
        if isinstance(record.value, m.Failure):
            self.failures.append((record.id, record.value))
        else:
            self.history.told["found"] += 1
            if isinstance(record.value, m.Place) and record.value.node != self.peer.node:
                self.bring(record.value)

    # -- messages ----------------------------------------------------------------------------------------------------

    def _on_Remake(self, source: bytes, message: m.Remake) -> None:
        self.history.told["asked"] += 1
        self.lost.on_remake(message)

    def _on_OutOfScope(self, source: bytes, message: m.OutOfScope) -> None:
        self.lost.on_out_of_scope(message)

    def check(self) -> None:
        self.remaking.check()
