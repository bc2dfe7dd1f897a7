"""What the peer answers for: promotion, holding, fetching, deaths, ends of jobs."""

from __future__ import annotations

from typing import Any

import pytest

from meshray.config import preset
from meshray.core.effects import Send, SweepSegments, UnlinkSegment
from meshray.core.objects import Objects
from meshray.core.store_accounts import StoreAccounts
from meshray.ids import object_of
from meshray.wire import messages as m
from tests.transit import none_in_transit

NODE = b"thispeer"
A, B, C = (NODE + label.ljust(8, b"-") for label in (b"a", b"b", b"c"))


def oid(owner: bytes, number: int = 1) -> bytes:
    return object_of(owner + number.to_bytes(8, "big"), 0)


class Peer:
    """The core with its three processes and what it said."""

    def __init__(self) -> None:
        self.store = StoreAccounts(preset("test"), 1 << 30, none_in_transit)
        self.core = Objects(preset("test"), NODE, self.store)
        self.freed: list[bytes] = []
        self.core.handle_freed = self.freed.append
        for pid, process in enumerate((A, B, C)):
            self.core.on_process_attached(process, pid, A)

    def said(self) -> list[tuple[bytes, Any]]:
        self.core.check()
        return [(e.to, e.message) for e in self.core.take_effects() if isinstance(e, Send)]

    def promote(self, owner: bytes, object_id: bytes, value: Any, *contained: bytes) -> None:
        self.core.on_promote(owner, m.Promote([m.Promoted(object_id, value, list(contained))]))

    def seal(self, maker: bytes, object_id: bytes, name: str = "") -> m.Place:
        segment = name or f"{maker[-8:].hex()}-1"
        self.core.on_sealed(maker, m.Sealed([m.SealedSegment(object_id, segment, 100, 128)]))
        return m.Place(object_id, NODE, segment, 100)

    def hold(self, process: bytes, *ids: bytes) -> None:
        self.core.on_hold(process, m.Hold(1, list(ids)))

    def release(self, process: bytes, *ids: bytes) -> None:
        self.core.on_release(process, m.Release(list(ids)))

    def fetch(self, process: bytes, *ids: bytes) -> None:
        self.core.on_fetch(process, m.Fetch(list(ids)))

    def fetched(self, process: bytes) -> list[m.Promoted]:
        return [r for to, said in self.said() if to == process and isinstance(said, m.Fetched) for r in said.records]

    def settle(self, dead: bytes) -> None:
        self.core.on_process_died(dead, "killed")
        for witness in (A, B, C):
            self.core.on_death_seen(witness, m.DeathSeen(dead))


@pytest.fixture
def peer() -> Peer:
    return Peer()


def test_a_promoted_value_lives_until_its_last_holder_lets_go(peer: Peer) -> None:
    x = oid(A)
    peer.promote(A, x, b"value")
    peer.hold(B, x)
    assert peer.said() == [(B, m.HoldDone(1))]
    peer.release(A, x)
    peer.fetch(B, x)
    assert peer.fetched(B) == [m.Promoted(x, b"value")]
    peer.release(B, x)
    assert not peer.core.knows(x)


def test_messages_that_are_repeated_change_nothing(peer: Peer) -> None:
    x = oid(A)
    for _ in range(2):
        peer.promote(A, x, b"value")
        peer.hold(B, x)
    assert peer.core.holders_of(x) == {A, B}
    for _ in range(2):
        peer.release(A, x)
    assert peer.core.holders_of(x) == {B}


def test_who_asks_before_the_promotion_is_answered_by_it(peer: Peer) -> None:
    x = oid(A)
    peer.fetch(B, x)
    peer.hold(C, x)
    peer.promote(A, x, None)
    assert not peer.fetched(B)
    peer.core.on_resolve(A, m.Resolve([m.Promoted(x, b"first")]))
    peer.core.on_resolve(A, m.Resolve([m.Promoted(x, b"second")]))
    assert peer.fetched(B) == [m.Promoted(x, b"first")]


def test_an_owner_that_asks_for_what_it_never_promoted_has_lost_it(peer: Peer) -> None:
    """A reference made of bytes: what it stood for was freed, and no promotion will come."""
    x = oid(A)
    peer.hold(A, x)
    peer.fetch(A, x)
    (answer,) = peer.fetched(A)
    assert isinstance(answer.value, m.Failure)
    assert answer.value.kind == "ObjectFreedError"
    peer.release(A, x)
    assert not peer.core.knows(x)


def test_who_forgets_is_not_answered(peer: Peer) -> None:
    x = oid(A)
    peer.fetch(B, x)
    peer.core.on_forget(B, m.Forget([x]))
    assert not peer.core.knows(x)
    peer.promote(A, x, b"value")
    assert not peer.fetched(B)


def test_large_answers_are_split(peer: Peer) -> None:
    ids = [oid(A, number) for number in range(30)]
    for object_id in ids:
        peer.promote(A, object_id, bytes(100 * 1024))
    peer.fetch(B, *ids)
    answers = [said for to, said in peer.said() if isinstance(said, m.Fetched)]
    assert len(answers) > 1
    assert [r.object_id for answer in answers for r in answer.records] == ids


