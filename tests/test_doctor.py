"""`meshray doctor` where no mesh is needed: what it says of keys, ports, firewalls, and how it says it.

Between hosts it is in `tests/lan/test_doctor.py`.
"""

from __future__ import annotations

import json
import os
import resource
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from meshray import meshkey
from meshray.cli import doctor, of_host, of_network
from meshray.cli.commands import meshray
from meshray.cli.findings import Finding, Patient
from meshray.cli.members import RECENT_S
from meshray.local import PeerRecord
from meshray.meshkey import MeshKey
from meshray.transport.interfaces import Interface, Seen
from meshray.transport.mesh_port import BROKEN_OFF

KEY = MeshKey(bytes(range(32)))
ALONE = Patient(None)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MESHRAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MESHRAY_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "home"


def member(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name, "node_id": name * 16, "home": "", "is_self": False, "state": "alive",
        "addresses": ["127.0.0.1:1"], "python": "3.11", "incompatible": False, "version": of_network.__version__,
    } | changes  # fmt: skip


def patient(*members: dict[str, Any], port: int = 1, **changes: Any) -> Patient:
    record = PeerRecord(node="00", pid=1, name="desk", private=False, ready=True, folder="", mesh_port=port)
    mesh = {
        "mesh_id": KEY.founded_mesh().hex(), "key_id": KEY.id.hex(), "node_id": "self", "listens": [],
        "members": [member("self", is_self=True), *members], "refused": {}, "refused_there": {}, "no_link": {},
        "refused_ago_s": {}, "refused_there_ago_s": {},
        "dropped_records": {}, "other_key": 0,
    }  # fmt: skip
    return Patient(record, mesh | changes)


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


class TestKey:
    def test_none(self, home: Path) -> None:
        (finding,) = of_host.key(ALONE)
        assert finding.level == "warning"
        assert "belongs to no mesh" in finding.text
        assert not home.exists()

    def test_one(self) -> None:
        meshkey.make(KEY)
        (finding,) = of_host.key(ALONE)
        assert finding.level == "good"
        assert KEY.id.hex() in finding.text

    def test_one_that_others_may_read(self, home: Path) -> None:
        meshkey.make(KEY)
        (home / "mesh.key").chmod(0o644)
        (finding,) = of_host.key(ALONE)
        assert finding.level == "bad"
        assert "chmod 600" in finding.text

    def test_one_that_is_being_changed_and_a_peer_that_has_not_heard(self) -> None:
        meshkey.make(KEY)
        meshkey.stage(MeshKey.generate())
        assert levels(list(of_host.key(patient()))) == ["good", "warning"]
        meshkey.switch()
        assert levels(list(of_host.key(patient()))) == ["good", "bad"]


