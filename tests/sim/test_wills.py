"""Who owns a detached actor while members are cut off, come back, and die: one at most, and the dead stay dead."""

from __future__ import annotations

import msgspec
import pytest

from meshray.config import DEFAULT
from meshray.core.wills import Inherits
from meshray.wire import messages as m
from tests.sim.seeds import seeds
from tests.sim.wills import NOTICED_S, Mesh

QUIET_S = NOTICED_S[1] + DEFAULT.heir_after_s + 1.0
"""After the last fault: by then whoever inherits has."""


@pytest.mark.fault(26)
def test_an_heir_that_was_lost_and_is_back_has_no_will_any_more() -> None:
    mesh = Mesh(3)
    a, b, c = mesh.peers.values()
    actor_id = mesh.create(a)
    assert b.wills.awaits(actor_id)
    mesh.lose(a, b)  # c is the heir now
    mesh.pump()
    mesh.heal(a, b)
    mesh.run(0.0)
    assert (b.wills.awaits(actor_id), c.wills.awaits(actor_id)) == (False, True)
    mesh.power_off(a)
    mesh.run(QUIET_S)
    assert mesh.owners(actor_id) == [c]
    assert c.wills.heir_of(actor_id) == b.id


@pytest.mark.fault(26)
def test_an_actor_that_was_killed_while_its_heir_was_away_stays_dead() -> None:
    mesh = Mesh(3)
    a, b, _ = mesh.peers.values()
    actor_id = mesh.create(a)
    mesh.cut(a, b)
    mesh.lose(a, b)
    mesh.lose(b, a)
    a.actors.on_kill(a.id, m.KillActor(actor_id, True))
    mesh.run(1.0)
    assert b.wills.awaits(actor_id)
    mesh.heal(a, b)
    mesh.run(1.0)
    assert not b.wills.awaits(actor_id)
    mesh.power_off(a)
    mesh.run(QUIET_S)
    assert mesh.owners(actor_id) == []


@pytest.mark.fault(22)
def test_an_owner_and_its_new_heir_that_are_cut_off_from_the_old_one_end_it() -> None:
    """It hears of the old heir's loss first, while it still sees most of the mesh."""
    mesh = Mesh(5)
    a, b, c, d, e = mesh.peers.values()
    actor_id = mesh.create(a)
    assert a.wills.heir_of(actor_id) == b.id
    mesh.partition(a, e)
    for lost in (b, c):
        mesh.lose(a, lost)
        mesh.run(0.0)
        assert mesh.owners(actor_id) == [a]
    mesh.lose(a, d)
    assert mesh.owners(actor_id) == []
    mesh.run(QUIET_S)
    assert mesh.owners(actor_id) == [b]


@pytest.mark.fault(22)
def test_an_owner_that_is_cut_off_with_all_who_have_a_will_goes_on() -> None:
    mesh = Mesh(5)
    a, b, *others = mesh.peers.values()
    actor_id = mesh.create(a)
    mesh.flap(a, b)  # another one was the heir for a moment, and has answered that it is so no more
    mesh.run(1.0)
    heir = mesh.peers[a.wills.heir_of(actor_id)]
    mesh.partition(a, heir)
    mesh.run(QUIET_S)
    assert mesh.owners(actor_id) == [a]
    assert not any(isinstance(told, Inherits) for peer in (b, *others) for told in peer.told)


@pytest.mark.fault(26)
def test_of_two_heirs_of_one_owner_the_later_one_stays() -> None:
    """The owner dies before it could say to the first one that there is another."""
    mesh = Mesh(5)
    a, b, c, *_ = mesh.peers.values()
    actor_id = mesh.create(a)
    mesh.lose(a, b)
    mesh.pump()
    assert c.wills.awaits(actor_id)
    mesh.power_off(a)
    mesh.cut(b, c)  # each of them sees the other two
    mesh.run(QUIET_S)
    assert mesh.owners(actor_id) == [b, c]
    mesh.heal(b, c)
    mesh.run(1.0)
    assert mesh.owners(actor_id) == [c]
    assert not b.wills.has_inherited(actor_id)
    assert c.wills.has_inherited(actor_id)
    assert b.workers == {}


