"""Tasks run on any host: where there is room, what is asked for, or where a program says; and again when one dies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.lan.network import Host, Lan
from tests.lan.peers import Peer, agree
from tests.until import until

MakeLan = Callable[..., Lan]


class Caller:
    """A running `tests.lan.caller`: a driver on a host. `folder` is where its tasks leave one file per execution."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.folder = host.folder / "executions"
        self.folder.mkdir()
        self.program = host.start("python", "-m", "tests.lan.caller")
        self._answers = 0
        self.node = str(self._answer()["node"])

    def _answer(self) -> dict[str, Any]:
        self._answers += 1
        until(lambda: len(self.program.json_lines()) >= self._answers or not self.program.running(), repr(self.program))
        found: list[dict[str, Any]] = self.program.json_lines()
        assert len(found) >= self._answers, self.program
        return found[self._answers - 1]

    def tell(self, **told: Any) -> dict[str, Any]:
        import json

        self.program.tell(json.dumps({"folder": str(self.folder), "seconds": 0.0, "count": 1, **told}))
        return self._answer()

    def run(self, count: int, seconds: float, **options: Any) -> None:
        self.tell(do="run", count=count, seconds=seconds, options=options)

    def get(self) -> list[dict[str, Any]]:
        answer = self.tell(do="get")
        assert "values" in answer, answer
        values: list[dict[str, Any]] = answer["values"]
        return values

    def executions(self) -> int:
        return len(list(self.folder.iterdir()))


def two(lan: MakeLan, *options: str) -> tuple[Lan, Peer, Peer, Caller]:
    """Hosts a and b with two CPUs each; b has `options` more. A driver on a."""
    network = lan("a", "b")
    a, b = (
        Peer(network["a"], "--labels", '{"zone": "near"}'),
        Peer(network["b"], "--labels", '{"zone": "far"}', *options),
    )
    agree(a, b)
    return network, a, b, Caller(network["a"])


def at_once(values: list[dict[str, Any]]) -> bool:
    """Whether there was a moment at which all of them ran."""
    return max(value["began"] for value in values) < min(value["ended"] for value in values)


def test_four_tasks_run_at_once_on_two_hosts_of_two_cpus(lan: MakeLan) -> None:
    _, _, b, driver = two(lan)
    driver.run(4, 1.0)
    values = driver.get()
    counts = Counter(value["node"] for value in values)
    assert counts == {driver.node: 2, b.status()["node_id"]: 2}
    assert at_once(values)
