"""Which peers know of which job? A job is known wherever somebody works for it, and ends everywhere.

    P -> Q       JobThere     before P tells anybody of the job to ask Q for leases
    Q -> home    JobHere      so the driver's peer learns of everybody, also of those that others have told
    home -> Q    JobEnded     to each of them; also the answer to a JobHere of a job that is over

On each link they arrive in order, so Q knows the job before it is asked. Where the driver's host is gone, the job is
over: its peer cannot say so any more, and membership does.

A process of this host that was sent to others may have asked any member by now, for each of them names others. So when
it dies all are told (`ProcessDied`); on the link behind everything that it had said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from meshray.core.effects import Send
from meshray.ids import NODE_BYTES, peer_of
from meshray.wire.messages import JobEnded, JobHere, JobInfo, JobThere, ProcessDied


class Abroad:
    """What one peer has told others of jobs, and what it owes them; `emit` takes the effects."""

    def __init__(self, node: bytes, emit: Callable[[object], None]) -> None:
        self._node = node
        self._emit = emit
        self._told: dict[bytes, set[bytes]] = {}  # job -> home nodes that were told of it from here
        self._sent: set[bytes] = set()  # processes of this host that were sent to others
        self._at: dict[bytes, set[bytes]] = {}  # job of a driver of this host -> home nodes that know of it

    def introduce(self, job: JobInfo, submitter: bytes, node: bytes) -> None:
        """A submitter will ask that node's peer for this job."""
        if submitter.startswith(self._node):
            self._sent.add(submitter)
        told = self._told.setdefault(job.job, set())
        if node not in told and job.job[:NODE_BYTES] != node:
            told.add(node)
            self._emit(Send(peer_of(node), JobThere(job)))

    def on_job_there(self, job: bytes) -> None:
        """Another peer tells of a job; this one will work for it."""
        self._emit(Send(peer_of(job), JobHere(job)))

    def on_job_here(self, node: bytes, job: bytes, lives: bool) -> None:
        """A peer knows of a job whose driver belongs to this host. `lives`: it is not over."""
        if lives:
            self._at.setdefault(job, set()).add(node)
        else:
            self._emit(Send(peer_of(node), JobEnded(job)))

    def on_job_ended(self, job: bytes, survivors: list[bytes]) -> None:
        """It is over here. `survivors`: processes that go on, for its detached actors."""
        for node in sorted(self._at.pop(job, set()) | self._told.pop(job, set())):
            if job.startswith(self._node):
                self._emit(Send(peer_of(node), JobEnded(job, survivors)))

    def on_process_died(self, process: bytes, members: Iterable[bytes]) -> None:
        """A process of this host is gone. `members`: the home nodes of all that are there."""
        if process in self._sent:
            self._sent.discard(process)
            for node in members:
                self._emit(Send(peer_of(node), ProcessDied(process)))

    def on_node_gone(self, node: bytes) -> None:
        """It is dead. If it comes back under the same home id it knows nothing any more."""
        for known in (self._told, self._at):
            for nodes in known.values():
                nodes.discard(node)
