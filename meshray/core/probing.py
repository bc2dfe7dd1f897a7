"""Whom do I probe, when, and what has come of it? (SWIM 3.1 and 4.3; Lifeguard 4.1)

Theory. Each peer goes round a shuffled list of the members, one per probe interval; the list is shuffled anew after
each round, and who joins gets a random place in it. So each member is probed by each other at least once in 2n - 1
intervals, and by somebody about once per interval. A probe has up to two stages::

    direct      Ping the target; wait for the time-out, max(500 ms, 4 round trips), times the health multiplier
    indirect    ask some helpers to ping it as well, and wait for as long again, at least to the end of the interval

An Ack in time, from whom it may come, ends the probe well. If there is none it has failed, and the number of helpers
that did not even say Nack is a sign of one's own health. Three kinds of probes are the same but for their times::

    ROUND     in the order of the list
    URGENT    a link broke, or a link to a suspect is there again: the helpers are asked at once
    LAST      before a suspect is declared dead: the same, with more helpers, for `last_probe_s`

The other side is here too: `Relay`s are the probes made for others. Whom this concerns is told by what is returned;
this file sends nothing and judges nobody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from meshray.config import Config
from meshray.core.health import Health
from meshray.core.members import Member, Members

if TYPE_CHECKING:
    from random import Random


class Kind(Enum):
    """Why a probe is made."""

    ROUND = "round"
    URGENT = "urgent"
    LAST = "last"


@dataclass(slots=True, eq=False)
class Probe:
    """One that is under way."""

    seq: int
    target: bytes
    kind: Kind
    sent_at: float
    ask_at: float  # when helpers are asked; infinity once they were
    until: float
    helpers: set[bytes] = field(default_factory=set)  # that were asked
    silent: set[bytes] = field(default_factory=set)  # those of them that have not said Nack


@dataclass(slots=True, eq=False)
class Relay:
    """One that is made for another member."""

    asker: bytes
    asker_seq: int
    target: bytes
    nack_at: float  # infinity once it was sent
    until: float


class Probing:
    """See the head of this file. `seq`s are this peer's own; they never repeat."""

    def __init__(self, config: Config, members: Members, health: Health, random: Random, now: float) -> None:
        self._config = config
        self._members = members
        self._health = health
        self._random = random
        self._seq = 0
        self._list: list[bytes] = []  # the rest of this round, the next one last; the dead are passed over
        self.next_round_at = now
        self.probes: dict[int, Probe] = {}
        self.relays: dict[int, Relay] = {}
        self.due_at = math.inf  # when `due` has something: the least of all times below; may be too early, never late

    # -- whom --------------------------------------------------------------------------------------------------------

    def on_joined(self, node: bytes) -> None:
        """A random place in the list (SWIM 4.3), so that those who join together are not probed together."""
        self._list.insert(int(self._random.random() * (len(self._list) + 1)), node)

    def next_target(self, now: float) -> Member | None:
        """Whose turn it is, and fix the time of the next turn; None when nobody else lives."""
        self.next_round_at = now + self._config.probe_interval_s * self._health.multiplier
        for _ in range(2):
            while self._list:
                member = self._members.get_living(self._list.pop())
                if member is not None:
                    return member
            self._list = [member.node for member in self._members.living()]
            self._random.shuffle(self._list)
        return None

    # -- probes ------------------------------------------------------------------------------------------------------

    def timeout_s(self, member: Member) -> float:
        if member.rtt_s is None:
            timeout = self._config.probe_first_timeout_s
        else:
            timeout = max(self._config.probe_timeout_s, self._config.probe_round_trips * member.rtt_s)
        return timeout * self._health.multiplier

    def begin(self, member: Member, kind: Kind, now: float) -> Probe:
        """The shell is to be told to send the Ping."""
        self._seq += 1
        timeout = self.timeout_s(member)
        if kind is Kind.ROUND:
            least = self._config.probe_interval_s * self._health.multiplier
            ask_at, until = now + timeout, now + max(least, 2 * timeout)
        else:
            ask_at = now
            until = now + (max(timeout, self._config.last_probe_s) if kind is Kind.LAST else timeout)
        probe = self.probes[self._seq] = Probe(self._seq, member.node, kind, now, ask_at, until)
        self.due_at = min(self.due_at, ask_at)
        return probe

    def is_probed(self, node: bytes, *kinds: Kind) -> bool:
        return any(probe.target == node and probe.kind in kinds for probe in self.probes.values())

    def on_ack(self, seq: int, source: bytes, now: float) -> Probe | Relay | None:
        """What has ended well by it."""
        probe = self.probes.get(seq)
        if probe is not None:
            if source != probe.target and source not in probe.helpers:
                return None
            del self.probes[seq]
            if source == probe.target:
                self._members.table[source].on_round_trip(now - probe.sent_at)
            if probe.kind is Kind.ROUND:
                self._health.on_answer()
            return probe
        relay = self.relays.get(seq)
        if relay is None or relay.target != source:
            return None
        del self.relays[seq]
        return relay

    def on_nack(self, seq: int, source: bytes) -> None:
        probe = self.probes.get(seq)
        if probe is not None:
            probe.silent.discard(source)

    def forget(self, node: bytes) -> None:
        """It is dead: what was under way about it is of no interest."""
        for seq in [probe.seq for probe in self.probes.values() if probe.target == node]:
            del self.probes[seq]

    def abandon(self, now: float) -> None:
        """This peer was away: accuse nobody of what was under way, and probe again."""
        self.probes.clear()
        self.relays.clear()
        self.next_round_at = now

    # -- for others --------------------------------------------------------------------------------------------------

    def begin_relay(self, asker: bytes, asker_seq: int, target: bytes, within_s: float, now: float) -> int | None:
        """The `seq` for a Ping to the target; None when there are too many."""
        if len(self.relays) >= self._config.probe_relays_max:
            return None
        self._seq += 1
        nack_at = now + self._config.nack_after * within_s
        self.relays[self._seq] = Relay(asker, asker_seq, target, nack_at, now + within_s)
        self.due_at = min(self.due_at, nack_at)
        return self._seq

    # -- time --------------------------------------------------------------------------------------------------------

    def due(self, now: float) -> tuple[list[Probe], list[Probe], list[Relay]]:
        """Probes whose helpers are to be asked now (`asked` says whom), probes that have failed, relays whose askers
        get a Nack."""
        if now < self.due_at:
            return [], [], []
        to_ask, failed, nacks = [], [], []
        for probe in list(self.probes.values()):
            if now >= probe.until:
                del self.probes[probe.seq]
                failed.append(probe)
            elif now >= probe.ask_at:
                probe.ask_at = math.inf
                to_ask.append(probe)
        for seq, relay in list(self.relays.items()):
            if now >= relay.until:
                del self.relays[seq]
            elif now >= relay.nack_at:
                relay.nack_at = math.inf
                nacks.append(relay)
        times = [min(probe.ask_at, probe.until) for probe in self.probes.values()]
        times += [min(relay.nack_at, relay.until) for relay in self.relays.values()]
        self.due_at = min(times, default=math.inf)
        return to_ask, failed, nacks

    def asked(self, probe: Probe) -> list[Member]:
        """Choose the helpers of a probe."""
        config = self._config
        count = config.last_probe_helpers if probe.kind is Kind.LAST else config.probe_helpers
        helpers = self._members.sample(count, self._random, without=probe.target)
        probe.helpers = {member.node for member in helpers}
        probe.silent = set(probe.helpers)
        return helpers
