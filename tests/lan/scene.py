"""Hosts at work: peers, programs that go on in rounds (`tests.lan.weather`), and what must hold when all is over."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lan.network import REPOSITORY, Host, Lan
from tests.lan.peers import Peer, agree
from tests.until import until

MakeLan = Callable[..., Lan]
WEATHER = Path(__file__).with_name("weather.py")
ROUNDS_TIMEOUT_S = 90.0
"""Until some rounds are over in the worst weather: a hang is longer."""

AHEAD = 3
"""Rounds that a program has under way at one time."""

LOST_WITH_A_HOST = {
    "large": ("ObjectLostError", "TaskError(ObjectLostError)"),
    "call": ("ActorUnavailableError", "ActorDiedError"),
}
"""Errors that a program may meet when hosts die: values that lay only there, calls that may have begun there. All else
is repeated."""


class Work:
    """A running `weather.py`, in a folder of its own: what goes along to other hosts is small."""

    def __init__(self, host: Host, name: str, options: dict[str, Any]) -> None:
        self.host, self.name = host, name
        self._beside = host.folder / "program"
        self._beside.mkdir()
        shutil.copy(WEATHER, self._beside)
        self._options = options

    def begin(self, **environment: str) -> None:
        words = [str(self._beside / WEATHER.name), self.name, json.dumps(self._options)]
        self.program = self.host.start("python", *words, **environment)

    def _said(self, key: str) -> list[dict[str, Any]]:
        return [line for line in self.program.json_lines() if key in line]

    @property
    def rounds(self) -> int:
        """How many are over."""
        return len(self._said("round"))

    def wait_rounds(self, enough: int) -> None:
        """Wait until so many are over."""
        until(
            lambda: self.rounds >= enough or not self.program.running(), f"it goes on: {self.program}", ROUNDS_TIMEOUT_S
        )
        assert self.program.running(), self.program

    def report(self) -> dict[str, Any]:
        """What it says at the end of its rounds."""
        until(lambda: self._said("asked") or not self.program.running(), f"it ends: {self.program}", ROUNDS_TIMEOUT_S)
        assert self.program.running(), self.program
        report: dict[str, Any] = self._said("asked")[0]
        return report

    def leave(self) -> None:
        self.program.tell("")
        assert self.program.wait() == 0, self.program


class Scene:
    """Hosts with a peer each, and a program on the first two. The actor of both belongs to the first one."""

    def __init__(
        self,
        network: Lan,
        preset: str,
        retries: int = 0,
        size: int = 400_000,
        environment: Callable[[Host], dict[str, str]] = lambda _: {},
    ) -> None:
        self.network = network
        self.retries = retries
        self.preset = preset
        self.environment = environment
        self.folder = network.folder / "seen by all"
        self.folder.mkdir()
        for file in ("executions", "calls"):
            (self.folder / file).touch()
        self.peers: dict[str, Peer] = {}
        """Those that are up."""
        for name in network.hosts:
            self.start(name)
        agree(*self.peers.values())
        self.works = [
            Work(network[name], name, {"folder": str(self.folder), "max_retries": retries, "bytes": size,
                                       "makes": index == 0, "ahead": AHEAD})
            for index, name in enumerate(list(network.hosts)[:2])
        ]  # fmt: skip
        for work in self.works:
            work.begin(**environment(work.host))
        self._wait_rounds(dict.fromkeys(self.works, 1))

    def start(self, name: str) -> Peer:
        host = self.network[name]
        peer = self.peers[name] = Peer(host, preset=self.preset, **self.environment(host))
        return peer

    def go_on(self, rounds: int = 1) -> None:
        """Wait until so many rounds of each program are over that begin from now on."""
        self._wait_rounds({work: work.rounds + AHEAD + rounds for work in self.works})

    def _wait_rounds(self, enough: dict[Work, int]) -> None:
        with self._explained():
            for work, rounds in enough.items():
                work.wait_rounds(rounds)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the peers say of themselves, if something is waited for in vain."""
        try:
            yield
        except AssertionError as error:
            seen = "\n".join(f"{name}: {json.dumps(peer.status())}" for name, peer in self.peers.items())
            raise AssertionError(f"{error}\n{seen}") from error

    # -- the end -----------------------------------------------------------------------------------------------------

    def end_well(self, deaths: bool = False, drains: int = 0) -> list[dict[str, Any]]:
        """The faults are over. Everything works again, everything was right, and nothing is left; what the programs
        tell. With `deaths`, some may have been held for dead; `drains`: how many have ended by `stop`."""
        agree(*self.peers.values())
        self.go_on()
        for work in self.works:
            work.program.tell("")
        with self._explained():
            reports = [work.report() for work in self.works]
        for report in reports:
            assert not report["wrong"], report["wrong"]
            _only(LOST_WITH_A_HOST if deaths else {}, report["errors"])
        self._executed(1 + self.retries + drains if deaths else 1)
        self._called(reports, all_of_them=not deaths)
        with self._explained():
            until(lambda: all(map(_has_all_slots, self.peers.values())), "every slot is free")
        for work in self.works:
            work.leave()
        with self._explained():
            until(lambda: not any(map(has_of_others, self.peers.values())), "nothing is left")
        agree(*self.peers.values())
        return reports

    def _executed(self, at_most: int) -> None:
        """I2, of tasks."""
        counts = Counter((self.folder / "executions").read_text().split())
        assert counts
        doubled = {name: count for name, count in counts.items() if count > at_most}
        assert not doubled, f"more than {at_most} executions: {doubled}"

    def _called(self, reports: list[dict[str, Any]], all_of_them: bool) -> None:
        """I2, of calls: each at most once, in order within one life of the actor, and those that were answered once."""
        lives: dict[tuple[str, str], list[int]] = defaultdict(list)
        for line in (self.folder / "calls").read_text().splitlines():
            life, caller, number = line.split()
            lives[caller, life].append(int(number))
        for (caller, life), numbers in lives.items():
            assert numbers == sorted(set(numbers)), f"calls of {caller} in life {life}: {numbers}"
        for work, report in zip(self.works, reports, strict=True):
            numbers = [number for (caller, _), some in lives.items() if caller == work.name for number in some]
            assert len(numbers) == len(set(numbers)), f"calls of {work.name} that ran twice: {numbers}"
            assert set(report["told"]) <= set(numbers)
            if all_of_them:
                assert numbers == report["told"] == list(range(report["asked"]))


