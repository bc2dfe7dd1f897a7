"""Messages between members to bytes and back: of membership, and of a change of keys. As strict as `wire.codec`, which
is for the union of one host."""

from __future__ import annotations

import msgspec

from meshray.wire.codec import ProtocolError
from meshray.wire.gossip import GossipMessage
from meshray.wire.rotation import RotationMessage

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[GossipMessage] = msgspec.msgpack.Decoder(GossipMessage)
_datagram_decoder: msgspec.msgpack.Decoder[GossipMessage | RotationMessage] = msgspec.msgpack.Decoder(
    GossipMessage | RotationMessage
)

encode_gossip = _encoder.encode
encode_datagram = _encoder.encode


def decode_gossip(data: bytes | memoryview) -> GossipMessage:
    """The message of membership in `data`.

    Raises `ProtocolError` when it is none.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not a message of membership: {error}") from error


def decode_datagram(data: bytes | memoryview) -> GossipMessage | RotationMessage:
    """The message in a datagram of another member.

    Raises `ProtocolError` when it is none.
    """
    try:
        return _datagram_decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not a message between members: {error}") from error
