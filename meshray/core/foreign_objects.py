"""What has this peer to do with objects of other hosts, and other hosts with ours?

There are four sides to it:

- **borrowed**: somebody here holds, contains or waits for an object of another host. Its record is EXPECTED, since the
  value is with its owner's peer, which counts this peer as one holder (`core.borrows`).
- **lent**: the peers of other hosts are holders of our objects, and wait for them, like processes.
- **lodged**: a segment stays on the host that wrote it, whoever owns the object. There it is a SEALED record, which the
  owner's peer holds; that one is told (`Lodged`) before anybody hears of the place, and frees it when its own record
  ends. When the host was away and is back, the owner's peer says what of it is still needed, and holds it anew: only
  that one knows (its owner may have failed meanwhile, or made it elsewhere, and never release what it was not told of).
- **gone**: when a host is gone, what it owned is lost. What it held here stays for a while (`doubt_s`) in the name of a
  *shade*, since others may have got references from there and not have told of them yet; the host itself may come back
  meanwhile, and holds by its own name again. Whether what it owns is lost is found out each time that somebody wants
  it: it is asked once more, and is gone again when nothing leaves for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from meshray.config import Config
from meshray.core.borrows import Borrows
from meshray.core.deaths import Deaths
from meshray.core.effects import Dealt, Later
from meshray.core.gone import GONE_MAX, Gone, freed, remember
from meshray.core.object_table import ObjectTable, Record, Stage
from meshray.ids import NODE_BYTES, peer_of
from meshray.wire.messages import (
    Failure,
    Fetched,
    Hold,
    HoldDone,
    Lodged,
    Message,
    Place,
    Release,
    SealedSegment,
)

PLACES_AT_ONCE = 256
"""At most so many places travel in one Lodged."""


class Books(Protocol):
    """What `core.objects` has, and does with one object."""

    alone: bool
    gone: Gone
    table: ObjectTable

    @property
    def deaths(self) -> Deaths: ...
    def emit(self, effect: Any) -> None: ...
    def tell(self, process: bytes, message: Message) -> None: ...
    def refuses(self, sender: bytes, peers: bool = False) -> bool: ...
    def look_up(self, object_id: bytes) -> Record: ...
    def lose(self, record: Record, failure: Failure | None = None) -> None: ...
    def answer(self, record: Record, value: bytes | Place | Failure, inside: list[bytes] | None = None) -> None: ...
    def count_owner(self, record: Record) -> None: ...
    def expect_segment(self, place: Place) -> None: ...
    def drop_holds(self, holder: bytes) -> None: ...


class ForeignObjects:
    """See the head of this file."""

    def __init__(self, config: Config, node: bytes, books: Books) -> None:
        self._config = config
        self._node = node
        self._books = books
        self.borrows = Borrows(books.tell)
        self._lodged: dict[bytes, dict[bytes, list[Place]]] = {}  # object of ours -> peer -> its segments there
        self._away: dict[bytes, None] = {}  # peers that are gone; bounded, the oldest are forgotten
        self._later: dict[int, Callable[[], None]] = {}  # what `on_later` will do
        self._last_number = 0  # of these, and of shades
        self.refused = 0  # messages about objects that are not the sender's

    # -- whose is it? ------------------------------------------------------------------------------------------------

    def is_foreign(self, object_id: bytes) -> bool:
        """Whether another host owns it."""
        return object_id[:NODE_BYTES] != self._node

    def ours(self, object_ids: Iterable[bytes]) -> list[bytes]:
        """Those that we answer for; others are none of the sender's business here."""
        return [object_id for object_id in object_ids if not self.is_foreign(object_id)]

    def is_peer(self, process: bytes) -> bool:
        """Whether this is the peer of another host."""
        return process[:NODE_BYTES] != self._node and process == peer_of(process)

    def is_peer_of(self, peer: bytes, process_or_object: bytes) -> bool:
        """Whether `peer` is the one of another host, to which this belongs."""
        return peer == peer_of(process_or_object) and self.is_peer(peer)

    # -- borrowed ----------------------------------------------------------------------------------------------------

    def borrow(self, records: Iterable[Record], process: bytes = b"", token: int = 0) -> None:
        """Tell owners on other hosts that these are held here; `process` waits to hear that they know."""
        if self._books.alone:
            foreign = []
        else:
            foreign = [record for record in records if self.is_foreign(record.id) and record.stage is not Stage.LOST]
        for record in foreign:
            record.borrowed = True
        if foreign or process:
            self.borrows.hold([record.id for record in foreign], process, token)

    def look_again(self, record: Record) -> None:
        """Somebody wants it, or has made it anew. One that was lost with its owner's host may be there again; if the
        host is not, what is now said to it does not leave, and it is lost again (`on_unreachable`)."""
        if record.stage is not Stage.LOST or self._books.alone or not self.is_foreign(record.id):
            return
        self._books.table.revive(record)
        if record.pins or any(holder[:NODE_BYTES] == self._node for holder in record.holders):
            self.borrow([record])  # by those who have kept it

    def on_hold_done(self, sender: bytes, message: HoldDone) -> None:
        """The peer of another host knows that we hold what it owns."""
        self.borrows.on_hold_done(sender, message.token)
        self._books.deaths.on_known()

    def on_fetched(self, sender: bytes, message: Fetched) -> None:
        """The peer of another host answers for what it owns: those who wait here are told."""
        for promoted in message.records:
            object_id = promoted.object_id
            if not self.is_peer_of(sender, object_id) or promoted.value is None:
                self.refused += 1
            elif self.borrows.on_fetched(promoted):
                record = self._books.table.records[object_id]
                if promoted.contained:  # who reads it has what is inside through it
                    for waiter in sorted(record.waiters):
                        self._books.emit(Dealt(waiter, sender[:NODE_BYTES]))
                self._books.answer(record, promoted.value, promoted.contained)

    def on_less(self, record: Record) -> None:
        """Somebody has let go of an object of another host, or waits for it no more."""
        if not record.pins and record.holders <= {peer_of(record.owner)}:
            self.borrows.release(record.id)
        if not record.waiters:
            self.borrows.forget(record.id)
        record.borrowed = self.borrows.concerns(record.id)

    # -- lent --------------------------------------------------------------------------------------------------------

    def on_hold(self, sender: bytes, message: Hold) -> None:
        """The peer of another host holds some of ours."""
        if self._books.refuses(sender, peers=True):
            return
        for object_id in self.ours(message.object_ids):
            record = self._books.look_up(object_id)
            self._books.table.add_holder(record, sender)
            self.expect(record)
        self._books.tell(sender, HoldDone(message.token))

    def expect(self, record: Record) -> None:
        """Another host has heard of it sooner than we: its owner's word is on its way. Or never comes: it was freed,
        and what named it has outlived a partition. Then it is lost after a while."""
        if record.stage is Stage.EXPECTED:
            self.in_doubt(lambda: self._lose_expected(record.id))

    def _lose_expected(self, object_id: bytes) -> None:
        record = self._books.table.records.get(object_id)
        if record is not None and record.stage is Stage.EXPECTED:
            self._books.lose(record, freed(object_id))

    # -- lodged ------------------------------------------------------------------------------------------------------

    def lodge(self, record: Record, sealed: SealedSegment) -> None:
        """A segment was written here whose owner is on another host: its peer is told, and holds it."""
        peer = peer_of(record.owner)
        if self._books.alone or peer in record.holders:
            return  # it knows: from a process that had the place from the journal of a dead maker
        self._books.table.add_holder(record, peer)
        self._books.tell(peer, Lodged([Place(record.id, self._node, sealed.segment, sealed.size)]))

    def on_lodged(self, sender: bytes, message: Lodged) -> None:
        """Segments lie on a host that does not own what is in them: its peer tells the owner's; or a process its peer,
        when their maker has died, and that one the host. A repeat changes nothing."""
        if self._books.refuses(sender, peers=True):
            return
        for place in message.places:
            if place.node == self._node:
                self._keep(sender, place)
            elif not self.is_foreign(place.object_id):
                self._on_lodger(sender, place)

    def _on_lodger(self, sender: bytes, place: Place) -> None:
        """A segment of ours lies elsewhere."""
        books, peer = self._books, peer_of(place.node)
        places = self._lodged.setdefault(place.object_id, {}).setdefault(peer, [])
        if place not in places:
            places.append(place)
        record = books.table.records.get(place.object_id) or books.table.add(place.object_id)
        if record.stage is Stage.EXPECTED:
            books.table.enter(record, Stage.SEALED)
            books.count_owner(record)
        if sender != peer:
            books.tell(peer, Lodged([place]))
        books.table.tidy(record)

    def _keep(self, sender: bytes, place: Place) -> None:
        """The owner's peer knows of a segment here, whose maker may have died before it told of it."""
        if self.is_peer_of(sender, place.object_id):
            record = self._books.look_up(place.object_id)
            self._books.table.add_holder(record, sender)
            self.look_again(record)
            self._books.expect_segment(place)

    def on_free(self, object_id: bytes) -> bool:
        """An object of ours has ended: so do its segments elsewhere. True when there were any: then its task may have
        run once more, and the word of another maker be on its way."""
        peers = self._lodged.pop(object_id, None)
        for peer in sorted(peers or ()):
            if peer not in self._away:
                self._books.tell(peer, Release([object_id]))
        return peers is not None

    # -- gone --------------------------------------------------------------------------------------------------------

    def on_host_gone(self, node: bytes, why: str) -> None:
        """A host is gone, or cut off for good; `why` in words."""
        books, peer = self._books, peer_of(node)
        books.table.drop_waits_of(peer)
        shade = b"gone" + self._next_number().to_bytes(12, "big")
        held = books.table.held_by(peer)
        for record in held:
            books.table.replace_holder(record, peer, shade)
        self.on_unreachable(node, why)
        books.deaths.on_host_gone(peer)
        if held:
            self.in_doubt(lambda: books.drop_holds(shade))

    def on_unreachable(self, node: bytes, why: str) -> None:
        """What was said to a host did not leave: it is gone. What it owns is lost. A repeat changes nothing, and costs
        next to nothing: it comes with each word to a host that is gone."""
        books, peer = self._books, peer_of(node)
        remember(self._away, peer, None, GONE_MAX)
        records = books.table.of_host(node)
        for record in records:
            record.borrowed = False
        self.borrows.on_owner_gone(peer, [record.id for record in records])
        for record in records:
            books.lose(record, books.gone.failure(record.id, f"its host is gone: {why} (peer {node.hex()})"))
        books.deaths.on_known()
        books.drop_holds(peer)  # of segments that were written here after it had gone

    def on_host_there(self, peer: bytes) -> None:
        """Another peer is there, maybe again: what lies there and is needed is held anew. A repeat changes nothing."""
        if peer not in self._away:
            return
        del self._away[peer]
        places = [place for peers in self._lodged.values() for place in peers.get(peer, ())]
        for first in range(0, len(places), PLACES_AT_ONCE):
            self._books.tell(peer, Lodged(places[first : first + PLACES_AT_ONCE]))

    def in_doubt(self, event: Callable[[], None]) -> None:
        """`event` happens when everybody has heard of everything."""
        number = self._next_number()
        self._later[number] = event
        self._books.emit(Later(number, self._config.doubt_s))

    def on_later(self, number: int) -> None:
        """The time of a `Later` has come."""
        self._later.pop(number)()

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    # -- for tests ---------------------------------------------------------------------------------------------------

    def left(self) -> str:
        """What is in these books, for tests that expect nothing; "" when they are empty."""
        return "; ".join(repr(book) for book in (self.borrows, self._lodged, self._later) if len(book))

    def check(self) -> None:
        """Assert that the books agree."""
        self.borrows.check()
        borrowed = 0
        for record in self._books.table.records.values():
            foreign = self.is_foreign(record.id)
            assert record.borrowed == (foreign and self.borrows.concerns(record.id)), repr(record)
            borrowed += record.borrowed
            if foreign and self.borrows.holds(record.id):
                assert record.pins or not record.holders <= {peer_of(record.owner)}, f"held for nobody: {record!r}"
        assert len(self.borrows.concerned()) == borrowed, "owners were told of others than are here"
