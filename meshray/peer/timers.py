"""What happens later, once: a heap of deadlines."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable


def boot_time() -> float:
    """The clock that goes on while the machine is suspended, seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall_ms() -> int:
    """Milliseconds since the epoch. For comparing what was born when on different hosts, and for nothing else."""
    return time.time_ns() // 1_000_000


class Timers:
    """Call `run_due` when `next_deadline` has come."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0  # breaks ties, in order of arrival

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do it then. It cannot be taken back: an action asks itself whether it is still wanted."""
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, action))

    def next_deadline(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def run_due(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()
