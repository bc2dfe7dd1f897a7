"""`cancel` in all its cases: not looked at yet, waiting, queued, running, finished, a call of an actor."""

from __future__ import annotations

from typing import Any

from meshray.core.calls import ActorLink
from meshray.core.pending import DONE, IN_FLIGHT, Pending
from meshray.refs import ObjectRef
from meshray.runtime.engine import Engine
from meshray.wire import messages as m


def cancel(engine: Engine, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
    """Cancel the task of `ref`, if it is not finished. Not under the lock.

    Raises `ValueError` for `force` on a call of an actor.
    """
    raised = engine.pump.enter()
    try:
        engine.check()
        engine.pump.turn()
        record = engine.record_of(ref.binary())
        task = None if record is None else record.task
        if isinstance(task, Pending):
            cancel_task(engine, task, force, recursive)
            engine.pump.turn()
    finally:
        engine.pump.leave(raised)


def cancel_task(engine: Engine, task: Pending, force: bool, recursive: bool) -> None:
    """The same for a pending task. Under the lock."""
    if task.state == DONE:
        return
    link = task.cls if isinstance(task.cls, ActorLink) else None
    if link is not None and force:
        raise ValueError("force=True is not for calls of actors: kill() ends the actor")
    core = engine.submission if link is None else engine.calls
    if not core.cancel(task):
        task.state = DONE
        engine.finished.complete([(task, m.Result(0, [cancelled(task.name)]))], b"")
        return
    assert task.state == IN_FLIGHT
    if force:
        engine.submission.kill_worker(task)  # if it runs; the message below takes it out of the worker's queue if not
    worker = link.worker if link is not None else task.lease.link.worker  # type: ignore[union-attr]
    engine.send(worker, m.Cancel(task.task_id, task.attempt, recursive))


def cancelled(name: str) -> m.Failure:
    """What `get` raises for a cancelled task."""
    return m.Failure("TaskCancelledError", f"{name} was cancelled")
