"""Objects of other hosts here, ours there, segments that lie elsewhere, and hosts that are gone."""

from __future__ import annotations

from typing import Any

import pytest

from meshray.config import preset
from meshray.core.effects import Later, Send
from meshray.core.objects import Objects
from meshray.core.store_accounts import StoreAccounts
from meshray.ids import object_of, peer_of
from meshray.wire import messages as m
from tests.transit import none_in_transit

NEAR, FAR, THIRD = b"near----", b"far-----", b"third---"
A, B = NEAR + b"a" * 8, NEAR + b"b" * 8
OWNER = FAR + b"o" * 8


def oid(owner: bytes, number: int = 1) -> bytes:
    return object_of(owner + number.to_bytes(8, "big"), 0)


X = oid(OWNER)
OURS = oid(A, 5)


class Peer:
    """A peer with two processes, in a mesh."""

    def __init__(self) -> None:
        self.store = StoreAccounts(preset("test"), 1 << 30, none_in_transit)
        self.core = Objects(preset("test"), NEAR, self.store, alone=False)
        self.freed: list[bytes] = []
        self.core.object_freed = self.freed.append
        self.later: list[int] = []
        for pid, process in enumerate((A, B)):
            self.core.on_process_attached(process, pid, A)

    def said(self) -> list[tuple[bytes, Any]]:
        self.core.check()
        effects = [*self.core.take_effects(), *self.store.take_effects()]
        self.later += [effect.number for effect in effects if isinstance(effect, Later)]
        return [(effect.to, effect.message) for effect in effects if isinstance(effect, Send)]

    def wait(self) -> list[tuple[bytes, Any]]:
        """All times of doubt are over."""
        for number in self.later:
            self.core.foreign.on_later(number)
        self.later.clear()
        return self.said()

    def hold_foreign(self, *processes: bytes) -> None:
        """X is held here, and its owner knows."""
        for process in processes:
            self.core.on_hold(process, m.Hold(1, [X]))
        self.core.foreign.on_hold_done(peer_of(FAR), m.HoldDone(1))
        self.said()

    def seal(self, object_id: bytes, number: int = 1) -> m.Place:
        segment = f"{B[-8:].hex()}-{number}"
        self.core.on_sealed(B, m.Sealed([m.SealedSegment(object_id, segment, 100, 128)]))
        return m.Place(object_id, NEAR, segment, 100)


@pytest.fixture
def peer() -> Peer:
    return Peer()


# -- borrowed ----------------------------------------------------------------------------------------------------------


def test_the_owner_hears_of_the_first_holder_and_of_the_last(peer: Peer) -> None:
    peer.core.on_hold(A, m.Hold(3, [X, OURS]))
    assert peer.said() == [(peer_of(FAR), m.Hold(1, [X]))]
    peer.core.foreign.on_hold_done(peer_of(FAR), m.HoldDone(1))
    assert peer.said() == [(A, m.HoldDone(3))]
    peer.core.on_hold(B, m.Hold(4, [X]))
    peer.core.on_release(A, m.Release([X]))
    assert peer.said() == [(B, m.HoldDone(4))]
    peer.core.on_release(B, m.Release([X]))
    assert peer.said() == [(peer_of(FAR), m.Release([X]))]


def test_what_contains_it_holds_it(peer: Peer) -> None:
    peer.core.on_promote(A, m.Promote([m.Promoted(OURS, b"a list", [X])]))
    assert peer.said() == [(peer_of(FAR), m.Hold(1, [X]))]
    peer.core.on_release(A, m.Release([OURS]))
    assert peer.said() == [(peer_of(FAR), m.Release([X]))]
    assert peer.freed == [OURS]


def test_a_dead_process_holds_until_all_have_accounted(peer: Peer) -> None:
    peer.hold_foreign(A)
    peer.core.on_process_died(A, "killed")
    assert peer.said() == [(B, m.ProcessDied(A))]
    peer.core.on_death_seen(B, m.DeathSeen(A))
    assert (peer_of(FAR), m.Release([X])) in peer.said()


