"""Values of which every copy is lost: who looks for others, and what this process makes again of its own.

A process finds out when it needs a value, or when somebody else does and its peer asks (`Remake`). What it owns is made
again where `core.remaking` knows how; for what it has borrowed the peer of the owner is asked (`Refetch`). Meanwhile
the record is pending, as it was before its task had run: whoever waits for it simply waits longer.

What one host cannot reach another one may: so before the owner makes a value again for somebody else it has its own
peer fetch it. If that succeeds others can have that copy, and nothing has to run. This is tried once for each task and
place, and once for each place of which the peer asks: what is found to be lost in spite of it is made again.

A task whose arguments turn out to be lost comes back without having run, and waits for them once more. All under the
pump's lock.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from meshray.core.lineage import describe
from meshray.core.losses import hopeless, not_again
from meshray.core.pending import DONE, Pending
from meshray.core.records import Record
from meshray.core.remaking import Remaking
from meshray.ids import NODE_BYTES
from meshray.runtime.copies import Loans, foreign
from meshray.wire.messages import Failure, OutOfScope, Place, Remake, Resolve, Result

if TYPE_CHECKING:
    from meshray.runtime.engine import Engine


class LostValues:
    """See the head of this file."""

    def __init__(self, engine: Engine) -> None:
        self.remaking = Remaking(engine.config, engine.records)
        self.remaking.off = engine.at.is_alone
        self._engine = engine
        self._bringing: dict[Place, Loans] = {}  # copies for others that are on their way
        self._brought: dict[bytes, Place] = {}  # by object: of what there is, or was, a copy for others

    def look_elsewhere(self, record: Record, failure: Failure) -> Failure | None:
        """The place of this record leads to nothing any more; `failure` tells the story. None: there will be another
        value, or a failure, or is already; else why not, and the record stays as it is."""
        if not record.owned:
            self._engine.records.refetch(record)
            return None
        return None if self._make_again(record) else not_again(failure)

    def _make_again(self, record: Record) -> bool:
        tasks = self.remaking.lose(record)
        self._engine.inbox.extend(tasks or ())
        return tasks is not None

    # -- asked by the peer -------------------------------------------------------------------------------------------

    def on_remake(self, message: Remake) -> None:
        """Somebody needs these. What is known to be lost already is on its way, or has been replaced."""
        self._engine.records.drain()
        for place in message.places:
            if place in self._bringing:
                continue  # the one answer is for all
            record = self._engine.records.table.get(place.object_id)
            is_it = record is None or not record.owned or record.value == place
            if is_it and self._foreign([place]) and self._brought.get(place.object_id) != place:
                self._brought[place.object_id] = place
                self._bringing[place] = self._bring(place, functools.partial(self._on_brought, place))
            else:
                self._remake(place)

    def _on_brought(self, place: Place) -> None:
        """There is a copy for others, or none. It is not held: it stays while there is room."""
        loans, engine = self._bringing.pop(place), self._engine
        engine.records.drain()
        record = engine.records.table.get(place.object_id)
        if record is not None and not record.owned:
            record = None
        if loans.failures or (record is not None and record.value != place):
            self._remake(place)
        elif record is None or record.promoted:
            engine.records.confirm(place)
        else:
            engine.records.promote(record, copied=True)
        loans.end()

    def _remake(self, place: Place) -> None:
        self._brought.pop(place.object_id, None)
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
            self._brought.pop(object_id, None)
            self.remaking.forget(object_id)

    # -- copies for others -------------------------------------------------------------------------------------------

    def _foreign(self, values: Iterable[object]) -> list[Place]:
        return foreign(values, self._engine.process_id[:NODE_BYTES])

    def _bring(self, place: Place, done: Callable[[], None]) -> Loans:
        """Have the peer fetch this. `done()` once it is known how that went."""
        loans = Loans(self._engine.copies)
        self._engine.copies.ask([place], loans, done)
        return loans

    # -- tasks that could not run ------------------------------------------------------------------------------------

    def on_starved(self) -> None:
        """Arguments of some tasks are lost."""
        submission = self._engine.submission
        starved, submission.starved = submission.starved, []
        for task, result in starved:
            places = self._reachable(task, result)
            if places:
                self._lend(task, result, places)
            else:
                self._feed(task, result, set())

    def _lend(self, task: Pending, result: Result, places: list[Place]) -> None:
        """It goes on once it is known of which of these there are copies, which stay until it is done."""
        lent = task.lent = task.lent or {}
        left = set(places)

        def on_brought(place: Place) -> None:
            left.discard(place)
            if not left:
                self._feed(task, result, {place for place in places if not lent[place].failures})

        for place in places:
            lent[place] = self._bring(place, functools.partial(on_brought, place))

    def _reachable(self, task: Pending, result: Result) -> list[Place]:
        """What it lacks, and this host may have: its own, and not tried for it before."""
        table = self._engine.records.table
        records = [table[ref.binary()] for ref in task.dep_refs or ()]
        values = [record.value for record in records if record.owned and record.value in result.lost]
        return [place for place in self._foreign(values) if place not in (task.lent or {})]

    def _feed(self, task: Pending, result: Result, had: set[Place]) -> None:
        """`had`: what it lacked, and of which there are copies now."""
        engine = self._engine
        if task.state == DONE:
            return  # it was cancelled meanwhile
        failure = result.values[0]
        assert isinstance(failure, Failure), f"starved of nothing: {result!r}"
        reasons = {place: failure if place == result.lost[0] else hopeless(place) for place in result.lost}
        lost = reasons.keys() - had
        refs = task.dep_refs or []
        records = [engine.records.table[ref.binary()] for ref in refs]
        why = next((reasons[place] for place in result.lost if place not in task.deps), None)
        for record in records:
            if isinstance(record.value, Place) and record.value in lost:
                why = self.look_elsewhere(record, reasons[record.value]) or why
        if why is not None:
            engine.fail(task, why)
            return
        task.cls = task.cls.base or task.cls
        task.missing = task.inlined = 0
        if engine.dependencies.resolve(task, refs, functools.partial(engine.submission.on_ready, task)):
            engine.submission.on_ready(task)
