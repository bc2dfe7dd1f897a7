"""Which actors want a place here, and when may they have one?

An actor asks for one place, a dedicated worker. The next incarnation may ask while the worker of the last one is being
killed: it waits for that; and for its job, if something here needs that and nothing is known of it yet. Then it is a
class like others (`demands`), of which at most one grant is wanted.
"""

from __future__ import annotations

from collections.abc import Collection

from meshray.core.demands import ACTOR_DEPTH, Key, Wanted
from meshray.core.effects import ActorWaits, RequestActorSlot
from meshray.core.jobs import Jobs
from meshray.core.lease_books import Books
from meshray.core.lease_ends import LeaseEnds
from meshray.resources import Amounts
from meshray.wire.messages import Demand


class ActorSlots:
    """See the head of this file. A part of `Leases`."""

    def __init__(self, books: Books, jobs: Jobs, ends: LeaseEnds) -> None:
        self._books = books
        self._demands, self._grants, self._placement = books.demands, books.grants, books.placement
        self._emit = books.emit
        self._jobs = jobs
        self._ends = ends
        # For reading. Actors that want a place again while the worker of their last one is being killed: job, what is
        # asked for, what it keeps. No class is in here that wants anything.
        self.following: dict[Key, tuple[bytes, Demand, dict[str, int]]] = {}

    def host_for(
        self, request: RequestActorSlot, waits_at: bytes, avoided: Collection[bytes], now: float
    ) -> bytes | None:
        """See `Placement.actor_host`."""
        wanted = Wanted(
            (request.actor_id, 0), request.job, dict(request.request), request.profile, ACTOR_DEPTH, request.name,
            running_request=request.running_request, strategy=request.strategy,
        )  # fmt: skip
        return self._placement.actor_host(wanted, waits_at, avoided, now) if self._placement.members else None

    def request(self, actor_id: bytes, job: bytes, demand: Demand, running_request: Amounts) -> bool:
        """It wants a place. Whether that is news, and possible. See `Leases.request_actor_slot`."""
        key = (actor_id, 0)
        if job not in self._jobs.known and not self._jobs.is_needed(job):
            self._refuse(key, job)
            return False
        known = self._demands.get(key)
        if known is not None and known.count:
            return False
        self.following[key] = (job, demand, dict(running_request))
        return True

    def admit_following(self, now: float) -> None:
        """Actors whose last worker here is dead, or that had none. One whose job is not known waits for it."""
        for key in [key for key, (job, _, _) in self.following.items() if self._demands.get(key) is None]:
            job, demand, running_request = self.following[key]
            if job not in self._jobs.known and self._jobs.is_needed(job):
                continue
            del self.following[key]
            if job not in self._jobs.known:
                self._refuse(key, job)
                continue
            wanted = self._books.new_class(key, job, demand, now)
            wanted.running_request = running_request
            wanted.hops = demand.hops  # one of ours may have been created at another host, whose heir this one is
            wanted.count = 1

    def _refuse(self, key: Key, job: bytes) -> None:
        """An actor of a job that nobody has told, or that was not needed any more: who waits would wait for ever."""
        text = f"host {self._placement.name} does not know the program that it belongs to (job {job.hex()})"
        self._emit(ActorWaits(key[0], job, text, strange=True))

    def on_placed(self, actor_id: bytes) -> None:
        """Its constructor has run: it keeps only what it needs while it lives."""
        wanted = self._demands.get((actor_id, 0))
        for grant in self._grants.of(wanted) if wanted else ():
            assert wanted is not None
            assert wanted.running_request is not None
            self._grants.shrink(grant, wanted.running_request)

    def release(self, actor_id: bytes) -> None:
        """It needs no place any more. A worker that still hosts it is killed."""
        self.following.pop((actor_id, 0), None)
        wanted = self._demands.get((actor_id, 0))
        if wanted is not None:
            self._ends.drop(wanted, "its actor ended")
