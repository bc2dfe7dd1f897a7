"""A change of keys with deaths between any two messages: the shipped `Keyring` and `Rotation`, a seed, a virtual clock.

Only the files and the wire are a model. A datagram reaches a member if its sender has the key with which that one's
port answers; each member dials another one now and then, as probes do, and by that meets who has switched.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest

from meshray.config import DEFAULT
from meshray.core.member_effects import MemberView
from meshray.meshkey import KeysBusyError, MeshKey, MeshKeyError, MeshKeys
from meshray.peer import keyring
from meshray.peer.keyring import Keyring
from meshray.wire.gossip_codec import decode_datagram, encode_datagram
from meshray.wire.rotation import RotationMessage
from tests.sim.seeds import seeds

KEY = MeshKey(bytes(range(32)))
MESH = KEY.founded_mesh()
DIAL_S = 1.0
SEEDS = 150


class Files:
    """What lies in a member's home."""

    def __init__(self) -> None:
        self.keys = MeshKeys(MESH, KEY)


class Member:
    """One member: its files outlive its process. Its own view of the mesh is the `Room` of its keyring."""

    def __init__(self, world: World, node: bytes) -> None:
        self.world = world
        self.node = node
        self.files = Files()
        self.keyring: Keyring | None = None  # None: it is down
        self.replies: list[Any] = []

    def start(self) -> None:
        self.keyring = Keyring(self.files.keys, DEFAULT)

    def members(self) -> list[MemberView]:
        return [
            MemberView(other.node, other.node.decode(), "alive", 0.0, ("x",), True, None, "3.11", False, 0, b"", "",
                       other is self)
            for other in self.world.members
            if other.keyring is not None
        ]  # fmt: skip

    def tell(self, node: bytes, message: RotationMessage, now: float) -> None:
        self.world.send(self, node, encode_datagram(message))


