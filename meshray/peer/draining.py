"""How a peer ends that is told to: `core.drain` says in which order, this file looks what is left, and does it.

The first SIGTERM, or `meshray stop`, begins it; a second signal ends the peer at once (`Parts.stop`). So does the end
of the driver of a private peer: nobody is left for whom anything could be finished.
"""

from __future__ import annotations

from typing import Any

from meshray.core.drain import Drain, Left, Phase
from meshray.ids import NODE_BYTES, peer_of
from meshray.observe.notes import note
from meshray.peer.parts import Parts
from meshray.store import journal
from meshray.wire.messages import PeerLeaves
from meshray.wire.peers import Plane

STREAMS = (Plane.CONTROL, Plane.BULK)

LOOK_S = 0.05
"""How often it is looked whether actors are at work: only their journals say so, and they tell nobody."""


class Draining:
    """See the head of this file."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._drain = Drain(parts.config)
        self._look_at = 0.0  # when the journals of actors are looked at again
        self._calls = True  # whether some actor was at work then
        self._again = False  # a phase has just begun, and may have nothing to do

    def next_deadline(self) -> float | None:
        """When `turn` has something to do, if nothing happens before."""
        parts = self._parts
        if self._again or (parts.leaving and self._drain.phase is Phase.SERVES):
            return 0.0
        until = self._drain.next_deadline()
        return min(until, self._look_at) if until is not None else None

    def turn(self, now: float) -> bool:
        """After each batch. Whether anything was done."""
        parts, drain = self._parts, self._drain
        if not parts.leaving or drain.phase is Phase.OVER:
            return False
        begins = drain.phase is Phase.SERVES
        drain.begin(parts.leave_work_s, now)
        if begins:
            self._begin(now)
        phase = drain.next(self._left(now), now) if not begins else None  # what was begun is performed first
        self._again = begins or phase is not None
        if phase is not None:
            self._enter(phase, now)
        return self._again

    def waits_for(self, now: float) -> dict[str, Any] | None:
        """What the present phase waits for, for people, and how long at most; None while nothing ends."""
        drain, cores = self._drain, self._parts.cores
        if drain.phase in (Phase.SERVES, Phase.OVER):
            return None
        works, moves = drain.phase in (Phase.WORKS, Phase.ENDS), drain.phase is Phase.MOVES
        at_work = sum(map(self._is_at_work, self._actors())) if drain.phase is Phase.WORKS else 0
        return {
            "phase": drain.phase.value,
            "tasks": cores.leases.running() if works else 0,
            "actors": len(cores.guests.hosted()) + cores.wills.moving if moves else at_work,
            "values": cores.moves.stats().moving if moves else 0,
            "seconds": max(0.0, drain.until - now),
        }

    # -- what is left ------------------------------------------------------------------------------------------------

    def _left(self, now: float) -> Left:
        cores = self._parts.cores
        tasks = cores.leases.works()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._calls = self._drain.phase is Phase.WORKS and any(map(self._is_at_work, self._actors()))
        handed = cores.wills.done and cores.programs.done  # an heir asks for the program before it says that it is one
        moves = not handed or not cores.moves.done or bool(cores.guests.hosted())
        return Left(tasks or self._calls, tasks, moves, self._has_unsaid())

    def _actors(self) -> list[bytes]:
        """The workers of this host in which actors live."""
        grants = ((worker, self._parts.cores.leases.grant_of(worker.id)) for worker in self._parts.processes)
        return [worker.id for worker, grant in grants if grant is not None and grant.wanted.is_actor]

    def _is_at_work(self, worker: bytes) -> bool:
        """Whether a call of this actor has begun and not ended."""
        try:
            contents = journal.read(self._parts.journal_path(worker))
        except OSError:
            return False  # it is dead, and its journal gone
        return bool(contents.started) or contents.more_started

    def _has_unsaid(self) -> bool:
        """Whether other hosts have not got all that was said to them."""
        mesh, road = self._parts.mesh, self._parts.cores.road
        if mesh is None:
            return False
        lives = [life for home in road.homes() if (life := road.life_of(home)) is not None]
        return bool(road.laden()) or any(mesh.backlog(life, plane) != 0 for life in lives for plane in STREAMS)

    # -- what is done ------------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        parts, cores = self._parts, self._parts.cores
        work_s = f"{parts.leave_work_s:g} s"
        note(f"this peer is being stopped ({parts.leaving}); what runs has {work_s}; a signal ends it at once")
        self._look_at = now
        for home in cores.road.dealt_with():
            cores.road.send(peer_of(home), PeerLeaves(), now)
        if parts.mesh is not None:
            parts.mesh.say_leaving(now)
        cores.guests.close()
        cores.leases.leave(now)

    def _enter(self, phase: Phase, now: float) -> None:
        parts, cores = self._parts, self._parts.cores
        if phase is Phase.ENDS:
            note("what still runs is handed back")
            cores.leases.end_work(now)
        elif phase is Phase.MOVES:
            cores.guests.send_home()
            cores.wills.leave(now)
            lodged = [place for place in cores.store.lodged(parts.node) if self._is_kept(place.object_id)]
            cores.moves.leave(lodged + cores.fetches.kept())
        elif phase is Phase.SAYS:
            moved = cores.moves.stats()
            if moved.moved or moved.left_behind or moved.moving:
                note(f"{moved.moved} values were moved, {moved.left_behind + moved.moving} were not")
        elif phase is Phase.OVER:
            parts.stop(parts.leaving)

    def _is_kept(self, object_id: bytes) -> bool:
        """Whether its owner, on another host that is there, holds a value that lies here."""
        owner = peer_of(object_id)
        there = self._parts.cores.road.is_there(owner[:NODE_BYTES])
        return there and owner in self._parts.cores.objects.holders_of(object_id)