class TestPort:
    def test_taken_and_free(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(of_host, "dialled", lambda interfaces: ["127.0.0.1"])
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            taken = patient(port=port)
            (finding,) = of_host.port(Patient(taken.peer))
            assert finding.level == "bad"
            assert "Address already in use" in finding.text
        (finding,) = of_host.port(Patient(taken.peer))
        assert finding.level == "good"

    def test_of_a_peer_that_runs(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            place = f"127.0.0.1:{listener.getsockname()[1]}"
            assert levels(list(of_host.port(patient(listens=[place])))) == ["good"]
        (finding,) = of_host.port(patient(listens=[place]))
        assert finding.level == "bad"
        assert "refused" in finding.text

    def test_a_peer_that_listens_nowhere(self) -> None:
        (finding,) = of_host.port(patient(listens=[]))
        assert finding.level == "bad"
        assert "no other host reaches it" in finding.text

    def test_link_local_addresses_of_ipv6_are_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        flags = frozenset({"up", "broadcast", "multicast"})
        monkeypatch.setattr(of_host, "look", lambda: [Seen(Interface("eth0", 1, ("fe80::1",)), True, flags)])
        assert levels(list(of_host.addresses(ALONE))) == ["bad"]
        assert list(of_host.port(ALONE)) == []

    def test_a_peer_that_does_not_answer(self) -> None:
        """That its port is taken is no trouble besides, and no other port would help."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            stuck = patient(port=listener.getsockname()[1]).peer
            (finding,) = of_host.port(Patient(stuck, trouble="it hangs"))
        assert finding.level == "bad"
        assert "meshray stop" in finding.hint

    def test_a_peer_that_listens_at_loopback_alone(self) -> None:
        peer = msgspec.structs.replace(patient().peer, mesh_bind=["127.0.0.1"])
        (finding,) = of_host.addresses(Patient(peer))
        assert finding.level == "bad"
        assert "no other host reaches it" in finding.text
        (finding,) = of_host.addresses(Patient(peer, patient(member("a")).mesh))
        assert finding.level == "warning", "peers of this host do"

    def test_an_interface_that_is_down_or_has_no_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Binding to another address would not help."""
        flags = frozenset({"broadcast", "multicast"})
        seen = [
            Seen(Interface("lo", 1, ("127.0.0.1",)), True, frozenset({"up", "loopback"})),
            Seen(Interface("eth0", 2, ("10.0.0.1",)), False, flags),
            Seen(Interface("eth1", 3, ()), True, flags),
            Seen(Interface("docker0", 4, ("172.17.0.1",)), True, flags),
        ]
        monkeypatch.setattr(of_host, "look", lambda: seen)
        (finding,) = of_host.addresses(ALONE)
        assert finding.level == "bad"
        assert "eth0 is down, eth1 has no address" in finding.text
        assert "--bind" not in finding.hint
        monkeypatch.setattr(of_host, "look", lambda: [seen[0], seen[3]])
        (finding,) = of_host.addresses(ALONE)
        assert "--bind" in finding.hint


NFT_OPEN = "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n\t}\n}\n"
NFT_CLOSED = NFT_OPEN.replace("policy accept;", "policy drop;\n\t\ttcp dport { 22, 76370 } accept")
NFT_LAST = NFT_OPEN.replace(
    "policy accept;", "policy accept;\n\t\ttcp dport 22 accept\n\t\tcounter packets 1 bytes 2 drop"
)
NFT_NAMED = NFT_CLOSED.replace("22,", "22, 7637, 5353,")
NFT_OUTPUT = NFT_CLOSED.replace("hook input", "hook output")


class TestFirewall:
    @pytest.mark.parametrize(
        ("text", "closed"),
        [(NFT_OPEN, False), (NFT_CLOSED, True), (NFT_LAST, True), (NFT_NAMED, False), (NFT_OUTPUT, False), ("", False)],
    )
    def test_nft(self, text: str, closed: bool) -> None:
        assert bool(of_host.judge_nft(text, 7637)) is closed

    @pytest.mark.parametrize(
        ("text", "closed"),
        [
            ("-P INPUT ACCEPT\n-A INPUT -i lo -j ACCEPT\n", False),
            ("-P INPUT DROP\n", True),
            ("-P INPUT ACCEPT\n-A INPUT -p tcp --dport 22 -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp\n", True),
            ("-P INPUT DROP\n-A INPUT -p tcp --dport 7637 -j ACCEPT\n-A INPUT -p udp --dport 5353 -j ACCEPT\n", False),
            ("-P INPUT DROP\n-A INPUT -p tcp --dport 7637 -j ACCEPT\n", True),
        ],
    )
    def test_iptables(self, text: str, closed: bool) -> None:
        assert bool(of_host.judge_iptables(text, 7637)) is closed

    def test_ufw_and_firewalld(self) -> None:
        assert of_host.judge_ufw("Status: inactive\n", 7637) == ""
        assert "TCP 7637 nor UDP 5353" in of_host.judge_ufw("Status: active\n22/tcp ALLOW\n", 7637)
        assert of_host.judge_ufw("Status: active\n7637/tcp ALLOW\n5353/udp ALLOW\n", 7637) == ""
        assert of_host.judge_firewalld("services: mdns ssh\nports: 7637/tcp\n", 7637) == ""
        assert "TCP 7638" in of_host.judge_firewalld("services: mdns ssh\nports: 7637/tcp\n", 7638)

    @pytest.mark.parametrize(
        ("script", "level"),
        [
            ("echo 'Status: active'", "warning"),
            ("echo 'Status: inactive'", "good"),
            ("echo 'ERROR: You need to be root to run this script' >&2; exit 1", "unknown"),
        ],
    )
    def test_the_tools_are_asked(
        self, script: str, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tool = tmp_path / "ufw"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        monkeypatch.setattr(of_host.shutil, "which", lambda name, path=None: str(tool) if name == "ufw" else None)
        (finding,) = of_host.firewall(ALONE)
        assert (finding.about, finding.level) == ("firewall", level)

    def test_none_is_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(of_host.shutil, "which", lambda name, path=None: None)
        assert levels(list(of_host.firewall(ALONE))) == ["unknown"]


class TestHost:
    @pytest.mark.fault(36)
    def test_shared_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert levels(list(of_host.shared_memory(ALONE))) in (["good"], ["warning"])
        small = os.statvfs_result((4096, 4096, 16, 16, 16, 0, 0, 0, 0, 255))
        monkeypatch.setattr(of_host.os, "statvfs", lambda path: small)
        (finding,) = of_host.shared_memory(ALONE)
        assert finding.level == "warning"
        assert "--shm-size" in finding.hint

    def test_descriptors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 1024))
        assert levels(list(of_host.descriptors(ALONE))) == ["warning"]
        monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, resource.RLIM_INFINITY))
        assert levels(list(of_host.descriptors(ALONE))) == ["good"]

    def test_clock(self) -> None:
        assert levels(list(of_host.clock(ALONE)))[0] in ("good", "warning", "unknown")


