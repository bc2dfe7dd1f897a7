"""What news change, in any order and any number."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest

from meshray.config import DEFAULT, Config
from meshray.core.member_effects import LoadChanged, MemberChanged, MemberDown, MemberUp
from meshray.core.members import State
from meshray.core.roster import Roster
from meshray.wire.gossip import INCARNATION_MAX, Alive, Dead, Load, News, Suspect
from tests.core.test_members import alive

A, B, C, ME = (alive(label).node for label in ("a", "b", "c", "me"))


class Fixture:
    def __init__(self, *known: str, config: Config = DEFAULT) -> None:
        self.effects: list[Any] = []
        self.roster = Roster(config, alive("me"), self.effects, 0.0)
        self.hear(*(alive(label) for label in known))
        self.told()
        self.effects.clear()

    def hear(self, *news: News, now: float = 1.0) -> None:
        self.roster.hear(news, now)

    def told(self) -> list[News]:
        told: list[News] = []
        while self.roster.rumours:
            told += [piece for piece in self.roster.rumours.pick(64, 10) if piece not in told]
        return told

    def state(self, node: bytes) -> tuple[State, int]:
        member = self.roster.members.table[node]
        return member.state, member.incarnation


def test_a_new_member_is_reported_and_told_on_once() -> None:
    fixture = Fixture()
    fixture.hear(alive("a"), alive("a"))
    assert fixture.effects == [MemberUp(alive("a"), False)]
    assert fixture.told() == [alive("a")]
    fixture.hear(alive("a"))
    assert fixture.told() == []
    assert fixture.roster.stale == 2
    assert fixture.roster.joined == [A]


def test_a_newcomer_does_not_tell_others_what_they_told_it() -> None:
    fixture = Fixture()
    fixture.roster.hear([alive("a"), Dead(B, A, "no answer")], 1.0, tell=False)
    assert fixture.told() == []


def test_suspected_confirmed_refuted() -> None:
    fixture = Fixture("a")
    fixture.hear(Suspect(A, 0, (B,)))
    assert fixture.state(A) == (State.SUSPECT, 0)
    fixture.hear(Suspect(A, 0, (B,)))
    fixture.hear(Suspect(A, 0, (C,)))
    assert fixture.told() == [Suspect(A, 0, tuple(sorted((B, C))))]
    fixture.hear(alive("a"))
    assert fixture.state(A) == (State.SUSPECT, 0)
    fixture.hear(alive("a", 1))
    assert fixture.state(A) == (State.ALIVE, 1)
    assert A not in fixture.roster.suspicions
    fixture.hear(Suspect(A, 0, (ME,)))
    assert fixture.state(A) == (State.ALIVE, 1)
    assert fixture.effects == [MemberChanged(A, "state"), MemberChanged(A, "state")]


def test_nobody_accuses_itself() -> None:
    fixture = Fixture("a")
    fixture.hear(Suspect(A, 0, (A,)), Suspect(ME, 0, (ME, ME)))
    assert fixture.state(A) == fixture.state(ME) == (State.ALIVE, 0)
    assert fixture.roster.stale == 2
    fixture.hear(Suspect(A, 0, (A, B)))
    assert fixture.told() == [Suspect(A, 0, (B,))]


def test_a_death_is_for_ever() -> None:
    fixture = Fixture("a")
    fixture.hear(
        Dead(A, B, "no answer"), Dead(A, C, "no answer"), alive("a", 99), Suspect(A, 99, (B,)), Load(A, 9, b"")
    )
    assert fixture.state(A) == (State.DEAD, 0)
    assert fixture.effects == [MemberDown(A, "a", "no answer")]
    assert fixture.told() == [Dead(A, B, "no answer")]


def test_the_death_of_a_stranger_is_remembered_silently() -> None:
    fixture = Fixture()
    fixture.hear(Dead(A, B, "no answer"), alive("a"))
    assert fixture.state(A) == (State.DEAD, 0)
    assert fixture.effects == []


def test_a_suspicion_of_a_stranger_says_nothing() -> None:
    fixture = Fixture()
    fixture.hear(Suspect(A, 0, (B,)))
    assert A not in fixture.roster.members.table


def test_one_refutes_what_is_said_of_oneself() -> None:
    fixture = Fixture("a")
    fixture.hear(Suspect(ME, 0, (A,)))
    assert fixture.roster.me().incarnation == 1
    assert fixture.roster.health.score == 1
    assert fixture.told() == [fixture.roster.me()]
    fixture.hear(Suspect(ME, 0, (B,)))
    assert fixture.roster.me().incarnation == 1, "refuted already"
    fixture.hear(alive("me", 7))
    assert fixture.roster.me().incarnation == 8


def test_what_cannot_be_refuted_ends_this_life() -> None:
    """A greater incarnation could be read by nobody."""
    fixture = Fixture("a")
    fixture.hear(alive("me", INCARNATION_MAX - 1))
    assert fixture.roster.me().incarnation == INCARNATION_MAX
    assert not fixture.roster.doomed
    fixture.told()
    fixture.hear(Suspect(ME, INCARNATION_MAX, (A,)))
    assert fixture.roster.doomed
    assert fixture.roster.me().incarnation == INCARNATION_MAX
    assert fixture.told() == []


def test_members_are_bounded_and_those_beyond_are_counted() -> None:
    fixture = Fixture("a", config=msgspec.structs.replace(DEFAULT, members_max=3))
    fixture.hear(alive("b"), alive("c"), alive("c"))
    assert fixture.roster.members.count == 3
    assert fixture.roster.beyond == 2
    assert C not in fixture.roster.members.table
    assert fixture.told() == [alive("b")], "nor are others told of them"
    fixture.hear(alive("b", 1), Dead(A, B, "no answer"))
    assert fixture.state(B) == (State.ALIVE, 1)
    fixture.hear(alive("c"))
    assert fixture.state(C) == (State.ALIVE, 0)


@pytest.mark.fault(11)
def test_one_believes_one_s_own_death() -> None:
    fixture = Fixture("a")
    fixture.hear(Dead(ME, A, "no answer"))
    assert fixture.roster.doomed


def test_the_newest_load_counts() -> None:
    fixture = Fixture("a")
    fixture.hear(Load(A, 2, b"two"), Load(A, 1, b"one"), Load(A, 2, b"two"), Load(B, 1, b"?"))
    assert fixture.effects == [LoadChanged(A, 2, b"two")]
    fixture.hear(Alive(A, 0, "a", ("a:7117",), "3.11", 3, b"three"))
    assert fixture.effects[1:] == [LoadChanged(A, 3, b"three")]
    assert fixture.told() == [Load(A, 2, b"two")]


def test_a_renewed_description_counts_whatever_its_load() -> None:
    fixture = Fixture("a")
    moved = Alive(A, 1, "a", ("elsewhere:7117",), "3.11")
    fixture.hear(Load(A, 5, b"five"), moved)
    member = fixture.roster.members.table[A]
    assert (member.addresses, member.version, member.load) == (("elsewhere:7117",), 5, b"five")
    assert fixture.effects == [LoadChanged(A, 5, b"five"), MemberChanged(A, "record")]


def test_a_new_address_of_one_s_own_is_told() -> None:
    fixture = Fixture()
    fixture.roster.describe(("new:1",), 1.0)
    assert fixture.roster.me() == Alive(ME, 1, "me", ("new:1",), "3.11")
    assert fixture.told() == [fixture.roster.me()]


@pytest.mark.parametrize("seed", range(200))
def test_whatever_the_order_and_the_repeats_the_outcome_is_the_same(seed: int) -> None:
    """The order of news is a lattice: all who have heard the same hold the same."""
    random = Random(seed)
    heard: list[News] = [alive("a", random.randrange(4)) for _ in range(4)]
    heard += [Suspect(A, random.randrange(4), (random.choice((B, C)),)) for _ in range(3)]
    heard += [Dead(A, B, "no answer")] if random.random() < 0.2 else []
    heard += [Load(A, random.randrange(1, 5), b"") for _ in range(3)]
    outcomes = set()
    for _ in range(5):
        order = heard + random.choices(heard, k=5)
        random.shuffle(order)
        fixture = Fixture("a")
        fixture.hear(*order)
        member = fixture.roster.members.table[A]
        outcomes.add((fixture.state(A)[0], member.incarnation if member.lives else 0, member.version))
        suspicion = fixture.roster.suspicions.get(A)
        assert (suspicion is not None) == (member.state is State.SUSPECT)
    if any(isinstance(piece, Dead) for piece in heard):
        outcomes = {outcome[:1] for outcome in outcomes}
    assert len(outcomes) == 1
