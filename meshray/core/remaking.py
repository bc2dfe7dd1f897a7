"""What can make a lost value again?

Theory. A large result lies in the store of the host that made it, and ends with that host. So for each finished task of
which a return lies in a store its owner keeps the *origin*: function, arguments, and how often it may still run. When
the value is lost and somebody needs it, the task is submitted again, under its own id, as one more attempt. Of small
results nothing is kept: they are in memory.

An origin keeps no value alive. Of an argument that was a reference it has the small value itself, or the id and a *pin*
on the origin of that one: the argument may be freed, and is then made again, too. That copy has an id of its own, since
what was freed is forgotten everywhere and its id never comes back. References *inside* arguments are not taken apart:
their objects must still be there.

An origin ends when no return that lies in a store is in scope, here or elsewhere, and no other origin needs it. They
are bounded in number and bytes; what is left of an *evicted* one is why it cannot help.

One execution serves all returns that are lost. A return that is still there keeps its value, and the second one is a
*spare* for the day when the first is lost, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from meshray.config import Config
from meshray.core.held import HeldFunctions
from meshray.core.pending import Mean, Pending
from meshray.core.records import Record, Records
from meshray.core.scheduling import SchedulingClass
from meshray.ids import FIRST_RETURN, TASK_BYTES, object_of, task_of
from meshray.refs import ObjectRef
from meshray.wire.messages import Blob, Borrowed, Failure, Place, Value

EVICTED = "what could make it again was dropped to make room for newer tasks (`remake_max_records`, `remake_max_bytes`)"
LARGE = "its arguments were large, and are kept no longer than it runs: put() them, and keep the reference"

ORIGIN_BYTES = 500
"""What an origin weighs without its arguments, roughly."""

Contained = list[list[Any]] | None  # per return, handles of the references inside


class Origin:
    """A finished task, as far as it is needed to run it again."""

    __slots__ = (
        "args", "attempt", "blob", "cls", "copy", "deps", "function", "inside", "mean", "name", "needs", "nested",
        "retries_left", "retry_exceptions", "returns", "running", "scope", "size", "spares", "task_id", "users",
        "why_not",
    )  # fmt: skip

    def __init__(self, task: Pending) -> None:
        self.task_id = task.task_id
        self.function = task.function
        self.blob: Blob | None = task.blob
        self.name = task.name
        self.mean: Mean = task.mean
        self.cls: SchedulingClass = task.cls.base or task.cls
        self.returns = task.returns
        self.retry_exceptions = task.retry_exceptions
        self.nested = task.nested
        self.args = task.args
        self.deps: tuple[bytes | Borrowed, ...] = ()  # what its top-level references stood for, in their order
        self.inside: tuple[bytes, ...] = ()  # references inside its arguments
        self.needs: tuple[Origin, ...] = ()  # origins of `deps`, pinned
        self.users = 0  # origins that have pinned this one
        self.copy = bytes(TASK_BYTES)  # the task that made it anew last, after it had been freed
        self.attempt = task.attempt  # the last one
        self.retries_left = task.retries_left  # after that one; -1: always
        self.scope: set[bytes] = set()  # its returns that lie in stores, and that somebody may still need
        self.running: Pending | None = None  # while it is made again
        self.spares: dict[int, tuple[Value, list[Any] | None]] = {}  # by return
        self.size = 0  # bytes, as counted against `remake_max_bytes`; 0 when it was evicted
        self.why_not = ""  # why it cannot be made again, in words

    def __repr__(self) -> str:
        state = "runs" if self.running else self.why_not or f"retries_left={self.retries_left}"
        return f"<Origin {self.name} {self.task_id.hex()} scope={len(self.scope)} users={self.users} {state}>"


class RemakeStats(Struct, frozen=True):
    """A snapshot."""

    origins: int
    bytes: int
    evicted: int  # since the start
    remade: int  # tasks submitted again, since the start


class Remaking:
    """The origins of one process. Under the pump's lock."""

    def __init__(self, config: Config, records: Records, handle: Callable[[bytes], Any] = ObjectRef) -> None:
        """`handle(object_id)`: one more handle; its birth is counted here."""
        self.off = False  # nothing is kept: there are no other hosts, so nothing is lost without this process
        self.new_task_id: Callable[[], bytes] | None = None  # set by what submits
        self._config = config
        self._records = records
        self._handle = handle
        self._origins: dict[bytes, Origin] = {}  # by task
        self._whole: dict[bytes, Origin] = {}  # those that are not evicted, the oldest first
        self._bytes = 0  # of their arguments
        self._functions = HeldFunctions()  # of those that are not evicted
        self._evicted = self._remade = 0

    # -- finished tasks ----------------------------------------------------------------------------------------------

    def keep(self, task: Pending, values: Sequence[Value], refs: list[Any] | None, contained: Contained = None) -> None:
        """A task is over, with these values, and its records are about to get them. `refs`: what it had pinned.
        Called for those with a value in a store, and for those that were made again."""
        origin = self._origins.get(task.task_id)
        if origin is not None:
            self._on_remade(origin, task, values, contained)
        elif task.retries_left and not self.off and isinstance(task.cls, SchedulingClass) and not task.cancelled:
            origin = self._add(task, refs)
            origin.scope = {
                record.id for record, value in zip(task.records, values, strict=False) if type(value) is Place
            }

    def _add(self, task: Pending, refs: list[Any] | None) -> Origin:
        origin = self._origins[task.task_id] = self._whole[task.task_id] = Origin(task)
        size = ORIGIN_BYTES
        if isinstance(task.args, Place):
            origin.args, origin.why_not = b"", LARGE
        else:
            size += len(task.args) + self._note_arguments(origin, task, refs)
        origin.size = size
        self._bytes += size
        if origin.blob is not None:
            origin.blob = self._functions.hold(origin.blob)
        while len(self._whole) > self._config.remake_max_records or self.weight > self._config.remake_max_bytes:
            self._evict(next(iter(self._whole.values())))
        return origin

    def _note_arguments(self, origin: Origin, task: Pending, refs: list[Any] | None) -> int:
        """What its references stood for. Returns how many bytes of values are kept."""
        deps: list[bytes | Borrowed] = []
        needs: list[Origin] = []
        table = self._records.table
        for ref, value in zip(task.dep_refs or (), task.deps, strict=False):
            object_id = ref.binary()
            record = table.get(object_id)
            alone = record is None or not (record.contained or record.inside)
            if type(value) is bytes and alone:
                deps.append(value)
                continue
            deps.append(Borrowed(object_id))
            other = self._origins.get(task_of(object_id))
            if other is not None:
                other.users += 1
                needs.append(other)
        top = {ref.binary() for ref in task.dep_refs or ()}
        ids = [ref.binary() for ref in refs or () if isinstance(ref, ObjectRef)]
        origin.inside = tuple(object_id for object_id in ids if object_id not in top)
        origin.deps, origin.needs = tuple(deps), tuple(needs)
        return sum(len(dep) if isinstance(dep, bytes) else len(dep.object_id) for dep in deps)

    def _on_remade(self, origin: Origin, task: Pending, values: Sequence[Value], contained: Contained) -> None:
        origin.running = None
        origin.attempt, origin.retries_left = task.attempt, task.retries_left
        for index, record in enumerate(task.records):
            value = values[index] if index < len(values) else values[0]
            if type(value) is not Place:
                if record.value is None:
                    origin.scope.discard(record.id)  # it lies in no store any more
            elif record.value is not None and record.id in origin.scope:
                origin.spares[index] = (value, contained[index] if contained else None)
        self._tidy(origin)

    def _evict(self, origin: Origin) -> None:
        self._evicted += 1
        origin.why_not = EVICTED
        for other in self._empty(origin):
            self._tidy(other)

    def _empty(self, origin: Origin) -> tuple[Origin, ...]:
        """It will not be made again: let go of all that this would take. Returns the origins that it had pinned."""
        if self._whole.pop(origin.task_id, None) is None:
            return ()
        self._bytes -= origin.size
        if origin.blob is not None:
            self._functions.let_go(origin.blob)
        needs, origin.needs = origin.needs, ()
        for other in needs:
            other.users -= 1
        origin.size, origin.blob, origin.args, origin.deps, origin.inside = 0, None, b"", (), ()
        return needs

    # -- scope -------------------------------------------------------------------------------------------------------

    def forget(self, object_id: bytes) -> None:
        """Nobody needs this return any more. No effect for what has no origin."""
        origin = self._origins.get(task_of(object_id))
        if origin is not None:
            origin.scope.discard(object_id)
            origin.spares.pop(_index(object_id), None)
            self._tidy(origin)

    def _tidy(self, origin: Origin) -> None:
        """End it if nobody needs it, and what ends with it: a chain of any length, without recursion."""
        todo = [origin]
        while todo:
            origin = todo.pop()
            if origin.scope or origin.users or origin.running is not None:
                continue
            if self._origins.pop(origin.task_id, None) is not None:
                todo += self._empty(origin)

    # -- lost values -------------------------------------------------------------------------------------------------

    def lose(self, record: Record) -> list[Pending] | None:
        """The value of an owned record lies on no host any more. Returns the tasks to be submitted, those that others
        need first; None when the process has nothing to make it again of: then the record is as it was. Else it is
        pending, or has another value, or a failure that says why not."""
        origin = self._origins.get(task_of(record.id))
        if origin is None or record.id not in origin.scope:
            return None
        lost, record.value = record.value, None
        record.exposed = True
        if origin.running is not None:
            origin.running.records[_index(record.id)] = record  # type: ignore[index]
            record.task = origin.running
            return []
        value, contained = origin.spares.pop(_index(record.id), (None, None))
        if value is not None and value != lost:
            self._records.settle(record, value, contained)
            return []
        chosen, why_not = self._closure(origin)
        if why_not:
            self._records.settle(record, _failure(record.id, origin, why_not), None)
            self.forget(record.id)
            return []
        return self._submit(chosen, record)

    def _closure(self, origin: Origin) -> tuple[list[Origin], str]:
        """The origin, and those of arguments that were freed, and of theirs. Or why something of that cannot be made
        again."""
        table = self._records.table
        chosen = [origin]
        seen = {origin.task_id}
        for each in chosen:  # grows while it runs
            if each.why_not or not each.retries_left:
                why_not = each.why_not or "no retries are left"
                return [], why_not if each is origin else f"it needs a result of {each.name} that was freed: {why_not}"
            for object_id in each.inside:
                if object_id not in table:
                    return [], f"object {object_id.hex()}, to which the arguments of {each.name} refer, was freed"
            for dep in each.deps:
                if type(dep) is not Borrowed or self._living(dep.object_id) is not None:
                    continue
                other = self._origins.get(task_of(dep.object_id))
                if other is None:
                    return [], f"object {dep.object_id.hex()}, an argument of {each.name}, was freed"
                if other.task_id not in seen:
                    seen.add(other.task_id)
                    chosen.append(other)
        return chosen, ""

    def _living(self, object_id: bytes) -> bytes | None:
        """The object itself, or the copy that was made of it when it had been freed, as long as either is there."""
        table = self._records.table
        if object_id in table:
            return object_id
        origin = self._origins.get(task_of(object_id))
        copy = origin.copy + object_id[TASK_BYTES:] if origin is not None else b""
        return copy if copy in table else None

    def _submit(self, chosen: list[Origin], record: Record) -> list[Pending]:
        """One more attempt of the first one, for this record, and new tasks like the others."""
        assert self.new_task_id is not None, "nothing submits here"
        records = {chosen[0].task_id: self._own_records(chosen[0], record)}
        for origin in chosen[1:]:
            origin.copy = self.new_task_id()
            records[origin.task_id] = self._fresh_records(origin.copy, origin.returns)
        tasks: list[Pending] = []
        for origin in chosen:
            origin.retries_left -= origin.retries_left > 0
            task = self._task(origin, records[origin.task_id])
            if origin is chosen[0]:
                task.task_id, task.attempt = origin.task_id, origin.attempt + 1
                origin.running = task
            else:
                task.task_id = origin.copy
            for each in task.records:
                if each.value is None:
                    each.task = task
            tasks.append(task)
        self._remade += len(tasks)
        return tasks[::-1]

    def _own_records(self, origin: Origin, lost: Record) -> list[Record]:
        """Of all returns of a task: those that are in scope are as they are. What is out of scope is let go of as soon
        as it is there."""
        table = self._records.table
        records: list[Record] = []
        for index in range(origin.returns):
            object_id = object_of(origin.task_id, index)
            record = lost if object_id == lost.id else table.get(object_id)
            if record is None or not record.owned:
                known = record is not None or object_id in origin.scope
                record = Record(object_id, True, 0, exposed=True)
                if known:
                    record.value = b""  # held elsewhere, and not said to be lost: what comes is a spare
                else:
                    table[object_id] = record
            records.append(record)
        return records

    def _fresh_records(self, task_id: bytes, count: int) -> list[Record]:
        records = [Record(object_of(task_id, index), True, 0) for index in range(count)]
        self._records.table.update((record.id, record) for record in records)
        return records

    def _task(self, origin: Origin, records: list[Record]) -> Pending:
        refs: list[Any] = []
        for dep in origin.deps:
            if type(dep) is bytes:
                refs.append(self._small(dep))
                continue
            living = self._living(dep.object_id)  # type: ignore[union-attr]
            assert living is not None, f"an argument of {origin!r} is gone: {dep!r}"
            refs.append(self._count(living))
        inside = [self._count(object_id) for object_id in origin.inside]
        return Pending(
            origin.task_id,
            origin.function,
            origin.args,
            records,
            origin.mean,
            origin.returns,
            origin.blob,
            origin.name,
            origin.cls,
            origin.retries_left,
            origin.retry_exceptions,
            dep_refs=refs or None,
            refs=[*inside, *refs] or None,
            nested=origin.nested,
        )

    def _small(self, value: bytes) -> Any:
        """A value that is known becomes an object of its own, for as long as the task takes."""
        assert self.new_task_id is not None
        object_id = self.new_task_id() + FIRST_RETURN
        record = self._records.table[object_id] = Record(object_id, True, 0)
        record.value = value
        return self._count(object_id)

    def _count(self, object_id: bytes) -> Any:
        self._records.table[object_id].count += 1
        return self._handle(object_id)

    def knows(self, task_id: bytes) -> bool:
        """Whether there is an origin of this task, evicted or not."""
        return task_id in self._origins

    def clear(self) -> None:
        """The end of the mesh here."""
        self._origins.clear()
        self._whole.clear()
        self._functions.clear()
        self._bytes = 0

    # -- for people and tests ----------------------------------------------------------------------------------------

    @property
    def weight(self) -> int:
        """Bytes of arguments, and of functions, each of these once."""
        return self._bytes + self._functions.bytes

    def stats(self) -> RemakeStats:
        return RemakeStats(len(self._origins), self.weight, self._evicted, self._remade)

    def check(self) -> None:
        """Assert that the books agree."""
        assert self._bytes == sum(origin.size for origin in self._whole.values())
        assert self._functions.holders == sum(origin.blob is not None for origin in self._whole.values())
        users: dict[bytes, int] = {}
        for task_id, origin in self._origins.items():
            assert origin.scope or origin.users or origin.running is not None, f"not needed: {origin!r}"
            assert (task_id in self._whole) == bool(origin.size), repr(origin)
            for other in origin.needs:
                users[other.task_id] = users.get(other.task_id, 0) + 1
        for task_id, origin in self._origins.items():
            assert origin.users == users.pop(task_id, 0), repr(origin)
        assert not users, "an origin is needed, and gone"


def _index(object_id: bytes) -> int:
    """Which return of its task it is."""
    return int.from_bytes(object_id[TASK_BYTES:], "big")


def _failure(object_id: bytes, origin: Origin, why_not: str) -> Failure:
    text = f"object {object_id.hex()} is lost, and {origin.name}, which has made it, cannot make it again: {why_not}"
    return Failure(
        "ObjectReconstructionFailedError", text, details={"object_id": object_id.hex(), "task_name": origin.name}
    )
