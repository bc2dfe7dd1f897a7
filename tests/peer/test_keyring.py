"""Another key for a running mesh, over real sockets on loopback: members in one process, each with a home of its own.

Between hosts, with the command line, the same is shown in `tests/lan/test_keys.py`.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshray import meshkey
from meshray.config import preset
from meshray.core.member_effects import MemberView
from meshray.ids import new_node
from meshray.launch import MeshSettings
from meshray.meshkey import LOCK_FILE, MeshKey
from meshray.peer.keyring import AWAY_MAX, AWAY_S, FAILED_AGAIN_S, Keyring, _away
from meshray.peer.mesh import Mesh, Resources
from meshray.peer.mesh_life import Who
from meshray.wire.rotation import GiveKey, KeysHere, RotationMessage, UseKey, WhichKeys
from tests.until import until

CONFIG = msgspec.structs.replace(preset("test"), key_ask_again_s=0.2, key_ask_s=3.0, key_switch_after_s=0.2)
KEY = MeshKey(bytes(range(32)))


class Member:
    """One member and its home."""

    def __init__(self, name: str, home: Path, *seeds: str) -> None:
        self.name = name
        self.home = home
        self.replies: list[dict[str, Any] | str] = []
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = taken.getsockname()[1]
        self.start(*seeds)

    def start(self, *seeds: str) -> None:
        settings = MeshSettings(seeds=list(seeds), bind=["127.0.0.1"], port=self.port)
        self.at_home()
        who = Who(self.name, "0.1.0", new_node())
        self.mesh = Mesh(settings, who, CONFIG, lambda: Resources({"CPU": 10_000}, {}), time.monotonic())

    def at_home(self) -> None:
        os.environ["MESHRAY_HOME"] = str(self.home)

    def turn(self) -> None:
        self.at_home()
        self.mesh.turn(time.monotonic())

    def ask(self, what: str, argument: str = "") -> None:
        self.at_home()
        self.mesh.ask_keys(what, argument, self.replies.append, time.monotonic())

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def node(self) -> str:
        return str(self.mesh.status()["node_id"])

    def states(self) -> dict[str, str]:
        return {member["node_id"]: member["state"] for member in self.mesh.status()["members"]}

    def files(self) -> meshkey.MeshKeys:
        self.at_home()
        return meshkey.load()


class Room:
    """Some members, moved on by `until`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.members: list[Member] = []

    def member(self, name: str, *seeds: Member) -> Member:
        os.environ["MESHRAY_HOME"] = str(self.folder / name)
        meshkey.make(KEY)
        self.members.append(Member(name, self.folder / name, *(seed.address for seed in seeds)))
        return self.members[-1]

    def three(self) -> tuple[Member, Member, Member]:
        a = self.member("a")
        b, c = self.member("b", a), self.member("c", a)
        self.agree()
        return a, b, c

    def until(self, condition: Callable[[], object], what: str) -> None:
        def look() -> object:
            for member in self.members:
                member.turn()
            return condition()

        until(look, what)

    def agree(self) -> None:
        """All see all, nobody else, and nobody has died."""

        def same() -> bool:
            nodes = dict.fromkeys((member.node for member in self.members), "alive")
            return all(
                {node: state for node, state in member.states().items() if state not in ("dead", "left")} == nodes
                for member in self.members
            )

        self.until(same, "all see all")

    def answer(self, member: Member, what: str, argument: str = "") -> Any:
        """What is said in the end."""
        before = len(member.replies)
        member.ask(what, argument)
        self.until(lambda: len(member.replies) > before, f"{what} is answered")
        return member.replies[-1]

    def off(self, member: Member) -> None:
        """It dies without a word."""
        self.members.remove(member)
        member.mesh.close()

    def on(self, member: Member, *seeds: Member) -> None:
        member.start(*(seed.address for seed in seeds))
        self.members.append(member)


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setenv("MESHRAY_HOME", str(tmp_path / "nobody"))  # and each turn of a member names its own
    monkeypatch.setenv("MESHRAY_RUNTIME_DIR", str(tmp_path / "run"))
    room = Room(tmp_path)
    yield room
    for member in list(room.members):
        room.off(member)


def test_two_steps_change_the_key_of_all_and_nobody_dies(room: Room) -> None:
    a, b, c = room.three()
    nodes = {member.node for member in (a, b, c)}
    told = room.answer(a, "key stage")
    rows = {member["name"]: (member["answered"], member["next"]) for member in told["members"]}
    assert rows == {"b": (True, told["key_id"]), "c": (True, told["key_id"])}
    for member in (a, b, c):
        keys = member.files()
        assert (keys.current, keys.next and keys.next.id.hex()) == (KEY, told["key_id"])
        assert keys.mesh == KEY.founded_mesh()
        assert member.mesh.keys == keys
    told = room.answer(b, "key switch")  # on another one: all are equal
    assert told["done"]
    assert {member["current"] for member in told["members"]} == {told["key_id"]}
    for member in (a, b, c):
        keys = member.files()
        assert keys.current.id.hex() == told["key_id"]
        assert keys.next is None
        assert keys.mesh == KEY.founded_mesh()
    room.agree()
    assert {member.node for member in (a, b, c)} == nodes
    for member in (a, b, c):
        assert set(member.states()) == nodes, "nobody has died of it"
    os.environ["MESHRAY_HOME"] = str(room.folder / "d")
    meshkey.join(a.mesh.keys.mesh, a.mesh.keys.current)
    d = Member("d", room.folder / "d", a.address)  # who comes later comes with the new one
    room.members.append(d)
    room.agree()


