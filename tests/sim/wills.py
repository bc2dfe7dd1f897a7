"""Owners and heirs of one detached actor in one thread: shipped cores, links that are cut, members that hold others for
gone at different times.

General layout. `Mesh` has time and links: first in, first out per pair; what was said on a link and had not arrived is
lost once either side holds the other for gone, and then both do before they meet again. `Peer` is the shell of `Actors`
and `Wills`; workers start, and die, at once.
"""

from __future__ import annotations

from collections import defaultdict, deque
from random import Random
from typing import Any

from meshray.config import DEFAULT
from meshray.core.actors import Actors
from meshray.core.effects import DetachedChanged, KillProcess, NameChanged, ReleaseActorSlot, RequestActorSlot, Send
from meshray.core.lives import Life
from meshray.core.objects import Objects
from meshray.core.store_accounts import StoreAccounts
from meshray.core.wills import GivesWay, Inherits, Wills
from meshray.ids import node_of, peer_of
from meshray.wire import messages as m
from tests.transit import none_in_transit

NOTICED_S = (5.0, 45.0)
"""How long it takes until a peer that is gone is held for gone."""


AT_MOST = 10_000
"""Messages that it takes at most until all has been said."""


class Peer:
    """See the head of this file."""

    def __init__(self, mesh: Mesh, node: bytes) -> None:
        self.mesh, self.node, self.id = mesh, node, peer_of(node)
        self.objects = Objects(DEFAULT, node, StoreAccounts(DEFAULT, 1 << 30, none_in_transit))
        self.actors = Actors(DEFAULT, node, self.objects)
        self.wills = Wills(DEFAULT, node, self.actors, self._choose)
        self.members: set[bytes] = set()
        self.workers: dict[bytes, bytes] = {}  # actor -> worker
        self.told: list[Any] = []  # Inherits, GivesWay
        self._started = 0

    def _choose(self, actor_id: bytes, avoided: frozenset[bytes]) -> bytes | None:
        others = [node_of(peer) for peer in sorted(self.members)]
        return next(iter([node for node in others if node not in avoided] or others), None)

    def owns(self, actor_id: bytes) -> bool:
        """Whether the actor lives here, or is about to."""
        actor = self.actors.actor(actor_id)
        return actor is not None and actor.life is not Life.DEAD

    def receive(self, source: bytes, message: Any) -> None:
        wills = self.wills
        if isinstance(message, m.Will):
            wills.on_will(source, message)
        elif isinstance(message, m.WillOver):
            wills.on_over(source, message)
        elif isinstance(message, m.WillsHeld):
            wills.on_held(source, message)
        elif isinstance(message, m.Inherit):
            wills.on_inherit(source, message)
        elif isinstance(message, m.Inherited):
            wills.on_inherited(source, message)
        elif isinstance(message, m.ActorsMoved):
            for actor_id, reign in zip(message.actor_ids, message.reigns, strict=True):
                wills.on_moved(source, actor_id, reign)
        else:
            raise AssertionError(f"a peer got {message!r}")

    def settle(self) -> None:
        while effects := [*self.actors.take_effects(), *self.wills.take_effects()]:
            for effect in effects:
                self._perform(effect)
        self.actors.check()

    def _perform(self, effect: Any) -> None:
        now = self.mesh.now
        if isinstance(effect, Send):
            if effect.to == peer_of(effect.to):
                self.mesh.carry(self.id, effect.to, effect.message)
        elif isinstance(effect, RequestActorSlot):
            self._started += 1
            worker = self.workers[effect.actor_id] = self.node + b"work" + self._started.to_bytes(4, "big")
            self.actors.on_slot(effect.actor_id, worker, now)
            self.actors.on_ready(worker, m.ActorReady(effect.actor_id, effect.incarnation), now)
        elif isinstance(effect, ReleaseActorSlot):
            self._die(self.workers.pop(effect.actor_id, b""))
        elif isinstance(effect, KillProcess):
            self._die(effect.process)
        elif isinstance(effect, DetachedChanged):
            self.wills.on_changed(effect.actor_id)
        elif isinstance(effect, Inherits):
            self.told.append(effect)
            will = effect.will
            worker = will.worker if effect.lives else b""
            self.actors.on_inherit(will, worker, effect.charged, now)
        elif isinstance(effect, GivesWay):
            self.told.append(effect)
            self.actors.give_way(effect.actor_id)
        else:
            assert isinstance(effect, NameChanged) or type(effect).__name__ == "ActorPlaced", f"unexpected: {effect!r}"

    def _die(self, worker: bytes) -> None:
        self.actors.on_process_died(worker, "killed", {}, self.mesh.now)
        self.wills.on_process_died(worker)


