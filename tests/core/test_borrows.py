"""What is said to the owners of other hosts' references, and when processes here are answered."""

from __future__ import annotations

from typing import Any

import pytest

from meshray.core.borrows import Borrows
from meshray.ids import object_of, peer_of
from meshray.wire import messages as m

NEAR, FAR, OTHER = b"near----", b"far-----", b"other---"
A, B = NEAR + b"a-------", NEAR + b"b-------"


def oid(node: bytes, number: int = 1) -> bytes:
    return object_of(node + b"maker---" + number.to_bytes(8, "big"), 0)


X, Y, Z = oid(FAR, 1), oid(FAR, 2), oid(OTHER, 3)


class Said:
    """The core, and what it said since the last look."""

    def __init__(self) -> None:
        self._said: list[tuple[bytes, Any]] = []
        self.core = Borrows(lambda to, message: self._said.append((to, message)))

    def look(self) -> list[tuple[bytes, Any]]:
        self.core.check()
        said, self._said = self._said, []
        return said


@pytest.fixture
def said() -> Said:
    return Said()


def test_a_process_is_answered_when_the_owner_knows(said: Said) -> None:
    said.core.hold([X], A, 7)
    assert said.look() == [(peer_of(FAR), m.Hold(1, [X]))]
    said.core.hold([X], B, 8)
    assert said.look() == []  # one question is enough, and nobody is answered before its answer
    said.core.on_hold_done(peer_of(FAR), 1)
    assert said.look() == [(A, m.HoldDone(7)), (B, m.HoldDone(8))]
    said.core.hold([X], B, 9)
    assert said.look() == [(B, m.HoldDone(9))]  # known


def test_a_hold_of_several_owners_is_answered_when_all_know(said: Said) -> None:
    said.core.hold([X, Z, Y], A, 7)
    assert said.look() == [(peer_of(FAR), m.Hold(1, [X, Y])), (peer_of(OTHER), m.Hold(2, [Z]))]
    said.core.on_hold_done(peer_of(OTHER), 2)
    assert said.look() == []
    said.core.on_hold_done(peer_of(FAR), 1)
    assert said.look() == [(A, m.HoldDone(7))]


def test_an_answer_to_an_older_hold_says_nothing_about_a_newer_one(said: Said) -> None:
    said.core.hold([X], A, 7)
    said.core.release(X)  # A has let go before the answer came
    said.core.hold([X], B, 8)
    assert [message for _, message in said.look()] == [m.Hold(1, [X]), m.Release([X]), m.Hold(2, [X])]
    said.core.on_hold_done(peer_of(FAR), 1)
    assert said.look() == [(A, m.HoldDone(7))]
    said.core.on_hold_done(peer_of(FAR), 1)  # a repeat
    said.core.on_hold_done(peer_of(OTHER), 2)  # not its to answer
    assert said.look() == []
    said.core.on_hold_done(peer_of(FAR), 2)
    assert said.look() == [(B, m.HoldDone(8))]


@pytest.mark.fault(5)
def test_nobody_waits_for_an_owner_that_is_gone(said: Said) -> None:
    said.core.hold([X, Z], A, 7)
    mark = said.core.mark()
    said.look()
    said.core.on_owner_gone(peer_of(FAR), [X, Y])
    assert said.look() == []
    assert not said.core.is_known(mark)
    assert not said.core.holds(X)
    said.core.on_hold_done(peer_of(OTHER), 2)
    assert said.look() == [(A, m.HoldDone(7))]
    assert said.core.is_known(mark)
    said.core.release(X)
    assert said.look() == []  # nothing is said of it any more
    said.core.hold([X], A, 8)  # it is there again
    assert said.look() == [(peer_of(FAR), m.Hold(3, [X]))]


def test_marks_are_known_in_order(said: Said) -> None:
    said.core.hold([X])
    first = said.core.mark()
    said.core.hold([Z])
    second = said.core.mark()
    said.core.on_hold_done(peer_of(OTHER), 2)
    assert not said.core.is_known(first)
    assert not said.core.is_known(second)
    said.core.on_hold_done(peer_of(FAR), 1)
    assert said.core.is_known(second)


def test_values_are_asked_for_once(said: Said) -> None:
    said.core.fetch([X, Z])
    said.core.fetch([X, Y])
    assert said.look() == [
        (peer_of(FAR), m.Fetch([X])), (peer_of(OTHER), m.Fetch([Z])), (peer_of(FAR), m.Fetch([Y]))
    ]  # fmt: skip
    assert said.core.on_fetched(m.Promoted(X, b"x"))
    assert not said.core.on_fetched(m.Promoted(X, b"x"))
    said.core.forget(Y)
    said.core.forget(Y)
    assert said.look() == [(peer_of(FAR), m.Forget([Y]))]
    assert not said.core.on_fetched(m.Promoted(Y, b"y"))
    assert said.core.concerns(Z)
    said.core.on_owner_gone(peer_of(OTHER), [Z])
    assert not said.core.concerns(Z)


def test_the_place_that_is_lost_is_no_answer(said: Said) -> None:
    gone, other = (m.Place(X, node, "ab", 9) for node in (b"gone----", b"other---"))
    said.core.fetch([X])
    said.core.refetch(gone)
    said.core.refetch(gone)
    assert said.look() == [(peer_of(FAR), m.Fetch([X])), (peer_of(FAR), m.Refetch([gone]))]
    assert not said.core.on_fetched(m.Promoted(X, gone)), "the answer to the first question"
    assert said.core.on_fetched(m.Promoted(X, other))
    said.core.refetch(other)
    assert said.look() == [(peer_of(FAR), m.Refetch([other]))]
    assert said.core.on_fetched(m.Promoted(X, m.Failure("ObjectLostError", "lost")))
