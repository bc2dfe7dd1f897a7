"""Submitting: from a call's arguments to a pending task in the engine's inbox.

`.remote()` computes ids, makes records and references, and appends; it touches no socket unless a worker idles, a batch
is full, or nobody else would look at the inbox soon. Then the caller turns the pump himself.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

from meshray.core.pending import Mean, Pending
from meshray.core.records import Record
from meshray.core.scheduling import SchedulingClass
from meshray.ids import FIRST_RETURN, object_of
from meshray.options import FunctionSpec, TaskOptions
from meshray.refs import ObjectRef, new_ref
from meshray.resources import UNIT
from meshray.runtime.engine import Engine
from meshray.runtime.values import Values
from meshray.wire import messages as m
from meshray.wire import payload as payloads

PLANS_MAX = 1024
"""So many are remembered: a program may make options for each task."""

BATCH_TASKS = 64
"""Submissions gathered before the caller flushes them, when nothing is idle anyway."""

TINY_PER_PORTION = 8
"""Tasks of which so many are no more than what is worth waking a worker gather in the inbox while another is awake."""


class Arguments:
    """The arguments of one call, ready to travel."""

    __slots__ = ("data", "deps", "nested", "refs")

    def __init__(self) -> None:
        self.data: bytes | m.Place = b""  # payload of (args, kwargs) or (args, kwargs, positions of the references)
        self.deps: list[ObjectRef[Any]] | None = None  # references at the top level, in the order of their positions
        self.refs: list[Any] | None = None  # handles to keep until the result is there
        self.nested = False  # references or segments travel along


NO_ARGUMENTS = Arguments()


class _Plan:
    """What all tasks with the same options have in common. Nothing of their function, which is the program's, with all
    that it has captured: it is not to live as long as this."""

    __slots__ = ("cls", "name", "options", "plain", "retries", "retry_exceptions", "returns")

    def __init__(self, options: TaskOptions, cls: SchedulingClass, depth: int) -> None:
        self.options = options  # they live as long as this: it is found by their identity
        self.cls = cls
        self.name = options.name
        self.returns = options.num_returns
        self.retries = options.max_retries
        self.retry_exceptions = options.retry_exceptions
        self.plain = options.num_returns == 1 and not (depth or options.retry_exceptions or options.name)


class Tasks:
    """Submits the tasks of one process."""

    def __init__(self, engine: Engine, values: Values) -> None:
        self._engine = engine
        self._values = values
        # The next task id of this process (`ids`), in C from end to end: threads need no lock.
        self.new_task_id: Callable[[], bytes] = map(
            Struct(">16sQ").pack, itertools.repeat(engine.process_id), itertools.count(1)
        ).__next__
        # by the identity of the options, at depths other than 0 with the depth
        self._plans: dict[int | tuple[int, int], _Plan] = {}
        self._by_content: dict[Any, SchedulingClass] = {}
        engine.remaking.new_task_id = self.new_task_id
        self._tiny_ns = engine.config.portion_work_s * 1e9 / TINY_PER_PORTION
        # around the two tables of classes, and the pickling of functions, which runs code that may submit others
        self._lock = threading.RLock()

    def submit(
        self,
        function: FunctionSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions,
        depth: int = 0,
    ) -> list[ObjectRef[Any]]:
        """One task; its references at once. Raises what pickling the arguments raises."""
        engine = self._engine
        blob: m.Blob | None = function.blob
        if blob is None:
            blob = self.pickle_function(function)
        plan = self._plans.get((id(options), depth) if depth else id(options))
        if plan is None:
            plan = self._plan(options, depth)
        arguments = self.arguments(function, args, kwargs) if args or kwargs else NO_ARGUMENTS
        task_id = self.new_task_id()
        records: Sequence[Record]
        if plan.returns == 1:
            object_id = task_id + FIRST_RETURN
            record = engine.records.table[object_id] = Record(object_id, True, 1)
            records = (record,)
            ref = new_ref(ObjectRef)
            ref._id = object_id
            refs = [ref]
        else:
            records, refs = self.new_returns(task_id, plan.returns)
        cls, statistics = plan.cls, function.statistics
        task = Pending(
            task_id,
            blob.hash,
            arguments.data,
            records,
            statistics,
            plan.returns,
            blob,
            plan.name or function.name,
            cls,
            plan.retries,
            plan.retry_exceptions,
            plan.plain,
        )
        for record in records:
            record.task = task
        if arguments is not NO_ARGUMENTS:
            task.refs, task.nested, task.dep_refs = arguments.refs, arguments.nested, arguments.deps
        inbox = engine.inbox
        inbox.append(task)
        pump = engine.pump
        if cls.idle and (cls.idle == len(cls.leases) or not statistics.below(self._tiny_ns)):
            self.flush(receive=False)
        elif not cls.demanded or len(inbox) >= BATCH_TASKS or pump.rest or pump.closed:
            self.flush()
        return refs

    def new_returns(self, task_id: bytes, count: int) -> tuple[list[Record], list[ObjectRef[Any]]]:
        """Records and references for several returns of one task, or none."""
        table = self._engine.records.table
        records = [Record(object_id, True, 1) for object_id in return_ids(task_id, count)]
        table.update((record.id, record) for record in records)
        return records, [ObjectRef(record.id) for record in records]

    def flush(self, receive: bool = True) -> None:
        """Turn the pump, unless somebody does; then that one, or the background thread, sees the inbox."""
        pump = self._engine.pump
        if pump.closed:
            self._engine.check()
        if pump.try_enter():
            try:
                if receive:
                    pump.turn()
                else:
                    pump.push()
            finally:
                pump.leave_tried()

    # -- arguments ---------------------------------------------------------------------------------------------------

    def arguments(self, function: FunctionSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Pickle the arguments of a call. References at the top level are taken out: their values go instead.

        Raises `TypeError` naming the argument that cannot be pickled, or what its own pickling raises.
        """
        result = Arguments()
        value: tuple[Any, ...] = (args, kwargs)
        positions = [i for i, arg in enumerate(args) if type(arg) is ObjectRef]
        if positions or kwargs:
            value = _take_out(result, args, kwargs, positions)
        try:
            payload = payloads.dumps(value)
        except payloads.UnpicklableError as error:
            raise TypeError(payloads.explain_argument(error, function.target, function.name)) from None
        except Exception as error:
            error.add_note(f"(raised while the arguments of {function.name} were pickled)")
            raise
        if payload.contained:
            result.nested = True
            pinned = self._values.pin_contained(payload)
            result.refs = [*pinned, *(result.refs or ())]
        if payload.nbytes <= self._engine.config.inline_max_bytes:
            result.data = payload.inline()
        else:
            result.nested = True
            self._store(result, payload)
        return result

    def _store(self, result: Arguments, payload: payloads.Payload) -> None:
        """Large arguments lie in the store, as an object of their own that lives as long as the call."""
        object_id = self.new_task_id() + FIRST_RETURN
        place = self._values.write(object_id, payload)
        record = Record(object_id, True, 1)
        record.value = place
        record.exposed = True
        self._engine.records.table[object_id] = record
        result.data = place
        result.refs = [*(result.refs or ()), ObjectRef(object_id)]
        result.deps = result.deps or []  # `Dependencies` looks where it lies

    # -- functions and classes ---------------------------------------------------------------------------------------

    def pickle_function(self, function: FunctionSpec) -> m.Blob:
        """Pickle a function or class, once per process. References that it captured live until the job ends."""
        with self._lock:
            if function.blob is None:
                try:
                    pickled = payloads.dumps_function(function.target)
                except Exception as error:
                    text = payloads.explain_unpicklable(function.target, error, function.name)
                    cause = (
                        None if isinstance(error, payloads.UnpicklableError) else error
                    )  # of the user's own pickling
                    raise TypeError(f"{function.name} cannot be sent to workers: {text}") from cause
                at_most = self._engine.config.function_max_bytes
                if len(pickled) > at_most:
                    raise ValueError(
                        f"{function.name} is too large to be sent to workers: {len(pickled) >> 20} MiB, at most "
                        f"{at_most >> 20}. It has probably captured a large object from around its definition: "
                        "put() that, and pass the reference as an argument"
                    )
                function.statistics = Mean()
                function.blob = payloads.make_blob(pickled, function.name)
            blob: m.Blob = function.blob
            return blob

    def _plan(self, options: TaskOptions, depth: int) -> _Plan:
        """What tasks with these options have in common at this depth."""
        with self._lock:
            key = (tuple(sorted(options.request.items())), options.env_vars, depth, options.strategy)
            cls = self._by_content.get(key)
            if cls is None:
                profile = profile_of(options.request, options.env_vars, actor=False)
                cls = self._engine.submission.new_class(options.request, profile, depth, options.strategy)
                self._by_content[key] = cls
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
            plan = self._plans[(id(options), depth) if depth else id(options)] = _Plan(options, cls, depth)
            return plan


def return_ids(task_id: bytes, count: int) -> list[bytes]:
    """The ids of a task's returns."""
    if count == 1:
        return [task_id + FIRST_RETURN]
    return [object_of(task_id, index) for index in range(count)]


def profile_of(request: dict[str, int], env_vars: tuple[tuple[str, str], ...], actor: bool) -> m.Profile:
    """What a worker must be like to serve this request."""
    threads = max(1, request.get("CPU", 0) // UNIT)
    return m.Profile("GPU" in request, threads, dict(env_vars), actor)


def _take_out(result: Arguments, args: tuple[Any, ...], kwargs: dict[str, Any], indices: list[int]) -> tuple[Any, ...]:
    """Take the references at the top level out. What is pickled then says where their values belong."""
    positions: list[int | str] = [*indices, *(key for key, value in kwargs.items() if type(value) is ObjectRef)]
    if not positions:
        return args, kwargs
    result.deps = [args[p] if type(p) is int else kwargs[p] for p in positions]  # type: ignore[index]
    result.refs = list(result.deps)
    args = tuple(None if type(value) is ObjectRef else value for value in args)
    kwargs = {key: None if type(value) is ObjectRef else value for key, value in kwargs.items()}
    return args, kwargs, tuple(positions)
