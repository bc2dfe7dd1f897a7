"""Which seeds the simulations run: the first ones, or others with `MESHRAY_FIRST_SEED` (`scripts/seeds` sets it)."""

from __future__ import annotations

import os

FIRST = int(os.environ.get("MESHRAY_FIRST_SEED", "0"))


def seeds(start: int, stop: int, step: int = 1) -> range:
    """`range`, moved on by the first seed."""
    return range(FIRST + start, FIRST + stop, step)
