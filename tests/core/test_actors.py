"""Lives of actors: creation, names, restarts, all the ways to end, and who is told."""

from __future__ import annotations

from typing import Any

import pytest

from meshray.config import DEFAULT
from meshray.core.actors import Actors
from meshray.core.effects import (
    ActorPlaced,
    DetachedLost,
    KillProcess,
    NameChanged,
    ReleaseActorSlot,
    RequestActorSlot,
    Send,
    TellCallers,
)
from meshray.core.names import LAST_WORDS_MAX
from meshray.core.objects import Objects
from meshray.core.store_accounts import StoreAccounts
from meshray.core.watchers import name_conflict
from meshray.ids import FIRST_RETURN
from meshray.wire import messages as m
from meshray.wire.codec import decode, encode
from tests.transit import none_in_transit

NODE = b"thispeer"
D, V, E = (NODE + label.ljust(8, b"-") for label in (b"driver", b"caller", b"enemy"))
W1, W2, W3 = (NODE + label.ljust(8, b"-") for label in (b"w1", b"w2", b"w3"))


def aid(number: int = 1, owner: bytes = D) -> bytes:
    return owner + number.to_bytes(8, "big")


class Peer:
    def __init__(self) -> None:
        self.objects = Objects(DEFAULT, NODE, StoreAccounts(DEFAULT, 1 << 30, none_in_transit))
        self.core = Actors(DEFAULT, NODE, self.objects)
        for process in (D, V, W1, W2, W3):
            self.objects.on_process_attached(process, 1, D)
        self.objects.on_process_attached(E, 1, E)

    def effects(self) -> list[Any]:
        self.core.check()
        self.objects.check()
        return self.core.take_effects()

    def said(self, to: bytes, kind: type) -> list[Any]:
        return [e.message for e in self.effects() if isinstance(e, Send) and e.to == to and type(e.message) is kind]

    def create(self, number: int = 1, sender: bytes = D, **options: Any) -> bytes:
        actor_id = aid(number, sender)
        message = m.CreateActor(
            actor_id, m.Blob(bytes(16), "Counter", b"x"), b"args", [], {"CPU": 1}, {}, m.Profile(actor=True),
            options.pop("max_restarts", 0), 0, 0, sender if sender == E else D, b"methods", **options,
        )  # fmt: skip
        self.core.on_create(sender, message, 0.0)
        return actor_id

    def alive(self, number: int = 1, worker: bytes = W1, **options: Any) -> bytes:
        actor_id = self.create(number, **options)
        self.core.on_slot(actor_id, worker, 0.0)
        self.core.on_ready(worker, m.ActorReady(actor_id, 1), 0.1)
        self.core.on_watch(V, m.WatchActor(actor_id))
        self.effects()
        return actor_id

    def dies(self, worker: bytes, journal: Any = None, now: float = 1.0) -> None:
        self.core.on_process_died(worker, "killed by signal 11 (SIGSEGV)", journal or {}, now)


@pytest.fixture
def peer() -> Peer:
    return Peer()


def test_a_caller_learns_the_worker_when_the_constructor_has_returned(peer: Peer) -> None:
    actor_id = peer.create()
    profile = m.Profile(actor=True)
    assert peer.effects() == [RequestActorSlot(actor_id, D, {"CPU": 1}, {}, profile, False, 1, "Counter")]
    peer.core.on_watch(V, m.WatchActor(actor_id))
    assert peer.said(V, m.ActorState) == [m.ActorState(actor_id, 1)]
    peer.core.on_slot(actor_id, W1, 0.0)
    (start,) = peer.said(W1, m.StartActor)
    assert (start.incarnation, start.args, start.methods) == (1, b"args", b"methods")
    peer.core.on_ready(W1, m.ActorReady(actor_id, 1), 0.1)
    effects = peer.effects()
    assert ActorPlaced(actor_id) in effects
    assert Send(V, m.ActorState(actor_id, 1, W1)) in effects


def test_a_repeated_creation_is_ignored(peer: Peer) -> None:
    peer.create()
    peer.effects()
    peer.create()
    assert peer.effects() == []