def test_values_are_fetched_from_the_owner_once(peer: Peer) -> None:
    peer.core.on_fetch(A, m.Fetch([X]))
    peer.core.on_fetch(B, m.Fetch([X]))
    assert peer.said() == [(peer_of(FAR), m.Fetch([X]))]
    answer = m.Promoted(X, b"value", [oid(OWNER, 2)])
    peer.core.foreign.on_fetched(peer_of(THIRD), m.Fetched([answer]))  # not its to answer
    assert peer.said() == []
    peer.core.foreign.on_fetched(peer_of(FAR), m.Fetched([answer]))
    assert peer.said() == [(A, m.Fetched([answer])), (B, m.Fetched([answer]))]
    assert not peer.core.knows(X)


def test_who_waits_no_more_is_not_answered(peer: Peer) -> None:
    peer.core.on_fetch(A, m.Fetch([X]))
    peer.core.on_forget(A, m.Forget([X]))
    assert [message for _, message in peer.said()] == [m.Fetch([X]), m.Forget([X])]
    peer.core.foreign.on_fetched(peer_of(FAR), m.Fetched([m.Promoted(X, b"value")]))
    assert peer.said() == []


@pytest.mark.fault(5)
def test_when_its_owner_is_gone_it_is_lost_and_nobody_waits(peer: Peer) -> None:
    peer.core.on_hold(A, m.Hold(1, [X]))
    peer.core.on_fetch(B, m.Fetch([X]))
    peer.said()
    peer.core.foreign.on_host_gone(FAR, "its power went")
    said = dict(peer.said())
    assert said[A] == m.HoldDone(1)
    failure = said[B].records[0].value
    assert failure.kind == "OwnerDiedError"
    assert "its power went" in failure.message
    peer.core.on_fetch(A, m.Fetch([X]))
    assert peer.said() == [(peer_of(FAR), m.Hold(2, [X])), (peer_of(FAR), m.Fetch([X]))], "it may be back"
    peer.core.foreign.on_unreachable(FAR, "its power went")
    ((to, fetched),) = peer.said()
    assert (to, fetched.records[0].value.kind) == (A, "OwnerDiedError")
    peer.core.on_release(A, m.Release([X]))
    assert peer.said() == []  # there is nobody to tell
    assert not peer.core.knows(X)


def test_a_host_that_was_cut_off_may_be_dealt_with_again(peer: Peer) -> None:
    peer.hold_foreign(A)
    peer.core.foreign.on_host_gone(FAR, "cut off")
    peer.said()
    peer.core.on_hold(B, m.Hold(2, [X]))  # somebody has passed it on anew
    assert peer.said() == [(peer_of(FAR), m.Hold(2, [X]))]
    peer.core.on_fetch(B, m.Fetch([X]))
    assert peer.said() == [(peer_of(FAR), m.Fetch([X]))]
    peer.core.foreign.on_unreachable(FAR, "it is not")
    assert [to for to, _ in peer.said()] == [B, B]  # HoldDone, Fetched


@pytest.mark.fault(22)
def test_a_value_is_asked_for_anew_by_whoever_holds_it_yet(peer: Peer) -> None:
    """B has it in the arguments of a task, and reads it before it holds it."""
    peer.hold_foreign(A)
    peer.core.foreign.on_host_gone(FAR, "cut off")
    peer.said()
    peer.wait()
    peer.core.on_fetch(B, m.Fetch([X]))
    assert peer.said() == [(peer_of(FAR), m.Hold(2, [X])), (peer_of(FAR), m.Fetch([X]))]
    peer.core.foreign.on_fetched(peer_of(FAR), m.Fetched([m.Promoted(X, b"value")]))
    assert peer.said() == [(B, m.Fetched([m.Promoted(X, b"value")]))]
    peer.core.foreign.on_hold_done(peer_of(FAR), m.HoldDone(2))
    peer.core.on_release(A, m.Release([X]))
    assert peer.said() == [(peer_of(FAR), m.Release([X]))]
    assert peer.core.left() == ""


