"""Finding peers on the LAN: what the peer's loop holds of the thread that speaks mDNS.

Theory. mDNS has timers, retries and caches of its own, and python-zeroconf runs them on asyncio; the peer's loop polls
descriptors and must never wait for any of it. So zeroconf lives in one thread (`mdns.py`), and what it finds goes into
a mailbox here, which makes a descriptor readable. The mailbox keeps the last word on each node and no history: a peer
that is busy for a minute then reads one finding per node, however often its record changed; so it is bounded by the
number of nodes (`discovered_max`).

Nothing found here means that a peer lives, and nothing withdrawn that one is dead (`wire/advert.py`). Only a peer with
a mesh key makes a `Discovery`; laptop mode, workers and zygotes never import it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from meshray.config import DEFAULT, Config
from meshray.meshkey import MeshKeys
from meshray.transport.interfaces import check_bind, look
from meshray.transport.mdns import Mdns
from meshray.transport.sightings import Found, Withdrawn
from meshray.wire.advert import Advert

__all__ = ["Addresses", "Discovery", "DiscoveryStats", "Finding", "Found", "Trouble", "Withdrawn"]


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses by which others reach this host are now these: none while it is cut off."""

    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trouble:
    """mDNS does not work at the moment, and is tried again; the text is for people. Empty: it works again."""

    text: str


Finding = Found | Withdrawn | Addresses | Trouble


@dataclass(frozen=True, slots=True)
class DiscoveryStats:
    """A snapshot."""

    there: int  # nodes whose record stands
    other_key: int  # those of our mesh whose record is under a key that is not here
    dropped: dict[str, int]  # records that led nowhere, by reason (transport/sightings.py)
    hosts: tuple[str, ...]  # our own addresses
    trouble: str  # "" when mDNS works


class Discovery:
    """Advertises this peer and looks for others, from `start` to `close`. Its methods may be called by any thread.

    `bind` as in `interfaces.choose`. Raises `InterfaceError` when an address of it is none of this host's.
    """

    def __init__(self, keys: MeshKeys, node: bytes, *, bind: Sequence[str] = (), config: Config = DEFAULT) -> None:
        check_bind(look(), bind)
        self._lock = threading.Lock()
        self._mailbox: dict[object, Finding] = {}  # the last word on each node, on our addresses, on trouble
        self._hosts: tuple[str, ...] = ()  # the last `Addresses`
        self._trouble = ""  # the last `Trouble`
        self._mdns = Mdns(keys, node, tuple(bind), config, self)
        self._thread = threading.Thread(target=self._run, name="meshray-discovery", daemon=True)
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable when `take` has something."""

    def start(self) -> None:
        """Begin to look. Returns at once."""
        self._thread.start()

    def advertise(self, advert: Advert) -> None:
        """What this peer offers, from now on; `addresses` and `serial` are filled in here.

        The record changes at most once in `advert_gap_s`; of several calls in between, the last counts.
        """
        self._mdns.advertise(advert)

    def use_keys(self, keys: MeshKeys) -> None:
        """The keys have changed: sign by the current one, accept both, and look again at what was refused."""
        self._mdns.use_keys(keys)

    def take(self) -> list[Finding]:
        """What was found since the last call, the oldest first; `fd` is no longer readable then."""
        if not self._mailbox:  # as in most turns of a peer: a look costs nothing, and an exception of the system much
            return []
        with self._lock:
            os.eventfd_read(self.fd)
            found = list(self._mailbox.values())
            self._mailbox.clear()
            return found

    def stats(self) -> DiscoveryStats:
        there, other_key, dropped = self._mdns.counts()
        with self._lock:
            return DiscoveryStats(there, other_key, dropped, self._hosts, self._trouble)

    def close(self, timeout_s: float = 2.0) -> bool:
        """Withdraw the record and end. False when the thread has not ended by then (it takes nothing with it)."""
        if self._thread.ident is not None:
            self._mdns.close()
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        with self._lock:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1
        return True

    # -- from the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # signals are for the main thread
        self._mdns.run()

    def on_finding(self, finding: Found | Withdrawn) -> None:
        self._put(finding.advert.node if isinstance(finding, Found) else finding.node, finding)

    def on_addresses(self, hosts: tuple[str, ...]) -> None:
        with self._lock:
            if hosts == self._hosts:
                return
            self._hosts = hosts
        self._put(Addresses, Addresses(hosts))

    def on_trouble(self, text: str) -> None:
        with self._lock:
            if text == self._trouble:
                return
            self._trouble = text
        self._put(Trouble, Trouble(text))

    def _put(self, about: object, finding: Finding) -> None:
        with self._lock:
            if not self._mailbox:
                os.eventfd_write(self.fd, 1)
            self._mailbox.pop(about, None)  # the last word goes to the end
            self._mailbox[about] = finding
