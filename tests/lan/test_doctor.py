"""`meshray doctor` between hosts: it sees what the switch does to multicast and to large packets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.lan.network import Host, Lan
from tests.lan.peers import CLI, Peer, agree
from tests.until import until

MakeLan = Callable[..., Lan]


def examine(host: Host, status: int = 0) -> dict[str, list[tuple[str, str]]]:
    """What it finds: about -> levels and texts."""
    told: list[dict[str, Any]] = json.loads(host.run(*CLI, "doctor", "--json", status=status))
    found: dict[str, list[tuple[str, str]]] = {}
    for entry in told:
        found.setdefault(entry["about"], []).append((entry["level"], entry["text"]))
    return found


def test_all_is_well(lan: MakeLan) -> None:
    network = lan("a", "b", "c")
    a, b, c = (Peer(host) for host in network.hosts.values())
    agree(a, b, c)
    found = examine(network["a"])
    assert found["discovery"] == [("good", "all 2 other members are heard")]
    assert found["multicast on eth0, IPv4"] == found["multicast on eth0, IPv6"]
    assert found["multicast on eth0, IPv4"][0][0] == "good"
    assert [level for level, _ in found["port"]] == ["good", "good"]
    for name, peer in (("b", b), ("c", c)):
        reached, passed = found[f"member {name} ({peer.home[:8]})"]
        assert reached == ("good", f"reached at {network[name].ipv4}:7637, [{network[name].ipv6}]:7637")
        assert passed == ("good", "packets of 1500 bytes, the MTU here, pass")
    shown = network["a"].run(*CLI, "doctor")
    assert "A mesh works here" in shown
    assert "2 other members are there" in shown


@pytest.mark.slow
def test_multicast_that_the_switch_drops(lan: MakeLan) -> None:
    network = lan("a", "b", "c")
    network.everywhere(no_mdns=True)
    a = Peer(network["a"])
    b, c = (Peer(network[name], "--join", network["a"].ipv4) for name in "bc")
    agree(a, b, c)
    level, text = examine(network["a"])["discovery"][0]
    assert level == "warning"
    assert text.startswith("2 of 2 other members are not heard: b, c.")
    assert "--join HOST:PORT" in network["b"].run(*CLI, "doctor")
    network.heal()
    assert examine(network["a"])["discovery"] == [("good", "all 2 other members are heard")]


def test_alone(lan: MakeLan) -> None:
    network = lan("a", "b")
    network.everywhere(no_mdns=True)
    Peer(network["b"])
    found = examine(network["a"])
    assert found["discovery"][0][0] == "unknown"
    assert found["key"][0][0] == "warning"
    assert [level for level, _ in found["port"]] == ["good", "good"]
    network["a"].ip("link set eth0 down")
    ((level, text),) = examine(network["a"], status=1)["addresses"]
    assert (level, text) == ("bad", "no interface of a LAN can be used now: eth0 is down")
    assert "--bind" not in network["a"].run(*CLI, "doctor", status=1)


@pytest.mark.fault(33)
@pytest.mark.slow
@pytest.mark.parametrize("towards", ["a", "b"])
def test_a_way_that_drops_large_packets(lan: MakeLan, towards: str) -> None:
    network = lan("a", "b")
    a, b = (Peer(host) for host in network.hosts.values())
    agree(a, b)
    network.rule("b" if towards == "a" else "a", towards, frame_max_bytes=1400 + 14)
    name = f"member b ({b.home[:8]})"
    level, text = examine(network["a"], status=1)[name][1]
    assert level == "bad"
    assert text == "packets of 1500 bytes, the MTU here, vanish; 1400 bytes pass: connections are made, and then hang"
    network.heal()
    assert examine(network["a"])[name][1][0] == "good"


@pytest.mark.slow
def test_an_address_of_a_member_to_which_there_is_no_way(lan: MakeLan) -> None:
    network = lan("a", "b")
    a, b = (Peer(host) for host in network.hosts.values())
    agree(a, b)
    network["b"].ip("address add 10.99.0.1/24 dev eth0")
    until(lambda: any("10.99.0.1:7637" in m["addresses"] for m in a.mesh()["members"]), "a knows of it")
    level, text = examine(network["a"])[f"member b ({b.home[:8]})"][0]
    assert level == "good"
    assert "; not 10.99.0.1:7637:" in text
