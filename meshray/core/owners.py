"""Which processes count references here, and what becomes of what they own when one of them ends?

Theory. A process counts from Attach to its death. There are two ends:

- *It dies.* What only it could have told will never come: what is expected of it is lost, as is what it had promised to
  resolve, if nobody adopts it (`core.adoption`). What it holds stays until everybody has accounted for what it had
  sent (`core.deaths`). A promoted object outlives its process as long as others hold it; an unpromoted one as long as
  others use its segment.
- *Its job ends*: its processes are *doomed*. What they own is lost to others at once, but for what the constructors of
  living actors need. Segments of it go when the last view of them goes.
"""

from __future__ import annotations

from typing import Any, Protocol

from meshray.core.deaths import Deaths
from meshray.core.effects import DeathOver
from meshray.core.gone import Gone
from meshray.core.heirs import Heirs
from meshray.core.object_table import ObjectTable, Record, Stage, unreachable
from meshray.core.segments import Segments
from meshray.core.store_accounts import StoreAccounts
from meshray.wire.messages import DeathSettled, Failure, Message, Place, ProcessDied


class Books(Protocol):
    """What `core.objects` has, and does with one object."""

    gone: Gone
    table: ObjectTable
    deaths: Deaths
    heirs: Heirs
    segments: Segments

    def emit(self, effect: Any) -> None: ...
    def tell(self, process: bytes, message: Message) -> None: ...
    def lose(self, record: Record, failure: Failure | None = None) -> None: ...
    def answer(self, record: Record, value: bytes | Place | Failure) -> None: ...
    def drop_holds(self, holder: bytes) -> None: ...


class Owners:
    """See the head of this file. A part of `Objects`."""

    def __init__(self, books: Books, store: StoreAccounts) -> None:
        self._books = books
        self._store = store
        # For reading:
        self.attached: set[bytes] = set()  # living processes that count references
        self.jobs: dict[bytes, bytes] = {}  # process -> job; of dead ones too, while they own records
        self.doomed: set[bytes] = set()  # processes of `jobs` whose job has ended
        self.lost_containers: set[bytes] = set()  # LOST records that still contain others
        self._left_abroad: set[bytes] = set()  # dead processes with witnesses abroad, until they are settled

    def on_attached(self, process: bytes, pid: int, job: bytes) -> None:
        """See `Objects.on_process_attached`."""
        self.attached.add(process)
        if job:
            self.jobs[process] = job
        self._store.on_process_attached(process, pid)

    def job_of(self, process: bytes) -> bytes:
        """The job of a process that lives or owns something; b"" when its job has ended."""
        return b"" if process in self.doomed else self.jobs.get(process, b"")

    # -- a death -----------------------------------------------------------------------------------------------------

    def on_died(self, process: bytes, why: str, abroad: frozenset[bytes]) -> None:
        """See `Objects.on_process_died`."""
        books = self._books
        if process not in self.attached:
            return
        self.attached.discard(process)
        books.gone.add(process, why or "its process died")
        books.table.drop_waits_of(process)
        self._store.on_process_died(process)
        for record in books.table.pending_of(process):
            if not books.heirs.adopts(record.id):
                books.lose(record)
        for record in books.table.owned_by(process):
            if record.stage is Stage.EXPECTED:
                books.lose(record)
            elif record.stage is Stage.SEALED:
                books.answer(record, books.gone.failure(record.id))
        self._tell_all(ProcessDied(process))
        if abroad:
            self._left_abroad.add(process)
        books.deaths.on_died(process, self.attached | abroad)

    def on_settled(self, process: bytes) -> None:
        """Everybody has accounted for this dead process: its holds end."""
        books = self._books
        books.drop_holds(process)
        books.segments.adopt(process)
        self._store.on_death_settled(process)
        if process in self.doomed:
            self._end_circles()
        books.heirs.on_settled(process)
        self.forget(process)
        self._tell_all(DeathSettled(process))
        if process in self._left_abroad:
            self._left_abroad.discard(process)
            books.emit(DeathOver(process))

    def forget(self, process: bytes) -> None:
        """Something that it owned has ended, or its death is settled: it may have been the last that is known of it."""
        books = self._books
        if process not in self.attached and process not in books.deaths and not books.table.owns_any(process):
            self.jobs.pop(process, None)
            self.doomed.discard(process)

    def _tell_all(self, message: Message) -> None:
        for process in sorted(self.attached):
            self._books.tell(process, message)

    # -- the end of a job --------------------------------------------------------------------------------------------

    def on_job_ended(self, job: bytes, survivors: frozenset[bytes]) -> None:
        """See `Objects.on_job_ended`."""
        ended = [process for process, its in self.jobs.items() if its == job and process not in survivors]
        for process in ended:
            self.doomed.add(process)
            self._books.gone.add(process, "its job ended")
        kept = self._needed_by_actors()
        for process in ended:
            for record in self._books.table.owned_by(process):
                if not record.handle and record.id not in kept:
                    self._books.lose(record)

    def _needed_by_actors(self) -> set[bytes]:
        """What the constructors of living actors need, and what is inside it."""
        records = self._books.table.records
        kept = [
            object_id for object_id, record in records.items() if record.roots and record.stage is not Stage.PENDING
        ]
        seen = set(kept)
        for object_id in kept:  # grows while it runs
            new = [inner for inner in records[object_id].contained if inner not in seen]
            seen.update(new)
            kept.extend(new)
        return seen

    # -- lost, with others inside ------------------------------------------------------------------------------------

    def on_lost(self, record: Record) -> None:
        """A record is LOST that contains others: who has read it may hold what is inside through it alone, so that
        stays as long as it."""
        self.lost_containers.add(record.id)

    def on_lost_free(self, object_id: bytes) -> None:
        """One of those has ended."""
        self.lost_containers.discard(object_id)

    def _end_circles(self) -> None:
        """Counting alone never ends objects of an ended job that contain each other."""
        lost = [self._books.table.records[object_id] for object_id in sorted(self.lost_containers)]
        for record in unreachable(lost):
            self.lost_containers.discard(record.id)
            contained, record.contained = record.contained, ()
            self._books.table.unpin_all(contained)
