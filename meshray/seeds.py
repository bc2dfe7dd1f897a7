"""Seeds: addresses of members by which a peer finds its mesh where multicast does not reach.

They come from `--join`, from `MESHRAY_SEEDS`, from a join token, from a file, and from the peers that were seen last.
One is written `host`, `host:port`, `[ipv6]` or `[ipv6]:port`, several separated by commas or blanks. A seed is only
ever dialled; who answers has to prove itself by the mesh key, so a wrong or stale one costs a connection and no more.

What was seen last is kept in `peers.json` of the home folder: the members that live; only where these are few, some
that were seen before. It is a hint: a file that cannot be read is none, and one of another mesh is ignored.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import time
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from meshray.config import DEFAULT
from meshray.errors import MeshrayError
from meshray.local import home_folder

SEEDS_VARIABLE = "MESHRAY_SEEDS"
PEERS_FILE = "peers.json"

HOST_MAX_CHARS = 253
"""A DNS name has at most so many characters (RFC 1035); an address with a zone is shorter."""

_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
"""The zone of a link-local address is an interface of this host (RFC 4007), and so are their names (`IFNAMSIZ`). Python
takes any text there, and libzmq refuses some."""

_DNS_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


class SeedError(MeshrayError):
    """An address that is none; the text names it and says how one is written."""


class Seed(NamedTuple):
    """One address to dial: a DNS name, an IPv4 address or an IPv6 address without brackets, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Seen(msgspec.Struct, frozen=True):
    """One that was seen."""

    address: str  # as seeds are written
    at: float  # wall clock


class _LastPeers(msgspec.Struct, frozen=True):
    """`peers.json`."""

    mesh: str  # hex of the mesh id
    peers: list[_Seen]  # the one seen last first


# -- as people write them ----------------------------------------------------------------------------------------------


def parse_seeds(text: str, default_port: int = DEFAULT.mesh_port, most: int = DEFAULT.seeds_max) -> list[Seed]:
    """The seeds in a text, each once, in order. Raises `SeedError` for one that is no address, and for too many."""
    seeds = list(dict.fromkeys(parse_seed(word, default_port) for word in re.split(r"[,\s]+", text) if word))
    if len(seeds) > most:
        raise SeedError(f"{len(seeds)} seeds are more than {most}: a few are enough, the mesh tells the others")
    return seeds


