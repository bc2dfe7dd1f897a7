"""Message -> the core that it is for.

Only processes that have attached are heard; others may only introduce themselves. What comes from other hosts was
sorted by `core.road`, and may say less. A handler that fails is our mistake with one message: it is logged, and the
peer lives on. A broken invariant (`AssertionError`) is no such thing: a peer whose books are wrong must not go on, so
it ends loudly.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from meshray.ids import NODE_BYTES
from meshray.local import peer_process
from meshray.observe.notes import note
from meshray.peer import status
from meshray.peer.actors import actors_of_peers, actors_of_processes
from meshray.peer.ends import Ends
from meshray.peer.jobs import Jobs
from meshray.peer.parts import Parts
from meshray.peer.prints import Prints
from meshray.peer.processes import Kind
from meshray.wire import messages as m

Handler = Callable[[bytes, Any, float], None]

LOCAL_ONLY: frozenset[type] = frozenset(
    {m.Detach, m.Ask, m.Wake, m.Relay, m.NodeGoneSeen, m.Blocked, m.Unblocked, m.Sealed, m.Pooled}
    | {m.CreditRequest, m.PoolTrimmed, m.Lodged, m.Bring, m.Unused, m.CodeReady}
    | {m.CreateActor, m.ActorReady, m.ActorExit, m.WatchActor, m.KillActor, m.FindActor}
)
"""What only a process of this host may say to its peer."""

OF_OBSERVERS = (m.Ask, m.Detach)

LEASE_NEWS = (m.LeaseGranted, m.LeaseRevoked, m.LeaseWanted, m.LeaseLost, m.AskAlso)
"""What another peer says to this one as to a submitter: of tasks that were adopted here."""


class Dispatcher:
    """The table, and what stands before it."""

    def __init__(self, parts: Parts, jobs: Jobs, ends: Ends, view: status.View) -> None:
        self._parts = parts
        self._jobs = jobs
        self._view = view
        self._table = self._for_cores() | {
            m.Detach: jobs.on_detach,
            m.KillWorker: lambda source, message, now: ends.kill_worker(source, message),
            m.LogsShown: Prints(parts).on_shown,
            m.Ask: self._on_ask,
            m.Relay: self._on_relay,
            m.NodeGoneSeen: _timeless(parts.cores.road.on_seen),
            m.CodeReady: self._on_code_ready,
            m.Wake: _nothing,
        }
        road = parts.cores.road
        self._of_peers: dict[type, Handler] = {
            m.ProcessThere: _timeless(road.on_process_there),
            m.ProcessDied: _timeless(road.on_process_died),
            m.DeathSettled: _timeless(road.on_death_settled),
            m.JobThere: road.on_job_there,
            m.JobKnown: _timeless(road.on_job_known),
            m.JobOver: _timeless(road.on_job_over),
            m.JobDone: _timeless(road.on_job_done),
            m.JobWanted: self._on_job_wanted,
            m.LoadNow: parts.cores.leases.on_load_now,
            m.PeerLeaves: self._on_peer_leaves,
            m.ProgramWanted: _timeless(parts.cores.programs.on_wanted),
            m.Program: _timeless(parts.cores.programs.on_program),
            m.ProgramHeld: self._on_program_held,
        } | dict.fromkeys(LEASE_NEWS, self._on_lease_news)
        self._of_peers |= self._for_copies() | actors_of_peers(parts)

    def _on_peer_leaves(self, source: bytes, message: m.PeerLeaves, now: float) -> None:
        self._parts.cores.leases.on_member_leaves(source[:NODE_BYTES], now)
        self._parts.cores.wills.on_member_leaves(source)

    def _for_cores(self) -> dict[type, Handler]:
        cores = self._parts.cores
        leases, objects, store = cores.leases, cores.objects, cores.store
        adoption = cores.adoption
        return {
            m.Demand: self._on_demand,
            m.LeaseReturned: lambda source, message, now: leases.on_returned(source, message.leases, now),
            m.Blocked: lambda source, message, now: leases.on_blocked(source, message.since, now),
            m.Unblocked: lambda source, message, now: leases.on_unblocked(source, message.since, now),
            m.CreditRequest: store.on_credit_request,
            m.PoolTrimmed: self._on_trimmed,
            m.Promote: _timeless(objects.on_promote),
            m.Resolve: _timeless(objects.on_resolve),
            m.Hold: _timeless(objects.on_hold),
            m.Release: _timeless(objects.on_release),
            m.Fetch: _timeless(objects.on_fetch),
            m.Refetch: _timeless(objects.losses.on_refetch),
            m.Forget: _timeless(objects.on_forget),
            m.DeathSeen: self._on_death_seen,
            m.Retried: _timeless(adoption.on_retried),
            m.Orphans: adoption.on_orphans,
            m.OrphanDone: adoption.on_orphan_done,
            m.Results: adoption.on_results,
            m.PlainResults: adoption.on_results,
            m.GivenBack: adoption.on_given_back,
            m.CarrierDone: _nothing,  # of an adopted task: its executor had told us of what it kept before its result
            m.Sealed: _timeless(objects.on_sealed),
            m.Pooled: _timeless(objects.on_pooled),
            m.Lodged: _timeless(objects.foreign.on_lodged),
            m.Bring: cores.fetches.on_bring,
            m.Unused: _timeless(cores.fetches.on_unused),
            **actors_of_processes(self._parts),
        }

    def _for_copies(self) -> dict[type, Handler]:
        """What peers say to each other of objects and copies."""
        cores = self._parts.cores
        objects, fetches, whereabouts = cores.objects, cores.fetches, cores.whereabouts
        return {
            m.HoldDone: _timeless(objects.foreign.on_hold_done),
            m.Fetched: _timeless(objects.foreign.on_fetched),
            m.Lodged: _timeless(objects.foreign.on_lodged),
            m.Seek: _timeless(whereabouts.on_seek),
            m.Whole: _timeless(whereabouts.on_whole),
            m.CopiesGone: _timeless(whereabouts.on_copies_gone),
            m.Found: fetches.on_found,
            m.Pull: _timeless(cores.serving.on_pull),
            m.Piece: fetches.on_piece,
            m.NoPiece: fetches.on_no_piece,
            m.Expired: _timeless(fetches.on_expired),
            m.Keep: _timeless(cores.moves.on_keep),
            m.Kept: _timeless(cores.moves.on_kept),
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
            if process is None or handler is None or (process.kind is Kind.OBSERVER and kind not in OF_OBSERVERS):
                self._parts.counters["messages out of place"] += 1
                return
            handler(source, message, now)
        except AssertionError:
            raise
        except Exception:
            self._on_failure(source, message)

    def dispatch_foreign(self, source: bytes, message: Any, now: float) -> None:
        """One message from a process or a peer of another host."""
        kind = type(message)
        handler = self._of_peers.get(kind) if source == peer_process(source[:NODE_BYTES]) else None
        if handler is None and kind not in LOCAL_ONLY:
            handler = self._table.get(kind)
        if handler is None:
            self._parts.counters["messages out of place"] += 1
            return
        try:
            handler(source, message, now)
        except AssertionError:
            raise
        except Exception:
            self._on_failure(source, message)

    def _on_relay(self, source: bytes, message: m.Relay, now: float) -> None:
        cores = self._parts.cores
        if cores.guests.is_fenced(source):
            self._parts.counters["words of the fenced"] += 1  # it may have run when its actor lived elsewhere
        else:
            cores.road.on_relay(source, message, now)

    def _on_trimmed(self, source: bytes, message: m.PoolTrimmed, now: float) -> None:
        self._parts.transit.spans.forget_removed(self._parts.store_folder)  # it has removed files before it said so
        self._parts.cores.store.on_trimmed(source, message)

    def _on_demand(self, source: bytes, message: m.Demand, now: float) -> None:
        cores = self._parts.cores
        cores.leases.on_demand(source, message, now, cores.road.job_of(source))

    def _on_job_wanted(self, source: bytes, message: m.JobWanted, now: float) -> None:
        """Processes of this host, or actors that this peer owns, ask another one to work for a job that it does not
        know."""
        cores = self._parts.cores
        info = cores.leases.job_info(message.job, ended=True)
        if info is not None:
            cores.road.tell_job(info, source[:NODE_BYTES], now, again=True)
        if not cores.leases.serves(message.job):  # it is over, but for its detached actors; or nobody has told of it
            cores.programs.on_job_wanted(source, message.job)

    def _on_code_ready(self, source: bytes, message: m.CodeReady, now: float) -> None:
        self._parts.cores.road.on_code_ready(source, message)
        self._parts.cores.programs.on_code(source, message.code)

    def _on_program_held(self, source: bytes, message: m.ProgramHeld, now: float) -> None:
        self._parts.cores.programs.on_held(source, message)
        self._parts.cores.leases.tidy(now)

    def _on_lease_news(self, source: bytes, message: Any, now: float) -> None:
        self._parts.cores.adoption.on_own(message, now)

    def _on_failure(self, source: bytes, message: Any) -> None:
        self._parts.counters["failed handlers"] += 1
        note(f"a {type(message).__name__} from {source.hex()} could not be handled: {traceback.format_exc()}")
        if isinstance(message, m.Ask):  # somebody waits for an answer
            why = "the question could not be answered; the log of the peer says why"
            self._parts.endpoint.send(source, status.answer_with(message.request, why))

    def _on_death_seen(self, source: bytes, message: m.DeathSeen, now: float) -> None:
        self._parts.cores.adoption.on_death_seen(source, message)
        self._parts.cores.objects.on_death_seen(source, message)
        self._parts.cores.road.on_death_seen(source, message.process)

    def _on_ask(self, source: bytes, message: m.Ask, now: float) -> None:
        if message.what == "stop":
            self._parts.endpoint.send(source, m.Answer(message.request))
            self._parts.leave("meshray stop", _seconds(message.argument, self._parts.config.leave_work_s))
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


def _seconds(text: str, otherwise: float) -> float:
    """A number of seconds that somebody has given, or not."""
    try:
        return max(0.0, float(text))
    except ValueError:
        return otherwise


def _timeless(handler: Callable[[bytes, Any], None]) -> Handler:
    """A handler that does not ask for the time."""
    return lambda source, message, now: handler(source, message)


def _nothing(source: bytes, message: Any, now: float) -> None:
    """A wake-up call has done its work when it arrives."""
