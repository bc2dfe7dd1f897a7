"""What is on its way follows what the link carries: a stream over a simulated link, with the shipped session on both
sides."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable

import pytest

from meshray.config import DEFAULT
from meshray.core.pace import Pace
from meshray.core.sessions import Session
from meshray.wire.peers import Data, Plane

CONFIG = DEFAULT
MBIT = 1e6 / 8
AT_MOST = DEFAULT.bulk_window_bytes


class Line:
    """Two sessions with a link between them that carries `rate` bytes per second; acknowledgements weigh nothing. The
    sender has pieces without end, and gives them as a peer does."""

    def __init__(self, rate: float, way_s: float) -> None:
        self.rate, self.way_s = rate, way_s
        self.pieces: Counter[bool] = Counter()  # since this was reset; whether they went whole
        self.one, self.other = Session(Plane.BULK, CONFIG), Session(Plane.BULK, CONFIG)
        self.now = 0.0
        self.free_at = 0.0  # when the link has carried what it has
        self.arrived = 0
        self.longest_s = 0.0  # that a message of another plane would have waited, since this was reset
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def _at(self, time: float, event: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (time, self._number, event))

    def _turn(self) -> None:
        while size := self.one.portion(AT_MOST):
            self.one.send(bytes(min(size, CONFIG.fetch_piece_bytes)))
            self.pieces[size >= CONFIG.fetch_piece_bytes] += 1
            self._flush()
        self._flush()

    def _flush(self) -> None:
        while (found := self.one.peek(self.now)) is not None:
            frame, payload = found
            self.one.advance(frame, self.now)
            assert type(frame) is Data
            assert payload is not None
            self.free_at = max(self.free_at, self.now) + len(payload) / self.rate
            self.longest_s = max(self.longest_s, self.free_at - self.now)
            size = len(payload)
            self._at(self.free_at + self.way_s, lambda f=frame, n=size: self._arrives(f, n))  # type: ignore[misc]

    def _arrives(self, frame: Data, size: int) -> None:
        assert self.other.on_data(frame, size, self.now)
        self.arrived += size
        self._acknowledge()

    def _acknowledge(self) -> None:
        while (found := self.other.peek(self.now)) is not None:
            ack = found[0]
            self.other.advance(ack, self.now)
            self._at(self.now + self.way_s, lambda a=ack: self._acked(a))  # type: ignore[misc]
        due = self.other.next_at()
        if due is not None:
            self._at(due, self._acknowledge)

    def _acked(self, ack: object) -> None:
        self.one.on_ack(ack, self.now)  # type: ignore[arg-type]
        self._turn()

    def run(self, seconds: float) -> float:
        """How much of what the link could carry it has carried."""
        end, before, self.longest_s = self.now + seconds, self.arrived, 0.0
        self.pieces.clear()
        self._turn()
        while self._events and self._events[0][0] <= end:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = end
        return (self.arrived - before) / (self.rate * seconds)

    @property
    def whole(self) -> float:
        """The share of pieces that were not divided."""
        return self.pieces[True] / self.pieces.total()


@pytest.mark.fault(29)
@pytest.mark.parametrize("way_s", [0.0005, 0.02, 0.1])
def test_a_slow_link_is_full_and_what_comes_next_does_not_wait(way_s: float) -> None:
    line = Line(10 * MBIT, way_s)
    line.run(2.0)
    assert line.run(10.0) > 0.95
    assert line.longest_s < 0.25
    assert line.one.portion(AT_MOST) <= 64 << 10


@pytest.mark.fault(29)
def test_the_first_pieces_do_not_fill_it() -> None:
    line = Line(10 * MBIT, 0.0005)
    line.run(1.0)
    assert line.longest_s <= (CONFIG.link_first_bytes + CONFIG.fetch_piece_bytes / 4) / line.rate


@pytest.mark.parametrize("way_s", [0.00005, 0.005, 0.05])
def test_a_fast_link_is_full_with_whole_pieces(way_s: float) -> None:
    line = Line(1000 * MBIT, way_s)
    line.run(1.0)
    assert line.one.pace.allowance >= AT_MOST
    assert line.run(1.0) > min(0.95, 0.95 * AT_MOST / (line.rate * (2 * way_s + CONFIG.fetch_piece_bytes / line.rate)))
    assert Session(Plane.BULK, CONFIG).portion(AT_MOST) < CONFIG.fetch_piece_bytes, "nothing is known yet"
    assert line.whole > 0.99, "pieces go whole"


def test_it_follows_a_link_that_changes() -> None:
    line = Line(1000 * MBIT, 0.001)
    line.run(0.5)
    line.rate = 10 * MBIT
    line.run(12.0)  # it has to carry a whole window first
    assert line.run(5.0) > 0.95
    assert line.longest_s < 0.25
    line.rate = 1000 * MBIT
    line.run(2.0)
    assert line.run(1.0) > 0.95


def test_a_way_that_becomes_longer_is_found_to_be() -> None:
    line = Line(100 * MBIT, 0.001)
    line.run(1.0)
    line.way_s = 0.15
    line.run(60.0)
    assert line.run(5.0) > 0.9


def test_who_says_little_shows_nothing() -> None:
    pace = Pace(CONFIG)
    for number in range(100):
        pace.on_sent(number, True, number)
        pace.on_acknowledged(number, 10, number + 0.02)
    assert pace.rate is None
    assert pace.allowance == CONFIG.link_first_bytes
    pace.on_sent(100, True, 200.0)
    pace.on_limited()
    pace.on_acknowledged(100, 1 << 20, 200.1)
    assert pace.rate == pytest.approx((1 << 20) / 0.1)
    pace.on_sent(101, True, 201.0)
    pace.on_acknowledged(101, 10, 201.1)
    assert pace.rate == pytest.approx((1 << 20) / 0.1)


def test_what_was_lost_tells_nothing() -> None:
    pace = Pace(CONFIG)
    pace.on_sent(1, True, 0.0)
    pace.on_limited()
    pace.on_lost()
    pace.on_acknowledged(1, 1 << 20, 100.0)
    assert pace.rate is None


def test_the_slowest_link_gets_its_share() -> None:
    pace = Pace(CONFIG)
    pace.on_sent(1, False, 0.0)
    pace.on_limited()
    pace.on_acknowledged(1, 1, 100.0)
    assert pace.allowance == CONFIG.link_least_bytes
