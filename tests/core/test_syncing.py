"""Where two tables differ."""

from __future__ import annotations

from meshray.config import DEFAULT
from meshray.core.members import Members, State
from meshray.core.roster import Roster
from meshray.core.suspicion import Suspicions
from meshray.core.syncing import differing, lacking, reply
from meshray.wire.gossip import BUCKETS, NEWS_MAX, Alive, Dead, Suspect

NONE = Suspicions(DEFAULT)


def node(bucket: int, number: int = 0) -> bytes:
    return bytes([bucket]) + number.to_bytes(7, "big")


def alive(bucket: int, number: int = 0, incarnation: int = 0) -> Alive:
    return Alive(node(bucket, number), incarnation, "", ("a:1",), "3.11")


def table(*records: Alive) -> Members:
    members = Members(alive(0), 100, 0.0)
    for record in records:
        members.add(record, 0.0)
    return members


def test_equal_tables_differ_in_no_bucket() -> None:
    one, other = table(alive(5), alive(9)), table(alive(9), alive(5))
    assert differing(one, tuple(other.digests)) == []


def test_only_the_buckets_that_differ_are_told() -> None:
    one, other = table(alive(5), alive(9)), table(alive(9), alive(7))
    buckets = differing(one, tuple(other.digests))
    assert buckets == [5, 7]
    answer = reply(one, NONE, buckets, 128, me_first=False)
    assert (answer.buckets, answer.news, answer.more) == ((5, 7), [alive(5)], False)


def test_a_newcomer_learns_first_who_took_it_in() -> None:
    answer = reply(table(alive(5)), NONE, [5], 128, me_first=True)
    assert answer.news == [alive(0), alive(5)]


def test_a_reply_is_bounded_and_says_that_there_is_more() -> None:
    large = table(*(alive(number % BUCKETS, 1 + number) for number in range(1000)))
    buckets, heard = list(range(BUCKETS)), set()
    while buckets:
        answer = reply(large, NONE, buckets, 128, me_first=False)
        assert 0 < len(answer.news) <= 128
        heard |= {piece.node for piece in answer.news}
        buckets = buckets[len(answer.buckets) :]
        assert answer.more == bool(buckets)
    assert len(heard) == 1001


def test_one_overfull_bucket_is_cut_and_never_breaks_the_schema() -> None:
    answer = reply(table(*(alive(3, number) for number in range(2000))), NONE, [3], 128, me_first=True)
    assert len(answer.news) <= 2 * 128 + 2 <= NEWS_MAX


def test_suspicions_and_deaths_are_told() -> None:
    members, suspicions = table(alive(5), alive(6)), Suspicions(DEFAULT)
    members.suspect(members.table[node(5)], 0, 0.0)
    suspicions.begin(node(5), 0, (node(9),), 0.0)
    members.bury(node(6), "no answer", 0.0)
    answer = reply(members, suspicions, [5, 6], 128, me_first=False)
    assert answer.news == [alive(5), Suspect(node(5), 0, (node(9),)), Dead(node(6), node(6), "no answer")]


def test_what_the_other_lacks_is_what_it_did_not_name_or_named_older() -> None:
    mine = table(alive(5, 1), alive(5, 2, incarnation=3), alive(5, 3), alive(5, 4), alive(8))
    mine.bury(node(5, 4), "no answer", 0.0)
    theirs = table(alive(5, 2, incarnation=2), alive(5, 3), alive(5, 4))
    answer = reply(theirs, NONE, [5], 128, me_first=False)
    assert set(lacking(mine, NONE, answer)) == {
        alive(5, 1),
        alive(5, 2, incarnation=3),
        Dead(node(5, 4), node(5, 4), "no answer"),
    }


def test_after_one_exchange_both_know_the_same() -> None:
    ours = Roster(DEFAULT, alive(0), [], 0.0)
    theirs = Roster(DEFAULT, alive(1), [], 0.0)
    ours.hear([alive(number % 7, number, incarnation=number % 3) for number in range(10, 60)], 0.0)
    theirs.hear([alive(number % 7, number, incarnation=number % 2) for number in range(30, 90)], 0.0)
    for number in (35, 50, 80):
        member = theirs.members.table[node(number % 7, number)]
        theirs.declare_dead(member, "no answer", 0.0)
    buckets = differing(theirs.members, tuple(ours.members.digests))
    answer = reply(theirs.members, theirs.suspicions, buckets, 128, me_first=False)
    ours.hear(answer.news, 1.0)
    theirs.hear(lacking(ours.members, ours.suspicions, answer), 1.0)
    assert ours.members.digests == theirs.members.digests
    assert ours.members.table[node(0, 35)].state is State.DEAD