def test_questions_that_overtake_the_creation_wait_for_it(peer: Peer) -> None:
    peer.core.on_watch(V, m.WatchActor(aid()))
    peer.core.on_watch(V, m.WatchActor(aid(7, W3)))
    assert peer.effects() == []
    peer.create()
    assert peer.said(V, m.ActorState) == [m.ActorState(aid(), 1)]
    peer.dies(W3)
    (state,) = peer.said(V, m.ActorState)
    assert state.failure.kind == "ActorDiedError"
    assert peer.core.stats().early == 0


@pytest.mark.fault(3)
def test_a_crash_without_restarts_is_the_end_and_says_why(peer: Peer) -> None:
    actor_id = peer.alive()
    journal = {V: ([m.Result(1, [b"done"])], [2])}
    peer.dies(W1, journal)
    (state,) = peer.said(V, m.ActorState)
    assert state.failure.kind == "ActorDiedError"
    assert "SIGSEGV" in state.failure.message
    assert "Counter" in state.failure.message
    assert (state.finished, state.started) == journal[V]
    peer.core.on_watch(E, m.WatchActor(actor_id))
    assert peer.said(E, m.ActorState)[0].failure == state.failure


@pytest.mark.fault(3)
def test_restarts_count_pause_and_run_out(peer: Peer) -> None:
    actor_id = peer.alive(max_restarts=2)
    peer.dies(W1, {V: ([], [5])})
    effects = peer.effects()
    assert Send(V, m.ActorState(actor_id, 2, b"", None, [], [5])) in effects
    assert [type(e) for e in effects if not isinstance(e, Send)] == [ReleaseActorSlot, RequestActorSlot]
    peer.core.on_slot(actor_id, W2, 1.0)
    peer.effects()
    peer.dies(W2, now=1.1)  # in its constructor: that costs a restart too, and now there is a pause
    assert [type(e) for e in peer.effects()] == [ReleaseActorSlot, Send]
    assert peer.core.next_deadline() == pytest.approx(1.1 + DEFAULT.actor_backoff_s)
    peer.core.tick(1.3)
    assert [type(e) for e in peer.effects()] == [RequestActorSlot]
    peer.core.on_slot(actor_id, W3, 1.4)
    peer.dies(W3, now=1.5)
    (state,) = peer.said(V, m.ActorState)
    assert "2 restarts are used up" in state.failure.message


def test_words_of_an_older_incarnation_are_stale(peer: Peer) -> None:
    actor_id = peer.alive(max_restarts=-1)
    peer.dies(W1)
    peer.core.on_slot(actor_id, W2, 1.0)
    peer.effects()
    peer.core.on_ready(W1, m.ActorReady(actor_id, 1), 1.0)
    peer.core.on_ready(W2, m.ActorReady(actor_id, 1), 1.0)
    peer.core.on_exit(W1, m.ActorExit(actor_id, 1), 1.0)
    assert peer.effects() == []
    assert peer.core.stats().stale == 3


def test_a_constructor_that_fails_ends_the_actor_with_its_cause(peer: Peer) -> None:
    actor_id = peer.create(max_restarts=5)
    peer.core.on_slot(actor_id, W1, 0.0)
    peer.core.on_watch(V, m.WatchActor(actor_id))
    peer.effects()
    cause = m.Failure("TaskError", "ValueError: boom", "Traceback ...", b"pickled", {"task_name": "__init__"})
    peer.core.on_ready(W1, m.ActorReady(actor_id, 1, cause), 0.5)
    assert len(peer.said(W1, m.Exit)) == 1
    peer.dies(W1)
    (state,) = peer.said(V, m.ActorState)
    assert "ValueError: boom" in state.failure.message
    assert (state.failure.traceback, state.failure.cause) == ("Traceback ...", b"pickled")


def test_kill_without_restart_and_with(peer: Peer) -> None:
    actor_id = peer.alive(max_restarts=1)
    peer.core.on_kill(V, m.KillActor(actor_id, no_restart=False))
    assert isinstance(peer.effects()[0], KillProcess)
    peer.dies(W1)
    assert peer.said(V, m.ActorState)[0].failure is None
    peer.core.on_slot(actor_id, W2, 2.0)
    peer.core.on_kill(V, m.KillActor(actor_id, no_restart=True))
    assert any(isinstance(e, KillProcess) and e.process == W2 for e in peer.effects())
    peer.dies(W2)
    (state,) = peer.said(V, m.ActorState)
    assert "killed" in state.failure.message


