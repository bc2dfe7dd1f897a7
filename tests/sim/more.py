"""The simulations with seeds that no test run has seen, for as long as told.

    scripts/seeds --minutes 30 --from 1000
    scripts/seeds --minutes 5 tests/sim/test_wills.py -k heir      the rest goes to pytest

Each round runs all seeded tests of the simulations with seeds a thousand further than the round before. What fails is
shown as pytest shows it, with the first seed of its round; the rounds go on, and the exit code is bad in the end.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
STEP = 1000  # more than any simulation runs of seeds in one round
PASSED = re.compile(r"(\d+) passed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="no new round begins after these")
    parser.add_argument("--from", type=int, default=STEP, dest="first", metavar="SEED", help="the first seed; above 0")
    options, rest = parser.parse_known_args()
    if options.first <= 0:
        parser.error("--from: the seeds from 0 on are those of scripts/test; give a number above 0")
    chosen = rest if any(word.startswith("tests") for word in rest) else ["tests/sim", *rest]

    start, rounds, bad, passed, first = time.monotonic(), 0, [], 0, options.first
    while not rounds or time.monotonic() - start < options.minutes * 60:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen],
            cwd=ROOT,
            env={**os.environ, "MESHRAY_FIRST_SEED": str(first)},
            capture_output=True,
            text=True,
            check=False,
        )
        rounds += 1
        counted = PASSED.search(done.stdout)
        passed += int(counted[1]) if counted else 0
        if done.returncode:
            bad.append(first)
            print(f"from seed {first}:\n{done.stdout}{done.stderr}", flush=True)
        print(f"{rounds} rounds, {passed} tests passed, {len(bad)} rounds failed", flush=True)
        first += STEP
    minutes = (time.monotonic() - start) / 60
    print(f"seeds from {options.first} to {first - 1} in {minutes:.1f} minutes: rounds that failed: {bad or 'none'}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
