"""What this process says to processes of other hosts: by way of its own peer, which passes it on unread.

At most a window of each is on its way (`RELAY_WINDOW_BYTES`); the rest waits here, in order, until the receiver's peer
says what has arrived. All under the pump's lock.
"""

from __future__ import annotations

from collections import deque

from meshray.ids import NODE_BYTES
from meshray.transport.endpoint import Endpoint
from meshray.wire.codec import encode
from meshray.wire.messages import RELAY_WINDOW_BYTES, Message, Relay, RelayTaken

RELAY_SLACK_BYTES = 64
"""What the envelope of a relayed message may add to it."""


class _Pair:
    """This process and one of another host."""

    __slots__ = ("on_the_way", "waiting")

    def __init__(self) -> None:
        self.on_the_way = 0  # bytes of which the receiver's peer has not said that they are there
        self.waiting: deque[bytes] = deque()  # what is beyond the window, oldest first


class Abroad:
    """See the head of this file. It serves an endpoint as its `detour`."""

    def __init__(self, endpoint: Endpoint, peer: bytes, frame_max_bytes: int) -> None:
        self._endpoint = endpoint
        self._peer = peer
        self._max_bytes = frame_max_bytes - RELAY_SLACK_BYTES
        self._pairs: dict[bytes, _Pair] = {}  # by the other process; also those that have only spoken to us

    def send(self, destination: bytes, message: Message) -> None:
        """Send to a process of another host, in order per destination.

        Raises `ValueError` for a message that is larger than its receiver takes.
        """
        data = encode(message)
        if len(data) > self._max_bytes:
            raise ValueError(
                f"a {type(message).__name__} of {len(data)} bytes to process {destination.hex()} of another host is "
                f"larger than a message may be ({self._max_bytes})"
            )
        pair = self._pair(destination)
        if pair.waiting or not _fits(pair, len(data)):
            pair.waiting.append(data)
        else:
            self._relay(destination, pair, data)

    def heard(self, source: bytes) -> None:
        """A process of another host has said something."""
        self._pair(source)

    def on_taken(self, message: RelayTaken) -> None:
        """So much more is with its receiver."""
        pair = self._pairs.get(message.destination)
        if pair is None:
            return
        pair.on_the_way = max(0, pair.on_the_way - message.size)
        while pair.waiting and _fits(pair, len(pair.waiting[0])):
            self._relay(message.destination, pair, pair.waiting.popleft())

    def forget(self, process: bytes) -> None:
        """It is gone, and what waits for it with it."""
        self._pairs.pop(process, None)

    def forget_host(self, node: bytes) -> list[bytes]:
        """All of that host are gone. The ones that this process has dealt with."""
        gone = [process for process in self._pairs if process[:NODE_BYTES] == node]
        for process in gone:
            del self._pairs[process]
        return gone

    @property
    def waiting(self) -> int:
        """How many messages wait for a window."""
        return sum(len(pair.waiting) for pair in self._pairs.values())

    def _pair(self, process: bytes) -> _Pair:
        pair = self._pairs.get(process)
        if pair is None:
            pair = self._pairs[process] = _Pair()
        return pair

    def _relay(self, destination: bytes, pair: _Pair, data: bytes) -> None:
        pair.on_the_way += len(data)
        self._endpoint.send(self._peer, Relay(destination, data))


def _fits(pair: _Pair, size: int) -> bool:
    """Whether a message may leave. The receiver's peer keeps what is below half a window to itself, so with at most
    that on the way a message of any size leaves."""
    return pair.on_the_way + size <= RELAY_WINDOW_BYTES or pair.on_the_way <= RELAY_WINDOW_BYTES // 2
