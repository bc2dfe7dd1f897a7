"""A peer of `test_zygote.py` as a process of its own: forks its zygote, then workers that live until they are killed.

Prints one JSON line: the pids of zygote and workers, and what the first worker printed. `fork_zygote` needs a process
without numpy and threads, which a test runner is not.
"""

from __future__ import annotations

import json
import select
import sys
import time

from meshray.config import Config
from meshray.peer.logs import Logs
from meshray.peer.zygotes import WorkerForked, Zygotes
from meshray.wire.forking import Fork
from meshray.worker.zygote import fork_zygote


def main() -> None:
    config = Config()
    forked = fork_zygote()
    zygotes, logs = Zygotes(config), Logs(config)
    interpreter = zygotes.start_default(forked)
    program = b"import tests.integration.zygote_entries as e; e.leave_children()"
    latencies = []
    pids: dict[bytes, int] = {}
    for number in range(4):
        process_id = number.to_bytes(16, "big")
        stdout, stderr = logs.open(process_id)
        begin = time.perf_counter()
        fork = Fork(process_id, "tests.integration.zygote_entries:do", program if not number else b"input()", {})
        zygotes.fork(interpreter, fork, stdout, stderr, time.monotonic())
        while process_id not in pids:
            select.select([zygotes.fd], [], [], 5)
            zygotes.on_ready(time.monotonic())
            for event in zygotes.take_events():
                if isinstance(event, WorkerForked):
                    logs.on_forked(event.process_id, event.pid)
                    pids[event.process_id] = event.pid
        latencies.append(time.perf_counter() - begin)
    lines: list[str] = []
    while not lines:
        select.select([logs.fd], [], [], 5)
        logs.on_ready()
        lines += [line.text for line in logs.take_lines().get(bytes(16), []) if not line.stderr]
    print(json.dumps({"zygote": forked[0], "workers": list(pids.values()), "said": lines[0], "took": latencies}))
    sys.stdout.flush()
    sys.stdin.read()  # until the test ends it
    zygotes.close(2.0)
    logs.close_all()


if __name__ == "__main__":
    main()
