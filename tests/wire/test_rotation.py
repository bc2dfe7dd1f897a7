"""The messages of a change of keys against what anybody may send."""

from __future__ import annotations

import random
from typing import get_args

import msgspec
import pytest

from meshray.wire import gossip as g
from meshray.wire import rotation as r
from meshray.wire.codec import ProtocolError
from meshray.wire.gossip_codec import decode_datagram, decode_gossip, encode_datagram

SAMPLES = [
    r.GiveKey(1, b"the mesh", b"s" * 32),
    r.UseKey(2, b"new key "),
    r.WhichKeys(3),
    r.KeysHere(4, b"old key ", b"new key ", "why not"),
]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: r.RotationMessage) -> None:
    assert decode_datagram(encode_datagram(message)) == message
    with pytest.raises(ProtocolError):
        decode_gossip(encode_datagram(message))


def test_every_message_has_a_sample() -> None:
    assert {type(message) for message in SAMPLES} == set(get_args(r.RotationMessage))


def test_both_unions_have_tags_of_their_own() -> None:
    assert isinstance(decode_datagram(encode_datagram(g.Ping(1, 2))), g.Ping)


def test_a_secret_is_not_shown() -> None:
    assert "ssss" not in repr(SAMPLES[0])


@pytest.mark.fault(47)
@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_what_was_cut_off_or_scribbled_over_is_a_message_or_refused(message: r.RotationMessage) -> None:
    data = encode_datagram(message)
    for end in range(len(data)):
        with pytest.raises(ProtocolError):
            decode_datagram(data[:end])
    dice = random.Random(type(message).__name__)
    for _ in range(300):
        scribbled = bytearray(data)
        scribbled[dice.randrange(len(data))] = dice.randrange(256)
        try:
            decode_datagram(bytes(scribbled))
        except ProtocolError:
            continue


@pytest.mark.fault(47)
@pytest.mark.parametrize(
    "wrong",
    [[30, 1, b"the mesh", b"s" * 31], [30, 1, b"the mesh", b"s" * 33], [30, -1, b"", b"s" * 32], [31, 1, b"x" * 9],
     [33, 1, b"", b"", "x" * 501], [32, "1"], [34, 1]],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused(wrong: list[object]) -> None:
    with pytest.raises(ProtocolError):
        decode_datagram(msgspec.msgpack.encode(wrong))


@pytest.mark.fault(47)
def test_a_million_deep_is_refused() -> None:
    with pytest.raises(ProtocolError):
        decode_datagram(b"\x91" * 1_000_000)
