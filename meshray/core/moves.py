"""How do values of other hosts outlive the host on which they lie, when that is stopped?

A large value lies where it was made, whoever owns it. A host that leaves (L) asks the peer of the owner to keep a copy
(`Keep`), and another member if that one has no room. Whoever keeps one fetches it like any copy (`core.fetches`), as a
user of it itself: so it stays when the store is full, until the owner's peer says that the object is gone (`Expired`).
Readers find it as they find every copy: the owner's peer knows who has some (`core.whereabouts`).

What L itself owns is not moved: it ends with its owner. That copies lie elsewhere already counts for nothing: they go
when there is no room. But what L keeps for hosts that have left before it is moved on, and nothing more is kept there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from msgspec import Struct

from meshray.config import Config
from meshray.core.effects import Core, Send
from meshray.ids import peer_of
from meshray.wire.messages import Bring, Brought, Keep, Kept, Place

PLACES_AT_ONCE = 256
"""At most so many places travel in one message (the schema allows more)."""

KEEPERS_MAX = 3
"""So many members are asked for one value: its owner's peer, and others."""


class MoveStats(Struct, frozen=True):
    """A snapshot; counts of values."""

    moving: int
    moved: int
    left_behind: int
    keeping: int  # for others, on their way to here


class _Move:
    """One value that is to leave."""

    __slots__ = ("asked", "tried")

    def __init__(self) -> None:
        self.asked = b""  # the peer whose answer is awaited
        self.tried: list[bytes] = []  # peers that were asked


class Moves(Core):
    """Both sides. `choose(tried)`: another member to ask, or None; `needs(object_id)`: whether an object of ours is
    still needed."""

    def __init__(
        self,
        config: Config,
        node: bytes,
        needs: Callable[[bytes], bool],
        choose: Callable[[Collection[bytes]], bytes | None],
    ) -> None:
        super().__init__()
        self._config = config
        self._peer = peer_of(node)
        self._node = node
        self._needs = needs
        self._choose = choose
        self._moves: dict[Place, _Move] = {}
        self._keeping: dict[int, tuple[bytes, Place]] = {}  # request -> who asked for it, and what
        self._leaving = False  # nothing is kept here any more
        self._numbers = 0
        self._moved = self._left_behind = 0

    # -- the host that leaves ----------------------------------------------------------------------------------------

    def leave(self, places: list[Place]) -> None:
        """This host leaves. These lie here, made here or kept, and their owners on other hosts."""
        self._leaving = True
        for asker, place in self._keeping.values():
            self._tell(asker, place, missing=True)  # it would come too late to be moved on
        self._keeping.clear()
        for place in places:
            self._moves[place] = _Move()
            self._ask(place, peer_of(place.object_id))

    def _ask(self, place: Place, peer: bytes | None) -> None:
        move = self._moves[place]
        if peer is None or len(move.tried) >= KEEPERS_MAX:
            del self._moves[place]
            self._left_behind += 1
            return
        move.asked = peer
        move.tried.append(peer)
        last = self._effects[-1] if self._effects else None
        keep = last.message if isinstance(last, Send) and last.to == peer else None
        if isinstance(keep, Keep) and len(keep.places) < PLACES_AT_ONCE:
            keep.places.append(place)
        else:
            self._effects.append(Send(peer, Keep([place])))

    def on_kept(self, sender: bytes, message: Kept) -> None:
        """What became of them there. What is not awaited is ignored."""
        for place in message.places:
            move = self._moves.get(place)
            if move is None or move.asked != sender:
                continue
            if message.missing:
                self._ask(place, self._choose(move.tried))
            else:
                del self._moves[place]
                self._moved += 1

    def on_host_gone(self, node: bytes) -> None:
        """Its answer will not come, and what it owned is lost."""
        peer = peer_of(node)
        for place, move in list(self._moves.items()):
            if peer_of(place.object_id) == peer:
                del self._moves[place]
            elif move.asked == peer:
                self._ask(place, self._choose(move.tried))
        self._keeping = {number: entry for number, entry in self._keeping.items() if entry[0] != peer}

    @property
    def done(self) -> bool:
        """Whether nobody is waited for."""
        return not self._moves

    # -- who keeps ---------------------------------------------------------------------------------------------------

    def on_keep(self, sender: bytes, message: Keep) -> None:
        """A host leaves."""
        under_way = {place for asker, place in self._keeping.values() if asker == sender}
        for place in message.places:
            if place.node == self._node or (
                place.object_id.startswith(self._node) and not self._needs(place.object_id)
            ):
                self._tell(sender, place)
            elif place in under_way:
                continue
            elif self._leaving or len(self._keeping) >= self._config.keeps_max:
                self._tell(sender, place, missing=True)
            else:
                self._numbers += 1
                self._keeping[self._numbers] = (sender, place)
                self._effects.append(Send(self._peer, Bring(self._numbers, place)))

    def on_brought(self, message: Brought) -> None:
        """A copy is here, or cannot be had."""
        entry = self._keeping.pop(message.request, None)
        if entry is not None:
            self._tell(*entry, missing=message.place is None)

    def _tell(self, sender: bytes, place: Place, missing: bool = False) -> None:
        self._effects.append(Send(sender, Kept([place], missing)))

    # -- for people and tests ----------------------------------------------------------------------------------------

    def stats(self) -> MoveStats:
        return MoveStats(len(self._moves), self._moved, self._left_behind, len(self._keeping))
