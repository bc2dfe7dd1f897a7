"""Which of the ready tasks go to which lease now, and how many ahead?

A task is bound late: to a worker that can start it within milliseconds. What is pushed ahead hides a round trip: an
expected `in_flight_work_s`, by the running mean of each function, and one task at a time of a function never run
before. Little work is not divided among workers that would have to be woken for it.
"""

from __future__ import annotations

from collections.abc import Callable

from meshray.config import Config
from meshray.core.effects import Send
from meshray.core.pending import IN_FLIGHT, READY, Pending, deps_bytes, wire_task
from meshray.core.plain import RUN_MIN, plain_push
from meshray.core.scheduling import Lease, SchedulingClass
from meshray.wire.messages import Blob, Message, Push


class Filling:
    """See the head of this file. A part of `Submission`, which has the classes."""

    def __init__(self, config: Config, emit: Callable[[object], None]) -> None:
        """`emit` takes what is to be sent."""
        self._config = config
        self._budget_ns = config.in_flight_work_s * 1e9
        self._emit = emit

    def fill(self, cls: SchedulingClass) -> None:
        """Push what its leases have room for. Something is ready, and there are leases."""
        if cls.strategy.spread:
            self._fill_in_turn(cls)
            return
        if cls.idle and len(cls.ready) == 1:  # a synchronous caller's: no balance to strike
            for lease in cls.leases.values():
                if not lease.in_flight and not lease.revoked:
                    task = cls.ready.popleft()
                    lease.expected_ns = self._budget_ns if task.mean.ns is None else task.mean.ns
                    self._push(lease, [task])
                    return
        leases = [lease for lease in cls.leases.values() if not lease.revoked and not lease.held_up]
        if not leases:
            return
        at_most = self._config.in_flight_max_tasks
        if len(leases) == 1:
            batch = self._take(cls, leases[0], at_most - len(leases[0].in_flight))
            if batch:
                self._push(leases[0], batch)
            return
        waiting = len(cls.ready) + sum(len(lease.in_flight) for lease in leases)
        portion, portion_ns = self._portion(cls.ready[0]), self._config.portion_work_s * 1e9
        share = max(-(-waiting // len(leases)), portion)
        leases.sort(key=lambda lease: (lease.expected_ns >= portion_ns, not lease.in_flight, lease.expected_ns))
        for lease in leases:
            awake = bool(lease.in_flight)  # it need not be woken, so it may have a little more
            room = min(max(share, 2 * portion) if awake else share, at_most)
            batch = self._take(cls, lease, room - len(lease.in_flight))
            if batch:
                self._push(lease, batch)

    def _fill_in_turn(self, cls: SchedulingClass) -> None:
        """SPREAD: each lease runs one task, and the next one goes to whoever's turn it is."""
        for lease in [each for each in cls.leases.values() if not each.in_flight and not each.revoked]:
            batch = self._take(cls, lease, 1)
            if batch:
                self._push(lease, batch)
                lease.revoked = True

    def _portion(self, task: Pending) -> int:
        """So many tasks like this one are not worth being divided among workers: waking another one takes as long."""
        return int(self._config.portion_work_s * 1e9 / task.mean.ns) if task.mean.ns else 1

    def _take(self, cls: SchedulingClass, lease: Lease, room: int) -> list[Pending]:
        """At most `room` tasks for this lease, as far as the expected work in flight allows, and what their functions
        take at the worker."""
        ready, budget_ns, shipped = cls.ready, self._budget_ns, lease.link.shipped
        batch: list[Pending] = []
        expected_ns, size, max_bytes = lease.expected_ns, 0, self._config.push_batch_max_bytes
        empty = not lease.in_flight
        function: bytes | None = None  # of the task before: most are alike
        cost_ns = 0.0
        oldest = lease.link.next_seq if empty else next(iter(lease.in_flight))
        seen: dict[bytes, Blob] = {}  # functions of the batch
        adds = 0  # bytes by which the function at hand adds to those that the worker must keep
        left: int | None = None  # what may be added yet; only looked at once something new is to go along
        while ready and len(batch) < room:
            task = ready[0]
            if task.state != READY:
                ready.popleft()  # cancelled
                continue
            if task.function is not function:
                cost_ns = budget_ns if task.mean.ns is None else task.mean.ns
                if left is not None or task.function not in shipped:
                    assert task.blob is not None
                    if left is None:
                        left = shipped.room(oldest) - sum(shipped.adds(blob, oldest) for blob in seen.values())
                    adds = 0 if task.function in seen else shipped.adds(task.blob, oldest)
            full = expected_ns + cost_ns > budget_ns or size > max_bytes or (left is not None and adds > left)
            if full and not (empty and not batch):
                break
            batch.append(ready.popleft())
            expected_ns += cost_ns
            if task.args and type(task.args) is bytes:
                size += len(task.args)
            if task.deps:
                size += deps_bytes(task)
            if task.function is not function:
                function = task.function
                assert task.blob is not None
                seen[function] = task.blob
                if left is not None:
                    left -= adds
                    adds = 0
                    if function not in shipped:
                        size += len(task.blob.pickled)
        lease.expected_ns = expected_ns
        return batch

    def _push(self, lease: Lease, batch: list[Pending]) -> None:
        link, in_flight = lease.link, lease.in_flight
        if not in_flight:
            lease.cls.idle -= 1
        shipped, blobs = link.shipped, []
        function: bytes | None = None
        seq, plain = link.next_seq, len(batch) >= RUN_MIN
        last = seq + len(batch) - 1
        for task in batch:
            if task.function is not function:
                plain = plain and function in (None, task.function)
                function = task.function
                if not shipped.use(function, last):
                    assert task.blob is not None
                    shipped.add(task.blob, last)
                    blobs.append(task.blob)
            if not task.plain or task.attempt or task.nested or task.dep_refs is not None:
                plain = False
            task.state = IN_FLIGHT
            task.lease = lease
            task.seq = seq
            in_flight[seq] = task
            seq += 1
        first, link.next_seq = link.next_seq, seq
        forget = shipped.trim(next(iter(in_flight))) if blobs else []
        message: Message
        if plain:
            message = plain_push(lease.id, link.acknowledged, first, batch, blobs, forget)
        else:
            depth = lease.cls.depth
            tasks = [wire_task(task, task.seq, depth) for task in batch]
            message = Push(lease.id, link.acknowledged, tasks, blobs, forget)
        self._emit(Send(link.worker, message))
