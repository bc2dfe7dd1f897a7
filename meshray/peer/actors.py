"""Actors, here and on other hosts: which core a message or an effect about them is for.

An actor may be our own (`core.actors`), somebody else's that lives here (`core.guests`), or somebody else's that is
called from here (`core.foreign_actors`). Where our own ones live is for `core.lodging`; names are for `core.naming`
before they are for `core.actors`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshray.core.actors import request_for, what_waits
from meshray.core.effects import (
    ActorPlaced,
    ActorSlot,
    ActorWaits,
    CreateNamed,
    DetachedChanged,
    DetachedLost,
    FreeSlot,
    GuestsCame,
    GuestsLeft,
    HoldFor,
    LetGo,
    NameChanged,
    NameConflict,
    ReleaseActorSlot,
    RequestActorSlot,
    ShrinkSlot,
    TakeSlot,
    TellCallers,
)
from meshray.core.fencing import Fenced
from meshray.core.lives import Life
from meshray.core.programs import ProgramLost
from meshray.core.wills import GivesWay, Inherits
from meshray.ids import node_of, owner_node_of, peer_of
from meshray.observe.notes import note
from meshray.peer.parts import Parts
from meshray.peer.prints import Prints
from meshray.peer.timers import boot_time, wall_ms
from meshray.wire import messages as m

Handler = Callable[[bytes, Any, float], None]

NO_JOB = "what is known of its program did not come to host"
"""Why an actor that was inherited cannot start on a host, whose name follows."""


def actors_of_processes(parts: Parts) -> dict[type, Handler]:
    """What processes of this host say."""
    cores = parts.cores

    def create(source: bytes, message: m.CreateActor, now: float) -> None:
        if message.name:
            cores.naming.on_create(source, message, now, wall_ms())
        else:
            cores.actors.on_create(source, message, now)

    def watch(source: bytes, message: m.WatchActor, now: float) -> None:
        if _is_ours(parts, message.actor_id):
            cores.actors.on_watch(source, message)
        else:
            cores.foreign_actors.on_watch(source, message)

    def kill(source: bytes, message: m.KillActor, now: float) -> None:
        if cores.wills.passes_on(message):
            return
        if _is_ours(parts, message.actor_id):
            cores.actors.on_kill(source, message)
        else:
            cores.foreign_actors.on_kill(message)

    def find(source: bytes, message: m.FindActor, now: float) -> None:
        if cores.actors.has_name(message.namespace, message.name):
            cores.actors.on_find(source, message)
        else:
            cores.naming.on_find(source, message, now)

    def ready(source: bytes, message: m.ActorReady, now: float) -> None:
        if not cores.guests.on_ready(source, message):
            cores.actors.on_ready(source, message, now)

    def leaves(source: bytes, message: m.ActorExit, now: float) -> None:
        if not cores.guests.on_exit(source, message):
            cores.actors.on_exit(source, message, now)

    return {
        m.CreateActor: create,
        m.WatchActor: watch,
        m.KillActor: kill,
        m.FindActor: find,
        m.ActorReady: ready,
        m.ActorExit: leaves,
    }


def actors_of_peers(parts: Parts) -> dict[type, Handler]:
    """What peers of other hosts say."""
    cores = parts.cores
    actors, lodging, guests, fencing = cores.actors, cores.lodging, cores.guests, cores.fencing
    naming, wills = cores.naming, cores.wills

    def moved(source: bytes, message: m.ActorsMoved, now: float) -> None:
        if len(message.actor_ids) != len(message.reigns):
            parts.counters["messages out of place"] += 1
            return
        for actor_id, reign in zip(message.actor_ids, message.reigns, strict=True):
            if wills.on_moved(source, actor_id, reign):
                cores.foreign_actors.on_moved(actor_id, source, reign)

    def will(source: bytes, message: m.Will, now: float) -> None:
        left_out = wills.left_out
        wills.on_will(source, message)
        if wills.awaits(message.spec.actor_id):
            cores.programs.on_needed(message.spec.job, source)
        if not left_out and wills.left_out:  # once
            most = parts.config.wills_max
            note(f"this peer is the heir of {most} detached actors (wills_max), others have to do without it")

    def over(source: bytes, message: m.WillOver, now: float) -> None:
        wills.on_over(source, message)
        cores.leases.tidy(now)

    def held(source: bytes, message: m.WillsHeld, now: float) -> None:
        if len(message.over) != len(message.reigns):
            parts.counters["messages out of place"] += 1
            return
        wills.on_held(source, message)

    def lost(source: bytes, message: m.GuestLost, now: float) -> None:
        actors.on_guest_lost(source, message, now)
        if peer_of(message.worker) == source:
            wills.on_process_died(message.worker)

    def kill(source: bytes, message: m.KillActor, now: float) -> None:
        if not wills.passes_on(message):
            actors.on_kill(source, message)

    def moves(source: bytes, message: m.GuestMoves, now: float) -> None:
        if message.owner == parts.process_id:
            parts.counters["messages out of place"] += 1  # an heir never hosts the actor: it would tell itself of it
        else:
            guests.on_moves(source, message)

    def hosted(source: bytes, message: m.ActorHosted, now: float) -> None:
        fencing.on_placed(source, boot_time())
        lodging.on_hosted(source, message)

    return {
        m.HostActor: lambda source, message, now: guests.on_host(source, message),
        m.LeaveActor: lambda source, message, now: guests.on_leave(source, message),
        m.KillGuest: lambda source, message, now: guests.on_kill(source, message),
        m.ActorHosted: hosted,
        m.ActorWaitsThere: lodging.on_waits_there,
        m.GuestReady: actors.on_guest_said,
        m.GuestExit: actors.on_guest_said,
        m.GuestLost: lost,
        m.FenceRenew: lambda source, message, now: fencing.on_renew(source, message, boot_time()),
        m.FenceRenewed: lambda source, message, now: fencing.on_renewed(source, message, boot_time()),
        m.WatchActor: lambda source, message, now: actors.on_watch(source, message),
        m.UnwatchActor: lambda source, message, now: actors.on_unwatch(source, message),
        m.KillActor: kill,
        m.FindActor: lambda source, message, now: actors.on_find(source, message),
        m.ActorNews: lambda source, message, now: cores.foreign_actors.on_news(source, message),
        m.ActorFound: naming.on_found,
        m.NameClaim: lambda source, message, now: naming.on_claim(source, message),
        m.NameAnswer: naming.on_answer,
        m.NamesHeld: lambda source, message, now: naming.on_held(source, message),
        m.NameFreed: lambda source, message, now: naming.on_freed(source, message),
        m.Will: will,
        m.WillOver: over,
        m.Inherit: lambda source, message, now: wills.on_inherit(source, message),
        m.Inherited: lambda source, message, now: wills.on_inherited(source, message),
        m.GuestMoves: moves,
        m.GuestMoved: lambda source, message, now: wills.on_guest_moved(source, message),
        m.ActorsMoved: moved,
        m.WillsHeld: held,
    }


def actor_effects(parts: Parts) -> dict[type, Callable[[Any, float], None]]:
    """What the cores of actors ask."""
    cores = parts.cores
    leases, lodging, guests, fencing, naming = cores.leases, cores.lodging, cores.guests, cores.fencing, cores.naming
    prints = Prints(parts)

    def slot(effect: ActorSlot, now: float) -> None:
        if node_of(effect.worker) != parts.node or lodging.on_own_slot(effect):
            cores.actors.on_slot(effect.actor_id, effect.worker, now)

    def own_slot(effect: ActorSlot, now: float) -> None:
        if guests.knows(effect.actor_id):
            guests.on_slot(effect.actor_id, effect.worker)
        else:
            slot(effect, now)

    def waits(effect: ActorWaits, now: float) -> None:
        if not guests.waits(effect.actor_id):  # it may be ours by now, and its worker of before not dead
            own_waits(effect, now)
        elif effect.strange:
            guests.on_refused(effect.actor_id, effect.message)
        else:
            guests.on_waits(effect.actor_id, effect.message, effect.broken)

    def own_waits(effect: ActorWaits, now: float) -> None:
        actor = cores.actors.actor(effect.actor_id)
        alone = leases.job_info(effect.job) is None  # its program has ended
        if effect.broken or effect.strange:
            cores.actors.on_slot_failed(effect.actor_id, effect.message)
        elif effect.hopeless:
            cores.actors.on_hopeless(effect.actor_id, effect.message)
        else:
            cores.actors.on_waits(effect.actor_id, effect.message if alone else "")
            if actor is None or not effect.message:
                return
            text = what_waits(actor, effect.message)
            if alone:
                note(text)
            else:
                prints.tell(effect.job, text, now)

    def tell_callers(effect: TellCallers, now: float) -> None:
        for job in sorted({parts.processes.job_of(process) for process in effect.processes}):
            prints.tell(job, effect.text, now)

    def take(effect: TakeSlot, now: float) -> None:
        if not leases.knows_job(effect.job) and not cores.programs.is_coming(effect.job):
            text = f"{NO_JOB} {parts.record.name}"  # its owner was gone before that
            waits(ActorWaits(effect.actor_id, effect.job, text, strange=True), now)
            return
        leases.request_actor_slot(
            effect.actor_id, effect.job, effect.request, effect.running_request, effect.profile, now, effect.strategy,
            effect.name, effect.guest,
        )  # fmt: skip

    def fenced(effect: Fenced, now: float) -> None:
        note(f"actors of {node_of(effect.owner).hex()} end here: their peer was not heard for too long")
        guests.on_owner_gone(effect.owner)

    def inherits(effect: Inherits, now: float) -> None:
        will = effect.will
        spec = will.spec
        cores.foreign_actors.on_moved(spec.actor_id, peer_of(parts.node), will.reign)
        worker = will.worker if effect.lives else b""
        lives_here = guests.take_over(spec.actor_id, worker)
        if not lives_here and node_of(worker) == parts.node:
            worker = b""  # it has ended since
        if worker:
            lodging.on_inherited(request_for(spec, will.incarnation), worker, now)
        if worker and node_of(worker) != parts.node:
            fencing.on_inherited(peer_of(worker), boot_time())
        cores.actors.on_inherit(will, worker, effect.charged, now)
        if not lives_here:
            leases.release_actor(spec.actor_id, now)  # now that its job is needed for it, which is forgotten else

    def gives_way(effect: GivesWay, now: float) -> None:
        note(f"actor {effect.actor_id.hex()} ends here: another peer has taken it over")
        cores.foreign_actors.on_given_way(effect.actor_id, cores.actors.give_way(effect.actor_id))

    def detached_changed(effect: DetachedChanged, now: float) -> None:
        cores.wills.on_changed(effect.actor_id)
        actor = cores.actors.actor(effect.actor_id)
        if actor is None or actor.life in (Life.ENDING, Life.DEAD) or not cores.road.linked:
            return
        job = actor.spec.job
        if job.startswith(parts.node) or cores.road.is_there(node_of(job)):
            cores.programs.on_needed(job, peer_of(job))

    def detached_lost(effect: DetachedLost, now: float) -> None:
        note(f"a detached {effect.failure.message}")

    def program_lost(effect: ProgramLost, now: float) -> None:
        which = f"detached actors of job {effect.job.hex()}"
        if leases.knows_job(effect.job):
            where = "other hosts" if effect.job.startswith(parts.node) else "this host"
            note(f"{which} do without its own folder on {where}: {effect.why}")
        else:
            note(f"{which} cannot start on this host, which does not know it: {effect.why}")
            text = f"{NO_JOB} {parts.record.name}: {effect.why}"
            for actor in [actor for actor in cores.actors.all() if actor.spec.job == effect.job]:
                cores.actors.on_slot_failed(actor.spec.actor_id, text)
            guests.on_job_lost(effect.job, text, effect.whom)

    def let_go(effect: LetGo, now: float) -> None:
        if not cores.objects.knows(effect.object_id):  # else it is let go of with the last one here that has it
            cores.road.send(peer_of(effect.object_id), m.Release([effect.object_id]), now)

    return {
        ActorSlot: own_slot,
        ActorWaits: waits,
        TellCallers: tell_callers,
        RequestActorSlot: lodging.on_request,
        ActorPlaced: lambda effect, now: lodging.on_placed(effect),
        ReleaseActorSlot: lambda effect, now: lodging.on_released(effect),
        TakeSlot: take,
        ShrinkSlot: lambda effect, now: leases.actor_placed(effect.actor_id, now),
        FreeSlot: lambda effect, now: leases.release_actor(effect.actor_id, now),
        GuestsCame: lambda effect, now: fencing.begin(effect.owner, boot_time()),
        GuestsLeft: lambda effect, now: fencing.end(effect.owner),
        Fenced: fenced,
        NameChanged: lambda effect, now: naming.on_changed(effect, wall_ms()),
        CreateNamed: lambda effect, now: cores.actors.on_create(effect.sender, effect.message, now),
        NameConflict: lambda effect, now: cores.actors.on_name_conflict(effect.actor_id, effect.failure),
        DetachedChanged: detached_changed,
        DetachedLost: detached_lost,
        ProgramLost: program_lost,
        Inherits: inherits,
        GivesWay: gives_way,
        HoldFor: lambda effect, now: cores.objects.hold(effect.object_id, effect.process),
        LetGo: let_go,
    }


def add_member(parts: Parts, peer: bytes) -> None:
    """Another peer is there. A repeat changes nothing."""
    parts.cores.naming.on_member_up(peer)
    parts.cores.wills.on_member_up(peer)
    parts.cores.objects.foreign.on_host_there(peer)
    parts.cores.foreign_actors.on_node_there(node_of(peer))


def drop_member(parts: Parts, peer: bytes, left: bool, now: float) -> None:
    """It is gone; `left`: with a goodbye."""
    parts.cores.naming.on_member_down(peer, now)
    parts.cores.wills.on_member_down(peer, left, now)


def _is_ours(parts: Parts, actor_id: bytes) -> bool:
    cores = parts.cores
    wills = cores.wills
    created_here = owner_node_of(actor_id) == parts.node and not wills.has_given_way(actor_id)
    return created_here or wills.has_inherited(actor_id) or not cores.road.linked
