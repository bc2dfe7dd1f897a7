"""What a fetch between two hosts costs, by thread: `python -m bench.fetching [MEGABYTES [TIMES]]`.

No row of the table. Where all hosts share two cores, a fetch is as fast as it is cheap, and processor time varies less
than rates do while others use the machine, too. One value after the other is fetched, into a segment that was used
before but for the first time, which is not counted. The medians are printed, in ms per 100 MB: of processor time, and
of what elapses, which is half of that where neither core ever waits.

`--driver` is the program on the host that fetches: it says when a fetch begins and has ended, and waits until that was
seen.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from bench import lan
from bench.cables import Bridged
from tests.lan.network import Program
from tests.until import until

BEGINS, ENDED = "begins", "ended"
ELAPSED = "elapsed"
UNIT_BYTES = 100_000_000
IO_THREADS = "ZMQbg/IO"  # how libzmq names those that encrypt, and speak TCP
PATIENCE_S = 120.0  # for one fetch: others may use the machine


def main(size: int, times: int) -> None:
    with Bridged("near", "far", shared_memory_bytes=lan.SHARED_MEMORY_BYTES) as hosts:
        near, far = hosts["near"], hosts["far"]
        receiving, sending = lan.MeshrayPeer(near, 0), lan.MeshrayPeer(far, 1)
        for peer in (receiving, sending):
            until(peer.serves, f"the peer serves: {peer.program}", lan.START_TIMEOUT_S)
        lan.wait_for_all([receiving, sending])
        driver = near.start("python", "-m", "bench.fetching", "--driver", str(size), str(times))
        pids = {"receiving": receiving.program.pid, "sending": sending.program.pid}
        rows: list[dict[str, float]] = []
        for number in range(times):
            wait_for_line(driver, 2 * number, BEGINS)
            before, began_at = spent(pids), time.monotonic()
            driver.tell("go")
            wait_for_line(driver, 2 * number + 1, ENDED)
            after, took_ms = spent(pids), (time.monotonic() - began_at) * 1000
            driver.tell("go")
            row = {name: after[name] - before.get(name, 0.0) for name in after} | {ELAPSED: took_ms}
            rows.append({name: milliseconds * UNIT_BYTES / size for name, milliseconds in row.items()})
        driver.wait()
        driver.close()
    report(rows[1:])


def wait_for_line(driver: Program, number: int, word: str) -> None:
    """Raises `RuntimeError` when its `number`-th line is another one, or it has ended."""
    until(lambda: len(driver.lines) > number or not driver.running(), f"it {word}: {driver}", PATIENCE_S)
    if driver.lines[number : number + 1] != [word]:
        raise RuntimeError(f"the driver did not say that it {word}: {driver}")


def spent(pids: dict[str, int]) -> dict[str, float]:
    """Milliseconds of processor time until now, by process and kind of thread. (None of them ends meanwhile but those
    that do next to nothing.)"""
    found: dict[str, float] = {}
    for name, pid in pids.items():
        for thread in Path(f"/proc/{pid}/task").iterdir():
            kind = "the peer" if thread.name == str(pid) else "other threads"
            if (thread / "comm").read_text().startswith(IO_THREADS):
                kind = "libzmq"
            nanoseconds = int((thread / "schedstat").read_text().split()[0])
            found[f"{name}, {kind}"] = found.get(f"{name}, {kind}", 0.0) + nanoseconds / 1e6
    return found


def report(rows: list[dict[str, float]]) -> None:
    elapsed = [row.pop(ELAPSED) for row in rows]
    for name in sorted({name for row in rows for name in row}):
        print(f"{name:28} {statistics.median(row.get(name, 0.0) for row in rows):6.1f}")
    sums = [sum(row.values()) for row in rows]
    print(f"{'together':28} {statistics.median(sums):6.1f}   (least {min(sums):.1f}; {len(sums)} fetches)")
    print(f"{ELAPSED:28} {statistics.median(elapsed):6.1f}   (least {min(elapsed):.1f})")


# -- the driver --------------------------------------------------------------------------------------------------------


def drive(size: int, times: int) -> None:
    import numpy as np

    ray: Any = importlib.import_module("meshray")
    ray.init("auto")

    @ray.remote
    def make(value: int) -> Any:
        return np.full(size // 8, value)

    for number in range(times):
        ref = make.remote(number)
        ray.wait([ref], timeout=PATIENCE_S, fetch_local=False)
        say(BEGINS)
        array = ray.get(ref, timeout=PATIENCE_S)
        say(ENDED)
        if array[0] != number or array[-1] != number:
            raise AssertionError("what was fetched is not what was made")
        del array, ref
    ray.shutdown()


def say(word: str) -> None:
    print(word, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["--driver"]:
        drive(int(words[1]), int(words[2]))
    else:
        megabytes, count = [*map(int, words), *(512, 9)[len(words) :]]
        main(megabytes * 1_000_000, count)
