"""Names in the whole mesh: one actor each, found from everywhere, and what follows from a partition."""

from __future__ import annotations

import heapq
from random import Random
from typing import Any

import msgspec
import pytest

from meshray.config import DEFAULT
from meshray.core.effects import CreateNamed, HoldFor, LetGo, NameChanged, NameConflict, Send
from meshray.core.names import LAST_WORDS, no_such_name
from meshray.core.naming import NAMES_AT_ONCE, Naming
from meshray.wire import messages as m
from meshray.wire.codec import decode, encode

P, Q, R = (label * 8 + bytes(8) for label in (b"p", b"q", b"r"))


def driver(peer: bytes) -> bytes:
    return peer[:8] + b"driver--"


def create(peer: bytes, number: int = 1, name: str = "n", get_if_exists: bool = False) -> m.CreateActor:
    blob = m.Blob(bytes(16), "C", b"")
    return m.CreateActor(
        driver(peer) + number.to_bytes(8, "big"), blob, b"", [], {}, {}, m.Profile(), 0, 0, 0, driver(peer), b"", name,
        "s", get_if_exists=get_if_exists, request_id=number,
    )  # fmt: skip


def named(peer: bytes, born_ms: int, number: int = 1, name: str = "n") -> m.NamedActor:
    return m.NamedActor("s", name, create(peer, number).actor_id, born_ms)


def changed(actor: m.NamedActor, taken: bool = True) -> NameChanged:
    return NameChanged(actor.namespace, actor.name, actor.actor_id, taken)


@pytest.fixture
def here() -> Naming:
    """The names of P, which sees Q and R."""
    naming = Naming(DEFAULT)
    naming.on_member_up(Q)
    naming.on_member_up(R)
    return naming


def test_alone_a_name_is_ours_at_once() -> None:
    naming = Naming(DEFAULT)
    naming.on_create(driver(P), create(P), 0.0, 1)
    assert naming.take_effects() == [CreateNamed(driver(P), create(P))]


def test_all_members_are_asked_first(here: Naming) -> None:
    here.on_create(driver(P), create(P), 0.0, 7)
    here.on_create(driver(P), create(P), 0.0, 7)  # a repeat
    assert here.take_effects() == [Send(peer, m.NameClaim(1, named(P, 7))) for peer in (Q, R)]
    here.on_answer(Q, m.NameAnswer(1), 0.1)
    here.on_answer(Q, m.NameAnswer(1), 0.1)
    here.on_answer(R, m.NameAnswer(99), 0.1)
    assert here.take_effects() == []
    here.on_answer(R, m.NameAnswer(1), 0.1)
    assert here.take_effects() == [CreateNamed(driver(P), create(P))]
    here.on_changed(changed(named(P, 0)), 8)
    assert here.take_effects() == [Send(peer, m.NamesHeld([named(P, 8)])) for peer in (Q, R)]
    here.on_changed(changed(named(P, 0), False), 9)
    assert here.take_effects() == [Send(peer, m.NameFreed(create(P).actor_id)) for peer in (Q, R)]


def test_who_has_the_name_says_so(here: Naming) -> None:
    here.on_changed(changed(named(P, 0)), 8)
    here.take_effects()
    here.on_claim(Q, m.NameClaim(5, named(Q, 1)))  # that of a claim older than ours: ours is there
    assert here.take_effects() == [Send(Q, m.NameAnswer(5, named(P, 8)))]
    here.on_claim(Q, m.NameClaim(6, named(Q, 1, name="other")))
    assert here.take_effects() == [Send(Q, m.NameAnswer(6))]


