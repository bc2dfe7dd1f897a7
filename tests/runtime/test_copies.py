"""How long a process uses the copy of a value that lies on another host."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from meshray.runtime.copies import Copies, Loans, NotHere, foreign
from meshray.wire.messages import Bring, Brought, Failure, Place, Unused

PEER = b"here----" + bytes(8)
PLACE = Place(bytes(28), b"there---", "abcdabcdabcdabcd-1", 100)
LOCAL = Place(bytes(28), b"here----", "0000000000000000-1", 100)


class Engine:
    """What `Copies` needs of one."""

    def __init__(self) -> None:
        self.peer = PEER
        self.sent: list[Any] = []
        self.replies: list[Any] = []
        self.forgotten: list[str] = []
        self.store = SimpleNamespace(forget=self.forgotten.append)
        self.woken = 0
        self.copies = Copies(self)  # type: ignore[arg-type]

    def request(self, make: Any, reply: Any) -> int:
        self.replies.append(reply)
        self.sent.append(make(len(self.replies)))
        return len(self.replies)

    def send(self, destination: bytes, message: Any) -> None:
        assert destination == PEER
        self.sent.append(message)

    def ask(self) -> Loans:
        loans = Loans(self.copies)
        self.copies.ask([PLACE], loans, self.wake)
        return loans

    def wake(self) -> None:
        self.woken += 1

    def answer(self, failure: Failure | None = None) -> None:
        self.replies.pop(0)(Brought(1, None if failure else LOCAL, failure))

    def unused(self) -> bool:
        """Whether the peer was told since the last look."""
        self.copies.drain()
        told = Unused([LOCAL.segment]) in self.sent
        self.sent.clear()
        return told


@pytest.fixture
def engine() -> Engine:
    return Engine()


def test_it_is_used_until_the_last_view_is_gone(engine: Engine) -> None:
    with pytest.raises(NotHere):
        engine.copies.at_hand(PLACE)
    loans = engine.ask()
    assert engine.sent == [Bring(1, PLACE)]
    engine.answer()
    assert engine.woken == 1
    assert engine.copies.at_hand(PLACE) == LOCAL
    engine.copies.events.append((PLACE, 1))  # a view
    loans.end()
    assert not engine.unused()
    engine.copies.events.append((PLACE, -1))
    assert engine.unused()
    assert engine.forgotten == [LOCAL.segment]
    assert len(engine.copies) == 0


def test_an_answer_that_is_on_its_way_counts(engine: Engine) -> None:
    """The peer has counted it already: what is said now would end that use, too."""
    first = engine.ask()
    engine.answer()
    second = engine.ask()
    first.end()
    assert not engine.unused()
    engine.answer()
    second.end()
    assert engine.unused()


def test_whoever_has_given_up_uses_nothing(engine: Engine) -> None:
    loans = engine.ask()
    loans.end()  # a timeout, or Ctrl-C
    assert not engine.unused()
    engine.answer()
    assert engine.unused()


def test_a_loan_that_ends_while_its_copy_comes_ends_once(engine: Engine) -> None:
    """One thread gives up between any two steps of the one that is told of the copy."""

    class Places(list[Place]):
        def append(self, place: Place) -> None:
            loans.end()
            super().append(place)

    loans = engine.ask()
    loans._places = Places()
    engine.answer()
    loans.end()
    assert list(engine.copies.events) == [(PLACE, -1)]
    assert engine.unused()


def test_what_cannot_be_had_is_told(engine: Engine) -> None:
    loans = engine.ask()
    engine.answer(Failure("ObjectLostError", "gone"))
    assert [failure.kind for failure in loans.failures] == ["ObjectLostError"]
    with pytest.raises(NotHere):
        engine.copies.at_hand(PLACE)
    assert len(engine.copies) == 0
    assert not engine.unused()


def test_only_places_of_other_hosts_are_foreign() -> None:
    assert foreign([PLACE, LOCAL, b"small", PLACE, None], b"here----") == [PLACE]
