"""What became of submitted tasks and calls: from the messages that tell of it to the records of their returns.

Who tells: a worker, of what it ran or gives back; the peer, of a lease that was lost with its worker, and of the end of
an actor. The cores say which tasks that is the outcome of, `complete` does the rest. All under the pump's lock.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from meshray.core.pending import Pending
from meshray.core.plain import results_of
from meshray.core.records import Carrier
from meshray.refs import ObjectRef
from meshray.wire import messages as m

if TYPE_CHECKING:
    from meshray.runtime.engine import Engine


class FinishedTasks:
    """See the head of this file."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._records = engine.records
        self._submission = engine.submission
        self._calls = engine.calls
        self._pins = engine.pins
        self._lost = engine.lost
        self._remaking = engine.remaking
        self._unfetched = engine.unfetched

    def on_results(self, source: bytes, message: m.Results) -> None:
        if message.lease:
            done = self._submission.on_results(
                source, message.lease, message.results, message.busy_ns, time.monotonic()
            )
        else:
            done = self._calls.on_results(source, message.results)
        self.complete(done, source)

    def on_plain_results(self, source: bytes, message: m.PlainResults) -> None:
        values, first = message.values, message.seq
        if message.lease:
            now = time.monotonic()
            tasks = self._submission.on_plain_results(source, message.lease, first, len(values), message.busy_ns, now)
        else:
            tasks = self._calls.on_plain_results(source, first, len(values))
        for task in tasks:
            if task is None or not task.plain or task.refs is not None or task.attempt:
                break
        else:
            self._records.settle_run([task.records[0] for task in tasks], values)  # type: ignore[union-attr]
            return
        outcomes = zip(tasks, results_of(message), strict=True)
        self.complete([(task, result) for task, result in outcomes if task is not None], source)

    def on_given_back(self, source: bytes, message: m.GivenBack) -> None:
        if message.lease:
            done = self._submission.on_given_back(source, message.lease, message.seqs, time.monotonic())
        else:
            done = self._calls.on_given_back(source, message.seqs)
        self.complete(done, source)

    def on_lease_lost(self, _: bytes, message: m.LeaseLost) -> None:
        self.complete(self._submission.on_lost(message, time.monotonic()), message.worker)

    def on_actor_state(self, _: bytes, message: m.ActorState) -> None:
        link = self._calls.known(message.actor_id)
        worker = b"" if link is None else link.worker
        self.complete(self._calls.on_state(message), worker)

    def complete(self, done: list[tuple[Pending, m.Result]], worker: bytes) -> None:
        """Give outcomes to the records of their tasks, and let go of what the tasks pinned."""
        settle = self._records.settle
        if self._submission.kept_by_failed or self._calls.kept_by_failed:
            self._pin_for_failed()
        if self._submission.starved:
            self._lost.on_starved()
        for task, result in done:
            if task.plain and task.refs is None and not task.attempt and not result.contained:  # most of them
                value = result.values[0]
                if type(value) is m.Place:
                    self._remaking.keep(task, result.values, None)
                settle(task.records[0], value, None)
                continue
            values, records, refs = result.values, task.records, task.refs
            if task.attempt or len(values) < len(records):  # it may have sealed some returns before it failed
                for record in records:
                    record.exposed = True
            task.refs = task.lent = None
            if refs is not None and result.kept:
                self._pins[worker, task.task_id] = refs
            if not records:
                self._unfetched.look(task.task_id, values[0] if values else None)
                continue
            lasting = m.Place in map(type, values) or (task.attempt and self._remaking.knows(task.task_id))
            if len(records) == 1 and not result.contained:
                if lasting:
                    self._remaking.keep(task, values, refs)
                settle(records[0], values[0], None)
                continue
            contained = self._receive_contained(task, result, worker) if result.contained else None
            if lasting:
                self._remaking.keep(task, values, refs, contained)
            for index, record in enumerate(records):
                value = values[index] if len(values) > index else values[0]
                settle(record, value, contained[index] if contained else None)

    def _pin_for_failed(self) -> None:
        kept = self._submission.kept_by_failed + self._calls.kept_by_failed
        self._submission.kept_by_failed, self._calls.kept_by_failed = [], []
        for worker, task in kept:
            if task.refs is not None:
                self._pins[worker, task.task_id] = list(task.refs)

    def _receive_contained(self, task: Pending, result: m.Result, worker: bytes) -> list[list[ObjectRef[Any]]]:
        """Handles for the references inside a result; the worker pins them until the peer knows of us."""
        carrier = Carrier(task.task_id, worker)
        handles: list[list[ObjectRef[Any]]] = []
        for ids in result.contained:
            refs: list[ObjectRef[Any]] = []
            for object_id in ids:
                self._records.borrow(object_id, carrier)
                refs.append(ObjectRef(object_id))
            handles.append(refs)
        if not self._records.end_carrier(carrier):
            self._engine.send(worker, m.CarrierDone([task.task_id]))
        return handles
