"""From what a function returned, or raised, to the `Result` that its submitter gets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sized
from itertools import islice
from types import TracebackType
from typing import Any

import msgspec

from meshray.core.records import Carrier
from meshray.errors import MeshrayError
from meshray.ids import FIRST_RETURN, object_of
from meshray.runtime.client import Client
from meshray.runtime.copies import Lost
from meshray.runtime.failures import failure_from_exception, format_traceback, to_failure
from meshray.wire import messages as m
from meshray.wire import payload as payloads
from meshray.worker.functions import LOOKED_IN

ANCESTORS_MAX = 50

SAY_IN_WORDS = frozenset((__name__, "meshray.worker.functions"))
"""Modules that raise what was foreseen, in words for people."""


def _dumps(name: str, which: str, value: Any) -> payloads.Payload:
    """Pickle what the task `name` returned. Raises `TypeError` that says so, or what its own pickling raises."""
    try:
        return payloads.dumps(value)
    except payloads.UnpicklableError as error:
        why = payloads.explain_unpicklable(value, error, which)
    raise TypeError(f"the result of {name}: {why}")


def _wrong_number(name: str, wanted: int, returned: str) -> ValueError:
    """What a task with several returns raises that did not return as many values."""
    text = f"{name} must return {wanted} values, for instance as a tuple (num_returns={wanted})"
    return ValueError(f"{text}: it returned {returned}")


def _without_own_frames(error: BaseException) -> TracebackType | None:
    """The traceback from the user's first frame on. When none is his: none where what went wrong was foreseen and is
    said in words (`SAY_IN_WORDS`, or an error of ours), else all of it, for whoever has to mend us."""
    trace = error.__traceback__
    while trace is not None and _module(trace).startswith("meshray.worker."):
        if trace.tb_next is None:
            return None if _module(trace) in SAY_IN_WORDS else error.__traceback__
        trace = trace.tb_next
    rest = trace
    while rest is not None and isinstance(error, MeshrayError) and _module(rest).startswith("meshray."):
        rest = rest.tb_next
    return None if rest is None else trace


def _module(trace: TracebackType) -> str:
    return str(trace.tb_frame.f_globals.get("__name__", ""))


class Outcomes:
    """Makes results; pins the references inside them until the submitter holds them itself."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._engine = client.engine
        self._inline_max_bytes = client.engine.config.inline_max_bytes
        self._host = socket.gethostname()
        self.where = LOOKED_IN
        """Where modules are looked for, for people."""
        self.missing = ""
        """Why a file of the program's folder may not be on this host, for people."""

    def of_value(self, source: bytes, task: m.Task, name: str, value: Any) -> m.Result:
        """The result of a task that returned `value`."""
        if task.returns == 1:
            data = payloads.dumps_plain(value)
            if data is not None and len(data) <= self._inline_max_bytes:
                return m.Result(task.seq, [data])
            payload = _dumps(name, "result", value)
            if payload.nbytes <= self._inline_max_bytes and not payload.contained:
                return m.Result(task.seq, [payload.inline()])
            return self._of_values(source, task, [payload])
        if task.returns == 0:
            return m.Result(task.seq, [])
        try:
            values = list(islice(iter(value), task.returns + 1))
        except TypeError:
            if isinstance(value, Iterable):
                raise  # by the iterator's own code
            kind = type(value)
            raise _wrong_number(name, task.returns, "None" if value is None else f"one {kind.__name__}") from None
        if len(values) != task.returns:
            count = len(value) if isinstance(value, Sized) else "more" if len(values) > task.returns else len(values)
            raise _wrong_number(name, task.returns, "1 value" if count == 1 else f"{count} values")
        return self._of_values(source, task, [_dumps(name, f"result[{i}]", each) for i, each in enumerate(values)])

    def _of_values(self, source: bytes, task: m.Task, made: list[payloads.Payload]) -> m.Result:
        values: list[bytes | m.Place | m.Failure] = []
        pinned: list[Any] = []
        contained: list[list[bytes]] = []
        single = task.returns == 1
        for index, payload in enumerate(made):
            object_id = task.task_id + FIRST_RETURN if single else object_of(task.task_id, index)
            pinned += self._client.values.pin_contained(payload)
            contained.append(payload.contained)
            values.append(self._client.values.encode(object_id, payload))
        if not pinned:
            return m.Result(task.seq, values)
        raised = self._engine.pump.enter()
        try:
            self._engine.pin(source, task.task_id, pinned)
        finally:
            self._engine.pump.leave(raised)
        return m.Result(task.seq, values, contained)

    def sealed(self, task: m.Task, result: m.Result) -> m.Result:
        """The same result with its inline values in the store: for a journal that has no room for them."""
        values: list[bytes | m.Place | m.Failure] = []
        for index, value in enumerate(result.values):
            if type(value) is bytes:
                payload = payloads.Payload((value,), len(value))
                values.append(self._client.values.write(object_of(task.task_id, index), payload))
            else:
                values.append(value)
        return m.Result(result.seq, values, result.contained, result.kept)

    def starved(self, task: m.Task, lost: Lost) -> m.Result:
        """The result of a task that did not run, since arguments of its cannot be had any more."""
        return m.Result(task.seq, [next(iter(lost.failures.values()))], lost=tuple(lost.failures))

    def of_error(self, task: m.Task, name: str, error: BaseException) -> m.Result:
        """The result of a task that raised."""
        return m.Result(task.seq, [self.failure(task, name, error)])

    def failure(self, task: m.Task | None, name: str, error: BaseException) -> m.Failure:
        """What `get` will raise for an exception of user code."""
        if isinstance(error, MeshrayError) and getattr(error, "_meshray_passes", False):
            return to_failure(error)
        error.__traceback__ = _without_own_frames(error)
        if error.__traceback__ is None:
            error.__cause__ = None  # and what is below it is ours as well
        text = format_traceback(error)
        if isinstance(error, ModuleNotFoundError) and self._says_no_host(error):
            text += f"(a worker on host {self._host} cannot import it: {self.where})\n"
        elif isinstance(error, FileNotFoundError) and self.missing and not isinstance(error, MeshrayError):
            text += f"(on host {self._host}: {self.missing})\n"
        failure = failure_from_exception(error, task_name=name, pid=os.getpid(), host=self._host, traceback_text=text)
        if task is None or not task.retry_exceptions or "ancestors" in failure.details:
            return failure
        kinds = type(error).__mro__[:ANCESTORS_MAX]
        # by their short names: a class that was pickled by value has lost the functions and classes around it
        ancestors = "\n".join(f"{kind.__module__}.{kind.__name__}" for kind in kinds)
        return msgspec.structs.replace(failure, details={**failure.details, "ancestors": ancestors})

    def _says_no_host(self, error: ModuleNotFoundError) -> bool:
        """Whether it is Python's own, of an import in a running task: not one of ours, or of another task."""
        return not isinstance(error, MeshrayError) and self._host not in str(error)

    def cancelled(self, task: m.Task, name: str) -> m.Result:
        """The result of a task that was cancelled."""
        return m.Result(task.seq, [m.Failure("TaskCancelledError", f"{name} was cancelled")])

    def end_carrier(self, carrier: Carrier) -> bool:
        """Whether references or views of the arguments live on."""
        engine = self._engine
        raised = engine.pump.enter()
        try:
            engine.records.drain()
            return engine.records.end_carrier(carrier)
        finally:
            engine.pump.leave(raised)
