"""Who is in the mesh? The one face of membership to the shell: SWIM with Lifeguard.

Theory. Each peer probes another one each second (`probing`). Who does not answer, not to helpers either, is suspected;
it hears of that and refutes it, or is declared dead when its time is over (`suspicion`). What changes is told on by
rumour, riding on probes and in rounds of gossip (`gossip`), and tables are compared now and then (`syncing`), so that
everybody knows the same in O(log n) rounds while the traffic of one peer does not grow with the mesh. `roster` applies
the news, `members` is the table, `health` makes a peer that is slow itself accuse less, `own_time` one that was away
nobody at all, `contacts` finds the mesh, and finds it again.

    A. Das, I. Gupta, A. Motivala: SWIM: Scalable Weakly-consistent Infection-style Process Group Membership (2002)
    A. Dadgar, J. Phillips, J. Currey: Lifeguard: Local Health Awareness for More Accurate Failure Detection (2018)

**A death is for ever**, here unlike in the papers: what the dead one owned is given up everywhere, so it may not come
back as the same. A node that was declared dead and lives (it was stopped, cut off, suspended) is told so by whomever
it speaks to (`Expelled`); it gives up its work (`DeclaredDead`) and joins as another node. Nobody hears news from a
node that it holds for dead, so the tables of two sides do not mix.

**Two halves** of a long partition hold each other for dead. When they meet, it would be enough if all came back as
new; but only those of one side must. Each tells the other how many members it holds for alive; the one with fewer
gives in, with equal numbers the one that has not the smallest id. The order is total, and who gives in joins the other
side, so its number only grows: in the end there is one mesh. Only nodes that hold *each other* for dead compare. Else
who is told that it is dead believes it: a laptop that slept still holds everybody for alive.

The shell: calls `on_message` for what is addressed to this node, `tick` not later than `next_tick` (a clock that goes
on in suspend), the other events as they happen; and after each of them performs `take_effects()`. Nothing happens
after `over`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meshray.config import Config
from meshray.core.contacts import Contacts
from meshray.core.effects import Core
from meshray.core.member_effects import DeclaredDead, MemberView
from meshray.core.members import Member, State
from meshray.core.own_time import OwnTime
from meshray.core.probing import Kind, Probe, Probing, Relay
from meshray.core.roster import Roster
from meshray.core.speaking import Speaker
from meshray.core.syncing import differing, lacking, reply
from meshray.wire.gossip import (
    LOAD_MAX_BYTES,
    Ack,
    Alive,
    Dead,
    Expelled,
    Gossip,
    GossipMessage,
    Join,
    Load,
    Nack,
    News,
    Ping,
    PingRequest,
    Sync,
    SyncReply,
)

if TYPE_CHECKING:
    from random import Random

FAREWELLS = 8
"""So many members are told goodbye; each tells it on."""


class Membership(Core):
    """See the head of this file."""

    def __init__(self, config: Config, me: Alive, random: Random, now: float) -> None:
        super().__init__()
        self.node = me.node
        self.over = False  # left, or declared dead
        self._config = config
        self._random = random
        self._own = OwnTime(now, config.away_slack_s)
        self._roster = Roster(config, me, self._effects, now)
        self._members = self._roster.members
        self._rumours = self._roster.rumours
        self._suspicions = self._roster.suspicions
        self._health = self._roster.health
        self._probing = Probing(config, self._members, self._health, random, now)
        self._speaker = Speaker(config, self._roster, random)
        self._contacts = Contacts(config, self._members, random, now)
        self._joining = False  # the first table has not come whole
        self._returning_until = -math.inf  # back from being away, nobody has answered yet: accuse nobody
        self._gossip_at = now  # when the next round may be; it takes place if there are rumours
        self._sync_pause_s = config.join_retry_s  # doubles up to the interval, as long as nothing differs
        self._sync_at = now + config.sync_interval_s * random.random()
        self._load_at = math.inf  # when the load is told; infinity if it was
        self._load_not_before = now
        self._own.next_at = now
        self._handlers: dict[type, Callable[[Member, Any], None]] = {
            Ping: self._on_ping,
            Ack: self._on_ack,
            PingRequest: self._on_ping_request,
            Nack: self._on_nack,
            Gossip: self._on_gossip,
            Sync: self._on_sync,
            SyncReply: self._on_sync_reply,
            Join: self._on_join,
        }

    # -- what the shell sees -----------------------------------------------------------------------------------------

    def next_tick(self) -> float:
        """When `tick` is due, on the shell's clock; infinity when this is over."""
        return math.inf if self.over else self._own.to_shell(self._own.next_at)

    def member(self, node: bytes) -> MemberView | None:
        """One member, dead ones included as long as they are remembered."""
        member = self._members.table.get(node)
        return self._view(member) if member is not None else None

    def view(self) -> list[MemberView]:
        """For `meshray status`: this peer first, then the living, then the dead."""
        members = [self._members.me, *self._members.living(), *reversed(self._members.dead())]
        return [self._view(member) for member in members]

    def last_peers(self) -> tuple[str, ...]:
        """Addresses to join through at the next start."""
        return self._contacts.last_peers()

    @property
    def stale(self) -> int:
        """Pieces of news that were known, or too late."""
        return self._roster.stale

    @property
    def beyond(self) -> int:
        """Pieces of news of members for which there was no room."""
        return self._roster.beyond

    @property
    def health(self) -> int:
        """0: well; more: this peer is slow itself, and accuses less."""
        return self._health.score

    def _view(self, member: Member) -> MemberView:
        return member.view(self._own.time, is_self=member is self._members.me)

    # -- events of the own peer --------------------------------------------------------------------------------------

    def join(self, seeds: tuple[str, ...], now: float) -> None:
        """Join through one of these addresses. Later ones (found by discovery) may be added at any time; a mesh that is
        found there becomes one with this one."""
        self._advance(now)
        if not self.over:
            self._joining = self._members.count == 1
            self._contacts.add_seeds(seeds, self._own.time)
        self._settle()

    def leave(self, now: float) -> None:
        """Goodbye. The effects are the last ones."""
        self._advance(now)
        if not self.over:
            goodbye = Gossip([self._roster.farewell()])
            for member in self._members.sample(FAREWELLS, self._random):
                self._speaker.send(member, goodbye)
            self.over = True

    def set_load(self, load: bytes, now: float) -> None:
        """What the others may know of this peer's load and resources; the latest counts, and they hear of it soon.

        Raises `ValueError` when it is larger than `LOAD_MAX_BYTES`.
        """
        if len(load) > LOAD_MAX_BYTES:
            raise ValueError(f"a load of {len(load)} bytes; {LOAD_MAX_BYTES} is the most")
        self._advance(now)
        me = self._members.me
        if load != me.load and not self.over:
            me.load, me.version = load, me.version + 1
            self._load_at = max(self._own.time, self._load_not_before)
        self._settle()

    def set_addresses(self, addresses: tuple[str, ...], now: float) -> None:
        """This peer listens elsewhere now."""
        self._advance(now)
        if not self.over and addresses != self._members.me.addresses:
            self._roster.describe(addresses, self._own.time)
            if self._roster.doomed:
                self._end(self.node, ())
        self._settle()

    # -- events of links ---------------------------------------------------------------------------------------------

    def on_reachable(self, node: bytes, now: float) -> None:
        """A link to it is there again. A suspect gets a chance at once; one that is held for dead hears of it."""
        self._advance(now)
        member = self._members.table.get(node)
        if member is not None and not self.over:
            if member.state == State.DEAD and member.addresses:
                self._speaker.contact(member.addresses[0])
            elif member.lives and (member.state == State.SUSPECT or not member.reachable):
                self._probe_at_once(member)
        self._settle()

    def on_unreachable(self, node: bytes, now: float) -> None:
        """A link to it broke, and not because it was idle: it is doubted, and probed at once, with helpers. It is
        suspected when that fails, in a time-out and not in an interval; not before, or a link that flaps would keep
        the whole mesh talking."""
        self._advance(now)
        member = self._members.get_living(node)
        if member is not None and member is not self._members.me and not self.over:
            self._roster.reachable(member, False)
            self._probe_at_once(member)
        self._settle()

    def on_gone(self, node: bytes, now: float) -> None:
        """The shell *knows* that this node's process has ended: another node answers at its address, or its pidfd
        says so."""
        self._advance(now)
        member = self._members.get_living(node)
        if member is not None and member is not self._members.me and not self.over:
            self._roster.declare_dead(member, "its process has ended", self._own.time)
        self._settle()

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """What is due is done. A tick too many changes nothing."""
        self._advance(now)
        if self.over:
            return
        time = self._own.time
        self._tick_probes(time)
        for suspicion in self._suspicions.take_over(time, self._members.count):
            suspect = self._members.get_living(suspicion.node)
            if suspect is not None:
                suspicion.last_seq = self._ping(suspect, Kind.LAST).seq
        if time >= self._probing.next_round_at:
            target = self._probing.next_target(time)
            if target is not None:
                self._ping(target, Kind.ROUND)
        if time >= self._load_at:
            self._tell_load(time)
        if time >= self._gossip_at and self._rumours:
            self._gossip_at = time + self._config.gossip_interval_s
            self._speaker.gossip()
        if time >= self._sync_at:
            self._sync()
        if time >= self._contacts.next_at:
            address = self._contacts.next(time)
            if address is not None:
                self._speaker.contact(address)
        self._settle()

    def _advance(self, now: float) -> None:
        away_s = self._own.advance(now)
        if away_s > self._config.away_after_s:
            self._health.on_trouble()
            self._probing.abandon(self._own.time)
            self._suspicions.begin_again(self._own.time)
            self._returning_until = self._own.time + self._config.away_grace_s

    def _settle(self) -> None:
        """After each event: what the roster found, and when to look again."""
        roster, probing = self._roster, self._probing
        if roster.joined:
            for node in roster.joined:
                probing.on_joined(node)
            roster.joined.clear()
        if roster.died:
            for node in roster.died:
                probing.forget(node)
            roster.died.clear()
        self._own.next_at = min(
            probing.next_round_at,
            probing.due_at,
            self._suspicions.next_at(self._members.count),
            self._gossip_at if self._rumours else math.inf,
            self._load_at,
            self._sync_at,
            self._contacts.next_at,
        )

    def _tick_probes(self, time: float) -> None:
        to_ask, failed, nacks = self._probing.due(time)
        for probe in to_ask:
            self._ask_helpers(probe, time)
        for probe in failed:
            self._on_failed(probe, time)
        for relay in nacks:
            asker = self._members.get_living(relay.asker)
            if asker is not None:
                self._speaker.send(asker, Nack(relay.asker_seq, self._speaker.news_for(asker)))

    def _on_failed(self, probe: Probe, time: float) -> None:
        if probe.kind is Kind.ROUND:
            self._health.on_trouble(len(probe.silent) if probe.helpers else 1)
        member = self._members.get_living(probe.target)
        if member is None:
            return
        suspicion = self._suspicions.get(member.node)
        last = suspicion is not None and suspicion.last_probe and suspicion.last_seq == probe.seq
        if self._returning(time):
            if last:
                self._suspicions.answered(member.node, time)
        elif last:
            self._roster.declare_dead(member, "no answer", time)
        else:
            self._roster.accuse(member, time)

    def _returning(self, time: float) -> bool:
        return time < self._returning_until

    def _tell_load(self, time: float) -> None:
        me = self._members.me
        self._rumours.tell_load(Load(me.node, me.version, me.load))
        pause_s = max(self._config.load_interval_s, self._members.count / self._config.load_rate)
        self._load_at, self._load_not_before = math.inf, time + pause_s * (0.75 + self._random.random() / 2)

    # -- speaking ----------------------------------------------------------------------------------------------------

    def _ping(self, member: Member, kind: Kind) -> Probe:
        probe = self._probing.begin(member, kind, self._own.time)
        self._speaker.send(member, Ping(probe.seq, member.version, self._speaker.news_for(member)))
        if kind is not Kind.ROUND:
            self._tick_probes(self._own.time)  # its helpers are asked at once
        return probe

    def _probe_at_once(self, member: Member) -> None:
        if not self._probing.is_probed(member.node, Kind.URGENT, Kind.LAST):
            self._ping(member, Kind.URGENT)

    def _ask_helpers(self, probe: Probe, time: float) -> None:
        target = self._members.get_living(probe.target)
        if target is not None:
            within_ms = max(0, round((probe.until - time) * 1000))
            for helper in self._probing.asked(probe):
                news = self._speaker.news_for(helper, about=target)
                self._speaker.send(helper, PingRequest(probe.seq, probe.target, within_ms, news))

    def _sync(self) -> None:
        self._sync_at = self._own.time + self._sync_pause_s * (0.75 + self._random.random() / 2)
        self._sync_pause_s = min(2 * self._sync_pause_s, self._config.sync_interval_s)
        self._speaker.sync()

    # -- hearing -----------------------------------------------------------------------------------------------------

    def on_message(self, source: bytes, message: GossipMessage, now: float) -> None:
        """A message from node `source`, addressed to this one. Whatever it says, nothing is raised."""
        self._advance(now)
        if self.over or source == self.node:
            return
        if type(message) is Expelled:
            self._on_expelled(source, message)
        else:
            sender = self._members.table.get(source) or self._introduced(source, message)
            if sender is None or not sender.lives:
                if sender is not None or not self._roster.full:  # one for whom there is no room is not dead
                    self._speaker.expel(source, sender)
            else:
                if not sender.reachable:
                    self._roster.reachable(sender, True)
                self._handlers[type(message)](sender, message)
        self._settle()

    def _introduced(self, source: bytes, message: Any) -> Member | None:
        """A stranger that says who it is, first of all, becomes a member."""
        news: list[News] = [message.me] if type(message) is Join else message.news
        for piece in news[:1]:
            if type(piece) is Alive and piece.node == source:
                self._roster.hear([piece], self._own.time)
        return self._members.table.get(source)

    def _hear(self, sender: Member, news: list[News], tell: bool = True) -> Alive | None:
        """The news of a message. A refutation, if they made one necessary."""
        sender.heard = True
        before = self._members.me.incarnation
        self._roster.hear(news, self._own.time, tell=tell)
        if self._roster.doomed:
            self._end(sender.node, sender.addresses)
        return self._roster.me() if self._members.me.incarnation > before else None

    def _on_ping(self, sender: Member, message: Ping) -> None:
        refutation = self._hear(sender, message.news)
        if not self.over:
            me = self._members.me
            load = Load(me.node, me.version, me.load) if me.version > message.known else None
            self._speaker.send(sender, Ack(message.seq, load, self._speaker.news_for(sender, refutation)))

    def _on_ack(self, sender: Member, message: Ack) -> None:
        self._hear(sender, message.news)
        if self.over:
            return
        if message.load is not None:
            self._roster.on_load(message.load, tell=False)
        ended = self._probing.on_ack(message.seq, sender.node, self._own.time)
        if isinstance(ended, Probe):
            self._returning_until = -math.inf
            self._suspicions.answered(ended.target, self._own.time)
            if sender.node == ended.target:
                self._speaker.on_answer(sender.node)
        elif isinstance(ended, Relay):
            asker = self._members.get_living(ended.asker)
            if asker is not None:
                first = sender.current() if sender.state == State.ALIVE else None
                self._speaker.send(asker, Ack(ended.asker_seq, None, self._speaker.news_for(asker, first)))

    def _on_ping_request(self, sender: Member, message: PingRequest) -> None:
        self._hear(sender, message.news)
        if self.over:
            return
        target = self._members.table.get(message.target)
        if target is not None and target.lives and target is not self._members.me:
            within_s = message.within_ms / 1000
            seq = self._probing.begin_relay(sender.node, message.seq, target.node, within_s, self._own.time)
            if seq is not None:
                self._speaker.send(target, Ping(seq, target.version, self._speaker.news_for(target)))
            return
        news = self._speaker.news_for(sender)
        if target is not None and not target.lives:
            news = [*news, Dead(target.node, self.node, target.reason)]
        self._speaker.send(sender, Nack(message.seq, news))

    def _on_nack(self, sender: Member, message: Nack) -> None:
        self._hear(sender, message.news)
        self._probing.on_nack(message.seq, sender.node)

    def _on_gossip(self, sender: Member, message: Gossip) -> None:
        self._hear(sender, message.news)

    def _on_sync(self, sender: Member, message: Sync) -> None:
        self._hear(sender, message.news)
        if not self.over:
            buckets = differing(self._members, message.digests)
            if buckets:
                most = self._config.sync_max_news
                self._speaker.send(sender, reply(self._members, self._suspicions, buckets, most, me_first=False))

    def _on_join(self, sender: Member, message: Join) -> None:
        if message.me.node != sender.node:
            return
        self._roster.hear([message.me], self._own.time)
        buckets = differing(self._members, message.digests)
        most = self._config.sync_max_news
        self._speaker.send(sender, reply(self._members, self._suspicions, buckets, most, me_first=True))

    def _on_sync_reply(self, sender: Member, message: SyncReply) -> None:
        self._hear(sender, message.news, tell=not self._joining)
        if self.over:
            return
        news = lacking(self._members, self._suspicions, message)
        most = self._config.sync_max_news
        for start in range(0, len(news), most):
            self._speaker.send(sender, Gossip(news[start : start + most]))
        self._sync_pause_s = self._config.join_retry_s
        if message.more:
            self._sync()
        else:
            self._joining = False
            self._sync_at = min(self._sync_at, self._own.time + self._sync_pause_s)

    # -- the dead ----------------------------------------------------------------------------------------------------

    def _on_expelled(self, source: bytes, message: Expelled) -> None:
        if message.node != self.node:
            return
        sender = self._members.table.get(source)
        if sender is not None and not sender.lives:
            living, smallest = self._members.rank()
            if (living, message.smallest) > (message.living, smallest):  # more, or as many and the smaller id
                self._speaker.expel(source, sender)
                return
        self._end(source, sender.addresses if sender is not None else ())

    def _end(self, by: bytes, addresses: tuple[str, ...]) -> None:
        """This node was declared dead."""
        self.over = True
        self._effects.append(DeclaredDead(by, addresses))
