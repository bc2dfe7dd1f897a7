"""Who is there? The table of members, and the order in which news about one of them count.

For one node `alive(N) < suspect(N) < alive(N+1) < dead`, whatever the order in which news arrive (SWIM 4.2). N, the
incarnation, is raised by the node itself, to refute a suspicion. `RULES` is that order as a table. Unlike in SWIM a
dead node never comes back, not even with a greater incarnation: what it owned is lost, its peer must start as another
node.

Dead ones are remembered as tombstones, a bounded number, so that late news do not raise them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from meshray.core.member_effects import MemberView
from meshray.wire.gossip import BUCKETS, LEFT, Alive

if TYPE_CHECKING:
    from random import Random


class State(IntEnum):
    """What a member is held for."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


class Verdict(IntEnum):
    """What a piece of news about a known member means."""

    STALE = 0  # nothing
    RENEWED = 1  # alive, and describes itself anew
    REFUTED = 2  # was suspected and is not
    SUSPECTED = 3  # is suspected, of this incarnation
    CONFIRMED = 4  # was suspected, perhaps by others
    DIED = 5


OLDER, SAME, NEWER = 0, 1, 2

_S = Verdict
RULES: dict[tuple[State, str], tuple[Verdict, Verdict, Verdict]] = {
    # (held for, news):      (of an older incarnation, of the same, of a newer)
    (State.ALIVE, "alive"): (_S.STALE, _S.STALE, _S.RENEWED),
    (State.ALIVE, "suspect"): (_S.STALE, _S.SUSPECTED, _S.SUSPECTED),
    (State.SUSPECT, "alive"): (_S.STALE, _S.STALE, _S.REFUTED),
    (State.SUSPECT, "suspect"): (_S.STALE, _S.CONFIRMED, _S.SUSPECTED),
    (State.DEAD, "alive"): (_S.STALE, _S.STALE, _S.STALE),
    (State.DEAD, "suspect"): (_S.STALE, _S.STALE, _S.STALE),
    (State.LEFT, "alive"): (_S.STALE, _S.STALE, _S.STALE),
    (State.LEFT, "suspect"): (_S.STALE, _S.STALE, _S.STALE),
}
"""News of a death are not in it: they always count, once."""


@dataclass(slots=True, eq=False)
class Member:
    """One node as this peer sees it."""

    node: bytes
    record: Alive | None  # its newest description; None for a dead one that was never known alive
    incarnation: int  # the greatest that was heard of; the record's, or greater by a suspicion
    state: State
    since: float  # of `state`
    version: int = 0  # of its load
    load: bytes = b""
    rtt_s: float | None = None  # smoothed round trip, of probes that it answered
    heard: bool = False  # it has sent something: so it knows this peer
    reachable: bool = True  # False from a broken link to the next answer
    incompatible: bool = False
    reason: str = ""  # of its death

    @property
    def lives(self) -> bool:
        return self.state <= State.SUSPECT

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.record.addresses if self.record is not None else ()

    @property
    def name(self) -> str:
        return self.record.name if self.record is not None else self.node.hex()

    def current(self) -> Alive | None:
        """Its description with the newest load."""
        record = self.record
        if record is None or record.version == self.version:
            return record
        return Alive(
            self.node, record.incarnation, record.name, record.addresses, record.python, self.version, self.load
        )

    def view(self, now: float, *, is_self: bool) -> MemberView:
        """For people."""
        return MemberView(
            node=self.node,
            name=self.name,
            state=self.state.name.lower(),
            since_s=max(0.0, now - self.since),
            addresses=self.addresses,
            reachable=self.reachable,
            rtt_s=self.rtt_s,
            python=self.record.python if self.record is not None else "",
            incompatible=self.incompatible,
            version=self.version,
            load=self.load,
            reason=self.reason,
            is_self=is_self,
        )

    def on_round_trip(self, sample_s: float) -> None:
        """RFC 6298, 2: an exponential mean with weight 1/8."""
        self.rtt_s = sample_s if self.rtt_s is None else self.rtt_s + (sample_s - self.rtt_s) / 8

    def __repr__(self) -> str:
        return f"<Member {self.node.hex()} {self.name!r} {self.state.name.lower()}({self.incarnation}) {self.reason}>"


def bucket_of(node: bytes) -> int:
    """Where tables are compared, members fall into buckets by their (random) ids."""
    return node[0] % BUCKETS


