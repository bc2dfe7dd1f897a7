"""Workers on their way: from the core's StartWorker to their Attach.

A worker that is on its way has a journal, two log pipes, a request in a zygote's hands, and a ticket by which the core
knows it. Its Attach and the zygote's word of its birth come in either order. It ends here in one of three ways: it
attaches; it dies before (the core is told, with its last words); it is abandoned (the core has given it up, and is told
nothing).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from meshray.core.effects import AbandonStart, StartWorker
from meshray.ids import new_process
from meshray.peer.parts import Parts
from meshray.peer.processes import Kind, Process
from meshray.peer.zygotes import ForkFailed, Interpreter, WorkerForked
from meshray.store import journal
from meshray.wire.boot import WORKER_ENTRY, WorkerSettings, pack_config, pack_settings
from meshray.wire.forking import Fork


@dataclass(slots=True, eq=False)
class _Start:
    """One worker on its way."""

    ticket: int  # 0 once it was abandoned
    process_id: bytes


class Starts:
    """All workers on their way."""

    def __init__(self, parts: Parts, peer_pid: int) -> None:
        self._parts = parts
        self._peer_pid = peer_pid
        self._config = pack_config(parts.config)
        self._by_process: dict[bytes, _Start] = {}  # from the request until Attach or death
        self._by_ticket: dict[int, _Start] = {}  # those that the core still waits for

    def start(self, effect: StartWorker, now: float) -> None:
        parts = self._parts
        process_id = new_process(parts.node)
        journal_path = parts.journal_path(process_id)
        try:
            journal.create(journal_path, parts.config.journal_bytes)
            try:
                stdout, stderr = parts.logs.open(process_id)
            except OSError:
                journal_path.unlink()
                raise
        except OSError as error:
            parts.cores.leases.on_worker_start_failed(effect.ticket, f"no room for its journal or pipes: {error}", now)
            return
        start = _Start(effect.ticket, process_id)
        self._by_process[process_id] = self._by_ticket[effect.ticket] = start
        settings = WorkerSettings(
            folder=str(parts.folder),
            store_folder=str(parts.store_folder),
            process_id=process_id,
            peer_pid=self._peer_pid,
            journal=str(journal_path),
            config=self._config,
            node_name=parts.record.name,
        )
        job = effect.job
        interpreter = (
            Interpreter(sys.executable, sys.prefix) if job is None else Interpreter(job.executable, job.prefix)
        )
        request = Fork(process_id, WORKER_ENTRY, pack_settings(settings), {})
        parts.zygotes.fork(interpreter, request, stdout, stderr, now, job.sys_path if job is not None else None)

    def abandon(self, effect: AbandonStart) -> None:
        start = self._by_ticket.pop(effect.ticket, None)
        if start is not None:
            start.ticket = 0
            self._parts.children.kill(start.process_id)

    def on_forked(self, event: WorkerForked) -> None:
        """It was born; perhaps it has attached already."""
        parts = self._parts
        parts.children.add_worker(event.process_id, event.pid, event.pidfd)
        parts.logs.on_forked(event.process_id, event.pid)
        start = self._by_process.get(event.process_id)
        if start is not None and not start.ticket:
            parts.children.kill(event.process_id)

    def on_failed(self, event: ForkFailed, now: float) -> None:
        """It was not born."""
        self._parts.logs.close(event.process_id)
        self.on_died(event.process_id, event.reason, now)

    def on_attached(self, process_id: bytes, pid: int, now: float) -> bool:
        """Its first message. False when it is no worker of ours that is on its way."""
        start = self._by_process.pop(process_id, None)
        if start is None:
            return False
        parts = self._parts
        parts.processes.add(Process(process_id, pid, Kind.WORKER))
        parts.cores.objects.on_process_attached(process_id, pid)
        if start.ticket:
            del self._by_ticket[start.ticket]
            parts.cores.leases.on_worker_ready(start.ticket, process_id, now)
        return True

    def on_died(self, process_id: bytes, how: str, now: float) -> bool:
        """Its process is gone. False when it was not on its way any more."""
        start = self._by_process.pop(process_id, None)
        if start is None:
            return False
        self._parts.journal_path(process_id).unlink(missing_ok=True)
        if start.ticket:
            del self._by_ticket[start.ticket]
            self._parts.cores.leases.on_worker_start_failed(start.ticket, how, now)
        return True

    def __len__(self) -> int:
        return len(self._by_process)
