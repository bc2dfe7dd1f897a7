"""Values in and out: pickled, inlined or written to the store, mapped and unpickled.

References inside a value are noticed while it is pickled (`export`) and unpickled (`adopt`). Whoever sends a payload
with references inside keeps handles to them (`pin_contained`) while the value itself still does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from meshray.core.records import Birth, Carrier
from meshray.errors import ObjectLostError, ObjectStoreFullError
from meshray.ids import NODE_BYTES
from meshray.refs import ObjectRef
from meshray.runtime.copies import NotHere
from meshray.runtime.engine import Engine
from meshray.runtime.failures import exception_from_failure
from meshray.runtime.pump import Waiter
from meshray.store.segments import NeedCredit
from meshray.wire import messages as m
from meshray.wire import payload as payloads
from meshray.wire.payload import Payload


class _Arriving(threading.local):
    """The carrier of what this thread unpickles."""

    carrier: Carrier | None = None


def _adopter(append: Callable[[Any], None], arriving: _Arriving) -> Callable[[bytes], None]:
    """What to call when a handle was unpickled in this thread. (Ten thousand may come in one value: no attribute is
    looked up that need not be.)"""

    def adopt(object_id: bytes) -> None:
        append(Birth(object_id, arriving.carrier))

    return adopt


class Values:
    """The payload side of an engine. All methods may be called from any thread, none under the pump's lock unless
    said."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._arriving = _Arriving()
        self.adopt = _adopter(engine.queue.append, self._arriving)
        self._inline_max_bytes = engine.config.inline_max_bytes
        self._node = engine.process_id[:NODE_BYTES]

    # -- out ---------------------------------------------------------------------------------------------------------

    def encode(self, object_id: bytes, payload: Payload) -> bytes | m.Place:
        """The wire form of a value: inline when it is small, else written to the store.

        Raises `ObjectStoreFullError` or `OutOfDiskError`.
        """
        if payload.nbytes <= self._inline_max_bytes:
            return payload.inline()
        return self.write(object_id, payload)

    def write(self, object_id: bytes, payload: Payload) -> m.Place:
        """Write a payload to the store, asking the peer for room where that is needed."""
        engine = self._engine
        while True:
            shield = engine.pump.shield.raise_()  # a Ctrl-C in between would leave a descriptor open, or credit spent
            try:
                place = engine.store.write(object_id, payload)
                engine.wrote()
                return place
            except NeedCredit as need:
                size = need.size
            finally:
                engine.pump.shield.lower_if(shield)
            self._ask_for_room(size)

    def _ask_for_room(self, size: int) -> None:
        engine = self._engine
        answers: list[m.CreditGranted] = []
        waiter = Waiter(engine.pump, 1)

        def reply(answer: m.CreditGranted) -> None:
            if not answer.failure:
                engine.store.add_credit(answer.size)
            answers.append(answer)
            waiter()

        raised = engine.pump.enter()
        try:
            engine.request(lambda number: m.CreditRequest(number, size), reply)
        finally:
            engine.pump.leave(raised)
        engine.pump.wait(waiter)
        if not answers:
            engine.check()
            raise ObjectStoreFullError("the mesh ended while the store was full")
        failure = answers[0].failure
        if failure is not None:
            raise exception_from_failure(failure)

    def pin_contained(self, payload: Payload) -> list[ObjectRef[Any]]:
        """Handles for the references inside a payload; promoted, since they leave this process."""
        if not payload.contained:
            return []
        engine = self._engine
        raised = engine.pump.enter()
        try:
            return engine.new_handles(payload.contained)
        finally:
            engine.pump.leave(raised)

    def export(self, object_id: bytes) -> None:
        """A handle is being pickled in this thread."""
        if payloads.note_ref(object_id):
            return  # `pin_contained` follows
        # Out of band, or captured in a function: nobody will tell when that copy is gone. It lives until the job ends.
        self._engine.queue.append(Birth(object_id))
        raised = self._engine.pump.enter()
        try:
            self._engine.records.drain()
            record = self._engine.records.table.get(object_id)
            if record is not None:
                self._engine.records.promote(record)
        finally:
            self._engine.pump.leave(raised)

    # -- in ----------------------------------------------------------------------------------------------------------

    loads = staticmethod(payloads.loads)
    """`load` of a small value whose handles live here, which is most of them."""

    def load(self, value: bytes | m.Place | m.Failure | None, carrier: Carrier | None = None) -> Any:
        """The value. `carrier` brought the references inside; None when their handles live here.

        Raises the error that a Failure stands for, and whatever unpickling raises; `NotHere` for a value of another
        host that was not brought here, or that was lost meanwhile (None).
        """
        if isinstance(value, bytes):
            if carrier is None:
                return payloads.loads(value)
            return self._load_carried(value, carrier)
        if isinstance(value, m.Place):
            return self._load_carried(self._view(value, carrier), carrier)
        if value is None:
            raise NotHere
        raise exception_from_failure(value)

    def _load_carried(self, data: bytes | memoryview, carrier: Carrier | None) -> Any:
        before, self._arriving.carrier = self._arriving.carrier, carrier
        try:
            return payloads.loads(data)
        finally:
            self._arriving.carrier = before

    def _view(self, place: m.Place, carrier: Carrier | None) -> memoryview:
        """The payload in its segment, read-only. A view counts like a handle; it dies with the last array made of it.

        Raises what opening the segment raises."""
        if place.node != self._node:
            return self._view_copy(place, carrier)
        engine, object_id = self._engine, place.object_id
        dropped = engine.queue.append
        shield = engine.pump.shield.raise_()
        try:
            engine.queue.append(Birth(object_id, carrier))
            try:
                return engine.store.open(place, lambda: dropped(object_id))
            except BaseException as error:
                dropped(object_id)
                if isinstance(error, ObjectLostError):
                    engine.check()  # a mesh that has ended has taken its segments along: that is what to say
                raise
        finally:
            engine.pump.shield.lower_if(shield)

    def _view_copy(self, place: m.Place, carrier: Carrier | None) -> memoryview:
        """The same for a value of another host: its view counts as a use of our host's copy as well."""
        engine, object_id = self._engine, place.object_id
        dropped, used = engine.queue.append, engine.copies.events.append
        local = engine.copies.at_hand(place)

        def on_last_view() -> None:
            dropped(object_id)
            used((place, -1))

        shield = engine.pump.shield.raise_()
        try:
            engine.queue.append(Birth(object_id, carrier))
            used((place, 1))
            try:
                return engine.store.open(local, on_last_view)
            except BaseException:
                on_last_view()
                raise
        finally:
            engine.pump.shield.lower_if(shield)