@pytest.mark.fault(22)
@pytest.mark.parametrize("kept", [True, False], ids=["held", "not held"])
def test_what_is_made_again_after_a_partition_is_lodged_anew(peer: Peer, kept: bool) -> None:
    first = peer.seal(X, 1)
    if kept:
        peer.core.on_hold(A, m.Hold(1, [X]))
    assert (peer_of(FAR), m.Lodged([first])) in peer.said()
    peer.core.foreign.on_host_gone(FAR, "cut off")
    peer.said()
    again = peer.seal(X, 2)
    said = peer.said()
    assert (peer_of(FAR), m.Lodged([again])) in said
    assert any(isinstance(message, m.Hold) for _, message in said) == kept, "A holds it as before"
    peer.wait()  # what it had held before is over
    assert peer.store.has(again.segment, X, 100)
    peer.core.on_release(A, m.Release([X]))
    peer.core.on_release(peer_of(FAR), m.Release([X]))
    assert not peer.store.knows_segment(again.segment)


def test_a_word_to_a_host_that_is_gone_concerns_what_was_said_since(peer: Peer) -> None:
    """However much of it is held here, and was lost before."""
    many = [oid(OWNER, number) for number in range(100)]
    peer.core.on_hold(A, m.Hold(1, many))
    assert [record.id for record in peer.core.table.of_host(FAR)] == many
    peer.core.foreign.on_host_gone(FAR, "its power went")
    assert peer.core.table.of_host(FAR) == []
    peer.core.on_hold(B, m.Hold(2, many[7:8]))
    assert [record.id for record in peer.core.table.of_host(FAR)] == many[7:8]
    peer.core.foreign.on_unreachable(FAR, "its power went")
    assert peer.core.table.of_host(FAR) == []
    assert peer.said()[-1] == (B, m.HoldDone(2))
    peer.core.on_release(A, m.Release(many))
    peer.core.on_release(B, m.Release(many))
    assert peer.core.left() == ""


def test_alone_a_foreign_object_is_lost_at_once() -> None:
    core = Objects(preset("test"), NEAR, StoreAccounts(preset("test"), 1 << 30, none_in_transit))
    core.on_process_attached(A, 1, A)
    core.on_hold(A, m.Hold(1, [X]))
    core.on_promote(A, m.Promote([m.Promoted(OURS, b"a list", [X])]))
    core.on_fetch(A, m.Fetch([X]))
    done, effect = core.take_effects()
    assert done == Send(A, m.HoldDone(1))
    assert effect.message.records[0].value.kind == "OwnerDiedError"
    core.check()


# -- lent --------------------------------------------------------------------------------------------------------------


def test_the_peer_of_another_host_holds_like_a_process(peer: Peer) -> None:
    peer.core.on_promote(A, m.Promote([m.Promoted(OURS, b"value")]))
    peer.core.on_hold(peer_of(FAR), m.Hold(9, [OURS, X]))  # X is none of ours: that part is dropped
    assert peer.said() == [(peer_of(FAR), m.HoldDone(9))]
    peer.core.on_release(A, m.Release([OURS]))
    assert peer.core.knows(OURS)
    peer.core.on_fetch(peer_of(FAR), m.Fetch([OURS, X]))
    assert peer.said() == [(peer_of(FAR), m.Fetched([m.Promoted(OURS, b"value")]))]
    peer.core.on_release(peer_of(FAR), m.Release([OURS]))
    assert not peer.core.knows(OURS)


def test_a_foreign_process_is_no_holder(peer: Peer) -> None:
    peer.core.on_promote(A, m.Promote([m.Promoted(OURS, b"value")]))
    peer.core.on_hold(OWNER, m.Hold(9, [OURS]))
    peer.core.on_fetch(OWNER, m.Fetch([OURS]))
    assert peer.said() == []
    assert peer.core.stats().refused == 2


