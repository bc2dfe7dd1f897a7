"""How much time have I lived? A clock that stands still while its peer does.

A process that was stopped, or a laptop that slept, wakes with all its time-outs passed and accuses everybody. So the
core measures in *own time*: the shell says when it will be asked next at the latest (`next_at`), and if it comes later
than that, but for a slack, the difference has not been lived: every time-out is still as far away as before. A clock
that jumps forward has the same effect, one that jumps back none.

`now` is to come from a clock that goes on while the machine is suspended (CLOCK_BOOTTIME), since then the sleep is
seen; with one that stands still there is nothing to be seen, and a peer learns that it was away when others tell it.
"""

from __future__ import annotations

ROUNDING_S = 1e-6


class OwnTime:
    """`time` is own time, `next_at` when in own time the shell is expected next."""

    def __init__(self, now: float, slack_s: float) -> None:
        self.time = now
        self.next_at = now
        self._seen = now
        self._slack_s = slack_s

    def advance(self, now: float) -> float:
        """It is `now` on the shell's clock. How long this peer has been away."""
        elapsed = max(0.0, now - self._seen)
        self._seen = now
        lived = min(elapsed, max(0.0, self.next_at - self.time) + self._slack_s)
        self.time += lived
        if 0.0 < self.next_at - self.time < ROUNDING_S:  # else a shell would ask again and again at the same moment
            self.time = self.next_at
        return elapsed - lived

    def to_shell(self, time: float) -> float:
        """A moment of own time on the shell's clock."""
        return self._seen + (time - self.time)
