"""Effect -> what is done.

`settle` takes the effects of all cores, in the order of `Cores`, and performs them until there are none: what one core
asks may be an event of another (an actor wants a slot, a slot is there).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshray.core.effects import (
    AbandonStart,
    CopyKept,
    Core,
    Dealt,
    DeathOver,
    DropCopy,
    JobForgotten,
    KeepCopy,
    KillProcess,
    Later,
    LetGoCopy,
    OpenCopy,
    SealCopy,
    Send,
    StartWorker,
    SweepSegments,
    ThawLease,
    UnlinkSegment,
    WriteCopy,
)
from meshray.core.programs import JobLeft
from meshray.core.road_effects import ForeignDied, ForeignSeen, Handle, HostGone, JobCame, JobGone, Sever
from meshray.ids import NODE_BYTES
from meshray.peer.actors import actor_effects
from meshray.peer.copies import CopyHands
from meshray.peer.foreign import Foreign
from meshray.peer.parts import Parts
from meshray.peer.starts import Starts
from meshray.store.files import segments_of, unlink_segment
from meshray.wire.messages import (
    ActorNews,
    Bind,
    Bring,
    Brought,
    CopiesGone,
    CreditGranted,
    CreditRequest,
    Demand,
    Exit,
    Expired,
    Found,
    HostActor,
    KillActor,
    LeaseReturned,
    PoolTrimmed,
    Seek,
    TrimPool,
    UnwatchActor,
    WatchActor,
    Whole,
    Will,
)

EFFECT_ROUNDS_MAX = 100_000
"""Cores that answer each other for ever are a mistake of ours: better a loud end than a silent one."""


class Performer:
    """The hands of the cores."""

    def __init__(self, parts: Parts, starts: Starts, foreign: Foreign, copies: CopyHands) -> None:
        self._parts = parts
        self._starts = starts
        self._foreign = foreign
        cores = parts.cores
        in_order: tuple[Core, ...] = (
            cores.leases, cores.actors, cores.lodging, cores.guests, cores.fencing, cores.foreign_actors, cores.naming,
            cores.wills, cores.programs, cores.adoption, cores.objects, cores.store, cores.fetches, cores.whereabouts,
            cores.serving, cores.moves, cores.road,
        )  # fmt: skip
        self._cores = tuple((core, core.decided) for core in in_order)
        self._own: dict[type, Callable[[Any, float], None]] = {  # what cores of this peer say to each other
            CreditRequest: lambda message, now: cores.store.on_credit_request(parts.process_id, message, now),
            PoolTrimmed: lambda message, now: cores.store.on_trimmed(parts.process_id, message),
            CreditGranted: cores.fetches.on_granted,
            TrimPool: lambda message, now: cores.fetches.on_trim_pool(),
            Seek: lambda message, now: cores.whereabouts.on_seek(parts.process_id, message),
            Whole: lambda message, now: cores.whereabouts.on_whole(parts.process_id, message),
            CopiesGone: lambda message, now: cores.whereabouts.on_copies_gone(parts.process_id, message),
            Brought: lambda message, now: cores.moves.on_brought(message),
            Bring: lambda message, now: cores.fetches.on_bring(parts.process_id, message, now),
            Found: lambda message, now: cores.fetches.on_found(parts.process_id, message, now),
            Expired: lambda message, now: cores.fetches.on_expired(parts.process_id, message),
            # What this host watched at a peer of which this one is the heir.
            WatchActor: lambda message, now: cores.actors.on_watch(parts.process_id, message),
            UnwatchActor: lambda message, now: cores.actors.on_unwatch(parts.process_id, message),
            KillActor: lambda message, now: cores.actors.on_kill(parts.process_id, message),
            ActorNews: lambda message, now: cores.foreign_actors.on_news(parts.process_id, message),
        }
        self._table: dict[type, Callable[[Any, float], None]] = {
            Send: self._send,
            StartWorker: starts.start,
            AbandonStart: lambda effect, now: starts.abandon(effect),
            KillProcess: self._kill,
            **actor_effects(parts),
            ThawLease: lambda e, now: cores.leases.on_thawed(e.worker, e.submitter, e.kill, now),
            UnlinkSegment: self._unlink,
            SweepSegments: self._sweep,
            DeathOver: lambda effect, now: cores.road.on_local_settled(effect.process),
            Dealt: lambda effect, now: cores.road.on_dealt(effect.process, effect.node),
            Handle: foreign.handle,
            Sever: foreign.sever,
            HostGone: foreign.on_host_gone,
            ForeignDied: foreign.on_died,
            ForeignSeen: lambda effect, now: cores.objects.on_foreign_death_seen(effect.process),
            Later: self._later,
            OpenCopy: copies.open,
            WriteCopy: copies.write,
            SealCopy: copies.seal,
            DropCopy: copies.drop,
            KeepCopy: lambda effect, now: cores.fetches.keep(effect.place, effect.source, now),
            LetGoCopy: lambda effect, now: cores.fetches.let_go(effect.place),
            CopyKept: lambda effect, now: cores.programs.on_copy(effect.place, effect.failure),
            JobForgotten: lambda effect, now: cores.programs.on_job_forgotten(effect.job),
            JobLeft: lambda effect, now: foreign.on_job_left(effect.info, now),
            JobCame: foreign.on_job_came,
            JobGone: foreign.on_job_gone,
        }

    def settle(self, now: float) -> None:
        """Perform until the cores are quiet."""
        for _ in range(EFFECT_ROUNDS_MAX):
            for core, decided in self._cores:
                if decided and (effects := core.take_effects()):
                    break
            else:
                return
            for effect in effects:
                self._table[type(effect)](effect, now)
        raise AssertionError(f"the cores do not come to rest; the last effects were {effects!r:.1000}")

    def _send(self, effect: Send, now: float) -> None:
        parts = self._parts
        if effect.to == parts.process_id:
            self._tell_ourselves(effect.message, now)
            return
        process = parts.processes.get(effect.to)
        if process is None and effect.to[:NODE_BYTES] != parts.node:
            if (job := _job_of(effect.message)) is not None:
                info = parts.cores.leases.job_info(job, ended=not isinstance(effect.message, Demand))
                if info is not None:
                    parts.cores.road.tell_job(info, effect.to[:NODE_BYTES], now)
            if not parts.cores.road.send(effect.to, effect.message, now):
                self._foreign.on_unreachable(effect.to[:NODE_BYTES], now)
            return
        if process is None:
            parts.counters["sends to the dead"] += 1  # a link to it would wait for ever
            return
        message = effect.message
        if type(message) is Bind:
            process.job = message.job
            parts.cores.objects.on_process_attached(process.id, process.pid, message.job.job)
        elif type(message) is Exit:
            self._see_to_exit(effect.to, now)
        parts.endpoint.send(effect.to, message)

    def _tell_ourselves(self, message: Any, now: float) -> None:
        """Adoption submits tasks, and fetches have room in the store, like anybody; there is no wire between them."""
        own = self._own.get(type(message))
        if own is not None:
            own(message, now)
            return
        leases, adoption = self._parts.cores.leases, self._parts.cores.adoption
        if isinstance(message, Demand):
            job = adoption.job_of_class(message.class_id)
            if leases.serves(job):
                leases.on_demand(self._parts.process_id, message, now, job)
            elif job:
                adoption.on_job_ended(job)
        elif isinstance(message, LeaseReturned):
            leases.on_returned(self._parts.process_id, message.leases, now)
        else:
            adoption.on_own(message, now)

    def _see_to_exit(self, process_id: bytes, now: float) -> None:
        """An idle worker that was told to end has nothing to finish (an actor may have: its core looks after that)."""
        worker = self._parts.cores.leases.workers.get(process_id)
        if worker is not None and worker.dying:
            timeout_s = self._parts.config.shutdown_timeout_s
            self._parts.timers.at(now + timeout_s, lambda: self._kill(KillProcess(process_id), now))

    def _kill(self, effect: KillProcess, now: float) -> None:
        self._parts.children.kill(effect.process)

    def _later(self, effect: Later, now: float) -> None:
        self._parts.timers.at(now + effect.seconds, lambda: self._parts.cores.objects.foreign.on_later(effect.number))

    def _unlink(self, effect: UnlinkSegment, now: float) -> None:
        unlink_segment(self._parts.store_folder, effect.segment)
        self._parts.transit.spans.forget(effect.segment)

    def _sweep(self, effect: SweepSegments, now: float) -> None:
        folder = self._parts.store_folder
        for name in set(segments_of(folder, effect.process)) - set(effect.keep):
            unlink_segment(folder, name)
            self._parts.transit.spans.forget(name)


def _job_of(message: Any) -> bytes | None:
    """The job that another host must know before it gets this; None for what needs none."""
    if isinstance(message, Demand | HostActor):  # of an adopted task, or for an actor
        return message.job
    return message.spec.job if isinstance(message, Will) else None
