"""What goes through the streams between peers: `destination process (16) source process (16)`, then a message.

A peer reads the first 32 bytes. What follows it decodes only when it is the destination itself; else it passes it on
as it is. Pieces of large values go through here, and each copy of one costs as much as half of its encryption: so a
message is encoded behind its envelope, and one that came in a buffer is looked at there.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshray.ids import PROCESS_BYTES
from meshray.wire.codec import ProtocolError, encode_into
from meshray.wire.messages import Message, Piece, Place
from meshray.wire.peers import Block, Blocks, Letter, Payload

ENVELOPE_BYTES = 2 * PROCESS_BYTES


def enclose(destination: bytes, source: bytes, data: bytes) -> bytes:
    """The payload for a stream, of what is encoded already."""
    return b"".join((destination, source, data))


def enclosed(destination: bytes, source: bytes, message: Message) -> bytearray:
    """The payload for a stream."""
    payload = bytearray(destination + source)
    encode_into(message, payload, ENVELOPE_BYTES)
    return payload


def enclosed_piece(destination: bytes, source: bytes, place: Place, offset: int, blocks: Iterable[Block]) -> Blocks:
    """The payload for a stream, with a Piece whose data are these."""
    return Blocks(enclosed(destination, source, Piece(place, offset, [])), tuple(blocks))


def opened(payload: Payload) -> Letter | None:
    """None for what is too short to be one."""
    first, blocks = (payload.message, payload.blocks) if isinstance(payload, Blocks) else (payload, ())
    if len(first) <= ENVELOPE_BYTES:
        return None
    head, rest = bytes(first[:ENVELOPE_BYTES]), first[ENVELOPE_BYTES:]
    data = rest if isinstance(rest, memoryview) else bytes(rest)
    return Letter(head[:PROCESS_BYTES], head[PROCESS_BYTES:], data, blocks)


def with_blocks(message: Message, blocks: tuple[Block, ...]) -> Message:
    """A message that came with these. Raises `ProtocolError` for one that has none."""
    if blocks:
        if not isinstance(message, Piece):
            raise ProtocolError(f"{len(blocks)} blocks behind a {type(message).__name__}")
        message.data += map(memoryview, blocks)
    return message
