"""Actors of other peers on this host."""

from __future__ import annotations

from typing import Any

import pytest

from meshray.core.effects import FreeSlot, GuestsCame, GuestsLeft, KillProcess, Send, ShrinkSlot, TakeSlot
from meshray.core.guests import Guests
from meshray.wire import messages as m

O1, O2 = b"ownerone" + bytes(8), b"ownertwo" + bytes(8)
W1, W2 = b"thishostworker-1", b"thishostworker-2"
CALLER = b"farawaycaller---"
A = O1[:8] + b"driver--" + bytes(8)
B = O1[:8] + b"driver--" + bytes(7) + b"B"
JOB = O1[:8] + b"driver--"


def wish(incarnation: int = 1, actor_id: bytes = A, detached: bool = False) -> m.HostActor:
    return m.HostActor(actor_id, incarnation, JOB, {"CPU": 1}, {}, m.Profile(actor=True), "Counter", detached)


def took(actor_id: bytes = A) -> TakeSlot:
    return TakeSlot(actor_id, JOB, {"CPU": 1}, {}, m.Profile(actor=True), name="Counter", guest=True)


@pytest.fixture
def guests() -> Guests:
    return Guests(lambda job: True)


def effects(guests: Guests) -> list[Any]:
    guests.check()
    return guests.take_effects()


def hosted(guests: Guests, owner: bytes = O1, actor_id: bytes = A, worker: bytes = W1, **options: Any) -> None:
    guests.on_host(owner, wish(actor_id=actor_id, **options))
    guests.on_slot(actor_id, worker)
    guests.take_effects()


def test_a_guest_gets_a_worker_and_its_owner_hears_what_that_says(guests: Guests) -> None:
    guests.on_host(O1, wish())
    assert effects(guests) == [GuestsCame(O1), took()]
    guests.on_host(O1, wish())
    assert effects(guests) == []
    guests.on_slot(A, W1)
    assert effects(guests) == [Send(O1, m.ActorHosted(A, 1, W1))]
    ready = m.ActorReady(A, 1)
    assert guests.on_ready(W1, ready)
    assert effects(guests) == [ShrinkSlot(A), Send(O1, m.GuestReady(W1, ready))]
    leaving = m.ActorExit(A, 1)
    assert guests.on_exit(W1, leaving)
    assert effects(guests) == [Send(O1, m.GuestExit(W1, leaving))]
    assert not guests.on_ready(W2, ready)
    assert not guests.on_exit(W2, leaving)


def test_its_death_is_told_with_its_journal(guests: Guests) -> None:
    hosted(guests)
    guests.on_process_died(W2, "nobody", {})
    guests.on_process_died(W1, "killed by signal 9", {CALLER: ([m.Result(1, [b""])], [2])}, True)
    calls = [m.CallsOf(CALLER, [m.Result(1, [b""])], [2])]
    lost = m.GuestLost(A, 1, W1, "killed by signal 9", calls, True)
    assert effects(guests) == [Send(O1, lost), FreeSlot(A), GuestsLeft(O1)]
    assert not guests.knows(A)


def test_a_guest_that_waits_is_taken_back(guests: Guests) -> None:
    guests.on_host(O1, wish())
    effects(guests)
    guests.on_leave(O2, m.LeaveActor(A, 1))
    guests.on_leave(O1, m.LeaveActor(A, 7))
    assert effects(guests) == []
    guests.on_leave(O1, m.LeaveActor(A, 1))
    assert effects(guests) == [FreeSlot(A), GuestsLeft(O1)]
    guests.on_slot(A, W1)  # it was on its way
    assert effects(guests) == [FreeSlot(A)]


def test_the_next_incarnation_waits_for_the_end_of_the_last(guests: Guests) -> None:
    hosted(guests)
    guests.on_leave(O1, m.LeaveActor(A, 1))
    assert effects(guests) == [FreeSlot(A)]
    guests.on_host(O1, wish(2))
    assert effects(guests) == []
    guests.on_process_died(W1, "killed", {})
    told = effects(guests)
    assert told[0] == Send(O1, m.GuestLost(A, 1, W1, "killed"))
    assert took() in told
    assert GuestsLeft(O1) not in told
    guests.on_slot(A, W2)
    assert effects(guests) == [Send(O1, m.ActorHosted(A, 2, W2))]


def test_a_next_incarnation_that_waits_is_taken_back(guests: Guests) -> None:
    hosted(guests)
    guests.on_host(O1, wish(2))
    guests.on_leave(O1, m.LeaveActor(A, 2))
    effects(guests)
    guests.on_process_died(W1, "killed", {})
    assert took() not in effects(guests)


