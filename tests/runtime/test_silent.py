"""What is said of hosts that do not answer, and when nothing is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshray.runtime.engine import Engine
from meshray.runtime.silent import AGAIN_S, SilentHosts
from meshray.wire.messages import NodeSilent, Place

HOST, OTHER = b"host....", b"other..."
SILENT, ANSWERS = NodeSilent(HOST, "beta", True), NodeSilent(HOST, "beta", False)
RUNS = "host beta is not answering: what runs there is started again elsewhere once it is held for dead"
DEAD = "host beta is dead: no answer"
AGAIN = "what ran there is started again elsewhere, as far as max_retries and max_restarts allow"


class Program:
    """What an engine has on that host."""

    def __init__(self) -> None:
        self.works = self.calls = False
        self.values: list[Any] = []
        self.is_driver = True
        self.said: list[str] = []
        engine = SimpleNamespace(
            submission=SimpleNamespace(works_at=lambda node: self.works and node == HOST),
            calls=SimpleNamespace(knows_at=lambda node: self.calls and node == HOST),
            records=SimpleNamespace(table={}),
            at=self,
            on_warning=self.said.append,
        )
        self.table = engine.records.table
        self.hosts = SilentHosts(cast(Engine, engine))

    def take(self) -> list[str]:
        said, self.said[:] = list(self.said), []
        return said

    def hold(self, node: bytes) -> None:
        self.table[b"o" * 28] = SimpleNamespace(value=Place(b"o" * 28, node, "segment", 1))


@pytest.fixture
def program() -> Program:
    return Program()


def test_who_has_nothing_there_hears_nothing(program: Program) -> None:
    program.hold(OTHER)
    program.hosts.on_silent(SILENT, 0.0)
    program.hosts.on_silent(ANSWERS, 1.0)
    program.hosts.on_silent(SILENT, 2.0)
    program.hosts.on_gone(HOST, DEAD)
    assert program.take() == []


@pytest.mark.parametrize("what", ["works", "calls"])
def test_work_there(program: Program, what: str) -> None:
    setattr(program, what, True)
    program.hosts.on_silent(SILENT, 0.0)
    program.hosts.on_silent(SILENT, 1.0)  # others confirm it
    assert program.take() == [RUNS]
    program.hosts.on_gone(HOST, DEAD)
    assert program.take() == [f"{DEAD}; {AGAIN}"]


def test_a_death_of_which_nothing_told_before(program: Program) -> None:
    program.works = True
    program.hosts.on_gone(HOST, "its peer was declared dead, and has begun anew")
    assert program.take() == [f"a host is gone: its peer was declared dead, and has begun anew; {AGAIN}"]


def test_values_there_are_the_drivers_concern_alone(program: Program) -> None:
    program.hold(HOST)
    program.is_driver = False
    program.hosts.on_silent(SILENT, 0.0)
    assert program.take() == []
    program.is_driver = True
    program.hosts.on_silent(SILENT, 0.0)
    assert program.take() == [
        "host beta is not answering: what lies there alone is made again once it is held for dead"
    ]
    program.hosts.on_gone(HOST, "this peer was declared dead")
    assert program.take() == [
        "host beta is gone: this peer was declared dead; what lay there alone is made again when it is needed"
    ]


def test_one_that_comes_and_goes_is_told_of_once_in_a_while_but_for_its_death(program: Program) -> None:
    program.works = True
    for second in range(0, int(AGAIN_S), 5):
        program.hosts.on_silent(SILENT, second)
        program.hosts.on_silent(ANSWERS, second + 2.0)
    assert program.take() == [RUNS, "host beta answers again"]
    program.hosts.on_gone(HOST, DEAD)
    assert program.take() == [f"{DEAD}; {AGAIN}"]
    program.hosts.on_silent(SILENT, AGAIN_S)
    assert program.take() == [RUNS]
