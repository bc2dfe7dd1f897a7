"""Handles in the journal: one per lease, one per caller of an actor; what is over gives its place back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from meshray.store import journal as journals
from meshray.wire.messages import Task
from meshray.worker.pushers import Pushers

CALLERS = [letter.encode() * 16 for letter in "ABC"]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[journals.Journal]:
    journals.create(tmp_path / "journal", 256 * 1024)
    journal = journals.Journal(tmp_path / "journal")
    yield journal
    journal.close()


def item(source: bytes, lease: int) -> tuple[bytes, int, Task]:
    return source, lease, Task(1, bytes(24), b"", b"")


def test_a_lease_keeps_its_handle_and_the_next_one_gets_another(journal: journals.Journal) -> None:
    pushers = Pushers(journal)
    pushers.on_push(CALLERS[0], 7, 0)
    first = pushers.handle(item(CALLERS[0], 7))
    pushers.on_push(CALLERS[0], 7, 1)
    assert pushers.handle(item(CALLERS[0], 7)) == first
    pushers.on_push(CALLERS[1], 8, 0)
    second = pushers.handle(item(CALLERS[1], 8))
    assert 0 != second != first
    assert pushers.handle(item(CALLERS[0], 7)) == 0, "a worker serves one lease at a time: the first is over"


@pytest.mark.parametrize("shared", [False, True])
def test_callers_of_an_actor_live_side_by_side(journal: journals.Journal, shared: bool) -> None:
    pushers = Pushers(journal)
    pushers.on_push(CALLERS[0], 0, 0)
    if shared:
        pushers.share()
    for caller in CALLERS[1:]:
        pushers.on_push(caller, 0, 0)
    handles = [pushers.handle_of_caller(caller) for caller in CALLERS]
    assert len(set(handles)) == 3
    assert all(handles)
    pushers.on_over(CALLERS[1])
    assert pushers.knows(CALLERS[0])
    assert not pushers.knows(CALLERS[1])
    assert pushers.handle_of_caller(CALLERS[1]) == 0
    assert pushers.handle_of_caller(CALLERS[2]) == handles[2]


def test_a_journal_that_is_not_shared_is_left_to_the_main_thread(journal: journals.Journal, tmp_path: Path) -> None:
    pushers = Pushers(journal)
    pushers.on_push(CALLERS[0], 0, 0)
    handle = pushers.handle_of_caller(CALLERS[0])
    journal.started(handle, 1)
    journal.finished(handle, 1, b"result")
    pushers.on_push(CALLERS[0], 0, 1)
    pushers.on_over(CALLERS[0])
    assert pushers.knows(CALLERS[1]) is False
    assert journals.read(tmp_path / "journal").finished, "whoever notes must not write"
    assert not pushers.handle_of_caller(CALLERS[0])
    assert not journals.read(tmp_path / "journal").finished


def test_what_was_acknowledged_is_not_in_the_journal_any_more(journal: journals.Journal, tmp_path: Path) -> None:
    pushers = Pushers(journal)
    pushers.on_push(CALLERS[0], 7, 0)
    handle = pushers.handle(item(CALLERS[0], 7))
    for seq in (1, 2, 3):
        journal.started(handle, seq)
        journal.finished(handle, seq, b"result")
    pushers.on_push(CALLERS[0], 7, 2)
    pushers.take_in()
    assert [seq for _, seq, _ in journals.read(tmp_path / "journal").finished] == [3]
