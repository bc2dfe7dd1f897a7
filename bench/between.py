"""The program that measures rows between hosts: a driver on the host `near`, which has no CPUs, so all runs elsewhere.

Run by `bench.lan` on that host, as `python -m bench.between --subject ... --group ... --rows ... --out ...`. Beside the
groups of the plan it has `hold`, which submits a task that marks each of its executions and never ends.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import mmap
import os
import socket
import statistics
import time
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import curve, plan
from bench.child import Report
from bench.pingpong import CALLS, block
from bench.timing import FULL, QUICK, Figure, Pace, rate, summary
from tests.until import until

PATIENCE_S = 60.0
"""A call that takes longer is an error of its row: sooner than the director loses patience."""

FAN_OUT_PATIENCE_S = 240.0
"""The same for one array to many hosts: where all have it of the same one, five of them take a minute."""

BATCH = 1000  # as in `ray microbenchmark`
FETCHED_BYTES = 1_000_000_000
KEPT = 2  # arrays that lie on the host at a time, where the store gives no memory back
FAN_OUT_BYTES = 256_000_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--subject", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--rows", default="[]", help="JSON list of names")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--address", default="auto", help="of the mesh")
    parser.add_argument("--echo", default="", help="address of `bench.curve`, and its public key")
    parser.add_argument("--hosts", type=int, default=1, help="how many there are beside this one")
    options = parser.parse_args()
    faulthandler.enable()
    pace = QUICK if options.quick else FULL
    ray = importlib.import_module(options.subject)
    ray.init(options.address)
    if options.group == "hold":
        hold(ray, options.out)
        return
    report = Report(options.out, json.loads(options.rows))
    if options.group == plan.CALLS_BETWEEN:
        address, public = options.echo.split(",")
        calls(ray, report, pace, address, public.encode())
    elif options.group == plan.FETCHES:
        address, public = options.echo.split(",")
        fetches(ray, report, pace, address, public.encode())
    else:
        fan_out(ray, report, pace, options.hosts)
    ray.shutdown()


def calls(ray: Any, report: Report, pace: Pace, echo: str, public: bytes) -> None:
    @ray.remote
    def small_value() -> bytes:
        return b"ok"

    class Actor:
        def small_value(self) -> bytes:
            return b"ok"

    def get(refs: Any) -> Any:
        return ray.get(refs, timeout=PATIENCE_S)

    def actor() -> Any:
        made = ray.remote(Actor).remote()
        get(made.small_value.remote())
        return made

    def task_added() -> Figure:
        return alternate(lambda: get(small_value.remote()), echo, public, pace)

    def call_added() -> Figure:
        method = actor().small_value
        return alternate(lambda: get(method.remote()), echo, public, pace)

    def calls_sync() -> Figure:
        method = actor().small_value
        return rate(lambda: get(method.remote()), 1, pace)

    def calls_async() -> Figure:
        method = actor().small_value
        return rate(lambda: get([method.remote() for _ in range(BATCH)]), BATCH, pace)

    report.row(plan.TASK_ADDED, task_added)
    report.row(plan.TASKS_SYNC, lambda: rate(lambda: get(small_value.remote()), 1, pace))
    report.row(
        plan.TASKS_ASYNC_BETWEEN, lambda: rate(lambda: get([small_value.remote() for _ in range(BATCH)]), BATCH, pace)
    )
    report.row(plan.CALL_ADDED, call_added)
    report.row(plan.CALLS_SYNC, calls_sync)
    report.row(plan.CALLS_ASYNC, calls_async)


def alternate(call: Callable[[], object], echo: str, public: bytes, pace: Pace) -> Figure:
    """Microseconds that `call` takes beyond a raw round trip between the same two hosts, in alternating blocks: the
    median, and the quartiles."""
    raw, ours = [], []
    with curve.connected(echo, public) as caller:
        block(call)  # its worker is up
        for _ in range(pace.blocks):
            raw.append(block(lambda: curve.round_trip(caller)))
            ours.append(block(call))
    added = summary([mine - bare for mine, bare in zip(ours, raw, strict=True)])
    text = f"{statistics.median(ours):.0f} against {statistics.median(raw):.0f} µs, {pace.blocks} blocks of {CALLS}"
    return Figure(added.value, added.low, added.high, text)


def fetches(ray: Any, report: Report, pace: Pace, echo: str, public: bytes) -> None:
    size = int(FETCHED_BYTES * pace.scale)

    @ray.remote
    def make(value: int) -> Any:
        return np.full(size // 8, value)

    def made(value: int) -> Any:
        """An array of the other host, of which nothing is here."""
        ref = make.remote(value)
        ready, _ = ray.wait([ref], timeout=PATIENCE_S, fetch_local=False)
        if not ready:
            raise TimeoutError("the array was not made in time")
        return ref

    def fetch(ref: Any, value: int) -> float:
        start = time.perf_counter()
        array = ray.get(ref, timeout=PATIENCE_S)
        took = time.perf_counter() - start
        if array.nbytes != size // 8 * 8 or array[0] != value or array[-1] != value:
            raise AssertionError("what was fetched is not what was made")
        return size / 1e9 / took

    def made_and_fetched(value: int) -> float:
        return fetch(made(value), value)

    gives_back = ray.__name__ == "meshray"  # memory of its store that rests, so that nothing need be kept
    free_at_first = free_shared_memory()
    kept = []

    def fetched_fresh(value: int) -> float:
        ref = made(value)
        if gives_back:
            until(lambda: free_shared_memory() > free_at_first - size // 2, "the last copy has gone", PATIENCE_S)
        else:
            kept.append(ref)
        touch(size)
        return fetch(ref, value)

    @cache
    def fresh() -> InTurn:
        return in_turn([partial(fetched_fresh, number) for number in range(pace.repeats if gives_back else KEPT)])

    @cache
    def recycled() -> InTurn:
        made_and_fetched(0)
        return in_turn([partial(made_and_fetched, number) for number in range(1, pace.repeats + 3)])

    def in_turn(fetchers: list[Callable[[], float]]) -> InTurn:
        with curve.connected(echo, public) as caller:
            curve.rate(caller)
            raw, ours = [curve.rate(caller)], []
            for each in fetchers:
                ours.append(each())
                raw.append(curve.rate(caller))
        return InTurn(ours, raw)

    report.row(plan.FETCH_FRESH, lambda: summary(fresh().ours, f"{size / 1e9:g} GB each"))
    report.row(plan.FETCH_FRESH_IN_TURN, lambda: fresh().ratio())
    report.row(plan.FETCH_RECYCLED, lambda: summary(recycled().ours, f"{size / 1e9:g} GB each, one after the other"))
    report.row(plan.FETCH_RECYCLED_IN_TURN, lambda: recycled().ratio())


def free_shared_memory() -> int:
    """Bytes, of this host."""
    found = os.statvfs("/dev/shm")
    return found.f_bavail * found.f_frsize


def touch(size: int) -> None:
    """Have so much free memory here, if this is a virtual machine: its host may have taken what was free for a while
    (free page reporting), and gives it back page by page, ten times as slowly as memory is written."""
    with mmap.mmap(-1, size + size // 4) as memory:
        for offset in range(0, len(memory), mmap.PAGESIZE):
            memory[offset] = 1


class InTurn(NamedTuple):
    """Rates of fetches, and of a raw stream between the same two hosts, before the first of them and after each."""

    ours: list[float]
    raw: list[float]

    def ratio(self) -> Figure:
        """Of each fetch to the streams beside it: the median, and the quartiles."""
        beside = [(before + after) / 2 for before, after in pairwise(self.raw)]
        found = summary([mine / theirs for mine, theirs in zip(self.ours, beside, strict=True)])
        rates = [statistics.median(each) for each in self]
        text = f"{rates[0]:.3g} against {rates[1]:.3g} GB/s, {len(self.ours)} pairs"
        return Figure(found.value, found.low, found.high, text)


def fan_out(ray: Any, report: Report, pace: Pace, hosts: int) -> None:
    size = int(FAN_OUT_BYTES * pace.scale)

    @ray.remote
    def look(refs: list[Any]) -> tuple[str, int]:
        return socket.gethostname(), sum(ray.get(ref).nbytes for ref in refs)

    def to(count: int) -> Figure:
        """One array to so many hosts at once: until the last one has it all."""
        tasks = [look.options(resources={f"host{number}": 1}) for number in range(count)]
        ray.get([task.remote([]) for task in tasks], timeout=PATIENCE_S)  # workers are up
        times = []
        for number in range(min(3, pace.repeats)):
            ref = ray.put(np.full(size // 8, number))
            start = time.perf_counter()
            told = ray.get([task.remote([ref]) for task in tasks], timeout=FAN_OUT_PATIENCE_S)
            times.append(time.perf_counter() - start)
            if len(dict(told)) != count or {bytes_ for _, bytes_ in told} != {size // 8 * 8}:
                raise AssertionError(f"not on {count} hosts: {told}")
        return summary(times, f"{size / 1e6:g} MB")

    report.row(plan.TO_ONE, lambda: to(1))
    report.row(plan.TO_FIVE, lambda: to(hosts))


def hold(ray: Any, folder: Path) -> None:
    """A task that is not over until it is killed; each execution leaves a file with its time and host."""

    @ray.remote(max_retries=-1)
    def stay() -> None:
        mark = folder / f".{os.getpid()}-{time.monotonic_ns()}"
        mark.write_text(json.dumps({"at": time.time(), "host": socket.gethostname()}))
        mark.rename(folder / mark.name[1:])
        while True:
            time.sleep(60)

    ray.get(stay.remote())


if __name__ == "__main__":
    main()
