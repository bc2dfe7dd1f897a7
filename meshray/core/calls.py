"""Calls of actors: in order per caller, pushed straight to the worker where the actor lives.

One `ActorLink` per actor that this process calls. Its states, as the actor's owner tells them (`ActorState`)::

    PENDING     not created yet, or restarting: calls wait here
    ALIVE       calls go to its worker, numbered anew for each incarnation; but never twice for the same one, whose
                journal knows calls by number, also those from before this process let go of the actor and met it again
    DEAD        every call fails with the reason, for ever

A call whose arguments are not ready holds the later ones: that is what order means. When an incarnation dies, calls in
flight that its journal says were finished count; the others are tried again within `max_task_retries`, in their order,
or fail.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from meshray.core.effects import Core, Send
from meshray.core.gone import remember
from meshray.core.pending import DONE, IN_FLIGHT, READY, WAITING, Pending, deps_bytes, retriable, wire_task
from meshray.core.plain import RUN_MIN, plain_push
from meshray.ids import node_of
from meshray.wire.messages import ActorState, Failure, Message, Push, Result, WatchActor

PENDING, ALIVE, DEAD = "pending", "alive", "dead"

WINDOW_CALLS = 4096
"""A bound on the calls in flight from one caller to one actor: more would only wait there instead of here."""


PUSH_MAX_BYTES = 1 << 20
"""What travels in one Push, but for the call that exceeds it: calls gather by the thousand while an actor starts, and
a message beyond `frame_max_bytes` would not arrive."""

ACKNOWLEDGE_CALLS = 256
"""Results that may have arrived without the executor knowing: until then they fill its crash journal. More than that
are acknowledged by a Push without calls, and so is the rest once the caller has nothing more to say (`tick`)."""


NUMBERS_MAX = 4096
"""Workers of forgotten actors whose numbers are kept. Those that die are forgotten; those of a host that is gone are
not, since it may come back."""


class ActorLink:
    """What this process knows of one actor, and its calls that are not done."""

    __slots__ = (
        "acknowledged",
        "actor_id",
        "creation_refs",
        "cut",
        "doomed",
        "failure",
        "in_flight",
        "incarnation",
        "next_seq",
        "queue",
        "state",
        "told",
        "worker",
    )

    def __init__(self, actor_id: bytes) -> None:
        self.actor_id = actor_id
        self.state = PENDING
        self.worker = b""
        self.incarnation = 0  # of the worker above; a state that speaks of an older one is stale
        self.queue: deque[Pending] = deque()  # not pushed, in the order of `.remote()`
        self.in_flight: dict[int, Pending] = {}  # pushed to this incarnation, by sequence number, oldest first
        self.next_seq = 1
        self.acknowledged = 0  # results up to this one have arrived
        self.told = 0  # and this is what the worker knows of that
        self.failure: Failure | None = None  # why it is DEAD
        self.doomed = False  # this process has it killed for good: no call goes there any more
        self.cut = False  # its host could not be reached from here, and nobody has said since where it lives
        self.creation_refs: list[Any] | None = None  # handles of the constructor's arguments, until it has started

    def __repr__(self) -> str:
        return (
            f"<ActorLink {self.actor_id.hex()} {self.state} incarnation={self.incarnation} "
            f"queued={len(self.queue)} in_flight={len(self.in_flight)}>"
        )


Done = list[tuple[Pending, Result]]


class Calls(Core):
    """See the head of this file. The shell calls `fill` after each batch of events."""

    def __init__(self, peer: bytes) -> None:
        super().__init__()
        self._peer = peer
        self._links: dict[bytes, ActorLink] = {}
        self._by_worker: dict[bytes, ActorLink] = {}
        self.dirty: dict[bytes, ActorLink] = {}
        # As in `Submission`: (worker, call) of attempts that failed, are tried again, and left references behind.
        self.kept_by_failed: list[tuple[bytes, Pending]] = []
        self._numbers: dict[bytes, int] = {}  # living worker of a forgotten actor -> the next sequence number for it
        self.stale = 0

    def link(self, actor_id: bytes) -> ActorLink:
        """The link to an actor; the peer is asked where it lives at the first call."""
        link = self._links.get(actor_id)
        if link is None:
            link = self._links[actor_id] = ActorLink(actor_id)
            self._effects.append(Send(self._peer, WatchActor(actor_id)))
        return link

    def known(self, actor_id: bytes) -> ActorLink | None:
        return self._links.get(actor_id)

    # -- events from this process ------------------------------------------------------------------------------------

    def on_call(self, link: ActorLink, call: Pending, ready: bool) -> Done:
        """A call in its place in the order; `ready` if its arguments are there. Returns it if the actor is dead."""
        if link.state == DEAD:
            assert link.failure is not None
            call.state = DONE
            return [(call, Result(0, [link.failure]))]
        call.state = READY if ready else WAITING
        link.queue.append(call)
        self.dirty[link.actor_id] = link
        return []

    def on_ready(self, link: ActorLink, call: Pending) -> None:
        """The arguments of a waiting call are there."""
        if call.state == WAITING:
            call.state = READY
            self.dirty[link.actor_id] = link

    def on_kill(self, actor_id: bytes, no_restart: bool) -> None:
        """This process has it killed: its later calls must not reach the worker that is about to die."""
        link = self._links.get(actor_id)
        if link is not None and link.state != DEAD:
            link.state, link.cut = PENDING, False
            link.doomed = link.doomed or no_restart

    def drop(self, call: Pending) -> None:
        """A call that was not sent never will be: an argument failed. It holds the later ones no more."""
        assert call.state != IN_FLIGHT, f"it is at the worker: {call!r}"
        call.state = DONE
        link: ActorLink = call.cls
        self.dirty[link.actor_id] = link

    def cancel(self, call: Pending) -> bool:
        """Mark a call. True when it is at the worker; else it is DONE and is never sent."""
        call.cancelled = True
        if call.state == IN_FLIGHT:
            return True
        self.drop(call)
        return False

    # -- events from the peer and the worker -------------------------------------------------------------------------

    def on_state(self, message: ActorState) -> Done:
        """Where the actor lives now. Returns calls that are done by that."""
        link = self._links.get(message.actor_id)
        if link is None or link.state == DEAD:
            return []
        if message.incarnation < link.incarnation and message.failure is None and not message.all_started:
            return []  # (an heir, which counts from its will on, says all_started, or that it is dead)
        if message.worker and message.worker == link.worker:
            if link.cut and not link.doomed:  # its owner can see it: maybe so can we by now
                link.state, link.cut = ALIVE, False
                self.dirty[link.actor_id] = link
            return []
        link.cut = False
        done = self._accept(link, message.finished)
        if message.failure is not None:
            return done + self._die(link, message.failure)
        if link.worker:
            started = set(link.in_flight) if message.all_started else set(message.started)
            done += self._incarnation_died(link, started)
        link.incarnation = message.incarnation
        link.worker = message.worker
        link.state = ALIVE if message.worker and not link.doomed else PENDING
        if message.worker:
            link.creation_refs = None  # the peer keeps what it needs to start it again
            link.next_seq = self._numbers.pop(message.worker, 1)
            link.acknowledged = link.told = link.next_seq - 1
            self._by_worker[message.worker] = link
            self.dirty[link.actor_id] = link
        return done

    def _die(self, link: ActorLink, failure: Failure) -> Done:
        link.state, link.failure = DEAD, failure
        link.creation_refs = None
        self._by_worker.pop(link.worker, None)
        calls = [*link.in_flight.values(), *link.queue]
        for call in link.in_flight.values():
            call.attempt += 1  # what it may have sealed is to be released
        link.in_flight.clear()
        link.queue.clear()
        link.worker = b""
        done: Done = []
        for call in calls:
            if call.state != DONE:
                call.state = DONE
                done.append((call, Result(0, [failure])))
        return done

    def knows_at(self, node: bytes) -> bool:
        """Whether an actor that is called from here lives on that host."""
        return any(node_of(worker) == node for worker in self._by_worker)

    def on_node_gone(self, node: bytes, why: str) -> Done:
        """A host is gone, or cannot be reached from here, which need not mean that the actors there are dead: their
        owners say. Calls in flight there count as begun; later ones wait for the owner's word."""
        done: Done = []
        for link in list(self._by_worker.values()):
            if node_of(link.worker) == node:
                done += self._lose(link, set(link.in_flight), f"could not be reached any more: {why}")
                link.acknowledged = link.next_seq - 1  # results of those may come to its journal: nobody wants them
                if not link.doomed:
                    link.state, link.cut = PENDING, True
                    self._effects.append(Send(self._peer, WatchActor(link.actor_id)))
        return done

    def _incarnation_died(self, link: ActorLink, started: set[int]) -> Done:
        """Calls in flight are tried again at the next incarnation, or fail."""
        self._by_worker.pop(link.worker, None)
        return self._lose(link, started, "died; it is restarting")

    def _lose(self, link: ActorLink, started: set[int], what: str) -> Done:
        """What is in flight will not be answered. A call that had not begun is not charged."""
        done: Done = []
        again: list[Pending] = []
        for seq, call in link.in_flight.items():
            call.attempt += 1  # also of one that fails: what it may have sealed is to be released
            if call.cancelled:
                call.state = DONE
                done.append((call, _cancelled(call)))
            elif seq not in started or call.retries_left != 0:
                if seq in started and call.retries_left > 0:
                    call.retries_left -= 1
                again.append(call)
            else:
                call.state = DONE
                text = f"while actor {link.actor_id.hex()} ran {call.name} it {what}"
                done.append((call, Result(seq, [Failure("ActorUnavailableError", text)])))
        link.in_flight.clear()
        for call in reversed(again):
            self._put_back(link, call)
        return done

    def _put_back(self, link: ActorLink, call: Pending) -> None:
        """It is tried again, in its old place: behind earlier calls that wait for the same (task ids count up)."""
        call.state = READY
        place = 0
        while place < len(link.queue) and link.queue[place].task_id < call.task_id:
            place += 1
        link.queue.insert(place, call)
        self.dirty[link.actor_id] = link

    def on_results(self, worker: bytes, results: list[Result]) -> Done:
        """Outcomes of calls. Returns those that are done."""
        link = self._by_worker.get(worker)
        if link is None:
            self.stale += len(results)
            return []
        return self._accept(link, results)

    def on_plain_results(self, worker: bytes, first: int, count: int) -> list[Pending | None]:
        """Inline values of a run of calls. Returns the calls, which are done; None for what nobody waited for."""
        link = self._by_worker.get(worker)
        if link is None:
            self.stale += count
            return [None] * count
        in_flight = link.in_flight
        calls = [in_flight.pop(seq, None) for seq in range(first, first + count)]
        for call in calls:
            if call is None:
                self.stale += 1
            else:
                call.state = DONE
        self._after(link)
        return calls

    def on_given_back(self, worker: bytes, seqs: list[int]) -> Done:
        """Calls that the worker dropped because they were cancelled."""
        link = self._by_worker.get(worker)
        done: Done = []
        if link is None:
            return done
        for seq in seqs:
            call = link.in_flight.pop(seq, None)
            if call is not None:
                call.state = DONE
                done.append((call, _cancelled(call)))
        self.dirty[link.actor_id] = link  # there is room for those that wait
        return done

    def _accept(self, link: ActorLink, results: list[Result]) -> Done:
        done: Done = []
        in_flight = link.in_flight
        for result in results:
            call = in_flight.pop(result.seq, None)
            if call is None:
                self.stale += 1
                continue
            if call.retry_exceptions and call.retries_left and not call.cancelled and retriable(call, result):
                if call.retries_left > 0:
                    call.retries_left -= 1
                call.attempt += 1
                self._put_back(link, call)
                if result.kept:
                    self.kept_by_failed.append((link.worker, call))
                continue
            call.state = DONE
            done.append((call, result))
        self._after(link)
        return done

    def _after(self, link: ActorLink) -> None:
        """Results have come."""
        link.acknowledged = next(iter(link.in_flight)) - 1 if link.in_flight else link.next_seq - 1
        if link.queue or link.acknowledged - link.told >= ACKNOWLEDGE_CALLS:
            self.dirty[link.actor_id] = link

    # -- decisions ---------------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Push the calls that are ready, in order."""
        dirty, self.dirty = self.dirty, {}
        for link in dirty.values():
            if link.state == ALIVE:
                self._push(link)

    def _push(self, link: ActorLink) -> None:
        queue, in_flight = link.queue, link.in_flight
        seq, size = link.next_seq, 0
        batch: list[Pending] = []
        function: bytes | None = None
        plain = True  # all of them are, and of one method
        while queue and len(in_flight) < WINDOW_CALLS:
            call = queue[0]
            if call.state == WAITING:
                break
            queue.popleft()
            if call.state == DONE:
                continue  # cancelled
            call.state = IN_FLIGHT
            call.seq = seq
            in_flight[seq] = call
            batch.append(call)
            seq += 1
            if call.function is not function:
                plain = plain and function in (None, call.function)
                function = call.function
            if not call.plain or call.attempt or call.nested or call.deps:
                plain = False
            if type(call.args) is bytes:
                size += len(call.args)
            if call.deps:
                size += deps_bytes(call)
            if size > PUSH_MAX_BYTES:
                self._send(link, batch, plain)
                batch, size, function, plain = [], 0, None, True
        link.next_seq = seq
        if batch or link.acknowledged - link.told >= ACKNOWLEDGE_CALLS:
            self._send(link, batch, plain)

    def _send(self, link: ActorLink, batch: list[Pending], plain: bool) -> None:
        message: Message
        if plain and len(batch) >= RUN_MIN:
            message = plain_push(0, link.acknowledged, batch[0].seq, batch, [], [])
        else:
            message = Push(0, link.acknowledged, [wire_task(call, call.seq, 0) for call in batch])
        link.told = link.acknowledged
        self._effects.append(Send(link.worker, message))

    def tick(self) -> None:
        """Acknowledge what has arrived at actors that are not called any more."""
        for link in self._by_worker.values():
            if link.acknowledged > link.told and not link.in_flight:
                link.told = link.acknowledged
                self._effects.append(Send(link.worker, Push(0, link.acknowledged, [])))

    @property
    def unanswered(self) -> bool:
        """Whether any call of this process has no answer yet."""
        return any(link.queue or link.in_flight for link in self._links.values())

    def outstanding(self, actor_id: bytes) -> bool:
        """Whether calls of this process to the actor are not done."""
        link = self._links.get(actor_id)
        return link is not None and bool(link.queue or link.in_flight)

    def forget(self, actor_id: bytes) -> None:
        """No handle and no call of this process is left."""
        link = self._links.pop(actor_id, None)
        if link is None:
            return
        self.dirty.pop(actor_id, None)
        if self._by_worker.pop(link.worker, None) is not None and link.next_seq > 1:
            remember(self._numbers, link.worker, link.next_seq, NUMBERS_MAX)
            if link.acknowledged > link.told:
                self._effects.append(Send(link.worker, Push(0, link.acknowledged, [])))

    def on_process_died(self, process: bytes) -> None:
        """It hosts nothing any more."""
        self._numbers.pop(process, None)

    def idle(self, link: ActorLink) -> bool:
        """Whether a new call would start at once."""
        return link.state == ALIVE and not link.in_flight


def _cancelled(call: Pending) -> Result:
    return Result(call.seq, [Failure("TaskCancelledError", f"{call.name} was cancelled")])
