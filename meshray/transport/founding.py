"""May this host make a mesh? Only where none can be heard, and nobody else is about to make one.

Theory. Whoever is about to make a mesh listens for one first (`discovery_listen_s`). Machines that are started at the
same moment would all hear nothing, and each make its own; so whoever listens also *claims*, by a service of another
type, `_meshray-new._tcp.local.`, named by 64 random bits::

    listening    txt `founds=0`    of two that hear each other the one with the smaller name goes on, the other gives in
    founding     txt `founds=1`    its time is over and its peer is starting: whoever hears that gives in

Who gives in to one that still listens goes on listening for a while, until it hears who founds: the one that it gave in
to may have given in to a third one.

A record of a mesh beats any claim. The claim stands until the peer serves and advertises its mesh, so there is no gap:
who listens hears the claim, or the mesh, or began to listen so late that its own time is not over when the peer serves.
What remains are hosts that cannot hear each other: two meshes then, each of which counts the other's records as foreign
once it can.

Nothing of this is proven: nobody has a key yet. A stranger on the LAN can keep people from making a mesh in this way,
so there is another (`--new`), and can do no more.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from zeroconf import Error as ZeroconfError
from zeroconf import ServiceInfo, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

from meshray.config import DEFAULT
from meshray.transport.interfaces import Interface, choose, look, reachable
from meshray.transport.mdns import as_zeroconf, texts_of
from meshray.wire.advert import SERVICE_TYPE, AdvertError, read_unproven

CLAIM_TYPE = "_meshray-new._tcp.local."
CLAIM_PORT = 9
"""A record needs one; nobody listens there (RFC 863, discard)."""

MAKER_LATE_S = 1.0
"""Whom we gave in to may have begun to listen after us. So it founds within our time and this, as a rule."""

_TXT, _IN = 16, 1
_LISTENING, _FOUNDING = b"\x08founds=0", b"\x08founds=1"
_HEX = frozenset("0123456789abcdef")

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Heard:
    """A mesh that seems to be on this LAN. Unproven, since we have no key: to tell people, never to dial."""

    mesh: bytes
    hosts: tuple[str, ...]  # of one of its peers


@dataclass(frozen=True, slots=True)
class Rival:
    """Another host makes its mesh at this moment. Unproven: to tell people."""

    hosts: tuple[str, ...]  # none where it was not heard which one


def found(
    make: Callable[[], Made],
    bind: tuple[str, ...] = (),
    timeout_s: float = DEFAULT.discovery_listen_s,
    claim: bytes | None = None,
) -> Heard | Rival | Made:
    """Listen for `timeout_s`; if no mesh is heard and nobody else makes one, `make` it, in a thread. What it returns,
    or whom we heard. Blocks. `claim`: 8 bytes that nobody else has, random ones unless a test says which.

    Raises what `make` raises, and `OSError` where mDNS cannot be used; then nothing was made.
    """
    interfaces = choose(look(), bind)
    if not interfaces:
        return make()  # cut off from everybody
    return asyncio.run(_found(make, interfaces, timeout_s, claim or os.urandom(8)))


async def _found(
    make: Callable[[], Made], interfaces: list[Interface], timeout_s: float, claim: bytes
) -> Heard | Rival | Made:
    beaten: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # somebody else goes on, or has made it
    maker: asyncio.Future[Heard | Rival] = asyncio.get_running_loop().create_future()
    ours = f"{claim.hex()}.{CLAIM_TYPE}"

    def on_change(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if maker.done() or state_change is ServiceStateChange.Removed or name.lower() == ours:
            return
        told = _mesh_in(zeroconf, name) if service_type == SERVICE_TYPE else _founder_in(zeroconf, name)
        if told is not None:
            maker.set_result(told)
        if (told is not None or _comes_before(zeroconf, name, ours)) and not beaten.done():
            beaten.set_result(None)

    try:
        zeroconf = AsyncZeroconf(interfaces=as_zeroconf(interfaces))
        await zeroconf.zeroconf.async_wait_for_start()
    except (RuntimeError, ZeroconfError) as error:  # how zeroconf says that an interface has just gone
        raise OSError(errno.ENETDOWN, str(error)) from error
    try:
        browser = AsyncServiceBrowser(zeroconf.zeroconf, [SERVICE_TYPE, CLAIM_TYPE], handlers=[on_change])
        sending: list[asyncio.Future[None]] = []
        try:
            hosts = [ipaddress.ip_address(host).packed for host in reachable(interfaces)]
            claiming = await zeroconf.async_register_service(
                _claim(ours, _LISTENING, hosts), cooperating_responders=True
            )
            sending.append(asyncio.ensure_future(claiming))  # it is said three times within a second
            await asyncio.wait([beaten], timeout=timeout_s)
            if beaten.done():
                await asyncio.wait([maker], timeout=timeout_s + MAKER_LATE_S)
                return maker.result() if maker.done() else Rival(())
            sending.append(asyncio.ensure_future(await zeroconf.async_update_service(_claim(ours, _FOUNDING, hosts))))
            return await asyncio.to_thread(make)
        finally:
            await browser.async_cancel()
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
    finally:
        await zeroconf.async_close()  # and the claim is withdrawn


def _claim(name: str, text: bytes, hosts: list[bytes]) -> ServiceInfo:
    server = f"{name.partition('.')[0]}.local."
    return ServiceInfo(CLAIM_TYPE, name, port=CLAIM_PORT, properties=text, server=server, addresses=hosts)


def _mesh_in(zeroconf: Zeroconf, name: str) -> Heard | None:
    for text in texts_of(zeroconf.cache.get_all_by_details(name, _TXT, _IN)):
        try:
            mesh, advert = read_unproven(text)
        except AdvertError:
            continue
        return Heard(mesh, tuple(advert.hosts()))
    return None


def _comes_before(zeroconf: Zeroconf, name: str, ours: str) -> bool:
    """Whether this is the claim of somebody who listens, and does not give in to us."""
    return _is_claim(name) and _LISTENING in _said(zeroconf, name) and name.lower() < ours


def _founder_in(zeroconf: Zeroconf, name: str) -> Rival | None:
    """Whoever has this claim, if it is founding."""
    if not _is_claim(name) or _FOUNDING not in _said(zeroconf, name):
        return None
    info = ServiceInfo(CLAIM_TYPE, name)
    info.load_from_cache(zeroconf)
    return Rival(tuple(info.parsed_addresses()))


def _is_claim(name: str) -> bool:
    label, dot, rest = name.lower().partition(".")
    return len(label) == 16 and _HEX.issuperset(label) and dot + rest == f".{CLAIM_TYPE}"


def _said(zeroconf: Zeroconf, name: str) -> list[bytes]:
    return texts_of(zeroconf.cache.get_all_by_details(name, _TXT, _IN))