def test_a_taken_name_is_refused_or_found(here: Naming) -> None:
    here.on_create(driver(P), create(P), 0.0, 7)
    here.on_create(driver(P), create(P, 2, get_if_exists=True), 0.0, 8)
    here.take_effects()
    here.on_answer(Q, m.NameAnswer(1, named(Q, 1)), 0.1)
    refused, asked = here.take_effects()
    assert (refused.to, refused.message.request) == (driver(P), 1)
    assert refused.message.failure.kind == "ActorAlreadyExistsError"
    assert asked == Send(Q, m.FindActor(2, "n", "s"))
    here.on_found(Q, m.ActorFound(2, named(Q, 1).actor_id, b"methods"), 0.2)
    handle = named(Q, 1).actor_id + bytes(4)
    assert here.take_effects() == [
        HoldFor(driver(P), handle),
        Send(driver(P), m.ActorFound(2, named(Q, 1).actor_id, b"methods")),
    ]


def test_a_name_that_was_freed_meanwhile_is_claimed_again(here: Naming) -> None:
    here.on_create(driver(P), create(P, get_if_exists=True), 0.0, 7)
    here.on_answer(Q, m.NameAnswer(1, named(Q, 1)), 0.1)
    gone = m.Failure("ValueError", "no such actor")
    here.on_found(Q, m.ActorFound(2, failure=gone), 0.2)
    here.take_effects()
    here.on_found(Q, m.ActorFound(2, failure=gone), 0.2)
    here.on_found(R, m.ActorFound(2, failure=gone), 0.2)
    assert here.take_effects() == [Send(peer, m.NameClaim(3, named(P, 7))) for peer in (Q, R)]


def test_the_younger_of_two_claims_begins_again(here: Naming) -> None:
    here.on_create(driver(P), create(P), 0.0, 7)
    here.take_effects()
    here.on_claim(Q, m.NameClaim(1, named(Q, 9)))  # younger
    assert here.take_effects() == [Send(Q, m.NameAnswer(1, named(P, 7), pending=True))]
    here.on_claim(R, m.NameClaim(1, named(R, 3)))  # older
    assert here.take_effects() == [Send(R, m.NameAnswer(1))]
    here.on_answer(Q, m.NameAnswer(1), 0.1)
    here.on_answer(R, m.NameAnswer(1), 0.1)
    assert here.take_effects() == []
    again_at = here.next_deadline()
    assert again_at == 0.1 + DEFAULT.name_claim_again_s
    here.tick(again_at)
    assert here.take_effects() == [Send(peer, m.NameClaim(2, named(P, 7))) for peer in (Q, R)]
    here.on_answer(R, m.NameAnswer(1), 0.3)  # to the round before
    here.on_answer(R, m.NameAnswer(2, named(R, 3)), 0.3)
    (refused,) = here.take_effects()
    assert refused.message.failure.kind == "ActorAlreadyExistsError"


def test_the_silent_and_the_dead_are_not_awaited(here: Naming) -> None:
    here.on_create(driver(P), create(P), 0.0, 7)
    here.on_member_down(Q, 0.1)
    here.take_effects()
    here.tick(DEFAULT.name_claim_timeout_s)
    assert here.take_effects() == [CreateNamed(driver(P), create(P))]
    here.on_member_down(R, 3.0)
    here.on_create(driver(P), create(P, 2, "other"), 3.0, 7)
    assert here.take_effects() == [CreateNamed(driver(P), create(P, 2, "other"))]


def test_a_new_member_hears_of_claims_and_names() -> None:
    here = Naming(DEFAULT)
    here.on_member_up(Q)
    for number in range(NAMES_AT_ONCE + 1):
        here.on_changed(changed(named(P, 0, number, str(number))), 1)
    here.on_create(driver(P), create(P), 0.0, 7)
    here.take_effects()
    here.on_member_up(R)
    first, second, claim = here.take_effects()
    assert [len(first.message.names), len(second.message.names)] == [NAMES_AT_ONCE, 1]
    assert claim == Send(R, m.NameClaim(1, named(P, 7)))
    here.on_answer(Q, m.NameAnswer(1), 0.1)
    assert here.take_effects() == []
    here.on_answer(R, m.NameAnswer(1), 0.1)
    assert here.take_effects() == [CreateNamed(driver(P), create(P))]


