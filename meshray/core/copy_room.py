"""Which file does a copy get, and what becomes of it afterwards?

Theory. To the books of the store a peer is a process like others (`core.store_accounts`): it allocates by credit, and
what it has freed is its pool. A freed file is written again for a value of about its size, at the speed of memory. Pool
and credit are given back when the store is full, and what has rested for a while by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from meshray.config import Config
from meshray.core.effects import DropCopy, Send
from meshray.ids import peer_of
from meshray.wire.messages import CreditRequest, PoolTrimmed

FITS_PART = 3
"""A freed file is written again for a value that leaves less than 1/3 of it unused."""


class CopyFile(NamedTuple):
    """A file for a copy."""

    segment: str
    capacity: int
    fresh: bool  # it is not there yet


class _Freed(NamedTuple):
    """One that may be written again."""

    since: float
    segment: str
    capacity: int


class CopyRoom:
    """The pool and the credit of the peer of `node`. A part of `Fetches`; `emit` takes the effects.
    `in_transit(segment)`: whether some of a file is on its way to another host (`store.transit`)."""

    def __init__(
        self, config: Config, node: bytes, in_transit: Callable[[str], bool], emit: Callable[[object], None]
    ) -> None:
        self._config = config
        self._peer = peer_of(node)
        self._in_transit = in_transit
        self._emit = emit
        self._credit = 0  # bytes that may be allocated
        self._pool: list[_Freed] = []
        self._numbers = 0  # of files and requests

    def take(self, need: int) -> CopyFile | None:
        """A file of at least `need` bytes; None where there is no room known of."""
        fits = [freed for freed in self._pool if need <= freed.capacity <= need + need // (FITS_PART - 1)]
        if fits:
            best = min(fits, key=lambda freed: freed.capacity)
            self._pool.remove(best)
            return CopyFile(best.segment, best.capacity, fresh=False)
        if self._credit >= need:
            self._credit -= need
            return CopyFile(f"{self._peer[-8:].hex()}-{self._next_number():x}", need, fresh=True)
        return None

    def request(self, need: int) -> int:
        """Ask the store for so many bytes; the number of the question."""
        number = self._next_number()
        self._emit(Send(self._peer, CreditRequest(number, need)))
        return number

    def grant(self, size: int) -> None:
        """The store gives so many bytes."""
        self._credit += size

    def free(self, segment: str, capacity: int, since: float) -> None:
        """This file holds no copy any more, and is in order."""
        if self._in_transit(segment):
            self.drop([(segment, capacity)])
        else:
            self._pool.append(_Freed(since, segment, capacity))

    def drop(self, files: list[tuple[str, int]], credit: int = 0) -> None:
        """These files go, given with their sizes; the store has their room and this credit back."""
        for segment, _ in files:
            self._emit(DropCopy(segment))
        size = credit + sum(capacity for _, capacity in files)
        if size:
            self._emit(Send(self._peer, PoolTrimmed(size)))

    def give_back(self) -> None:
        """The store is full: it has all of it."""
        self._give_back(len(self._pool), self._credit)

    def _give_back(self, files: int, credit: int) -> None:
        """The first ones of the pool, and credit."""
        dropped, self._pool = self._pool[:files], self._pool[files:]
        self._credit -= credit
        self.drop([(freed.segment, freed.capacity) for freed in dropped], credit)

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        since = min((freed.since for freed in self._pool), default=None)
        return since + self._config.pool_idle_s if since is not None else None

    def tick(self, now: float) -> None:
        """Files that rest go, and with them what is more than a step of credit."""
        self._pool.sort()
        rested = sum(freed.since + self._config.pool_idle_s <= now for freed in self._pool)
        surplus = max(0, self._credit - self._config.store_credit_bytes)
        self._give_back(rested, surplus if rested else 0)

    @property
    def charged(self) -> int:
        """Bytes of the store: pool and credit."""
        return self._credit + sum(freed.capacity for freed in self._pool)

    def check(self) -> None:
        """Assert that the books agree."""
        assert self._credit >= 0, self._credit

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers
