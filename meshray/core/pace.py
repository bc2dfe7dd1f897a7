"""How much may be on its way to a peer, so that what comes next does not wait for long?

Theory. What is given to a connection ahead of what its link carries lies in queues, and whatever is said afterwards
waits behind it, on the other planes as well: they share the link. So no more should be on its way than the link carries
in a fixed time (`link_ahead_s`) beyond the time that an acknowledgement takes anyhow, as in BBR (Cardwell et al., ACM
Queue 2016) and LEDBAT (RFC 6817). Both are measured, one message at a time (the *mark*):

- the *rate* is what was acknowledged between a mark's departure and its acknowledgement. It counts only if something
  waited for room meanwhile: a sender that has little to say does not show what the link could carry. A larger one
  counts always, and at once; a smaller one by a quarter, since a peer that was busy for a moment is no slow link, or
  by more the longer it took, up to a second;
- the *base* is what the acknowledgement of a mark takes that had nothing before it; the least of the last while.

While a link carries all that may be on its way in less than that, the measured rate is what was allowed, per time; so
the allowance grows until it is not: by a factor per round trip. On a fast link it soon exceeds the fixed bounds of
those who ask, which hold then.
"""

from __future__ import annotations

from typing import NamedTuple

from meshray.config import Config

BASE_MAX_S = 1.0
"""An acknowledgement that takes longer says nothing about the link."""

SHARE = 0.25
"""The least weight of a smaller rate."""

SHORTEST_S = 1e-4
"""No clock of a peer's loop is better than that."""


class _Mark(NamedTuple):
    """A message that was sent, and whose acknowledgement is awaited."""

    sequence: int
    sent_at: float
    acknowledged_bytes: int  # until then
    alone: bool  # nothing was on its way before it


class Pace:
    """Of one direction of one stream."""

    __slots__ = ("_acknowledged_bytes", "_base_at", "_base_s", "_config", "_limited", "_mark", "rate")

    def __init__(self, config: Config) -> None:
        self._config = config
        self.rate: float | None = None  # bytes per second; None: never measured
        self._base_s = 0.0
        self._base_at: float | None = None  # when that was measured; None: never
        self._acknowledged_bytes = 0  # in all
        self._mark: _Mark | None = None
        self._limited = False  # something has waited for room since the mark was sent

    def on_sent(self, sequence: int, alone: bool, now: float) -> None:
        """A message has left, for the first time."""
        if self._mark is None:
            self._mark = _Mark(sequence, now, self._acknowledged_bytes, alone)
            self._limited = False

    def on_acknowledged(self, sequence: int, size: int, now: float) -> None:
        """All up to this one have arrived, `size` bytes more than before."""
        self._acknowledged_bytes += size
        mark = self._mark
        if mark is None or sequence < mark.sequence:
            return
        self._mark = None
        took_s = max(now - mark.sent_at, SHORTEST_S)
        if mark.alone:
            self._measure_base(took_s, now)
        rate = (self._acknowledged_bytes - mark.acknowledged_bytes) / took_s
        if self.rate is None:
            self.rate = rate if self._limited else None
        elif rate > self.rate:
            self.rate = rate
        elif self._limited:
            self.rate += (rate - self.rate) * min(1.0, max(SHARE, took_s))

    def _measure_base(self, took_s: float, now: float) -> None:
        old = self._base_at is None or now >= self._base_at + self._config.link_base_kept_s
        if old or took_s <= self._base_s:
            self._base_s, self._base_at = min(took_s, BASE_MAX_S), now

    def on_lost(self) -> None:
        """What is on its way may be lost: its acknowledgement tells nothing."""
        self._mark = None

    def on_limited(self) -> None:
        """Something waits for room."""
        self._limited = True

    @property
    def allowance(self) -> int:
        """So many bytes may be on their way."""
        config = self._config
        if self.rate is None:
            return config.link_first_bytes
        return max(config.link_least_bytes, int(self.rate * (self._base_s + config.link_ahead_s)))