def test_kill_of_one_that_waits_for_its_slot(peer: Peer) -> None:
    actor_id = peer.create()
    peer.core.on_watch(V, m.WatchActor(actor_id))
    peer.core.on_kill(V, m.KillActor(actor_id, no_restart=True))
    effects = peer.effects()
    assert ReleaseActorSlot(actor_id) in effects
    peer.core.on_slot(actor_id, W1, 1.0)  # was on its way
    assert peer.effects() == [ReleaseActorSlot(actor_id)]


def test_exit_actor_is_no_crash_and_a_worker_that_hangs_is_killed(peer: Peer) -> None:
    actor_id = peer.alive(max_restarts=-1)
    peer.core.on_exit(W1, m.ActorExit(actor_id, 1), 3.0)
    assert peer.effects() == []
    peer.core.tick(3.0 + DEFAULT.actor_finish_s)
    assert peer.effects() == [], "tasks that it has submitted may have kept it"
    peer.core.tick(3.0 + DEFAULT.actor_finish_s + DEFAULT.actor_exit_timeout_s)
    assert isinstance(peer.effects()[0], KillProcess)
    peer.dies(W1)
    assert "exit_actor" in peer.said(V, m.ActorState)[0].failure.message


def test_the_last_handle_ends_the_actor_in_good_order(peer: Peer) -> None:
    actor_id = peer.alive(max_restarts=-1)
    handle = actor_id + FIRST_RETURN
    peer.objects.on_hold(V, m.Hold(1, [handle]))
    peer.objects.on_release(D, m.Release([handle]))
    assert peer.effects() == []
    peer.objects.on_release(V, m.Release([handle]))
    assert len(peer.said(W1, m.Exit)) == 1
    peer.core.tick(9.0)
    assert peer.core.next_deadline() == 9.0 + DEFAULT.actor_finish_s + DEFAULT.actor_exit_timeout_s
    peer.dies(W1)
    assert "out of scope" in peer.said(V, m.ActorState)[0].failure.message
    assert peer.core.all() == []
    peer.core.on_watch(V, m.WatchActor(actor_id))
    assert "out of scope" in peer.said(V, m.ActorState)[0].failure.message


def test_names(peer: Peer) -> None:
    actor_id = peer.alive(name="n", namespace="s", request_id=4)
    peer.core.on_find(E, m.FindActor(1, "n", "s"))
    assert peer.said(E, m.ActorFound) == [m.ActorFound(1, actor_id, b"methods")]
    assert E in peer.objects.holders_of(actor_id + FIRST_RETURN)
    peer.create(2, name="n", namespace="s", request_id=5)
    assert peer.said(D, m.ActorFound)[0].failure.kind == "ActorAlreadyExistsError"
    peer.create(3, name="n", namespace="s", request_id=6, get_if_exists=True)
    assert peer.said(D, m.ActorFound) == [m.ActorFound(6, actor_id, b"methods")]
    peer.core.on_find(E, m.FindActor(2, "n", "t"))
    failure = peer.said(E, m.ActorFound)[0].failure
    assert failure.kind == "ValueError"
    assert "'s'" in failure.message
    peer.core.on_kill(D, m.KillActor(actor_id, True))
    peer.create(4, name="n", namespace="s", request_id=7)  # free before the process is gone
    assert peer.said(D, m.ActorFound) == [m.ActorFound(7, aid(4), b"methods", created=True)]
    assert list(peer.core.named("s")) == [("s", "n", aid(4))]


