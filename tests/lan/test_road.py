"""Processes of different hosts speak with each other, by way of their peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.lan.network import Host, Lan
from tests.lan.peers import Peer, agree
from tests.until import until

MakeLan = Callable[..., Lan]


class Speaker:
    """A running `tests.lan.speaker`."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.program = host.start("python", "-m", "tests.lan.speaker")
        self.id = str(self.look()["process"])

    def look(self, line: str = "look") -> dict[str, Any]:
        before = len(self.program.lines)
        self.program.tell(line)
        until(lambda: len(self.program.lines) > before or not self.program.running(), f"it answers: {self.program}")
        found: list[dict[str, Any]] = self.program.json_lines()
        assert len(found) > before, self.program
        return found[before]

    def say(self, other: Speaker, count: int, size: int = 10) -> None:
        self.look(f"say {other.id} {count} {size}")

    def answered(self, other: Speaker) -> int:
        """How many answers of the other one have come."""
        return int(self.look()["last"].get(other.id, -1)) + 1


def test_an_echo_between_two_hosts(lan: MakeLan) -> None:
    network = lan("a", "b")
    a, b = (Peer(host) for host in network.hosts.values())
    agree(a, b)
    row = next(member for member in a.mesh()["members"] if member["name"] == "b")
    assert row["home"] == b.status()["node_id"]
    one, other = Speaker(network["a"]), Speaker(network["b"])
    one.say(other, 1)
    until(lambda: one.answered(other) == 1, "the echo is there")
    one.say(other, 1, 3 << 20)  # larger than a window
    until(lambda: one.look()["heard"].get("Results") == 2, "a large one as well")
