"""On which host an actor gets its worker."""

from __future__ import annotations

from typing import Any

import pytest

from meshray.config import DEFAULT
from meshray.core.effects import (
    ActorPlaced,
    ActorSlot,
    ActorWaits,
    FreeSlot,
    ReleaseActorSlot,
    RequestActorSlot,
    Send,
    ShrinkSlot,
    TakeSlot,
)
from meshray.core.lodging import Lodging
from meshray.wire import messages as m

HERE, FAR, FURTHER = b"thispeer", b"far-host", b"further-"
FAR_PEER, FURTHER_PEER = FAR + bytes(8), FURTHER + bytes(8)
JOB = HERE + b"driver--"
A = JOB + bytes(8)
OWN, GUEST = HERE + b"worker--", FAR + b"worker--"
MOVE = DEFAULT.actor_move_s


class World:
    """`best`: the node that is chosen at first; `free`: the one that seems to have room later."""

    def __init__(self) -> None:
        self.best: bytes | None = None
        self.free: bytes | None = None
        self.refused: frozenset[bytes] = frozenset()  # of the last question
        self.jobs = {JOB}
        self.core = Lodging(DEFAULT, HERE, self.choose, self.jobs.__contains__)

    def choose(self, wish: RequestActorSlot, waits_at: bytes, refused: frozenset[bytes]) -> bytes | None:
        self.refused = refused
        node = self.free if waits_at else self.best
        return None if node in refused else node

    def effects(self) -> list[Any]:
        return self.core.take_effects()

    def ask(self, incarnation: int = 1) -> None:
        self.core.on_request(wish(incarnation), 0.0)


@pytest.fixture
def world() -> World:
    return World()


def wish(incarnation: int = 1) -> RequestActorSlot:
    return RequestActorSlot(A, JOB, {"CPU": 1}, {}, m.Profile(actor=True), False, incarnation, "Counter")


TAKE = TakeSlot(A, JOB, {"CPU": 1}, {}, m.Profile(actor=True), name="Counter")


def host(incarnation: int = 1) -> m.HostActor:
    return m.HostActor(A, incarnation, JOB, {"CPU": 1}, {}, m.Profile(actor=True), "Counter")


def test_on_this_host(world: World) -> None:
    world.ask()
    assert world.effects() == [TAKE]
    assert world.core.on_own_slot(ActorSlot(A, OWN))
    world.core.on_placed(ActorPlaced(A))
    world.core.on_released(ReleaseActorSlot(A))
    assert world.effects() == [ShrinkSlot(A), FreeSlot(A)]
    assert not world.core.on_own_slot(ActorSlot(A, OWN))
    assert world.effects() == [FreeSlot(A)]
    assert world.core.next_deadline() is None


def test_on_another_host(world: World) -> None:
    world.best = FAR
    world.ask()
    assert world.effects() == [Send(FAR_PEER, host())]
    world.core.on_hosted(FAR_PEER, m.ActorHosted(A, 1, GUEST))
    assert world.effects() == [ActorSlot(A, GUEST)]
    world.core.on_hosted(FAR_PEER, m.ActorHosted(A, 1, GUEST))
    world.core.on_placed(ActorPlaced(A))
    assert world.effects() == []
    world.core.on_released(ReleaseActorSlot(A))
    assert world.effects() == [Send(FAR_PEER, m.LeaveActor(A, 1))]


def test_a_place_that_nobody_waits_for_is_left_again(world: World) -> None:
    world.best = FAR
    world.ask()
    world.effects()
    world.core.on_hosted(FURTHER_PEER, m.ActorHosted(A, 1, FURTHER + bytes(8)))
    assert world.effects() == [Send(FURTHER_PEER, m.LeaveActor(A, 1))]
    world.core.on_hosted(FAR_PEER, m.ActorHosted(A, 1, OWN))  # no worker of that host
    assert world.effects() == [Send(FAR_PEER, m.LeaveActor(A, 1))]
    world.core.on_released(ReleaseActorSlot(A))
    world.ask(2)
    world.effects()
    world.core.on_hosted(FAR_PEER, m.ActorHosted(A, 1, GUEST))
    assert world.effects() == [Send(FAR_PEER, m.LeaveActor(A, 1))]