@pytest.mark.fault(5, 61)
def test_what_a_host_held_stays_for_a_while_after_its_end(peer: Peer) -> None:
    peer.core.on_promote(A, m.Promote([m.Promoted(OURS, b"value")]))
    peer.core.on_hold(peer_of(FAR), m.Hold(9, [OURS]))
    peer.core.on_release(A, m.Release([OURS]))
    peer.core.foreign.on_host_gone(FAR, "its power went")
    peer.said()
    assert peer.core.knows(OURS)
    peer.core.on_hold(peer_of(THIRD), m.Hold(1, [OURS]))  # it had it from there
    peer.wait()
    assert peer.core.knows(OURS)
    peer.core.on_release(peer_of(THIRD), m.Release([OURS]))
    assert not peer.core.knows(OURS)


def test_a_host_that_comes_back_holds_by_its_own_name(peer: Peer) -> None:
    peer.core.on_promote(A, m.Promote([m.Promoted(OURS, b"value")]))
    peer.core.on_hold(peer_of(FAR), m.Hold(9, [OURS]))
    peer.core.foreign.on_host_gone(FAR, "cut off")
    peer.core.on_hold(peer_of(FAR), m.Hold(1, [OURS]))
    peer.core.on_release(A, m.Release([OURS]))
    peer.said()
    peer.wait()
    assert peer.core.holders_of(OURS) == {peer_of(FAR)}


def test_what_nobody_here_ever_tells_of_is_lost_after_a_while(peer: Peer) -> None:
    """A reference that has outlived a partition, after its object was freed."""
    peer.core.on_hold(peer_of(FAR), m.Hold(1, [OURS]))
    peer.core.on_fetch(peer_of(FAR), m.Fetch([OURS]))
    assert peer.said() == [(peer_of(FAR), m.HoldDone(1))]
    ((to, fetched),) = peer.wait()
    assert (to, fetched.records[0].value.kind) == (peer_of(FAR), "ObjectFreedError")


# -- lodged ------------------------------------------------------------------------------------------------------------


def test_a_segment_of_a_foreign_owner_is_held_by_its_peer(peer: Peer) -> None:
    place = peer.seal(X)
    assert peer.said() == [(peer_of(FAR), m.Lodged([place]))]
    peer.core.on_hold(A, m.Hold(1, [X]))
    peer.core.on_release(peer_of(FAR), m.Release([X]))
    peer.said()
    assert peer.core.knows(X), "somebody here has a view of it"
    peer.core.on_release(A, m.Release([X]))
    assert (B, m.SegmentsFree([place.segment])) in peer.said()


def test_the_owner_frees_what_lies_elsewhere(peer: Peer) -> None:
    place = m.Place(OURS, FAR, "abcdabcdabcdabcd-1", 100)
    peer.core.foreign.on_lodged(peer_of(FAR), m.Lodged([place]))
    peer.core.foreign.on_lodged(peer_of(FAR), m.Lodged([place]))  # a repeat
    assert peer.core.holders_of(OURS) == {A}
    peer.core.on_release(A, m.Release([OURS]))
    assert peer.said() == [(peer_of(FAR), m.Release([OURS]))]


def test_a_release_that_was_quicker_frees_it_on_arrival(peer: Peer) -> None:
    peer.core.on_release(A, m.Release([OURS]))
    peer.core.foreign.on_lodged(peer_of(FAR), m.Lodged([m.Place(OURS, FAR, "abcdabcdabcdabcd-1", 100)]))
    assert peer.said() == [(peer_of(FAR), m.Release([OURS]))]


def test_a_place_that_only_the_journal_of_its_dead_maker_told_of_is_kept(peer: Peer) -> None:
    place = m.Place(OURS, FAR, "abcdabcdabcdabcd-1", 100)
    peer.core.foreign.on_lodged(A, m.Lodged([place]))  # the owner says so
    assert peer.said() == [(peer_of(FAR), m.Lodged([place]))]
    here = m.Place(X, NEAR, f"{B[-8:].hex()}-7", 100)
    peer.core.foreign.on_lodged(peer_of(FAR), m.Lodged([here]))  # and the other way round
    peer.core.on_process_died(B, "killed")
    peer.core.on_death_seen(A, m.DeathSeen(B))
    peer.said()
    assert peer.store.has(here.segment, X, 100)
    peer.core.on_release(peer_of(FAR), m.Release([X]))
    assert not peer.store.has(here.segment, X, 100)