def parse_seed(word: str, default_port: int = DEFAULT.mesh_port) -> Seed:
    """One seed. Raises `SeedError`."""
    if word.startswith("["):
        host, bracket, rest = word[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise SeedError(f"{word!r} is no address: write [IPv6] or [IPv6]:port")
        if ip_version(host) != 6:
            raise SeedError(f"{word!r} is no address: {host!r} is no IPv6 address")
        return Seed(host, _port(rest[1:], word) if rest else default_port)
    if ip_version(word) == 6:
        return Seed(word, default_port)  # many colons and no brackets: there is no port in it
    host, colon, port = word.partition(":")
    if ":" in port:
        raise SeedError(f"{word!r} is no address: an IPv6 address with a port is written [address]:port")
    if not _is_host(host):
        raise SeedError(f"{word!r} is no address: write host:port, where host is a name or an IP address")
    return Seed(host, _port(port, word) if colon else default_port)


def _is_host(host: str) -> bool:
    if ip_version(host) == 4:
        return True
    labels = host.removesuffix(".").split(".")
    if len(host) > HOST_MAX_CHARS or not all(_DNS_LABEL.fullmatch(label) for label in labels):
        return False
    return not labels[-1].isdigit()  # 10.0.0.300 is a mistyped address, not a name (RFC 3696)


def ip_version(host: str) -> int:
    """4 or 6 for an IP address that can be dialled, perhaps with a zone; 0 for what is none."""
    address, percent, zone = host.partition("%")
    if percent and not _ZONE.fullmatch(zone):
        return 0
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return 0
    return 0 if percent and version == 4 else version


def _port(text: str, word: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise SeedError(f"{word!r} is no address: {text!r} is no port (1 to 65535)")
    return int(text)


def seeds_from_environment() -> list[Seed]:
    """What `MESHRAY_SEEDS` says. Raises `SeedError` that names the variable."""
    try:
        return parse_seeds(os.environ.get(SEEDS_VARIABLE, ""))
    except SeedError as error:
        raise SeedError(f"{SEEDS_VARIABLE}: {error}") from error


def seeds_from_file(path: str) -> list[Seed]:
    """What a file says: as many lines as it likes, and what follows a `#` is for people.

    Raises `SeedError` that names the file, also when it cannot be read.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_file_max_bytes())
    except OSError as error:
        raise SeedError(f"the file of seeds {path} cannot be read: {error.strerror}") from error
    try:
        return parse_seeds("\n".join(line.partition("#")[0] for line in text.splitlines()))
    except SeedError as error:
        raise SeedError(f"{path}: {error}") from error


def resolve(seed: Seed, most: int = DEFAULT.seed_addresses_max) -> list[Seed]:
    """The addresses behind a seed, each once: a DNS name may have several (one per member, as in Kubernetes).

    Blocks for as long as the resolver does (seconds, where no server answers): not for the loop of a peer. Empty when
    the name is not known now.
    """
    if ip_version(seed.host):
        return [seed]
    try:
        found = socket.getaddrinfo(seed.host, seed.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    hosts = dict.fromkeys(str(address[0]) for *_, address in found)
    return [Seed(host, seed.port) for host in hosts][:most]


# -- the peers seen last -----------------------------------------------------------------------------------------------


def last_peers(mesh: bytes) -> list[Seed]:
    """The members of this mesh that were seen last, the newest first; empty when nothing is known. In a home that hosts
    share, this one is among them."""
    return list(_last_peers(mesh, time.time()))


def _last_peers(mesh: bytes, now: float) -> dict[Seed, float]:
    """The same, with when they were seen; none that was seen too long ago."""
    try:
        with open(home_folder() / PEERS_FILE, "rb") as file:
            kept = msgspec.json.decode(file.read(_file_max_bytes()), type=_LastPeers)
    except (OSError, msgspec.MsgspecError):
        return {}
    seeds: dict[Seed, float] = {}
    for seen in kept.peers[: DEFAULT.last_peers_max] if kept.mesh == mesh.hex() else ():
        if seen.at > now - DEFAULT.last_peers_kept_s:
            with contextlib.suppress(SeedError):
                seeds.setdefault(parse_seed(seen.address), min(seen.at, now))
    return seeds


def remember_peers(mesh: bytes, seen: Iterable[Seed]) -> None:
    """Note the members that are seen now. Those known before are forgotten, but where there are few now. Raises
    `OSError`.

    The last writer wins: peers of one host that share a home see the same mesh.
    """
    now = time.time()
    peers = [_Seen(str(seed), at) for seed, at in merge(seen, _last_peers(mesh, now), now).items()]
    path = home_folder() / PEERS_FILE
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as file:
            file.write(msgspec.json.encode(_LastPeers(mesh.hex(), peers)))
        os.replace(fresh, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()


def merge(seen: Iterable[Seed], before: dict[Seed, float], now: float) -> dict[Seed, float]:
    """What is remembered, with when it was seen: those seen now; up to `last_peers_least` in all those of before, the
    latest first. Where somebody is at a host now, another port of it is an old one."""
    kept = dict.fromkeys(list(dict.fromkeys(seen))[: DEFAULT.last_peers_max], now)
    hosts = {seed.host for seed in kept}
    for seed in sorted(before, key=lambda seed: -before[seed]):
        if len(kept) < DEFAULT.last_peers_least and seed.host not in hosts:
            kept[seed] = before[seed]
    return kept


def _file_max_bytes() -> int:
    return 64 + DEFAULT.last_peers_max * (HOST_MAX_CHARS + 64)
