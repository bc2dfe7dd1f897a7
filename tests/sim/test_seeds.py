"""Later seeds (`scripts/seeds`) are other seeds, and all of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_with_another_first_seed_only_seeded_tests_run_and_all_of_their_seeds_are_new() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests/sim"]
    environment = {**os.environ, "MESHRAY_FIRST_SEED": "50000"}
    done = subprocess.run(
        [*command, "-k", "wills or heirs"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    names = [line for line in done.stdout.splitlines() if line.startswith("tests/")]
    seeds = [int(found[1]) for name in names if (found := re.search(r"\[(\d+)\]", name)) and "test_wills" in name]
    assert len(seeds) >= 100
    assert min(seeds) == 50000
    assert not any("seeds_that_have_failed" in name for name in names)
    assert any("test_heirs" in name for name in names)  # in blocks: what they run is moved, not their number
