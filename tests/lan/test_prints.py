"""What workers of other hosts print, and what their peers warn of, reaches the driver."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lan.network import Lan, Program
from tests.lan.peers import Peer, agree
from tests.until import until

MakeLan = Callable[..., Lan]


def two(lan: MakeLan, *arguments: str) -> tuple[Peer, Peer, Program]:
    """A driver on a, whose tasks are to run on b, which has a `disk`."""
    network = lan("a", "b")
    a = Peer(network["a"], "--resources", json.dumps({"home": 1}))
    b = Peer(network["b"], "--resources", json.dumps({"disk": 1}))
    agree(a, b)
    return a, b, network["a"].start("python", "-m", "tests.lan.printer", *arguments)


def says(program: Program, pattern: str) -> None:
    until(lambda: any(re.search(pattern, line) for line in list(program.lines)), f"{pattern!r}: {program}")


def resident_bytes(peer: Peer) -> int:
    status = Path(f"/proc/{peer.program.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def count_of(program: Program, pattern: str) -> int:
    return sum(bool(re.search(pattern, line)) for line in list(program.lines))


def test_lines_of_another_host_name_it_and_are_folded_with_ours(lan: MakeLan) -> None:
    _, b, driver = two(lan, "lines")
    says(driver, "^ready")
    says(driver, r"^ran at .*" + b.status()["node_id"])
    says(driver, r"^\(say pid=\d+, host=b\) many 2999$")
    driver.tell("")
    assert driver.wait() == 0, driver
    printed = [line for line in driver.lines if "same words" in line]
    assert len(printed) == 2, driver  # at once the first time; the other one when nothing came on top of it
    assert sum("host=b" in line for line in printed) == 1, driver
    many = [line for line in driver.lines if re.search(r"\) many \d+$", line)]
    assert many == [f"{many[0].rpartition(' ')[0]} {number}" for number in range(3000)], "in order, and all"


def test_the_last_prints_come_before_shutdown_returns(lan: MakeLan) -> None:
    """What a task on another host had printed, and what was in its pipe when its job ended."""
    _, b, driver = two(lan, "last")
    until(lambda: b.status()["workers"].get("leased"), "it runs there")
    says(driver, r"^\(say_and_stay pid=\d+, host=b\) it runs")
    driver.tell("")
    assert driver.wait() == 0, driver
    assert driver.lines[-1] == "over", driver
    until(lambda: not b.status()["mesh"]["foreign_jobs"], "b knows nothing of it any more")


@pytest.mark.slow
def test_a_driver_that_shows_nothing_costs_no_memory_and_hears_what_was_left_out(lan: MakeLan, tmp_path: Path) -> None:
    lines = 20_000  # 20 MB
    done = tmp_path / "done"
    a, b, driver = two(lan, "flood", str(lines), str(done))
    says(driver, "^ready")
    before = {peer.host.name: resident_bytes(peer) for peer in (a, b)}
    says(driver, r"host=b\) flood 0 ")
    driver.signal(signal.SIGSTOP)
    until(done.exists, "the task ends all the same", 60.0)
    grown = {peer.host.name: resident_bytes(peer) - before[peer.host.name] for peer in (a, b)}
    driver.signal(signal.SIGCONT)
    assert max(grown.values()) < 10 << 20, grown
    says(driver, r"^meshray \(host=b\): \d+ lines were left out here")
    driver.tell("")
    says(driver, f"^lines printed {lines}$")
    driver.tell("")
    assert driver.wait() == 0, driver
    left_out = sum(int(line.split("host=b): ")[1].split()[0]) for line in driver.lines if "were left out here" in line)
    assert count_of(driver, r"host=b\) flood \d+ ") + left_out == lines


def test_a_warning_of_another_peer_reaches_the_driver(lan: MakeLan) -> None:
    """A task on b creates an actor, so b's peer owns it; what it waits for is for the people of the driver on a."""
    _, _, driver = two(lan, "warning")
    says(driver, r"^meshray \(host=b\): actor Actor waits: no member can ever run it")
    driver.tell("")
    assert driver.wait() == 0, driver


def test_a_driver_that_is_killed_is_forgotten(lan: MakeLan) -> None:
    _, b, driver = two(lan, "last")
    until(lambda: b.status()["workers"].get("leased"), "it runs there")
    driver.kill()
    until(lambda: not b.status()["mesh"]["foreign_jobs"] and not b.status()["workers"].get("leased"), "all is over")
