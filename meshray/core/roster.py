"""What do news change? Applies what is heard, and what this peer itself finds out, to the table of members.

One method per kind of news. What changes the table is told on (`Rumours`) and reported (effects); what does not is
dropped: so every piece of news may come any number of times, in any order. News about this peer itself are answered by
a refutation, a greater incarnation (SWIM 4.2), or, when it is held for dead, believed: `doomed`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshray.config import Config
from meshray.core.gossip import Rumours
from meshray.core.health import Health
from meshray.core.member_effects import LoadChanged, MemberChanged, MemberDown, MemberUp
from meshray.core.members import Member, Members, State, Verdict
from meshray.core.suspicion import Suspicions
from meshray.wire.gossip import INCARNATION_MAX, LEFT, Alive, Dead, Load, News, Suspect


class Roster:
    """Members, suspicions and rumours, kept in step."""

    def __init__(self, config: Config, me: Alive, effects: list[Any], now: float) -> None:
        self.members = Members(me, config.dead_remembered_max, now)
        self._members_max = config.members_max
        self.suspicions = Suspicions(config)
        self.rumours = Rumours(config)
        self.health = Health(config.health_max)
        self.joined: list[bytes] = []  # found since the shell of this object looked; it takes them
        self.died: list[bytes] = []  # the same of deaths
        self.doomed = False  # somebody has heard of this node's death, or it can refute nothing any more
        self.effects = effects
        self.stale = 0  # pieces of news that changed nothing
        self.beyond = 0  # pieces of news of members for which there was no room

    @property
    def full(self) -> bool:
        """Whether there is room for no more living members."""
        return self.members.count >= self._members_max

    # -- hearing -----------------------------------------------------------------------------------------------------

    def hear(self, news: Iterable[News], now: float, *, tell: bool = True) -> None:
        """`tell`: others should hear of it too; not so for what a newcomer learns from those who know it all."""
        table = self.members.table
        for piece in news:
            kind = type(piece)
            if kind is Alive:
                member = table.get(piece.node)
                # A repeat, which is what nearly all news are, must cost nothing.
                if member is not None and piece.incarnation <= member.incarnation and piece.version <= member.version:  # type: ignore[union-attr]
                    self.stale += 1
                else:
                    self._on_alive(piece, member, now, tell)  # type: ignore[arg-type]
            elif kind is Load:
                self.on_load(piece, tell=tell)  # type: ignore[arg-type]
            elif kind is Suspect:
                self._on_suspect(piece, now, tell)  # type: ignore[arg-type]
            else:
                self._on_dead(piece, now, tell)  # type: ignore[arg-type]

    def _on_alive(self, alive: Alive, member: Member | None, now: float, tell: bool) -> None:
        if member is None:
            if self.full:
                self.beyond += 1  # and not told on: a flood stays with whom it hits
                return
            self.members.add(alive, now)
            self.joined.append(alive.node)
            self.effects.append(MemberUp(alive, self.members.table[alive.node].incompatible))
            if tell:
                self.rumours.tell(alive)
            return
        if member is self.members.me:
            if alive.incarnation > member.incarnation:  # nobody else may say so; be the newest again
                self._raise_incarnation(alive.incarnation, now)
            return
        verdict = self.members.verdict(member, "alive", alive.incarnation)
        if verdict is Verdict.STALE:
            self.stale += 1
        else:
            self.members.renew(member, alive, now)
            self.suspicions.end(member.node)
            self.effects.append(MemberChanged(member.node, "state" if verdict is Verdict.REFUTED else "record"))
            if tell:
                self.rumours.tell(alive)
        if member.lives and alive.version > member.version:
            self._new_load(member, alive.version, alive.load)

    def on_load(self, load: Load, *, tell: bool = True) -> None:
        member = self.members.get_living(load.node)
        if member is None or load.version <= member.version or member is self.members.me:
            self.stale += 1
            return
        self._new_load(member, load.version, load.load)
        if tell:
            self.rumours.tell_load(load)

    def _new_load(self, member: Member, version: int, load: bytes) -> None:
        member.version, member.load = version, load
        self.effects.append(LoadChanged(member.node, version, load))

    def _on_suspect(self, suspect: Suspect, now: float, tell: bool) -> None:
        member = self.members.table.get(suspect.node)
        if member is None or not any(accuser != suspect.node for accuser in suspect.accusers):
            self.stale += 1  # nobody accuses itself
        elif member is self.members.me:
            if suspect.incarnation >= member.incarnation:
                self._raise_incarnation(suspect.incarnation, now)
                self.health.on_trouble()
        else:
            self._suspected(member, suspect.incarnation, suspect.accusers, now, tell)

    def _suspected(
        self, member: Member, incarnation: int, accusers: tuple[bytes, ...], now: float, tell: bool = True
    ) -> None:
        verdict = self.members.verdict(member, "suspect", incarnation)
        if verdict is Verdict.SUSPECTED:
            was = member.state
            self.members.suspect(member, incarnation, now)
            suspicion = self.suspicions.begin(member.node, incarnation, accusers, now)
            if was is not State.SUSPECT:
                self.effects.append(MemberChanged(member.node, "state"))
        elif verdict is Verdict.CONFIRMED:
            known = self.suspicions.get(member.node)
            assert known is not None, f"a suspect without a suspicion: {member!r}"
            suspicion = known
            if not self.suspicions.confirm(suspicion, accusers):
                return
        else:
            self.stale += 1
            return
        if tell:
            self.rumours.tell(Suspect(member.node, incarnation, tuple(sorted(suspicion.accusers))))

    def _on_dead(self, dead: Dead, now: float, tell: bool) -> None:
        member = self.members.table.get(dead.node)
        if member is self.members.me:
            self.doomed = True
        elif member is None or member.lives:
            self._bury(dead, member, now, tell)
        else:
            self.stale += 1

    def _bury(self, dead: Dead, member: Member | None, now: float, tell: bool) -> None:
        self.members.bury(dead.node, dead.reason, now)
        self.suspicions.end(dead.node)
        self.rumours.forget(dead.node)
        if member is not None:
            self.died.append(dead.node)
            self.effects.append(MemberDown(dead.node, member.name, dead.reason))
        if tell:
            self.rumours.tell(dead)

    # -- what this peer finds out itself -----------------------------------------------------------------------------

    def accuse(self, member: Member, now: float) -> None:
        """A probe of a living member has failed."""
        self._suspected(member, member.incarnation, (self.members.node,), now)

    def declare_dead(self, member: Member, reason: str, now: float) -> None:
        self._bury(Dead(member.node, self.members.node, reason), member, now, True)

    def reachable(self, member: Member, yes: bool) -> None:
        if member.reachable is not yes:
            member.reachable = yes
            self.effects.append(MemberChanged(member.node, "reachable"))

    # -- this peer ---------------------------------------------------------------------------------------------------

    def describe(self, addresses: tuple[str, ...], now: float) -> None:
        """It listens at other addresses now."""
        self._renew_me(self.members.me.incarnation + 1, addresses, now)

    def me(self) -> Alive:
        record = self.members.me.current()
        assert record is not None
        return record

    def _raise_incarnation(self, heard: int, now: float) -> None:
        self._renew_me(heard + 1, self.members.me.addresses, now)

    def _renew_me(self, incarnation: int, addresses: tuple[str, ...], now: float) -> None:
        """Tell everybody. Beyond the greatest incarnation nobody could read it, and this node is as good as dead."""
        if incarnation > INCARNATION_MAX:
            self.doomed = True
            return
        me, record = self.members.me, self.me()
        renewed = Alive(me.node, incarnation, record.name, addresses, record.python, me.version, me.load)
        self.members.renew(me, renewed, now)
        self.rumours.tell(renewed)

    def farewell(self) -> Dead:
        return Dead(self.members.node, self.members.node, LEFT)
