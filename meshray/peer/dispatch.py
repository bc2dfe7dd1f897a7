"""Message -> the core that it is for.

Only processes that have attached are heard; others may only introduce themselves. A handler that fails is our mistake
with one message: it is logged, and the peer lives on. A broken invariant (`AssertionError`) is no such thing: a peer
whose books are wrong must not go on, so it ends loudly.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from meshray.observe.notes import note
from meshray.peer import status
from meshray.peer.ends import Ends
from meshray.peer.jobs import Jobs
from meshray.peer.parts import Parts
from meshray.peer.processes import Kind
from meshray.wire import messages as m

Handler = Callable[[bytes, Any, float], None]


class Dispatcher:
    """The table, and what stands before it."""

    def __init__(self, parts: Parts, jobs: Jobs, ends: Ends, view: status.View) -> None:
        self._parts = parts
        self._jobs = jobs
        self._view = view
        self._table = self._for_cores() | {
            m.Detach: jobs.on_detach,
            m.KillWorker: lambda source, message, now: ends.kill_worker(source, message),
            m.LogsShown: lambda source, message, now: ends.on_shown(source, message.size, now),
            m.Ask: self._on_ask,
            m.Wake: _nothing,
        }

    def _for_cores(self) -> dict[type, Handler]:
        cores = self._parts.cores
        leases, actors, objects, store = cores.leases, cores.actors, cores.objects, cores.store
        adoption = cores.adoption
        return {
            m.Demand: leases.on_demand,
            m.LeaseReturned: lambda source, message, now: leases.on_returned(source, message.leases, now),
            m.Blocked: lambda source, message, now: leases.on_blocked(source, message.since, now),
            m.Unblocked: lambda source, message, now: leases.on_unblocked(source, message.since, now),
            m.CreditRequest: store.on_credit_request,
            m.PoolTrimmed: _timeless(store.on_trimmed),
            m.Promote: _timeless(objects.on_promote),
            m.Resolve: _timeless(objects.on_resolve),
            m.Hold: _timeless(objects.on_hold),
            m.Release: _timeless(objects.on_release),
            m.Fetch: _timeless(objects.on_fetch),
            m.Forget: _timeless(objects.on_forget),
            m.DeathSeen: self._on_death_seen,
            m.Retried: _timeless(adoption.on_retried),
            m.Orphans: adoption.on_orphans,
            m.OrphanDone: adoption.on_orphan_done,
            m.Results: adoption.on_results,
            m.GivenBack: adoption.on_given_back,
            m.CarrierDone: _nothing,  # of an adopted task: its executor had told us of what it kept before its result
            m.Sealed: _timeless(objects.on_sealed),
            m.Pooled: _timeless(objects.on_pooled),
            m.CreateActor: actors.on_create,
            m.ActorReady: actors.on_ready,
            m.ActorExit: actors.on_exit,
            m.WatchActor: _timeless(actors.on_watch),
            m.KillActor: _timeless(actors.on_kill),
            m.FindActor: _timeless(actors.on_find),
        }

    def dispatch(self, source: bytes, message: Any, now: float) -> None:
        """One message from outside."""
        kind = type(message)
        try:
            if kind is m.Attach:
                self._jobs.on_attach(source, message, now)
                return
            process = self._parts.processes.get(source)
            handler = self._table.get(kind)
            if process is None or handler is None or (process.kind is Kind.OBSERVER and kind is not m.Ask):
                self._parts.counters["messages out of place"] += 1
                return
            handler(source, message, now)
        except AssertionError:
            raise
        except Exception:
            self._parts.counters["failed handlers"] += 1
            note(f"a {kind.__name__} from {source.hex()} could not be handled: {traceback.format_exc()}")

    def _on_death_seen(self, source: bytes, message: m.DeathSeen, now: float) -> None:
        self._parts.cores.adoption.on_death_seen(source, message)
        self._parts.cores.objects.on_death_seen(source, message)

    def _on_ask(self, source: bytes, message: m.Ask, now: float) -> None:
        if message.what == "stop":
            self._parts.endpoint.send(source, m.Answer(message.request))
            self._parts.stop("meshray stop")
        elif message.what in status.OF_KEYS:
            self._on_ask_keys(source, message, now)
        else:
            self._parts.endpoint.send(source, status.answer(self._view, message))

    def _on_ask_keys(self, source: bytes, message: m.Ask, now: float) -> None:
        """Answered when the members have answered; nobody may be there to hear it by then."""
        endpoint = self._parts.endpoint

        def reply(told: dict[str, Any] | str) -> None:
            if self._parts.processes.get(source) is not None:
                endpoint.send(source, status.answer_with(message.request, told))

        if self._parts.mesh is None:
            reply("this peer is off the network")
        else:
            self._parts.mesh.ask_keys(message.what, message.argument, reply, now)


def _timeless(handler: Callable[[bytes, Any], None]) -> Handler:
    """A handler that does not ask for the time."""
    return lambda source, message, now: handler(source, message)


def _nothing(source: bytes, message: Any, now: float) -> None:
    """A wake-up call has done its work when it arrives."""
