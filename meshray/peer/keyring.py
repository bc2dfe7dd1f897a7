"""The keys of a peer while it runs: what other members and people of this host may ask for, and what follows from it.

The files of `meshkey` are the truth; `keys` is what of them is in use. They change in four ways: another member gives
the next key or says that it is to be used (`wire.rotation`), a person does (`on_ask`), a person has changed the files
("keys"), or a port is met that answers with our next key already (`on_met_next`, see `core.rotation`). The files are
never waited for: who finds them locked does not answer, and is asked again.

Its owner hands in events, calls `tick` not later than `next_at`, and uses `keys` when it has become another.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any, Protocol

from meshray import meshkey
from meshray.config import Config
from meshray.core.member_effects import MemberView
from meshray.core.rotation import STEPS, Kind, Report, Rotation, SwitchHere, TellMember
from meshray.errors import MeshrayError
from meshray.meshkey import KeysBusyError, MeshKey, MeshKeyError, MeshKeys
from meshray.observe.notes import note
from meshray.peer.mesh_life import LIVING
from meshray.wire.loads import decode_load
from meshray.wire.rotation import GiveKey, KeysHere, RotationMessage, UseKey, WhichKeys

AGAIN, EXPEL = "again", "expel"
"""Arguments: of "key stage", to give a key that is staged here already; of "key switch", not to mind who lacks it."""

BUSY_AGAIN_S = 0.2
"""A switch that finds the files locked is tried again so soon."""

FAILED_AGAIN_S = 5.0
"""One that fails otherwise (the disk, or what a person did to the files), so soon."""

TROUBLE_MAX_CHARS = 500

AWAY_S = 7 * 86_400.0
"""A host whose peer has ended longer ago is not missed when the key is changed."""

AWAY_MAX = 16
"""So many of them are named."""


class Room(Protocol):
    """What of a `MeshLife` is used here."""

    def members(self) -> list[MemberView]: ...

    @property
    def guests(self) -> Container[bytes]:
        """Members that are not missed when they have left."""

    def tell(self, node: bytes, message: RotationMessage, now: float) -> None:
        """To a member; it may get lost."""


Reply = Callable[[dict[str, Any] | str], None]
"""Takes plain data, or the words of a failure. Called once, at once or later."""


class Keyring:
    """See the head of this file."""

    def __init__(self, keys: MeshKeys, config: Config) -> None:
        self.keys = keys  # those in use; replaced when they change
        self._config = config
        self._switch_to = b""  # the key that is to become the current one soon; b"": none
        self._switch_at: float | None = None
        self._trouble = ""  # what the log was told last of a switch that failed
        self._rotation: Rotation | None = None  # what a person of this host has asked for
        self._reply: Reply | None = None  # with `_rotation`
        self._names: dict[bytes, str] = {}  # of those whom `_rotation` asks, for its report
        self._homes: dict[bytes, str] = {}  # and the node ids of their hosts, as people see them elsewhere
        self._away: list[dict[str, Any]] = []  # those that have ended lately, and so were not asked
        self._number = 0  # of the last question of ours

    # -- what members say ----------------------------------------------------------------------------------------------

    def on_message(self, node: bytes, message: RotationMessage, room: Room, now: float) -> None:
        """A message of a member."""
        if isinstance(message, KeysHere):
            if self._rotation is not None:
                self._rotation.on_answer(node, message, now)
                self._perform(room, now)
            return
        try:
            trouble = self._do(message, now)
        except KeysBusyError:
            return  # it asks again
        except (MeshrayError, OSError, ValueError) as error:
            trouble = str(error)
        keys = self.keys
        following = keys.next.id if keys.next is not None else b""
        room.tell(node, KeysHere(message.number, keys.current.id, following, trouble[:TROUBLE_MAX_CHARS]), now)

    def _do(self, message: GiveKey | UseKey | WhichKeys, now: float) -> str:
        """What is asked for; why not, if not. Raises what `meshkey` does, and `ValueError` for what is no key."""
        if isinstance(message, GiveKey):
            key = MeshKey(message.secret)
            keys, changed = meshkey.stage(key, message.mesh, wait_s=0)
            if changed:
                note(f"the next key of the mesh, {key.id.hex()}, was given by a member")
            self._take(keys)  # not read once more: the files may be locked by then, and nobody may ask again
        elif isinstance(message, UseKey):
            if self.keys.by_id(message.key_id) is None:  # perhaps in the files: staged by hand, or by a peer beside us
                self._take(meshkey.load(wait_s=0))
            if self.keys.by_id(message.key_id) is None:
                return f"key {message.key_id.hex()} is not here"
            if self.keys.current.id != message.key_id and self._switch_at is None:
                self._switch_to, self._switch_at = message.key_id, now + self._config.key_switch_after_s
        return ""

    def on_met_next(self, now: float) -> None:
        """A port has answered with our next key: its owner has switched. A repeat changes nothing."""
        following = self.keys.next
        if following is not None and self._switch_to != following.id:
            note(f"a member uses the next key, {following.id.hex()}, already")
            self._switch_to, self._switch_at = following.id, now

    # -- what people ask -----------------------------------------------------------------------------------------------

    def on_ask(self, what: str, argument: str, room: Room, reply: Reply, now: float) -> None:
        """One of `status.OF_KEYS`. What is told in the end is `_described`, or the words of a failure."""
        try:
            self._take(meshkey.load(wait_s=0))
            if what == "keys":
                reply(self._described(None))
                return
            if self._rotation is not None:
                raise MeshKeyError("a change of keys is under way already")
            self._begin(Kind(what.removeprefix("key ")), argument, room, now)
        except (MeshrayError, OSError) as error:
            reply(str(error))
            return
        self._reply = reply
        self._perform(room, now)

    def _begin(self, kind: Kind, argument: str, room: Room, now: float) -> None:
        if kind is Kind.STAGE:
            if self.keys.next is None:
                keys, _ = meshkey.stage(MeshKey.generate(), wait_s=0)
                self._take(keys)
            elif argument != AGAIN:
                raise MeshKeyError(
                    f"the next key {self.keys.next.id.hex()} is staged here already: `meshray key stage --again` gives "
                    "it to all members, and `meshray key switch` goes on to use it (if it was staged by tokens, to "
                    "expel a member, do not give it to all)"
                )
        following = self.keys.next
        if kind is Kind.SWITCH and following is None:
            raise MeshKeyError("no next key is staged here: `meshray key stage` does that")
        key = self.keys.current if following is None else following
        others = [member for member in room.members() if member.state in LIVING and not member.is_self]
        self._names = {member.node: member.name for member in others}
        self._homes = {member.node: _home_of(member) for member in others}
        self._away = _away(room)
        number, self._number = self._number + 1, self._number + STEPS
        self._rotation = Rotation(
            kind, self._names, key.id, key.secret, self.keys.mesh, number, self._config, now, expel=argument == EXPEL
        )

    def _described(self, report: Report | None) -> dict[str, Any]:
        """As plain data: our own keys, and for a report whether it was `done`, of which key, what each said, and who is
        away."""
        keys = self.keys
        told: dict[str, Any] = {
            "mesh_id": keys.mesh.hex(),
            "current": keys.current.id.hex(),
            "next": keys.next.id.hex() if keys.next is not None else "",
        }
        if report is not None:
            told |= {
                "done": report.done,
                "key_id": report.key_id.hex(),
                "members": [self._member(node, answer) for node, answer in sorted(report.answers.items())],
                "away": self._away,
            }
        return told

    def _member(self, node: bytes, answer: KeysHere | None) -> dict[str, Any]:
        return {
            "node_id": node.hex(),
            "home": self._homes.get(node, ""),
            "name": self._names.get(node, ""),
            "answered": answer is not None,
            "current": answer.current.hex() if answer is not None else "",
            "next": answer.next.hex() if answer is not None else "",
            "trouble": answer.trouble if answer is not None else "",
        }

    # -- time ----------------------------------------------------------------------------------------------------------

    def next_at(self) -> float | None:
        """When `tick` is due, if nothing else happens."""
        times = [self._switch_at, self._rotation.next_at() if self._rotation is not None else None]
        return min((time for time in times if time is not None), default=None)

    def tick(self, room: Room, now: float) -> None:
        """What is due is done."""
        if self._switch_at is not None and now >= self._switch_at:
            self._switch(now)
        rotation = self._rotation
        if rotation is not None:
            living = {member.node for member in room.members() if member.state in LIVING}
            for node in self._names.keys() - living:
                rotation.on_gone(node, now)
            rotation.tick(now)
            self._perform(room, now)

    def _perform(self, room: Room, now: float) -> None:
        while self._rotation is not None and (effects := self._rotation.take_effects()):
            for effect in effects:
                if isinstance(effect, TellMember):
                    room.tell(effect.node, effect.message, now)
                elif isinstance(effect, SwitchHere):
                    if self.keys.next is not None:
                        self._switch_to = self.keys.next.id
                        self._switch(now)
                elif isinstance(effect, Report):
                    self._report(effect)

    def _report(self, report: Report) -> None:
        reply, self._reply, self._rotation = self._reply, None, None
        assert reply is not None, f"nobody has asked for {report!r}"
        reply(self._described(report))

    def _switch(self, now: float) -> None:
        """Now, or it is tried again: members that have switched do not come back to the old key. What fails, but for a
        locked file, is told to the log, once."""
        self._switch_at = None
        try:
            self._take(meshkey.switch(self._switch_to, wait_s=0))
        except KeysBusyError:
            self._switch_at = now + BUSY_AGAIN_S
        except (MeshrayError, OSError) as error:
            self._switch_at = now + FAILED_AGAIN_S
            text = f"key {self._switch_to.hex()} cannot become the current one, and is tried again: {error}"
            if text != self._trouble:
                self._trouble = text
                note(text)

    def _take(self, keys: MeshKeys) -> None:
        """Use these from now on. Those of another mesh are not for this peer, which is a member of this one."""
        if keys.mesh != self.keys.mesh:
            raise MeshKeyError(f"this host belongs to mesh {keys.mesh.hex()} now, and this peer to another: restart it")
        if keys != self.keys:
            following = f", next {keys.next.id.hex()}" if keys.next is not None else ""
            note(f"keys in use: {keys.current.id.hex()}{following}")
            self.keys = keys
            self._switch_to, self._switch_at, self._trouble = b"", None, ""


def _away(room: Room) -> list[dict[str, Any]]:
    """Hosts whose peers have ended lately and not come back, as far as is seen here, the latest first: a change of keys
    passes them by. A host is known by its name, or its address, in all lives of its peers."""
    members = room.members()
    there = [member for member in members if member.state in LIVING]
    names = {member.name for member in there}
    places = {address for member in there for address in member.addresses}
    away: dict[str, dict[str, Any]] = {}
    for member in sorted(members, key=lambda member: member.since_s):
        gone = member.state not in LIVING and member.since_s < AWAY_S and member.node not in room.guests
        if gone and member.name not in names | away.keys() and places.isdisjoint(member.addresses):
            away[member.name] = {"name": member.name, "state": member.state, "since_s": member.since_s}
    return list(away.values())[:AWAY_MAX]


def _home_of(member: MemberView) -> str:
    """The node id of a member's host as programs have it; "" as long as it has not said it."""
    load = decode_load(member.load)
    return load.home.hex() if load is not None else ""
