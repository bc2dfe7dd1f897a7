"""A driver on a host that makes and calls actors as it is told, line by line: `python -m tests.lan.stage`.

Lines are JSON, {"do": ..., "key": ...}; `key` names a handle. Each is answered by one line of JSON: what was asked for,
or {"error": its type, "text": its text}.

    create   {"options"}            an actor of class Log
    find     {"name"}               one by its name
    call     {"count"}              that many calls of `note`, without waiting
    notes    what it has noted, by caller, and where it lives; after what was called before
    wait     what became of the calls since the last `wait`: how many there were, the errors of those that failed
    relay    {"node", "count"}      a task on that node gets the handle and makes that many calls
    keep     {"node"}               an actor on that node gets the handle and keeps it; the driver lets go of its own
    kept     {"count"}              that actor makes that many calls
    kill, drop
    end      ends the driver without a word more
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from typing import Any

import meshray
from meshray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.lan.out import tell

TIMEOUT_S = 60


@meshray.remote
class Log:
    """Notes who calls it, in what order."""

    def __init__(self) -> None:
        self.notes: dict[str, list[int]] = defaultdict(list)

    def note(self, caller: str, number: int) -> int:
        self.notes[caller].append(number)
        return number

    def tell(self) -> dict[str, Any]:
        context = meshray.get_runtime_context()
        return {"notes": dict(self.notes), "node": context.get_node_id(), "pid": os.getpid()}


@meshray.remote
def relay(log: Any, count: int) -> list[int]:
    """Calls an actor from wherever it runs."""
    caller = meshray.get_runtime_context().get_node_id()
    return meshray.get([log.note.remote(f"task on {caller}", number) for number in range(count)])


@meshray.remote
class Keeper:
    """Keeps a handle."""

    def keep(self, logs: list[Any]) -> str:
        self.log = logs[0]
        return meshray.get_runtime_context().get_node_id()

    def call(self, count: int) -> list[int]:
        return meshray.get([self.log.note.remote("keeper", number) for number in range(count)])


class Stage:
    """The handles, and what is to be done with them."""

    def __init__(self) -> None:
        self.me = f"driver on {meshray.get_runtime_context().get_node_id()}"
        self.logs: dict[str, Any] = {}
        self.keepers: dict[str, Any] = {}
        self.called: dict[str, list[Any]] = defaultdict(list)
        self.numbers: dict[str, int] = defaultdict(int)

    def perform(self, told: dict[str, Any]) -> Any:
        return getattr(self, f"do_{told.pop('do')}")(**told)

    def do_create(self, key: str, options: dict[str, Any]) -> None:
        if "node" in options:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(options.pop("node"), soft=False)
        self.logs[key] = Log.options(**options).remote()

    def do_find(self, key: str, name: str) -> None:
        self.logs[key] = meshray.get_actor(name)

    def do_call(self, key: str, count: int) -> None:
        for _ in range(count):
            self.called[key].append(self.logs[key].note.remote(self.me, self.numbers[key]))
            self.numbers[key] += 1

    def do_wait(self, key: str) -> dict[str, Any]:
        called = self.called.pop(key, [])
        errors = []
        for ref in called:
            try:
                meshray.get(ref, timeout=TIMEOUT_S)
            except meshray.exceptions.MeshrayError as error:
                errors.append(type(error).__name__)
        return {"count": len(called), "errors": errors}

    def do_notes(self, key: str) -> Any:
        return meshray.get(self.logs[key].tell.remote(), timeout=TIMEOUT_S)

    def do_relay(self, key: str, node: str, count: int) -> Any:
        task = relay.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        return meshray.get(task.remote(self.logs[key], count), timeout=TIMEOUT_S)

    def do_keep(self, key: str, node: str) -> Any:
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        keeper = self.keepers[key] = Keeper.options(scheduling_strategy=strategy).remote()
        where = meshray.get(keeper.keep.remote([self.logs[key]]), timeout=TIMEOUT_S)
        del self.logs[key]
        return where

    def do_kept(self, key: str, count: int) -> Any:
        return meshray.get(self.keepers[key].call.remote(count), timeout=TIMEOUT_S)

    def do_kill(self, key: str) -> None:
        meshray.kill(self.logs[key])

    def do_drop(self, key: str) -> None:
        self.logs.pop(key, None)
        self.keepers.pop(key, None)


def main() -> None:
    meshray.init("auto", namespace="stage")
    stage = Stage()
    answer: Any = meshray.get_runtime_context().get_node_id()
    while True:
        tell({"answer": answer} if not isinstance(answer, BaseException) else _told(answer))
        line = sys.stdin.readline()
        told = json.loads(line) if line else {"do": "end"}
        if told["do"] == "end":
            break
        try:
            answer = stage.perform(told)
        except Exception as error:
            answer = error
    meshray.shutdown()
    tell({"answer": "ended"})


def _told(error: BaseException) -> dict[str, str]:
    return {"error": type(error).__name__, "text": str(error)}


if __name__ == "__main__":
    main()
