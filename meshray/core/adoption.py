"""Who makes the pending objects of a dead submitter?

Theory. A task's references live on when the worker that submitted it dies, if they were promoted: they are in somebody
else's hands. With the promotion of a pending one its *lineage* came to this peer. When its submitter dies, the peer
takes its place; it *adopts* the task. Nothing is adopted of a driver: its job ends with it.

Adoption waits until everybody has accounted for what the dead one had sent (`core.departures`). On the same links,
ahead of their answers, executors have told what became of its tasks (`Orphans`), and have dropped what had not begun.
So then each task is in one of these cases::

    finished    an executor still had the result                      -> it counts
    running     at an executor                                        -> its OrphanDone counts; its death is charged
    begun       and over, but its result is not to be found           -> charged, submitted again
    unheard     and some process died without telling                 -> charged as often, submitted again
    unheard     and everybody has told                                -> never begun: submitted again, not charged
    unwanted    nobody holds its references any more                  -> given up

Who is stopped, or holds the GIL for long, does not answer, and so keeps deaths from being settled. After
`adoption_patience_s` those of the dead one's tasks that somebody living is known to want are taken over all the same
(`core.silence`). Only executors that had a lease of the dead one can have begun them, and each of those that is
silent is charged as if it had died; where the retries do not allow that, its word is awaited. What it tells of a task
that was submitted again comes too late: results are let go of, and if it still runs one it is killed.

*Charged* means: tried again if its retries allow it, else failed. What the peer submits goes through a `Submission` of
its own, as any submitter's does; its demands count for the job of the dead one.

The leases of a dead submitter are frozen (`core.lease_ends`): their workers may be running orphans. Each is thawed when
its worker has said that nothing of the dead one runs there, or no more; a worker that runs what nobody wants is
killed.

References inside a reported result are pinned from its arrival, so CarrierDone is answered at once; those inside of
arguments are pinned with the lineage until the last return of the task has an outcome.
"""

from __future__ import annotations

from typing import Any

from msgspec import structs

from meshray.config import Config
from meshray.core.effects import LATE, Core, Send, ThawLease
from meshray.core.heirs import Heir, result_of
from meshray.core.held import HeldFunctions
from meshray.core.lineage import lineage_bytes
from meshray.core.objects import Objects
from meshray.core.pending import READY, WAITING, Mean, Pending, retriable
from meshray.core.plain import results_of
from meshray.core.scheduling import SchedulingClass
from meshray.core.silence import Silence
from meshray.core.submission import Submission
from meshray.ids import TASK_BYTES, owner_process_of, task_of
from meshray.strategy import Strategy
from meshray.wire.messages import (
    AskAlso,
    Blob,
    Borrowed,
    CarrierDone,
    DeathSeen,
    Failure,
    GivenBack,
    Infeasible,
    LeaseGranted,
    LeaseLost,
    LeaseRevoked,
    LeaseWanted,
    Lineage,
    Orphan,
    OrphanDone,
    Orphans,
    PlainResults,
    Profile,
    Promoted,
    Result,
    Results,
    Retried,
)

ClassKey = tuple[bytes, tuple[tuple[str, int], ...], str, int, Strategy]  # job, request, profile, depth, strategy


