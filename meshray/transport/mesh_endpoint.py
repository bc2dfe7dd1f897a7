"""The face of a peer to the others: one encrypted TCP port that receives, and a socket per peer and plane that sends.

General layout::

    mesh_endpoint   this file: both directions, and one descriptor to wait for
    mesh_port       in: one ROUTER, what may arrive
    mesh_lines      out: DEALERs, their connections, keys and failures
    floods          strangers at the port
    zap, keys       who is a member
    monitors        what happens to connections
    mesh_options    every socket option, with its reason

It knows addresses, connections and frames. Whether a message arrives, and who is linked with whom, is decided by
`core.links`; what is given to a socket may be lost with its connection.

The rule of every ZeroMQ descriptor holds for `fd`: wait for it only after `receive` has returned nothing and `look` was
called. No method blocks but the constructor, which proves the encryption; none is thread-safe.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from meshray.config import DEFAULT, Config
from meshray.transport.epoll import Epoll
from meshray.transport.keys import CurveKeys
from meshray.transport.mesh_lines import LineEvent, MeshLines
from meshray.transport.mesh_options import new_mesh_context
from meshray.transport.mesh_port import Arrived, MeshPort
from meshray.wire.peer_codec import pack
from meshray.wire.peers import Payload, PeerMessage, Plane

RECEIVE_BUDGET = 64
"""Messages taken per `receive`, before its caller decides and sends."""

RECEIVE_BUDGET_BYTES = 8 << 20
"""And bytes: ten milliseconds of copying."""


class MeshStats(NamedTuple):
    """A snapshot. Lists go by plane."""

    sent: tuple[int, ...]
    sent_bytes: tuple[int, ...]
    received: tuple[int, ...]
    received_bytes: tuple[int, ...]
    handshakes: int
    refused: dict[str, int]
    lines: dict[str, int]
    pauses: int


class MeshEndpoint:
    """See the head of this file. `node` is this peer's id; it listens on `addresses`, all at `port` (0: any).

    Raises `NotProven` when the encryption does not hold, `PortTaken` or another `OSError` naming address and port.
    """

    def __init__(
        self,
        node: bytes,
        keys: CurveKeys,
        addresses: list[str],
        port: int = 0,
        config: Config = DEFAULT,
        random: Random | None = None,
    ) -> None:
        random = Random() if random is None else random
        self._node = node
        self._context = new_mesh_context()
        self._poll = Epoll()
        self._lines = MeshLines(self._context, keys, config.mesh_idle_s, random, self._poll)
        self._port: MeshPort | None = None
        try:
            self._port = MeshPort(self._context, node, keys, config, random)
            self.port = self._port.listen(addresses, port)
        except BaseException:
            self.close()
            raise
        self.listens = [self._written(address) for address in addresses]
        for fd in self._port.fds:
            self._poll.watch(fd)
        self.fd = self._poll.fd

    @property
    def inbound(self) -> MeshPort:
        """The port."""
        assert self._port is not None, "the endpoint is closed"
        return self._port

    def _written(self, address: str) -> str:
        return f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"

    def follow(self, addresses: list[str]) -> list[str]:
        """The addresses of this host are these now: listen there, and nowhere else. Where others reach us from now on;
        one that cannot be had is left out. Connections that came to one that is gone end."""
        return [self._written(address) for address in self.inbound.follow(addresses, self.port)]

    # -- sending -------------------------------------------------------------------------------------------------------

    def dial(self, target: bytes, address: str, key_id: str = "") -> None:
        """What is for `target` (a name of the caller's) goes to `host:port` from now on; connected when it is sent.

        The host is an IP address: what is no such address is never connected, and counted."""
        self._lines.dial(target, address, key_id)

    def forget(self, target: bytes) -> None:
        """Close the connections to a target."""
        self._lines.forget(target)

    def send(
        self,
        target: bytes,
        plane: Plane,
        destination: bytes,
        message: PeerMessage,
        payload: Payload | None,
        now: float,
    ) -> bool:
        """Give a message to the socket of a plane. False: it took nothing, a `Ready` will say when to try again.

        True promises nothing about its arrival. Raises `KeyError` for a target that was never dialled.
        """
        head = pack(destination, self._node, message)
        return self._lines.send(target, plane, head, payload, now)

    @property
    def clogged(self) -> int:
        """How many planes of peers have refused a message and are not ready again."""
        return self._lines.clogged

    # -- receiving -----------------------------------------------------------------------------------------------------

    def receive(self, budget: int = RECEIVE_BUDGET, budget_bytes: int = RECEIVE_BUDGET_BYTES) -> list[Arrived]:
        """What has arrived from members, in order per connection. `drained` says whether nothing was left."""
        return self.inbound.receive(budget, budget_bytes)

    @property
    def drained(self) -> bool:
        return self.inbound.drained

    def look(self, now: float) -> list[LineEvent]:
        """What has happened to connections; serves who knocks, makes anew what failed."""
        ready = self._poll.ready()
        events = self._lines.look(ready, now)
        self.inbound.look(ready, now)
        self._lines.tick(now)
        return events

    def next_at(self) -> float:
        """When `look` is due, if nothing else happens."""
        door = self.inbound.next_at()
        return self._lines.next_at() if door is None else min(door, self._lines.next_at())

    # -- the rest ------------------------------------------------------------------------------------------------------

    def rekey(self, keys: CurveKeys) -> None:
        """Other keys of the mesh: staged or switched (see `keys`)."""
        self.inbound.rekey(keys)
        self._lines.rekey(keys)

    @property
    def met_next(self) -> bool:
        """Whether a port has answered with the next key since it is known: its owner has switched."""
        return self._lines.met_next

    def stats(self) -> MeshStats:
        """What was counted until now."""
        port, lines = self.inbound, self._lines
        return MeshStats(
            tuple(lines.sent),
            tuple(lines.sent_bytes),
            tuple(port.received),
            tuple(port.received_bytes),
            port.handshakes,
            dict(port.refused),
            dict(lines.counts),
            port.pauses,
        )

    def close(self) -> None:
        """Close everything; what was sent has a moment to leave (the linger of the sockets)."""
        self._lines.close()
        if self._port is not None:
            self._port.close()
            self._port = None
        self._context.term()
        self._poll.close()
