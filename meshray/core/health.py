"""How well am I? Lifeguard's local health multiplier ("LHA-Probe", 4.1).

Who is slow himself (no CPU, a busy loop, a bad network card) sees everybody else being slow. Signs of that add to a
score, signs of good health take from it, and while it is high the peer probes less often and waits longer::

    a probe was answered                                       -1
    a probe failed, nobody was there to help                   +1
    a probe failed, and a helper did not even say Nack         +1 for each of those
    somebody suspected me, and I had to refute it              +1
    I was away for a while                                     +1
"""

from __future__ import annotations


class Health:
    """The score, 0 (well) to `score_max`."""

    def __init__(self, score_max: int) -> None:
        self._max = score_max
        self.score = 0

    def on_answer(self) -> None:
        self.score = max(0, self.score - 1)

    def on_trouble(self, signs: int = 1) -> None:
        self.score = min(self._max, self.score + signs)

    @property
    def multiplier(self) -> int:
        """Of the probe interval and of the probe's time-out."""
        return self.score + 1
