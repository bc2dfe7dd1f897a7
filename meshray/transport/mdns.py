"""The thread that speaks mDNS, by python-zeroconf (0.150 or later) on an event loop of its own.

How zeroconf behaves, as far as it matters here:

- It looks at interfaces when it is made and when it is told to (`async_update_interfaces`), never by itself. It then
  announces what is registered anew on those that came, but asks nothing again: so the browser is renewed as well.
- A registered service is probed for first, for 1.7 s. Our names are random and never used twice, so there is nothing to
  probe for (`cooperating_responders`), and nobody can keep us silent by claiming our name.
- A browser tells in its questions which names it knows, and is not told of those again, nor of their records. So
  whoever was cut off and may have missed a change has to forget the names before it asks.
- A withdrawal (TTL 0) takes effect at once, whoever sends it; a record that is not renewed stays for 75 minutes.
- After a change the old TXT record stands beside the new one for a second: all of them are looked at.
- Its cache is bounded (10,000 records), its logger silent unless somebody configures it.

One coroutine, `_serve`, does everything that changes anything, one after the other; other threads and zeroconf's
callbacks only note what is wanted and wake it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import threading
import time
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import msgspec
from zeroconf import DNSAddress, DNSPointer, DNSText, ServiceInfo, ServiceStateChange, Zeroconf
from zeroconf import Error as ZeroconfError
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from meshray.config import Config
from meshray.meshkey import MeshKeys
from meshray.transport.interfaces import Interface, LinkWatch, choose, look, reachable
from meshray.transport.sightings import Found, Sightings, Withdrawn, node_of
from meshray.wire.advert import SERVICE_TYPE, Advert, encode, service_name

UNANSWERED = "unanswered"  # a name was heard, and nobody had its record
BUSY = "busy"  # a name was heard while `resolving_max` others were asked for theirs

_TXT, _AAAA, _IN = 16, 28, 1  # types of records, and their class (RFC 1035, RFC 3596)


class Listener(Protocol):
    """Whom the thread tells."""

    def on_finding(self, finding: Found | Withdrawn) -> None: ...

    def on_addresses(self, hosts: tuple[str, ...]) -> None: ...

    def on_trouble(self, text: str) -> None: ...


class Mdns:
    """`run` is the thread; `advertise`, `use_keys`, `counts` and `close` may be called by others."""

    def __init__(self, keys: MeshKeys, node: bytes, bind: tuple[str, ...], config: Config, listener: Listener) -> None:
        self._node = node
        self._bind = bind
        self._config = config
        self._listener = listener
        self._lock = threading.Lock()  # over the next five, which other threads set or read
        self._offer: Advert | None = None  # what shall be advertised
        self._keys = keys
        self._keys_changed = False
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None  # while `run` runs
        # From here on: of the loop alone.
        self._sightings = Sightings(keys, node, config.discovered_max)
        self._wake = asyncio.Event()  # something is wanted
        self._links_changed = False  # interfaces are to be looked at
        self._browser: AsyncServiceBrowser | None = None  # of the present instance of zeroconf
        self._resolving: dict[str, asyncio.Task[None]] = {}  # names whose record was asked for
        self._sending: set[asyncio.Task[None]] = set()  # announcements under way: asyncio holds them weakly
        self._serial = 0  # of the last version of our record
        self._published: tuple[Advert, tuple[str, ...], bytes] | None = None  # offer, addresses, key id of that version

    # -- from other threads ------------------------------------------------------------------------------------------

    def advertise(self, offer: Advert) -> None:
        with self._lock:
            self._offer = offer
        self._call()

    def use_keys(self, keys: MeshKeys) -> None:
        with self._lock:
            self._keys = keys
            self._keys_changed = True
        self._call()

    def close(self) -> None:
        with self._lock:
            self._closing = True
        self._call()

    def counts(self) -> tuple[int, int, dict[str, int]]:
        """How many records stand, how many of our mesh under a key that is not here, and how many were dropped, by
        reason."""
        return self._sightings.there, len(self._sightings.other_key), dict(self._sightings.dropped)

    def _call(self) -> None:
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._wake.set)

    # -- the thread --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until `close`."""
        with asyncio.Runner() as runner:
            with self._lock:
                self._loop = runner.get_loop()
            try:
                runner.run(self._main())
            except Exception as error:
                self._listener.on_trouble(f"mDNS has ended by a fault of ours: {error!r}")
                raise
            finally:
                with self._lock:
                    self._loop = None

    async def _main(self) -> None:
        """Serve; where that fails, say why and try again."""
        with self._watching():
            while not self._closing:
                try:
                    await self._serve_until_trouble()
                except (OSError, RuntimeError, ZeroconfError) as error:
                    # RuntimeError is how zeroconf says that an interface went between our look and its own
                    what = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
                    self._listener.on_trouble(f"mDNS cannot be used: {what}")
                    await self._wait(self._config.discovery_retry_s)

    async def _serve_until_trouble(self) -> None:
        self._links_changed = False
        self._published = None  # a new instance knows no service of ours
        interfaces = choose(look(), self._bind)
        zeroconf = AsyncZeroconf(interfaces=as_zeroconf(interfaces))
        try:
            await zeroconf.zeroconf.async_wait_for_start()
            self._listener.on_trouble("")
            self._browser = self._browse(zeroconf)
            await self._serve(zeroconf, interfaces)
        finally:
            await self._end(zeroconf)

    async def _serve(self, zeroconf: AsyncZeroconf, interfaces: list[Interface]) -> None:
        """Follow what changes: keys, interfaces, and what there is to advertise."""
        info: ServiceInfo | None = None
        next_publish_at = 0.0
        while not self._closing:
            self._take_keys(zeroconf.zeroconf)
            if self._links_changed:
                interfaces = await self._follow_links(zeroconf, interfaces)
            hosts = tuple(reachable(interfaces))
            self._listener.on_addresses(hosts)
            wanted = self._wanted(hosts)
            now = time.monotonic()
            if wanted is not None and wanted != self._published and now >= next_publish_at:
                info = await self._publish(zeroconf, wanted, info)
                next_publish_at = now + self._config.advert_gap_s
            late = wanted is not None and wanted != self._published
            await self._wait(next_publish_at - now if late else self._config.interfaces_rescan_s)

    async def _follow_links(self, zeroconf: AsyncZeroconf, before: list[Interface]) -> list[Interface]:
        """Look at the interfaces again, and let zeroconf follow; on those that came, ask who is there."""
        await asyncio.sleep(self._config.interfaces_settle_s)
        self._links_changed = False
        interfaces = choose(look(), self._bind)
        # Also where nothing seems to have changed: what could not be bound then may be now.
        await zeroconf.async_update_interfaces(as_zeroconf(interfaces))
        if set(interfaces) - set(before):
            if self._browser is not None:
                await self._browser.async_cancel()
            cache = zeroconf.zeroconf.cache
            cache.async_remove_records(cache.async_entries_with_name(SERVICE_TYPE))
            self._browser = self._browse(zeroconf)
        return interfaces

    async def _wait(self, timeout_s: float) -> None:
        """Until something is wanted. When nothing was for `interfaces_rescan_s`, interfaces are looked at."""
        try:
            await asyncio.wait_for(self._wake.wait(), max(0.0, timeout_s))
        except TimeoutError:
            self._links_changed = self._links_changed or timeout_s >= self._config.interfaces_rescan_s
        self._wake.clear()

    async def _end(self, zeroconf: AsyncZeroconf) -> None:
        """Withdraw our record, and close the sockets."""
        if self._browser is not None:
            await self._browser.async_cancel()
            self._browser = None
        for task in (*self._resolving.values(), *self._sending):
            task.cancel()
        await asyncio.gather(*self._resolving.values(), *self._sending, return_exceptions=True)
        await zeroconf.async_close()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """The kernel tells when interfaces change, where it can."""
        try:
            watch = LinkWatch()
        except (OSError, AttributeError):  # not Linux, or forbidden here: the rescan has to do
            yield
            return

        def changed() -> None:
            watch.drain()
            self._links_changed = True
            self._wake.set()

        loop = asyncio.get_running_loop()
        loop.add_reader(watch.fd, changed)
        try:
            yield
        finally:
            loop.remove_reader(watch.fd)
            watch.close()

    # -- our own record ----------------------------------------------------------------------------------------------

    def _wanted(self, hosts: tuple[str, ...]) -> tuple[Advert, tuple[str, ...], bytes] | None:
        """What our record shall say; None when there is nothing to say, or nobody to hear it."""
        with self._lock:
            offer = self._offer
        if offer is None or not hosts:
            return None
        return offer, hosts, self._sightings.keys.current.id

    async def _publish(
        self, zeroconf: AsyncZeroconf, wanted: tuple[Advert, tuple[str, ...], bytes], before: ServiceInfo | None
    ) -> ServiceInfo:
        """Register the next version of our record, or put it in the place of the one `before`."""
        offer, hosts, _ = wanted
        self._serial += 1
        addresses = [ipaddress.ip_address(host).packed for host in hosts]
        advert = msgspec.structs.replace(offer, node=self._node, serial=self._serial, addresses=addresses)
        info = ServiceInfo(
            SERVICE_TYPE,
            service_name(self._node),
            port=offer.port,
            properties=encode(advert, self._sightings.keys.mesh, self._sightings.keys.current),
            server=f"{self._node.hex()}.local.",
            addresses=addresses,
        )
        if before is None:
            sending = await zeroconf.async_register_service(info, cooperating_responders=True)
        else:
            sending = await zeroconf.async_update_service(info)
        task = asyncio.create_task(_finish(sending))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        self._published = wanted
        return info

    # -- those of others ---------------------------------------------------------------------------------------------

    def _browse(self, zeroconf: AsyncZeroconf) -> AsyncServiceBrowser:
        """Ask who is there, and go on listening."""
        return AsyncServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._on_change])

    def _on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            if (
                node_of(name) == self._node and not self._closing
            ):  # somebody else has withdrawn our record: say it again
                self._published = None
                self._wake.set()
            withdrawn = self._sightings.on_removed(name)
            if withdrawn is not None:
                self._listener.on_finding(withdrawn)
        elif self._look_at(zeroconf, name) or node_of(name) in (None, self._node) or name in self._resolving:
            return
        elif len(self._resolving) >= self._config.resolving_max:
            self._sightings.dropped[BUSY] += 1
        else:
            task = asyncio.ensure_future(self._resolve(zeroconf, name))
            self._resolving[name] = task
            task.add_done_callback(lambda _: self._resolving.pop(name, None))

    def _look_at(self, zeroconf: Zeroconf, name: str) -> bool:
        """Judge the records that are in the cache for a name. False when there are none."""
        records = zeroconf.cache.get_all_by_details(name, _TXT, _IN)
        if not records:
            return False
        zones = {
            str(ipaddress.IPv6Address(record.address)): str(record.scope_id)
            for record in zeroconf.cache.get_all_by_details(f"{name.partition('.')[0]}.local.", _AAAA, _IN)
            if isinstance(record, DNSAddress) and record.scope_id
        }
        found = self._sightings.on_records(name, texts_of(records), zones)
        if found is not None:
            self._listener.on_finding(found)
        return True

    async def _resolve(self, zeroconf: Zeroconf, name: str) -> None:
        """Ask for the record of a name that came without one."""
        info = AsyncServiceInfo(SERVICE_TYPE, name)
        await info.async_request(zeroconf, self._config.resolve_timeout_s * 1000)
        if not self._look_at(zeroconf, name):
            self._sightings.dropped[UNANSWERED] += 1

    def _take_keys(self, zeroconf: Zeroconf) -> None:
        """With other keys, what was refused may be sound."""
        with self._lock:
            changed, self._keys_changed = self._keys_changed, False
            self._sightings.keys = self._keys
        if changed:
            for record in zeroconf.cache.async_entries_with_name(SERVICE_TYPE):
                if isinstance(record, DNSPointer):
                    self._look_at(zeroconf, record.alias)


async def _finish(sending: Awaitable[object]) -> None:
    """As a task: what zeroconf gives is some awaitable."""
    await sending


def texts_of(records: Iterable[object]) -> list[bytes]:
    """Of TXT records, in the order in which they came."""
    texts = [record for record in records if isinstance(record, DNSText)]
    return [record.text for record in sorted(texts, key=lambda record: record.created)]


def as_zeroconf(interfaces: list[Interface]) -> list[str | int | tuple[tuple[str, int, int], int]]:
    """How zeroconf names them: IPv4 by each address, IPv6 by the interface's index."""
    chosen: list[str | int | tuple[tuple[str, int, int], int]] = []
    for interface in interfaces:
        chosen += [address for address in interface.addresses if ":" not in address]
        if interface.has_ipv6():
            chosen.append(interface.index)
    return chosen
