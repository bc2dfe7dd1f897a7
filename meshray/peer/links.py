"""Between `core.links`, which decides, and `transport.mesh_endpoint`, which has the sockets: a turn moves all there is.

The owner waits for `fd` at most until `next_at`, and calls `turn`. What was sent since the last turn leaves at its end.
"""

from __future__ import annotations

from meshray.config import DEFAULT, Config
from meshray.core.link_effects import Dial, Effect, Forget
from meshray.core.links import Links
from meshray.transport.keys import CurveKeys
from meshray.transport.mesh_endpoint import MeshEndpoint
from meshray.transport.mesh_lines import LineEvent, Ready
from meshray.wire.peers import Datagram, Plane


class PeerLinks:
    """The links of a peer to all others. `mesh` is the mesh's id, `python` our minor version ("3.11")."""

    def __init__(
        self, node: bytes, mesh: str, python: str, endpoint: MeshEndpoint, key_id: str, config: Config = DEFAULT
    ) -> None:
        self.endpoint = endpoint
        self.links = Links(node, mesh, python, endpoint.listens, key_id, config)
        self.fd = endpoint.fd
        self._key_id = key_id
        self._more = False  # the last turn has left something in the socket

    def probe(self, target: bytes, node: bytes, payload: bytes, now: float) -> bool:
        """A datagram to a peer that was dialled; lost unless its connection stands. False: it was not sent."""
        return self.endpoint.send(target, Plane.PROBE, node, Datagram(), payload, now)

    def turn(self, now: float) -> list[Effect | LineEvent]:
        """Take what has arrived, perform what follows, send what is due. Returns what concerns others: messages, peers
        that come and go, and what happens to connections."""
        told: list[Effect | LineEvent] = []
        for event in self.endpoint.look(now):
            if isinstance(event, Ready):
                self.links.on_ready(event.target, event.plane, event.fresh, now)
            told.append(event)
        for came in self.endpoint.receive():
            self.links.receive(came.destination, came.source, came.host, came.message, came.payload, now)
        self._more = not self.endpoint.drained
        self.links.tick(now)
        self._perform(told)
        self.flush(now)
        return told

    def push(self, now: float) -> list[Effect | LineEvent]:
        """What was sent since the last turn leaves now. Returns as `turn` does."""
        told: list[Effect | LineEvent] = []
        self._perform(told)
        self.flush(now)
        return told

    def flush(self, now: float) -> None:
        """Give the sockets what they take."""
        while (frame := self.links.next_frame(now)) is not None:
            if self.endpoint.send(frame.target, frame.plane, frame.destination, frame.message, frame.payload, now):
                self.links.taken(frame, now)
            else:
                self.links.not_taken(frame)

    def _perform(self, told: list[Effect | LineEvent]) -> None:
        for effect in self.links.take_effects():
            if isinstance(effect, Dial):
                self.endpoint.dial(effect.target, effect.address, effect.key_id)
            elif isinstance(effect, Forget):
                self.endpoint.forget(effect.target)
            else:
                told.append(effect)

    def present(self, listens: list[str]) -> None:
        """Others reach us at these addresses from now on; it listens there already."""
        self.endpoint.listens = listens
        self.links.present(listens, self._key_id)

    def redial(self, now: float) -> None:
        """Make all connections anew when they are needed next: those from an address that this host no longer has
        would hang until a heartbeat is missed. What they had taken and lose is sent again by the sessions."""
        for link in self.links:
            self.endpoint.forget(link.target)
            self.endpoint.dial(link.target, link.address, link.key_id)
            for plane in Plane:  # none of them waits for room any more
                self.links.on_ready(link.target, plane, False, now)

    def rekey(self, keys: CurveKeys) -> None:
        """Other keys of the mesh (see `transport.keys`): from now on others are told to dial with the current one."""
        self.endpoint.rekey(keys)
        self._key_id = keys.current.id
        self.links.present(self.endpoint.listens, self._key_id)

    def next_at(self, now: float) -> float:
        """When `turn` is due, if `fd` does not become readable before; `now` when there is more to take."""
        if self._more:
            return now
        due = self.links.next_at()
        return self.endpoint.next_at() if due is None else min(due, self.endpoint.next_at())

    def close(self) -> None:
        self.endpoint.close()
