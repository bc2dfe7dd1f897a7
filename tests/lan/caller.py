"""A driver on a host that does what it is told, line by line: `python -m tests.lan.caller`.

Lines are JSON: {"do": "run", "count": 4, "seconds": 0.5, "options": {...}} submits tasks and answers at once;
{"do": "closures", "count": 100, "options": {...}} submits as many functions, each with captured data of its own, the
same ones each time; {"do": "get"} waits for them and answers where each ran, and when, or the number of each closure.
Each answer is one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import meshray
from meshray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.lan.out import tell


@meshray.remote
def where(seconds: float, folder: str) -> dict[str, Any]:
    """Where it ran, and from when to when. Each execution leaves a file in the folder, which all hosts see; its name
    begins with that of the node."""
    began = time.time()
    node = meshray.get_runtime_context().get_node_id()
    with open(os.path.join(folder, f"{node}-{os.getpid()}-{time.monotonic_ns()}"), "x"):
        pass
    print("it runs")
    time.sleep(seconds)
    return {"node": node, "began": began, "ended": time.time()}


@meshray.remote
def parent(seconds: float, folder: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    """A task that waits for tasks of its own."""
    return meshray.get([where.options(**options).remote(seconds, folder) for _ in range(2)])


def closure(number: int) -> Callable[[], int]:
    """A function that has captured 20 kB."""
    captured = number.to_bytes(4, "big") * 5000
    return lambda: int.from_bytes(captured[-4:], "big")


def options_of(told: dict[str, Any]) -> dict[str, Any]:
    """As JSON can say them."""
    options = dict(told.get("options", {}))
    if "node" in options:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(options.pop("node"), options.pop("soft", False))
    return options


def main() -> None:
    meshray.init("auto")
    refs: dict[str, list[Any]] = {}
    closures: list[Any] = []
    answer: dict[str, Any] = {"node": meshray.get_runtime_context().get_node_id()}
    while True:
        tell(answer)
        line = sys.stdin.readline()
        if not line:
            break
        told = json.loads(line)
        answer = {}
        key = told.get("key", "")
        if told["do"] == "run":
            task = where.options(**options_of(told))
            refs[key] = [task.remote(told["seconds"], told["folder"]) for _ in range(told["count"])]
        elif told["do"] == "nest":
            refs[key] = [parent.remote(told["seconds"], told["folder"], options_of(told)) for _ in range(told["count"])]
        elif told["do"] == "closures":
            while len(closures) < told["count"]:
                closures.append(meshray.remote(closure(len(closures))))
            refs[key] = [each.options(**options_of(told)).remote() for each in closures[: told["count"]]]
        elif told["do"] == "get":
            try:
                answer["values"] = meshray.get(refs[key], timeout=told.get("timeout", 60))
            except Exception as error:
                answer["error"], answer["text"] = type(error).__name__, str(error)
        elif told["do"] == "nodes":
            answer["nodes"] = meshray.nodes()
            answer["total"] = meshray.cluster_resources()
            answer["available"] = meshray.available_resources()
    meshray.shutdown()


if __name__ == "__main__":
    main()
