"""Envelopes between peers."""

from __future__ import annotations

import pytest

from meshray.ids import NODE_BYTES, OBJECT_BYTES
from meshray.wire.codec import ProtocolError, decode
from meshray.wire.envelopes import ENVELOPE_BYTES, enclose, enclosed, enclosed_piece, opened, with_blocks
from meshray.wire.messages import Piece, Place, ProcessDied
from meshray.wire.peers import Blocks

TO, FROM = b"t" * 16, b"f" * 16


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_is_enclosed_is_opened(kind: type) -> None:
    assert opened(kind(enclose(TO, FROM, b"data"))) == (TO, FROM, b"data", ())


def test_a_message_is_encoded_behind_its_envelope() -> None:
    message = ProcessDied(b"p" * 16)
    found = opened(enclosed(TO, FROM, message))
    assert found is not None
    assert (found[0], found[1], decode(found[2])) == (TO, FROM, message)


def test_the_data_of_a_piece_is_not_copied() -> None:
    place = Place(b"o" * OBJECT_BYTES, b"n" * NODE_BYTES, "segment", 1 << 40)
    blocks = [memoryview(bytes([number]) * 100_000) for number in range(3)]
    payload = enclosed_piece(TO, FROM, place, 1 << 33, blocks)
    assert len(payload.message) < 200, "what leads the data is small"
    assert len(payload) == len(payload.message) + 300_000
    found = opened(Blocks(memoryview(bytes(payload.message)), payload.blocks))
    assert found is not None
    assert found[:2] == (TO, FROM)
    read = with_blocks(decode(found.data), found.blocks)
    assert read == Piece(place, 1 << 33, blocks)
    assert isinstance(read, Piece)
    assert all(mine.obj is given.obj for mine, given in zip(read.data, blocks, strict=True))


def test_a_piece_may_come_in_one_frame_as_well() -> None:
    piece = Piece(
        Place(b"o" * OBJECT_BYTES, b"n" * NODE_BYTES, "segment", 9), 0, [memoryview(b"some"), memoryview(b"")]
    )
    found = opened(enclosed(TO, FROM, piece))
    assert found is not None
    assert with_blocks(decode(found.data), found.blocks) == piece


@pytest.mark.fault(48)
def test_no_other_message_has_blocks() -> None:
    found = opened(Blocks(enclosed(TO, FROM, ProcessDied(b"p" * 16)), (b"block",)))
    assert found is not None
    with pytest.raises(ProtocolError, match="1 blocks behind a ProcessDied"):
        with_blocks(decode(found.data), found.blocks)


@pytest.mark.parametrize("size", [0, 1, ENVELOPE_BYTES])
def test_what_is_too_short_is_none(size: int) -> None:
    assert opened(bytes(size)) is None
    assert opened(Blocks(bytes(size), (bytes(100),))) is None
