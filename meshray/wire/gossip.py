"""The messages of membership: how peers find out who is there. A union of their own, apart from the local one.

They are small, and travel on the control link outside of the link session: each may be lost, doubled, delayed or
overtaken, and nothing here relies on more. The envelope names the node that is meant, so what is for an earlier start
of a peer reaches nobody.

*News* are what peers know of each other, and ride inside of messages (SWIM 4.1, "piggybacking")::

    Alive      written by the member itself only          Suspect, Dead    written by others about it
    Load       written by the member itself only; the newest version wins

For one node: `Alive(N) < Suspect(N) < Alive(N+1) < Dead`, where N is its *incarnation*, a counter that only the node
itself raises (SWIM 4.2). `Dead` is for ever: a node id is one start of a peer.

Who sends what (all peers are equal; J joins, H helps with a probe)::

    A -> B   Ping            B -> A   Ack                               is B there?
    A -> H   PingRequest     H -> A   Ack, or Nack                      is B there, as you see it?
    A -> B   Gossip                                                     news
    A -> B   Sync            B -> A   SyncReply   A -> B  Gossip        where do our tables differ?
    J -> B   Join            B -> J   SyncReply                         take me in
    B -> A   Expelled                                                   you are dead here
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from meshray.wire.messages import NodeId

NEWS_MAX = 512
"""A bound on the news of one message; senders stay far below (`Config.sync_max_news`)."""

BUCKETS = 64
"""Members fall into so many buckets by the first byte of their id; `Sync` has one digest of each."""

LOAD_MAX_BYTES = 1024
"""What a member may say of its load and its resources. It rides in many messages, so it is small."""

INCARNATION_MAX = 2**53
"""Nobody comes to it but by somebody's slip or lie: who would have to go beyond it begins another life."""

Incarnation = Annotated[int, Meta(ge=0, le=INCARNATION_MAX)]
Version = Annotated[int, Meta(ge=0, le=2**53)]
Sequence = Annotated[int, Meta(ge=0, le=2**53)]
NAME_MAX_CHARS = 255

Name = Annotated[str, Meta(max_length=NAME_MAX_CHARS)]
Address = Annotated[str, Meta(min_length=1, max_length=255)]
Addresses = Annotated[tuple[Address, ...], Meta(max_length=8)]
Blob = Annotated[bytes, Meta(max_length=LOAD_MAX_BYTES)]
Bucket = Annotated[int, Meta(ge=0, lt=BUCKETS)]


# -- news --------------------------------------------------------------------------------------------------------------


class Alive(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """A member as it describes itself. A greater incarnation replaces all of it; an equal one is a repeat, but for a
    newer load."""

    node: NodeId
    incarnation: Incarnation
    name: Name  # for people: the host's
    addresses: Addresses  # where it listens, the best one first
    python: Name  # "3.11": another minor version is a member, but gets no closures
    version: Version = 0  # of `load`
    load: Blob = b""  # opaque here


class Suspect(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """Somebody got no answer from this member. Its accusers are collected (Lifeguard, "LHA-Suspicion"), so a repeat
    adds at most those that were not known."""

    node: NodeId
    incarnation: Incarnation
    accusers: Annotated[tuple[NodeId, ...], Meta(min_length=1, max_length=8)]


class Dead(Struct, frozen=True, array_like=True, tag=3, gc=False):
    """This node never comes back. A repeat changes nothing."""

    node: NodeId
    accuser: NodeId  # the node itself, when it left
    reason: Name  # for people; `LEFT` when it left


class Load(Struct, frozen=True, array_like=True, tag=4, gc=False):
    """What a member says of its load and resources. Old versions, and those of unknown members, are dropped."""

    node: NodeId
    version: Version
    load: Blob


LEFT = "left"
"""The reason of a member that said goodbye."""

News = Alive | Suspect | Dead | Load
NewsList = Annotated[list[News], Meta(max_length=NEWS_MAX)]


# -- messages ----------------------------------------------------------------------------------------------------------


class Ping(Struct, array_like=True, tag=10):
    """A -> B: are you there? Each one is answered with an Ack, a repeat too. If B is suspected, that is the first of
    the news, so that B can refute it (Lifeguard, "buddy system")."""

    seq: Sequence
    known: Version  # the version of B's load that A has
    news: NewsList = []


class Ack(Struct, array_like=True, tag=11):
    """B -> A: yes; or H -> A: yes, B answered me. An unknown or finished `seq` changes nothing, but the news count."""

    seq: Sequence
    load: Load | None = None  # B's own, if it is newer than what the Ping said
    news: NewsList = []


class PingRequest(Struct, array_like=True, tag=12):
    """A -> H: ping `target` for me (SWIM 3.1, "ping-req"). H answers with one Ack when the target did, or with a Nack
    when 80 % of `within_ms` are over, and perhaps an Ack later. A repeat asks again."""

    seq: Sequence
    target: NodeId
    within_ms: Annotated[int, Meta(ge=0, le=600_000)]
    news: NewsList = []


class Nack(Struct, array_like=True, tag=13):
    """H -> A: I live and heard you, but I got no answer from the target (Lifeguard, "LHA-Probe"). A repeat counts
    once."""

    seq: Sequence
    news: NewsList = []


class Gossip(Struct, array_like=True, tag=14):
    """A -> B: news alone. A repeat changes nothing."""

    news: NewsList


class Sync(Struct, array_like=True, tag=15):
    """A -> B: digests of the living members that A knows, one per bucket. Answered with SyncReply if any differs from
    B's. A repeat is answered again."""

    digests: Annotated[tuple[int, ...], Meta(min_length=BUCKETS, max_length=BUCKETS)]
    news: NewsList = []


class SyncReply(Struct, array_like=True, tag=16):
    """B -> A: all that B knows in these buckets. A answers with Gossip of what B lacks there. With `more` the message
    would have become too large: A asks again, B or another. A repeat changes nothing."""

    buckets: Annotated[tuple[Bucket, ...], Meta(max_length=BUCKETS)]
    news: NewsList
    more: bool = False


class Join(Struct, array_like=True, tag=17):
    """J -> B: take me in, or: we may be two meshes with one key, or two halves of one, let us be one again. Sent to an
    address, since the node there is not known. Always answered: with SyncReply, or Expelled. A repeat is answered
    again."""

    me: Alive
    digests: Annotated[tuple[int, ...], Meta(min_length=BUCKETS, max_length=BUCKETS)]


class Expelled(Struct, array_like=True, tag=18):
    """B -> A: you (`node`) were declared dead, nothing that you say is heard here. A gives up and comes back as another
    node, unless it holds B for dead as well: then the one with fewer living members does (`core.membership`). A repeat
    changes nothing."""

    node: NodeId
    living: Annotated[int, Meta(ge=0, le=2**31)]  # members that B holds for alive, itself included
    smallest: NodeId  # the smallest id among these: decides between equal numbers


GossipMessage = Ping | Ack | PingRequest | Nack | Gossip | Sync | SyncReply | Join | Expelled
