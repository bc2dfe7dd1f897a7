"""What goes through the streams between peers: `destination process (16) source process (16)`, then a message.

A peer reads the first 32 bytes. What follows it decodes only when it is the destination itself; else it passes it on
as it is. Pieces of large values go through here, and each copy of one costs as much as half of its encryption: so a
message is encoded behind its envelope, and one that came in a buffer is looked at there.
"""

from __future__ import annotations

from collections.abc import Callable

from meshray.ids import PROCESS_BYTES
from meshray.wire.codec import encode_into
from meshray.wire.messages import Message, Piece, Place

ENVELOPE_BYTES = 2 * PROCESS_BYTES

PIECE_HEAD_MAX_BYTES = 512
"""What stands before the data of a Piece: envelope, place, offset. (178 bytes, with the names that segments have.)"""

Memory = bytearray | memoryview

_NO_DATA = b"\xc4\x00"
"""How an encoded Piece without data ends: `bin 8` of MessagePack, and the length."""

_BIN_32 = b"\xc6"
"""Begins bytes whose length follows in four bytes, the highest first (MessagePack specification, "bin format")."""


def enclose(destination: bytes, source: bytes, data: bytes) -> bytes:
    """The payload for a stream, of what is encoded already."""
    return b"".join((destination, source, data))


def enclosed(destination: bytes, source: bytes, message: Message) -> bytearray:
    """The payload for a stream."""
    payload = bytearray(destination + source)
    encode_into(message, payload, ENVELOPE_BYTES)
    return payload


def enclosed_piece(
    destination: bytes, source: bytes, place: Place, offset: int, size: int, take: Callable[[int], Memory] = bytearray
) -> tuple[Memory, memoryview]:
    """The payload for a stream, with a Piece whose `size` bytes are to be written into the view before it is sent.
    `take(size)` gives the memory for it, with anything in it."""
    head = enclosed(destination, source, Piece(place, offset, memoryview(b"")))
    assert head.endswith(_NO_DATA), "the data of a Piece is its last field"
    head[-len(_NO_DATA) :] = _BIN_32 + size.to_bytes(4, "big")
    payload = take(len(head) + size)
    payload[: len(head)] = head
    return payload, memoryview(payload)[len(head) :]


def opened(payload: bytes | bytearray | memoryview) -> tuple[bytes, bytes, bytes | memoryview] | None:
    """Destination, source, the encoded message (a view, of a payload that is one); None for what is too short to be
    one."""
    if len(payload) <= ENVELOPE_BYTES:
        return None
    head = bytes(payload[:ENVELOPE_BYTES])
    rest = payload[ENVELOPE_BYTES:]
    return head[:PROCESS_BYTES], head[PROCESS_BYTES:], rest if isinstance(rest, memoryview) else bytes(rest)
