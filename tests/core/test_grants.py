"""The book of grants: what each holds, while its worker runs, waits, wakes, and when it ends."""

from __future__ import annotations

import pytest

from meshray.core.demands import ACTOR_DEPTH, Wanted
from meshray.core.grants import Grant, Grants
from meshray.resources import to_amounts
from meshray.wire.messages import Profile


def made(grants: Grants, worker: bytes = b"w", **request: float) -> Grant:
    """One more grant, with a worker."""
    wanted = Wanted((b"s", 1), b"j", dict(to_amounts(request)), Profile(), 0, "f")
    grants.make(wanted, 0.0)
    (grant,) = grants.of(wanted)
    if worker:
        grants.assign(grant, worker, 1.0)
    grants.check()
    return grant


def free(grants: Grants) -> float:
    return grants.slots.free()["CPU"] / 10_000


def test_it_awaits_a_worker_and_its_time_begins_with_that() -> None:
    grants = Grants(to_amounts({"CPU": 2}))
    first, second = made(grants, b"", CPU=1), made(grants, b"", CPU=1)
    assert list(grants.awaiting.values()) == [first, second]
    assert free(grants) == 0
    grants.assign(first, b"w", 7.0)
    grants.check()
    assert list(grants.awaiting.values()) == [second]
    assert (first.worker, first.granted_at) == (b"w", 7.0)


@pytest.mark.parametrize("worker", [b"", b"w"])
def test_its_slots_are_free_when_it_ends_and_its_number_is_not_used_again(worker: bytes) -> None:
    grants = Grants(to_amounts({"CPU": 1, "GPU": 1}))
    first = made(grants, worker, CPU=1, GPU=1)
    grants.end(first)
    grants.check()
    assert not first.wanted.grants
    assert len(grants) == len(grants.awaiting) == 0
    second = made(grants, CPU=1, GPU=1)
    assert (second.gpu_ids, second.id) == ((0,), first.id + 1)
    assert grants.get(first.id) is None


def test_its_cpu_is_lent_once_and_comes_back_as_a_debt() -> None:
    grants = Grants(to_amounts({"CPU": 1}))
    first = made(grants, CPU=1)
    assert grants.block(first)
    assert not grants.block(first)
    second = made(grants, CPU=1)
    grants.wake(first)
    grants.check()
    assert grants.slots.debt == 10_000
    grants.wake(first)  # it has nothing to take back any more
    grants.end(second)
    grants.check()
    assert (grants.slots.debt, free(grants)) == (0, 0)


def test_one_that_ends_while_its_cpu_is_lent_gives_the_rest() -> None:
    grants = Grants(to_amounts({"CPU": 1, "disk": 1}))
    first = made(grants, CPU=1, disk=1)
    grants.block(first)
    grants.end(first)
    grants.check()
    assert not any(grants.slots.used.values())


def test_without_a_cpu_there_is_nothing_to_lend() -> None:
    grants = Grants(to_amounts({"CPU": 1, "disk": 1}))
    assert not grants.block(made(grants, disk=1))


@pytest.mark.parametrize("blocked", [False, True])
def test_a_placed_actor_keeps_its_devices_and_what_it_needs(blocked: bool) -> None:
    grants = Grants(to_amounts({"CPU": 2, "GPU": 1}))
    grant = made(grants, CPU=2, GPU=1)
    grant.wanted.depth = ACTOR_DEPTH
    if blocked:
        grants.block(grant)
    grants.shrink(grant, to_amounts({"CPU": 0.5}))
    grants.check()
    assert grant.amounts == to_amounts({"CPU": 0.5, "GPU": 1})
    grants.wake(grant)
    grants.check()
    assert free(grants) == 1.5
    grants.end(grant)
    grants.check()
    assert not any(grants.slots.used.values())
