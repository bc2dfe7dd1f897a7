"""What is said to whom? Puts messages together: which news ride on them, who gets the gossip.

Two rules hold for all that is said to a member. Who has never been heard may not know this peer, so it is introduced
first of all. And a suspect hears what is said of it, whatever else there is to tell (Lifeguard, "buddy system").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshray.config import Config
from meshray.core.member_effects import SendGossip
from meshray.core.members import Member, State
from meshray.core.roster import Roster
from meshray.wire.gossip import Alive, Expelled, Gossip, GossipMessage, Join, News, Suspect, Sync

if TYPE_CHECKING:
    from random import Random


class Speaker:
    """Appends to the roster's effects."""

    def __init__(self, config: Config, roster: Roster, random: Random) -> None:
        self._config = config
        self._roster = roster
        self._members = roster.members
        self._random = random
        self._recent: list[bytes] = []  # who answered a probe last, the latest at the end: they get the gossip

    def send(self, member: Member, message: GossipMessage) -> None:
        self._roster.effects.append(SendGossip(member.node, member.addresses, message))

    def news_for(self, member: Member, first: Alive | None = None, about: Member | None = None) -> list[News]:
        """What rides on a probe to this member: an introduction if it needs one, `first`, what is said of it or of the
        member that the probe is `about`, and some rumours."""
        news: list[News] = []
        if not member.heard:
            news.append(self._roster.me())
        if first is not None:
            news.append(first)
        suspicion = self._roster.suspicions.get((about or member).node)
        if suspicion is not None:
            news.append(Suspect(suspicion.node, suspicion.incarnation, tuple(sorted(suspicion.accusers))))
        if self._roster.rumours:
            news += self._roster.rumours.pick(self._config.probe_max_news, self._members.count)
        return news

    # -- rounds ------------------------------------------------------------------------------------------------------

    def gossip(self) -> None:
        """One round: the same rumours to some members."""
        receivers = self._receivers()
        if receivers:
            news = self._roster.rumours.pick(self._config.gossip_max_news, self._members.count, len(receivers))
            message = Gossip(news)
            for member in receivers:
                self.send(member, message if member.heard else Gossip([self._roster.me(), *news]))

    def on_answer(self, node: bytes) -> None:
        """It answered a probe: there is a link to it, and it was alive a moment ago."""
        if node in self._recent:
            self._recent.remove(node)
        self._recent.append(node)
        if len(self._recent) > self._config.gossip_recent:
            del self._recent[0]

    def _receivers(self) -> list[Member]:
        """Some of those that answered last; members at large while there are few of them."""
        fanout = self._config.gossip_fanout
        recent = [m for m in map(self._members.get_living, self._recent) if m is not None and m.state == State.ALIVE]
        if len(recent) <= fanout:
            return self._members.sample(fanout, self._random)
        return self._random.sample(recent, fanout)

    def sync(self) -> None:
        """Compare tables with somebody."""
        for member in self._members.sample(1, self._random):
            self.send(member, Sync(tuple(self._members.digests), self.news_for(member)))

    # -- to whom is no member ----------------------------------------------------------------------------------------

    def contact(self, address: str) -> None:
        """Whoever listens there: take me in."""
        join = Join(self._roster.me(), tuple(self._members.digests))
        self._roster.effects.append(SendGossip(b"", (address,), join))

    def expel(self, node: bytes, member: Member | None) -> None:
        """Tell a node that it is dead here, or unknown, which is the same."""
        addresses = member.addresses if member is not None else ()
        self._roster.effects.append(SendGossip(node, addresses, Expelled(node, *self._members.rank())))
