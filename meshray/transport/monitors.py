"""What happens to the connections of a socket, as events, without ever holding up libzmq.

libzmq's I/O thread writes these events into a pair of inproc sockets, and *waits* when that is full: a reader that is
busy for a while would stop every connection of the process. So the reading end has no high-water mark; what may pile
up is bounded by how many connections can come and go while the owner is busy.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import NamedTuple

import zmq

from meshray.transport.mesh_options import readable

EVENTS_BUDGET = 4096
"""Events taken per look."""

INTERESTING = (
    zmq.Event.CONNECTED
    | zmq.Event.CONNECT_DELAYED
    | zmq.Event.CONNECT_RETRIED
    | zmq.Event.ACCEPTED
    | zmq.Event.ACCEPT_FAILED
    | zmq.Event.CLOSED
    | zmq.Event.DISCONNECTED
    | zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_AUTH
)

_HEAD = struct.Struct("=HI")  # event (16 bits), value (32 bits), in the byte order of the machine
_numbers = itertools.count()


class Happened(NamedTuple):
    """One event. `value` is a descriptor, an errno or a code, by kind."""

    kind: zmq.Event
    value: int


class Monitor:
    """The events of one socket. To be closed before it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        address = f"inproc://monitor-{next(_numbers)}"
        socket.monitor(address, int(INTERESTING))
        self._pair = context.socket(zmq.PAIR)
        self._pair.setsockopt(zmq.RCVHWM, 0)
        self._pair.setsockopt(zmq.LINGER, 0)
        self._pair.connect(address)
        self.fd = int(self._pair.getsockopt(zmq.FD))
        # A descriptor becomes readable only after the socket was once found empty.
        self._first = list(self._take(EVENTS_BUDGET))

    def events(self, budget: int = EVENTS_BUDGET) -> Iterator[Happened]:
        """What has happened since the last look, at most about `budget` of it."""
        first, self._first = self._first, []
        yield from first
        yield from self._take(budget)

    def _take(self, budget: int) -> Iterator[Happened]:
        for _ in range(budget):
            if not readable(self._pair):
                return
            frames = self._pair.recv_multipart(zmq.DONTWAIT)
            kind, value = _HEAD.unpack(frames[0])
            yield Happened(zmq.Event(kind), value)

    def close(self) -> None:
        self._socket.disable_monitor()
        self._pair.close(linger=0)
