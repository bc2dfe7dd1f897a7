"""What a host at work shows to the network: to somebody who hears all of it, and to somebody who tries its ports."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

from tests.lan.network import Host, Lan
from tests.lan.peers import Peer, agree
from tests.lan.test_discovery import KEY
from tests.until import until

MakeLan = Callable[..., Lan]
PORT = 7637
LARGE_BYTES = 3_000_000
CURVE_GREETING = b"\x7f\x03", b"CURVE".ljust(20, b"\0")
"""The end of ZMTP's signature with the major version, and the mechanism (RFC 23)."""

PROGRAM = """
import sys
import numpy
import meshray

SECRET, VISIBLE = sys.argv[1:]
meshray.init("auto", namespace=f"{SECRET} namespace")
large = numpy.frombuffer(SECRET.encode() * (int(3e6) // len(SECRET)), numpy.uint8)


@meshray.remote(resources={VISIBLE: 1}, max_retries=0)
def work(text, small, large):
    print(f"{SECRET} is printed")
    assert text == SECRET and small == [SECRET] and bytes(large[: len(SECRET)]) == SECRET.encode()
    return {SECRET: text}, meshray.put(numpy.array(large))


@meshray.remote(resources={VISIBLE: 1}, max_retries=0)
def fail():
    raise ValueError(SECRET)


@meshray.remote(resources={VISIBLE: 1})
class Keeper:
    def __init__(self, word):
        self.word = word

    def tell(self, more):
        return self.word + more


told, ref = meshray.get(work.remote(SECRET, [SECRET], meshray.put(large)))
assert told == {SECRET: SECRET} and bytes(meshray.get(ref)) == bytes(large)
try:
    meshray.get(fail.remote())
except ValueError as error:
    assert SECRET in str(error)
keeper = Keeper.options(name=f"{SECRET} name").remote(SECRET)
assert meshray.get(keeper.tell.remote(SECRET)) == 2 * SECRET
print("done", flush=True)
sys.stdin.readline()
"""

PLAIN = """
import socket, sys
with socket.create_server((sys.argv[1], 9)) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    with connection:
        while connection.recv(1000):
            pass
"""

SAY = "import socket, sys; socket.create_connection((sys.argv[1], 9)).sendall(sys.argv[2].encode())"


def sockets(host: Host, kind: str) -> set[str]:
    """Local ends of the sockets that anybody may send to: listening ones of TCP (`t`), those of UDP (`u`)."""
    return {line.split()[3] for line in host.run("ss", f"-Hln{kind}").splitlines()}


def test_whoever_hears_all_of_it_reads_nothing_and_finds_one_port(lan: MakeLan) -> None:
    network = lan("a", "b")
    a, b = network["a"], network["b"]
    b.ip(
        "link add docker0 type bridge", "address add 172.17.0.1/16 dev docker0", "link set docker0 up",
        "tuntap add wg0 mode tun", "address add 172.19.0.1/16 dev wg0", "link set wg0 up",
    )  # fmt: skip
    sniffer = b.start("python", "-m", "tests.lan.sniffer")
    until(lambda: "hears" in sniffer.lines or not sniffer.running(), f"it hears: {sniffer}")
    secret, visible = f"secret-{secrets.token_hex(8)}", f"seen-{secrets.token_hex(4)}"
    peers = (
        Peer(a, "--labels", json.dumps({"zone": secret})),
        Peer(b, "--name", f"{secret} host", "--resources", json.dumps({visible: 4})),
    )
    agree(*peers)
    (a.folder / "program").mkdir()
    (a.folder / "program" / "program.py").write_text(PROGRAM)
    program = a.start("python", str(a.folder / "program" / "program.py"), secret, visible)
    until(lambda: "done" in program.lines or not program.running(), f"it works: {program}")
    assert "done" in program.lines, program
    assert any(f"{secret} is printed" in line for line in program.lines), program

    assert sockets(b, "t") == {f"{b.ipv4}:{PORT}", f"[{b.ipv6}]:{PORT}"}
    assert {end.rpartition(":")[2] for end in sockets(b, "u")} == {"5353"}, "of multicast DNS alone"
    program.tell("")
    assert program.wait() == 0, program

    plain = b.start("python", "-c", PLAIN, b.ipv4)
    until(lambda: "ready" in plain.lines, "it listens")
    a.run("python", "-c", SAY, b.ipv4, secret)
    assert plain.wait() == 0, plain
    heard = hear(sniffer, secret.encode(), visible.encode(), KEY.secret)
    shown = [way for way in heard["tcp"] if way["found"]]
    assert [(way["to"], way["found"]) for way in shown] == [(f"{b.ipv4}:9", [secret.encode().hex()])], "what is plain"
    assert heard["udp"]["found"] == [visible.encode().hex()], "names of resources are for all to see"

    ours = [way for way in heard["tcp"] if not {way["from"], way["to"]} & {f"{b.ipv4}:9"}]
    assert sum(way["bytes"] for way in ours) > 2 * LARGE_BYTES, "all that went there and came back was heard"
    for way in ours:
        assert any(end.endswith(f":{PORT}") for end in (way["from"], way["to"])), f"another port: {way}"
        begins = bytes.fromhex(way["begins"])
        assert not begins or (begins[9:11], begins[12:32]) == CURVE_GREETING, f"another protocol: {way}"


def hear(sniffer: Any, *words: bytes) -> dict[str, Any]:
    sniffer.tell(json.dumps([word.hex() for word in words]))
    until(lambda: sniffer.json_lines() or not sniffer.running(), f"it tells: {sniffer}")
    found: dict[str, Any] = sniffer.json_lines()[-1]
    return found
