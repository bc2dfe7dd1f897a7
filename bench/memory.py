"""What the processes of an idle mesh hold, the driver not counted.

Proportional set size: a page shared by n processes counts 1/n in each, so forked workers are not counted double.
"""

from __future__ import annotations

import importlib
import os
import time
from typing import TYPE_CHECKING

import psutil

from bench.timing import Figure

if TYPE_CHECKING:
    from bench.child import Report

REST_S = 3.0  # start-up work and garbage settle


def measure(report: Report, subject: str) -> None:
    def idle() -> Figure:
        ray = importlib.import_module(subject)
        ray.init(num_cpus=2)

        @ray.remote
        def small_value() -> bytes:
            return b"ok"

        ray.get([small_value.remote() for _ in range(100)])
        time.sleep(REST_S)
        sizes = {process.pid: process.memory_full_info().pss for process in family()}
        ray.shutdown()
        total = sum(sizes.values()) / 1e6
        return Figure(total, total, total, f"PSS of {len(sizes)} processes")

    report.row("idle memory, 2 CPUs, all processes but the driver", idle)


def family() -> list[psutil.Process]:
    """Every process that this one started, directly or not."""
    return psutil.Process(os.getpid()).children(recursive=True)