class Mesh:
    """See the head of this file."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.log: list[str] = []
        self.peers = {peer.id: peer for peer in (Peer(self, b"peer%04d" % number) for number in range(size))}
        self.off: set[bytes] = set()  # lost their power
        self._links: dict[tuple[bytes, bytes], deque[Any]] = defaultdict(deque)
        self._cut: dict[frozenset[bytes], dict[bytes, float]] = {}  # pair -> when which of them notices
        for peer in self.peers.values():
            for other in self.peers.values():
                if other is not peer:
                    self._up(peer, other.id)

    def create(self, peer: Peer) -> bytes:
        driver = peer.node + b"driver--"
        peer.objects.on_process_attached(driver, 1, driver)
        actor_id = driver + (1).to_bytes(8, "big")
        message = m.CreateActor(
            actor_id, m.Blob(bytes(16), "Log", b"x"), b"", [], {"CPU": 1}, {}, m.Profile(actor=True), -1, 0, 0,
            driver, b"methods", "log", "ns", True, request_id=1,
        )  # fmt: skip
        peer.actors.on_create(driver, message, self.now)
        self.pump()
        return actor_id

    def owners(self, actor_id: bytes) -> list[Peer]:
        """Peers that run it; of those that are off nothing runs."""
        return [peer for peer in self.there() if peer.owns(actor_id)]

    def there(self) -> list[Peer]:
        return [peer for peer in self.peers.values() if peer.id not in self.off]

    # -- links -------------------------------------------------------------------------------------------------------

    def carry(self, source: bytes, to: bytes, message: Any) -> None:
        if to in self.peers[source].members:
            self._links[source, to].append(message)

    def pump(self, at_most: int = AT_MOST) -> None:
        """Carry messages of links that are not cut, in any order of the links."""
        for peer in self.there():
            peer.settle()
        for _ in range(at_most):
            laden = [link for link, waiting in self._links.items() if waiting and frozenset(link) not in self._cut]
            if not laden:
                return
            source, to = self.random.choice(laden)
            message = self._links[source, to].popleft()
            peer = self.peers[to]
            if source in peer.members and to not in self.off:
                peer.receive(source, message)
                peer.settle()
        assert at_most < AT_MOST, "they go on talking for ever"

    def cut(self, one: Peer, other: Peer) -> None:
        """Nothing passes; each of them notices some time later."""
        pair = frozenset((one.id, other.id))
        if pair not in self._cut:
            self._cut[pair] = {each: self.now + self.random.uniform(*NOTICED_S) for each in sorted(pair)}

    def partition(self, *side: Peer) -> None:
        """These are cut off from all others."""
        for one in side:
            for other in self.there():
                if other not in side:
                    self.cut(one, other)

    def power_off(self, peer: Peer) -> None:
        self.off.add(peer.id)
        for other in self.there():
            self.cut(peer, other)

    def lose(self, peer: Peer, other: Peer) -> None:
        """`peer` holds `other` for gone, now."""
        if other.id in peer.members:
            self.log.append(f"{self.now:.1f} {peer.node!r} holds {other.node!r} for gone")
            peer.members.discard(other.id)
            self._links[peer.id, other.id].clear()
            self._links[other.id, peer.id].clear()
            peer.wills.on_member_down(other.id, False, self.now)
            peer.settle()

    def heal(self, one: Peer, other: Peer) -> None:
        """They can hear each other. If one holds the other for gone, so does the other now, and they meet anew."""
        self._cut.pop(frozenset((one.id, other.id)), None)
        if self.off.isdisjoint((one.id, other.id)) and not (other.id in one.members and one.id in other.members):
            self.lose(one, other)
            self.lose(other, one)
            self._links[one.id, other.id].clear()
            self._links[other.id, one.id].clear()
            self._up(one, other.id)
            self._up(other, one.id)

    def flap(self, one: Peer, other: Peer) -> None:
        """Both hold each other for gone, and meet anew."""
        self.lose(one, other)
        self.heal(one, other)

    def heal_all(self) -> None:
        there = self.there()
        for place, one in enumerate(there):
            for other in there[:place]:
                self.heal(one, other)

    def _up(self, peer: Peer, other: bytes) -> None:
        self.log.append(f"{self.now:.1f} {peer.node!r} sees {other[:8]!r}")
        peer.members.add(other)
        peer.wills.on_member_up(other)
        peer.settle()

    # -- time --------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Time passes, and what is said arrives."""
        until = self.now + seconds
        self.pump()
        while True:
            noticed = [
                (at, each, pair) for pair, times in self._cut.items() for each, at in times.items() if at <= until
            ]
            due = [
                (at, peer.id) for peer in self.there() if (at := peer.wills.next_deadline()) is not None and at <= until
            ]
            if not noticed and not due:
                break
            first_noticed = min(noticed, default=None, key=lambda entry: entry[:2])
            first_due = min(due, default=None)
            if first_noticed is not None and (first_due is None or first_noticed[0] <= first_due[0]):
                self.now, each, pair = first_noticed
                del self._cut[pair][each]
                (other,) = pair - {each}
                if each not in self.off:
                    self.lose(self.peers[each], self.peers[other])
            else:
                assert first_due is not None
                self.now, each = first_due
                self.peers[each].wills.tick(self.now)
            self.pump()
        self.now = until
