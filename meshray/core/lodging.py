"""On which host does an actor of this peer get its worker?

Between `core.actors`, which wants a place for each incarnation, and who has some: this host's own leases, and other
peers (`core.guests` there). One host is asked at a time. `choose` says which (the shell gives it: it knows the members
and their loads); what it says is a hint, since a peer alone grants its slots. So an actor that waits somewhere moves on
when another host seems to have room, and an answer that comes after that is for nobody: its place is left again.

A host may refuse an actor for good: nothing is known there of its program, say. Then others are asked, and not that one
any more. When nobody else can have it, it cannot be placed.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from meshray.config import Config
from meshray.core.effects import (
    ActorPlaced,
    ActorSlot,
    ActorWaits,
    Core,
    FreeSlot,
    ReleaseActorSlot,
    RequestActorSlot,
    Send,
    ShrinkSlot,
    TakeSlot,
)
from meshray.ids import node_of, peer_of
from meshray.wire.messages import ActorHosted, ActorWaitsThere, HostActor, LeaveActor

Choose = Callable[[RequestActorSlot, bytes, frozenset[bytes]], bytes | None]
"""choose_actor_host(request, waits_at, refused): the home node that should host it, none of `refused`; None: nobody
can. `waits_at`: b"", or the node where it waits already: then another one that has room now, or None to wait on."""


class Lodger:
    """One incarnation of an actor that wants a place, or has one."""

    __slots__ = ("asked_at", "host", "refused", "request", "worker")

    def __init__(self, request: RequestActorSlot) -> None:
        self.request = request
        self.host = b""  # the node that was asked
        self.asked_at = 0.0
        self.worker = b""  # once it has a place
        self.refused: frozenset[bytes] = frozenset()  # members that will not have this incarnation

    def __repr__(self) -> str:
        request = self.request
        return (
            f"<Lodger {request.actor_id.hex()} incarnation={request.incarnation} at {self.host.hex()} "
            f"worker={self.worker.hex()[-6:]}>"
        )


class Lodging(Core):
    """See the head of this file. `knows_job(job)`: whether this peer can tell another host of a job."""

    def __init__(self, config: Config, node: bytes, choose: Choose, knows_job: Callable[[bytes], bool]) -> None:
        super().__init__()
        self._config = config
        self._node = node
        self._choose = choose
        self._knows_job = knows_job
        self._lodgers: dict[bytes, Lodger] = {}  # actor -> from its request until its release
        self.stale = 0

    # -- from actors -------------------------------------------------------------------------------------------------

    def on_request(self, request: RequestActorSlot, now: float) -> None:
        """An actor wants a place. A repeat changes nothing."""
        if request.actor_id not in self._lodgers:
            lodger = self._lodgers[request.actor_id] = Lodger(request)
            self._ask_anew(lodger, now)

    def on_inherited(self, request: RequestActorSlot, worker: bytes, now: float) -> None:
        """An actor that we have taken over lives already."""
        lodger = self._lodgers[request.actor_id] = Lodger(request)
        lodger.host, lodger.worker, lodger.asked_at = node_of(worker), worker, now

    def on_placed(self, effect: ActorPlaced) -> None:
        """Its constructor has run. (Another host sees that by itself.)"""
        lodger = self._lodgers.get(effect.actor_id)
        if lodger is not None and lodger.host == self._node:
            self._effects.append(ShrinkSlot(effect.actor_id))

    def on_released(self, effect: ReleaseActorSlot) -> None:
        """It wants no place any more."""
        lodger = self._lodgers.pop(effect.actor_id, None)
        if lodger is not None:
            self._leave(lodger)

    # -- from places -------------------------------------------------------------------------------------------------

    def on_own_slot(self, slot: ActorSlot) -> bool:
        """Leases grant a worker of this host. False: nobody waits for it here."""
        lodger = self._lodgers.get(slot.actor_id)
        if lodger is None or lodger.host != self._node:
            self.stale += 1
            self._effects.append(FreeSlot(slot.actor_id))
            return False
        lodger.worker = slot.worker
        return True

    def on_hosted(self, sender: bytes, message: ActorHosted) -> None:
        """Another host has a worker for it."""
        lodger = self._lodger(sender, message.actor_id, message.incarnation)
        if lodger is None or node_of(message.worker) != node_of(sender) or lodger.worker not in (b"", message.worker):
            self.stale += 1
            self._effects.append(Send(sender, LeaveActor(message.actor_id, message.incarnation)))
        elif not lodger.worker:
            lodger.worker = message.worker
            self._effects.append(ActorSlot(message.actor_id, message.worker))

    def on_waits_there(self, sender: bytes, message: ActorWaitsThere, now: float) -> None:
        """Another host says why it has none."""
        lodger = self._lodger(sender, message.actor_id, message.incarnation)
        if lodger is None or lodger.worker:
            self.stale += 1
        elif message.gone:
            if message.message:
                lodger.refused |= {lodger.host}
            self._ask_anew(lodger, now, message.message)
        else:
            request = lodger.request
            self._effects.append(ActorWaits(request.actor_id, request.job, message.message, message.broken))

    def on_host_gone(self, node: bytes, now: float) -> None:
        """A host is lost: who waited there asks elsewhere. (Who lived there has ended: `core.actors` sees to that.)"""
        for lodger in self._lodgers.values():
            lodger.refused -= {node}
        for lodger in [lodger for lodger in self._lodgers.values() if lodger.host == node and not lodger.worker]:
            self._ask_anew(lodger, now)

    def _lodger(self, sender: bytes, actor_id: bytes, incarnation: int) -> Lodger | None:
        """Who was sent there, if it is that incarnation."""
        lodger = self._lodgers.get(actor_id)
        if lodger is None or peer_of(lodger.host) != sender or lodger.request.incarnation != incarnation:
            return None
        return lodger

    def _ask_anew(self, lodger: Lodger, now: float, refusal: str = "") -> None:
        """`refusal`: why the last one will not have it."""
        host = self._choose(lodger.request, b"", lodger.refused)
        if host is None and refusal:
            lodger.host = self._node  # where it is released from
            self._effects.append(ActorWaits(lodger.request.actor_id, lodger.request.job, refusal, broken=True))
        else:
            self._ask(lodger, host or self._node, now)

    def _ask(self, lodger: Lodger, host: bytes, now: float) -> None:
        request = lodger.request
        if host == self._node or not self._knows_job(request.job):
            lodger.host = self._node
            take = TakeSlot(
                request.actor_id,
                request.job,
                request.request,
                request.running_request,
                request.profile,
                msgspec.structs.replace(request.strategy, spread=False, wished=()),
                request.name,
            )
            self._effects.append(take)
        else:
            lodger.host = host
            message = HostActor(
                request.actor_id,
                request.incarnation,
                request.job,
                request.request,
                request.running_request,
                request.profile,
                request.name,
                request.detached,
            )
            self._effects.append(Send(peer_of(host), message))
        lodger.asked_at = now

    def _leave(self, lodger: Lodger) -> None:
        request = lodger.request
        if lodger.host == self._node:
            self._effects.append(FreeSlot(request.actor_id))
        else:
            self._effects.append(Send(peer_of(lodger.host), LeaveActor(request.actor_id, request.incarnation)))

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        if not self._lodgers:
            return None
        waiting = [lodger.asked_at for lodger in self._lodgers.values() if not lodger.worker]
        return min(waiting) + self._config.actor_move_s if waiting else None

    def tick(self, now: float) -> None:
        """Who has waited for a while looks round."""
        for lodger in self._lodgers.values():
            if lodger.worker or now < lodger.asked_at + self._config.actor_move_s:
                continue
            host = self._choose(lodger.request, lodger.host, lodger.refused)
            lodger.asked_at = now
            if host is not None and host != lodger.host:
                self._leave(lodger)
                self._ask(lodger, host, now)

    # -- for people and tests ----------------------------------------------------------------------------------------

    def host_of(self, actor_id: bytes) -> bytes:
        """The node where it lives or waits; b"" for neither."""
        lodger = self._lodgers.get(actor_id)
        return b"" if lodger is None else lodger.host

    def __len__(self) -> int:
        return len(self._lodgers)