def test_the_old_key_opens_nothing_any_more(room: Room) -> None:
    a, _, _ = room.three()
    room.answer(a, "key stage")
    room.answer(a, "key switch")
    late = room.member("late", a)
    room.until(lambda: late.mesh.status()["refused_there"], "it is not let in")
    assert late.node not in a.states()


def test_one_that_was_away_at_the_switch_follows_when_it_comes_back(room: Room) -> None:
    a, b, c = room.three()
    room.answer(a, "key stage")
    gone = c.node
    room.off(c)
    room.until(lambda: a.states()[gone] == b.states()[gone] == "dead", "it is declared dead")
    told = room.answer(a, "key switch")
    assert told["done"]
    assert c.files().current == KEY
    room.on(c, a)
    room.agree()
    assert c.files().current.id.hex() == told["key_id"]
    assert c.mesh.keys.next is None


def test_one_that_was_away_at_both_needs_a_token(room: Room) -> None:
    a, b, c = room.three()
    gone = c.node
    room.off(c)
    room.until(lambda: a.states()[gone] == b.states()[gone] == "dead", "it is declared dead")
    told = room.answer(a, "key stage")
    assert [member["name"] for member in told["members"]] == ["b"]
    assert [(member["name"], member["state"]) for member in told["away"]] == [("c", "dead")]
    told = room.answer(a, "key switch")
    room.on(c, a)
    room.until(lambda: c.mesh.status()["refused_there"], "it is not let in")
    c.at_home()
    meshkey.join(a.mesh.keys.mesh, a.mesh.keys.current, replace=True)  # by a token
    assert room.answer(c, "keys")["current"] == told["key_id"]
    room.agree()


def test_one_that_has_switched_is_enough(room: Room) -> None:
    """Whoever asked for it has died: those who meet one that has switched follow."""
    a, b, c = room.three()
    room.answer(a, "key stage")
    room.off(a)
    b.at_home()
    switched = meshkey.switch()  # as by a peer that was killed right after, and comes back
    assert room.answer(b, "keys")["current"] == switched.current.id.hex()
    room.until(lambda: c.files().current == switched.current, "the other one follows")
    room.agree()


def test_it_is_broken_off_where_somebody_lacks_the_key(room: Room) -> None:
    a, b, c = room.three()
    b.at_home()
    other = MeshKey.generate()
    meshkey.stage(other)
    room.answer(b, "keys")
    told = room.answer(a, "key stage")
    rows = {member["name"]: member for member in told["members"]}
    assert rows["b"]["next"] == other.id.hex()
    assert "another next key is staged already" in rows["b"]["trouble"]
    assert rows["c"]["next"] == told["key_id"]
    assert room.answer(a, "key switch")["done"] is False
    assert {member.files().current.id for member in (a, b, c)} == {KEY.id}
    b.at_home()
    assert meshkey.unstage() == other
    room.answer(b, "keys")
    assert "is staged here already" in room.answer(a, "key stage")
    told = room.answer(a, "key stage", "again")
    assert {member["next"] for member in told["members"]} == {told["key_id"]}
    assert room.answer(a, "key switch")["done"]


def test_a_member_is_expelled_by_keeping_the_next_key_from_it(room: Room) -> None:
    a, b, c = room.three()
    following = MeshKey.generate()
    for member in (a, b):  # by tokens
        member.at_home()
        meshkey.stage(following, KEY.founded_mesh())
        room.answer(member, "keys")
    told = room.answer(a, "key switch")
    assert not told["done"]
    told = room.answer(a, "key switch", "expel")
    assert told["done"]
    gone = c.node
    room.until(lambda: a.states()[gone] == b.states()[gone] == "dead", "it is not heard any more")
    assert c.files().current == KEY
    assert c.files().next is None
    assert {member.files().current for member in (a, b)} == {following}


def test_out_of_turn(room: Room) -> None:
    a = room.member("a")
    assert "no next key is staged here" in room.answer(a, "key switch")
    a.ask("key stage")
    told = room.answer(a, "key which")
    assert (told["current"], told["members"]) == (KEY.id.hex(), [])
    b = room.member("b", a)
    room.agree()
    b.mesh._life._lines.send = lambda *_: None  # type: ignore[union-attr,method-assign]  # it answers nothing
    a.ask("key which")
    assert "under way already" in room.answer(a, "key which")


