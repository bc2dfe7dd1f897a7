"""A learning switch in user space, with the faults of a bad network, for the hosts of `tests/lan`.

Theory. Each host's `eth0` is a TAP device: what the host's kernel sends to it this process reads, and what this process
writes to it the host receives. The device is made inside the host's network namespace and belongs to the descriptor
here, so that it goes when either does: nothing can be left behind. Without offloads (the default) frames are as on a
wire, with checksums computed, so a damaged one is dropped by its receiver as on a real LAN. With `offload` frames are
up to 64 KiB and carry their header for unfinished checksums along: some times faster, for bulk; TCP then does not
notice damage, so that it tests integrity from end to end.

A *way* is one direction between two hosts. Each has its rule and its own random numbers, drawn from the seed and the
two names, so what happens on one way does not depend on traffic elsewhere. In the order in which a frame meets them::

    block    nothing passes                       loss       this part of the frames vanishes
    frame_max_bytes  larger frames vanish
    corrupt  one bit of this part is flipped      duplicate  this part arrives twice
    rate     bits per second, behind a queue of `queue_bytes` that drops what does not fit
    delay, jitter   seconds; jitter is uniform to both sides, and may reorder

Run as `python -m tests.lan.switch SOCKET SEED`. It takes commands as JSON lines on a Unix socket, answers each with one
line, and ends when the connection does::

    {"do": "plug", "host": "a", "pid": 123, "offload": false}    make eth0 in the network namespace of that process
    {"do": "carrier", "host": "a", "on": false}                  pull the cable out, put it back
    {"do": "rule", "from": ["a"], "to": ["b"], "set": {"loss": 0.1}}    change what is named, keep the rest
    {"do": "heal"}                                                all rules go
    {"do": "stats"}                                               counters by way
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import heapq
import json
import os
import random
import selectors
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

TUNSETIFF, TUNSETOFFLOAD, TUNSETCARRIER = 0x400454CA, 0x400454D0, 0x400454E2  # linux/if_tun.h
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x2, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 0x1, 0x2, 0x4
CLONE_NEWNET = 0x40000000

VNET_HEADER_BYTES = 10  # struct virtio_net_hdr, before each frame with offloads
ETHERNET_HEADER_BYTES = 14
FRAME_MAX_BYTES = VNET_HEADER_BYTES + 65_550
BURST_FRAMES = 64  # read from one host before the others get their turn
UNDER_WAY_MAX_FRAMES = 200_000  # a bound on what is delayed, in all
STATIONS_MAX = 4096  # a bound on learnt addresses


MDNS_GROUPS = (b"\x01\x00\x5e\x00\x00\xfb", b"\x33\x33\x00\x00\x00\xfb")
"""The Ethernet addresses of 224.0.0.251 and ff02::fb."""


@dataclass(frozen=True)
class Rule:
    """What befalls the frames of one way."""

    block: bool = False
    no_mdns: bool = False  # as networks do that drop multicast; IPv6 would not work at all without its own
    frame_max_bytes: int = 0  # larger ones vanish, without a word: an MTU black hole; 0: none do
    loss: float = 0.0
    corrupt: float = 0.0
    duplicate: float = 0.0
    rate: float = 0.0  # bits per second; 0: no limit
    queue_bytes: int = 256 * 1024
    delay: float = 0.0
    jitter: float = 0.0


@dataclass
class Way:
    """One direction between two hosts."""

    draws: random.Random
    rule: Rule = Rule()
    free_at: float = 0.0  # when the last frame of a limited way has left
    counts: Counter[str] = field(default_factory=Counter)

    def schedule(self, frame: bytes, now: float, first_byte: int) -> list[tuple[float, bytes]]:
        """When which frames come out at the other end for this one: none, one or two. `first_byte`: after headers that
        are not damaged, so that a damaged frame still reaches the one it was sent to."""
        rule, draws = self.rule, self.draws
        self.counts["in"] += 1
        if (
            rule.block
            or (rule.no_mdns and _receiver(frame, first_byte) in MDNS_GROUPS)
            or (rule.frame_max_bytes and len(frame) - first_byte + ETHERNET_HEADER_BYTES > rule.frame_max_bytes)
            or (rule.loss and draws.random() < rule.loss)
        ):
            self.counts["lost"] += 1
            return []
        if rule.corrupt and draws.random() < rule.corrupt:
            self.counts["corrupted"] += 1
            frame = _flipped(frame, draws.randrange(first_byte, len(frame)), draws.randrange(8))
        copies = 1 + bool(rule.duplicate and draws.random() < rule.duplicate)
        self.counts["duplicated"] += copies - 1
        arrivals = []
        for _ in range(copies):
            leaves_at = self._leaves_at(len(frame), now)
            if leaves_at is None:
                self.counts["overflowed"] += 1
                continue
            late = rule.delay + (draws.uniform(-1, 1) * rule.jitter if rule.jitter else 0.0)
            arrivals.append((leaves_at + max(0.0, late), frame))
        return arrivals

    def _leaves_at(self, size: int, now: float) -> float | None:
        """When a frame has left a limited way; None when the queue before it is full."""
        if not self.rule.rate:
            return now
        waiting_bytes = max(0.0, self.free_at - now) * self.rule.rate / 8
        if waiting_bytes + size > self.rule.queue_bytes:
            return None
        self.free_at = max(now, self.free_at) + size * 8 / self.rule.rate
        return self.free_at


def _receiver(frame: bytes, first_byte: int) -> bytes:
    start = first_byte - ETHERNET_HEADER_BYTES
    return frame[start : start + 6]


def _flipped(frame: bytes, place: int, bit: int) -> bytes:
    damaged = bytearray(frame)
    damaged[place] ^= 1 << bit
    return bytes(damaged)


@dataclass
class Port:
    """One host's cable."""

    fd: int  # of the TAP device
    header: int  # bytes before the frame
    plugged: bool = True  # the kernel tells the host, but would still hand it our frames