class World:
    """Some members, a wire that loses, and a clock."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.loss = self.random.choice((0.0, 0.2, 0.5))
        self.busy = self.random.choice((0.0, 0.1))  # how often files are locked
        self.sent = 0
        self.at_message: dict[int, Callable[[], None]] = {}  # what happens when so many were sent
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._acting: Files | None = None
        self.members = [Member(self, f"member-{number}".encode()) for number in range(self.random.randint(2, 6))]
        for name in ("load", "stage", "switch"):
            monkeypatch.setattr(keyring.meshkey, name, getattr(self, name))
        monkeypatch.setattr(keyring, "note", lambda text: None)
        for member in self.members:
            member.start()
            self.later(self.random.random() * DIAL_S, lambda member=member: self.dial(member))  # type: ignore[misc]

    # -- files, as `meshkey` has them ----------------------------------------------------------------------------------

    def _files(self, wait_s: float) -> Files:
        assert wait_s == 0, "a peer waits for no file"
        assert self._acting is not None
        if self.random.random() < self.busy:
            raise KeysBusyError("busy")
        return self._acting

    def load(self, wait_s: float = 1.0) -> MeshKeys:
        return self._files(wait_s).keys

    def stage(self, key: MeshKey, mesh: bytes | None = None, wait_s: float = 1.0) -> tuple[MeshKeys, bool]:
        files = self._files(wait_s)
        if files.keys.by_id(key.id) is not None:
            return files.keys, False
        if files.keys.next is not None:
            raise MeshKeyError("another next key is staged already")
        files.keys = MeshKeys(MESH, files.keys.current, key)
        return files.keys, True

    def switch(self, to: bytes | None = None, wait_s: float = 1.0) -> MeshKeys:
        files = self._files(wait_s)
        if files.keys.current.id != to:
            if files.keys.next is None or files.keys.next.id != to:
                raise MeshKeyError("not staged")
            files.keys = MeshKeys(MESH, files.keys.next)
        return files.keys

    # -- time, wire ----------------------------------------------------------------------------------------------------

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, what))

    def act(self, member: Member, what: Callable[[Keyring], None]) -> None:
        """Something happens in a member that is up."""
        if member.keyring is not None:
            self._acting = member.files
            what(member.keyring)

    def reaches(self, sender: Member, receiver: Member) -> bool:
        if sender.keyring is None or receiver.keyring is None:
            return False
        return sender.keyring.keys.by_id(receiver.keyring.keys.current.id) is not None

    def send(self, sender: Member, node: bytes, data: bytes) -> None:
        self.sent += 1
        receiver = next(member for member in self.members if member.node == node)
        if self.reaches(sender, receiver) and self.random.random() >= self.loss:
            message = decode_datagram(data)
            assert isinstance(message, RotationMessage)
            process = receiver.keyring

            def arrive() -> None:
                if receiver.keyring is process:  # what is for a process that has died is lost
                    self.act(receiver, lambda keys: keys.on_message(sender.node, message, receiver, self.now))

            self.later(self.random.random() * 0.2, arrive)
        what = self.at_message.pop(self.sent, None)
        if what is not None:
            self.later(0.0, what)

    def dial(self, member: Member) -> None:
        other = self.random.choice(self.members)
        if member.keyring is not None and other.keyring is not None and other is not member:
            following = member.keyring.keys.next
            if following is not None and other.keyring.keys.current.id == following.id:
                self.act(member, lambda keys: keys.on_met_next(self.now))
        self.later(DIAL_S * (0.5 + self.random.random()), lambda: self.dial(member))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        end = self.now + seconds
        while self.now < end and not until():
            self.now = min(end, self._events[0][0], *self._deadlines())
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            for member in self.members:
                self.act(member, lambda keys, member=member: keys.tick(member, self.now))  # type: ignore[misc]

    def _deadlines(self) -> list[float]:
        times = [member.keyring.next_at() for member in self.members if member.keyring is not None]
        return [max(self.now + 0.001, time) for time in times if time is not None]

    # -- what people and fate do ---------------------------------------------------------------------------------------

    def ask(self, member: Member, what: str, argument: str = "") -> Any:
        """What is said in the end; None when it died before."""
        before, process = len(member.replies), member.keyring
        self.act(member, lambda keys: keys.on_ask(what, argument, member, member.replies.append, self.now))
        self.run(60.0, lambda: len(member.replies) > before or member.keyring is not process)
        return member.replies[-1] if len(member.replies) > before else None

    def kill(self, member: Member, down_s: float) -> None:
        member.keyring = None
        self.later(down_s, member.start)

    def end(self) -> None:
        """The last fault is over; everybody comes back, and nothing gets lost."""
        self.loss = self.busy = 0.0
        self.at_message.clear()
        self.run(120.0)
        assert all(member.keyring is not None for member in self.members)


def check(world: World) -> None:
    """Who has the new key is of one opinion, memory is what the files say, and only two keys were ever used."""
    currents = {member.files.keys.current for member in world.members}
    assert len(currents) <= 2
    for member in world.members:
        assert member.keyring is not None
        assert member.keyring.keys == member.files.keys
    if len(currents) == 2:
        behind = [member for member in world.members if member.files.keys.current == KEY]
        assert all(member.files.keys.next is None for member in behind), "one that has the new key was left behind"


@pytest.mark.parametrize("part", range(4))
def test_a_death_between_any_two_messages_leaves_one_mesh(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {"nothing": 0, "all": 0, "some": 0}
    for seed in seeds(part * SEEDS, (part + 1) * SEEDS):
        with monkeypatch.context() as patch:
            world = World(seed, patch)
            random = world.random
            asker = random.choice(world.members)
            for _ in range(random.randint(0, 3)):
                victim = random.choice([asker, *world.members])
                down_s = random.choice((0.5, 5.0, 40.0))
                world.at_message[random.randint(1, 40)] = partial(world.kill, victim, down_s)
            world.ask(asker, "key stage")
            told = world.ask(asker, "key switch", random.choice(("", "", "expel")))
            world.end()
            check(world)
            switched = sum(member.files.keys.current != KEY for member in world.members)
            ends["nothing" if not switched else "all" if switched == len(world.members) else "some"] += 1
            if isinstance(told, dict) and told["done"] is False:
                assert not switched, "it was told that nothing was changed"
    assert all(ends.values()), f"some of the ways to end were not met: {ends}"


def test_without_faults_all_have_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(50):
        with monkeypatch.context() as patch:
            world = World(seed, patch)
            world.loss = world.busy = 0.0
            asker = world.members[0]
            told = world.ask(asker, "key stage")
            assert all(member["next"] == told["key_id"] for member in told["members"])
            told = world.ask(asker, "key switch")
            assert told["done"]
            assert {member.files.keys.current.id.hex() for member in world.members} == {told["key_id"]}
            assert world.now < 10.0


def test_whoever_was_broken_off_is_finished_by_the_same_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(200):
        with monkeypatch.context() as patch:
            world = World(seed, patch)
            asker = world.random.choice(world.members)
            world.at_message[world.random.randint(1, 20)] = partial(world.kill, asker, 1.0)
            world.ask(asker, "key stage")
            world.ask(asker, "key switch", "expel")
            world.end()
            staged = [member for member in world.members if member.files.keys.next is not None]
            if staged:  # nobody has switched: anyone that has the key goes on
                told = world.ask(staged[0], "key stage", "again")
                assert {member["next"] for member in told["members"]} == {told["key_id"]}
                assert world.ask(staged[0], "key switch")["done"]
            world.end()
            check(world)
            if staged:
                assert {member.files.keys.current for member in world.members} != {KEY}
