"""May we start another worker?"""

from __future__ import annotations

from meshray.config import DEFAULT
from meshray.core.startup import PAUSE_MAX_S, CrashBudget


def test_a_few_crashes_are_forgiven() -> None:
    budget = CrashBudget(DEFAULT)
    for crash in range(DEFAULT.start_crashes_max - 1):
        budget.on_crash("bad luck", crash)
    assert not budget.exhausted
    budget.on_crash("bad luck", 2 * DEFAULT.start_crashes_window_s)  # the others are long ago
    assert not budget.exhausted


def test_pauses_grow_up_to_a_bound_and_end_with_a_success() -> None:
    budget = CrashBudget(DEFAULT)
    now, pauses = 0.0, []
    for _ in range(DEFAULT.start_crashes_max + 8):
        budget.on_crash("ImportError: zmq", now)
        if budget.exhausted:
            pauses.append(budget.paused_until - now)
            now = budget.paused_until
            budget.on_time(now)
            assert not budget.resumes
    assert pauses[:3] == [1, 2, 4]
    assert max(pauses) <= PAUSE_MAX_S
    assert "ImportError: zmq" in budget.report()
    told = budget.report()
    budget.on_crash("Segmentation fault", now)
    assert budget.report() == told, "a text that changes is told again"
    budget.on_success()
    assert not budget.exhausted
