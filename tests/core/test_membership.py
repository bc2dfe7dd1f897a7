"""The face of membership: a few peers, message by message. Whole meshes are in `tests/sim/test_membership.py`."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import msgspec
import pytest

from meshray.config import DEFAULT
from meshray.core.member_effects import DeclaredDead, LoadChanged, MemberChanged, MemberDown, MemberUp, SendGossip
from meshray.core.membership import FAREWELLS, Membership
from meshray.wire import gossip as g
from tests.core.test_members import alive

ME, A, B, C = (alive(label).node for label in ("me", "a", "b", "c"))
P, T, FIRST = DEFAULT.probe_interval_s, DEFAULT.probe_timeout_s, DEFAULT.probe_first_timeout_s


class Peer:
    """One Membership whose clock and messages the test is."""

    def __init__(self, *known: str, seed: int = 1) -> None:
        self.now = 100.0
        self.core = Membership(DEFAULT, alive("me"), Random(seed), self.now)
        for label in known:
            self.hears(label, g.Gossip([alive(label), *(alive(other) for other in known)]))
        self.others: list[Any] = []  # effects that are no messages
        self.sent()
        self.others.clear()

    def hears(self, label: str, message: g.GossipMessage) -> list[SendGossip]:
        self.core.on_message(alive(label).node, message, self.now)
        return self.sent()

    def sent(self) -> list[SendGossip]:
        effects = self.core.take_effects()
        if hasattr(self, "others"):
            self.others += [effect for effect in effects if not isinstance(effect, SendGossip)]
        return [effect for effect in effects if isinstance(effect, SendGossip)]

    def run_for(self, seconds: float) -> list[SendGossip]:
        """As a shell that is never late."""
        sent, end = [], self.now + seconds
        while self.core.next_tick() <= end:
            self.now = max(self.now, self.core.next_tick())
            self.core.tick(self.now)
            sent += self.sent()
        self.now = end
        return sent

    def state(self, node: bytes) -> str:
        view = self.core.member(node)
        return view.state if view is not None else "unknown"


def of(sent: list[SendGossip], kind: type) -> list[Any]:
    return [effect.message for effect in sent if type(effect.message) is kind]


def to(sent: list[SendGossip], node: bytes) -> list[Any]:
    return [effect.message for effect in sent if effect.node == node]


# -- joining -----------------------------------------------------------------------------------------------------------


def test_a_join_goes_to_the_seed_until_it_is_answered() -> None:
    peer = Peer()
    peer.core.join(("a:7117",), peer.now)
    joins = [effect for effect in peer.run_for(4.0) if isinstance(effect.message, g.Join)]
    assert {effect.addresses for effect in joins} == {("a:7117",)}
    assert {effect.node for effect in joins} == {b""}
    assert len(joins) == 3  # at once, after 1 s, after 2 s more
    peer.hears("a", g.SyncReply((), [alive("a")]))
    assert peer.state(A) == "alive"
    assert of(peer.run_for(3.0), g.Join) == []


def test_who_joins_is_answered_with_what_it_lacks_and_told_to_the_others() -> None:
    peer = Peer("a")
    digests = (0,) * g.BUCKETS
    (answer,) = peer.hears("b", g.Join(alive("b"), digests))
    assert isinstance(answer.message, g.SyncReply)
    assert {piece.node for piece in answer.message.news} == {ME, A, B}
    assert peer.others == [MemberUp(alive("b"), False)]
    told = [piece for message in to(peer.run_for(1.0), A) for piece in message.news]
    assert alive("b") in told
    (again,) = peer.hears("b", g.Join(alive("b"), digests))
    assert isinstance(again.message, g.SyncReply)
    assert len(peer.others) == 1


def test_a_join_in_another_s_name_is_ignored() -> None:
    peer = Peer("a")
    assert peer.hears("a", g.Join(alive("b"), (0,) * g.BUCKETS)) == []
    assert peer.state(B) == "unknown"


def test_a_stranger_that_does_not_say_who_it_is_is_told_that_it_is_dead_here() -> None:
    peer = Peer("a")
    (answer,) = peer.hears("b", g.Ping(1, 0, [alive("c")]))
    assert (answer.node, answer.message) == (B, g.Expelled(B, 2, A))
    assert peer.state(B) == peer.state(C) == "unknown"


def test_a_stranger_that_says_who_it_is_is_a_member() -> None:
    peer = Peer("a")
    (answer,) = peer.hears("b", g.Ping(7, 0, [alive("b")]))
    assert isinstance(answer.message, g.Ack)
    assert peer.state(B) == "alive"


def test_who_has_never_been_heard_is_told_first_who_speaks() -> None:
    peer = Peer("a")
    peer.hears("a", g.Gossip([alive("b")]))
    pings = [effect for effect in peer.run_for(2.5) if isinstance(effect.message, g.Ping)]
    first = {effect.node: effect.message.news[:1] for effect in pings}
    assert first[B] == [alive("me")]
    assert first[A] != [alive("me")]


@pytest.mark.fault(34)
def test_one_s_own_messages_are_ignored() -> None:
    peer = Peer("a")
    assert peer.hears("me", g.Ping(1, 0, [])) == []
    assert peer.hears("me", g.Join(alive("me"), (0,) * g.BUCKETS)) == []
    assert peer.hears("me", g.Expelled(ME, 9, A)) == []
    assert not peer.core.over


# -- probing -----------------------------------------------------------------------------------------------------------


def test_no_answer_means_suspected_then_dead() -> None:
    peer = Peer("a")
    peer.run_for(2 * FIRST + P)
    assert peer.state(A) == "suspect"
    sent = peer.run_for(4.0 * P)
    accused = [piece for message in to(sent, A) for piece in message.news if isinstance(piece, g.Suspect)]
    assert accused, "the suspect hears of it"
    peer.run_for(20.0)
    assert peer.others == [MemberChanged(A, "state"), MemberDown(A, "a", "no answer")]


def test_an_answer_to_the_last_probe_gives_time_anew() -> None:
    peer = Peer("a")
    while True:
        pings = of(peer.run_for(0.1), g.Ping)
        if peer.core._suspicions.get(A) and peer.core._suspicions.get(A).last_probe:  # type: ignore[union-attr]
            break
    peer.hears("a", g.Ack(pings[0].seq))
    peer.run_for(3.9)
    assert peer.state(A) == "suspect"
    peer.hears("a", g.Gossip([alive("a", 1)]))
    assert peer.state(A) == "alive"


def test_only_the_last_of_the_last_probes_decides() -> None:
    """Who is not well waits so long that a suspect may get its second last probe while the first is under way."""
    peer = Peer("a")
    for incarnation in range(DEFAULT.health_max):
        peer.hears("a", g.Gossip([g.Suspect(ME, incarnation, (A,))]))
    assert peer.core.health == DEFAULT.health_max

    def last_probe() -> int:
        suspicion = peer.core._suspicions.get(A)
        return suspicion.last_seq if suspicion is not None and suspicion.last_probe else 0

    while not last_probe():
        peer.run_for(0.1)
    first, began = last_probe(), peer.now
    peer.core.on_unreachable(A, peer.now)
    pings: list[Any] = []
    while not pings:
        pings = of(peer.run_for(0.1), g.Ping)
    assert pings[0].seq != first
    peer.run_for(0.5)
    peer.hears("a", g.Ack(pings[0].seq))
    while last_probe() in (0, first):
        peer.run_for(0.1)
    second = peer.now
    assert second < began + FIRST * (1 + DEFAULT.health_max), "the first one is under way"
    peer.run_for(began + FIRST * (1 + DEFAULT.health_max) + 1.0 - peer.now)
    assert peer.state(A) == "suspect"
    peer.run_for(FIRST * (1 + DEFAULT.health_max))
    assert peer.state(A) == "dead"


def test_a_probe_for_another_is_made_and_its_answer_passed_on() -> None:
    peer = Peer("a", "b")
    (ping,) = peer.hears("a", g.PingRequest(5, B, 500))
    assert ping.node == B
    (answer,) = peer.hears("b", g.Ack(ping.message.seq, None, [alive("b", 3)]))
    assert (answer.node, answer.message.seq) == (A, 5)
    assert answer.message.news[0] == alive("b", 3), "a refutation takes the same way back"


def test_a_probe_for_another_without_an_answer_is_a_nack() -> None:
    peer = Peer("a", "b")
    peer.hears("a", g.PingRequest(5, B, 500))
    assert [message.seq for message in of(peer.run_for(0.45), g.Nack)] == [5]


def test_a_probe_of_a_dead_or_unknown_one_is_a_nack_at_once() -> None:
    peer = Peer("a", "b")
    peer.core.on_gone(B, peer.now)
    peer.sent()
    (nack,) = peer.hears("a", g.PingRequest(5, B, 500))
    assert any(isinstance(piece, g.Dead) and piece.node == B for piece in nack.message.news)
    (nack,) = peer.hears("a", g.PingRequest(6, C, 500))
    assert nack.message.seq == 6


def test_an_accusation_is_refuted_in_the_answer() -> None:
    peer = Peer("a")
    (ack,) = peer.hears("a", g.Ping(1, 0, [g.Suspect(ME, 0, (A,))]))
    assert alive("me", 1) in ack.message.news
    assert peer.core.health == 1


@pytest.mark.fault(28)
def test_a_broken_link_means_doubt_and_a_probe_at_once_with_helpers() -> None:
    peer = Peer("a", "b", "c")
    peer.core.on_unreachable(A, peer.now)
    sent = peer.sent()
    assert [type(message) for message in to(sent, A)] == [g.Ping]
    assert {effect.node for effect in sent if isinstance(effect.message, g.PingRequest)} == {B, C}
    assert peer.others == [MemberChanged(A, "reachable")]
    peer.core.on_unreachable(A, peer.now)
    assert peer.sent() == []
    (ping,) = of(sent, g.Ping)
    peer.hears("a", g.Ack(ping.seq))
    assert peer.others == [MemberChanged(A, "reachable")] * 2
    assert peer.state(A) == "alive"


def test_who_is_known_to_have_ended_is_dead_at_once() -> None:
    peer = Peer("a")
    peer.core.on_gone(A, peer.now)
    assert peer.sent() == []
    assert peer.others == [MemberDown(A, "a", "its process has ended")]
    peer.core.on_gone(A, peer.now)
    peer.core.on_gone(ME, peer.now)
    assert peer.core.take_effects() == []


# -- away --------------------------------------------------------------------------------------------------------------


@pytest.mark.fault(46, 58)
def test_who_was_away_accuses_nobody_until_somebody_answers() -> None:
    peer = Peer("a", "b")
    peer.run_for(0.1)
    peer.now += 600.0
    peer.core.tick(peer.now)
    sent = peer.sent()
    assert of(sent, g.Ping), "it probes again at once"
    sent = peer.run_for(DEFAULT.away_grace_s - 1.0)
    assert peer.state(A) == peer.state(B) == "alive"
    ping = of(sent, g.Ping)[-1]
    node = next(effect.node for effect in sent if effect.message is ping)
    peer.hears("a" if node == A else "b", g.Ack(ping.seq))
    peer.run_for(60.0)
    assert "dead" in (peer.state(A), peer.state(B)), "then it does its duty"


# -- the dead ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(11)
def test_who_is_told_that_it_is_dead_gives_up_and_does_nothing_more() -> None:
    peer = Peer("a", "b")
    peer.hears("a", g.Expelled(ME, 2, A))
    assert peer.others == [DeclaredDead(A, ("a:7117",))]
    assert peer.core.over
    assert peer.core.next_tick() == math.inf
    for message in (g.Ping(1, 0), g.Join(alive("c"), (0,) * g.BUCKETS), g.Gossip([alive("c")])):
        assert peer.hears("a", message) == []
    peer.core.tick(peer.now + 1.0)
    peer.core.set_load(b"x", peer.now)
    peer.core.join(("s:1",), peer.now)
    peer.core.leave(peer.now)
    peer.core.on_unreachable(A, peer.now)
    assert peer.core.take_effects() == []
    assert set(peer.core.last_peers()) == {"a:7117", "b:7117"}


@pytest.mark.parametrize(
    "message", [g.Ping(1, 0, [g.Dead(ME, B, "no answer")]), g.Ack(1, None, [g.Dead(ME, B, "no answer")])]
)
def test_news_of_one_s_own_death_are_the_last(message: g.GossipMessage) -> None:
    peer = Peer("a", "b")
    assert peer.hears("a", message) == []
    assert peer.others == [DeclaredDead(A, ("a:7117",))]


def test_one_that_can_refute_nothing_any_more_begins_another_life() -> None:
    peer = Peer("a", "b")
    assert peer.hears("a", g.Gossip([g.Suspect(ME, g.INCARNATION_MAX, (A,))])) == []
    assert peer.others == [DeclaredDead(A, ("a:7117",))]
    peer = Peer("a")
    peer.hears("a", g.Gossip([g.Suspect(ME, g.INCARNATION_MAX - 1, (A,))]))
    peer.core.set_addresses(("elsewhere:1",), peer.now)
    assert peer.core.over
    assert DeclaredDead(ME, ()) in peer.core.take_effects()


def test_one_for_whom_there_is_no_room_is_not_told_that_it_is_dead() -> None:
    config = msgspec.structs.replace(DEFAULT, members_max=2)
    core = Membership(config, alive("me"), Random(1), 0.0)
    join = g.Join(alive("a"), (0,) * g.BUCKETS)
    core.on_message(A, join, 0.0)
    assert core.take_effects()
    core.on_message(B, g.Join(alive("b"), (0,) * g.BUCKETS), 0.0)
    assert core.take_effects() == []
    assert core.beyond == 1
    core.on_gone(A, 0.0)
    core.on_message(B, g.Join(alive("b"), (0,) * g.BUCKETS), 0.0)
    assert core.member(B) is not None


def test_that_an_earlier_start_is_dead_is_no_news() -> None:
    peer = Peer("a")
    peer.hears("a", g.Expelled(C, 9, A))
    assert not peer.core.over


def test_nobody_hears_the_dead() -> None:
    peer = Peer("a", "b")
    peer.core.on_gone(A, peer.now)
    peer.sent()
    (answer,) = peer.hears("a", g.Gossip([alive("c"), g.Dead(B, A, "no answer")]))
    assert (answer.node, answer.message) == (A, g.Expelled(A, 2, B))
    assert (peer.state(B), peer.state(C)) == ("alive", "unknown")


@pytest.mark.fault(22)
@pytest.mark.parametrize(
    ("living", "smallest", "gives_in"), [(1, A, False), (3, A, True), (2, A, True), (2, b"z" * 8, False)]
)
def test_of_two_that_hold_each_other_for_dead_the_smaller_side_gives_in(
    living: int, smallest: bytes, gives_in: bool
) -> None:
    peer = Peer("a", "c")  # with `c` it is two, the smallest of which is `c`
    peer.core.on_gone(A, peer.now)
    peer.sent()
    sent = peer.hears("a", g.Expelled(ME, living, smallest))
    assert peer.core.over is gives_in
    if not gives_in:
        assert [effect.message for effect in sent] == [g.Expelled(A, 2, C)]


@pytest.mark.fault(22)
def test_the_dead_are_tried_now_and_then_and_when_a_link_is_there() -> None:
    peer = Peer("a", "b")
    peer.core.on_gone(A, peer.now)
    peer.sent()
    joins = [effect for effect in peer.run_for(30.0) if isinstance(effect.message, g.Join)]
    assert ("a:7117",) in {effect.addresses for effect in joins}
    peer.core.on_reachable(A, peer.now)
    assert [effect.addresses for effect in peer.sent()] == [("a:7117",)]


def test_goodbye_is_told_to_several_and_is_the_last() -> None:
    labels = [f"m{number}" for number in range(20)]
    peer = Peer(*labels)
    peer.core.leave(peer.now)
    sent = peer.sent()
    assert len(sent) == FAREWELLS
    assert {effect.message.news[0] for effect in sent} == {g.Dead(ME, ME, g.LEFT)}  # type: ignore[union-attr]
    peer.core.leave(peer.now)
    assert peer.core.take_effects() == []


# -- loads, view -------------------------------------------------------------------------------------------------------


def test_a_load_is_told_at_once_and_then_not_too_often() -> None:
    peer = Peer("a")
    tellings = []
    for number in range(20):
        peer.core.set_load(b"%d" % number, peer.now)
        sent = peer.run_for(0.1)
        tellings += [piece for message in to(sent, A) for piece in message.news if isinstance(piece, g.Load)]
    versions = sorted({piece.version for piece in tellings})
    assert versions[0] == 1
    assert 3 <= len(versions) <= 6  # two seconds, 0.5 s and a quarter of it more or less
    assert peer.core.take_effects() == []


def test_an_equal_load_is_no_news_and_a_large_one_an_error() -> None:
    peer = Peer("a")
    peer.core.set_load(b"", peer.now)
    assert peer.core.view()[0].version == 0
    with pytest.raises(ValueError, match="1025 bytes; 1024 is the most"):
        peer.core.set_load(bytes(1025), peer.now)


def test_who_probes_gets_the_newest_load() -> None:
    peer = Peer("a")
    peer.core.set_load(b"busy", peer.now)
    (ack,) = peer.hears("a", g.Ping(1, 0))
    assert ack.message.load == g.Load(ME, 1, b"busy")
    (ack,) = peer.hears("a", g.Ping(2, 1))
    assert ack.message.load is None
    peer.hears("a", g.Ack(99, g.Load(A, 4, b"idle")))
    assert peer.others == [LoadChanged(A, 4, b"idle")]


@pytest.mark.fault(28)
def test_a_new_address_is_told() -> None:
    peer = Peer("a")
    peer.core.set_addresses(("new:7117",), peer.now)
    peer.core.set_addresses(("new:7117",), peer.now)
    told = [piece for message in to(peer.run_for(1.0), A) for piece in message.news]
    assert g.Alive(ME, 1, "me", ("new:7117",), "3.11") in told


@pytest.mark.fault(51)
def test_the_view_tells_state_since_when_round_trip_load_and_who_is_incompatible() -> None:
    peer = Peer("a")
    peer.hears("a", g.Gossip([alive("b", python="3.12"), alive("c")]))
    peer.core.on_gone(C, peer.now)
    for effect in peer.run_for(2.2):
        if isinstance(effect.message, g.Ping) and effect.node == B:
            peer.now += 0.2
            peer.hears("b", g.Ack(effect.message.seq, g.Load(B, 1, b"idle")))
    views = {view.name: view for view in peer.core.view()}
    assert list(views) == ["me", "a", "b", "c"]
    assert views["me"].is_self
    assert views["b"].incompatible
    assert not views["a"].incompatible
    assert views["b"].rtt_s is not None
    assert views["a"].rtt_s is None
    assert (views["b"].version, views["b"].load) == (1, b"idle")
    assert (views["c"].state, views["c"].reason) == ("dead", "its process has ended")
    assert views["c"].since_s == pytest.approx(peer.now - 100.0, abs=0.5)
