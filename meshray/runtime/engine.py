"""The engine of one process: its endpoint, its cores, and the turn that ties them together.

Drivers and workers embed the same engine. Everything that decides is in `core/` and is touched under the pump's lock
only; this file receives for the cores, performs their effects, and hands finished tasks to their records. What programs
call is made of it by the files beside it: `tasks` (submit), `waiting` (get, wait, futures), `values` (payloads and
segments), `actors`, `asking`.

Without the lock, from any thread: handles append to `queue` (births and deaths), `.remote()` appends to `inbox`.
"""

from __future__ import annotations

import functools
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from meshray import context
from meshray.config import Config
from meshray.core.calls import ActorLink, Calls
from meshray.core.pending import DONE, Pending, gone_failure
from meshray.core.plain import results_of, tasks_of
from meshray.core.records import Birth, Carrier, Record, Records
from meshray.core.submission import Submission
from meshray.errors import MeshrayError, NodeDiedError
from meshray.ids import FIRST_RETURN, NODE_BYTES, object_of, task_of
from meshray.refs import ObjectRef
from meshray.runtime.abroad import Abroad
from meshray.runtime.copies import Copies
from meshray.runtime.dependencies import Dependencies
from meshray.runtime.lost import LostValues
from meshray.runtime.pump import Pump
from meshray.runtime.silent import SilentHosts
from meshray.runtime.unfetched import Unfetched
from meshray.store.files import segment_prefix
from meshray.store.segments import SegmentStore
from meshray.transport.endpoint import Endpoint
from meshray.wire import messages as m
from meshray.wire.codec import ProtocolError, decode

IDLE_DRAIN_S = 0.1
"""How often an idle process looks at its queue of dead handles: they cannot wake anybody."""

RETRY_S = 0.01
"""How soon what waits for a descriptor, or for a process to take our connection, is tried again."""

LAST_WORDS_MAX = 1000
"""So many batches are looked through when the peer has ended: it may have said that it was stopped."""

DEAD_MAX = 4096
"""How many dead processes are remembered: what arrives from them late is refused."""

WARNED_MAX = 64
"""So many long reasons why tasks wait are remembered, so that each is told once."""

BATCH_TASKS = 64
"""Submissions gathered before the caller flushes them, when nothing is idle anyway."""


@dataclass(slots=True)
class Attachment:
    """What a process knows once its peer has welcomed it."""

    process_id: bytes
    peer_id: bytes
    job_id: bytes
    node_name: str
    peer_pidfd: int
    config: Config
    endpoint: Endpoint
    store_folder: Path
    namespace: str
    is_driver: bool
    is_private: bool = False  # the mesh ends with this driver
    is_alone: bool = False  # there are no other hosts


class Host(Protocol):
    """The worker around an engine, where there is one: it runs tasks."""

    def on_push(self, source: bytes, message: m.Push | m.PlainPush, tasks: list[m.Task]) -> None: ...
    def on_cancel(self, source: bytes, message: m.Cancel) -> None: ...
    def on_other(self, source: bytes, message: Any) -> None: ...
    def on_turn(self, now: float) -> None: ...
    def next_timer_s(self, now: float) -> float | None: ...
    def on_process_died(self, process: bytes) -> None: ...
    @property
    def busy(self) -> bool: ...
    @property
    def has_news(self) -> bool: ...