def test_a_container_keeps_what_it_contains(peer: Peer) -> None:
    inner, outer = oid(A, 1), oid(A, 2)
    peer.promote(A, outer, b"[inner]", inner)  # the promotion of the inner one may come later
    peer.promote(A, inner, b"value")
    peer.release(A, inner)
    assert peer.core.knows(inner)
    peer.release(A, outer)
    assert not peer.core.knows(inner)


def test_a_long_chain_of_containers_ends_without_recursion(peer: Peer) -> None:
    ids = [oid(A, number) for number in range(20_000)]
    for before, object_id in zip([None, *ids], ids, strict=False):
        peer.promote(A, object_id, b"link", *([before] if before else []))
    peer.release(A, *ids)
    assert peer.core.stats().records == 0


# -- segments ----------------------------------------------------------------------------------------------------------


def test_a_segment_goes_back_to_its_maker_when_its_owner_releases_the_object(peer: Peer) -> None:
    x = oid(A)
    peer.seal(B, x)
    peer.release(A, x)
    assert not peer.core.knows(x)
    assert peer.store.take_effects() == [Send(B, m.SegmentsFree([f"{B[-8:].hex()}-1"]))]


def test_a_release_that_overtakes_the_makers_word_is_remembered(peer: Peer) -> None:
    x = oid(A)
    peer.release(A, x)
    peer.seal(B, x)
    assert not peer.core.knows(x)
    assert isinstance(peer.store.take_effects()[0].message, m.SegmentsFree)


def test_a_promoted_place_that_goes_before_the_makers_word_is_freed_on_arrival(peer: Peer) -> None:
    x = oid(A)
    peer.promote(A, x, None)
    peer.release(A, x)
    assert peer.core.knows(x), "what resolves it may have a segment"
    peer.core.on_resolve(A, m.Resolve([m.Promoted(x, m.Place(x, NODE, f"{B[-8:].hex()}-1", 100))]))
    assert not peer.core.knows(x)
    peer.seal(B, x)
    assert not peer.core.knows(x)
    assert not peer.store.live_segments()


def test_a_view_elsewhere_keeps_the_segment_of_an_unpromoted_object(peer: Peer) -> None:
    x = oid(A)
    peer.seal(A, x)
    peer.hold(B, x)
    peer.settle(A)
    assert peer.store.live_segments()
    peer.release(B, x)
    assert UnlinkSegment(f"{A[-8:].hex()}-1") in peer.store.take_effects()


def test_a_segment_whose_maker_died_before_it_could_tell_is_kept(peer: Peer) -> None:
    x = oid(A)
    segment = f"{B[-8:].hex()}-7"
    peer.promote(A, x, m.Place(x, NODE, segment, 100))
    peer.settle(B)
    assert SweepSegments(B, (segment,)) in peer.store.take_effects()
    peer.release(A, x)
    assert UnlinkSegment(segment) in peer.store.take_effects()


def test_the_receiver_of_a_place_tells_for_its_dead_maker(peer: Peer) -> None:
    x = oid(A)
    segment = f"{B[-8:].hex()}-7"
    peer.core.on_process_died(B, "killed")
    peer.core.on_sealed(A, m.Sealed([m.SealedSegment(x, segment, 100, 128, B)]))
    peer.core.on_death_seen(A, m.DeathSeen(B))
    peer.core.on_death_seen(C, m.DeathSeen(B))
    assert SweepSegments(B, (segment,)) in peer.store.take_effects()


# -- deaths ------------------------------------------------------------------------------------------------------------


def test_holds_of_the_dead_stay_until_everybody_has_accounted(peer: Peer) -> None:
    x = oid(A)
    peer.promote(A, x, b"value")
    peer.core.on_process_died(A, "killed")
    assert peer.said() == [(B, m.ProcessDied(A)), (C, m.ProcessDied(A))]
    peer.core.on_death_seen(C, m.DeathSeen(A))
    assert peer.core.holders_of(x) == {A}
    peer.hold(B, x)
    peer.core.on_death_seen(B, m.DeathSeen(A))
    assert peer.core.holders_of(x) == {B}
    assert peer.said()[-2:] == [(B, m.DeathSettled(A)), (C, m.DeathSettled(A))]
    peer.fetch(B, x)
    assert peer.fetched(B) == [m.Promoted(x, b"value")], "a promoted object outlives its process"


def test_a_witness_that_dies_has_answered_when_its_own_death_is_settled(peer: Peer) -> None:
    x = oid(A)
    peer.promote(A, x, b"value")
    peer.core.on_process_died(A, "killed")
    peer.core.on_death_seen(C, m.DeathSeen(A))
    peer.core.on_process_died(B, "killed")  # it may have passed x on to C, which has answered for A only
    assert peer.core.knows(x)
    peer.hold(C, x)
    peer.core.on_death_seen(C, m.DeathSeen(B))
    assert peer.core.holders_of(x) == {C}
    assert not peer.core.stats().departures


