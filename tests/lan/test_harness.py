"""The hosts and the switch themselves: without faults all arrives, and each fault does what it says."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lan.network import INIT, REPOSITORY, Host, Lan
from tests.lan.switch import Rule, Way
from tests.stress import MARK, marked
from tests.until import until

MakeLan = Callable[..., Lan]
PORT = "5000"


def test_a_stress_run_sees_what_it_has_started_on_hosts(lan: MakeLan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, "this run")
    network = lan("a")
    program = network["a"].start("sleep", "60")
    assert {network["a"].pid, program.pid} <= {process.pid for process in marked("this run")}
    assert marked("another run") == []


@pytest.fixture
def pair(lan: MakeLan) -> Lan:
    """Two hosts; `b` sends back what it gets."""
    network = lan("a", "b", seed=7)
    serve(network["b"])
    return network


def serve(host: Host) -> None:
    program = host.start("python", "-m", "tests.lan.echo", "serve", PORT)
    until(lambda: "ready" in program.lines, "the echo serves")


def ask(host: Host, address: str, count: int = 50) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(host.run("python", "-m", "tests.lan.echo", "ask", address, PORT, str(count)))
    return told


class TestHosts:
    def test_they_reach_each_other_and_nobody_else(self, pair: Lan) -> None:
        for address in (pair["b"].ipv4, pair["b"].ipv6):
            told = ask(pair["a"], address)
            assert (told["received"], told["doubled"], told["damaged"], told["in_order"]) == (50, 0, 0, True)
        links = pair["a"].run("ip", "-brief", "link").splitlines()
        assert sorted(line.split()[0] for line in links) == ["eth0", "lo"]

    def test_each_is_a_machine_of_its_own(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        program = "import os, socket, sys; open('/dev/shm/x', 'x'); print(socket.gethostname(), os.getpid() < 50)"
        for name in ("a", "b"):  # the second would find the file of the first
            assert network[name].run("python", "-c", program) == f"{name} True"
            assert network[name].run("python", "-c", "from meshray.local import *; print(home_folder())") == str(
                network.folder / name / "home"
            )
        assert not Path("/dev/shm/x").exists()

    def test_many_of_them(self, lan: MakeLan) -> None:
        network = lan(*"abcdef")
        serve(network["f"])
        for name in "abcde":
            assert ask(network[name], network["f"].ipv4, 5)["received"] == 5

    def test_programs_are_signalled_and_tell_their_end(self, lan: MakeLan) -> None:
        host = lan("a")["a"]
        host.run("sh", "-c", "exit 3", status=3)
        sleeper = host.start("sleep", "1000")
        sleeper.signal(signal.SIGSTOP)
        until(lambda: "T" in Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2], "it is stopped")
        sleeper.signal(signal.SIGCONT)
        sleeper.signal(signal.SIGTERM)
        assert sleeper.wait() == -signal.SIGTERM
        talker = host.start("cat")
        talker.tell("hello")
        until(lambda: talker.lines == ["hello"])
        talker.kill()

    def test_all_of_a_host_ends_with_it(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        inner = network["a"].start("sh", "-c", "setsid sleep 1000 & setsid sleep 1000 & echo started; wait")
        until(lambda: inner.lines == ["started"])
        seen = [line for line in network.left() if "host a" in line]
        assert sum("sleep" in line for line in seen) >= 2
        assert sum(str(INIT) in line for line in seen) >= 2, "the first process, and what has made the host"
        network["a"].power_off()
        assert inner.wait() != 0
        assert [line for line in network.left() if "host a" in line] == []
        serve(network["b"])  # and the switch goes on without it
        assert ask(network["b"], network["b"].ipv4, 5)["received"] == 5

    def test_real_peers_and_programs_run_there_each_for_itself(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        program = (
            "import meshray as ray\n"
            "@ray.remote\n"
            "def where():\n"
            "    import socket\n"
            "    return socket.gethostname()\n"
            "print(ray.get(where.remote()), len(ray.nodes()))\n"
        )
        for host in network.hosts.values():
            host.run("python", "-m", "meshray.cli", "start", "--local", "--num-cpus", "1", "--num-gpus", "0")
        for host in network.hosts.values():
            assert host.run("python", "-c", program) == f"{host.name} 1"
        assert "Peer 'a' (pid" in network["a"].run("python", "-m", "meshray.cli", "status")
        network["a"].run("python", "-m", "meshray.cli", "stop")
        assert "No peer runs" in network["a"].run("python", "-m", "meshray.cli", "status", status=1)
        network["b"].power_off()  # and what its peer had is nowhere else

    def test_nothing_is_left_when_the_test_run_is_killed(self, lan: MakeLan) -> None:
        lan()  # asks whether hosts can be made here
        program = (
            "import json, time\n"
            "from tests.lan.network import Lan\n"
            "network = Lan('a', 'b')\n"
            "network['a'].start('sleep', '1000')\n"
            "pids = [host.pid for host in network.hosts.values()] + [network._switch.pid]\n"
            "print(json.dumps([str(network.folder), pids]), flush=True)\n"
            "time.sleep(1000)\n"
        )
        run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        assert run.stdout is not None
        folder, pids = json.loads(run.stdout.readline())
        run.kill()
        run.wait()
        run.stdout.close()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "its hosts and its switch end")
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(Path(folder).rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            Path(folder).rmdir()


class TestFaults:
    def test_loss(self, pair: Lan) -> None:
        pair.rule("a", "b", loss=0.3)
        told = ask(pair["a"], pair["b"].ipv4, 200)
        assert 100 < told["received"] < 180
        assert pair.stats()["a>b"]["lost"] > 0
        assert "lost" not in pair.stats()["b>a"]
        pair.heal()
        assert ask(pair["a"], pair["b"].ipv4)["received"] == 50

    def test_duplication(self, pair: Lan) -> None:
        pair.rule("a", "b", duplicate=1.0)
        told = ask(pair["a"], pair["b"].ipv4)
        assert (told["received"], told["doubled"]) == (50, 50)

    def test_a_damaged_frame_is_dropped_by_its_receiver(self, pair: Lan) -> None:
        pair.rule("a", "b", corrupt=0.5)
        told = ask(pair["a"], pair["b"].ipv4, 100)
        assert told["received"] < 100
        assert told["damaged"] == 0

    def test_delay_and_jitter(self, pair: Lan) -> None:
        pair.everywhere(delay=0.1)
        told = ask(pair["a"], pair["b"].ipv4)
        assert told["received"] == 50
        assert told["least_s"] > 0.2
        assert told["in_order"]
        pair.everywhere(delay=0.1, jitter=0.09)
        told = ask(pair["a"], pair["b"].ipv4)
        assert told["received"] == 50
        assert not told["in_order"]

    def test_a_block_in_one_direction(self, pair: Lan) -> None:
        ask(pair["a"], pair["b"].ipv4, 1)  # who has which address is known
        pair.rule("b", "a", block=True)
        before = pair.stats()["a>b"]["out"]
        assert ask(pair["a"], pair["b"].ipv4, 10)["received"] == 0
        assert pair.stats()["a>b"]["out"] >= before + 10

    def test_partition_and_healing(self, lan: MakeLan) -> None:
        network = lan("a", "b", "c")
        serve(network["b"])
        network.partition("a", {"b", "c"})
        assert ask(network["a"], network["b"].ipv4, 5)["received"] == 0
        assert ask(network["c"], network["b"].ipv4, 5)["received"] == 5
        network.heal()
        # The first ones may still be lost: the kernel gives up on an address that it has asked for in vain.
        until(lambda: ask(network["a"], network["b"].ipv4, 5)["received"] == 5, "they reach each other again")

    def test_a_limited_rate(self, pair: Lan) -> None:
        pair.rule("a", "b", rate=1_000_000, queue_bytes=4096)
        told = ask(pair["a"], pair["b"].ipv4, 100)  # 554 bytes each 2 ms are more than twice as much
        assert 10 < told["received"] < 90
        assert pair.stats()["a>b"]["overflowed"] > 0

    def test_a_pulled_cable(self, pair: Lan) -> None:
        ask(pair["a"], pair["b"].ipv4, 1)  # who has which address is known
        pair.pull_cable("a")
        assert "NO-CARRIER" in pair["a"].run("ip", "link", "show", "eth0")
        assert ask(pair["a"], pair["b"].ipv4, 5)["received"] == 0
        before = pair.stats()["b>a"]["out"]
        ask(pair["b"], pair["a"].ipv4, 5)
        assert pair.stats()["b>a"]["out"] == before, "nor does it hear anything"
        pair.plug_cable("a")
        until(lambda: ask(pair["a"], pair["b"].ipv4, 5)["received"] == 5, "they reach each other again")

    def test_large_frames_with_offloads(self, lan: MakeLan) -> None:
        network = lan("a", "b", offload=True)
        receiver = (
            "import hashlib, socket\n"
            "s = socket.create_server(('10.77.0.2', 5000)); print('ready', flush=True)\n"
            "c, _ = s.accept(); h = hashlib.sha256(); n = 0\n"
            "while data := c.recv(1 << 20): h.update(data); n += len(data)\n"
            "print(n, h.hexdigest())\n"
        )
        sender = (
            "import hashlib, os, socket\n"
            "data = os.urandom(20_000_000); c = socket.create_connection(('10.77.0.2', 5000)); c.sendall(data)\n"
            "print(len(data), hashlib.sha256(data).hexdigest())\n"
        )
        program = network["b"].start("python", "-c", receiver)
        until(lambda: "ready" in program.lines)
        told = network["a"].run("python", "-c", sender)
        assert program.wait() == 0
        assert program.lines[-1] == told
        assert network.stats()["a>b"]["in"] < 20_000_000 / 1500

    def test_a_wrong_command_is_told(self, pair: Lan) -> None:
        with pytest.raises(RuntimeError, match="no such command"):
            pair._command(do="dance")
        with pytest.raises(RuntimeError, match="TypeError"):
            pair.rule("a", "b", lost=0.5)
        assert ask(pair["a"], pair["b"].ipv4, 1)["received"] == 1


class TestWays:
    """The rule of one way, without a network."""

    FRAME = bytes(100)

    @staticmethod
    def fates(seed: int, rule: Rule) -> list[list[tuple[float, bytes]]]:
        way = Way(random.Random(seed), rule)
        return [way.schedule(TestWays.FRAME, 0.0, 14) for _ in range(200)]

    def test_the_seed_decides(self) -> None:
        rule = Rule(loss=0.2, duplicate=0.2, corrupt=0.2, delay=0.1, jitter=0.05)
        assert self.fates(1, rule) == self.fates(1, rule)
        assert self.fates(1, rule) != self.fates(2, rule)

    def test_damage_is_one_bit_behind_the_header(self) -> None:
        for fate in self.fates(3, Rule(corrupt=1.0)):
            ((_, frame),) = fate
            assert frame[:14] == self.FRAME[:14]
            assert sum(byte.bit_count() for byte in frame) == 1

    def test_a_limited_way_sends_one_after_the_other_and_its_queue_is_bounded(self) -> None:
        fates = self.fates(4, Rule(rate=8000, queue_bytes=1000))
        assert [fate[0][0] for fate in fates if fate] == [pytest.approx(0.1 * (n + 1)) for n in range(10)]

    def test_nothing_arrives_before_it_was_sent(self) -> None:
        assert all(when >= 0.0 for fate in self.fates(5, Rule(delay=0.01, jitter=1.0)) for when, _ in fate)