def test_no_actor_is_found_where_another_python_runs_and_its_name_is_taken() -> None:
    here = Naming(DEFAULT, lambda peer: peer == Q)
    here.on_member_up(Q)
    here.on_create(driver(P), create(P, 1), 0.0, 7)
    here.on_create(driver(P), create(P, 2, get_if_exists=True), 0.0, 8)
    assert here.take_effects() == [Send(Q, m.NameClaim(1, named(P, 7)))]
    here.on_answer(Q, m.NameAnswer(1, named(Q, 1)), 0.1)
    refused = here.take_effects()
    assert [(told.to, told.message.request) for told in refused] == [(driver(P), 1), (driver(P), 2)]
    assert all(told.message.failure.kind == "ActorAlreadyExistsError" for told in refused)
    assert all("another minor version of Python" in told.message.failure.message for told in refused)
    here.on_held(Q, m.NamesHeld([named(Q, 1)]))
    here.on_find(driver(P), m.FindActor(40, "n", "s"), 0.2)
    (told,) = here.take_effects()
    assert (told.to, told.message.request, told.message.failure.kind) == (driver(P), 40, "ValueError")
    assert "another minor version of Python" in told.message.failure.message
    here.on_member_up(R)  # it may have one of that name all the same
    here.take_effects()
    here.on_find(driver(P), m.FindActor(41, "n", "s"), 0.3)
    assert here.take_effects() == [Send(R, m.FindActor(2, "n", "s"))]
    here.on_found(R, m.ActorFound(2, named(R, 1).actor_id, b"methods"), 0.4)
    assert HoldFor(driver(P), named(R, 1).actor_id + bytes(4)) in here.take_effects()


def test_what_was_told_says_whom_to_ask(here: Naming) -> None:
    here.on_held(Q, m.NamesHeld([named(Q, 1)]))
    here.on_find(driver(P), m.FindActor(40, "n", "s"), 0.0)
    assert here.take_effects() == [Send(Q, m.FindActor(1, "n", "s"))]
    here.on_found(Q, m.ActorFound(1, failure=m.Failure("ValueError", "gone")), 0.1)
    assert here.take_effects() == [Send(peer, m.FindActor(1, "n", "s")) for peer in (Q, R)]
    here.on_found(R, m.ActorFound(1, named(R, 1).actor_id), 0.2)
    assert len(here.take_effects()) == 2
    here.on_found(Q, m.ActorFound(1, named(Q, 1).actor_id), 0.3)
    assert here.take_effects() == [LetGo(named(Q, 1).actor_id + bytes(4))]


def test_a_name_that_nobody_has(here: Naming) -> None:
    here.on_held(Q, m.NamesHeld([m.NamedActor("elsewhere", "n", named(Q, 1).actor_id, 1)]))
    here.on_find(driver(P), m.FindActor(40, "n", "s"), 0.0)
    here.take_effects()
    here.on_found(Q, m.ActorFound(1, failure=m.Failure("ValueError", "no")), 0.1)
    here.on_member_down(R, 0.2)
    (told,) = here.take_effects()
    assert (told.to, told.message.request) == (driver(P), 40)
    assert "there is one in 'elsewhere'" in told.message.failure.message


def test_who_does_not_answer_is_not_awaited_for_ever(here: Naming) -> None:
    """A peer that hangs, or whose link stalls, kept every look-up of a name that nobody has from ending."""
    here.on_find(driver(P), m.FindActor(40, "n", "s"), 0.0)
    here.take_effects()
    here.on_found(Q, m.ActorFound(1, failure=m.Failure("ValueError", "no")), 0.1)
    assert here.next_deadline() == DEFAULT.name_claim_timeout_s
    here.tick(DEFAULT.name_claim_timeout_s)
    (told,) = here.take_effects()
    assert (told.to, told.message.request, told.message.failure.kind) == (driver(P), 40, "ValueError")
    assert "have not answered: 1" in told.message.failure.message
    assert here.next_deadline() is None
    here.on_found(R, m.ActorFound(1, named(R, 1).actor_id), 9.0)
    assert here.take_effects() == [LetGo(named(R, 1).actor_id + bytes(4))]


