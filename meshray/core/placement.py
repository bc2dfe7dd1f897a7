"""On which hosts could this class run, and which of them should its submitter ask?

Theory. Only a peer grants its own slots, so what one knows of the others is a hint: loads are told by gossip, twice a
second at best. A peer that cannot give a submitter all it asks for names others (`AskAlso`); it does not ask for it.
A hint that was wrong costs a message: the peer asked lets the demand queue, and may name another one in its turn.

For a class that waits, each member has a *rank*: it could never run it (0), it will do (1), it is preferred (2: labels
that were wished for; most bytes of large arguments). Then, in this order:

1. *Locality.* Where most bytes of its large arguments lie is preferred for as long as fetching them would take.
2. *Room.* Preferred hosts with free slots, then others: this one first, then again and again the less loaded of two
   random ones, until all that waits has a place. What was promised is taken off the hint (`debit`) until the host
   tells its load the next time: else a burst would all go to one. It may have nothing to tell, when what was promised
   was not wanted after all, or came and went: so a promise is forgotten after `promise_s`.
3. *Queues.* Nobody has room: one more of them each `ask_again_s`, so its turn comes somewhere, and its job has its
   share on every host.

With SPREAD all hosts that can run it have their turn, this one as well.

A *guest* (the private peer of `init("host:port")`) lends nothing, and leaves with its program: it runs what that
program itself sends there by its node id, and nothing else, though it asks for nothing. Nor does it keep anything for
others.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from meshray.config import Config
from meshray.core.demands import Wanted
from meshray.core.gone import by_id, remember
from meshray.core.slots import Slots
from meshray.ids import node_of, peer_of
from meshray.resources import Amounts, describe, fits
from meshray.strategy import Strategy

if TYPE_CHECKING:
    from random import Random

ROOM_MAX = 1024
"""The most leases that anybody asks for at once."""

GONE_MAX = 256
"""So many hosts that are gone are remembered."""

NAMED_MAX = 5
"""So many hosts are named to people; of more, the number."""

NEVER, WILL_DO, PREFERRED = 0, 1, 2


class Here(NamedTuple):
    """What a peer is to others."""

    node: bytes = b""  # its home node; b"" for one that never has others
    labels: Mapping[str, str] = {}
    random: Random | None = None  # decides between equals; needed once there are others
    name: str = ""  # for people
    guest: bool = False  # it lends nothing


NOWHERE = Here()


class Member:
    """Another host, as this one sees it."""

    __slots__ = ("address", "compatible", "debit", "guest", "labels", "name", "node", "queued", "total", "used")

    def __init__(
        self,
        node: bytes,
        name: str,
        total: Amounts,
        used: Amounts,
        labels: Mapping[str, str],
        *,
        compatible: bool = True,
        address: str = "",
        guest: bool = False,
    ) -> None:
        self.node = node  # its home node
        self.name = name
        self.total: dict[str, int] = dict(total)
        self.used: dict[str, int] = dict(used)  # as it has told last
        self.labels: dict[str, str] = dict(labels)
        self.compatible = compatible  # it runs our version of Python: code may go there
        self.address = address  # for people
        self.guest = guest  # it runs what its own program sends there, and nothing else
        self.debit: dict[str, int] = {}  # what submitters were sent there for since
        self.queued = 0  # how many were sent there to queue since

    def is_like(self, other: Member) -> bool:
        """Whether the same classes can run there."""
        mine = (self.total, self.labels, self.compatible, self.guest)
        return mine == (other.total, other.labels, other.compatible, other.guest)

    def takes_of(self, job: bytes, node: bytes) -> bool:
        """Whether it runs anything of a job; `node`: the one that was asked for, b"" for none."""
        return not self.guest or (node == self.node and job.startswith(self.node))

    def room(self, request: Amounts) -> int:
        """How many such leases seem to be free."""
        room = ROOM_MAX
        total, used, debit = self.total, self.used, self.debit
        for name, amount in request.items():
            room = min(room, (total.get(name, 0) - used.get(name, 0) - debit.get(name, 0)) // amount)
        return max(0, room)

    def capacity(self, request: Amounts) -> int:
        """How many such leases it has in all."""
        return min((self.total.get(name, 0) // amount for name, amount in request.items()), default=ROOM_MAX)

    def load(self, request: Amounts) -> float:
        """How full it is: what is used, promised and queued of what it has."""
        parts = [
            (self.used.get(name, 0) + self.debit.get(name, 0)) / max(1, self.total.get(name, 0)) for name in request
        ]
        return max(parts, default=0.0) + self.queued / max(1, self.capacity(request))

    def promise(self, request: Amounts, count: int) -> None:
        """Submitters are sent there for so many."""
        for name, amount in request.items():
            self.debit[name] = self.debit.get(name, 0) + amount * count

    def forget_promises(self) -> None:
        """What it has told last is all that is known."""
        self.debit, self.queued = {}, 0

    def __repr__(self) -> str:
        return f"Member({self.name}, {describe(self.used)} of {describe(self.total)} used)"


@dataclass(frozen=True, slots=True)
class Ask:
    """A submitter should ask this node for so many leases more."""

    node: bytes
    count: int


class Placement:
    """The members that this peer sees, and what it makes of them."""

    def __init__(self, here: Here, slots: Slots, config: Config) -> None:
        self.node, self.name = here.node, here.name
        self.members: dict[bytes, Member] = {}  # by home node; this host is not among them
        self.gone: dict[bytes, tuple[Member, str]] = {}  # those that are members no more, and why: for people
        self.out_of_reach: dict[bytes, Member] = {}  # of those, the ones that live on, for others
        self.leaving: set[bytes] = set()  # nodes that are being stopped, this one maybe: nothing new goes there
        self.version = 0  # grows with them, and when loads that were told are to be looked at
        self._here = Member(here.node, "this host", slots.total, {}, here.labels, guest=here.guest)
        self._slots = slots
        self._config = config
        self._random = here.random
        self._turn = 0  # of SPREAD, over all classes
        self._served: dict[bytes, int] = {}  # node -> its last turn with an actor
        self._promised: dict[bytes, float] = {}  # node -> when what was promised of it is forgotten; in that order

    # -- events ------------------------------------------------------------------------------------------------------

    def on_member(self, member: Member) -> bool:
        """It is there, or tells its load. What was promised on its behalf shows in it from now on, or never will.
        Whether there is more to it than a load: other classes may run there than before."""
        assert member.node != self.node, f"{member} is this host"
        before = self.members.get(member.node)
        self.members[member.node] = member
        self.gone.pop(member.node, None)
        self.out_of_reach.pop(member.node, None)
        if before is not None and before.is_like(member):
            return False
        self.version += 1
        return True

    def on_leaves(self, node: bytes) -> None:
        """That host, or this one, is being stopped. It is so until it is gone."""
        if node not in self.leaving and (node == self.node or node in self.members):
            self.leaving.add(node)
            self.version += 1

    def on_load(self, node: bytes, used: Amounts) -> None:
        """What is in use there now, told directly."""
        member = self.members.get(node)
        if member is not None:
            member.used = dict(used)
            member.forget_promises()

    def look_anew(self) -> None:
        """Loads were told: `asks` looks at them, for each class."""
        self.version += 1

    def forget_promises(self, now: float) -> None:
        """Those that are old. To be called before anybody is asked for."""
        while self._promised:
            node, until = next(iter(self._promised.items()))
            if now < until:
                return
            del self._promised[node]
            self.members[node].forget_promises()
            self.version += 1

    def on_gone(self, node: bytes, reason: str, out_of_reach: bool = False) -> None:
        """It is dead, or left. `out_of_reach`: it is neither, but there is no way to it from here."""
        self._promised.pop(node, None)
        self._served.pop(node, None)
        self.leaving.discard(node)
        member = self.members.pop(node, None) or self.out_of_reach.pop(node, None)
        if member is not None:
            remember(self.gone, node, (member, reason), GONE_MAX)
            if out_of_reach:
                self.out_of_reach[node] = member
            self.version += 1

    # -- this host ---------------------------------------------------------------------------------------------------

    def why_not_here(self, strategy: Strategy, job: bytes, sent: bool = False) -> str:
        """Why this host may never run it, whatever it has; "" when it may. Does not change while the host is up.
        `sent`: another host has chosen this one, by a strategy that it does not tell."""
        if strategy.node and not strategy.soft and strategy.node != self.node:
            return f"it asks for the node {strategy.node.hex()}"
        if not strategy.admits(self._here.labels):
            return f"it asks for the labels {strategy}"
        if not self._here.takes_of(job, self.node if sent else strategy.node):
            return "this host is a guest in its mesh, which runs only what its own program sends there by its node id"
        return ""

    def may_grant(self, wanted: Wanted, now: float) -> bool:
        """Whether slots of this host are for `wanted` now, if there are any: nobody else is to be preferred."""
        strategy = wanted.strategy
        if wanted.hops or not self.members or not (strategy.spread or strategy.node or strategy.wished or wanted.near):
            return True
        if strategy.spread:
            self._deal(wanted, now)
            return bool(wanted.turns)
        rank = self._rank(self._here, wanted)
        if rank != WILL_DO:
            return rank == PREFERRED
        if now < self._held_until(wanted):
            return False
        asked_after = now - self._config.ask_again_s
        return not any(
            (member.room(wanted.request) or wanted.asked.get(member.node, 0.0) > asked_after)
            and self._rank(member, wanted) == PREFERRED
            for member in self.members.values()
        )

    def on_granted(self, wanted: Wanted) -> None:
        """A slot of this host was granted to it."""
        if wanted.turns:
            wanted.turns -= 1

    # -- which others ------------------------------------------------------------------------------------------------

    def asks(self, wanted: Wanted, now: float) -> list[Ask]:
        """Whom the submitter of a class that waits should ask as well, now. Notes that it was told so."""
        due = now >= self.next_look(wanted)
        if (
            wanted.looked == self.version and not due and not wanted.shares
        ):  # (`may_grant` may have dealt them just now)
            return []
        wanted.looked = self.version
        left = min(wanted.count - len(wanted.grants), ROOM_MAX)
        if left <= 0 or wanted.hops >= self._config.hops_max:
            return []
        if wanted.strategy.spread and not wanted.hops:
            return self._spread_asks(wanted, now)
        held = now < self._held_until(wanted)
        ranks = self._ranked(wanted)
        wanted.ask_at = now + self._config.ask_again_s if due else wanted.ask_at
        if held:
            wanted.ask_at = min(wanted.ask_at, self._held_until(wanted))
            if self._rank(self._here, wanted) == PREFERRED:
                return []  # its arguments are here
            ranks.pop(WILL_DO, None)  # they are there
        asks: list[Ask] = []
        for rank in (PREFERRED, WILL_DO):
            asks += self._with_room(wanted, ranks.get(rank, ()), left - sum(ask.count for ask in asks), now)
        left -= sum(ask.count for ask in asks)
        if due and left > 0 and not wanted.hops:
            asks += self._to_queue(wanted, ranks.get(PREFERRED) or ranks.get(WILL_DO) or (), left, now)
        return asks

    def next_look(self, wanted: Wanted) -> float:
        """When `asks` or `may_grant` may say more, if nothing happens before."""
        if wanted.hops:
            return math.inf
        if wanted.strategy.spread:
            return wanted.dealt_at + self._config.spread_wait_s
        return wanted.ask_at

    def _ranked(self, wanted: Wanted) -> dict[int, list[Member]]:
        """Those that could run it, but for the submitter's own host, which has sent it here."""
        ranks: dict[int, list[Member]] = {}
        for member in self.members.values():
            rank = self._rank(member, wanted)
            if rank and not (wanted.hops and wanted.submitter.startswith(member.node)):
                ranks.setdefault(rank, []).append(member)
        return ranks

    def _with_room(self, wanted: Wanted, tier: Sequence[Member], left: int, now: float) -> list[Ask]:
        """Of those with room, again and again the less loaded of two random ones. Nobody twice in a short time: one
        that has room for others only (it keeps it for a large request, say) would be asked for ever."""
        request, asked_before = wanted.request, now - self._config.ask_again_s
        free = [m for m in tier if m.room(request) and wanted.asked.get(m.node, asked_before) <= asked_before]
        asks: list[Ask] = []
        while free and left > 0:
            best = self._better_of_two(free, request)
            free.remove(best)
            count = min(left, best.room(request))
            self._promise(best, request, count, now)
            wanted.asked[best.node] = now
            asks.append(Ask(best.node, count))
            left -= count
        return asks

    def _to_queue(self, wanted: Wanted, tier: Sequence[Member], left: int, now: float) -> list[Ask]:
        """One more where all are busy; or one of those that were asked long ago, again."""
        renew_before = now - self._config.ask_renew_s
        new = [member for member in tier if member.node not in wanted.asked]
        if len(wanted.asked) >= self._config.ask_busy_max:
            new = []
        candidates = new or [member for member in tier if wanted.asked.get(member.node, now) <= renew_before]
        if not candidates:
            return []
        best = self._better_of_two(candidates, wanted.request)
        best.queued += 1
        self._promise(best, {}, 0, now)
        wanted.asked[best.node] = now
        return [Ask(best.node, min(left, best.capacity(wanted.request)))]

    def _promise(self, member: Member, request: Amounts, count: int, now: float) -> None:
        member.promise(request, count)
        self._promised.pop(member.node, None)
        self._promised[member.node] = now + self._config.promise_s

    def _better_of_two(self, members: list[Member], request: Amounts) -> Member:
        assert self._random is not None, "a peer without a home has met others"
        two = self._random.sample(members, min(2, len(members)))  # in random order: equal ones take turns
        return min(two, key=lambda member: member.load(request))

    # -- ranks -------------------------------------------------------------------------------------------------------

    def _rank(self, member: Member, wanted: Wanted) -> int:
        strategy = wanted.strategy
        if not self._could(member, wanted):
            return NEVER
        if strategy.node and strategy.node != member.node and (not strategy.soft or self._target_could(wanted)):
            return NEVER
        if strategy.wished and not strategy.prefers(member.labels):
            return WILL_DO
        nearest = self._nearest(wanted)[0] if wanted.near else b""
        return PREFERRED if nearest in (b"", member.node) else WILL_DO

    def _could(self, member: Member, wanted: Wanted) -> bool:
        if not member.compatible or member.node in self.leaving:
            return False
        if not member.takes_of(wanted.job, wanted.strategy.node):
            return False
        if wanted.strategy.hard and not wanted.strategy.admits(member.labels):
            return False
        return fits(wanted.request, member.total)

    def _target_could(self, wanted: Wanted) -> bool:
        """Whether the node that its strategy names is there, and has what it asks for."""
        node = wanted.strategy.node
        member = self._here if node == self.node else self.members.get(node)
        return member is not None and self._could(member, wanted)

    def _nearest(self, wanted: Wanted) -> tuple[bytes, int]:
        """Where most bytes of its large arguments lie, of those that could run it, and how many more than anywhere
        else; (b"", 0) when it makes no difference."""
        if not wanted.near:
            return b"", 0
        there = [
            (count, node)
            for node, count in wanted.near.items()
            if (member := self._here if node == self.node else self.members.get(node)) and self._could(member, wanted)
        ]
        there.sort(reverse=True)
        if not there:
            return b"", 0
        gain = there[0][0] - (there[1][0] if len(there) > 1 else 0)
        return (there[0][1], gain) if gain >= self._config.locality_min_bytes else (b"", 0)

    def _held_until(self, wanted: Wanted) -> float:
        """Until when it is for its nearest host alone: no longer than it would take to fetch what lies there."""
        gain = self._nearest(wanted)[1]
        return wanted.since + min(gain / self._config.locality_bytes_per_s, self._config.locality_wait_max_s)

    # -- SPREAD ------------------------------------------------------------------------------------------------------

    def _deal(self, wanted: Wanted, now: float) -> None:
        """Deal out in turn what waits, to all that could run it. Again when some of them have not taken their turns in
        time: then to those that have room, if there are any."""
        again = wanted.turns is not None
        if again and now < wanted.dealt_at + self._config.spread_wait_s:
            return
        request = wanted.request
        could = [member for members in self._ranked(wanted).values() for member in members]
        here = not wanted.never and self.node not in self.leaving
        free = [member for member in could if member.room(request)]
        here_free = here and self._slots.fits(request)
        if again and (free or here_free):
            could, here = free, here_free
        nodes = sorted([member.node for member in could] + ([self.node] if here else []))
        count = min(wanted.count - len(wanted.grants), ROOM_MAX)
        wanted.turns, wanted.dealt_at = 0, now
        if not nodes:
            return
        first = self._turn % len(nodes)
        self._turn += count
        each, more = divmod(count, len(nodes))
        wanted.shares = {node: each + (i < more) for i, node in enumerate(nodes[first:] + nodes[:first])}
        wanted.turns = wanted.shares.pop(self.node, 0)

    def _spread_asks(self, wanted: Wanted, now: float) -> list[Ask]:
        self._deal(wanted, now)
        shares, wanted.shares = wanted.shares, {}
        asks = [Ask(node, share) for node, share in shares.items() if share and node in self.members]
        for ask in asks:
            self._promise(self.members[ask.node], wanted.request, ask.count, now)
            wanted.asked[ask.node] = now
        return asks

    # -- actors ------------------------------------------------------------------------------------------------------

    def actor_host(self, wanted: Wanted, waits_at: bytes, avoided: Collection[bytes], now: float) -> bytes | None:
        """The node for an actor, which asks one host at a time: preferred ones with room, others with room, preferred
        ones, others; this one first among equals. None: nobody could have it. `waits_at`: it waits there already, and
        moves for room only; None: to none. Not on a host of `avoided`."""
        self.forget_promises(now)
        ranks = self._ranked(wanted)
        tiers = [[each for each in ranks.get(rank, ()) if each.node not in avoided] for rank in (PREFERRED, WILL_DO)]
        here = self._rank(self._here, wanted)
        request = wanted.request
        if wanted.strategy.spread and not waits_at:
            return self._next_in_turn([*tiers[0], *tiers[1]], here, wanted, now)
        for rank, tier in zip((PREFERRED, WILL_DO), tiers, strict=True):
            if here == rank and self._slots.fits(request) and waits_at != self.node:
                return self.node
            free = [member for member in tier if member.room(request) and member.node != waits_at]
            if free:
                return self._sent_to(self._better_of_two(free, request), request, now)
        if waits_at:
            return None
        for rank, tier in zip((PREFERRED, WILL_DO), tiers, strict=True):
            if here == rank:
                return self.node
            if tier:
                return self._sent_to(self._better_of_two(tier, request), request, now)
        return None

    def heir(self, actor_id: bytes, avoided: Collection[bytes]) -> bytes | None:
        """A node that could own an actor when this host is gone (wherever it lives then): the same for the same
        members, another one for another actor. Rather none of `avoided`: where it lives, and who has refused."""
        all_ = sorted(
            node
            for node, member in self.members.items()
            if member.compatible and not member.guest and node not in self.leaving
        )
        nodes = [node for node in all_ if node not in avoided] or all_
        return nodes[int.from_bytes(actor_id[-8:]) % len(nodes)] if nodes else None

    def keeper(self, tried: Collection[bytes]) -> bytes | None:
        """The peer of a member that may be asked to keep a value. Whether it has room is for it to say."""
        nodes = [
            node
            for node, member in self.members.items()
            if not member.guest and node not in self.leaving and peer_of(node) not in tried
        ]
        if not nodes:
            return None
        assert self._random is not None, "a peer without a home has met others"
        return peer_of(self._random.choice(sorted(nodes)))

    def is_strange(self, peer: bytes) -> bool:
        """Whether it is the peer of a member that runs another version of Python."""
        member = self.members.get(node_of(peer))
        return member is not None and not member.compatible

    def called(self, node: bytes) -> str:
        """A host, for people: by its name, too, where that is known."""
        gone = self.gone.get(node)
        member = self.members.get(node) or self.out_of_reach.get(node) or (gone and gone[0])
        name = self.name if node == self.node else member.name if member else ""
        return f"host {name} (node {node.hex()})" if name else by_id(node)

    def _next_in_turn(self, members: list[Member], here: int, wanted: Wanted, now: float) -> bytes | None:
        """SPREAD: of those with room, or all that could when nobody has any, the one whose last turn is longest ago.
        What it is promised is what it keeps: a place to start in is free again in a moment, and no load tells of it."""
        request = wanted.request
        free = sorted(member.node for member in members if member.room(request))
        if here and self._slots.fits(request):
            free.append(self.node)
        nodes = free or sorted(member.node for member in members) + [self.node] * bool(here)
        if not nodes:
            return None
        node = min(nodes, key=lambda node: self._served.get(node, -1))
        self._turn += 1
        self._served[node] = self._turn
        keeps = wanted.request if wanted.running_request is None else wanted.running_request
        return node if node == self.node else self._sent_to(self.members[node], keeps, now)

    def _sent_to(self, member: Member, request: Amounts, now: float) -> bytes:
        self._promise(member, request, 1, now)
        return member.node

    # -- what nobody can do ------------------------------------------------------------------------------------------

    def somebody_could(self, wanted: Wanted) -> bool:
        """Whether there is another member that could run it."""
        return any(self._rank(member, wanted) for member in self.members.values())

    def is_hopeless(self, wanted: Wanted) -> bool:
        """No member could run it, nor will one that joins: it asks for a node, and a node id is one life of one. One
        that is only out of reach may be in reach again."""
        strategy = wanted.strategy
        asks_in_vain = bool(strategy.node) and not strategy.soft and not self._target_could(wanted)
        return asks_in_vain and not self.waits_for_reach(wanted)

    def waits_for_reach(self, wanted: Wanted) -> bool:
        """Whether the node that it asks for could run it, and is only out of reach."""
        member = self.out_of_reach.get(wanted.strategy.node)
        return member is not None and not wanted.strategy.soft and self._could(member, wanted)

    def why_nobody(self, wanted: Wanted) -> str:
        """What it asks for, and what is there, for people. `wanted.never`, unless there are others."""
        if not self.members and not wanted.strategy.node:
            return wanted.never
        asked = describe(wanted.request)
        if str(wanted.strategy):
            asked += f" on {wanted.strategy}"
        if self.waits_for_reach(wanted):
            member = self.out_of_reach[wanted.strategy.node]
            why = self.gone.get(member.node, (member, ""))[1]
            return f"it asks for {asked}, and the host {member.name} cannot be reached from here{why and ': '}{why}"
        if self.is_hopeless(wanted) and wanted.strategy.node not in (self.node, *self.members):
            gone = self.gone.get(wanted.strategy.node)
            was = f"any more: it was {gone[0].name} ({gone[1]})" if gone else "(any more)"
            return f"it asks for {asked}, and there is no such node {was}"
        here = [] if self._here.guest else [self._here]
        members = sorted(self.members.values(), key=lambda member: member.name)
        hosts = [*here, *(member for member in members if not member.guest)]
        if wanted.strategy.node and not wanted.strategy.soft:
            hosts = [self.members.get(wanted.strategy.node, self._here)]
        told = [self._what_is_there(host, wanted) for host in hosts[:NAMED_MAX]]
        if len(hosts) > NAMED_MAX:
            best = {name: max(host.total.get(name, 0) for host in hosts) for name in wanted.request}
            told.append(f"and {len(hosts) - NAMED_MAX} more with at most {describe(best)}")
        return f"it asks for {asked}, there is {', '.join(told) or 'no host but guests, which lend nothing'}"

    def _what_is_there(self, host: Member, wanted: Wanted) -> str:
        there = describe({name: host.total.get(name, 0) for name in wanted.request})
        if not host.compatible:
            there += ", another Python,"
        labels = [f"{t.label}={host.labels[t.label]}" for t in wanted.strategy.hard if t.label in host.labels]
        if labels:
            there += f" ({', '.join(labels)})"
        there += f" on {host.name}"
        if host.node in self.leaving:
            there += ", which is being stopped"
        if not host.takes_of(wanted.job, wanted.strategy.node):
            there += ", a guest, which runs only what its own program sends there by its node id"
        return there
