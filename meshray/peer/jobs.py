"""Drivers come and go, and their jobs with them.

A driver attaches with its JobInfo; its process id is the job's. It leaves in one of two ways: it says Detach, or it
dies. Either way its job ends: what works for it is killed, except its detached actors and what works for those. A
Detach is answered when the last of its workers is gone and what they had printed was sent, within a bound.
"""

from __future__ import annotations

from meshray.ids import NODE_BYTES
from meshray.local import PYTHON
from meshray.peer.parts import Parts
from meshray.peer.prints import Prints
from meshray.peer.processes import Kind, Process
from meshray.peer.starts import Starts
from meshray.wire.boot import pack_config
from meshray.wire.messages import PROTOCOL, Answer, Attach, Attached, Detach

PACKING_PART = 4
"""A driver that leaves while it packs its folder, for a detached actor, is left alone for 1/4 of the time that it waits
for the answer to its Detach: it may have been asked while it said that."""

LINK_LINGER_S = 1.0
"""How long the link to a driver that has left stays open, so that our answer gets there."""


class Jobs:
    """Attaching and leaving."""

    def __init__(self, parts: Parts, starts: Starts, driver_pid: int) -> None:
        self._parts = parts
        self._starts = starts
        self._driver_pid = driver_pid  # the driver that a private peer ends with; 0: a standing peer
        self._config = pack_config(parts.config)
        self._prints = Prints(parts)
        self._packing: list[Process] = []  # drivers that have said Detach, and have their folder to pack before
        self._leaving: list[Process] = []  # drivers whose jobs have ended, and whose Detach is not answered yet
        self._ending: dict[bytes, None] = {}  # jobs of other hosts that are over, and have workers here

    # -- coming ------------------------------------------------------------------------------------------------------

    def on_attach(self, source: bytes, message: Attach, now: float) -> None:
        """A process introduces itself. A repeat is answered again and changes nothing."""
        parts = self._parts
        refused = self._refusal(source, message)
        if not refused and source not in parts.processes:
            if message.job is None and not message.observer:
                if not self._starts.on_attached(source, message.pid, now):
                    refused = "this peer has started no such worker"
            else:
                refused = self._welcome(source, message)
        if refused:
            parts.counters["refused attaches"] += 1
            parts.endpoint.send(source, Attached(refused=refused))
            parts.timers.at(now + LINK_LINGER_S, lambda: self._drop_stranger(source))
            return
        record, alone = parts.record, parts.cores.objects.alone
        welcome = Attached(record.pid, record.name, str(parts.store_folder), self._config, alone=alone)
        parts.endpoint.send(source, welcome)

    def _refusal(self, source: bytes, message: Attach) -> str:
        """Why it may not attach; "" when it may."""
        if message.protocol != PROTOCOL:
            return (
                f"it speaks protocol {message.protocol}, this peer speaks {PROTOCOL}: "
                f"use the same version of meshray for both (the peer has {self._parts.record.version or '?'})"
            )
        if message.observer:
            return ""
        if message.python != PYTHON:
            return (
                f"it runs Python {message.python}, this peer runs {PYTHON}: functions do not travel between minor "
                "versions; start the peer with the interpreter of the program"
            )
        if message.job is not None and self._parts.leaving:
            return f"it is being stopped ({self._parts.leaving})"
        if message.job is not None and message.job.job != source:
            return f"its job {message.job.job.hex()} is not its own id {source.hex()}"
        if source[:8] != self._parts.node or source == self._parts.process_id:
            return f"{source.hex()} is no process id of this peer"
        return ""

    def _welcome(self, source: bytes, message: Attach) -> str:
        """A driver or an observer. "" or why not."""
        parts = self._parts
        try:
            parts.children.add_driver(source, message.pid)
        except OSError as error:
            return f"its process {message.pid} cannot be watched: {error}"
        kind = Kind.OBSERVER if message.job is None else Kind.DRIVER
        parts.processes.add(Process(source, message.pid, kind, message.job))
        if message.job is not None:
            parts.cores.leases.on_job_started(message.job)
            parts.cores.objects.on_process_attached(source, message.pid, source)
        return ""

    def _drop_stranger(self, source: bytes) -> None:
        if source not in self._parts.processes:
            self._parts.endpoint.drop(source)

    # -- going -------------------------------------------------------------------------------------------------------

    def on_detach(self, source: bytes, message: Detach, now: float) -> None:
        """A driver leaves: its job ends now, the answer follows. An observer is forgotten, and gets none: it may live
        on, and visit again each second."""
        process = self._parts.processes.get(source)
        if process is not None and process.kind is Kind.OBSERVER:
            self._parts.children.release(source)
            self.forget(process, "it has left", now)
            self._parts.timers.at(now + LINK_LINGER_S, lambda: self._parts.part_with(source))
            return
        if process is None or process.kind is not Kind.DRIVER or process.detaching is not None:
            return
        process.detaching = message.request
        timeout_s = self._parts.config.shutdown_timeout_s
        end_at, answer_at = now + timeout_s / PACKING_PART, now + timeout_s / 2
        if self._parts.cores.programs.is_packing(source):
            self._packing.append(process)
            self._parts.timers.at(end_at, lambda: self._end(process, end_at))
        else:
            self._leaving.append(process)
            self.end_job(source, now)
        self._parts.timers.at(answer_at, lambda: self._let_go(process, answer_at))

    def _end(self, driver: Process, now: float) -> None:
        """It has packed its folder, or had time to."""
        if driver in self._packing:
            self._packing.remove(driver)
            self._leaving.append(driver)
            self.end_job(driver.id, now)

    def end_job(self, job: bytes, now: float) -> None:
        """Everything of a job ends, but for detached actors and what works for them."""
        cores = self._parts.cores
        cores.actors.on_job_ended(job)
        cores.programs.on_job_ended(job)
        detached = cores.actors.survivors_of(job) | cores.guests.survivors_of(job)
        survivors = cores.leases.on_job_ended(job, detached, now)
        cores.objects.on_job_ended(job, survivors)
        cores.adoption.on_job_ended(job)
        if job[:NODE_BYTES] == self._parts.node:
            cores.road.on_local_job_over(job)

    def end_foreign_job(self, job: bytes, now: float) -> None:
        """A job of another host is over; its driver's peer waits to hear that nothing of it runs here."""
        self.end_job(job, now)
        self._ending[job] = None

    def look_after_ended(self, now: float) -> None:
        """Let go of drivers whose workers are gone, and tell the peers of others. Called after each batch."""
        for job in [job for job in self._ending if self._is_done(job)]:
            del self._ending[job]
            self._prints.on_job_ended(job, now)
            self._parts.cores.road.on_foreign_job_ended(job, now)
        for driver in [driver for driver in self._packing if not self._parts.cores.programs.is_packing(driver.id)]:
            self._end(driver, now)
        for driver in list(self._leaving):
            if self._is_done(driver.id) and not self._parts.cores.road.awaits_end(driver.id):
                self._let_go(driver, now)

    def _is_done(self, job: bytes) -> bool:
        """Whether nothing of an ended job runs here, but what goes on."""
        return all(worker.id in self._going_on(job) for worker in self._parts.processes.workers_of(job))

    def _going_on(self, job: bytes) -> frozenset[bytes]:
        """The workers of an ended job that are not about to be dead."""
        leases = self._parts.cores.leases
        return frozenset(worker.process for worker in leases.workers.of_job(job) if not worker.dying)

    def _let_go(self, driver: Process, now: float) -> None:
        """Answer, and forget the driver: for the cores it is dead now."""
        if driver not in self._leaving:
            return
        self._leaving.remove(driver)
        parts = self._parts
        assert driver.detaching is not None
        self._prints.on_job_ended(driver.id, now)
        parts.endpoint.send(driver.id, Answer(driver.detaching))
        parts.children.release(driver.id)
        self.forget(driver, "it has left", now)
        parts.timers.at(now + LINK_LINGER_S, lambda: parts.part_with(driver.id))

    def on_driver_died(self, process: Process, now: float) -> None:
        """Its process is gone, without a word."""
        if process in self._leaving:
            self._leaving.remove(process)
        elif process in self._packing:
            self._end(process, now)
            self._leaving.remove(process)
        elif process.kind is Kind.DRIVER:
            self.end_job(process.id, now)
        self.forget(process, "its driver has ended", now)
        self._parts.part_with(process.id)

    def forget(self, process: Process, why: str, now: float) -> None:
        """A driver or an observer is no more, for all of us."""
        self._parts.processes.remove(process.id)
        if process.kind is not Kind.DRIVER:
            return
        self._parts.log_flow.forget(process.id)
        cores = self._parts.cores
        abroad = cores.road.on_local_died(process.id)
        cores.leases.on_driver_gone(process.id, now)
        cores.actors.on_process_died(process.id, why, {}, now)
        cores.foreign_actors.on_process_died(process.id)
        cores.naming.on_process_died(process.id, now)
        cores.objects.on_process_died(process.id, why, abroad)
        cores.fetches.on_process_died(process.id)
        if process.pid == self._driver_pid:
            self._parts.stop("its driver has left")
