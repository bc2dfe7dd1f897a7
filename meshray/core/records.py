"""What one process knows of objects, and who counts whom.

A *record* stands for one object here, from the birth of its first handle to the death of the last. There are two kinds:

- **owned**: this process made the reference. It costs no message as long as it never leaves. When a handle is pickled
  (`export`), the record is *promoted*: the peer gets its value (now, or when it is there) and answers for it from then
  on.
- **borrowed**: the reference arrived from elsewhere, inside a *carrier*: a task's arguments, a result, or another
  object's value. The carrier's sender keeps the reference alive until the carrier ends, so while it lasts nothing needs
  to be said. When it ends and handles still live, the peer is told (`Hold`), and only when it has answered (`HoldDone`)
  does the carrier's sender learn that it may let go (`CarrierDone`). That is law G2: nobody lets go of a reference that
  it passed on until the owner knows of the receiver.

Handles are born and die in any thread at any bytecode. Both go through one queue, births as `Birth` and deaths as the
id, and `drain` accounts them in order. So a count of zero means: no handle lives, and none was born before this
point.

A live view on a segment counts like a handle. What is said to the peer is said in order, on one link.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from meshray.config import Config
from meshray.core.effects import Core, Send
from meshray.core.lineage import Lineages, batches, describe
from meshray.wire.messages import (
    CarrierDone,
    Failure,
    Fetch,
    Fetched,
    Hold,
    Message,
    Place,
    Promote,
    Promoted,
    Refetch,
    Release,
    Resolve,
)

Value = bytes | Place | Failure
Waiter = Callable[["Record"], None]


class Tally:
    """A waiter for many records, which can be told of several at once."""

    __slots__ = ()

    def __call__(self, event: object = None) -> None:
        self.arrived(1)

    def arrived(self, count: int) -> None:
        """So many small values have come."""
        raise NotImplementedError


RECORDS_AT_ONCE = 128
"""So many small values travel in one Promote or Resolve: at `inline_max_bytes` each, far below `frame_max_bytes`."""


IDS_AT_ONCE = 100_000
"""So many ids travel in one Release or Fetch: 30 bytes each."""


class Record(Struct, gc=False, eq=False):
    """One object, as this process sees it.

    (A Struct is made in C, and this one is not looked at by the garbage collector, which would otherwise wake every
    hundred tasks: the cycle with `task` is broken by `settle` and by `clear`.)
    """

    id: bytes
    owned: bool  # this process made the reference
    count: int  # handles and views of this process, as far as drained
    task: Any = None  # the task that makes it, until it is there
    value: Value | None = None  # None while it is pending or, borrowed, not fetched
    waiters: Waiter | list[Waiter] | None = None  # one or several: told once, when the value is there
    contained: list[Any] | None = None  # handles of the references inside the value
    promoted: bool = False  # owned: the peer answers for it, and knows this process as a holder
    held: bool = False  # borrowed: the peer knows this process as a holder
    fetching: bool = False  # borrowed: the peer was asked for the value
    exposed: bool = False  # the place of its segment was told to another process
    carriers: set[Carrier] | None = None  # borrowed: what keeps it alive without the peer knowing us
    inside: Carrier | None = None  # as a container: covers what was unpickled from its value

    def add_waiter(self, waiter: Waiter) -> None:
        present = self.waiters
        if present is None:
            self.waiters = waiter
        elif isinstance(present, list):
            present.append(waiter)
        else:
            self.waiters = [present, waiter]

    def drop_waiter(self, waiter: Waiter) -> None:
        """It is not told any more; nothing if it was already, or never waited."""
        present = self.waiters
        if present is waiter:
            self.waiters = None
        elif isinstance(present, list) and waiter in present:
            present.remove(waiter)
            self.waiters = present or None

    def tell_waiters(self) -> None:
        """The value is there."""
        waiters, self.waiters = self.waiters, None
        if isinstance(waiters, list):
            for waiter in waiters:
                waiter(self)
        elif waiters is not None:
            waiters(self)

    def __repr__(self) -> str:
        kind = "owned" if self.owned else "borrowed"
        marks = [mark for mark in ("promoted", "held", "fetching", "exposed") if getattr(self, mark)]
        state = "pending" if self.value is None else type(self.value).__name__
        return f"<Record {self.id.hex()} {kind} count={self.count} {state} {' '.join(marks)}>"


class Carrier:
    """What brought references here, and keeps them alive elsewhere while it lasts."""

    __slots__ = ("container", "id", "ids", "source")

    def __init__(self, carrier_id: bytes, source: bytes, container: Record | None = None) -> None:
        self.id = carrier_id  # the task's id, or the container's object id
        self.source = source  # the process to tell when it ended; b"" for a container
        self.container = container
        self.ids: dict[bytes, None] = {}  # borrowed records that this covers, in the order in which they came


class Birth(Struct, gc=False, eq=False):
    """A handle was born. (The garbage collector does not look at it: ten thousand may come in one value.)"""

    id: bytes
    carrier: Carrier | None = None  # what brought it; None: nothing that is known here


Queue = deque[Any]  # of `bytes`, the id of a handle that died, and `Birth`


class Records(Core):
    """The table of this process. `queue` is where handles tell of their births and deaths.

    `on_idle(record)` is called for an owned record that nobody holds any more and that was never promoted: its segment,
    if it has one, may be used again at once when it was never exposed. Of a small value that was never exposed nothing
    is left, so nothing is said. `on_release(record)` is asked before the peer is
    told that this process lets go; False puts it off until `let_go` is called.
    """

    def __init__(
        self,
        peer: bytes,
        queue: Queue,
        on_idle: Callable[[Record], None],
        on_release: Callable[[Record], bool] = lambda _: True,
        lineage: Config | None = None,
    ) -> None:
        """`lineage`: tell the peer how to make pending records again, within these bounds."""
        super().__init__()
        self.table: dict[bytes, Record] = {}
        self._peer = peer
        self._queue = queue
        self._on_idle = on_idle
        self._on_release = on_release
        self._next_token = 1
        self._waiting: dict[int, Carrier] = {}  # carriers whose references the peer was told of, by token
        self._lineages = Lineages(lineage, self.table)

    def clear(self) -> None:
        """The end of the mesh here: forget everything, and break the cycles that nobody else would."""
        for record in self.table.values():
            record.task = record.waiters = record.contained = None
        self.table.clear()

    # -- births and deaths -------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Account for all handles that were born or died since the last call."""
        queue, table = self._queue, self.table
        while queue:
            item = queue.popleft()
            if type(item) is bytes:
                record = table.get(item)
                if record is None:
                    continue  # of an ended mesh, or of a job that ended
                record.count -= 1
                if record.count > 0:
                    continue
                if (
                    not record.count
                    and type(record.value) is bytes
                    and record.owned
                    and not (record.promoted or record.exposed)
                ):
                    del table[item]  # most of them: a small value that never left
                    record.contained = None
                else:
                    self._dead(record)
            else:
                object_id, carrier = item.id, item.carrier
                record = table.get(object_id)
                if record is not None and (record.owned or record.held or carrier is None):
                    record.count += 1  # as `_born` would: ten thousand may come in one value
                else:
                    self._born(object_id, carrier)

    def _born(self, object_id: bytes, carrier: Carrier | None) -> None:
        record = self.table.get(object_id)
        if record is None:
            record = self.table[object_id] = Record(object_id, False, 0)
            if carrier is None:  # unpickled out of band: nothing covers it, so the peer must know now
                record.held = True
                self._tell(Hold(0, [object_id]))
        record.count += 1
        if carrier is not None and not record.owned and not record.held:
            self.cover(record, carrier)

    def cover(self, record: Record, carrier: Carrier) -> None:
        """`carrier` keeps this borrowed record alive elsewhere."""
        if record.carriers is None:
            record.carriers = set()
        record.carriers.add(carrier)
        carrier.ids[record.id] = None

    def borrow(self, object_id: bytes, carrier: Carrier) -> Record:
        """The record of a reference that arrived with `carrier`, one handle (or view) richer."""
        self._born(object_id, carrier)
        return self.table[object_id]

    def _dead(self, record: Record) -> None:
        assert record.count == 0, f"more handles died than were born: {record!r}"
        if record.inside is not None and record.inside.ids and self._end(record.inside):
            return  # its references live on: it is let go of when the peer knows of them
        self._let_go(record)

    def _let_go(self, record: Record) -> None:
        if self.table.get(record.id) is not record or record.count:
            return
        if record.owned and not record.promoted:
            if record.value is None and record.task is not None:
                return  # `settle` will find nobody interested
            del self.table[record.id]
            self._on_idle(record)
        else:
            if not self._on_release(record):
                return
            del self.table[record.id]
            if record.promoted or record.held:
                self._tell(Release([record.id]))
            for carrier in record.carriers or ():
                carrier.ids.pop(record.id, None)
        record.contained = None

    def let_go(self, object_id: bytes) -> None:
        """What `on_release` has put off, unless handles were born meanwhile."""
        record = self.table.get(object_id)
        if record is not None:
            self._let_go(record)

    # -- values ------------------------------------------------------------------------------------------------------

    def settle(self, record: Record, value: Value, contained: list[Any] | None) -> None:
        """The value of an owned record is there. The first one counts."""
        if record.value is not None:
            return
        record.value = value
        record.contained = contained
        record.task = None
        if record.promoted or record.waiters or record.count <= 0:
            self._settled(record)

    def settle_run(self, records: Iterable[Record], values: Iterable[bytes]) -> None:
        """The same for many, with small values that have no references inside."""
        tally: Tally | None = None  # who most of them are for
        count = 0
        for record, value in zip(records, values, strict=True):
            if record.value is not None:
                continue
            record.value = value
            record.task = None
            waiters = record.waiters
            if record.promoted or record.count <= 0:
                self._settled(record)
            elif waiters is None:
                continue
            elif waiters is tally:
                record.waiters = None
                count += 1
            elif isinstance(waiters, Tally):
                if tally is not None:
                    tally.arrived(count)
                tally, count = waiters, 1
                record.waiters = None
            else:
                self._settled(record)
        if tally is not None:
            tally.arrived(count)

    def _settled(self, record: Record) -> None:
        if record.promoted:
            self._lineages.on_settled(record.id)
            self._tell(Resolve([describe(record)]))
        if record.waiters is not None:
            record.tell_waiters()
        if record.count <= 0:
            self._dead(record)

    def fetch(self, records: Iterable[Record]) -> None:
        """Ask the peer for the values of borrowed records that were not asked for yet."""
        wanted = [r.id for r in records if r.value is None and not r.fetching and not r.owned]
        for object_id in wanted:
            self.table[object_id].fetching = True
        if wanted:
            self._tell(Fetch(wanted))

    def refetch(self, record: Record) -> None:
        """The place of a borrowed record leads to nothing any more: ask for another value."""
        place, record.value = record.value, None
        assert isinstance(place, Place), f"not lost: {record!r}"
        record.fetching = True
        self._tell(Refetch([place]))

    def on_fetched(self, message: Fetched) -> None:
        """Values of borrowed records. What nobody holds any more is ignored."""
        for promoted in message.records:
            record = self.table.get(promoted.object_id)
            if record is None or record.value is not None or promoted.value is None:
                continue
            record.value = promoted.value
            record.fetching = False
            if promoted.contained and record.inside is None:  # else of a value that was lost: what it brought stays
                record.inside = Carrier(record.id, b"", record)
            record.tell_waiters()

    # -- deaths of others --------------------------------------------------------------------------------------------

    def on_process_died(self, process: bytes) -> None:
        """What it had sent here, and kept alive for us, the peer must know of before it learns that we have seen its
        death. Drain first."""
        covered = [
            record
            for record in self.table.values()
            if record.carriers and not record.held and any(carrier.source == process for carrier in record.carriers)
        ]
        for record in covered:
            record.held = True
        if covered:
            self._tell(Hold(0, [record.id for record in covered]))

    def on_host_gone(self, node: bytes) -> None:
        """The same for all that its processes had sent, and for what is inside objects that they owned: these are lost,
        and keep nothing alive any more. Drain first."""
        covered = [
            record
            for record in self.table.values()
            if record.carriers and not record.held and any(_is_of(carrier, node) for carrier in record.carriers)
        ]
        for record in covered:
            record.held = True
        if covered:
            self._tell(Hold(0, [record.id for record in covered]))

    # -- promotion ---------------------------------------------------------------------------------------------------

    def promote(self, record: Record, copied: bool = False) -> None:
        """A handle of an owned record leaves this process: the peer answers for it from now on. `copied`: it was told
        that the value is lost, and has a copy now."""
        if record.owned and not record.promoted:
            for batch in batches(self._lineages.closure(record)):
                for promoted in batch:
                    promoted.copied = copied and promoted.object_id == record.id
                self._tell(Promote(batch))

    def refuse(self, place: Place) -> None:
        """The peer was told that this is lost, and nothing can make it again."""
        self._tell(Resolve([Promoted(place.object_id, place)]))

    def confirm(self, place: Place) -> None:
        """The peer was told that this is lost. It has fetched a copy for us, which others can have."""
        self._tell(Resolve([Promoted(place.object_id, place, copied=True)]))

    # -- carriers ----------------------------------------------------------------------------------------------------

    def end_carrier(self, carrier: Carrier) -> bool:
        """The carrier is used no more. True when references that it brought live on: CarrierDone goes to its source as
        soon as the peer knows of them; the caller must then say so (`Result.kept`). Drain first."""
        return self._end(carrier)

    def _end(self, carrier: Carrier) -> bool:
        alive: list[bytes] = []
        for object_id in carrier.ids:
            record = self.table[object_id]
            assert record.carriers is not None
            record.carriers.discard(carrier)
            if not record.held and not record.carriers:
                record.held = True
                alive.append(object_id)
        carrier.ids = {}
        if not alive:
            return False
        token = self._next_token
        self._next_token += 1
        self._waiting[token] = carrier
        self._tell(Hold(token, alive))
        return True

    def on_hold_done(self, token: int) -> None:
        """The peer knows of the references that a carrier brought: its source may let go."""
        carrier = self._waiting.pop(token, None)
        if carrier is None:
            return
        if carrier.container is not None:
            self._let_go(carrier.container)
        elif carrier.source:  # the constructor of an actor has none: the peer itself keeps what it needs
            self._effects.append(Send(carrier.source, CarrierDone([carrier.id])))

    # -- the link to the peer ----------------------------------------------------------------------------------------

    def _tell(self, message: Message) -> None:
        """Say it to the peer, in order; what follows its own kind joins it, within what one message may carry."""
        if self._effects:
            last = self._effects[-1].message
            if type(last) is type(message):
                if (
                    isinstance(last, Promote | Resolve)
                    and isinstance(message, Promote | Resolve)
                    and len(last.records) < RECORDS_AT_ONCE
                    and not any(promoted.lineage and promoted.lineage.blob for promoted in message.records)
                ):
                    last.records.extend(message.records)
                    return
                if (
                    isinstance(last, Release | Fetch)
                    and isinstance(message, Release | Fetch)
                    and len(last.object_ids) < IDS_AT_ONCE
                ):
                    last.object_ids.extend(message.object_ids)
                    return
        self._effects.append(Send(self._peer, message))


def _is_of(carrier: Carrier, node: bytes) -> bool:
    """Whether a process of that host sent it, or owns the container that it is."""
    return carrier.source.startswith(node) or (carrier.container is not None and carrier.container.id.startswith(node))
