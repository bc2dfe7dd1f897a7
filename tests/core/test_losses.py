"""What the peer of an owner does when every copy of a value is lost."""

from __future__ import annotations

from typing import Any

import pytest

from meshray.ids import peer_of
from meshray.wire import messages as m
from tests.core.test_foreign_objects import FAR, OURS, OWNER, THIRD, A, B, Peer, X, oid

GONE = m.Place(OURS, THIRD, "abcd-1", 5000)
NEW = m.Place(OURS, FAR, "abcd-2", 5000)
INNER, OTHER = oid(A, 8), oid(A, 9)


class Owner(Peer):
    """A owns an object that lay on another host, which is gone. B and the peer of a third host hold it."""

    def __init__(self, contained: list[bytes] | None = None) -> None:
        super().__init__()
        for inner in (INNER, OTHER):
            self.core.on_promote(A, m.Promote([m.Promoted(inner, b"inner")]))
        self.core.foreign.on_lodged(peer_of(THIRD), m.Lodged([GONE]))
        self.core.on_promote(A, m.Promote([m.Promoted(OURS, GONE, contained or [])]))
        self.core.on_hold(B, m.Hold(0, [OURS]))
        self.core.on_hold(peer_of(FAR), m.Hold(1, [OURS]))
        self.core.foreign.on_host_gone(THIRD, "its power went")
        self.said()

    def refetch(self, sender: bytes, place: m.Place = GONE) -> list[tuple[bytes, Any]]:
        self.core.losses.on_refetch(sender, m.Refetch([place]))
        return self.said()

    def resolve(self, value: m.Place | m.Failure | bytes, contained: list[bytes] | None = None) -> dict[bytes, Any]:
        self.core.on_resolve(A, m.Resolve([m.Promoted(OURS, value, contained or [])]))
        return dict(self.said())


def test_its_owner_is_asked_once_and_all_that_need_it_are_answered() -> None:
    peer = Owner()
    assert peer.refetch(B) == [(A, m.Remake([GONE]))]
    assert peer.refetch(peer_of(FAR)) == []
    peer.core.on_fetch(A, m.Fetch([OURS]))  # who asks meanwhile waits like the others
    answer = m.Fetched([m.Promoted(OURS, NEW)])
    assert peer.resolve(NEW) == {A: answer, B: answer, peer_of(FAR): answer}
    assert peer.refetch(B) == [(B, answer)], "it was replaced already"


def test_when_nothing_can_make_it_again_those_who_waited_hear_so_and_it_stays_as_it_was() -> None:
    peer = Owner()
    peer.core.called = lambda node: f"<{node.hex()}>"
    peer.refetch(B)
    (said,) = peer.resolve(GONE).items()
    assert said[0] == B
    failure = said[1].records[0].value
    assert failure.kind == "ObjectLostError"
    assert "nothing to make it again of" in failure.message
    assert f"what lay on <{GONE.node.hex()}> any more" in failure.message
    assert peer.core.value_of(OURS) == GONE, "others may still reach it"


def test_one_of_which_this_host_has_a_copy_now_is_where_it_was() -> None:
    peer = Owner()
    copied = m.Promoted(OURS, GONE, copied=True)
    peer.refetch(peer_of(FAR))
    peer.core.on_resolve(A, m.Resolve([copied]))
    assert peer.said() == [(peer_of(FAR), m.Fetched([copied]))]
    assert peer.refetch(B) == [(A, m.Remake([GONE]))], "whoever cannot have it all the same asks again"


def test_a_failure_is_its_value_from_now_on() -> None:
    peer = Owner()
    failure = m.Failure("ObjectReconstructionFailedError", "no retries are left")
    peer.refetch(B)
    assert peer.resolve(failure) == {B: m.Fetched([m.Promoted(OURS, failure)])}
    assert peer.core.value_of(OURS) == failure


def test_one_that_was_not_promoted_is_asked_for_too() -> None:
    peer = Peer()
    peer.core.foreign.on_lodged(peer_of(THIRD), m.Lodged([GONE]))
    peer.core.losses.on_refetch(B, m.Refetch([GONE]))
    assert (A, m.Remake([GONE])) in peer.said()
    peer.core.on_promote(A, m.Promote([m.Promoted(OURS, None)]))
    assert peer.said() == []
    peer.core.on_resolve(A, m.Resolve([m.Promoted(OURS, NEW)]))
    assert peer.said() == [(B, m.Fetched([m.Promoted(OURS, NEW)]))]


