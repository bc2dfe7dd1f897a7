"""Links over real sockets: what is sent arrives once and in order, whatever becomes of the connections.

Between the peers stand proxies that cut, stall, drop and spoil. All traffic is on loopback.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from random import Random

import msgspec
import pytest

from meshray.config import DEFAULT, Config
from meshray.core.link_effects import Delivered, Effect, PeerDown, PeerUp, Probed, SelfDialled, TurnedAway
from meshray.ids import new_node
from meshray.meshkey import MeshKey
from meshray.peer.links import PeerLinks
from meshray.transport.mesh_endpoint import MeshEndpoint
from meshray.transport.mesh_lines import HandshakeFailed, LineEvent
from meshray.wire.peers import Plane, Reason
from tests.transport.mesh_keys import curve_keys
from tests.transport.proxy import Proxy
from tests.until import until

MESH_KEY = MeshKey.generate()
CONFIG = msgspec.structs.replace(DEFAULT, link_replay_after_s=0.3, link_hello_again_s=0.2)


class Peer:
    """One peer, and what it was told."""

    def __init__(
        self,
        mesh: str = "mesh",
        python: str = "3.11",
        port: int = 0,
        mesh_key: MeshKey = MESH_KEY,
        config: Config = CONFIG,
    ) -> None:
        keys = curve_keys(mesh_key)
        self.node = new_node()
        self.endpoint = MeshEndpoint(self.node, keys, ["127.0.0.1"], port, config)
        self.address = self.endpoint.listens[0]
        self.links = PeerLinks(self.node, mesh, python, self.endpoint, keys.current.id, config)
        self.told: list[Effect | LineEvent] = []

    def behind(self, proxy: Proxy) -> Peer:
        """Others reach it through the proxy."""
        self.address = proxy.address
        self.links.links.present([proxy.address], "")
        return self

    def got(self, plane: Plane = Plane.CONTROL) -> list[bytes]:
        return [bytes(told.payload) for told in self.told if isinstance(told, Delivered) and told.plane is plane]

    def of(self, kind: type) -> list[Effect | LineEvent]:
        return [told for told in self.told if isinstance(told, kind)]

    def send(self, to: Peer, *payloads: bytes, plane: Plane = Plane.CONTROL) -> None:
        for payload in payloads:
            self.links.links.send(to.node, plane, payload, time.monotonic())

    def dial(self, address: str) -> None:
        self.links.links.dial(address, time.monotonic())


class Mesh:
    """The peers and proxies of one test."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.proxies: list[Proxy] = []

    def peer(self, **options: object) -> Peer:
        peer = Peer(**options)  # type: ignore[arg-type]
        self.peers.append(peer)
        return peer

    def proxied(self, **options: object) -> tuple[Peer, Proxy]:
        peer = self.peer(**options)
        proxy = Proxy(peer.endpoint.port)
        self.proxies.append(proxy)
        return peer.behind(proxy), proxy

    def until(self, condition: Callable[[], object], what: str) -> None:
        def look() -> object:
            for peer in self.peers:
                peer.told += peer.links.turn(time.monotonic())
            return condition()

        until(look, what)

    def up(self, *peers: Peer) -> None:
        """The first dials the others; wait until each pair with it is up."""
        for other in peers[1:]:
            peers[0].dial(other.address)
        self.until(lambda: len(peers[0].of(PeerUp)) == len(peers) - 1, "they are up")
        self.until(lambda: all(peer.of(PeerUp) for peer in peers), "at both ends")

    def kill(self, peer: Peer) -> None:
        """Its sockets close as those of a killed process do: nothing of it is sent any more."""
        self.peers.remove(peer)
        peer.links.close()


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    mesh = Mesh()
    yield mesh
    for peer in list(mesh.peers):
        mesh.kill(peer)
    for proxy in mesh.proxies:
        proxy.close()


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


def test_messages_on_all_planes(mesh: Mesh) -> None:
    a, b = mesh.peer(), mesh.peer()
    mesh.up(a, b)
    a.send(b, *numbers(3000))
    b.send(a, *numbers(3000))
    chunk = os.urandom(3 << 20)
    a.send(b, chunk, chunk, plane=Plane.BULK)
    mesh.until(lambda: len(b.got()) == len(a.got()) == 3000 and len(b.got(Plane.BULK)) == 2, "everything")
    assert b.got() == a.got() == numbers(3000)
    assert b.got(Plane.BULK) == [chunk, chunk]
    mesh.until(lambda: a.links.probe(b.node, b.node, b"ping", time.monotonic()), "the probe is sent")
    mesh.until(lambda: Probed(a.node, b"ping") in b.told, "the probe arrives")