@pytest.mark.fault(21)
def test_who_is_known_to_have_the_name_is_waited_for_while_it_is_a_member(here: Naming) -> None:
    """It may be cut off for a moment, in which nothing fails."""
    here.on_held(R, m.NamesHeld([named(R, 1)]))
    here.on_find(driver(P), m.FindActor(40, "n", "s"), 0.0)
    here.on_find(driver(P), m.FindActor(41, "n", "s"), 0.0)
    here.take_effects()
    assert here.next_deadline() is None
    here.on_found(R, m.ActorFound(1, named(R, 1).actor_id), 5.0)
    assert HoldFor(driver(P), named(R, 1).actor_id + bytes(4)) in here.take_effects()
    here.on_member_down(R, 9.0)
    assert here.take_effects() == [Send(Q, m.FindActor(2, "n", "s"))], "another one may have inherited it"
    assert here.next_deadline() == 9.0 + DEFAULT.name_claim_timeout_s


def test_how_the_last_one_of_a_name_died_is_told_by_whoever_had_it() -> None:
    here = Naming(DEFAULT, last_words=lambda namespace, name: "of ours" if name == "ours" else "")
    here.on_member_up(Q)
    here.on_member_up(R)
    died = no_such_name("s", "n", [], last_words="of theirs")
    told = []
    for request, name, says in ((1, "n", {Q: died, R: no_such_name("s", "n", [])}), (2, "ours", {}), (3, "other", {})):
        here.on_find(driver(P), m.FindActor(request, name, "s"), 0.0)
        for effect in here.take_effects():
            failure = says.get(effect.to) or no_such_name("s", name, [])
            here.on_found(effect.to, m.ActorFound(effect.message.request, failure=failure), 0.1)
        ((found,),) = [[effect.message for effect in here.take_effects()]]
        told.append(found.failure)
    assert [each.details.get(LAST_WORDS) for each in told] == ["of theirs", "of ours", None]
    assert told[0].message.endswith(". The last one has died: of theirs")


def test_what_others_tell_of_the_last_one_of_a_name_is_bounded() -> None:
    """A text of a message has at most 64 Ki, and so has what is told to the process that looks for the name."""
    here = Naming(DEFAULT)
    here.on_member_up(Q)
    here.on_find(driver(P), m.FindActor(1, "n", "s"), 0.0)
    here.take_effects()
    died = m.Failure("ValueError", "", details={LAST_WORDS: "x" * (64 << 10)})
    here.on_found(Q, m.ActorFound(1, failure=died), 0.1)
    (found,) = [effect.message for effect in here.take_effects()]
    assert decode(encode(found)) == found


def test_each_find_has_its_own_time(here: Naming) -> None:
    for request, now in ((1, 0.0), (2, 0.5), (3, 1.0)):
        here.on_find(driver(P), m.FindActor(request, "n", "s"), now)
    here.take_effects()
    ended = []
    while (now := here.next_deadline()) is not None:
        here.tick(now)
        ended += [(now, effect.message.request) for effect in here.take_effects()]
    assert ended == [(2.0, 1), (2.5, 2), (3.0, 3)]


def test_the_names_of_a_member_go_with_it_and_one_by_one(here: Naming) -> None:
    here.on_held(Q, m.NamesHeld([named(Q, 1), named(Q, 1, 2, "two")]))
    here.on_held(Q, m.NamesHeld([named(Q, 1)]))  # a repeat
    assert here.stats().told == 2
    here.on_freed(Q, m.NameFreed(named(Q, 1).actor_id))
    assert [actor.name for actor in here.all()] == ["two"]
    here.on_member_down(Q, 0.0)
    assert list(here.all()) == []
    assert here.stats().told == 0
    here.on_held(Q, m.NamesHeld([named(Q, 1)]))  # it is there again
    here.on_create(driver(P), create(P, name="new"), 1.0, 1)
    assert {effect.to for effect in here.take_effects()} == {Q, R}


