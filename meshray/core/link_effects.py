"""What the table of links asks its shell to do, and what it tells: see `core.links`."""

from __future__ import annotations

from msgspec import Struct

from meshray.wire.peers import Block, Payload, Plane, Reason


class Dial(Struct, frozen=True):
    """The endpoint is to send what is for `target` to this address from now on."""

    target: bytes
    address: str
    key_id: str


class Forget(Struct, frozen=True):
    """The endpoint is to close what it has for `target`."""

    target: bytes


class PeerUp(Struct, frozen=True):
    """A peer is linked. `compatible`: it runs our minor version of Python, so it may have closures. `home`: what its
    processes are named by, and the number of its life."""

    node: bytes
    address: str
    python: str
    compatible: bool
    home: bytes = b""
    life: int = 0


class PeerDown(Struct, frozen=True):
    """The link to a peer, up or being dialled, has ended: once, and nothing of this link is delivered after this. The
    next one may follow (PeerUp), unless the peer is dead."""

    node: bytes
    reason: Reason
    text: str


class TurnedAway(Struct, frozen=True):
    """There will be no link with whoever is at `address`: refused by it, refused here, or no answer."""

    address: str
    reason: Reason
    text: str


class Answered(Struct, frozen=True):
    """Who listens at an address of which only the address was known: linked now, or declared dead on one of the two
    sides (then a `TurnedAway` comes as well, and membership has to settle it)."""

    address: str
    node: bytes


class SelfDialled(Struct, frozen=True):
    """The address is our own."""

    address: str


class Delivered(Struct, frozen=True):
    """The next message of a stream."""

    node: bytes
    plane: Plane
    payload: Payload


class Probed(Struct, frozen=True):
    """A datagram of the membership, from whichever peer."""

    node: bytes
    payload: Block


Effect = Dial | Forget | PeerUp | PeerDown | TurnedAway | Answered | SelfDialled | Delivered | Probed
