"""Who takes over a detached actor when the peer that owns it is gone?

A detached actor outlives its driver; this is for the day on which it should outlive its owner, too. Each has an *heir*,
another member, which has a `Will`: what it takes to start the actor again. There are two ways to inherit:

- **The owner leaves** (it is stopped). It ends the actor if that lives on its own host, and says `Inherit` once that is
  over. An actor that lives elsewhere goes on: its host is told of the new owner (`GuestMoves`), by that one, too, since
  the old one may not come to it. The owner waits for all answers, within a bound, before it goes. An heir that leaves
  itself refuses, and another one is asked.
- **The owner is gone** without a word. It may as well be cut off, and then it goes on being the owner. So the heir
  waits `heir_after_s`, longer than it takes to notice that one is cut off, and takes over only if it sees more than
  half of the members that there were; and an owner that sees less than half of them ends those detached actors of
  which somebody that it has lost may have the will, whoever has it now. In a mesh of two neither is more than half:
  there the actor stays with its owner, and dies with it.

Wills hold for one session: when owner and heir meet again after either held the other for gone, both forget them, and
the owner chooses anew. So there is never an old heir that the owner does not think of.

Callers are told of the heir in advance (`ActorNews`), and watch there when the owner is gone. Those who only have a
handle hear where it is now (`ActorsMoved`), like everybody.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Struct

from meshray.config import Config
from meshray.core.actors import Actors
from meshray.core.effects import Core, Send
from meshray.core.fencing import SKEW
from meshray.core.lives import Actor, Life
from meshray.ids import node_of, peer_of
from meshray.wire.messages import (
    ActorsMoved,
    GuestMoved,
    GuestMoves,
    Inherit,
    Inherited,
    Message,
    Will,
    WillOver,
)

UNTOLD_MAX = 1000
"""So often an owner that was cut off from its heir may have started the actor again, at most: the heir numbers its
incarnations from there, since callers may have seen those."""

MOVED_AT_ONCE = 256
"""At most so many ids travel in one ActorsMoved."""


class Inherits(Struct, frozen=True):
    """Wills to actors: this one is ours from now on. `lives`: its worker goes on; else it is started again, which is
    charged if `charged`."""

    will: Will
    lives: bool
    charged: bool


class _Estate:
    """A will that this peer has."""

    __slots__ = ("due_at", "testator", "will")

    def __init__(self, testator: bytes, will: Will) -> None:
        self.testator = testator
        self.will = will
        self.due_at: float | None = None  # its testator is gone: when it is inherited


class Wills(Core):
    """See the head of this file. `choose(actor_id, avoided)`: the home node of a member, if there is any."""

    def __init__(
        self, config: Config, node: bytes, actors: Actors, choose: Callable[[bytes, bytes], bytes | None]
    ) -> None:
        super().__init__()
        actors.awaited = self.awaits
        self._config = config
        self._node = node
        self._actors = actors
        self._choose = choose
        self._heirs: dict[bytes, bytes] = {}  # detached actor of ours -> the peer that has its will
        self._estates: dict[bytes, _Estate] = {}  # actor of another peer -> its will; bounded
        self._inherited: dict[bytes, None] = {}  # actors that we have taken over
        self._members: set[bytes] = set()
        self._former: dict[bytes, set[bytes]] = {}  # actor of ours -> lost heirs that may have its will; no empty sets
        self._claimed: dict[bytes, bytes] = {}  # actor that we have taken over -> its host, until that knows it
        self._lost: dict[bytes, float] = {}  # members that are gone without a goodbye, for a while -> since when
        self._moving: dict[bytes, bytes] = {}  # actor that we hand over -> whose answer is awaited: a worker, or a peer
        self._wills: dict[bytes, Will] = {}  # what is handed over
        self.leaving = False  # this peer is stopped
        self.left_out = 0  # wills that were too many

    # -- members -----------------------------------------------------------------------------------------------------

    def on_member_up(self, peer: bytes) -> None:
        """A member is there, maybe again. A repeat changes nothing."""
        if peer in self._members:
            return
        self._members.add(peer)
        self._lost.pop(peer, None)
        for actor_id in [actor_id for actor_id, estate in self._estates.items() if estate.testator == peer]:
            self._lose(actor_id)  # of the session before: it tells us again, if we are to have it
        for actor_id in [actor_id for actor_id, former in self._former.items() if peer in former]:
            self._forget_former(actor_id, peer)
        moved = [actor_id for actor_id in self._inherited if actor_id not in self._wills]
        for begin in range(0, len(moved), MOVED_AT_ONCE):
            self._tell(peer, ActorsMoved(moved[begin : begin + MOVED_AT_ONCE]))
        for actor in self._actors.all():
            if actor.spec.detached and actor.spec.actor_id not in self._heirs:
                self.on_changed(actor.spec.actor_id)

    def on_member_down(self, peer: bytes, left: bool, now: float) -> None:
        """It is gone. `left`: it has said goodbye."""
        if peer not in self._members:
            return
        self._members.discard(peer)
        if not left:
            self._lost[peer] = now
        for estate in self._estates.values():
            if estate.testator == peer and estate.due_at is None:
                estate.due_at = now + self._config.heir_after_s
        orphaned = [actor_id for actor_id, heir in self._heirs.items() if heir == peer]
        for actor_id in orphaned:
            del self._heirs[actor_id]
            if not left:
                self._former.setdefault(actor_id, set()).add(peer)
        if self._cut_off(now):
            for actor_id in [*self._former]:
                self._actors.on_cut_off(actor_id)
        for actor_id in orphaned:
            self.on_changed(actor_id)
        self._on_mover_down(peer)

    def _on_mover_down(self, peer: bytes) -> None:
        """Who was to answer is gone."""
        self._claimed = {actor_id: host for actor_id, host in self._claimed.items() if host != peer}
        for actor_id, awaited in list(self._moving.items()):
            if awaited == peer:
                del self._moving[actor_id]
            elif peer_of(awaited) == peer:  # a worker there, which may live until its right is over
                pause_s = SKEW * self._config.fence_right_s + self._config.fence_margin_s
                will = self._wills[actor_id]
                self._say_inherit(actor_id, msgspec.structs.replace(will, worker=b"", pause_s=pause_s))

    def _forget_former(self, actor_id: bytes, peer: bytes) -> None:
        former = self._former[actor_id]
        former.discard(peer)
        if not former:
            del self._former[actor_id]

    def _cut_off(self, now: float) -> bool:
        """Whether this peer sees less than half of the members that there were."""
        here, all_ = self._count(now)
        return 2 * here < all_

    def _count(self, now: float) -> tuple[int, int]:
        recent = now - 2 * self._config.heir_after_s
        for peer in [peer for peer, since in self._lost.items() if since <= recent]:
            del self._lost[peer]
            for actor_id in [actor_id for actor_id, former in self._former.items() if peer in former]:
                self._forget_former(actor_id, peer)
        here = len(self._members) + 1
        return here, here + len(self._lost)

    # -- the testator ------------------------------------------------------------------------------------------------

    def on_changed(self, actor_id: bytes) -> None:
        """A detached actor of ours is there, lives elsewhere, or has ended."""
        actor = self._actors.actor(actor_id)
        if self.leaving or (actor is not None and not actor.spec.detached):
            return
        heir = self._heirs.get(actor_id)
        if actor is None or actor.life in (Life.ENDING, Life.DEAD):
            if self._heirs.pop(actor_id, None) is not None and heir is not None:
                self._tell(heir, WillOver(actor_id))
            self._inherited.pop(actor_id, None)
            self._former.pop(actor_id, None)
            return
        if heir is None or heir == peer_of(actor.worker):  # where it lives nobody should be needed to let it live
            chosen = peer_of(self._choose(actor_id, node_of(actor.worker)) or b"")
            if chosen in self._members and chosen != heir:
                if heir is not None:
                    self._tell(heir, WillOver(actor_id))
                heir = self._heirs[actor_id] = chosen
                self._actors.set_heir(actor_id, heir)
        if heir is not None:
            self._tell(heir, _will(actor))

    def leave(self, now: float) -> None:
        """This peer is stopped: hand over what can be. `done` says when."""
        self.leaving = True
        for actor_id in list(self._heirs):
            actor = self._actors.actor(actor_id)
            if actor is None or actor.life in (Life.ENDING, Life.DEAD):
                continue
            worker, will = actor.worker, _will(actor)
            lives = bool(will.worker) and node_of(worker) != self._node
            if worker and not lives and not actor.spec.max_restarts:
                continue  # it may not be started again
            if not lives:
                pause_s = max(0.0, (actor.deadline or now) - now) if actor.life is Life.BACKOFF else 0.0
                will = msgspec.structs.replace(will, worker=b"", pause_s=pause_s)
            if not self._settle_heir(actor_id, node_of(worker)):
                continue
            self._actors.hand_over(actor_id, lives)
            self._wills[actor_id] = will
            if worker and not lives:
                self._moving[actor_id] = worker
            elif actor_id in self._claimed:  # else its host may hear of the next owner before it hears of us
                self._moving[actor_id] = peer_of(worker)
            else:
                self._say_inherit(actor_id, will)

    def _settle_heir(self, actor_id: bytes, avoided: bytes, refused: bytes = b"") -> bool:
        """See to it that the heir is a member that does not leave, as far as is known. False: there is none."""
        heir = self._heirs.get(actor_id)
        chosen = peer_of(self._choose(actor_id, avoided) or b"")
        if chosen not in self._members or chosen == refused:
            return False
        if chosen != heir:
            if heir is not None:
                self._tell(heir, WillOver(actor_id))
            self._heirs[actor_id] = chosen
            self._actors.set_heir(actor_id, chosen)
        return True

    @property
    def done(self) -> bool:
        """Whether nobody is waited for."""
        return not self._moving

    def on_process_died(self, process: bytes) -> None:
        """A worker, here or elsewhere: what it hosted may be started again now."""
        for actor_id in [actor_id for actor_id, awaited in self._moving.items() if awaited == process]:
            self._say_inherit(actor_id, self._wills[actor_id])

    def _say_inherit(self, actor_id: bytes, will: Will, refused: bytes = b"") -> None:
        if not self._settle_heir(actor_id, node_of(will.worker), refused):
            self._moving.pop(actor_id, None)
            return
        heir = self._moving[actor_id] = self._heirs[actor_id]
        self._tell(heir, will)
        self._tell(heir, Inherit(actor_id))

    def on_inherited(self, heir: bytes, message: Inherited) -> None:
        """It has taken over."""
        actor_id = message.actor_id
        if self._moving.get(actor_id) != heir:
            return
        will = self._wills[actor_id]
        if message.refused:
            self._say_inherit(actor_id, will, refused=heir)
        elif will.worker and node_of(will.worker) != node_of(heir):
            self._moving[actor_id] = peer_of(will.worker)
            self._tell(peer_of(will.worker), GuestMoves(actor_id, will.incarnation, will.worker, heir))
        else:
            del self._moving[actor_id]

    def on_guest_moved(self, host: bytes, message: GuestMoved) -> None:
        """Its host knows of the new owner."""
        actor_id = message.actor_id
        if self._claimed.get(actor_id) == host:
            del self._claimed[actor_id]
            if self._moving.get(actor_id) == host:  # which leaves by now
                self._say_inherit(actor_id, self._wills[actor_id])
        elif self._moving.get(actor_id) == host:
            del self._moving[actor_id]

    # -- the heir ----------------------------------------------------------------------------------------------------

    def on_will(self, testator: bytes, message: Will) -> None:
        """The newest one counts."""
        actor_id = message.spec.actor_id
        if len(self._estates) >= self._config.wills_max and actor_id not in self._estates:
            self.left_out += 1
            return
        self._estates[actor_id] = _Estate(testator, message)

    def on_over(self, testator: bytes, message: WillOver) -> None:
        """It is not ours to have any more."""
        estate = self._estates.get(message.actor_id)
        if estate is not None and estate.testator == testator:
            self._lose(message.actor_id)

    def on_inherit(self, testator: bytes, message: Inherit) -> None:
        """The testator leaves."""
        actor_id = message.actor_id
        estate = self._estates.get(actor_id)
        if estate is not None and estate.testator == testator:
            if self.leaving:
                self._lose(actor_id)
            else:
                self._take(actor_id, lives=bool(estate.will.worker), charged=False)
        self._tell(testator, Inherited(actor_id, refused=not self.has_inherited(actor_id)))

    def _take(self, actor_id: bytes, lives: bool, charged: bool) -> None:
        will = self._estates.pop(actor_id).will
        if charged:
            will = msgspec.structs.replace(will, incarnation=will.incarnation + UNTOLD_MAX)
        self._inherited[actor_id] = None
        self._effects.append(Inherits(will, lives, charged))
        for peer in sorted(self._members):
            self._tell(peer, ActorsMoved([actor_id]))
        host = peer_of(will.worker)
        if lives and host in self._members:
            self._claimed[actor_id] = host
            self._tell(host, GuestMoves(actor_id, will.incarnation, will.worker, peer_of(self._node)))

    def on_moved(self, peer: bytes, actor_id: bytes) -> None:
        """Another member has taken it over. If we have it, too, then one of us does no more: who owned it first; else
        the one of the smaller id."""
        estate = self._estates.get(actor_id)
        if estate is not None and estate.testator != peer:
            del self._estates[actor_id]
        actor = self._actors.actor(actor_id)
        if actor is not None and (not actor.inherited or peer > peer_of(self._node)):
            self._actors.on_cut_off(actor_id)

    def needs(self, job: bytes) -> bool:
        """Whether an actor of this job may be started here some day."""
        return any(estate.will.spec.job == job for estate in self._estates.values())

    def has_inherited(self, actor_id: bytes) -> bool:
        """Whether it is ours, though another peer stands in its id."""
        return actor_id in self._inherited

    def awaits(self, actor_id: bytes) -> bool:
        """Whether it may be ours soon."""
        return actor_id in self._estates

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        return min((estate.due_at for estate in self._estates.values() if estate.due_at is not None), default=None)

    def tick(self, now: float) -> None:
        """Owners that are gone have been waited for long enough."""
        for actor_id, estate in list(self._estates.items()):
            if estate.due_at is None or estate.due_at > now:
                continue
            here, all_ = self._count(now)
            if 2 * here > all_:
                self._take(actor_id, lives=False, charged=True)
            else:
                self._lose(actor_id)  # we are the ones who were cut off

    def _lose(self, actor_id: bytes) -> None:
        del self._estates[actor_id]
        self._actors.on_never(actor_id)

    def _tell(self, process: bytes, message: Message) -> None:
        self._effects.append(Send(process, message))


def _will(actor: Actor) -> Will:
    worker = actor.worker if actor.life is Life.ALIVE else b""
    return Will(actor.spec, actor.incarnation, actor.restarts, worker)
