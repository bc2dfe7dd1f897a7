"""Who is sent on to other hosts, and which of them hear how full this one is?

Theory. A peer does not ask others for what it cannot give: it tells the submitters of classes that wait whom to ask as
well (`placement` says whom). When loads of others are told, in a large mesh all the time, those classes look at what
came together.

The other way round, somebody may be sent here in vain. Its peer is told at once how full this host is, and once more
when there is room (`tell_the_refused`).
"""

from __future__ import annotations

import math

from meshray.core.effects import Send
from meshray.core.jobs import Jobs
from meshray.core.lease_books import Books
from meshray.ids import peer_of
from meshray.wire.messages import AskAlso, JobWanted, LoadNow


class SpillBack:
    """See the head of this file. A part of `Leases`."""

    def __init__(self, books: Books, jobs: Jobs) -> None:
        self._config = books.config
        self._demands, self._placement = books.demands, books.placement
        self._slots = books.grants.slots
        self._emit = books.emit
        self._jobs = jobs
        self._looked_at = -math.inf  # when loads that were told were looked at, the last time
        # For reading:
        self.refused: dict[bytes, dict[str, int]] = {}  # peers that believe this one to be full -> what was asked for
        self.news_at: float | None = None  # when loads that were told will be looked at; None: there are none

    # -- to others ---------------------------------------------------------------------------------------------------

    def ask_others(self, now: float) -> float | None:
        """Tell the submitters of classes that wait whom to ask as well. When one of those may ask somebody else."""
        times: list[float] = []
        for wanted in self._demands.waiting():
            if wanted.is_actor or wanted.job in self._jobs.ended or wanted.job in self._jobs.codeless:
                continue
            for ask in self._placement.asks(wanted, now):
                also = AskAlso(wanted.key[1], peer_of(ask.node), ask.count, wanted.hops + 1)
                self._emit(Send(wanted.submitter, also))
            times.append(self._placement.next_look(wanted))
        return min(times, default=None)

    def on_load_told(self, now: float) -> bool:
        """In a large mesh that happens all the time: each class that waits looks at what came together. Whether it is
        time for that."""
        if self.news_at is None:
            waiting = sum(wanted.waits for wanted in self._demands)
            if not waiting:
                return False  # who begins to wait looks at all
            pause_s = max(self._config.look_again_s, waiting * len(self._placement.members) / self._config.look_rate)
            self.news_at = max(now, self._looked_at + pause_s)
        return now >= self.news_at

    def look_at_loads(self, now: float) -> None:
        """It is time: see `news_at`."""
        self.news_at, self._looked_at = None, now
        self._placement.look_anew()

    def forget_asked(self, node: bytes) -> None:
        """Who was sent there may have to be sent again, or elsewhere."""
        for wanted in self._demands:
            wanted.forget_asked(node)

    # -- from others -------------------------------------------------------------------------------------------------

    def on_strange_job(self, peer: bytes, job: bytes, request: dict[str, int]) -> None:
        """Something was sent here in vain, for now: it is of a job that is not known."""
        self._emit(Send(peer, JobWanted(job)))
        self.refused[peer] = request

    def on_too_many(self, peer: bytes, request: dict[str, int]) -> None:
        """There is no room for its class: as if all slots were in use, so that who was sent here goes elsewhere."""
        self._emit(Send(peer, LoadNow(dict(self._slots.total))))
        self.refused[peer] = request

    def on_no_room(self, peer: bytes, request: dict[str, int]) -> None:
        """Whoever sent it here thought that there was room."""
        self._emit(Send(peer, LoadNow(self._in_use())))
        self.refused[peer] = request

    def on_peer_gone(self, peer: bytes) -> None:
        """It need not be told any more."""
        self.refused.pop(peer, None)

    def tell_the_refused(self) -> None:
        """There is room now for what others were sent here for in vain. Loads would tell it later, or never, where they
        have missed that there was none."""
        if len(self._demands) >= self._config.foreign_classes_max:
            return
        for peer in [peer for peer, request in self.refused.items() if self._slots.fits(request)]:
            del self.refused[peer]
            self._emit(Send(peer, LoadNow(self._in_use())))

    def _in_use(self) -> dict[str, int]:
        return {name: amount for name, amount in self._slots.used.items() if amount}