def _only(allowed: dict[str, tuple[str, ...]], errors: Iterable[list[str]]) -> None:
    other = [error for error in errors if error[1] not in allowed.get(error[0], ())]
    assert not other, "\n".join(" ".join(error) for error in other)


def _has_all_slots(peer: Peer) -> bool:
    resources = peer.status()["resources"]
    return bool(resources["available"] == resources["total"])


def has_of_others(peer: Peer) -> bool:
    """Whether it has anything of a program; all of them have ended."""
    told = peer.status()
    mesh, store = told["mesh"], told["store"]
    return bool(
        any(process["job_id"] for process in told["processes"])
        or told["drivers"]
        or told["waiting"]
        or told["actors"]["list"]
        or store["sealed_bytes"]
        or store["copies"]["whole"]
        or store["copies"]["fetching"]
        or mesh["foreign_jobs"]
        or mesh["foreign_processes"]
    )


class Clocks:
    """The clocks of a host, which the test can set (`tests.lan.clocks`)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set(0.0, 0.0)
        self.environment = {
            "TEST_CLOCKS": str(path),
            "PYTHONPATH": os.pathsep.join((str(Path(__file__).with_name("clocks")), str(REPOSITORY))),
        }

    def set(self, wall_s: float, steady_s: float) -> None:
        """How far they are ahead of the machine's."""
        with open(self._path, "r+b" if self._path.exists() else "wb") as file:
            file.write(struct.pack("dd", wall_s, steady_s))  # in place: it is mapped