def test_the_owner_has_a_worker_killed(guests: Guests) -> None:
    hosted(guests)
    guests.on_kill(O2, m.KillGuest(W1))
    guests.on_kill(O1, m.KillGuest(W2))
    assert effects(guests) == []
    guests.on_kill(O1, m.KillGuest(W1, "kill()"))
    assert effects(guests) == [KillProcess(W1, "kill()")]


def test_why_a_guest_waits_is_told_once(guests: Guests) -> None:
    guests.on_host(O1, wish())
    effects(guests)
    for _ in range(2):
        guests.on_waits(A, "all is full", False)
    assert effects(guests) == [Send(O1, m.ActorWaitsThere(A, 1, "all is full"))]
    guests.on_waits(A, "no interpreter", True)
    assert effects(guests) == [Send(O1, m.ActorWaitsThere(A, 1, "no interpreter", True)), FreeSlot(A), GuestsLeft(O1)]


@pytest.mark.fault(22)
def test_an_owner_that_is_gone_leaves_nobody_behind(guests: Guests) -> None:
    hosted(guests)
    guests.on_host(O1, wish(actor_id=B))
    hosted(guests, O2, O2[:8] + A[8:], W2)
    effects(guests)
    guests.on_owner_gone(O1)
    told = effects(guests)
    assert [e.process for e in told if isinstance(e, KillProcess)] == [W1]
    assert Send(O1, m.ActorWaitsThere(B, 1, gone=True)) in told
    assert guests.is_fenced(W1)
    assert not guests.is_fenced(W2)
    guests.on_process_died(W1, "killed", {})
    assert GuestsLeft(O1) in effects(guests)
    assert guests.owners() == {O2}
    assert not guests.is_fenced(W1)


def test_whoever_comes_after_the_end_of_a_right_has_one_of_its_own(guests: Guests) -> None:
    hosted(guests)
    guests.on_owner_gone(O1)
    effects(guests)
    guests.on_host(O1, wish(actor_id=B))  # while the one before is being killed
    assert GuestsCame(O1) in effects(guests)


def test_detached_guests_outlive_their_job(guests: Guests) -> None:
    hosted(guests)
    hosted(guests, actor_id=B, worker=W2, detached=True)
    assert guests.survivors_of(JOB) == {W2}
    assert guests.needs(JOB)
    assert not guests.needs(CALLER)


def test_a_job_that_is_not_known_is_asked_for() -> None:
    jobs: set[bytes] = set()
    guests = Guests(jobs.__contains__)
    guests.on_host(O1, wish())
    assert effects(guests) == [GuestsCame(O1), Send(O1, m.JobWanted(JOB))]
    guests.on_job_came(CALLER)
    jobs.add(JOB)
    guests.on_job_came(JOB)
    guests.on_job_came(JOB)
    assert effects(guests) == [took()]


def test_who_waits_for_a_job_that_will_not_be_known_is_refused() -> None:
    """Its owner may have it started elsewhere."""
    guests = Guests(lambda job: job == CALLER)
    guests.on_host(O1, wish())
    effects(guests)
    assert guests.awaits_job(JOB)
    guests.on_job_lost(CALLER, "nobody has it", O1)
    assert effects(guests) == []
    for _ in range(2):
        guests.on_job_lost(JOB, "nobody has it", O1)
    assert Send(O1, m.ActorWaitsThere(A, 1, "nobody has it", gone=True)) in effects(guests)
    assert not guests.knows(A)


def test_an_owner_is_asked_again_where_somebody_else_does_not_know_the_job() -> None:
    """A testator of that job was asked first, so that what the owner has said meanwhile did not count."""
    guests = Guests(lambda job: False)
    guests.on_host(O1, wish())
    effects(guests)
    guests.on_job_lost(JOB, "a testator does not have it", O2)
    assert effects(guests) == [Send(O1, m.JobWanted(JOB))]
    assert guests.awaits_job(JOB)


def test_a_host_refuses_what_it_runs_nothing_of() -> None:
    """The peer of a program's own, say: it is not even asked what is known of the job."""
    guests = Guests(lambda job: False, "near", why_not=lambda job: "it is a guest" if job == JOB else "")
    guests.on_host(O1, wish())
    assert Send(O1, m.ActorWaitsThere(A, 1, "on host near: it is a guest", gone=True)) in effects(guests)
    assert not guests.knows(A)
    assert guests.owners() == set()


def test_a_guest_waits_until_it_has_a_place_or_leaves(guests: Guests) -> None:
    assert not guests.waits(A)
    guests.on_host(O1, wish())
    assert guests.waits(A)
    guests.on_slot(A, W1)
    assert not guests.waits(A), "it has one"
    guests.on_leave(O1, m.LeaveActor(A, 1))
    assert guests.knows(A), "its worker is being killed"
    assert not guests.waits(A)


