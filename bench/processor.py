"""What a task costs in processor time, apart from the machine's mood: 1,000 no-op tasks in flight, over and over.

Rates on a shared machine vary by a factor of two from minute to minute, since cores sleep, are taken away, or share
their units with a busy neighbour; the time that the processes were given varies less.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psutil

from bench.memory import family
from bench.timing import Figure, Pace

if TYPE_CHECKING:
    from bench.child import Report

IN_FLIGHT = 1000


def measure(report: Report, subject: str, pace: Pace) -> None:
    ray: Any = importlib.import_module(subject)
    ray.init()

    @ray.remote
    def small_value() -> bytes:
        return b"ok"

    def batch() -> None:
        ray.get([small_value.remote() for _ in range(IN_FLIGHT)])

    driver, others = per_task(batch, pace)
    report.row("processor time of a task, driver", lambda: driver)
    report.row("processor time of a task, all other processes", lambda: others)
    ray.shutdown()


def per_task(batch: Callable[[], None], pace: Pace) -> tuple[Figure, Figure]:
    """Microseconds per task, of this process and of those that it started: the least of all windows, which the rest of
    the machine has disturbed least."""
    until = time.perf_counter() + pace.warm_up_s
    while time.perf_counter() < until:
        batch()
    windows: list[tuple[float, float]] = []
    for _ in range(2 * pace.windows):
        before, count = _spent(), 0
        until = time.perf_counter() + pace.window_s
        while time.perf_counter() < until:
            batch()
            count += IN_FLIGHT
        windows.append(tuple((b - a) / count * 1e6 for a, b in zip(before, _spent(), strict=True)))  # type: ignore[arg-type]
    columns = [sorted(column) for column in zip(*windows, strict=True)]
    return Figure(columns[0][0], columns[0][0], columns[0][-1]), Figure(columns[1][0], columns[1][0], columns[1][-1])


def _spent() -> tuple[float, float]:
    """Processor seconds of this process, and of those that it started and that live."""
    return _seconds(psutil.Process(os.getpid())), sum(map(_seconds, family()))


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
