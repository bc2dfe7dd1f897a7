"""Grants get their workers: bound before anybody hears of them, in the order of the grants."""

from __future__ import annotations

from typing import Any

from meshray.config import DEFAULT
from meshray.core.assignment import Assignment, Device
from meshray.core.demands import ACTOR_DEPTH, Wanted
from meshray.core.effects import ActorSlot, Send, StartWorker
from meshray.core.grants import Grants
from meshray.core.workers import Workers
from meshray.resources import to_amounts
from meshray.wire.messages import Bind, Infeasible, JobInfo, LeaseGranted, Profile

OWN = ("python", "/usr")
JOB, SUBMITTER, ACTOR = b"job", b"submitter", b"actor"


class Host:
    """Four CPUs and two GPUs that are called otherwise than they are counted."""

    def __init__(self) -> None:
        self.effects: list[Any] = []
        self.grants = Grants(to_amounts({"CPU": 4, "GPU": 2}))
        self.workers = Workers(DEFAULT, OWN, 4, self.effects.append)
        devices = (Device(5, "GPU-a"), Device(7, "GPU-b"))
        self.assignment = Assignment(self.grants, self.workers, devices, self.effects.append)
        self._ready = 0

    def want(self, *, actor: bool = False, depth: int = 0, **request: float) -> Wanted:
        key = (ACTOR, 0) if actor else (SUBMITTER, 1)
        wanted = Wanted(key, JOB, dict(to_amounts(request)), Profile(), ACTOR_DEPTH if actor else depth, "f")
        wanted.running_request = {} if actor else None
        self.grants.make(wanted, 0.0)
        return wanted

    def run(self) -> list[Any]:
        self.assignment.run({JOB: JobInfo(JOB, *OWN, [], "/", "", "ns")}, 0.0)
        self.grants.check()
        effects = list(self.effects)
        self.effects.clear()  # in place: its `append` was given away
        return [effect.message if isinstance(effect, Send) else effect for effect in effects]

    def ready(self) -> bytes:
        self._ready += 1
        worker = b"w%d" % self._ready
        self.workers.on_ready(self._ready, worker, 0.0)
        return worker


def test_workers_are_started_for_those_who_have_none_and_bound_before_they_are_told_of() -> None:
    host = Host()
    host.want(CPU=1)
    host.want(CPU=1)
    assert [type(effect) for effect in host.run()] == [StartWorker, StartWorker]
    assert host.run() == [], "they are under way"
    worker = host.ready()
    bind, granted = host.run()
    assert isinstance(bind, Bind)
    assert granted == LeaseGranted(1, 1, worker, [])
    assert list(host.grants.awaiting) == [2]


def test_devices_are_told_by_their_own_names() -> None:
    host = Host()
    host.want(GPU=1)
    host.want(GPU=1)
    host.run()
    host.ready()
    host.ready()
    first, told, second, told_too = host.run()
    assert [first.env["CUDA_VISIBLE_DEVICES"], second.env["CUDA_VISIBLE_DEVICES"]] == ["GPU-a", "GPU-b"]
    assert [told.gpu_ids, told_too.gpu_ids] == [[5], [7]]


def test_an_actor_gets_a_fresh_worker() -> None:
    host = Host()
    wanted = host.want(CPU=1)
    host.run()
    used = host.ready()
    host.run()
    (grant,) = host.grants.of(wanted)
    found = host.workers.get(used)
    assert found is not None
    host.grants.end(grant)
    host.workers.release(found, 0.0)
    host.want(actor=True, CPU=1)
    assert [type(effect) for effect in host.run()] == [StartWorker]
    fresh = host.ready()
    assert host.run()[-1] == ActorSlot(ACTOR, fresh, ())


def test_a_task_of_a_task_has_one_started_ahead() -> None:
    host = Host()
    host.want(depth=1, CPU=1)
    assert [type(effect) for effect in host.run()] == [StartWorker, StartWorker]


def test_who_was_told_of_trouble_hears_that_it_is_over() -> None:
    host = Host()
    wanted = host.want(CPU=1)
    wanted.told = "no workers"
    host.run()
    host.ready()
    assert Infeasible(1, "") in host.run()
    assert wanted.told == ""
