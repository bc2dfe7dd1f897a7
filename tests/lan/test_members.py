"""Real peers on hosts: they find each other, see who is there, and notice who is gone.

All use the `test` preset, whose detector is five times as quick: no death within 1.4 s of the last answer, and one is
known to all some seconds later (docs/membership.md). Times are written here where something has to be shorter or longer
than that; no test asserts one.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meshray.meshkey import MeshKey
from meshray.resources import to_amounts
from meshray.tokens import read_token
from meshray.wire.peers import PROTOCOL
from tests.lan.network import Lan
from tests.lan.peers import CLI, Peer, agree
from tests.lan.test_discovery import Finder, give_key
from tests.until import until

MakeLan = Callable[..., Lan]

SHORT_S = 0.7
"""Of a stop that nobody dies of."""

PARTITION_S = 5.0
"""Of a partition that nobody dies of with the `default` preset: no death within 7 s of the last answer, while TCP sends
again what was lost 0.2, 0.6, 1.4, 3 and 6.2 s after the first time. (With the `test` preset 1.4 s would be both.)"""


def pause(seconds: float) -> None:
    """How long a fault lasts."""
    time.sleep(seconds)


class TestFinding:
    @pytest.mark.fault(5)
    def test_three_hosts_find_each_other_and_notice_a_death_and_a_goodbye(self, lan: MakeLan) -> None:
        network = lan("a", "b", "c")
        a, b, c = (Peer(host) for host in network.hosts.values())
        agree(a, b, c)
        row = next(member for member in a.mesh()["members"] if member["node_id"] == b.first)
        assert (row["name"], row["state"], row["python"]) == ("b", "alive", b.status()["python"])
        assert row["total"]["CPU"] == 2.0
        assert row["addresses"] == ["10.77.0.2:7637", "[fd77::2]:7637"]
        shown = network["a"].run(*CLI, "status")
        assert "3 members; this one listens at 10.77.0.1:7637" in shown
        assert "CPU 0/2" in shown
        network["c"].power_off()
        until(lambda: a.states()[c.first] == b.states()[c.first] == "dead", "both know that c is dead")
        b.stop()
        until(lambda: a.states()[b.first] == "left", "a knows that b has left")
        assert a.alive() == {a.first}

    def test_what_a_peer_says_of_itself_on_the_network(self, lan: MakeLan) -> None:
        """To whoever has the key: what it has, where it listens, now; and that it has ended."""
        network = lan("a", "b")
        finder = Finder(network["a"])
        b = Peer(network["b"], "--resources", '{"disk": 2}', "--num-gpus", "3")
        until(lambda: b.first in finder.now(), f"it is found: {finder.program}")
        found = finder.now()[b.first]
        (row,) = (member for member in b.mesh()["members"] if member["is_self"])
        assert (found["hosts"], found["port"]) == ([network["b"].ipv4, network["b"].ipv6], 7637)
        assert (found["protocol"], found["version"], found["python"]) == (PROTOCOL, row["version"], row["python"])
        assert found["incarnation"] == 1
        assert {"CPU": found["cpus"], "GPU": found["gpus"]} == to_amounts({"CPU": 2, "GPU": 3})
        assert found["memory_bytes"] == row["total"]["memory"] > 0
        assert found["resources"] == to_amounts({"disk": 2})
        network["b"].ip("address add 10.77.0.55/24 dev eth0")
        until(lambda: "10.77.0.55" in finder.now()[b.first]["hosts"], "it has another address")
        b.stop()
        until(lambda: b.first not in finder.now(), "it is withdrawn")

    @pytest.mark.parametrize("version", [4, 6])
    def test_hosts_with_one_version_of_ip(self, lan: MakeLan, version: int) -> None:
        network = lan("a", "b")
        for host in network.hosts.values():
            host.speak_only(version)
        a, b = (Peer(host) for host in network.hosts.values())
        agree(a, b)
        assert b.mesh()["listens"] == ["10.77.0.2:7637" if version == 4 else "[fd77::2]:7637"]

    def test_seeds_where_multicast_is_blocked(self, lan: MakeLan) -> None:
        """One is given on the command line, one in the environment; then the last peers seen are enough."""
        network = lan("a", "b", "c")
        network.everywhere(no_mdns=True)
        a = Peer(network["a"])
        b = Peer(network["b"], "--join", network["a"].ipv4)
        c = Peer(network["c"], MESHRAY_SEEDS=f"[{network['a'].ipv6}]:7637")
        agree(a, b, c)
        remembered = network["b"].folder / "home" / "peers.json"
        until(lambda: remembered.exists() and network["c"].ipv4 in remembered.read_text(), "b remembers c")
        b.stop()
        agree(Peer(network["b"]), a, c)
        assert network.stats()["b>a"]["lost"] > 0, "the switch has dropped no multicast"

    @pytest.mark.slow
    def test_a_name_stands_for_all_its_addresses(self, lan: MakeLan) -> None:
        """As a headless service of Kubernetes; one address is nobody's, and one name has none."""
        network = lan("a", "b")
        network.everywhere(no_mdns=True)
        a, host = Peer(network["a"]), network["b"]
        if Path("/etc/resolv.conf").exists():  # else the resolver asks this very host (resolv.conf(5))
            (host.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
            host.run("mount", "--bind", str(host.folder / "resolv.conf"), "/etc/resolv.conf")
        server = host.start("python", "-c", NAMES, "10.77.0.99", network["a"].ipv4)
        until(lambda: "ready" in server.lines, f"it answers: {server}")
        agree(a, Peer(host, "--join", "nobody.test,members.test"))

    def test_hosts_whose_first_address_is_of_a_network_that_the_other_is_not_on(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        for number, host in enumerate(network.hosts.values(), start=1):
            host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6")
            host.ip(
                f"address del {host.ipv4}/24 dev eth0",
                f"address add 192.168.{number}.1/24 dev eth0",
                f"address add {host.ipv4}/24 dev eth0",
                "route replace 224.0.0.0/4 dev eth0",
            )
        a, b = (Peer(host) for host in network.hosts.values())
        assert a.mesh()["listens"] == ["192.168.1.1:7637", "10.77.0.1:7637"]
        agree(a, b)

    @pytest.mark.fault(54)
    def test_another_key_is_refused_and_both_know_it(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        a = Peer(network["a"])
        b = Peer(network["b"], "--join", network["a"].ipv4, key=MeshKey.generate())
        until(lambda: a.mesh()["refused"], "a has counted it")
        until(lambda: b.mesh()["refused_there"], "b has counted it")
        assert a.alive() == {a.first}
        assert b.alive() == {b.first}
        assert b.logged(f"{network['a'].ipv4}:7637 does not let us in") == 1
        until(lambda: a.mesh()["dropped_records"].get("foreign"), "its record is dropped as well")

    @pytest.mark.fault(34, 35)
    def test_seeds_that_are_ourselves_or_a_foreign_program(self, lan: MakeLan) -> None:
        network = lan("a", "b", "c")
        network.everywhere(no_mdns=True)
        program = network["c"].start("python", "-c", FOREIGN)
        until(lambda: "ready" in program.lines, "it listens")
        give_key(network["c"])
        told = network["c"].run(*CLI, "start", status=1)
        assert "port 7637 of 10.77.0.3 is taken" in told
        a = Peer(network["a"], "--join", f"{network['a'].ipv4},[{network['a'].ipv6}],{network['c'].ipv4}")
        until(lambda: "somebody" in program.lines, "it is dialled")
        b = Peer(network["b"], "--join", f"{network['c'].ipv4},{network['b'].ipv4},{network['a'].ipv4}")
        agree(a, b)
        assert {member["name"] for member in a.mesh()["members"]} == {"a", "b"}

    def test_two_peers_of_one_host(self, lan: MakeLan) -> None:
        network = lan("a")
        a = Peer(network["a"], "--name", "one")
        b = Peer(network["a"], "--name", "two", "--port", "7638", folder="run2")
        agree(a, b)
        for peer, port in ((a, 7637), (b, 7638)):
            words = f"{sys.executable} -m meshray.cli token 2>/dev/null"
            token = read_token(network["a"].run("sh", "-c", words, **peer.environment))
            assert {seed.port for seed in token.seeds if seed.host == network["a"].ipv4} >= {port}

    def test_a_taken_port_is_named(self, lan: MakeLan) -> None:
        network = lan("a")
        a = Peer(network["a"])
        told = network["a"].run(*CLI, "start", "--name", "two", status=1)
        assert "port 7637 of 10.77.0.1 is taken" in told
        assert f"the peer 'a' on this host (pid {a.status()['pid']})" in told
        found = network["a"].run(
            *CLI, "start", status=1, MESHRAY_RUNTIME_DIR=str(network["a"].folder / "other"), TMPDIR="/tmp"
        )
        assert "It is a peer of yours, pid " in found
        assert f"MESHRAY_RUNTIME_DIR={network['a'].folder / 'run'} meshray stop` ends it" in found


class TestComingBack:
    @pytest.mark.fault(12)
    def test_a_short_stop_kills_nobody(self, lan: MakeLan) -> None:
        network = lan("a", "b", "c")
        a, b, c = (Peer(host) for host in network.hosts.values())
        agree(a, b, c)
        for _ in range(2):
            c.program.signal(signal.SIGSTOP)
            pause(SHORT_S)
            c.program.signal(signal.SIGCONT)
            pause(SHORT_S)
        until(lambda: a.alive() == b.alive() == c.alive() == {a.first, b.first, c.first}, "as it was")

    @pytest.mark.fault(11, 46)
    def test_one_that_slept_past_its_death_comes_back_as_another(self, lan: MakeLan) -> None:
        network = lan("a", "b", "c")
        a, b, c = (Peer(host) for host in network.hosts.values())
        agree(a, b, c)
        c.program.signal(signal.SIGSTOP)
        until(lambda: a.states()[c.first] == b.states()[c.first] == "dead", "both know that c is dead")
        c.program.signal(signal.SIGCONT)
        until(lambda: c.mesh()["lives"] > 1, "c knows it, too")
        agree(a, b, c)
        assert {a.first, b.first} < a.alive()  # it has accused nobody
        assert a.states()[c.first] == "dead"
        c.stop()

    @pytest.mark.fault(17)
    def test_a_restart_at_the_same_address(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        a, b = (Peer(host) for host in network.hosts.values())
        agree(a, b)
        b.program.kill()
        again = Peer(network["b"])
        agree(a, again)
        until(lambda: a.states()[b.first] == "dead", "the old one is dead")

    @pytest.mark.fault(21)
    def test_a_short_partition_kills_nobody(self, lan: MakeLan) -> None:
        network = lan("a", "b", "c")
        a, b, c = (Peer(host, preset="default") for host in network.hosts.values())
        agree(a, b, c)
        network.partition(["a", "b"], ["c"])
        pause(PARTITION_S)
        network.heal()
        until(lambda: a.alive() == b.alive() == c.alive() == {a.first, b.first, c.first}, "as it was")

    @pytest.mark.fault(22)
    def test_a_long_partition_heals_and_the_smaller_side_gives_in(self, lan: MakeLan) -> None:
        network = lan("a", "b", "c")
        a, b, c = (Peer(host) for host in network.hosts.values())
        agree(a, b, c)
        network.partition(["a", "b"], ["c"])
        until(lambda: a.states()[c.first] == b.states()[c.first] == "dead", "one side holds the other for dead")
        until(lambda: c.states()[a.first] == c.states()[b.first] == "dead", "and the other the one")
        network.heal()
        until(lambda: c.mesh()["lives"] > 1, "the smaller side gives in")
        agree(a, b, c)
        assert {a.first, b.first} < a.alive()

    @pytest.mark.fault(28)
    def test_an_interface_that_was_down(self, lan: MakeLan) -> None:
        network = lan("a", "b", "c")
        a, b, c = (Peer(host) for host in network.hosts.values())
        agree(a, b, c)
        network["c"].ip("link set eth0 down")
        until(lambda: a.states()[c.first] == "dead", "c is cut off")
        network["c"].ip(
            "link set eth0 up", "route replace 224.0.0.0/4 dev eth0",
            f"address replace {network['c'].ipv6}/64 dev eth0 nodad",
        )  # fmt: skip
        agree(a, b, c)
        until(lambda: "[fd77::3]:7637" in c.mesh()["listens"], "it listens at all its addresses again")

    @pytest.mark.slow
    @pytest.mark.fault(28)
    def test_a_host_that_has_no_network_when_its_peer_starts(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        network["b"].ip("link set eth0 down")
        b = Peer(network["b"])
        assert b.mesh()["listens"] == []
        assert "no address: it is cut off" in network["b"].run(*CLI, "status")
        a = Peer(network["a"])
        network["b"].ip("link set eth0 up", "route replace 224.0.0.0/4 dev eth0")
        agree(a, b)

    @pytest.mark.slow
    @pytest.mark.fault(28)
    def test_another_address(self, lan: MakeLan) -> None:
        network = lan("a", "b", "c")
        a, b, c = (Peer(host) for host in network.hosts.values())
        agree(a, b, c)
        network["c"].ip(f"address del {network['c'].ipv4}/24 dev eth0", "address add 10.77.0.55/24 dev eth0",
                        "route replace 224.0.0.0/4 dev eth0")  # fmt: skip

        def addresses(peer: Peer) -> list[list[str]]:
            now = c.mesh()["node_id"]
            return [member["addresses"] for member in peer.mesh()["members"] if member["node_id"] == now]

        moved = [["10.77.0.55:7637", f"[{network['c'].ipv6}]:7637"]]
        until(lambda: addresses(a) == addresses(b) == moved, "a and b know where c is now")
        agree(a, b, c)


NAMES = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    question, asker = server.recvfrom(512)
    name = question[12:question.index(b"\\0", 12)]
    kind = question[13 + len(name):15 + len(name)]
    known = name.startswith(b"\\x07members")
    addresses = sys.argv[1:] if known and kind == b"\\0\\1" else []
    answer = question[:2] + b"\\x81" + (b"\\x80" if known else b"\\x83")  # no error, or no such name
    answer += b"\\0\\1" + len(addresses).to_bytes(2, "big") + bytes(4) + question[12:17 + len(name)]
    for address in addresses:
        answer += b"\\xc0\\x0c\\0\\1\\0\\1" + bytes(4) + b"\\0\\4" + socket.inet_aton(address)
    server.sendto(answer, asker)
"""

FOREIGN = """
import socket
listener = socket.create_server(("0.0.0.0", 7637))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    print("somebody", flush=True)
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\\r\\n")
    connection.close()
"""

PROGRAM = """
import os
import meshray
meshray.init()

@meshray.remote
class Holder:
    def pid(self):
        return os.getpid()

holder = Holder.options(num_cpus=1).remote()
meshray.get(holder.pid.remote())
print("holds", [node["NodeManagerHostname"] for node in meshray.nodes()], flush=True)
input()
"""


def test_what_is_in_use_on_one_host_is_seen_on_the_other(lan: MakeLan) -> None:
    network = lan("a", "b")
    a, b = (Peer(host) for host in network.hosts.values())
    agree(a, b)

    def used() -> float:
        return sum(m["used"].get("CPU", 0.0) for m in b.mesh()["members"] if m["node_id"] == a.first)

    assert used() == 0.0
    program = network["a"].start("python", "-c", PROGRAM)
    until(lambda: program.lines or not program.running(), "the program runs")
    assert program.lines == ["holds ['a', 'b']"], program
    until(lambda: used() == 1.0, "b sees it")
    program.tell("")
    assert program.wait() == 0, program
    until(lambda: used() == 0.0, "b sees that, too")


def test_off_the_network_no_port_is_open_and_nothing_of_the_lan_is_loaded(lan: MakeLan) -> None:
    network = lan("a")
    a = Peer(network["a"], "--local", key=None)
    assert a.status()["mesh"] is None
    maps = Path(f"/proc/{a.program.pid}/maps").read_text()
    assert "zmq" not in maps
    assert "psutil" not in maps
    assert network["a"].run("ss", "-tuln").count("\n") == 0
    give_key(network["a"])
    told = network["a"].run(*CLI, "start", "--local", "--name", "two")
    assert "bring the next machine in" not in told
    assert network["a"].run("ss", "-tuln").count("\n") == 0
    network["a"].run(*CLI, "stop", "--all")
