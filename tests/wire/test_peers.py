"""Frames between peers: there and back, what is none, what another version would send."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshray.wire.codec import ProtocolError
from meshray.wire.peer_codec import pack, unpack
from meshray.wire.peers import (
    ANYBODY,
    ENVELOPE_BYTES,
    EPOCH_MAX,
    Ack,
    Data,
    Datagram,
    Hello,
    PeerMessage,
    Plane,
    Reason,
    Refused,
    Welcome,
    has_payload,
    reason_of,
)

HERE, THERE = b"here----", b"there---"

MESSAGES: list[PeerMessage] = [
    Hello(1, "mesh", "3.11", 7, ["10.0.0.1:7000", "[fe80::1]:7000"], "key", True, b"home....", 2, 3),
    Welcome(1, "mesh", "3.12", 7, [], "key", b"home....", 2, EPOCH_MAX),
    Refused(7, Reason.MESH, "another mesh"),
    Data(Plane.BULK, 1, 2**62, 3),
    Ack(Plane.CONTROL, 0, True, 3),
    Datagram(),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_there_and_back(message: PeerMessage) -> None:
    assert unpack(pack(THERE, HERE, message)) == (THERE, HERE, message)
    assert has_payload(message) == isinstance(message, Data | Datagram)


@pytest.mark.fault(47)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([99, 1]),
        msgspec.msgpack.encode([4, int(Plane.PROBE), 1, 0]),  # probes have no numbers
        msgspec.msgpack.encode([4, 3, 1, 0]),  # no such plane
        msgspec.msgpack.encode([4, 1, -1, 0]),
        msgspec.msgpack.encode([4, 1, 2**63, 0]),
        msgspec.msgpack.encode([4, 1, 1, 0, EPOCH_MAX + 1]),
        msgspec.msgpack.encode([5, 1, "0"]),
        msgspec.msgpack.encode([1, 1, "m" * 2000, "3.11", 0, []]),
        msgspec.msgpack.encode([1, 1, "mesh", "3.11", 0, ["a:1"] * 17]),
        msgspec.msgpack.encode([1, 1, "mesh", "3.11", 0, ["a" * 301]]),
        b"\x91" * 1_000_000,  # a million deep
    ],
)
def test_what_is_no_message(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(THERE + HERE + body)


@pytest.mark.fault(47)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    try:
        _, _, message = unpack(data)
    except ProtocolError:
        return
    assert len(data) > ENVELOPE_BYTES
    assert isinstance(message, PeerMessage)


def test_a_later_version_may_say_more() -> None:
    """Fields are appended: a Hello of tomorrow can be read today, and be refused for its version."""
    later = msgspec.msgpack.encode([1, 2, "mesh", "3.14", 9, ["10.0.0.1:7000"], "key", False, b"", 0, 0, {"new": [1]}])
    _, _, message = unpack(ANYBODY + HERE + later)
    assert message == Hello(2, "mesh", "3.14", 9, ["10.0.0.1:7000"], "key")


def test_a_reason_of_a_later_version() -> None:
    assert reason_of(Refused(0, 4711, "for a new reason")) is Reason.OTHER
