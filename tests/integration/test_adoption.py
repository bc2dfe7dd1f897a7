"""A worker submits tasks, gives their references away and is killed: the references keep their promise."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.until import until

TIMEOUT_S = 30
LARGE = 200_000  # bytes; beyond what travels inline


def lines(log: Path) -> list[str]:
    return sorted(log.read_text().split()) if log.exists() else []


def hold(log: Path, gate: Path, value: Any) -> Any:
    """A task: it says that it began, and returns once the gate is there."""
    with log.open("a") as file:
        file.write(f"{value}\n")
    while not gate.exists():
        time.sleep(0.005)
    return value


def stands_still(pid: int) -> bool:
    """Whether every thread of a process was stopped: the signal is taken by one, which stops the others."""
    tasks = Path(f"/proc/{pid}/task")
    return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks.iterdir())


class Submitter:
    """Submits, and gives the references away."""

    def __init__(self, mesh: ModuleType) -> None:
        self.hold = mesh.remote(hold).options(max_retries=0)

    def submit(self, log: Path, gate: Path, count: int) -> tuple[list[Any], int]:
        return [self.hold.remote(log, gate, number) for number in range(count)], os.getpid()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def submit_in_task(mesh: ModuleType, log: Path, gate: Path, count: int) -> tuple[list[Any], int]:
    def parent() -> tuple[list[Any], int]:
        return Submitter(mesh).submit(log, gate, count)

    found: tuple[list[Any], int] = mesh.get(mesh.remote(parent).remote(), timeout=TIMEOUT_S)
    return found


def submit_in_actor(mesh: ModuleType, log: Path, gate: Path, count: int) -> tuple[list[Any], int]:
    actor = mesh.remote(Submitter).remote(mesh)
    found: tuple[list[Any], int] = mesh.get(actor.submit.remote(log, gate, count), timeout=TIMEOUT_S)
    KEPT.append(actor)
    return found


KEPT: list[Any] = []  # handles of actors that a test must not end by losing them
SUBMITTERS = pytest.mark.parametrize("submit", [submit_in_task, submit_in_actor])


@pytest.fixture(autouse=True)
def _let_go() -> Any:
    yield
    KEPT.clear()


@pytest.mark.fault(8, 9)
@SUBMITTERS
def test_queued_and_running_tasks_outlive_their_submitter(
    shared_mesh: ModuleType, log: Path, gate: Path, submit: Callable[..., tuple[list[Any], int]]
) -> None:
    refs, pid = submit(shared_mesh, log, gate, 6)
    until(lambda: len(lines(log)) >= 1, "a task runs")
    os.kill(pid, signal.SIGKILL)
    gate.touch()
    assert shared_mesh.get(refs, timeout=TIMEOUT_S) == list(range(6))
    assert lines(log) == [str(number) for number in range(6)], "each ran once: max_retries is 0"


@pytest.mark.fault(8)
@SUBMITTERS
def test_finished_tasks_outlive_their_submitter(
    shared_mesh: ModuleType, log: Path, gate: Path, submit: Callable[..., tuple[list[Any], int]]
) -> None:
    gate.touch()
    refs, pid = submit(shared_mesh, log, gate, 4)
    until(lambda: len(lines(log)) == 4, "all tasks ran")
    assert shared_mesh.wait(refs, num_returns=4, timeout=TIMEOUT_S)[1] == []
    os.kill(pid, signal.SIGKILL)
    assert shared_mesh.get(refs, timeout=TIMEOUT_S) == list(range(4))
    assert len(lines(log)) == 4


@pytest.mark.fault(8)
def test_tasks_that_end_as_their_submitter_dies(shared_mesh: ModuleType, log: Path, gate: Path) -> None:
    gate.touch()
    refs, pid = submit_in_task(shared_mesh, log, gate, 40)
    os.kill(pid, signal.SIGKILL)
    for number, ref in enumerate(refs):
        try:
            assert shared_mesh.get(ref, timeout=TIMEOUT_S) == number
        except shared_mesh.exceptions.WorkerCrashedError:
            assert str(number) in lines(log), "a task that never began failed"
    assert len(lines(log)) == len(set(lines(log))), "one ran twice: max_retries is 0"


@pytest.mark.fault(8)
def test_what_an_adopted_task_needs_is_kept(shared_mesh: ModuleType, log: Path, gate: Path) -> None:
    mesh = shared_mesh

    def make(number: int) -> np.ndarray[Any, Any]:
        hold(log, gate, f"make{number}")
        return np.full(LARGE, number, dtype=np.uint8)

    def add(a: Any, b: Any, inside: list[Any], c: Any = 0) -> int:
        return int(a.sum()) + int(b.sum()) + sum(mesh.get(inside, timeout=TIMEOUT_S)) + int(c)

    def parent() -> tuple[Any, int]:
        made = mesh.remote(make).remote(1)
        put = mesh.put(np.full(LARGE, 2, dtype=np.uint8))
        small = mesh.put(5)
        bulky = np.full(LARGE, 3, dtype=np.uint8)
        total = mesh.remote(add).remote(made, put, [small], c=mesh.remote(lambda x: x.sum()).remote(bulky))
        return [total], os.getpid()

    refs, pid = mesh.get(mesh.remote(parent).remote(), timeout=TIMEOUT_S)
    until(lambda: len(lines(log)) == 1, "the first task runs")
    os.kill(pid, signal.SIGKILL)
    gate.touch()
    assert mesh.get(refs[0], timeout=TIMEOUT_S) == LARGE * (1 + 2 + 3) + 5


@pytest.mark.fault(8)
def test_references_inside_an_orphans_result(shared_mesh: ModuleType, log: Path, gate: Path) -> None:
    mesh = shared_mesh

    def child() -> tuple[list[Any], int]:
        hold(log, gate, "child")
        return [mesh.put("inside"), mesh.remote(lambda: "nested").remote()], os.getpid()

    def parent() -> tuple[list[Any], int]:
        return [mesh.remote(child).remote()], os.getpid()

    (ref,), pid = mesh.get(mesh.remote(parent).remote(), timeout=TIMEOUT_S)
    until(lambda: len(lines(log)) == 1, "the child runs")
    os.kill(pid, signal.SIGKILL)
    gate.touch()
    inside, _ = mesh.get(ref, timeout=TIMEOUT_S)
    assert mesh.get(inside, timeout=TIMEOUT_S) == ["inside", "nested"]


@pytest.mark.fault(1, 8)
@pytest.mark.parametrize("retries", [0, 1])
def test_an_orphan_whose_worker_dies_too_is_charged(
    shared_mesh: ModuleType, log: Path, gate: Path, retries: int
) -> None:
    mesh = shared_mesh

    def child() -> int:
        first = not lines(log)
        hold(log, gate, os.getpid())
        if first:
            os.kill(os.getpid(), signal.SIGKILL)
        return 1

    def parent() -> tuple[list[Any], int]:
        return [mesh.remote(child).options(max_retries=retries).remote()], os.getpid()

    (ref,), pid = mesh.get(mesh.remote(parent).remote(), timeout=TIMEOUT_S)
    until(lambda: len(lines(log)) == 1, "the child runs")
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists(), "the submitter is gone")
    gate.touch()
    if retries:
        assert mesh.get(ref, timeout=TIMEOUT_S) == 1
        assert len(lines(log)) == 2
    else:
        with pytest.raises(mesh.exceptions.WorkerCrashedError):
            mesh.get(ref, timeout=TIMEOUT_S)
        assert len(lines(log)) == 1


@pytest.mark.fault(8)
def test_an_exception_of_an_adopted_task_arrives_and_is_retried(shared_mesh: ModuleType, log: Path, gate: Path) -> None:
    mesh = shared_mesh

    def child() -> int:
        hold(log, gate, os.getpid())
        if len(lines(log)) < 2:
            raise ValueError("the first time")
        return 7

    def parent() -> tuple[list[Any], int]:
        task = mesh.remote(child)
        retried = task.options(retry_exceptions=[ValueError], max_retries=2)
        return [retried.remote()], os.getpid()

    (ref,), pid = mesh.get(mesh.remote(parent).remote(), timeout=TIMEOUT_S)
    until(lambda: len(lines(log)) == 1, "the child runs")
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists(), "the submitter is gone")
    gate.touch()
    assert mesh.get(ref, timeout=TIMEOUT_S) == 7


@pytest.mark.fault(8)
def test_what_nobody_holds_is_cancelled(shared_mesh: ModuleType, log: Path, gate: Path) -> None:
    mesh = shared_mesh

    def parent() -> int:
        kept = [mesh.remote(hold).remote(log, gate, number) for number in range(3)]
        KEPT.append(kept)  # in the worker: it lives as long as that
        return os.getpid()

    pid = mesh.get(mesh.remote(parent).remote(), timeout=TIMEOUT_S)
    until(lambda: len(lines(log)) >= 1, "a task runs")
    os.kill(pid, signal.SIGKILL)
    until(lambda: mesh.available_resources().get("CPU") == 2, "the slots are free again")
    ran = lines(log)
    gate.touch()
    assert mesh.get(mesh.remote(lambda: 1).remote(), timeout=TIMEOUT_S) == 1
    assert lines(log) == ran


@pytest.mark.fault(8, 10)
def test_an_executor_that_is_stopped_keeps_the_others_waiting_for_a_while_only(
    shared_mesh: ModuleType, log: Path, gate: Path
) -> None:
    """It may have begun any of them, so each is charged one attempt. What it says when it goes on comes too late."""

    def pids(log: Path, gate: Path, value: int) -> int:
        hold(log, gate, f"{value}:{os.getpid()}")
        return value

    def parent(count: int) -> tuple[list[Any], int]:
        return [shared_mesh.remote(pids).remote(log, gate, number) for number in range(count)], os.getpid()

    refs, submitter = shared_mesh.get(shared_mesh.remote(parent).remote(6), timeout=TIMEOUT_S)
    until(lambda: len(lines(log)) == 2, "two of them to begin")
    stopped = int(lines(log)[0].partition(":")[2])
    os.kill(stopped, signal.SIGSTOP)
    until(lambda: stands_still(stopped), "all of its threads to stop: one of them could still answer")
    try:
        os.kill(submitter, signal.SIGKILL)
        gate.touch()
        assert shared_mesh.get(refs, timeout=TIMEOUT_S) == list(range(6))
    finally:
        os.kill(stopped, signal.SIGCONT)
    begun = [int(line.partition(":")[0]) for line in lines(log)]
    assert max(map(begun.count, range(6))) == 2, "what the stopped one had begun, and nothing else"
    assert len(begun) == 7
    assert shared_mesh.get(refs, timeout=TIMEOUT_S) == list(range(6))
