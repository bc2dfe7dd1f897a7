"""Members in one process, over real sockets on loopback: joining, leaving, dying and coming back, seeds and bounds.

Between hosts, and with discovery, the same is shown in `tests/lan/test_members.py`.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from meshray import meshkey
from meshray.config import preset
from meshray.core import links
from meshray.core.link_effects import TurnedAway
from meshray.core.links import SEED
from meshray.errors import MeshrayError
from meshray.ids import NODE_BYTES, new_node
from meshray.launch import MeshSettings
from meshray.meshkey import MeshKey
from meshray.peer import mesh_life
from meshray.peer.mesh import Mesh, MeshStartError, Resources
from meshray.peer.mesh_events import LifeOver, LinkCut, LinkThere, MeshEvent
from meshray.peer.mesh_life import PYTHON, Who, address_of, awake_or_not
from meshray.peer.probe_lines import PREFIX
from meshray.resources import Amounts
from meshray.seeds import last_peers
from meshray.transport.discovery import Addresses, Discovery, Found, Withdrawn
from meshray.transport.mesh_lines import HandshakeFailed
from meshray.transport.zap import Zap
from meshray.wire.advert import Advert
from meshray.wire.peers import ANYBODY, PROTOCOL, Hello, Plane, Reason
from tests.ports import free_port
from tests.until import until

CONFIG = preset("test")


class Room:
    """Some members, each moved on by `until`."""

    def __init__(self) -> None:
        self.members: list[Mesh] = []
        self.available: Amounts = {"CPU": 20_000}

    def member(self, *seeds: Mesh | str, port: int = 0) -> Mesh:
        words = [seed if isinstance(seed, str) else place(seed) for seed in seeds]
        settings = MeshSettings(seeds=words, bind=["127.0.0.1"], port=port or free_port())
        now = time.monotonic()
        mesh = Mesh(
            settings, Who("desk", "0.1.0", new_node()), CONFIG, lambda: Resources({"CPU": 20_000}, self.available), now
        )
        self.members.append(mesh)
        return mesh

    def until(self, condition: Callable[[], object], what: str) -> None:
        def look() -> object:
            for mesh in self.members:
                mesh.turn(time.monotonic())
            return condition()

        until(look, what)

    def agree(self) -> None:
        def same() -> bool:
            nodes = {mesh.status()["node_id"] for mesh in self.members}
            return all(alive(mesh) == nodes for mesh in self.members)

        self.until(same, "all see all")

    def kill(self, mesh: Mesh) -> None:
        self.members.remove(mesh)
        mesh.close()


def place(mesh: Mesh) -> str:
    return str(mesh.status()["listens"][0])


def alive(mesh: Mesh) -> set[str]:
    return {member["node_id"] for member in mesh.status()["members"] if member["state"] in ("alive", "suspect")}


def row(mesh: Mesh, other: Mesh) -> dict[str, Any]:
    """How one shows another."""
    return next(member for member in mesh.status()["members"] if member["node_id"] == other.status()["node_id"])


def state(mesh: Mesh, node: str) -> str:
    return next((str(m["state"]) for m in mesh.status()["members"] if m["node_id"] == node), "unknown")


@contextmanager
def room_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    """With a key; its members end with the block."""
    monkeypatch.setenv("MESHRAY_HOME", str(folder / "home"))
    monkeypatch.setenv("MESHRAY_RUNTIME_DIR", str(folder / "run"))
    meshkey.make(MeshKey.generate())
    room = Room()
    yield room
    for mesh in list(room.members):
        room.kill(mesh)


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    with room_of_its_own(tmp_path, monkeypatch) as room:
        yield room


def test_members_join_by_a_seed_and_one_says_goodbye(room: Room) -> None:
    a = room.member()
    b = room.member(a)
    c = room.member("localhost:1", a)  # a name is resolved, and nobody is there
    room.agree()
    node = b.status()["node_id"]
    b.leave(time.monotonic())
    room.kill(b)
    room.until(lambda: state(a, node) == state(c, node) == "left", "all know that it has left")


def test_one_that_dies_without_a_word(room: Room) -> None:
    a = room.member()
    b = room.member(a)
    room.agree()
    node = b.status()["node_id"]
    room.kill(b)
    room.until(lambda: state(a, node) == "dead", "it is declared dead")


def test_a_guest_is_not_found_before_it_has_joined(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever finds it takes it in, whatever address it was given."""
    a = room.member()
    advertised: list[bytes] = []
    monkeypatch.setattr(Discovery, "advertise", lambda discovery, advert: advertised.append(advert.node))
    settings = MeshSettings(seeds=[place(a)], bind=["127.0.0.1"], port=0, guest=True)
    who = Who("guest", "0.1.0", new_node())
    guest = Mesh(settings, who, CONFIG, lambda: Resources({}, {}), time.monotonic())
    room.members.append(guest)
    assert advertised == []
    room.agree()
    guest.wait_joined()
    assert [node.hex() for node in advertised] == [guest.status()["node_id"]]


