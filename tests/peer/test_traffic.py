"""The road over real sockets: peers in one process, on loopback, each with what it would have of others.

Between hosts, with real processes at both ends, the same is shown in `tests/lan/test_road.py`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from meshray import meshkey
from meshray.config import preset
from meshray.core.effects import Send
from meshray.core.leases import Leases
from meshray.core.placement import Here
from meshray.core.road import Road
from meshray.core.road_effects import Handle, HostGone, Sever
from meshray.core.ways import Parcel
from meshray.ids import OBJECT_BYTES, new_node, new_process
from meshray.launch import MeshSettings
from meshray.local import peer_process
from meshray.meshkey import MeshKey
from meshray.peer.copies import CopyHands
from meshray.peer.mesh import Mesh, Resources
from meshray.peer.mesh_life import Who, awake_or_not
from meshray.peer.parts import Parts
from meshray.peer.traffic import Traffic
from meshray.wire import messages as m
from meshray.wire.codec import decode
from meshray.wire.peers import Plane
from tests.peer.test_mesh import alive, free_port
from tests.until import until

CONFIG = msgspec.structs.replace(
    preset("test"), road_window_bytes=1 << 16, link_window_bytes=1 << 18, link_kept_max_bytes=1 << 21
)


def nothing(*_: object) -> None:
    """What else a peer does when a member comes or goes."""


class Peer:
    """A mesh, a road and the traffic between them; of the rest of a peer only what these need."""

    def __init__(self, *seeds: Peer) -> None:
        self.home = new_node()
        self.id = peer_process(self.home)
        self.processes: set[bytes] = set()
        self.clogged: set[bytes] = set()  # processes that read nothing
        self.heard: dict[bytes, list[Any]] = defaultdict(list)  # by process of ours
        self.told: list[Any] = []  # other effects
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        settings = MeshSettings(seeds=[seed.address for seed in seeds], bind=["127.0.0.1"], port=port)
        self.mesh = Mesh(settings, Who("desk", "0.1.0", self.home), CONFIG, lambda: Resources({}, {}), time.monotonic())
        self.road = Road(CONFIG, self.home, "3.11", self)
        self.road.linked = True
        endpoint = SimpleNamespace(is_clogged=self.clogged.__contains__)
        self.leases = Leases({}, ("/usr/bin/python", "/usr"), CONFIG, here=Here(self.home))
        naming = SimpleNamespace(on_member_up=nothing, on_member_down=nothing, members=list)
        wills = SimpleNamespace(on_member_up=nothing, on_member_down=nothing)
        objects = SimpleNamespace(foreign=SimpleNamespace(on_host_there=nothing))
        actors = SimpleNamespace(on_node_there=nothing)
        cores = SimpleNamespace(
            road=self.road, leases=self.leases, naming=naming, wills=wills, objects=objects, foreign_actors=actors
        )
        parts = SimpleNamespace(mesh=self.mesh, cores=cores, endpoint=endpoint, config=CONFIG)
        copies = SimpleNamespace(turn=lambda mesh, now: False, finish=lambda now: False)
        self.traffic = Traffic(cast(Parts, parts), cast(CopyHands, copies), self.settle)

    def __contains__(self, process: bytes) -> bool:
        return process in self.processes

    def job_info(self, process: bytes) -> m.JobInfo | None:
        return None

    def job_lives(self, job: bytes) -> bool:
        return False

    def process(self) -> bytes:
        made = new_process(self.home)
        self.processes.add(made)
        return made

    def settle(self, now: float) -> None:
        for effect in self.road.take_effects():
            if isinstance(effect, Send):
                self.heard[effect.to].append(effect.message)
                if isinstance(effect.message, m.NodeGone):
                    self.road.on_seen(effect.to, m.NodeGoneSeen(effect.message.node))
            elif isinstance(effect, Handle):
                message = decode(effect.data)
                if isinstance(message, m.ProcessThere):
                    self.road.on_process_there(effect.source, message)
                else:
                    self.told.append((effect.source, message))
            elif isinstance(effect, Sever):
                self.mesh.sever(effect.life, effect.why, effect.over, now)
            else:
                self.told.append(effect)

    def say(self, source: bytes, destination: bytes, data: bytes) -> None:
        self.road.on_relay(source, m.Relay(destination, data), time.monotonic())
        self.settle(time.monotonic())

    def data(self, process: bytes) -> list[bytes]:
        return [message.data for message in self.heard[process] if isinstance(message, m.Relayed)]

    def gone(self, process: bytes) -> list[bytes]:
        return [message.node for message in self.heard[process] if isinstance(message, m.NodeGone)]


class Room:
    def __init__(self) -> None:
        self.peers: list[Peer] = []

    def peer(self, *seeds: Peer) -> Peer:
        peer = Peer(*seeds)
        self.peers.append(peer)
        return peer

    def until(self, condition: Callable[[], object], what: str) -> None:
        def look() -> object:
            for peer in self.peers:
                peer.traffic.turn(set(peer.mesh.fds()), time.monotonic())
            return condition()

        until(look, what)

    def agree(self) -> None:
        def same() -> bool:
            nodes = {peer.mesh.status()["node_id"] for peer in self.peers}
            return all(alive(peer.mesh) == nodes and len(peer.road.homes()) == len(nodes) - 1 for peer in self.peers)

        self.until(same, "all see all")

    def pair(self) -> tuple[Peer, Peer]:
        """Two that see each other."""
        first = self.peer()
        second = self.peer(first)
        self.agree()
        return first, second

    def who_have_spoken(self, a: Peer, b: Peer) -> tuple[bytes, bytes]:
        """A process of each; `b`'s has heard a word of `a`'s."""
        one, other = a.process(), b.process()
        a.say(one, other, b"before")
        self.until(lambda: b.data(other), "they have spoken")
        return one, other

    def kill(self, peer: Peer) -> None:
        self.peers.remove(peer)
        peer.mesh.close()


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setenv("MESHRAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MESHRAY_RUNTIME_DIR", str(tmp_path / "run"))
    meshkey.make(MeshKey.generate())
    room = Room()
    yield room
    for peer in list(room.peers):
        room.kill(peer)


def test_processes_and_peers_speak_both_ways(room: Room) -> None:
    a, b = room.pair()
    one, other = a.process(), b.process()
    for number in range(100):
        a.say(one, other, b"%d" % number)
        b.say(other, one, b"%d" % number)
    a.road.send(b.id, m.DeathSeen(one), time.monotonic())
    b.road.send(one, m.RelayTaken(other, 0), time.monotonic())
    room.until(lambda: len(a.data(one)) == 101 and len(b.data(other)) == 100, "all is heard")
    numbers = [b"%d" % number for number in range(100)]
    assert b.data(other) == numbers
    assert [data for data in a.data(one) if data.isdigit()] == numbers
    assert (a.id, m.DeathSeen(one)) in b.told


@pytest.mark.parametrize(("size", "plane"), [(1 << 40, Plane.BULK), (10, Plane.CONTROL)])
def test_who_asks_for_a_value_of_many_pieces_asks_where_they_come(room: Room, size: int, plane: Plane) -> None:
    a, b = room.pair()
    planes: list[Plane] = []
    send = a.mesh.send
    a.mesh.send = lambda node, on, payload, now: planes.append(on) or send(node, on, payload, now)  # type: ignore[method-assign,func-returns-value]
    pulls = [m.Pull(m.Place(bytes(OBJECT_BYTES), b.home, "segment", size), offset, 5) for offset in (0, 5)]
    for pull in pulls:
        a.road.send(b.id, pull, time.monotonic())
    a.road.send(b.id, m.DeathSeen(a.id), time.monotonic())
    room.until(lambda: len([each for each in b.told if each[0] == a.id]) == 3, "all is heard")
    assert planes.count(plane) >= 2
    assert [message for _, message in b.told if isinstance(message, m.Pull)] == pulls
    assert planes.count(Plane.BULK) == (2 if plane is Plane.BULK else 0), "all else goes by itself"


def test_more_than_the_window_leaves_bit_by_bit_and_the_peers_own_words_before_it(room: Room) -> None:
    a, b = room.pair()
    senders, other = [a.process() for _ in range(20)], b.process()
    for sender in senders:
        for number in range(10):
            a.say(sender, other, b"%d " % number + bytes(50_000))
    a.traffic.turn(set(), time.monotonic())
    assert a.road.laden() == [b.home]
    a.road.send(b.id, m.DeathSeen(other), time.monotonic())
    room.until(lambda: (a.id, m.DeathSeen(other)) in b.told, "the peer is heard")
    assert len(b.data(other)) < 200
    room.until(lambda: len(b.data(other)) == 200, "and all the others")
    relayed = [message for message in b.heard[other] if isinstance(message, m.Relayed)]  # not that a host is silent
    for sender in senders:
        said = [message.data.split()[0] for message in relayed if message.source == sender]
        assert said == [b"%d" % number for number in range(10)]


def test_what_the_peer_itself_says_waits_for_the_link_however_much_it_is(room: Room) -> None:
    """Values that another host asks for by the thousand, constructors of many actors: far more than a link keeps."""
    a, b = room.pair()
    one, other = room.who_have_spoken(a, b)
    for number in range(40):
        name = number.to_bytes(28, "big")
        a.road.send(b.id, m.Fetched([m.Promoted(name, bytes(90_000))]), time.monotonic())
        a.road.send(b.id, m.Promote([m.Promoted(name, bytes(90_000))]), time.monotonic())
    a.say(one, other, b"between")
    room.until(lambda: len(b.told) == 80, "all is heard")
    for kind in (m.Fetched, m.Promote):
        names = [message.records[0].object_id for _, message in b.told if isinstance(message, kind)]
        assert names == [number.to_bytes(28, "big") for number in range(40)]
    assert b.data(other) == [b"before", b"between"]
    assert a.gone(one) == b.gone(other) == []


def test_a_process_that_reads_nothing_is_not_said_to_have_it(room: Room) -> None:
    a, b = room.pair()
    one, other = a.process(), b.process()
    b.clogged.add(other)
    a.say(one, other, bytes(m.RELAY_WINDOW_BYTES))
    room.until(lambda: b.data(other), "it is there")
    for _ in range(20):
        room.until(lambda: True, "a turn")
    assert a.data(one) == []
    b.clogged.clear()
    room.until(lambda: a.data(one), "it is taken")
    assert decode(a.data(one)[0]) == m.RelayTaken(other, m.RELAY_WINDOW_BYTES)


def test_a_host_that_dies(room: Room) -> None:
    a, b = room.pair()
    one, other = room.who_have_spoken(a, b)
    room.kill(b)
    a.say(one, other, b"into the void")
    room.until(lambda: a.gone(one) == [b.home], "it is told")
    assert [told for told in a.told if isinstance(told, HostGone)] != []
    a.say(one, other, b"into the void")
    room.until(lambda: a.gone(one) == [b.home, b.home], "and each time again")


def test_a_host_that_dies_before_anybody_here_has_dealt_with_it(room: Room) -> None:
    """It was a member for ever where tasks are placed: those that asked for it alone waited for it."""
    a, b = room.pair()
    room.until(lambda: b.home in a.leases.placement.members, "it has told what it has")
    room.kill(b)
    room.until(lambda: not a.road.is_there(b.home), "it is dead")
    assert b.home not in a.leases.placement.members
    assert b.home in a.leases.placement.gone
    assert not [told for told in a.told if isinstance(told, HostGone)], "nobody had dealt with it"


@pytest.mark.fault(24)
def test_a_host_that_is_out_of_reach_may_be_waited_for_until_it_is_dead(room: Room) -> None:
    a, b = room.pair()
    room.until(lambda: b.home in a.leases.placement.members, "it has told what it has")
    life = a.road.life_of(b.home)
    assert life is not None
    a.road.on_cut(life, "no link")
    room.kill(b)
    a.leases.on_member_gone(b.home, "no link", 0.0, out_of_reach=True)  # as `peer.foreign` does
    assert b.home not in a.leases.placement.members
    room.until(lambda: a.road.life_of(b.home) is None, "it is dead")
    assert not a.leases.placement.out_of_reach


@pytest.mark.fault(11)
def test_one_that_was_declared_dead_is_spoken_to_anew(room: Room) -> None:
    a = room.peer()
    b = room.peer(a)
    c = room.peer(a)
    room.agree()
    one, other, third = a.process(), b.process(), c.process()
    a.say(one, other, b"before")
    c.say(third, other, b"before")
    room.until(lambda: len(b.data(other)) == 2, "they have spoken")
    life = a.road.life_of(b.home)
    assert life is not None
    assert a.mesh._life is not None
    a.mesh._life._membership.on_gone(life, awake_or_not())  # falsely
    room.until(lambda: a.gone(one) and c.gone(third) and len(b.gone(other)) == 2, "all three hosts are told")
    room.agree()
    room.until(lambda: a.road.life_of(b.home) not in (None, life), "it has begun anew")
    a.say(one, other, b"after")
    b.say(other, third, b"after")
    room.until(lambda: b.data(other)[2:] == [b"after"] and c.data(third) == [b"after"], "they speak anew")
    assert (a.gone(one), c.gone(third)) == ([b.home], [b.home])
    assert sorted(b.gone(other)) == sorted([a.home, c.home])


def test_what_has_come_is_written_when_all_that_leaves_has_left() -> None:
    """So the next pieces are on their way meanwhile. What becomes of the writing leaves as well."""
    done: list[str] = []
    laden = [b"far-----"]

    def finish(now: float) -> bool:
        done.append("written")
        laden.append(b"far-----")
        return True

    def parcel(*_: object) -> Parcel | None:
        return Parcel(b"", b"", b"what asks for more") if laden and laden.pop() else None

    mesh = SimpleNamespace(
        is_due=lambda ready, now: False, take_events=list, portion=lambda *_: 1, takes=lambda *_: True,
        send=lambda *_: not done.append("sent"), flush=lambda now: done.append("left"),
    )  # fmt: skip
    road = SimpleNamespace(repay=nothing, laden=lambda: list(laden), life_of=lambda home: home, next=parcel)
    parts = SimpleNamespace(
        mesh=mesh, cores=SimpleNamespace(road=road), config=CONFIG, endpoint=SimpleNamespace(is_clogged=nothing)
    )
    copies = SimpleNamespace(turn=lambda mesh, now: False, finish=finish)
    Traffic(cast(Parts, parts), cast(CopyHands, copies), nothing).turn(set(), 0.0)
    assert done == ["sent", "left", "written", "sent", "left"]