class Switch:
    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._ports: dict[str, Port] = {}
        self._ways: dict[tuple[str, str], Way] = {}
        self._stations: dict[bytes, str] = {}  # MAC address -> the host behind which it was last seen
        self._under_way: list[tuple[float, int, str, str, bytes]] = []  # heap of (when, order, from, to, frame)
        self._order = 0
        self.selector = selectors.DefaultSelector()

    # -- frames ------------------------------------------------------------------------------------------------------

    def receive(self, host: str) -> None:
        """Take what a host has sent, and pass it on."""
        port = self._ports[host]
        for _ in range(BURST_FRAMES):
            try:
                frame = os.read(port.fd, FRAME_MAX_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EBADFD:  # the host is gone, and its device with it
                    self._unplug(host)
                elif error.errno != errno.EIO:  # EIO: eth0 is down
                    raise
                return
            if not port.plugged:
                continue  # it had left before the cable was pulled
            to, source = frame[port.header : port.header + 6], frame[port.header + 6 : port.header + 12]
            if len(self._stations) < STATIONS_MAX or source in self._stations:
                self._stations[source] = host
            known = None if to[0] & 1 else self._stations.get(to)  # an odd first byte: to many
            for other in [known] if known else list(self._ports):
                if other != host and other in self._ports:
                    self._forward(host, other, frame, port.header + ETHERNET_HEADER_BYTES)

    def _forward(self, source: str, to: str, frame: bytes, first_byte: int) -> None:
        way, now = self.way(source, to), time.monotonic()
        for when, copy in way.schedule(frame, now, first_byte):
            if when <= now:
                self._deliver(way, to, copy)
            elif len(self._under_way) < UNDER_WAY_MAX_FRAMES:
                self._order += 1
                heapq.heappush(self._under_way, (when, self._order, source, to, copy))
            else:
                way.counts["overflowed"] += 1

    def _deliver(self, way: Way, to: str, frame: bytes) -> None:
        port = self._ports.get(to)
        if port is None:
            return
        if not port.plugged:
            way.counts["refused"] += 1
            return
        try:
            os.write(port.fd, frame)
            way.counts["out"] += 1
        except OSError:  # down, or its queue is full: a switch drops
            way.counts["refused"] += 1

    def deliver_due(self) -> float | None:
        """Deliver what has been delayed long enough; how many seconds until the next, None when there is none."""
        while self._under_way:
            left_s = self._under_way[0][0] - time.monotonic()
            if left_s > 0:
                return left_s
            _, _, source, to, frame = heapq.heappop(self._under_way)
            self._deliver(self.way(source, to), to, frame)
        return None

    def way(self, source: str, to: str) -> Way:
        if (source, to) not in self._ways:
            self._ways[source, to] = Way(random.Random(f"{self._seed}:{source}:{to}"))
        return self._ways[source, to]

    # -- commands ----------------------------------------------------------------------------------------------------

    def obey(self, command: dict[str, Any]) -> object:
        """Do what a command says; its answer."""
        what = command.pop("do")
        if what == "plug":
            return self._plug(**command)
        if what == "carrier":
            port = self._ports[command["host"]]
            port.plugged = command["on"]
            fcntl.ioctl(port.fd, TUNSETCARRIER, struct.pack("i", port.plugged))
            return None
        if what == "rule":
            for source in command["from"]:
                for to in command["to"]:
                    way = self.way(source, to)
                    way.rule = dataclasses.replace(way.rule, **command["set"])
            return None
        if what == "heal":
            for way in self._ways.values():
                way.rule = Rule()
            return None
        if what == "stats":
            return {f"{source}>{to}": dict(way.counts) for (source, to), way in self._ways.items()}
        raise ValueError(f"no such command: {what}")

    def _plug(self, host: str, pid: int, offload: bool) -> None:
        fd = _tap_in_namespace_of(pid, offload)
        self._ports[host] = Port(fd, VNET_HEADER_BYTES if offload else 0)
        self.selector.register(fd, selectors.EVENT_READ, host)

    def _unplug(self, host: str) -> None:
        port = self._ports.pop(host)
        self.selector.unregister(port.fd)
        os.close(port.fd)


def _tap_in_namespace_of(pid: int, offload: bool) -> int:
    """A TAP device `eth0` in the network namespace of a process; its descriptor keeps it."""
    with open("/proc/self/ns/net") as own, open(f"/proc/{pid}/ns/net") as theirs:
        _setns(theirs.fileno())
        try:
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if offload else 0)
                fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"eth0", flags))
                if offload:
                    fcntl.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
            except BaseException:
                os.close(fd)
                raise
        finally:
            _setns(own.fileno())
    return fd


def _setns(fd: int) -> None:
    """`os.setns` is there from Python 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


# -- the process -------------------------------------------------------------------------------------------------------


def _answers(switch: Switch, lines: Iterable[bytes]) -> Iterable[bytes]:
    for line in lines:
        try:
            answer = {"result": switch.obey(json.loads(line))}
        except Exception as error:  # a command of a test that is wrong is that test's failure, not the switch's end
            answer = {"error": f"{type(error).__name__}: {error}"}
        yield json.dumps(answer).encode() + b"\n"


def main(path: str, seed: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    print("ready", flush=True)
    control, _ = listener.accept()
    switch = Switch(seed)
    switch.selector.register(control, selectors.EVENT_READ, None)
    pending = b""
    while True:
        for key, _ in switch.selector.select(switch.deliver_due()):
            if key.data is not None:
                if key.fd in switch.selector.get_map():  # not unplugged meanwhile
                    switch.receive(key.data)
                continue
            data = control.recv(65536)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for answer in _answers(switch, lines):
                control.sendall(answer)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C at a test run reaches all of its processes
        main(*sys.argv[1:])
