"""How things are counted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """How long a row is measured. `FULL`: as `ray microbenchmark`, but for its 10 s of rest before each row."""

    warm_up_s: float
    window_s: float
    windows: int
    scale: float  # large batches are multiplied by this
    blocks: int  # of the alternating measurement
    repeats: int  # of start-up and the like


FULL = Pace(warm_up_s=1.0, window_s=2.0, windows=4, scale=1.0, blocks=200, repeats=7)
QUICK = Pace(warm_up_s=0.2, window_s=0.25, windows=2, scale=0.1, blocks=30, repeats=2)


@dataclass(frozen=True)
class Figure:
    """One measured value, with its spread and what a reader needs beside it."""

    value: float
    low: float
    high: float
    note: str = ""

    def text(self) -> str:
        """The value in about three significant digits."""
        return f"{self.value:,.0f}" if self.value >= 1000 else f"{self.value:.3g}"


def middle(rounds: list[Figure]) -> Figure:
    """Of one row, measured in several rounds: the median, and the smallest and largest that was seen at all."""
    ordered = sorted(rounds, key=lambda figure: figure.value)
    half = len(ordered) // 2
    value = ordered[half].value if len(ordered) % 2 else (ordered[half - 1].value + ordered[half].value) / 2
    low, high = min(figure.low for figure in rounds), max(figure.high for figure in rounds)
    return Figure(value, low, high, ordered[half].note)


def rate(call: Callable[[], object], multiplier: float, pace: Pace) -> Figure:
    """Calls per second times `multiplier`: the mean over windows, and their smallest and largest.

    Counted as `ray microbenchmark` does: after a warm-up the call is repeated in steps of a tenth of what the warm-up
    took per second, until a window is full; a step is never cut.
    """
    warm_until = time.perf_counter() + pace.warm_up_s
    count = 0
    while time.perf_counter() < warm_until:
        call()
        count += 1
    step = count // 10 + 1
    rates = []
    for _ in range(pace.windows):
        start = time.perf_counter()
        count = 0
        while time.perf_counter() - start < pace.window_s:
            for _ in range(step):
                call()
            count += step
        rates.append(multiplier * count / (time.perf_counter() - start))
    return Figure(statistics.fmean(rates), min(rates), max(rates))


def summary(values: list[float], note: str = "") -> Figure:
    """The median and the quartiles."""
    if len(values) < 4:
        return Figure(statistics.median(values), min(values), max(values), note)
    low, middle, high = statistics.quantiles(values, n=4)
    return Figure(middle, low, high, note)


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