def test_troubles_in_the_words_of_others_move_no_cursor(room: Room) -> None:
    life = room.member()._life
    assert life is not None
    life._on_told(TurnedAway("10.0.0.1:1", Reason.OTHER, "\x1b[2J\n"), time.monotonic())
    assert life.troubles == ["no link with 10.0.0.1:1: ?[2J?"]


def test_one_that_is_being_stopped_leaves_since_then(room: Room) -> None:
    """And not since it came."""
    a = room.member()
    b = room.member(a)
    room.agree()
    b.say_leaving(time.monotonic())
    room.until(lambda: row(a, b)["leaving"] and row(b, b)["leaving"], "both know it")
    for mesh in (a, b):
        assert mesh._life is not None
        came = next(member for member in mesh._life.members() if member.node.hex() == b.status()["node_id"])
        assert row(mesh, b)["state"] == "alive"
        assert row(mesh, b)["since_s"] < came.since_s
    assert row(a, a)["since_s"] > row(a, b)["since_s"]


def test_a_guest_is_not_remembered(room: Room) -> None:
    """It is never again at that port."""
    a = room.member()
    b = room.member(a)
    settings = MeshSettings(seeds=[place(a)], bind=["127.0.0.1"], port=0, guest=True)
    total = {"memory": 10_000}
    guest = Mesh(settings, Who("guest", "0.1.0", new_node()), CONFIG, lambda: Resources(total, {}), time.monotonic())
    room.members.append(guest)
    room.agree()
    room.until(lambda: all(place(each) in map(str, last_peers(a.keys.mesh)) for each in (a, b)), "they are")
    assert place(guest) not in map(str, last_peers(a.keys.mesh))