def test_pending_work_of_a_dead_process_fails_and_names_it(peer: Peer) -> None:
    promised, expected = oid(A, 1), oid(A, 2)
    peer.promote(A, promised, None)
    peer.fetch(B, promised, expected)
    peer.core.on_process_died(A, "killed by signal 9")
    answers = peer.fetched(B)
    assert [answer.object_id for answer in answers] == [promised, expected]
    for answer in answers:
        assert isinstance(answer.value, m.Failure)
        assert answer.value.kind == "OwnerDiedError"
        assert "killed by signal 9" in answer.value.message
        assert A.hex() in answer.value.message


def test_nothing_of_a_dead_process_acts_any_more(peer: Peer) -> None:
    x = oid(A)
    peer.core.on_process_died(A, "killed")
    peer.said()
    peer.promote(A, x, b"value")
    peer.hold(A, x)
    peer.fetch(A, x)
    assert peer.said() == []
    assert not peer.core.knows(x)
    assert peer.core.stats().refused == 3


@pytest.mark.parametrize("owner", [NODE + b"unknown-", b"otherpeerunknown"[:16]])
def test_an_object_of_nobody_is_lost(peer: Peer, owner: bytes) -> None:
    peer.fetch(B, oid(owner))
    (answer,) = peer.fetched(B)
    assert isinstance(answer.value, m.Failure)
    assert answer.value.kind == "OwnerDiedError"
    assert peer.core.stats().records == 0


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_the_end_of_a_job_loses_its_objects_to_others(peer: Peer) -> None:
    other = NODE + b"other---"
    peer.core.on_process_attached(other, 9, other)
    x, inner = oid(B, 1), oid(B, 2)
    peer.promote(B, inner, b"inner")
    peer.promote(B, x, b"value", inner)
    peer.hold(other, x)
    peer.core.on_job_ended(A)
    peer.fetch(other, x, oid(B, 3))
    answers = peer.fetched(other)
    assert len(answers) == 2
    assert all(isinstance(a.value, m.Failure) and "its job ended" in a.value.message for a in answers)
    for process in (A, B, C):
        peer.core.on_process_died(process)
    for process in (A, B, C):
        peer.core.on_death_seen(other, m.DeathSeen(process))
    assert peer.core.knows(inner), "who has read the container may hold what is inside through it"
    peer.release(other, x)
    assert peer.core.stats().records == 0


def test_what_a_detached_actor_needs_outlives_its_job(peer: Peer) -> None:
    x, inner, y = oid(A, 1), oid(A, 2), oid(A, 3)
    peer.promote(A, inner, b"inner")
    peer.promote(A, x, b"value", inner)
    peer.promote(A, y, b"value")
    peer.core.pin_for_actor(x)
    peer.core.on_job_ended(A, frozenset({C}))
    peer.fetch(C, x, inner, y)
    values = {answer.object_id: answer.value for answer in peer.fetched(C)}
    assert values[x] == b"value"
    assert values[inner] == b"inner"
    assert isinstance(values[y], m.Failure)


def test_the_handle_of_an_actor_is_counted_like_a_reference(peer: Peer) -> None:
    actor_id = oid(A)[:24]
    peer.hold(B, oid(A))  # it travels faster than its creation
    peer.core.add_handle(actor_id, A)
    peer.release(A, oid(A))
    assert peer.freed == []
    peer.release(B, oid(A))
    assert peer.freed == [actor_id]


def test_who_has_read_a_container_keeps_what_is_inside_when_its_job_ends(peer: Peer) -> None:
    other, third = NODE + b"other---", NODE + b"third---"
    for process in (other, third):
        peer.core.on_process_attached(process, 9, process)
    outer, inner = oid(A), oid(third)
    peer.promote(third, inner, b"value")
    peer.promote(A, outer, b"[inner]", inner)
    peer.hold(other, outer)
    peer.fetch(other, outer)  # and unpickles the inner one, which it holds through the outer one
    peer.release(third, inner)
    peer.core.on_job_ended(A)
    assert peer.core.value_of(inner) == b"value"
    peer.hold(other, inner)
    peer.release(other, outer, inner)
    peer.release(A, outer)
    assert peer.core.stats().records == 0


def test_circles_of_an_ended_job_go_with_its_last_process(peer: Peer) -> None:
    x, y = oid(A, 1), oid(A, 2)
    peer.promote(A, x, b"[y]", y)
    peer.promote(A, y, b"[x]", x)
    peer.release(A, x, y)
    assert peer.core.stats().records == 2
    peer.core.on_job_ended(A)
    peer.settle(A)
    assert peer.core.stats().records == 0


def test_the_late_word_of_a_second_attempt_finds_its_object_released(peer: Peer) -> None:
    x = oid(A)
    peer.seal(B, x)  # and B dies before its result arrives: the task runs once more, at C
    peer.settle(B)
    peer.release(A, x)
    peer.seal(C, x)
    assert not peer.core.knows(x)
    assert not peer.store.live_segments()
