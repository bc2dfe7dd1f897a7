"""What goes through the streams between peers: `destination process (16) source process (16)`, then a message.

A peer reads the first 32 bytes. What follows it decodes only when it is the destination itself; else it passes it on
as it is. Pieces of large values go through here, and each copy of one costs as much as half of its encryption: so a
message is encoded behind its envelope, and one that came in a buffer is looked at there.
"""

from __future__ import annotations

from meshray.ids import PROCESS_BYTES
from meshray.wire.codec import encode_into
from meshray.wire.messages import Message

ENVELOPE_BYTES = 2 * PROCESS_BYTES


def enclose(destination: bytes, source: bytes, data: bytes) -> bytes:
    """The payload for a stream, of what is encoded already."""
    return b"".join((destination, source, data))


def enclosed(destination: bytes, source: bytes, message: Message) -> bytearray:
    """The payload for a stream."""
    payload = bytearray(destination + source)
    encode_into(message, payload, ENVELOPE_BYTES)
    return payload


def opened(payload: bytes | bytearray | memoryview) -> tuple[bytes, bytes, bytes | memoryview] | None:
    """Destination, source, the encoded message (a view, of a payload that is one); None for what is too short to be
    one."""
    if len(payload) <= ENVELOPE_BYTES:
        return None
    head = bytes(payload[:ENVELOPE_BYTES])
    rest = payload[ENVELOPE_BYTES:]
    return head[:PROCESS_BYTES], head[PROCESS_BYTES:], rest if isinstance(rest, memoryview) else bytes(rest)
