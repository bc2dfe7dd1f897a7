"""Results that were not sent yet: when they leave, and in which messages.

They gather in `done`: any thread appends, whoever turns the pump takes out. They leave with the next turn: at once when
the queue is empty, after `SEND_TASKS` results or `SEND_AFTER_S` otherwise, and before any wait.

What its submitter may not have got is noted for his heirs on the way (`orphans.py`). An actor's calls have none: when
their caller is dead nobody takes their results, and once the last of them has ended its place in the journal is free.
"""

from __future__ import annotations

from collections import deque

from meshray.core.plain import results_message
from meshray.runtime.engine import Engine
from meshray.wire import messages as m
from meshray.worker.hosted import Hosted
from meshray.worker.orphans import Item, Orphanage
from meshray.worker.pushers import Pushers

SEND_TASKS = 64
SEND_AFTER_S = 0.001

FAILURES_AT_ONCE = 32
"""So many failures travel in one message: each may carry an exception of `exception_max_bytes`."""


class Unsent:
    """See the head of this file."""

    def __init__(self, engine: Engine, orphans: Orphanage, pushers: Pushers) -> None:
        self._engine = engine
        self._orphans = orphans
        self._pushers = pushers
        self.done: deque[tuple[Item, m.Result]] = deque()  # outcomes that were not sent yet
        self.busy_s = 0.0  # time spent on what is in `done`; only the main thread of tasks counts it
        self._dead_callers: set[bytes] = set()  # of the actor here, whose calls still run: nobody takes the results
        self._actor: Hosted | None = None  # set with the first of them

    def send(self) -> None:
        """Under the lock. Only whole items are taken, so an outcome that comes meanwhile is not lost."""
        orphans = self._orphans
        done = self.done
        busy, self.busy_s = int(self.busy_s * 1e9), 0.0
        if len(done) == 1 and done[0][0][0] not in self._engine.dead:  # a synchronous caller's: nothing to group
            item, result = done.popleft()
            source, lease, _ = item
            if source == orphans.driver or not lease or not orphans.takes(item, result):
                self._engine.send(source, m.Results(lease, [result], busy if lease else 0))
            return
        groups: dict[tuple[bytes, int], list[m.Result]] = {}
        group: list[m.Result] = []
        last_source, last_lease, kept = b"", -1, False
        while done:
            item, result = done.popleft()
            source, lease, _ = item
            if lease != last_lease or source is not last_source:
                last_source, last_lease, kept = source, lease, bool(lease) and source != orphans.driver
                group = groups.setdefault((source, lease), [])
            if kept and orphans.takes(item, result):
                continue
            group.append(result)
            if not lease and source in self._engine.dead:  # an actor's call has no heir: nobody takes what is inside
                self._engine.pins.pop((self._engine.peer, item[2].task_id), None)
        for (source, lease), results in groups.items():
            if source in self._dead_callers or not results:
                continue
            if len(results) > FAILURES_AT_ONCE and any(map(_is_failure, results)):
                for begin in range(0, len(results), FAILURES_AT_ONCE):
                    part = results[begin : begin + FAILURES_AT_ONCE]
                    self._engine.send(source, m.Results(lease, part, busy * len(part) // len(results) if lease else 0))
                continue
            self._engine.send(source, results_message(lease, results, busy if lease else 0))
        if self._dead_callers:
            self._forget_callers()

    def on_caller_died(self, caller: bytes, actor: Hosted) -> None:
        """A caller of the actor here is dead. Under the lock."""
        self._dead_callers.add(caller)
        self._actor = actor
        self._forget_callers()

    def _forget_callers(self) -> None:
        """Dead callers whose last call has ended need no place in the journal. Under the lock."""
        assert self._actor is not None
        for caller in [caller for caller in self._dead_callers if not self._actor.runs_for(caller)]:
            self._dead_callers.discard(caller)
            self._pushers.on_over(caller)


def _is_failure(result: m.Result) -> bool:
    return bool(result.values) and type(result.values[0]) is m.Failure
