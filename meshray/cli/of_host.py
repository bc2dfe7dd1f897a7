"""What `meshray doctor` finds out about this host alone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from meshray import meshkey
from meshray.cli.findings import Finding, Patient
from meshray.errors import MeshrayError
from meshray.transport.holders import describe, holder_of
from meshray.transport.interfaces import choose, dialled, is_lan, is_loopback, look
from meshray.transport.multicast import PORT as MDNS_PORT
from meshray.transport.paths import connects

SHARED_MEMORY = Path("/dev/shm")
STORE_MIN_BYTES = 128 << 20
"""As `peer.service`: with less room the store goes to files."""

DESCRIPTORS_MIN = 4096
TOOL_TIMEOUT_S = 5.0
_TIME_ERROR = 5  # TIME_ERROR of sys/timex.h: the clock is not synchronised


def key(patient: Patient) -> Iterator[Finding]:
    """Is there a mesh key, and does nobody else read it?"""
    if not meshkey.is_here():
        yield Finding(
            "key", "warning", "this host has no mesh key, so it belongs to no mesh",
            "`meshray start` makes one; with a token of a member (`meshray join`) it belongs to that one's mesh",
        )  # fmt: skip
        return
    try:
        keys = meshkey.load()
    except MeshrayError as error:
        yield Finding("key", "bad", str(error))
        return
    yield Finding("key", "good", f"mesh {keys.mesh.hex()}, key {keys.current.id.hex()}, readable by its user alone")
    if keys.next is not None:
        yield Finding(
            "key", "warning", f"a change of keys is under way: {keys.next.id.hex()} is staged",
            "`meshray key show --all` says who has it, `meshray key switch` finishes it",
        )  # fmt: skip
    if patient.mesh and patient.mesh["key_id"] != keys.current.id.hex():
        yield Finding(
            "key", "bad", f"the running peer uses another key ({patient.mesh['key_id']}) than the file has",
            "start it again",
        )  # fmt: skip


def addresses(patient: Patient) -> Iterator[Finding]:
    """Is there an interface by which others reach this host?"""
    seen = look()
    hosts = dialled(choose(seen, patient.bind))
    if is_loopback(hosts):
        yield Finding(
            "addresses", "warning" if patient.others() else "bad",
            f"the peer listens at {', '.join(hosts)} alone, as --bind says: no other host reaches it",
            "`meshray stop`, and `meshray start` without --bind, or with an address of a LAN",
        )  # fmt: skip
        return
    if hosts:
        yield Finding("addresses", "good", ", ".join(hosts))
        return
    idle = [entry for entry in seen if is_lan(entry) and not (entry.up and entry.interface.addresses)]
    if idle:
        down = ", ".join(f"{entry.interface.name} {'has no address' if entry.up else 'is down'}" for entry in idle)
        yield Finding(
            "addresses", "bad", f"no interface of a LAN can be used now: {down}",
            "is its cable in, its Wi-Fi on? `ip link set INTERFACE up`; a peer that runs listens there by itself then",
        )  # fmt: skip
        return
    there = ", ".join(f"{entry.interface.name}{'' if entry.up else ' (down)'}" for entry in seen) or "none"
    yield Finding(
        "addresses", "bad", f"no interface of this host is a LAN: those of containers and VPNs, loopback and those "
        f"without multicast or an address but a link-local IPv6 one are left out (there are: {there})",
        "`meshray start --bind ADDRESS` uses one of them all the same",
    )  # fmt: skip


def port(patient: Patient) -> Iterator[Finding]:
    """Can the port be had, or does the peer answer there?"""
    if patient.trouble:  # the port is its own, so that it is taken says nothing
        yield Finding(
            "peer", "bad", patient.trouble, "`meshray stop` ends it, by force if it has to; then start it again"
        )
        return
    if patient.mesh:
        if not patient.mesh["listens"]:
            yield Finding("port", "bad", "the peer listens nowhere: no other host reaches it",
                          "see above; it listens as soon as there is an address")  # fmt: skip
        for place in patient.mesh["listens"]:
            host, _, number = place.rpartition(":")
            why_not = connects(host.strip("[]"), int(number))
            if why_not:
                yield Finding("port", "bad", f"this very host does not reach its own {place}: {why_not}",
                              "a rule of the firewall of this host")  # fmt: skip
            else:
                yield Finding("port", "good", f"{place} takes connections from this host")
        return
    for host in dialled(choose(look(), patient.bind)):
        taken = _taken(host, patient.port)
        if taken:
            holder = holder_of(patient.port)
            hint = describe(holder) if holder is not None else "`meshray start --port N` takes another"
            yield Finding("port", "bad", f"port {patient.port} of {host}: {taken}", hint)
        else:
            yield Finding("port", "good", f"port {patient.port} of {host} is free")


def _taken(host: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            return str(error.strerror or error)
    return ""


# -- the firewall ------------------------------------------------------------------------------------------------------


def firewall(patient: Patient) -> Iterator[Finding]:
    """Do the packet filters of this host let peers through, as far as that can be read?"""
    found = False
    for tool, words, judge in _FILTERS:
        text = _said_by(tool, *words)
        if text is None:
            continue
        found = True
        if isinstance(text, PermissionError):
            yield Finding("firewall", "unknown", f"{tool}: its rules are for root to read", "run `sudo meshray doctor`")
            continue
        closed = judge(text, patient.port)
        if closed:
            yield Finding("firewall", "warning", f"{tool}: {closed}", _OPENING[tool].format(port=patient.port))
        else:
            yield Finding("firewall", "good", f"{tool}: no rule was found that keeps peers out")
    if not found:
        yield Finding("firewall", "unknown", "none of nft, iptables, ufw and firewall-cmd is here")


def _said_by(tool: str, *words: str) -> str | PermissionError | None:
    """What a program prints; None when it is not here or does not work."""
    path = shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")
    if path is None:
        return None
    try:
        done = subprocess.run([path, *words], capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 0:
        return done.stdout
    refusals = ("permission", "not permitted", "root", "authoriz")
    if any(word in done.stderr.lower() + done.stdout.lower() for word in refusals):
        return PermissionError(done.stderr.strip())
    return None


def judge_nft(text: str, port: int) -> str:
    """Of `nft list ruleset`: what keeps peers out; empty when nothing was found."""
    closed = []
    for body in re.findall(r"chain [^{]*\{([^}]*type filter hook input[^}]*)\}", text):
        if re.search(r"policy (drop|reject)", body) or re.search(r"^\s*(counter[^\n]* )?(drop|reject)\b", body, re.M):
            closed.append(body)
    return _unless_named(text, port, "input is dropped by default") if closed else ""


def judge_iptables(text: str, port: int) -> str:
    """The same of `iptables -S INPUT`."""
    closed = re.search(r"^-P INPUT (DROP|REJECT)", text, re.M) or re.search(r"^-A INPUT -j (DROP|REJECT)", text, re.M)
    return _unless_named(text, port, "input is dropped by default") if closed else ""


def judge_ufw(text: str, port: int) -> str:
    """The same of `ufw status`."""
    return _unless_named(text, port, "it is active") if re.search(r"^Status: active", text, re.M) else ""


def judge_firewalld(text: str, port: int) -> str:
    """The same of `firewall-cmd --list-all`. It has a word of its own for mDNS."""
    return _unless_named(text.replace("mdns", str(MDNS_PORT)), port, "it is active")


def _unless_named(text: str, port: int, state: str) -> str:
    """Nothing, if both ports occur in the rules as words of their own: a hint, not a proof."""
    missing = [
        name
        for number, name in ((port, f"TCP {port}"), (MDNS_PORT, f"UDP {MDNS_PORT} (multicast DNS)"))
        if not re.search(rf"(?<![\d.]){number}(?![\d.])", text)
    ]
    return f"{state}, and no rule names {' nor '.join(missing)}" if missing else ""


_FILTERS = (
    ("ufw", ("status",), judge_ufw),
    ("firewall-cmd", ("--list-all",), judge_firewalld),
    ("nft", ("list", "ruleset"), judge_nft),
    ("iptables", ("-S", "INPUT"), judge_iptables),
)

_OPENING = {
    "ufw": "ufw allow in proto tcp to any port {port}; ufw allow in proto udp to any port 5353",
    "firewall-cmd": "firewall-cmd --permanent --add-service=mdns --add-port={port}/tcp; firewall-cmd --reload",
    "nft": "let TCP {port} and UDP 5353 in (docs/lan.md), where the chain of input is",
    "iptables": "iptables -I INPUT -p tcp --dport {port} -j ACCEPT; iptables -I INPUT -p udp --dport 5353 -j ACCEPT",
}


# -- the rest ----------------------------------------------------------------------------------------------------------


def clock(patient: Patient) -> Iterator[Finding]:
    """Is the wall clock set by somebody? The mesh does without; times in logs and files do not."""
    buffer = ctypes.create_string_buffer(512)  # struct timex, which is smaller; all zeros: only asks
    with contextlib.suppress(OSError, AttributeError):
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
        if state == _TIME_ERROR:
            yield Finding(
                "clock", "warning", "it is not synchronised: nothing of the mesh depends on it, times in logs differ",
                "timedatectl set-ntp true, or chrony",
            )  # fmt: skip
            return
        if state >= 0:
            yield Finding("clock", "good", "synchronised")
            return
    yield Finding("clock", "unknown", "whether it is synchronised is not told here")


def shared_memory(patient: Patient) -> Iterator[Finding]:
    """Is there room for large objects?"""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError as error:
        yield Finding("shared memory", "warning", f"{SHARED_MEMORY}: {error.strerror}; large objects go to files")
        return
    total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    text = f"{SHARED_MEMORY} has {free / 2**30:.2f} of {total / 2**30:.2f} GiB free"
    if free >= STORE_MIN_BYTES:
        yield Finding("shared memory", "good", text)
    else:
        yield Finding(
            "shared memory", "warning", f"{text}: large objects go to files, which is slower",
            f"mount -o remount,size=SIZE {SHARED_MEMORY} (in a container: --shm-size=SIZE)",
        )  # fmt: skip


def descriptors(patient: Patient) -> Iterator[Finding]:
    """May a peer have the connections of a large mesh?"""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= DESCRIPTORS_MIN:
        yield Finding("descriptors", "good", f"a process may have {'any number' if hard < 0 else hard} of them open")
    else:
        yield Finding(
            "descriptors", "warning", f"a process may have {hard} of them open: enough for small meshes",
            "LimitNOFILE= of systemd, or /etc/security/limits.conf",
        )  # fmt: skip


CHECKS = (key, addresses, port, firewall, clock, shared_memory, descriptors)