@pytest.mark.fault(26, 28, 32)
@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_lost_doubled_or_out_of_order_while_connections_are_cut(mesh: Mesh, seed: int) -> None:
    random = Random(seed)
    at_once = msgspec.structs.replace(CONFIG, link_replay_after_s=1000.0)  # no timer helps: each reconnect must
    (a, to_a), (b, to_b) = mesh.proxied(config=at_once), mesh.proxied(config=at_once)
    mesh.up(a, b)
    count, cuts = 0, 0
    for _ in range(20):
        burst = random.choice((1, 50, 400))
        for one, other in ((a, b), (b, a)):
            one.send(other, *(number + b" " + bytes(random.choice((0, 2000))) for number in numbers(burst, count)))
        count += burst
        reached = random.random() * count
        mesh.until(lambda reached=reached: len(b.got()) >= reached, "some of it")  # type: ignore[misc]
        proxy = random.choice((to_a, to_b))
        cuts += proxy.cut() if random.random() < 0.7 else proxy.cut_unseen()
    mesh.until(lambda: len(a.got()) >= count and len(b.got()) >= count, "everything")
    for one in (a, b):
        assert [payload.split()[0] for payload in one.got()] == numbers(count)
        assert one.of(PeerDown) == []
    assert cuts > 5


@pytest.mark.fault(28)
def test_connections_made_anew_lose_nothing(mesh: Mesh) -> None:
    at_once = msgspec.structs.replace(CONFIG, link_replay_after_s=1000.0)  # no timer helps
    a, b = mesh.peer(config=at_once), mesh.peer(config=at_once)
    mesh.up(a, b)
    for start in range(0, 3000, 300):
        a.send(b, *numbers(300, start))
        a.links.turn(time.monotonic())
        a.links.redial(time.monotonic())
    mesh.until(lambda: len(b.got()) == 3000, "everything")
    assert b.got() == numbers(3000)
    assert a.of(PeerDown) == b.of(PeerDown) == []


@pytest.mark.fault(32)
def test_what_a_socket_has_swallowed_is_sent_again(mesh: Mesh) -> None:
    """The proxy reads what is sent, and tells nobody; the connection stands until its receiver misses something."""
    (a, _), (b, to_b) = mesh.proxied(), mesh.proxied()
    mesh.up(a, b)
    a.send(b, b"before")
    mesh.until(lambda: b.got() == [b"before"], "the first")
    to_b.lose = 1
    a.send(b, *numbers(100))
    mesh.until(lambda: to_b.lose == 0, "something is lost")
    to_b.cut()
    mesh.until(lambda: len(b.got()) == 101, "everything")
    assert b.got()[1:] == numbers(100)


@pytest.mark.fault(31)
def test_a_connection_that_stalls_for_a_while(mesh: Mesh) -> None:
    (a, _), (b, to_b) = mesh.proxied(), mesh.proxied()
    mesh.up(a, b)
    a.send(b, b"the connection stands")
    mesh.until(b.got, "the first")
    to_b.stall()
    a.send(b, *numbers(500))
    end = time.monotonic() + 3 * CONFIG.link_replay_after_s  # long enough for questions into the stalled connection
    mesh.until(lambda: time.monotonic() > end, "a while")
    assert len(b.got()) == 1
    to_b.stalled = False
    mesh.until(lambda: len(b.got()) == 501, "everything")
    assert b.got()[1:] == numbers(500)
    session = next(iter(a.links.links)).sessions[Plane.CONTROL]
    assert session._question > 0
    assert session.replayed == 0, "it was all on its way"


@pytest.mark.fault(29)
def test_control_is_not_behind_bulk(mesh: Mesh) -> None:
    """A window of bulk is on its way when the message is sent; it arrives before all of that."""
    a, b = mesh.peer(), mesh.peer()
    mesh.up(a, b)
    chunk = bytes(1 << 20)
    a.send(b, chunk, plane=Plane.BULK)
    mesh.until(lambda: b.got(Plane.BULK), "bulk runs")
    a.send(b, *([chunk] * 100), plane=Plane.BULK)
    mesh.until(lambda: len(b.got(Plane.BULK)) > 5, "bulk runs")
    a.send(b, b"urgent")
    mesh.until(b.got, "the message")
    assert len(b.got(Plane.BULK)) < 101
    mesh.until(lambda: len(b.got(Plane.BULK)) == 101, "the rest")


@pytest.mark.fault(17, 30)
def test_a_peer_is_killed_and_replaced_and_the_new_one_gets_nothing_of_the_old(mesh: Mesh) -> None:
    (a, _), (b, to_b) = mesh.proxied(), mesh.proxied()
    mesh.up(a, b)
    a.send(b, *numbers(2000))
    mesh.until(lambda: len(b.got()) > 10, "a part")
    port = b.endpoint.port
    mesh.kill(b)
    a.send(b, *numbers(2000))
    c = mesh.peer(port=port).behind(to_b)
    assert c.address == b.address
    mesh.until(lambda: a.of(PeerDown), "the sender is told")
    down = a.of(PeerDown)
    assert isinstance(down[0], PeerDown)
    assert (down[0].node, down[0].reason) == (b.node, Reason.REPLACED)
    a.dial(c.address)
    mesh.until(lambda: len(a.of(PeerUp)) == 2, "the new one is up")
    a.send(c, b"for c")
    mesh.until(c.got, "a message")
    assert c.got() == [b"for c"]
    assert len(a.of(PeerDown)) == 1


