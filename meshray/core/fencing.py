"""Until when may a host run the actors of another peer, and from when on may their owner start them elsewhere?

Theory (leases in time, as in Gray and Cheriton, SOSP 1989). An actor must not live twice, also when its owner and its
host cannot hear each other, where neither knows whether the other lives. For each pair (owner, host) the host asks for
the right to go on every `fence_renew_s`. An answered request gives it the right for `fence_right_s` (T) from when it
*sent* that request; at the end of its right it stops that owner's actors (`Fenced`). The owner restarts what it lost
there no earlier than 1.02 T + `fence_margin_s` after its last *answer*.

Why that is enough: the owner answers after the host has sent, so the right ends, by a true clock, at most T / 0.99
after the last answer, for clocks whose rate is wrong by 1 % at most; and the owner's pause takes at least
(1.02 T + margin) / 1.01, which is more by about the margin. That is what the host has for killing. Both clocks must go
on while a machine is suspended (`CLOCK_BOOTTIME`): a host that slept sees at its first look that its right is over, so
the shell looks here before it passes anything on. What such a host has already given to the network is refused by
incarnation.

An actor that goes on under a new owner (`core.wills`) lives by its right from the old one until its host hears of the
change. Where that cannot be known (`on_inherited`), the new owner's pause begins when the old one must be gone.

An owner that has lost a host answers it no more until the pause is over: what still runs there would otherwise get its
right anew. A host may then be asked again.
"""

from __future__ import annotations

from msgspec import Struct

from meshray.config import Config
from meshray.core.effects import Core, Send
from meshray.ids import node_of
from meshray.wire.messages import FenceRenew, FenceRenewed

SKEW = 1.02
"""Two clocks that are wrong by 1 % each, in opposite directions."""

UNANSWERED_MAX = 16
"""Requests to one owner that may still be answered: those of the last T and some."""


class Fenced(Struct, frozen=True):
    """The right to run this owner's actors is over: stop them now."""

    owner: bytes


class _Right:
    """What a host has of one owner."""

    __slots__ = ("next_at", "sent", "until")

    def __init__(self, now: float) -> None:
        self.until = now  # set by the first request, moved on by answers
        self.next_at = now  # when to ask again
        self.sent: dict[int, float] = {}  # requests that are not answered -> when they were sent


class Fencing(Core):
    """Both roles of one peer. Owners and hosts are named by the process ids of their peers. `now`: of a clock that goes
    on in suspend."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._config = config
        self._rights: dict[bytes, _Right] = {}  # owner -> while actors of it are here
        self._answered: dict[bytes, float] = {}  # host -> when it was answered last
        self._lost: dict[bytes, float] = {}  # host that was lost -> when its right is surely over
        self._number = 0  # of the last request: never used twice, so no answer is taken for another one's
        self.stale = 0  # requests that were not answered, answers that came too late

    # -- the host ----------------------------------------------------------------------------------------------------

    def begin(self, owner: bytes, now: float) -> None:
        """An actor of this owner is about to live here. What is sent to the owner after this finds it asked. As long as
        nothing was answered, nothing of it runs."""
        if owner not in self._rights:
            right = self._rights[owner] = _Right(now)
            self._ask(owner, right, now)
            right.until = now + self._config.fence_right_s

    def end(self, owner: bytes) -> None:
        """No actor of this owner lives here any more."""
        self._rights.pop(owner, None)

    def on_renewed(self, owner: bytes, message: FenceRenewed, now: float) -> None:
        """An answer. It counts from when its request was sent."""
        right = self._rights.get(owner)
        sent_at = right.sent.pop(message.number, None) if right is not None else None
        if right is None or sent_at is None or now >= right.until:  # once over, it is not had back: `tick` ends it
            self.stale += 1
            return
        right.until = max(right.until, sent_at + self._config.fence_right_s)

    def _ask(self, owner: bytes, right: _Right, now: float) -> None:
        self._number += 1
        right.sent[self._number] = now
        while len(right.sent) > UNANSWERED_MAX:
            del right.sent[next(iter(right.sent))]
        right.next_at = now + self._config.fence_renew_s
        self._effects.append(Send(owner, FenceRenew(self._number)))

    # -- the owner ---------------------------------------------------------------------------------------------------

    def on_renew(self, host: bytes, message: FenceRenew, now: float) -> None:
        """A host asks: it is answered, unless it was lost and may still run what it had."""
        if now < self._lost.get(host, now):
            self.stale += 1
            return
        self._lost.pop(host, None)
        self._answered[host] = now
        self._effects.append(Send(host, FenceRenewed(message.number)))

    def on_placed(self, host: bytes, now: float) -> None:
        """A host has a place for an actor, and asked for its right before it said so. What is sent there from now on
        counts as an answer: the actor may run before the next request comes."""
        self._answered[host] = now

    def on_inherited(self, host: bytes, now: float) -> None:
        """An actor that goes on there has us for its owner from now on. Its host hears that from the one before, which
        leaves, and may still answer for it until it has left: `leave_move_s` + `leave_say_s` from now at most, or T
        more if it sleeps meanwhile (its host ends the actor then). Only what the host says to us itself makes that
        shorter."""
        config = self._config
        self._answered[host] = now + config.leave_move_s + config.leave_say_s + config.fence_right_s

    def on_host_lost(self, host: bytes, now: float) -> float:
        """The host is gone, or cannot be heard. How long to wait, in seconds, until nothing of ours runs there."""
        answered_at = self._answered.pop(host, None)
        if answered_at is not None:
            over_at = answered_at + SKEW * self._config.fence_right_s + self._config.fence_margin_s
            self._lost[host] = max(over_at, self._lost.get(host, over_at))
        return self.pause_s(host, now)

    def pause_s(self, host: bytes, now: float) -> float:
        """How long a host that was lost must not be asked again; 0 for all others."""
        over_at = self._lost.get(host)
        if over_at is None:
            return 0.0
        if now >= over_at:
            del self._lost[host]
            return 0.0
        return over_at - now

    def avoided(self, now: float) -> list[bytes]:
        """Nodes of hosts that were lost and may still run what they had: nothing new may be sent there."""
        return [node_of(host) for host in list(self._lost) if self.pause_s(host, now)]

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        if not self._rights:
            return None
        return min((min(right.next_at, right.until) for right in self._rights.values()), default=None)

    def tick(self, now: float) -> None:
        """Rights end, requests are due. The shell calls it first of all whenever it wakes: it may have slept."""
        for owner, right in list(self._rights.items()):
            if now >= right.until:
                del self._rights[owner]
                self._effects.append(Fenced(owner))
            elif now >= right.next_at:
                self._ask(owner, right, now)
        for host in [host for host, over_at in self._lost.items() if now >= over_at]:
            del self._lost[host]

    # -- for people and tests ----------------------------------------------------------------------------------------

    def right_until(self, owner: bytes) -> float | None:
        """When the right to run this owner's actors ends; None when there are none."""
        right = self._rights.get(owner)
        return None if right is None else right.until
