"""What running tasks have submitted."""

from __future__ import annotations

from meshray.core.records import Record
from meshray.worker.children import CHILDREN_MAX, Children

PARENT, OTHER = b"p" * 24, b"o" * 24


def test_children_are_remembered_until_their_task_is_over() -> None:
    children = Children({})
    children.note(PARENT, [b"1", b"2"])
    children.note(PARENT, [b"3"])
    children.note(OTHER, [b"4"])
    assert children.of(PARENT) == [b"1", b"2", b"3"]
    children.forget(PARENT)
    assert children.of(PARENT) == []
    assert children.of(OTHER) == [b"4"]


def test_those_that_have_ended_are_left_out_when_there_are_many() -> None:
    """A task that submits for ever keeps no more than what is still to come."""
    pending = Record(b"pending", True, 1, task=object())
    table = {b"pending": pending, b"done": Record(b"done", True, 1)}
    children = Children(table)
    children.note(PARENT, [b"pending"])
    for _ in range(10 * CHILDREN_MAX):
        children.note(PARENT, [b"done"])
    assert len(children.of(PARENT)) <= 2 * CHILDREN_MAX
    assert children.of(PARENT)[0] == b"pending"


def test_a_large_task_makes_no_other_one_remember_more() -> None:
    pending = {str(number).encode(): Record(b"", True, 1, task=object()) for number in range(10 * CHILDREN_MAX)}
    children = Children(pending)
    children.note(OTHER, list(pending))
    for _ in range(3 * CHILDREN_MAX):
        children.note(PARENT, [b"done"])
    assert len(children.of(PARENT)) <= CHILDREN_MAX
