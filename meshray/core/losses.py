"""What does the peer of an owner do when every copy of a value is lost?

Somebody could not have a value from any host, and says so (`Refetch`). The peer asks the process that owns it to make
another one (`Remake`), and the record is PENDING meanwhile: who asks now or has asked waits, as for a task that has
not run yet. The owner answers with another value; with the same place, when this host could have a copy, which serves
others (`Promoted.copied`); or with the very place that is lost, when it has nothing to make it
of: then the record is as it was, since somebody else may still reach that place, and those who waited get an error.

An owner may find out by itself, and say of its own accord what came of it. Another value counts for all. A failure
takes the place from nobody, and is what those hear who find it lost later: the owner may have let go of the object by
then, and keeps nothing of it that it cannot make again.

What was replaced meanwhile is answered at once. Only the process that owns an object knows what made it, so when that
has ended the value is lost; of a task that was promoted while it was pending its peer had known (`core.adoption`), but
forgets it with the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from meshray.core.foreign_objects import ForeignObjects
from meshray.core.gone import Gone, by_id, freed
from meshray.core.object_table import ObjectTable, Record, Stage
from meshray.wire.messages import Failure, Fetched, Message, OutOfScope, Place, Promoted, Refetch, Remake


class Books(Protocol):
    """What `core.objects` has, and does with one object."""

    gone: Gone
    table: ObjectTable
    foreign: ForeignObjects
    called: Callable[[bytes], str]

    def tell(self, process: bytes, message: Message) -> None: ...
    def refuses(self, sender: bytes, peers: bool = False) -> bool: ...
    def accepts(self, process: bytes) -> bool: ...
    def is_attached(self, process: bytes) -> bool: ...
    def look_up(self, object_id: bytes) -> Record: ...
    def lose(self, record: Record, failure: Failure | None = None) -> None: ...
    def contents(self, record: Record) -> list[bytes]: ...


class Losses:
    """See the head of this file."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def on_refetch(self, sender: bytes, message: Refetch) -> None:
        """These places lead to nothing any more, and the sender needs the values."""
        books = self._books
        if books.refuses(sender, peers=True):
            return
        for place in message.places:
            if not books.foreign.is_foreign(place.object_id):
                self._on_lost(sender, place)
            elif books.is_attached(sender):
                self._ask_owner(sender, place)

    def _ask_owner(self, sender: bytes, place: Place) -> None:
        """A process of this host needs a value of another one."""
        record = self._books.look_up(place.object_id)
        if record.value is not None:  # its owner's host is gone
            self._answer(sender, record, record.value)
            return
        self._books.table.add_waiter(record, sender)
        record.borrowed = True
        self._books.foreign.borrows.refetch(place)

    def _on_lost(self, sender: bytes, place: Place) -> None:
        books = self._books
        record = books.look_up(place.object_id)
        if not books.is_attached(sender):
            books.foreign.expect(record)
        if record.stage is Stage.EXPECTED and record.owner == sender:
            books.lose(record, freed(record.id))
        owned = books.accepts(record.owner)
        value: Any = record.value
        if record.stage is Stage.SEALED:
            value = None if owned else books.gone.failure(record.id)
        elif value == place:
            value = None if owned else record.unmade or _orphaned(place, books.called)
        if value is not None:
            self._answer(sender, record, value)
            return
        books.table.add_waiter(record, sender)
        if record.stage is Stage.SETTLED:
            books.table.enter(record, Stage.PENDING, submitter=record.owner)
            record.value = None
        elif record.stage is not Stage.SEALED:
            return  # its value is on its way
        record.lost = place
        books.tell(record.owner, Remake([place]))

    def _answer(self, sender: bytes, record: Record, value: Any) -> None:
        contained = self._books.contents(record) if value == record.value else []
        self._books.tell(sender, Fetched([Promoted(record.id, value, contained)]))
        self._books.table.tidy(record)

    def on_free(self, record: Record) -> None:
        """An object of ours has ended: its owner need not be able to make it again."""
        if record.lasting and self._books.is_attached(record.owner):
            self._books.tell(record.owner, OutOfScope([record.id]))


NOT_AGAIN = (
    "its owner has nothing to make it again of: it was put, an actor made it, or its task may not be retried "
    "(max_retries)"
)


def hopeless(place: Place, called: Callable[[bytes], str] = by_id) -> Failure:
    """The owner has nothing to make it again of. `called(node)`: what people call a host."""
    return _failure(place, NOT_AGAIN, called)


def not_again(failure: Failure) -> Failure:
    """The story of a loss, and that its owner can do nothing about it."""
    if NOT_AGAIN in failure.message:
        return failure
    return msgspec.structs.replace(failure, message=f"{failure.message}. It is not made again: {NOT_AGAIN}")


def _orphaned(place: Place, called: Callable[[bytes], str]) -> Failure:
    return _failure(place, "the process that submitted its task, and could do so once more, has ended", called)


def _failure(place: Place, why_not: str, called: Callable[[bytes], str]) -> Failure:
    text = (
        f"object {place.object_id.hex()} is lost: no host has what lay on {called(place.node)} any more, and {why_not}"
    )
    details = {"object_id": place.object_id.hex(), "node": place.node.hex()}
    return Failure("ObjectLostError", text, details=details)
