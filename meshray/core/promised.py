"""Who wants what a dead submitter had promised, and what becomes of it?

`core.adoption` makes it: it asks here for whom, and of what, and tells here what came of it.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol

from meshray.core.foreign_objects import ForeignObjects
from meshray.core.gone import Gone
from meshray.core.object_table import ObjectTable, Record, Stage
from meshray.wire.messages import Failure, Place


class Books(Protocol):
    """What `core.objects` has, and does with one object."""

    gone: Gone
    table: ObjectTable
    foreign: ForeignObjects

    def fill(self, record: Record, value: bytes | Place | Failure, contained: list[bytes]) -> None: ...
    def lose(self, record: Record, failure: Failure | None = None) -> None: ...


class Promised:
    """See the head of this file. A part of `Objects`."""

    def __init__(self, books: Books, attached: Set[bytes]) -> None:
        """`attached`: the living processes that count references, always as of now."""
        self._books = books
        self._attached = attached

    def is_wanted(self, object_id: bytes) -> bool:
        """Whether anybody holds it, or something that is held contains it."""
        record = self._books.table.records.get(object_id)
        return record is not None and bool(record.holders or record.pins or record.waiters)

    def is_wanted_by_the_living(self, object_id: bytes) -> bool:
        """The same without the holds of the dead that are not settled."""
        record = self._books.table.records.get(object_id)
        if record is None:
            return False
        if record.pins or record.waiters or not self._attached.isdisjoint(record.holders):
            return True
        return any(self._books.foreign.is_peer(holder) for holder in record.holders)

    def outcome_of(self, object_id: bytes) -> bytes | Place | Failure | None:
        """Its value, or why there will be none; None while it may come. b"" for what another host owns: whoever needs
        it asks for it."""
        record = self._books.table.records.get(object_id)
        if record is None:
            return self._books.gone.failure(object_id)
        if self._books.foreign.is_foreign(object_id) and record.value is None:
            return b""
        if record.stage is Stage.SEALED and record.owner not in self._attached:
            return self._books.gone.failure(object_id)
        return record.value

    def resolve(self, object_id: bytes, value: bytes | Place | Failure, contained: list[bytes]) -> None:
        """What a task of a dead submitter has made. The first value counts."""
        record = self._books.table.records.get(object_id)
        if record is not None and record.stage is Stage.PENDING:
            self._books.fill(record, value, contained)

    def give_up(self, object_id: bytes) -> None:
        """Nobody will make this pending object."""
        record = self._books.table.records.get(object_id)
        if record is not None and record.stage is Stage.PENDING:
            self._books.lose(record)
