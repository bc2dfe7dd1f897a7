"""Messages to bytes and back: one long-lived encoder and decoder per process, typed and bounded.

The decoder is strict: a wrong type, an unknown tag, an id of the wrong length or a nesting beyond the schema is a
`ProtocolError`, never a half-built message. The schema has no recursive types, so nesting is bounded by it.
"""

from __future__ import annotations

import msgspec

from meshray.wire.messages import Message, Result


class ProtocolError(Exception):
    """Bytes from outside that are no message of this protocol. The sender is at fault."""


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)

_outcomes = msgspec.msgpack.Decoder(Result)
_anything = msgspec.msgpack.Decoder()

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


def outcome_of(written: bytes, seq: int) -> Result:
    """What a worker has written down of attempt `seq`: its `Result`, encoded; or, where there is nothing more to say,
    its small value alone, in the encoded form of `payload`, which never begins as a `Result` does.

    Raises `ProtocolError` when it is neither.
    """
    first = written[0] if written else 0xC1
    try:
        if first & 0xF0 == 0x90:  # a short array
            return _outcomes.decode(written)
        if first != 0x80:  # no pickle, which is for others to read
            _anything.decode(written)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not the outcome of an attempt: {error}") from error
    return Result(seq, [written])
