"""What can make a pending task again, told to the peer together with the promoted reference.

A reference that leaves its process while its task is pending would die with the process. So its promotion takes along
the *lineage*: function, arguments, and how often the task may still be tried. What the arguments refer to must live as
long: references inside them were promoted when they were pickled; those at the top level (`Pending.dep_refs`) are
promoted here, with lineages of their own where they are pending too. That is the *closure*; it is bounded, and what
lies beyond is marked evicted: it then ends with its process, with an error that says so.

Small values that are there already stand in the lineage themselves, if no reference is inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshray.config import Config
from meshray.core.pending import Pending, exception_name
from meshray.core.scheduling import SchedulingClass
from meshray.core.shipped import Shipped
from meshray.ids import task_of
from meshray.refs import ObjectRef
from meshray.wire.messages import Borrowed, Lineage, Place, Promoted

INLINED_MAX_BYTES = 64 << 10
"""Small values that stand in one lineage, in all."""

BATCH_BYTES = 1 << 20
"""What travels in one Promote, but for the record that exceeds it: far below `frame_max_bytes`."""


class Lineages:
    """The lineages that one process has told its peer. `table`: the records of the process. Without `config`, none is
    ever told: the tasks of a driver end with it."""

    def __init__(self, config: Config | None, table: dict[bytes, Any]) -> None:
        self._config = config
        self._table = table
        self._shipped = Shipped(0 if config is None else config.lineage_functions_max_bytes)  # what the peer has
        self._count = 0  # of lineages
        self._told: set[bytes] = set()  # pending tasks whose lineage the peer has

    def closure(self, record: Any) -> list[Promoted]:
        """The record, which is about to be promoted, and what its lineage needs. Marks them all as promoted."""
        promoted: list[Promoted] = []
        todo = [record]
        record.promoted = record.exposed = True
        config = self._config
        if config is None:
            return [describe(record)]
        size = 0
        while todo:  # grows while it runs
            record = todo.pop()
            task = record.task
            if record.value is not None or not self._can_be_made_again(task):
                promoted.append(describe(record))
                continue
            room = len(promoted) + len(todo) < config.lineage_closure_max_records
            if not room or size > config.lineage_closure_max_bytes:
                promoted.append(Promoted(record.id, None, evicted=True))
                continue
            lineage, needed = self._lineage(task, config.lineage_inline_max_bytes)
            size += lineage_bytes(lineage)
            promoted.append(Promoted(record.id, None, [], lineage))
            for other in needed:
                other.promoted = other.exposed = True
                todo.append(other)
        return promoted

    def _can_be_made_again(self, task: Any) -> bool:
        """Whether the peer shall have a lineage, and has none yet."""
        return (
            isinstance(task, Pending)
            and isinstance(task.cls, SchedulingClass)
            and not task.cancelled
            and task.task_id not in self._told
        )

    def _lineage(self, task: Pending, inline_max_bytes: int) -> tuple[Lineage, list[Any]]:
        """And the records that must be promoted for it."""
        self._told.add(task.task_id)
        deps: list[bytes | Place | Borrowed] = []
        inlined: set[bytes] = set()
        room = INLINED_MAX_BYTES
        for ref in task.dep_refs or ():
            value = self._inline(ref.binary())
            if value is None or len(value) > min(room, inline_max_bytes):
                deps.append(Borrowed(ref.binary()))
                inlined.discard(ref.binary())
            else:
                deps.append(value)
                inlined.add(ref.binary())
                room -= len(value)
        refs = [ref.binary() for ref in task.refs or () if isinstance(ref, ObjectRef)]
        pins = [object_id for object_id in dict.fromkeys(refs) if object_id not in inlined]
        known = [self._table[object_id] for object_id in pins if object_id in self._table]
        blob, forget = None, []
        self._count += 1
        if not self._shipped.use(task.function, self._count):
            blob = task.blob
            assert blob is not None, f"a task without a function: {task!r}"
            self._shipped.add(blob, self._count)
            forget = self._shipped.trim(self._count)
        retry_exceptions: bool | list[str] = bool(task.retry_exceptions)
        if task.retry_exceptions and task.retry_exceptions is not True:
            retry_exceptions = [exception_name(kind) for kind in task.retry_exceptions]
        cls: SchedulingClass = task.cls
        lineage = Lineage(
            task.task_id,
            task.function,
            blob,
            task.args,
            deps,
            pins,
            task.returns,
            task.attempt,
            task.retries_left,
            retry_exceptions,
            task.nested or bool(pins),
            cls.request,
            cls.profile,
            cls.depth,
            task.name,
            cls.strategy,
            forget,
        )
        return lineage, [record for record in known if record.owned and not record.promoted]

    def _inline(self, object_id: bytes) -> bytes | None:
        """The value of a dependency, where it is there and nothing else hangs on it."""
        record = self._table.get(object_id)
        if record is None or type(record.value) is not bytes or record.contained or record.inside is not None:
            return None
        value: bytes = record.value
        return value

    def on_settled(self, object_id: bytes) -> None:
        """A promoted record has its value: its task will not be made again."""
        self._told.discard(task_of(object_id))


def describe(record: Any) -> Promoted:
    """A record with its value as far as it is there, and nothing to make it again."""
    return Promoted(record.id, record.value, [ref.binary() for ref in record.contained or ()])


def batches(promoted: list[Promoted]) -> Iterator[list[Promoted]]:
    """Split what one message should not carry."""
    batch: list[Promoted] = []
    size = 0
    for each in promoted:
        batch.append(each)
        size += 100 + (len(each.value) if type(each.value) is bytes else 0) + 28 * len(each.contained)
        if each.lineage is not None:
            size += lineage_bytes(each.lineage)
        if size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def lineage_bytes(lineage: Lineage) -> int:
    """What it weighs, roughly."""
    size = 200 + 28 * len(lineage.pins) + sum(len(dep) if type(dep) is bytes else 28 for dep in lineage.deps)
    size += len(lineage.args) if type(lineage.args) is bytes else 60
    return size + (len(lineage.blob.pickled) if lineage.blob is not None else 0)
