"""A program that works in rounds, whatever the weather: `python weather.py NAME '{"folder": ..., ...}'`.

Each round is a bit of everything, on all hosts in turn:

    count    tasks that take a moment
    chain    results passed on by reference, from host to host
    large    an array made on one host and read on two others
    calls    calls of the actor `log`, which one of the programs has made

"ahead" rounds are under way at once, so whatever happens finds some of each: on its way, waiting, running, coming back.
Options: "folder" (all hosts see it), "max_retries" of the tasks, "makes" (whether it makes the actor), "bytes" of an
array, "ahead". Each round that is over is told by a line {"round": its number}. A line of input ends the work; then the
program tells what came of it, and at a second line it ends:

    asked, told    calls by number: all that it has made, and those that were answered
    wrong          results that are not what they must be
    errors         [what, of which kind, words] of what failed
    placed         how many values came from which host

What was executed stands in two files of the folder, one line each, written the moment it begins: `executions` (the
task's name) and `calls` (which life of the actor, caller, number). No `get` here has a time-out: a hang is a hang.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from time import sleep
from typing import Any
from uuid import uuid4

import numpy

import meshray
from meshray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.lan.out import tell

COUNTS, LINKS, CALLS = 6, 4, 5
MOMENT_S = 0.3


def write(folder: str, file: str, line: str) -> None:
    """In one write at the end of the file, whoever else writes there."""
    fd = os.open(os.path.join(folder, file), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, (line + "\n").encode())
    finally:
        os.close(fd)


def here() -> str:
    return meshray.get_runtime_context().get_node_id()


def array(size: int, seed: int) -> Any:
    return numpy.random.default_rng(seed).integers(0, 256, size, dtype=numpy.uint8)


def digest(value: Any) -> str:
    return hashlib.blake2b(value, digest_size=8).hexdigest()


@meshray.remote
def count(folder: str, name: str) -> tuple[str, str]:
    write(folder, "executions", name)
    sleep(MOMENT_S)
    return name, here()


@meshray.remote
def link(folder: str, name: str, before: list[Any]) -> list[Any]:
    """The next link: what the one before has, and its own name."""
    write(folder, "executions", name)
    return [*(meshray.get(before[0]) if before else []), name]


@meshray.remote
def make(folder: str, name: str, size: int, seed: int) -> Any:
    write(folder, "executions", name)
    return array(size, seed)


@meshray.remote
def read(folder: str, name: str, value: Any) -> str:
    write(folder, "executions", name)
    return digest(value)


@meshray.remote
class Log:
    """Writes down who calls it."""

    def __init__(self, folder: str) -> None:
        self.folder, self.life = folder, uuid4().hex[:8]

    def note(self, caller: str, number: int) -> int:
        write(self.folder, "calls", f"{self.life} {caller} {number}")
        return number


class Program:
    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name = name
        self.folder: str = options["folder"]
        self.retries: int = options["max_retries"]
        self.bytes: int = options["bytes"]
        self.makes: bool = options["makes"]
        self.log: Any = None  # a handle, while one is there
        self.rounds = 0
        self.asked = 0
        self.told: list[int] = []
        self.wrong: list[str] = []
        self.errors: list[tuple[str, str, str]] = []
        self.placed: Counter[str] = Counter()

    def find_log(self) -> None:
        """Get hold of the actor, if that can be: whoever owns it may be dead for us just now."""
        try:
            if self.makes:
                options = {"name": "log", "get_if_exists": True, "max_restarts": -1, "num_cpus": 0}
                strategy = NodeAffinitySchedulingStrategy(self.nodes()[-1], soft=True)
                self.log = Log.options(scheduling_strategy=strategy, **options).remote(self.folder)
            else:
                self.log = meshray.get_actor("log")
        except ValueError:
            self.log = None

    def nodes(self) -> list[str]:
        """All hosts of now, this one first, the others always in the same order."""
        first, *others = [node["NodeID"] for node in meshray.nodes() if node["Alive"]]
        return [first, *sorted(others)]

    def begin(self) -> list[Callable[[], None]]:
        """Submit a round. Each of these waits for one thing of it, and looks whether it is right."""
        number, nodes = self.rounds, self.nodes()
        self.rounds += 1
        turn = iter(range(number, number + 1000))

        def run(task: Any, name: str, *arguments: Any) -> tuple[str, Any]:
            name = f"{self.name}-{number}-{name}"
            node = NodeAffinitySchedulingStrategy(nodes[next(turn) % len(nodes)], soft=True)
            options = task.options(scheduling_strategy=node, max_retries=self.retries)
            return name, options.remote(self.folder, name, *arguments)

        looks = [self.look_at_count(*run(count, f"count{index}")) for index in range(COUNTS)]
        names: list[str] = []
        before: list[Any] = []
        for index in range(LINKS):
            name, ref = run(link, f"link{index}", before)
            names, before = [*names, name], [ref]
        looks.append(self.look_at("chain", before[0], names))
        _, made = run(make, "make", self.bytes, number)
        wanted = digest(array(self.bytes, number))
        for index in range(2):
            looks.append(self.look_at("large", run(read, f"read{index}", made)[1], wanted))
        if self.log is None:
            self.find_log()
        if self.log is not None:
            looks += [self.call() for _ in range(CALLS)]
        return looks

    def finish(self, looks: list[Callable[[], None]]) -> None:
        for look in looks:
            look()

    def call(self) -> Callable[[], None]:
        number, log = self.asked, self.log
        ref = log.note.remote(self.name, number)
        self.asked += 1

        def look() -> None:
            failed = self.look("call", ref, number)
            if failed is None:
                self.told.append(number)
            elif failed == "ActorDiedError" and self.log is log:
                self.log = None

        return look

    def look_at_count(self, name: str, ref: Any) -> Callable[[], None]:
        def look() -> None:
            try:
                found, node = meshray.get(ref)
            except meshray.exceptions.MeshrayError as error:
                self.fail("count", error)
                return
            self.placed[node] += 1
            if found != name:
                self.wrong.append(f"{name}: {found!r}")

        return look

    def look_at(self, what: str, ref: Any, wanted: Any) -> Callable[[], None]:
        def look() -> None:
            self.look(what, ref, wanted)

        return look

    def look(self, what: str, ref: Any, wanted: Any) -> str | None:
        """The kind of its error, None if there was none."""
        try:
            found = meshray.get(ref)
        except meshray.exceptions.MeshrayError as error:
            return self.fail(what, error)
        if found != wanted:
            self.wrong.append(f"{what}: {found!r} instead of {wanted!r}")
        return None

    def fail(self, what: str, error: BaseException) -> str:
        kind = type(error).__name__
        self.errors.append((what, kind, str(error)[-500:]))
        return kind

    def report(self) -> dict[str, Any]:
        return {
            "asked": self.asked, "told": self.told, "wrong": self.wrong, "errors": self.errors,
            "placed": dict(self.placed),
        }  # fmt: skip


def main(name: str, options: dict[str, Any]) -> None:
    meshray.init("auto", namespace="weather")
    program, told_to_end = Program(name, options), threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        told_to_end.set()

    threading.Thread(target=listen, daemon=True).start()
    under_way: deque[list[Callable[[], None]]] = deque()
    while under_way or not told_to_end.is_set():
        if not told_to_end.is_set():
            under_way.append(program.begin())
        if len(under_way) >= options["ahead"] or told_to_end.is_set():
            program.finish(under_way.popleft())
            tell({"round": program.rounds - len(under_way)})
    program.log = None
    tell(program.report())
    sys.stdin.readline()
    meshray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
