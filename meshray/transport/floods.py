"""Strangers at the door: how many there are, and how it is shut for a moment while those inside go on talking.

libzmq accepts every connection before it knows who it is, and drops the silent ones after HANDSHAKE_IVL. Enough of them
use up the descriptors, and then it burns a core on trying. It offers no hook; and `unbind` would end every session that
came in through that port, since the listener owns them (measured with libzmq 4.3.5). So the listening sockets are ours:
for a pause they get a packet filter that drops what begins a connection. Connections that stand have sockets of their
own and feel nothing; who knocks meanwhile tries again by itself, as after a lost packet.
"""

from __future__ import annotations

import ctypes
import resource
import socket
import struct
from collections import deque
from random import Random

import zmq

from meshray.transport.mesh_options import HANDSHAKE_MS
from meshray.transport.monitors import Happened

YOUNG_S = HANDSHAKE_MS / 1000 + 0.5
"""A connection older than this has shown a key, or libzmq has closed it."""

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_DROP_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0)  # classic BPF, one instruction: return 0 bytes of the packet


def raise_descriptor_limit() -> int:
    """Raise this process's limit of open files to what the system allows it; the limit now. For the peer, at its start:
    what it starts afterwards inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


def silent_max(configured: int) -> int:
    """How many silent connections are let in: never more than a quarter of the descriptors there are."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return configured if soft == resource.RLIM_INFINITY else min(configured, soft // 4)


class Doorkeeper:
    """Counts those who have not shown a key yet, by the events of the port's monitor."""

    def __init__(self, most: int, pause_s: float, random: Random) -> None:
        self._most = most  # silent connections that are let in
        self._pause_s = pause_s
        self._random = random
        self._young: dict[int, float] = {}  # descriptor -> when it was accepted, oldest first, while below YOUNG_S
        self._shown: deque[float] = deque()  # when a connection has shown a key, while below YOUNG_S
        self._exhausted = False  # libzmq could not accept for want of descriptors, since the last decision
        self.shut_until: float | None = None  # None: open

    def on_event(self, event: Happened, now: float) -> None:
        """One event of the port's monitor."""
        if event.kind is zmq.Event.ACCEPTED:
            self._young[event.value] = now
        elif event.kind is zmq.Event.HANDSHAKE_SUCCEEDED:
            self._shown.append(now)
        elif event.kind is zmq.Event.DISCONNECTED:
            self._young.pop(event.value, None)
        elif event.kind is zmq.Event.ACCEPT_FAILED:
            self._exhausted = True

    def silent(self, now: float) -> int:
        """Connections that are open and have shown no key. (Not exact: which connection a shown key belongs to is not
        told, so members that come and go quickly make it too small by their number.)"""
        while self._shown and self._shown[0] <= now - YOUNG_S:
            self._shown.popleft()
        while self._young:
            oldest = next(iter(self._young))
            if self._young[oldest] > now - YOUNG_S:
                break
            del self._young[oldest]
        return max(0, len(self._young) - len(self._shown))

    def decide(self, now: float) -> bool | None:
        """True: shut the door now; False: open it; None: leave it as it is."""
        silent = self.silent(now)
        exhausted, self._exhausted = self._exhausted, False
        if self.shut_until is None:
            if silent <= self._most and not exhausted:
                return None
            self.shut_until = now + self._pause()
            return True
        if now < self.shut_until:
            return None
        if silent > self._most // 2:
            self.shut_until = now + self._pause()
            return None
        self.shut_until = None
        return False

    def _pause(self) -> float:
        """Jittered, so that nobody can wait for the moment."""
        return self._pause_s * self._random.uniform(0.5, 1.5)


def shut(listener: socket.socket) -> None:
    """Drop what knocks at a listening socket. Raises `OSError` where the system has no such filter."""
    instructions = ctypes.create_string_buffer(_DROP_ALL, len(_DROP_ALL))
    program = struct.pack("HP", 1, ctypes.addressof(instructions))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def reopen(listener: socket.socket) -> None:
    """Let them in again."""
    listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
