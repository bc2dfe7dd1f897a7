"""What was heard of others on the LAN, judged: which records are worth a dial. Pure: no sockets, no clocks.

A record is looked at in this order, and dropped, counted by the reason, at the first that it fails:

    malformed, version, foreign, unknown_key, forged    `wire.advert` says so
    stale      an older version of the same node's record than one that was seen: a repeat by somebody else

The last `serial` of a node is remembered beyond its withdrawal, since anybody can withdraw anybody's record (mDNS
proves nothing) and then repeat an old one. Of `discovered_max` nodes the one that was heard of longest ago is forgotten
for a new one. All this only saves dials: whom a dial reaches, CURVE judges.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from meshray.config import DEFAULT
from meshray.meshkey import MeshKeys
from meshray.wire.advert import FORGED, MALFORMED, SERVICE_TYPE, UNKNOWN_KEY, Advert, AdvertError, decode

STALE = "stale"

_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Found:
    """A peer of our mesh may be there, or its record has changed: dial it. It does not mean that the peer lives."""

    advert: Advert
    hosts: tuple[str, ...]  # to dial, the best first; a link-local one with its zone


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The record of this node is gone: its peer has ended, or somebody says so. No reason to give up a member."""

    node: bytes


@dataclass(slots=True)
class _Sighting:
    serial: int  # the highest that was proven
    hosts: tuple[str, ...]
    there: bool  # the record is not withdrawn


class Sightings:
    """The nodes that were heard of, apart from our own."""

    def __init__(self, keys: MeshKeys, own: bytes = b"", most: int = DEFAULT.discovered_max) -> None:
        self.keys = keys  # replaced when they rotate
        self.dropped: Counter[str] = Counter()
        self.other_key: dict[bytes, None] = {}  # nodes whose record, of our mesh, is under a key that is not here
        self._own = own
        self._most = most
        self.there = 0  # records that stand
        self._nodes: dict[bytes, _Sighting] = {}  # the one that was heard of longest ago first

    def on_records(self, name: str, records: Iterable[bytes], zones: dict[str, str] | None = None) -> Found | None:
        """The TXT records that are known for a service's name now, in the order in which they came (an old one may
        stand beside the new one for a second). `zones`: of link-local addresses, as the system saw them come in. The
        best one, if it tells anything new."""
        node = node_of(name)
        if node is None:
            self.dropped[MALFORMED] += 1
            return None
        if node == self._own:
            return None
        best, newest = self._best(name, records)
        self.other_key.pop(node, None)
        if newest == UNKNOWN_KEY and len(self.other_key) < self._most:
            self.other_key[node] = None
        if best is None:
            return None
        return self._note(best, _dialled(best, zones or {}))

    def _best(self, name: str, records: Iterable[bytes]) -> tuple[Advert | None, str]:
        """The newest record that is proven (when none is, the reason of the last is counted), and why the one that came
        last is none; "" if it is."""
        best, reason, newest = None, "", ""
        for record in records:
            try:
                advert = decode(record, name, self.keys)
            except AdvertError as error:
                reason = newest = error.reason
                if reason == FORGED:  # counted also beside a sound one
                    self.dropped[FORGED] += 1
                continue
            newest = ""
            if best is None or advert.serial > best.serial:
                best = advert
        if best is None and reason and reason != FORGED:
            self.dropped[reason] += 1
        return best, newest

    def _note(self, advert: Advert, hosts: tuple[str, ...]) -> Found | None:
        seen = self._nodes.get(advert.node)
        if seen is None:
            if len(self._nodes) >= self._most:
                self.there -= self._nodes.pop(next(iter(self._nodes))).there
            self._nodes[advert.node] = _Sighting(advert.serial, hosts, there=True)
            self.there += 1
            return Found(advert, hosts)
        if advert.serial < seen.serial:
            self.dropped[STALE] += 1
            return None
        self._nodes[advert.node] = self._nodes.pop(advert.node)
        if seen.there and (advert.serial, hosts) == (seen.serial, seen.hosts):
            return None
        self.there += not seen.there
        seen.serial, seen.hosts, seen.there = advert.serial, hosts, True
        return Found(advert, hosts)

    def on_removed(self, name: str) -> Withdrawn | None:
        """The record of a service's name was withdrawn, or has outlived its time."""
        node = node_of(name)
        if node is None:
            return None
        self.other_key.pop(node, None)
        seen = self._nodes.get(node)
        if seen is None or not seen.there:
            return None
        seen.there = False
        self.there -= 1
        return Withdrawn(node)


def node_of(name: str) -> bytes | None:
    """The node that a service's name is of; None for a name of another form."""
    label, dot, rest = name.lower().partition(".")
    if not dot or rest != SERVICE_TYPE or len(label) != 16 or not _HEX.issuperset(label):
        return None
    return bytes.fromhex(label)


def _dialled(advert: Advert, zones: dict[str, str]) -> tuple[str, ...]:
    """The addresses to dial. A link-local one of unknown zone leads nowhere."""
    hosts = []
    for host in advert.hosts():
        if not ipaddress.ip_address(host).is_link_local or ":" not in host:
            hosts.append(host)
        elif host in zones:
            hosts.append(f"{host}%{zones[host]}")
    return tuple(hosts)
