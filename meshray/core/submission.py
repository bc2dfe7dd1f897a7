"""What becomes of this process's tasks, from the moment their arguments are there?

A task waits in its *scheduling class* (same resources, environment and depth) until a lease of that class has room
(`filling`). Peers are asked for leases as long as tasks wait (`asking`); what concerns a lease goes to the peer of its
worker's host.

The states of a task are those of `pending`. Results are accepted once: a sequence number that is not in flight is
stale, and counted.
"""

from __future__ import annotations

from typing import Any

from meshray.config import Config
from meshray.core.asking import Asking
from meshray.core.effects import Core, Send
from meshray.core.filling import Filling
from meshray.core.pending import (
    DONE,
    IN_FLIGHT,
    READY,
    WAITING,
    Pending,
    cancelled_result,
    retriable,
    while_running,
)
from meshray.core.scheduling import Asked, Lease, SchedulingClass, WorkerLink
from meshray.ids import peer_of
from meshray.strategy import ANYWHERE, Strategy
from meshray.wire.messages import (
    AskAlso,
    Failure,
    KillWorker,
    LeaseGranted,
    LeaseLost,
    LeaseReturned,
    Profile,
    Result,
    Retried,
)


class Submission(Core):
    """See the head of this file. The shell calls `fill` after each batch of events."""

    def __init__(self, peer: bytes, config: Config, job: bytes = b"") -> None:
        """`job`: of which this process is; only needed where there are other peers."""
        super().__init__()
        self._peer = peer
        self.job = job  # of its tasks, unless told
        self._config = config
        self._budget_ns = config.in_flight_work_s * 1e9
        self._asking = Asking(peer, config, self._emit)
        self._filling = Filling(config, self._emit)
        self._classes: dict[int, SchedulingClass] = {}
        self._links: dict[bytes, WorkerLink] = {}
        self._leases: dict[int, Lease] = {}
        self.dirty: dict[int, SchedulingClass] = {}  # classes that `fill` must look at
        self.pressed = False  # an idle lease is wanted: `tick` shall come within `lease_idle_wanted_s`
        self._next_class = 1
        # (worker, task) of attempts that failed, are tried again, and left references behind in their worker: the shell
        # pins those for it, and empties this
        self.kept_by_failed: list[tuple[bytes, Pending]] = []
        # Tasks that did not run, since arguments of theirs are lost, with what their worker said: the shell finds other
        # values, or fails them, and empties this. Where it does not want them, such a result is one like any other.
        self.starved: list[tuple[Pending, Result]] = []
        self.wants_starved = False
        self.stale = 0  # results that nobody waited for
        self._correct_at = 0.0  # when peers are told next that less is wanted than they know

    def _emit(self, effect: object) -> None:
        self._effects.append(effect)

    # -- events from this process ------------------------------------------------------------------------------------

    def new_class(
        self, request: dict[str, int], profile: Profile, depth: int, strategy: Strategy = ANYWHERE, job: bytes = b""
    ) -> SchedulingClass:
        """A class for tasks with these needs. The caller keeps it and reuses it. `job`: of its tasks, if they are of
        another than this process."""
        cls = SchedulingClass(self._next_class, request, profile, depth, strategy, job or self.job)
        self._next_class += 1
        self._classes[cls.id] = cls
        return cls

    def settle_near(self, task: Pending, near: dict[bytes, int]) -> None:
        """All arguments of a task are there, large ones among them: so many bytes on these nodes. It joins those whose
        arguments lie where most of its own do. Told before `on_ready`."""
        cls: SchedulingClass = task.cls
        node, most = max(near.items(), key=lambda item: item[1])
        if most < self._config.locality_min_bytes or cls.strategy != ANYWHERE:
            return
        variant = cls.variants.get(node)
        if variant is None:
            variant = cls.variants[node] = self.new_class(cls.request, cls.profile, cls.depth)
            variant.base = cls
        variant.near = near
        task.cls = variant

    def on_ready(self, task: Pending) -> None:
        """All arguments of a task are there."""
        assert task.state == WAITING, f"ready twice: {task!r}"
        cls: SchedulingClass = task.cls
        task.state = READY
        cls.ready.append(task)
        self.dirty[cls.id] = cls

    def on_all_ready(self, tasks: list[Pending]) -> None:
        """The same for many: they come in batches."""
        last: SchedulingClass | None = None
        for task in tasks:
            assert task.state == WAITING, f"ready twice: {task!r}"
            task.state = READY
            cls: SchedulingClass = task.cls
            if cls is not last:
                last = self.dirty[cls.id] = cls
            cls.ready.append(task)

    def drop_class(self, cls: SchedulingClass) -> None:
        """Forget a class with its tasks and leases, without a word: those who would hear it know."""
        for task in cls.ready:
            task.state = DONE
        for lease in cls.leases.values():
            for task in lease.in_flight.values():
                task.state = DONE
            del self._leases[lease.id]
        self._classes.pop(cls.id, None)
        self.dirty.pop(cls.id, None)

    def cancel(self, task: Pending) -> bool:
        """Mark a task. True when it is at a worker: then the worker must be told; else it is DONE and never runs."""
        task.cancelled = True
        if task.state == IN_FLIGHT:
            return True
        if task.state == READY:
            self.dirty[task.cls.id] = task.cls  # fewer leases are wanted
        task.state = DONE  # a ready one is skipped when its turn comes
        return False

    def kill_worker(self, task: Pending) -> None:
        """Have the worker that runs this task killed."""
        if task.lease is not None:
            self._effects.append(Send(task.lease.peer, KillWorker(task.lease.id, task.seq)))

    # -- events from the peer ----------------------------------------------------------------------------------------

    def on_granted(self, message: LeaseGranted, now: float) -> None:
        """A worker for a class; a class that is gone gives it back."""
        cls = self._classes.get(message.class_id)
        known = self._leases.get(message.lease)
        if known is not None and known.link.worker == message.worker:
            return
        if cls is None or known is not None:  # two peers have given the same number: they never do twice
            self._effects.append(Send(peer_of(message.worker), LeaseReturned([message.lease])))
            return
        link = self._links.get(message.worker)
        if link is None:
            link = self._links[message.worker] = WorkerLink(message.worker, self._config.functions_max_bytes)
        lease = Lease(message.lease, cls, link, now)
        self._leases[lease.id] = lease
        if lease.peer == self._peer and cls.abroad:
            cls.leases = {lease.id: lease, **cls.leases}  # those here come first where all else is equal
        else:
            cls.leases[lease.id] = lease
        if lease.peer != self._peer:
            cls.abroad += 1
            asked = cls.asked.setdefault(lease.peer, Asked())
            asked.leases += 1
            asked.more = max(0, asked.more - 1)
        cls.idle += 1
        cls.left_at = now
        self.dirty[cls.id] = cls

    def on_ask_also(self, message: AskAlso) -> None:
        """A peer names another one that may have room."""
        cls = self._classes.get(message.class_id)
        if cls is not None and self._asking.on_ask_also(cls, message):
            self.dirty[cls.id] = cls

    def on_unschedulable(self, class_id: int, text: str) -> list[tuple[Pending, Result]]:
        """No member can run tasks of this class, nor will one ever: those that wait fail."""
        cls = self._classes.get(class_id)
        if cls is None:
            return []
        done: list[tuple[Pending, Result]] = []
        for task in cls.ready:
            if task.state == READY:
                task.state = DONE
                failure = Failure("TaskUnschedulableError", f"{task.name} cannot run: {text}")
                done.append((task, Result(task.seq, [failure])))
        cls.ready.clear()
        self.dirty[class_id] = cls
        return done

    def handles_for(self, node: bytes) -> list[list[Any]]:
        """What is kept for tasks that were pushed to workers of this host."""
        leases = [lease for lease in self._leases.values() if lease.peer == peer_of(node)]
        return [task.refs for lease in leases for task in lease.in_flight.values() if task.refs]

    def on_node_gone(self, node: bytes, failure: Failure, now: float) -> list[tuple[Pending, Result]]:
        """A host is gone: its leases are lost, and nobody can tell what had begun there. Returns the tasks that are
        done."""
        peer = peer_of(node)
        done: list[tuple[Pending, Result]] = []
        for lease in [lease for lease in self._leases.values() if lease.peer == peer]:
            done += self.on_lost(LeaseLost(lease.id, lease.link.worker, [], [], failure, True), now)
        for cls in self._classes.values():
            cls.asked.pop(peer, None)
        for worker in [worker for worker in self._links if worker.startswith(node)]:
            del self._links[worker]
        return done

    def on_revoked(self, lease_id: int) -> None:
        """Somebody else waits: no more pushes to this one."""
        lease = self._leases.get(lease_id)
        if lease is None or lease.revoked:
            return
        lease.revoked = True
        if not lease.in_flight:
            self._return(lease)
        self.dirty[lease.cls.id] = lease.cls

    def on_wanted(self, lease_id: int) -> None:
        """Somebody waits for it: only a short pause before it is returned."""
        lease = self._leases.get(lease_id)
        if lease is not None and not lease.wanted:
            lease.wanted = True
            self.dirty[lease.cls.id] = lease.cls

    def on_lost(self, message: LeaseLost, now: float) -> list[tuple[Pending, Result]]:
        """The worker died. What its journal says was finished counts; what had started is charged, unless its host had
        ended it because it `left`; the rest goes to another worker uncharged. Returns the tasks that are done."""
        self._links.pop(message.worker, None)
        lease = self._leases.get(message.lease)
        if lease is None or lease.link.worker != message.worker:
            return []
        lease.revoked = False  # it is gone: there is nothing to return
        done = self._accept(lease, message.finished, now)
        started = set(message.started)
        again: list[Pending] = []
        for seq, task in lease.in_flight.items():
            task.lease = None
            task.attempt += 1
            if task.cancelled:
                done.append((task, cancelled_result(task)))
                task.state = DONE
            elif task.retries_left != 0 or not (message.all_started or seq in started):
                if task.retries_left > 0 and not message.left and (message.all_started or seq in started):
                    task.retries_left -= 1
                task.state = READY
                again.append(task)
                self._tell_retried(task)
            else:
                task.state = DONE
                done.append((task, Result(seq, [while_running(task, message.failure)])))
        if not lease.in_flight:
            lease.cls.idle -= 1
        lease.in_flight.clear()
        lease.cls.ready.extendleft(reversed(again))
        self._forget(lease)
        return done

    def on_process_died(self, worker: bytes) -> None:
        """It is no more. Its leases were lost before (`on_lost`); one without a lease is only forgotten."""
        self._links.pop(worker, None)

    # -- events from workers -----------------------------------------------------------------------------------------

    def on_results(
        self, worker: bytes, lease_id: int, results: list[Result], busy_ns: int, now: float
    ) -> list[tuple[Pending, Result]]:
        """Outcomes. Returns the tasks that are done; the others are tried again."""
        lease = self._leases.get(lease_id)
        if lease is None or lease.link.worker != worker:
            self.stale += len(results)
            return []
        if results:
            first = lease.in_flight.get(results[0].seq)
            if first is not None and busy_ns:
                first.mean.add(busy_ns / len(results))
        return self._accept(lease, results, now)

    def on_plain_results(
        self, worker: bytes, lease_id: int, first: int, count: int, busy_ns: int, now: float
    ) -> list[Pending | None]:
        """Inline values of a run of attempts. Returns their tasks, which are done; None for what nobody waited for."""
        lease = self._leases.get(lease_id)
        if lease is None or lease.link.worker != worker:
            self.stale += count
            return [None] * count
        in_flight = lease.in_flight
        oldest = in_flight.get(first)
        if oldest is not None and busy_ns:
            oldest.mean.add(busy_ns / count)
        tasks = [in_flight.pop(seq, None) for seq in range(first, first + count)]
        stale = 0
        for task in tasks:
            if task is None:
                stale += 1
            else:
                task.lease = None
                task.state = DONE
        self.stale += stale
        if stale < count:
            lease.held_up = False
            self._after(lease, now)
        return tasks

    def on_given_back(self, worker: bytes, lease_id: int, seqs: list[int], now: float) -> list[tuple[Pending, Result]]:
        """Tasks that the worker will not start. Returns those that were cancelled meanwhile."""
        lease = self._leases.get(lease_id)
        if lease is None or lease.link.worker != worker:
            self.stale += len(seqs)
            return []
        done: list[tuple[Pending, Result]] = []
        again: list[Pending] = []
        for seq in seqs:
            task = lease.in_flight.pop(seq, None)
            if task is None:
                self.stale += 1
                continue
            task.lease = None
            if task.cancelled:
                task.state = DONE
                done.append((task, cancelled_result(task)))
            else:
                task.state = READY
                again.append(task)
        lease.cls.ready.extendleft(reversed(again))
        if done or again:
            # Pushed there again they would come back at once; and what runs may wait for one of them.
            lease.held_up = bool(lease.in_flight) and bool(again)
            self._after(lease, now)
        return done

    def _accept(self, lease: Lease, results: list[Result], now: float) -> list[tuple[Pending, Result]]:
        done: list[tuple[Pending, Result]] = []
        in_flight = lease.in_flight
        before = len(in_flight)
        for result in results:
            task = in_flight.pop(result.seq, None)
            if task is None:
                self.stale += 1
                continue
            task.lease = None
            if result.lost and self.wants_starved and not task.cancelled:
                task.attempt += 1
                task.state = WAITING
                self.starved.append((task, result))
                if result.kept:
                    self.kept_by_failed.append((lease.link.worker, task))
                self._tell_retried(task)
                continue
            if task.retry_exceptions and task.retries_left and not task.cancelled and retriable(task, result):
                if task.retries_left > 0:
                    task.retries_left -= 1
                task.attempt += 1
                task.state = READY
                lease.cls.ready.appendleft(task)
                if result.kept:
                    self.kept_by_failed.append((lease.link.worker, task))
                self._tell_retried(task)
                continue
            task.state = DONE
            done.append((task, result))
        if len(in_flight) < before:
            lease.held_up = False
            self._after(lease, now)
        return done

    def _tell_retried(self, task: Pending) -> None:
        """The peer, if it would have to make this task should we die."""
        if any(record.promoted for record in task.records):
            self._effects.append(Send(self._peer, Retried(task.task_id, task.attempt, task.retries_left)))

    def _after(self, lease: Lease, now: float) -> None:
        """Something left this lease, which was not empty before."""
        in_flight, cls = lease.in_flight, lease.cls
        cls.stuck, cls.left_at = False, now
        if cls.ready or lease.wanted or cls.asked or cls.demanded > len(cls.leases):  # else `fill` finds nothing to do
            self.dirty[cls.id] = cls
        if in_flight:
            lease.link.acknowledged = next(iter(in_flight)) - 1
            oldest = next(iter(in_flight.values()))
            lease.expected_ns = (oldest.mean.ns or self._budget_ns) * len(in_flight)
            return
        lease.link.acknowledged = lease.link.next_seq - 1
        lease.expected_ns = 0.0
        lease.idle_since = now
        cls.idle += 1
        if lease.revoked:
            self._return(lease)

    # -- decisions ---------------------------------------------------------------------------------------------------

    def fill(self, now: float) -> None:
        """Push what there is room for, and tell the peer how many leases could be used."""
        dirty, self.dirty = self.dirty, {}
        for cls in dirty.values():
            while cls.ready and cls.ready[0].state != READY:
                cls.ready.popleft()  # cancelled
            if cls.ready and cls.leases:
                self._filling.fill(cls)
            elif cls.idle and any(lease.wanted and not lease.in_flight for lease in cls.leases.values()):
                self.pressed = True
            self._asking.look(cls)

    def tick(self, now: float, idle_s: float) -> None:
        """Time has passed: follow hints that had not seemed to be worth it. Give back leases that had nothing to do for
        `idle_s`, or for `lease_idle_wanted_s` where somebody waits for them and that is less; at once when another
        class of ours has none at all."""
        self.pressed = False
        wanted_s = min(idle_s, self._config.lease_idle_wanted_s)
        starving = any(cls.ready and not cls.leases for cls in self._classes.values())
        stuck_since = now - self._config.hold_back_after_s
        for cls in self._classes.values():
            if cls.ready and cls.asked and not cls.stuck and cls.left_at <= stuck_since:
                cls.stuck = True  # a hint that was not followed is followed now
                self.dirty[cls.id] = cls
        if now >= self._correct_at:
            self._correct_at = now + self._config.demand_again_s
            for cls in self._classes.values():
                self._asking.correct(cls)
        for lease in [each for each in self._leases.values() if not each.in_flight and not each.cls.ready]:
            pause_s = 0.0 if starving else wanted_s if lease.wanted else idle_s
            if lease.idle_since <= now - pause_s:
                self._give_up(lease)
            elif lease.wanted:
                self.pressed = True

    def _give_up(self, lease: Lease) -> None:
        self._asking.lower(lease)
        self._return(lease)

    def _return(self, lease: Lease) -> None:
        assert not lease.in_flight, f"lease {lease.id} returned with tasks in flight"
        if lease.cls.strategy.spread and lease.peer != self._peer:
            self._asking.lower(lease)
        lease.cls.idle -= 1
        self._effects.append(Send(lease.peer, LeaseReturned([lease.id])))
        self._forget(lease)

    def _forget(self, lease: Lease) -> None:
        del self._leases[lease.id]
        del lease.cls.leases[lease.id]
        if lease.peer != self._peer:
            lease.cls.abroad -= 1
            lease.cls.asked[lease.peer].leases -= 1
        self.dirty[lease.cls.id] = lease.cls

    # -- for people --------------------------------------------------------------------------------------------------

    @property
    def has_idle_leases(self) -> bool:
        """Whether `tick` may have something to give back."""
        return any(cls.idle for cls in self._classes.values())

    @property
    def busy(self) -> bool:
        """Whether anything is leased, ready or in flight."""
        return bool(self._leases) or any(cls.ready for cls in self._classes.values())

    @property
    def unanswered(self) -> bool:
        """Whether any task has no outcome yet; those that wait for arguments not counted."""
        classes = self._classes.values()
        return any(lease.in_flight for lease in self._leases.values()) or any(
            task.state == READY for cls in classes for task in cls.ready
        )

    def works_at(self, node: bytes) -> bool:
        """Whether a task of ours is with a worker of that host."""
        peer = peer_of(node)
        return any(lease.peer == peer and lease.in_flight for lease in self._leases.values())

    def name_of(self, class_id: int) -> str:
        """A task of the class that waits, or waited last."""
        cls = self._classes.get(class_id)
        return "" if cls is None else cls.ready[0].name if cls.ready else cls.name

    def classes(self) -> list[SchedulingClass]:
        return list(self._classes.values())
