"""Running attempts, one after the other, in the main thread.

What was pushed waits in `queue`. Around each attempt stands the journal, so that a crash is charged to the attempt that
was running. Results gather in `done`, and leave with a turn of the pump (`unsent.py`).

The tasks behind a long one are given back unasked: by the background thread when the current one has run
`hold_back_after_s`, and at once when it blocks in `get` or `wait` (`blocking.py`), since one of them may be what it
waits for.

Cancelling is a SIGINT to the main thread. Its handler raises only while `_running` is an attempt to be cancelled and
`_in_user_code` is set, both written by the main thread alone. An attempt that is neither in the queue nor running may
be just between the two, so it is remembered (`_cancelled`), and looked up when it begins.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from meshray.core.records import Carrier
from meshray.refs import ObjectRef
from meshray.resources import to_quantities
from meshray.runtime.cancelling import cancel_task
from meshray.runtime.client import Client
from meshray.runtime.copies import Lost
from meshray.runtime.current import Current, Surroundings
from meshray.runtime.pump import Waiter
from meshray.store.journal import Journal
from meshray.wire import messages as m
from meshray.wire.payload import dumps_plain
from meshray.worker.arguments import Arguments
from meshray.worker.blocking import Blocking
from meshray.worker.children import Children
from meshray.worker.exits import leave, run_exit_handlers
from meshray.worker.forked import ChildOfWorker
from meshray.worker.functions import Functions
from meshray.worker.hosted import ActorExitRequest, Hosted
from meshray.worker.orphans import Item, Orphanage
from meshray.worker.outcomes import Outcomes
from meshray.worker.pushers import Pushers
from meshray.worker.streams import announce
from meshray.worker.unsent import SEND_AFTER_S, SEND_TASKS, Unsent

_encode = msgspec.msgpack.Encoder().encode
_monotonic = time.monotonic

CANCELLED_MAX = 256
"""Cancelled attempts that are remembered: one of them may be about to begin, the others were finished already."""


class Executor:
    """See the head of this file. `actor` is set once this worker hosts one; then attempts are its business."""

    def __init__(self, client: Client, journal: Journal, host: Callable[[Executor, m.StartActor], Hosted]) -> None:
        self._host = host  # makes the actor
        self.client = client
        self.engine = client.engine
        self.pushers = Pushers(journal)
        self.functions = Functions()
        self.arguments = Arguments(client)
        self.outcomes = Outcomes(client)
        self._inline_max_bytes = client.engine.config.inline_max_bytes
        self.queue: deque[Item] = deque()
        self.handed: deque[Item] = deque()  # out of the queue, for a thread of the actor, and not begun
        self.bound: Waiter | None = None
        self.bind: m.Bind | None = None
        self.exiting = False  # the peer said Exit: end when the queue is empty
        self.actor: Hosted | None = None
        self.hosting = False  # the main thread has begun to run it
        self._idle: Waiter | None = None  # the main thread waits for work with it
        self._at_hand: Item | None = None  # the last that was taken from the queue to be run
        self.orphans = Orphanage(client.engine)
        self.unsent = Unsent(client.engine, self.orphans, self.pushers)
        self.done, self._send_results = self.unsent.done, self.unsent.send  # at hand for each attempt and turn
        self._running: m.Task | None = None
        self._running_since_s = 0.0
        self._in_user_code = False
        self._cancelled: dict[tuple[bytes, int], None] = {}  # attempts to be cancelled, at most `CANCELLED_MAX`
        self.children = Children(client.engine.records.table)
        self._main = Current()  # of tasks, and of the user's threads
        self._main_ident = threading.main_thread().ident
        os.register_at_fork(after_in_child=self._in_forked_child)
        client.current_in_worker = self.current
        client.on_submit = self._note_children
        client.on_exit_actor = self._exit_actor
        client.waiting.blocker = self.blocking = Blocking(self)

    def _in_forked_child(self) -> None:
        """The user's code has forked: what the child does with it must not become an attempt's outcome."""
        child: Any = ChildOfWorker()
        self.outcomes = self.pushers.journal = child

    # -- context -----------------------------------------------------------------------------------------------------

    def current(self) -> Current:
        """What runs in this thread; a thread of the user's own counts for the main one."""
        if self.actor is not None:
            found = self.actor.current()
            if found is not None:
                return found
        main, running = self._main, self._running
        main.cancelled = running is not None and (running.task_id, running.attempt) in self._cancelled
        return main

    def on_bound(self, bind: m.Bind) -> None:
        """The job of this worker, and what every task of it may use."""
        self.orphans.driver = bind.job.job
        around = self._main.around = Surroundings()
        around.gpu_ids = list(bind.gpu_ids)
        around.resources = to_quantities(bind.resources)

    def _note_children(self, refs: list[ObjectRef[Any]]) -> None:
        if self.actor is not None:
            self.actor.on_submitted()
        task_id = self.current().task_id
        running = self._running
        if not (self.actor.runs(task_id) if self.actor is not None else running and running.task_id == task_id):
            return  # a thread or a coroutine that nobody can cancel through a task of ours, and that may go on for ever
        self.children.note(task_id, [ref._id for ref in refs])

    def on_leaving(self) -> None:
        """The actor ends itself, says one of its threads: the main thread is to see that."""
        raised = self.engine.pump.enter()
        try:
            self.exiting = True
            self._rouse()
        finally:
            self.engine.pump.leave(raised)

    def _exit_actor(self) -> None:
        raise ActorExitRequest

    # -- the engine's host: messages, under the pump's lock ----------------------------------------------------------

    def on_push(self, source: bytes, message: m.Push | m.PlainPush, tasks: list[m.Task]) -> None:
        lease = message.lease
        if message.blobs:
            self.functions.on_shipped(source, message.blobs, message.forget)
        self.pushers.on_push(source, lease, message.acknowledged)
        if self.orphans.unacknowledged:
            self.orphans.on_acknowledged(lease, message.acknowledged)
        self.queue.extend([(source, lease, task) for task in tasks])
        if self.actor is not None:
            self.actor.on_work()
        if self._idle is not None:
            idle, self._idle = self._idle, None
            idle()

    def on_cancel(self, source: bytes, message: m.Cancel) -> None:
        if message.recursive:
            for object_id in self.children.of(message.task_id):
                record = self.engine.record_of(object_id)
                if record is not None and record.task is not None:
                    cancel_task(self.engine, record.task, False, True)
        for item in [*self.queue, *self.handed]:
            task = item[2]
            if task.task_id == message.task_id and task.attempt == message.attempt:
                if not self._withdraw(item):
                    break
                self.engine.send(item[0], m.GivenBack(item[1], [task.seq]))
                return
        if self.actor is not None:
            self.actor.on_cancel(message)
            return
        while len(self._cancelled) >= CANCELLED_MAX:
            del self._cancelled[next(iter(self._cancelled))]
        self._cancelled[message.task_id, message.attempt] = None
        running = self._running
        if running is not None and running.task_id == message.task_id and running.attempt == message.attempt:
            assert self._main_ident is not None
            signal.pthread_kill(self._main_ident, signal.SIGINT)

    def _withdraw(self, item: Item) -> bool:
        """Whether this was not begun yet: then it never will be."""
        for queue in (self.queue, self.handed):
            try:
                queue.remove(item)
            except ValueError:
                continue  # the thread that takes them out was quicker
            return True
        return False

    def on_other(self, source: bytes, message: Any) -> None:
        if isinstance(message, m.Bind):
            if self.bind is None and self.bound is not None:
                self.bind = message
                self.bound()
        elif isinstance(message, m.StartActor):
            self.actor = self._host(self, message)
            self._rouse()
        elif isinstance(message, m.Cancel):
            self.on_cancel(source, message)
        elif isinstance(message, m.Exit):
            self.exiting = True
            if self.bind is None:
                os._exit(0)
            if self.actor is not None:
                self.actor.on_work()
            self._rouse()

    def _rouse(self) -> None:
        if self._idle is not None:
            idle, self._idle = self._idle, None
            idle()

    def on_process_died(self, process: bytes) -> None:
        """Calls of a dead caller are not begun any more."""
        for item in [item for item in [*self.queue, *self.handed] if item[0] == process]:
            self._withdraw(item)
        if self.actor is None:
            self.orphans.tell(process, self.done, self._at_hand)
            self.functions.on_submitter_gone(process, self._at_hand[2].function if self._at_hand is not None else b"")
        elif self.pushers.knows(process):
            self.unsent.on_caller_died(process, self.actor)

    def on_turn(self, now: float) -> None:
        if self.done:
            self._send_results()
        if not self.queue or self._running is None or self.actor is not None:
            return
        if now - self._running_since_s >= self.engine.config.hold_back_after_s:
            self.give_back()

    @property
    def has_news(self) -> bool:
        """Whether results wait to be sent."""
        return bool(self.done)

    @property
    def busy(self) -> bool:
        """Whether a task runs, or an actor lives here."""
        return self._running is not None or self.actor is not None

    def next_timer_s(self, now: float) -> float | None:
        if self.actor is not None:  # its results must not wait for the call behind
            return self.engine.config.hold_back_after_s if self.done or self.actor.behind else None
        if self._running is not None and (self.queue or self.done):
            return max(0.0005, self._running_since_s + self.engine.config.hold_back_after_s - now)
        return None

    def give_back(self) -> None:
        """What has not begun goes to another worker. Under the lock."""
        seqs: dict[tuple[bytes, int], list[int]] = {}
        while True:
            try:
                source, lease, task = self.queue.popleft()
            except IndexError:
                break
            seqs.setdefault((source, lease), []).append(task.seq)
        for (source, lease), numbers in seqs.items():
            self.engine.send(source, m.GivenBack(lease, numbers))

    # -- the main loop -----------------------------------------------------------------------------------------------

    def run(self) -> NoReturn:
        """Until the end of this process."""
        signal.signal(signal.SIGINT, self._on_sigint)
        try:
            while not self.engine.pump.closed:
                self.wait_for_work()
                if self.actor is not None:
                    self.hosting = True
                    self.actor.run()
                    break
                self._run_queue()
                if self.exiting and not self.queue:
                    break
        finally:
            in_order = not self.engine.pump.closed  # else the peer is gone, and so is this process in a moment
            leave(self)
        if in_order:
            run_exit_handlers(0, self.engine.config.exit_handlers_timeout_s)
        os._exit(0)

    def wait_for_work(self) -> None:
        """Until something was pushed, an actor came to be hosted, or it is time to go."""
        pump = self.engine.pump
        while not self._has_work() and not pump.closed:
            waiter = Waiter(pump, 1)
            pump.wait(waiter, None, functools.partial(self._rest, waiter))

    def _rest(self, waiter: Waiter) -> None:
        """Under the lock: `waiter` waits for work, unless some has just come."""
        if self._has_work():
            waiter()
        else:
            self._idle = waiter

    def _has_work(self) -> bool:
        return bool(self.queue) or self.exiting or (self.actor is not None and not self.hosting)

    def next_item(self) -> Item | None:
        """The next in the queue, if any: other threads take some out when they are cancelled."""
        try:
            return self.queue.popleft()
        except IndexError:
            return None

    def _run_queue(self) -> None:
        queue, done, unsent, since_s = self.queue, self.done, self.unsent, 0.0
        now = _monotonic()
        while True:
            if not queue:
                if done:
                    self.send_done()  # before anything else: somebody waits for it
                return
            try:
                item = queue.popleft()
            except IndexError:
                continue  # it was cancelled just now
            self._at_hand = item
            if self.engine.dead and not self._still_wanted(item):
                continue
            if not done:
                since_s = now
            began, self._running_since_s = now, now
            done.append((item, self.attempt(item)))
            now = _monotonic()
            unsent.busy_s += now - began
            if queue and (len(done) >= SEND_TASKS or now - since_s > SEND_AFTER_S):
                self.flush()
                now = _monotonic()

    def _still_wanted(self, item: Item) -> bool:
        """Whether this task is for somebody who lives, or was reported as an orphan that runs here."""
        if item[0] not in self.engine.dead:
            return True
        raised = self.engine.pump.enter()
        try:
            return self.orphans.runs(item)
        finally:
            self.engine.pump.leave(raised)

    def send_done(self) -> None:
        """What is done leaves, without a look at what has arrived."""
        pump = self.engine.pump
        raised = pump.enter()
        try:
            pump.push()
        finally:
            pump.leave(raised)

    def flush(self) -> None:
        """One turn: what is unsent leaves."""
        pump = self.engine.pump
        raised = pump.enter()
        try:
            pump.turn()
        finally:
            pump.leave(raised)

    def attempt(self, item: Item) -> m.Result:
        """Run one attempt of a task."""
        source, _, task = item
        handle = self.pushers.handle(item)
        current = self._main
        current.task_id = task.task_id
        current.depth = task.depth + 1
        self._running = task
        self.pushers.journal.started(handle, task.seq)
        carrier: Carrier | None = None
        alone: bytes | None = None  # the value, where there is nothing else to write down
        name = task.name
        try:
            found = self.functions.get(task.function) or self.functions.load(task.function)
            function, own_name = found
            name = name or own_name
            current.task_name = name
            announce(name)
            if self._cancelled and (task.task_id, task.attempt) in self._cancelled:
                raise KeyboardInterrupt  # cancelled between the queue and here
            if task.nested or task.deps or type(task.args) is not bytes:
                carrier = Carrier(task.task_id, source)
            if task.args or task.deps:
                args, kwargs = self.arguments.of(task, carrier)
                self._in_user_code = True
                value = function(*args, **kwargs)
                self._in_user_code = False
                del args, kwargs
            else:
                self._in_user_code = True
                value = function()
                self._in_user_code = False
            if task.returns == 1 and (alone := dumps_plain(value)) is not None and len(alone) <= self._inline_max_bytes:
                result = m.Result(task.seq, [alone])
            else:
                alone, result = None, self.outcomes.of_value(source, task, name, value)
            value = None
        except Lost as lost:
            result = self.outcomes.starved(task, lost)
        except BaseException as error:
            self._in_user_code, alone = False, None
            result = self._of_error(task, name or self.functions.name_of(task.function), error)
        self._running = None
        if self.children.by_task:
            self.children.forget(task.task_id)
        if carrier is not None and self.outcomes.end_carrier(carrier):
            result.kept, alone = True, None
        return self.journaled(handle, task, result, alone)

    def journaled(self, handle: int, task: m.Task, result: m.Result, alone: bytes | None = None) -> m.Result:
        """Write the result down (`alone`: the value, if that is all); one that is too large for the journal goes to the
        store."""
        if self.pushers.journal.finished(handle, task.seq, alone or _encode(result)):
            return result
        try:
            result = self.outcomes.sealed(task, result)
        except Exception as error:
            result = self.outcomes.of_error(task, task.name, error)
        if not self.pushers.journal.finished(handle, task.seq, _encode(result)):
            self.pushers.journal.unrecorded(handle, task.seq)
        return result

    def _of_error(self, task: m.Task, name: str, error: BaseException) -> m.Result:
        if isinstance(error, KeyboardInterrupt) and (task.task_id, task.attempt) in self._cancelled:
            return self.outcomes.cancelled(task, name)
        if isinstance(error, SystemExit):
            self.end_by_exit(error)
        return self.outcomes.of_error(task, name, error)

    def end_by_exit(self, error: SystemExit) -> NoReturn:
        """`sys.exit` in a task ends the worker, as it would end a program."""
        code = error.code if isinstance(error.code, int) else 1 if error.code else 0
        if error.code and not isinstance(error.code, int):
            os.write(2, f"{error.code}\n".encode("utf-8", "replace"))
        run_exit_handlers(code & 0xFF, self.engine.config.exit_handlers_timeout_s)
        os._exit(code & 0xFF)

    # -- cancelling --------------------------------------------------------------------------------------------------

    def _on_sigint(self, signum: int, frame: object) -> None:
        running = self._running
        if not self._in_user_code or running is None or (running.task_id, running.attempt) not in self._cancelled:
            return
        pump = self.engine.pump
        if pump.shielded:
            pump.shield.interrupt_later()
        else:
            raise KeyboardInterrupt
