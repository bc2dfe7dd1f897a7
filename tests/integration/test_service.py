"""The peer as a process, spoken to in the protocol itself by drivers that are nothing but an endpoint."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from meshray.cli.client import Visit
from meshray.ids import new_node, new_process
from meshray.launch import PeerSettings, Started, start_peer
from meshray.local import peer_process
from meshray.transport.endpoint import Endpoint
from meshray.wire import messages as m
from tests.until import until

M = TypeVar("M")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TIMEOUT_S = 20.0
STORE_BYTES = 64 << 20


class Driver:
    """A driver without a runtime: says what it is told, remembers what it hears."""

    def __init__(self, peer: Started, pid: int | None = None) -> None:
        self.peer = peer_process(peer.node)
        self.id = new_process(peer.node)
        self.pid = pid or os.getpid()
        self.endpoint = Endpoint(peer.folder, self.id)
        self.heard: list[Any] = []

    def say(self, message: Any) -> None:
        self.endpoint.send(self.peer, message)

    def attach(self, **changes: Any) -> m.Attached:
        job = m.JobInfo(self.id, sys.executable, sys.prefix, list(sys.path), os.getcwd(), "", "ns")
        attach = m.Attach(m.PROTOCOL, self.pid, PYTHON, job)
        for name, value in changes.items():
            setattr(attach, name, value)
        self.say(attach)
        return self.hear(m.Attached)

    def hear(self, kind: type[M], timeout_s: float = TIMEOUT_S) -> M:
        """The next message of this kind; others are kept."""
        found: list[M] = []

        def look() -> bool:
            self.heard += [message for _, message in self.endpoint.receive()]
            found.extend(message for message in self.heard if isinstance(message, kind))
            return bool(found)

        until(look, f"no {kind.__name__}, only {self.heard}", timeout_s)
        self.heard.remove(found[0])
        return found[0]

    def ask(self, what: str) -> Any:
        self.say(m.Ask(1, what))
        answer = self.hear(m.Answer)
        assert answer.failure is None, answer
        return msgspec.msgpack.decode(answer.data) if answer.data else None

    def demand(self, count: int, class_id: int = 1) -> None:
        self.say(m.Demand(class_id, count, {"CPU": 10_000}))

    def detach(self) -> None:
        self.say(m.Detach(77))
        while self.hear(m.Answer).request != 77:
            continue

    def close(self) -> None:
        self.endpoint.close(linger_ms=0)


def settings(**changes: Any) -> PeerSettings:
    base = PeerSettings(num_cpus=2, num_gpus=0, object_store_memory=STORE_BYTES, preset="test", node=new_node())
    return msgspec.structs.replace(base, **changes)


@pytest.fixture
def peer(_leaves_nothing: None) -> Iterator[Started]:
    """A standing peer with two CPUs."""
    started = start_peer(settings())
    yield started
    if not started.wait_ended(0):
        os.kill(started.pid, signal.SIGTERM)
    assert started.wait_ended(TIMEOUT_S), "the peer does not end"
    assert started.exit_status == 0, started.exit_status
    assert not started.folder.exists()
    assert not Path(started.record.store).exists()


@pytest.fixture
def driver(peer: Started) -> Iterator[Driver]:
    made = Driver(peer)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"protocol": 99}, "protocol 99, this peer speaks 1"),
        ({"python": "2.7"}, "Python 2.7"),
        ({"job": None}, "started no such worker"),
    ],
)
def test_who_does_not_fit_is_refused(driver: Driver, changes: dict[str, Any], says: str) -> None:
    assert says in driver.attach(**changes).refused
    assert driver.attach().refused == ""


def test_a_repeated_attach_is_answered_again(driver: Driver) -> None:
    assert not driver.attach().refused
    welcome = driver.attach()
    assert welcome.pid > 0
    assert Path(welcome.store_folder).is_dir()
    assert len(driver.ask("status")["drivers"]) == 1


def test_leases_come_and_go(driver: Driver) -> None:
    driver.attach()
    driver.demand(5)
    first, second = driver.hear(m.LeaseGranted), driver.hear(m.LeaseGranted)
    assert first.worker != second.worker
    assert driver.ask("resources")["available"]["CPU"] == 0
    driver.demand(0)
    driver.say(m.LeaseReturned([first.lease, second.lease]))
    assert driver.ask("resources")["available"]["CPU"] == 2


def test_a_worker_that_is_killed_is_told_and_replaced(driver: Driver) -> None:
    driver.attach()
    driver.demand(1)
    lease = driver.hear(m.LeaseGranted)
    pids = {process["worker_id"]: process["pid"] for process in driver.ask("status")["processes"]}
    os.kill(pids[lease.worker.hex()], signal.SIGKILL)
    lost = driver.hear(m.LeaseLost)
    assert (lost.lease, lost.failure.kind) == (lease.lease, "WorkerCrashedError")
    assert "SIGKILL" in lost.failure.message
    assert driver.hear(m.LeaseGranted).worker != lease.worker


def test_a_second_driver_gets_its_share(peer: Started, driver: Driver) -> None:
    driver.attach()
    driver.demand(1000)
    leases = {grant.lease for grant in (driver.hear(m.LeaseGranted), driver.hear(m.LeaseGranted))}
    other = Driver(peer)
    other.attach()
    other.demand(1)
    revoked = driver.hear(m.LeaseRevoked)
    assert revoked.lease in leases
    driver.say(m.LeaseReturned([revoked.lease]))
    assert other.hear(m.LeaseGranted).worker
    other.detach()
    other.close()
    assert driver.hear(m.LeaseGranted).worker


def test_detach_is_answered_when_all_is_gone(peer: Started, driver: Driver) -> None:
    driver.attach()
    driver.demand(2)
    driver.hear(m.LeaseGranted)
    driver.detach()
    watcher = Driver(peer)
    watcher.attach(job=None, observer=True)
    status = watcher.ask("status")
    assert status["drivers"] == []
    assert status["resources"]["available"]["CPU"] == 2
    watcher.close()


def test_nothing_is_kept_of_visits_though_the_visitor_lives(peer: Started) -> None:
    """As `meshray status --watch` does, once a second, for days."""

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{peer.pid}/fd"))

    visits = 50  # of which each took two
    before = descriptors()
    for _ in range(visits):
        with Visit(peer.record) as visit:
            counters = visit.ask("status")["counters"]
    until(lambda: descriptors() < before + visits, "it lets go of them; workers that begin have a few")
    assert counters.get("messages out of place", 0) == 0


@pytest.mark.fault(7)
def test_a_driver_that_is_killed_leaves_nothing(peer: Started) -> None:
    victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    driver = Driver(peer, victim.pid)
    driver.attach()
    driver.demand(2)
    driver.hear(m.LeaseGranted)
    victim.kill()
    victim.communicate()
    watcher = Driver(peer)
    watcher.attach(job=None, observer=True)
    until(lambda: watcher.ask("resources")["available"]["CPU"] == 2, "the slots to be free")
    assert watcher.ask("status")["drivers"] == []
    watcher.close()
    driver.close()


@pytest.mark.fault(47)
def test_garbage_and_strangers_are_counted_and_harmless(peer: Started, driver: Driver) -> None:
    address = f"{peer.folder}/{'0' * 16}"
    to, stranger = peer_process(peer.node), new_process(peer.node)
    hello = b"meshray1" + to + stranger
    opened = []
    for speech in (b"GET / HTTP/1.1\r\n" * 4, hello[::-1], hello + b"\x02\0\0\0\xff\xff", hello + b"\xff" * 4):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address)
        connection.sendall(speech)
        opened.append(connection)
    driver.demand(1)  # not attached yet
    driver.attach()

    def counted() -> bool:
        counters = driver.ask("status")["counters"]
        return bool(counters["refused messages"] == 4 and counters["messages out of place"] == 1)

    until(counted, "everything to be counted")
    for connection in opened:
        connection.close()


def test_what_can_never_run_is_told(driver: Driver) -> None:
    driver.attach()
    driver.say(m.Demand(1, 1, {"CPU": 90_000}))
    assert "{CPU: 9}, there is {CPU: 2}" in driver.hear(m.Infeasible).message


def test_a_worker_that_cannot_start_is_a_crash_loop(driver: Driver) -> None:
    job = m.JobInfo(driver.id, "/nonexistent/python", "/nonexistent", [], "/", "", "ns")
    driver.attach(job=job)
    driver.demand(1)
    assert "/nonexistent/python" in driver.hear(m.Infeasible).message


def test_stop_by_word(peer: Started, driver: Driver) -> None:
    driver.attach(job=None, observer=True)
    driver.ask("stop")
    assert peer.wait_ended(TIMEOUT_S)


STARTS_A_PEER = """
import sys
from meshray.launch import PeerSettings, start_private
started = start_private(PeerSettings(num_cpus=1, object_store_memory=1 << 24, preset="test"))
print(started.pid, started.folder, started.record.store, flush=True)
sys.stdin.read()
"""


@pytest.mark.fault(7)
def test_a_private_peer_ends_with_its_driver() -> None:
    victim = subprocess.Popen(
        [sys.executable, "-c", STARTS_A_PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert victim.stdout is not None
    pid, folder, store = victim.stdout.readline().split()
    pidfd = os.pidfd_open(int(pid))
    victim.kill()
    victim.communicate()
    assert select.select([pidfd], [], [], TIMEOUT_S)[0], "the peer lives on"
    os.close(pidfd)
    assert not Path(folder).exists()
    assert not Path(store).exists()