def test_a_guest_that_waits_for_its_worker_may_be_refused_yet() -> None:
    guests = Guests(lambda job: True)
    guests.on_host(O1, wish())
    effects(guests)
    guests.on_refused(B, "no such guest")
    assert effects(guests) == []
    guests.on_refused(A, "its job was forgotten")
    assert Send(O1, m.ActorWaitsThere(A, 1, "its job was forgotten", gone=True)) in effects(guests)


@pytest.mark.fault(16)
def test_a_guest_gets_another_owner() -> None:
    guests = Guests(lambda job: True)
    hosted(guests, detached=True)
    moves = m.GuestMoves(A, 1, W1, O2)
    guests.on_moves(O1, moves)
    assert effects(guests) == [
        GuestsCame(O2),
        Send(O2, m.ActorHosted(A, 1, W1)),
        GuestsLeft(O1),
        Send(O1, m.GuestMoved(A)),
    ]
    guests.on_owner_gone(O1)
    assert effects(guests) == []
    guests.on_process_died(W1, "killed", {})
    assert effects(guests)[0] == Send(O2, m.GuestLost(A, 1, W1, "killed"))


def test_the_new_owner_of_a_dead_guest_hears_of_its_death() -> None:
    guests = Guests(lambda job: True)
    guests.on_moves(O1, m.GuestMoves(A, 1, W1, O2))
    lost, moved = effects(guests)
    assert (lost.to, type(lost.message), moved) == (O2, m.GuestLost, Send(O1, m.GuestMoved(A)))
    assert lost.message.all_started, "its journal went to the other one, and no call may run twice"


@pytest.mark.fault(16)
def test_the_new_owner_may_be_the_first_to_say_whose_guest_it_is(guests: Guests) -> None:
    hosted(guests, detached=True)
    moves = m.GuestMoves(A, 1, W1, O2)
    guests.on_moves(O2, moves)
    assert effects(guests) == [
        GuestsCame(O2),
        Send(O2, m.ActorHosted(A, 1, W1)),
        GuestsLeft(O1),
        Send(O2, m.GuestMoved(A)),
    ]
    guests.on_moves(O1, moves)
    assert effects(guests) == [Send(O1, m.GuestMoved(A))], "that is so already"
    guests.on_owner_gone(O1)
    assert effects(guests) == []


@pytest.mark.fault(16)
def test_a_guest_that_lives_becomes_our_own(guests: Guests) -> None:
    hosted(guests)
    assert not guests.take_over(B, W2)
    assert guests.take_over(A, W1)
    assert effects(guests) == [GuestsLeft(O1)]
    assert not guests.knows(A)
    guests.on_process_died(W1, "killed", {})
    assert effects(guests) == []


@pytest.mark.fault(16, 58)
def test_one_that_may_not_live_on_does_not_become_our_own(guests: Guests) -> None:
    hosted(guests)
    guests.on_owner_gone(O1)
    effects(guests)
    assert not guests.take_over(A, W1), "it has lost its right"
    guests.on_process_died(W1, "killed", {})
    assert FreeSlot(A) not in effects(guests), "that slot is wanted for its next life"
    guests.on_host(O1, wish())
    effects(guests)
    assert not guests.take_over(A, b"")
    assert effects(guests) == [GuestsLeft(O1)]
    assert not guests.knows(A)


def test_a_host_that_leaves_sends_away_who_waits_for_the_end_of_the_one_before(guests: Guests) -> None:
    hosted(guests)
    guests.on_host(O1, wish(2))  # the owner has given up the first one, which is being killed
    guests.on_leave(O1, m.LeaveActor(A, 1))
    effects(guests)
    guests.close()
    assert effects(guests) == [Send(O1, m.ActorWaitsThere(A, 2, gone=True))]
    guests.on_host(O1, wish(1))
    assert effects(guests) == [Send(O1, m.ActorWaitsThere(A, 1, gone=True))]
    guests.on_process_died(W1, "killed", {})
    assert not [effect for effect in effects(guests) if isinstance(effect, TakeSlot)]
    assert not guests.knows(A)


def test_a_host_that_leaves_takes_no_guests_and_sends_home_those_it_has(guests: Guests) -> None:
    hosted(guests)
    guests.on_host(O2, wish(actor_id=B))
    effects(guests)
    guests.close()
    assert effects(guests) == [Send(O2, m.ActorWaitsThere(B, 1, gone=True)), FreeSlot(B), GuestsLeft(O2)]
    guests.on_host(O2, wish(actor_id=B))
    assert effects(guests) == [Send(O2, m.ActorWaitsThere(B, 1, gone=True))]
    guests.on_host(O1, wish())  # a repeat, of one that is here
    assert effects(guests) == []
    guests.send_home()
    assert effects(guests) == [KillProcess(W1, "its host leaves")]
    guests.on_process_died(W1, "killed", {})
    assert effects(guests)[0] == Send(O1, m.GuestLost(A, 1, W1, "its host was stopped", left=True))
