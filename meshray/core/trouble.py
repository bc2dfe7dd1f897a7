"""Why will this one wait long? What people are told who want slots and do not get them."""

from __future__ import annotations

from collections.abc import Iterable

from meshray.config import Config
from meshray.core.demands import Wanted
from meshray.core.effects import ActorWaits, Send
from meshray.core.grants import Grant
from meshray.core.jobs import Jobs
from meshray.core.lease_books import Books
from meshray.core.startup import CrashBudget
from meshray.core.workers import Workers
from meshray.wire.messages import Infeasible, JobInfo

CHAIN_MAX = 10
"""So many names of those who wait for each other are told; of more, the first and the last."""


class Troubles:
    """Tells them. A part of `Leases`."""

    def __init__(self, books: Books, jobs: Jobs) -> None:
        self._books = books
        self._jobs = jobs
        self._workers, self._placement = books.workers, books.placement

    def report(self, now: float) -> None:
        """Tell those who wait why they will wait long, once, and once more when that has changed."""
        grants, config = self._books.grants, self._books.config
        capped = grants.awaiting and self._workers.at_cap
        at_cap = all_taken(grants, config) if capped else ""
        for wanted in list(self._books.demands):
            if wanted.waits or wanted.told or not grants.awaiting.keys().isdisjoint(wanted.grants):
                patience_over = now >= wanted.since + config.infeasible_after_s
                never = self.why_never(wanted)
                text = trouble(wanted, never, self._jobs.known[wanted.job], self._workers, at_cap, patience_over)
                if text and wanted.hops:  # its people are at another host
                    text = f"on host {self._placement.name}: {text}"
                if text is not None and text != wanted.told:
                    hopeless = bool(never) and self._placement.is_hopeless(wanted)
                    self._books.emit(tell(wanted, text, self._workers.at_cap, hopeless))

    def why_never(self, wanted: Wanted) -> str:
        """Why no member can ever meet it; "" when one can, or when that is for the submitter's own peer to tell."""
        if not wanted.never or wanted.hops or self._placement.somebody_could(wanted):
            return ""
        why = self._placement.why_nobody(wanted)
        return why if self._placement.waits_for_reach(wanted) else f"no member can ever run it: {why}"


def trouble(wanted: Wanted, never: str, job: JobInfo, workers: Workers, at_cap: str, patience_over: bool) -> str | None:
    """Why `wanted` will wait long; "" when there is no reason; None when it is too early to say.

    `never`: that no member can run it, and why; "" when one can.
    `at_cap`: `all_taken`, if a grant lacks a worker because there may be no more of them; else "".
    """
    if never:
        return never if patience_over else None
    if wanted.never:
        return ""  # others can
    for cause in ((job.executable, job.prefix), wanted.job):
        budget: CrashBudget | None = workers.budgets.get(cause)
        if budget is not None and budget.exhausted:
            return budget.report()
    if at_cap:
        return at_cap if patience_over else None
    return ""


def tell(wanted: Wanted, text: str, at_cap: bool, hopeless: bool = False) -> Send | ActorWaits:
    """The effect that tells who waits, and that notes it; "" when there is no trouble any more. `at_cap`: no
    more workers may be started. `hopeless`: nor will anybody join that could run it."""
    wanted.told = text
    submitter, class_id = wanted.key
    if wanted.is_actor:
        return ActorWaits(submitter, wanted.job, text, bool(text) and not wanted.never and not at_cap, hopeless)
    return Send(submitter, Infeasible(class_id, text, hopeless))


def all_taken(grants: Iterable[Grant], config: Config) -> str:
    """All workers are taken: by actors, and by those who wait for each other, in order of depth. How many actors is not
    said: a text that changes is told to everybody again."""
    served = [grant for grant in grants if grant.worker]
    blocked = sorted((grant for grant in served if grant.given_back), key=lambda grant: grant.wanted.depth)
    text = f"all {config.workers_max} workers that this peer may have are taken ({config.workers_max_by})"
    if any(grant.wanted.is_actor for grant in served):
        text += "; an actor keeps its own until it ends"
    if blocked:
        names = [grant.wanted.name or "a task" for grant in blocked]
        half = CHAIN_MAX // 2
        left_out = f"... {len(names) - CHAIN_MAX} more ..."
        chain = names if len(names) <= CHAIN_MAX else [*names[:half], left_out, *names[-half:]]
        text += f"; {len(blocked)} of them {'waits' if len(blocked) == 1 else 'wait'} for others: {' -> '.join(chain)}"
    return text