def test_names_of_others_and_questions_are_bounded() -> None:
    here = Naming(msgspec.structs.replace(DEFAULT, names_told_max=2, finds_max=1))
    here.on_member_up(Q)
    here.on_held(Q, m.NamesHeld([named(Q, 1, number, str(number)) for number in range(5)]))
    assert (here.stats().told, here.stats().left_out) == (2, 3)
    here.on_find(driver(P), m.FindActor(1, "n", "s"), 0.0)
    here.take_effects()
    here.on_find(driver(P), m.FindActor(2, "n", "s"), 0.0)
    assert here.take_effects()[0].message.failure is not None


@pytest.mark.fault(62)
def test_of_two_with_one_name_the_younger_one_ends(here: Naming) -> None:
    here.on_changed(changed(named(P, 0)), 8)
    here.on_held(Q, m.NamesHeld([named(Q, 9)]))
    assert not any(isinstance(effect, NameConflict) for effect in here.take_effects())
    here.on_held(R, m.NamesHeld([named(R, 7)]))
    (conflict,) = here.take_effects()
    assert conflict.actor_id == named(P, 0).actor_id
    assert conflict.failure.message.startswith("name conflict")


def test_the_dead_claim_and_find_nothing(here: Naming) -> None:
    other = P[:8] + b"other---"
    here.on_create(driver(P), create(P), 0.0, 7)
    here.on_create(other, create(P, 2), 0.0, 8)
    here.on_find(driver(P), m.FindActor(1, "x", "s"), 0.0)
    here.take_effects()
    here.on_process_died(driver(P), 0.1)
    assert here.take_effects() == [Send(peer, m.NameClaim(3, named(P, 8, 2))) for peer in (Q, R)]
    here.on_process_died(other, 0.2)
    assert (here.stats().claims, here.stats().finds) == (0, 0)


class Mesh:
    """Peers with a `Naming` each, messages that take their time, first in first out per pair."""

    def __init__(self, seed: int, peers: int, strangers: bool = False) -> None:
        """`strangers`: they have not met yet."""
        self.random = Random(seed)
        self.now, self.sent = 0.0, 0
        self.peers = {bytes([65 + i]) * 8 + bytes(8): Naming(DEFAULT) for i in range(peers)}
        self.offset = {peer: self.random.choice((-3_600_000, 0, 5, 3_600_000)) for peer in self.peers}
        self.last: dict[tuple[bytes, bytes], float] = {}
        self.post: list[tuple[float, int, bytes, bytes, Any]] = []  # a heap
        self.created: dict[bytes, list[m.CreateActor]] = {peer: [] for peer in self.peers}
        self.refused: list[bytes] = []
        self.ended: list[bytes] = []
        self.there: list[bytes] = []
        if not strangers:
            for peer in self.peers:
                self.join(peer)

    def join(self, peer: bytes) -> None:
        """It and all that are there see each other."""
        for other in self.there:
            self.peers[peer].on_member_up(other)
            self.peers[other].on_member_up(peer)
            self.perform(other)
        self.there.append(peer)
        self.perform(peer)

    def wall(self, peer: bytes) -> int:
        return 10_000_000 + self.offset[peer] + int(1000 * self.now)

    def perform(self, peer: bytes) -> None:
        naming = self.peers[peer]
        while effects := naming.take_effects():
            for effect in effects:
                if isinstance(effect, CreateNamed):
                    self.created[peer].append(effect.message)
                    spec = effect.message
                    naming.on_changed(NameChanged("s", spec.name, spec.actor_id, True), self.wall(peer))
                elif isinstance(effect, NameConflict):
                    self.ended.append(effect.actor_id)
                    naming.on_changed(NameChanged("s", "n", effect.actor_id, False), self.wall(peer))
                elif isinstance(effect, Send) and effect.to in self.peers:
                    at = max(self.last.get((peer, effect.to), 0.0), self.now + self.random.random() * 0.02)
                    self.last[peer, effect.to] = at
                    self.sent += 1
                    heapq.heappush(self.post, (at, self.sent, peer, effect.to, effect.message))
                elif isinstance(effect, Send):
                    self.refused.append(effect.to)

    def next_at(self) -> float:
        """When something happens next, for all that is known now."""
        ticks = [at for naming in self.peers.values() if (at := naming.next_deadline()) is not None]
        return min([*ticks, *(each[0] for each in self.post[:1])], default=float("inf"))

    def step(self) -> bool:
        ticks = [(at, peer) for peer, naming in self.peers.items() if (at := naming.next_deadline()) is not None]
        if self.post and (not ticks or self.post[0][0] <= min(ticks)[0]):
            self.now, _, source, to, message = heapq.heappop(self.post)
            naming = self.peers[to]
            if isinstance(message, m.NameClaim):
                naming.on_claim(source, message)
            elif isinstance(message, m.NameAnswer):
                naming.on_answer(source, message, self.now)
            elif isinstance(message, m.NamesHeld):
                naming.on_held(source, message)
            elif isinstance(message, m.NameFreed):
                naming.on_freed(source, message)
        elif ticks:
            self.now, to = min(ticks)
            self.peers[to].tick(self.now)
        else:
            return False
        self.perform(to)
        return True


