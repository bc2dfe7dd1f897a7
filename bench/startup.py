"""Start-up: `import`, `init` to the first result, and shutdown, each measured in fresh interpreters."""

from __future__ import annotations

import compileall
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bench.timing import Figure, Pace, summary

if TYPE_CHECKING:
    from bench.child import Report

ROWS = ("import", "init to first result", "shutdown")


def measure(report: Report, subject: str, pace: Pace) -> None:
    wanted = [row for row in ROWS if report.wants(row)]
    if not wanted:
        return
    if subject == "meshray":
        # pip compiles what it installs, but not a checkout that is installed in place; and an interpreter that is told
        # not to write bytecode (PYTHONDONTWRITEBYTECODE) would compile us anew at each start.
        package = find_spec("meshray")
        assert package is not None
        assert package.origin is not None
        compileall.compile_dir(Path(package.origin).parent, quiet=2)
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
