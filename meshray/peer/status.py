"""Answers to `Ask`: what a peer tells programs and people, as plain data.

The service shows itself through `View`; everything here reads it and changes nothing. Keys of `nodes` are Ray's.

    "nodes"         list of dictionaries, one per peer of the mesh (`meshray.nodes()`)
    "resources"     {"total": quantities, "available": quantities} of the mesh
    "status"        one dictionary about this peer, for `meshray status`
    "named_actors"  list of {"name", "namespace"}; the argument is a namespace, "" for all
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

from meshray.local import PeerRecord
from meshray.resources import Amounts, to_quantities
from meshray.wire.gossip import LEFT
from meshray.wire.messages import Answer, Ask, Failure

LOOPBACK = "127.0.0.1"
EXPECTED_TERMINATION, UNEXPECTED_TERMINATION = 1, 2
"""Ray's numbers for a node that said goodbye, and for one that did not."""

ACTORS_SHOWN_MAX = 1000
"""A bound on what one answer lists; the counts are of all."""


@dataclass(frozen=True, slots=True)
class ProcessView:
    """One process of the peer."""

    process_id: bytes
    pid: int
    kind: Literal["driver", "worker", "actor"]
    job: bytes = b""  # b"": a worker that is bound to none yet
    state: str = ""  # "idle", "leased", "blocked", "starting"; "" for drivers
    name: str = ""  # of the function or class that runs there; of the script, for drivers


@dataclass(frozen=True, slots=True)
class ActorView:
    """One actor that lives, or will."""

    actor_id: bytes
    name: str
    namespace: str
    state: str  # "pending", "alive", "restarting"
    pid: int  # 0 while it has no process
    restarts: int
    job: bytes
    detached: bool


@dataclass(frozen=True, slots=True)
class WaitingView:
    """What waits for a lease or a slot."""

    name: str
    request: Amounts
    count: int
    reason: str = ""  # why it will wait long; "" when it only waits for its turn
    host: str = ""  # of the submitter, or the actor's owner, where that is another one
    is_actor: bool = False


@dataclass(frozen=True, slots=True)
class StoreView:
    """The accounts of the store, bytes."""

    capacity: int
    sealed: int  # in objects
    pooled: int  # in segments that their creators keep for the next object
    credit: int  # granted and not yet written
    objects: int  # how many
    folder: str = ""
    copies: Mapping[str, int] = field(default_factory=dict)  # of values of other hosts (`core.fetches.FetchStats`)


@dataclass(frozen=True, slots=True)
class OtherView:
    """Another peer of the mesh, alive or not."""

    home: bytes
    name: str
    address: str  # host:port
    alive: bool
    total: Amounts
    used: Amounts
    labels: Mapping[str, str]
    reason: str = ""  # why it is dead


class View(Protocol):
    """What the service shows of itself."""

    @property
    def record(self) -> PeerRecord: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def total(self) -> Amounts: ...
    @property
    def available(self) -> Amounts: ...
    @property
    def uptime_s(self) -> float: ...
    @property
    def leaving(self) -> str:
        """Why the peer is about to end; "" while it serves."""

    def drain(self) -> Mapping[str, Any] | None:
        """What it waits for before it ends (`draining.Draining.waits_for`); None while nobody stops it."""

    def processes(self) -> Sequence[ProcessView]: ...
    def actors(self) -> Sequence[ActorView]: ...
    def named(self) -> Sequence[tuple[str, str]]:
        """Namespace and name of each named actor of the mesh, as far as this peer knows."""

    def waiting(self) -> Sequence[WaitingView]: ...
    def store(self) -> StoreView: ...
    def others(self) -> Sequence[OtherView]:
        """The other peers of the mesh, as far as is known what they have."""

    def mesh(self) -> Mapping[str, Any] | None:
        """The mesh as this peer sees it (`mesh.Mesh.status`); None when it is off the network."""

    def counters(self) -> Mapping[str, int]:
        """What was counted since the start: refused messages, crashes, ..."""


def answer(view: View, ask: Ask) -> Answer:
    """The answer to a question; one with a `failure` to a question that nobody knows."""
    question = _QUESTIONS.get(ask.what)
    if question is None:
        known = ", ".join(sorted(_QUESTIONS))
        return Answer(
            ask.request, failure=Failure("MeshrayError", f"no such question: {ask.what!r} (there are: {known})")
        )
    return Answer(ask.request, data=msgspec.msgpack.encode(question(view, ask.argument)))


OF_KEYS = ("keys", "key stage", "key switch", "key which")
"""Questions that the mesh answers, with what other members say (`keyring`)."""


def answer_with(request: int, told: dict[str, Any] | str) -> Answer:
    """Plain data as an answer, or words as a failure."""
    if isinstance(told, str):
        return Answer(request, failure=Failure("MeshrayError", told))
    return Answer(request, data=msgspec.msgpack.encode(told))


