"""Values that lie on other hosts, as this process reads them: through the copy that its own peer has fetched.

The peer keeps a copy as long as this process *uses* it. Two things are uses: a view, until the last array made of it is
gone, and a loan, from the answer of the peer until whoever asked has read the value. The ends of both come in any
thread at any bytecode, so births and deaths go through one queue, in order, as those of handles do. When the last use
has ended the peer is told, unless it was asked for the same copy again meanwhile: then its answer counts as a use
already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from meshray.wire.messages import Bring, Brought, Failure, Place, Unused

if TYPE_CHECKING:
    from meshray.runtime.engine import Engine


class NotHere(Exception):
    """The value lies on another host: it has to be brought first (`Waiting.bring`). Or there is none at the moment:
    it was lost, and is made again."""


class Lost(Exception):
    """These cannot be brought, since no host has them any more."""

    def __init__(self, failures: dict[Place, Failure]) -> None:
        super().__init__(*(failure.message for failure in failures.values()))
        self.failures = failures


class _Copy:
    """One value of another host."""

    __slots__ = ("asked", "local", "uses")

    def __init__(self) -> None:
        self.local: Place | None = None  # the copy; None while it is fetched
        self.uses = 0  # views and loans
        self.asked = 0  # answers to come


class Loans:
    """The copies that one caller has asked for. `failures` are those that cannot be had, `lost` those of them that
    nobody has any more."""

    def __init__(self, copies: Copies) -> None:
        self.failures: list[Failure] = []
        self.lost: dict[Place, Failure] = {}
        self._copies = copies
        self._places: list[Place] = []
        self._over = False

    def on_brought(self, place: Place, failure: Failure | None) -> None:
        """Under the lock."""
        if failure is not None:
            self.failures.append(failure)
            if failure.kind == "ObjectLostError":
                self.lost[place] = failure
            return
        self._places.append(place)
        if self._over:  # asked after the place is there: an `end` in another thread sees one or the other
            self.end()

    def missing(self, places: Iterable[Place]) -> list[Place]:
        """Those of `places` that have not come."""
        came = set(self._places)
        return [place for place in places if place not in came]

    def __del__(self) -> None:
        self.end()

    def end(self) -> None:
        """The values were read, or nobody waits for them any more. From any thread, also from several at once."""
        self._over = True
        with suppress(IndexError):  # there are no more
            while True:
                self._copies.events.append((self._places.pop(), -1))


class Copies:
    """The copies that this process uses. Under the pump's lock, but for `at_hand`, and `events`, to which anybody
    appends."""

    def __init__(self, engine: Engine) -> None:
        self.events: deque[tuple[Place, int]] = deque()  # births (1) and deaths (-1) of uses
        self._engine = engine
        self._copies: dict[Place, _Copy] = {}

    def at_hand(self, place: Place) -> Place:
        """The copy of a value; whoever asks holds a loan of it. Raises `NotHere`."""
        copy = self._copies.get(place)
        if copy is None or copy.local is None:
            raise NotHere(place)
        return copy.local

    def ask(self, places: Iterable[Place], loans: Loans, waiter: Callable[[], None]) -> None:
        """Have copies of these; `waiter()` is called once for each."""
        for place in places:
            self._ask(place, loans, waiter)

    def _ask(self, place: Place, loans: Loans, waiter: Callable[[], None]) -> None:
        copy = self._copies.get(place)
        if copy is None:
            copy = self._copies[place] = _Copy()
        copy.asked += 1

        def reply(answer: Brought) -> None:
            copy.asked -= 1
            if answer.place is not None:
                copy.local = answer.place
                copy.uses += 1
            loans.on_brought(place, answer.failure)
            self._look(place, copy)
            waiter()

        self._engine.request(lambda number: Bring(number, place), reply)

    def drain(self) -> None:
        """Account for the uses that were born or have died."""
        while self.events:
            place, change = self.events.popleft()
            copy = self._copies.get(place)
            if copy is not None:
                copy.uses += change
                self._look(place, copy)

    def _look(self, place: Place, copy: _Copy) -> None:
        if copy.uses or copy.asked:
            return
        del self._copies[place]
        if copy.local is not None:
            self._engine.store.forget(copy.local.segment)
            self._engine.send(self._engine.peer, Unused([copy.local.segment]))

    def __len__(self) -> int:
        return len(self._copies)


def foreign(values: Iterable[Any], node: bytes) -> list[Place]:
    """The places of other hosts among these, each once."""
    return list(dict.fromkeys(value for value in values if isinstance(value, Place) and value.node != node))
