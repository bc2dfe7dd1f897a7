"""The command line of the bench."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from bench import cables, report
from bench.director import Director, Results
from bench.plan import GROUPS, LAN_GROUPS, MACHINE, RIVALS, ROWS
from bench.subjects import SUBJECTS


def main() -> int:
    options = _parse()
    groups = LAN_GROUPS if options.lan else GROUPS
    if options.list:
        for group in groups:
            print(f"{group}:", *(f"\n  {row.name}" for row in ROWS if row.group == group))
        return 0
    if options.lan and (reason := cables.why_not()):
        print(f"nothing can be measured between hosts here: {reason}", file=sys.stderr)
        return 1
    command = shlex.join(["scripts/bench", *sys.argv[1:]])
    results = Results(command)
    for name in [MACHINE, "meshray", *options.against]:
        subject = SUBJECTS[name]
        try:
            subject.prepare()
            results.versions[name] = subject.version()
        except subprocess.CalledProcessError as error:
            print(f"{name} cannot be measured: {shlex.join(map(str, error.cmd))} failed", file=sys.stderr)
    print(results.machine, flush=True)

    director = Director(results, options.quick, options.row_limit, lambda line: print(line, flush=True), options.rounds)
    try:
        director.run(results.versions, options.rows or ["*"], groups)
    except KeyboardInterrupt:
        print("stopped by hand: the table is not whole", file=sys.stderr)
    print("\n" + report.as_text(results))
    if options.quick:
        print("\nquick: short windows, large batches cut to a tenth; for a look only")
    if options.json:
        options.json.write_text(report.as_json(results), encoding="utf-8")
    if options.markdown:
        marks = (report.LAN_BEGIN, report.LAN_END) if options.lan else (report.BEGIN, report.END)
        report.write_markdown(results, options.markdown, *marks)
    ours = [key for key in results.errors if key[1] in (MACHINE, "meshray")]
    return 1 if ours or not results.figures else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures meshray, the machine's limits and, if asked, its rivals, in one run.",
    )
    parser.add_argument("--quick", action="store_true", help="a look in a minute or two; no figures to publish")
    parser.add_argument(
        "--lan", action="store_true", help="the rows between hosts instead: network namespaces, so root only"
    )
    parser.add_argument(
        "--rows", action="append", metavar="PATTERN", help="only rows or groups that match (shell pattern); repeatable"
    )
    parser.add_argument("--against", default="", metavar="NAMES", help=f"comma-separated, of: {', '.join(RIVALS)}")
    parser.add_argument(
        "--rounds", type=int, default=1, metavar="N", help="measure all N times, in turn: the medians count"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the table there; into docs/performance.md, at its place"
    )
    parser.add_argument("--row-limit", type=float, default=0.0, metavar="SECONDS", help="a row without news fails then")
    parser.add_argument("--list", action="store_true", help="print the rows and end")
    options = parser.parse_args()
    options.against = [name for name in options.against.split(",") if name]
    unknown = [name for name in options.against if name not in RIVALS]
    if unknown:
        parser.error(f"no such rival: {', '.join(unknown)} (there are: {', '.join(RIVALS)})")
    if options.rounds < 1:
        parser.error(f"--rounds takes a number from 1 on, got {options.rounds}")
    options.row_limit = options.row_limit or (600.0 if not options.quick else 150.0 if options.lan else 60.0)
    return options


if __name__ == "__main__":
    sys.exit(main())
