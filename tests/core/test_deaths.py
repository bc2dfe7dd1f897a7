"""When the holds of the dead end, with other hosts in the play."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshray.core.borrows import Borrows
from meshray.core.deaths import Deaths
from meshray.ids import object_of, peer_of
from meshray.wire import messages as m

NEAR, FAR = b"near----", b"far-----"
A, B, C = (NEAR + name * 8 for name in (b"a", b"b", b"c"))
FOREIGNER = FAR + b"w" * 8
X = object_of(FAR + b"maker---" + bytes(8), 0)


class World:
    """The core, what it said, whom it settled, and what waits for the end of a doubt."""

    def __init__(self) -> None:
        self.said: list[tuple[bytes, Any]] = []
        self.settled: list[bytes] = []
        self.doubts: list[Callable[[], None]] = []
        self.borrows = Borrows(lambda to, message: None)
        self.core = Deaths(
            self.borrows, lambda to, message: self.said.append((to, message)), self.settled.append, self.doubts.append
        )

    def known(self) -> None:
        self.borrows.on_hold_done(peer_of(FAR), self.borrows.mark())
        self.core.on_known()


@pytest.fixture
def world() -> World:
    return World()


def test_a_witness_that_died_silently_answers_with_its_own_settlement(world: World) -> None:
    world.core.on_died(A, [B, C])
    world.core.on_seen(C, m.DeathSeen(A))
    world.core.on_died(B, [C])
    assert world.settled == []
    world.core.on_seen(C, m.DeathSeen(B))
    assert world.settled == [B, A]
    assert len(world.core) == 0


def test_another_host_is_a_witness(world: World) -> None:
    world.core.on_died(A, [B, peer_of(FAR)])
    world.core.on_seen(B, m.DeathSeen(A))
    assert A in world.core
    world.core.on_seen(peer_of(FAR), m.DeathSeen(A))
    assert world.settled == [A]


def test_what_is_held_has_reached_the_owners_before_anybody_lets_go(world: World) -> None:
    world.core.on_died(A, [B])
    world.borrows.hold([X], B, 1)  # B tells what it has from A, and then that it has told
    world.core.on_seen(B, m.DeathSeen(A))
    assert world.settled == []
    world.known()
    assert world.settled == [A]


@pytest.mark.fault(5)
def test_when_an_owner_is_gone_nobody_waits_for_its_word(world: World) -> None:
    world.borrows.hold([X], B, 1)
    world.core.on_died(A, [])
    assert world.settled == []
    world.borrows.on_owner_gone(peer_of(FAR), [X])
    world.core.on_known()
    assert world.settled == [A]


@pytest.mark.fault(5)
def test_a_host_that_is_gone_leaves_doubt(world: World) -> None:
    """Its processes may have passed on what they had from the dead one."""
    world.core.on_died(A, [peer_of(FAR)])
    world.core.on_host_gone(peer_of(FAR))
    assert world.settled == []
    (over,) = world.doubts
    over()
    assert world.settled == [A]


def test_an_answer_with_open_deaths_leaves_doubt(world: World) -> None:
    world.core.on_died(A, [peer_of(FAR)])
    world.core.on_seen(peer_of(FAR), m.DeathSeen(A, others=True))
    assert world.settled == []
    world.doubts.pop()()
    assert world.settled == [A]


def test_a_peer_answers_for_its_processes_when_owners_know_what_they_have(world: World) -> None:
    world.borrows.hold([X], B, 1)
    world.core.answer_for(FOREIGNER)
    assert world.said == []
    world.known()
    assert world.said == [(peer_of(FAR), m.DeathSeen(FOREIGNER))]
    world.core.on_died(A, [B])
    world.core.answer_for(FOREIGNER)
    assert world.said[1:] == [(peer_of(FAR), m.DeathSeen(FOREIGNER, others=True))]
