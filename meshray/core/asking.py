"""How many leases of a class is each peer asked for?

Our own peer is asked for as many as there are tasks ready, and told when none is wanted any more. It may name others
that have room (`AskAlso`); each of those is asked for what it may give, while tasks are ready that those in flight
would not be done with at once. That less is wanted than was said is told now and then (`correct`). What is said names
a total, not a difference, so that one more or less of these messages does no harm.
"""

from __future__ import annotations

from collections.abc import Callable

from meshray.config import Config
from meshray.core.effects import Send
from meshray.core.scheduling import Asked, Lease, SchedulingClass
from meshray.wire.messages import AskAlso, Demand

DEMAND_MAX = 1024
"""The most leases asked for at once: far beyond what a host grants."""


class Asking:
    """See the head of this file. A part of `Submission`, which has the classes."""

    def __init__(self, peer: bytes, config: Config, emit: Callable[[object], None]) -> None:
        """`peer`: our own; `emit` takes what is to be sent."""
        self._peer = peer
        self._config = config
        self._emit = emit

    def on_ask_also(self, cls: SchedulingClass, message: AskAlso) -> bool:
        """A peer names another one that may have room. Whether there is anything to ask it for."""
        if not cls.ready or message.peer == self._peer:
            return False
        asked = cls.asked.setdefault(message.peer, Asked())
        asked.hops = min(asked.hops, message.hops) if asked.more else message.hops
        asked.more = max(asked.more, message.count)
        asked.anew = True
        return True

    def look(self, cls: SchedulingClass) -> None:
        """Ask for more leases while tasks are ready; withdraw the wish when none is."""
        here = len(cls.leases) - cls.abroad
        if cls.ready:
            wanted = min(here + len(cls.ready), DEMAND_MAX)
            if cls.demanded <= here or wanted >= 2 * cls.demanded:
                self._tell(cls, wanted)
        elif cls.demanded > here:
            self._tell(cls, here)
        if cls.asked:
            self._look_abroad(cls)

    def correct(self, cls: SchedulingClass) -> None:
        """Say it where more was asked for than what is ready could use: others have begun some of it. That did no harm,
        but who looks there (`meshray status`, the peer for whom else to name) takes it for what waits."""
        ready = len(cls.ready)
        wanted = len(cls.leases) - cls.abroad + ready
        if wanted < cls.demanded:
            self._tell(cls, wanted)
        for peer, asked in cls.asked.items():
            wanted = asked.leases + ready  # not `more`: it keeps its place in the queue there
            if wanted < asked.demanded:
                asked.demanded = wanted
                self._send(cls, peer, wanted, asked.hops)

    def _look_abroad(self, cls: SchedulingClass) -> None:
        """The same to the peers that our own has named, as far as it has."""
        ready = len(cls.ready)
        worth = not self._soon_begun(cls)
        for peer, asked in list(cls.asked.items()):
            if not ready:
                asked.more = 0
            wanted = asked.leases + (min(asked.more, ready) if worth else 0)
            grows = wanted > asked.leases and (asked.anew or wanted > asked.demanded)
            if grows or (wanted != asked.demanded and not ready):
                asked.anew, asked.demanded = False, wanted
                self._send(cls, peer, wanted, asked.hops)
            if not (asked.more or asked.leases or asked.demanded):
                del cls.asked[peer]

    def _soon_begun(self, cls: SchedulingClass) -> bool:
        """Whether the leases that are there begin all that is ready sooner than a worker elsewhere would. Those that
        take no more, which may run something long, begin none of it."""
        if not cls.ready or cls.stuck or cls.strategy.spread or (mean_ns := cls.ready[0].mean.ns) is None:
            return False
        takers = sum(not lease.revoked and not lease.held_up for lease in cls.leases.values())
        return mean_ns * len(cls.ready) < self._config.ask_also_work_s * 1e9 * takers

    def _tell(self, cls: SchedulingClass, count: int) -> None:
        if count == cls.demanded:
            return
        cls.demanded = count
        if cls.ready:
            cls.name = cls.ready[0].name
        self._send(cls, self._peer, count, 0)

    def _send(self, cls: SchedulingClass, peer: bytes, count: int, hops: int) -> None:
        message = Demand(
            cls.id, count, cls.request, cls.profile, cls.depth, cls.name, cls.strategy, cls.near, cls.job, hops
        )
        self._emit(Send(peer, message))

    def lower(self, lease: Lease) -> None:
        """One less of its class from its peer: said before it is returned, or the peer would grant it again."""
        cls = lease.cls
        if lease.peer == self._peer:
            self._tell(cls, len(cls.leases) - cls.abroad - 1)
            return
        asked = cls.asked[lease.peer]
        lowered = asked.leases - 1 + min(asked.more, len(cls.ready))
        if lowered < asked.demanded:
            asked.demanded = lowered
            self._send(cls, lease.peer, lowered, asked.hops)
