"""The encrypted port and the sockets that dial it: who gets in, what is refused, what is lost and found again.

All traffic is on loopback. Whether messages arrive in spite of it is in tests/peer/test_links.py.
"""

from __future__ import annotations

import errno
import functools
import math
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from typing import Any

import msgspec
import pytest
import zmq

from meshray.config import DEFAULT, Config
from meshray.ids import new_node
from meshray.meshkey import MeshKey
from meshray.transport import mesh_lines, mesh_options, mesh_port
from meshray.transport.keys import CurveKeys, KeySet, Pair
from meshray.transport.mesh_endpoint import MeshEndpoint
from meshray.transport.mesh_lines import HandshakeFailed, LineEvent, Lost, Ready, Unreachable
from meshray.transport.mesh_options import RECONNECT_MAX_MS, RECONNECT_MS, mesh_dealer
from meshray.transport.mesh_port import COPY_BELOW_BYTES, Arrived, MeshPort, PortTaken
from meshray.transport.monitors import Happened
from meshray.transport.zap import NotProven, Zap, prove
from meshray.wire.messages import BLOCKS_MAX
from meshray.wire.peer_codec import pack
from meshray.wire.peers import Ack, Blocks, Data, Datagram, Payload, Plane
from tests.transport.mesh_keys import curve_keys
from tests.transport.proxy import Proxy
from tests.until import until

MESH_KEY = MeshKey.generate()
KEYS = curve_keys(MESH_KEY)
T = b"target"
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
"""Of a client of CURVE (ZMTP 3.1)."""


class Mesh:
    """Endpoints of one test, all of which live on while one thing is waited for."""

    def __init__(self) -> None:
        self.open: list[MeshEndpoint] = []
        self.nodes: dict[MeshEndpoint, bytes] = {}
        self.events: dict[MeshEndpoint, list[LineEvent]] = {}
        self.arrived: dict[MeshEndpoint, list[Arrived]] = {}
        self.strangers: list[zmq.Socket[bytes]] = []
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()  # of strangers

    def endpoint(
        self,
        keys: CurveKeys = KEYS,
        addresses: list[str] | None = None,
        port: int = 0,
        config: Config = DEFAULT,
        node: bytes | None = None,
    ) -> MeshEndpoint:
        node = node or new_node()
        one = MeshEndpoint(node, keys, addresses or ["127.0.0.1"], port, config, Random(1))
        self.open.append(one)
        self.nodes[one], self.events[one], self.arrived[one] = node, [], []
        return one

    def turn(self) -> None:
        for one in self.open:
            self.events[one] += one.look(time.monotonic())
            self.arrived[one] += one.receive()

    def until(self, condition: Callable[[], object], what: str) -> None:
        def look() -> object:
            self.turn()
            return condition()

        until(look, what)

    def ready(self, one: MeshEndpoint, plane: Plane = Plane.CONTROL, times: int = 1) -> None:
        """Wait until `one` has a connection for its target."""
        self.until(lambda: self.events[one].count(Ready(T, plane, True)) >= times, f"{plane.name} is ready")

    def link(self, one: MeshEndpoint, other: MeshEndpoint, address: str = "", plane: Plane = Plane.CONTROL) -> None:
        """Connect one plane of `one` to `other`."""
        one.dial(T, address or other.listens[0])
        assert not self.send(one, other, Ack(Plane.CONTROL, 0), plane=plane)
        self.ready(one, plane)

    def send(
        self,
        one: MeshEndpoint,
        other: MeshEndpoint,
        message: Ack | Data | Datagram,
        payload: Payload | None = None,
        plane: Plane = Plane.CONTROL,
    ) -> bool:
        return one.send(T, plane, self.nodes[other], message, payload, time.monotonic())

    def acks(self, one: MeshEndpoint) -> list[int]:
        return [came.message.ack for came in self.arrived[one] if isinstance(came.message, Ack)]

    def stranger(self, other: MeshEndpoint, keys: KeySet | None = KEYS.current) -> zmq.Socket[bytes]:
        """A DEALER that may say anything."""
        dealer = mesh_dealer(self.context, keys)
        dealer.setsockopt(zmq.SNDTIMEO, 5000)
        dealer.connect(f"tcp://{other.listens[0]}")
        self.strangers.append(dealer)
        return dealer

    def close(self, one: MeshEndpoint) -> None:
        self.open.remove(one)
        one.close()


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    mesh = Mesh()
    yield mesh
    for one in list(mesh.open):
        mesh.close(one)
    mesh.context.destroy(linger=0)


# -- members -----------------------------------------------------------------------------------------------------------


