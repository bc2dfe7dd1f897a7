"""Messages to bytes and back: one long-lived encoder and decoder per process, typed and bounded.

The decoder is strict: a wrong type, an unknown tag, an id of the wrong length or a nesting beyond the schema is a
`ProtocolError`, never a half-built message. The schema has no recursive types, so nesting is bounded by it.
"""

from __future__ import annotations

import msgspec

from meshray.wire.messages import Message


class ProtocolError(Exception):
    """Bytes from outside that are no message of this protocol. The sender is at fault."""


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)

encode = _encoder.encode
encode_into = _encoder.encode_into


def decode(data: bytes | memoryview) -> Message:
    """The message in `data`.

    Raises `ProtocolError` when it is none.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not a message: {error}") from error
