"""Which worker serves a grant."""

from __future__ import annotations

from typing import Any

import msgspec

from meshray.config import DEFAULT
from meshray.core.effects import KillProcess, Send, StartWorker
from meshray.core.workers import PRESTART_MAX, Worker, WorkerKey, Workers, bind_env
from meshray.wire.messages import JobInfo, Profile

OWN = ("/usr/bin/python", "/usr")
JOB = JobInfo(b"j" * 16, *OWN, [], "/", "", "ns", env_vars={"A": "job", "B": "job"})


class Pool(Workers):
    """Workers that are ready as soon as they are started."""

    def __init__(self, keep: int = 2, workers_max: int = 512) -> None:
        self.done: list[Any] = []
        super().__init__(msgspec.structs.replace(DEFAULT, workers_max=workers_max), OWN, keep, self.done.append)

    def ready(self, now: float = 0.0) -> None:
        for effect in [effect for effect in self.done if isinstance(effect, StartWorker)]:
            self.on_ready(effect.ticket, effect.ticket.to_bytes(16, "big"), now)
            self.done.remove(effect)

    def serve(self, key: WorkerKey, grant: int, *, dedicated: bool = False) -> Worker | None:
        worker = self.acquire(key, OWN, grant, dedicated=dedicated)
        if worker is not None:
            worker.key = key
        return worker


def key(job: bytes = JOB.job, gpus: tuple[int, ...] = (), threads: int = 1, **env: str) -> WorkerKey:
    return WorkerKey.of(job, {"CPU": 10_000}, Profile(threads=threads, env_vars=env), gpus)


def test_prestart_is_bounded() -> None:
    pool = Pool(keep=64)
    pool.prestart(0.0)
    assert len(pool.done) == PRESTART_MAX
    pool = Pool(keep=64, workers_max=3)
    pool.prestart(0.0)
    assert len(pool.done) == 3


def test_starts_under_way_are_counted() -> None:
    pool = Pool(keep=2)
    pool.prestart(0.0)
    pool.want(OWN, JOB, 2, 0.0)
    assert len(pool.done) == 2
    pool.want(OWN, JOB, 3, 0.0)
    assert len(pool.done) == 3


def test_a_worker_serves_equal_keys_only() -> None:
    pool = Pool()
    pool.prestart(0.0)
    pool.ready()
    first = pool.serve(key(), 1)
    assert first is not None
    pool.release(first, 0.0)
    assert pool.serve(key(A="other"), 2) is not first
    assert pool.serve(key(b"k" * 16), 3) is None
    assert pool.serve(key(threads=4), 3) is None
    assert pool.serve(key(), 3) is first


def test_an_actor_gets_a_fresh_one() -> None:
    pool = Pool()
    pool.prestart(0.0)
    pool.ready()
    used = pool.serve(key(), 1)
    assert used is not None
    pool.release(used, 0.0)
    hosts = [pool.serve(key(), grant, dedicated=True) for grant in (2, 3)]
    assert hosts[0] is not None
    assert hosts[0] is not used
    assert hosts[1] is None


def test_a_device_is_left_by_who_idles_on_it() -> None:
    pool = Pool(keep=3)
    pool.prestart(0.0)
    pool.ready()
    idle = pool.serve(key(gpus=(0,)), 1)
    other = pool.serve(key(gpus=(1,)), 2)
    assert idle is not None
    assert other is not None
    pool.release(idle, 0.0)
    pool.release(other, 0.0)
    pool.serve(key(b"k" * 16, gpus=(0,)), 3)
    assert pool.done == [KillProcess(idle.process, "its GPU was given to other work")]


def test_idle_ones_beyond_the_cpus_end_the_longest_idle_first() -> None:
    pool = Pool(keep=1)
    pool.want(OWN, JOB, 3, 0.0)
    pool.ready()
    workers = [pool.serve(key(), grant) for grant in (1, 2, 3)]
    for idle_since, worker in enumerate(workers):
        assert worker is not None
        pool.release(worker, float(idle_since))
    assert pool.deadline() == DEFAULT.worker_idle_s
    pool.tick(DEFAULT.worker_idle_s + 0.5, lambda worker: False)
    assert [effect.to for effect in pool.done if isinstance(effect, Send)] == [workers[0].process]  # type: ignore[union-attr]
    pool.tick(DEFAULT.worker_idle_s + 10, lambda worker: True)  # busy with tasks of its own
    assert len(pool.done) == 1
    assert pool.counts() == {"starting": 0, "leased": 0, "idle": 2}


def test_the_environment_of_a_task_wins() -> None:
    env = bind_env(JOB, Profile(threads=4, env_vars={"B": "task", "MKL_NUM_THREADS": "2"}), ["GPU-7", "3"])
    assert (env["A"], env["B"]) == ("job", "task")
    assert (env["OMP_NUM_THREADS"], env["MKL_NUM_THREADS"]) == ("4", "2")
    assert env["CUDA_VISIBLE_DEVICES"] == "GPU-7,3"
