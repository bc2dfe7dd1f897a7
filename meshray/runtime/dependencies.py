"""References at the top level of a call's arguments: their values go along, so the call waits until they are there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meshray.core.pending import DONE, WAITING, Pending
from meshray.core.records import Record
from meshray.core.scheduling import SchedulingClass
from meshray.ids import NIL_OBJECT, task_of
from meshray.refs import ObjectRef
from meshray.wire.messages import Borrowed, Failure, Place

if TYPE_CHECKING:
    from meshray.runtime.engine import Engine


def lost_text(object_id: bytes) -> str:
    """What is said of a reference that no record stands behind."""
    if object_id == NIL_OBJECT:
        return "ObjectRef.nil() stands for no object: there is no value to get"
    return f"ObjectRef({object_id.hex()}) belongs to a mesh that has ended, or to none: its value is lost"


class Dependencies:
    """Fills in values, one call after the other. Under the pump's lock."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def resolve(self, task: Pending, deps: list[ObjectRef[Any]], ready: Callable[[], None]) -> bool:
        """Fill in the values of a task's top-level references. True when all are there; else `ready()` is called once
        they are. A reference that failed fails the task."""
        engine = self._engine
        task.deps = [None] * len(deps)
        for index, ref in enumerate(deps):
            record = engine.record_of(ref._id)
            if record is None:
                engine.fail(task, Failure("ObjectLostError", lost_text(ref._id)))
                return False
            if record.value is None:
                task.missing += 1
                waiter = functools.partial(self._on_value, task, index, ready)
                engine.await_record(record, waiter)
            else:
                self._set(task, index, record)
                if task.state == DONE:
                    return False
        if task.missing or task.state == DONE:
            return False
        self._settle_near(task)
        return True

    def _on_value(self, task: Pending, index: int, ready: Callable[[], None], record: Record) -> None:
        if task.state == DONE:
            return
        task.missing -= 1
        self._set(task, index, record)
        if not task.missing and task.state == WAITING:
            self._settle_near(task)
            ready()

    def _settle_near(self, task: Pending) -> None:
        """A task whose arguments are large best runs where they lie. Calls of actors have no choice."""
        if not task.nested or type(task.cls) is not SchedulingClass:
            return
        near: dict[bytes, int] = {}
        for value in (task.args, *task.deps):
            if type(value) is Place:
                near[value.node] = near.get(value.node, 0) + value.size
        if near:
            self._engine.submission.settle_near(task, near)

    def _set(self, task: Pending, index: int, record: Record) -> None:
        engine, value = self._engine, record.value
        if isinstance(value, Failure):
            engine.unfetched.told(task_of(record.id))  # the task that fails with it is asked for instead
            engine.fail(task, value)
            return
        if isinstance(value, Place):
            record.exposed = True
            task.nested = True
        elif record.contained or record.inside is not None:
            task.nested = True
        assert value is not None
        if type(value) is bytes:
            task.inlined += len(value)
            if task.inlined > engine.config.deps_inline_max_bytes:  # too much for one message: the executor fetches it
                engine.records.promote(record)
                task.nested = True
                task.deps[index] = Borrowed(record.id)
                return
        task.deps[index] = value
