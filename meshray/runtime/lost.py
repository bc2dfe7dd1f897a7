"""Values of which every copy is lost: who looks for others, and what this process makes again of its own.

A process finds out when it needs a value, or when somebody else does and its peer asks (`Remake`). What it owns is made
again where `core.remaking` knows how; for what it has borrowed the peer of the owner is asked (`Refetch`). Meanwhile
the record is pending, as it was before its task had run: whoever waits for it simply waits longer.

A task whose arguments turn out to be lost comes back without having run, and waits for them once more. All under the
pump's lock.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from meshray.core.lineage import describe
from meshray.core.pending import Pending
from meshray.core.records import Record
from meshray.core.remaking import Remaking
from meshray.wire.messages import Failure, OutOfScope, Place, Remake, Resolve, Result

if TYPE_CHECKING:
    from meshray.runtime.engine import Engine


class LostValues:
    """See the head of this file."""

    def __init__(self, engine: Engine) -> None:
        self.remaking = Remaking(engine.config, engine.records)
        self.remaking.off = engine.at.is_alone
        self._engine = engine

    def look_elsewhere(self, record: Record, failure: Failure) -> Failure | None:
        """The place of this record leads to nothing any more; `failure` tells the story. None: there will be another
        value, or a failure, or is already; else why not, and the record stays as it is."""
        if not record.owned:
            self._engine.records.refetch(record)
            return None
        return None if self._make_again(record) else failure

    def _make_again(self, record: Record) -> bool:
        tasks = self.remaking.lose(record)
        self._engine.inbox.extend(tasks or ())
        return tasks is not None

    # -- asked by the peer -------------------------------------------------------------------------------------------

    def on_remake(self, message: Remake) -> None:
        """Somebody needs these. What is known to be lost already is on its way, or has been replaced."""
        self._engine.records.drain()
        for place in message.places:
            record = self._engine.records.table.get(place.object_id)
            if record is None or not record.owned:
                self._make_for_others(place)
            else:
                self._make_for_all(record, place)

    def _make_for_others(self, place: Place) -> None:
        """It was let go of here, and is held elsewhere; or came back from there. The record for this is in no table,
        and counts nothing."""
        record = Record(place.object_id, True, 0, value=place, promoted=True, exposed=True)
        if not self._make_again(record):
            self._engine.records.refuse(place)

    def _make_for_all(self, record: Record, place: Place) -> None:
        records, promoted = self._engine.records, record.promoted
        lost = record.value == place
        made = lost and self._make_again(record)
        records.promote(record)
        if lost and not made:
            records.refuse(place)
        elif promoted and record.value is not None:
            self._engine.send(self._engine.peer, Resolve([describe(record)]))

    def on_out_of_scope(self, message: OutOfScope) -> None:
        for object_id in message.object_ids:
            self.remaking.forget(object_id)

    # -- tasks that could not run ------------------------------------------------------------------------------------

    def on_starved(self) -> None:
        """Arguments of some tasks are lost."""
        submission = self._engine.submission
        starved, submission.starved = submission.starved, []
        for task, result in starved:
            self._feed(task, result)

    def _feed(self, task: Pending, result: Result) -> None:
        engine = self._engine
        failure = result.values[0]
        assert isinstance(failure, Failure), f"starved of nothing: {result!r}"
        lost = set(result.lost)
        refs = task.dep_refs or []
        records = [engine.records.table[ref.binary()] for ref in refs]
        why: Failure | None = None if lost <= set(task.deps) else failure
        for record in records:
            if isinstance(record.value, Place) and record.value in lost:
                why = self.look_elsewhere(record, failure) or why
        if why is not None:
            engine.fail(task, why)
            return
        task.cls = task.cls.base or task.cls
        task.missing = task.inlined = 0
        if engine.dependencies.resolve(task, refs, functools.partial(engine.submission.on_ready, task)):
            engine.submission.on_ready(task)
