"""What does this peer answer for? Objects that left their process, and who holds them.

Theory. A record is born when a process *promotes* a reference, seals a segment, or when somebody asks for an id whose
promotion is still on its way over another link. It dies when nobody holds it and no container holds it. The stages::

    EXPECTED   somebody holds, contains or waits for it; its owner lives, so its own message will come
    SEALED     a segment holds it; its owner (the process in its id) counts it, and has told nobody else of it
    PENDING    promoted without a value: its submitter will Resolve it
    SETTLED    promoted, with a value: inline bytes, a place, or the failure of what should have made it; PENDING once
               more while a place to which nobody finds the way is replaced (`core.losses`)
    LOST       its owner died before there was a value here, or its job ended: a failure that names the reason

Holders are *sets of processes*, so every message may be repeated. Order matters on one link only: what others may tell
sooner than the maker of a file is in `core.segments`. A pending record lives until it is resolved, even if nobody holds
it: the value that comes may have a segment to free. What the death of a process means, or the end of its job, is in
`core.owners`.

What other hosts have to do with all this is in `core.foreign_objects`: their objects have records here, too, as long as
somebody here holds, contains or waits for them, and their peers hold ours like processes.

The caller (the shell) reports a death here after it has performed what the death means for leases and actors:
journalled results travel ahead of ProcessDied on the same link, so that their receivers hold what is in them before
they answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from meshray.config import Config
from meshray.core.deaths import Deaths
from meshray.core.effects import Core, Send
from meshray.core.foreign_objects import ForeignObjects
from meshray.core.gone import Gone, by_id, freed
from meshray.core.heirs import Heirs, NoHeirs
from meshray.core.losses import Losses, hopeless
from meshray.core.object_table import ObjectTable, Record, Stage
from meshray.core.owners import Owners
from meshray.core.promised import Promised
from meshray.core.segments import Segments
from meshray.core.store_accounts import StoreAccounts
from meshray.ids import FIRST_RETURN, owner_process_of
from meshray.wire.messages import (
    DeathSeen,
    Failure,
    Fetch,
    Fetched,
    Forget,
    Hold,
    HoldDone,
    Message,
    Place,
    Pooled,
    Promote,
    Promoted,
    Release,
    Resolve,
    Sealed,
)

ANSWERS_AT_ONCE = 64
"""At most so many values travel in one unasked Fetched."""

IDS_AT_ONCE = 100_000
"""So many ids travel in one Release: 30 bytes each."""


class ObjectStats(Struct, frozen=True):
    """A snapshot; counts."""

    records: int
    by_stage: dict[str, int]
    departures: int  # deaths that are not settled
    refused: int  # messages of processes that are gone


class Objects(Core):
    """The objects of one peer. Message handlers are `on_<message>(sender, message)`.

    `handle_freed(actor_id)` is called when the last handle of an actor went; `core.actors` sets it. `heirs` is
    `core.adoption`, which puts itself there. `called(node)` is what people call a host. `alone`: there are no other
    hosts, so what is not ours is lost; else `object_freed(object_id)` is called for each object of ours that ends.
    `kept_archive(object_id)`: the value of one of another host that is kept here (`core.programs`, which puts itself
    there).
    """

    def __init__(self, config: Config, node: bytes, store: StoreAccounts, alone: bool = True) -> None:
        super().__init__()
        self.alone = alone
        self.object_freed: Callable[[bytes], None] = _nobody_cares
        self.handle_freed: Callable[[bytes], None] = _nobody_cares
        self.called: Callable[[bytes], str] = by_id
        self.kept_archive: Callable[[bytes], bytes | Place | None] = _nothing_kept
        self.heirs: Heirs = NoHeirs()
        self._config = config
        self._node = node
        self._store = store
        self.gone = Gone(node)
        self.owners = Owners(self, store)
        self._attached, self._doomed = self.owners.attached, self.owners.doomed  # for reading
        self.foreign = ForeignObjects(config, node, self)
        self.losses = Losses(self)
        self.table = ObjectTable(self._on_free, self.foreign.on_less, node)
        self.deaths = Deaths(self.foreign.borrows, self.tell, self.owners.on_settled, self.foreign.in_doubt)
        self.segments = Segments(config, store, self.table, self.foreign, self.deaths, self._attached)
        self.promised = Promised(self, self._attached)
        self._refused = 0

    # -- processes ---------------------------------------------------------------------------------------------------

    def on_process_attached(self, process: bytes, pid: int, job: bytes = b"") -> None:
        """A driver or a worker that counts references (no observer). Once more when a worker is bound to a job."""
        self.owners.on_attached(process, pid, job)

    def is_attached(self, process: bytes) -> bool:
        """Whether this process lives and counts."""
        return process in self._attached

    def accepts(self, process: bytes) -> bool:
        """Whether this process may begin something: it lives, and its job too."""
        return process in self._attached and process not in self._doomed

    def on_process_died(self, process: bytes, why: str = "", abroad: frozenset[bytes] = frozenset()) -> None:
        """The process is gone; `why` in words. `abroad`: peers of other hosts with whose processes it had dealt: they
        are witnesses too, and told by the road, which hears `DeathOver` in the end."""
        self.owners.on_died(process, why, abroad)

    def on_death_seen(self, sender: bytes, message: DeathSeen) -> None:
        """The sender has accounted for what the dead process had sent to it; a peer, for what its processes had."""
        self.deaths.on_seen(sender, message)

    def on_foreign_death_seen(self, process: bytes) -> None:
        """All processes here that had dealt with a dead one of another host have accounted for it."""
        self.deaths.answer_for(process)

    def on_job_ended(self, job: bytes, survivors: frozenset[bytes] = frozenset()) -> None:
        """The job's driver is gone or has detached. `survivors`: processes of detached actors, which go on.

        The others of its processes are about to be killed; their holds go with them.
        """
        self.owners.on_job_ended(job, survivors)

    def drop_holds(self, holder: bytes) -> None:
        """What it holds, it holds no more."""
        for record in self.table.held_by(holder):
            if holder in record.holders:  # it may have ended with one before
                self.table.drop_holder(record, holder)

    # -- promotion ---------------------------------------------------------------------------------------------------

    def on_promote(self, sender: bytes, message: Promote) -> None:
        """The peer answers for these from now on; the sender holds them. A repeat changes nothing."""
        if self.refuses(sender):
            return
        for promoted in message.records:
            record = self.table.records.get(promoted.object_id) or self.table.add(promoted.object_id)
            if record.stage is not Stage.EXPECTED and record.stage is not Stage.SEALED:
                continue
            self.table.add_holder(record, sender)
            if record.owner in self._doomed:
                self.lose(record)
            elif promoted.value is None:
                self.table.enter(record, Stage.PENDING, submitter=sender)
                self.heirs.on_pending(sender, promoted)
            else:
                self.fill(record, promoted.value, promoted.contained, promoted.copied)

    def on_resolve(self, sender: bytes, message: Resolve) -> None:
        """Values of pending records. The first one counts."""
        if self.refuses(sender):
            return
        for promoted in message.records:
            record = self.table.records.get(promoted.object_id)
            if record is None or promoted.value is None:
                continue
            if record.stage is Stage.PENDING:
                self.fill(record, promoted.value, promoted.contained, promoted.copied)
            elif isinstance(record.value, Place) and record.owner == sender:  # it has found this one lost
                if isinstance(promoted.value, Failure):
                    record.unmade = promoted.value  # others may still reach it
                else:
                    self._set_value(record, promoted.value, promoted.contained)

    def fill(
        self, record: Record, value: bytes | Place | Failure, contained: list[bytes], copied: bool = False
    ) -> None:
        """It has a value: the first one, or the one that its owner was asked for."""
        lost, record.lost = record.lost, None
        self.table.enter(record, Stage.SETTLED)
        self._set_value(record, value, contained)
        self.heirs.on_outcome(record.id)
        in_vain = lost is not None and value == lost and not copied
        answer = record.unmade or hopeless(lost, self.called) if lost is not None and in_vain else value
        self.answer(record, answer, copied=copied)

    def _set_value(self, record: Record, value: bytes | Place | Failure, contained: list[bytes]) -> None:
        """What an earlier value contained stays pinned: who has read it may hold that through it alone."""
        record.value = value
        new = [object_id for object_id in dict.fromkeys(contained) if object_id not in record.contained]
        record.contained += tuple(new)
        inside = [self.look_up(inner) for inner in new]
        for inner in inside:
            self.table.pin(inner)
        self.foreign.borrow(inside)
        if isinstance(value, Place):
            record.lasting = True
            if value.node == self._node and not self._store.knows_segment(value.segment):
                self.segments.on_place(record.id, value)

    def lose(self, record: Record, failure: Failure | None = None) -> None:
        """There will be no value, or it is not to be had any more: its owner has ended, or `failure`."""
        if record.stage is Stage.LOST:
            return
        self.table.enter(record, Stage.LOST)
        record.value = failure or self.gone.failure(record.id)
        if record.contained:
            self.owners.on_lost(record)
        self.heirs.on_outcome(record.id)
        self.answer(record, record.value)

    # -- holding -----------------------------------------------------------------------------------------------------

    def on_hold(self, sender: bytes, message: Hold) -> None:
        """The sender holds these; it is told when that is known to their owners' peers."""
        if sender not in self._attached:
            self.foreign.on_hold(sender, message)
            return
        foreign: list[Record] = []
        for object_id in message.object_ids:
            record = self.look_up(object_id)
            self.table.add_holder(record, sender)
            if self.foreign.is_foreign(object_id) and not self.alone:
                if record.stage is Stage.LOST:
                    self.table.revive(record)
                foreign.append(record)
        if foreign:
            self.foreign.borrow(foreign, sender, message.token)
        else:
            self.tell(sender, HoldDone(message.token))

    def on_release(self, sender: bytes, message: Release) -> None:
        """The sender holds these no more."""
        if self.refuses(sender, peers=True):
            return
        for object_id in message.object_ids:
            record = self.table.records.get(object_id)
            if record is not None and sender in record.holders:
                self.table.drop_holder(record, sender)
            elif owner_process_of(object_id) == sender and (record is None or record.stage is Stage.EXPECTED):
                self.segments.on_early_release(object_id)

    def on_pooled(self, sender: bytes, message: Pooled) -> None:
        """The sender, maker and only holder of these, has freed them and keeps their files."""
        if self.refuses(sender):
            return
        for object_id in message.object_ids:
            record = self.table.records.get(object_id)
            if record is not None and record.holders == {sender}:
                self._store.on_pooled(sender, object_id)
                self.table.drop_holder(record, sender)

    def hold(self, object_id: bytes, process: bytes) -> None:
        """`process` holds it by the word of another part of this peer (an actor that was found by its name)."""
        record = self.look_up(object_id)
        self.table.add_holder(record, process)
        self.foreign.borrow([record])

    def pin_for_actor(self, object_id: bytes) -> None:
        """A constructor needs it as long as its actor may start again; the end of its job does not lose it."""
        record = self.look_up(object_id)
        self.table.pin(record, root=True)
        self.foreign.borrow([record])

    def unpin_for_actor(self, object_id: bytes) -> None:
        """The inverse of `pin_for_actor`."""
        self.table.unpin(self.table.records[object_id], root=True)

    def pin_for_task(self, object_id: bytes) -> None:
        """A task that may be made again needs it, or what it has made contains it."""
        record = self.look_up(object_id)
        self.table.pin_for_task(record)
        self.foreign.borrow([record])

    def unpin_for_task(self, object_id: bytes) -> None:
        """The inverse of `pin_for_task`."""
        self.table.unpin_for_task(self.table.records[object_id])

    def add_handle(self, actor_id: bytes, holder: bytes) -> None:
        """An actor was created; its handles are counted like references to its first return."""
        record = self.look_up(actor_id + FIRST_RETURN)
        record.handle = True
        self.table.add_holder(record, holder)
        if record.stage is Stage.EXPECTED:
            self.fill(record, b"", [])

    # -- fetching ----------------------------------------------------------------------------------------------------

    def on_fetch(self, sender: bytes, message: Fetch) -> None:
        """Each is answered once, now or when it is there. Large answers are split."""
        if self.refuses(sender, peers=True):
            return
        batch: list[Promoted] = []
        size = 0
        foreign: list[bytes] = []
        local = sender in self._attached
        for object_id in message.object_ids if local else self.foreign.ours(message.object_ids):
            if (kept := self.kept_archive(object_id)) is not None:
                batch.append(Promoted(object_id, kept))
                continue
            record = self.look_up(object_id)
            self.foreign.look_again(record)
            if self.foreign.is_foreign(object_id) and record.value is None:
                self.table.add_waiter(record, sender)
                record.borrowed = True
                foreign.append(object_id)
                continue
            if not local:
                self.foreign.expect(record)
            if record.stage is Stage.EXPECTED and record.owner == sender:
                self.lose(record, freed(object_id))  # it would have promoted it before it asked, on this link
            value = record.value
            if record.stage is Stage.SEALED and record.owner not in self._attached:
                value = self.gone.failure(object_id)
            if value is None:
                self.table.add_waiter(record, sender)
                continue
            batch.append(Promoted(object_id, value, self.contents(record)))
            size += len(value) if isinstance(value, bytes) else 0
            self.table.tidy(record)  # it may have been made for this question alone
            if size > self._config.push_batch_max_bytes:
                self.tell(sender, Fetched(batch))
                batch, size = [], 0
        if batch:
            self.tell(sender, Fetched(batch))
        self.foreign.borrows.fetch(foreign)

    def on_forget(self, sender: bytes, message: Forget) -> None:
        """The sender waits for these no more."""
        for object_id in message.object_ids:
            self.table.drop_waiter(object_id, sender)

    def answer(
        self,
        record: Record,
        value: bytes | Place | Failure,
        inside: list[bytes] | None = None,
        copied: bool = False,
    ) -> None:
        """Tell those who wait for it. The record may end with this."""
        for waiter in self.table.take_waiters(record):
            promoted = Promoted(record.id, value, self.contents(record) if inside is None else inside, copied=copied)
            last = self._effects[-1] if self._effects else None
            if (
                isinstance(last, Send)
                and last.to == waiter
                and isinstance(last.message, Fetched)
                and len(last.message.records) < ANSWERS_AT_ONCE
            ):
                last.message.records.append(promoted)  # the answers to one Resolve travel together
            else:
                self.tell(waiter, Fetched([promoted]))
        self.table.tidy(record)

    # -- segments ----------------------------------------------------------------------------------------------------

    def on_sealed(self, sender: bytes, message: Sealed) -> None:
        """Files that were written."""
        if self.refuses(sender):
            return
        for sealed in message.segments:
            self.segments.on_sealed(sender, sealed)

    def count_owner(self, record: Record) -> None:
        """The owner of a segment holds it, unless it has let go already."""
        self.segments.count_owner(record)

    def expect_segment(self, place: Place) -> None:
        """The owner's peer on another host knows of a segment here."""
        self.segments.expect(place)

    # -- the end of a record -----------------------------------------------------------------------------------------

    def _on_free(self, record: Record) -> None:
        """Nothing keeps it any more; it has left the table."""
        if record.waiters:
            text = f"object {record.id.hex()} was freed while somebody waited for it"
            self.answer(record, Failure("ObjectFreedError", text))
        retried = self._store.on_object_freed(record.id)
        unsealed = record.id in self.segments.unsealed
        if unsealed:
            self.segments.on_unsealed_free(record.id)
        if self.foreign.is_foreign(record.id):
            return
        if self.foreign.on_free(record.id) or unsealed or retried:
            # The word of a segment's maker is still on its way; or may be, when an earlier maker died and the task ran
            # once more.
            self.segments.on_early_release(record.id)
        if not self.alone:
            self.losses.on_free(record)
            self.object_freed(record.id)
        if record.id in self.owners.lost_containers:
            self.owners.on_lost_free(record.id)
        contained, record.contained = record.contained, ()
        self.table.unpin_all(contained)
        self.owners.forget(record.owner)
        if record.handle:
            self.handle_freed(record.id[: -len(FIRST_RETURN)])

    # -- small ones --------------------------------------------------------------------------------------------------

    def refuses(self, sender: bytes, peers: bool = False) -> bool:
        """Nothing of a process that is gone acts here any more (I3). `peers`: those of other hosts may say this,
        too."""
        if sender in self._attached or (peers and not self.alone and self.foreign.is_peer(sender)):
            return False
        self._refused += 1
        return True

    def look_up(self, object_id: bytes) -> Record:
        """The record; when there is none, one that waits for its owner's word, or is lost with its owner."""
        record = self.table.records.get(object_id)
        if record is None:
            record = self.table.add(object_id)
            if self.foreign.is_foreign(object_id) and not self.alone:
                return record
            if record.owner not in self._attached or record.owner in self._doomed:
                self.table.enter(record, Stage.LOST)
                record.value = self.gone.failure(object_id)
        return record

    def emit(self, effect: Any) -> None:
        """Ask the shell for something."""
        self._effects.append(effect)

    def contents(self, record: Record) -> list[bytes]:
        """What a reader of the value gets with it."""
        return list(record.contained) if record.stage is Stage.SETTLED else []

    def tell(self, process: bytes, message: Message) -> None:
        last = self._effects[-1] if self._effects else None
        if (
            isinstance(message, Release)
            and isinstance(last, Send)
            and last.to == process
            and isinstance(last.message, Release)
            and len(last.message.object_ids) < IDS_AT_ONCE
        ):
            last.message.object_ids.extend(message.object_ids)
            return
        self._effects.append(Send(process, message))

    # -- for people and tests ----------------------------------------------------------------------------------------

    def holders_of(self, object_id: bytes) -> frozenset[bytes]:
        """Who holds it; empty when it is not known."""
        record = self.table.records.get(object_id)
        return frozenset() if record is None else frozenset(record.holders)

    def knows(self, object_id: bytes) -> bool:
        """Whether there is a record."""
        return object_id in self.table.records

    def value_of(self, object_id: bytes) -> bytes | Place | Failure | None:
        """Its value; None when there is none yet, or no record."""
        record = self.table.records.get(object_id)
        return None if record is None else record.value

    def stats(self) -> ObjectStats:
        by_stage = dict.fromkeys((stage.value for stage in Stage), 0)
        for record in self.table.records.values():
            by_stage[record.stage.value] += 1
        return ObjectStats(len(self.table.records), by_stage, len(self.deaths), self._refused)

    def left(self) -> str:
        """What is in the books, for tests that expect nothing; "" when they are empty."""
        books = (self.table.records, self.segments.unsealed, self.owners.lost_containers, self.deaths)
        return "; ".join([*(repr(book) for book in books if len(book)), self.foreign.left()]).strip("; ")

    def check(self) -> None:
        """Assert that the books agree."""
        self.table.check()
        self._store.check()
        self.foreign.check()
        for object_id in self._store.live_segments().values():
            assert self.knows(object_id), f"a segment of no record: {object_id.hex()}"


def _nothing_kept(object_id: bytes) -> None:
    """`kept_archive` of a peer that keeps none."""


def _nobody_cares(which: bytes) -> None:
    """`handle_freed` of a peer without actors, `object_freed` of one without copies."""
