"""Strangers on the LAN against real peers: floods, garbage, old records. Members go on, and what came is counted."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import msgspec
import pytest

from meshray.meshkey import MeshKey
from meshray.wire.advert import encode, service_name
from tests.lan.network import Lan
from tests.lan.peers import Peer, agree
from tests.lan.test_discovery import KEY, _advert, forge
from tests.until import until

MakeLan = Callable[..., Lan]

FLOOD = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
silent = []
for number in range(2000):
    stranger = socket.socket()
    stranger.setblocking(False)
    stranger.connect_ex((sys.argv[1], 7637))
    silent.append(stranger)
print("knocks", flush=True)
sys.stdin.readline()
"""

GARBAGE = """
import os, socket, struct, sys
greeting = b"\\xff" + bytes(8) + b"\\x7f\\x03\\x01" + b"CURVE".ljust(20, b"\\0") + bytes(32)
for garbage in (
    b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n",
    os.urandom(100_000),
    greeting + os.urandom(10_000),
    greeting + b"\\x06" + struct.pack(">Q", 2**62),
    greeting.replace(b"CURVE", b"NULL\\0"),
    b"\\x91" * 1_000_000,
    b"",
):
    for _ in range(5):
        with socket.create_connection((sys.argv[1], 7637)) as stranger:
            try:
                stranger.sendall(garbage)
            except OSError:
                pass  # thrown out already
print("said", flush=True)
"""

DIALLED = """
import select, socket
servers = [socket.create_server(("0.0.0.0", port)) for port in (7000, 7001, 7002)]
print("ready", flush=True)
while True:
    for server in select.select(servers, [], [])[0]:
        server.accept()[0].close()
        print(server.getsockname()[1], flush=True)
"""

TASKS = """
import sys, meshray
meshray.init(address="auto")

@meshray.remote
def one():
    return 1

done = 0
while True:
    done += sum(meshray.get([one.remote() for _ in range(10)]))
    print(done, flush=True)
    if not sys.stdin.readline().strip():
        break
"""


@pytest.mark.fault(40, 48)
def test_two_thousand_silent_connections(lan: MakeLan) -> None:
    network = lan("a", "b", "stranger")
    a, b = Peer(network["a"]), Peer(network["b"])
    agree(a, b)
    tasks = network["a"].start("python", "-c", TASKS)
    until(lambda: "10" in tasks.lines, "tasks run")  # whatever else is said: if one runs on b, of the program's folder
    flood = network["stranger"].start("python", "-c", FLOOD, network["a"].ipv4)
    until(lambda: "knocks" in flood.lines, f"it has begun: {flood}")
    until(lambda: a.mesh()["counters"].get("floods held off"), "the door is shut")
    before = a.mesh()["counters"]["messages received"]
    tasks.tell("more")
    until(lambda: "20" in tasks.lines, "tasks go on")
    until(lambda: a.mesh()["counters"]["messages received"] > before + 10, "members go on")
    assert a.living() == b.living() == {a.first, b.first}
    flood.kill()
    tasks.tell("")
    assert tasks.wait() == 0, tasks
    c = Peer(network["stranger"])  # and somebody with the key gets in again
    agree(a, b, c)
    assert {a.first, b.first} < a.living(), "nobody has died of it"


@pytest.mark.fault(47)
def test_garbage(lan: MakeLan) -> None:
    network = lan("a", "b", "stranger")
    a, b = Peer(network["a"]), Peer(network["b"])
    agree(a, b)
    for address in (network["a"].ipv4, network["a"].ipv6):
        network["stranger"].run("python", "-c", GARBAGE, address)
    until(lambda: a.mesh()["refused"], "it is counted")
    agree(a, b)
    assert a.living() == {a.first, b.first}
    assert a.mesh()["lives"] == b.mesh()["lives"] == 1


@pytest.mark.fault(54)
def test_what_is_forged_or_foreign_is_dialled_by_nobody(lan: MakeLan) -> None:
    network = lan("a", "stranger")
    stranger = network["stranger"]
    program = stranger.start("python", "-c", DIALLED)
    until(lambda: "ready" in program.lines, f"it listens: {program}")
    a = Peer(network["a"])

    def record(node: bytes, port: int, key: MeshKey = KEY) -> bytes:
        address = ipaddress.ip_address(stranger.ipv4).packed
        return encode(msgspec.structs.replace(_advert(node), addresses=[address], port=port), key.founded_mesh(), key)

    other = MeshKey.generate()
    forged = bytearray(record(b"\x02" * 8, 7001))
    forged[-1] ^= 1
    forge(stranger, service_name(b"\x01" * 8), record(b"\x01" * 8, 7000, other))
    forge(stranger, service_name(b"\x02" * 8), bytes(forged))
    until(lambda: {"foreign", "forged"} <= a.mesh()["dropped_records"].keys(), "they are counted")
    forge(stranger, service_name(b"\x03" * 8), record(b"\x03" * 8, 7002))
    until(lambda: "7002" in program.lines, "one that has the key is dialled")
    assert set(program.lines) == {"ready", "7002"}


@pytest.mark.fault(54)
def test_records_that_were_repeated_or_made_up(lan: MakeLan) -> None:
    """The last record of a dead peer leads to a dial in vain; one of another mesh, or a forged one, to none."""
    network = lan("a", "b", "stranger")
    a, b = Peer(network["a"]), Peer(network["b"])
    agree(a, b)
    b.program.kill()
    until(lambda: a.states()[b.first] == "dead", "b is dead")
    sound = encode(_advert(bytes.fromhex(b.first)), KEY.founded_mesh(), KEY)
    forge(network["stranger"], service_name(bytes.fromhex(b.first)), sound)
    other = MeshKey.generate()
    forged = bytearray(sound)
    forged[-1] ^= 1
    forge(network["stranger"], service_name(b"\x01" * 8), encode(_advert(b"\x01" * 8), other.founded_mesh(), other))
    forge(network["stranger"], service_name(b"\x02" * 8), bytes(forged))
    until(lambda: {"foreign", "forged"} <= a.mesh()["dropped_records"].keys(), "they are counted")
    again = Peer(network["b"])  # and b itself is found all the same
    agree(a, again)
    assert a.states()[b.first] == "dead"
