"""What running tasks have submitted: it is cancelled with them, if that is asked for."""

from __future__ import annotations

from collections.abc import Iterable

from meshray.core.records import Record

CHILDREN_MAX = 1024
"""So many tasks that one task has submitted are remembered before those that have ended are left out."""


class Children:
    """The results' ids, by task. No handles: what nobody holds is not kept for a possible cancel."""

    def __init__(self, table: dict[bytes, Record]) -> None:
        self._table = table
        self.by_task: dict[bytes, list[bytes]] = {}  # empty for most
        self._prune_at: dict[bytes, int] = {}  # tasks with many children: at how many the next look is worth it

    def note(self, task_id: bytes, object_ids: Iterable[bytes]) -> None:
        """A running task has submitted these."""
        children = self.by_task.get(task_id)
        if children is None:
            children = self.by_task[task_id] = []
        children += object_ids
        if len(children) >= CHILDREN_MAX and len(children) >= self._prune_at.get(task_id, 0):
            table = self._table
            children[:] = [each for each in children if (record := table.get(each)) and record.task]
            self._prune_at[task_id] = 2 * len(children)

    def of(self, task_id: bytes) -> list[bytes]:
        return list(self.by_task.get(task_id, ()))

    def forget(self, task_id: bytes) -> None:
        """The task is over: what it has submitted is not cancelled with it any more."""
        self.by_task.pop(task_id, None)
        self._prune_at.pop(task_id, None)
