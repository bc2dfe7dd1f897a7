"""The process tests in random order, one pytest process after another, for as long as told.

    scripts/stress --minutes 60 --seed 7 --match "not notebook"
    scripts/stress --hosts --minutes 60        those with several hosts, instead of those with one (root only)

Each run takes a handful of tests, drawn and ordered by the seed. Between runs nothing may be left: no process, on no
host, no folder of a peer or of a host, no segment, no mount, no network interface. The summary names every test that
failed, with how often it ran; output of failed runs is kept in the folder named at the end. The exit code is bad if
anything failed or leaked.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import psutil

from meshray.local import claimed_by
from tests.lan.network import why_not
from tests.leaks import STORE_ROOT

ROOT = Path(__file__).parent.parent
HOSTS = "tests/lan/"
MARK = "STRESS_RUN"  # stands in the environment of everything that a run starts; hosts drop what begins with MESHRAY_
RUN_TIMEOUT_S = 600.0
HOSTS_RUN_TIMEOUT_S = 1800.0
ENDING_S = 10.0
OUTCOME = re.compile(r"^(tests/\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.MULTILINE)


@dataclass
class Tally:
    """What happened so far."""

    runs: int = 0
    ran: Counter[str] = field(default_factory=Counter)  # test -> how often it ran
    skipped: Counter[str] = field(default_factory=Counter)  # test -> how often it did not
    failed: Counter[str] = field(default_factory=Counter)  # test -> how often it failed
    troubles: list[str] = field(default_factory=list)  # leaks, time-outs, crashes of pytest itself

    def report(self, minutes: float, seed: int) -> str:
        lines = [
            f"{self.runs} runs, {self.ran.total()} tests of {len(self.ran)} kinds in {minutes:.1f} minutes, "
            f"seed {seed}: {self.failed.total()} failures, {len(self.troubles)} other troubles"
        ]
        lines += [f"  skipped {count} times: {test}" for test, count in self.skipped.most_common()]
        lines += [f"  failed {count} of {self.ran[test]} times: {test}" for test, count in self.failed.most_common()]
        return "\n".join(lines + [f"  {trouble}" for trouble in self.troubles])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--match", default="", help="pytest's -k: only these tests")
    parser.add_argument("--hosts", action="store_true", help="the tests with several hosts")
    parser.add_argument("--at-most", type=int, help="tests in one run (8, with --hosts 4)")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    at_most = options.at_most or (4 if options.hosts else 8)

    if options.hosts and (reason := why_not()):
        print(f"no hosts can be made here: {reason}")
        return 2
    tests = collect(options.match, options.hosts)
    if not tests:
        print("no process test matches")
        return 2
    kept = Path(mkdtemp(prefix="meshray-stress-"))
    print(f"{len(tests)} process tests for {options.minutes:g} minutes, seed {seed}", flush=True)
    draw, tally, start = random.Random(seed), Tally(), time.monotonic()
    try:
        while time.monotonic() - start < options.minutes * 60:
            chosen = draw.sample(tests, min(len(tests), draw.randint(1, at_most)))
            one_run(chosen, tally, kept, HOSTS_RUN_TIMEOUT_S if options.hosts else RUN_TIMEOUT_S)
            print(f"\r{tally.runs} runs, {tally.ran.total()} tests, {tally.failed.total()} failed", end="", flush=True)
    except KeyboardInterrupt:
        print("\nstopped by hand", end="")
    summary = tally.report((time.monotonic() - start) / 60, seed)
    print(f"\n{summary}")
    if tally.failed or tally.troubles:
        print(f"output of failed runs: {kept}")
        return 1
    kept.rmdir()
    return 0


def collect(match: str, hosts: bool) -> list[str]:
    """The node ids of all process tests, of one host or of several `hosts`."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "processes"]
    done = subprocess.run(
        command + (["-k", match] if match else []), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 5):
        raise SystemExit(done.stdout + done.stderr)
    found = [line for line in done.stdout.splitlines() if line.startswith("tests/") and "::" in line]
    return [line for line in found if line.startswith(HOSTS) == hosts]


def one_run(chosen: list[str], tally: Tally, kept: Path, timeout_s: float) -> None:
    """One pytest process over `chosen`, in that order; counts what happened and cleans up after it."""
    tally.runs += 1
    folder = mkdtemp(prefix="ms")  # short: ipc paths have at most 107 bytes
    before = system()
    environment = {**os.environ, MARK: folder, "TMPDIR": folder}
    log = kept / f"run-{tally.runs}.txt"
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *chosen]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(timeout_s)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            tally.troubles.append(f"run {tally.runs}: no end after {timeout_s:.0f} s: {' '.join(chosen)}")
        finally:
            left = _ended(folder)

    outcomes = set(OUTCOME.findall(log.read_text(errors="replace")))
    skipped = {test for test, outcome in outcomes if outcome == "SKIPPED"}
    tally.skipped.update(skipped)
    tally.ran.update({test for test, _ in outcomes} - skipped)
    bad = {test for test, outcome in outcomes if outcome in {"FAILED", "ERROR", "XPASS"}}
    tally.failed.update(bad)
    if code not in (0, 1, 5) and not bad:
        tally.troubles.append(f"run {tally.runs}: pytest ended with {code}: {' '.join(chosen)}")
    left += [f"folder {name}" for name in _names(Path(folder)) if name.startswith(("mr", "meshray"))]
    left += sorted(system() - before)
    tally.troubles += [f"run {tally.runs} left {what}" for what in left]
    shutil.rmtree(folder, ignore_errors=True)
    if not bad and not left and code in (0, 5):
        log.unlink()


def _ended(mark: str) -> list[str]:
    """Waits for the processes of a run to end; ends and names those that do not."""
    deadline = time.monotonic() + ENDING_S
    while (alive := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)  # between two looks
    left = []
    for process in alive:
        with suppress(psutil.Error):
            left.append(f"process {process.pid}: {' '.join(process.cmdline())[:150]}")
            process.kill()
    return left


def marked(mark: str) -> list[psutil.Process]:
    """What runs with this mark, on whatever host."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def system() -> set[str]:
    """What tests may leave to the machine, one line each; no folder of a peer that lives, it is somebody else's."""
    lines = [f"store folder {name}" for name in _names(STORE_ROOT) if claimed_by(STORE_ROOT / name) is None]
    lines += [f"mount {mount}" for mount in Path("/proc/self/mounts").read_text().splitlines()]
    lines += [f"network interface {name}" for name in _names(Path("/sys/class/net"))]
    return set(lines)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


if __name__ == "__main__":
    sys.exit(main())