class Engine:
    """See the head of this file."""

    def __init__(self, attachment: Attachment) -> None:
        self.at = attachment
        self.config = attachment.config
        self.endpoint = attachment.endpoint
        self.peer = attachment.peer_id
        self.process_id = attachment.process_id
        self.queue = context.dropped
        lineage = None if attachment.is_driver else attachment.config
        self.records = Records(self.peer, self.queue, self._on_idle, self._on_release, lineage)
        self.submission = Submission(self.peer, self.config, attachment.job_id)
        self.submission.wants_starved = True
        self.calls = Calls(self.peer)
        self.store = SegmentStore(
            attachment.store_folder, attachment.process_id[:NODE_BYTES], attachment.process_id, self.config
        )
        self.copies = Copies(self)  # of values that lie on other hosts
        self.abroad = Abroad(self.endpoint, self.peer, self.config.frame_max_bytes)
        self.endpoint.detour = self.abroad.send
        self.pump = Pump(self.endpoint, self, self.config, attachment.peer_pidfd)
        self.inbox: deque[Pending] = deque()  # submitted, not yet looked at
        self.call_inbox: deque[tuple[bytes, Pending, list[ObjectRef[Any]] | None]] = deque()  # the same for actors
        self.pins: dict[tuple[bytes, bytes], list[Any]] = {}  # (receiver, carrier) -> handles kept for it
        self._gone_pins: deque[tuple[float, list[Any]]] = deque()  # the same for hosts that are gone: until when
        self.host: Host | None = None
        self.closed = False
        self.broken: MeshrayError | None = None  # why nothing works any more
        self._stopped = ""  # why the peer ends, if it has said so
        self.on_log: Callable[[bytes, m.LogLines], None] | None = None  # a peer tells what workers printed
        self.on_warning: Callable[[str], None] | None = None  # something that the program's user should know
        self._warned: set[str] = set()  # texts of many lines that were told of late: why tasks wait
        self.on_broken: Callable[[], None] | None = None  # nothing works any more
        self.on_code_wanted: Callable[[bool], None] | None = None  # the peer asks for the program's own folder
        self.unfetched = Unfetched()
        self.silent = SilentHosts(self)
        self.dependencies = Dependencies(self)
        self.lost = LostValues(self)
        self.remaking = self.lost.remaking
        self.replies: dict[int, Callable[[Any], None]] = {}  # what to do with the answer to a request
        self._next_request = 1
        self._outbox: list[tuple[bytes, Any]] = []  # messages of the shell, sent after the cores' effects
        self.dead: dict[bytes, None] = {}  # processes that were said to be dead; the last `DEAD_MAX`
        self.finding = 0  # unanswered questions for actors by name: the answer counts a handle that is not made yet
        self._leaving: set[bytes] = set()  # actors whose last handle here is gone, but not their last call
        self._next_tick = 0.0
        self._wrote = False
        self._table: dict[type, Callable[[bytes, Any], None]] = {
            m.Results: self._on_results,
            m.PlainResults: self._on_plain_results,
            m.GivenBack: self._on_given_back,
            m.AskAlso: lambda _, x: self.submission.on_ask_also(x),
            m.LeaseGranted: lambda _, x: self.submission.on_granted(x, time.monotonic()),
            m.LeaseRevoked: lambda _, x: self.submission.on_revoked(x.lease),
            m.LeaseWanted: lambda _, x: self.submission.on_wanted(x.lease),
            m.LeaseLost: self._on_lease_lost,
            m.Infeasible: self._on_infeasible,
            m.CarrierDone: self._on_carrier_done,
            m.HoldDone: lambda _, x: self.records.on_hold_done(x.token),
            m.Fetched: lambda _, x: self.records.on_fetched(x),
            m.Remake: lambda _, x: self.lost.on_remake(x),
            m.OutOfScope: lambda _, x: self.lost.on_out_of_scope(x),
            m.ProcessDied: self._on_process_died,
            m.DeathSettled: self._on_death_settled,
            m.SegmentsFree: self._on_segments_free,
            m.TrimPool: lambda _, x: self._give_back_room(),
            m.CreditGranted: self._on_reply,
            m.Brought: self._on_reply,
            m.ActorState: self._on_actor_state,
            m.ActorFound: self._on_reply,
            m.Answer: self._on_reply,
            m.LogLines: self._on_log_lines,
            m.PeerStops: self._on_peer_stops,
            m.CodeWanted: self._on_code_wanted,
            m.Relayed: self._on_relayed,
            m.RelayTaken: lambda _, x: self.abroad.on_taken(x),
            m.NodeGone: self._on_node_gone,
            m.NodeSilent: self._on_node_silent,
            m.Wake: lambda _, x: None,
        }

    # -- the pump's handler ------------------------------------------------------------------------------------------

    def on_messages(self, batch: list[tuple[bytes, Any]]) -> None:
        for source, message in batch:
            if source in self.dead:
                continue  # its death was accounted for: this came too late
            handler = self._table.get(type(message))
            if handler is not None:
                handler(source, message)
            elif self.host is not None:
                if type(message) is m.Push:
                    self.host.on_push(source, message, message.tasks)
                elif type(message) is m.PlainPush:
                    self.host.on_push(source, message, tasks_of(message))
                else:
                    self.host.on_other(source, message)

    def _on_relayed(self, source: bytes, message: m.Relayed) -> None:
        """A process of another host says this."""
        if source != self.peer:
            return  # nobody else passes on
        try:
            said = decode(message.data)
        except ProtocolError as error:
            self.endpoint.refused += 1
            self.endpoint.last_refusal = str(error)
            return
        if message.source not in self.dead:
            self.abroad.heard(message.source)
        self.on_messages([(message.source, said)])

    def on_turn(self, now: float) -> None:
        """What others wait for leaves first; then what can wait is accounted for, and leaves as well."""
        submission, calls = self.submission, self.calls
        if self.inbox:
            self._take_in()
        if self.call_inbox:
            self.take_calls()
        if self.host is not None:
            self.host.on_turn(now)
        if submission.dirty:
            submission.fill(now)
        if calls.dirty:
            calls.fill()
        self.flush()
        if submission.pressed:
            self._next_tick = min(self._next_tick, now + self.config.lease_idle_wanted_s)
        if self.queue or self._leaving or now >= self._next_tick or self.copies.events:
            self._account(now)

    def _account(self, now: float) -> None:
        """The part of a turn that nobody waits for."""
        records, submission = self.records, self.submission
        if self.queue:
            records.drain()
        if self.copies.events:
            self.copies.drain()
        if self._leaving:
            self._release_actors()
        if now >= self._next_tick:
            # A worker that runs nothing submits nothing: what it leased is missing elsewhere.
            resting = self.host is not None and not self.host.busy
            idle_s = self.config.lease_idle_resting_s if resting else self.config.lease_idle_s
            self._next_tick = now + self.config.lease_idle_resting_s
            submission.tick(now, idle_s)
            self.calls.tick()
            self._trim(now)
            while self._gone_pins and self._gone_pins[0][0] <= now:
                self._gone_pins.popleft()
        if submission.dirty:
            submission.fill(now)
        if self.queue:
            records.drain()
        self.flush()

    def flush(self) -> None:
        """Perform the effects of the cores, then send what the shell has to say. Under the lock."""
        send, dead = self.endpoint.send, self.dead
        if self.store.sealed:
            send(self.peer, m.Sealed(self.store.take_sealed()))
        for core in (self.records, self.submission, self.calls):
            if core._effects:
                for effect in core.take_effects():
                    if effect.to not in dead:  # a link to it would wait for ever
                        send(effect.to, effect.message)
        if self._outbox:
            outbox, self._outbox = self._outbox, []
            for destination, message in outbox:
                if destination not in dead:
                    send(destination, message)
        if self.endpoint.must_retry:
            self.endpoint.flush()
            if self.endpoint.trouble and self.on_warning is not None:
                self.on_warning(self.endpoint.take_trouble())

    @property
    def has_news(self) -> bool:
        if self.queue or self.inbox or self.call_inbox or self._outbox or self.records._effects:  # a Fetch, say
            return True
        submission, calls = self.submission, self.calls
        if submission.dirty or calls.dirty or submission._effects or calls._effects or self._leaving:
            return True
        return self.host is not None and self.host.has_news

    @property
    def unanswered(self) -> bool:
        """Whether a task or a call of this process has no outcome yet, or waits for a value to begin."""
        if self.inbox or self.call_inbox or self.calls.unanswered or self.submission.unanswered:
            return True
        return any(record.waiters for record in self.records.table.values())

    def next_timer_s(self, now: float) -> float | None:
        if self.endpoint.must_retry:
            return RETRY_S
        idle = not (self.records.table or self.queue or self.inbox or self.call_inbox)
        timers = [] if idle else [IDLE_DRAIN_S]
        if self.submission.has_idle_leases:  # else `tick` has nothing to do: 200 nested waits must not tick in vain
            timers.append(max(0.0, self._next_tick - now))
        if self.host is not None:
            host = self.host.next_timer_s(now)
            if host is not None:
                timers.append(host)
        if self._wrote:
            timers.append(self.config.pool_idle_s / 2)
        return min(timers) if timers else None

    def _on_peer_stops(self, source: bytes, message: m.PeerStops) -> None:
        if source == self.peer:
            self._stopped = message.reason

    def on_peer_death(self) -> None:
        if self.broken is None:
            for _ in range(LAST_WORDS_MAX):  # the very last may have come just now, behind lines of log
                batch = self.endpoint.receive()
                if not batch:
                    break
                for source, message in batch:
                    if type(message) is m.PeerStops:
                        self._on_peer_stops(source, message)
            how = f"was stopped ({self._stopped})" if self._stopped else "has died"
            self.broken = NodeDiedError(
                f"the peer of this host ({self.at.node_name}) {how}: this mesh is over, and its objects are lost. "
                "Call meshray.shutdown(), then meshray.init() to go on with another"
            )
        self.pump.closed = True
        self._tell_broken()

    def has_work(self) -> bool:
        return bool(self.inbox or self.call_inbox)

    def on_failure(self, error: BaseException) -> None:
        if self.broken is None:
            self.broken = MeshrayError(
                f"meshray was interrupted in the middle of its own work, or made a mistake ({type(error).__name__}: "
                f"{error}): this mesh is over. Call meshray.shutdown(), then meshray.init() to go on with another"
            )
        self.pump.closed = True
        self._tell_broken()

    def _tell_broken(self) -> None:
        self.pump.wake_all()
        if self.on_broken is not None:
            self.on_broken()

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, destination: bytes, message: Any) -> None:
        """Send with the next flush, after what the cores have to say. Under the lock."""
        self._outbox.append((destination, message))

    def request(self, make: Callable[[int], Any], reply: Callable[[Any], None]) -> int:
        """Ask the peer; `reply(answer)` runs under the lock. Under the lock. Returns the number of the request."""
        number = self._next_request
        self._next_request += 1
        self.replies[number] = reply
        self.send(self.peer, make(number))
        return number

    def _on_reply(self, _: bytes, message: Any) -> None:
        reply = self.replies.pop(message.request, None)
        if reply is not None:
            reply(message)

    # -- submitted tasks ---------------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        inbox, submission = self.inbox, self.submission
        ready: list[Pending] = []
        while inbox:
            task = inbox.popleft()
            if task.state == DONE:
                continue  # cancelled before anybody looked
            deps = task.dep_refs
            if deps is None or self.dependencies.resolve(task, deps, functools.partial(submission.on_ready, task)):
                ready.append(task)
        submission.on_all_ready(ready)

    def take_calls(self) -> None:
        """Calls from the inbox take their places in the order of their actors. Under the lock."""
        calls, inbox = self.calls, self.call_inbox
        while inbox:
            actor_id, call, deps = inbox.popleft()
            if call.state == DONE:
                continue  # cancelled before anybody looked
            link = call.cls = calls.link(actor_id)
            if deps is None:
                done = calls.on_call(link, call, True)
                if done:
                    self.complete(done, b"")
                continue
            done = calls.on_call(link, call, False)
            if done:
                self.complete(done, b"")
            elif self.dependencies.resolve(call, deps, functools.partial(calls.on_ready, link, call)):
                calls.on_ready(link, call)

    def await_record(self, record: Record, waiter: Callable[[Record], None]) -> None:
        """Call `waiter(record)` once its value is there, fetching it where that is needed. Under the lock."""
        record.add_waiter(waiter)
        if not record.owned and not record.fetching:
            self.records.fetch([record])

    def record_of(self, object_id: bytes) -> Record | None:
        """The record of a living handle, also one that was just born. Under the lock."""
        record = self.records.table.get(object_id)
        if record is None and self.queue:
            self.records.drain()
            record = self.records.table.get(object_id)
        return record

    # -- finished tasks ----------------------------------------------------------------------------------------------

    def _on_results(self, source: bytes, message: m.Results) -> None:
        if message.lease:
            done = self.submission.on_results(source, message.lease, message.results, message.busy_ns, time.monotonic())
        else:
            done = self.calls.on_results(source, message.results)
        self.complete(done, source)

    def _on_plain_results(self, source: bytes, message: m.PlainResults) -> None:
        values, first = message.values, message.seq
        if message.lease:
            now = time.monotonic()
            tasks = self.submission.on_plain_results(source, message.lease, first, len(values), message.busy_ns, now)
        else:
            tasks = self.calls.on_plain_results(source, first, len(values))
        for task in tasks:
            if task is None or not task.plain or task.refs is not None or task.attempt:
                break
        else:
            self.records.settle_run([task.records[0] for task in tasks], values)  # type: ignore[union-attr]
            return
        outcomes = zip(tasks, results_of(message), strict=True)
        self.complete([(task, result) for task, result in outcomes if task is not None], source)

    def complete(self, done: list[tuple[Pending, m.Result]], worker: bytes) -> None:
        """Give outcomes to the records of their tasks, and let go of what the tasks pinned."""
        settle = self.records.settle
        if self.submission.kept_by_failed or self.calls.kept_by_failed:
            self._pin_for_failed()
        if self.submission.starved:
            self.lost.on_starved()
        for task, result in done:
            if task.plain and task.refs is None and not task.attempt and not result.contained:  # most of them
                value = result.values[0]
                if type(value) is m.Place:
                    self.remaking.keep(task, result.values, None)
                settle(task.records[0], value, None)
                continue
            values, records, refs = result.values, task.records, task.refs
            if task.attempt or len(values) < len(records):  # it may have sealed some returns before it failed
                for record in records:
                    record.exposed = True
            task.refs = task.lent = None
            if refs is not None and result.kept:
                self.pins[worker, task.task_id] = refs
            if not records:
                self.unfetched.look(task.task_id, values[0] if values else None)
                continue
            lasting = m.Place in map(type, values) or (task.attempt and self.remaking.knows(task.task_id))
            if len(records) == 1 and not result.contained:
                if lasting:
                    self.remaking.keep(task, values, refs)
                settle(records[0], values[0], None)
                continue
            contained = self._receive_contained(task, result, worker) if result.contained else None
            if lasting:
                self.remaking.keep(task, values, refs, contained)
            for index, record in enumerate(records):
                value = values[index] if len(values) > index else values[0]
                settle(record, value, contained[index] if contained else None)

    def _pin_for_failed(self) -> None:
        kept = self.submission.kept_by_failed + self.calls.kept_by_failed
        self.submission.kept_by_failed, self.calls.kept_by_failed = [], []
        for worker, task in kept:
            if task.refs is not None:
                self.pins[worker, task.task_id] = list(task.refs)

    def tell(self, records: list[Record]) -> None:
        """The failures among these were seen by the program. Not under the lock."""
        raised = self.pump.enter()
        try:
            self.unfetched.fetched(records)
        finally:
            self.pump.leave(raised)

    def _receive_contained(self, task: Pending, result: m.Result, worker: bytes) -> list[list[ObjectRef[Any]]]:
        """Handles for the references inside a result; the worker pins them until the peer knows of us."""
        carrier = Carrier(task.task_id, worker)
        handles: list[list[ObjectRef[Any]]] = []
        for ids in result.contained:
            refs: list[ObjectRef[Any]] = []
            for object_id in ids:
                self.records.borrow(object_id, carrier)
                refs.append(ObjectRef(object_id))
            handles.append(refs)
        if not self.records.end_carrier(carrier):
            self.send(worker, m.CarrierDone([task.task_id]))
        return handles

    def fail(self, task: Pending, failure: m.Failure) -> None:
        """A task that never runs. Under the lock."""
        if isinstance(task.cls, ActorLink):
            self.calls.drop(task)
        else:
            task.state = DONE
        self.complete([(task, m.Result(0, [failure]))], b"")

    def _on_given_back(self, source: bytes, message: m.GivenBack) -> None:
        if message.lease:
            done = self.submission.on_given_back(source, message.lease, message.seqs, time.monotonic())
        else:
            done = self.calls.on_given_back(source, message.seqs)
        self.complete(done, source)

    def _on_lease_lost(self, _: bytes, message: m.LeaseLost) -> None:
        self.complete(self.submission.on_lost(message, time.monotonic()), message.worker)

    def _on_actor_state(self, _: bytes, message: m.ActorState) -> None:
        link = self.calls.known(message.actor_id)
        worker = b"" if link is None else link.worker
        self.complete(self.calls.on_state(message), worker)

    def _announce_places(self, dead: bytes) -> None:
        """Segments that a dead worker wrote and that are still referred to: its own word of them may have been lost
        with it. Not those that were released: the peer would wait for a release that never comes."""
        prefix, node = segment_prefix(dead), self.process_id[:NODE_BYTES]
        places = [
            (record, record.value)
            for record in self.records.table.values()
            if isinstance(record.value, m.Place) and record.value.segment.startswith(prefix)
        ]
        here = [
            m.SealedSegment(record.id, place.segment, place.size, place.size, dead)
            for record, place in places
            if place.node == node
        ]
        elsewhere = [place for record, place in places if place.node != node and record.owned]
        if here:
            self.send(self.peer, m.Sealed(here))
        if elsewhere:
            self.send(self.peer, m.Lodged(elsewhere))

    def _on_infeasible(self, _: bytes, message: m.Infeasible) -> None:
        if message.hopeless:
            self.complete(self.submission.on_unschedulable(message.class_id, message.message), b"")
            return
        text = message.message
        if not text:
            self._warned.clear()
        elif self.on_warning is not None and text not in self._warned:
            if "\n" in text:  # a block of lines is told once, whoever else waits for the same
                if len(self._warned) >= WARNED_MAX:
                    self._warned.clear()
                self._warned.add(text)
            name = self.submission.name_of(message.class_id)
            self.on_warning(f"{name} waits: {text}" if name else text)

    # -- references --------------------------------------------------------------------------------------------------

    def pin(self, receiver: bytes, carrier: bytes, refs: list[Any]) -> None:
        """Keep these handles until the receiver says CarrierDone, or is dead and settled. Under the lock. What is for a
        dead process is for the peer, which adopts its tasks."""
        self.pins[self.peer if receiver in self.dead else receiver, carrier] = refs

    def pin_for_peer(self, receiver: bytes, carrier: bytes) -> None:
        """The receiver of these is dead: the peer takes them instead. Under the lock."""
        refs = self.pins.pop((receiver, carrier), None)
        if refs is not None:
            self.pins[self.peer, carrier] = refs

    def _on_carrier_done(self, source: bytes, message: m.CarrierDone) -> None:
        for carrier in message.carriers:
            self.pins.pop((source, carrier), None)

    def _on_process_died(self, _: bytes, message: m.ProcessDied) -> None:
        self.dead[message.process] = None
        if len(self.dead) > DEAD_MAX:
            del self.dead[next(iter(self.dead))]
        self._give_up(message.process)
        self.calls.on_process_died(message.process)
        self._announce_places(message.process)
        self.flush()
        self.send(self.peer, m.DeathSeen(message.process))
        self.endpoint.drop(message.process)
        self.abroad.forget(message.process)

    def _give_up(self, process: bytes) -> None:
        """Nothing more comes from this process."""
        if self.host is not None:
            self.host.on_process_died(process)
        self.submission.on_process_died(process)
        self.records.drain()
        self.records.on_process_died(process)

    def _on_node_gone(self, source: bytes, message: m.NodeGone) -> None:
        """A host is gone, and with it whatever its processes had of us. It may come back: none of them is dead for
        ever, and nobody is going to settle anything. What was kept for them stays for a while: they may have passed it
        on to others, who are about to tell of it."""
        if source != self.peer:
            return
        self.silent.on_gone(message.node, message.reason)
        pins = self.submission.handles_for(message.node)
        failure = gone_failure(message.node, message.reason)
        self.complete(self.submission.on_node_gone(message.node, failure, time.monotonic()), b"")
        self.complete(self.calls.on_node_gone(message.node, message.reason), b"")
        for process in self.abroad.forget_host(message.node):
            self._give_up(process)
        self.records.drain()
        self.records.on_host_gone(message.node)
        pins += [self.pins.pop(key) for key in list(self.pins) if key[0][:NODE_BYTES] == message.node]
        if pins:
            self._gone_pins.append((time.monotonic() + self.config.doubt_s, pins))
        self.flush()
        self.send(self.peer, m.NodeGoneSeen(message.node))

    def _on_node_silent(self, source: bytes, message: m.NodeSilent) -> None:
        if source == self.peer:
            self.silent.on_silent(message, time.monotonic())

    def _on_death_settled(self, _: bytes, message: m.DeathSettled) -> None:
        for key in [key for key in self.pins if key[0] == message.process]:
            del self.pins[key]

    def _on_idle(self, record: Record) -> None:
        """An owned record that was never promoted has lost its last handle."""
        value = record.value
        if record.exposed or type(value) is m.Place:
            self.remaking.forget(record.id)
        if type(value) is m.Failure:
            self.unfetched.look(task_of(record.id), value)
            if record.exposed:
                self.send(self.peer, m.Release([record.id]))
        elif isinstance(value, m.Place):
            if not record.exposed and self.store.created(value.segment):
                self._pool(record.id, value.segment)
            else:
                self.store.forget(value.segment)
                self.send(self.peer, m.Release([record.id]))
        elif record.exposed:  # an earlier attempt may have written a segment that nobody spoke of
            self.send(self.peer, m.Release([record.id]))

    def _pool(self, object_id: bytes, segment: str) -> None:
        """Nobody else ever knew of this segment: it may be written again. The peer learns that first of all, and after
        it learnt of the segment."""
        self.endpoint.send(self.peer, m.Sealed(self.store.take_sealed()))
        self.endpoint.send(self.peer, m.Pooled([object_id]))
        self.store.free(segment)

    def _on_release(self, record: Record) -> bool:
        """A record of the peer's has lost its last handle here. False: not yet, calls of that actor are not done."""
        if isinstance(record.value, m.Place):
            self.store.forget(record.value.segment)
        actor_id = task_of(record.id)
        if self.calls.known(actor_id) is None:
            return True
        if self.finding or self.calls.outstanding(actor_id) or any(each[0] == actor_id for each in self.call_inbox):
            self._leaving.add(actor_id)
            return False
        self.calls.forget(actor_id)
        return True

    def _release_actors(self) -> None:
        for actor_id in [a for a in self._leaving if not self.calls.outstanding(a)] if not self.finding else ():
            self._leaving.discard(actor_id)
            self.records.let_go(actor_id + FIRST_RETURN)

    def new_handles(self, object_ids: list[bytes]) -> list[ObjectRef[Any]]:
        """One more handle for each of these, which leave this process: their records are promoted. Under the lock."""
        self.queue.extend(map(Birth, object_ids))
        self.records.drain()
        for object_id in object_ids:
            self.records.promote(self.records.table[object_id])
        return [ObjectRef(object_id) for object_id in object_ids]

    # -- store -------------------------------------------------------------------------------------------------------

    def _on_segments_free(self, _: bytes, message: m.SegmentsFree) -> None:
        for name in message.segments:
            self.store.free(name)

    def _give_back_room(self) -> None:
        size = self.store.give_back()
        if size:
            self.send(self.peer, m.PoolTrimmed(size))

    def _trim(self, now: float) -> None:
        if self._wrote:
            size = self.store.trim(now)
            if size:
                self.send(self.peer, m.PoolTrimmed(size))

    def wrote(self) -> None:
        """A segment was written: the pool needs looking after from now on."""
        self._wrote = True

    # -- logs --------------------------------------------------------------------------------------------------------

    def _on_log_lines(self, source: bytes, message: m.LogLines) -> None:
        if self.on_log is not None:
            self.on_log(source, message)

    # -- code --------------------------------------------------------------------------------------------------------

    def _on_code_wanted(self, _: bytes, message: m.CodeWanted) -> None:
        if self.on_code_wanted is not None:
            self.on_code_wanted(message.lasting)

    # -- the end -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise why nothing works any more, if so."""
        if self.broken is not None:
            raise type(self.broken)(str(self.broken))
        if self.pump.closed:
            raise MeshrayError("this mesh was shut down")

    def close(self) -> None:
        """Stop everything. Not under the lock. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self.pump.close()
        self.store.close()
        self.records.clear()
        self.remaking.clear()
        self._gone_pins.clear()
        self.endpoint.close()
        self.pump.release_descriptors()
        os.close(self.at.peer_pidfd)


def return_ids(task_id: bytes, count: int) -> list[bytes]:
    """The ids of a task's returns."""
    if count == 1:
        return [task_id + FIRST_RETURN]
    return [object_of(task_id, index) for index in range(count)]