def test_one_that_listens_nowhere_says_so(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    (warning,) = room.member().warnings()
    assert warning == "it listens at 127.0.0.1 alone, which no other host reaches"
    with monkeypatch.context() as patched:
        patched.setattr("meshray.peer.mesh.is_loopback", lambda hosts: False)
        assert room.member().warnings() == []
    monkeypatch.setattr(mesh_life, "dialled", lambda interfaces: [])
    (warning,) = room.member().warnings()
    assert "no other host reaches it" in warning


@pytest.mark.fault(11)
def test_one_that_was_declared_dead_begins_anew_at_the_same_port(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    adverts: list[Advert] = []
    monkeypatch.setattr(Discovery, "advertise", lambda discovery, advert: adverts.append(advert))
    a = room.member()
    b = room.member(a)
    room.agree()
    before = b.status()
    assert a._life is not None
    a._life._membership.on_gone(bytes.fromhex(before["node_id"]), awake_or_not())  # falsely
    room.until(lambda: b.lives > 1, "it learns it")
    room.agree()
    after = b.status()
    assert after["node_id"] != before["node_id"]
    assert after["listens"] == before["listens"]
    assert state(a, before["node_id"]) == "dead"
    assert [(advert.node.hex(), advert.incarnation) for advert in adverts[1:]] == [
        (before["node_id"], 1),
        (after["node_id"], 2),
    ]
    assert after["counters"]["messages received"] >= before["counters"]["messages received"]


def test_the_resources_of_the_others_are_known_and_follow(room: Room) -> None:
    a = room.member()
    b = room.member(a)
    room.agree()

    def used(mesh: Mesh) -> list[dict[str, float]]:
        return [member["used"] for member in mesh.status()["members"]]

    assert used(a) == [{}, {}]
    room.available = {"CPU": 5_000}
    room.until(lambda: used(a) == used(b) == [{"CPU": 1.5}, {"CPU": 1.5}], "both know how busy both are")


def test_the_members_seen_last_are_remembered(room: Room) -> None:
    a = room.member()
    b = room.member(a)
    room.agree()
    room.until(lambda: place(b) in map(str, last_peers(a.keys.mesh)), "written down")
    room.until(lambda: place(a) in map(str, last_peers(a.keys.mesh)), "written down")
    room.kill(b)
    room.member()  # nobody has told it a seed
    room.until(lambda: len(alive(room.members[-1])) == 2, "it finds a by what is remembered")


def test_a_port_that_another_program_has(room: Room) -> None:
    taken = rf"port \d+ of 127\.0\.0\.1 is taken by another program.* program of yours, pid {os.getpid()}: `.*pytest"
    expected = pytest.raises(MeshStartError, match=taken)
    with socket.create_server(("127.0.0.1", 0)) as other, expected:
        room.member(port=other.getsockname()[1])


def test_without_its_encryption_a_peer_does_not_start(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Zap, "_judge", lambda zap, request: ("friend", "admitted"))
    with pytest.raises(MeshStartError, match="the encryption of the port does not hold, so it is not opened"):
        room.member()


def test_a_record_that_somebody_withdraws_takes_nobody_out(room: Room) -> None:
    """Anybody on the network can do that."""
    a = room.member()
    b = room.member(a)
    room.agree()
    assert a._life is not None
    a._life._on_finding(Withdrawn(bytes.fromhex(b.status()["node_id"])), time.monotonic())
    before = a.status()["counters"]["messages received"]
    room.until(lambda: a.status()["counters"]["messages received"] > before + 5, "they go on")
    assert row(a, b)["state"] == "alive"
    assert a.lives == b.lives == 1


@pytest.mark.fault(35)
def test_a_foreign_program_at_the_address_of_a_seed(room: Room) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        a = room.member(f"127.0.0.1:{other.getsockname()[1]}")
        other.setblocking(False)

        def answered() -> bool:
            try:
                connection, _ = other.accept()
            except BlockingIOError:
                return False
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4)
            return True

        room.until(answered, "it dials")
        room.until(lambda: a.status()["refused_there"], "that is counted")
    b = room.member(a)
    room.agree()
    assert len(alive(b)) == 2


def test_a_port_that_closes_with_its_peer_has_refused_nobody(room: Room) -> None:
    a = room.member()
    b = room.member(a)
    room.agree()
    assert a._life is not None
    node = bytes.fromhex(b.status()["node_id"])
    lines = [node, PREFIX + place(b).encode()]
    for line in lines:
        a._life._on_told(HandshakeFailed(line, Plane.CONTROL, "broken off"), time.monotonic())
    room.until(lambda: a.status()["refused_there_ago_s"], "it is seen when")
    assert a.status()["refused_there"] == {"broken off": 2}, "it lives, and refuses us"
    b.leave(time.monotonic())
    room.until(lambda: any(member["state"] == "left" for member in a.status()["members"]), "it has left")
    for line in lines:
        a._life._on_told(HandshakeFailed(line, Plane.CONTROL, "broken off"), time.monotonic())
    assert a.status()["refused_there"] == {"broken off": 2}


def test_status_says_why_it_is_alone(room: Room) -> None:
    nobody, own = f"127.0.0.1:{free_port()}", free_port()
    a = room.member(nobody, "no-such-host.invalid:7", f"127.0.0.1:{own}", port=own)
    unknown = "no address is known for that name"
    room.until(
        lambda: a.status()["no_link"] == {nobody: "no answer yet", "no-such-host.invalid:7": unknown}, "it is said"
    )
    assert a._life is not None
    a._life._on_told(TurnedAway(nobody, Reason.OTHER, "no answer within 30 s"), time.monotonic())
    assert a.status()["no_link"][nobody] == "no answer within 30 s"
    record = msgspec.structs.replace(a._advert, node=new_node(), addresses=[bytes((10, 0, 0, 9))], port=7)
    a._life._on_finding(Found(record, ("10.0.0.9",)), time.monotonic())
    assert a.status()["no_link"]["10.0.0.9:7"] == "no answer yet", "heard, and a firewall may be in between"
    a._life._on_finding(Withdrawn(record.node), time.monotonic())
    assert "10.0.0.9:7" not in a.status()["no_link"]
    b = room.member(a)
    room.agree()
    assert a.status()["no_link"] == b.status()["no_link"] == {}


@pytest.mark.fault(23)
def test_one_that_reaches_a_member_and_is_not_reached_is_told_of_its_firewall(room: Room) -> None:
    a = room.member()
    b = room.member(a)
    assert b._life is not None
    b._life._links.present([f"127.0.0.1:{free_port()}"])  # where nobody listens, as it looks from outside
    room.until(lambda: "a firewall here?" in b.status()["no_link"].get(place(a), ""), "it is said")
    assert f"listens at TCP port {place(b).rpartition(':')[2]}" in b.status()["no_link"][place(a)]
    assert "a firewall here?" in b._why_alone()
    b._life._links.present([place(b)])
    room.agree()
    assert b.status()["no_link"] == {}
    node, seed = a.status()["node_id"], place(a)
    room.kill(a)
    room.until(lambda: state(b, node) == "dead", "it is alone")
    assert b.status()["no_link"] == {seed: "no answer yet"}, "nothing of before is said of it"


@pytest.mark.fault(52)
def test_one_of_another_protocol_is_no_member_whoever_dials(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    a = room.member()
    b = room.member(a)
    with monkeypatch.context() as later:
        later.setattr(links, "PROTOCOL", 99)
        strange = room.member(a)
    assert a._life is not None
    for _ in range(2):  # it asks, and then those that have found it
        room.until(lambda: a.status()["counters"].get("turned away: protocol"), "a knows")
        room.until(lambda: strange.status()["counters"].get("turned away: protocol"), "the other one does, too")
        a._life.join([place(strange)])
    c = room.member(a)  # when it has come, all that was said before is over
    room.until(lambda: all(len(alive(mesh)) == 3 for mesh in (a, b, c)), "the others are one mesh")
    assert alive(strange) == {strange.status()["node_id"]}
    for mesh, other in ((a, strange), (strange, a)):
        assert "version 99" in mesh.status()["no_link"][place(other)]


@pytest.mark.fault(34)
def test_a_seed_that_is_ourselves(room: Room) -> None:
    port = free_port()
    a = room.member(f"127.0.0.1:{port}", port=port)
    b = room.member(a)
    room.agree()
    assert len(alive(a)) == len(alive(b)) == 2


def test_a_port_that_is_taken_between_two_lives_is_tried_again(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    a = room.member()
    b = room.member(a)
    room.agree()
    begin, tries = b._begin, []

    def refuse_once() -> object:
        tries.append(time.monotonic())
        if len(tries) == 1:
            raise MeshStartError("taken")
        return begin()

    monkeypatch.setattr(b, "_begin", refuse_once)
    assert a._life is not None
    a._life._membership.on_gone(bytes.fromhex(b.status()["node_id"]), awake_or_not())  # falsely
    room.until(lambda: tries, "the port is opened again, in vain")
    told = b.status()
    assert (told["node_id"], told["listens"], told["members"]) == ("", [], [])
    assert b.fds() == []
    assert b.next_at(time.monotonic()) > tries[0]
    room.until(lambda: len(tries) == 2, "and again")
    room.agree()


@pytest.mark.fault(17)
def test_a_late_hello_of_a_dead_predecessor_costs_its_successor_nothing(room: Room) -> None:
    """It was on its way while that one died and another peer started at its address."""
    a = room.member()
    b = room.member(a)
    room.agree()
    a.take_events()
    late, node = Hello(PROTOCOL, a.keys.mesh.hex(), PYTHON, 1, [place(b)], home=new_node(), life=1), new_node()
    assert a._life is not None
    a._life._links.links.receive(ANYBODY, node, "127.0.0.1", late, b"", time.monotonic())
    told: list[MeshEvent] = []
    room.until(lambda: told.extend(a.take_events()) or LifeOver in map(type, told), "it is found out that it is dead")
    ends = [event for event in told if isinstance(event, LinkCut | LifeOver)]
    assert {event.life for event in ends} == {node}
    assert alive(a) == alive(b) == {a.status()["node_id"], b.status()["node_id"]}
    assert b.lives == 1


def test_a_link_that_was_given_up_for_its_slowness_begins_anew(room: Room) -> None:
    a = room.member()
    b = room.member(a)
    room.agree()
    node = bytes.fromhex(b.status()["node_id"])
    told: list[MeshEvent] = []
    room.until(lambda: told.extend(a.take_events()) or LinkThere(node) in told, "they are linked")
    told.clear()
    a.sever(node, "it takes too little", False, time.monotonic())
    room.until(lambda: told.extend(a.take_events()) or LinkThere(node) in told, "they are again")
    assert [type(event) for event in told if isinstance(event, LinkCut | LinkThere)] == [LinkCut, LinkThere]
    assert b.lives == 1


def test_an_address_that_is_none_of_ours(room: Room) -> None:
    settings = MeshSettings(bind=["192.0.2.1"], port=free_port())
    with pytest.raises(MeshrayError, match=r"no interface of this host has the address 192\.0\.2\.1"):
        Mesh(settings, Who("desk", "0.1.0", new_node()), CONFIG, lambda: Resources({}, {}), time.monotonic())


def test_one_member_that_says_nonsense_of_where_it_listens_keeps_no_other_from_being_remembered(room: Room) -> None:
    a = room.member()
    b = room.member(a)
    room.agree()
    assert b._life is not None
    b._life._membership.set_addresses(("nowhere at all",), awake_or_not())
    c = room.member(a)
    room.until(lambda: place(c) in map(str, last_peers(a.keys.mesh)), "c is remembered all the same")


def test_what_libzmq_cannot_have_is_told_in_words_and_leaves_nothing(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise zmq.ZMQError(errno.EMFILE)

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(mesh_life, "MeshEndpoint", fails)
    with pytest.raises(MeshStartError, match="Too many open files"):
        room.member()
    monkeypatch.setattr(mesh_life, "look", fails)
    with pytest.raises(MeshStartError, match="Too many open files"):
        room.member()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_a_line_is_called_after() -> None:
    assert address_of(PREFIX + b"10.0.0.1:7637") == address_of(SEED + b"10.0.0.1:7637") == "10.0.0.1:7637"
    assert address_of(b":ode--id") == ""  # one in thirty ids has a colon in it
    assert min(len(PREFIX), len(SEED)) >= NODE_BYTES, "else an id could begin so"


@pytest.mark.fault(28, 35)
def test_an_address_where_somebody_else_has_the_port_is_tried_again(
    room: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mesh_life, "FOLLOW_AGAIN_S", 0.1)
    a = room.member()
    life, port = a._life, int(place(a).rpartition(":")[2])
    assert life is not None
    monkeypatch.setattr(life._discovery, "take", list)  # it would say what the host's addresses are
    with socket.create_server(("127.0.0.2", port)):
        life._on_finding(Addresses(("127.0.0.1", "127.0.0.2")), time.monotonic())
        assert a.status()["listens"] == [f"127.0.0.1:{port}"]
        assert f"port {port} of 127.0.0.2 is taken by another program" in capsys.readouterr().err
    room.until(lambda: len(a.status()["listens"]) == 2, "it listens there as well")
    b = room.member(f"127.0.0.2:{port}")
    room.agree()
    (row,) = (member for member in b.status()["members"] if not member["is_self"])
    assert row["addresses"] == [f"127.0.0.1:{port}", f"127.0.0.2:{port}"]


def test_the_log_calls_members_as_status_does(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    a = room.member()
    b = room.member(a)
    room.agree()
    (row,) = (member for member in a.status()["members"] if not member["is_self"])
    b.leave(time.monotonic())
    room.until(lambda: any(member["state"] == "left" for member in a.status()["members"]), "it has left")
    told = capsys.readouterr().err
    assert f"member {row['name']} ({row['home']}) is there" in told
    assert f"member {row['name']} ({row['home']}) is gone" in told
    assert row["home"] != row["node_id"] not in told
