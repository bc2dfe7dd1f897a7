"""The table of objects that a peer answers for: stages, holders, pins, and when a record is free.

This is the one place that changes who holds what; `core.objects` decides when, and says what follows. Everything is
indexed by process too, so that a death costs what the dead one had and not all there is. A record that becomes free is
not ended inside the change that freed it but by a loop of its own: a list linked by a million references ends without
recursion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum

from meshray.ids import node_of, owner_process_of
from meshray.wire.messages import Failure, Place


class Stage(Enum):
    """See `core.objects`."""

    EXPECTED = "expected"
    SEALED = "sealed"
    PENDING = "pending"
    SETTLED = "settled"
    LOST = "lost"


NEXT: dict[Stage, frozenset[Stage]] = {
    Stage.EXPECTED: frozenset({Stage.SEALED, Stage.PENDING, Stage.SETTLED, Stage.LOST}),
    Stage.SEALED: frozenset({Stage.PENDING, Stage.SETTLED, Stage.LOST}),
    Stage.PENDING: frozenset({Stage.SETTLED, Stage.LOST}),
    Stage.SETTLED: frozenset({Stage.PENDING, Stage.LOST}),  # PENDING: no host has it any more
    Stage.LOST: frozenset(),
}


class Record:
    """One object."""

    __slots__ = (
        "borrowed",
        "contained",
        "handle",
        "holders",
        "id",
        "lasting",
        "lineages",
        "lost",
        "pins",
        "roots",
        "stage",
        "submitter",
        "unmade",
        "value",
        "waiters",
    )

    def __init__(self, object_id: bytes) -> None:
        self.id = object_id
        self.stage = Stage.EXPECTED
        self.value: bytes | Place | Failure | None = None  # set in SETTLED and LOST
        self.submitter = b""  # PENDING: who will resolve it
        self.holders: set[bytes] = set()  # processes with a handle, a view or a pin
        self.pins = 0  # living containers, actors that may start again with it, tasks that may be made again with it
        self.roots = 0  # those of `pins` that are actors
        self.lineages = 0  # those of `pins` that are tasks
        self.contained: tuple[bytes, ...] = ()  # what this one pins
        self.waiters: set[bytes] = set()  # processes that asked for the value
        self.handle = False  # the handle of an actor: its value is of no interest, its end is
        self.lasting = False  # it has had a value in a store: its owner hears of its end
        self.lost: Place | None = None  # what its owner was asked to replace; None once it has answered
        self.unmade: Failure | None = None  # why its owner, which had found it lost by itself, could not make it again
        self.borrowed = False  # of another host, whose peer was told that we hold it, or asked for its value

    @property
    def owner(self) -> bytes:
        """The process that made the reference."""
        return owner_process_of(self.id)

    def __repr__(self) -> str:
        holders = ", ".join(sorted(process.hex()[-6:] for process in self.holders))
        value = f"{self.value!r:.60}"
        return f"<{self.id.hex()} {self.stage.value} value={value} holders={{{holders}}} pins={self.pins}>"


Index = dict[bytes, set[bytes]]  # process -> object ids; no empty sets


class ObjectTable:
    """Records by id. `on_free(record)` is called for each that ended, after it has left the table; `on_less(record)`
    for a borrowed one of which somebody has let go. `home` is the host whose peer this is."""

    def __init__(
        self,
        on_free: Callable[[Record], None],
        on_less: Callable[[Record], None] = lambda record: None,
        home: bytes = b"",
    ) -> None:
        self.records: dict[bytes, Record] = {}  # for reading
        self._on_free = on_free
        self._on_less = on_less
        self._owned: Index = {}  # process in the id
        self._held: Index = {}  # holder
        self._waits: Index = {}  # waiter
        self._pending: Index = {}  # submitter of PENDING ones
        self._home = home
        self._abroad: Index = {}  # another host (not a process), whose processes own it; without LOST ones
        self._ending: list[Record] = []  # left the table, `on_free` still to come
        self._draining = False

    # -- reading -----------------------------------------------------------------------------------------------------

    def owned_by(self, process: bytes) -> list[Record]:
        """Records whose id names this process. Sorted, like the other two: the same events give the same effects."""
        return [self.records[object_id] for object_id in sorted(self._owned.get(process, ()))]

    def held_by(self, process: bytes) -> list[Record]:
        """Records that this process holds."""
        return [self.records[object_id] for object_id in sorted(self._held.get(process, ()))]

    def pending_of(self, process: bytes) -> list[Record]:
        """Records that this process promised to resolve."""
        return [self.records[object_id] for object_id in sorted(self._pending.get(process, ()))]

    def of_host(self, node: bytes) -> list[Record]:
        """Records of another host that are not LOST."""
        return [self.records[object_id] for object_id in sorted(self._abroad.get(node, ()))]

    def owns_any(self, process: bytes) -> bool:
        """Whether any record's id names this process."""
        return process in self._owned

    # -- changes -----------------------------------------------------------------------------------------------------

    def add(self, object_id: bytes) -> Record:
        """A new record, EXPECTED. The caller gives it a holder, a pin, a waiter or a stage, or calls `tidy`."""
        assert object_id not in self.records, f"added twice: {self.records[object_id]!r}"
        record = self.records[object_id] = Record(object_id)
        self._owned.setdefault(record.owner, set()).add(object_id)
        self._index_host(record)
        return record

    def _index_host(self, record: Record) -> None:
        node = node_of(record.owner)
        if node == self._home:
            return
        if record.stage is Stage.LOST:
            _remove(self._abroad, node, record.id)
        else:
            self._abroad.setdefault(node, set()).add(record.id)

    def enter(self, record: Record, stage: Stage, submitter: bytes = b"") -> None:
        """The next stage; a pair that `NEXT` does not have is an error of this peer."""
        assert stage in NEXT[record.stage], f"cannot become {stage.value}: {record!r}"
        if record.submitter:
            _remove(self._pending, record.submitter, record.id)
        record.stage = stage
        record.submitter = submitter
        if submitter:
            self._pending.setdefault(submitter, set()).add(record.id)
        if stage is Stage.LOST:
            self._index_host(record)

    def add_holder(self, record: Record, process: bytes) -> None:
        record.holders.add(process)
        self._held.setdefault(process, set()).add(record.id)

    def replace_holder(self, record: Record, process: bytes, other: bytes) -> None:
        """`other` holds it instead of `process`."""
        self.add_holder(record, other)
        record.holders.discard(process)
        _remove(self._held, process, record.id)

    def revive(self, record: Record) -> None:
        """LOST with its owner's host, which is there again: it may have a value after all."""
        assert record.stage is Stage.LOST, repr(record)
        assert not record.contained, repr(record)
        record.stage = Stage.EXPECTED
        record.value = None
        self._index_host(record)

    def drop_holder(self, record: Record, process: bytes) -> None:
        record.holders.discard(process)
        _remove(self._held, process, record.id)
        self.tidy(record)

    def add_waiter(self, record: Record, process: bytes) -> None:
        record.waiters.add(process)
        self._waits.setdefault(process, set()).add(record.id)

    def drop_waiter(self, object_id: bytes, process: bytes) -> None:
        """No effect when it does not wait."""
        if object_id in self._waits.get(process, ()):
            _remove(self._waits, process, object_id)
            record = self.records[object_id]
            record.waiters.discard(process)
            self.tidy(record)

    def drop_waits_of(self, process: bytes) -> None:
        """The process waits for nothing any more."""
        for object_id in sorted(self._waits.get(process, ())):
            self.drop_waiter(object_id, process)

    def take_waiters(self, record: Record) -> list[bytes]:
        """Who waits for it, and waits no more: they are about to be answered. The caller calls `tidy`."""
        waiters, record.waiters = record.waiters, set()
        for waiter in waiters:
            _remove(self._waits, waiter, record.id)
        return sorted(waiters)

    def pin(self, record: Record, root: bool = False) -> None:
        record.pins += 1
        record.roots += root

    def unpin(self, record: Record, root: bool = False) -> None:
        assert record.pins > 0, f"unpinned more often than pinned: {record!r}"
        assert record.roots >= root, f"let go by more actors than had it: {record!r}"
        record.pins -= 1
        record.roots -= root
        self.tidy(record)

    def unpin_all(self, object_ids: Iterable[bytes]) -> None:
        """What contained these has ended."""
        for object_id in object_ids:
            self.unpin(self.records[object_id])

    def pin_for_task(self, record: Record) -> None:
        record.pins += 1
        record.lineages += 1

    def unpin_for_task(self, record: Record) -> None:
        assert record.lineages > 0, f"let go by more tasks than had it: {record!r}"
        record.lineages -= 1
        self.unpin(record)

    # -- the end -----------------------------------------------------------------------------------------------------

    def tidy(self, record: Record) -> None:
        """End the record if nothing keeps it, and what ends with it."""
        if record.borrowed:
            self._on_less(record)
        if self.records.get(record.id) is record and is_free(record):
            del self.records[record.id]
            _remove(self._owned, record.owner, record.id)
            _remove(self._abroad, node_of(record.owner), record.id)
            self._ending.append(record)
        if self._draining:
            return
        self._draining = True
        try:
            while self._ending:
                self._on_free(self._ending.pop())
        finally:
            self._draining = False

    def check(self) -> None:
        """Assert that indexes and records agree."""
        pins: dict[bytes, int] = {}
        for object_id, record in self.records.items():
            assert not is_free(record), f"not freed: {record!r}"
            assert (record.value is not None) == (record.stage in (Stage.SETTLED, Stage.LOST)), repr(record)
            assert all(object_id in self._held[process] for process in record.holders), repr(record)
            assert all(object_id in self._waits[process] for process in record.waiters), repr(record)
            assert record.pins >= record.roots + record.lineages >= 0, repr(record)
            for inner in record.contained:
                pins[inner] = pins.get(inner, 0) + 1
        for object_id, count in pins.items():
            assert object_id in self.records, f"contained and gone: {object_id.hex()}"
            inner_record = self.records[object_id]
            others = inner_record.roots + inner_record.lineages
            assert inner_record.pins - others == count, f"in {count} containers: {inner_record!r}"
        abroad: Index = {}
        for owner, ids in self._owned.items():
            if node_of(owner) != self._home:
                kept = {object_id for object_id in ids if self.records[object_id].stage is not Stage.LOST}
                abroad.setdefault(node_of(owner), set()).update(kept)
        assert {node: ids for node, ids in abroad.items() if ids} == self._abroad, "another index by host"
        for index in (self._owned, self._held, self._waits, self._pending, self._abroad):
            assert all(index.values()), "an index keeps an empty set"
            assert all(object_id in self.records for ids in index.values() for object_id in ids), "a stale index"


def is_free(record: Record) -> bool:
    """Whether nothing keeps the record."""
    if record.holders or record.pins:
        return False
    if record.stage is Stage.PENDING:
        return False  # what resolves it may have a segment to free
    return record.stage is not Stage.EXPECTED or not record.waiters


def unreachable(containers: list[Record]) -> list[Record]:
    """Those of `containers` that nothing keeps but each other: circles, and what hangs on them."""
    by_id = {record.id: record for record in containers}
    among: dict[bytes, int] = {}  # pins by each other
    for record in containers:
        for inner in record.contained:
            if inner in by_id:
                among[inner] = among.get(inner, 0) + 1
    todo = [record for record in containers if record.holders or record.pins > among.get(record.id, 0)]
    reached = {record.id for record in todo}
    for record in todo:  # grows while it runs
        for inner in record.contained:
            if inner in by_id and inner not in reached:
                reached.add(inner)
                todo.append(by_id[inner])
    return [record for record in containers if record.id not in reached]


def _remove(index: Index, process: bytes, object_id: bytes) -> None:
    entries = index.get(process)
    if entries is not None:
        entries.discard(object_id)
        if not entries:
            del index[process]
