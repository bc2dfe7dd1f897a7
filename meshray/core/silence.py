"""Who has not told yet what it did for a dead submitter, and how long is it waited for?

Every process of the host is asked about each death (`core.departures`), and tells what it had of the dead one's tasks
before it answers (`core.adoption`). Until then it is *silent*: one that died before it had told stays so for good, one
that is stopped, or holds the GIL for long, may tell at any time. Of those that live only the executors count, which
have a lease of the dead one, and of those that died only such as ever had one: nobody else can have begun anything for
it. After `adoption_patience_s` a death is *overdue*: its tasks are not kept waiting any more, at the price of an
attempt for each that is silent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Departing:
    """A dead process that is not settled."""

    unheard: int  # executors that died without telling what they had done for it, or of which it had not told
    executors: set[bytes]  # those that live, and have a lease of it
    served: frozenset[bytes] | None  # whose leases it had itself; None: anybody's
    patience_until: float
    overdue: bool = False
    answered: set[bytes] = field(default_factory=set)
    unwanted: set[bytes] = field(default_factory=set)  # workers that run what nobody wants


def _has_served(served: frozenset[bytes] | None, submitter: bytes) -> bool:
    return served is None or submitter in served


class Silence:
    """The deaths that are not settled."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._departing: dict[bytes, _Departing] = {}

    def on_died(
        self,
        process: bytes,
        untold: Iterable[bytes],
        executors: frozenset[bytes],
        served: frozenset[bytes] | None,
        now: float,
    ) -> None:
        """One more death. `untold`: the other deaths of which it had not told yet; `executors`: who has a lease of it
        now; `served`: whose leases it has ever had itself, None for anybody's."""
        for dead, departing in self._departing.items():
            departing.unheard += _has_served(served, dead) and process not in departing.answered
            departing.executors.discard(process)
        earlier = (self._departing[dead] for dead in untold if dead in self._departing)
        unheard = sum(_has_served(departing.served, process) for departing in earlier)
        self._departing[process] = _Departing(unheard, set(executors), served, now + self._patience_s)

    def on_answered(self, witness: bytes, dead: bytes) -> bool | None:
        """A process has told all that it had of `dead`: whether it runs what nobody wants. None: nobody had asked."""
        departing = self._departing.get(dead)
        if departing is None:
            return None
        departing.answered.add(witness)
        return witness in departing.unwanted

    def on_unwanted(self, witness: bytes, dead: bytes) -> None:
        """It runs something of `dead` that nobody wants."""
        self._departing[dead].unwanted.add(witness)

    def on_settled(self, dead: bytes) -> int:
        """Everybody has told, or died: how many have not told."""
        departing = self._departing.pop(dead, None)
        return 0 if departing is None else departing.unheard

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        times = [departing.patience_until for departing in self._departing.values() if not departing.overdue]
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Whoever has not told by now is not waited for any more."""
        for departing in self._departing.values():
            departing.overdue = departing.overdue or departing.patience_until <= now

    # -- reading -----------------------------------------------------------------------------------------------------

    def awaits(self, witness: bytes, dead: bytes) -> bool:
        """Whether a process may still tell of `dead`."""
        departing = self._departing.get(dead)
        return departing is not None and witness not in departing.answered

    def is_overdue(self, dead: bytes) -> bool:
        departing = self._departing.get(dead)
        return departing is not None and departing.overdue

    def overdue(self) -> list[bytes]:
        """The dead that are not waited for any more, and not settled."""
        return [dead for dead, departing in self._departing.items() if departing.overdue]

    def cost(self, dead: bytes) -> int:
        """How many processes may have begun a task of `dead`, and have not told. 0 once it is settled: `on_settled` has
        said how many it were."""
        departing = self._departing.get(dead)
        return 0 if departing is None else departing.unheard + len(departing.executors - departing.answered)
