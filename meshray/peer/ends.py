"""Processes that died: what they left, and who is told in which order.

A worker leaves prints in its pipes, a journal, a socket, and the attempts of its lease or the calls of its actor. All
of it is read before the cores hear of the death, and they hear in one batch, so that nobody learns of the death before
it has the results that the dead one had finished (see `parts.Cores` for the order of what is sent).
"""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

from meshray.peer.children import ProcessEnded
from meshray.peer.jobs import Jobs
from meshray.peer.parts import Parts
from meshray.peer.prints import Prints
from meshray.peer.starts import Starts
from meshray.store import journal
from meshray.wire.codec import ProtocolError, outcome_of
from meshray.wire.messages import Failure, KillWorker, Result

STOP_TIMEOUT_S = 0.02
"""How long a worker may take to stop (SIGSTOP) before it is killed by force; microseconds, unless a disk holds it."""


class Ends:
    """What happens when a process ends, and how one is ended by force."""

    def __init__(self, parts: Parts, starts: Starts, jobs: Jobs) -> None:
        self._parts = parts
        self._starts = starts
        self._jobs = jobs
        self._prints = Prints(parts)

    def on_ended(self, ended: ProcessEnded, now: float) -> None:
        """A watched process is dead."""
        parts = self._parts
        if not ended.is_worker:
            process = parts.processes.get(ended.process_id)
            if process is not None:
                self._jobs.on_driver_died(process, now)
            return
        last_words = parts.logs.close(ended.process_id)
        self._prints.send(now)
        how = f"{ended.exit_text}\nlast lines of its stderr:\n{last_words}" if last_words else ended.exit_text
        (parts.folder / ended.process_id[8:].hex()).unlink(missing_ok=True)
        if self._starts.on_died(ended.process_id, how, now):
            return
        self._on_worker_died(ended, how, last_words, now)
        parts.processes.remove(ended.process_id)
        parts.part_with(ended.process_id)
        parts.journal_path(ended.process_id).unlink(missing_ok=True)

    def _on_worker_died(self, ended: ProcessEnded, how: str, last_words: str, now: float) -> None:
        cores = self._parts.cores
        process_id = ended.process_id
        lease = cores.leases.lease_of(process_id)
        by_source, all_started = self._read_journal(process_id)
        finished, started = by_source.pop(journal.source_of_lease(lease), ([], []))
        failure = _failure(ended, how, last_words)
        executors, served = cores.leases.workers_for(process_id), cores.leases.served_by(process_id)
        cores.leases.on_process_died(process_id, finished, started, failure, now, all_started)
        cores.actors.on_process_died(process_id, how, by_source, now, all_started)
        cores.guests.on_process_died(process_id, how, by_source, all_started)
        cores.foreign_actors.on_process_died(process_id)
        cores.naming.on_process_died(process_id, now)
        cores.wills.on_process_died(process_id)
        abroad = cores.road.on_local_died(process_id)
        cores.adoption.on_process_died(process_id, finished, failure, now, executors, served, len(abroad))
        cores.objects.on_process_died(process_id, ended.exit_text, abroad)
        cores.fetches.on_process_died(process_id)

    def _read_journal(self, process_id: bytes) -> tuple[dict[bytes, tuple[list[Result], list[int]]], bool]:
        """Per source (a lease, or a caller of an actor): results that were finished, attempts that had begun. And
        whether that is not all that had begun: more than the journal has room for, or it is damaged or gone."""
        by_source: dict[bytes, tuple[list[Result], list[int]]] = {}
        try:
            contents = journal.read(self._parts.journal_path(process_id))
        except OSError:
            return by_source, True
        self._parts.counters["damaged journals"] += contents.damaged
        for source, seq, encoded in contents.finished:
            results, started = by_source.setdefault(source, ([], []))
            try:
                results.append(outcome_of(encoded, seq))
            except ProtocolError:  # the worker scribbled over it: it had begun, that much is sure
                started.append(seq)
        for source, seq in contents.started:
            by_source.setdefault(source, ([], []))[1].append(seq)
        return by_source, contents.more_started

    # -- by force ----------------------------------------------------------------------------------------------------

    def kill_worker(self, source: bytes, message: KillWorker) -> None:
        """Kill the worker of a lease if it runs that very attempt. It is stopped while we look: between looking and
        killing it would otherwise begin the next one, which would be charged."""
        parts = self._parts
        worker = parts.cores.leases.worker_of(message.lease, source)
        pid = parts.children.pid_of(worker)
        if not worker or pid is None or not parts.children.kill(worker, signal.SIGSTOP):
            return
        _wait_stopped(pid, STOP_TIMEOUT_S)
        by_source, all_started = self._read_journal(worker)
        started = by_source.get(journal.source_of_lease(message.lease), ([], []))[1]
        runs = all_started or message.seq in started
        parts.children.kill(worker, signal.SIGKILL if runs else signal.SIGCONT)


def _wait_stopped(pid: int, timeout_s: float) -> None:
    """Until the process is stopped, or dead."""
    give_up_at = time.monotonic() + timeout_s
    while time.monotonic() < give_up_at:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state in "TtZX":
            return
        os.sched_yield()


def _failure(ended: ProcessEnded, how: str, last_words: str) -> Failure:
    host = socket.gethostname()
    details = {"pid": str(ended.pid), "host": host, "exit": ended.exit_text, "stderr": last_words}
    return Failure("WorkerCrashedError", f"a worker (pid {ended.pid}, {host}) died: {how}", details=details)
