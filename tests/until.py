"""Waiting in tests: for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

STEP_S = 0.01
DEADLINE_S = 30.0


def until(condition: Callable[[], object], what: str = "what should happen", deadline_s: float = DEADLINE_S) -> None:
    """Returns once `condition()` is true. Raises `AssertionError` with `what` is missing after `deadline_s`."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"waited {deadline_s:g} s in vain: {what}"
        time.sleep(STEP_S)  # between two looks at a condition, not instead of one
