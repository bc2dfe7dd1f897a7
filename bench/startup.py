"""Start-up: `import`, `init` to the first result, and shutdown, each measured in fresh interpreters."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from bench.timing import Figure, Pace, summary

if TYPE_CHECKING:
    from bench.child import Report

ROWS = ("import", "init to first result", "shutdown")


def measure(report: Report, subject: str, pace: Pace) -> None:
    wanted = [row for row in ROWS if report.wants(row)]
    if not wanted:
        return
    # One more than asked: the first finds cold files, and is not counted.
    times = [_probe(subject) for _ in range(pace.repeats + 1)][1:]
    for row in wanted:

        def gathered(row: str = row) -> Figure:
            return summary([time[row] for time in times])

        report.row(row, gathered)


def _probe(subject: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.probe", subject], stdout=subprocess.PIPE, text=True, check=True, timeout=120
    )
    line = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))
    times: dict[str, float] = json.loads(line)
    return times
