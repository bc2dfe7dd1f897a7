"""What a peer knows of one pending task that it would have to make again, and what an attempt costs.

The peer learns of attempts from three sides: from the submitter, while it lives (the lineage, `Retried`); from
executors, when it is dead (`Orphans`); and from silence, where a process died before it had told. Attempts are numbered
by the submitter. So a task that was last known at attempt `a` with `retries_left`, and of which attempt `b >= a` was
seen, has used up `b - a` retries that the submitter did not come to tell, and one more if `b` is over without a result.
Silence counts as one attempt per silent process: too many are better than one execution too much (I2). So it does for
one that lives and does not answer; that charge is made when the task is submitted again without its word.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from meshray.core.pending import Mean, Pending
from meshray.wire.messages import Blob, Failure, Lineage, Promoted, Result

UNSEEN = -1


class Heirs(Protocol):
    """Who makes the pending objects of dead submitters again (`core.adoption`). Events come in the midst of a change:
    they must not fail, and may come back only through `pin_for_task` and `unpin_for_task`."""

    def on_pending(self, submitter: bytes, promoted: Promoted) -> None:
        """A reference was promoted without a value."""

    def adopts(self, object_id: bytes) -> bool:
        """Whether a pending object will be made although its submitter died."""

    def on_outcome(self, object_id: bytes) -> None:
        """A value or a failure is there."""

    def on_settled(self, process: bytes) -> None:
        """All that a dead process had sent is known."""


class NoHeirs:
    """A peer that adopts nothing."""

    def on_pending(self, submitter: bytes, promoted: Promoted) -> None: ...
    def adopts(self, object_id: bytes) -> bool:
        return False

    def on_outcome(self, object_id: bytes) -> None: ...
    def on_settled(self, process: bytes) -> None: ...


class Heir:
    """One task, from the promotion of its first pending return until all of those have an outcome."""

    __slots__ = (
        "attempt",
        "blob",
        "failure",
        "finished",
        "held",
        "job",
        "lineage",
        "missing",
        "objects",
        "orphaned",
        "retries_left",
        "runner",
        "seen",
        "size",
        "submitter",
        "task",
        "unheard",
    )

    def __init__(self, lineage: Lineage, blob: Blob | None, submitter: bytes, job: bytes, size: int) -> None:
        self.lineage = lineage
        self.blob = blob  # its function; None if it never came
        self.submitter = submitter
        self.job = job
        self.size = size  # bytes, as counted against `lineage_max_bytes`
        self.objects: set[bytes] = set()  # its promoted returns that have no outcome yet
        self.attempt = lineage.attempt  # the newest that the submitter has told of
        self.retries_left = lineage.retries_left  # after that one; -1: always
        self.seen = UNSEEN  # the newest attempt that an executor has told of
        self.finished: tuple[int, Result] | None = None  # its newest result that was reported, with the attempt
        self.held: tuple[bytes, ...] = ()  # what `finished` contains, pinned until it is taken
        self.runner: tuple[bytes, int] | None = None  # the worker that runs it for the dead submitter; sequence number
        self.failure: Failure | None = None  # how that worker ended
        self.orphaned = False  # its submitter is dead and all is known: it is for the peer to see to it
        self.unheard = 0  # processes that died before they had told what they knew of it
        self.task: Pending | None = None  # once it was submitted again
        self.missing: set[bytes] = set()  # arguments that the submitted task waits for

    def on_retried(self, attempt: int, retries_left: int) -> None:
        """The submitter tries again."""
        if attempt > self.attempt:
            self.attempt, self.retries_left = attempt, retries_left

    def on_seen(self, attempt: int) -> bool:
        """An executor tells of an attempt. False: an old one, the submitter has dealt with it."""
        if attempt < self.attempt:
            return False
        self.seen = max(self.seen, attempt)
        return True

    def charge(self, silent: int = 0) -> bool:
        """Pay for what has begun and gave no result, and for `silent` processes. False when that exceeds what was
        allowed."""
        cost = self.unheard + silent
        if self.seen != UNSEEN:
            cost += self.seen - self.attempt + 1
        if self.retries_left >= 0:
            if cost > self.retries_left:
                return False
            self.retries_left -= cost
        self.attempt = max(self.attempt, self.seen) + 1  # a number that nobody has used
        self.seen, self.unheard = UNSEEN, 0
        return True

    def make_task(self, mean: Mean) -> Pending:
        """The next attempt, as a task of the peer's own. `mean`: of its function."""
        lineage = self.lineage
        task = Pending(lineage.task_id, lineage.function, lineage.args, [], mean)
        task.returns = lineage.returns
        task.blob = self.blob
        task.name = lineage.name
        task.deps = list(lineage.deps)
        task.nested = lineage.nested
        task.attempt = self.attempt
        task.retries_left = self.retries_left
        task.retry_exceptions = lineage.retry_exceptions
        return task

    def __repr__(self) -> str:
        where = f" runs at {self.runner[0].hex()}" if self.runner else ""
        return (
            f"<Heir {self.lineage.name} {self.lineage.task_id.hex()} of {self.submitter.hex()} attempt={self.attempt} "
            f"seen={self.seen} retries_left={self.retries_left} pending={len(self.objects)}{where}"
            f"{' orphaned' if self.orphaned else ''} {self.task or ''}>"
        )


def result_of(finished: Iterable[Result], seq: int) -> Result | None:
    """The result with this sequence number."""
    return next((result for result in finished if result.seq == seq), None)
