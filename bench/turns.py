"""A thousand tasks in flight, in turn with the standard library's process pool.

Both depend on how this machine's cores sleep, are woken and share their units, which changes from minute to minute, and
not in the same way: separate runs gave anything between 15 and 30. Here one process lets the pool work for a while,
then the mesh, and so on; the figure is the median of the pairs.
"""

from __future__ import annotations

import importlib
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from bench.plan import IN_TURN
from bench.pools import open_pool
from bench.timing import Figure, Pace

if TYPE_CHECKING:
    from bench.child import Report

IN_FLIGHT = 1000


def measure(report: Report, subject: str, pace: Pace) -> None:
    ray: Any = importlib.import_module(subject)
    with ExitStack() as stack:
        submit = open_pool("processpool", os.cpu_count() or 1, stack)

        def by_pool() -> None:
            for future in [submit() for _ in range(IN_FLIGHT)]:
                future.result()

        by_pool()  # its processes are forked before there are threads of anybody else's
        ray.init()

        @ray.remote
        def small_value() -> bytes:
            return b"ok"

        def by_mesh() -> None:
            ray.get([small_value.remote() for _ in range(IN_FLIGHT)])

        report.row(IN_TURN, lambda: in_turn(by_mesh, by_pool, pace))
        ray.shutdown()


def in_turn(ours: Callable[[], object], other: Callable[[], object], pace: Pace) -> Figure:
    """How many times as fast `ours` is: the median over pairs of turns, and the quartiles. Who is first changes."""
    turn_s, pairs = pace.window_s / 4, 10 * pace.windows
    rate(ours, pace.warm_up_s)
    rate(other, pace.warm_up_s)
    rates: list[tuple[float, float]] = []
    for number in range(pairs):
        if number % 2:
            rates.append((rate(ours, turn_s), rate(other, turn_s)))
        else:
            theirs = rate(other, turn_s)
            rates.append((rate(ours, turn_s), theirs))
    ratios = [mine / theirs for mine, theirs in rates]
    low, middle, high = statistics.quantiles(ratios, n=4)
    mine, theirs = (statistics.median(each) for each in zip(*rates, strict=True))
    text = f"{mine:,.0f} against {theirs:,.0f} /s, {pairs} pairs of {turn_s:g} s, quartiles {low:.3g} and {high:.3g}"
    return Figure(middle, low, high, text)


def rate(call: Callable[[], object], at_least_s: float) -> float:
    """Tasks per second, over whole calls."""
    begin = now = time.perf_counter()
    count = 0
    while now < begin + at_least_s:
        call()
        count += IN_FLIGHT
        now = time.perf_counter()
    return count / (now - begin)
