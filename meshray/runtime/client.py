"""`Client`: the runtime of one process, as programs reach it through `context`. It only hands on to the files beside
it."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import msgspec

from meshray.core.records import Record
from meshray.errors import MeshrayError, NodeDiedError
from meshray.ids import FIRST_RETURN
from meshray.options import ActorOptions, FunctionSpec, TaskOptions
from meshray.refs import ObjectRef
from meshray.runtime.actors import Actors, Found
from meshray.runtime.cancelling import cancel
from meshray.runtime.current import Current
from meshray.runtime.engine import Engine
from meshray.runtime.failures import exception_from_failure
from meshray.runtime.pump import Waiter
from meshray.runtime.tasks import Tasks
from meshray.runtime.values import Values
from meshray.runtime.waiting import Waiting
from meshray.wire import messages as m
from meshray.wire import payload as payloads

_logger = logging.getLogger("meshray")


class Client:
    """See `context.Runtime`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.process_id = engine.process_id
        self.job_id = engine.at.job_id
        self.namespace = engine.at.namespace
        self.is_driver = engine.at.is_driver
        self.values = Values(engine)
        self.tasks = Tasks(engine, self.values)
        self.waiting = Waiting(engine, self.values)
        self.actors = Actors(engine, self.tasks)
        self._current = Current()
        self.current_in_worker: Callable[[], Current] | None = None
        self.on_submit: Callable[[list[ObjectRef[Any]]], None] | None = None  # a worker notes what its task submits
        self.on_exit_actor: Callable[[], None] | None = None
        self.has_detached = False  # whether this process has made a detached actor that may start on another host
        self.on_leaving: Callable[[], None] | None = None  # before the peer is told
        self.on_shutdown: Callable[[], None] | None = None
        self._shutdown_lock = threading.RLock()  # a signal handler may call it while it runs
        engine.unfetched.report = self._report_unfetched
        engine.on_warning = self._warn
        self.get = self.waiting.get
        self.submit = self.tasks.submit if self.is_driver else self._submit_in_worker
        self.adopt_ref = self.values.adopt
        self.export_ref = self.values.export

    def current(self) -> Current:
        return self._current if self.current_in_worker is None else self.current_in_worker()

    # -- tasks and objects -------------------------------------------------------------------------------------------

    def _submit_in_worker(
        self, function: FunctionSpec, args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions
    ) -> list[ObjectRef[Any]]:
        refs = self.tasks.submit(function, args, kwargs, options, self.current().depth)
        if self.on_submit is not None:
            self.on_submit(refs)
        return refs

    def put(self, value: object) -> ObjectRef[Any]:
        engine = self.engine
        if engine.pump.closed:
            engine.check()
        try:
            payload = payloads.dumps(value)
        except payloads.UnpicklableError as error:
            raise TypeError(f"put: {payloads.explain_unpicklable(value, error)}") from None
        object_id = self.tasks.new_task_id() + FIRST_RETURN
        contained = self.values.pin_contained(payload) if payload.contained else None
        record = Record(object_id, True, 1)
        record.value = self.values.encode(object_id, payload)
        record.contained = contained
        engine.records.table[object_id] = record
        ref: ObjectRef[Any] = ObjectRef(object_id)  # before anything that may be interrupted
        if len(engine.queue) > 1000 or engine.pump.rest or engine.pump.closed:
            self.tasks.flush()
        return ref

    def wait(
        self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout: float | None, fetch_local: bool
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        return self.waiting.wait(refs, num_returns, timeout)

    def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
        cancel(self.engine, ref, force, recursive)

    def when_ready(self, ref: ObjectRef[Any], callback: Callable[[], None]) -> None:
        self.waiting.when_ready(ref, callback)

    def future(self, ref: ObjectRef[Any]) -> Future[Any]:
        return self.waiting.future(ref)

    # -- actors ------------------------------------------------------------------------------------------------------

    def create_actor(
        self, cls: FunctionSpec, args: tuple[Any, ...], kwargs: dict[str, Any], options: ActorOptions, methods: bytes
    ) -> Found:
        if options.detached and self.engine.at.is_private:
            _logger.warning(
                "the detached actor %s ends with this program, since its mesh does: start a peer with `meshray start` "
                "for one that stays",
                options.name or cls.name,
            )
        found = self.actors.create(cls, args, kwargs, options, methods)
        self.has_detached |= options.detached and found.created and not self.engine.at.is_alone
        return found

    def call_actor(
        self, actor_id: bytes, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions
    ) -> list[ObjectRef[Any]]:
        refs = self.actors.call(actor_id, method, args, kwargs, options)
        if self.on_submit is not None:
            self.on_submit(refs)
        return refs

    def kill_actor(self, actor_id: bytes, no_restart: bool) -> None:
        self.actors.kill(actor_id, no_restart)

    def find_actor(self, name: str, namespace: str | None) -> Found:
        return self.actors.find(name, namespace)

    def exit_actor(self) -> None:
        if self.on_exit_actor is None:
            raise MeshrayError("exit_actor() was called outside of an actor")
        self.on_exit_actor()

    # -- questions ---------------------------------------------------------------------------------------------------

    def ask(self, what: str, argument: str = "") -> Any:
        """Plain data from the peer. Raises what it answers instead."""
        answer = self._request(functools.partial(_ask, what, argument), None)
        assert answer is not None
        if answer.failure is not None:
            raise exception_from_failure(answer.failure)
        return msgspec.msgpack.decode(answer.data)

    def _request(
        self, make: Callable[[int], Any], timeout_s: float | None, answered: Callable[[], None] | None = None
    ) -> m.Answer | None:
        """`answered` is called under the lock, before anything else is looked at."""
        engine = self.engine
        answers: list[m.Answer] = []
        waiter = Waiter(engine.pump, 1)

        def reply(answer: m.Answer) -> None:
            answers.append(answer)
            if answered is not None:
                answered()
            waiter()

        raised = engine.pump.enter()
        try:
            engine.check()
            number = engine.request(make, reply)
        finally:
            engine.pump.leave(raised)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        engine.pump.wait(waiter, deadline)
        if not answers:
            engine.replies.pop(number, None)
            if timeout_s is None:
                engine.check()
        return answers[0] if answers else None

    # -- the end -----------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Leave: the peer ends the job, the last prints arrive, everything of this process's is closed. Idempotent."""
        with self._shutdown_lock:
            if self.engine.closed:
                return
            with ExitStack() as ends:  # all of them, in reverse order, however often Ctrl-C is pressed
                if self.on_shutdown is not None:
                    ends.callback(self.on_shutdown)
                ends.callback(self.engine.close)
                ends.callback(self.waiting.close)
                ends.callback(self.engine.pump.close)
                if not self.engine.pump.closed:
                    if self.on_leaving is not None:
                        self.on_leaving()
                    self._tell_unfetched()
                    self._detach()

    def _detach(self) -> None:
        """The peer ends the job; whoever finds out only now that it is dead has nobody to tell."""
        try:
            self._request(m.Detach, self.engine.config.shutdown_timeout_s, self.engine.on_detached)
        except NodeDiedError:
            if self.engine.broken is None:
                raise

    def _tell_unfetched(self) -> None:
        if not self.is_driver:
            return
        raised = self.engine.pump.enter()
        try:
            self.engine.pump.turn()
            self.engine.unfetched.look_through(list(self.engine.records.table.values()))
        finally:
            self.engine.pump.leave(raised)

    def _report_unfetched(self, failure: m.Failure) -> None:
        """Under the pump's lock: a program's logging must not run here."""
        name = failure.details.get("task_name") or "a task"
        text = f"{failure.message}\n\n{failure.traceback}" if failure.traceback else failure.message
        self.waiting.run_later(
            functools.partial(_logger.error, "nobody fetched the error of %s: %s", name, text.rstrip())
        )

    def _warn(self, text: str) -> None:
        """Likewise. What a worker logs appears at the driver."""
        self.waiting.run_later(functools.partial(_logger.warning, "%s", text))


def _ask(what: str, argument: str, number: int) -> m.Ask:
    return m.Ask(number, what, argument)
