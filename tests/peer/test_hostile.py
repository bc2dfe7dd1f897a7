"""A member with the key and bad manners, and strangers without: what a whole peer makes of what they send.

The port alone is tested in `tests/transport/test_mesh_endpoint.py`, the decoders in `tests/wire`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest

from meshray import meshkey
from meshray.config import DEFAULT
from meshray.ids import new_node
from meshray.meshkey import MeshKey
from meshray.transport.keys import CurveKeys
from meshray.transport.mesh_endpoint import MeshEndpoint
from meshray.wire.gossip import Alive, Dead, Expelled, Gossip, Join, Ping, Suspect
from meshray.wire.gossip_codec import encode_datagram
from meshray.wire.peers import ANYBODY, PROTOCOL, Ack, Data, Datagram, Hello, PeerMessage, Plane, Refused, Welcome
from tests.peer.test_mesh import Room, place

TARGET = b"victim"


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setenv("MESHRAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MESHRAY_RUNTIME_DIR", str(tmp_path / "run"))
    meshkey.make(MeshKey.generate())
    room = Room()
    yield room
    for mesh in list(room.members):
        room.kill(mesh)


class Rogue:
    """Somebody with the key who says what it likes to one member."""

    def __init__(self, room: Room, address: str) -> None:
        self.node = new_node()
        self.endpoint = MeshEndpoint(self.node, CurveKeys(meshkey.load()), ["127.0.0.1"], 0, DEFAULT, Random(1))
        self.endpoint.dial(TARGET, address)
        self._room = room

    def say(self, to: bytes, message: PeerMessage, payload: bytes | None = None) -> None:
        plane = Plane.PROBE if isinstance(message, Datagram) else Plane.CONTROL

        def taken() -> bool:
            self.endpoint.look(time.monotonic())
            self.endpoint.receive()
            return self.endpoint.send(TARGET, plane, to, message, payload, time.monotonic())

        self._room.until(taken, "the socket takes it")


DEEP = b"\x91" * 1_000_000
STRANGER = b"nobody--"


def datagrams(node: bytes, member: bytes) -> list[bytes]:
    """What is no message of a member, and what is one in the wrong state."""
    random = Random(5)
    return [
        b"",
        b"\xc1",
        DEEP,
        b"\x82" * 100_000,  # maps in maps
        msgspec.msgpack.encode([10, 1, 2, [[1, STRANGER]] * 1000]),
        msgspec.msgpack.encode([999, 1]),
        *(random.randbytes(size) for size in (1, 10, 100, 1000, 1_000_000)),
        encode_datagram(Ping(1, 0)),  # of somebody who has not said who it is
        encode_datagram(Gossip([Alive(STRANGER, 0, "x", (), "3.11")])),  # an introduction of somebody else
        encode_datagram(Gossip([Suspect(STRANGER, 5, (member,))])),
        encode_datagram(Gossip([Dead(STRANGER, member, "x" * 255)])),
        encode_datagram(Join(Alive(STRANGER, 0, "x", ("nowhere",), "3.11"), (0,) * 64)),
        encode_datagram(Expelled(STRANGER, 2**31, STRANGER)),
    ]


@pytest.mark.fault(47)
def test_what_a_member_should_not_say_harms_nobody(room: Room) -> None:
    a = room.member()
    b = room.member(a)
    room.agree()
    nodes = {mesh.status()["node_id"] for mesh in (a, b)}
    victim, other = (bytes.fromhex(mesh.status()["node_id"]) for mesh in (a, b))
    rogue = Rogue(room, place(a))
    try:
        for payload in datagrams(victim, other):
            rogue.say(victim, Datagram(), payload)
        for message, body in (
            (Data(Plane.CONTROL, 1, 0), b"of nobody"),
            (Data(Plane.BULK, 2**62, 0), DEEP),
            (Ack(Plane.CONTROL, 2**62, True), None),
            (Welcome(PROTOCOL, "mesh", "3.11", 4711, [], ""), None),
            (Refused(4711, 99, "\x1b[2J" * 1000), None),
            (Hello(PROTOCOL, "another mesh", "3.11", 1, ["127.0.0.1:1"]), None),
            (Hello(PROTOCOL + 1, a.keys.mesh.hex(), "3.11", 1, ["127.0.0.1:1"]), None),
            (Hello(PROTOCOL, a.keys.mesh.hex(), "3.11", 1, []), None),
            (Hello(PROTOCOL, a.keys.mesh.hex(), "3.11", 1, ["nowhere", "", "x" * 300]), None),
        ):
            rogue.say(victim, message, body)
        rogue.say(ANYBODY, Hello(PROTOCOL, a.keys.mesh.hex(), "3.11", 1, [place(a)]))  # from its own address
        rogue.say(STRANGER, Ack(Plane.CONTROL, 1))
        status = a.status
        room.until(lambda: status()["refused"].get("for another incarnation"), "the last one is refused")
        assert status()["counters"]["datagrams that are none"] >= 10
        assert status()["counters"]["stale messages"] >= 3
    finally:
        rogue.endpoint.close()
    room.agree()
    assert {mesh.status()["node_id"] for mesh in (a, b)} == nodes, "nobody has died of it"
    assert a.lives == b.lives == 1


@pytest.mark.fault(48)
def test_a_flood_of_datagrams_below_the_bound_takes_its_turn(room: Room) -> None:
    a = room.member()
    b = room.member(a)
    room.agree()
    nodes = {mesh.status()["node_id"] for mesh in (a, b)}
    victim = bytes.fromhex(a.status()["node_id"])
    rogue = Rogue(room, place(a))
    sent = 0
    try:
        rogue.say(victim, Datagram(), b"\xc1")
        give_up_at = time.monotonic() + 3.0  # longer than it takes to be declared dead
        while time.monotonic() < give_up_at:
            for _ in range(50):
                sent += rogue.endpoint.send(TARGET, Plane.PROBE, victim, Datagram(), b"\xc1" * 1000, time.monotonic())
            rogue.endpoint.look(time.monotonic())
            for mesh in room.members:
                mesh.turn(time.monotonic())
    finally:
        rogue.endpoint.close()
    assert sent > 1000
    room.agree()
    assert {mesh.status()["node_id"] for mesh in (a, b)} == nodes, "probes were heard in between"