def test_one_that_was_not_promoted_and_cannot_be_made_again() -> None:
    peer = Peer()
    peer.core.foreign.on_lodged(peer_of(THIRD), m.Lodged([GONE]))
    peer.core.losses.on_refetch(B, m.Refetch([GONE]))
    peer.said()
    peer.core.on_promote(A, m.Promote([m.Promoted(OURS, GONE)]))
    ((to, fetched),) = peer.said()
    assert (to, fetched.records[0].value.kind) == (B, "ObjectLostError")


def test_an_owner_may_find_out_by_itself_and_make_a_small_one() -> None:
    """It lets go of its own then, and could not be asked any more (seed 350300 of `test_remaking`)."""
    peer = Owner()
    assert peer.resolve(b"small") == {}
    assert peer.refetch(B) == [(B, m.Fetched([m.Promoted(OURS, b"small")]))]


def test_that_an_owner_could_not_make_it_again_for_itself_takes_the_place_from_nobody() -> None:
    peer = Owner()
    assert peer.resolve(m.Failure("ObjectReconstructionFailedError", "no retries are left")) == {}
    assert peer.core.value_of(OURS) == GONE
    peer.core.on_fetch(B, m.Fetch([OURS]))
    assert peer.said() == [(B, m.Fetched([m.Promoted(OURS, GONE)]))]


def test_why_an_owner_could_not_make_it_again_is_what_others_hear_who_find_it_lost_later() -> None:
    """The owner has let go of it meanwhile, and knows no more what made it (seed 360107 of `test_remaking`)."""
    peer = Owner()
    failure = m.Failure("ObjectReconstructionFailedError", "no retries are left")
    peer.resolve(failure)
    peer.core.on_release(A, m.Release([OURS]))
    assert peer.refetch(B) == [(A, m.Remake([GONE]))], "its host may reach it, all the same"
    assert peer.resolve(GONE) == {B: m.Fetched([m.Promoted(OURS, failure)])}
    assert peer.core.value_of(OURS) == GONE
    peer.core.on_process_died(A, "killed")
    peer.said()
    assert peer.refetch(peer_of(FAR)) == [(peer_of(FAR), m.Fetched([m.Promoted(OURS, failure)]))]


def test_an_owner_may_find_out_by_itself() -> None:
    peer = Owner([INNER])
    assert peer.resolve(NEW, [OTHER]) == {}
    assert peer.core.value_of(OURS) == NEW
    for inner in (INNER, OTHER):
        peer.core.on_release(A, m.Release([inner]))
        assert peer.core.knows(inner), "who has read either value holds what is inside through it"
    assert peer.refetch(B)[0][1].records[0].value == NEW


def test_what_was_inside_the_lost_value_stays_while_anybody_may_have_read_it() -> None:
    peer = Owner([INNER])
    peer.refetch(B)
    peer.core.on_release(A, m.Release([INNER]))
    assert peer.core.knows(INNER)
    assert peer.resolve(NEW, [OTHER])[B].records[0].contained == [INNER, OTHER]
    for holder in (A, B, peer_of(FAR)):
        peer.core.on_release(holder, m.Release([OURS]))
    assert not peer.core.knows(INNER)


def test_its_owner_hears_when_nobody_needs_it_any_more() -> None:
    peer = Owner()
    for holder in (A, B):
        peer.core.on_release(holder, m.Release([OURS]))
    assert peer.said() == []
    peer.core.on_release(peer_of(FAR), m.Release([OURS]))
    assert (A, m.OutOfScope([OURS])) in peer.said()


def test_one_that_is_made_again_lives_until_it_is_there() -> None:
    peer = Owner()
    peer.refetch(B)
    for holder in (A, B, peer_of(FAR)):
        peer.core.on_release(holder, m.Release([OURS]))
    peer.core.on_forget(B, m.Forget([OURS]))
    assert peer.core.knows(OURS)
    assert peer.resolve(NEW)[A] == m.OutOfScope([OURS])
    assert not peer.core.knows(OURS)


