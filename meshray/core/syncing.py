"""Where do two tables differ? Anti-entropy, bounded.

memberlist exchanges whole tables every 30 s, so its traffic per peer grows with the mesh. Here the members fall into
`BUCKETS` buckets by their ids, and a Sync has one digest per bucket, of the ids and incarnations of the living; only
buckets that differ are told, member by member. Between peers that agree, which is the rule, a Sync costs 600 bytes,
however large the mesh. Loads are not in the digests, or they would always differ.

A newcomer differs in all buckets; it asks again, each time another member, until a reply has no more to come.
Tombstones are told along with their buckets: they differ in nothing, but who knows them refuses late news.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from meshray.core.members import Member, Members, State
from meshray.core.suspicion import Suspicions
from meshray.wire.gossip import Alive, Dead, News, Suspect, SyncReply


def differing(members: Members, digests: tuple[int, ...]) -> list[int]:
    """The buckets in which the sender of these digests knows others."""
    return [
        bucket for bucket, (theirs, mine) in enumerate(zip(digests, members.digests, strict=True)) if theirs != mine
    ]


def reply(members: Members, suspicions: Suspicions, buckets: list[int], most: int, me_first: bool) -> SyncReply:
    """All that is known in the first of these buckets that fit into `most` pieces of news; at least one bucket."""
    news: list[News] = list(told(members.me, suspicions)) if me_first else []
    done: list[int] = []
    for bucket in buckets:
        there = members.buckets[bucket]
        if done and len(news) + len(there) > most:
            break
        for member in islice(there.values(), most):
            news += told(member, suspicions)
        done.append(bucket)
    return SyncReply(tuple(done), news, len(done) < len(buckets))


def lacking(members: Members, suspicions: Suspicions, answer: SyncReply) -> list[News]:
    """What the sender of this reply does not know in its buckets, once the reply was heard here: what it did not name,
    or named as something older."""
    told_of: dict[bytes, tuple[State, int]] = {}
    for piece in answer.news:
        if isinstance(piece, Dead):
            told_of[piece.node] = (State.DEAD, 0)
        elif isinstance(piece, Suspect):
            told_of[piece.node] = (State.SUSPECT, piece.incarnation)
        elif isinstance(piece, Alive):
            told_of.setdefault(piece.node, (State.ALIVE, piece.incarnation))
    news: list[News] = []
    for bucket in answer.buckets:
        for member in members.buckets[bucket].values():
            theirs = told_of.get(member.node)
            if theirs is None or (theirs[0] < State.DEAD and (not member.lives or theirs[1] < member.incarnation)):
                news += told(member, suspicions)
    return news


def told(member: Member, suspicions: Suspicions) -> Iterable[News]:
    """A member as others hear of it: one piece of news, or two of a suspect."""
    if not member.lives:
        return (Dead(member.node, member.node, member.reason),)
    record = member.current()
    assert record is not None, f"living without a record: {member!r}"
    suspicion = suspicions.get(member.node)
    if suspicion is None:
        return (record,)
    return (record, Suspect(member.node, suspicion.incarnation, tuple(suspicion.accusers)))
