"""A short spin before a sleep.

On an idle core falling asleep and being woken cost more than the rest of a synchronous round trip. So who waits looks
again and again for a while first; but only where the last spins were worth it, and while nobody else wants the core.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol

SPIN_S = 0.0001
"""How long a leader looks again and again before it sleeps: about twice what falling asleep and being woken cost."""

SPIN_YIELD_S = 0.00002
"""A look that took longer has lent the core to somebody who needs it more."""

SPIN_SKIPS_MAX = 255
"""After a spin in vain so many waits, at most, go to sleep at once; fewer after the first ones."""

_perf = time.perf_counter
_yield = os.sched_yield


class Missing(Protocol):
    """What somebody waits for: `missing` events have not come yet."""

    missing: int


class Spin:
    """One per pump: what it remembers is how well spinning went. One thread at a time."""

    def __init__(self, stirs: Callable[[], bool]) -> None:
        self._stirs = stirs  # whether something has come
        self.skips = 0  # so many waits go to sleep at once
        self._misses = 0  # spins in vain, one after the other

    def finds(self, waiter: Missing) -> bool:
        """Whether something comes before it would be worth to sleep. Ends when nothing is missing any more, too."""
        if self.skips:
            self.skips -= 1
            return False
        stirs = self._stirs
        before = _perf()
        give_up_at = before + SPIN_S
        while not stirs():
            _yield()
            now = _perf()
            if now > give_up_at or now - before > SPIN_YIELD_S or waiter.missing <= 0:
                self._misses += 1
                self.skips = min((1 << self._misses) - 1, SPIN_SKIPS_MAX)
                return False
            before = now
        self._misses = 0
        return True
