"""The actor that a worker hosts: its constructor, then its calls.

Calls come in order per caller, since links keep order, and begin in that order. Three ways to run them, by its class:

- one at a time in the main thread (the default);
- `max_concurrency` > 1: on as many threads, while the main thread pumps;
- a class with `async def` methods: on an event loop in the main thread, which watches the endpoint itself, so that a
  call costs no hand-over between threads. `max_concurrency` (1000) bounds the calls that have begun and not ended.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import queue
import threading
import time
from collections.abc import Callable
from types import CoroutineType
from typing import Any

import msgspec

from meshray.core.records import Carrier
from meshray.resources import to_quantities
from meshray.runtime.current import Current, Surroundings
from meshray.runtime.failures import MESSAGE_MAX, clip, headline_of
from meshray.runtime.pump import Waiter
from meshray.wire import messages as m
from meshray.worker.executor import CANCELLED_MAX, Executor
from meshray.worker.hosted import ActorExitRequest
from meshray.worker.orphans import Item
from meshray.worker.streams import announce
from meshray.worker.unsent import SEND_AFTER_S, SEND_TASKS

ASYNC_CONCURRENCY = 1000

_monotonic = time.monotonic

NAMES_MAX = 1024
"""So many names of methods are kept for their next call."""

_current: contextvars.ContextVar[Current | None] = contextvars.ContextVar("meshray_current", default=None)


class ActorHost:
    """See the head of this file."""

    def __init__(self, executor: Executor, start: m.StartActor) -> None:
        self._executor = executor
        self._start = start
        self._instance: Any = None
        self._name = start.name or start.blob.name
        self._special: dict[str, Callable[..., Any]] = {
            "__ray_ready__": lambda: True,
            "__ray_call__": lambda function, *args, **kwargs: function(self._instance, *args, **kwargs),
            "__ray_terminate__": _terminate,
        }
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False  # the loop will look at the queue
        self._flushing = False  # the loop will send what is done
        self._looking = False  # the loop turns the pump
        self._nobody = Waiter(executor.engine.pump, 1)  # for a spin that waits for nobody in particular
        self._tokens: queue.SimpleQueue[bool] = queue.SimpleQueue()  # for the threads: look at `handed`; False: end
        self._here: Current | None = None  # of the main thread, when it runs one call at a time: it changes with each
        self._running = b""  # that call, by its task id
        self._cancelled: dict[bytes, None] = {}  # calls to be cancelled that run, or are about to: `CANCELLED_MAX`
        self._calls: dict[bytes, asyncio.Task[None]] = {}  # of the event loop, by task id
        self._flags: dict[bytes, Current] = {}  # calls that have begun and not ended, by task id, when they overlap
        self._active = 0  # calls that have begun and not ended, on threads or the loop
        self._leaving = False  # it ends itself
        self._main = threading.main_thread().ident
        self._local = threading.local()
        self._names: dict[bytes, tuple[str, str]] = {}  # a method as it travels -> its name, and that with its class
        self._around = self._surroundings()
        self._between = Current(self._around, depth=1)  # of code that no call has led to: a user's own threads, say

    # -- context -----------------------------------------------------------------------------------------------------

    def current(self) -> Current | None:
        """What runs in this thread, or in this coroutine."""
        found: Current | None = getattr(self._local, "current", None)
        if found is None:
            return _current.get() or self._between
        if found is self._here:
            found.cancelled = found.task_id in self._cancelled
        return found

    def _surroundings(self) -> Surroundings:
        """The same for all calls: a worker is bound once."""
        around = Surroundings()
        start, bind = self._start, self._executor.bind
        around.actor_id = start.actor_id
        around.actor_name = start.name
        around.actor_methods = start.methods
        around.restarted = start.incarnation > 1
        if bind is not None:
            around.gpu_ids = list(bind.gpu_ids)
            around.resources = to_quantities(bind.resources)
        return around

    def _new_current(self, task: m.Task) -> Current:
        return Current(self._around, task.task_id, self._names_of(task.function)[1], task.depth + 1)

    def _names_of(self, function: bytes) -> tuple[str, str]:
        """The name of a method, and how people read it."""
        names = self._names.get(function)
        if names is None:
            if len(self._names) >= NAMES_MAX:
                self._names.clear()  # somebody asks for what is not there
            name = function.decode()
            names = self._names[function] = name, f"{self._start.blob.name}.{name}"
        return names

    # -- messages, under the pump's lock -----------------------------------------------------------------------------

    def on_work(self) -> None:
        """Something came into the queue, or it is time to go."""
        loop = self._loop
        if loop is None or self._scheduled:
            return
        self._scheduled = True
        if threading.get_ident() != self._main:
            loop.call_soon_threadsafe(self._schedule)
        elif not self._looking:  # else `_look` does it when the turn is over
            loop.call_soon(self._schedule)

    def on_submitted(self) -> None:
        """A loop sends it when the coroutine pauses, many in one go: nobody else looks at the queues soon."""
        loop = self._loop
        if loop is None or self._flushing:
            return
        self._flushing = True
        if threading.get_ident() == self._main:
            loop.call_soon(self._flush)
        else:
            loop.call_soon_threadsafe(self._flush)

    def on_cancel(self, message: m.Cancel) -> None:
        """A running coroutine gets CancelledError; a running method only a flag. A method that is neither in the queue
        nor running may be just between the two: therefore calls are remembered."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel_soon, message.task_id)
            return
        while len(self._cancelled) >= CANCELLED_MAX:
            del self._cancelled[next(iter(self._cancelled))]
        self._cancelled[message.task_id] = None
        flagged = self._flags.get(message.task_id)
        if flagged is not None:
            flagged.cancelled = True

    def _cancel_soon(self, task_id: bytes) -> None:
        """In the loop. A call whose first step is still to come is cancelled after that: else nothing of it would run,
        and nobody would hear of its end."""
        call, current = self._calls.get(task_id), self._flags.get(task_id)
        if call is None:
            return
        if current is None:
            assert self._loop is not None
            self._loop.call_soon(self._cancel_soon, task_id)
            return
        current.cancelled = True
        call.cancel()

    def runs(self, task_id: bytes) -> bool:
        """Whether this call has begun and not ended. From any thread."""
        return task_id in self._flags or (task_id != b"" and task_id == self._running)

    def runs_for(self, caller: bytes) -> bool:
        """Whether calls of this process run, or may soon: task ids begin with their submitter."""
        begun = [self._running, *self._flags, *self._calls]
        return self.behind or any(task_id.startswith(caller) for task_id in begun)

    @property
    def behind(self) -> bool:
        """Whether calls wait for those that run."""
        return bool(self._executor.queue or self._executor.handed)

    # -- life --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Construct it, then serve until it ends. In the main thread."""
        start = self._start
        announce(self._name)
        try:
            cls = self._executor.functions.unpickle(start.blob)
            is_async = _has_coroutines(cls)
            if is_async:
                loop = asyncio.new_event_loop()
                asyncio.set_event_loop(loop)
                loop.run_until_complete(self._construct_in_loop(cls))
            else:
                self._construct(cls)
        except ActorExitRequest:
            self._exit()
            return
        except BaseException as error:
            self._ready(self._construction_failed(error))
            return
        if is_async:
            self._serve_loop(loop)
        elif start.max_concurrency > 1:
            self._ready(None)
            self._serve_threads()
        else:
            self._ready(None)
            self._serve_here()

    async def _construct_in_loop(self, cls: Any) -> None:
        """With a running loop, so that a constructor can start tasks of its own."""
        self._construct(cls)

    def _construct(self, cls: Any) -> None:
        start = self._start
        carrier = Carrier(start.actor_id, b"")
        task = m.Task(0, start.actor_id, b"", start.args, start.deps)
        args, kwargs = self._executor.arguments.lasting(task, carrier)
        self._instance = cls(*args, **kwargs)
        del args, kwargs
        self._executor.outcomes.end_carrier(carrier)

    def _construction_failed(self, error: BaseException) -> m.Failure:
        failure = self._executor.outcomes.failure(None, f"{self._name}.__init__", error)
        text = f"its __init__ raised {headline_of(error)}"
        return msgspec.structs.replace(failure, kind="ActorDiedError", message=clip(text, MESSAGE_MAX))

    def _ready(self, failure: m.Failure | None) -> None:
        self._send(m.ActorReady(self._start.actor_id, self._start.incarnation, failure))

    def _send(self, message: Any) -> None:
        engine = self._executor.engine
        raised = engine.pump.enter()
        try:
            engine.send(engine.peer, message)
            engine.pump.turn()
        finally:
            engine.pump.leave(raised)

    def _exit(self) -> None:
        """The actor ends itself: no restart."""
        self._leaving = True
        self._send(m.ActorExit(self._start.actor_id, self._start.incarnation))

    # -- one at a time -----------------------------------------------------------------------------------------------

    def _serve_here(self) -> None:
        executor, calls, done = self._executor, self._executor.queue, self._executor.done
        self._here = here = self._local.current = Current(self._around)
        while not self._leaving and not executor.engine.pump.closed:
            executor.wait_for_work()
            since_s = _monotonic()
            while calls and not self._leaving:
                try:
                    item = calls.popleft()
                except IndexError:
                    continue  # it was cancelled just now
                done.append((item, self._call_here(item, here)))
                if len(done) >= SEND_TASKS or (calls and _monotonic() - since_s > SEND_AFTER_S):
                    executor.flush()
                    since_s = _monotonic()
            if done:
                executor.send_done()  # before anything else: somebody waits for it
            if executor.exiting and not calls:
                return

    def _call_here(self, item: Item, here: Current) -> m.Result:
        """One call. No other begins before it has ended, so little is made anew for it."""
        source, _, task = item
        executor = self._executor
        pushers = executor.pushers
        handle = pushers.handle_of_caller(source)
        pushers.journal.started(handle, task.seq)
        method, here.task_name = self._names_of(task.function)
        here.depth = task.depth + 1
        here.task_id = self._running = task.task_id
        carrier = Carrier(task.task_id, source) if task.nested or task.deps else None
        result = self._outcome(item, method, carrier, task.name or here.task_name)
        self._running = b""
        executor.children.forget(task.task_id)
        if carrier is not None and executor.outcomes.end_carrier(carrier):
            result.kept = True
        return executor.journaled(handle, task, result)

    # -- on threads --------------------------------------------------------------------------------------------------

    def _serve_threads(self) -> None:
        executor, handed, tokens = self._executor, self._executor.handed, self._tokens
        self._share_journal()
        threads: list[threading.Thread] = []
        idle = threading.Semaphore(0)  # how many threads wait for work
        while not self._leaving and not executor.engine.pump.closed:
            executor.wait_for_work()
            while (item := executor.next_item()) is not None:
                if not idle.acquire(blocking=False) and len(threads) < self._start.max_concurrency:
                    thread = threading.Thread(target=self._thread, args=(idle,), daemon=True)
                    threads.append(thread)
                    thread.start()
                handed.append(item)
                tokens.put(True)
            if executor.exiting:
                break
        for _ in threads:
            tokens.put(False)
        if not self._leaving:
            for thread in threads:
                thread.join()

    def _thread(self, idle: threading.Semaphore) -> None:
        executor, handed, tokens = self._executor, self._executor.handed, self._tokens
        while tokens.get():
            try:
                item = handed.popleft()
            except IndexError:
                idle.release()
                continue  # it was cancelled just now
            executor.done.append((item, self._call(item)))
            idle.release()
            if not handed or len(executor.done) >= SEND_TASKS:
                executor.flush()
            if self._leaving:
                executor.on_leaving()
                return

    def _share_journal(self) -> None:
        """Calls will overlap."""
        pump = self._executor.engine.pump
        raised = pump.enter()
        try:
            self._executor.pushers.share()
        finally:
            pump.leave(raised)

    def _call(self, item: Item) -> m.Result:
        source, _, task = item
        executor = self._executor
        handle = executor.pushers.handle_of_caller(source)
        executor.pushers.journal.started(handle, task.seq)
        current = self._local.current = self._new_current(task)
        self._flags[task.task_id] = current
        if self._cancelled and task.task_id in self._cancelled:
            current.cancelled = True  # between the queue and here
        carrier = Carrier(task.task_id, source) if task.nested or task.deps else None
        method = self._names_of(task.function)[0]
        result = self._outcome(item, method, carrier, task.name or current.task_name)
        del self._flags[task.task_id]
        executor.children.forget(task.task_id)
        if carrier is not None and executor.outcomes.end_carrier(carrier):
            result.kept = True
        return executor.journaled(handle, task, result)

    # -- one call, in this thread ------------------------------------------------------------------------------------

    def _outcome(self, item: Item, method: str, carrier: Carrier | None, name: str) -> m.Result:
        """Run a call to its end, whichever that is."""
        source, _, task = item
        executor = self._executor
        try:
            value = self._invoke(task, method, carrier)
            return executor.outcomes.of_value(source, task, name, value)
        except ActorExitRequest:
            return self._exit_result(task)
        except SystemExit as error:
            executor.end_by_exit(error)
        except BaseException as error:
            return executor.outcomes.of_error(task, name, error)

    def _invoke(self, task: m.Task, name: str, carrier: Carrier | None) -> Any:
        method = self._special.get(name) or getattr(self._instance, name)  # each time: the actor may have replaced it
        if not task.args and not task.deps:
            return method()
        args, kwargs = self._executor.arguments.lasting(task, carrier)
        return method(*args, **kwargs)

    def _exit_result(self, task: m.Task) -> m.Result:
        self._exit()
        text = f"the actor {self._name} has ended itself (exit_actor)"
        return m.Result(task.seq, [m.Failure("ActorDiedError", text)])

    # -- on an event loop --------------------------------------------------------------------------------------------

    def _serve_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        engine = self._executor.engine
        self._loop = loop
        self._share_journal()
        loop.add_reader(engine.endpoint.fd, self._look)
        loop.add_reader(engine.at.peer_pidfd, os._exit, 1)
        engine.pump.attended = True
        engine.pump.attendant = self.on_submitted
        loop.call_soon(self._ready, None)
        loop.call_soon(self.on_work)
        try:
            loop.run_forever()
        finally:
            engine.pump.attended = False
            engine.pump.attendant = None

    def _schedule(self) -> None:
        """Begin what came, in order, within the bound."""
        self._scheduled = False
        executor = self._executor
        limit = self._start.max_concurrency or ASYNC_CONCURRENCY
        calls, loop = executor.queue, self._loop
        assert loop is not None
        while self._active < limit and not self._leaving and (item := executor.next_item()) is not None:
            self._active += 1
            self._calls[item[2].task_id] = loop.create_task(self._run(item))
        if executor.exiting and not calls and not self._active:
            loop.stop()

    async def _run(self, item: Item) -> None:
        source, _, task = item
        executor = self._executor
        handle = executor.pushers.handle_of_caller(source)
        executor.pushers.journal.started(handle, task.seq)
        current = self._new_current(task)
        _current.set(current)
        self._flags[task.task_id] = current
        carrier = Carrier(task.task_id, source) if task.nested or task.deps else None
        name = task.name or current.task_name
        announce(self._name)
        try:
            value = self._invoke(task, self._names_of(task.function)[0], carrier)
            if type(value) is CoroutineType or inspect.isawaitable(value):
                value = await value
            result = executor.outcomes.of_value(source, task, name, value)
            value = None
        except ActorExitRequest:
            result = self._exit_result(task)
        except asyncio.CancelledError as error:
            if current.cancelled:
                result = executor.outcomes.cancelled(task, name)
            else:
                result = executor.outcomes.of_error(task, name, error)
        except SystemExit as error:
            executor.end_by_exit(error)
        except BaseException as error:
            result = executor.outcomes.of_error(task, name, error)
        self._finish(item, handle, carrier, result)

    def _finish(self, item: Item, handle: int, carrier: Carrier | None, result: m.Result) -> None:
        executor, task = self._executor, item[2]
        self._calls.pop(task.task_id, None)
        self._flags.pop(task.task_id, None)
        executor.children.forget(task.task_id)
        if carrier is not None and executor.outcomes.end_carrier(carrier):
            result.kept = True
        executor.done.append((item, executor.journaled(handle, task, result)))
        self._active -= 1
        self.on_submitted()

    def _look(self) -> None:
        """In the loop: take what has come, and begin it."""
        self._looking = True
        try:
            self._executor.flush()
        finally:
            self._looking = False
        loop = self._loop
        if self._executor.engine.pump.closed and loop is not None:
            loop.stop()  # nothing is received or sent any more, and the endpoint would wake us for ever
        elif self._scheduled:
            self._schedule()

    def _flush(self) -> None:
        """In the loop: send what is done. Then a synchronous caller's next call is worth a short spin, if no call
        waits for something meanwhile."""
        self._flushing = False
        self._look()
        loop = self._loop
        assert loop is not None
        if self._leaving:
            loop.stop()
        elif self._executor.queue or self._executor.exiting:
            self._schedule()
        elif not self._calls and self._executor.engine.pump.spin.finds(self._nobody):
            self._look()


def _terminate() -> None:
    raise ActorExitRequest


def _has_coroutines(cls: Any) -> bool:
    return any(
        inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value)
        for _, value in inspect.getmembers(cls, callable)
    )
