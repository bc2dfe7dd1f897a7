"""With which life of a host's peer is there to be spoken?

A peer has one *home* node for as long as its process runs: its processes and objects are named by it. In the mesh it is
a member under the node id of its present *life*; after each death sentence it begins another one. It tells both, with a
number that counts the lives, in its load, which travels by rumour, and when a link begins: so the life of a peer that
speaks is known, and which of two is the newer one.
"""

from __future__ import annotations

OVER_MAX = 1024
"""Lives that are over and remembered: a late rumour of one must not bring it back."""


class Homes:
    """See the head of this file. `node` is our own home."""

    def __init__(self, node: bytes) -> None:
        self._node = node
        self._home: dict[bytes, bytes] = {}  # life -> home, of lives that may be current
        self._number: dict[bytes, int] = {}  # of these lives
        self._current: dict[bytes, bytes] = {}  # home -> life
        self._over: dict[bytes, None] = {}  # lives that are over, the last `OVER_MAX`
        self.strange = 0  # a life that is said to have two homes, or ours

    def on_told(self, life: bytes, home: bytes, number: int) -> bytes | None:
        """A rumour, or a link that begins. The life that this one has taken the place of, if any: it is over."""
        if self._home.get(life) == home or life in self._over:
            return None
        if home == self._node or life in self._home:
            self.strange += 1
            return None
        self._home[life], self._number[life] = home, number
        before = self._current.get(home)
        self._current[home] = best = self._best(home)
        if before is None or before == best:
            return None
        self._bury(before)
        return before

    def on_over(self, life: bytes) -> bytes | None:
        """This life is over. Its home, if it was the current one there."""
        home = self._home.get(life)
        self._bury(life)
        if home is None or self._current.get(home) != life:
            return None
        del self._current[home]
        if best := self._best(home):
            self._current[home] = best
        return home

    def clear(self) -> list[bytes]:
        """Nobody is there any more, for us: our own life is over. The homes that had a life. Lives of others may go on,
        also of those whom only our side of a partition held for dead."""
        homes = sorted(self._current)
        self._home.clear()
        self._number.clear()
        self._current.clear()
        self._over.clear()
        return homes

    def life_of(self, home: bytes) -> bytes | None:
        """The present life of a host's peer."""
        return self._current.get(home)

    def home_of(self, life: bytes) -> bytes | None:
        """Whose life that is, if it may be the current one."""
        return self._home.get(life)

    def current(self) -> list[bytes]:
        """Homes that have a life."""
        return sorted(self._current)

    def is_over(self, life: bytes) -> bool:
        return life in self._over

    def _best(self, home: bytes) -> bytes:
        """The newest life that is known of it; b"" for none."""
        lives = [life for life, its in self._home.items() if its == home]
        return max(lives, key=lambda life: (self._number[life], life), default=b"")

    def _bury(self, life: bytes) -> None:
        self._home.pop(life, None)
        self._number.pop(life, None)
        self._over[life] = None
        if len(self._over) > OVER_MAX:
            del self._over[next(iter(self._over))]
