"""Large numbers: queued tasks, arguments, returns, actors, levels, gigabytes."""

from __future__ import annotations

import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from bench.limits import GROWTH_STEP_BYTES, room_for_growth, write_fresh
from bench.timing import Figure, Pace, seconds, summary

if TYPE_CHECKING:
    from bench.child import Report


def measure(group: str, report: Report, subject: str, pace: Pace) -> None:
    ray = importlib.import_module(subject)
    {"growth": growth, "scale": scale, "million": million, "second driver": second_driver}[group](ray, report, pace)


# -- gigabytes ---------------------------------------------------------------------------------------------------------


def growth(ray: Any, report: Report, pace: Pace) -> None:
    target = room_for_growth(pace)
    ray.init(object_store_memory=max(2_000_000_000, int(target * 1.3)))

    def live_set() -> Figure:
        # The host of a virtual machine gives pages slowly that the machine did not have lately (a fifth of the speed
        # was seen here, with bare `pwrite`, too): so they are asked for before, for every subject alike.
        write_fresh(target, GROWTH_STEP_BYTES)
        array = np.ones(GROWTH_STEP_BYTES // 8, dtype=np.int64)
        kept: list[Any] = []

        def put_all() -> None:
            kept.extend(ray.put(array) for _ in range(target // GROWTH_STEP_BYTES))

        figure = target / 1e9 / seconds(put_all)
        return Figure(figure, figure, figure, f"{target / 1e9:g} GB in steps of 100 MB, all kept")

    def get_large() -> Figure:
        ref = ray.put(np.ones(1_000_000_000 // 8, dtype=np.int64))

        @ray.remote
        def get_there(refs: list[Any]) -> float:
            start = time.perf_counter()
            ray.get(refs[0])
            return time.perf_counter() - start

        here = []
        for _ in range(20):
            start = time.perf_counter()
            value = ray.get(ref)
            here.append((time.perf_counter() - start) * 1e3)
            if value.flags.writeable:
                raise AssertionError("the array is writable, so it is a copy")
            del value
        there = statistics.median(ray.get([get_there.remote([ref]) for _ in range(5)])) * 1e3
        return summary(here, f"first {here[0]:.2f} ms; {there:.2f} ms in a task")

    report.row("put, live set growing to 4 GB", live_set)
    gc.collect()
    report.row("get of a 1 GB array", get_large)
    ray.shutdown()


# -- many of a thing ---------------------------------------------------------------------------------------------------


def scale(ray: Any, report: Report, pace: Pace) -> None:
    ray.init()

    @ray.remote
    def started_at() -> float:
        return time.monotonic()

    @ray.remote
    def count(*arguments: object) -> int:
        return len(arguments)

    @ray.remote(num_returns=3000)
    def many_values() -> list[int]:
        return list(range(3000))

    @ray.remote
    def small_value() -> bytes:
        return b"ok"

    class Actor:
        def small_value(self) -> bytes:
            return b"ok"

    @ray.remote
    def nest(depth: int) -> int:
        return 1 + ray.get(nest.remote(depth - 1)) if depth else 0

    def while_computing() -> Figure:
        ray.get(small_value.remote())
        delays = []
        for _ in range(10 * pace.repeats):
            submitted = time.monotonic()
            ref = started_at.remote()
            while time.monotonic() < submitted + 0.05:
                sum(range(100))  # the caller computes, in Python, and calls nothing of the mesh
            delays.append((ray.get(ref) - submitted) * 1e3)
        return summary(delays)

    def many_arguments() -> Figure:
        refs = [ray.put(number) for number in range(10_000)]
        return repeated(lambda: expect(ray.get(count.remote(*refs)), 10_000), pace)

    def many_returns() -> Figure:
        return repeated(lambda: expect(ray.get(many_values.remote())[-1], 2999), pace)

    def many_in_one_get() -> Figure:
        refs = [small_value.remote() for _ in range(10_000)]
        ray.get(refs)
        return repeated(lambda: expect(len(ray.get(refs)), 10_000), pace)

    def many_actors() -> Figure:
        actor_class = ray.remote(num_cpus=0)(Actor)

        def start_all() -> None:
            actors = [actor_class.remote() for _ in range(100)]
            ray.get([actor.small_value.remote() for actor in actors])

        time_s = seconds(start_all)
        return Figure(time_s, time_s, time_s, "until each has answered")

    def nested() -> Figure:
        time_s = seconds(lambda: expect(ray.get(nest.remote(200)), 200))
        return Figure(time_s, time_s, time_s)

    report.row("submit to start while the caller computes", while_computing)
    report.row("10,000 refs as arguments of one task", many_arguments)
    report.row("3,000 returns of one task", many_returns)
    report.row("10,000 refs in one get", many_in_one_get)
    report.row("100 actors started", many_actors)
    report.row("nesting 200 deep", nested)
    ray.shutdown()


def repeated(call: Any, pace: Pace) -> Figure:
    """Milliseconds of one call; the first is not counted."""
    call()
    return summary([seconds(call) * 1e3 for _ in range(max(3, pace.repeats))])


def expect(value: object, wanted: object) -> None:
    if value != wanted:
        raise AssertionError(f"{value!r} instead of {wanted!r}")


# -- a million tasks ---------------------------------------------------------------------------------------------------


def million(ray: Any, report: Report, pace: Pace) -> None:
    rate_row, memory_row = "1,000,000 queued tasks", "1,000,000 queued tasks, memory of the driver for each"
    if not (report.wants(rate_row) or report.wants(memory_row)):
        return
    ray.init()
    small_value = ray.remote(_small_value)
    ray.get([small_value.remote() for _ in range(1000)])
    tasks = int(1_000_000 * pace.scale)

    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    refs = [small_value.remote() for _ in range(tasks)]
    submitted = time.perf_counter()
    ray.get(refs)
    end = time.perf_counter()
    per_task = (_peak_bytes() - before) / tasks / 1000
    rate = tasks / (end - start)

    submit_rate = tasks / (submitted - start)
    rate_note = f"{tasks:,} tasks, submitted at {submit_rate:,.0f}/s"
    report.row(rate_row, lambda: Figure(rate, rate, rate, rate_note))
    report.row(memory_row, lambda: Figure(per_task, per_task, per_task, "at the peak, references and results included"))
    del refs
    ray.shutdown()


def _small_value() -> bytes:
    return b"ok"


def _hold(gate: str) -> None:
    while not os.path.exists(gate):
        time.sleep(0.001)


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def second_driver(ray: Any, report: Report, pace: Pace) -> None:
    """A peer started by hand, this driver with a full queue, and another program that wants one task."""
    row = "first task of a second driver beside them"

    def measured() -> Figure:
        command = Path(sys.executable).with_name("meshray")
        subprocess.run([command, "start", "--num-cpus", str(os.cpu_count())], check=True, stdout=subprocess.DEVNULL)
        try:
            return _beside_a_full_queue(ray, pace)
        finally:
            ray.shutdown()
            subprocess.run([command, "stop"], check=True, stdout=subprocess.DEVNULL)

    report.row(row, measured)


def _beside_a_full_queue(ray: Any, pace: Pace) -> Figure:
    ray.init()
    small_value = ray.remote(_small_value)
    other = subprocess.Popen(
        [sys.executable, "-m", "bench.scale"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None
    assert other.stdout is not None
    with other.stdin, other.stdout:
        other.stdout.readline()  # it is attached
        with TemporaryDirectory() as folder:
            gate = os.path.join(folder, "gate")
            hold = ray.remote(_hold)
            holders = [hold.remote(gate) for _ in range(os.cpu_count() or 1)]  # else they are done while we submit
            refs = [small_value.remote() for _ in range(int(1_000_000 * pace.scale))]
            Path(gate).touch()
            ray.get(holders)
        other.stdin.write("go\n")
        other.stdin.flush()
        delay = float(json.loads(other.stdout.readline()))
        _, waiting = ray.wait(refs[-1:], timeout=0)
    other.wait()
    if not waiting:
        raise AssertionError("the queue was empty before the second driver's task began: this shows nothing")
    return Figure(delay, delay, delay)


def be_the_second_driver() -> None:
    """Attaches, says so, waits for a line, and prints how long one task took from its submission to its start."""
    import meshray

    meshray.init()
    print("attached", flush=True)
    sys.stdin.readline()
    begin = time.monotonic()
    print(json.dumps(meshray.get(meshray.remote(time.monotonic).remote()) - begin), flush=True)
    meshray.shutdown()


if __name__ == "__main__":
    be_the_second_driver()