@pytest.mark.parametrize("seed", range(300))
def test_of_all_that_claim_at_once_one_is_created_whatever_their_clocks_say(seed: int) -> None:
    mesh = Mesh(seed, peers=2 + seed % 5)
    waiting = [(mesh.random.random() * 0.05, peer) for peer in mesh.peers for _ in range(1 + seed % 2)]
    for number, (at, peer) in enumerate(sorted(waiting)):
        while mesh.now < at and mesh.step():
            continue
        mesh.now = max(mesh.now, at)
        mesh.peers[peer].on_create(driver(peer), create(peer, number + 1), mesh.now, mesh.wall(peer))
        mesh.perform(peer)
    for _ in range(10_000):
        if not mesh.step():
            break
    owners = [peer for peer, created in mesh.created.items() if created]
    assert len(owners) == 1, f"created by {owners}"
    assert mesh.ended == []
    assert all(naming.stats().claims == len(naming._rounds) == 0 for naming in mesh.peers.values())


@pytest.mark.fault(42)
@pytest.mark.parametrize("seed", range(10))
def test_of_a_hundred_that_join_within_a_second_and_claim_one_name_one_has_it(seed: int) -> None:
    """Some create it before they have met; their actors end for that, and all know the one that stays."""
    mesh = Mesh(seed, peers=100, strangers=True)
    joining = sorted((mesh.random.random(), peer) for peer in mesh.peers)
    for number, (at, peer) in enumerate(joining):
        while mesh.next_at() < at and mesh.step():
            continue
        mesh.now = max(mesh.now, at)
        if number % 10 == 0:  # programs that begin as soon as they can
            mesh.peers[peer].on_create(driver(peer), create(peer), mesh.now, mesh.wall(peer))
            mesh.perform(peer)
        mesh.join(peer)
    for _ in range(200_000):
        if not mesh.step():
            break
    names = {tuple(naming.all()) for naming in mesh.peers.values()}
    assert len(names) == 1, "all know the same"
    assert len(names.pop()) == 1, "and only one"
    created = [message for messages in mesh.created.values() for message in messages]
    assert len(created) - len(mesh.ended) == 1
    assert all(naming.stats().claims == 0 for naming in mesh.peers.values())