class Adoption(Core):
    """See the head of this file. `take_effects` decides what is due, so the shell must ask for effects after events."""

    def __init__(self, config: Config, peer: bytes, objects: Objects) -> None:
        super().__init__()
        self._config = config
        self._peer = peer
        self._objects = objects
        self._submission = Submission(peer, config)
        self._classes: dict[ClassKey, SchedulingClass] = {}
        self._jobs: dict[int, bytes] = {}  # class number -> job
        self._heirs: dict[bytes, Heir] = {}  # by task
        self._of_submitter: dict[bytes, set[bytes]] = {}  # submitter -> tasks; no empty sets
        self._at: dict[bytes, set[bytes]] = {}  # worker -> orphans that run there; no empty sets
        self._means: dict[bytes, Mean] = {}  # of adopted functions, while anything can be adopted
        self._blobs: dict[bytes, dict[bytes, Blob]] = {}  # living submitter -> functions it counts on (`shipped`)
        self._evicted: dict[bytes, set[bytes]] = {}  # submitter -> pending objects without lineage; no empty sets
        self._silence = Silence(config.adoption_patience_s)
        self._waiting: dict[bytes, list[Heir]] = {}  # argument that has no outcome -> adopted tasks
        self._due: list[Heir] = []  # something has changed for these
        self._bytes = 0  # of all lineages
        self._functions = HeldFunctions()  # of the heirs
        self._now = 0.0
        self.adopted = 0  # tasks submitted again, for people
        objects.heirs = self

    # -- what Objects tells, in the midst of a change ----------------------------------------------------------------

    def on_pending(self, submitter: bytes, promoted: Promoted) -> None:
        """A pending reference was promoted: keep what can make it."""
        lineage = promoted.lineage
        if lineage is not None and lineage.blob is not None:
            blobs = self._blobs.setdefault(submitter, {})
            for function in lineage.forget:
                blobs.pop(function, None)
            blobs[lineage.function] = lineage.blob
        heir = self._heirs.get(task_of(promoted.object_id))
        if heir is None and lineage is not None:
            blob = self._blobs.get(submitter, {}).get(lineage.function)
            lineage = structs.replace(lineage, blob=None, forget=[])
            if not self._full(lineage, blob):
                heir = self._keep(lineage, blob, submitter)
        if heir is not None:
            heir.objects.add(promoted.object_id)
        elif promoted.evicted or lineage is not None:
            self._evicted.setdefault(submitter, set()).add(promoted.object_id)

    def _full(self, lineage: Lineage, blob: Blob | None) -> bool:
        if len(self._heirs) >= self._config.lineage_max_records:
            return True
        size = lineage_bytes(lineage) + (self._functions.adds(blob) if blob is not None else 0)
        return self._bytes + self._functions.bytes + size > self._config.lineage_max_bytes

    def _keep(self, lineage: Lineage, blob: Blob | None, submitter: bytes) -> Heir:
        job = self._objects.owners.job_of(submitter)
        if blob is not None:
            blob = self._functions.hold(blob)
        heir = Heir(lineage, blob, submitter, job, lineage_bytes(lineage))
        self._heirs[lineage.task_id] = heir
        self._of_submitter.setdefault(submitter, set()).add(lineage.task_id)
        self._bytes += heir.size
        for object_id in lineage.pins:
            self._objects.pin_for_task(object_id)
        return heir

    def adopts(self, object_id: bytes) -> bool:
        """Whether a pending object will be made although its submitter died."""
        heir = self._heirs.get(task_of(object_id))
        return heir is not None and object_id in heir.objects and bool(self._objects.owners.job_of(heir.submitter))

    def on_outcome(self, object_id: bytes) -> None:
        """A value or a failure is there."""
        heir = self._heirs.get(task_of(object_id))
        if heir is not None and object_id in heir.objects:
            heir.objects.discard(object_id)
            if not heir.objects:
                self._due.append(heir)
        if self._evicted:
            self._forget_evicted(object_id)
        for waiting in self._waiting.pop(object_id, ()):
            waiting.missing.discard(object_id)
            self._due.append(waiting)

    def _forget_evicted(self, object_id: bytes) -> None:
        owner = owner_process_of(object_id)
        evicted = self._evicted.get(owner)
        if evicted is not None:
            evicted.discard(object_id)
            if not evicted:
                del self._evicted[owner]

    def on_settled(self, process: bytes) -> None:
        """All that a dead process had sent is known."""
        unheard = self._silence.on_settled(process)
        for task_id in sorted(self._of_submitter.get(process, ())):
            heir = self._heirs[task_id]
            heir.orphaned = True
            heir.unheard += unheard
            self._due.append(heir)

    # -- events ------------------------------------------------------------------------------------------------------

    def on_retried(self, sender: bytes, message: Retried) -> None:
        heir = self._heirs.get(message.task_id)
        if heir is not None and heir.submitter == sender and not heir.orphaned:
            heir.on_retried(message.attempt, message.retries_left)

    def on_process_died(
        self,
        process: bytes,
        finished: list[Result],
        failure: Failure,
        now: float,
        executors: frozenset[bytes] = frozenset(),
        served: frozenset[bytes] | None = None,
        abroad: int = 0,
    ) -> None:
        """A process is dead; told before `Objects` hears of it. `finished`: its journal, for the lease it served;
        `executors`: the workers that have a lease of it; `served`: whose leases it had itself, None for anybody's;
        `abroad`: how many other hosts it had dealings with. What ran
        there for it is killed, so each is taken for one that has begun its tasks and died without telling."""
        self._now = now
        self._submission.on_process_died(process)
        for task_id in sorted(self._at.pop(process, ())):
            heir = self._heirs[task_id]
            assert heir.runner is not None
            result = result_of(finished, heir.runner[1])
            heir.runner, heir.failure = None, failure
            if result is not None:
                self._note_result(heir, heir.seen, result)
            self._due.append(heir)
        self._silence.on_died(process, self._objects.deaths.unanswered_by(process), executors, served, now, abroad)
        self._look_again()
        self._blobs.pop(process, None)
        for object_id in sorted(self._evicted.pop(process, ())):
            text = f"object {object_id.hex()} was lost with the submitter of its task, whose lineage had been evicted"
            self._objects.promised.resolve(object_id, Failure("ObjectReconstructionFailedError", text), [])

    def on_orphans(self, sender: bytes, message: Orphans, now: float) -> None:
        """What an executor had of a dead submitter."""
        self._now = now
        if not self._silence.awaits(sender, message.submitter) or not self._objects.is_attached(sender):
            return
        for orphan in (*message.finished, *message.begun):
            heir = self._heir_of(orphan, message.submitter)
            if heir is not None and heir.on_seen(orphan.attempt) and orphan.result is not None:
                self._note_result(heir, orphan.attempt, orphan.result)
        for orphan in message.running:
            heir = self._heir_of(orphan, message.submitter)
            if heir is not None and heir.on_seen(orphan.attempt):
                heir.runner = (sender, orphan.seq)
                self._at.setdefault(sender, set()).add(orphan.task_id)
            else:
                self._silence.on_unwanted(sender, message.submitter)
        self._let_go(sender, message.finished)

    def _heir_of(self, orphan: Orphan, submitter: bytes) -> Heir | None:
        """None where the word comes too late: the task was submitted again without it."""
        heir = self._heirs.get(orphan.task_id)
        return heir if heir is not None and heir.submitter == submitter and heir.task is None else None

    def on_death_seen(self, sender: bytes, message: DeathSeen) -> None:
        """An executor has told all it knows; told before `Objects` hears of it."""
        unwanted = self._silence.on_answered(sender, message.process)
        if unwanted is None:
            return
        self._look_again()
        running = [self._heirs[task_id] for task_id in self._at.get(sender, ())]
        if not any(heir.submitter == message.process for heir in running):
            self._effects.append(ThawLease(sender, message.process, kill=unwanted))

    # -- silence -----------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        return self._silence.next_deadline()

    def tick(self, now: float) -> None:
        """Whoever has not answered by now is not waited for any more."""
        self._now = now
        self._silence.tick(now)
        self._look_again()

    def _look_again(self) -> None:
        """Something has changed that may allow more tasks of overdue deaths to be taken over."""
        for submitter in self._silence.overdue():
            self._due += [self._heirs[task_id] for task_id in sorted(self._of_submitter.get(submitter, ()))]

    def _is_wanted(self, heir: Heir) -> bool:
        promised = self._objects.promised
        wanted = promised.is_wanted if heir.orphaned else promised.is_wanted_by_the_living
        return any(wanted(object_id) for object_id in heir.objects)

    def on_orphan_done(self, sender: bytes, message: OrphanDone, now: float) -> None:
        """An orphan that ran is over."""
        self._now = now
        if not self._objects.is_attached(sender):
            return
        orphan = message.orphan
        heir = self._heirs.get(orphan.task_id)
        if heir is not None and heir.runner is not None and heir.runner[0] == sender:
            self._stop_running(heir)
            if orphan.result is not None:
                self._note_result(heir, orphan.attempt, orphan.result)
            self._due.append(heir)
        self._effects.append(ThawLease(sender, message.submitter))
        self._let_go(sender, [orphan])

    def _let_go(self, worker: bytes, orphans: list[Orphan]) -> None:
        """What is inside these results is pinned here, or not wanted."""
        carriers = [orphan.task_id for orphan in orphans if orphan.result is not None and orphan.result.contained]
        if carriers:
            self._effects.append(Send(worker, CarrierDone(carriers)))

    def _note_result(self, heir: Heir, attempt: int, result: Result) -> None:
        """A result was reported: the newest one will count, unless something newer has begun."""
        if result.lost or (heir.finished is not None and heir.finished[0] >= attempt):
            return  # what could not run since its arguments are lost may be able to when it asks for them itself
        before, heir.held = heir.held, tuple(object_id for ids in result.contained for object_id in ids)
        heir.finished = attempt, result
        for object_id in heir.held:
            self._objects.pin_for_task(object_id)
        for object_id in before:
            self._objects.unpin_for_task(object_id)

    def _stop_running(self, heir: Heir) -> None:
        if heir.runner is not None:
            tasks = self._at[heir.runner[0]]
            tasks.discard(heir.lineage.task_id)
            if not tasks:
                del self._at[heir.runner[0]]
            heir.runner = None

    def on_node_gone(self, node: bytes, failure: Failure, now: float) -> None:
        """A host is gone: what was submitted there again is lost, and charged."""
        self._now = now
        self._take(self._submission.on_node_gone(node, failure, now), b"")

    def on_job_ended(self, job: bytes) -> None:
        """Told after `Leases` and `Objects`: what nobody of the job waits for any more is forgotten."""
        for heir in [heir for heir in self._heirs.values() if heir.job == job and heir.orphaned]:
            for object_id in sorted(heir.objects):
                self._objects.promised.give_up(object_id)
        for key in [key for key in self._classes if key[0] == job]:
            cls = self._classes.pop(key)
            del self._jobs[cls.id]
            self._submission.drop_class(cls)

    # -- the peer as a submitter -------------------------------------------------------------------------------------

    def job_of_class(self, class_id: int) -> bytes:
        """For whom a demand of this peer is; b"" for a class that is gone."""
        return self._jobs.get(class_id, b"")

    def on_own(self, message: Any, now: float) -> None:
        """What `Leases` says to this peer as to a submitter."""
        self._now = now
        if isinstance(message, LeaseGranted):
            self._submission.on_granted(message, now)
        elif isinstance(message, AskAlso):
            self._submission.on_ask_also(message)
        elif isinstance(message, LeaseWanted):
            self._submission.on_wanted(message.lease)
        elif isinstance(message, LeaseRevoked):
            self._submission.on_revoked(message.lease)
        elif isinstance(message, LeaseLost):
            self._take(self._submission.on_lost(message, now), b"")
        else:
            assert isinstance(message, Infeasible), message
            if message.hopeless:  # else it will be feasible again: it has run before
                self._take(self._submission.on_unschedulable(message.class_id, message.message), b"")

    def on_results(self, sender: bytes, message: Results | PlainResults, now: float) -> None:
        """Outcomes of adopted tasks."""
        self._now = now
        results = message.results if isinstance(message, Results) else results_of(message)
        done = self._submission.on_results(sender, message.lease, results, message.busy_ns, now)
        self._take(done, sender)

    def on_given_back(self, sender: bytes, message: GivenBack, now: float) -> None:
        """Adopted tasks that a worker will not start."""
        self._now = now
        self._take(self._submission.on_given_back(sender, message.lease, message.seqs, now), sender)

    def _take(self, done: list[tuple[Pending, Result]], worker: bytes) -> None:
        """Outcomes count. `worker`: whose pins on what is inside may end; b"" when it is dead."""
        for task, result in done:
            heir = self._heirs.get(task.task_id)
            if heir is not None:
                self._resolve(heir, result)
            if result.contained and worker:
                self._effects.append(Send(worker, CarrierDone([task.task_id])))

    # -- decisions ---------------------------------------------------------------------------------------------------

    @property
    def decided(self) -> list[Any]:
        """Not known before it was asked."""
        return LATE

    def take_effects(self) -> list[Any]:
        """Decide what is due; then what is to be done."""
        while self._due:
            due, self._due = self._due, []
            for heir in due:
                self._decide(heir)
        submission = self._submission
        if submission.busy:
            submission.fill(self._now)
            submission.tick(self._now, 0.0)  # a lease without work is missing elsewhere
        return super().take_effects() + submission.take_effects()

    def _decide(self, heir: Heir) -> None:
        if self._heirs.get(heir.lineage.task_id) is not heir:
            return
        if not heir.objects:
            self._end(heir)
        elif heir.task is not None:
            self._start_when_ready(heir)
        elif not heir.orphaned and not self._silence.is_overdue(heir.submitter):
            return  # its submitter lives, or is not settled
        elif not self._is_wanted(heir):
            if heir.orphaned:  # else somebody silent may hold it
                self._give_up(heir)
        elif heir.runner is None:
            self._take_over(heir)

    def _take_over(self, heir: Heir) -> None:
        """All is known, or no longer waited for, and nothing is known to run: the case decides."""
        finished = heir.finished
        if finished is not None and finished[0] >= heir.seen:
            self._accept(heir, finished[1])
        else:
            self._try_again(heir)

    def _accept(self, heir: Heir, result: Result) -> None:
        """An outcome of the dead submitter's own attempts: it may be one to retry."""
        task = heir.make_task(Mean())
        if not task.retry_exceptions or not retriable(task, result):
            self._resolve(heir, result)
        elif heir.charge(self._silence.cost(heir.submitter)):
            self._submit(heir)
        elif heir.orphaned:
            self._resolve(heir, result)

    def _try_again(self, heir: Heir) -> None:
        if heir.charge(self._silence.cost(heir.submitter)):
            self._submit(heir)
            return
        if not heir.orphaned:
            return  # somebody silent may know of a result
        text = f"{heir.lineage.name} had begun, its result was lost with its submitter, and no retries are left"
        self._resolve(heir, Result(0, [heir.failure or Failure("WorkerCrashedError", text)]))

    def _give_up(self, heir: Heir) -> None:
        if heir.runner is not None:
            self._effects.append(ThawLease(heir.runner[0], heir.submitter, kill=True))
        for object_id in sorted(heir.objects):
            self._objects.promised.give_up(object_id)

    def _submit(self, heir: Heir) -> None:
        if heir.blob is None:
            text = f"the function {heir.lineage.name} was lost with its submitter"
            self._resolve(heir, Result(0, [Failure("ObjectReconstructionFailedError", text)]))
            return
        self.adopted += 1
        heir.task = heir.make_task(self._means.setdefault(heir.lineage.function, Mean()))
        heir.task.cls = self._class_of(heir)
        for dep in heir.lineage.deps:
            if isinstance(dep, Borrowed) and self._objects.promised.outcome_of(dep.object_id) is None:
                heir.missing.add(dep.object_id)
                self._waiting.setdefault(dep.object_id, []).append(heir)
        self._start_when_ready(heir)

    def _start_when_ready(self, heir: Heir) -> None:
        """As soon as all its arguments have an outcome. The executor fetches those that are borrowed."""
        assert heir.task is not None
        if heir.missing or heir.task.state != WAITING:
            return
        for dep in heir.lineage.deps:
            outcome = self._objects.promised.outcome_of(dep.object_id) if isinstance(dep, Borrowed) else None
            if isinstance(outcome, Failure):
                self._resolve(heir, Result(0, [outcome]))
                return
        self._submission.on_ready(heir.task)

    def _class_of(self, heir: Heir) -> SchedulingClass:
        lineage = heir.lineage
        strategy = lineage.strategy
        key = (heir.job, tuple(sorted(lineage.request.items())), _key(lineage.profile), lineage.depth, strategy)
        cls = self._classes.get(key)
        if cls is None:
            cls = self._submission.new_class(lineage.request, lineage.profile, lineage.depth, strategy, heir.job)
            self._classes[key] = cls
            self._jobs[cls.id] = heir.job
        return cls

    def _resolve(self, heir: Heir, result: Result) -> None:
        """Values for the returns that were promoted. The task ends when `Objects` has said so."""
        values = result.values or [Failure("TaskError", f"{heir.lineage.name} returned nothing")]
        for object_id in sorted(heir.objects):
            index = int.from_bytes(object_id[TASK_BYTES:], "big")
            contained = result.contained[index] if index < len(result.contained) else []
            self._objects.promised.resolve(object_id, values[index] if index < len(values) else values[0], contained)

    def _end(self, heir: Heir) -> None:
        """Nothing is left to be made."""
        lineage = heir.lineage
        del self._heirs[lineage.task_id]
        tasks = self._of_submitter[heir.submitter]
        tasks.discard(lineage.task_id)
        if not tasks:
            del self._of_submitter[heir.submitter]
        self._stop_running(heir)
        self._bytes -= heir.size
        if heir.blob is not None:
            self._functions.let_go(heir.blob)
        if not self._heirs:
            self._means.clear()
        if heir.task is not None and heir.task.state in (WAITING, READY):
            self._submission.cancel(heir.task)
        for object_id in (*lineage.pins, *heir.held):
            self._objects.unpin_for_task(object_id)

    # -- for people and tests ----------------------------------------------------------------------------------------

    def heirs(self) -> list[Heir]:
        """For reading."""
        return list(self._heirs.values())

    def check(self) -> None:
        """Assert that the books agree."""
        assert self._bytes == sum(heir.size for heir in self._heirs.values())
        assert self._functions.holders == sum(heir.blob is not None for heir in self._heirs.values())
        for task_id, heir in self._heirs.items():
            assert task_id in self._of_submitter[heir.submitter], heir
            assert heir.runner is None or task_id in self._at[heir.runner[0]], heir
        assert sum(map(len, self._of_submitter.values())) == len(self._heirs)
        assert all(task_id in self._heirs for tasks in self._at.values() for task_id in tasks)


def _key(profile: Profile) -> str:
    return repr((profile.gpus, profile.threads, sorted(profile.env_vars.items())))
