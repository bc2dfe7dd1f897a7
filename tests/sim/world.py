"""A whole mesh in one thread: a virtual clock, one seed, links that delay and lose, processes that are killed.

General layout. `World` moves messages: one first-in-first-out queue per pair of processes, each message with a delay
of its own, so that messages of different links overtake each other. A kill may fall between any two deliveries: of what
the dead one had sent, each link delivers a random part and loses the rest, and its peer hears of the death a while
later. `SimPeer` is the shell of the shipped cores, `model.Process` stands for a driver or a worker. After every step
`checks` run; what a seed finds, `World(seed)` repeats exactly.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from meshray.ids import node_of, peer_of

NODE = b"the-peer"
PEER = NODE + bytes(8)


Link = tuple[bytes, bytes, str]  # from, to, plane


class Party(Protocol):
    """Who receives messages."""

    process: bytes
    alive: bool

    def receive(self, source: bytes, message: Any) -> None: ...


class Road(Party, Protocol):
    """A peer, which passes on what goes to other hosts and comes from there."""

    def passes(self, source: bytes, to: bytes) -> bool: ...


class World:
    """Clock, links and fate."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.parties: dict[bytes, Party] = {}
        self.steps = 0
        self.born: dict[bytes, int] = {}  # object -> its number, in order of creation
        self.log: list[str] = []  # the last events, for a failing seed
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._next = 0
        self._links: dict[Link, float] = {}  # the time of the last delivery: no message overtakes it
        self._cut: dict[Link, float] = {}  # links of the dead: nothing arrives later than this
        self._stopped: dict[bytes, list[Callable[[], None]]] = {}  # process -> what it will do when it goes on
        self.truth: dict[Any, bytes] = {}  # place -> what was written there
        self.checks: list[Callable[[], None]] = []

    def at(self, delay: float, event: Callable[[], None]) -> None:
        """`event` happens `delay` seconds from now."""
        self._at(self.now + delay, event)

    def _at(self, time: float, event: Callable[[], None]) -> None:
        self._next += 1
        heapq.heappush(self._events, (time, self._next, event))

    def send(self, source: bytes, to: bytes, message: Any, plane: str = "") -> None:
        """First in, first out per link and plane; links know nothing of each other. Mostly quick, sometimes very slow.
        To another host by way of both peers."""
        path = [source, to]
        if node_of(source) != node_of(to):
            path = list(dict.fromkeys((source, peer_of(source), peer_of(to), to)))
        self._hop(path, 0, message, plane)

    def _hop(self, path: list[bytes], at: int, message: Any, plane: str) -> None:
        link = path[at], path[at + 1], plane
        scale = self.random.choice((0.0002, 0.001, 0.02))
        time = max(self._links.get(link, 0.0), self.now + self.random.random() * scale)
        self._links[link] = time
        self._at(time, lambda: self._deliver(path, at, message, plane, time))

    def _deliver(self, path: list[bytes], at: int, message: Any, plane: str, time: float) -> None:
        sender, to = path[at], path[at + 1]
        receiver: Any = self.parties.get(to)
        if receiver is None or not receiver.alive or time > self._cut.get((sender, to, plane), time):
            return
        if to in self._stopped:
            self._stopped[to].append(lambda: self._deliver(path, at, message, plane, time))
            return
        source, end = path[0], path[-1]
        if (node_of(source) != node_of(end) and to == peer_of(to)) and not receiver.passes(source, end):
            return
        if to != end:
            self._hop(path, at + 1, message, plane)
            return
        self.note(f"{name(source)} -> {name(to)} {message!r:.150}")
        receiver.receive(source, message)

    def kill(self, process: bytes) -> None:
        """It is gone now. What it had sent arrives in part."""
        self.parties[process].alive = False
        for link, last in self._links.items():
            if link[0] == process and last > self.now:
                self._cut[link] = self.random.uniform(self.now, last * 1.0001)
        self.note(f"KILLED {name(process)}")

    def later(self, process: bytes, delay: float, event: Callable[[], None]) -> None:
        """`event` is an act of `process`: while that is stopped it waits, in order with what it is sent."""
        self.at(delay, lambda: self._act(process, event))

    def _act(self, process: bytes, event: Callable[[], None]) -> None:
        if process in self._stopped:
            self._stopped[process].append(event)
        else:
            event()

    def stop(self, process: bytes, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        if process not in self._stopped:
            self._stopped[process] = []
            self.note(f"STOPPED {name(process)}")
            self.at(seconds, lambda: self._go_on(process))

    def _go_on(self, process: bytes) -> None:
        waiting = self._stopped.pop(process)
        if self.parties[process].alive:
            self.note(f"GOES ON {name(process)}")
            for event in waiting:
                self.at(0.0, event)

    def step(self) -> bool:
        """One event. False when nothing is left to happen."""
        if not self._events:
            return False
        self.now, _, event = heapq.heappop(self._events)
        event()
        self.steps += 1
        for check in self.checks:
            check()
        return True

    def run(self, steps: int = 100_000) -> None:
        """Until all is quiet."""
        for _ in range(steps):
            if not self.step():
                return
        raise AssertionError(f"not quiet after {steps} steps")

    def note(self, text: str) -> None:
        self.log.append(f"{self.now:.6f} {text}")


def name(process: bytes) -> str:
    """For people."""
    where = "" if node_of(process) == NODE else f"@{node_of(process).decode(errors='replace')}"
    return ("peer" if process == peer_of(process) else process[8:].decode(errors="replace").strip("\0")) + where


def process_id(label: str, node: bytes = NODE) -> bytes:
    """The id of a process that is called `label`."""
    return node + label.encode().ljust(8, b"\0")
