"""Synchronous rows, measured in alternating blocks against a raw ping-pong.

An idle core sleeps, and how deep depends on the minute, so two separate runs differ by a factor of two to six. Here one
process makes 50 raw round trips, then 50 calls, and so on; caller and servers are pinned to different cores; the figure
is the difference of the medians per block.
"""

from __future__ import annotations

import importlib
import os
import statistics
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bench.limits import echo_server, round_trip
from bench.memory import family
from bench.timing import Figure, Pace, seconds

if TYPE_CHECKING:
    from bench.child import Report

CALLS = 50


def measure(report: Report, subject: str, pace: Pace) -> None:
    ray: Any = importlib.import_module(subject)
    ray.init(num_cpus=1)

    @ray.remote
    def small_value() -> bytes:
        return b"ok"

    class Actor:
        def small_value(self) -> bytes:
            return b"ok"

    def task() -> Figure:
        return alternate(lambda: ray.get(small_value.remote()), pace)

    def actor_call() -> Figure:
        actor = ray.remote(Actor).remote()
        return alternate(lambda: ray.get(actor.small_value.remote()), pace)

    report.row("one task, added to a ping-pong", task)
    report.row("one actor call, added to a ping-pong", actor_call)
    ray.shutdown()


def alternate(call: Callable[[], object], pace: Pace) -> Figure:
    """Microseconds that `call` takes beyond a raw round trip: the median over blocks, and the quartiles."""
    with echo_server() as (_, caller):
        for _ in range(CALLS):
            call()  # workers are up before they are pinned
        note = pin_apart()
        raw, ours = [], []
        for _ in range(pace.blocks):
            raw.append(block(lambda: round_trip(caller)))
            ours.append(block(call))
        unpin()
    added = [mine - bare for mine, bare in zip(ours, raw, strict=True)]
    low, _, high = statistics.quantiles(added, n=4)
    middle_raw, middle_ours = statistics.median(raw), statistics.median(ours)
    text = f"{middle_ours:.0f} against {middle_raw:.0f} µs, {pace.blocks} blocks of {CALLS}{note}"
    return Figure(middle_ours - middle_raw, low, high, text)


def block(call: Callable[[], object]) -> float:
    """Microseconds per call, over one block."""

    def calls() -> None:
        for _ in range(CALLS):
            call()

    return seconds(calls) / CALLS * 1e6


def pin_apart() -> str:
    """This process to one core, all that it started to another; says so if there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return ", not pinned: one core only"
    _pin([os.getpid()], {cores[0]})
    _pin([process.pid for process in family()], {cores[1]})
    return ""


def unpin() -> None:
    _pin([os.getpid(), *(process.pid for process in family())], range(os.cpu_count() or 1))


def _pin(pids: Iterable[int], cores: Iterable[int]) -> None:
    for pid in pids:
        with suppress(OSError):  # a process or thread that has just ended
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), set(cores))
