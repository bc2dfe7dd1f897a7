"""A member with the key and bad manners, and strangers without: what a whole peer makes of what they send.

The port alone is tested in `tests/transport/test_mesh_endpoint.py`, the decoders in `tests/wire`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest

from meshray import meshkey
from meshray.config import DEFAULT
from meshray.ids import new_node
from meshray.peer.mesh import Mesh
from meshray.peer.mesh_life import PYTHON
from meshray.transport.keys import CurveKeys
from meshray.transport.mesh_endpoint import MeshEndpoint
from meshray.wire.gossip import Alive, Dead, Expelled, Gossip, GossipMessage, Join, Ping, Suspect
from meshray.wire.gossip_codec import encode_datagram
from meshray.wire.peers import ANYBODY, PROTOCOL, Ack, Data, Datagram, Hello, PeerMessage, Plane, Refused, Welcome
from tests.peer.test_mesh import Room, place, room_of_its_own, state

TARGET = b"victim"


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    with room_of_its_own(tmp_path, monkeypatch) as room:
        yield room


class Rogue:
    """Somebody with the key who says what it likes to one member."""

    def __init__(self, room: Room, address: str, node: bytes = b"") -> None:
        self.node = node or new_node()
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

    def gossip(self, to: bytes, message: GossipMessage) -> None:
        self.say(to, Datagram(), encode_datagram(message))

    def join(self, to: bytes, *addresses: str) -> Alive:
        """Become a member, who listens there; how it introduces itself."""
        me = Alive(self.node, 0, "rogue", addresses, PYTHON)
        self.gossip(to, Join(me, (0,) * 64))
        return me

    def listen(self) -> None:
        """Take what comes, and answer nothing."""
        self.endpoint.look(time.monotonic())
        self.endpoint.receive()


def node_of(mesh: Mesh) -> bytes:
    return bytes.fromhex(mesh.status()["node_id"])


def lines_of(mesh: Mesh) -> dict[str, int]:
    assert mesh._life is not None
    return mesh._life.stats().lines


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


@pytest.mark.fault(47)
@pytest.mark.parametrize("how", ["as a member", "by a hello"])
def test_an_address_that_no_socket_takes_ends_nobody(room: Room, how: str) -> None:
    """Python takes any text for the zone of an IPv6 address; libzmq raises for some."""
    a = room.member()
    b = room.member(a)
    room.agree()
    rogue = Rogue(room, place(a))
    address = "[fe80::1%a b]:7637"
    try:
        if how == "as a member":
            rogue.join(node_of(a), address)
        else:
            rogue.say(node_of(a), Hello(PROTOCOL, a.keys.mesh.hex(), PYTHON, 1, [address]))
        room.until(lambda: lines_of(a).get("no address", 0) > 1, "it is dialled, in vain, and again")
    finally:
        rogue.endpoint.close()
    assert a.lives == b.lives == 1


@pytest.mark.fault(47)
def test_a_member_that_is_accused_by_itself_is_not_suspected(room: Room) -> None:
    a = room.member()
    b = room.member(a)
    room.agree()
    rogue = Rogue(room, place(a))
    try:
        me = rogue.join(node_of(a), rogue.endpoint.listens[0])
        heard = a.status()["counters"]["messages received"]
        rogue.gossip(node_of(a), Gossip([me, Suspect(node_of(b), 0, (node_of(b),))]))
        room.until(lambda: a.status()["counters"]["messages received"] > heard, "it is heard")
    finally:
        rogue.endpoint.close()
    room.until(lambda: state(a, rogue.node.hex()) == "dead", "the detector of all goes on")
    assert state(a, b.status()["node_id"]) == "alive"


@pytest.mark.fault(47)
@pytest.mark.parametrize("node", [b"probe \xff\xff", b"seed \xff\xff\xff", b"probes t", b"the seed"])
def test_a_node_id_may_be_any_bytes(room: Room, node: bytes) -> None:
    """Also such as lines to addresses are named by; what happens on its line is an event of a node."""
    a = room.member()
    b = room.member(a)
    room.agree()
    rogue = Rogue(room, place(a), node)
    with socket.create_server(("127.0.0.1", 0)) as port:
        port.setblocking(False)
        try:
            where = f"127.0.0.1:{port.getsockname()[1]}"
            rogue.say(node_of(a), Hello(PROTOCOL, a.keys.mesh.hex(), PYTHON, 1, [where]))
            for _ in range(2):  # a handshake that fails, and again
                room.until(lambda: refuse(port), "the port is dialled")
                rogue.listen()
            room.until(lambda: a.status()["refused_there"], "it was no port of a mesh")
            me = rogue.join(node_of(a), rogue.endpoint.listens[0])
            rogue.gossip(node_of(a), Gossip([me]))
            room.until(lambda: rogue.listen() or state(a, node.hex()) == "alive", "it is a member")
        finally:
            rogue.endpoint.close()
    room.until(lambda: state(a, node.hex()) == "dead", "and then a dead one")
    assert a.lives == b.lives == 1


def refuse(port: socket.socket) -> bool:
    """Answer whoever dials there in another protocol."""
    try:
        connection, _ = port.accept()
    except BlockingIOError:
        return False
    with connection:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4)
    return True
