"""The rows that make sense for process pools and Dask: functions, one at a time and a thousand at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from bench.plan import TASKS_ASYNC
from bench.timing import Pace, rate

if TYPE_CHECKING:
    from bench.child import Report


def small_value() -> bytes:
    return b"ok"


def measure(report: Report, subject: str, pace: Pace) -> None:
    with ExitStack() as stack:
        submit = open_pool(subject, os.cpu_count() or 1, stack)
        submit().result()  # the pool is there

        def thousand() -> None:
            for future in [submit() for _ in range(1000)]:
                future.result()

        report.row("single client tasks sync", lambda: rate(lambda: submit().result(), 1, pace))
        report.row(TASKS_ASYNC, lambda: rate(thousand, 1000, pace))


def open_pool(subject: str, workers: int, stack: ExitStack) -> Callable[[], Any]:
    """Starts a pool that ends with `stack`; gives what submits one `small_value` and returns a future."""
    if subject == "processpool":
        from concurrent.futures import ProcessPoolExecutor

        pool = stack.enter_context(ProcessPoolExecutor(workers))
        return lambda: pool.submit(small_value)
    if subject == "loky":
        from loky import ProcessPoolExecutor as LokyExecutor

        loky_pool = stack.enter_context(LokyExecutor(workers))
        return lambda: loky_pool.submit(small_value)
    if subject == "dask":
        from distributed import Client, LocalCluster

        cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
        client = stack.enter_context(Client(stack.enter_context(cluster)))
        return lambda: client.submit(small_value, pure=False)
    raise ValueError(f"no such pool: {subject!r}")
