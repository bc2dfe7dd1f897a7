"""What a mesh tells of others: who is there, who is not, what has come. See `core.road`, which takes it."""

from __future__ import annotations

from msgspec import Struct

from meshray.wire.loads import MemberLoad
from meshray.wire.peers import Payload

GOODBYE = "it has left"
"""Why a life is over that has said so."""


class LifeThere(Struct, frozen=True):
    """A member says whose life it is: the `number`-th of the peer whose home node is `home`."""

    life: bytes
    home: bytes
    number: int


class LoadTold(Struct, frozen=True):
    """A member tells of its load."""

    life: bytes
    name: str
    addresses: tuple[str, ...]
    compatible: bool  # its version of Python is ours
    load: MemberLoad


class LifeSilent(Struct, frozen=True):
    """It is suspected to be dead; or, not `silent`, no longer."""

    life: bytes
    name: str
    silent: bool


class LifeOver(Struct, frozen=True):
    """It is no member any more."""

    life: bytes
    why: str


class LinkThere(Struct, frozen=True):
    """A link to it stands, the first one or another one."""

    life: bytes


class LinkCut(Struct, frozen=True):
    """The link to it is over, or there was none to be had; nothing comes from it after this, before a LinkThere."""

    life: bytes
    why: str


class Came(Struct, frozen=True):
    """The next message of a stream."""

    life: bytes
    payload: Payload


class OwnEnd(Struct, frozen=True):
    """Our own life is over: we were declared dead."""

    why: str


MeshEvent = LifeThere | LoadTold | LifeSilent | LifeOver | LinkThere | LinkCut | Came | OwnEnd