def test_the_end_of_a_job_spares_detached_actors(peer: Peer) -> None:
    peer.alive(1, W1)
    detached = peer.alive(2, W2, name="n", detached=True)
    assert peer.core.survivors_of(D) == {W2}
    peer.core.on_job_ended(D)
    assert [e.process for e in peer.effects() if isinstance(e, KillProcess)] == [W1]
    peer.objects.on_release(D, m.Release([detached + FIRST_RETURN]))
    peer.core.on_find(E, m.FindActor(1, "n", ""))
    assert peer.said(E, m.ActorFound)[0].actor_id == detached
    peer.objects.on_job_ended(D, frozenset({W2}))
    peer.create(3)  # from a process of the ended job: on its way when it ended
    assert peer.effects() == []


def test_the_constructors_arguments_are_kept_for_restarts_and_no_longer(peer: Peer) -> None:
    inner = aid(9) + FIRST_RETURN
    peer.objects.on_promote(D, m.Promote([m.Promoted(inner, b"value")]))
    peer.alive(max_restarts=1, contained=[inner])
    peer.objects.on_release(D, m.Release([inner]))
    peer.dies(W1)
    assert peer.objects.knows(inner)
    peer.core.on_slot(aid(), W2, 1.0)
    peer.dies(W2)
    assert not peer.objects.knows(inner)
    peer.effects()


def test_no_worker_can_be_started(peer: Peer) -> None:
    actor_id = peer.create()
    peer.core.on_watch(D, m.WatchActor(actor_id))
    peer.effects()
    peer.core.on_slot_failed(actor_id, "no module named x")
    effects = peer.effects()
    (state,) = [e.message for e in effects if isinstance(e, Send) and e.to == D]
    assert "no module named x" in state.failure.message
    assert ReleaseActorSlot(actor_id) in effects, "its slots are free again"


def fail(peer: Peer, number: int = 1, **options: Any) -> bytes:
    """The constructor of an actor fails."""
    actor_id = peer.create(number, name=f"n{number}", namespace="s", **options)
    peer.core.on_slot(actor_id, W1, 0.0)
    failure = m.Failure("TaskError", "it has raised")
    peer.core.on_ready(W1, m.ActorReady(actor_id, 1, failure), 0.1)
    peer.dies(W1)
    return actor_id


def find(peer: Peer, name: str = "n1") -> str:
    peer.effects()
    peer.core.on_find(V, m.FindActor(1, name, "s"))
    ((found,),) = [peer.said(V, m.ActorFound)]
    return str(found.failure.message)


def test_of_a_detached_actor_that_nobody_wanted_dead_its_name_tells_until_another_one_has_it(peer: Peer) -> None:
    actor_id = fail(peer, detached=True)
    lost = [effect for effect in peer.effects() if isinstance(effect, DetachedLost)]
    assert [effect.actor_id for effect in lost] == [actor_id]
    assert "is dead: it has raised" in find(peer)
    peer.create(2, name="n1", namespace="s", detached=True)
    peer.core.on_kill(V, m.KillActor(aid(2), True))
    assert not [effect for effect in peer.effects() if isinstance(effect, DetachedLost)], "somebody wanted that"
    assert find(peer) == "there is no actor named 'n1' in namespace 's'"


def test_one_that_is_not_detached_has_a_driver_who_hears_of_its_end(peer: Peer) -> None:
    fail(peer)
    assert not [effect for effect in peer.effects() if isinstance(effect, DetachedLost)]
    assert "has died" not in find(peer)


def test_the_last_restart_of_a_detached_actor_and_what_is_remembered(peer: Peer) -> None:
    peer.alive(detached=True, name="n1", namespace="s")
    peer.dies(W1)
    assert [type(effect) for effect in peer.effects()].count(DetachedLost) == 1
    assert "SIGSEGV" in find(peer)
    for number in range(2, LAST_WORDS_MAX + 2):
        fail(peer, number, detached=True)
    assert "has died" not in find(peer), "others have died since"
    assert "has died" in find(peer, "n2")


FAR = b"otherpee"
FAR_PEER = FAR + bytes(8)
G1, G2, C1, C2 = (FAR + label.ljust(8, b"-") for label in (b"g1", b"g2", b"c1", b"c2"))


