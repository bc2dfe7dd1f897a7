"""What goes through the streams between peers: `destination process (16) source process (16)`, then a message.

A peer reads the first 32 bytes. What follows it decodes only when it is the destination itself; else it passes it on
as it is.
"""

from __future__ import annotations

from meshray.ids import PROCESS_BYTES

ENVELOPE_BYTES = 2 * PROCESS_BYTES


def enclose(destination: bytes, source: bytes, data: bytes) -> bytes:
    """The payload for a stream."""
    return b"".join((destination, source, data))


def opened(payload: bytes | bytearray | memoryview) -> tuple[bytes, bytes, bytes] | None:
    """Destination, source, the encoded message; None for what is too short to be one."""
    if len(payload) <= ENVELOPE_BYTES:
        return None
    view = memoryview(payload)
    head = bytes(view[:ENVELOPE_BYTES])
    return head[:PROCESS_BYTES], head[PROCESS_BYTES:], bytes(view[ENVELOPE_BYTES:])
