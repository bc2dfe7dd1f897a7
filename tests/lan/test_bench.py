"""The hosts of `scripts/bench --lan`: they reach each other, at the rate that they are told, and leave nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import plan
from bench.cables import Bridged, why_not
from bench.child import Report
from bench.lan import measure
from bench.timing import QUICK
from tests.until import until

SERVER = """
import socket
server = socket.create_server(("::", 7001), family=socket.AF_INET6, dualstack_ipv6=True)
print("listens", flush=True)
while True:
    server.accept()[0].close()
"""

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def _possible(_leaves_nothing: None) -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)


def test_hosts_reach_each_other_and_are_gone_at_the_end() -> None:
    with Bridged("a", "b", "c", shared_memory_bytes=64 << 20) as hosts:
        server = hosts["c"].start("python", "-c", SERVER)
        until(lambda: server.lines, "it listens")
        for address in (hosts["c"].ipv4, hosts["c"].ipv6):
            hosts["a"].run("python", "-c", f"import socket; socket.create_connection(({address!r}, 7001), 10)")
        assert "64M" in hosts["b"].run("df", "-h", "/dev/shm")
    assert hosts.left() == []


def test_links_are_limited_in_both_directions() -> None:
    with Bridged("a", "b", shared_memory_bytes=64 << 20, limit_mbit=200) as hosts:
        assert "rate 200Mbit" in hosts["a"].run("tc", "qdisc", "show", "dev", "eth0")


def test_the_limits_are_measured(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.jsonl", [plan.CURVE_PING_PONG])
    measure(plan.LIMITS_BETWEEN, report, plan.MACHINE, QUICK)
    lines = report.path.read_text().splitlines()
    assert '"begin"' in lines[0]
    assert '"value"' in lines[1]
