"""One process of the bench: measures the rows of one group for one subject, and reports each as soon as it has it.

Reports are lines of JSON appended to a file: `{"begin": row}`, then `{"row": row, "value": ...}` or
`{"row": row, "error": text}`. So the director knows which row was running if this process dies.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from bench.plan import LAN_GROUPS, MACHINE, POOLS
from bench.timing import FULL, QUICK, Figure, Pace


class Report:
    """Where the rows go; also says which rows are wanted."""

    def __init__(self, path: Path, wanted: list[str]) -> None:
        self.path = path
        self.wanted = wanted

    def wants(self, row: str) -> bool:
        return row in self.wanted

    def row(self, name: str, measure: Callable[[], Figure]) -> None:
        """Measures `name` if it is wanted; an error is reported and the next row goes on."""
        if not self.wants(name):
            return
        self._write({"begin": name, "at": time.time()})
        try:
            figure = measure()
        except Exception as error:
            traceback.print_exc()
            self._write({"row": name, "error": f"{type(error).__name__}: {error}"[:500]})
        else:
            self._write({"row": name, **asdict(figure)})

    def _write(self, line: dict[str, object]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--subject", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--rows", required=True, help="JSON list of names")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    faulthandler.enable()
    report = Report(options.out, json.loads(options.rows))
    measure_group(options.group, options.subject, report, QUICK if options.quick else FULL)


def measure_group(group: str, subject: str, report: Report, pace: Pace) -> None:
    """Runs the module that knows the group, imported here: a subject's environment lacks the packages of the others."""
    if group in LAN_GROUPS:
        from bench import lan

        lan.measure(group, report, subject, pace)
    elif subject == MACHINE:
        from bench import limits

        limits.measure(report, pace)
    elif group == "start-up":
        from bench import startup

        startup.measure(report, subject, pace)
    elif subject in POOLS:
        from bench import pools

        pools.measure(report, subject, pace)
    elif group == "memory":
        from bench import memory

        memory.measure(report, subject)
    elif group == "processor time":
        from bench import processor

        processor.measure(report, subject, pace)
    elif group == "in turn":
        from bench import turns

        turns.measure(report, subject, pace)
    elif group == "alternating":
        from bench import pingpong

        pingpong.measure(report, subject, pace)
    elif group in ("growth", "scale", "million", "second driver"):
        from bench import scale

        scale.measure(group, report, subject, pace)
    else:
        from bench import microbench

        microbench.measure(group, report, subject, pace)


if __name__ == "__main__":
    main()
