"""Programs that make a function for each item of a loop: workers keep few of them, and run them all."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from meshray import context
from meshray.config import preset
from meshray.core.shipped import FUNCTION_BYTES

TIMEOUT_S = 60
CAPTURED = 20_000
"""Bytes that each closure has captured."""

ROOM = preset("test").functions_max_bytes // (CAPTURED + FUNCTION_BYTES)
"""So many of them has a worker room for, of each submitter."""

CPUS = 3


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch, _leaves_nothing: None) -> Iterator[ModuleType]:
    """A mesh with room for few functions."""
    import meshray

    monkeypatch.setenv("MESHRAY_PRESET", "test")
    meshray.init(num_cpus=CPUS)
    yield meshray
    meshray.shutdown()


def closure(number: int, do: Callable[[], Any] = lambda: None) -> Callable[[], int]:
    """A function like no other, that has captured much, does something and returns its number."""
    captured = number.to_bytes(4, "big") * (CAPTURED // 4)

    def run() -> int:
        do()
        return int.from_bytes(captured[-4:], "big")

    return run


def kept() -> tuple[int, int, int]:
    """A task: its worker, how many functions that has, and its memory in bytes."""
    time.sleep(0.02)  # so that others get some of these
    functions = context.runtime().engine.host.functions  # type: ignore[attr-defined]
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return os.getpid(), len(functions), resident


def workers(ray: ModuleType) -> dict[int, tuple[int, int]]:
    """Of each worker: how many functions it has, and its memory."""
    look = ray.remote(kept)
    found = ray.get([look.remote() for _ in range(10 * CPUS)], timeout=TIMEOUT_S)
    return {pid: (count, resident) for pid, count, resident in found}


def submit(ray: ModuleType, numbers: range) -> list[Any]:
    return [ray.remote(closure(number)).remote() for number in numbers]


def test_workers_keep_few_of_many_closures(ray: ModuleType) -> None:
    assert ray.get(submit(ray, range(500)), timeout=TIMEOUT_S) == list(range(500))
    before = workers(ray)
    assert ray.get(submit(ray, range(2500)), timeout=TIMEOUT_S) == list(range(2500))
    after = workers(ray)
    assert all(0 < count <= ROOM + 1 for count, _ in after.values()), after  # and the one that looks
    grown = [after[pid][1] - before[pid][1] for pid in after if pid in before]
    assert grown
    assert max(grown) < 2500 * CAPTURED / CPUS / 4, f"they grew by {grown}"
    links = context.runtime().engine.submission._links.values()  # type: ignore[attr-defined]
    assert links
    assert all(0 < len(link.shipped) <= ROOM + 1 for link in links)


def test_functions_that_were_forgotten_run_again_also_from_the_queue(ray: ModuleType) -> None:
    functions = [ray.remote(closure(number)) for number in range(4 * ROOM)]
    for times in (1, 5, 30):  # known to be short after the first time: then many are pushed ahead
        refs = [function.remote() for _ in range(times) for function in functions]
        assert ray.get(refs, timeout=TIMEOUT_S) == list(range(4 * ROOM)) * times
    refs = [function.remote() for function in functions for _ in range(30)]
    assert ray.get(refs, timeout=TIMEOUT_S) == [number for number in range(4 * ROOM) for _ in range(30)]
    assert all(count <= ROOM + 1 for count, _ in workers(ray).values())


def test_what_is_tried_again_has_its_function(ray: ModuleType, tmp_path: Path) -> None:
    def fail_twice(number: int) -> Callable[[], None]:
        def do() -> None:
            with open(tmp_path / str(number), "a") as file:
                file.write("x")
            if os.path.getsize(tmp_path / str(number)) < 3:
                raise ValueError

        return do

    functions = [closure(number, fail_twice(number)) for number in range(4 * ROOM)]
    refs = [ray.remote(function).options(retry_exceptions=True).remote() for function in functions]
    assert ray.get(refs, timeout=TIMEOUT_S) == list(range(4 * ROOM))


def test_workers_that_die_are_followed_by_others_that_get_what_they_need(ray: ModuleType, tmp_path: Path) -> None:
    def die_once() -> None:
        try:
            (tmp_path / f"{os.getpid() % 3}").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    functions = [closure(number, die_once) for number in range(4 * ROOM)]
    refs = [ray.remote(function).options(max_retries=-1).remote() for function in functions for _ in range(3)]
    assert ray.get(refs, timeout=TIMEOUT_S) == [number for number in range(4 * ROOM) for _ in range(3)]
    assert list(tmp_path.iterdir())


def test_tasks_that_make_functions(ray: ModuleType) -> None:
    """Each worker has those of several submitters, and forgets what none of them counts on."""
    import meshray

    @meshray.remote(num_cpus=0.5)
    def nested(start: int) -> int:
        refs = [meshray.remote(closure(number)).remote() for number in range(start, start + 5 * ROOM)]
        return int(sum(meshray.get(refs)))

    starts = range(0, 600, 100)
    sums = ray.get([nested.remote(start) for start in starts], timeout=TIMEOUT_S)
    assert sums == [sum(range(start, start + 5 * ROOM)) for start in starts]
    found = workers(ray)
    assert all(count <= ROOM * (len(found) + len(starts)) for count, _ in found.values()), found


def test_an_actor_is_not_concerned(ray: ModuleType) -> None:
    captured = bytes(2 * preset("test").functions_max_bytes)

    class Counter:
        count = 0

        def add(self) -> int:
            self.count += 1
            return self.count * bool(captured == bytes(len(captured)))

    counter = ray.remote(Counter).options(num_cpus=0).remote()
    assert ray.get(counter.add.remote(), timeout=TIMEOUT_S) == 1
    assert ray.get(submit(ray, range(5 * ROOM)), timeout=TIMEOUT_S) == list(range(5 * ROOM))
    assert ray.get(counter.add.remote(), timeout=TIMEOUT_S) == 2


def test_a_function_that_is_larger_than_the_room(ray: ModuleType) -> None:
    def sized(size: int) -> Callable[[], int]:
        captured = bytes(size)
        return lambda: len(captured)

    size = 2 * preset("test").functions_max_bytes
    functions = [ray.remote(sized(size + number)) for number in range(4)]
    refs = [function.remote() for _ in range(10) for function in functions]
    assert ray.get(refs, timeout=TIMEOUT_S) == [size + number for number in range(4)] * 10


@pytest.mark.fault(8)
def test_functions_of_a_submitter_that_was_killed(ray: ModuleType, tmp_path: Path) -> None:
    """Its tasks are adopted with their functions, of which the peer keeps no more for it than it counts on."""
    import meshray

    gate = tmp_path / "gate"

    def wait() -> None:
        while not gate.exists():
            time.sleep(0.005)

    @meshray.remote(num_cpus=0)
    class Submitter:
        def submit(self, count: int) -> tuple[list[Any], int]:
            return [meshray.remote(closure(number, wait)).remote() for number in range(count)], os.getpid()

    submitter = Submitter.remote()
    refs, pid = ray.get(submitter.submit.remote(3 * ROOM), timeout=TIMEOUT_S)
    os.kill(pid, signal.SIGKILL)
    gate.touch()
    assert ray.get(refs, timeout=TIMEOUT_S) == list(range(3 * ROOM))
