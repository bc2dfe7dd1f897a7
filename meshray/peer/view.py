"""What a peer shows of itself: the snapshot from which `status.py` makes its answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from meshray.core.lives import Life
from meshray.core.placement import Member
from meshray.ids import node_of
from meshray.local import PeerRecord
from meshray.peer.draining import Draining
from meshray.peer.parts import Parts
from meshray.peer.processes import Kind, Process
from meshray.peer.status import ActorView, OtherView, ProcessView, StoreView, WaitingView
from meshray.resources import Amounts

_STATES = {Life.ALIVE: "alive", Life.BACKOFF: "restarting", Life.ENDING: "alive"}


class PartsView:
    """`status.View` of these parts, always as of now."""

    def __init__(self, parts: Parts, draining: Draining) -> None:
        self._parts = parts
        self._draining = draining

    @property
    def record(self) -> PeerRecord:
        return self._parts.record

    @property
    def labels(self) -> Mapping[str, str]:
        return self._parts.labels

    @property
    def total(self) -> Amounts:
        return self._parts.cores.leases.slots.total

    @property
    def available(self) -> Amounts:
        return self._parts.cores.leases.available()

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._parts.started_at

    @property
    def leaving(self) -> str:
        return self._parts.leaving

    def drain(self) -> Mapping[str, Any] | None:
        return self._draining.waits_for(time.monotonic())

    def processes(self) -> Sequence[ProcessView]:
        return [self._process(process) for process in self._parts.processes if process.kind is not Kind.OBSERVER]

    def _process(self, process: Process) -> ProcessView:
        job = process.job.job if process.job is not None else b""
        if process.kind is Kind.DRIVER:
            return ProcessView(process.id, process.pid, "driver", job, "", process.job.main_path if process.job else "")
        grant = self._parts.cores.leases.grant_of(process.id)
        if grant is None:
            return ProcessView(process.id, process.pid, "worker", job, "idle")
        state = "blocked" if grant.given_back else "leased"
        if not grant.wanted.is_actor:
            return ProcessView(process.id, process.pid, "worker", job, state, grant.wanted.name)
        actor = self._parts.cores.actors.actor(grant.wanted.submitter)
        name = actor.spec.blob.name if actor is not None else ""
        return ProcessView(process.id, process.pid, "actor", job, state, name)

    def actors(self) -> Sequence[ActorView]:
        shown = []
        for actor in self._parts.cores.actors.all():
            if actor.life is Life.DEAD:
                continue
            spec = actor.spec
            state = _STATES.get(actor.life, "restarting" if actor.restarts else "pending")
            pid = self._parts.children.pid_of(actor.worker) or 0
            shown.append(
                ActorView(spec.actor_id, spec.name, spec.namespace, state, pid, actor.restarts, spec.job, spec.detached)
            )
        return shown

    def named(self) -> Sequence[tuple[str, str]]:
        return [(actor.namespace, actor.name) for actor in self._parts.cores.naming.all()]

    def waiting(self) -> Sequence[WaitingView]:
        leases = self._parts.cores.leases
        return [
            WaitingView(
                wanted.name, wanted.request, wanted.count - len(wanted.grants), leases.why_waits(wanted),
                self._host_of(wanted.submitter), wanted.is_actor,
            )
            for wanted in leases.waiting()
        ]  # fmt: skip

    def _host_of(self, process: bytes) -> str:
        """The name of another host; "" for this one."""
        node = node_of(process)
        if node == self._parts.node:
            return ""
        member = self._parts.cores.leases.placement.members.get(node)
        return node.hex() if member is None else member.name

    def store(self) -> StoreView:
        stats = self._parts.cores.store.stats()
        rest = max(0, stats.used - stats.live)
        cores = self._parts.cores
        copies = msgspec.structs.asdict(cores.fetches.stats()) | {"served_bytes": cores.serving.served_bytes}
        return StoreView(stats.capacity, stats.live, 0, rest, stats.segments, str(self._parts.store_folder), copies)

    def others(self) -> Sequence[OtherView]:
        placement = self._parts.cores.leases.placement
        living = [_other(member) for member in placement.members.values()]
        return living + [_other(member, reason) for member, reason in placement.gone.values()]

    def mesh(self) -> Mapping[str, Any] | None:
        mesh, road = self._parts.mesh, self._parts.cores.road
        if mesh is None:
            return None
        jobs = [job.hex() for job in road.foreign_jobs()]
        return mesh.status() | {"foreign_processes": len(road.foreigners), "foreign_jobs": jobs}

    def counters(self) -> Mapping[str, int]:
        parts = self._parts
        return {
            "refused messages": parts.endpoint.refused,
            "stale messages": parts.cores.leases.stale + parts.cores.actors.stats().stale,
            **({"wills not taken": left_out} if (left_out := parts.cores.wills.left_out) else {}),
            **(parts.counters + parts.cores.road.counters),
        }


def _other(member: Member, reason: str = "") -> OtherView:
    return OtherView(
        member.node, member.name, member.address, not reason, member.total, member.used, member.labels, reason
    )