class Members:
    """The table. The peer itself is in it, alive."""

    def __init__(self, me: Alive, remembered_max: int, now: float) -> None:
        self.node = me.node
        self.table: dict[bytes, Member] = {}  # all that were heard of, and are not forgotten
        self.digests = [0] * BUCKETS  # of the living: see `_toggle`
        self.buckets: list[dict[bytes, Member]] = [{} for _ in range(BUCKETS)]  # all of `table`, by their ids
        self._living: list[bytes] = []  # the living but this peer, in no order, for random choices
        self._place: dict[bytes, int] = {}  # node -> index in `_living`
        self._tombs: dict[bytes, None] = {}  # the dead, in order of their deaths
        self._remembered_max = remembered_max
        self.me = Member(me.node, me, me.incarnation, State.ALIVE, now, me.version, me.load)
        self._file(self.me)
        self._toggle(self.me)

    # -- questions ---------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Living members, this peer included."""
        return len(self._living) + 1

    def living(self) -> Iterator[Member]:
        """All living members but this peer."""
        return (self.table[node] for node in self._living)

    def dead(self) -> list[Member]:
        """The latest last."""
        return [self.table[node] for node in self._tombs]

    def get_living(self, node: bytes) -> Member | None:
        member = self.table.get(node)
        return member if member is not None and member.state <= State.SUSPECT else None

    def sample(self, count: int, random: Random, without: bytes = b"") -> list[Member]:
        """Up to `count` different members that are alive (not suspects), but `without` and this peer."""
        living = self._living
        if len(living) <= 4 * count:
            fit = [m for m in self.living() if m.state == State.ALIVE and m.node != without]
            return fit if len(fit) <= count else random.sample(fit, count)
        chosen: dict[bytes, Member] = {}
        for _ in range(8 * count):  # enough unless most are suspects
            member = self.table[living[int(random.random() * len(living))]]
            if member.state == State.ALIVE and member.node != without:
                chosen[member.node] = member
                if len(chosen) == count:
                    break
        return list(chosen.values())

    def rank(self) -> tuple[int, bytes]:
        """How many members are held for alive, and the smallest id among them, this peer included."""
        alive = [member.node for member in self.living() if member.state == State.ALIVE]
        return len(alive) + 1, min((*alive, self.node))

    def verdict(self, member: Member, news: str, incarnation: int) -> Verdict:
        older, same, newer = RULES[member.state, news]
        if incarnation == member.incarnation:
            return same
        return newer if incarnation > member.incarnation else older

    # -- changes -----------------------------------------------------------------------------------------------------

    def add(self, record: Alive, now: float) -> Member:
        """A node that was not known is alive."""
        assert record.node not in self.table, f"known already: {self.table[record.node]!r}"
        member = Member(record.node, record, record.incarnation, State.ALIVE, now, record.version, record.load)
        member.incompatible = self.me.record is not None and record.python != self.me.record.python
        self._file(member)
        self._place[record.node] = len(self._living)
        self._living.append(record.node)
        self._toggle(member)
        return member

    def renew(self, member: Member, record: Alive, now: float) -> None:
        """A living member (or this peer) describes itself with a greater incarnation."""
        assert member.lives, f"the dead stay dead: {member!r}"
        assert record.incarnation > member.incarnation, f"{record!r} does not renew {member!r}"
        self._toggle(member)
        member.record, member.incarnation = record, record.incarnation
        self._toggle(member)
        if member.state != State.ALIVE:
            member.state, member.since = State.ALIVE, now

    def suspect(self, member: Member, incarnation: int, now: float) -> None:
        """It is suspected, of its newest incarnation."""
        assert member.lives, f"the dead are no suspects: {member!r}"
        assert incarnation >= member.incarnation, f"{member!r} is no suspect of {incarnation}"
        self._toggle(member)
        member.incarnation = incarnation
        self._toggle(member)
        if member.state != State.SUSPECT:
            member.state, member.since = State.SUSPECT, now

    def bury(self, node: bytes, reason: str, now: float) -> Member:
        """It is dead, known or not."""
        member = self.table.get(node)
        if member is None:
            member = Member(node, None, 0, State.DEAD, now)
            self._file(member)
        else:
            assert member.lives, f"dead already: {member!r}"
            assert member is not self.me, f"this peer lives: {member!r}"
            self._toggle(member)
            index, last = self._place.pop(node), self._living.pop()
            if last != node:
                self._living[index], self._place[last] = last, index
        member.state, member.since, member.reason = (State.LEFT if reason == LEFT else State.DEAD), now, reason
        member.load = b""
        self._tombs[node] = None
        if len(self._tombs) > self._remembered_max:
            forgotten = next(iter(self._tombs))
            del self._tombs[forgotten], self.table[forgotten]
            del self.buckets[bucket_of(forgotten)][forgotten]
        return member

    def _file(self, member: Member) -> None:
        self.table[member.node] = self.buckets[bucket_of(member.node)][member.node] = member

    def _toggle(self, member: Member) -> None:
        """Put a living member into its bucket's digest, or take it out: the exclusive or of a number per member, made
        of its (random) id and its incarnation."""
        number = int.from_bytes(member.node, "big") * (2 * member.incarnation + 0x9E3779B97F4A7C15)
        self.digests[bucket_of(member.node)] ^= (number ^ number >> 64) & 0xFFFFFFFFFFFFFFFF