def test_messages_with_and_without_payload(mesh: Mesh) -> None:
    a, b = mesh.endpoint(), mesh.endpoint()
    mesh.link(a, b)
    large = os.urandom(4 * COPY_BELOW_BYTES)
    for number, payload in enumerate([b"", b"small", large], 1):
        assert mesh.send(a, b, Data(Plane.CONTROL, number, 0), payload)
    assert mesh.send(a, b, Ack(Plane.CONTROL, 9))
    mesh.until(lambda: len(mesh.arrived[b]) == 4, "four messages")
    assert [bytes(came.payload) for came in mesh.arrived[b]] == [b"", b"small", large, b""]
    assert {(came.source, came.destination, came.host) for came in mesh.arrived[b]} == {
        (mesh.nodes[a], mesh.nodes[b], "127.0.0.1")
    }
    assert (a.stats().sent, b.stats().received) == ((0, 4, 0), (0, 4, 0))
    assert a.stats().sent_bytes == b.stats().received_bytes
    assert b.stats().received_bytes[Plane.CONTROL] > len(large)


def test_a_message_with_blocks(mesh: Mesh) -> None:
    a, b = mesh.endpoint(), mesh.endpoint()
    mesh.link(a, b, plane=Plane.BULK)
    blocks = tuple(os.urandom(size) for size in (COPY_BELOW_BYTES, 0, 3, *[4 * COPY_BELOW_BYTES] * (BLOCKS_MAX - 3)))
    for number in range(1, 4):
        assert mesh.send(a, b, Data(Plane.BULK, number, 0), Blocks(b"message", blocks), Plane.BULK)
    assert mesh.send(a, b, Data(Plane.BULK, 4, 0), b"one", Plane.BULK)
    mesh.until(lambda: len(mesh.arrived[b]) == 4, "four messages")
    for came in mesh.arrived[b][:3]:
        assert isinstance(came.payload, Blocks)
        assert came.payload.message == b"message"
        assert tuple(map(bytes, came.payload.blocks)) == blocks
    assert mesh.arrived[b][3].payload == b"one"
    assert a.stats().sent_bytes == b.stats().received_bytes


@pytest.mark.fault(28)
def test_a_connection_that_ends_between_two_payloads_of_a_message_takes_no_other_message_along(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = mesh.endpoint(), mesh.endpoint()
    real, ended = mesh_lines._send, []

    def send(socket: zmq.Socket[bytes], data: bytes, flags: int, **options: bool) -> None:
        if data == b"between":
            proxy.cut()
            ended.append(data)
            end = time.monotonic() + 2.0
            while time.monotonic() < end:  # until the socket hears of it, and says Again; or drops the rest silently
                real(socket, b"", flags)
        real(socket, data, flags, **options)

    monkeypatch.setattr(mesh_lines, "_send", send)
    with Proxy(b.port) as proxy:
        mesh.link(a, b, proxy.address, Plane.BULK)
        mesh.send(a, b, Data(Plane.BULK, 1, 0), Blocks(b"first", (b"between", b"last")), Plane.BULK)
        assert ended
        mesh.ready(a, Plane.BULK, 2)
        numbers = [1, 2, 3]
        for number in numbers:
            assert mesh.send(a, b, Data(Plane.BULK, number, 0), Blocks(b"first", (b"last",)), Plane.BULK)
        mesh.until(lambda: len(mesh.arrived[b]) == len(numbers), "all three")
        assert [came.message.sequence for came in mesh.arrived[b] if isinstance(came.message, Data)] == numbers


@pytest.mark.fault(27)
def test_each_plane_has_a_connection_of_its_own(mesh: Mesh) -> None:
    """What is stuck on one holds up none of the others."""
    a, b = mesh.endpoint(), mesh.endpoint()
    with Proxy(b.port) as bulk, Proxy(b.port) as others:
        a.dial(T, bulk.address)
        mesh.send(a, b, Data(Plane.BULK, 1, 0), b"", Plane.BULK)
        mesh.ready(a, Plane.BULK)
        bulk.stall()
        chunk, taken = bytes(1 << 20), 0
        while mesh.send(a, b, Data(Plane.BULK, 1, 0), chunk, Plane.BULK) and taken < 64:
            taken += 1
        a._lines._remotes[T].address = others.address  # the others go by a way that is not stuck
        for plane, message in ((Plane.PROBE, Datagram()), (Plane.CONTROL, Data(Plane.CONTROL, 1, 0))):
            mesh.send(a, b, message, b"", plane)
            mesh.ready(a, plane)
            assert mesh.send(a, b, message, b"through", plane)
        mesh.until(lambda: [came.payload for came in mesh.arrived[b]].count(b"through") == 2, "both are through")
        assert taken
        assert not any(isinstance(came.message, Data) and len(came.payload) > 10 for came in mesh.arrived[b])
        a.forget(T)


def test_a_target_that_is_not_connected_takes_nothing_and_says_when_it_does(mesh: Mesh) -> None:
    a, b = mesh.endpoint(), mesh.endpoint()
    a.dial(T, b.listens[0])
    assert not mesh.send(a, b, Ack(Plane.CONTROL, 1))
    assert a.clogged == 1
    mesh.ready(a)
    assert a.clogged == 0
    assert mesh.send(a, b, Ack(Plane.CONTROL, 2))
    mesh.until(lambda: mesh.acks(b) == [2], "the second; the first was never taken")
    with pytest.raises(KeyError):
        a.send(b"never dialled", Plane.CONTROL, mesh.nodes[b], Ack(Plane.CONTROL, 1), None, 0.0)


@pytest.mark.fault(27)
def test_a_full_socket_says_no_and_then_when_it_has_room(mesh: Mesh) -> None:
    a, b = mesh.endpoint(), mesh.endpoint()
    mesh.link(a, b)
    sent = 0
    while mesh.send(a, b, Data(Plane.CONTROL, sent, 0), bytes(10_000)):  # b reads nothing meanwhile
        sent += 1
    assert sent > 100
    assert a.clogged == 1
    mesh.until(lambda: Ready(T, Plane.CONTROL, False) in mesh.events[a], "room")
    mesh.until(lambda: len(mesh.arrived[b]) == sent, "all that was taken")
    numbers = [came.message.sequence for came in mesh.arrived[b] if isinstance(came.message, Data)]
    assert numbers == list(range(sent))


@pytest.mark.fault(28)
def test_nobody_there_and_then_somebody(mesh: Mesh) -> None:
    a = mesh.endpoint()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    a.dial(T, f"127.0.0.1:{port}")
    mesh.send(a, a, Ack(Plane.CONTROL, 0))
    mesh.until(lambda: Unreachable(T, Plane.CONTROL, 2) in mesh.events[a], "two vain attempts")
    b = mesh.endpoint(port=port)
    mesh.ready(a)
    assert mesh.send(a, b, Ack(Plane.CONTROL, 1))
    mesh.until(lambda: mesh.acks(b) == [1], "the message")


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    "address",
    [
        *("localhost:7000", "127.0.0.1", "127.0.0.1:70000", "::1:7000", "127.0.0.1:7;1", ""),
        *("[fe80::1%a b]:7000", "[fe80::1%eth0@if5]:7000", "[fe80::1%]:7000"),
    ],
)
def test_what_is_no_numeric_address_is_never_connected(mesh: Mesh, address: str) -> None:
    """A name would be resolved in the thread that encrypts for everybody."""
    a = mesh.endpoint()
    a.dial(T, address)
    assert not mesh.send(a, a, Ack(Plane.CONTROL, 0))
    mesh.until(lambda: a.stats().lines.get("no address", 0) > 1, "it is refused, and looked at again later")


