"""The messages of membership against what anybody may send."""

from __future__ import annotations

import random
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshray.wire import gossip as g
from meshray.wire.codec import ProtocolError
from meshray.wire.gossip_codec import decode_gossip, encode_gossip

A, B = b"a" * 8, b"b" * 8
ALIVE = g.Alive(A, 3, "host", ("10.0.0.1:7117", "[fe80::1]:7117"), "3.11", 2, b"load")
SUSPECT, DEAD, LOAD = g.Suspect(A, 3, (B,)), g.Dead(A, B, "no answer"), g.Load(A, 4, b"load")
NEWS: list[g.News] = [ALIVE, SUSPECT, DEAD, LOAD]

SAMPLES = [
    g.Ping(1, 2, NEWS),
    g.Ack(1, LOAD, NEWS),
    g.Ack(1),
    g.PingRequest(1, A, 500, NEWS),
    g.Nack(1, NEWS),
    g.Gossip(NEWS),
    g.Sync((2**64 - 1,) * g.BUCKETS, NEWS),
    g.SyncReply((0, 63), NEWS, True),
    g.Join(ALIVE, (0,) * g.BUCKETS),
    g.Expelled(A, 10, B),
]


def read(data: bytes) -> Any:
    try:
        return decode_gossip(data)
    except ProtocolError:
        return None


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: g.GossipMessage) -> None:
    assert decode_gossip(encode_gossip(message)) == message


def test_every_message_has_a_sample() -> None:
    assert {type(message) for message in SAMPLES} == set(get_args(g.GossipMessage))
    assert {type(piece) for piece in NEWS} == set(get_args(g.News))


@pytest.mark.fault(47)
@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_what_was_cut_off_or_scribbled_over_is_a_message_or_refused(message: g.GossipMessage) -> None:
    data = encode_gossip(message)
    assert [end for end in range(len(data)) if read(data[:end]) is not None] == []
    dice = random.Random(type(message).__name__)
    for _ in range(300):
        scribbled = bytearray(data)
        scribbled[dice.randrange(len(data))] = dice.randrange(256)
        read(bytes(scribbled))


@pytest.mark.fault(47)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    read(data)


@pytest.mark.fault(47)
@pytest.mark.parametrize(
    "wrong",
    [
        g.Gossip([SUSPECT] * (g.NEWS_MAX + 1)),
        g.Gossip([g.Suspect(A, 0, ())]),
        g.Gossip([g.Suspect(A, 0, (B,) * 9)]),
        g.Gossip([g.Load(A, 1, bytes(g.LOAD_MAX_BYTES + 1))]),
        g.Gossip([g.Alive(A, -1, "", (), "")]),
        g.Gossip([g.Alive(A, 0, "x" * 256, (), "")]),
        g.Gossip([g.Alive(A, 0, "", ("a:1",) * 9, "")]),
        g.Gossip([g.Alive(b"short", 0, "", (), "")]),
        g.Sync((0,) * (g.BUCKETS - 1)),
        g.SyncReply((g.BUCKETS,), []),
        g.PingRequest(1, A, 10**9),
        g.Expelled(A, -1, B),
    ],
    ids=repr,
)
def test_everything_is_bounded(wrong: g.GossipMessage) -> None:
    with pytest.raises(ProtocolError, match="not a message of membership"):
        decode_gossip(encode_gossip(wrong))


def test_it_is_another_language_than_the_local_one() -> None:
    with pytest.raises(ProtocolError):
        decode_gossip(msgspec.msgpack.encode([9999]))
