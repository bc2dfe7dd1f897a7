"""Envelopes between peers."""

from __future__ import annotations

import pytest

from meshray.ids import NODE_BYTES, OBJECT_BYTES
from meshray.wire.codec import decode
from meshray.wire.envelopes import ENVELOPE_BYTES, PIECE_HEAD_MAX_BYTES, enclose, enclosed, enclosed_piece, opened
from meshray.wire.messages import Piece, Place, ProcessDied

TO, FROM = b"t" * 16, b"f" * 16


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_is_enclosed_is_opened(kind: type) -> None:
    assert opened(kind(enclose(TO, FROM, b"data"))) == (TO, FROM, b"data")


def test_a_message_is_encoded_behind_its_envelope() -> None:
    message = ProcessDied(b"p" * 16)
    found = opened(enclosed(TO, FROM, message))
    assert found is not None
    assert (found[0], found[1], decode(found[2])) == (TO, FROM, message)


def test_a_piece_is_not_copied() -> None:
    place = Place(b"o" * OBJECT_BYTES, b"n" * NODE_BYTES, "segment", 100_000)
    piece = Piece(place, 0, memoryview(bytes(100_000)))
    payload = memoryview(bytes(enclosed(TO, FROM, piece)))
    found = opened(payload)
    assert found is not None
    read = decode(found[2])
    assert isinstance(read, Piece)
    assert read == piece
    assert read.data.obj is payload.obj


@pytest.mark.parametrize("size", [0, 1, 300, 100_000])
def test_room_for_a_piece_is_filled_behind_its_envelope(size: int) -> None:
    place = Place(b"o" * OBJECT_BYTES, b"n" * NODE_BYTES, "segment", 1 << 40)
    payload, room = enclosed_piece(TO, FROM, place, 1 << 33, size)
    room[:] = bytes(number % 251 for number in range(size))
    found = opened(payload)
    assert found is not None
    assert found[:2] == (TO, FROM)
    assert decode(found[2]) == Piece(place, 1 << 33, memoryview(bytes(number % 251 for number in range(size))))


def test_the_memory_of_a_piece_may_have_been_used_before() -> None:
    place = Place(b"o" * OBJECT_BYTES, b"n" * NODE_BYTES, "s" * 40, 1 << 60)
    used = memoryview(bytearray(b"x" * 10_000))
    payload, room = enclosed_piece(TO, FROM, place, 1 << 50, 9000, lambda size: used[:size])
    assert len(payload) <= 9000 + PIECE_HEAD_MAX_BYTES
    room[:] = b"y" * 9000
    found = opened(bytes(payload))
    assert found is not None
    assert decode(found[2]) == Piece(place, 1 << 50, memoryview(b"y" * 9000))


@pytest.mark.parametrize("size", [0, 1, ENVELOPE_BYTES])
def test_what_is_too_short_is_none(size: int) -> None:
    assert opened(bytes(size)) is None
