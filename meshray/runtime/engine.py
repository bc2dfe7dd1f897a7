"""The engine of one process: its endpoint, its cores, and the turn that ties them together.

Drivers and workers embed the same engine. Everything that decides is in `core/` and is touched under the pump's lock
only; this file receives for the cores and performs their effects. What goes in and what comes of it is in the files
beside it: `submitted` (from the inboxes to the cores), `finished` (from the cores to the records), `deaths`,
`last_handles`. What programs call is made of it by others: `tasks` (submit), `waiting` (get, wait, futures), `values`
(payloads and segments), `actors`.

Without the lock, from any thread: handles append to `queue` (births and deaths), `.remote()` appends to `inbox`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Protocol

from meshray import context
from meshray.core.calls import ActorLink, Calls
from meshray.core.pending import DONE, Pending
from meshray.core.plain import tasks_of
from meshray.core.records import Birth, Record, Records
from meshray.core.submission import Submission
from meshray.errors import MeshrayError, NodeDiedError
from meshray.ids import NODE_BYTES
from meshray.refs import ObjectRef
from meshray.runtime.abroad import Abroad
from meshray.runtime.attachment import Attachment
from meshray.runtime.copies import Copies
from meshray.runtime.deaths import Deaths
from meshray.runtime.dependencies import Dependencies
from meshray.runtime.finished import FinishedTasks
from meshray.runtime.infeasible import InfeasibleTasks
from meshray.runtime.last_handles import LastHandles
from meshray.runtime.lost import LostValues
from meshray.runtime.pump import Pump
from meshray.runtime.silent import SilentHosts
from meshray.runtime.submitted import SubmittedTasks
from meshray.runtime.unfetched import Unfetched
from meshray.store.segments import SegmentStore
from meshray.wire import messages as m
from meshray.wire.codec import ProtocolError, decode

IDLE_DRAIN_S = 0.1
"""How often an idle process looks at its queue of dead handles: they cannot wake anybody."""

RETRY_S = 0.01
"""How soon what waits for a descriptor, or for a process to take our connection, is tried again."""

LAST_WORDS_MAX = 1000
"""So many batches are looked through when the peer has ended: it may have said that it was stopped."""


class Host(Protocol):
    """The worker around an engine, where there is one: it runs tasks."""

    def on_push(self, source: bytes, message: m.Push | m.PlainPush, tasks: list[m.Task]) -> None: ...
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
        self.last_handles = LastHandles(self)
        self._leaving = self.last_handles.leaving  # looked at in each turn
        lineage = None if attachment.is_driver else attachment.config
        self.records = Records(self.peer, self.queue, self.last_handles.on_idle, self.last_handles.on_release, lineage)
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
        self.pins: dict[tuple[bytes, bytes], list[Any]] = {}  # (receiver, carrier) -> handles kept for it
        self.host: Host | None = None
        self.closed = False
        self.broken: MeshrayError | None = None  # why nothing works any more
        self._stopped = ""  # why the peer ends, if it has said so
        self._detached = False  # the peer has answered that it has let go of this program
        self.on_log: Callable[[bytes, m.LogLines], None] | None = None  # a peer tells what workers printed
        self.on_warning: Callable[[str], None] | None = None  # something that the program's user should know
        self.on_broken: Callable[[], None] | None = None  # nothing works any more
        self.on_code_wanted: Callable[[bool], None] | None = None  # the peer asks for the program's own folder
        self.unfetched = Unfetched()
        self.silent = SilentHosts(self)
        self.dependencies = Dependencies(self)
        self.lost = LostValues(self)
        self.remaking = self.lost.remaking
        self.deaths = Deaths(self)
        self.dead = self.deaths.dead  # looked at for each message
        self.infeasible = InfeasibleTasks(self)
        self.finished = FinishedTasks(self)
        self.submitted = SubmittedTasks(self)
        self.inbox, self.call_inbox = self.submitted.inbox, self.submitted.call_inbox
        self._take_in, self._take_calls = self.submitted.take_in, self.submitted.take_calls  # they run in most turns
        self.replies: dict[int, Callable[[Any], None]] = {}  # what to do with the answer to a request
        self._next_request = 1
        self._outbox: list[tuple[bytes, Any]] = []  # messages of the shell, sent after the cores' effects
        self._next_tick = 0.0
        self._wrote = False
        self._table: dict[type, Callable[[bytes, Any], None]] = {
            m.Results: self.finished.on_results,
            m.PlainResults: self.finished.on_plain_results,
            m.GivenBack: self.finished.on_given_back,
            m.AskAlso: lambda _, x: self.submission.on_ask_also(x),
            m.LeaseGranted: lambda _, x: self.submission.on_granted(x, time.monotonic()),
            m.LeaseRevoked: lambda _, x: self.submission.on_revoked(x.lease),
            m.LeaseWanted: lambda _, x: self.submission.on_wanted(x.lease),
            m.LeaseLost: self.finished.on_lease_lost,
            m.Infeasible: self.infeasible.on_infeasible,
            m.CarrierDone: self._on_carrier_done,
            m.HoldDone: lambda _, x: self.records.on_hold_done(x.token),
            m.Fetched: lambda _, x: self.records.on_fetched(x),
            m.Remake: lambda _, x: self.lost.on_remake(x),
            m.OutOfScope: lambda _, x: self.lost.on_out_of_scope(x),
            m.ProcessDied: self.deaths.on_process_died,
            m.DeathSettled: self.deaths.on_death_settled,
            m.SegmentsFree: self._on_segments_free,
            m.TrimPool: lambda _, x: self._give_back_room(),
            m.CreditGranted: self._on_reply,
            m.Brought: self._on_reply,
            m.ActorState: self.finished.on_actor_state,
            m.ActorFound: self._on_reply,
            m.Answer: self._on_reply,
            m.LogLines: self._on_log_lines,
            m.PeerStops: self._on_peer_stops,
            m.CodeWanted: self._on_code_wanted,
            m.Relayed: self._on_relayed,
            m.RelayTaken: lambda _, x: self.abroad.on_taken(x),
            m.NodeGone: self.deaths.on_node_gone,
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
            self._take_calls()
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
            self.last_handles.release_actors()
        if now >= self._next_tick:
            # A worker that runs nothing submits nothing: what it leased is missing elsewhere.
            resting = self.host is not None and not self.host.busy
            idle_s = self.config.lease_idle_resting_s if resting else self.config.lease_idle_s
            self._next_tick = now + self.config.lease_idle_resting_s
            submission.tick(now, idle_s)
            self.calls.tick()
            self._trim(now)
            self.deaths.tick(now)
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

    def on_detached(self) -> None:
        """The peer has let go of this program, and need not live on: whoever still waits was shut down."""
        self._detached = True

    def on_peer_death(self) -> None:
        if self.broken is None and not self._detached:
            for _ in range(LAST_WORDS_MAX):  # the very last may have come just now, behind lines of log
                batch = self.endpoint.receive()
                if not batch:
                    break
                for source, message in batch:
                    if type(message) is m.PeerStops:
                        self._on_peer_stops(source, message)
                    elif type(message) is m.Answer:
                        self._on_reply(source, message)
        if self.broken is None and not self._detached:
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

    # -- records -----------------------------------------------------------------------------------------------------

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

    def tell(self, records: list[Record]) -> None:
        """The failures among these were seen by the program. Not under the lock."""
        raised = self.pump.enter()
        try:
            self.unfetched.fetched(records)
        finally:
            self.pump.leave(raised)

    def fail(self, task: Pending, failure: m.Failure) -> None:
        """A task that never runs. Under the lock."""
        if isinstance(task.cls, ActorLink):
            self.calls.drop(task)
        else:
            task.state = DONE
        self.finished.complete([(task, m.Result(0, [failure]))], b"")

    # -- handles for others ------------------------------------------------------------------------------------------

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
            self.store.free(name, again=message.again)

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

    def _on_node_silent(self, source: bytes, message: m.NodeSilent) -> None:
        if source == self.peer:
            self.silent.on_silent(message, time.monotonic())

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
        self.deaths.clear()
        self.endpoint.close()
        self.pump.release_descriptors()
        os.close(self.at.peer_pidfd)
