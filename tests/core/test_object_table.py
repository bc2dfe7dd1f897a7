"""The table of objects that a peer answers for."""

from __future__ import annotations

import pytest

from meshray.core.object_table import NEXT, ObjectTable, Record, Stage, unreachable

OWNER, HOLDER = b"owner-owner-owne", b"holder-holder-ho"


def object_id(number: int, owner: bytes = OWNER) -> bytes:
    return owner + number.to_bytes(8, "big") + b"\0\0\0\1"


class Table(ObjectTable):
    """With a list of what was freed, in order."""

    def __init__(self) -> None:
        self.freed: list[bytes] = []
        super().__init__(self._on_freed)

    def _on_freed(self, record: Record) -> None:
        self.freed.append(record.id)
        for inner in record.contained:
            self.unpin(self.records[inner])

    def settled(self, number: int, *contained: Record) -> Record:
        record = self.add(object_id(number))
        self.enter(record, Stage.PENDING, OWNER)
        self.enter(record, Stage.SETTLED)
        record.value = b"value"
        record.contained = tuple(inner.id for inner in contained)
        for inner in contained:
            self.pin(inner)
        return record


def test_every_pair_of_stages_that_is_not_in_the_table_is_an_error_that_tells_the_object() -> None:
    for stage, following in NEXT.items():
        for other in Stage:
            table = Table()
            record = table.add(object_id(1))
            record.stage = stage
            if other in following:
                table.enter(record, other)
            else:
                with pytest.raises(AssertionError, match=f"cannot become {other.value}: <{record.id.hex()}"):
                    table.enter(record, other)


def test_the_last_holder_frees_it() -> None:
    table = Table()
    record = table.settled(1)
    for process in (OWNER, HOLDER):
        table.add_holder(record, process)
    table.check()
    assert table.held_by(HOLDER) == table.owned_by(OWNER) == [record]
    table.drop_holder(record, OWNER)
    assert table.freed == []
    table.drop_holder(record, HOLDER)
    assert table.freed == [record.id]
    assert not table.owns_any(OWNER)
    table.check()


def test_a_container_frees_what_only_it_held() -> None:
    table = Table()
    record = table.settled(0)
    for number in range(1, 1000):  # deeper than any stack
        record = table.settled(number, record)
    table.add_holder(record, HOLDER)
    table.check()
    table.drop_holder(record, HOLDER)
    assert table.freed == [object_id(number) for number in reversed(range(1000))]
    assert not table.records


def test_what_is_pending_stays_until_it_is_resolved() -> None:
    table = Table()
    record = table.add(object_id(1))
    table.enter(record, Stage.PENDING, OWNER)
    table.add_holder(record, HOLDER)
    table.drop_holder(record, HOLDER)
    assert table.pending_of(OWNER) == [record]
    table.enter(record, Stage.SETTLED)
    record.value = b"value"
    table.tidy(record)
    assert table.freed == [record.id]


def test_what_was_only_asked_for_is_forgotten_with_the_question() -> None:
    table = Table()
    record = table.add(object_id(1))
    table.add_waiter(record, HOLDER)
    table.drop_waits_of(OWNER)
    assert table.records
    table.drop_waits_of(HOLDER)
    assert not table.records


def test_circles_are_found() -> None:
    table = Table()
    one = table.settled(1)
    two = table.settled(2, one)
    one.contained = (two.id,)
    table.pin(two)
    three = table.settled(3, two)
    table.add_holder(three, HOLDER)
    assert unreachable([one, two, three]) == []
    three.holders.clear()
    assert unreachable([one, two, three]) == [one, two, three]


def test_books_that_do_not_balance_are_errors() -> None:
    table = Table()
    record = table.settled(1)
    with pytest.raises(AssertionError, match="more often than pinned"):
        table.unpin(record)
    table.pin(record)
    with pytest.raises(AssertionError, match="by more actors"):
        table.unpin(record, root=True)
    with pytest.raises(AssertionError, match="by more tasks"):
        table.unpin_for_task(record)