@pytest.mark.fault(17)
def test_a_newcomer_that_dials_first_ends_the_link_to_its_predecessor(mesh: Mesh) -> None:
    a, b = mesh.peer(), mesh.peer()
    mesh.up(a, b)
    port = b.endpoint.port
    mesh.kill(b)
    c = mesh.peer(port=port)
    c.dial(a.address)
    mesh.until(lambda: len(a.of(PeerUp)) == 2, "the newcomer is up")
    mesh.until(lambda: a.of(PeerDown), "it has answered to its address")
    assert [told.node for told in a.of(PeerDown) if isinstance(told, PeerDown)] == [b.node]


@pytest.mark.fault(34)
def test_a_peer_that_dials_its_own_port(mesh: Mesh) -> None:
    a = mesh.peer()
    a.dial(a.address)
    mesh.until(lambda: a.of(SelfDialled), "it notices")
    assert a.of(PeerUp) == []


@pytest.mark.fault(54)
def test_another_mesh_with_the_same_key_is_refused_and_both_ends_say_why(mesh: Mesh) -> None:
    a, b = mesh.peer(), mesh.peer(mesh="other")
    a.dial(b.address)
    mesh.until(lambda: a.of(TurnedAway) and b.of(TurnedAway), "both know")
    for told in a.of(TurnedAway) + b.of(TurnedAway):
        assert isinstance(told, TurnedAway)
        assert told.reason is Reason.MESH
        assert "belongs to mesh other" in told.text


@pytest.mark.fault(54)
def test_another_mesh_with_another_key_gets_no_further_than_the_handshake(mesh: Mesh) -> None:
    a, b = mesh.peer(mesh_key=MeshKey.generate()), mesh.peer()
    a.dial(b.address)
    mesh.until(lambda: a.of(HandshakeFailed), "the dialler knows")
    mesh.until(lambda: b.endpoint.stats().refused, "the port has counted it")
    assert a.of(PeerUp) == b.of(PeerUp) == []


@pytest.mark.fault(51)
def test_another_minor_version_of_python_is_marked(mesh: Mesh) -> None:
    a, b = mesh.peer(), mesh.peer(python="3.13")
    mesh.up(a, b)
    assert [(told.python, told.compatible) for told in a.of(PeerUp) if isinstance(told, PeerUp)] == [("3.13", False)]


@pytest.mark.fault(11)
def test_a_peer_that_was_declared_dead_learns_it(mesh: Mesh) -> None:
    a, b = mesh.peer(), mesh.peer()
    mesh.up(a, b)
    a.links.links.down(b.node, "no answer", time.monotonic())
    b.send(a, b"I was asleep")
    mesh.until(lambda: b.of(PeerDown), "it learns it")
    down = b.of(PeerDown)[0]
    assert isinstance(down, PeerDown)
    assert down.reason is Reason.DEAD
    assert a.got() == []


@pytest.mark.fault(24)
def test_a_pair_that_was_cut_off_begins_anew_and_nothing_of_before_arrives_in_it(mesh: Mesh) -> None:
    """Only one side gives up. What both had written waits in the proxies, and comes when the new link begins."""
    hasty = msgspec.structs.replace(CONFIG, link_stall_s=0.6, link_ask_s=0.2)
    (a, to_a), (b, to_b) = mesh.proxied(config=hasty), mesh.proxied()
    mesh.up(a, b)
    a.send(b, b"before")
    b.send(a, b"before")
    mesh.until(lambda: a.got() and b.got(), "they speak")
    to_a.stall()
    to_b.stall()
    a.send(b, *numbers(10))
    b.send(a, *numbers(10))
    mesh.until(lambda: a.of(PeerDown), "one gives up")
    assert b.of(PeerDown) == []
    a.links.links.connect(b.node, b.address, time.monotonic())
    a.send(b, b"anew")
    to_a.stalled = to_b.stalled = False
    mesh.until(lambda: b"anew" in b.got(), "the new link")
    b.send(a, b"anew, too")
    mesh.until(lambda: b"anew, too" in a.got(), "both ways")
    for one, last in ((a, b"anew, too"), (b, b"anew")):
        told = [effect for effect in one.told if isinstance(effect, PeerUp | PeerDown | Delivered)]
        down = next(index for index, effect in enumerate(told) if isinstance(effect, PeerDown))
        assert [type(effect) for effect in told[down:]] == [PeerDown, PeerUp, Delivered]
        assert one.got()[:-1] == [b"before", *numbers(10)][: len(one.got()) - 1]
        assert one.got()[-1] == last


@pytest.mark.fault(42)
def test_many_peers_join_one_at_once(mesh: Mesh) -> None:
    a = mesh.peer()
    others = [mesh.peer() for _ in range(20)]
    for other in others:
        other.dial(a.address)
    mesh.until(lambda: len(a.of(PeerUp)) == 20 and all(other.of(PeerUp) for other in others), "all are up")
    for other in others:
        a.send(other, *numbers(10))
    mesh.until(lambda: all(other.got() == numbers(10) for other in others), "all have heard")
