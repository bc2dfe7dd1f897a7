"""Messages of membership to bytes and back. As strict as `wire.codec`, which is for the other union."""

from __future__ import annotations

import msgspec

from meshray.wire.codec import ProtocolError
from meshray.wire.gossip import GossipMessage

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[GossipMessage] = msgspec.msgpack.Decoder(GossipMessage)

encode_gossip = _encoder.encode


def decode_gossip(data: bytes | memoryview) -> GossipMessage:
    """The message in `data`.

    Raises `ProtocolError` when it is none.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not a message of membership: {error}") from error
