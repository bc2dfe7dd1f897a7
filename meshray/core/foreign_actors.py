"""What do the processes of this host know of actors that other peers own?

A process speaks about actors to its own peer only. For one that another peer owns, this peer watches there once for all
its processes (`WatchActor`, answered with `ActorNews`), tells each of them with `ActorState`, and answers later ones by
what it knows. What was said to an owner that is gone will not be answered: its actors are dead then, for all of us.

A detached actor may get another owner when its own is gone (`moved`): it is asked for there from then on. Before that
one has said so, its heir is only asked for now: if its owner is there again, it is the one to ask.
"""

from __future__ import annotations

from msgspec import Struct

from meshray.core.effects import Core, Send
from meshray.core.gone import remember
from meshray.core.watchers import Journal, journal_of, news
from meshray.ids import node_of, owner_node_of, peer_of
from meshray.wire.messages import ActorNews, ActorState, Failure, KillActor, UnwatchActor, WatchActor

DEAD_MAX = 4096
"""How many dead actors are remembered with the reason."""

MOVED_MAX = 4096
"""How many detached actors are remembered that have another owner than the one in their ids."""


class ForeignStats(Struct, frozen=True):
    """A snapshot; counts."""

    watched: int
    stale: int


class _Seen:
    """One actor of another peer."""

    __slots__ = ("heir", "owner", "state", "watchers")

    def __init__(self, owner: bytes) -> None:
        self.owner = owner  # its peer
        self.heir = b""  # the peer to ask when that is gone
        self.state: ActorState | None = None  # as the owner told last; None: it was asked
        self.watchers: set[bytes] = set()  # processes of this host


class ForeignActors(Core):
    """See the head of this file. Actors are dead to us when `on_node_gone` names their owner's node."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[bytes, _Seen] = {}  # while somebody watches
        self._dead: dict[bytes, Failure] = {}  # bounded, the oldest go first
        self._moved: dict[bytes, bytes] = {}  # actor -> the peer that has taken it over; bounded likewise
        self._stale = 0

    def owner_of(self, actor_id: bytes) -> bytes:
        """The peer to ask."""
        return self._moved.get(actor_id) or peer_of(owner_node_of(actor_id))

    # -- from processes of this host ---------------------------------------------------------------------------------

    def on_watch(self, process: bytes, message: WatchActor) -> None:
        """Tell it where the actor lives, now and whenever that changes."""
        actor_id = message.actor_id
        failure = self._dead.get(actor_id)
        if failure is not None:
            self._effects.append(Send(process, ActorState(actor_id, 0, b"", failure)))
            return
        seen = self._seen.get(actor_id)
        if seen is None:
            seen = self._seen[actor_id] = _Seen(self.owner_of(actor_id))
            self._effects.append(Send(seen.owner, message))
        seen.watchers.add(process)
        if seen.state is not None:
            self._effects.append(Send(process, news(process, seen.state, {})))

    def on_kill(self, message: KillActor) -> None:
        """Its owner is told."""
        self._effects.append(Send(self.owner_of(message.actor_id), message))

    def on_process_died(self, process: bytes) -> None:
        """It watches nothing any more."""
        for actor_id, seen in list(self._seen.items()):
            seen.watchers.discard(process)
            if not seen.watchers:
                del self._seen[actor_id]
                self._effects.append(Send(seen.owner, UnwatchActor(actor_id)))

    # -- from owners -------------------------------------------------------------------------------------------------

    def on_news(self, owner: bytes, message: ActorNews) -> None:
        """The owner tells. What comes from nobody who may know, or after the end, is dropped."""
        seen = self._seen.get(message.actor_id)
        if seen is None or seen.owner != owner:
            self._stale += 1
            return
        if message.failure is not None:
            sure = owner == self.owner_of(message.actor_id)  # else that one may be there again, with the actor
            self._die(message.actor_id, seen, message.failure, journal_of(message.callers), remembered=sure)
            return
        seen.heir = message.heir
        seen.state = ActorState(message.actor_id, message.incarnation, message.worker)
        self._tell(seen, seen.state, journal_of(message.callers), message.all_started)

    def on_node_gone(self, node: bytes, there: bool = False) -> None:
        """A host is gone, or was only cut off and is `there`. Actors of its peer are dead, but for those that have an
        heir: that one may take them over, or has."""
        for actor_id, seen in list(self._seen.items()):
            if node_of(seen.owner) != node:
                continue
            if seen.heir and node_of(seen.heir) != node:
                self._ask(actor_id, seen, seen.owner if there else seen.heir)
            else:
                text = f"actor {actor_id.hex()} is dead: the peer that owned it is gone (node {node.hex()})"
                failure = Failure("ActorDiedError", text, details={"actor_id": actor_id.hex()})
                self._die(actor_id, seen, failure, {}, remembered=False)

    def _die(self, actor_id: bytes, seen: _Seen, failure: Failure, journal: Journal, remembered: bool = True) -> None:
        """`remembered`: its owner said so. (A host that was only out of reach may come back, with its actors.)"""
        del self._seen[actor_id]
        if remembered:
            remember(self._dead, actor_id, failure, DEAD_MAX)
        incarnation = seen.state.incarnation if seen.state is not None else 0
        self._tell(seen, ActorState(actor_id, incarnation, b"", failure), journal, all_started=True)

    def _tell(self, seen: _Seen, state: ActorState, journal: Journal, all_started: bool = False) -> None:
        for process in sorted(seen.watchers):
            self._effects.append(Send(process, news(process, state, journal, all_started)))

    # -- other owners ------------------------------------------------------------------------------------------------

    def on_moved(self, actor_id: bytes, owner: bytes) -> None:
        """Another peer has taken over a detached actor: it is watched there from now on."""
        remember(self._moved, actor_id, owner, MOVED_MAX)
        self._dead.pop(actor_id, None)
        seen = self._seen.get(actor_id)
        if seen is not None and seen.owner != owner:
            self._ask(actor_id, seen, owner)

    def on_node_there(self, node: bytes) -> None:
        """A host is there, maybe again: what it owns is asked for there, and not at heirs."""
        for actor_id, seen in self._seen.items():
            owner = self.owner_of(actor_id)
            if node_of(owner) == node and seen.owner != owner:
                self._effects.append(Send(seen.owner, UnwatchActor(actor_id)))
                self._ask(actor_id, seen, owner)

    def has_moved(self, actor_id: bytes) -> bool:
        """Whether another peer has taken it over."""
        return actor_id in self._moved

    def on_ours(self, actor_id: bytes) -> None:
        """This peer has taken it over: whoever watches, does that here."""
        self._moved.pop(actor_id, None)
        self._dead.pop(actor_id, None)

    def _ask(self, actor_id: bytes, seen: _Seen, owner: bytes) -> None:
        seen.owner, seen.heir = owner, b""
        self._effects.append(Send(owner, WatchActor(actor_id)))

    # -- for people and tests ----------------------------------------------------------------------------------------

    def stats(self) -> ForeignStats:
        return ForeignStats(len(self._seen), self._stale)

    def check(self) -> None:
        """Assert that the books agree."""
        for actor_id, seen in self._seen.items():
            assert seen.watchers, f"watched by nobody: {actor_id.hex()}"
