"""What do the processes of this host know of actors that other peers own?

A process speaks about actors to its own peer only. For one that another peer owns, this peer watches there once for all
its processes (`WatchActor`, answered with `ActorNews`), tells each of them with `ActorState`, and answers later ones by
what it knows. What was said to an owner that is gone will not be answered: its actors are dead then, for all of us.

A detached actor may get another owner when its own is gone. There are two ways to know:

- The new owner says so (`on_moved`). That stays, until a later owner says it: each has a higher number, its *reign*.
- The owner is gone, and had named its heir. Then the heir is asked, which answers when it has taken over. That is a
  *guess*: if the owner is there again it goes on being the owner, the heir has nothing to say, and so the owner is
  asked again. Nor is an actor dead because an heir does not know it.

What became of calls in flight at the old owner's time nobody can tell: when another one is asked, and its first news is
of another worker, they count as begun.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from meshray.core.effects import Core, Send, TellCallers
from meshray.core.gone import remember
from meshray.core.watchers import Journal, journal_of, news
from meshray.ids import node_of, owner_node_of, peer_of
from meshray.wire.messages import ActorNews, ActorState, Failure, KillActor, UnwatchActor, WatchActor

DEAD_MAX = 4096
"""How many dead actors are remembered with the reason."""

MOVED_MAX = 4096
"""How many detached actors are remembered that have another owner than the one in their ids."""


class Reign(NamedTuple):
    """Who owns a detached actor. Of two the later one counts."""

    number: int  # 0: its creator's peer
    owner: bytes


class ForeignStats(Struct, frozen=True):
    """A snapshot; counts."""

    watched: int
    stale: int


class _Seen:
    """One actor of another peer."""

    __slots__ = ("heir", "owner", "state", "unsure", "waits", "watchers")

    def __init__(self, owner: bytes) -> None:
        self.owner = owner  # its peer, or who is taken for that
        self.heir = b""  # the peer to ask when that is gone
        self.state: ActorState | None = None  # as an owner told last; None: it was asked
        self.unsure = False  # another owner was asked since, and has not answered: `state` may be over
        self.waits = ""  # why it has no place, as its owner says; its own people are gone
        self.watchers: set[bytes] = set()  # processes of this host


class ForeignActors(Core):
    """See the head of this file. Actors are dead to us when `on_node_gone` names their owner's node, and there is no
    heir."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[bytes, _Seen] = {}  # while somebody watches
        self._dead: dict[bytes, Failure] = {}  # bounded, the oldest go first
        self._moved: dict[bytes, Reign] = {}  # actor -> who has taken it over; bounded likewise
        self._guessed: dict[bytes, bytes] = {}  # actor whose owner is gone -> its heir; bounded likewise
        self._stale = 0

    def owner_of(self, actor_id: bytes) -> bytes:
        """The peer to ask."""
        return self._guessed.get(actor_id) or self._said_owner(actor_id)

    def _said_owner(self, actor_id: bytes) -> bytes:
        """The last peer that has said that it owns this, or the one that stands in the id."""
        moved = self._moved.get(actor_id)
        return moved.owner if moved is not None else peer_of(owner_node_of(actor_id))

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
        if seen.state is not None and not seen.unsure:
            self._effects.append(Send(process, news(process, seen.state, {})))
            if seen.waits:
                self._effects.append(TellCallers(seen.waits, (process,)))

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
        if message.failure is not None and self._guessed.pop(message.actor_id, None) is not None:
            self._ask(message.actor_id, seen, self._said_owner(message.actor_id))  # it will not have it
            return
        if message.failure is not None:
            self._die(message.actor_id, seen, message.failure, journal_of(message.callers))
            return
        all_started, seen.unsure = message.all_started or seen.unsure, False
        seen.heir = message.heir
        seen.state = ActorState(message.actor_id, message.incarnation, message.worker)
        self._tell(seen, seen.state, journal_of(message.callers), all_started)
        if message.waits and message.waits != seen.waits:
            self._effects.append(TellCallers(message.waits, tuple(sorted(seen.watchers))))
        seen.waits = message.waits

    def on_node_gone(self, node: bytes, out_of_reach: bool = False) -> None:
        """A host is gone. Actors of its peer are dead, unless they have an heir elsewhere. `out_of_reach`: it is so for
        us alone, so nobody takes over anything; who asks later may be told otherwise."""
        for actor_id in [actor_id for actor_id, heir in self._guessed.items() if node_of(heir) == node]:
            del self._guessed[actor_id]
        if not out_of_reach:  # an earlier heir may inherit; and an owner that lives says so again when we meet
            for actor_id in [actor_id for actor_id, moved in self._moved.items() if node_of(moved.owner) == node]:
                del self._moved[actor_id]
        for actor_id, seen in list(self._seen.items()):
            if node_of(seen.owner) == node and seen.heir and node_of(seen.heir) != node and not out_of_reach:
                remember(self._guessed, actor_id, seen.heir, MOVED_MAX)
                self._ask(actor_id, seen, seen.heir)
            elif node_of(seen.owner) == node:
                why = "cannot be reached from here" if out_of_reach else "is gone"
                text = f"actor {actor_id.hex()} is dead: the peer that owned it {why} (node {node.hex()})"
                failure = Failure("ActorDiedError", text, details={"actor_id": actor_id.hex()})
                self._die(actor_id, seen, failure, {}, remembered=False)

    def on_node_there(self, node: bytes) -> None:
        """A host is there, maybe again: what its peer owned it goes on to own. A repeat changes nothing."""
        for actor_id, heir in list(self._guessed.items()):
            owner = self._said_owner(actor_id)
            if node_of(owner) != node:
                continue
            del self._guessed[actor_id]
            seen = self._seen.get(actor_id)
            if seen is not None:
                self._effects.append(Send(heir, UnwatchActor(actor_id)))
                self._ask(actor_id, seen, owner)

    def _ask(self, actor_id: bytes, seen: _Seen, owner: bytes) -> None:
        """Watch somewhere else."""
        seen.owner, seen.heir, seen.unsure, seen.waits = owner, b"", seen.state is not None, ""
        self._effects.append(Send(owner, WatchActor(actor_id)))

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

    def on_moved(self, actor_id: bytes, owner: bytes, reign: int = 0) -> None:
        """Another peer has taken over a detached actor: it is watched there from now on, unless a later one has said
        so."""
        moved = Reign(reign, owner)
        if moved < self._moved.get(actor_id, moved):
            self._stale += 1
            return
        remember(self._moved, actor_id, moved, MOVED_MAX)
        self._guessed.pop(actor_id, None)
        self._dead.pop(actor_id, None)
        seen = self._seen.get(actor_id)
        if seen is not None and seen.owner != owner:
            self._ask(actor_id, seen, owner)

    def on_given_way(self, actor_id: bytes, processes: list[bytes]) -> None:
        """An actor of our own has another owner (`on_moved` said which); these have watched it here."""
        for process in processes:
            self.on_watch(process, WatchActor(actor_id))
            if actor_id in self._seen:
                self._seen[actor_id].unsure = True  # nobody tells them what the journal of its worker says

    # -- for people and tests ----------------------------------------------------------------------------------------

    def stats(self) -> ForeignStats:
        return ForeignStats(len(self._seen), self._stale)

    def check(self) -> None:
        """Assert that the books agree."""
        for actor_id, seen in self._seen.items():
            assert seen.watchers, f"watched by nobody: {actor_id.hex()}"
