"""How a datagram of the failure detector gets to a node: which of its addresses, and what waits for a connection.

A line is a connection of the probe plane to one *address*; the node that is meant stands in each datagram. So it serves
whoever lives there, those included with whom there is no link session: one that was declared dead has to hear of it.

A message for which no connection stands yet waits, a few and a short while, the newest first to be kept: a first probe
allows for the time that a connection takes. Of a node's addresses the first is taken that has not failed lately.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from meshray.config import Config
from meshray.transport.mesh_lines import HandshakeFailed, LineEvent, Lost, Ready, Unreachable
from meshray.wire.peers import Datagram, PeerMessage, Plane

PREFIX = b"probes to "
"""Before the address, in the target of a line; longer than a node id, so it is none, nor a seed's."""


class Sender(Protocol):
    """What of a `MeshEndpoint` is used here."""

    def dial(self, target: bytes, address: str, key_id: str = "") -> None: ...

    def forget(self, target: bytes) -> None: ...

    def send(
        self, target: bytes, plane: Plane, destination: bytes, message: PeerMessage, payload: bytes, now: float
    ) -> bool: ...


class _Line:
    def __init__(self, kept_max: int) -> None:
        self.node = b""  # the last one that something was sent to
        self.failed_at: float | None = None  # since then nobody could be reached there
        self.waiting: deque[tuple[float, bytes, bytes]] = deque(maxlen=kept_max)  # since when, node, payload


class ProbeLines:
    """See the head of this file. Lines are made on demand; of too many the oldest is closed."""

    def __init__(self, endpoint: Sender, config: Config) -> None:
        self._endpoint = endpoint
        self._config = config
        self._lines: dict[str, _Line] = {}  # by address

    def choose(self, addresses: Sequence[str]) -> str:
        """The best of some addresses: one that has not failed, else the one that failed longest ago."""

        def failed_at(address: str) -> float:
            line = self._lines.get(address)
            return -1.0 if line is None or line.failed_at is None else line.failed_at

        return min(addresses, key=failed_at)  # the first of equals

    def send(self, node: bytes, address: str, payload: bytes, now: float) -> None:
        """To whoever is `node` at this address. It may get lost."""
        line = self._lines.get(address)
        if line is None:
            line = self._lines[address] = _Line(self._config.probes_kept_max)
            self._endpoint.dial(PREFIX + address.encode(), address)
            if len(self._lines) > self._config.probe_lines_max:
                self._close(next(iter(self._lines)))
        line.node = node
        line.waiting.append((now, node, payload))
        self._flush(address, line, now)

    def forget(self, address: str, node: bytes) -> None:
        """This node is there no more. Another one that is there instead keeps the line."""
        line = self._lines.get(address)
        if line is not None and line.node == node:
            self._close(address)

    def redial(self) -> None:
        """Make all connections anew when they are needed next."""
        for address in list(self._lines):
            self._close(address)

    def _close(self, address: str) -> None:
        del self._lines[address]
        self._endpoint.forget(PREFIX + address.encode())

    def on_event(self, event: LineEvent, now: float) -> tuple[bytes, bool] | None:
        """What has happened to a line; which node can be reached again (True) or no longer (False) by it, if any."""
        address = event.target.removeprefix(PREFIX).decode()
        line = self._lines.get(address)
        if line is None:
            return None
        if isinstance(event, Ready):
            line.failed_at = None
            self._flush(address, line, now)
            return (line.node, True) if event.fresh else None
        if isinstance(event, HandshakeFailed | Unreachable):
            line.failed_at = now
            return None
        assert isinstance(event, Lost), f"no event of a line: {event!r}"
        return line.node, False

    def _flush(self, address: str, line: _Line, now: float) -> None:
        target = PREFIX + address.encode()
        while line.waiting:
            since, node, payload = line.waiting[0]
            late = now - since > self._config.probes_kept_s
            if not late and not self._endpoint.send(target, Plane.PROBE, node, Datagram(), payload, now):
                return  # a Ready will come
            line.waiting.popleft()

    def __len__(self) -> int:
        return len(self._lines)
