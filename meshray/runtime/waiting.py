"""Waiting for values: `get`, `wait`, callbacks and futures."""

from __future__ import annotations

import functools
import itertools
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Protocol

from meshray.core.records import Record
from meshray.errors import GetTimeoutError, ObjectLostError
from meshray.ids import NODE_BYTES
from meshray.refs import ObjectRef
from meshray.runtime.copies import Loans, Lost, NotHere, foreign
from meshray.runtime.dependencies import lost_text
from meshray.runtime.engine import Engine
from meshray.runtime.failures import exception_from_failure
from meshray.runtime.pump import Pump, Waiter
from meshray.runtime.values import Values
from meshray.wire.messages import Failure, Place

BLOCK_GRACE_S = 0.001
"""A task that waits longer gives its CPU and the tasks behind it back; a shorter wait is not worth the messages."""


CALLBACKS_END_S = 1.0
"""How long the end waits for callbacks that run; they are the program's own code."""


class Blocker(Protocol):
    """What a worker does when one of its tasks waits."""

    def begin_block(self) -> object:
        """The wait is a long one."""

    def end_block(self, token: object) -> None:
        """It is over."""


class TimeIsUp(Exception):
    """Not all values came in time. `away`: those of them that lie on other hosts, and were not brought."""

    def __init__(self, away: Iterable[Place] = ()) -> None:
        super().__init__()
        self.away = frozenset(away)


class _GetWaiter(Waiter):
    """Ends early when something failed: `get` raises the first error."""

    __slots__ = ("failed",)

    def __init__(self, pump: Pump, missing: int) -> None:
        super().__init__(pump, missing)
        self.failed = False

    def __call__(self, event: object = None) -> None:
        if type(event) is Record and type(event.value) is Failure:
            self.failed = True
            self.missing = 0
        self.arrived(1)


