"""What other hosts, their processes and their jobs mean for this peer: effects of the road on everything else."""

from __future__ import annotations

import os
import sys

import msgspec

from meshray.core.pending import gone_failure
from meshray.core.road_effects import ForeignDied, Handle, HostGone, JobCame, JobGone, Sever
from meshray.ids import peer_of
from meshray.local import PYTHON
from meshray.observe.notes import note
from meshray.peer.actors import add_member, drop_member
from meshray.peer.dispatch import Dispatcher
from meshray.peer.jobs import Jobs
from meshray.peer.mesh_events import GOODBYE
from meshray.peer.parts import Parts
from meshray.peer.timers import boot_time
from meshray.wire.codec import ProtocolError, decode
from meshray.wire.envelopes import with_blocks
from meshray.wire.messages import Code, JobInfo


class Foreign:
    """See the head of this file."""

    def __init__(self, parts: Parts, jobs: Jobs, dispatcher: Dispatcher) -> None:
        self._parts = parts
        self._jobs = jobs
        self._dispatcher = dispatcher

    def handle(self, effect: Handle, now: float) -> None:
        """Somebody of another host speaks to this peer."""
        try:
            message = with_blocks(decode(effect.data), effect.blocks)
        except ProtocolError:
            self._parts.cores.road.counters["messages that are none"] += 1
            return
        self._dispatcher.dispatch_foreign(effect.source, message, now)

    def sever(self, effect: Sever, now: float) -> None:
        mesh = self._parts.mesh
        assert mesh is not None, "a life of another peer, and no mesh"
        mesh.sever(effect.life, effect.why, effect.over, now)

    def on_host_gone(self, effect: HostGone, now: float) -> None:
        """Nothing of that host counts any more."""
        note(f"host {effect.home.hex()} is gone for what runs here: {effect.reason}")
        cores = self._parts.cores
        cores.objects.foreign.on_host_gone(effect.home, effect.reason)
        cores.whereabouts.on_host_gone(effect.home)
        cores.serving.on_host_gone(effect.home)
        cores.fetches.on_host_gone(effect.home, now)
        cores.moves.on_host_gone(effect.home)
        cores.programs.on_host_gone(effect.home)
        cores.leases.on_node_gone(effect.home, now)
        if not cores.road.is_there(effect.home):  # else its peer has begun anew
            cores.leases.on_member_gone(effect.home, effect.reason, now, cores.road.is_out_of_reach(effect.home))
        self._on_actors_gone(effect.home, effect.reason, now)
        self._parts.log_flow.forget_host(effect.home)
        cores.adoption.on_node_gone(effect.home, gone_failure(effect.home, effect.reason), now)

    def _on_actors_gone(self, home: bytes, reason: str, now: float) -> None:
        """Actors there, of there, watched from there; and those of there that live here."""
        cores, peer = self._parts.cores, peer_of(home)
        cores.guests.on_owner_gone(peer)
        fence_s = cores.fencing.on_host_lost(peer, boot_time())
        cores.lodging.on_host_gone(home, now)
        cores.actors.on_host_gone(home, fence_s, now)
        out_of_reach = cores.road.is_out_of_reach(home)
        if out_of_reach:
            cores.wills.on_out_of_reach(peer)
        cores.foreign_actors.on_node_gone(home, out_of_reach)
        drop_member(self._parts, peer, reason == GOODBYE, now)
        if cores.road.is_there(home):  # its peer has begun anew
            add_member(self._parts, peer)

    def on_unreachable(self, home: bytes, now: float) -> None:
        """What this peer had to say to that host did not leave: it is gone."""
        why = self._parts.cores.road.why_gone(home) or "this peer belongs to no mesh"
        self._parts.cores.objects.foreign.on_unreachable(home, why)
        self._parts.cores.fetches.on_host_gone(home, now)
        self._parts.cores.moves.on_host_gone(home)
        self._parts.cores.programs.on_host_gone(home)
        self._parts.cores.lodging.on_host_gone(home, now)
        self._parts.cores.foreign_actors.on_node_gone(home, self._parts.cores.road.is_out_of_reach(home))
        drop_member(self._parts, peer_of(home), why == GOODBYE, now)

    def on_died(self, effect: ForeignDied, now: float) -> None:
        """A process of another host is gone, and had dealt with this one."""
        self._parts.cores.leases.on_foreign_process_died(effect.process, now)

    def on_job_came(self, effect: JobCame, now: float) -> None:
        """A job of another host may have work done here, once its code is known."""
        leases, info = self._parts.cores.leases, effect.info
        if effect.python != PYTHON:
            note(f"job {info.job.hex()} runs Python {effect.python}: nothing of it runs here ({PYTHON})")
            return
        if leases.serves(info.job):
            leases.on_code_known(as_here(info), now)
        else:
            leases.on_job_started(as_here(info), code_follows=info.code is None)
        self._parts.cores.guests.on_job_came(info.job)

    def on_job_left(self, info: JobInfo, now: float) -> None:
        """Detached actors of a job of another host may be started here, though its program may have ended."""
        self._parts.cores.leases.on_job_left(as_here(info), now)
        self._parts.cores.guests.on_job_came(info.job)

    def on_job_gone(self, effect: JobGone, now: float) -> None:
        self._jobs.end_foreign_job(effect.job, now)


def as_here(info: JobInfo) -> JobInfo:
    """A job of another host, as workers of this one can serve it: in this peer's own interpreter, with the paths of
    the job that are there, and behind them what this interpreter finds by itself. Paths in the program's own folder
    stay as they are: its copy stands in for them (`worker.code`)."""
    code = info.code or Code()
    copied = [root.rstrip("/") for root in code.roots] if code.hash else []

    def is_copied(path: str) -> bool:
        return any(path == root or path.startswith(root + "/") for root in copied)

    # (A virtual environment in the program's own folder is its interpreter's, and not copied.)
    carried = [path for path in info.sys_path if path not in code.interpreter]
    there = [path for path in carried if is_copied(path) or os.path.exists(path)]
    own = [path for path in sys.path if path and path not in there]
    folder = info.folder
    if not is_copied(folder) and not os.path.isdir(folder):
        folder = copied[0] if copied else os.getcwd()
    return msgspec.structs.replace(
        info, executable=sys.executable, prefix=sys.prefix, sys_path=[*there, *own], folder=folder
    )