@pytest.mark.fault(28)
def test_a_cut_connection_is_lost_and_comes_back(mesh: Mesh) -> None:
    a, b = mesh.endpoint(), mesh.endpoint()
    with Proxy(b.port) as proxy:
        mesh.link(a, b, proxy.address)
        for times in range(2, 5):
            assert proxy.cut() == 1
            mesh.ready(a, times=times)
        assert mesh.events[a].count(Lost(T, Plane.CONTROL)) == 3
        assert mesh.send(a, b, Ack(Plane.CONTROL, 7))
        mesh.until(lambda: mesh.acks(b) == [7], "the message")
        a.forget(T)


@pytest.mark.fault(28)
def test_a_connection_that_was_lost_unseen_does_not_swallow_its_successor(mesh: Mesh) -> None:
    """With a routing id of our own the port would ignore the second connection, and all that is sent over it."""
    a, b = mesh.endpoint(), mesh.endpoint()
    with Proxy(b.port) as proxy:
        mesh.link(a, b, proxy.address)
        proxy.cut_unseen()
        mesh.ready(a, times=2)
        for number in range(20):
            assert mesh.send(a, b, Ack(Plane.CONTROL, number))
        mesh.until(lambda: mesh.acks(b) == list(range(20)), "all of them")
        a.forget(T)


@pytest.mark.slow  # libzmq reads such a connection no further, and closes it only when its heartbeats have stopped
@pytest.mark.fault(47)
def test_bytes_that_were_spoilt_on_the_way_end_the_connection_and_no_more(mesh: Mesh) -> None:
    a, b = mesh.endpoint(), mesh.endpoint()
    with Proxy(b.port) as proxy:
        mesh.link(a, b, proxy.address)
        proxy.spoil = 1
        mesh.send(a, b, Ack(Plane.CONTROL, 1))
        mesh.ready(a, times=2)
        assert mesh.send(a, b, Ack(Plane.CONTROL, 2))
        mesh.until(lambda: mesh.acks(b) == [2], "the second; the first was thrown away whole")
        a.forget(T)


@pytest.mark.slow  # it waits for a heartbeat to be spoilt
@pytest.mark.fault(47)
def test_garbage_from_the_ports_side_ends_a_connection_and_no_more(mesh: Mesh) -> None:
    a, b = mesh.endpoint(), mesh.endpoint()
    with Proxy(b.port) as proxy:
        mesh.link(a, b, proxy.address)
        proxy.spoil_back = 1
        mesh.ready(a, times=2)
        assert mesh.send(a, b, Ack(Plane.CONTROL, 2))
        mesh.until(lambda: mesh.acks(b) == [2], "a message")
        a.forget(T)


