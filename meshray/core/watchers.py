"""How is somebody told of a change in an actor's life?

A process of this host gets `ActorState`, with what the journal of a dead worker says of its own calls. Another peer
gets `ActorNews`, once for all the processes of its host that watch, with the calls of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from meshray.ids import node_of, peer_of
from meshray.wire.messages import ActorNews, ActorState, CallsOf, Failure, Result

Journal = Mapping[bytes, tuple[list[Result], list[int]]]
"""Caller -> its finished calls, and those begun and not finished."""


def news(
    watcher: bytes, state: ActorState, journal: Journal, all_started: bool = False, heir: bytes = b"", waits: str = ""
) -> ActorState | ActorNews:
    """`state`, for one watcher. `waits`: why it has no place, for another peer; processes are told by their own."""
    if watcher != peer_of(watcher):
        finished, started = journal.get(watcher, ([], []))
        return ActorState(
            state.actor_id, state.incarnation, state.worker, state.failure, finished, started, all_started
        )
    node = node_of(watcher)
    callers = [CallsOf(caller, *calls) for caller, calls in journal.items() if node_of(caller) == node]
    return ActorNews(state.actor_id, state.incarnation, state.worker, state.failure, callers, all_started, heir, waits)


def journal_of(callers: list[CallsOf]) -> Journal:
    """What another host has read in a journal."""
    return {calls.caller: (calls.finished, calls.started) for calls in callers}


def name_conflict(actor_id: bytes, text: str) -> Failure:
    """Why an actor ends whose name an older one has."""
    return Failure("ActorDiedError", f"name conflict: {text}", details={"actor_id": actor_id.hex()})