def test_a_job_that_is_not_known_stays_here(world: World) -> None:
    world.jobs.clear()
    world.best = FAR
    world.ask()
    assert world.effects() == [TAKE]


def test_why_it_waits_there_is_told(world: World) -> None:
    world.best = FAR
    world.ask()
    world.effects()
    world.core.on_waits_there(FAR_PEER, m.ActorWaitsThere(A, 1, "full"), 0.1)
    world.core.on_waits_there(FAR_PEER, m.ActorWaitsThere(A, 1, "no interpreter", broken=True), 0.1)
    assert world.effects() == [ActorWaits(A, JOB, "full"), ActorWaits(A, JOB, "no interpreter", True)]
    world.core.on_waits_there(FURTHER_PEER, m.ActorWaitsThere(A, 1, "full"), 0.1)
    assert world.effects() == []


def test_who_was_given_up_asks_again(world: World) -> None:
    world.best = FAR
    world.ask()
    world.effects()
    world.best = FURTHER
    world.core.on_waits_there(FAR_PEER, m.ActorWaitsThere(A, 1, gone=True), 0.1)
    assert world.effects() == [Send(FURTHER_PEER, host())]


def test_who_refuses_it_is_not_asked_again_but_others_are(world: World) -> None:
    """Nothing is known there of its program, say."""
    world.best = FAR
    world.ask()
    world.effects()
    world.best = FURTHER
    world.core.on_waits_there(FAR_PEER, m.ActorWaitsThere(A, 1, "far-host does not know it", gone=True), 0.1)
    assert world.effects() == [Send(FURTHER_PEER, host())]
    world.free = FAR
    world.core.tick(2 * MOVE)
    assert world.effects() == [], "it has room, and will not have it"
    world.core.on_waits_there(FURTHER_PEER, m.ActorWaitsThere(A, 1, "nor does further", gone=True), 2 * MOVE)
    assert world.refused == {FAR, FURTHER}
    assert world.effects() == [ActorWaits(A, JOB, "nor does further", broken=True)], "nobody else could have it"
    world.core.on_released(ReleaseActorSlot(A))
    world.best = FAR
    world.ask(2)
    assert world.refused == set(), "the next incarnation may be welcome"


def test_who_has_refused_it_and_was_away_may_be_asked_again(world: World) -> None:
    world.best = FAR
    world.ask()
    world.effects()
    world.best = FURTHER
    world.core.on_waits_there(FAR_PEER, m.ActorWaitsThere(A, 1, "unknown", gone=True), 0.1)
    world.core.on_host_gone(FAR, 0.2)
    world.best = FAR
    world.core.on_waits_there(FURTHER_PEER, m.ActorWaitsThere(A, 1, "unknown", gone=True), 0.3)
    assert world.refused == {FURTHER}
    assert Send(FAR_PEER, host()) in world.effects()


@pytest.mark.fault(5)
def test_who_waits_on_a_host_that_is_gone_asks_elsewhere(world: World) -> None:
    world.best = FAR
    world.ask()
    world.effects()
    world.best = None
    world.core.on_host_gone(FURTHER, 0.1)
    assert world.effects() == []
    world.core.on_host_gone(FAR, 0.1)
    assert world.effects() == [TAKE]


def test_who_waits_looks_round_after_a_while(world: World) -> None:
    world.ask()
    world.effects()
    assert world.core.next_deadline() == MOVE
    world.core.tick(MOVE)
    assert world.effects() == []
    world.free = FAR
    world.core.tick(1.5 * MOVE)
    assert world.effects() == []
    world.core.tick(2 * MOVE)
    assert world.effects() == [FreeSlot(A), Send(FAR_PEER, host())]
    world.free = HERE
    world.core.tick(3 * MOVE)
    assert world.effects() == [Send(FAR_PEER, m.LeaveActor(A, 1)), TAKE]
    world.core.on_own_slot(ActorSlot(A, OWN))
    world.free = FURTHER
    world.core.tick(9 * MOVE)
    assert world.effects() == []
