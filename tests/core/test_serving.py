"""Which pieces can be sent now."""

from __future__ import annotations

from typing import Any

import pytest

from meshray.config import DEFAULT
from meshray.core.serving import Reading, Serving
from meshray.ids import object_of, peer_of
from meshray.wire import messages as m

A, B = (peer_of(letter * 8) for letter in (b"a", b"b"))
ONE, TWO = (m.Place(object_of(bytes(23) + bytes([n]), 0), b"maker---", f"ab-{n}", 100) for n in (1, 2))


class Peer:
    def __init__(self) -> None:
        self.here: dict[m.Place, tuple[str, int]] = {ONE: ("ab-1", 100), TWO: ("ab-2", 100)}
        self.open = {A, B}
        self.portion = 1 << 20
        self.core = Serving(DEFAULT, self.here.get)

    def pull(self, who: bytes, what: m.Place, offset: int, size: int = 10) -> None:
        self.core.on_pull(who, m.Pull(what, offset, size))

    def readings(self) -> list[tuple[bytes, str, int]]:
        found: list[Reading] = []
        while (reading := self.core.next(lambda peer: self.portion if peer in self.open else 0)) is not None:
            found.append(reading)
        return [(reading.to, reading.segment, reading.offset) for reading in found]

    def said(self) -> list[tuple[bytes, Any]]:
        return [(effect.to, effect.message) for effect in self.core.take_effects()]


@pytest.fixture
def peer() -> Peer:
    return Peer()


def test_askers_take_turns_and_each_gets_its_pieces_in_order(peer: Peer) -> None:
    for offset in (0, 10):
        peer.pull(A, ONE, offset)
    peer.pull(B, TWO, 0)
    assert peer.readings() == [(A, "ab-1", 0), (B, "ab-2", 0), (A, "ab-1", 10)]
    assert not peer.core.pending


def test_nothing_is_read_for_a_link_that_takes_nothing(peer: Peer) -> None:
    peer.open.discard(A)
    peer.pull(A, ONE, 0)
    peer.pull(B, ONE, 0)
    assert peer.readings() == [(B, "ab-1", 0)]
    peer.open.add(A)
    assert peer.readings() == [(A, "ab-1", 0)]


@pytest.mark.fault(29)
def test_over_a_slow_link_a_piece_goes_in_parts_and_in_order(peer: Peer) -> None:
    peer.pull(A, ONE, 0, 25)
    peer.pull(A, ONE, 25, 10)
    peer.pull(B, TWO, 0, 15)
    peer.portion = 10
    found: list[Reading] = []
    while (reading := peer.core.next(lambda peer_: peer.portion)) is not None:
        found.append(reading)
    sent = [(reading.to, reading.offset, reading.size) for reading in found]
    assert [each for each in sent if each[0] == A] == [(A, 0, 10), (A, 10, 10), (A, 20, 5), (A, 25, 10)]
    assert [each for each in sent if each[0] == B] == [(B, 0, 10), (B, 10, 5)]
    assert sent[:3] == [(A, 0, 10), (B, 0, 10), (A, 10, 10)], "they take turns"
    assert peer.core.served_bytes == 50


@pytest.mark.fault(44)
def test_a_copy_that_is_not_whole_serves_what_it_has(peer: Peer) -> None:
    peer.here[ONE] = ("ab-1", 15)
    for offset in (0, 10, 20):
        peer.pull(A, ONE, offset)
    peer.pull(A, TWO, 0)
    assert peer.readings() == [(A, "ab-1", 0), (A, "ab-2", 0)]
    peer.here[ONE] = ("ab-1", 30)
    assert peer.readings() == [(A, "ab-1", 10), (A, "ab-1", 20)]


def test_what_could_not_be_read_now_is_still_the_next(peer: Peer) -> None:
    for offset in (0, 10):
        peer.pull(A, ONE, offset)
    reading = peer.core.next(lambda asker: peer.portion)
    assert reading is not None
    peer.core.on_unread(reading)
    assert peer.core.served == peer.core.served_bytes == 0
    assert peer.readings() == [(A, "ab-1", 0), (A, "ab-1", 10)]
    last = Reading(A, ONE, "ab-1", 20, 10)
    peer.core.on_unread(last)
    assert peer.readings() == [(A, "ab-1", 20)]
    assert peer.said() == []


def test_what_is_not_here_any_more_is_said_once(peer: Peer) -> None:
    peer.pull(A, ONE, 0)
    peer.pull(A, TWO, 0)
    peer.pull(A, ONE, 10)
    del peer.here[ONE]
    assert peer.readings() == [(A, "ab-2", 0)]
    assert peer.said() == [(A, m.NoPiece(ONE))]


def test_too_much_and_beyond_the_end_is_refused(peer: Peer) -> None:
    peer.pull(A, ONE, 95)
    assert peer.said() == [(A, m.NoPiece(ONE))]
    for _ in range(DEFAULT.pulls_max + 1):
        peer.pull(A, ONE, 0)
    assert peer.said() == [(A, m.NoPiece(ONE))]
    assert len(peer.core) == DEFAULT.pulls_max


def test_nothing_is_sent_to_a_host_that_is_gone(peer: Peer) -> None:
    peer.pull(A, ONE, 0)
    peer.core.on_host_gone(A[:8])
    assert not peer.core.pending
