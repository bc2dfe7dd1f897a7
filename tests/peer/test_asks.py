"""What stands before the table of messages."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from meshray.peer.dispatch import Dispatcher
from meshray.peer.processes import Kind
from meshray.wire.messages import Answer, Ask, Wake

SOURCE = b"x" * 16


@pytest.fixture
def sent() -> list[tuple[bytes, Any]]:
    return []


@pytest.fixture
def dispatcher(sent: list[tuple[bytes, Any]]) -> Dispatcher:
    """One that knows two messages, and fails with both."""

    def fail(source: bytes, message: object, now: float) -> None:
        raise ValueError("a mistake of ours")

    made = object.__new__(Dispatcher)
    endpoint = SimpleNamespace(send=lambda to, message: sent.append((to, message)))
    processes = {SOURCE: SimpleNamespace(kind=Kind.DRIVER)}
    made._parts = SimpleNamespace(counters=Counter(), endpoint=endpoint, processes=processes)  # type: ignore[assignment]
    made._table = {Ask: fail, Wake: fail}
    return made


def test_a_question_that_fails_is_answered_all_the_same(
    dispatcher: Dispatcher, sent: list[tuple[bytes, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    dispatcher.dispatch(SOURCE, Ask(7, "nodes"), 0.0)
    ((to, answer),) = sent
    assert isinstance(answer, Answer)
    assert (to, answer.request) == (SOURCE, 7)
    assert answer.failure is not None
    assert "the log of the peer" in answer.failure.message
    assert "a mistake of ours" in capsys.readouterr().err


def test_what_fails_is_counted_and_logged(
    dispatcher: Dispatcher, sent: list[tuple[bytes, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    dispatcher.dispatch(SOURCE, Wake(), 0.0)
    assert dispatcher._parts.counters == {"failed handlers": 1}
    assert sent == []
    assert "a mistake of ours" in capsys.readouterr().err
