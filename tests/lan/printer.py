"""A driver whose tasks print: `python -m tests.lan.printer WHAT`. It says `ready`, and ends when its input does."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import meshray
from tests.lan.out import show


@meshray.remote
def say(text: str, count: int = 1) -> str:
    for number in range(count):
        print(text if count == 1 else f"{text} {number}")
    return meshray.get_runtime_context().get_node_id()


@meshray.remote
def say_and_stay(text: str) -> None:
    """Its prints come while it runs; what it prints at last it prints when its job has ended already."""
    print(text, flush=True)
    time.sleep(3600)


@meshray.remote
def flood(line_bytes: int, lines: int, done: str) -> int:
    for number in range(lines):
        print(f"flood {number} " + "x" * line_bytes)
    Path(done).touch()
    return lines


@meshray.remote
class Actor:
    pass


@meshray.remote
def wish(resources: dict[str, float]) -> None:
    """Creates an actor, which waits for what nobody has."""
    actor: Any = Actor.options(resources=resources).remote()  # type: ignore[attr-defined]
    meshray.wait([actor.__ray_ready__.remote()], timeout=3600)


def main() -> None:
    what = sys.argv[1]
    meshray.init("auto")
    there = {"resources": {"disk": 0.1}}
    if what == "lines":
        texts = [say.options(**there).remote("same words"), say.options(resources={"home": 0.1}).remote("same words")]
        show("ran at", sorted(meshray.get(texts)))
        meshray.get(say.options(**there).remote("many", 3000))
    elif what == "last":
        say_and_stay.options(**there).remote("it runs")
    elif what == "flood":
        done = flood.options(**there).remote(1000, int(sys.argv[2]), sys.argv[3])
    elif what == "warning":
        wish.options(**there).remote({"nothing": 1.0})
    show("ready", os.getpid())
    sys.stdin.readline()
    if what == "flood":
        show("lines printed", meshray.get(done))
        sys.stdin.readline()
    meshray.shutdown()
    show("over")


if __name__ == "__main__":
    main()
