"""A link that carries little: nothing is sent twice over it, however late its acknowledgements are.

Both ends of one stream, and between them a pipe that is first in, first out, and takes whatever is given to it, as the
buffers of sockets do for a while. What is seen is what it has to carry.
"""

from __future__ import annotations

import heapq
from random import Random

import pytest

from meshray.config import DEFAULT
from meshray.core.sessions import Payload, Session
from meshray.transport.mesh_options import HEARTBEAT_TIMEOUT_MS
from meshray.wire.peers import Ack, Data, Plane

HEAD_BYTES = 60
"""Of a message, roughly."""

LATENCY_S = 0.1

FRAME_MAX_S = HEARTBEAT_TIMEOUT_MS / 1000
"""Nothing may take longer: no heartbeat is seen while a frame is on its way, and the connection is held for dead."""

KIB = 1 << 10


class Pipe:
    """One direction: so many bytes per second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0
        self.carried = 0

    def take(self, size: int, now: float) -> float:
        """When this arrives."""
        assert size / self._rate < FRAME_MAX_S, f"{size} bytes at once on a link of {self._rate}"
        self._free_at = max(self._free_at, now) + size / self._rate
        self.carried += size
        return self._free_at + LATENCY_S


class Way:
    """Messages of one size from `one` to `other`, over a slow link; `lost`: of so many frames one vanishes."""

    def __init__(self, rate: float, size: int, ahead: int, lost: int = 0) -> None:
        self.one, self.other = Session(Plane.CONTROL, DEFAULT), Session(Plane.CONTROL, DEFAULT)
        self.pipes = {self.one: Pipe(rate), self.other: Pipe(rate)}
        self.delivered = 0
        self.now = 0.0
        self._size, self._ahead, self._lost = size, ahead, lost
        self._todo = 0
        self._random = Random(f"{rate} {size} {ahead} {lost}")
        self._events: list[tuple[float, int, Session, Data | Ack, Payload | None]] = []
        self._number = 0

    def run(self, count: int) -> None:
        """Until so many have arrived, and are known to have."""
        self._todo = count
        while self._todo or self.one.kept:
            while self._todo and (not self.one.kept or self.one.kept_bytes + self._size <= self._ahead):
                self._todo -= 1
                self.one.send(bytes(self._size))
                if self.one.kept == 1:
                    self.one.silent_since = self.now
            self._flush(self.one, self.other)
            self._flush(self.other, self.one)
            self._step()
            stalls_at = self.one.stalls_at()
            assert stalls_at is None or self.now < stalls_at, f"given up after {self.delivered}: {self.one!r}"

    def _flush(self, source: Session, to: Session) -> None:
        while (found := source.peek(self.now)) is not None:
            frame, payload = found
            source.advance(frame, self.now)
            at = self.pipes[source].take(HEAD_BYTES + len(payload or b""), self.now)
            if not self._lost or self._random.randrange(self._lost):
                self._number += 1
                heapq.heappush(self._events, (at, self._number, to, frame, payload))

    def _step(self) -> None:
        times = [at for session in (self.one, self.other) if (at := session.next_at()) is not None]
        times += [self._events[0][0]] if self._events else []
        self.now = max(self.now, min(times))
        if self._events and self._events[0][0] <= self.now:
            _, _, to, frame, payload = heapq.heappop(self._events)
            if isinstance(frame, Ack):
                to.on_ack(frame, self.now)
            elif to.on_data(frame, len(payload or b""), self.now):
                for whole in to.whole(frame, payload or b""):
                    self.delivered += 1
                    assert len(whole) == self._size
        for session in (self.one, self.other):
            session.tick(self.now)


@pytest.mark.fault(29)
@pytest.mark.parametrize("ahead", [0, 256 * KIB, 2048 * KIB], ids=["one", "some", "many"])
@pytest.mark.parametrize(
    ("rate", "size"),
    [
        (10e3, 32 * KIB), (10e3, 64 * KIB), (30e3, 256 * KIB), (30e3, 1024 * KIB), (100e3, 256 * KIB),
        (100e3, 1024 * KIB), (1e6, 1024 * KIB), (1e6, 32768 * KIB),
    ],
)  # fmt: skip
def test_nothing_is_sent_twice_over_a_slow_link(rate: float, size: int, ahead: int) -> None:
    way = Way(rate, size, ahead)
    way.run(40)
    assert way.delivered == 40
    assert way.one.replayed == way.other.duplicates == 0
    assert way.pipes[way.one].carried < 1.05 * 40 * size
    assert way.pipes[way.other].carried < 0.05 * 40 * size


@pytest.mark.fault(20, 29)
@pytest.mark.parametrize("lost", [5, 20])
def test_what_vanishes_on_a_slow_link_is_sent_again(lost: int) -> None:
    """Worse than a connection, which loses nothing in its midst; so it takes its time."""
    way = Way(100e3, 32 * KIB, 128 * KIB, lost)
    way.run(100)
    assert way.delivered == 100
    assert 0 < way.one.replayed < 3200 // lost
