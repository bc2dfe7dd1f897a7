"""How do leases end?

Theory. In one of five ways: returned by its submitter; lost, when its worker dies; with its job; after its submitter;
or with its host. Where something may run for it its worker is killed, and its slots are free when that one is dead.

The leases of a dead submitter that was a worker are *frozen*: its workers may be running what the peer adopts
(`core.adoption`), which says for each when nothing of the dead one runs there any more (`thaw`).
"""

from __future__ import annotations

import msgspec

from meshray.core.demands import Wanted
from meshray.core.effects import Send
from meshray.core.grants import Grant
from meshray.core.lease_books import Books
from meshray.core.workers import Worker
from meshray.wire.messages import Failure, LeaseLost, LeaseRevoked, Result


class LeaseEnds:
    """See the head of this file. A part of `Leases`."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._grants, self._demands, self._workers = books.grants, books.demands, books.workers
        self._emit = books.emit

    # -- one lease ---------------------------------------------------------------------------------------------------

    def end(self, grant: Grant) -> None:
        """Its slots are free again."""
        self._grants.end(grant)
        self._demands.discard_if_empty(grant.wanted)

    def cancel_excess(self, wanted: Wanted) -> None:
        """Grants that await a worker, and are wanted no more; the latest first."""
        if len(wanted.grants) > wanted.count:
            for lease in sorted(wanted.grants & self._grants.awaiting.keys(), reverse=True):
                if len(wanted.grants) > wanted.count:
                    self.end(self._grants[lease])

    # -- with its worker ---------------------------------------------------------------------------------------------

    def on_worker_died(
        self,
        worker: Worker,
        finished: list[Result],
        started: list[int],
        failure: Failure,
        now: float,
        all_started: bool,
    ) -> None:
        """What it served is lost. See `Leases.on_process_died`."""
        grant = self._grants.get(worker.grant)
        hosts = grant is not None and grant.wanted.is_actor  # its death is its actor's affair
        unused = not worker.used and not finished and not started and not hosts
        if unused and not worker.dying and worker.key is not None:
            self._workers.on_crash(worker.key.job, failure.message, now)
        if grant is not None:
            if grant.left:
                name = self._books.placement.name
                failure = msgspec.structs.replace(failure, message=f"host {name} left: {failure.message}")
            lost = LeaseLost(grant.id, grant.worker, finished, started, failure, all_started, grant.left)
            self._lose(grant, lost, now)

    def _lose(self, grant: Grant, lost: LeaseLost, now: float) -> None:
        wanted = grant.wanted
        if wanted.is_actor:
            wanted.count = 0
        elif not grant.orphan:
            self._emit(Send(wanted.submitter, lost))
        wanted.since = now
        self.end(grant)

    # -- after its submitter -----------------------------------------------------------------------------------------

    def freeze(self, wanted: Wanted) -> None:
        """Its submitter is a worker that died: nobody pushes to its leases any more, but something may run there."""
        wanted.count = 0
        for grant in self._grants.of(wanted):
            if grant.worker:
                grant.orphan = True
            else:
                self.end(grant)
        self._demands.discard_if_empty(wanted)

    def thaw(self, process: bytes, submitter: bytes, kill: bool, now: float) -> bool:
        """Nothing of a dead submitter runs on this worker any more; `kill`: what runs is not wanted. False when it
        holds no frozen lease of that one."""
        worker = self._workers.get(process)
        grant = self._grants.get(worker.grant) if worker is not None else None
        if worker is None or grant is None or not grant.orphan or grant.wanted.key[0] != submitter:
            return False
        if kill:
            self._workers.kill(worker, "its submitter is gone")
        elif not worker.dying:
            self.end(grant)
            self._workers.release(worker, now)
        return True

    def drop_submitter(self, process: bytes) -> None:
        """It asks for nothing any more, and takes no results: what runs for it is killed."""
        for wanted in self._demands.of_submitter(process):
            self.drop(wanted, "its submitter is gone")

    def drop_host(self, node: bytes) -> None:
        """Nothing is done for processes of that host any more."""
        for wanted in [wanted for wanted in self._demands if wanted.key[0].startswith(node) and not wanted.is_actor]:
            self.drop(wanted, "its submitter's host is gone")

    def drop(self, wanted: Wanted, reason: str, told: bool = False) -> None:
        """Nobody stands behind a class any more: its grants end, at once or when their workers are dead. `told`: its
        submitter may think otherwise, so it hears of lost leases: only this host may hold its job for over."""
        wanted.count = 0
        for grant in self._grants.of(wanted):
            worker = self._workers.get(grant.worker)
            if worker is None:
                self.end(grant)
            else:
                grant.orphan = not told
                self._workers.kill(worker, reason)
        self._demands.discard_if_empty(wanted)

    # -- with its host -----------------------------------------------------------------------------------------------

    def call_back_all(self) -> None:
        """This peer is being stopped: they are called back, but for those of tasks that run here."""
        for grant in list(self._grants):
            if grant.wanted.is_actor or self._books.is_nested(grant.wanted):
                continue
            if not grant.worker:
                self.end(grant)
            elif not grant.comes_back:
                grant.revoked = True
                self._emit(Send(grant.wanted.submitter, LeaseRevoked(grant.id)))

    def end_work(self) -> None:
        """What still runs has had its time: its submitters may try it elsewhere, and are not charged for that."""
        for grant in list(self._grants):
            worker = self._workers.get(grant.worker)
            if not grant.wanted.is_actor and worker is not None and not worker.dying:
                grant.left = True
                self._workers.kill(worker, "its host leaves")
