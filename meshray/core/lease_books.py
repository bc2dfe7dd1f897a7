"""What is wanted of this peer, and what has it given? The books that the parts of `core.leases` share.

Each book is changed by its own methods only. Here stands what several parts read out of more than one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meshray.config import Config
from meshray.core.demands import Demands, Key, Wanted
from meshray.core.grants import Grants
from meshray.core.placement import Placement
from meshray.core.workers import Workers
from meshray.wire.messages import Demand


@dataclass(frozen=True, slots=True)
class Books:
    """See the head of this file. `emit` takes the effects."""

    config: Config
    grants: Grants
    demands: Demands
    workers: Workers
    placement: Placement
    emit: Callable[[object], None]

    def new_class(self, key: Key, job: bytes, demand: Demand, now: float) -> Wanted:
        """A class that was not known; what it wants is for the caller to say."""
        never = self.grants.slots.why_never(demand.request) or self.placement.why_not_here(
            demand.strategy, job, self.is_foreign(key[0])
        )
        wanted = Wanted(
            key, job, dict(demand.request), demand.profile, demand.depth, demand.name, since=now, never=never,
            strategy=demand.strategy, hops=max(demand.hops, self.is_foreign(key[0])),
        )  # fmt: skip
        self.demands.add(wanted)
        return wanted

    def is_foreign(self, process: bytes) -> bool:
        """Whether it is of another host: its own peer tells of its end."""
        node = self.placement.node
        return bool(node) and not process.startswith(node)

    def is_nested(self, wanted: Wanted) -> bool:
        """Whether something that runs here waits for this, maybe."""
        worker = self.workers.get(wanted.submitter)
        return worker is not None and not worker.dying
