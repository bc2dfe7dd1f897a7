"""What workers printed, and what this peer has to say about a job: to its driver, here or on another host.

Each peer counts by itself how far a driver is behind with what it sent (`log_flow`), so a driver that shows nothing
costs every host a bounded amount of memory. Between hosts lines take turns with what processes say to each other, and
are never in the way of what peers say. What is left when a job ends is sent before the peer of its driver hears that
nothing of it runs here any more.
"""

from __future__ import annotations

from meshray.ids import NODE_BYTES
from meshray.observe.notes import note
from meshray.peer.parts import Parts
from meshray.wire.messages import LogLine, LogLines, LogsShown

LINES_PER_MESSAGE = 500


class Prints:
    """See the head of this file. Holds nothing itself."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def send(self, now: float) -> None:
        """What workers have printed since the last call goes to their drivers."""
        for worker, lines in self._parts.logs.take_lines().items():
            process = self._parts.processes.get(worker)
            job = process.job if process is not None else None
            if job is None:
                # A worker that has no job yet says why it cannot start: that goes to our log.
                for line in lines:
                    note(f"(worker pid={line.pid}) {line.text}")
            elif job.log_to_driver:
                self._to_driver(job.job, lines, now)

    def tell(self, job: bytes, text: str, now: float) -> None:
        """A line of this peer itself, for the people of a job."""
        parts = self._parts
        info = parts.cores.leases.job_info(job)
        if info is not None and info.log_to_driver:
            self._to_driver(job, [LogLine("", 0, text[: parts.config.log_line_max_bytes], True)], now)

    def on_shown(self, driver: bytes, message: LogsShown, now: float) -> None:
        """A driver has shown lines of ours; if some were left out meanwhile, it is to say so."""
        self._say(driver, self._parts.log_flow.on_shown(driver, message.size, now), now)

    def on_job_ended(self, job: bytes, now: float) -> None:
        """Nothing more will be printed for this driver: it hears what was left out."""
        self._say(job, self._parts.log_flow.take_notice(job), now)
        self._parts.log_flow.forget(job)

    def _to_driver(self, driver: bytes, lines: list[LogLine], now: float) -> None:
        if self._is_there(driver) and self._parts.log_flow.admit(driver, lines, now):
            self._say(driver, lines, now)

    def _is_there(self, driver: bytes) -> bool:
        parts = self._parts
        return driver in parts.processes if self._is_here(driver) else parts.cores.road.hears(driver)

    def _is_here(self, driver: bytes) -> bool:
        return driver[:NODE_BYTES] == self._parts.node

    def _say(self, driver: bytes, lines: list[LogLine], now: float) -> None:
        parts = self._parts
        for begin in range(0, len(lines), LINES_PER_MESSAGE):
            part = lines[begin : begin + LINES_PER_MESSAGE]
            if self._is_here(driver):
                parts.endpoint.send(driver, LogLines(part))
            else:
                parts.cores.road.send_late(driver, LogLines(part, parts.record.name), now)
