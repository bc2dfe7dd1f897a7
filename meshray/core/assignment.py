"""Which process serves a grant? Grants that await a worker get one that fits, or have one started.

A fresh worker is bound first; only then does the submitter hear of it. So a worker goes to whoever was granted first,
and nobody hears of one that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from meshray.core.demands import ACTOR_DEPTH
from meshray.core.effects import ActorSlot, Send
from meshray.core.grants import Grant, Grants
from meshray.core.trouble import tell
from meshray.core.workers import Interpreter, Worker, WorkerKey, Workers, bind_env
from meshray.wire.messages import Bind, JobInfo, LeaseGranted


class Device(Struct, frozen=True):
    """One GPU of this peer."""

    id: int  # as `get_gpu_ids()` shows it
    visible: str  # as CUDA_VISIBLE_DEVICES calls it


class Assignment:
    """Between the grants of a peer and its workers; `emit` takes the effects."""

    def __init__(
        self, grants: Grants, workers: Workers, devices: tuple[Device, ...], emit: Callable[[object], None]
    ) -> None:
        self._grants = grants
        self._workers = workers
        self._devices = devices
        self._emit = emit

    def run(self, jobs: Mapping[bytes, JobInfo], now: float) -> None:
        """Give the awaiting grants their workers; start workers for the rest."""
        needed: dict[Interpreter, tuple[int, JobInfo]] = {}
        nested: set[Interpreter] = set()  # where a task of a task was among them: its own tasks may come next
        for grant in list(self._grants.awaiting.values()):
            job = jobs[grant.job]
            interpreter = (job.executable, job.prefix)
            wanted = grant.wanted
            shown = wanted.request if wanted.running_request is None else wanted.running_request
            key = WorkerKey.of(grant.job, shown, wanted.profile, grant.gpu_ids)
            submitter = b"" if wanted.is_actor else wanted.submitter
            worker = self._workers.acquire(key, interpreter, grant.id, dedicated=wanted.is_actor, but=submitter)
            count = needed.get(interpreter, (0, job))[0]
            needed[interpreter] = (count + (worker is None), job)
            if 0 < wanted.depth < ACTOR_DEPTH and (worker is None or worker.key is None):
                nested.add(interpreter)
            if worker is None:
                continue
            if worker.key is None:
                env = bind_env(job, wanted.profile, [self._device(place).visible for place in grant.gpu_ids])
                self._emit(Send(worker.process, Bind(job, env, self._gpu_ids(grant), dict(shown))))
                worker.key = key
            self._hand_over(grant, worker, now)
        for interpreter, (count, job) in needed.items():
            self._workers.want(interpreter, job, count, now, spare=interpreter in nested)

    def _hand_over(self, grant: Grant, worker: Worker, now: float) -> None:
        self._grants.assign(grant, worker.process, now)
        if worker.waits_since is not None:  # a thread that a former task left behind still waits: no CPU is given back
            worker.woke_since, worker.waits_since = worker.waits_since, None
        wanted = grant.wanted
        if wanted.told:
            self._emit(tell(wanted, "", self._workers.at_cap))
        if wanted.is_actor:
            self._emit(ActorSlot(wanted.key[0], worker.process, tuple(self._gpu_ids(grant))))
        else:
            granted = LeaseGranted(grant.id, wanted.key[1], worker.process, self._gpu_ids(grant))
            self._emit(Send(wanted.submitter, granted))

    def _device(self, place: int) -> Device:
        return self._devices[place] if place < len(self._devices) else Device(place, str(place))

    def _gpu_ids(self, grant: Grant) -> list[int]:
        """As programs see them."""
        return [self._device(place).id for place in grant.gpu_ids]
