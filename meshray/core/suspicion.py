"""How long may a suspect take to refute? Lifeguard's "LHA-Suspicion" (4.2).

A suspicion starts long (`longest`), for the accuser may be the one who is cut off. Each other accuser, who came to it
by a probe of its own, brings it down, the first ones most:

    longest - (longest - shortest) * log(c + 1) / log(k + 1)        after c of the k confirmations that are wanted

When it is over the suspect is probed once more, for `last_probe_s` (not in the paper: it saves who was cut off for
about as long as the shortest time, and whose refutation is still on its way). Then it is dead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from meshray.config import Config

ACCUSERS_MAX = 8


def shortest_s(config: Config, count: int) -> float:
    """For a mesh of `count` living members."""
    return config.suspicion_mult * max(1.0, math.log10(max(1, count))) * config.probe_interval_s


def lasts_s(config: Config, count: int, confirmations: int) -> float:
    """How long a suspicion lasts, from its begin. Of `count` members two are no use for a confirmation: the accuser and
    the suspect; where there are no others it lasts the shortest time."""
    shortest = shortest_s(config, count)
    wanted = min(config.suspicion_confirmations, count - 2)
    if confirmations >= wanted:
        return shortest
    longest = config.suspicion_max_mult * shortest
    return longest - (longest - shortest) * math.log(confirmations + 1) / math.log(wanted + 1)


@dataclass(slots=True)
class Suspicion:
    """Of one incarnation of one member."""

    node: bytes
    incarnation: int
    started: float
    accusers: set[bytes] = field(default_factory=set)
    last_probe: bool = False  # its time is over, it is being probed for the last time
    last_seq: int = 0  # the number of that probe


class Suspicions:
    """All that this peer has."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._all: dict[bytes, Suspicion] = {}
        self._next: tuple[int, float] | None = None  # the answer of `next_at` for a count, until something changes

    def __contains__(self, node: bytes) -> bool:
        return node in self._all

    def get(self, node: bytes) -> Suspicion | None:
        return self._all.get(node)

    def begin(self, node: bytes, incarnation: int, accusers: Iterable[bytes], now: float) -> Suspicion:
        """A new one, in place of that of an older incarnation."""
        suspicion = self._all[node] = Suspicion(node, incarnation, now)
        self.confirm(suspicion, accusers)
        return suspicion

    def confirm(self, suspicion: Suspicion, accusers: Iterable[bytes]) -> bool:
        """Whether these are news that others should hear: more accusers than were known, and not enough before."""
        before = len(suspicion.accusers)
        if before > self._config.suspicion_confirmations:
            return False
        for accuser in accusers:
            self._next = None
            if accuser != suspicion.node and len(suspicion.accusers) < ACCUSERS_MAX:
                suspicion.accusers.add(accuser)
        return len(suspicion.accusers) > before

    def end(self, node: bytes) -> None:
        """Refuted, or dead."""
        if self._all.pop(node, None) is not None:
            self._next = None

    def answered(self, node: bytes, now: float) -> None:
        """A suspect has answered a probe, but its refutation is not here: it gets the time for one anew."""
        suspicion = self._all.get(node)
        if suspicion is not None:
            suspicion.started, suspicion.last_probe, self._next = now, False, None

    def begin_again(self, now: float) -> None:
        """This peer was away: what it knew is old."""
        self._next = None
        for suspicion in self._all.values():
            suspicion.started, suspicion.last_probe = now, False

    def over_at(self, suspicion: Suspicion, count: int) -> float:
        return suspicion.started + lasts_s(self._config, count, max(0, len(suspicion.accusers) - 1))

    def take_over(self, now: float, count: int) -> list[Suspicion]:
        """Those that are over by now, each once: their last probe is due."""
        if self.next_at(count) > now:
            return []
        over = [s for s in self._all.values() if not s.last_probe and self.over_at(s, count) <= now]
        for suspicion in over:
            suspicion.last_probe = True
        self._next = None
        return over

    def next_at(self, count: int) -> float:
        """When `take_over` has something; infinity for never."""
        if not self._all:
            return math.inf
        if self._next is None or self._next[0] != count:
            ends = (self.over_at(s, count) for s in self._all.values() if not s.last_probe)
            self._next = count, min(ends, default=math.inf)
        return self._next[1]