class TestMembers:
    def test_versions(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            places = [f"127.0.0.1:{listener.getsockname()[1]}"]
            old = member("old", version="0.0.9", incompatible=True, python="3.9", addresses=places)
            found = list(of_network.members(patient(old, member("gone", state="dead"))))
        texts = [finding.text for finding in found if finding.level == "warning"]
        assert any("runs Python 3.9" in text for text in texts)
        assert any("runs meshray 0.0.9" in text for text in texts)
        assert all("gone" not in finding.about for finding in found)

    def test_one_that_cannot_be_reached(self) -> None:
        found = list(of_network.members(patient(member("b", addresses=["127.0.0.1:1", "nonsense"]))))
        assert levels(found) == ["bad"]
        assert "127.0.0.1:1: refused" in found[0].text
        assert "nonsense: no address" in found[0].text

    @pytest.mark.parametrize(
        "address", ["a..b:80", "127.0.0.1:65536", "127.0.0.1:0", "127.0.0.1", "é:1", "[fe80::1%a b]:1", "127.0.0.1:²"]
    )
    def test_one_that_gives_no_address(self, address: str) -> None:
        (finding,) = of_network.members(patient(member("b", addresses=[address])))
        assert finding.level == "bad"
        assert "no address" in finding.text

    def test_one_that_gives_a_name_and_moves_the_cursor(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            places = [f"localhost:{listener.getsockname()[1]}", "\x1b[2J\n"]
            found = list(of_network.members(patient(member("b", addresses=places))))
        assert levels(found) == ["good", "unknown"]
        assert "reached at localhost" in found[0].text
        assert found[0].text.isprintable()

    def test_its_own_looks_are_no_reason_to_worry(self) -> None:
        looked = patient(member("b", addresses=[]), refused={BROKEN_OFF: 2}, refused_ago_s={BROKEN_OFF: 1.0})
        (refused, _) = of_network.members(looked)
        assert refused.level == "unknown"
        assert "`meshray doctor`" in refused.text

    def test_refusals(self) -> None:
        sick = patient(refused={"unknown key": 3}, refused_there={"it does not know our key": 1},
                       refused_ago_s={"unknown key": 9.0}, refused_there_ago_s={"it does not know our key": 8.0},
                       dropped_records={"foreign": 2})  # fmt: skip
        found = list(of_network.members(sick))
        assert levels(found) == ["warning", "warning", "unknown", "unknown"]
        assert [finding.text for finding in found[:3]] == [
            "1 time, the last one 8 s ago, by whom this peer dialled: it does not know our key",
            "3 connections, the last one 9 s ago: unknown key",
            "2 records of other meshes heard on this network",
        ]
        one = patient(refused={"unknown key": 1}, refused_ago_s={"unknown key": 1.0}, dropped_records={"foreign": 1})
        assert [finding.text for finding in of_network.members(one)][:2] == [
            "1 connection, the last one 1 s ago: unknown key",
            "1 record of other meshes heard on this network",
        ]
        sick.mesh["refused_ago_s"] = sick.mesh["refused_there_ago_s"] = {}
        sick.mesh["refused_ago_s"]["unknown key"] = RECENT_S + 1
        assert levels(list(of_network.members(sick))) == ["unknown", "unknown"], "it is over"

    def test_a_key_that_was_changed_without_this_host_or_without_another(self) -> None:
        (alone,) = [each for each in of_network.members(patient(other_key=2)) if each.about == "other key"]
        assert alone.level == "warning"
        assert "without this host" in alone.text
        assert "meshray token | ssh THIS_HOST meshray join --replace" in alone.text
        told = list(of_network.members(patient(member("a", state="suspect"), other_key=1)))
        (beside,) = [each for each in told if each.about == "other key"]
        assert "a peer of this mesh is heard under another key: away when" in beside.text

    def test_with_whom_there_is_no_link(self) -> None:
        (finding, _) = of_network.members(patient(no_link={"10.0.0.1:7637": "no answer yet"}))
        assert (finding.level, finding.text) == ("warning", "10.0.0.1:7637: no answer yet")
        assert "firewall" in finding.hint


class TestTheCommand:
    FINDINGS = (Finding("key", "good", "is there"), Finding("port", "warning", "hm", "do this"))

    def run(self, *words: str, code: int, bad: bool, monkeypatch: pytest.MonkeyPatch) -> str:
        findings = [*self.FINDINGS, *([Finding("way", "bad", "is closed")] if bad else [])]
        monkeypatch.setattr(of_host, "CHECKS", [lambda patient: iter(findings)])
        monkeypatch.setattr(of_network, "CHECKS", [])
        done = CliRunner().invoke(meshray, ["doctor", *words])
        assert done.exit_code == code, done.output
        return done.output

    def test_for_people(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.run(code=0, bad=False, monkeypatch=monkeypatch).splitlines() == [
            "     ok  key: is there",
            "WARNING  port: hm",
            "         -> do this",
            "",
            "Nothing on this host keeps a mesh from working, with what is said above. "
            "More is shown when peers run, here and on another host.",
        ]
        odd = doctor.describe(Finding("way", "bad", "\x1b[2J\n"))
        assert odd == "    BAD  way: ?[2J?"
        said = self.run(code=1, bad=True, monkeypatch=monkeypatch)
        assert "    BAD  way: is closed" in said
        assert said.endswith("\nWhat is marked BAD keeps a mesh from working here.\n")
        two = doctor._summary(patient(), [Finding("way", "bad", "is closed")] * 2)
        assert two == "\nThe 2 things that are marked BAD keep a mesh from working here."

    def test_that_a_mesh_works_is_shown_by_other_members_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "find_patient", lambda: patient(member("a", state="dead")))
        told = self.run(code=0, bad=False, monkeypatch=monkeypatch)
        assert "Whether a mesh works here is not shown: the peer of this host is alone in its mesh" in told
        monkeypatch.setattr(doctor, "find_patient", lambda: patient(member("a"), member("b")))
        told = self.run(code=0, bad=False, monkeypatch=monkeypatch)
        assert "A mesh works here, with what is said above: 2 other members are there." in told

    def test_for_programs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = json.loads(self.run("--json", code=1, bad=True, monkeypatch=monkeypatch))
        assert [entry["level"] for entry in found] == ["good", "warning", "bad"]
        assert found[1] == {"about": "port", "level": "warning", "text": "hm", "hint": "do this"}

    def test_here_and_now(self) -> None:
        done = CliRunner().invoke(meshray, ["doctor", "--json"])
        found = json.loads(done.output)
        assert {"key", "clock", "shared memory", "descriptors", "firewall"} <= {entry["about"] for entry in found}
        assert doctor.find_patient() == ALONE
