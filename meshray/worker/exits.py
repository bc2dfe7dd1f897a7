"""The end of a worker in good order: what it still waits for and sends, and what user code has registered for it."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from meshray.runtime.pump import Waiter
from meshray.wire import messages as m

if TYPE_CHECKING:
    from meshray.worker.executor import Executor

ANSWERS_LOOK_S = 0.005
"""How often an actor that ends looks whether its own calls are answered."""


def run_exit_handlers(code: int, timeout_s: float) -> None:
    """Run what tasks, actors and their modules have registered (`atexit`, `weakref.finalize`: pools to end, files to
    remove), and write what was printed. The caller ends the process then, with the exit status `code`.

    Handlers that take longer than `timeout_s` seconds are cut off: a worker that shall end does not stay for them.
    """
    watch = threading.Timer(timeout_s, os._exit, (code,))
    watch.daemon = True
    watch.start()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # replaced or closed by the user
            stream.flush()


def leave(executor: Executor) -> None:
    """Send what is unsent, write what was printed."""
    if executor.actor is not None:
        _await_answers(executor)
    if not executor.engine.pump.closed:
        raised = executor.engine.pump.enter()
        try:
            executor.engine.pump.turn()
        finally:
            executor.engine.pump.leave(raised)
    executor.engine.close()


def _await_answers(executor: Executor) -> None:
    """An actor that ends in good order may have submitted tasks, and made calls of others, and not waited for them.
    What has not begun when the news of its death comes never will, and tasks that run are ended: so it stays until
    it has all answers, for as long as it may. Its CPU is for them meanwhile."""
    pump = executor.engine.pump
    give_up_at = time.monotonic() + executor.engine.config.actor_finish_s
    blocked = False
    while not pump.closed and time.monotonic() < give_up_at:
        raised = pump.enter()
        try:
            unanswered = executor.engine.unanswered
            if unanswered:
                _refuse_calls(executor)
        finally:
            pump.leave(raised)
        if not unanswered:
            return
        if not blocked:
            executor.blocking.begin_block()
            blocked = True
        pump.wait(Waiter(pump, 1), time.monotonic() + ANSWERS_LOOK_S)


def _refuse_calls(executor: Executor) -> None:
    """The actor has ended, and calls still come: its callers hear of its end when this process is gone. Under the
    lock."""
    for queue in (executor.queue, executor.handed):
        while queue:
            try:
                item = queue.popleft()
            except IndexError:
                break  # a thread of the actor was quicker
            failure = m.Failure("ActorDiedError", "the actor has ended: it only waits for what it has submitted")
            executor.done.append((item, m.Result(item[2].seq, [failure])))
