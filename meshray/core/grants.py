"""What was granted, and to whom? The book of one peer's grants, and of the slots that they hold.

A grant begins without a worker (it is *awaiting* one), gets one for good, and ends; while it lasts its slots are taken.
Two things change them: its worker waits in `get`, then its CPU is lent to others until it wakes (`slots`); and an actor
that has been placed gives back what only its placing needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from meshray.core.demands import Wanted
from meshray.core.slots import CPU, GPU, Slots, subtract
from meshray.resources import Amounts
from meshray.wire.messages import Profile


@dataclass(slots=True, eq=False)
class Grant:
    """Slots that were given: a lease of a submitter, or the place of an actor."""

    id: int  # the lease's number
    wanted: Wanted  # the class it was granted to
    amounts: dict[str, int]  # what it holds; shrinks when an actor is placed
    gpu_ids: tuple[int, ...]
    granted_at: float
    worker: bytes = b""  # b"" until a worker serves it
    revoked: bool = False  # its submitter was asked to return it
    wished: bool = False  # its submitter knows that somebody waits for it
    left: bool = False  # its host is being stopped, and has ended what ran
    orphan: bool = False  # its submitter is dead: it ends when nothing of that one runs there, or with its worker
    given_back: int = 0  # the CPU that its blocked worker gave back

    @property
    def job(self) -> bytes:
        return self.wanted.job

    @property
    def profile(self) -> Profile:
        return self.wanted.profile

    @property
    def comes_back(self) -> bool:
        return self.revoked or self.orphan


COUNT_BITS = 40
"""So many bits of a lease's number count the grants of a peer: 10,000 in a second for three years."""

PREFIX_BITS = 22
"""Those above tell peers apart: they are of its home node, and all fit into 62 bits (`wire.messages.Count`). Two of a
hundred peers share a prefix once in a thousand meshes; a submitter that gets one number twice gives one back."""


class Grants:
    """All grants, in the order in which they were made. Numbers are never used again; those of two peers differ."""

    def __init__(self, total: Amounts, node: bytes = b"") -> None:
        self.slots = Slots(total)
        self.awaiting: dict[int, Grant] = {}  # those without a worker, oldest first
        self._all: dict[int, Grant] = {}  # from granting until the slots are free again
        self._last = int.from_bytes(node[:8]) >> (64 - PREFIX_BITS) << COUNT_BITS  # the number given last

    def make(self, wanted: Wanted, now: float) -> None:
        """Grant what `wanted` asks for, which fits."""
        gpu_ids = self.slots.take(wanted.request)
        self._last += 1
        grant = Grant(self._last, wanted, dict(wanted.request), gpu_ids, now)
        self._all[grant.id] = self.awaiting[grant.id] = grant
        wanted.grants.add(grant.id)

    def assign(self, grant: Grant, worker: bytes, now: float) -> None:
        """This worker serves it; its time begins now."""
        del self.awaiting[grant.id]
        grant.worker, grant.granted_at = worker, now

    def end(self, grant: Grant) -> None:
        """Its slots are free again."""
        del self._all[grant.id]
        self.awaiting.pop(grant.id, None)
        self.slots.give(subtract(grant.amounts, {CPU: grant.given_back}), grant.gpu_ids)
        grant.wanted.grants.discard(grant.id)

    # -- what a grant holds ------------------------------------------------------------------------------------------

    def block(self, grant: Grant) -> bool:
        """Its worker waits: its CPU is lent. False when it is already, or has none."""
        if grant.given_back:
            return False
        grant.given_back = grant.amounts.get(CPU, 0)
        self.slots.block(grant.given_back)
        return bool(grant.given_back)

    def wake(self, grant: Grant) -> None:
        """Its worker runs again, whatever is free."""
        self.slots.wake(grant.given_back)
        grant.given_back = 0

    def shrink(self, grant: Grant, keeps: Amounts) -> None:
        """It needs no more than `keeps` from now on; its devices stay its own."""
        less = subtract(grant.amounts, keeps)
        less.pop(GPU, None)
        if less:
            lent = min(grant.given_back, less.get(CPU, 0))
            grant.given_back -= lent
            self.slots.give(subtract(less, {CPU: lent}))
            grant.amounts = subtract(grant.amounts, less)

    # -- reading -----------------------------------------------------------------------------------------------------

    def get(self, lease: int) -> Grant | None:
        return self._all.get(lease)

    def of(self, wanted: Wanted) -> list[Grant]:
        """Those of one class."""
        return [self._all[lease] for lease in wanted.grants]

    def __getitem__(self, lease: int) -> Grant:
        return self._all[lease]

    def __iter__(self) -> Iterator[Grant]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def check(self) -> None:
        """Invariant I4, counted anew. For tests and simulations: it costs time."""
        used: dict[str, int] = dict.fromkeys(self.slots.total, 0)
        for grant in self:
            for name, amount in grant.amounts.items():
                used[name] += amount - (grant.given_back if name == CPU else 0)
            assert grant.id in grant.wanted.grants, grant
            assert bool(grant.worker) != (grant.id in self.awaiting), grant
        assert used == self.slots.used, f"the grants hold {used}, {self.slots}"
        self.slots.check()