@pytest.mark.fault(5)
def test_a_segment_that_was_made_once_more_is_not_kept_for_nobody(peer: Peer) -> None:
    """It lay on a host that is gone; the next attempt ran here, and its maker's word is slower than the release."""
    peer.core.foreign.on_lodged(peer_of(FAR), m.Lodged([m.Place(OURS, FAR, "abcdabcdabcdabcd-1", 100)]))
    peer.core.foreign.on_host_gone(FAR, "its power went")
    peer.core.on_release(A, m.Release([OURS]))
    peer.seal(OURS)
    assert any(isinstance(message, m.SegmentsFree) for _, message in peer.said())
    assert not peer.core.knows(OURS)


@pytest.mark.fault(22)
def test_the_owner_keeps_what_lies_on_a_host_that_was_away(peer: Peer) -> None:
    places = [m.Place(oid(A, number), FAR, f"abcdabcdabcdabcd-{number}", 100) for number in range(300)]
    peer.core.foreign.on_lodged(peer_of(FAR), m.Lodged(places))
    peer.core.foreign.on_host_there(peer_of(FAR))
    assert peer.said() == [], "it was never away"
    peer.core.foreign.on_host_gone(FAR, "cut off")
    peer.core.on_release(A, m.Release([places[0].object_id]))
    assert peer.said() == [], "it frees by itself what is not claimed"
    peer.core.foreign.on_host_there(peer_of(FAR))
    peer.core.foreign.on_host_there(peer_of(FAR))
    claimed = peer.said()
    assert [to for to, _ in claimed] == [peer_of(FAR)] * 2
    assert [place for _, lodged in claimed for place in lodged.places] == places[1:]
    peer.core.on_release(A, m.Release([places[1].object_id]))
    assert peer.said() == [(peer_of(FAR), m.Release([places[1].object_id]))]
    peer.core.foreign.on_unreachable(FAR, "it is not there")
    peer.core.foreign.on_host_there(peer_of(FAR))
    assert [place for _, lodged in peer.said() for place in lodged.places] == places[2:]


@pytest.mark.fault(22)
def test_a_segment_whose_owners_host_was_away_stays_when_it_is_claimed(peer: Peer) -> None:
    place, unclaimed = peer.seal(X, 1), peer.seal(oid(OWNER, 2), 2)
    peer.said()
    peer.core.foreign.on_host_gone(FAR, "cut off")
    peer.said()
    peer.core.foreign.on_lodged(peer_of(FAR), m.Lodged([place]))
    assert peer.said() == []
    peer.wait()
    assert peer.store.has(place.segment, X, 100)
    assert not peer.store.knows_segment(unclaimed.segment)
    peer.core.on_release(peer_of(FAR), m.Release([X]))
    assert not peer.store.knows_segment(place.segment)
    gone = m.Place(X, NEAR, place.segment, 100)
    peer.core.foreign.on_lodged(peer_of(FAR), m.Lodged([gone]))  # too late: it is waited for until it is released
    peer.core.on_release(peer_of(FAR), m.Release([X]))
    peer.said()
    assert peer.core.left() == ""


@pytest.mark.fault(5)
def test_segments_of_a_host_that_is_gone_go_after_a_while(peer: Peer) -> None:
    peer.seal(X)
    peer.said()
    peer.core.foreign.on_host_gone(FAR, "its power went")
    peer.said()
    assert peer.core.knows(X)
    assert any(isinstance(message, m.SegmentsFree) for _, message in peer.wait())
    peer.seal(oid(OWNER, 2), 2)  # by a task that has not heard of it yet
    peer.said()
    peer.core.foreign.on_unreachable(FAR, "gone")
    assert any(isinstance(message, m.SegmentsFree) for _, message in peer.said())
    assert peer.core.left() == ""