@pytest.mark.fault(22)
def test_an_owner_that_was_held_for_gone_and_did_not_know_gives_way() -> None:
    mesh = Mesh(3)
    a, b, c = mesh.peers.values()
    actor_id = mesh.create(a)
    for peer in (b, c):
        mesh.lose(peer, a)
    mesh.run(DEFAULT.heir_after_s)
    assert mesh.owners(actor_id) == [a, b]
    mesh.heal_all()
    mesh.run(1.0)
    assert mesh.owners(actor_id) == [b]
    assert a.wills.has_given_way(actor_id)
    mesh.flap(b, c)  # so that the first owner is the heir of its heir
    mesh.run(1.0)
    mesh.power_off(b)
    mesh.run(QUIET_S)
    assert mesh.owners(actor_id) == [a]
    assert a.wills.has_inherited(actor_id)
    assert not a.wills.has_given_way(actor_id)


@pytest.mark.fault(22)
def test_an_old_owner_does_not_bring_back_what_its_heir_has_ended() -> None:
    mesh = Mesh(3)
    a, b, c = mesh.peers.values()
    actor_id = mesh.create(a)
    for peer in (b, c):
        mesh.lose(peer, a)
    mesh.run(DEFAULT.heir_after_s)
    b.actors.on_kill(c.id, m.KillActor(actor_id, True))
    mesh.run(1.0)
    assert mesh.owners(actor_id) == [a]
    mesh.heal_all()
    mesh.run(QUIET_S)
    assert mesh.owners(actor_id) == []


@pytest.mark.fault(5, 22, 24, 26)
@pytest.mark.parametrize("seed", seeds(0, 150))
def test_in_the_end_there_is_one_at_most(seed: int) -> None:
    """Links are cut and healed one by one and by parts, peers die, messages are lost with each; then all is well. With
    each fourth seed one of them takes no wills."""
    mesh = Mesh(3 + seed % 3, seed)
    random = mesh.random
    peers = list(mesh.peers.values())
    if seed % 4 == 3:
        peers[1 + seed % 2].wills._config = msgspec.structs.replace(DEFAULT, wills_max=0)
    actor_id = mesh.create(peers[0])
    killed = False
    for _ in range(random.randint(2, 12)):
        there = mesh.there()
        what = random.random()
        if what < 0.35:
            mesh.partition(*random.sample(there, random.randint(1, len(there) - 1)))
        elif what < 0.55:
            mesh.cut(*random.sample(there, 2))
        elif what < 0.70:
            mesh.flap(*random.sample(there, 2))
            mesh.pump(random.randint(0, 3))
        elif what < 0.80:
            mesh.heal_all()
            mesh.pump(random.randint(0, 5))
        elif what < 0.88 and len(there) > 2:
            mesh.power_off(random.choice(there))
        elif what < 0.92 and len(owners := mesh.owners(actor_id)) == 1:
            mesh.run(0.0)
            owners[0].actors.on_kill(owners[0].id, m.KillActor(actor_id, True))
            killed = len(mesh.owners(actor_id)) == 0
        mesh.run(random.choice((0.0, 1.0, 20.0, 70.0, 200.0)))
    mesh.heal_all()
    mesh.run(QUIET_S)
    mesh.heal_all()
    mesh.run(QUIET_S)
    owners = mesh.owners(actor_id)
    assert len(owners) <= 1, "\n".join(mesh.log)
    assert not (killed and owners), "\n".join(mesh.log)
    for peer in mesh.there():
        if peer.wills.awaits(actor_id):
            (owner,) = owners
            assert owner.wills.heir_of(actor_id) == peer.id, "a will that is over: " + "\n".join(mesh.log)


@pytest.mark.fault(22)
@pytest.mark.parametrize("seed", seeds(0, 100))
def test_a_partition_in_two_parts_has_one_at_any_time(seed: int) -> None:
    mesh = Mesh(3 + seed % 5, seed)
    random = mesh.random
    peers = list(mesh.peers.values())
    actor_id = mesh.create(peers[0])
    for _ in range(3):
        mesh.partition(*random.sample(peers, random.randint(1, len(peers) - 1)))
        for _ in range(60):
            mesh.run(3.0)
            assert len(mesh.owners(actor_id)) <= 1, "\n".join(mesh.log)
        mesh.heal_all()
        mesh.run(random.choice((0.0, 1.0, 300.0)))
        assert len(mesh.owners(actor_id)) <= 1, "\n".join(mesh.log)
