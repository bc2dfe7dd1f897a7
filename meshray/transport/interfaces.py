"""Which interfaces of this host are the LAN, which addresses others reach it by, and when that changes.

By default an interface counts that is up, can multicast, and is neither loopback, nor point to point, nor one of those
that containers, virtual machines and VPNs bring along: what is behind those is this very host, or not a LAN. `bind`
overrides all of it: the addresses that it names, and no others, on whatever interface they are.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import psutil

from meshray.errors import MeshrayError
from meshray.wire.advert import ADDRESSES_MAX

LEFT_OUT = (
    # containers and virtual machines
    "docker*", "veth*", "br-*", "virbr*", "vnet*", "cni*", "flannel*", "cali*", "cilium*", "kube-*", "weave*",
    "podman*", "lxc*", "lxd*", "vmnet*", "vboxnet*", "dummy*", "ifb*",
    # VPNs and tunnels
    "tun*", "tap*", "utun*", "wg*", "tailscale*", "zt*", "ppp*", "ipsec*", "nordlynx*", "gre*", "sit*", "ip6tnl*",
    # of Apple, between devices
    "awdl*", "llw*",
)  # fmt: skip
"""Names of interfaces that are no LAN, as patterns."""

_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100  # linux/rtnetlink.h
_NOTICE_BYTES = 1 << 16


class InterfaceError(MeshrayError):
    """An address to bind is none of this host's; the text names those that are."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface that is up and can multicast (or was bound by name of its address)."""

    name: str
    index: int
    addresses: tuple[str, ...]  # IPv4 and IPv6, without zones

    def has_ipv6(self) -> bool:
        return any(":" in address for address in self.addresses)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the system says of an interface."""

    interface: Interface
    up: bool
    flags: frozenset[str]  # as ifconfig names them


def look() -> list[Seen]:
    """All interfaces of this host (of this network namespace), as they are now, with the addresses that can be used."""
    stats = psutil.net_if_stats()
    tentative = _tentative(Path("/proc/net/if_inet6"))
    addresses: dict[str, dict[str, None]] = {}  # by interface, each once, in order
    for label, entries in psutil.net_if_addrs().items():
        name = label.partition(":")[0]  # an address may have a label of its own ("eth0:1")
        ours = addresses.setdefault(name, {})
        for entry in entries:
            address = entry.address.partition("%")[0]
            if entry.family in _IP_FAMILIES and (name, address) not in tentative:
                ours[address] = None
    seen = []
    for name, ours in addresses.items():
        try:
            index = socket.if_nametoindex(name)
        except OSError:  # gone between two looks
            continue
        if name in stats:
            flags = frozenset(stats[name].flags.split(","))
            seen.append(Seen(Interface(name, index, tuple(ours)), stats[name].isup, flags))
    return sorted(seen, key=lambda entry: entry.interface.index)


_IP_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def _tentative(table: Path) -> set[tuple[str, str]]:
    """Interfaces and those of their IPv6 addresses that cannot be bound yet, or never: Linux asks for a second whether
    somebody else on the link has them.

    A line: address, interface's index, length of the prefix, scope, flags (all hexadecimal), name.
    """
    try:
        lines = table.read_text().splitlines()
    except OSError:  # not Linux, or no IPv6
        return set()
    found = set()
    for words in map(str.split, lines):
        if len(words) == 6 and int(words[4], 16) & (_TENTATIVE | _OPTIMISTIC | _REFUSED) in _UNUSABLE:
            found.add((words[5], str(ipaddress.IPv6Address(bytes.fromhex(words[0])))))
    return found


_OPTIMISTIC, _REFUSED, _TENTATIVE = 0x04, 0x08, 0x40  # IFA_F_OPTIMISTIC, _DADFAILED, _TENTATIVE of linux/if_addr.h
_UNUSABLE = (_TENTATIVE, _REFUSED, _TENTATIVE | _REFUSED)  # an optimistic one may be used while it is tentative


def choose(seen: Iterable[Seen], bind: Sequence[str] = ()) -> list[Interface]:
    """The interfaces of the LAN, by index; with `bind`, those that have one of its addresses, reduced to them."""
    up = [entry for entry in seen if entry.up and entry.interface.addresses]
    if not bind:
        return [entry.interface for entry in up if is_lan(entry)]
    wanted = {str(ipaddress.ip_address(address.partition("%")[0])) for address in bind}
    bound = []
    for entry in up:
        addresses = tuple(address for address in entry.interface.addresses if address in wanted)
        if addresses:
            bound.append(Interface(entry.interface.name, entry.interface.index, addresses))
    return bound


def is_lan(entry: Seen) -> bool:
    """Whether it is an interface of the kind that leads to a LAN; it may be down, or have no address."""
    if "multicast" not in entry.flags or entry.flags & {"loopback", "pointopoint"}:
        return False
    return not any(fnmatchcase(entry.interface.name, pattern) for pattern in LEFT_OUT)


def check_bind(seen: Iterable[Seen], bind: Sequence[str]) -> None:
    """Raises `InterfaceError` for an address that is none, that no interface of this host has, or that others cannot
    dial."""
    there = {address: entry.interface.name for entry in seen for address in entry.interface.addresses}
    for address in bind:
        try:
            wanted = str(ipaddress.ip_address(address.partition("%")[0]))
        except ValueError:
            raise InterfaceError(f"{address!r} is no IP address: bind takes one of this host's") from None
        if wanted not in there:
            known = ", ".join(f"{known} ({name})" for known, name in there.items()) or "none"
            raise InterfaceError(f"no interface of this host has the address {address} (there are: {known})")
        if _needs_zone(wanted):
            raise InterfaceError(
                f"{address} is a link-local IPv6 address: to dial it, each other host would have to know an interface "
                "of its own, so no peer listens there"
            )


def reachable(interfaces: Iterable[Interface], most: int = ADDRESSES_MAX) -> list[str]:
    """The addresses by which others reach this host, the best first: IPv4, then IPv6.

    Link-local ones only where an interface has no other: to dial them one has to know through which interface.
    """
    chosen: list[str] = []
    for interface in interfaces:
        routed = [address for address in interface.addresses if not ipaddress.ip_address(address).is_link_local]
        chosen += routed or interface.addresses
    return sorted(dict.fromkeys(chosen), key=lambda address: ":" in address)[:most]


def dialled(interfaces: Iterable[Interface], most: int = ADDRESSES_MAX) -> list[str]:
    """Those of `reachable` at which a peer listens."""
    return without_zones(reachable(interfaces, most))


def without_zones(hosts: Iterable[str]) -> list[str]:
    """Without link-local IPv6 addresses: to dial one, each host has to know an interface of its own."""
    return [host for host in hosts if not _needs_zone(host)]


def is_loopback(hosts: Iterable[str]) -> bool:
    """Whether all of them, and there are some, lead no further than this host."""
    found = [ipaddress.ip_address(host.partition("%")[0]).is_loopback for host in hosts]
    return bool(found) and all(found)


def _needs_zone(host: str) -> bool:
    return ":" in host and ipaddress.ip_address(host.partition("%")[0]).is_link_local


class LinkWatch:
    """The kernel's notices of interfaces and addresses that change. On Linux; elsewhere only a look tells."""

    def __init__(self) -> None:
        """Raises `OSError` where there are no such notices."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            self._socket.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise
        self.fd = self._socket.fileno()

    def drain(self) -> None:
        """Take the notices: that something changed is all they tell; what, a look tells."""
        while True:
            try:
                self._socket.recv(_NOTICE_BYTES)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: some were lost, which is a notice as well
                return

    def close(self) -> None:
        self._socket.close()
