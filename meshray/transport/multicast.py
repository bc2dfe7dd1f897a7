"""Does multicast work here? For `meshray doctor`: what this host hears of itself, and which peers it hears.

A query without questions (RFC 6762: nobody answers one) goes out through each interface, to the group and port of mDNS,
and is waited for on the same interface: that passes the routes, the packet filter and the sockets of this host. Whether
it passes the network shows only by others: by the records that are heard.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
import time

from zeroconf import ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

from meshray.transport.interfaces import Interface
from meshray.transport.mdns import as_zeroconf
from meshray.transport.sightings import node_of
from meshray.wire.advert import SERVICE_TYPE

GROUPS = {4: "224.0.0.251", 6: "ff02::fb"}
PORT = 5353
ECHO_TIMEOUT_S = 1.0
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def hears_itself(interface: Interface, version: int, timeout_s: float = ECHO_TIMEOUT_S) -> bool:
    """Whether what is sent to mDNS's group through an interface comes back to this host. Blocks.

    Raises `OSError` when it cannot be sent, or the port not be shared.
    """
    query = os.urandom(2) + bytes(10)  # an id that nobody else uses now, no flags, no records of any kind
    with socket.socket(_FAMILIES[version], socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if version == 4:
            address = next(address for address in interface.addresses if ":" not in address)
            sock.bind(("", PORT))
            member = struct.pack("4s4si", socket.inet_aton(GROUPS[4]), socket.inet_aton(address), interface.index)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            sock.sendto(query, (GROUPS[4], PORT))
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(("", PORT))
            group = socket.inet_pton(socket.AF_INET6, GROUPS[6]) + struct.pack("@I", interface.index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface.index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
            sock.sendto(query, (GROUPS[6], PORT, 0, interface.index))
        return _comes_back(sock, query, timeout_s)


def _comes_back(sock: socket.socket, query: bytes, timeout_s: float) -> bool:
    give_up_at = time.monotonic() + timeout_s
    while (left_s := give_up_at - time.monotonic()) > 0:
        if select.select([sock], [], [], left_s)[0] and sock.recv(9000) == query:
            return True
    return False


def nodes_heard(interfaces: list[Interface], timeout_s: float) -> set[bytes]:
    """The nodes of whichever meshes whose records are heard within the time. Blocks for all of it. Unproven.

    Raises `OSError` where mDNS cannot be used.
    """
    return asyncio.run(_nodes_heard(interfaces, timeout_s)) if interfaces else set()


async def _nodes_heard(interfaces: list[Interface], timeout_s: float) -> set[bytes]:
    heard: set[bytes] = set()

    def on_change(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        node = node_of(name)
        if node is not None:
            heard.add(node)

    zeroconf = AsyncZeroconf(interfaces=as_zeroconf(interfaces))
    try:
        await zeroconf.zeroconf.async_wait_for_start()
        browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[on_change])
        await asyncio.sleep(timeout_s)  # this is what it is about: how much is heard in that time
        await browser.async_cancel()
    finally:
        await zeroconf.async_close()
    return heard
