"""How the way to another host is: whether its port takes connections, and which packets pass. For `meshray doctor`.

A path that drops large packets without a word (a *black hole*: a tunnel with a smaller MTU, and a filter that eats the
notices of it) lets every handshake pass and stops every transfer. So echo requests of several sizes are sent that may
not be divided (RFC 4821 calls it a probe); what small ones pass and large ones do not is told from a host that answers
no echo at all.
"""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import struct
import time

ECHO_TIMEOUT_S = 0.4
ECHO_TRIES = 3
CONNECT_TIMEOUT_S = 2.0

SMALL_BYTES = 200
"""A packet that passes everywhere."""

_SIZES = (9000, 8000, 4000, 1500, 1492, 1480, 1450, 1420, 1400, 1380, 1280, 1000, 576)
"""Packets as they are usual: jumbo frames, Ethernet, PPPoE, tunnels, and what IP demands."""

_MTU_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}  # linux/in.h, linux/in6.h
_PROBE = 3  # send as large as the interface allows, and do not divide it
_HEADERS = {4: 20 + 8, 6: 40 + 8}  # IP and ICMP
_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}


class EchoForbidden(Exception):
    """This user may not send echo requests."""


def connects(host: str, port: int, timeout_s: float = CONNECT_TIMEOUT_S) -> str:
    """Empty when the port takes a connection; else why not, in words."""
    try:
        with socket.create_connection((host, port), timeout_s):
            return ""
    except TimeoutError:
        return f"no answer within {timeout_s:g} s (a firewall, or a host that is not there)"
    except ConnectionRefusedError:
        return "refused (nobody listens there, or a firewall rejects it)"
    except OSError as error:
        return str(error.strerror or error)


def source_of(host: str) -> str:
    """The address of this host from which the other is reached. Raises `OSError` when there is no way."""
    family = socket.AF_INET6 if _version(host) == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((host, 9))  # sends nothing
        return str(sock.getsockname()[0])


def passes(host: str, packet_bytes: int, timeout_s: float = ECHO_TIMEOUT_S, tries: int = ECHO_TRIES) -> bool:
    """Whether a packet of this size, IP header included, reaches a host and an answer of the same size comes back.

    Raises `EchoForbidden`, `OSError` when there is no way, or the interface itself takes no packet of this size.
    """
    version = _version(host)
    with _echo_socket(version) as sock:
        sock.setsockopt(*_MTU_DISCOVER[version], _PROBE)
        sock.connect((host, 0))
        for number in range(tries):
            mark = os.urandom(8)
            body = mark + bytes(max(0, packet_bytes - _HEADERS[version] - len(mark)))
            sock.send(_echo(version, number, body))
            if _answered(sock, version, mark, timeout_s):
                return True
    return False


def largest_that_passes(host: str, mtu: int) -> int | None:
    """The largest usual packet up to `mtu` that passes; None when not even a small one does. Raises as `passes`."""
    if passes(host, mtu):
        return mtu
    if not passes(host, SMALL_BYTES):
        return None
    return next((size for size in _SIZES if size < mtu and passes(host, size, tries=2)), SMALL_BYTES)


def _version(host: str) -> int:
    return ipaddress.ip_address(host.partition("%")[0]).version


def _echo_socket(version: int) -> socket.socket:
    """One for echo requests alone, as unprivileged users may have it; else a raw one."""
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if version == 6 else socket.IPPROTO_ICMP
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            return socket.socket(family, kind, protocol)
        except PermissionError:
            continue
    raise EchoForbidden("echo requests are for root here (net.ipv4.ping_group_range)")


def _echo(version: int, number: int, body: bytes) -> bytes:
    """An echo request (RFC 792, RFC 4443). The kernel fills in the checksum of IPv6, and of unprivileged sockets."""
    identifier = os.getpid() & 0xFFFF
    head = struct.pack("!BBHHH", _REQUEST[version], 0, 0, identifier, number)
    if version == 4:
        head = struct.pack("!BBHHH", _REQUEST[version], 0, _checksum(head + body), identifier, number)
    return head + body


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    even = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(even) // 2}H", even))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _answered(sock: socket.socket, version: int, mark: bytes, timeout_s: float) -> bool:
    give_up_at = time.monotonic() + timeout_s
    while (left_s := give_up_at - time.monotonic()) > 0:
        if not select.select([sock], [], [], left_s)[0]:
            return False
        try:
            answer = sock.recv(65536)
        except ConnectionRefusedError:  # a notice that it could not be delivered
            return False
        if version == 4 and sock.type == socket.SOCK_RAW:
            answer = answer[(answer[0] & 0x0F) * 4 :]
        if answer[0] == _REPLY[version] and answer[8:16] == mark:
            return True
    return False
