"""Effect -> what is done.

`settle` takes the effects of all cores, in the order of `Cores`, and performs them until there are none: what one core
asks may be an event of another (an actor wants a slot, a slot is there).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshray.core.effects import (
    AbandonStart,
    ActorPlaced,
    ActorSlot,
    ActorWaits,
    DeathOver,
    KillProcess,
    ReleaseActorSlot,
    RequestActorSlot,
    Send,
    StartWorker,
    SweepSegments,
    ThawLease,
    UnlinkSegment,
)
from meshray.core.road_effects import ForeignDied, Handle, HostGone, JobCame, JobGone, Sever
from meshray.ids import NODE_BYTES
from meshray.peer.foreign import Foreign
from meshray.peer.parts import Parts
from meshray.peer.starts import Starts
from meshray.store.files import segments_of, unlink_segment
from meshray.wire.messages import Bind, Demand, Exit, LeaseReturned, LogLine, LogLines

EFFECT_ROUNDS_MAX = 100_000
"""Cores that answer each other for ever are a mistake of ours: better a loud end than a silent one."""


class Performer:
    """The hands of the cores."""

    def __init__(self, parts: Parts, starts: Starts, foreign: Foreign) -> None:
        self._parts = parts
        self._starts = starts
        cores = parts.cores
        self._cores = (cores.leases, cores.actors, cores.adoption, cores.objects, cores.store, cores.road)
        self._table: dict[type, Callable[[Any, float], None]] = {
            Send: self._send,
            StartWorker: starts.start,
            AbandonStart: lambda effect, now: starts.abandon(effect),
            KillProcess: self._kill,
            ActorSlot: lambda effect, now: cores.actors.on_slot(effect.actor_id, effect.worker, now),
            ActorWaits: self._actor_waits,
            RequestActorSlot: self._request_slot,
            ActorPlaced: lambda effect, now: cores.leases.actor_placed(effect.actor_id, now),
            ReleaseActorSlot: lambda effect, now: cores.leases.release_actor(effect.actor_id, now),
            ThawLease: lambda e, now: cores.leases.on_thawed(e.worker, e.submitter, e.kill, now),
            UnlinkSegment: self._unlink,
            SweepSegments: self._sweep,
            DeathOver: lambda effect, now: cores.road.on_local_settled(effect.process),
            Handle: foreign.handle,
            Sever: foreign.sever,
            HostGone: foreign.on_host_gone,
            ForeignDied: foreign.on_died,
            JobCame: foreign.on_job_came,
            JobGone: foreign.on_job_gone,
        }

    def settle(self, now: float) -> None:
        """Perform until the cores are quiet."""
        for _ in range(EFFECT_ROUNDS_MAX):
            for core in self._cores:
                effects = core.take_effects()
                if effects:
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
            if isinstance(effect.message, Demand):  # of an adopted task
                info = parts.cores.leases.job_info(effect.message.job)
                if info is not None:
                    parts.cores.road.tell_job(info, effect.to[:NODE_BYTES], now)
            parts.cores.road.send(effect.to, effect.message, now)
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
        """Adoption submits tasks like anybody; between it and leases there is no wire."""
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

    def _request_slot(self, effect: RequestActorSlot, now: float) -> None:
        self._parts.cores.leases.request_actor_slot(
            effect.actor_id, effect.job, effect.request, effect.running_request, effect.profile, now
        )

    def _actor_waits(self, effect: ActorWaits, now: float) -> None:
        parts = self._parts
        if effect.broken:
            parts.cores.actors.on_slot_failed(effect.actor_id, effect.message)
            return
        driver = parts.processes.get(effect.job)
        actor = parts.cores.actors.actor(effect.actor_id)
        if driver is not None and actor is not None and effect.message:
            text = f"actor {actor.spec.blob.name} ({effect.actor_id.hex()}) waits: {effect.message}"
            line = LogLine("meshray", parts.record.pid, text[: parts.config.log_line_max_bytes], True)
            parts.endpoint.send(driver.id, LogLines([line]))

    def _unlink(self, effect: UnlinkSegment, now: float) -> None:
        unlink_segment(self._parts.store_folder, effect.segment)

    def _sweep(self, effect: SweepSegments, now: float) -> None:
        folder = self._parts.store_folder
        for name in set(segments_of(folder, effect.process)) - set(effect.keep):
            unlink_segment(folder, name)
