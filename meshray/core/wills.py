"""Who takes over a detached actor when the peer that owns it is gone?

A detached actor outlives its driver; this is for the day on which it should outlive its owner, too. Each has an *heir*,
another member, which has a `Will`: what it takes to start the actor again. There are two ways to inherit:

- **The owner leaves** (it is stopped). It ends the actor if that lives on its own host, or is still being started
  somewhere, and says `Inherit` once that is over. Where that cannot be seen, since the host was lost, the will says how
  long the heir has to wait (`pause_s`). An actor that lives on another host goes on: that is told of the new owner
  (`GuestMoves`), by the new one, too, since the old one may not come to it. The owner waits for all answers, within a
  bound, before it goes. An heir that leaves as well, or has too many wills, does not take it, and another one is asked.
  (One that has too many says so as soon as it gets another: it is no heir of that actor until it was away.)
- **The owner is gone** without a word. It may as well be cut off, and then it goes on being the owner. So the heir
  waits `heir_after_s`, longer than it takes to notice that one is cut off, and takes over only if it sees more than
  half of the members that there were; and an owner that sees less than half of them ends its detached actors, if one of
  those that it has lost may have a will. In a mesh of two neither is more than half: there the actor stays with its
  owner, and dies with it.

Where owner and heir alone cannot reach each other, while others reach both, the heir lets go of the will: the owner
chooses another heir, and two of them would start the actor twice. They may find each other again at any time.

Callers are told of the heir in advance (`ActorNews`), and watch there when the owner is gone. Those who only have a
handle hear where it is now (`ActorsMoved`), like everybody.

**No actor is inherited twice, nor after its end.** What could go wrong is a will that nobody remembers:

- *A peer that was lost comes back with a will*, of an actor that has another heir now, or was killed meanwhile. Either
  all that two peers say to each other arrives, in order, or each sees the other go and come (`core.road`). So whoever
  has wills tells their owner which, each time that one is there (again): `WillsHeld`; the owner answers `WillOver` for
  each that should not be. If any of that is lost, the two see each other go and come once more, and it begins anew;
  meanwhile the owner is not there for that peer, and its wills wait `heir_after_s` again. The owner remembers nothing
  of the dead.
- *The owner and its present heir are cut off together*, and one that had the will before is not. So the owner
  remembers for each living actor who may have a will (`given`): whoever was sent one and has not answered WillOver
  (`WillsHeld.over`). Both name the reign, since that peer may be the heir again before its answer is there. At each
  loss the owner looks whether it sees less than half, and has lost one of these. One that was lost for twice
  `heir_after_s` has inherited, or has not: it is forgotten, as it is no part of any half.
- *The owner dies before it could say WillOver*, or is held for gone by most and does not know. Then two may own the
  actor. Every owner has a *reign*: the creator's peer 0, each heir the number in its will, which an owner counts up
  with each heir that it names. Whoever takes over says so to all, with its reign, and to each member that comes. Who
  has a will of that actor and hears it drops the will: the actor is not to be had any more. Of two owners that with
  the lower reign *gives way* (of the same, that with the lower id): its worker ends, its watchers watch at the other
  one. As long as these two cannot hear each other the actor does live twice; that takes a mesh in which each of them
  sees more than half, or one that comes back between the death of the owner and the end of the wait.
- *Hosts and callers may have seen incarnations that the heir was not told of.* They go by the highest. So whoever takes
  over from one that is gone counts on from further above, the further the higher its reign (`UNTOLD_MAX`).
- *A new owner leaves before its actor's host knows it.* That might hear of the next owner first, and then go back to
  this one. So it waits for that host (`_claimed`) before it hands over.
- *A will of a program that this peer does not know*, since it has joined after the program had ended, say. Nothing
  could be started with it, so its owner is asked for what is known of the program (`core.programs`). That is needed
  here as long as there are wills of it, or actors that are being handed over, either way (`needs`).
- *An actor that was taken over has ended*: its last owner says that it took it over all the same, so that neither an
  old owner nor an old will brings it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

import msgspec
from msgspec import Struct

from meshray.config import Config
from meshray.core.actors import Actors
from meshray.core.effects import Core, Send
from meshray.core.fencing import SKEW
from meshray.core.gone import remember
from meshray.core.lives import Actor, Life
from meshray.ids import node_of, owner_node_of, peer_of
from meshray.wire.messages import (
    ActorsMoved,
    GuestMoved,
    GuestMoves,
    Inherit,
    Inherited,
    KillActor,
    Message,
    Will,
    WillOver,
    WillsHeld,
)

IDS_AT_ONCE = 256
"""At most so many ids travel in one message (the schema allows more)."""

ENDED_MAX = 1024
"""Actors that were taken over, and have ended or went to another owner, that are remembered."""


UNTOLD_MAX = 1000
"""So often an owner that was cut off from its heir may have started the actor again, at most: the heir numbers its
incarnations from there, and of a later reign from further on. Callers and hosts may have seen those of others."""


class Inherits(Struct, frozen=True):
    """Wills to actors: this one is ours from now on. `lives`: its worker goes on; else it is started again, which is
    charged if `charged`."""

    will: Will
    lives: bool
    charged: bool


class GivesWay(Struct, frozen=True):
    """Wills to actors: this one of ours has another owner. It ends here, and is not dead."""

    actor_id: bytes


class _Estate:
    """A will that this peer has."""

    __slots__ = ("due_at", "testator", "will")

    def __init__(self, testator: bytes, will: Will) -> None:
        self.testator = testator
        self.will = will
        self.due_at: float | None = None  # its testator is gone: when it is inherited


class _Bequest:
    """A detached actor of ours, and who is to have it."""

    __slots__ = ("given", "heir", "reign")

    def __init__(self, reign: int) -> None:
        self.heir = b""  # the peer that has its newest will; b"" for none
        self.reign = reign  # of that one, or of the last
        self.given: dict[bytes, int] = {}  # peers that may have a will of it, `heir` among them -> the newest's reign


class Wills(Core):
    """See the head of this file. `choose(actor_id, avoided)`: the home node of a member, if there is any; one of
    `avoided` only if there is no other."""

    def __init__(
        self, config: Config, node: bytes, actors: Actors, choose: Callable[[bytes, frozenset[bytes]], bytes | None]
    ) -> None:
        super().__init__()
        actors.awaited = self.awaits
        self._config = config
        self._node = node
        self._actors = actors
        self._choose = choose
        self._bequests: dict[bytes, _Bequest] = {}  # living detached actors of ours
        self._estates: dict[bytes, _Estate] = {}  # actor of another peer -> its will; bounded
        self._coming: dict[bytes, Will] = {}  # of actors that we take over, until `Actors` has them
        self._inherited: dict[bytes, int] = {}  # living actors that we have taken over -> our reign
        self._ended: dict[bytes, int] = {}  # the same, of those that are dead; bounded
        self._given_way: dict[bytes, bytes] = {}  # actors of ours that another peer has taken over, and which; bounded
        self._claimed: dict[bytes, bytes] = {}  # actor that we have taken over -> its host, until that knows it
        self._members: set[bytes] = set()
        self._lost: dict[bytes, float] = {}  # members that are gone without a goodbye, for a while -> since when
        self._moving: dict[bytes, bytes] = {}  # actor that we hand over -> whose answer is awaited: a worker, or a peer
        self._wills: dict[bytes, Will] = {}  # what is handed over
        self._dying: set[bytes] = set()  # workers of actors of ours that may not start again, since this peer leaves
        self._refused: dict[bytes, set[bytes]] = {}  # actor of ours -> members that did not take its will
        self.leaving = False  # this peer is stopped
        self.left_out = 0  # wills that were too many, and not taken

    # -- members -----------------------------------------------------------------------------------------------------

    def on_member_up(self, peer: bytes) -> None:
        """A member is there, maybe again. A repeat changes nothing."""
        if peer in self._members:
            return
        self._members.add(peer)
        self._lost.pop(peer, None)
        held = [actor_id for actor_id, estate in self._estates.items() if estate.testator == peer]
        for actor_id in held:
            self._estates[actor_id].due_at = None
        for some in _parts(held):
            self._tell(peer, WillsHeld(held=some))
        reigns = self._inherited | self._ended
        for some in _parts(list(reigns)):
            self._tell(peer, ActorsMoved(some, [reigns[actor_id] for actor_id in some]))
        for actor_id, bequest in self._bequests.items():
            if peer in bequest.given and peer != bequest.heir:
                self._tell(peer, WillOver(actor_id, bequest.reign))
        for actor in self._actors.all():
            if actor.spec.detached and not self.heir_of(actor.spec.actor_id):
                self.on_changed(actor.spec.actor_id)

    def on_member_down(self, peer: bytes, left: bool, now: float) -> None:
        """It is gone. `left`: it has said goodbye."""
        if peer not in self._members:
            return
        self._members.discard(peer)
        for refused in self._refused.values():
            refused.discard(peer)
        if not left:
            self._lost[peer] = now
        for estate in self._estates.values():
            if estate.testator == peer and estate.due_at is None:
                estate.due_at = now + self._config.heir_after_s
        cut_off = self._cut_off(now)
        for actor_id, bequest in list(self._bequests.items()):
            was_heir = bequest.heir == peer and actor_id not in self._wills
            if was_heir:
                bequest.heir = b""
            bequest.given = {
                other: reign for other, reign in bequest.given.items() if other in self._members or other in self._lost
            }
            if cut_off and not self._lost.keys().isdisjoint(bequest.given):
                self._moving.pop(actor_id, None)  # whoever would have it instead is cut off as well
                self._actors.on_cut_off(actor_id)
            elif was_heir:
                self.on_changed(actor_id)
        self._claimed = {actor_id: host for actor_id, host in self._claimed.items() if host != peer}
        self._dying = {worker for worker in self._dying if peer_of(worker) != peer}  # nobody will tell of their end
        for actor_id, awaited in list(self._moving.items()):
            if awaited == peer:
                del self._moving[actor_id]
            elif peer_of(awaited) == peer:  # a worker there, which may live until its right is over
                self._wills[actor_id] = _paused(self._wills[actor_id], self._right_s())
                self._say_inherit(actor_id)

    def _right_s(self) -> float:
        """How long an actor may live on a host that nobody answers."""
        return SKEW * self._config.fence_right_s + self._config.fence_margin_s

    def on_member_leaves(self, peer: bytes) -> None:
        """It is being stopped: another one should inherit from us, before both are gone."""
        for actor_id in [actor_id for actor_id, bequest in self._bequests.items() if bequest.heir == peer]:
            actor = self._actors.actor(actor_id)
            if actor is not None and self._settle_heir(actor_id, node_of(actor.worker)):
                bequest = self._bequests[actor_id]
                self._tell(bequest.heir, self._will(actor, bequest.reign))

    def on_out_of_reach(self, peer: bytes) -> None:
        """There is no link to it, and it lives. Told before `on_member_down`."""
        for actor_id in [actor_id for actor_id, estate in self._estates.items() if estate.testator == peer]:
            self._lose(actor_id)

    def _cut_off(self, now: float) -> bool:
        """Whether this peer sees less than half of the members that there were."""
        here, all_ = self._count(now)
        return 2 * here < all_

    def _count(self, now: float) -> tuple[int, int]:
        recent = now - 2 * self._config.heir_after_s
        self._lost = {peer: since for peer, since in self._lost.items() if since > recent}
        here = len(self._members) + 1
        return here, here + len(self._lost)

    # -- the testator ------------------------------------------------------------------------------------------------

    def heir_of(self, actor_id: bytes) -> bytes:
        """Who has the newest will of an actor of ours; b"" for nobody."""
        bequest = self._bequests.get(actor_id)
        return bequest.heir if bequest is not None else b""

    def on_changed(self, actor_id: bytes) -> None:
        """A detached actor of ours is there, lives elsewhere, or has ended."""
        self._coming.pop(actor_id, None)
        if actor_id in self._wills:
            return  # it is handed over
        actor = self._actors.actor(actor_id)
        if actor is None or actor.life in (Life.ENDING, Life.DEAD):
            self._end(actor_id)
        elif actor.spec.detached:
            bequest = self._bequests.setdefault(actor_id, _Bequest(self._inherited.get(actor_id, 0)))
            if not bequest.heir or bequest.heir == peer_of(actor.worker):  # where it lives nobody should be needed
                self._settle_heir(actor_id, node_of(actor.worker))
            if bequest.heir:
                self._tell(bequest.heir, self._will(actor, bequest.reign))

    def _end(self, actor_id: bytes) -> None:
        """It is not ours any more."""
        bequest = self._bequests.pop(actor_id, None)
        if bequest is not None:
            for peer in sorted(self._members & bequest.given.keys()):
                self._tell(peer, WillOver(actor_id, bequest.reign))
        self._refused.pop(actor_id, None)
        self._claimed.pop(actor_id, None)
        reign = self._inherited.pop(actor_id, None)
        if reign is not None:
            remember(self._ended, actor_id, reign, ENDED_MAX)

    def _will(self, actor: Actor, reign: int) -> Will:
        worker = actor.worker if actor.life is Life.ALIVE else b""
        own = self._inherited.get(actor.spec.actor_id, 0)
        return Will(actor.spec, actor.incarnation, actor.restarts, worker, reign, own)

    def _settle_heir(self, actor_id: bytes, avoided: bytes) -> bool:
        """Choose its heir, maybe the same again: a member that does not leave, as far as is known. False: there is
        none."""
        bequest = self._bequests[actor_id]
        refused = frozenset(node_of(peer) for peer in self._refused.get(actor_id, ()))
        node = self._choose(actor_id, refused | {avoided})
        if node in refused:
            node = self._choose(actor_id, refused)
        chosen = peer_of(node or b"")
        if chosen not in self._members or node in refused:
            return False
        if chosen != bequest.heir:
            if bequest.heir in self._members:
                self._tell(bequest.heir, WillOver(actor_id, bequest.reign))
            bequest.heir = chosen
            bequest.reign += 1
            bequest.given[chosen] = bequest.reign
            self._actors.set_heir(actor_id, chosen)
        return True

    def on_held(self, peer: bytes, message: WillsHeld) -> None:
        """It is there (again) with wills of ours; or it has none of these any more."""
        for actor_id in message.held:
            bequest = self._bequests.get(actor_id)
            if bequest is None or bequest.heir != peer:
                self._tell(peer, WillOver(actor_id, bequest.reign if bequest is not None else 0))
            elif actor_id in self._wills and actor_id not in self._moving:  # that was lost
                self._ask_heir(actor_id)
        for actor_id, reign in zip(message.over, message.reigns, strict=True):
            self._on_none_held(peer, actor_id, reign)

    def _on_none_held(self, peer: bytes, actor_id: bytes, reign: int) -> None:
        """It has no will of that reign, nor of an earlier one."""
        bequest = self._bequests.get(actor_id)
        if bequest is None or not 0 < bequest.given.get(peer, 0) <= reign:
            return  # it was given another one since
        if bequest.heir != peer:
            del bequest.given[peer]
        elif actor_id not in self._wills:  # else it has refused that as well (`Inherited`)
            self._tell(peer, WillOver(actor_id, reign))  # a newer copy may be on its way, and it have room by then
            bequest.heir = b""
            self._refused.setdefault(actor_id, set()).add(peer)
            self.on_changed(actor_id)

    def leave(self, now: float) -> None:
        """This peer is stopped: hand over what can be. `done` says when."""
        self.leaving = True
        for actor_id, bequest in list(self._bequests.items()):
            actor = self._actors.actor(actor_id)
            if actor is None or actor.life in (Life.ENDING, Life.DEAD):
                continue
            worker, will = actor.worker, self._will(actor, bequest.reign)
            lives = bool(will.worker) and node_of(worker) != self._node
            if worker and not lives and not actor.spec.max_restarts:
                self._dying.add(worker)  # all who call it hear that before this peer is gone
                self._actors.on_host_leaves(actor_id)
                continue
            if not lives:
                will = _paused(will, max(0.0, (actor.deadline or now) - now) if actor.life is Life.BACKOFF else 0.0)
            if not self._settle_heir(actor_id, node_of(worker)):
                continue
            self._wills[actor_id] = will
            self._actors.hand_over(actor_id, lives)
            if worker and not lives:
                self._moving[actor_id] = worker  # it may not live elsewhere before that is dead
            elif actor_id in self._claimed:
                self._moving[actor_id] = peer_of(worker)  # else it may hear of the next owner before it hears of us
            else:
                self._say_inherit(actor_id)

    @property
    def done(self) -> bool:
        """Whether nobody is waited for."""
        return not self._moving and not self._dying

    @property
    def moving(self) -> int:
        """How many of our actors have not moved yet, or ended."""
        return len(self._moving) + len(self._dying)

    def on_process_died(self, process: bytes) -> None:
        """A worker is dead, here or elsewhere: what it hosted may be started again now."""
        self._dying.discard(process)
        for actor_id in [actor_id for actor_id, awaited in self._moving.items() if awaited == process]:
            self._say_inherit(actor_id)

    def _say_inherit(self, actor_id: bytes) -> None:
        """To its heir; or to another one, if that is gone meanwhile, leaves, or has refused."""
        if self._settle_heir(actor_id, node_of(self._wills[actor_id].worker)):
            self._ask_heir(actor_id)
        else:
            self._moving.pop(actor_id, None)  # there is no other

    def _ask_heir(self, actor_id: bytes) -> None:
        bequest = self._bequests[actor_id]
        will = self._wills[actor_id] = msgspec.structs.replace(self._wills[actor_id], reign=bequest.reign)
        self._moving[actor_id] = bequest.heir
        self._tell(bequest.heir, will)
        self._tell(bequest.heir, Inherit(actor_id))

    def on_inherited(self, heir: bytes, message: Inherited) -> None:
        """It has taken over, or has not: then another one is asked."""
        actor_id = message.actor_id
        if self._moving.get(actor_id) != heir:
            return
        will = self._wills[actor_id]
        if not message.taken:
            self._refused.setdefault(actor_id, set()).add(heir)
            self._say_inherit(actor_id)
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
            if self._moving.get(actor_id) == host:  # this peer leaves by now
                self._say_inherit(actor_id)
        elif self._moving.get(actor_id) == host:
            del self._moving[actor_id]

    def passes_on(self, message: KillActor) -> bool:
        """Whether that actor was handed over: then its new owner is told, who kills it as soon as it has it."""
        if message.actor_id not in self._wills:
            return False
        owner = self._given_way.get(message.actor_id) or self.heir_of(message.actor_id)
        if owner:
            self._tell(owner, message)
        return True

    # -- the heir ----------------------------------------------------------------------------------------------------

    def on_will(self, testator: bytes, message: Will) -> None:
        """The newest one counts. One that is too many is not taken (`left_out`), and its testator told."""
        actor_id = message.spec.actor_id
        own = self._reign_of(actor_id)
        if own is not None and self.has_inherited(actor_id):
            self._tell(testator, ActorsMoved([actor_id], [own]))
            return
        estate = self._estates.get(actor_id)
        if estate is not None and (message.own, testator) < (estate.will.own, estate.testator):
            return  # it is about to give way
        if len(self._estates) >= self._config.wills_max and actor_id not in self._estates:
            self.left_out += 1
            self._tell(testator, WillsHeld(over=[actor_id], reigns=[message.reign]))
            return
        self._estates[actor_id] = _Estate(testator, message)

    def on_over(self, testator: bytes, message: WillOver) -> None:
        """It is not ours to have any more."""
        estate = self._estates.get(message.actor_id)
        if estate is not None and estate.testator == testator:
            self._lose(message.actor_id)
        self._tell(testator, WillsHeld(over=[message.actor_id], reigns=[message.reign]))

    def on_inherit(self, testator: bytes, message: Inherit) -> None:
        """The testator leaves."""
        actor_id = message.actor_id
        estate = self._estates.get(actor_id)
        if estate is not None and estate.testator == testator:
            if self.leaving:
                self._lose(actor_id)
            else:
                self._take(actor_id, lives=bool(estate.will.worker), charged=False)
        self._tell(testator, Inherited(actor_id, self.has_inherited(actor_id)))

    def _take(self, actor_id: bytes, lives: bool, charged: bool) -> None:
        will = self._coming[actor_id] = self._estates.pop(actor_id).will
        host = peer_of(will.worker)
        if charged:
            first = max(will.incarnation, UNTOLD_MAX * (will.reign - 1)) + UNTOLD_MAX
            will = msgspec.structs.replace(will, incarnation=first)
        elif lives and host not in self._members and node_of(host) != self._node:
            lives, leave_s = False, self._config.leave_move_s + self._config.leave_say_s
            will = _paused(will, leave_s + self._right_s())  # out of our sight; the testator may still answer for it
        self._inherited[actor_id] = will.reign
        self._ended.pop(actor_id, None)
        self._given_way.pop(actor_id, None)
        self._effects.append(Inherits(will, lives, charged))
        for peer in sorted(self._members):
            self._tell(peer, ActorsMoved([actor_id], [will.reign]))
        if lives and host in self._members:
            self._claimed[actor_id] = host
            self._tell(host, GuestMoves(actor_id, will.incarnation, will.worker, peer_of(self._node)))

    def _lose(self, actor_id: bytes) -> None:
        del self._estates[actor_id]
        self._actors.on_never(actor_id)

    # -- other owners ------------------------------------------------------------------------------------------------

    def on_moved(self, owner: bytes, actor_id: bytes, reign: int) -> bool:
        """Another peer says that it has taken this one over. False: so have we, later; and it is told."""
        estate = self._estates.get(actor_id)
        if estate is not None and (estate.will.own, estate.testator) < (reign, owner):
            self._lose(actor_id)
        own = self._reign_of(actor_id)
        if own is None:
            return True
        if (reign, owner) < (own, peer_of(self._node)):
            self._tell(owner, ActorsMoved([actor_id], [own]))
            return False
        remember(self._given_way, actor_id, owner, ENDED_MAX)
        self._end(actor_id)
        if self._moving.get(actor_id) != owner:  # else that is the heir that was asked, and will say so
            self._moving.pop(actor_id, None)
        self._ended.pop(actor_id, None)
        if self._actors.actor(actor_id) is not None:
            self._effects.append(GivesWay(actor_id))
        return True

    def _reign_of(self, actor_id: bytes) -> int | None:
        """With which we have, or had, an actor; None if it was never ours."""
        inherited = self._inherited.get(actor_id, self._ended.get(actor_id))
        return 0 if inherited is None and owner_node_of(actor_id) == self._node else inherited

    # -- reading -----------------------------------------------------------------------------------------------------

    def needs(self, job: bytes) -> bool:
        """Whether an actor of this job may be started here some day, or an heir of ours may have to be told of it."""
        wills = chain((estate.will for estate in self._estates.values()), self._coming.values(), self._wills.values())
        return any(will.spec.job == job for will in wills)

    def has_inherited(self, actor_id: bytes) -> bool:
        """Whether it is ours, or was to its end, though another peer stands in its id."""
        return actor_id in self._inherited or actor_id in self._ended

    def has_given_way(self, actor_id: bytes) -> bool:
        """Whether it is another peer's, though ours stands in its id."""
        return actor_id in self._given_way

    def awaits(self, actor_id: bytes) -> bool:
        """Whether it may be ours soon."""
        return actor_id in self._estates

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        if not self._estates:
            return None
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

    def _tell(self, process: bytes, message: Message) -> None:
        self._effects.append(Send(process, message))


def _paused(will: Will, seconds: float) -> Will:
    """It is started again, not before so long."""
    return msgspec.structs.replace(will, worker=b"", pause_s=seconds)


def _parts(ids: list[bytes]) -> Iterable[list[bytes]]:
    return (ids[begin : begin + IDS_AT_ONCE] for begin in range(0, len(ids), IDS_AT_ONCE))
