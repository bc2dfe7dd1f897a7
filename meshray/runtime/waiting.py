"""Waiting for values: `get`, `wait`, callbacks and futures."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from meshray.core.records import Record
from meshray.errors import GetTimeoutError, ObjectLostError
from meshray.refs import ObjectRef
from meshray.runtime.engine import Engine, lost_text
from meshray.runtime.pump import Waiter
from meshray.runtime.values import Values
from meshray.wire.messages import Failure

BLOCK_GRACE_S = 0.001
"""A task that waits longer gives its CPU and the tasks behind it back; a shorter wait is not worth the messages."""


class Blocker(Protocol):
    """What a worker does when one of its tasks waits."""

    def before_wait(self) -> None:
        """At once: results that others may wait for must leave."""

    def begin_block(self) -> object:
        """The wait is a long one."""

    def end_block(self, token: object) -> None:
        """It is over."""


class _GetWaiter(Waiter):
    """Ends early when something failed: `get` raises the first error."""

    __slots__ = ()

    def __call__(self, event: object = None) -> None:
        if isinstance(event, Record) and type(event.value) is Failure:
            self.missing = 0
        super().__call__(event)


class Waiting:
    """The waiting side of an engine."""

    def __init__(self, engine: Engine, values: Values) -> None:
        self._engine = engine
        self._values = values
        self.blocker: Blocker | None = None  # set in a worker
        self._callbacks: queue.SimpleQueue[Callable[[], None] | None] | None = None
        self._callback_lock = threading.Lock()

    # -- get ---------------------------------------------------------------------------------------------------------

    def get(self, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """The values, in order. Raises the first error, or `GetTimeoutError`."""
        records = self._records(refs)
        missing = [record for record in records if record.value is None]
        if missing:
            self._await(missing, timeout)
            failed = [record for record in missing if type(record.value) is Failure]
            if failed:
                self._values.load(failed[0].value)  # type: ignore[arg-type]
        load = self._values.load
        return [load(record.value, record.inside) for record in records]  # type: ignore[arg-type]

    def _await(self, missing: list[Record], timeout: float | None) -> None:
        engine = self._engine
        waiter = _GetWaiter(engine.pump, len(missing))
        self._register(missing, waiter)
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            done = self._block(waiter, deadline)
        except BaseException:
            self._unregister(missing, waiter)
            raise
        if not done:
            self._unregister(missing, waiter)
            count = sum(record.value is None for record in missing)
            raise GetTimeoutError(f"get timed out after {timeout} s: {count} of {len(missing)} values are not there")
        if any(r.value is None for r in missing) and not any(type(r.value) is Failure for r in missing):
            engine.check()

    def _register(self, missing: list[Record], waiter: Waiter) -> None:
        engine = self._engine
        raised = engine.pump.enter()
        try:
            fetch = []
            for record in missing:
                if record.value is not None:
                    waiter.missing -= 1
                    if type(record.value) is Failure:
                        waiter.missing = 0
                    continue
                if record.waiters is None:
                    record.waiters = []
                record.waiters.append(waiter)
                if not record.owned and not record.fetching:
                    fetch.append(record)
            if fetch:
                engine.records.fetch(fetch)
        finally:
            engine.pump.leave(raised)

    def _unregister(self, missing: list[Record], waiter: Waiter) -> None:
        raised = self._engine.pump.enter()
        try:
            for record in missing:
                if record.waiters and waiter in record.waiters:
                    record.waiters.remove(waiter)
        finally:
            self._engine.pump.leave(raised)

    def _block(self, waiter: Waiter, deadline: float | None) -> bool:
        pump, blocker = self._engine.pump, self.blocker
        if blocker is None:
            return pump.wait(waiter, deadline)
        blocker.before_wait()
        grace = time.monotonic() + BLOCK_GRACE_S
        if deadline is not None and deadline <= grace:
            return pump.wait(waiter, deadline)
        if pump.wait(waiter, grace):
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
        records = self._records(refs)
        ready = _first_ready(records, num_returns)
        if len(ready) < num_returns and timeout != 0:
            self._await_some(records, num_returns, timeout)
            ready = _first_ready(records, num_returns)
        elif len(ready) < num_returns:
            self._glance(records)
            ready = _first_ready(records, num_returns)
        return _split(refs, ready)

    def _await_some(self, records: list[Record], num_returns: int, timeout: float | None) -> None:
        missing = [record for record in records if record.value is None]
        waiter = Waiter(self._engine.pump, num_returns - (len(records) - len(missing)))
        deadline = None if timeout is None else time.monotonic() + timeout
        self._register_plain(missing, waiter)
        try:
            self._block(waiter, deadline)
        finally:
            self._unregister(missing, waiter)
        if waiter.missing > 0:
            self._engine.check()

    def _register_plain(self, missing: list[Record], waiter: Waiter) -> None:
        engine = self._engine
        raised = engine.pump.enter()
        try:
            for record in missing:
                if record.value is not None:
                    waiter.missing -= 1
                else:
                    engine.await_record(record, waiter)
        finally:
            engine.pump.leave(raised)

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
                self._engine.await_record(record, lambda _: self._run_later(callback))
                self._engine.check()
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

    def _run_later(self, callback: Callable[[], None]) -> None:
        if self._callbacks is None:
            with self._callback_lock:
                if self._callbacks is None:
                    self._callbacks = queue.SimpleQueue()
                    threading.Thread(target=self._run_callbacks, name="meshray-callbacks", daemon=True).start()
        self._callbacks.put(callback)

    def _run_callbacks(self) -> None:
        """Callbacks run user code, so they run neither under the lock nor in the thread that happens to pump."""
        assert self._callbacks is not None
        while (callback := self._callbacks.get()) is not None:
            try:
                callback()
            except Exception:
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))

    def close(self) -> None:
        if self._callbacks is not None:
            self._callbacks.put(None)


def _first_ready(records: list[Record], count: int) -> list[int]:
    """The places of the first `count` records whose value is there."""
    ready: list[int] = []
    for index, record in enumerate(records):
        if record.value is not None:
            ready.append(index)
            if len(ready) == count:
                break
    return ready


def _split(
    refs: Sequence[ObjectRef[Any]], ready: list[int]
) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
    if len(ready) == 1:
        index = ready[0]
        return [refs[index]], [*refs[:index], *refs[index + 1 :]]
    chosen = set(ready)
    return [refs[i] for i in ready], [ref for i, ref in enumerate(refs) if i not in chosen]
