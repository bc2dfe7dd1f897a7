"""Which jobs does this peer know, and when are they over?

A job is known from the moment that its driver attaches, or another host tells of it, until nothing is left of it. Its
driver may be gone long before that: such a job has *ended*, and goes on for its detached actors alone. Nothing is done
for a job whose workers need code that is not known yet (*codeless*).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from meshray.core.effects import JobForgotten
from meshray.core.lease_books import Books
from meshray.core.lease_ends import LeaseEnds
from meshray.core.workers import Worker
from meshray.wire.messages import Code, JobInfo

NO_CODE = Code()
"""No copy of the program's own folder."""


class Jobs:
    """See the head of this file. A part of `Leases`. `is_needed(job)` says whether an ended job has an actor that may
    still want a worker."""

    def __init__(self, books: Books, ends: LeaseEnds, is_needed: Callable[[bytes], bool]) -> None:
        self.is_needed = is_needed
        self._books = books
        self._ends = ends
        self._demands, self._workers = books.demands, books.workers
        # For reading:
        self.known: dict[bytes, JobInfo] = {}  # while its driver lives, it is needed, or a worker is bound to it
        self.ended: set[bytes] = set()  # those of them whose driver is gone
        self.codeless: set[bytes] = set()  # those of them that get nothing before their code is known

    # -- the beginning -----------------------------------------------------------------------------------------------

    def on_started(self, info: JobInfo, code_follows: bool) -> None:
        """See `Leases.on_job_started`."""
        if code_follows and (info.job not in self.known or self._does_without(info.job)):
            self.codeless.add(info.job)
        elif not code_follows and info.job in self.codeless:
            self.codeless.discard(info.job)
            self.known[info.job] = info
        self.known.setdefault(info.job, info)
        self.ended.discard(info.job)  # its host was lost, and is there again before the last of its workers is dead

    def _does_without(self, job: bytes) -> bool:
        """Whether a job was to do without code, and nothing has come of that."""
        return self.known[job].code == NO_CODE and not self._workers.of_job(job)

    def on_code_known(self, info: JobInfo) -> bool:
        """The same job, with its code. False for a repeat, which changes nothing: one job never has two kinds of
        workers."""
        if info.job not in self.codeless:
            return False
        self.codeless.discard(info.job)
        self.known[info.job] = info
        return True

    def on_left(self, info: JobInfo) -> None:
        """See `Leases.on_job_left`."""
        job = info.job
        if job not in self.known:
            self.known[job] = info
            self.ended.add(job)
        elif job in self.codeless or self._does_without(job):
            self.codeless.discard(job)
            self.known[job] = info

    def on_member_gone(self, node: bytes) -> None:
        """Nobody will tell the code of its jobs any more."""
        for job in [job for job in self.codeless if job.startswith(node)]:
            self._do_without(job)

    def _do_without(self, job: bytes) -> None:
        """The code of a job will not become known: what waits for it goes on without."""
        if job in self.codeless:
            self.codeless.discard(job)
            self.known[job] = msgspec.structs.replace(self.known[job], code=NO_CODE)

    # -- the end -----------------------------------------------------------------------------------------------------

    def end(self, job: bytes, survivors: frozenset[bytes]) -> frozenset[bytes]:
        """The driver of a job that is served is gone, or left. See `Leases.on_job_ended`."""
        self.ended.add(job)
        self._do_without(job)  # nobody will tell it any more, and a detached actor of it may start here
        for wanted in [wanted for wanted in self._demands if wanted.job == job and not wanted.is_actor]:
            # Its driver; this peer; a dead worker, frozen; one of another host that does not go on.
            if self._workers.get(wanted.submitter) is None and wanted.submitter not in survivors:
                self._ends.drop(wanted, "its job ended", told=self._books.is_foreign(wanted.submitter))
        going_on = set(survivors)
        for worker in self._workers.of_job(job):
            if self._root_of(worker) in survivors:
                going_on.add(worker.process)
            else:
                self._workers.kill(worker, "its job ended")
        for wanted in [wanted for wanted in self._demands if wanted.job == job and not wanted.is_actor]:
            if wanted.submitter not in going_on and self._workers.get(wanted.submitter) is not None:
                self._ends.drop(wanted, "its job ended")  # else its death would be awaited with new grants
        return frozenset(going_on)

    def _root_of(self, worker: Worker) -> bytes:
        """Who has caused what this worker does: itself if it hosts an actor or idles, else the root of its
        submitter; b"" if tasks of two workers run at each other's, which have ended themselves then."""
        grants = self._books.grants
        for _ in range(len(grants) + 1):
            grant = grants.get(worker.grant)
            if grant is None or grant.wanted.is_actor:
                return worker.process
            parent = self._workers.get(grant.wanted.submitter)
            if parent is None:
                return grant.wanted.submitter
            worker = parent
        return b""

    def forget_ended(self) -> None:
        """Jobs that ended go with the last of what their detached actors had asked for. Workers may be left idle."""
        for job in list(self.ended):
            if self.is_needed(job) or any(wanted.job == job for wanted in self._demands):
                continue
            workers = self._workers.of_job(job)
            for worker in workers:
                self._workers.kill(worker, "its job ended")
            if not workers:
                self.ended.discard(job)
                self.codeless.discard(job)
                del self.known[job]
                self._demands.forget_job(job)
                self._workers.forget_job(job)
                self._books.emit(JobForgotten(job))

    # -- reading -----------------------------------------------------------------------------------------------------

    def of_process(self, process: bytes) -> bytes | None:
        """The job that a driver is, or that a worker is bound to; None for a stranger, or one without a job."""
        worker = self._workers.get(process)
        if worker is not None:
            return None if worker.key is None or worker.dying else worker.key.job
        return process if process in self.known and process not in self.ended else None

    def serves(self, job: bytes) -> bool:
        """Whether this peer may submit something for a job."""
        return job in self.known and job not in self.ended
