"""Who is next."""

from __future__ import annotations

from meshray.core.demands import Demands, Wanted
from meshray.wire.messages import Profile


def add(demands: Demands, job: str, number: int, depth: int = 0, count: int = 1) -> Wanted:
    wanted = Wanted((job.encode(), number), job.encode(), {}, Profile(), depth, f"{job}{number}", count=count)
    demands.add(wanted)
    return wanted


def order(demands: Demands) -> list[str]:
    return [wanted.name for wanted in demands.waiting()]


def test_jobs_take_turns_and_the_last_served_comes_last() -> None:
    demands = Demands()
    a1 = add(demands, "a", 1)
    add(demands, "a", 2)
    b1 = add(demands, "b", 1)
    assert order(demands) == ["a1", "b1", "a2"]
    demands.served(a1, 0.0)
    assert order(demands) == ["b1", "a2", "a1"]
    demands.served(b1, 0.0)
    assert order(demands) == ["a2", "b1", "a1"]


def test_the_deepest_first_within_a_job_only() -> None:
    demands = Demands()
    add(demands, "a", 1)
    add(demands, "a", 2, depth=3)
    add(demands, "b", 1, depth=9)
    assert order(demands) == ["a2", "b1", "a1"]


def test_who_has_all_it_wants_does_not_wait() -> None:
    demands = Demands()
    wanted = add(demands, "a", 1)
    wanted.grants.add(1)
    assert order(demands) == []
    wanted.count = 0
    demands.discard_if_empty(wanted)
    assert len(demands) == 1
    wanted.grants.clear()
    demands.discard_if_empty(wanted)
    assert len(demands) == 0
