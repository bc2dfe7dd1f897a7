"""The protocol between peers: every message that crosses a border between hosts.

A message travels as one frame or two: `destination node (8) source node (8)` and the encoded message; then, for `Data`
and `Datagram`, the payload, which a peer passes on unread. On the plane of the values up to `BLOCKS_MAX` frames with
data may follow (`Blocks`). A node id is drawn anew at each start of a peer, so it is an incarnation, and
whoever is not the destination refuses the frame. A Hello to an address of which only the address is known is meant for
`ANYBODY`.

Who speaks to whom: every message goes from peer to peer (P -> P), always on a connection that its sender has dialled,
so an answer travels on the answerer's own connection to the asker::

    A -> B   Hello            B -> A   Welcome, or Refused
    either   Data, Ack        one numbered stream per direction, pair of incarnations, and plane
    either   Datagram         beside all streams: a probe of the failure detector

A pair of incarnations may have one link after the other, each with an `Epoch` that both have said. Every message of a
stream bears that of its link, so nothing of one link is taken for the next one's.

That the sender has the key of the mesh is shown by the connection itself (CURVE); this schema trusts that much and no
more. It has no recursive types, so nesting is bounded by it; sizes are bounded by the types and by MAXMSGSIZE.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from meshray.ids import NODE_BYTES
from meshray.wire.messages import Count, Name, Text

PROTOCOL = 1
"""Of the link between peers. A peer of another one is refused, with the reason at both ends."""

ANYBODY = bytes(NODE_BYTES)
"""The destination of a Hello to a seed, of which nobody knows the node yet."""

ENVELOPE_BYTES = 2 * NODE_BYTES

Address = Annotated[str, Meta(max_length=300)]
"""`host:port` or `[v6]:port`: where a peer listens (a DNS name has at most 253 characters)."""

Addresses = Annotated[list[Address], Meta(max_length=16)]

Home = Annotated[bytes, Meta(max_length=NODE_BYTES)]
"""A node id that stays while the peer's process runs, other than that of its present life in the mesh; b"": none."""


EPOCH_MAX = 2**40
"""Far more links than two peers can have one after the other: who says more is not believed."""

Epoch = Annotated[int, Meta(ge=0, le=EPOCH_MAX)]
"""Which of the links between two incarnations: it grows from each to the next one."""


class Plane(IntEnum):
    """Each has connections of its own, so what is small and urgent never queues behind what is large."""

    PROBE = 0  # the failure detector
    CONTROL = 1  # everything that decides
    BULK = 2  # values


STREAMS = (Plane.CONTROL, Plane.BULK)
"""The planes whose messages are numbered. Probes are not: a late one is worth nothing."""

Stream = Annotated[int, Meta(ge=int(Plane.CONTROL), le=int(Plane.BULK))]


class Reason(IntEnum):
    """Why a peer is refused. What is not listed here arrives as OTHER, with the text."""

    OTHER = 0
    PROTOCOL = 1  # another version of this protocol
    MESH = 2  # another mesh
    REPLACED = 3  # the one addressed is gone: its address belongs to another start of a peer
    DEAD = 4  # the sender was declared dead here; it must begin anew under another id
    FULL = 5  # no room for another link


Block = bytes | bytearray | memoryview
"""One payload."""


class Blocks:
    """A message, and large data that belongs to it, in frames of its own behind it: a piece of a value. They arrive
    together.

    So the data is sent from where it lies, and written from where it came. A frame is encrypted as a whole before its
    first byte leaves, and decrypted when its last one has come: what is large is on its way sooner in several of them,
    and both ends and the network work on it at once.
    """

    __slots__ = ("_size", "blocks", "message")

    def __init__(self, message: Block, blocks: tuple[Block, ...]) -> None:
        self.message = message
        self.blocks = blocks  # one, at least
        self._size = len(message) + sum(map(len, blocks))

    def __len__(self) -> int:
        """Bytes."""
        return self._size


Payload = Block | Blocks
"""What `Data` and `Datagram` carry; Blocks only `Data` of the bulk plane."""


class Letter(NamedTuple):
    """What came through a stream."""

    destination: bytes  # a process
    source: bytes
    data: bytes | memoryview  # the encoded message; a view, of a payload that is one
    blocks: tuple[Block, ...] = ()  # what came behind it


class Hello(Struct, frozen=True, array_like=True, tag=1):
    """P -> P: who I am, and whether you will have me. Sent when a link begins and again on each new connection.

    Answered with Welcome or Refused. A repeat is answered again and changes nothing. Fields are only ever appended, so
    that every version can read the first ones of every other.
    """

    protocol: Count
    mesh: Name  # the id of the mesh
    python: Name  # "3.11"
    number: Count  # given back in the answer, so that it is known which address has answered
    listens: Addresses  # where the sender can be dialled; the one that the connection comes from is preferred
    key_id: Name = ""  # of the key with which its port is to be dialled
    met: bool = False  # the receiver has said that it has a link to the sender: if not now, it holds it for dead
    home: Home = b""  # what the sender's processes and objects are named by
    life: Count = 0  # and the number of its life: each death sentence ends one
    epoch: Epoch = 0  # of the sender's end of the link: earlier ones are over for it. To a seed: it is not known yet


class Welcome(Struct, frozen=True, array_like=True, tag=2):
    """P -> P: you are known here from now on. The answer to Hello `number`; as good as a Hello of the sender. A repeat
    changes nothing."""

    protocol: Count
    mesh: Name
    python: Name
    number: Count
    listens: Addresses
    key_id: Name = ""
    home: Home = b""  # as in Hello
    life: Count = 0
    epoch: Epoch = 0  # of the sender's end of the link, at least that of the Hello


class Refused(Struct, frozen=True, array_like=True, tag=3):
    """P -> P: I will not have you, and why: both ends know it then. A repeat finds no link and changes nothing."""

    number: Count  # of the Hello; 0 when it answers something else
    reason: Count  # a Reason
    text: Text


class Data(Struct, frozen=True, array_like=True, tag=4, gc=False):
    """P -> P: one message of a stream, or a part of one, its payload in the second frame and, of Blocks, those behind
    it. A repeat is dropped and acknowledged again."""

    plane: Stream
    sequence: Count  # from 1; the receiver takes the next one only
    ack: Count  # of the other direction: all up to here have arrived
    epoch: Epoch = 0  # of the link; what belongs to another one is dropped
    more: bool = False  # the next one of this stream goes on with the same message


class Ack(Struct, frozen=True, array_like=True, tag=5, gc=False):
    """P -> P: all up to here have arrived. A repeat changes nothing, unless it asks `again`.

    It may ask the receiver to say what has arrived of that direction, and is answered by another one: what had left
    ahead of the question and is not acknowledged in the answer will not arrive. A repeat is answered again.
    """

    plane: Stream
    ack: Count
    again: bool = False  # something is missing after `ack`: send from there on
    epoch: Epoch = 0  # as in Data
    asks: Count = 0  # the number of a question; 0: none
    answers: Count = 0  # the question that this is the answer to; 0: none


class Datagram(Struct, frozen=True, array_like=True, tag=6, gc=False):
    """P -> P: a message of the membership, its payload in the second frame. It may be lost, doubled or late."""


PeerMessage = Hello | Welcome | Refused | Data | Ack | Datagram


def has_payload(message: PeerMessage) -> bool:
    """Whether a second frame belongs to the message."""
    return type(message) is Data or type(message) is Datagram


def reason_of(refused: Refused) -> Reason:
    """The reason, also of a later version."""
    try:
        return Reason(refused.reason)
    except ValueError:
        return Reason.OTHER
