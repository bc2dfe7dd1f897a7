"""Clocks that a test can set, for all Python programs of a host: Python imports this file by itself, before anything
else, where its folder is in PYTHONPATH.

`TEST_CLOCKS` names a file of two numbers (`tests.lan.scene.Clocks` writes them): how many seconds the wall clock, and
the clocks that only go forward, are ahead of the machine's. All hosts have the machine's clocks otherwise: a namespace
can shift the latter when it is made, and the former never. What C libraries ask the kernel by themselves stays as it
is: libzmq's timers, and how long a wait lasts.
"""

import mmap
import os
import struct
import time
from collections.abc import Callable

_STEADY = {getattr(time, name) for name in ("CLOCK_MONOTONIC", "CLOCK_MONOTONIC_RAW", "CLOCK_BOOTTIME")}


def _set(path: str) -> None:
    with open(path, "rb") as file:
        ahead = mmap.mmap(file.fileno(), 16, prot=mmap.PROT_READ)

    def shifted(read: Callable[..., float], place: int, unit: int) -> Callable[..., float]:
        def now(*clock: int) -> float:
            is_wall = clock == (time.CLOCK_REALTIME,)
            if clock and not is_wall and clock[0] not in _STEADY:
                return read(*clock)
            (seconds,) = struct.unpack_from("d", ahead, 0 if is_wall else place)
            return read(*clock) + (int(seconds * unit) if unit > 1 else seconds)

        return now

    for name, place, unit in (
        ("time", 0, 1),
        ("time_ns", 0, 10**9),
        ("monotonic", 8, 1),
        ("monotonic_ns", 8, 10**9),
        ("clock_gettime", 8, 1),
        ("clock_gettime_ns", 8, 10**9),
    ):
        setattr(time, name, shifted(getattr(time, name), place, unit))


if "TEST_CLOCKS" in os.environ:
    _set(os.environ["TEST_CLOCKS"])
