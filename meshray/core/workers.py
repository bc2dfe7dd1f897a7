"""Which worker serves a grant? The pool of one peer, as decisions.

Every worker starts *unbound*: forked from the zygote of its interpreter, it has no job. At its first grant it is
bound, for life, to a key: job, request, profile and GPU ids. Two jobs never share one, nor do two sets of devices::

    starting -> unbound -> leased <-> idle -> gone

Some unbound workers of the peer's own interpreter are started ahead, so that the first tasks find them. Idle workers
are kept up to `keep` (the number of CPUs); beyond that, the longest idle end after `worker_idle_s`, and at once when
the number of processes is at its cap and another key needs one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from meshray.config import Config
from meshray.core.effects import AbandonStart, KillProcess, Send, StartWorker
from meshray.core.startup import CrashBudget
from meshray.wire.messages import Exit, JobInfo, Profile

Interpreter = tuple[str, str]  # (sys.executable, sys.prefix)

PRESTART_MAX = 8
"""Unbound workers started ahead: an idle one costs some 5 MB, and a fork takes 8 ms when more are needed."""

STARTS_AT_ONCE_MIN = 4
"""Workers that may be starting at one time: this many, or twice the CPUs. More would only slow each other down."""


@dataclass(frozen=True, slots=True)
class WorkerKey:
    """What a worker is bound to; grants of equal keys may share one, one after the other."""

    job: bytes
    gpu_ids: tuple[int, ...]
    request: tuple[tuple[str, int], ...]
    threads: int
    env_vars: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, job: bytes, request: dict[str, int], profile: Profile, gpu_ids: tuple[int, ...]) -> WorkerKey:
        env_vars = tuple(sorted(profile.env_vars.items()))
        return cls(job, gpu_ids, tuple(sorted(request.items())), profile.threads, env_vars)


@dataclass(slots=True, eq=False)
class Worker:
    """One worker process that has said Ready."""

    process: bytes
    interpreter: Interpreter
    key: WorkerKey | None = None  # None while unbound
    grant: int = 0  # whom it serves; 0 while idle
    idle_since: float = 0.0
    used: bool = False  # whether it ever gave a lease back in good order
    served: dict[bytes, None] = field(default_factory=dict)  # whose leases it has had, the last `SERVED_MAX`
    served_more: bool = False  # that is not all
    dying: bool = False  # it was told to end, or is being killed: never granted again
    waits_since: int | None = None  # the `since` of the Blocked that stands
    woke_since: int = -1  # the last `since` of an Unblocked: an older Blocked is stale


SERVED_MAX = 1024
"""So many submitters are remembered by worker; of one that has served more any may be among them."""


class Workers:
    """The worker processes of one peer; `emit` takes the effects."""

    def __init__(self, config: Config, own: Interpreter, keep: int, emit: Callable[[object], None]) -> None:
        self._config = config
        self._own = own  # the interpreter that generic workers run in
        self._keep = min(keep, config.workers_max)  # idle workers that are never ended for being idle
        self._emit = emit
        self._starts_max = max(STARTS_AT_ONCE_MIN, 2 * keep)
        self._tickets = 0  # the last ticket given out
        self._starting: dict[int, tuple[Interpreter, float]] = {}  # ticket -> (interpreter, give up at)
        self._workers: dict[bytes, Worker] = {}  # by process, until its death was reported
        self._unbound: dict[Interpreter, list[Worker]] = {}  # ready, idle
        self._idle: dict[WorkerKey, list[Worker]] = {}  # bound, idle; the longest idle first
        self.budgets: dict[Interpreter | bytes, CrashBudget] = {}  # by interpreter, or by job: only where one crashed

    # -- starting ----------------------------------------------------------------------------------------------------

    def prestart(self, now: float) -> None:
        for _ in range(min(self._keep, PRESTART_MAX)):
            self._start(self._own, None, now)

    def want(self, interpreter: Interpreter, job: JobInfo, needed: int, now: float, *, spare: bool = False) -> None:
        """`needed` grants await a worker of `interpreter`: have as many starting, within the bounds. With `spare`, have
        one that is unbound or starting beyond that: recursion through `get` needs one after the other."""
        if spare and not self._unbound.get(interpreter):
            needed += 1
        budget = self.budgets.get(interpreter)
        if budget is not None and now < budget.paused_until:
            return
        under_way = sum(1 for started, _ in self._starting.values() if started == interpreter)
        starts = min(needed - under_way, self._starts_max - len(self._starting))
        for _ in range(starts):
            if not self._make_room():
                return
            self._start(interpreter, job, now)

    def on_ready(self, ticket: int, process: bytes, now: float) -> bool:
        """A started worker attached. False (and it is killed) when nobody waits for that ticket any more."""
        started = self._starting.pop(ticket, None)
        if started is None:
            self._emit(KillProcess(process, "its start was given up"))
            return False
        interpreter = started[0]
        worker = Worker(process, interpreter, idle_since=now)
        self._workers[process] = worker
        self._unbound.setdefault(interpreter, []).append(worker)
        budget = self.budgets.get(interpreter)
        if budget is not None:
            budget.on_success()
        return True

    def on_start_failed(self, ticket: int, text: str, now: float) -> None:
        started = self._starting.pop(ticket, None)
        if started is not None:
            self.on_crash(started[0], text, now)

    def on_crash(self, cause: Interpreter | bytes, text: str, now: float) -> None:
        """A worker of this interpreter or job died before it did anything."""
        self.budgets.setdefault(cause, CrashBudget(self._config)).on_crash(text, now)

    def _start(self, interpreter: Interpreter, job: JobInfo | None, now: float) -> None:
        self._tickets += 1
        self._starting[self._tickets] = (interpreter, now + self._config.worker_start_timeout_s)
        own = interpreter == self._own
        self._emit(StartWorker(self._tickets, None if own else job, Profile()))

    def _make_room(self) -> bool:
        """Whether one more process may be started; ends the longest idle worker when the cap is reached."""
        if self.alive < self._config.workers_max:
            return True
        longest = min(self._all_idle(), key=lambda worker: worker.idle_since, default=None)
        if longest is None:
            return False
        self._end(longest, "another job needs its place")
        return True

    # -- serving -----------------------------------------------------------------------------------------------------

    def acquire(
        self, key: WorkerKey, interpreter: Interpreter, grant: int, *, dedicated: bool, but: bytes = b""
    ) -> Worker | None:
        """A ready worker for a grant of `key`; `worker.key` is None when it must be bound first.

        A dedicated one (for an actor) is always fresh: nothing that a task left behind shows in an actor. `but`: not
        this one, the submitter itself: when it dies, executors must tell which of its tasks had begun.
        """
        idle = () if dedicated else self._idle.get(key, ())
        worker = next((found for found in reversed(idle) if found.process != but), None)  # its caches are warm
        if worker is not None:
            self._remove_idle(worker)
        else:
            unbound = self._unbound.get(interpreter)
            if not unbound:
                return None
            worker = unbound.pop(0)
        self._clear_devices(key)
        assert not worker.grant, f"{worker} was in the pool while it was leased"
        assert not worker.dying, f"{worker} was in the pool while it was dying"
        worker.grant = grant
        if but:
            self._note_served(worker, but)
        return worker

    def _note_served(self, worker: Worker, submitter: bytes) -> None:
        worker.served.pop(submitter, None)
        worker.served[submitter] = None
        if len(worker.served) > SERVED_MAX:
            del worker.served[next(iter(worker.served))]
            worker.served_more = True

    def _clear_devices(self, key: WorkerKey) -> None:
        """An idle worker may still hold memory of a device: it ends when another key gets that device."""
        if key.gpu_ids:
            for other in self._all_idle():
                if other.key is not None and other.key != key and not set(key.gpu_ids).isdisjoint(other.key.gpu_ids):
                    self.kill(other, "its GPU was given to other work")

    def release(self, worker: Worker, now: float) -> None:
        """Its grant was returned in good order."""
        assert worker.grant, f"{worker} was not granted"
        assert worker.key is not None, f"{worker} was granted unbound"
        worker.grant, worker.idle_since, worker.used = 0, now, True
        if not worker.dying:
            self._idle.setdefault(worker.key, []).append(worker)
        budget = self.budgets.get(worker.key.job)
        if budget is not None:
            budget.on_success()

    def get(self, process: bytes) -> Worker | None:
        return self._workers.get(process)

    def of_job(self, job: bytes) -> list[Worker]:
        return [worker for worker in self._workers.values() if worker.key is not None and worker.key.job == job]

    # -- ending ------------------------------------------------------------------------------------------------------

    def kill(self, worker: Worker, reason: str) -> None:
        """Kill it now; its death is reported by `on_died`. A second time does nothing."""
        if not worker.dying:
            self._remove_idle(worker)
            worker.dying = True
            self._emit(KillProcess(worker.process, reason))

    def on_died(self, process: bytes) -> Worker | None:
        """It is gone; None for a process that is no ready worker."""
        worker = self._workers.pop(process, None)
        if worker is not None:
            self._remove_idle(worker)
        return worker

    def forget_job(self, job: bytes) -> None:
        self.budgets.pop(job, None)

    def tick(self, now: float, busy: Callable[[Worker], bool]) -> None:
        """End what idles too long, except `busy` ones (their tasks wait for others); give up starts that hang."""
        for ticket, (interpreter, deadline) in list(self._starting.items()):
            if now >= deadline:
                del self._starting[ticket]
                self._emit(AbandonStart(ticket))
                text = f"it did not get ready within {self._config.worker_start_timeout_s:g} s"
                self.on_crash(interpreter, text, now)
        for budget in self.budgets.values():
            budget.on_time(now)
        idle = self._all_idle()
        excess = len(idle) - self._keep
        if excess <= 0:
            return
        idle.sort(key=lambda worker: worker.idle_since)
        for worker in idle[:excess]:
            if now < worker.idle_since + self._config.worker_idle_s:
                return
            if busy(worker):
                worker.idle_since = now
            else:
                self._end(worker, "idle")

    def deadline(self) -> float | None:
        """When `tick` has something to do next."""
        times = [deadline for _, deadline in self._starting.values()] if self._starting else []
        times += [budget.paused_until for budget in self.budgets.values() if budget.resumes]
        idle = self._all_idle()
        if len(idle) > self._keep:
            times.append(min(worker.idle_since for worker in idle) + self._config.worker_idle_s)
        return min(times, default=None)

    def _end(self, worker: Worker, reason: str) -> None:
        """Ask an idle worker to end; the shell kills one that does not."""
        self._remove_idle(worker)
        worker.dying = True
        self._emit(Send(worker.process, Exit(reason)))

    def _remove_idle(self, worker: Worker) -> None:
        if worker.key is None:
            unbound = self._unbound.get(worker.interpreter, [])
            if worker in unbound:
                unbound.remove(worker)
        else:
            idle = self._idle.get(worker.key, [])
            if worker in idle:
                idle.remove(worker)
                if not idle:
                    del self._idle[worker.key]

    def _all_idle(self) -> list[Worker]:
        return [worker for worker in self._workers.values() if not worker.grant and not worker.dying]

    # -- for people --------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> int:
        """Processes that are here or about to be, those that were told to end not counted."""
        return len(self._starting) + sum(1 for worker in self._workers.values() if not worker.dying)

    @property
    def at_cap(self) -> bool:
        return self.alive >= self._config.workers_max

    def counts(self) -> dict[str, int]:
        """How many workers are starting, leased, idle."""
        leased = sum(1 for worker in self._workers.values() if worker.grant)
        idle = len(self._all_idle())
        return {"starting": len(self._starting), "leased": leased, "idle": idle}

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())


def bind_env(job: JobInfo, profile: Profile, devices: list[str]) -> dict[str, str]:
    """The environment of a worker: BLAS threads, GPU devices, the job's variables, the task's own (the last one wins).

    `devices` are its GPUs, as CUDA_VISIBLE_DEVICES calls them. A worker without GPUs sees none, as in Ray.
    """
    threads = str(max(1, profile.threads))
    env = {
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "CUDA_VISIBLE_DEVICES": ",".join(devices),
    }
    return env | job.env_vars | profile.env_vars