@pytest.mark.fault(35)
@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4, b"220 mail\r\n", b""])
def test_a_foreign_program_at_the_dialled_address_and_then_a_peer(mesh: Mesh, answer: bytes) -> None:
    """libzmq gives up after some kinds of garbage, and does not say so; the line is made anew all the same."""
    a = mesh.endpoint()
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        foreign.settimeout(0)
        port = foreign.getsockname()[1]
        a.dial(T, f"127.0.0.1:{port}")
        mesh.send(a, a, Ack(Plane.CONTROL, 0))
        visits = 0

        def visited() -> bool:
            nonlocal visits
            try:
                visitor, _ = foreign.accept()
            except BlockingIOError:
                return False
            with visitor:
                visitor.sendall(answer)
            visits += 1
            return visits > 1

        mesh.until(visited, "it comes again")
    b = mesh.endpoint(port=port)
    mesh.ready(a)
    assert mesh.send(a, b, Ack(Plane.CONTROL, 1))
    mesh.until(lambda: mesh.acks(b) == [1], "a message")


def test_idle_lines_are_closed_and_opened_again(mesh: Mesh) -> None:
    config = msgspec.structs.replace(DEFAULT, mesh_idle_s=0.05)
    a, b = mesh.endpoint(config=config), mesh.endpoint()
    mesh.link(a, b)
    mesh.until(lambda: a.stats().lines.get("idle"), "it is closed")
    assert not mesh.send(a, b, Ack(Plane.CONTROL, 1))
    mesh.ready(a, times=2)


def test_nothing_is_left_behind(mesh: Mesh) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    mesh.turn()
    before = descriptors()
    a, b = mesh.endpoint(), mesh.endpoint()
    mesh.link(a, b)
    for one in (a, b):
        mesh.close(one)
    assert descriptors() == before


def test_waiting_for_one_descriptor_is_enough(mesh: Mesh) -> None:
    """After a look that found nothing, whatever happens makes it readable."""
    a, b = mesh.endpoint(), mesh.endpoint()
    a.dial(T, b.listens[0])
    poller = {a: zmq.Poller(), b: zmq.Poller()}
    for one in (a, b):
        poller[one].register(one.fd, zmq.POLLIN)
    sent, quiet = 0, 0
    deadline = time.monotonic() + 20
    while len(mesh.acks(b)) < 50 and time.monotonic() < deadline:
        mesh.turn()
        if mesh.send(a, b, Ack(Plane.CONTROL, sent)):
            sent += 1
        if not poller[b].poll(200) and not poller[a].poll(200):
            quiet += 1
    assert quiet <= 2
    assert mesh.acks(b)[:50] == list(range(50))


