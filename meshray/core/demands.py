"""Who is next? The classes that want slots, in fair order.

A class is what one submitter asks for under one number (`Demand.class_id`), or one actor that wants a place. Slots go
round robin by job; within a job nested before root, the deepest first (a parent waits for its children, never the other
way round), and actors before tasks (tasks wait for actors). Among equals whoever was served longest ago is next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from meshray.strategy import ANYWHERE, Strategy
from meshray.wire.messages import Profile

ACTOR_DEPTH = 1 << 30
"""An actor's place comes before any task of its job."""

Key = tuple[bytes, int]  # (submitter, class_id); (actor id, 0)


@dataclass(slots=True, eq=False)
class Wanted:
    """One class: what it asks for, and how much of it. `count` is absolute, so repeats of a Demand are harmless."""

    key: Key
    job: bytes
    request: dict[str, int]
    profile: Profile
    depth: int
    name: str
    count: int = 0  # how many grants it could use in all
    grants: set[int] = field(default_factory=set)  # what it has, those that await a worker included
    since: float = 0.0  # when it began to wait for its next grant
    turn: int = 0  # when it was last served, as a count of grants
    never: str = ""  # why this peer can never meet it; "" when it can
    told: str = ""  # the text of the last Infeasible sent; "" = none stands
    running_request: dict[str, int] | None = None  # of an actor: what it keeps once it is placed
    strategy: Strategy = ANYWHERE
    near: dict[bytes, int] = field(default_factory=dict)  # home node -> bytes of large arguments there
    hops: int = 0  # how many peers have sent it on; > 0: its submitter is of another host
    asked: dict[bytes, float] = field(default_factory=dict)  # home nodes asked as well since it waits, and when
    ask_at: float = 0.0  # when it may queue at one more busy peer
    looked: int = -1  # the view of the members (`Placement.version`) that was looked at last
    turns: int | None = None  # SPREAD: so many of those that wait are for here; None until they are dealt out
    shares: dict[bytes, int] = field(default_factory=dict)  # SPREAD: so many are for these nodes, not told yet
    dealt_at: float = 0.0  # SPREAD: when

    @property
    def waits(self) -> bool:
        return self.count > len(self.grants)

    def wait_anew(self, now: float) -> None:
        """It wants more than it has from now on."""
        self.since = self.ask_at = now
        self.asked.clear()
        self.look_anew()

    def forget_asked(self, node: bytes) -> None:
        """What it was asked may not have arrived there."""
        if self.asked.pop(node, None) is not None:
            self.looked = -1

    def look_anew(self) -> None:
        """It wants more than it did: who was asked for the rest may not do, and may be asked for more."""
        self.asked = dict.fromkeys(self.asked, -math.inf)
        self.looked, self.turns = -1, None

    @property
    def submitter(self) -> bytes:
        return self.key[0]

    @property
    def is_actor(self) -> bool:
        return self.running_request is not None


class Demands:
    """All classes of this peer."""

    def __init__(self) -> None:
        self._classes: dict[Key, Wanted] = {}  # from the first Demand until count and grants are zero
        self._job_turn: dict[bytes, int] = {}  # when a job was last served; entries go with the job
        self._turn = 0  # grants so far

    def get(self, key: Key) -> Wanted | None:
        return self._classes.get(key)

    def add(self, wanted: Wanted) -> None:
        assert wanted.key not in self._classes
        self._classes[wanted.key] = wanted

    def discard(self, key: Key) -> Wanted | None:
        """Forget a class, whatever it holds; the caller deals with its grants."""
        return self._classes.pop(key, None)

    def discard_if_empty(self, wanted: Wanted) -> None:
        """Forget a class that neither wants nor has anything, unless its submitter would need to hear more."""
        if not wanted.count and not wanted.grants:
            self._classes.pop(wanted.key, None)

    def of_submitter(self, submitter: bytes) -> list[Wanted]:
        return [wanted for wanted in self._classes.values() if wanted.key[0] == submitter]

    def forget_job(self, job: bytes) -> None:
        self._job_turn.pop(job, None)

    def served(self, wanted: Wanted, now: float) -> None:
        """`wanted` got a grant: it goes to the end of both queues."""
        self._turn += 1
        wanted.turn = self._job_turn[wanted.job] = self._turn
        wanted.since = now

    def waiting(self) -> list[Wanted]:
        """Everybody who wants more than it has, in fair order: the first of each job, then the second of each."""
        jobs: dict[bytes, list[Wanted]] = {}
        for wanted in self._classes.values():
            if wanted.count > len(wanted.grants):
                jobs.setdefault(wanted.job, []).append(wanted)
        if not jobs:
            return []
        if len(jobs) == 1:
            (only,) = jobs.values()
            only.sort(key=_within_job)
            return only
        ranked: list[tuple[int, int, Wanted]] = []
        for job, classes in jobs.items():
            classes.sort(key=_within_job)
            turn = self._job_turn.get(job, 0)
            ranked.extend((rank, turn, wanted) for rank, wanted in enumerate(classes))
        ranked.sort(key=lambda entry: entry[:2])
        return [wanted for _, _, wanted in ranked]

    def __iter__(self) -> Iterator[Wanted]:
        return iter(self._classes.values())

    def __len__(self) -> int:
        return len(self._classes)


def _within_job(wanted: Wanted) -> tuple[int, int]:
    return -wanted.depth, wanted.turn
