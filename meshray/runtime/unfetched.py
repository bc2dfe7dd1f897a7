"""Failures that nobody fetches: each is told once, when its last reference goes or the mesh ends.

A task whose error nobody looks at would fail in silence. Touched under the pump's lock only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from meshray.core.records import Record
from meshray.ids import task_of
from meshray.wire.messages import Failure

TOLD_MAX = 10_000
"""Failed tasks whose errors were fetched, remembered until their last reference goes."""

KINDS = ("TaskError", "WorkerCrashedError")
"""Failures that are worth a line when nobody fetches them: not the consequences of ends and cancels."""


class Unfetched:
    """See the head of this file."""

    def __init__(self) -> None:
        self.report: Callable[[Failure], None] | None = None  # what to do with a failure that nobody will look at
        self._told: dict[bytes, None] = {}  # tasks whose failure somebody has seen, or was told of; `TOLD_MAX` at most

    def told(self, task_id: bytes) -> None:
        """The program has seen the failure of this task, or one that stands for it."""
        self._told[task_id] = None
        while len(self._told) > TOLD_MAX:
            self._told.pop(next(iter(self._told)), None)

    def fetched(self, records: Iterable[Record]) -> None:
        """The failures among these were seen by the program."""
        for record in records:
            if type(record.value) is Failure:
                self.told(task_of(record.id))

    def look(self, task_id: bytes, value: Any) -> None:
        """The last reference to a result is gone: if it was a failure that nobody has seen, say so, once per task."""
        if type(value) is not Failure or value.kind not in KINDS or self.report is None or task_id in self._told:
            return
        self.told(task_id)
        self.report(value)

    def look_through(self, records: Iterable[Record]) -> None:
        """The end: the same for all that is still referred to."""
        for record in records:
            if record.owned and not record.promoted:
                self.look(task_of(record.id), record.value)
