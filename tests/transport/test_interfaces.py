from __future__ import annotations

from pathlib import Path

import pytest

from meshray.transport.interfaces import (
    Interface,
    InterfaceError,
    Seen,
    _tentative,
    check_bind,
    choose,
    dialled,
    look,
    reachable,
    without_zones,
)


def seen(name: str, *addresses: str, up: bool = True, flags: str = "up,broadcast,running,multicast") -> Seen:
    return Seen(Interface(name, 1, addresses), up, frozenset(flags.split(",")))


LAN = seen("eth0", "192.168.1.2", "fe80::1", "fd00::2")


@pytest.mark.parametrize("name", ["eth0", "enp3s0", "wlan0", "wlp2s0", "en0", "br0", "bond0", "eth0.5"])
def test_a_lan(name: str) -> None:
    entry = seen(name, "192.168.1.2")
    assert choose([entry]) == [entry.interface]


@pytest.mark.parametrize(
    "name",
    ["docker0", "veth12ab", "br-0123456789ab", "virbr0", "cni0", "flannel.1", "tun0", "tap0", "wg0", "tailscale0",
     "ztabc", "ppp0", "podman0", "lxcbr0", "vmnet8"],
)  # fmt: skip
def test_what_containers_and_vpns_bring_along_is_none(name: str) -> None:
    assert choose([seen(name, "172.17.0.1")]) == []


def test_neither_is_what_cannot_serve() -> None:
    assert choose([seen("eth0", "10.0.0.1", up=False)]) == []
    assert choose([seen("eth0")]) == []
    assert choose([seen("eth0", "10.0.0.1", flags="up,broadcast,running")]) == []
    assert choose([seen("lo", "127.0.0.1", flags="up,loopback,multicast")]) == []
    assert choose([seen("vpn", "10.0.0.1", flags="up,pointopoint,multicast")]) == []


def test_bind_takes_what_it_names_and_nothing_else() -> None:
    vpn = seen("wg0", "10.8.0.2", flags="up,pointopoint")
    assert choose([LAN, vpn], ["10.8.0.2"]) == [vpn.interface]
    assert choose([LAN, vpn], ["10.9.9.9"]) == []  # gone: nothing takes its place
    check_bind([LAN, vpn], ["10.8.0.2", "fd00:0::2"])
    with pytest.raises(InterfaceError, match=r"10\.9\.9\.9.*192\.168\.1\.2 \(eth0\).*10\.8\.0\.2 \(wg0\)"):
        check_bind([LAN, vpn], ["10.9.9.9"])
    with pytest.raises(InterfaceError, match="'eth0' is no IP address"):
        check_bind([LAN], ["eth0"])
    for address in ("fe80::1", "fe80::1%eth0"):
        with pytest.raises(InterfaceError, match="link-local IPv6 address"):
            check_bind([LAN], [address])
    for address in ("0.0.0.0", "::"):  # all of them
        with pytest.raises(InterfaceError, match="no interface of this host has the address"):
            check_bind([LAN], [address])
    check_bind([seen("eth0", "169.254.0.1")], ["169.254.0.1"])  # of IPv4 there is no zone to know


def test_others_reach_us_by_ipv4_first_and_link_local_last() -> None:
    assert reachable([LAN.interface]) == ["192.168.1.2", "fd00::2"]
    assert reachable([Interface("eth0", 1, ("fe80::1",)), Interface("eth1", 2, ("10.0.0.1",))]) == [
        "10.0.0.1",
        "fe80::1",
    ]
    assert reachable([Interface("eth0", 1, ("169.254.0.1",))]) == ["169.254.0.1"]
    many = Interface("eth0", 1, tuple(f"fd00::{number}" for number in range(20)))
    assert len(reachable([many])) == 6
    assert reachable([]) == []


def test_a_peer_listens_where_others_can_dial_it() -> None:
    assert dialled([LAN.interface]) == ["192.168.1.2", "fd00::2"]
    assert dialled([Interface("eth0", 1, ("fe80::1",))]) == []
    assert dialled([Interface("eth0", 1, ("169.254.0.1", "fe80::1"))]) == ["169.254.0.1"]
    assert without_zones(["fe80::1%eth0", "10.0.0.1"]) == ["10.0.0.1"]


def test_an_address_that_is_not_ready_is_no_address_yet(tmp_path: Path) -> None:
    table = tmp_path / "if_inet6"
    table.write_text(
        "00000000000000000000000000000001 01 80 10 80       lo\n"
        "fe800000000000000000000000000001 02 40 20 c0     eth0\n"  # tentative, permanent
        "fe800000000000000000000000000002 02 40 20 c4     eth0\n"  # and optimistic
        "fd000000000000000000000000000003 02 40 00 88     eth0\n"  # refused: somebody else has it
        "fd000000000000000000000000000004 02 40 00 a0     eth0\n"  # deprecated
    )
    assert _tentative(table) == {("eth0", "fe80::1"), ("eth0", "fd00::3")}
    assert _tentative(tmp_path / "none") == set()


def test_this_host_has_interfaces() -> None:
    there = {entry.interface.name: entry for entry in look()}
    assert "127.0.0.1" in there["lo"].interface.addresses
    assert "loopback" in there["lo"].flags
