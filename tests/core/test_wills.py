"""Who takes over detached actors."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshray.config import DEFAULT
from meshray.core.actors import Actors
from meshray.core.effects import (
    ActorSlot,
    DetachedChanged,
    KillProcess,
    NameChanged,
    ReleaseActorSlot,
    RequestActorSlot,
    Send,
)
from meshray.core.lives import Life
from meshray.core.objects import Objects
from meshray.core.store_accounts import StoreAccounts
from meshray.core.wills import UNTOLD_MAX, GivesWay, Inherits, Wills
from meshray.wire import messages as m
from tests.transit import none_in_transit

SELF, H, X = b"theowner", b"the-heir", b"x-is-far"
OWNER, HEIR, FAR = (node + bytes(8) for node in (SELF, H, X))
DRIVER = SELF + b"driver--"
A = DRIVER + bytes(7) + b"\x01"
NOW = 100.0
HERE, THERE = SELF + b"worker--", X + b"worker--"


class Peer:
    """The actors and wills of one peer; its effects about wills are performed, others are kept."""

    def __init__(self, node: bytes, heir: bytes | None = None) -> None:
        self.objects = Objects(DEFAULT, node, StoreAccounts(DEFAULT, 1 << 30, none_in_transit))
        self.actors = Actors(DEFAULT, node, self.objects)
        self.heir = heir
        self.gave_way: list[list[bytes]] = []  # watchers of actors that have another owner
        self.wills = Wills(DEFAULT, node, self.actors, lambda actor_id, avoided: self.heir)
        self.objects.on_process_attached(DRIVER, 1, DRIVER)

    def effects(self) -> list[Any]:
        told: list[Any] = []
        while effects := [*self.actors.take_effects(), *self.wills.take_effects()]:
            for effect in effects:
                if isinstance(effect, DetachedChanged):
                    self.wills.on_changed(effect.actor_id)
                elif isinstance(effect, Inherits):
                    worker = effect.will.worker if effect.lives else b""
                    self.actors.on_inherit(effect.will, worker, effect.charged, NOW)
                    told.append(effect)
                elif isinstance(effect, GivesWay):
                    self.gave_way.append(self.actors.give_way(effect.actor_id))
                else:
                    told.append(effect)
        self.actors.check()
        return told

    def said(self, to: bytes) -> list[Any]:
        return [effect.message for effect in self.effects() if isinstance(effect, Send) and effect.to == to]

    def create(self, detached: bool = True, max_restarts: int = 1) -> None:
        message = m.CreateActor(
            A, m.Blob(bytes(16), "Log", b"x"), b"", [], {"CPU": 1}, {}, m.Profile(actor=True), max_restarts, 0, 0,
            DRIVER, b"methods", "log", "ns", detached, request_id=1,
        )  # fmt: skip
        self.actors.on_create(DRIVER, message, 0.0)

    def lives(self, worker: bytes) -> None:
        self.actors.on_slot(A, worker, 0.0)
        self.actors.on_ready(worker, m.ActorReady(A, 1), 0.1)


def an_owner(worker: bytes = HERE, **options: Any) -> Peer:
    """Its heir has its will."""
    peer = Peer(SELF, H)
    peer.wills.on_member_up(HEIR)
    peer.wills.on_member_up(FAR)
    peer.create(**options)
    peer.lives(worker)
    return peer


def an_owner_among(count: int) -> tuple[Peer, list[bytes]]:
    """One that sees so many members more, and these."""
    others = [b"other--%d" % number + bytes(8) for number in range(count)]
    peer = an_owner()
    for other in others:
        peer.wills.on_member_up(other)
    peer.effects()
    return peer, others


def heir(worker: bytes = HERE, **options: Any) -> Peer:
    peer = Peer(H)
    peer.wills.on_member_up(OWNER)
    peer.wills.on_member_up(FAR)
    wills = [message for message in an_owner(worker, **options).said(HEIR) if isinstance(message, m.Will)]
    peer.wills.on_will(OWNER, wills[-1])
    return peer


def test_the_heir_of_a_detached_actor_has_its_newest_will_and_watchers_know_it() -> None:
    peer = Peer(SELF, H)
    peer.create()
    peer.actors.on_watch(FAR, m.WatchActor(A))
    assert not any(isinstance(effect, Send) and effect.to == HEIR for effect in peer.effects())
    peer.wills.on_member_up(HEIR)
    effects = peer.effects()
    (will,) = [effect.message for effect in effects if isinstance(effect, Send) and effect.to == HEIR]
    assert (will.incarnation, will.worker) == (1, b"")
    assert Send(FAR, m.ActorNews(A, 1, heir=HEIR)) in effects
    peer.lives(THERE)
    assert [will.worker for will in peer.said(HEIR)] == [THERE]
    peer.actors.on_kill(DRIVER, m.KillActor(A, True))
    assert peer.said(HEIR) == [m.WillOver(A, 1)]


def test_others_have_no_heir() -> None:
    peer = an_owner(detached=False)
    assert peer.said(HEIR) == []
    peer.wills.leave(NOW)
    assert peer.wills.done


@pytest.mark.fault(16)
def test_who_leaves_ends_it_here_and_has_it_started_there() -> None:
    peer = an_owner()
    peer.effects()
    peer.wills.leave(NOW)
    assert not any(isinstance(effect, Send) for effect in peer.effects()), "it lives"
    assert not peer.wills.done
    peer.wills.on_process_died(HERE)
    will, inherit = peer.said(HEIR)
    assert (will.worker, inherit) == (b"", m.Inherit(A))
    peer.wills.on_inherited(FAR, m.Inherited(A))
    assert not peer.wills.done
    peer.wills.on_inherited(HEIR, m.Inherited(A))
    assert peer.wills.done

    there = heir()
    there.effects()
    there.wills.on_will(OWNER, will)
    there.wills.on_inherit(OWNER, inherit)
    there.wills.on_inherit(OWNER, inherit)
    effects = there.effects()
    assert effects.count(Send(OWNER, m.Inherited(A))) == 2
    assert Send(FAR, m.ActorsMoved([A], [1])) in effects
    assert NameChanged("ns", "log", A, True) in effects
    assert [effect.incarnation for effect in effects if isinstance(effect, RequestActorSlot)] == [2]
    actor = there.actors.actor(A)
    assert actor is not None
    assert actor.restarts == 0, "nobody's fault"


@pytest.mark.fault(16)
def test_an_actor_of_a_third_host_goes_on() -> None:
    peer = an_owner(THERE, max_restarts=0)
    peer.effects()
    peer.wills.leave(NOW)
    will, inherit = peer.said(HEIR)
    assert will.worker == THERE
    peer.wills.on_inherited(HEIR, m.Inherited(A))
    assert peer.said(FAR) == [m.GuestMoves(A, 1, THERE, HEIR)]
    assert not peer.wills.done
    peer.wills.on_guest_moved(FAR, m.GuestMoved(A))
    assert peer.wills.done

    there = heir(THERE)
    there.wills.on_will(OWNER, will)
    there.wills.on_inherit(OWNER, inherit)
    there.effects()
    there.actors.on_watch(FAR, m.WatchActor(A))
    assert there.said(FAR) == [m.ActorNews(A, 1, THERE)]


def test_a_job_is_needed_until_its_actor_is_taken_over_or_handed_over() -> None:
    there = heir()
    there.wills.on_inherit(OWNER, m.Inherit(A))
    assert there.wills.needs(DRIVER), "nobody else knows of the actor yet"
    there.effects()
    assert not there.wills.needs(DRIVER), "it is needed for the actor"
    peer = an_owner()
    peer.effects()
    assert not peer.wills.needs(DRIVER)
    peer.wills.leave(NOW)
    peer.effects()
    assert peer.wills.needs(DRIVER), "its heir may ask for it"


@pytest.mark.fault(16)
def test_who_watched_what_was_handed_over_is_not_told_that_nothing_had_begun() -> None:
    peer = an_owner()
    peer.actors.on_watch(FAR, m.WatchActor(A))
    peer.effects()
    peer.wills.leave(NOW)
    peer.heir = X  # the first one does not take it
    peer.wills.on_process_died(HERE)
    peer.wills.on_inherited(HEIR, m.Inherited(A, False))
    (told,) = [message for message in peer.said(FAR) if isinstance(message, m.ActorNews)]
    assert (told.worker, told.all_started) == (b"", True)


@pytest.mark.fault(16)
def test_what_may_not_start_again_ends_with_its_peer_and_all_are_told() -> None:
    peer = an_owner(max_restarts=0)
    peer.actors.on_watch(FAR, m.WatchActor(A))
    peer.effects()
    peer.wills.leave(NOW)
    effects = peer.effects()
    assert Send(HEIR, m.WillOver(A, 1)) in effects, "it has nothing to wait for"
    assert [effect.process for effect in effects if isinstance(effect, KillProcess)] == [HERE]
    assert not peer.wills.done, "nobody was told yet"
    peer.actors.on_process_died(HERE, "killed by signal 9 (SIGKILL)", {}, NOW)
    peer.wills.on_process_died(HERE)
    (told,) = peer.said(FAR)
    assert "its host was stopped" in told.failure.message
    assert peer.wills.done


@pytest.mark.fault(16)
def test_what_still_starts_on_a_third_host_and_may_not_start_again_ends_with_its_owner() -> None:
    peer = Peer(SELF, H)
    peer.wills.on_member_up(HEIR)
    peer.wills.on_member_up(FAR)
    peer.create(max_restarts=0)
    peer.actors.on_watch(HEIR, m.WatchActor(A))
    peer.actors.on_slot(A, THERE, 0.0)
    peer.effects()
    peer.wills.leave(NOW)
    assert m.KillGuest in map(type, peer.said(FAR))
    assert not peer.wills.done
    peer.actors.on_host_gone(X, 0.0, NOW)  # nobody will say that the worker is dead
    peer.wills.on_member_down(FAR, False, NOW)
    assert peer.wills.done
    (news,) = [message for message in peer.said(HEIR) if isinstance(message, m.ActorNews)]
    assert "the peer that owned it was stopped" in news.failure.message, "its host was not"


def test_nobody_waits_for_an_heir_that_is_gone() -> None:
    peer = an_owner(THERE)
    peer.effects()
    peer.wills.leave(NOW)
    peer.effects()
    peer.wills.on_member_down(HEIR, False, 1.0)
    assert peer.wills.done


@pytest.mark.fault(16)
def test_an_heir_that_goes_while_the_worker_is_being_killed_has_a_successor() -> None:
    peer = an_owner()
    peer.effects()
    peer.wills.leave(NOW)
    peer.effects()
    peer.heir = X
    peer.wills.on_member_down(HEIR, True, 1.0)
    assert not peer.wills.done
    peer.wills.on_process_died(HERE)
    will, inherit = peer.said(FAR)
    assert (will.worker, inherit) == (b"", m.Inherit(A))
    peer.wills.on_inherited(FAR, m.Inherited(A))
    assert peer.wills.done


@pytest.mark.fault(16)
def test_without_a_successor_nobody_is_waited_for() -> None:
    peer = an_owner()
    peer.effects()
    peer.wills.leave(NOW)
    peer.effects()
    peer.wills.on_member_down(HEIR, True, 1.0)
    peer.wills.on_process_died(HERE)
    assert not any(isinstance(effect, Send) for effect in peer.effects())
    assert peer.wills.done


@pytest.mark.fault(16, 22)
def test_who_leaves_and_is_cut_off_gives_nothing_to_others_who_are() -> None:
    peer = an_owner()
    peer.wills.on_member_up(b"here-too" + bytes(8))
    peer.effects()
    peer.wills.leave(NOW)
    peer.effects()
    peer.heir = b"here-too"
    for number in range(2):
        peer.wills.on_member_up(b"member" + bytes([0, number]) + bytes(8))
        peer.wills.on_member_down(b"member" + bytes([0, number]) + bytes(8), False, 1.0)
    peer.wills.on_member_down(FAR, False, 1.0)
    peer.wills.on_member_down(HEIR, False, 1.0)
    assert peer.wills.done
    peer.wills.on_process_died(HERE)
    assert peer.said(b"here-too" + bytes(8)) == []


@pytest.mark.fault(5)
def test_an_owner_that_dies_is_inherited_after_a_while() -> None:
    peer = heir()
    peer.wills.on_member_down(OWNER, False, 10.0)
    peer.actors.on_watch(FAR, m.WatchActor(A))
    peer.effects()
    due_at = 10.0 + DEFAULT.heir_after_s
    assert peer.wills.next_deadline() == due_at
    peer.wills.tick(due_at)
    effects = peer.effects()
    incarnation = 2 + UNTOLD_MAX
    assert Send(FAR, m.ActorNews(A, incarnation)) in effects
    actor = peer.actors.actor(A)
    assert actor is not None
    assert (actor.life, actor.restarts) == (Life.PLACING, 1)


@pytest.mark.fault(22)
def test_who_asks_the_owner_again_hears_nothing_of_the_heir() -> None:
    peer = heir()
    peer.wills.on_member_down(OWNER, False, 10.0)
    peer.actors.on_watch(FAR, m.WatchActor(A))
    peer.actors.on_unwatch(FAR, m.UnwatchActor(A))
    peer.wills.tick(10.0 + DEFAULT.heir_after_s)
    assert not any(isinstance(message, m.ActorNews) for message in peer.said(FAR))


@pytest.mark.fault(5)
def test_without_restarts_its_end_is_told() -> None:
    peer = heir(max_restarts=0)
    peer.wills.on_member_down(OWNER, False, 10.0)
    peer.actors.on_watch(FAR, m.WatchActor(A))
    peer.wills.tick(10.0 + DEFAULT.heir_after_s)
    (news,) = [message for message in peer.said(FAR) if isinstance(message, m.ActorNews)]
    assert "no restarts left" in news.failure.message


@pytest.mark.fault(22)
def test_an_heir_that_sees_half_of_the_mesh_does_not_inherit() -> None:
    peer = heir()
    peer.wills.on_member_down(OWNER, False, 10.0)
    peer.wills.on_member_down(FAR, False, 12.0)
    peer.actors.on_watch(FAR, m.WatchActor(A))
    assert peer.said(FAR) == []
    peer.wills.tick(10.0 + DEFAULT.heir_after_s)
    (news,) = peer.said(FAR)
    assert news.failure is not None
    assert not peer.wills.awaits(A)


def test_those_who_said_goodbye_are_not_missed() -> None:
    peer = heir()
    peer.wills.on_member_down(FAR, True, 9.0)
    peer.wills.on_member_down(OWNER, True, 10.0)
    peer.wills.tick(10.0 + DEFAULT.heir_after_s)
    assert peer.wills.has_inherited(A)


@pytest.mark.fault(21)
def test_an_owner_that_is_there_again_goes_on() -> None:
    peer = heir()
    peer.wills.on_member_down(OWNER, False, 10.0)
    peer.wills.on_member_up(OWNER)
    assert peer.wills.next_deadline() is None


@pytest.mark.fault(22)
def test_an_owner_that_sees_less_than_half_ends_what_is_inherited_there() -> None:
    peer = an_owner()
    peer.effects()
    peer.heir = None
    peer.wills.on_member_down(FAR, False, 1.0)
    assert not any(isinstance(effect, KillProcess) for effect in peer.effects())
    peer.wills.on_member_down(HEIR, False, 2.0)
    (kill,) = [effect for effect in peer.effects() if isinstance(effect, KillProcess)]
    assert "cut off" in kill.reason


def test_a_dead_heir_has_a_successor() -> None:
    peer = an_owner()
    peer.effects()
    peer.heir = X
    peer.wills.on_member_down(HEIR, False, 1.0)
    (will,) = [message for message in peer.said(FAR) if isinstance(message, m.Will)]
    assert will.worker == HERE


def test_new_members_hear_what_has_moved() -> None:
    peer = heir()
    peer.wills.on_inherit(OWNER, m.Inherit(A))
    peer.effects()
    new = b"newcomer" + bytes(8)
    peer.wills.on_member_up(new)
    assert m.ActorsMoved([A], [1]) in peer.said(new)


@pytest.mark.fault(16)
def test_an_heir_that_takes_no_more_says_so_and_another_one_is_asked() -> None:
    full = Peer(H)
    full.wills._config = msgspec.structs.replace(DEFAULT, wills_max=0)
    full.wills.on_will(OWNER, heir(THERE).wills._estates[A].will)
    full.wills.on_inherit(OWNER, m.Inherit(A))
    none_held, refused = full.said(OWNER)
    assert (none_held, refused) == (m.WillsHeld(over=[A], reigns=[1]), m.Inherited(A, False))

    peer = an_owner(THERE)
    peer.wills.on_member_up(b"another-" + bytes(8))
    peer.effects()
    peer.wills.leave(NOW)
    peer.heir = b"another-"
    peer.effects()
    peer.wills.on_held(HEIR, none_held)
    assert peer.said(b"another-" + bytes(8)) == [], "it was asked"
    peer.wills.on_inherited(HEIR, refused)
    will, inherit = peer.said(b"another-" + bytes(8))
    assert (will.worker, will.reign, inherit) == (THERE, 2, m.Inherit(A))
    assert not peer.wills.done
    peer.wills.on_inherited(b"another-" + bytes(8), refused)
    assert peer.wills.done, "two were asked"


@pytest.mark.fault(16)
def test_one_that_still_starts_on_a_third_host_ends_there_before_it_starts_elsewhere() -> None:
    peer = Peer(SELF, H)
    peer.wills.on_member_up(HEIR)
    peer.wills.on_member_up(FAR)
    peer.create()
    peer.actors.on_slot(A, THERE, 0.0)
    peer.effects()
    peer.wills.leave(NOW)
    effects = peer.effects()
    assert ReleaseActorSlot(A) in effects
    assert not any(isinstance(effect, Send) and isinstance(effect.message, m.Inherit) for effect in effects)
    assert not peer.wills.done
    peer.wills.on_process_died(THERE)  # says its host
    will, inherit = peer.said(HEIR)
    assert (will.worker, inherit) == (b"", m.Inherit(A))


@pytest.mark.fault(16)
def test_who_wants_it_killed_while_it_is_handed_over_reaches_its_new_owner() -> None:
    peer = an_owner()
    peer.effects()
    kill = m.KillActor(A, True)
    assert not peer.wills.passes_on(kill)
    peer.wills.leave(NOW)
    assert peer.wills.passes_on(kill)
    assert peer.said(HEIR) == [kill]

    there = heir()
    there.actors.on_kill(OWNER, kill)
    there.wills.on_inherit(OWNER, m.Inherit(A))
    there.effects()
    there.effects()
    actor = there.actors.actor(A)
    assert actor is not None
    assert actor.life is Life.ENDING, "it is killed as soon as it is there"


@pytest.mark.fault(16)
def test_an_actor_that_ends_while_its_peer_leaves_is_not_inherited() -> None:
    peer = an_owner(max_restarts=0)
    peer.effects()
    peer.wills.leave(NOW)
    peer.actors.on_kill(DRIVER, m.KillActor(A, True))
    assert m.WillOver(A, 1) in peer.said(HEIR)


@pytest.mark.fault(16, 26)
def test_an_heir_that_comes_back_while_its_testator_leaves_is_told_again() -> None:
    peer = an_owner(THERE)
    peer.effects()
    peer.wills.leave(NOW)
    peer.effects()
    peer.wills.on_member_down(HEIR, False, 1.0)
    peer.wills.on_member_up(HEIR)
    peer.effects()
    peer.wills.on_held(HEIR, m.WillsHeld(held=[A]))
    assert [type(message) for message in peer.said(HEIR)] == [m.Will, m.Inherit]
    assert not peer.wills.done


def test_an_heir_says_which_wills_it_has_and_the_owner_which_are_over() -> None:
    there = heir()
    there.effects()
    there.wills.on_member_down(OWNER, False, 10.0)
    there.wills.on_member_up(OWNER)
    assert there.said(OWNER) == [m.WillsHeld(held=[A])]
    there.wills.on_over(OWNER, m.WillOver(A, 1))
    there.wills.on_over(OWNER, m.WillOver(A, 1))
    assert there.said(OWNER) == [m.WillsHeld(over=[A], reigns=[1])] * 2
    assert not there.wills.awaits(A)

    peer = an_owner()
    peer.effects()
    peer.wills.on_held(FAR, m.WillsHeld(held=[A]))
    peer.wills.on_held(HEIR, m.WillsHeld(held=[A], over=[A], reigns=[0]))
    assert [effect for effect in peer.effects() if isinstance(effect, Send)] == [Send(FAR, m.WillOver(A, 1))]


def test_nobody_has_a_will_of_what_it_owns() -> None:
    """An owner that was held for gone does not know yet that it is one no more."""
    there = heir()
    will = there.wills._estates[A].will
    there.wills.on_inherit(OWNER, m.Inherit(A))
    there.effects()
    there.wills.on_will(OWNER, will)
    assert there.said(OWNER) == [m.ActorsMoved([A], [1])]
    assert not there.wills.awaits(A)


def test_the_will_of_the_later_owner_counts() -> None:
    peer = Peer(X)
    old = heir().wills._estates[A].will
    new = msgspec.structs.replace(old, reign=2, own=1)
    peer.wills.on_will(HEIR, new)
    peer.wills.on_will(OWNER, msgspec.structs.replace(old, reign=7))
    assert peer.wills._estates[A].testator == HEIR
    peer.wills.on_moved(HEIR, A, 1)
    assert peer.wills.awaits(A), "that is whose will it is"
    peer.wills.on_moved(OWNER, A, 2)
    assert not peer.wills.awaits(A)


def test_who_gives_way_tells_nobody_that_it_is_dead() -> None:
    peer = an_owner()
    for watcher in (DRIVER, FAR):
        peer.actors.on_watch(watcher, m.WatchActor(A))
    peer.effects()
    assert peer.wills.on_moved(HEIR, A, 1)
    effects = peer.effects()
    assert not any(isinstance(effect, Send) and effect.to in (DRIVER, FAR) for effect in effects)
    assert ReleaseActorSlot(A) in effects
    assert NameChanged("ns", "log", A, False) in effects
    assert Send(HEIR, m.WillOver(A, 1)) in effects
    assert peer.gave_way == [[DRIVER]]
    assert peer.wills.has_given_way(A)


def test_wills_are_bounded() -> None:
    peer = Peer(H)
    peer.wills._config = msgspec.structs.replace(DEFAULT, wills_max=0)
    peer.wills.on_will(OWNER, heir().wills._estates[A].will)
    assert not peer.wills.awaits(A)
    assert peer.wills.left_out == 1
    assert peer.said(OWNER) == [m.WillsHeld(over=[A], reigns=[1])]


def test_the_will_that_one_did_not_take_goes_to_another_member() -> None:
    peer = an_owner()
    peer.effects()
    peer.wills._choose = lambda actor_id, avoided: next((node for node in (H, X) if node not in avoided), H)
    peer.wills.on_held(HEIR, m.WillsHeld(over=[A], reigns=[1]))
    assert [message.reign for message in peer.said(FAR) if isinstance(message, m.Will)] == [2]
    peer.wills.on_held(FAR, m.WillsHeld(over=[A], reigns=[2]))
    sent = [effect for effect in peer.effects() if isinstance(effect, Send)]
    assert sent == [Send(FAR, m.WillOver(A, 2))], "there is nobody else"
    assert peer.wills.heir_of(A) == b""
    peer.wills.on_member_down(HEIR, False, 1.0)
    peer.wills.on_member_up(HEIR)
    assert [message.reign for message in peer.said(HEIR) if isinstance(message, m.Will)] == [3], "it may have room now"


@pytest.mark.fault(22)
def test_a_copy_of_the_will_that_meets_the_refusal_on_its_way_is_not_left_behind() -> None:
    """Its heir had no room for the first copy, and has it for the next one: two would inherit."""
    full, peer = heir(), an_owner()
    first = full.wills._estates.pop(A).will
    full.wills._config = msgspec.structs.replace(DEFAULT, wills_max=0)
    full.wills.on_will(OWNER, first)
    (refusal,) = full.said(OWNER)
    full.wills._config = DEFAULT
    full.wills.on_will(OWNER, first)
    assert full.wills.awaits(A)
    peer.effects()
    peer.heir = X
    peer.wills.on_held(HEIR, refusal)
    assert HEIR in peer.wills._bequests[A].given, "it may have one"
    (over,) = peer.said(HEIR)
    full.wills.on_over(OWNER, over)
    assert not full.wills.awaits(A)
    (answer,) = full.said(OWNER)
    peer.wills.on_held(HEIR, answer)
    assert set(peer.wills._bequests[A].given) == {FAR}
    assert peer.said(HEIR) == []


def test_a_slot_is_asked_for_where_the_new_owner_is() -> None:
    peer = heir()
    peer.wills.on_member_down(OWNER, True, 0.0)
    peer.wills.tick(DEFAULT.heir_after_s)
    peer.effects()
    worker = H + b"worker--"
    slot = ActorSlot(A, worker)
    peer.actors.on_slot(slot.actor_id, slot.worker, 100.0)
    start = next(message for message in peer.said(worker) if isinstance(message, m.StartActor))
    assert start.incarnation == 2 + UNTOLD_MAX, "its owner may have started it again since"


def test_the_heir_is_rather_not_where_the_actor_lives() -> None:
    peer = Peer(SELF, H)
    peer.wills.on_member_up(HEIR)
    peer.wills.on_member_up(FAR)
    peer.create()
    peer.effects()
    peer.heir = X
    peer.lives(H + b"worker--")
    effects = peer.effects()
    assert Send(HEIR, m.WillOver(A, 1)) in effects
    assert [effect.message.worker for effect in effects if isinstance(effect, Send) and effect.to == FAR] == [
        H + b"worker--"
    ]


@pytest.mark.fault(24)
def test_an_heir_that_alone_cannot_reach_the_owner_lets_go_of_the_will() -> None:
    """The owner chooses another heir, so it would start twice when that owner dies."""
    peer = heir()
    peer.actors.on_watch(FAR, m.WatchActor(A))
    assert peer.said(FAR) == []
    peer.wills.on_out_of_reach(FAR)
    assert peer.wills.awaits(A)
    peer.wills.on_out_of_reach(OWNER)
    peer.wills.on_member_down(OWNER, False, 10.0)
    (news,) = peer.said(FAR)
    assert news.failure is not None
    assert peer.wills.next_deadline() is None
    peer.wills.on_member_up(OWNER)
    peer.wills.on_will(OWNER, an_owner().said(HEIR)[-1])
    assert peer.wills.awaits(A), "they have found each other again"


# -- what simulated meshes have found (tests/sim/test_heirs.py) --------------------------------------------------------


@pytest.mark.fault(16, 24)
def test_an_heir_is_told_how_long_an_actor_may_still_live_where_it_was_lost() -> None:
    peer = an_owner(THERE, max_restarts=-1)
    peer.effects()
    peer.actors.on_host_gone(X, 11.0, NOW)
    peer.effects()
    peer.wills.leave(NOW + 4.0)
    will, inherit = peer.said(HEIR)[-2:]
    assert (will.pause_s, inherit) == (7.0, m.Inherit(A))
    there = heir()
    there.wills.on_will(OWNER, will)
    there.wills.on_inherit(OWNER, inherit)
    effects = there.effects()
    assert not any(isinstance(effect, RequestActorSlot) for effect in effects), "not yet"
    assert there.actors.next_deadline() == NOW + 7.0
    there.actors.tick(NOW + 7.0)
    assert any(isinstance(effect, RequestActorSlot) for effect in there.effects())


@pytest.mark.fault(16, 24)
def test_a_host_that_is_lost_while_its_worker_is_ended_is_waited_for_by_the_heir() -> None:
    peer = Peer(SELF, H)
    peer.wills.on_member_up(HEIR)
    peer.wills.on_member_up(FAR)
    peer.create()
    peer.actors.on_slot(A, THERE, 0.0)
    peer.effects()
    peer.wills.leave(NOW)
    peer.effects()
    peer.wills.on_member_down(FAR, False, NOW)
    will = next(message for message in peer.said(HEIR) if isinstance(message, m.Will))
    assert will.pause_s > DEFAULT.fence_right_s


@pytest.mark.fault(16)
def test_an_heir_that_leaves_as_well_refuses_and_another_one_is_asked() -> None:
    leaving = heir()
    leaving.wills.leave(NOW)
    leaving.wills.on_inherit(OWNER, m.Inherit(A))
    assert m.Inherited(A, False) in leaving.said(OWNER)

    peer = an_owner(THERE)
    peer.effects()
    peer.wills.leave(NOW)
    peer.effects()
    peer.heir = X
    peer.wills.on_inherited(HEIR, m.Inherited(A, False))
    effects = peer.effects()
    assert Send(FAR, m.Inherit(A)) in effects
    assert Send(HEIR, m.WillOver(A, 1)) in effects
    peer.wills.on_inherited(FAR, m.Inherited(A, False))
    assert peer.wills.done, "nobody is left"


@pytest.mark.fault(16)
def test_who_has_refused_is_not_asked_instead_of_the_next_one() -> None:
    peer = an_owner(THERE)
    third = b"another-"
    peer.wills.on_member_up(third + bytes(8))
    peer.effects()
    peer.wills.leave(NOW)
    peer.effects()
    members = [H, X, third]  # the first one that is not avoided, or the first one
    peer.wills._choose = lambda actor_id, avoided: min(members, key=lambda node: node in avoided)
    peer.wills.on_inherited(HEIR, m.Inherited(A, False))
    assert Send(third + bytes(8), m.Inherit(A)) in peer.effects()
    peer.wills.on_inherited(third + bytes(8), m.Inherited(A, False))
    assert Send(FAR, m.Inherit(A)) in peer.effects(), "rather where it lives than nowhere"
    peer.wills.on_inherited(FAR, m.Inherited(A, False))
    assert peer.wills.done, "nobody is left"


@pytest.mark.fault(16)
def test_an_actor_of_the_heirs_own_host_goes_on_there() -> None:
    peer = an_owner(H + b"worker--", max_restarts=0)
    peer.heir = H
    peer.wills.on_member_down(FAR, True, 1.0)
    peer.effects()
    peer.wills.leave(NOW)
    will, inherit = peer.said(HEIR)[-2:]
    assert (will.worker, inherit) == (H + b"worker--", m.Inherit(A))
    peer.wills.on_inherited(HEIR, m.Inherited(A))
    assert peer.wills.done


@pytest.mark.fault(16)
def test_the_heir_tells_the_host_itself_whose_actor_it_has() -> None:
    """The owner may not come to that host any more; it would end the actor, and the heir never hear of that."""
    there = heir(THERE)
    there.heir = SELF
    there.wills.on_inherit(OWNER, m.Inherit(A))
    assert m.GuestMoves(A, 1, THERE, HEIR) in there.said(FAR)
    there.wills.leave(NOW)
    assert not any(isinstance(effect, Send) and isinstance(effect.message, m.Inherit) for effect in there.effects()), (
        "that host may not know yet whose it is"
    )
    there.wills.on_guest_moved(FAR, m.GuestMoved(A))
    assert m.Inherit(A) in there.said(OWNER)


@pytest.mark.fault(22)
def test_an_owner_that_is_cut_off_ends_what_an_earlier_heir_may_inherit() -> None:
    """Its present one is on its own side."""
    peer, others = an_owner_among(2)
    peer.heir = X
    peer.wills.on_member_down(HEIR, False, 1.0)
    assert any(isinstance(message, m.Will) for message in peer.said(FAR))
    peer.wills.on_member_down(others[0], False, 2.0)
    assert not any(isinstance(effect, KillProcess) for effect in peer.effects())
    peer.wills.on_member_down(others[1], False, 3.0)
    assert any(isinstance(effect, KillProcess) for effect in peer.effects()), "they are more over there"


@pytest.mark.fault(16)
def test_who_has_handed_it_over_keeps_its_name_and_says_where_to_ask() -> None:
    peer = an_owner(THERE)
    peer.effects()
    peer.wills.leave(NOW)
    assert not any(isinstance(effect, NameChanged) for effect in peer.effects()), "nobody else may take it now"
    peer.actors.on_find(FAR, m.FindActor(3, "log", "ns"))
    peer.actors.on_watch(FAR, m.WatchActor(A))
    effects = peer.effects()
    assert Send(FAR, m.ActorFound(3, A, b"methods")) in effects
    assert Send(FAR, m.ActorNews(A, 1, THERE, heir=HEIR)) in effects


@pytest.mark.fault(16)
def test_a_kill_reaches_the_owner_after_the_next_one_too() -> None:
    peer = an_owner(THERE)
    peer.effects()
    peer.wills.leave(NOW)
    peer.effects()
    peer.wills.on_moved(FAR, A, 5)
    kill = m.KillActor(A, True)
    peer.effects()
    assert peer.wills.passes_on(kill)
    assert peer.said(FAR) == [kill]


@pytest.mark.fault(16, 22)
@pytest.mark.parametrize("worker", [HERE, THERE])
def test_who_hands_over_what_another_one_has_taken_meanwhile_hands_over_nothing(worker: bytes) -> None:
    """It had forgotten its heir by then, and ended with an error."""
    peer = an_owner(worker)
    peer.effects()
    peer.wills.leave(NOW)
    peer.effects()
    peer.wills.on_moved(FAR, A, 5)
    assert peer.wills.done
    peer.effects()
    peer.wills.on_process_died(worker)
    peer.wills.on_inherited(HEIR, m.Inherited(A, False))
    assert peer.effects() == []


@pytest.mark.fault(16, 26)
def test_an_older_heir_that_is_there_again_is_not_asked_when_the_one_that_was_asked_is_away() -> None:
    peer = an_owner(THERE)
    peer.effects()
    peer.wills.leave(NOW)
    peer.effects()
    peer.wills.on_member_down(HEIR, False, NOW)
    peer.wills.on_held(FAR, m.WillsHeld(held=[A]))
    assert peer.said(FAR) == [m.WillOver(A, 1)], "it may be the other one's by now"


@pytest.mark.fault(16, 24)
def test_an_heir_that_does_not_see_the_host_starts_it_again_when_it_cannot_live_there_any_more() -> None:
    there = heir(THERE)
    there.wills.on_member_down(FAR, False, NOW)
    there.wills.on_inherit(OWNER, m.Inherit(A))
    effects = there.effects()
    assert not any(isinstance(effect, RequestActorSlot) for effect in effects), "it may live there still"
    actor = there.actors.actor(A)
    assert actor is not None
    assert (actor.life, actor.restarts) == (Life.BACKOFF, 0)
    pause_s = DEFAULT.leave_move_s + DEFAULT.leave_say_s + DEFAULT.fence_right_s
    due_at = there.actors.next_deadline()
    assert due_at is not None
    assert due_at > NOW + pause_s


@pytest.mark.fault(22)
def test_a_later_owner_counts_incarnations_from_further_above() -> None:
    """A host keeps the guest of the highest one, and drops what is asked for others."""
    peer = heir()
    first = peer.wills._estates[A].will
    peer.wills.on_will(OWNER, msgspec.structs.replace(first, reign=3))
    peer.wills.on_member_down(OWNER, False, 0.0)
    peer.wills.tick(DEFAULT.heir_after_s)
    (inherits,) = [effect for effect in peer.effects() if isinstance(effect, Inherits)]
    assert inherits.will.incarnation == 3 * UNTOLD_MAX


@pytest.mark.fault(16)
def test_an_heir_that_is_being_stopped_has_a_successor_at_once() -> None:
    """Its owner may die before it has left."""
    peer = an_owner(THERE)
    peer.effects()
    peer.wills.on_member_leaves(FAR)
    assert peer.effects() == []
    peer.heir = X
    peer.wills.on_member_leaves(HEIR)
    effects = peer.effects()
    assert Send(HEIR, m.WillOver(A, 1)) in effects
    (will,) = [effect.message for effect in effects if isinstance(effect, Send) and effect.to == FAR]
    assert (type(will), will.reign) == (m.Will, 2)
    peer.heir = None
    peer.wills.on_member_leaves(FAR)
    assert peer.effects() == [], "it is the only one"


# What each of these shows was shown by no other test when one mechanism at a time was switched off.


@pytest.mark.fault(22)
def test_new_members_hear_of_what_was_taken_over_and_has_ended() -> None:
    """An old owner of it may be among them, and has another heir."""
    peer = heir()
    peer.wills.on_inherit(OWNER, m.Inherit(A))
    peer.effects()
    peer.actors.on_kill(FAR, m.KillActor(A, True))
    peer.effects()
    new = b"newcomer" + bytes(8)
    peer.wills.on_member_up(new)
    assert peer.said(new) == [m.ActorsMoved([A], [1])]


@pytest.mark.fault(26)
def test_who_may_have_an_old_will_and_does_not_say_so_is_asked() -> None:
    """It answers that it has none, and is then no reason any more to end the actor."""
    peer = an_owner()
    peer.effects()
    peer.heir = X
    peer.wills.on_member_down(HEIR, False, 1.0)
    peer.wills.on_member_up(HEIR)
    assert peer.said(HEIR) == [m.WillOver(A, 2)]
    peer.wills.on_held(HEIR, m.WillsHeld(over=[A], reigns=[2]))
    peer.wills.on_member_down(HEIR, False, 2.0)
    peer.wills.on_member_up(HEIR)
    assert peer.said(HEIR) == []


def test_who_has_left_with_a_goodbye_has_no_will_when_it_is_there_again() -> None:
    peer = an_owner()
    peer.effects()
    peer.heir = X
    peer.wills.on_member_down(HEIR, True, 1.0)
    peer.effects()
    peer.wills.on_member_up(HEIR)
    assert peer.said(HEIR) == []


@pytest.mark.fault(16)
def test_a_host_that_is_gone_is_not_waited_for_by_a_new_owner_that_leaves() -> None:
    there = heir(THERE)
    there.heir = SELF
    there.wills.on_inherit(OWNER, m.Inherit(A))
    there.effects()
    there.wills.on_member_down(FAR, False, NOW)
    there.actors.on_host_gone(X, 0.0, NOW)
    there.effects()
    there.wills.leave(NOW)
    assert m.Inherit(A) in there.said(OWNER)


@pytest.mark.fault(16)
def test_no_other_one_is_asked_when_an_heir_that_was_asked_is_gone() -> None:
    """It may have taken over."""
    peer = an_owner(THERE)
    peer.effects()
    peer.wills.leave(NOW)
    peer.effects()
    peer.heir = X
    peer.wills.on_member_down(HEIR, False, NOW)
    assert peer.said(FAR) == []
    assert peer.wills.done


@pytest.mark.fault(22)
def test_who_was_lost_long_ago_is_no_part_of_the_mesh_any_more() -> None:
    peer, others = an_owner_among(2)
    peer.heir = X
    for number, lost in enumerate([HEIR, *others]):
        peer.wills.on_member_down(lost, False, number * (2 * DEFAULT.heir_after_s + 1.0))
    assert not any(isinstance(effect, KillProcess) for effect in peer.effects())


@pytest.mark.fault(22)
def test_an_owner_that_sees_half_of_the_mesh_goes_on() -> None:
    """Nobody sees more than that, so nobody inherits."""
    peer, (other,) = an_owner_among(1)
    peer.heir = X
    peer.wills.on_member_down(HEIR, False, 1.0)
    peer.wills.on_member_down(other, False, 2.0)
    assert not any(isinstance(effect, KillProcess) for effect in peer.effects())


@pytest.mark.fault(16)
def test_what_was_to_be_told_of_an_actor_before_it_was_handed_over_does_not_end_its_will() -> None:
    peer = an_owner(THERE)
    peer.effects()
    peer.wills.leave(NOW)
    peer.wills.on_changed(A)
    assert m.WillOver(A, 1) not in peer.said(HEIR)


@pytest.mark.fault(22)
def test_the_reign_of_the_next_heir_is_larger_than_that_of_its_owner() -> None:
    peer = heir()
    peer.heir = X
    peer.wills.on_inherit(OWNER, m.Inherit(A))
    (will,) = [message for message in peer.said(FAR) if isinstance(message, m.Will)]
    assert (will.own, will.reign) == (1, 2)


def test_nothing_is_kept_of_an_actor_that_has_ended_before_its_host_knew_its_new_owner() -> None:
    there = heir(THERE)
    there.wills.on_inherit(OWNER, m.Inherit(A))
    there.effects()
    assert there.wills._claimed == {A: FAR}
    there.actors.on_kill(OWNER, m.KillActor(A, True))
    there.effects()
    assert there.wills._claimed == {}


@pytest.mark.fault(22)
@pytest.mark.parametrize("answered", [1, 3])
def test_the_answer_of_one_that_was_the_heir_again_strikes_only_the_will_that_it_is_about(answered: int) -> None:
    """The heir changes there and back, and once more, before the first answer is there."""
    peer, others = an_owner_among(3)
    told = []
    for there, then in ((HEIR, X), (FAR, H), (HEIR, X)):
        peer.heir = then
        peer.wills.on_member_leaves(there)
        told += [message for message in peer.said(HEIR) if isinstance(message, m.WillOver)]
    assert told == [m.WillOver(A, 1), m.WillOver(A, 3)]
    peer.wills.on_held(HEIR, m.WillsHeld(over=[A], reigns=[answered]))
    for lost in (HEIR, *others):
        peer.wills.on_member_down(lost, False, 1.0)
    ended = any(isinstance(effect, KillProcess) for effect in peer.effects())
    assert ended == (answered == 1), "it may be inherited there as long as the last answer is not here"


@pytest.mark.fault(16)
def test_what_is_being_killed_when_its_peer_is_stopped_is_not_handed_over() -> None:
    """In the very same batch."""
    peer = an_owner(THERE)
    peer.effects()
    peer.actors.on_kill(DRIVER, m.KillActor(A, True))
    peer.wills.leave(NOW)
    assert m.Inherit(A) not in peer.said(HEIR)
    assert peer.wills.done


@pytest.mark.fault(16)
def test_a_host_that_knows_its_new_owner_is_not_waited_for_again() -> None:
    there = heir(THERE)
    there.heir = SELF
    there.wills.on_inherit(OWNER, m.Inherit(A))
    there.effects()
    there.wills.on_guest_moved(FAR, m.GuestMoved(A))
    there.wills.leave(NOW)
    assert m.Inherit(A) in there.said(OWNER)


def test_only_its_owner_says_that_a_will_is_over() -> None:
    peer = heir()
    peer.wills.on_over(FAR, m.WillOver(A))
    assert peer.wills.awaits(A)
    peer.wills.on_over(OWNER, m.WillOver(A))
    assert not peer.wills.awaits(A)


def test_only_its_owner_hands_an_actor_over() -> None:
    peer = heir()
    peer.wills.on_inherit(FAR, m.Inherit(A))
    assert peer.said(FAR) == [m.Inherited(A, False)]
    assert not peer.wills.has_inherited(A)


@pytest.mark.fault(22)
def test_an_earlier_owner_that_says_so_hears_of_the_later_one() -> None:
    peer = heir()
    peer.wills.on_inherit(OWNER, m.Inherit(A))
    peer.effects()
    assert not peer.wills.on_moved(FAR, A, 0)
    assert peer.said(FAR) == [m.ActorsMoved([A], [1])]
