"""What follows here when another process, or a host, is gone.

The peer tells of both. A process that has died is dead for ever: what comes from it late is refused, and the handles
that were kept for it stay until the peer has settled its death. A host may come back, with processes that were never
dead. All under the pump's lock.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from meshray.core.pending import gone_failure
from meshray.ids import NODE_BYTES
from meshray.store.files import segment_prefix
from meshray.wire import messages as m

if TYPE_CHECKING:
    from meshray.runtime.engine import Engine

DEAD_MAX = 4096
"""How many dead processes are remembered: what arrives from them late is refused."""


class Deaths:
    """See the head of this file."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.dead: dict[bytes, None] = {}  # processes that were said to be dead; the last `DEAD_MAX`
        self._gone_pins: deque[tuple[float, list[Any]]] = deque()  # what was kept for hosts that are gone: until when

    def on_process_died(self, _: bytes, message: m.ProcessDied) -> None:
        engine, process = self._engine, message.process
        self.dead[process] = None
        if len(self.dead) > DEAD_MAX:
            del self.dead[next(iter(self.dead))]
        self._give_up(process)
        engine.calls.on_process_died(process)
        self._announce_places(process)
        engine.flush()
        engine.send(engine.peer, m.DeathSeen(process))
        engine.endpoint.drop(process)
        engine.abroad.forget(process)

    def on_death_settled(self, _: bytes, message: m.DeathSettled) -> None:
        pins = self._engine.pins
        for key in [key for key in pins if key[0] == message.process]:
            del pins[key]

    def on_node_gone(self, source: bytes, message: m.NodeGone) -> None:
        """A host is gone, and with it whatever its processes had of us. It may come back: none of them is dead for
        ever, and nobody is going to settle anything. What was kept for them stays for a while: they may have passed it
        on to others, who are about to tell of it."""
        engine = self._engine
        if source != engine.peer:
            return
        engine.silent.on_gone(message.node, message.reason)
        pins = engine.submission.handles_for(message.node)
        failure = gone_failure(message.node, message.reason)
        engine.finished.complete(engine.submission.on_node_gone(message.node, failure, time.monotonic()), b"")
        engine.finished.complete(engine.calls.on_node_gone(message.node, message.reason), b"")
        for process in engine.abroad.forget_host(message.node):
            self._give_up(process)
        engine.records.drain()
        engine.records.on_host_gone(message.node)
        pins += [engine.pins.pop(key) for key in list(engine.pins) if key[0][:NODE_BYTES] == message.node]
        if pins:
            self._gone_pins.append((time.monotonic() + engine.config.doubt_s, pins))
        engine.flush()
        engine.send(engine.peer, m.NodeGoneSeen(message.node))

    def tick(self, now: float) -> None:
        """What was kept long enough for hosts that are gone is let go of."""
        while self._gone_pins and self._gone_pins[0][0] <= now:
            self._gone_pins.popleft()

    def clear(self) -> None:
        """The end: nothing is kept for anybody."""
        self._gone_pins.clear()

    def _give_up(self, process: bytes) -> None:
        """Nothing more comes from this process."""
        engine = self._engine
        if engine.host is not None:
            engine.host.on_process_died(process)
        engine.submission.on_process_died(process)
        engine.records.drain()
        engine.records.on_process_died(process)

    def _announce_places(self, dead: bytes) -> None:
        """Segments that a dead worker wrote and that are still referred to: its own word of them may have been lost
        with it. Not those that were released: the peer would wait for a release that never comes."""
        engine = self._engine
        prefix, node = segment_prefix(dead), engine.process_id[:NODE_BYTES]
        places = [
            (record, record.value)
            for record in engine.records.table.values()
            if isinstance(record.value, m.Place) and record.value.segment.startswith(prefix)
        ]
        here = [
            m.SealedSegment(record.id, place.segment, place.size, place.size, dead)
            for record, place in places
            if place.node == node
        ]
        elsewhere = [place for record, place in places if place.node != node and record.owned]
        if here:
            engine.send(engine.peer, m.Sealed(here))
        if elsewhere:
            engine.send(engine.peer, m.Lodged(elsewhere))
