"""Messages between peers to bytes and back: typed and bounded, as `codec` does for those of one host."""

from __future__ import annotations

import msgspec

from meshray.ids import NODE_BYTES
from meshray.wire.codec import ProtocolError
from meshray.wire.peers import ENVELOPE_BYTES, PeerMessage

_encode_into = msgspec.msgpack.Encoder().encode_into
_decoder: msgspec.msgpack.Decoder[PeerMessage] = msgspec.msgpack.Decoder(PeerMessage)


def pack(destination: bytes, source: bytes, message: PeerMessage) -> bytearray:
    """The first frame of a message."""
    head = bytearray(destination + source)
    _encode_into(message, head, ENVELOPE_BYTES)
    return head


def unpack(head: bytes | memoryview) -> tuple[bytes, bytes, PeerMessage]:
    """Destination, source and message of a first frame. Raises `ProtocolError` when it is none."""
    if len(head) <= ENVELOPE_BYTES:
        raise ProtocolError(f"a frame of {len(head)} bytes")
    try:
        message = _decoder.decode(memoryview(head)[ENVELOPE_BYTES:])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not a message between peers: {error}") from error
    return bytes(head[:NODE_BYTES]), bytes(head[NODE_BYTES:ENVELOPE_BYTES]), message