@pytest.mark.fault(9)
@pytest.mark.parametrize("asked", [True, False], ids=["while it makes it again", "before anybody needs it"])
def test_when_its_owner_has_ended_it_is_lost(asked: bool) -> None:
    peer = Owner()
    if asked:
        peer.refetch(B)
    peer.core.on_process_died(A, "killed")
    said = [*peer.said(), *([] if asked else peer.refetch(B))]
    (answer,) = [message for to, message in said if to == B and isinstance(message, m.Fetched)]
    assert answer.records[0].value.kind == ("OwnerDiedError" if asked else "ObjectLostError")
    peer.core.check()


def test_the_owner_of_one_of_another_host_is_asked_by_its_own_peer() -> None:
    peer = Peer()
    gone, new = m.Place(X, THIRD, "abcd-1", 5000), m.Place(X, FAR, "abcd-2", 5000)
    peer.hold_foreign(A, B)
    peer.core.on_fetch(B, m.Fetch([X]))
    peer.core.losses.on_refetch(A, m.Refetch([gone]))
    assert [message for _, message in peer.said()] == [m.Fetch([X]), m.Refetch([gone])]
    peer.core.foreign.on_fetched(peer_of(FAR), m.Fetched([m.Promoted(X, gone)]))  # an answer to the first
    assert peer.said() == []
    peer.core.foreign.on_fetched(peer_of(FAR), m.Fetched([m.Promoted(X, new)]))
    assert dict(peer.said()) == dict.fromkeys((A, B), m.Fetched([m.Promoted(X, new)]))
    peer.core.foreign.on_host_gone(FAR, "its power went")
    peer.said()
    peer.core.losses.on_refetch(A, m.Refetch([new]))
    assert peer.said()[0][1].records[0].value.kind == "OwnerDiedError"


def test_the_same_place_counts_when_the_host_of_the_owner_has_a_copy() -> None:
    peer = Peer()
    copied = m.Promoted(X, m.Place(X, THIRD, "abcd-1", 5000), copied=True)
    peer.hold_foreign(A)
    peer.core.losses.on_refetch(A, m.Refetch([m.Place(X, THIRD, "abcd-1", 5000)]))
    peer.said()
    peer.core.foreign.on_fetched(peer_of(FAR), m.Fetched([copied]))
    assert [(to, message.records[0].value) for to, message in peer.said()] == [(A, copied.value)]


def test_nobody_else_may_ask() -> None:
    peer = Owner()
    peer.core.losses.on_refetch(OWNER, m.Refetch([GONE]))
    assert peer.said() == [], "a process of another host says it to its own peer"
    peer.core.losses.on_refetch(peer_of(FAR), m.Refetch([m.Place(X, THIRD, "abcd-1", 5000)]))
    assert peer.said() == [], "that one is none of this peer's"


def test_what_was_freed_before_another_host_finds_it_lost_is_lost_for_that_one_after_a_while() -> None:
    """What named it has outlived a partition. Else it would wait for ever."""
    peer = Peer()
    peer.core.losses.on_refetch(peer_of(FAR), m.Refetch([GONE]))
    assert peer.said() == [], "its owner's word may be on its way"
    ((to, fetched),) = peer.wait()
    assert (to, fetched.records[0].value.kind) == (peer_of(FAR), "ObjectFreedError")


@pytest.mark.fault(8)
def test_one_that_was_not_promoted_and_whose_owner_has_ended_is_lost() -> None:
    peer = Peer()
    peer.core.foreign.on_lodged(peer_of(THIRD), m.Lodged([GONE]))
    peer.core.on_hold(peer_of(FAR), m.Hold(1, [OURS]))
    peer.core.on_process_died(A, "killed")
    peer.said()
    peer.core.losses.on_refetch(peer_of(FAR), m.Refetch([GONE]))
    ((to, fetched),) = peer.said()
    assert (to, fetched.records[0].value.kind) == (peer_of(FAR), "OwnerDiedError")


def test_who_asks_for_its_own_that_was_freed_hears_so_at_once() -> None:
    """It has let go of it, and got it back from elsewhere: nobody else will tell of it."""
    peer = Peer()
    peer.core.losses.on_refetch(A, m.Refetch([GONE]))
    ((to, fetched),) = peer.said()
    assert (to, fetched.records[0].value.kind) == (A, "ObjectFreedError")