def test_files_that_are_locked_are_not_waited_for(room: Room) -> None:
    a, b, _ = room.three()
    lock = os.open(b.home / LOCK_FILE, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = room.answer(a, "key stage")
        assert {member["name"]: member["answered"] for member in told["members"]} == {"b": False, "c": True}
    finally:
        os.close(lock)
    told = room.answer(a, "key stage", "again")
    assert all(member["next"] == told["key_id"] for member in told["members"])
    room.answer(a, "key switch")
    assert b.files().current.id.hex() == told["key_id"]


class Nobody:
    """A room without others; what is said in it nobody hears."""

    guests = frozenset[bytes]()

    def __init__(self, *members: MemberView) -> None:
        self.said: list[RotationMessage] = []
        self._members = list(members)

    def members(self) -> list[MemberView]:
        return self._members

    def tell(self, node: bytes, message: RotationMessage, now: float) -> None:
        self.said.append(message)


def test_a_key_that_was_given_is_in_use_though_the_files_are_locked_right_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody may give it again, and who asks which keys are here hears of those in use: it would be left behind."""
    monkeypatch.setenv("MESHRAY_HOME", str(tmp_path))
    tmp_path.chmod(0o700)
    meshkey.make(KEY)
    following, room = MeshKey.generate(), Nobody()
    keyring = Keyring(meshkey.load(), CONFIG)

    def busy(wait_s: float) -> meshkey.MeshKeys:
        raise meshkey.KeysBusyError("busy")

    with monkeypatch.context() as locked:
        locked.setattr(meshkey, "load", busy)
        keyring.on_message(b"giver---", GiveKey(1, KEY.founded_mesh(), following.secret), room, 0.0)
        keyring.on_message(b"giver---", WhichKeys(2), room, 1.0)
    assert [answer for answer in room.said if answer.number == 2] == [KeysHere(2, KEY.id, following.id)]
    assert keyring.keys == meshkey.load()


def test_a_switch_that_failed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MESHRAY_HOME", str(tmp_path))
    tmp_path.chmod(0o700)
    meshkey.make(KEY)
    following = MeshKey.generate()
    meshkey.stage(following)
    keyring, room = Keyring(meshkey.load(), CONFIG), Nobody()

    def fail(*paths: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", fail)
        for now in (0.0, 1.0, FAILED_AGAIN_S, 2 * FAILED_AGAIN_S):
            keyring.on_met_next(now)
            keyring.tick(room, now)
    assert keyring.keys.current == KEY
    assert capsys.readouterr().err.count("Input/output error") == 1
    due = keyring.next_at()
    assert due == 3 * FAILED_AGAIN_S
    keyring.tick(room, due)
    assert keyring.keys.current == following
    assert keyring.next_at() is None
    assert not room.said


@pytest.mark.fault(47)
def test_what_a_member_should_not_say(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, _ = room.three()
    life = a.mesh._life
    assert life is not None
    node, mesh = bytes.fromhex(b.node), KEY.founded_mesh()
    said: list[Any] = []
    monkeypatch.setattr(a.mesh._keyring, "on_message", lambda source, message, life, now: said.append(message))
    for message in (
        GiveKey(1, mesh, bytes(32)),  # no key
        GiveKey(2, b"another-", b"k" * 32),  # of another mesh
        UseKey(3, b"unknown-"),
        UseKey(4, b""),
    ):
        life.tell(node, message, time.monotonic())
    room.until(lambda: len(said) == 4, "each is answered")
    assert all(answer.trouble and answer.current == KEY.id and not answer.next for answer in said)
    assert b.files() == meshkey.MeshKeys(mesh, KEY)
    room.agree()


def test_who_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts that have ended lately: each once, and none that is back, as another node of course."""

    def seen(name: str, state: str, since_s: float, port: int) -> MemberView:
        place = (f"10.0.0.1:{port}",)
        return MemberView(new_node(), name, state, since_s, place, True, None, "3.11", False, 0, b"", "", False)

    guest = seen("guest", "left", 1.0, 8)
    room = Nobody(
        seen("here", "alive", 500.0, 1), seen("here", "dead", 600.0, 2), seen("renamed", "left", 600.0, 1),
        seen("a", "dead", 90.0, 3), seen("a", "left", 9.0, 4), seen("b", "left", 70.0, 5),
        seen("long ago", "left", AWAY_S + 1, 6), guest,
    )  # fmt: skip
    room.guests = frozenset({guest.node})
    assert [(each["name"], each["state"]) for each in _away(room)] == [("a", "left"), ("b", "left")]
    crowd = Nobody(*(seen(f"host{number}", "dead", number, number) for number in range(AWAY_MAX + 9)))
    assert [each["name"] for each in _away(crowd)] == [f"host{number}" for number in range(AWAY_MAX)]