class Waiting:
    """The waiting side of an engine."""

    def __init__(self, engine: Engine, values: Values) -> None:
        self._engine = engine
        self._values = values
        self.blocker: Blocker | None = None  # set in a worker
        self._callbacks: queue.SimpleQueue[Callable[[], None] | None] | None = None
        self._callback_lock = threading.Lock()
        self._callback_thread: threading.Thread | None = None
        self._outstanding: dict[int, Callable[[], None]] = {}  # callbacks whose value is not there; under the lock
        self._callback_numbers = itertools.count()
        engine.on_broken = self._run_outstanding

    # -- get ---------------------------------------------------------------------------------------------------------

    def get(self, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """The values, in order. Raises the first error, or `GetTimeoutError`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            return self._get(refs, deadline)
        except TimeIsUp as late:
            raise GetTimeoutError(self._too_late(refs, timeout, late)) from None

    def _get(self, refs: Sequence[ObjectRef[Any]], deadline: float | None) -> list[Any]:
        if len(refs) == 1:  # a synchronous caller: most often of a small value
            record = self._engine.records.table.get(refs[0]._id)
            if record is not None:
                if record.value is None:
                    self._await([record], deadline)
                if type(record.value) is bytes and record.inside is None:
                    return [self._values.loads(record.value)]
        records = self._records(refs)
        while True:
            missing = [record for record in records if record.value is None]
            if missing:
                begin = len(missing) == len(records) or not self._any_failed(records)
                well = begin and self._await(missing, deadline)
                if not well and self._any_failed(records):
                    self._raise_first(records)
            try:
                return self._load(records)
            except NotHere:
                pass  # to be brought
            try:
                with self.bring([record.value for record in records], deadline):
                    return self._load(records)
            except NotHere:
                pass  # another thread has found out that one is lost, so it is pending once more
            except Lost as lost:
                self._look_elsewhere(records, lost)

    def _too_late(self, refs: Sequence[ObjectRef[Any]], timeout: float | None, late: TimeIsUp) -> str:
        """What is missing of all that was asked for, and how long that was waited for."""
        values = [record.value for record in self._records(refs)]
        away = sum(type(value) is Place and value in late.away for value in values)
        count = max(1, away + sum(value is None for value in values))  # the last may have come by now
        text = f"get timed out after {timeout} s"
        if len(values) == 1:
            return f"{text}: the value is {'on its way from another host' if away else 'not there'}"
        text += f": {count} of {len(values)} values are not there"
        return f"{text}, {away} of them made on other hosts and on their way" if away else text

    def _look_elsewhere(self, records: list[Record], lost: Lost) -> None:
        """Have those that are lost made again. Raises why one of them cannot be."""
        engine = self._engine
        why: Failure | None = None
        raised = engine.pump.enter()
        try:
            for record in records:
                if isinstance(record.value, Place) and record.value in lost.failures:
                    why = engine.lost.look_elsewhere(record, lost.failures[record.value]) or why
        finally:
            engine.pump.leave(raised)
        if why is not None:
            raise exception_from_failure(why)

    def _load(self, records: list[Record]) -> list[Any]:
        """Values that are there."""
        load, loads = self._values.load, self._values.loads
        try:
            return [
                loads(value)
                if type(value := record.value) is bytes and record.inside is None
                else load(value, record.inside)
                for record in records
            ]
        except Exception:
            if self._any_failed(records):
                self._engine.tell(records)
            raise

    @contextmanager
    def bring(self, values: Iterable[Any], deadline: float | None) -> Iterator[None]:
        """Have copies of those of these that lie on other hosts, as long as the context lasts; views that are made in
        it keep them.

        Raises `Lost` when that is all that is wrong, else the error of the first that cannot be had, or `TimeIsUp`.
        """
        engine = self._engine
        places = foreign(values, engine.process_id[:NODE_BYTES])
        waiter = Waiter(engine.pump, len(places))
        loans = Loans(engine.copies)
        try:
            done = self._block(waiter, deadline, lambda: engine.copies.ask(places, loans, waiter))
            if loans.failures:
                if len(loans.lost) == len(loans.failures):
                    raise Lost(loans.lost)
                raise exception_from_failure(loans.failures[0])
            if not done:
                raise TimeIsUp(loans.missing(places))
            if waiter.missing > 0:
                engine.check()
            yield
        finally:
            loans.end()

    @staticmethod
    def _any_failed(records: list[Record]) -> bool:
        return Failure in map(type, [record.value for record in records])

    def _raise_first(self, records: list[Record]) -> None:
        """Some have failed: raise the error of the first, however many others are still to come."""
        self._engine.tell(records)
        self._values.load(next(record.value for record in records if type(record.value) is Failure))

    def _await(self, missing: list[Record], deadline: float | None) -> bool:
        """Wait for all of these. False when it ended early, since one has failed; or else raises `TimeIsUp`, or why the
        mesh is over."""
        engine = self._engine
        waiter = _GetWaiter(engine.pump, len(missing))
        try:
            done = self._block(waiter, deadline, functools.partial(self._register, missing, waiter))
        except BaseException:
            self._unregister(missing, waiter)
            raise
        if not done:
            self._unregister(missing, waiter)
            raise TimeIsUp
        if waiter.missing <= 0 and not waiter.failed:
            return True
        self._unregister(missing, waiter)
        if not self._any_failed(missing):
            engine.check()
        return False

    def _register(self, missing: list[Record], waiter: _GetWaiter) -> None:
        """Have the waiter told of each of these. Under the lock."""
        fetch = []
        for record in missing:
            if record.value is not None:
                waiter.missing -= 1
                if type(record.value) is Failure:
                    waiter.missing = 0
                    waiter.failed = True
                continue
            if record.waiters is None:
                record.waiters = waiter
            else:
                record.add_waiter(waiter)
            if not record.owned and not record.fetching:
                fetch.append(record)
        if fetch:
            self._engine.records.fetch(fetch)

    def _unregister(self, missing: list[Record], waiter: Waiter) -> None:
        raised = self._engine.pump.enter()
        try:
            for record in missing:
                record.drop_waiter(waiter)
        finally:
            self._engine.pump.leave(raised)

    def _block(self, waiter: Waiter, deadline: float | None, begin: Callable[[], None]) -> bool:
        pump, blocker = self._engine.pump, self.blocker
        if blocker is None:
            return pump.wait(waiter, deadline, begin)
        grace = time.monotonic() + BLOCK_GRACE_S
        if deadline is not None and deadline <= grace:
            return pump.wait(waiter, deadline, begin)
        if pump.wait(waiter, grace, begin):
            return True
        token = blocker.begin_block()
        try:
            return pump.wait(waiter, deadline)
        finally:
            blocker.end_block(token)

    def _records(self, refs: Sequence[ObjectRef[Any]]) -> list[Record]:
        """The records of living handles. Raises `ObjectLostError` for a reference of an ended mesh."""
        table = self._engine.records.table
        try:
            return [table[ref._id] for ref in refs]
        except KeyError:
            pass  # just unpickled: its birth is still in the queue
        raised = self._engine.pump.enter()
        try:
            self._engine.records.drain()
            for ref in refs:
                if ref._id not in table:
                    raise ObjectLostError(lost_text(ref._id))
            return [table[ref._id] for ref in refs]
        finally:
            self._engine.pump.leave(raised)

    # -- wait --------------------------------------------------------------------------------------------------------

    def wait(
        self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """`(ready, not ready)`, each in the order of `refs`; at most `num_returns` ready ones."""
        ready = self._glimpse(refs, num_returns)
        if len(ready) == num_returns:
            return _split(refs, ready)
        records = self._records(refs)
        ready = _first_ready(records, num_returns)
        if len(ready) < num_returns and timeout != 0:
            self._await_some(records, num_returns, timeout)
            ready = _first_ready(records, num_returns)
        elif len(ready) < num_returns:
            self._glance(records)
            ready = _first_ready(records, num_returns)
        return _split(refs, ready)

    def _glimpse(self, refs: Sequence[ObjectRef[Any]], count: int) -> list[int]:
        """The places of the first `count` ready ones as far as this process knows, reading no further than needed."""
        table = self._engine.records.table
        ready: list[int] = []
        for index, ref in enumerate(refs):
            record = table.get(ref._id)
            if record is not None and record.value is not None:
                ready.append(index)
                if len(ready) == count:
                    break
        return ready

    def _await_some(self, records: list[Record], num_returns: int, timeout: float | None) -> None:
        missing = [record for record in records if record.value is None]
        waiter = Waiter(self._engine.pump, num_returns - (len(records) - len(missing)))
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            self._block(waiter, deadline, functools.partial(self._register_plain, missing, waiter))
        finally:
            self._unregister(missing, waiter)
        if waiter.missing > 0:
            self._engine.check()

    def _register_plain(self, missing: list[Record], waiter: Waiter) -> None:
        """The same for any outcome."""
        for record in missing:
            if record.value is not None:
                waiter.missing -= 1
            else:
                self._engine.await_record(record, waiter)

    def _glance(self, records: list[Record]) -> None:
        """A poll: one turn, and borrowed values are asked for."""
        pump = self._engine.pump
        raised = pump.enter()
        try:
            self._engine.records.fetch(records)
            pump.turn()
        finally:
            pump.leave(raised)
        self._engine.check()

    # -- callbacks and futures ---------------------------------------------------------------------------------------

    def when_ready(self, ref: ObjectRef[Any], callback: Callable[[], None]) -> None:
        """Call `callback()` in a thread of meshray's once the value is there, also when it is an error."""
        record = self._records([ref])[0]
        pump = self._engine.pump
        raised = pump.enter()
        try:
            if record.value is None:
                self._engine.check()
                number = next(self._callback_numbers)
                self._outstanding[number] = callback
                self._engine.await_record(record, functools.partial(self._run_number, number))
            else:
                self._run_later(callback)
        finally:
            pump.leave(raised)
        pump.kick()

    def future(self, ref: ObjectRef[Any]) -> Future[Any]:
        """A future with the value, or the error that `get` would raise. Cancelling it does not cancel the task."""
        future: Future[Any] = Future()

        def finish() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                value = self.get([ref], None)[0]
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(value)

        self.when_ready(ref, finish)
        return future

    def _run_number(self, number: int, _: Record) -> None:
        """Its value has come. Under the lock."""
        callback = self._outstanding.pop(number, None)
        if callback is not None:
            self._run_later(callback)

    def _run_outstanding(self) -> None:
        """No value will come any more: whoever waits for one is to find that out."""
        while self._outstanding:
            self._run_later(self._outstanding.popitem()[1])

    def run_later(self, callback: Callable[[], None]) -> None:
        """Call `callback()` in the thread of callbacks. From any thread, with or without the lock."""
        self._run_later(callback)

    def _run_later(self, callback: Callable[[], None]) -> None:
        if self._callbacks is None:
            with self._callback_lock:
                if self._callbacks is None:
                    self._callbacks = queue.SimpleQueue()
                    self._callback_thread = threading.Thread(
                        target=self._run_callbacks, name="meshray-callbacks", daemon=True
                    )
                    self._callback_thread.start()
        self._callbacks.put(callback)

    def _run_callbacks(self) -> None:
        """Callbacks run user code, so they run neither under the lock nor in the thread that happens to pump."""
        assert self._callbacks is not None
        while (callback := self._callbacks.get()) is not None:
            try:
                callback()
            except BaseException:  # `sys.exit` in a callback, say: the other callbacks have nothing to do with it
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))

    def close(self) -> None:
        """After the pump was closed: the callbacks that are left run, and see that all is over."""
        self._run_outstanding()
        if self._callbacks is not None:
            self._callbacks.put(None)
            assert self._callback_thread is not None
            if self._callback_thread is not threading.current_thread():
                self._callback_thread.join(CALLBACKS_END_S)


def _first_ready(records: list[Record], count: int) -> list[int]:
    """The places of the first `count` records whose value is there."""
    ready: list[int] = []
    for index, record in enumerate(records):
        if record.value is not None:
            ready.append(index)
            if len(ready) == count:
                break
    return ready


def _split(refs: Sequence[ObjectRef[Any]], ready: list[int]) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
    if len(ready) == 1:
        index = ready[0]
        return [refs[index]], [*refs[:index], *refs[index + 1 :]]
    chosen = set(ready)
    return [refs[i] for i in ready], [ref for i, ref in enumerate(refs) if i not in chosen]
