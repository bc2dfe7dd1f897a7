"""What the pure core asks its shell to do.

General layout of the core: each file answers one question with one class. Its methods are events, `on_<event>(...)`,
that take `now` (seconds of a monotonic clock) where time matters; they change the object's state and append effects.
The shell drains them with `take_effects()` and performs them in order. Nothing here knows sockets, clocks, threads,
processes, randomness or pickle, so a whole mesh runs in one thread under a virtual clock.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from meshray.wire.messages import JobInfo, Message, Profile


class Send(Struct, frozen=True):
    """Send a message to a process (16 bytes id)."""

    to: bytes
    message: Message  # type: ignore[valid-type]


class StartWorker(Struct, frozen=True):
    """Start a worker for a job. `ticket` names it until its process id is known; answered by `on_worker_ready`, or by
    `on_worker_start_failed`."""

    ticket: int
    job: JobInfo
    profile: Profile
    gpu_ids: tuple[int, ...] = ()


class KillProcess(Struct, frozen=True):
    """Kill a worker (SIGKILL); its death is reported by `on_process_died`."""

    process: bytes
    reason: str = ""


class UnlinkSegment(Struct, frozen=True):
    """Remove a segment whose creator is gone."""

    segment: str


Effect = Send | StartWorker | KillProcess | UnlinkSegment


class Core:
    """Base of the pure objects: the drain idiom."""

    def __init__(self) -> None:
        self._effects: list[Any] = []

    def take_effects(self) -> list[Any]:
        """All effects since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects
