"""The windows of a process towards those of other hosts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshray.runtime.abroad import Abroad
from meshray.runtime.engine import Engine
from meshray.transport.endpoint import Endpoint
from meshray.wire.codec import decode, encode
from meshray.wire.messages import RELAY_WINDOW_BYTES, Message, Relay, Relayed, RelayTaken, Result, Results

PEER = b"p" * 16
X, Y = b"x" * 16, b"y" * 16
MAX_BYTES = 8 << 20


class Sent:
    """An endpoint that keeps what it is given."""

    def __init__(self) -> None:
        self.relays: list[Relay] = []

    def send(self, destination: bytes, message: Message) -> None:
        assert destination == PEER
        assert isinstance(message, Relay)
        self.relays.append(message)


def message(number: int, size: int = 0) -> Results:
    return Results(number, [Result(0, [bytes(size)])])


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def abroad(sent: Sent) -> Abroad:
    return Abroad(cast(Endpoint, sent), PEER, MAX_BYTES)


def numbers(sent: Sent, destination: bytes) -> list[int]:
    said: list[Any] = [decode(relay.data) for relay in sent.relays if relay.destination == destination]
    return [each.lease for each in said]


def test_small_ones_leave_at_once(abroad: Abroad, sent: Sent) -> None:
    for number in range(100):
        abroad.send(X, message(number))
    assert numbers(sent, X) == list(range(100))
    assert abroad.waiting == 0


def test_what_is_beyond_the_window_waits_in_order_and_holds_up_nobody_else(abroad: Abroad, sent: Sent) -> None:
    for number in range(10):
        abroad.send(X, message(number, RELAY_WINDOW_BYTES // 4))
    left = len(numbers(sent, X))
    assert 2 <= left <= 4
    abroad.send(X, message(10))  # a small one does not overtake
    abroad.send(Y, message(0))
    assert numbers(sent, Y) == [0]
    while abroad.waiting:
        before = len(sent.relays)
        abroad.on_taken(RelayTaken(X, RELAY_WINDOW_BYTES // 2))
        assert len(sent.relays) > before
    assert numbers(sent, X) == list(range(11))


def test_a_message_larger_than_the_window_leaves_when_half_of_it_is_free(abroad: Abroad, sent: Sent) -> None:
    """What is below half a window may stay unsaid by the receiver's peer for ever."""
    abroad.send(X, message(0, RELAY_WINDOW_BYTES // 2 - 100))
    abroad.send(X, message(1, 3 * RELAY_WINDOW_BYTES))
    abroad.send(X, message(2, 3 * RELAY_WINDOW_BYTES))
    assert numbers(sent, X) == [0, 1]
    abroad.on_taken(RelayTaken(X, sum(len(relay.data) for relay in sent.relays)))
    assert numbers(sent, X) == [0, 1, 2]


def test_a_message_that_no_receiver_takes_is_refused_here(abroad: Abroad) -> None:
    too_much = message(0, MAX_BYTES)
    with pytest.raises(ValueError, match=f"a Results of {len(encode(too_much))} bytes to process {X.hex()} of another"):
        abroad.send(X, too_much)


def test_the_gone_are_forgotten_with_what_waits_for_them(abroad: Abroad, sent: Sent) -> None:
    for number in range(10):
        abroad.send(X, message(number, RELAY_WINDOW_BYTES // 4))
    abroad.heard(Y)
    abroad.forget(X)
    assert abroad.waiting == 0
    abroad.on_taken(RelayTaken(X, 1))
    assert abroad.forget_host(Y[:8]) == [Y]
    assert abroad.forget_host(Y[:8]) == []
    abroad.send(X, message(0))
    assert numbers(sent, X)[-1] == 0


def test_the_last_words_of_one_that_was_accounted_for_make_no_pair(abroad: Abroad) -> None:
    said: list[Any] = []
    engine = SimpleNamespace(peer=PEER, dead={X: None}, abroad=abroad, on_messages=said.extend)
    for process in (X, Y):
        Engine._on_relayed(cast(Engine, engine), PEER, Relayed(process, encode(message(1))))
    assert abroad.forget_host(X[:8]) == []
    assert abroad.forget_host(Y[:8]) == [Y]
