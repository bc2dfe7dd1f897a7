"""A driver with actors on the host that has a `disk`, for one that leaves: `python -m tests.lan.lodgers`."""

from __future__ import annotations

import sys
import time
from typing import Any

import meshray
from meshray.exceptions import ActorDiedError
from meshray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@meshray.remote
class Lodger:
    def where(self) -> str:
        context = meshray.get_runtime_context()
        return context.get_node_id() + (", restarted" if context.was_current_actor_reconstructed else "")

    def work(self, seconds: float) -> str:
        time.sleep(seconds)
        return "done"


def main() -> None:
    meshray.init("auto")
    other = next(node["NodeID"] for node in meshray.nodes() if "disk" in node["Resources"])
    lodger: Any = Lodger
    there = NodeAffinitySchedulingStrategy(other, True)
    may = lodger.options(max_restarts=1, scheduling_strategy=there).remote()
    may_not = lodger.options(scheduling_strategy=there).remote()
    assert meshray.get([may.where.remote(), may_not.where.remote()]) == [other, other]
    running = may.work.remote(3.0)
    print("ready", flush=True)
    sys.stdin.readline()
    print("the call that ran:", meshray.get(running), flush=True)
    print("after that:", meshray.get(may.where.remote()), flush=True)
    try:
        meshray.get(may_not.where.remote())
    except ActorDiedError as error:
        print("the other one:", type(error).__name__, str(error), flush=True)
    meshray.shutdown()


if __name__ == "__main__":
    main()