def test_of_many_who_knock_at_once_nobody_is_left_at_the_door(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are left when a look has served enough: no descriptor says so, but `next_at` does."""
    port, answers = mesh.endpoint().inbound, [True, True, False]
    port.look((), 0.0)
    assert port.next_at() is None
    monkeypatch.setattr(port.zap, "serve", lambda: answers.pop(0))
    port.look((), 0.0)
    assert len(answers) == 3, "nothing is there"
    port.look((port.zap.fd,), 0.0)
    for left in (2, 1):
        assert len(answers) == left
        assert port.next_at() == -math.inf
        port.look((), 0.0)
    assert (answers, port.next_at()) == ([], None)


# -- addresses ---------------------------------------------------------------------------------------------------------


def test_several_addresses_have_the_same_port(mesh: Mesh) -> None:
    b = mesh.endpoint(addresses=["127.0.0.1", "127.0.0.2"])
    assert b.listens == [f"127.0.0.1:{b.port}", f"127.0.0.2:{b.port}"]
    for address in b.listens:
        mesh.link(mesh.endpoint(), b, address)


def test_ipv6(mesh: Mesh) -> None:
    try:
        b = mesh.endpoint(addresses=["::1", "127.0.0.1"])
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    a = mesh.endpoint()
    assert b.listens[0] == f"[::1]:{b.port}"
    mesh.link(a, b)
    assert mesh.send(a, b, Ack(Plane.CONTROL, 1))
    mesh.until(lambda: mesh.arrived[b], "the message")
    assert mesh.arrived[b][0].host == "::1"


@pytest.mark.fault(35)
def test_a_port_that_a_foreign_program_has(mesh: Mesh) -> None:
    with socket.create_server(("127.0.0.2", 0)) as foreign:
        port = foreign.getsockname()[1]
        with pytest.raises(PortTaken, match=f"port {port} of 127.0.0.2 is taken by another program") as caught:
            mesh.endpoint(addresses=["127.0.0.1", "127.0.0.2"], port=port)
        assert caught.value.errno == errno.EADDRINUSE
    mesh.endpoint(addresses=["127.0.0.1", "127.0.0.2"], port=port)  # and nothing was left bound


def test_an_address_that_is_not_ours(mesh: Mesh) -> None:
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1, port 7000"):
        mesh.endpoint(addresses=["192.0.2.1"], port=7000)


@pytest.mark.fault(17)
def test_a_successor_has_the_address_at_once_and_refuses_what_was_for_its_predecessor(mesh: Mesh) -> None:
    a, b = mesh.endpoint(), mesh.endpoint()
    mesh.link(a, b)
    predecessor, port = mesh.nodes[b], b.port
    mesh.close(b)
    successor = mesh.endpoint(port=port)
    mesh.ready(a, times=2)
    assert a.send(T, Plane.CONTROL, predecessor, Ack(Plane.CONTROL, 1), None, time.monotonic())
    mesh.until(lambda: successor.stats().refused.get("for another incarnation"), "it is refused")
    assert mesh.arrived[successor] == []


# -- strangers and garbage ---------------------------------------------------------------------------------------------


@pytest.mark.fault(54)
def test_a_peer_with_the_key_of_another_mesh_is_refused_and_both_know(mesh: Mesh) -> None:
    a, b = mesh.endpoint(curve_keys()), mesh.endpoint()
    a.dial(T, b.listens[0])
    assert not mesh.send(a, b, Ack(Plane.CONTROL, 0))
    mesh.until(lambda: any(isinstance(event, HandshakeFailed) for event in mesh.events[a]), "the dialler knows")
    mesh.until(lambda: b.stats().refused.get("no handshake of this mesh"), "the port knows")
    assert not mesh.send(a, b, Ack(Plane.CONTROL, 0))
    assert mesh.arrived[b] == []
    mesh.link(mesh.endpoint(), b)


def test_who_is_refused_tries_again_after_pauses_that_double_and_not_in_between(mesh: Mesh) -> None:
    """Time stands still for the dialler but for its pauses: an attempt more would be one of libzmq's own."""
    a, b = MeshEndpoint(new_node(), curve_keys(), ["127.0.0.1"], random=Random(1)), mesh.endpoint()
    try:
        a.dial(T, b.listens[0])
        now, pauses = 1000.0, []
        assert not a.send(T, Plane.CONTROL, new_node(), Ack(Plane.CONTROL, 0), None, now)
        for attempt in range(1, 8):
            failed: list[LineEvent] = []

            def refused(failed: list[LineEvent] = failed) -> bool:
                mesh.turn()
                failed += [event for event in a.look(now) if isinstance(event, HandshakeFailed)]  # noqa: B023
                return bool(failed)

            until(refused, f"attempt {attempt} is refused")
            (line,) = a._lines._ailing
            assert line.socket is None, "nothing dials until the pause is over"
            assert line.again_at is not None
            pauses.append(line.again_at - now)
            now = line.again_at
        for number, pause_s in enumerate(pauses):
            wanted_s = min(RECONNECT_MAX_MS, RECONNECT_MS << number) / 1000
            assert 0.5 * wanted_s <= pause_s <= 1.5 * wanted_s, pauses
    finally:
        a.close()


def test_a_connection_that_came_after_a_refusal_of_which_is_only_heard_now_goes_on(mesh: Mesh) -> None:
    """A peer that was held up for longer than libzmq's pause hears of both at once; the other end had begun anew."""
    a, b = mesh.endpoint(), mesh.endpoint()
    mesh.link(a, b)
    line = a._lines._remotes[T].lines[Plane.CONTROL]
    assert line.monitor is not None
    line.monitor._first += [
        Happened(zmq.Event.HANDSHAKE_FAILED_NO_DETAIL, 0),
        Happened(zmq.Event.DISCONNECTED, 0),
        Happened(zmq.Event.CONNECT_RETRIED, 0),
        Happened(zmq.Event.HANDSHAKE_SUCCEEDED, 0),
    ]
    a._lines.look([line.monitor.fd], time.monotonic())
    mesh.until(lambda: mesh.send(a, b, Ack(Plane.CONTROL, 7)), "a message can be sent")
    mesh.until(lambda: 7 in mesh.acks(b), "it arrives")


@pytest.mark.fault(54)
def test_somebody_who_knows_the_ports_key_and_has_none(mesh: Mesh) -> None:
    b = mesh.endpoint()
    keys = KeySet(MESH_KEY)
    keys.client = Pair(*zmq.curve_keypair())
    dealer = mesh.stranger(b, keys)
    mesh.until(lambda: b.stats().refused.get("unknown key"), "it is refused")
    with pytest.raises(zmq.Again):
        dealer.send(b"anything", zmq.DONTWAIT)


@pytest.mark.fault(54)
def test_a_client_without_encryption(mesh: Mesh) -> None:
    b = mesh.endpoint()
    dealer = mesh.stranger(b, keys=None)
    mesh.until(lambda: b.stats().refused, "it is refused, whichever of the two sees first that they differ")
    with pytest.raises(zmq.Again):
        dealer.send(b"anything", zmq.DONTWAIT)
    assert b.stats().handshakes == 0


@pytest.mark.fault(54)
def test_when_nobody_answers_for_keys_nobody_gets_in(mesh: Mesh) -> None:
    a, b = mesh.endpoint(), mesh.endpoint()
    mesh.link(a, b)
    b.inbound.zap.close()
    c = mesh.endpoint()
    c.dial(T, b.listens[0])
    mesh.send(c, b, Ack(Plane.CONTROL, 0))
    mesh.until(lambda: b.stats().refused.get("silent or broken off"), "it is not let in")
    assert not mesh.send(c, b, Ack(Plane.CONTROL, 1))
    assert mesh.send(a, b, Ack(Plane.CONTROL, 2))
    mesh.until(lambda: mesh.acks(b) == [2], "who was in goes on")


@pytest.mark.fault(54)
@pytest.mark.parametrize("fault", ["anybody is admitted", "no encryption"])
def test_a_port_that_does_not_hold_is_never_opened(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """The self-test is of the very socket that would serve, and comes first."""
    opened = []
    monkeypatch.setattr(MeshPort, "listen", lambda port, addresses, number: opened.append(addresses))
    if fault == "no encryption":
        real = mesh_port.mesh_router

        def plain(*arguments: Any) -> zmq.Socket[bytes]:
            router = real(*arguments)
            router.setsockopt(zmq.CURVE_SERVER, 0)
            return router

        monkeypatch.setattr(mesh_port, "mesh_router", plain)
        monkeypatch.setattr(mesh_port, "prove", functools.partial(prove, timeout_s=2.0))
    else:
        monkeypatch.setattr(Zap, "_judge", lambda zap, request: ("friend", "admitted"))
    with pytest.raises(NotProven):
        MeshEndpoint(new_node(), KEYS, ["127.0.0.1"]).close()
    assert opened == []


@pytest.mark.fault(47)
@pytest.mark.parametrize("kind", ["http", "random", "greeting", "endless"])
def test_garbage_at_the_port(mesh: Mesh, kind: str) -> None:
    a, b = mesh.endpoint(), mesh.endpoint()
    mesh.link(a, b)
    garbage = {
        "http": b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n{}",
        "random": Random(7).randbytes(100_000),
        "greeting": GREETING + Random(8).randbytes(10_000),
        "endless": GREETING + b"\x06" + struct.pack(">Q", 2**62),  # a command of 4 exabytes
    }[kind]
    with socket.create_connection(("127.0.0.1", b.port), timeout=5) as stranger:
        with suppress(ConnectionError):  # thrown out before it had finished
            stranger.sendall(garbage)
        mesh.until(lambda: is_thrown_out(stranger), "it is thrown out")
    assert mesh.send(a, b, Ack(Plane.CONTROL, 1))
    mesh.until(lambda: mesh.acks(b) == [1], "members go on")


def is_thrown_out(stranger: socket.socket) -> bool:
    """Whether the port has ended this connection. What it says (it greets everybody) is taken."""
    stranger.settimeout(0)
    try:
        return stranger.recv(1000) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.fault(48)
@pytest.mark.parametrize("said", [b"", GREETING], ids=["nothing", "a greeting"])
def test_who_shows_no_key_is_thrown_out_after_a_while(mesh: Mesh, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(mesh_options, "HANDSHAKE_MS", 500)
    a, b = mesh.endpoint(), mesh.endpoint()
    mesh.link(a, b)
    with socket.create_connection(("127.0.0.1", b.port), timeout=5) as stranger:
        stranger.sendall(said)
        mesh.until(lambda: b.inbound.silent(time.monotonic()) == 1, "it is counted")
        mesh.until(lambda: is_thrown_out(stranger), "it is thrown out")
    mesh.until(lambda: b.inbound.silent(time.monotonic()) == 0, "and counted no more")
    assert b.stats().refused["silent or broken off"] == 1
    assert mesh.send(a, b, Ack(Plane.CONTROL, 1))
    mesh.until(lambda: mesh.acks(b) == [1], "members go on")


@pytest.mark.fault(47, 48)
@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([b""], "no message"),
        ([b"x" * 16], "no message"),
        ([b"x" * 16 + b"\xc1"], "no message"),
        ([b"x" * 16 + b"\x91" * 1_000_000], "no message"),
        (
            [b"another-source--" + b"\x94\x05\x01\x01\xc2"],
            "for another",
        ),
        ([b"", b""], "no message"),
        ([b"a", b"b", b"c"], "no message"),
        (["data", b"a", b"b"], "wrong number"),
        (["value", b"message", *[b"a"] * (BLOCKS_MAX + 1)], "wrong number"),
        (["value"], "wrong number"),
        (["ack of a value", b"a", b"b"], "wrong number"),
        ([b"f"] * 10_000, "wrong number"),
        (["ack", b"too much"], "wrong number"),
        (["data"], "wrong number"),
    ],
    ids=[
        "empty",
        "envelope",
        "tag",
        "deep",
        "other",
        "two-empty",
        "three",
        "not-of-control",
        "too-many",
        "wanted-of-bulk",
        "unwanted-of-bulk",
        "ten-thousand",
        "unwanted",
        "wanted",
    ],
)
def test_what_a_member_should_not_say(mesh: Mesh, frames: list[bytes | str], reason: str) -> None:
    """Somebody with the key, and a fault of its own: counted, and the others go on."""
    a, b = mesh.endpoint(), mesh.endpoint()
    mesh.link(a, b)
    named = {
        "ack": bytes(pack(mesh.nodes[b], b"somebody", Ack(Plane.CONTROL, 1))),
        "value": bytes(pack(mesh.nodes[b], b"somebody", Data(Plane.BULK, 1, 0))),
        "ack of a value": bytes(pack(mesh.nodes[b], b"somebody", Ack(Plane.BULK, 1))),
        "data": bytes(pack(mesh.nodes[b], b"somebody", Data(Plane.CONTROL, 1, 0))),
    }
    dealer = mesh.stranger(b)
    mesh.until(lambda: b.stats().handshakes == 2, "it is let in")
    dealer.send_multipart([named[frame] if isinstance(frame, str) else frame for frame in frames])
    mesh.until(lambda: any(name.startswith(reason) for name in b.stats().refused), f"{reason}")
    assert mesh.arrived[b] == []
    assert mesh.send(a, b, Ack(Plane.CONTROL, 1))
    mesh.until(lambda: mesh.acks(b) == [1], "members go on")


@pytest.mark.fault(47)
def test_an_oversized_frame_ends_its_connection_and_nothing_else(mesh: Mesh) -> None:
    config = msgspec.structs.replace(DEFAULT, frame_max_bytes=100_000)
    a, b = mesh.endpoint(config=config), mesh.endpoint(config=config)
    c = mesh.endpoint()
    mesh.link(a, b)
    mesh.link(c, b)
    assert mesh.send(c, b, Data(Plane.CONTROL, 1, 0), bytes(200_000))
    mesh.until(lambda: Lost(T, Plane.CONTROL) in mesh.events[c], "it is thrown out")
    assert mesh.send(a, b, Data(Plane.CONTROL, 1, 0), bytes(100_000))  # the bound itself is no offence
    mesh.until(lambda: [len(came.payload) for came in mesh.arrived[b]] == [100_000], "members go on")


@pytest.mark.fault(48)
def test_many_frames_below_the_bound_are_taken_in_portions(mesh: Mesh) -> None:
    """A member that sends as much as it can: one look takes its budget, and others are heard in between."""
    a, b = mesh.endpoint(), mesh.endpoint()
    mesh.link(a, b)
    flooder = mesh.endpoint()
    mesh.link(flooder, b)
    node = mesh.nodes[b]
    number = 0
    while flooder.send(T, Plane.CONTROL, node, Data(Plane.CONTROL, number + 1, 0), bytes(1000), time.monotonic()):
        number += 1
    assert mesh.send(a, b, Ack(Plane.CONTROL, 4711))
    sizes, before = [], 0

    def heard() -> bool:
        nonlocal before
        portion = b.receive()
        sizes.append(len(portion))
        before += sum(came.source == mesh.nodes[flooder] for came in portion)
        return any(isinstance(came.message, Ack) for came in portion)

    until(heard, "the other member")
    assert max(sizes) <= 64
    assert before < number


@pytest.mark.fault(40, 48)
def test_two_thousand_silent_connections_while_members_talk(mesh: Mesh) -> None:
    need = 6000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < need:
        pytest.skip(f"needs {need} descriptors, the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, need), hard))
    a, b = mesh.endpoint(), mesh.endpoint()
    mesh.link(a, b)
    silent = []
    talked = 0
    try:
        for number in range(2000):
            stranger = socket.socket()
            stranger.setblocking(False)
            stranger.connect_ex(("127.0.0.1", b.port))
            silent.append(stranger)
            if number % 20 == 0:
                mesh.turn()
                talked += mesh.send(a, b, Ack(Plane.CONTROL, talked))
        mesh.until(lambda: b.stats().pauses, "the door is shut")
        for _ in range(100):
            talked += mesh.send(a, b, Ack(Plane.CONTROL, talked))
        mesh.until(lambda: len(mesh.acks(b)) == talked, "members go on meanwhile")
        assert mesh.acks(b) == list(range(talked))
        assert Lost(T, Plane.CONTROL) not in mesh.events[a]
        assert b.stats().handshakes == 1
        assert b.inbound.silent(time.monotonic()) < 1000  # most of them have never come in
    finally:
        for stranger in silent:
            stranger.close()
    mesh.link(mesh.endpoint(), b)  # and when they are gone others get in again
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.fault(40)
def test_without_descriptors_a_line_waits_and_a_port_that_is_bound_anew_too(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_key = MeshKey.generate()
    a, b = mesh.endpoint(curve_keys(MESH_KEY, next_key)), mesh.endpoint(curve_keys(MESH_KEY, next_key))
    mesh.link(a, b)
    bind, dealer, tries = zmq.Socket.bind, mesh_lines.mesh_dealer, []

    def fails(*words: object) -> None:
        tries.append(words)
        raise zmq.ZMQError(errno.EMFILE)

    b.inbound._router.bind = fails  # type: ignore[method-assign]
    monkeypatch.setattr(mesh_lines, "mesh_dealer", fails)
    b.rekey(curve_keys(next_key))  # its port has to be bound anew, and the connection ends
    mesh.until(lambda: Lost(T, Plane.CONTROL) in mesh.events[a], "the connection has ended")
    mesh.until(lambda: a.stats().lines.get("no socket", 0) > 1, "a new one cannot be made")
    before = len(tries)
    mesh.until(lambda: len(tries) > before + 1, "both try again")
    b.inbound._router.bind = functools.partial(bind, b.inbound._router)  # type: ignore[method-assign]
    monkeypatch.setattr(mesh_lines, "mesh_dealer", dealer)
    mesh.ready(a, times=2)
    assert mesh.send(a, b, Ack(Plane.CONTROL, 1))
    mesh.until(lambda: mesh.acks(b) == [1], "a message")


# -- other keys --------------------------------------------------------------------------------------------------------


def test_a_key_is_changed_in_two_steps_while_members_talk(mesh: Mesh) -> None:
    next_key = MeshKey.generate()
    both, new = curve_keys(MESH_KEY, next_key), curve_keys(next_key)
    a, b = mesh.endpoint(), mesh.endpoint()
    mesh.link(a, b)
    a.rekey(both)
    b.rekey(both)
    assert mesh.send(a, b, Ack(Plane.CONTROL, 1))  # staged: nothing is interrupted
    mesh.until(lambda: mesh.acks(b) == [1], "a message")

    b.rekey(curve_keys(next_key, MESH_KEY))  # b has switched, a has not: it finds the other key by itself
    mesh.ready(a, times=2)
    assert mesh.send(a, b, Ack(Plane.CONTROL, 2))
    mesh.until(lambda: mesh.acks(b) == [1, 2], "a message")

    a.rekey(new)
    b.rekey(new)  # the old key is gone
    mesh.link(mesh.endpoint(new), b)
    late = mesh.endpoint()
    late.dial(T, b.listens[0])
    mesh.send(late, b, Ack(Plane.CONTROL, 0))
    mesh.until(lambda: any(isinstance(event, HandshakeFailed) for event in mesh.events[late]), "the old key fails")


def test_who_came_in_by_a_key_that_is_not_admitted_any_more_is_not_heard(mesh: Mesh) -> None:
    next_key = MeshKey.generate()
    a, b = mesh.endpoint(curve_keys(next_key, MESH_KEY)), mesh.endpoint(curve_keys(MESH_KEY, next_key))
    a.dial(T, b.listens[0], KEYS.current.id)
    mesh.send(a, b, Ack(Plane.CONTROL, 0))
    mesh.ready(a)
    b.inbound._keys = curve_keys()  # as if the switch had left its connection standing
    assert mesh.send(a, b, Ack(Plane.CONTROL, 1))
    mesh.until(lambda: b.stats().refused.get("no key"), "it is refused")
    assert mesh.arrived[b] == []


def test_a_next_key_that_was_given_up_opens_nothing_any_more(mesh: Mesh) -> None:
    """Nor is who has come in by it heard, though nothing was bound anew and its connection stands."""
    next_key = MeshKey.generate()
    b = mesh.endpoint(curve_keys(MESH_KEY, next_key))
    keys = KeySet(MESH_KEY)  # as its port answers
    keys.client = KeySet(next_key).client
    dealer = mesh.stranger(b, keys)
    mesh.until(lambda: b.stats().handshakes == 1, "it is let in")
    word = bytes(pack(mesh.nodes[b], b"somebody", Ack(Plane.CONTROL, 1)))
    dealer.send(word)
    mesh.until(lambda: mesh.acks(b) == [1], "and heard")
    b.rekey(curve_keys(MESH_KEY))
    dealer.send(word)
    mesh.until(lambda: b.stats().refused.get("no key"), "it is not heard any more")
    mesh.stranger(b, keys)
    mesh.until(lambda: b.stats().refused.get("unknown key"), "nor let in")
    assert mesh.acks(b) == [1]


SENDS_WITHOUT_A_DESCRIPTOR = """
import os, random, resource, sys
import zmq
from meshray.transport.mesh_lines import MeshLines

MeshLines(zmq.Context(), None, 1.0, random.Random(1), None)
last = os.dup(0)
resource.setrlimit(resource.RLIMIT_NOFILE, (last, last))  # all below are in use: the lowest free one is given
try:
    os.dup(0)
except OSError:
    zmq.Frame(bytes(1 << 20), copy=False)
    print("sent")
sys.stdout.flush()
os._exit(0)
"""


def test_the_first_large_message_needs_no_descriptor() -> None:
    """That pyzmq has sockets of its own for those shall not end a peer that has none left by then."""
    ran = subprocess.run(
        [sys.executable, "-c", SENDS_WITHOUT_A_DESCRIPTOR], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.stdout == "sent\n", ran.stderr
