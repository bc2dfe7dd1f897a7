"""What membership asks of its shell, and what a shell or a person may see of a member."""

from __future__ import annotations

from msgspec import Struct

from meshray.wire.gossip import Alive, GossipMessage


class SendGossip(Struct, frozen=True):
    """Send this to `node` at the best of `addresses` that works. `node` b"": to whoever listens there (a Join). Without
    addresses: over the link on which it was heard, or not at all. It may get lost; nothing is to be repeated."""

    node: bytes
    addresses: tuple[str, ...]
    message: GossipMessage


class MemberUp(Struct, frozen=True):
    """A member was found. `incompatible`: it runs another minor version of Python and must get no closures."""

    record: Alive
    incompatible: bool


class MemberChanged(Struct, frozen=True):
    """A member is in another state, is reachable or not, or describes itself anew: see `Membership.member`. What runs
    there goes on."""

    node: bytes
    what: str  # "state", "reachable", "record"


class LoadChanged(Struct, frozen=True):
    """A member tells of its load and resources."""

    node: bytes
    version: int
    load: bytes


class MemberDown(Struct, frozen=True):
    """A member is dead, for ever: what ran there is lost. `reason` is `LEFT` if it said goodbye."""

    node: bytes
    name: str
    reason: str


class DeclaredDead(Struct, frozen=True):
    """This node was declared dead. The last effect of this Membership: give up all that was done for others, take a new
    node id, and join anew with `addresses` as the only seeds at first (those who said so have the right table), then
    with `Membership.last_peers`."""

    by: bytes
    addresses: tuple[str, ...]


MemberEffect = SendGossip | MemberUp | MemberChanged | LoadChanged | MemberDown | DeclaredDead


class MemberView(Struct, frozen=True):
    """One row of `meshray status`."""

    node: bytes
    name: str
    state: str  # "alive", "suspect", "dead", "left"
    since_s: float  # it has been in this state for so long, as seen here
    addresses: tuple[str, ...]
    reachable: bool  # no link to it is known to be broken
    rtt_s: float | None  # smoothed round trip; None until it has answered a probe
    python: str  # "3.11"; "" for a dead one that was never known alive
    incompatible: bool
    version: int  # of `load`
    load: bytes
    reason: str  # why it is dead
    is_self: bool
