"""Who is attached to this peer: drivers, workers, observers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from meshray.wire.messages import JobInfo


class Kind(Enum):
    DRIVER = "driver"
    WORKER = "worker"
    OBSERVER = "observer"


@dataclass(slots=True, eq=False)
class Process:
    """One process that has attached and lives."""

    id: bytes
    pid: int
    kind: Kind
    job: JobInfo | None = None  # a driver's own; a worker's from its Bind on
    detaching: int | None = None  # the request of a Detach that is not answered yet


class Processes:
    """All of them, by id."""

    def __init__(self) -> None:
        self._by_id: dict[bytes, Process] = {}

    def add(self, process: Process) -> None:
        assert process.id not in self._by_id, f"{process} attached twice"
        self._by_id[process.id] = process

    def remove(self, process_id: bytes) -> Process | None:
        return self._by_id.pop(process_id, None)

    def get(self, process_id: bytes) -> Process | None:
        return self._by_id.get(process_id)

    def job_of(self, process_id: bytes) -> bytes:
        """The job that a process serves; b"" for none."""
        process = self._by_id.get(process_id)
        return process.job.job if process is not None and process.job is not None else b""

    def job_info(self, process_id: bytes) -> JobInfo | None:
        """The job that a process serves, or has made."""
        process = self._by_id.get(process_id)
        return process.job if process is not None else None

    def job_lives(self, job: bytes) -> bool:
        """Whether its driver is here, and has not begun to leave."""
        driver = self._by_id.get(job)
        return driver is not None and driver.kind is Kind.DRIVER and driver.detaching is None

    def workers_of(self, job: bytes) -> list[Process]:
        return [
            process
            for process in self._by_id.values()
            if process.kind is Kind.WORKER and process.job is not None and process.job.job == job
        ]

    def __contains__(self, process_id: bytes) -> bool:
        return process_id in self._by_id

    def __iter__(self) -> Iterator[Process]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)
