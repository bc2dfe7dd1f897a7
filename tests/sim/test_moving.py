"""Values that lie on hosts that are stopped: they go elsewhere while tasks run, are read, and are let go of.

The hosts, their processes and the laws are those of `test_borrows`; and one host or two drain, maybe at once. The one
that leaves, or the one that keeps, may die halfway, and stores may be full.

Checked in the end, besides what is checked there: a value whose owner's host is there is lost only if the host on which
it lay had died before it had moved, or those that had taken it are dead, or nobody had room.
"""

from __future__ import annotations

import pytest

from meshray.ids import node_of
from meshray.wire import messages as m
from meshray.wire.messages import Place
from tests.sim.model import Process
from tests.sim.peer import SimPeer
from tests.sim.seeds import seeds
from tests.sim.test_borrows import Hosts

SEEDS = 18

NODES = (b"host---a", b"host---b", b"host---c", b"host---d")

BOUND_S = 0.4
"""So long a host may move values; most need a tenth of it."""


class Drains(Hosts):
    """See the head of this file."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, deaths=2 * (seed % 3 == 2), host_deaths=int(seed % 3 > 0), nodes=NODES)
        self.left: set[bytes] = set()  # hosts that have drained to the end
        self.leaving: set[bytes] = set()
        for _ in range(self.world.random.randint(1, 2)):
            self.world.at(0.05 + self.world.random.random() * 0.12, self.drain)

    def drain(self) -> None:
        """`meshray stop`: what runs there is ended, then values move."""
        random = self.world.random
        serving = [peer for peer in self.peers.values() if peer.alive and peer.node not in self.leaving]
        if len(serving) < 3:
            return
        peer = random.choice(serving)
        self.leaving.add(peer.node)
        self.world.note(f"STOPPED {peer.node.decode()}")
        for other in self.peers.values():
            if other is not peer and other.node not in peer.gone:
                self.world.send(peer.process, other.process, m.PeerLeaves())
        for process in self.living():
            if process.peer is peer and process.process != process.job:
                process.die()
        self.world.at(random.random() * 0.03, lambda: self.move(peer))

    def move(self, peer: SimPeer) -> None:
        if peer.alive:
            peer.leave()
            self.look(peer, self.world.now + BOUND_S)

    def look(self, peer: SimPeer, until: float) -> None:
        if not peer.alive:
            return
        if not peer.moves.done and self.world.now < until:
            self.world.at(0.002, lambda: self.look(peer, until))
            return
        self.left.add(peer.node)
        self.power_off(peer)

    def excused_loss(self, place: Place, process: Process) -> bool:
        """Whether all those are gone that may have had the value; see the head of this file."""
        if not self.is_up(node_of(place.object_id)):
            return True
        node = place.node
        for keeps in range(len(NODES)):
            if self.is_up(node):
                return False
            if node not in self.left:
                return True  # it has died, or was stopped and died before it was done
            peer = self.peers[node]
            if place not in peer.asked_to_move:
                return not keeps  # made too late to be moved; but who keeps one moves it on
            if place not in peer.moved:
                return self.small
            node = node_of(peer.moved[place])
        return True


def run(seed: int) -> Drains:
    drains = Drains(seed)
    try:
        drains.quiet()
    except Exception as error:
        error.add_note(f"seed {seed}, after:\n" + "\n".join(drains.world.log[-80:]))
        raise
    return drains


@pytest.mark.fault(5, 16, 30)
@pytest.mark.parametrize("block", range(6))
def test_values_outlive_the_host_on_which_they_lay(block: int) -> None:
    for seed in seeds(block, SEEDS, 6):
        run(seed)


def test_values_do_move() -> None:
    drains = [run(seed) for seed in range(9)]
    assert sum(len(peer.moved) for each in drains for peer in each.peers.values()) > 8
    assert sum(len(each.left) for each in drains) > 6
