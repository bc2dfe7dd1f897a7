"""Runs one process per (group of rows, subject), one after the other, and gathers what they report.

A row that hangs or kills its process is reported as failed, and the rest of its group runs in a new process.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil

from bench.plan import GROUPS, MACHINE, Row, rows_of
from bench.subjects import ROOT, SUBJECTS, Subject
from bench.timing import Figure, middle

MARK = "MESHRAY_BENCH"  # stands in the environment of everything that a child starts
POLL_S = 0.2
ENDING_S = 10.0
TAIL_LINES = 25  # of a failed child's output


def describe_machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} CPUs, {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}"
    )


@dataclass
class Results:
    """Figures and failures by (row, subject), and where they come from."""

    command: str
    versions: dict[str, str] = field(default_factory=dict)
    figures: dict[tuple[str, str], Figure] = field(default_factory=dict)
    errors: dict[tuple[str, str], str] = field(default_factory=dict)
    machine: str = field(default_factory=describe_machine)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    took_s: float = 0.0

    @property
    def subjects(self) -> list[str]:
        return [name for name in self.versions if name != MACHINE]


class Director:
    """Goes through the plan. `tell` gets a line for people whenever something is known."""

    def __init__(
        self, results: Results, quick: bool, row_limit_s: float, tell: Callable[[str], None], rounds: int = 1
    ) -> None:
        """`rounds`: so often each group is measured, subject after subject, so that what the machine does meanwhile
        meets all of them; the medians count."""
        self._results = results
        self._rounds = rounds
        self._measured: dict[tuple[str, str], list[Figure]] = {}  # by (row, subject), a figure per round
        self._quick = quick
        self._row_limit_s = row_limit_s
        self._tell = tell

    def run(self, subjects: Iterable[str], patterns: Sequence[str], groups: Iterable[str] = GROUPS) -> None:
        """All rows of these groups that match one of `patterns`, group by group; within a group, subject by subject."""
        start = time.monotonic()
        chosen = [SUBJECTS[name] for name in subjects]
        for group in groups:
            for subject in chosen * self._rounds:
                rows = rows_of(group, subject.name, patterns)
                while rows:
                    rows = self._run_child(group, subject, rows)
        self._results.took_s = time.monotonic() - start

    def _run_child(self, group: str, subject: Subject, rows: list[Row]) -> list[Row]:
        """One process; returns the rows that are left to do when it ended early."""
        folder = Path(mkdtemp(prefix="mb"))  # short: ipc paths have at most 107 bytes
        out = folder / "report.jsonl"
        out.touch()
        command = [subject.python, "-m", "bench.child", "--subject", subject.name, "--group", group, "--out", str(out)]
        command += ["--rows", json.dumps([row.name for row in rows])] + (["--quick"] if self._quick else [])
        log = (folder / "log.txt").open("w+")
        try:
            child = subprocess.Popen(
                command, cwd=ROOT, env=_environment(folder), stdout=log, stderr=log, start_new_session=True
            )
            code = self._follow(child, out, subject, rows)
            left = self._settle(code, out, subject, rows, log.name)
        finally:
            _end_all(str(folder))
            log.close()
            shutil.rmtree(folder, ignore_errors=True)
        return left

    def _follow(self, child: subprocess.Popen[bytes], out: Path, subject: Subject, rows: list[Row]) -> int:
        """Tells each result as it comes; ends a child in which nothing happened for too long."""
        units = {row.name: row.unit for row in rows}
        seen, last_news = 0, time.monotonic()
        try:
            while True:
                code = child.poll()
                lines = _lines(out)
                for line in lines[seen:]:
                    last_news = time.monotonic()
                    if "value" in line:
                        self._tell(f"  {subject.name:12} {line['row']}: {_figure(line).text()} {units[line['row']]}")
                    elif "error" in line:
                        self._tell(f"  {subject.name:12} {line['row']}: FAILED: {line['error']}")
                seen = len(lines)
                if code is not None:
                    return code
                if time.monotonic() - last_news > self._row_limit_s:
                    os.killpg(child.pid, signal.SIGABRT)  # faulthandler prints the stacks
                    with suppress(subprocess.TimeoutExpired):
                        child.wait(5)
                    last_news = time.monotonic()
                    child.kill()
                    return child.wait()
                time.sleep(POLL_S)
        except BaseException:
            child.kill()
            child.wait()
            raise

    def _settle(self, code: int, out: Path, subject: Subject, rows: list[Row], log: str) -> list[Row]:
        lines = _lines(out)
        done = set()
        for line in lines:
            if "row" not in line:
                continue
            key = (line["row"], subject.name)
            done.add(line["row"])
            if "error" in line:
                self._results.errors[key] = line["error"]
                self._results.figures.pop(key, None)  # of an earlier round: a row that fails now and then has failed
            elif key not in self._results.errors:
                rounds = self._measured.setdefault(key, [])
                rounds.append(_figure(line))
                self._results.figures[key] = middle(rounds)
        left = [row for row in rows if row.name not in done]
        if not left:
            return []
        begun = [line["begin"] for line in lines if "begin" in line and line["begin"] not in done]
        # Nothing begun: what the rows share failed, and would fail again.
        victims = [begun[-1]] if begun else [row.name for row in left]
        text = f"no news within {self._row_limit_s:.0f} s" if code < 0 else f"the process ended with {code}"
        for victim in victims:
            self._results.errors[victim, subject.name] = text
        tail = "\n    ".join(Path(log).read_text(errors="replace").splitlines()[-TAIL_LINES:])
        self._tell(f"  {subject.name:12} {', '.join(victims)}: FAILED: {text}\n    {tail}")
        return [row for row in left if row.name not in victims]


def _figure(line: dict[str, Any]) -> Figure:
    return Figure(line["value"], line["low"], line["high"], line["note"])


def _environment(folder: Path) -> dict[str, str]:
    """A runtime folder of its own, so that no peer that runs here is measured by mistake; nothing calls home."""
    return {
        **os.environ,
        MARK: str(folder),
        "PYTHONPATH": str(ROOT),
        "MESHRAY_RUNTIME_DIR": str(folder / "run"),
        "MESHRAY_HOME": str(folder / "home"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def _lines(out: Path) -> list[dict[str, Any]]:
    """The reports so far; a line that is still being written is left for the next look."""
    text = out.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _end_all(mark: str) -> None:
    """Ends what a child has left, Ray's processes in sessions of their own included."""
    deadline = time.monotonic() + ENDING_S
    while alive := _marked(mark):
        if time.monotonic() > deadline:
            for process in alive:
                with suppress(psutil.Error):
                    process.kill()
            return
        time.sleep(POLL_S)


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
