"""`cancel` in all its cases, against completion too."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from meshray.exceptions import TaskCancelledError
from tests.until import until

GET_S = 30.0


def hold(folder: str, name: str) -> str:
    """Say that one runs, and do so for ever."""
    Path(folder, name).touch()
    while True:
        time.sleep(0.005)


def assert_cancelled(ray: ModuleType, ref: Any) -> None:
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=GET_S)


def everything_is_free(ray: ModuleType) -> bool:
    return bool(ray.available_resources() == ray.cluster_resources())


@pytest.mark.fault(59)
def test_a_running_task_gets_a_keyboard_interrupt(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ray = shared_mesh

    @ray.remote
    def run(folder: str) -> None:
        try:
            hold(folder, "runs")
        except KeyboardInterrupt:
            Path(folder, "interrupted").touch()
            raise

    ref = run.remote(str(tmp_path))
    until((tmp_path / "runs").exists, "the task to run")
    ray.cancel(ref)
    assert_cancelled(ray, ref)
    assert (tmp_path / "interrupted").exists()
    ray.cancel(ref)  # once more: no effect
    until(lambda: everything_is_free(ray), "its slot")


@pytest.mark.fault(59)
def test_a_task_may_go_on_after_the_interrupt(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ray = shared_mesh

    @ray.remote
    def run(folder: str) -> str:
        try:
            hold(folder, "runs")
        except KeyboardInterrupt:
            return "went on"
        return "?"

    ref = run.remote(str(tmp_path))
    until((tmp_path / "runs").exists, "the task to run")
    ray.cancel(ref)
    assert ray.get(ref, timeout=GET_S) == "went on"


@pytest.mark.fault(59)
def test_a_task_that_waits_in_get_or_wait(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ray = shared_mesh
    task = ray.remote(hold)

    @ray.remote
    def by_get(box: list[Any], folder: str) -> Any:
        Path(folder, "by_get").touch()
        return ray.get(box[0])

    @ray.remote
    def by_wait(box: list[Any], folder: str) -> Any:
        Path(folder, "by_wait").touch()
        return ray.wait(box)

    held = task.remote(str(tmp_path), "held")
    refs = [by_get.remote([held], str(tmp_path)), by_wait.remote([held], str(tmp_path))]
    until(lambda: len(os.listdir(tmp_path)) == 3, "all to run")
    for ref in [*refs, held]:
        ray.cancel(ref)
        assert_cancelled(ray, ref)


@pytest.mark.fault(59)
def test_force_kills_the_worker(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ray = shared_mesh

    @ray.remote(max_retries=3)
    def stubborn(folder: str) -> None:
        Path(folder, f"runs-{os.getpid()}").touch()
        while True:
            try:
                time.sleep(1)
            except KeyboardInterrupt:
                continue

    ref = stubborn.remote(str(tmp_path))
    until(lambda: bool(os.listdir(tmp_path)), "the task to run")
    pid = int(os.listdir(tmp_path)[0].partition("-")[2])
    ray.cancel(ref, force=True)
    assert_cancelled(ray, ref)
    until(lambda: not Path(f"/proc/{pid}").exists(), "the worker to be gone")
    assert len(os.listdir(tmp_path)) == 1  # a cancelled task is not retried


@pytest.mark.fault(59)
@pytest.mark.parametrize("force", [False, True])
def test_tasks_that_wait_never_run(shared_mesh: ModuleType, tmp_path: Path, force: bool) -> None:
    ray = shared_mesh
    task = ray.remote(hold)

    @ray.remote
    def mark(name: str, _: Any = None) -> None:
        (tmp_path / name).touch()

    holders = [task.remote(str(tmp_path), f"holder{n}") for n in range(2)]
    until(lambda: len(os.listdir(tmp_path)) == 2, "both slots to be taken")
    queued = [mark.remote(f"queued{n}") for n in range(5)]
    waiting = mark.remote("waiting", holders[0])
    at_once = mark.remote("at once")
    ray.cancel(at_once, force=force)
    for ref in [*queued[1:4], waiting]:
        ray.cancel(ref, force=force)
        assert_cancelled(ray, ref)
    assert_cancelled(ray, at_once)
    for ref in holders:
        ray.cancel(ref, force=force)
    ray.get([queued[0], queued[4]], timeout=GET_S)
    left = set(os.listdir(tmp_path)) - {"holder0", "holder1"}
    assert left == {"queued0", "queued4"}
    for ref in holders:
        assert_cancelled(ray, ref)


@pytest.mark.fault(59)
@pytest.mark.parametrize("force", [False, True])
def test_tasks_that_were_pushed_behind_a_running_one(shared_mesh: ModuleType, force: bool) -> None:
    """They are at the worker already, and still never run; those around them do."""
    ray = shared_mesh

    @ray.remote
    def short(n: int) -> int:
        return n

    ray.get([short.remote(n) for n in range(100)], timeout=GET_S)  # known to be short: pushed ahead in batches
    for _ in range(10):
        refs = [short.remote(n) for n in range(200)]
        chosen = random.sample(range(200), 20)
        for n in chosen:
            ray.cancel(refs[n], force=force)
        for n, ref in enumerate(refs):
            try:
                assert ray.get(ref, timeout=GET_S) == n
            except TaskCancelledError:
                assert n in chosen


@pytest.mark.fault(59)
def test_a_finished_task_stays_as_it_is(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def one(fail: bool) -> int:
        if fail:
            raise ValueError("failed")
        return 1

    good, bad = one.remote(False), one.remote(True)
    ray.wait([good, bad], num_returns=2, timeout=GET_S)
    for force in (False, True):
        ray.cancel(good, force=force)
        ray.cancel(bad, force=force)
    put = ray.put(1)
    ray.cancel(put)
    assert ray.get([good, put], timeout=GET_S) == [1, 1]
    with pytest.raises(ValueError, match="failed"):
        ray.get(bad, timeout=GET_S)


@pytest.mark.fault(59)
def test_recursive_or_not(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ray = shared_mesh
    task = ray.remote(num_cpus=0)(hold)

    @ray.remote(num_cpus=0)
    def parent(folder: str, name: str) -> Any:
        child = task.remote(folder, f"{name}-child")
        Path(folder, f"{name}-parent").touch()
        return ray.get(child)

    @ray.remote(num_cpus=0)
    def grandparent(folder: str, name: str) -> Any:
        return ray.get(parent.remote(folder, name))

    def running(name: str) -> list[str]:
        return [each for each in os.listdir(tmp_path) if each.startswith(name)]

    ref = grandparent.remote(str(tmp_path), "all")
    until(lambda: len(running("all")) == 2, "the child to run")
    ray.cancel(ref)
    assert_cancelled(ray, ref)
    until(lambda: everything_is_free(ray), "the whole family to be gone")

    @ray.remote(num_cpus=0)
    def beat(folder: str) -> None:
        for n in range(100_000):
            Path(folder, "beat").write_text(str(n))
            time.sleep(0.005)

    @ray.remote(num_cpus=0)
    def of_beat(folder: str) -> Any:
        box = [beat.remote(folder)]
        ray.get(kept.keep.remote(box))
        return ray.get(box[0])

    @ray.remote(num_cpus=0)
    class Keeper:
        def keep(self, box: list[Any]) -> None:
            self.box = box

        def give(self) -> list[Any]:
            return list(self.box)

    kept = Keeper.remote()
    ref = of_beat.remote(str(tmp_path))
    until((tmp_path / "beat").exists, "the child to run")
    ray.cancel(ref, recursive=False)
    assert_cancelled(ray, ref)
    seen = (tmp_path / "beat").read_text()
    until(lambda: (tmp_path / "beat").read_text() not in (seen, ""), "the child to go on")


@pytest.mark.fault(59)
def test_cancel_against_completion(shared_mesh: ModuleType) -> None:
    """Whoever is first: each reference has a value or the error, and the worker goes on."""
    ray = shared_mesh

    @ray.remote
    def brief(n: int) -> int:
        end = time.perf_counter() + 0.02  # long enough for a cancel to be noticed while it runs
        while time.perf_counter() < end:
            pass
        return n

    outcomes = set()
    pause_s = 0.04
    for n in range(100):
        ref = brief.remote(n)
        end = time.perf_counter() + random.random() * pause_s
        while time.perf_counter() < end:
            pass
        ray.cancel(ref)
        try:
            assert ray.get(ref, timeout=GET_S) == n
            outcomes.add("value")
            pause_s *= 0.8  # stay where both are possible, however slow the machine is
        except TaskCancelledError:
            outcomes.add("cancelled")
            pause_s *= 1.25
    assert ray.get([brief.remote(n) for n in range(20)], timeout=GET_S) == list(range(20))
    assert outcomes == {"value", "cancelled"}


def test_cancel_of_a_borrowed_reference_has_no_effect_on_others(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ray = shared_mesh

    @ray.remote
    def quick() -> int:
        return 1

    @ray.remote
    def canceller(box: list[Any]) -> int:
        ray.cancel(box[0])
        return int(ray.get(box[0]))

    assert ray.get(canceller.remote([quick.remote()]), timeout=GET_S) == 1
