"""What `meshray doctor` finds out about the network, as far as the other members show it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

import psutil

from meshray import __version__
from meshray.cli.findings import Finding, Patient, counted
from meshray.cli.members import describe_other_key, recent_refusals
from meshray.cli.showing import duration
from meshray.config import DEFAULT
from meshray.observe.notes import printable
from meshray.seeds import Seed, SeedError, ip_version, parse_seed
from meshray.transport.interfaces import Interface, choose, look
from meshray.transport.mesh_port import BROKEN_OFF
from meshray.transport.multicast import hears_itself, nodes_heard
from meshray.transport.paths import EchoForbidden, connects, largest_that_passes, source_of

MEMBERS_MAX = 16
"""So many members are looked at: each way takes up to some seconds."""


def multicast(patient: Patient) -> Iterator[Finding]:
    """Does it leave this host, does it come back, and are the others heard?"""
    interfaces = choose(look(), patient.bind)
    for interface in interfaces:
        for version in (4, 6):
            if any((":" in address) is (version == 6) for address in interface.addresses):
                yield _own_multicast(interface, version)
    if interfaces:
        yield _others_multicast(patient, interfaces)


def _own_multicast(interface: Interface, version: int) -> Finding:
    about = f"multicast on {interface.name}, IPv{version}"
    try:
        heard = hears_itself(interface, version)
    except OSError as error:
        return Finding(about, "warning", f"it cannot be sent: {error.strerror or error}", _SEEDS)
    if heard:
        return Finding(about, "good", "what this host sends it hears itself")
    return Finding(about, "warning", "what this host sends it does not hear itself: a filter of this host drops it",
                   f"let UDP 5353 in and out; or {_SEEDS}")  # fmt: skip


def _others_multicast(patient: Patient, interfaces: list[Interface]) -> Finding:
    try:
        heard = {node.hex() for node in nodes_heard(interfaces, DEFAULT.discovery_listen_s)}
    except OSError as error:
        return Finding("discovery", "warning", f"mDNS cannot be used: {error.strerror or error}", _SEEDS)
    heard.discard(str(patient.mesh.get("node_id", "")))
    others = patient.others()
    missed = [printable(member["name"]) for member in others if member["node_id"] not in heard]
    if others and not missed:
        return Finding("discovery", "good", f"{_all(len(others))} heard")
    if missed:
        return Finding(
            "discovery", "warning",
            f"{_of_others(len(missed), len(others))} not heard: {', '.join(sorted(missed)[:MEMBERS_MAX])}. "
            f"{'It is' if len(missed) == 1 else 'They are'} in another network, or something between drops multicast "
            "(a switch, a Wi-Fi access point, a filter there)",
            _SEEDS,
        )  # fmt: skip
    if heard:
        count = "1 peer is" if len(heard) == 1 else f"{len(heard)} peers are"
        return Finding("discovery", "good", f"{count} heard, of this mesh or of others")
    return Finding(
        "discovery", "unknown", "no peer is heard: none is there, or multicast does not reach this host",
        "run a peer on another host of this network and look again",
    )  # fmt: skip


def _of_others(some: int, others: int) -> str:
    if others == 1:
        return _all(1)
    return f"{some} of {others} other members {'is' if some == 1 else 'are'}"


def _all(others: int) -> str:
    return "the other member is" if others == 1 else f"all {others} other members are"


_NO_LINK = "does a peer of this mesh and version run there, and does its firewall let the port in? docs/lan.md"
_SEEDS = "`meshray start --join HOST:PORT` needs no multicast"


def members(patient: Patient) -> Iterator[Finding]:
    """Does this host reach the others, and do they fit?"""
    others = patient.others()
    if patient.mesh:
        yield from _refusals(patient.mesh)
        if not others:
            yield Finding("members", "unknown", "this one is alone in its mesh")
    for member in others[:MEMBERS_MAX]:
        yield from _member(member)
    if len(others) > MEMBERS_MAX:
        yield Finding("members", "unknown", f"{len(others) - MEMBERS_MAX} more were not looked at")


def _refusals(mesh: dict[str, Any]) -> Iterator[Finding]:
    for reason, ago_s in sorted(recent_refusals(mesh, "refused_there").items()):
        times = counted(mesh["refused_there"][reason], "time")
        text = f"{times}, the last one {duration(ago_s)} ago, by whom this peer dialled: {printable(reason)}"
        yield Finding("refused there", "warning", text, "the same mesh key on both? `meshray key show` on each")
    for reason, ago_s in sorted(recent_refusals(mesh, "refused").items()):
        connections = counted(mesh["refused"][reason], "connection")
        text = f"{connections}, the last one {duration(ago_s)} ago: {printable(reason)}"
        if reason == BROKEN_OFF:
            text += ". Each look of `meshray doctor`, here or on another member, is one"
        yield Finding("refused here", "unknown" if reason == BROKEN_OFF else "warning", text)
    for address, why in list(mesh["no_link"].items())[:MEMBERS_MAX]:
        yield Finding("no link", "warning", printable(f"{address}: {why}"), _NO_LINK)
    if mesh["other_key"]:
        alone = not any(member["state"] in ("alive", "suspect") and not member["is_self"] for member in mesh["members"])
        yield Finding("other key", "warning", describe_other_key(mesh["other_key"], alone))
    foreign = mesh["dropped_records"].get("foreign")
    if foreign:
        yield Finding("other meshes", "unknown", f"{counted(foreign, 'record')} of other meshes heard on this network")


def _member(member: dict[str, Any]) -> Iterator[Finding]:
    about = f"member {printable(member['name'])} ({member['home'][:8] or '?'})"
    reached: list[tuple[str, str, str]] = []
    failed: list[tuple[str, str, str]] = []
    for place in member["addresses"]:
        seed = _seed(place)
        why_not = connects(seed.host, seed.port) if seed is not None else "no address"
        (failed if why_not else reached).append((place, seed.host if seed is not None else "", why_not))
    if not reached:
        why = "; ".join(f"{place}: {why_not}" for place, _, why_not in failed) or "it says nowhere where it listens"
        yield Finding(about, "bad", f"cannot be reached: {printable(why)}", "a firewall there: docs/lan.md")
    else:
        rest = "".join(f"; not {place}: {why_not}" for place, _, why_not in failed)
        where = ", ".join(place for place, _, _ in reached)
        yield Finding(about, "good", printable(f"reached at {where}{rest}"))
        yield _way(about, reached[0][1])
    if member["incompatible"]:
        yield Finding(about, "warning", f"runs Python {printable(member['python'])}, this host "
                      f"{platform.python_version()}: it gets no functions of yours",
                      "the same minor version of Python on all")  # fmt: skip
    if member["version"] and member["version"] != __version__:
        yield Finding(about, "warning", f"runs meshray {printable(member['version'])}, this host {__version__}",
                      "the same version on all")  # fmt: skip


def _seed(place: str) -> Seed | None:
    """An address as a member writes it, with its port. It may say anything of where it listens."""
    try:
        seed = parse_seed(place, default_port=0)
    except SeedError:
        return None
    return seed if seed.port else None


def _way(about: str, host: str) -> Finding:
    """Do packets pass that are as large as the interface allows?"""
    if not ip_version(host):
        return Finding(about, "unknown", "how large packets may be was not looked at: it gives a name, and no address")
    try:
        mtu = _mtu_towards(host)
        largest = largest_that_passes(host, mtu)
    except EchoForbidden as error:
        return Finding(about, "unknown", f"how large packets may be was not looked at: {error}")
    except OSError as error:
        return Finding(about, "unknown", f"how large packets may be was not found out: {error.strerror or error}")
    if largest is None:
        return Finding(about, "unknown", "it answers no echo requests, so how large packets may be is not known")
    if largest >= mtu:
        return Finding(about, "good", f"packets of {mtu} bytes, the MTU here, pass")
    return Finding(
        about, "bad", f"packets of {mtu} bytes, the MTU here, vanish; {largest} bytes pass: connections are made, and "
        "then hang",
        f"ip link set dev INTERFACE mtu {largest}, on this host or where the way is narrow",
    )  # fmt: skip


def _mtu_towards(host: str) -> int:
    """Of the interface that leads there. Raises `OSError` when there is no way."""
    source = source_of(host).partition("%")[0]
    stats = psutil.net_if_stats()
    for seen in look():
        if source in seen.interface.addresses:
            return int(stats[seen.interface.name].mtu)
    raise OSError(f"no interface has {source}")


CHECKS = (multicast, members)
