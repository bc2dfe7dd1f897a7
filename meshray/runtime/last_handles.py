"""What follows when the last handle of an object here is gone: who is told, and what becomes of its segment.

An actor is an object too, the first return of its creation. While calls of it have no outcome, or a question for actors
is open, whose answer may bring a handle of it, it is not let go of. All under the pump's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshray.core.records import Record
from meshray.ids import FIRST_RETURN, task_of
from meshray.wire import messages as m

if TYPE_CHECKING:
    from meshray.runtime.engine import Engine


class LastHandles:
    """See the head of this file."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.finding = 0  # unanswered questions for actors by name: the answer counts a handle that is not made yet
        self.leaving: set[bytes] = set()  # actors whose last handle here is gone, but not their last call

    def on_idle(self, record: Record) -> None:
        """An owned record that was never promoted has lost its last handle."""
        engine, value = self._engine, record.value
        if record.exposed or type(value) is m.Place:
            engine.remaking.forget(record.id)
        if type(value) is m.Failure:
            engine.unfetched.look(task_of(record.id), value)
            if record.exposed:
                engine.send(engine.peer, m.Release([record.id]))
        elif isinstance(value, m.Place):
            if not record.exposed and engine.store.created(value.segment):
                self._pool(record.id, value.segment)
            else:
                engine.store.forget(value.segment)
                engine.send(engine.peer, m.Release([record.id]))
        elif record.exposed:  # an earlier attempt may have written a segment that nobody spoke of
            engine.send(engine.peer, m.Release([record.id]))

    def _pool(self, object_id: bytes, segment: str) -> None:
        """Nobody else ever knew of this segment: it may be written again. The peer learns that first of all, and after
        it learnt of the segment."""
        engine = self._engine
        engine.endpoint.send(engine.peer, m.Sealed(engine.store.take_sealed()))
        engine.endpoint.send(engine.peer, m.Pooled([object_id]))
        engine.store.free(segment)

    def on_release(self, record: Record) -> bool:
        """A record of the peer's has lost its last handle here. False: not yet, calls of that actor are not done."""
        engine = self._engine
        if isinstance(record.value, m.Place):
            engine.store.forget(record.value.segment)
        actor_id = task_of(record.id)
        if engine.calls.known(actor_id) is None:
            return True
        if self.finding or engine.calls.outstanding(actor_id) or engine.submitted.holds_call_of(actor_id):
            self.leaving.add(actor_id)
            return False
        engine.calls.forget(actor_id)
        return True

    def release_actors(self) -> None:
        """Those whose last call is done as well."""
        engine = self._engine
        for actor_id in [a for a in self.leaving if not engine.calls.outstanding(a)] if not self.finding else ():
            self.leaving.discard(actor_id)
            engine.records.let_go(actor_id + FIRST_RETURN)
