"""Who is given the slots that are free, now?

In fair order (`demands`), whatever fits. Who waits is passed over while slots of this host are not for it: other hosts
are preferred (`placement`), the code of its job is on its way, workers of its job have crashed again and again, or this
peer is being stopped. A large request that has waited for long makes those behind it wait, too (`quantum.reserves`).
"""

from __future__ import annotations

import math

from meshray.core.demands import Wanted
from meshray.core.jobs import Jobs
from meshray.core.lease_books import Books
from meshray.core.quantum import reservation_ends, reserves


class Granting:
    """See the head of this file. A part of `Leases`."""

    def __init__(self, books: Books, jobs: Jobs) -> None:
        self._books = books
        self._jobs = jobs
        self._slots, self._placement = books.grants.slots, books.placement
        self.leaving = False  # this peer is being stopped
        self.pass_at: float | None = None  # when what a large request keeps for itself may go to others
        self._work_is_over = False  # and what ran has had its time

    def leave(self) -> None:
        """Nothing more is granted, but to tasks that run here: they may wait for theirs."""
        self.leaving = True

    def end_work(self) -> None:
        """Nor to those."""
        self._work_is_over = True

    def grant_next(self, now: float) -> bool:
        """Give slots to the first in fair order for whom there is room."""
        books = self._books
        reserved: set[str] = set()  # resources that wait for a large request
        self.pass_at, pass_at = None, math.inf
        for wanted in books.demands.waiting():
            if not self.may_have(wanted, now):
                continue
            if not reserved.isdisjoint(wanted.request):
                self.pass_at = pass_at
                continue
            if self._slots.fits(wanted.request):
                books.grants.make(wanted, now)
                self._placement.on_granted(wanted)
                books.demands.served(wanted, now)
                return True
            if reserves(wanted, books.grants, self._slots.total, now, books.config):
                reserved.update(wanted.request)
                pass_at = min(pass_at, reservation_ends(wanted, now, books.config))
        return False

    def may_have(self, wanted: Wanted, now: float) -> bool:
        """Whether slots of this host are for it, now, if there are any."""
        if self.leaving and (self._work_is_over or not self._books.is_nested(wanted)):
            return False
        if wanted.never or wanted.job in self._jobs.codeless or self._paused(wanted.job, now):
            return False
        return self._placement.may_grant(wanted, now)

    def _paused(self, job: bytes, now: float) -> bool:
        budget = self._books.workers.budgets.get(job)
        return budget is not None and now < budget.paused_until
