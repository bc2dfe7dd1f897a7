"""Who must give way? Leases that are called back because somebody else waits.

A submitter keeps a lease as long as it has work, so a driver with a million tasks would keep every slot for ever. When
somebody waits, a lease that has served its time is revoked: its submitter pushes no more and returns it when what is in
flight is done. Two cases:

1. Another job waits: after `lease_quantum_s`, from the job that has the most, if it has more than the one that waits:
   more leases with what is short, since a job with all CPUs may still lack a GPU.
2. The same job waits with something that comes first (deeper, or an actor): after `lease_yield_s`. With something of
   equal rank: after the quantum, if that class has fewer leases. Something shallower waits for its turn.

Before that, the submitters of all leases that somebody could use are told so, once (`wished_for`): a lease that lies
idle needs no quantum to come back.

Nothing is revoked in vain: only if what waits would then fit, what already comes back counted.

A request for much would wait for ever while small ones take whatever comes free: after a quantum, it makes them wait
(`reserves`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from meshray.config import Config
from meshray.core.demands import Wanted
from meshray.core.grants import Grant
from meshray.core.slots import subtract
from meshray.resources import fits

Share = tuple[bytes, str]
"""A job, and a resource of which it holds some."""


@dataclass(slots=True)
class _View:
    """What each job and class holds now, blocked leases and returning ones not counted, and what will be free."""

    free: dict[str, int]
    by_job: dict[Share, int] = field(default_factory=dict)
    candidates: list[Grant] = field(default_factory=list)


def victims(
    waiting: list[Wanted], grants: Iterable[Grant], free: dict[str, int], now: float, config: Config
) -> list[Grant]:
    """The leases to revoke now. `waiting` is in fair order; one of each job is served here, the rest later."""
    view = _look(grants, free)
    chosen: list[Grant] = []
    served: set[bytes] = set()
    for wanted in waiting:
        if wanted.job not in served:
            found = _for_one(wanted, view, now, config)
            if found is not None:
                served.add(wanted.job)
                chosen += found
    return chosen


def _look(grants: Iterable[Grant], free: dict[str, int]) -> _View:
    view = _View(dict(free))
    for grant in grants:
        if grant.comes_back:
            _add(view.free, grant.amounts, grant.given_back)
        elif grant.worker and not grant.given_back:
            for name in grant.amounts:
                view.by_job[grant.job, name] = view.by_job.get((grant.job, name), 0) + 1
            if not grant.wanted.is_actor:
                view.candidates.append(grant)
    return view


def _for_one(wanted: Wanted, view: _View, now: float, config: Config) -> list[Grant] | None:
    """Whom to revoke for `wanted`, which then has its share of `view.free`; None when all would be in vain."""
    free, candidates, by_job = dict(view.free), list(view.candidates), dict(view.by_job)
    chosen: list[Grant] = []
    while not fits(wanted.request, free):
        short = {name for name, amount in wanted.request.items() if free.get(name, 0) < amount}
        fitting = [
            grant
            for grant in candidates
            if not short.isdisjoint(grant.amounts)
            and _outranks(wanted, grant, by_job, short)
            and now >= grant.granted_at + _serves_s(wanted, grant, config)
        ]
        if not fitting:
            return None
        victim = max(
            fitting,
            key=lambda grant: (
                max(by_job[grant.job, name] for name in short.intersection(grant.amounts)),
                -grant.wanted.depth,
                -grant.granted_at,
            ),
        )
        candidates.remove(victim)
        for name in victim.amounts:
            by_job[victim.job, name] -= 1
        _add(free, victim.amounts, 0)
        chosen.append(victim)
    for name, amount in wanted.request.items():
        free[name] -= amount
    view.free, view.candidates, view.by_job = free, candidates, by_job
    return chosen


def wished_for(waiting: list[Wanted], grants: Iterable[Grant], free: dict[str, int]) -> list[Grant]:
    """The leases that somebody could use, and whose submitters do not know that yet: they shall not keep them when
    they have nothing to do there. Rank does not matter for what lies idle."""
    short: dict[str, list[Wanted]] = {}  # resource -> who has not enough of it
    for wanted in waiting:
        for name, amount in wanted.request.items():
            if free.get(name, 0) < amount:
                short.setdefault(name, []).append(wanted)
    return [
        grant
        for grant in grants
        if grant.worker
        and not (grant.comes_back or grant.wished or grant.wanted.is_actor)
        and any(wanted is not grant.wanted for name in grant.amounts for wanted in short.get(name, ()))
    ]


def next_look(waiting: list[Wanted], grants: Iterable[Grant], now: float, config: Config) -> float | None:
    """When `victims` may find one that it does not find now, if nothing else happens; None: never."""
    view = _look(grants, {})
    times = (
        grant.granted_at + _serves_s(wanted, grant, config)
        for wanted in waiting
        for grant in view.candidates
        if _outranks(wanted, grant, view.by_job, wanted.request) and not wanted.request.keys().isdisjoint(grant.amounts)
    )
    return min((time for time in times if time > now), default=None)


def reserves(wanted: Wanted, grants: Iterable[Grant], total: dict[str, int], now: float, config: Config) -> bool:
    """Whether smaller requests must wait until this one fits. It keeps its place for `lease_reserve_s`, then lets
    others pass for as long: one of them may be what a running task waits for."""
    waited = now - wanted.since
    if waited < config.lease_quantum_s or int(waited / config.lease_reserve_s) % 2:
        return False
    reachable = dict(total)
    for grant in grants:
        if grant.wanted.is_actor:
            reachable = subtract(reachable, grant.amounts)
    return fits(wanted.request, reachable)


def reservation_ends(wanted: Wanted, now: float, config: Config) -> float:
    """When others may pass one that `reserves` now."""
    rounds = int((now - wanted.since) / config.lease_reserve_s)
    end = wanted.since + (rounds + 1) * config.lease_reserve_s
    return max(end, math.nextafter(now, math.inf))  # rounding must not make it now


def _outranks(wanted: Wanted, grant: Grant, by_job: dict[Share, int], short: Iterable[str]) -> bool:
    """Whether `wanted` may have what `grant` holds of what is `short`, once that has served its time."""
    if grant.job != wanted.job:
        names = [name for name in short if name in grant.amounts]
        return any(by_job[grant.job, name] > by_job.get((wanted.job, name), 0) for name in names)
    if wanted.depth != grant.wanted.depth:
        return wanted.depth > grant.wanted.depth
    return len(grant.wanted.grants) > len(wanted.grants)


def _serves_s(wanted: Wanted, grant: Grant, config: Config) -> float:
    """For how long `grant` serves its class while `wanted` waits."""
    deeper = grant.job == wanted.job and wanted.depth > grant.wanted.depth
    return config.lease_yield_s if deeper else config.lease_quantum_s


def _add(free: dict[str, int], amounts: dict[str, int], less_cpu: int) -> None:
    for name, amount in amounts.items():
        free[name] = free.get(name, 0) + amount - (less_cpu if name == "CPU" else 0)
