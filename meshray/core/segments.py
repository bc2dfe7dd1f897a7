"""Which objects lie in files here, and who has not told of one yet?

Theory. A file becomes known by its maker's `Sealed`. Others may be quicker, over other links:

- Its owner may release it: what is not known yet was released *early*. The segment is freed on arrival.
- Its owner may promote it, or a reader tell of its place: then it has a value in a file that is *unsealed* yet. When
  its maker dies, whose own word may be lost with it, the file is known by that of the others.
"""

from __future__ import annotations

from collections.abc import Set

from meshray.config import Config
from meshray.core.deaths import Deaths
from meshray.core.foreign_objects import ForeignObjects
from meshray.core.gone import remember
from meshray.core.object_table import ObjectTable, Record, Stage
from meshray.core.store_accounts import StoreAccounts, is_made_by
from meshray.wire.messages import Place, SealedSegment


class Segments:
    """See the head of this file. A part of `Objects`."""

    def __init__(
        self,
        config: Config,
        store: StoreAccounts,
        table: ObjectTable,
        foreign: ForeignObjects,
        deaths: Deaths,
        attached: Set[bytes],
    ) -> None:
        """`attached`: the living processes that count references, always as of now."""
        self._config = config
        self._store = store
        self._table = table
        self._foreign = foreign
        self._deaths = deaths
        self._attached = attached
        self.unsealed: dict[bytes, Place] = {}  # for reading: values with a place here whose segment is not known yet
        self._early: dict[bytes, None] = {}  # released before their segment was known; bounded, the oldest go

    def on_sealed(self, sender: bytes, sealed: SealedSegment) -> None:
        """A file was written; the sender is its maker, or tells for it."""
        if not self._store.on_sealed(sender, sealed):
            return
        place = self.unsealed.get(sealed.object_id)
        if place is not None and place.segment == sealed.segment:
            del self.unsealed[sealed.object_id]
        record = self._table.records.get(sealed.object_id) or self._table.add(sealed.object_id)
        self._foreign.look_again(record)
        if record.stage is Stage.EXPECTED:
            self._table.enter(record, Stage.SEALED)
            if self._foreign.is_foreign(record.id):
                self._foreign.lodge(record, sealed)
            else:
                self.count_owner(record)
        self._table.tidy(record)

    def count_owner(self, record: Record) -> None:
        """The owner of a segment holds it, unless it has let go already."""
        if record.id in self._early:
            del self._early[record.id]
        elif record.owner in self._attached or record.owner in self._deaths:
            self._table.add_holder(record, record.owner)

    def on_early_release(self, object_id: bytes) -> None:
        """It is let go of before the word of its maker has come, or of another one that may have made it, too."""
        remember(self._early, object_id, None, self._config.early_messages_max)

    # -- told of by others than their maker --------------------------------------------------------------------------

    def on_place(self, object_id: bytes, place: Place) -> None:
        """It has a value in a file here that is not known."""
        self.unsealed[object_id] = place

    def expect(self, place: Place) -> None:
        """A segment of this host, of which its maker has not told yet; or never will, since it is dead. Or one whose
        owner's host was away."""
        if self._store.has(place.segment, place.object_id, place.size):
            record = self._table.records[place.object_id]
            if record.stage is Stage.EXPECTED:
                self._table.enter(record, Stage.SEALED)
            return
        if self._store.knows_segment(place.segment):
            return
        maker = next((process for process in self._deaths if is_made_by(place.segment, process)), b"")
        if maker:
            self.on_sealed(maker, SealedSegment(place.object_id, place.segment, place.size, place.size, maker))
        else:
            self.unsealed[place.object_id] = place

    def adopt(self, maker: bytes) -> None:
        """Files of a dead process that hold living objects, and of which its own word was lost with it."""
        adopted = [
            SealedSegment(object_id, place.segment, place.size, place.size, maker)
            for object_id, place in self.unsealed.items()
            if is_made_by(place.segment, maker)
        ]
        for sealed in adopted:
            self.on_sealed(maker, sealed)

    def on_unsealed_free(self, object_id: bytes) -> None:
        """An object has ended whose file is not known yet."""
        del self.unsealed[object_id]