class TestOnAnotherHost:
    """Its worker is a guest elsewhere; that host's peer tells of it."""

    def hosted(self, peer: Peer, worker: bytes = G1, **options: Any) -> bytes:
        actor_id = peer.create(**options)
        peer.core.on_slot(actor_id, worker, 0.0)
        peer.core.on_guest_said(FAR_PEER, m.GuestReady(worker, m.ActorReady(actor_id, 1)), 0.1)
        peer.core.on_watch(V, m.WatchActor(actor_id))
        peer.core.on_watch(FAR_PEER, m.WatchActor(actor_id))
        return actor_id

    def test_the_worker_is_told_and_heard_through_its_peer(self, peer: Peer) -> None:
        actor_id = self.hosted(peer)
        effects = peer.effects()
        assert any(isinstance(e, Send) and e.to == G1 and type(e.message) is m.StartActor for e in effects)
        assert Send(V, m.ActorState(actor_id, 1, G1)) in effects
        assert Send(FAR_PEER, m.ActorNews(actor_id, 1, G1)) in effects
        peer.core.on_guest_said(b"x" * 8 + bytes(8), m.GuestExit(G1, m.ActorExit(actor_id, 1)), 0.2)
        assert peer.effects() == []  # not its peer
        peer.core.on_guest_said(FAR_PEER, m.GuestExit(G1, m.ActorExit(actor_id, 1)), 0.2)
        peer.core.on_guest_lost(FAR_PEER, m.GuestLost(actor_id, 1, G1, "exit code 0"), 0.3)
        assert "ended itself" in peer.said(V, m.ActorState)[0].failure.message

    @pytest.mark.fault(3)
    def test_its_death_is_told_with_the_journal_to_each_host_once(self, peer: Peer) -> None:
        actor_id = self.hosted(peer, max_restarts=1)
        peer.effects()
        calls = [
            m.CallsOf(V, [m.Result(1, [b"v"])], []),
            m.CallsOf(C1, [], [7]),
            m.CallsOf(C2, [m.Result(2, [b""])], []),
        ]
        peer.core.on_guest_lost(FAR_PEER, m.GuestLost(actor_id, 1, G1, "killed by signal 9", calls), 1.0)
        effects = peer.effects()
        assert Send(V, m.ActorState(actor_id, 2, b"", None, [m.Result(1, [b"v"])], [])) in effects
        assert Send(FAR_PEER, m.ActorNews(actor_id, 2, b"", None, calls[1:])) in effects
        assert ReleaseActorSlot(actor_id) in effects
        assert [e.incarnation for e in effects if isinstance(e, RequestActorSlot)] == [2]
        peer.core.on_guest_lost(FAR_PEER, m.GuestLost(actor_id, 1, G1, "killed by signal 9", calls), 1.1)
        assert peer.effects() == []

    def test_it_is_killed_by_its_peer(self, peer: Peer) -> None:
        actor_id = self.hosted(peer, max_restarts=1)
        peer.effects()
        peer.core.on_kill(D, m.KillActor(actor_id, False))
        assert peer.said(FAR_PEER, m.KillGuest) == [m.KillGuest(G1, "kill(no_restart=False)")]

    @pytest.mark.fault(22)
    def test_a_lost_host_charges_every_call_and_nothing_starts_before_the_fence(self, peer: Peer) -> None:
        actor_id = self.hosted(peer, max_restarts=1)
        peer.effects()
        peer.core.on_host_gone(FAR, 9.0, 100.0)
        effects = peer.effects()
        assert Send(V, m.ActorState(actor_id, 2, all_started=True)) in effects
        assert not any(isinstance(e, Send) and e.to == FAR_PEER for e in effects), "it watches no more"
        assert not any(isinstance(e, RequestActorSlot) for e in effects)
        assert peer.core.next_deadline() == 109.0
        peer.core.tick(108.9)
        assert peer.effects() == []
        peer.core.tick(109.0)
        assert [e.incarnation for e in peer.effects() if isinstance(e, RequestActorSlot)] == [2]
        peer.core.on_guest_said(FAR_PEER, m.GuestReady(G1, m.ActorReady(actor_id, 1)), 109.0)
        peer.core.on_guest_lost(FAR_PEER, m.GuestLost(actor_id, 1, G1, "late"), 109.0)
        assert peer.effects() == []

    def test_without_restarts_a_lost_host_is_the_end_at_once(self, peer: Peer) -> None:
        self.hosted(peer, name="n", namespace="s")
        peer.effects()
        peer.core.on_host_gone(FAR, 9.0, 100.0)
        assert "its host is gone" in peer.said(V, m.ActorState)[0].failure.message
        assert list(peer.core.named()) == []

    def test_a_host_that_watches_no_more_is_not_told(self, peer: Peer) -> None:
        actor_id = self.hosted(peer)
        peer.core.on_unwatch(FAR_PEER, m.UnwatchActor(actor_id))
        peer.effects()
        peer.core.on_kill(D, m.KillActor(actor_id, True))
        peer.core.on_guest_lost(FAR_PEER, m.GuestLost(actor_id, 1, G1, "killed"), 1.0)
        assert peer.said(FAR_PEER, m.ActorNews) == []

    def test_what_its_host_says_at_length_is_passed_on_as_far_as_a_message_takes_it(self, peer: Peer) -> None:
        text = "x" * (64 << 10)
        waiting = peer.create(2)
        peer.core.on_watch(FAR_PEER, m.WatchActor(waiting))
        peer.core.on_waits(waiting, text)
        actor_id = self.hosted(peer)
        peer.core.on_guest_lost(FAR_PEER, m.GuestLost(actor_id, 1, G1, text), 1.0)
        told = peer.said(FAR_PEER, m.ActorNews)
        assert [bool(news.waits) for news in told] == [False, True, False, False]
        assert told[-1].failure is not None
        assert [decode(encode(news)) for news in told] == told


