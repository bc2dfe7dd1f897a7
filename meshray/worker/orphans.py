"""What a worker owes to the peer when a submitter of its tasks dies (see `core.adoption`).

Theory. A submitter that dies may have tasks here that the peer adopts. The peer must learn what became of each: the
results that the submitter may not have got, what has begun and is over, and what runs. Therefore the results of
submitters other than the driver (whose job ends with it) are kept until they are acknowledged, and what they belonged
to is remembered for a while after that, since the peer may not have been told of them. All under the pump's lock.

What runs when its submitter dies is reported as running, and its result goes to the peer instead. The main thread takes
a task from the queue and only then notes it as `at hand`, so a task may be in neither place for a moment: it is not
reported then, and the main thread asks `runs` before it begins anything for the dead.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from meshray.runtime.engine import Engine
from meshray.wire import messages as m

Item = tuple[bytes, int, m.Task]  # source, lease, task


class _Sent(NamedTuple):
    """A result that its submitter may not have got."""

    source: bytes
    lease: int
    seq: int
    task_id: bytes
    attempt: int
    result: m.Result


class Orphanage:
    """See the head of this file."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.driver = b""  # of the job of this worker
        self.unacknowledged: deque[_Sent] = deque()  # no more than the journal holds
        self._begun: deque[tuple[bytes, bytes, int]] = deque(maxlen=engine.config.begun_remembered_max)
        self._running: set[tuple[bytes, int]] = set()  # (task, attempt) that were reported as running

    def takes(self, item: Item, result: m.Result) -> bool:
        """A result is about to be sent to a worker. True when that one is dead: then the peer gets it."""
        source, lease, task = item
        if source == self._engine.peer:
            return False
        if source not in self._engine.dead:
            self.unacknowledged.append(_Sent(source, lease, task.seq, task.task_id, task.attempt, result))
            return False
        if (task.task_id, task.attempt) in self._running:
            self._running.discard((task.task_id, task.attempt))
            self._engine.pin_for_peer(source, task.task_id)
            orphan = m.Orphan(task.task_id, task.attempt, lease, task.seq, result)
            self._engine.send(self._engine.peer, m.OrphanDone(source, orphan))
        return True

    def on_acknowledged(self, lease: int, up_to: int) -> None:
        """A submitter has results of this lease up to this number; that of an earlier lease has got them all."""
        sent = self.unacknowledged
        while sent and (sent[0].lease != lease or sent[0].seq <= up_to):
            over = sent.popleft()
            self._begun.append((over.source, over.task_id, over.attempt))

    def runs(self, item: Item) -> bool:
        """Whether this task of a dead submitter was reported as running."""
        return (item[2].task_id, item[2].attempt) in self._running

    def tell(self, submitter: bytes, done: deque[tuple[Item, m.Result]], at_hand: Item | None) -> None:
        """Report what was done for a process that died. Takes its results out of `done`, to which the main thread may
        append meanwhile."""
        finished = [
            m.Orphan(sent.task_id, sent.attempt, sent.lease, sent.seq, sent.result)
            for sent in self.unacknowledged
            if sent.source == submitter
        ]
        self.unacknowledged = deque(sent for sent in self.unacknowledged if sent.source != submitter)
        finished += self._unsent(submitter, done)
        begun = [m.Orphan(task_id, attempt) for source, task_id, attempt in self._begun if source == submitter]
        over = {(orphan.task_id, orphan.attempt) for orphan in (*finished, *begun)}
        running: list[m.Orphan] = []
        if at_hand is not None and at_hand[0] == submitter:
            task = at_hand[2]
            if at_hand[1] and (task.task_id, task.attempt) not in over:
                self._running.add((task.task_id, task.attempt))
                running.append(m.Orphan(task.task_id, task.attempt, at_hand[1], task.seq))
        for orphan in (*finished, *running):
            self._engine.pin_for_peer(submitter, orphan.task_id)
        if finished or begun or running:
            self._engine.send(self._engine.peer, m.Orphans(submitter, finished, running, begun))

    @staticmethod
    def _unsent(submitter: bytes, done: deque[tuple[Item, m.Result]]) -> list[m.Orphan]:
        found: list[m.Orphan] = []
        for _ in range(len(done)):
            entry = done.popleft()
            (source, lease, task), result = entry
            if source == submitter:
                found.append(m.Orphan(task.task_id, task.attempt, lease, task.seq, result))
            else:
                done.append(entry)
        return found