def nodes(view: View, argument: str = "") -> list[dict[str, Any]]:
    """Every peer of the mesh, this one first, the dead last. On one machine that is this one."""
    record = view.record
    mesh = view.mesh() or {}
    host, port = _split(next(iter(mesh.get("listens") or ()), ""))
    here = {
        "NodeID": record.node,
        "Alive": True,
        "NodeManagerAddress": host or LOOPBACK,
        "NodeManagerHostname": socket.gethostname(),
        "NodeManagerPort": port,
        "ObjectManagerPort": port,
        "ObjectStoreSocketName": "",
        "RayletSocketName": os.path.join(record.folder, "0" * 16),
        "MetricsExportPort": 0,
        "RuntimeEnvAgentPort": 0,
        "NodeName": record.name,
        "DeathReason": 0,
        "DeathReasonMessage": "",
        "alive": True,
        "Resources": to_quantities(view.total),
        "Labels": dict(view.labels),
    }
    return [here, *(_other(other) for other in sorted(view.others(), key=lambda other: not other.alive))]


def _other(other: OtherView) -> dict[str, Any]:
    host, port = _split(other.address)
    return {
        "NodeID": other.home.hex(),
        "Alive": other.alive,
        "NodeManagerAddress": host,
        "NodeManagerHostname": other.name,
        "NodeManagerPort": port,
        "ObjectManagerPort": port,
        "ObjectStoreSocketName": "",
        "RayletSocketName": "",
        "MetricsExportPort": 0,
        "RuntimeEnvAgentPort": 0,
        "NodeName": other.name,
        "DeathReason": 0
        if other.alive
        else EXPECTED_TERMINATION
        if other.reason.endswith(LEFT)
        else UNEXPECTED_TERMINATION,
        "DeathReasonMessage": other.reason,
        "alive": other.alive,
        "Resources": to_quantities(other.total) if other.alive else {},
        "Labels": dict(other.labels),
    }


def _split(address: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[v6]:port`; of anything else, since a member may say anything of where it listens,
    all of it and 0."""
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536):
        return address, 0
    return host.removeprefix("[").removesuffix("]"), int(port)


def resources(view: View, argument: str = "") -> dict[str, dict[str, float]]:
    """What there is in the mesh, and what of it is free now."""
    total, free = Counter(view.total), Counter(view.available)
    for other in view.others():
        if other.alive:
            total.update(other.total)
            free.update({name: max(0, n - other.used.get(name, 0)) for name, n in other.total.items()})
    return {"total": to_quantities(total), "available": to_quantities(free)}


def named_actors(view: View, argument: str = "") -> list[dict[str, str]]:
    """The named actors of a namespace, or of all."""
    return [{"name": name, "namespace": namespace} for namespace, name in view.named() if argument in ("", namespace)]


def status(view: View, argument: str = "") -> dict[str, Any]:
    """Everything that a person wants to know of this peer."""
    record = view.record
    processes = view.processes()
    actors = view.actors()
    store = view.store()
    return {
        "name": record.name,
        "node_id": record.node,
        "pid": record.pid,
        "private": record.private,
        "version": record.version,
        "protocol": record.protocol,
        "python": record.python,
        "executable": record.executable,
        "folder": record.folder,
        "started_at": record.started_at,
        "uptime_s": view.uptime_s,
        "leaving": view.leaving,
        "resources": {"total": to_quantities(view.total), "available": to_quantities(view.available)},
        "labels": dict(view.labels),
        "workers": dict(Counter(process.state for process in processes if process.kind != "driver")),
        "drivers": [
            {"job_id": process.job.hex(), "pid": process.pid, "name": process.name}
            for process in processes
            if process.kind == "driver"
        ],
        "processes": [
            {"worker_id": process.process_id.hex(), "pid": process.pid, "kind": process.kind, "state": process.state,
             "job_id": process.job.hex(), "name": process.name}
            for process in processes
            if process.kind != "driver"
        ],
        "actors": {
            "counts": dict(Counter(actor.state for actor in actors)),
            "list": [_actor(actor) for actor in actors[:ACTORS_SHOWN_MAX]],
        },
        "waiting": [
            {"name": waiting.name, "request": to_quantities(waiting.request), "count": waiting.count,
             "reason": waiting.reason, "host": waiting.host, "is_actor": waiting.is_actor}
            for waiting in view.waiting()
        ],
        "store": {
            "capacity_bytes": store.capacity,
            "sealed_bytes": store.sealed,
            "pooled_bytes": store.pooled,
            "credit_bytes": store.credit,
            "objects": store.objects,
            "folder": store.folder or record.store,
            "copies": dict(store.copies),
        },
        "mesh": view.mesh(),
        "counters": dict(view.counters()),
    }  # fmt: skip


def _actor(actor: ActorView) -> dict[str, Any]:
    return {
        "actor_id": actor.actor_id.hex(),
        "name": actor.name,
        "namespace": actor.namespace,
        "state": actor.state,
        "pid": actor.pid,
        "restarts": actor.restarts,
        "job_id": actor.job.hex(),
        "detached": actor.detached,
    }


def drain(view: View, argument: str = "") -> dict[str, Any]:
    """What a peer that is being stopped waits for; empty when it does not, or does no longer."""
    return dict(view.drain() or {})


_QUESTIONS: dict[str, Callable[[View, str], Any]] = {
    "nodes": nodes,
    "resources": resources,
    "status": status,
    "named_actors": named_actors,
    "drain": drain,
}
