"""Creating, finding, calling and killing actors.

An actor is owned by the peer from the first day: it outlives a task that created it, and is started again without its
creator. Its handle is counted like a reference to the object `actor id + return 0`, which is born promoted.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meshray.core.pending import Mean, Pending
from meshray.core.records import Record
from meshray.errors import MeshrayError
from meshray.ids import FIRST_RETURN
from meshray.options import ActorOptions, FunctionSpec, TaskOptions
from meshray.refs import ObjectRef, new_ref
from meshray.runtime.engine import Engine
from meshray.runtime.failures import exception_from_failure
from meshray.runtime.pump import Waiter
from meshray.runtime.tasks import BATCH_TASKS, NO_ARGUMENTS, Arguments, Tasks, profile_of
from meshray.wire import messages as m

_NO_MEAN = Mean()


def _no_target(*args: Any, **kwargs: Any) -> None:
    """Stands for a method, of which a handle knows no function."""


@dataclass(frozen=True, slots=True)
class Found:
    """An actor that was created or found; its handle was counted once for whoever makes it."""

    actor_id: bytes
    methods: bytes
    created: bool


class Actors:
    """The actors' side of an engine."""

    def __init__(self, engine: Engine, tasks: Tasks) -> None:
        self._engine = engine
        self._tasks = tasks

    # -- creation ----------------------------------------------------------------------------------------------------

    def create(
        self, cls: FunctionSpec, args: tuple[Any, ...], kwargs: dict[str, Any], options: ActorOptions, methods: bytes
    ) -> Found:
        """Create an actor; with a name, wait for the peer's word that it is ours.

        Raises `ValueError` when the name is taken, and what pickling the arguments raises.
        """
        engine = self._engine
        blob = cls.blob or self._tasks.pickle_function(cls)
        arguments = self._tasks.arguments(cls, args, kwargs) if args or kwargs else NO_ARGUMENTS
        actor_id = self._tasks.new_task_id()
        namespace = engine.at.namespace if options.namespace is None else options.namespace
        answers: list[m.ActorFound] = []
        waiter = Waiter(engine.pump, 1)

        def reply(answer: m.ActorFound) -> None:
            engine.last_handles.finding -= 1
            answers.append(answer)
            if answer.created:
                self._born(actor_id, arguments.refs)
            elif answer.failure is None:
                self._adopt(answer.actor_id)
            waiter()

        raised = engine.pump.enter()
        try:
            engine.check()
            deps = self._promote_deps(arguments)
            make = functools.partial(
                m.CreateActor,
                actor_id,
                blob,
                arguments.data,
                deps,
                options.request,
                options.running_request,
                profile_of(options.request, options.env_vars, actor=True),
                options.max_restarts,
                options.max_concurrency,
                options.max_task_retries,
                engine.at.job_id,
                methods,
                options.name,
                namespace,
                options.detached,
                options.get_if_exists,
                contained=[r.binary() for r in arguments.refs or () if isinstance(r, ObjectRef)],
                strategy=options.strategy,
            )
            if not options.name:
                engine.send(engine.peer, make())
                self._born(actor_id, arguments.refs)
                engine.pump.turn()
                return Found(actor_id, methods, True)
            engine.last_handles.finding += 1
            engine.request(lambda number: make(request_id=number), reply)
        finally:
            engine.pump.leave(raised)
        return self._answer(waiter, answers, methods)

    def _promote_deps(self, arguments: Arguments) -> list[Any]:
        """Top-level references of a constructor are resolved where the actor starts, also when it starts again."""
        records = self._engine.records
        for ref in arguments.refs or ():
            record = self._engine.record_of(ref.binary())
            if record is not None:
                records.promote(record)
        return [m.Borrowed(ref.binary()) for ref in arguments.deps or ()]

    def _born(self, actor_id: bytes, refs: list[Any] | None) -> None:
        object_id = actor_id + FIRST_RETURN
        record = Record(object_id, True, 1)
        record.promoted = record.exposed = True
        self._engine.records.table[object_id] = record
        self._engine.calls.link(actor_id).creation_refs = refs

    def _adopt(self, actor_id: bytes) -> None:
        """The peer counts this process as a holder of an actor that it found."""
        object_id = actor_id + FIRST_RETURN
        record = self._engine.record_of(object_id)
        if record is None:
            record = self._engine.records.table[object_id] = Record(object_id, False, 0)
            record.held = True
        record.count += 1

    def _answer(self, waiter: Waiter, answers: list[m.ActorFound], methods: bytes) -> Found:
        engine = self._engine
        engine.pump.wait(waiter)
        if not answers:
            engine.check()
            raise MeshrayError("the mesh ended before it answered")
        answer = answers[0]
        failure = answer.failure
        if failure is not None:
            if failure.kind == "ValueError":  # no error of the mesh: what the program asked for is not there
                raise ValueError(failure.message)
            raise exception_from_failure(failure)
        return Found(answer.actor_id, answer.methods or methods, answer.created)

    def find(self, name: str, namespace: str | None) -> Found:
        """The actor of a name. Raises `ValueError` when there is none."""
        engine = self._engine
        space = engine.at.namespace if namespace is None else namespace
        answers: list[m.ActorFound] = []
        waiter = Waiter(engine.pump, 1)

        def reply(answer: m.ActorFound) -> None:
            engine.last_handles.finding -= 1
            answers.append(answer)
            if answer.failure is None:
                self._adopt(answer.actor_id)
            waiter()

        raised = engine.pump.enter()
        try:
            engine.check()
            engine.last_handles.finding += 1
            engine.request(lambda number: m.FindActor(number, name, space), reply)
        finally:
            engine.pump.leave(raised)
        try:
            return self._answer(waiter, answers, b"")
        except ValueError as error:
            if space != engine.at.job_id.hex():
                raise
            alone = (
                "this program's own, as init() was given none. Programs that share actors give it the same `namespace`"
            )
            raise ValueError(f"{error}, which is {alone}") from None

    # -- calls -------------------------------------------------------------------------------------------------------

    def call(
        self, actor_id: bytes, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions
    ) -> list[ObjectRef[Any]]:
        """One call, after all earlier ones of this process to this actor; its references at once."""
        engine = self._engine
        task_id = self._tasks.new_task_id()
        arguments = (
            self._tasks.arguments(FunctionSpec(_no_target, method), args, kwargs) if args or kwargs else NO_ARGUMENTS
        )
        table = engine.records.table
        count = options.num_returns
        if count == 1:
            object_id = task_id + FIRST_RETURN
            record = table[object_id] = Record(object_id, True, 1)
            records: Sequence[Record] = (record,)
            ref: ObjectRef[Any] = new_ref(ObjectRef)
            ref._id = object_id
            refs = [ref]
        else:
            records, refs = self._tasks.new_returns(task_id, count)
        retry_exceptions = options.retry_exceptions
        call = Pending(
            task_id,
            method.encode(),
            arguments.data,
            records,
            _NO_MEAN,
            count,
            None,
            options.name or method,
            None,
            options.max_retries,
            retry_exceptions,
            count == 1 and not retry_exceptions and not options.name,
        )
        for record in records:
            record.task = call
        if arguments is not NO_ARGUMENTS:
            call.refs, call.nested = arguments.refs, arguments.nested
        engine.call_inbox.append((actor_id, call, arguments.deps))
        link = engine.calls.known(actor_id)
        if link is not None and engine.calls.idle(link):
            self._tasks.flush(receive=False)
        elif link is None or len(engine.call_inbox) >= BATCH_TASKS or engine.pump.rest or engine.pump.closed:
            self._tasks.flush()
        return refs

    def kill(self, actor_id: bytes, no_restart: bool) -> None:
        """Kill it now; calls that are not done fail, or wait for the restart."""
        engine = self._engine
        raised = engine.pump.enter()
        try:
            engine.check()
            engine.submitted.take_calls()
            engine.calls.on_kill(actor_id, no_restart)
            engine.send(engine.peer, m.KillActor(actor_id, no_restart))
            engine.pump.turn()
        finally:
            engine.pump.leave(raised)
