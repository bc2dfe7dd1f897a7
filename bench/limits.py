"""What the machine itself can do, by the means that meshray uses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING

import numpy as np
import psutil
import zmq

from bench.plan import FRESH_WRITE, MEMORY_COPY, PING_PONG
from bench.timing import Figure, Pace, rate

if TYPE_CHECKING:
    from bench.child import Report

MESSAGE = b"x" * 100
GROWTH_STEP_BYTES = 100_000_000


def measure(report: Report, pace: Pace) -> None:
    def ping_pong() -> Figure:
        with echo_server() as (_, caller):
            return rate(lambda: round_trip(caller), 1, pace)

    def memory_copy() -> Figure:
        source = np.ones(100 * 1024 * 1024, dtype=np.int64)
        target = np.empty_like(source)
        return rate(lambda: np.copyto(target, source), 8 * 0.1, pace)

    def fresh_write() -> Figure:
        rates = [write_fresh(room_for_growth(pace), GROWTH_STEP_BYTES) for _ in range(pace.windows)]
        return Figure(fmean(rates), min(rates), max(rates), f"{room_for_growth(pace) / 1e9:g} GB")

    report.row(PING_PONG, ping_pong)
    report.row(MEMORY_COPY, memory_copy)
    report.row(FRESH_WRITE, fresh_write)


def room_for_growth(pace: Pace) -> int:
    """How far the live set grows: 4 GB (0.4 when quick), less where shared memory or RAM is small; whole steps."""
    room = min(4e9 * pace.scale, shutil.disk_usage("/dev/shm").free / 3, psutil.virtual_memory().available / 4)
    return max(1, int(room) // GROWTH_STEP_BYTES) * GROWTH_STEP_BYTES


def round_trip(caller: zmq.Socket[bytes]) -> None:
    caller.send(MESSAGE)
    caller.recv()


@contextmanager
def echo_server() -> Iterator[tuple[int, zmq.Socket[bytes]]]:
    """A process that answers each message from its ROUTER; gives its pid and a connected DEALER."""
    with TemporaryDirectory(prefix="mp") as folder, zmq.Context() as context:
        address = f"ipc://{folder}/echo"
        server = subprocess.Popen([sys.executable, "-m", "bench.limits", address])
        caller: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        try:
            caller.connect(address)
            round_trip(caller)  # the server is there
            yield server.pid, caller
        finally:
            caller.close(linger=0)
            server.terminate()
            server.wait()


def serve_echo(address: str) -> None:
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(address)
    while True:
        socket.send_multipart(socket.recv_multipart())


def write_fresh(total_bytes: int, chunk_bytes: int) -> float:
    """GB/s of writing so much into fresh files, the removal not counted."""
    folder = Path(mkdtemp(prefix="mp", dir="/dev/shm"))
    chunk = np.ones(chunk_bytes // 8, dtype=np.int64).data.cast("B")
    try:
        start = time.perf_counter()
        for number in range(total_bytes // chunk_bytes):
            descriptor = os.open(folder / str(number), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            rest = chunk
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.close(descriptor)
        return total_bytes / 1e9 / (time.perf_counter() - start)
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


if __name__ == "__main__":
    serve_echo(sys.argv[1])