@pytest.mark.fault(62)
def test_a_name_conflict_ends_the_actor_and_says_so(peer: Peer) -> None:
    actor_id = peer.alive(name="n", namespace="s")
    peer.core.on_name_conflict(actor_id, name_conflict(actor_id, "an older one has it"))
    assert NameChanged("s", "n", actor_id, False) in peer.effects()
    peer.dies(W1)
    assert peer.said(V, m.ActorState)[0].failure.message.startswith("name conflict")


def test_what_nobody_will_ever_have_is_told(peer: Peer) -> None:
    actor_id = peer.create()
    peer.core.on_watch(V, m.WatchActor(actor_id))
    peer.effects()
    peer.core.on_hopeless(actor_id, "there is no such node")
    effects = peer.effects()
    assert ReleaseActorSlot(actor_id) in effects
    (state,) = [e.message for e in effects if isinstance(e, Send) and e.to == V]
    assert state.failure.kind == "ActorUnschedulableError"


def test_who_calls_what_waits_is_told_why_when_its_own_people_are_gone(peer: Peer) -> None:
    actor_id = peer.create()
    peer.core.on_watch(V, m.WatchActor(actor_id))
    peer.core.on_watch(FAR_PEER, m.WatchActor(actor_id))
    peer.effects()
    peer.core.on_waits(actor_id, "nobody has a disk")
    text = "actor Counter waits: nobody has a disk"
    assert peer.effects() == [
        TellCallers(text, (V,)),
        Send(FAR_PEER, m.ActorNews(actor_id, 1, waits=text)),
    ]
    peer.core.on_watch(D, m.WatchActor(actor_id))  # later ones as well
    assert TellCallers(text, (D,)) in peer.effects()
    peer.core.on_slot(actor_id, W1, 1.0)
    peer.effects()
    peer.core.on_watch(D, m.WatchActor(actor_id))
    assert not any(isinstance(effect, TellCallers) for effect in peer.effects())


@pytest.mark.fault(16)
def test_an_actor_whose_host_was_stopped_says_so(peer: Peer) -> None:
    actor_id = peer.create()
    peer.core.on_slot(actor_id, G1, 0.0)
    peer.core.on_watch(V, m.WatchActor(actor_id))
    peer.effects()
    peer.core.on_guest_lost(FAR_PEER, m.GuestLost(actor_id, 1, G1, "its host b was stopped", left=True), 1.0)
    (state,) = peer.said(V, m.ActorState)
    assert state.failure.message.endswith("is dead: its host b was stopped")
