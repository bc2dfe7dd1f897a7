"""Which references of other hosts are held here, and does their owner's peer know it?

Theory. To the peer that owns an object this peer is what a process is to its own peer: one holder. So the two laws of
references hold once more, a level higher:

- G1: the owner's peer hears when the last of our processes has let go.
- G2: a process that says `Hold` is answered only when the owner's peer has answered ours: until then the sender of the
  reference keeps its own. When we are known there already, the answer comes at once.

Who holds what here is counted in the table of `core.objects`, in sets of processes, as for our own objects; this file
has only what is said to owners. Everything that is said to one owner's peer travels in order, so a `Release` and a
later `Hold` of the same object never change places, and the answer to an older `Hold` says nothing about a newer one.

When the owner's host is gone its objects are lost, and there is nobody left to be known to: whoever waits is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from meshray.ids import peer_of
from meshray.wire.messages import Fetch, Forget, Hold, HoldDone, Message, Place, Promoted, Refetch, Release

KNOWN = 0
"""In place of a token: the owner's peer has answered."""


@dataclass(slots=True)
class _Request:
    """A local process that is to be answered when the owners of all that it named know of us."""

    process: bytes
    token: int
    missing: int  # Holds of ours that it waits for


@dataclass(slots=True)
class _Asked:
    """A Hold of ours that was not answered yet."""

    peer: bytes
    object_ids: list[bytes]
    requests: list[_Request] = field(default_factory=list)


class Borrows:
    """See the head of this file. `say(process, message)` sends."""

    def __init__(self, say: Callable[[bytes, Message], None]) -> None:
        self._say = say
        self._held: dict[bytes, int] = {}  # object -> token of the Hold that told its owner, KNOWN once it has answered
        self._asked: dict[int, _Asked] = {}  # by token, the oldest first
        # objects whose values were asked for; with the place that is no answer, since nothing is there any more
        self._fetching: dict[bytes, Place | None] = {}
        self._last_token = 0

    def hold(self, object_ids: Iterable[bytes], process: bytes = b"", token: int = 0) -> None:
        """Somebody here holds these from now on. `process` is told HoldDone(token) once their owners know."""
        unknown: dict[bytes, tuple[int, list[bytes]]] = {}  # peer -> a new Hold: its token, what it tells of
        waits: set[int] = set()
        for object_id in object_ids:
            token_of_it = self._held.get(object_id)
            if token_of_it is None:
                peer = peer_of(object_id)
                if peer not in unknown:
                    unknown[peer] = self._ask(peer)
                token_of_it, told = unknown[peer]
                told.append(object_id)
                self._held[object_id] = token_of_it
            if token_of_it != KNOWN:
                waits.add(token_of_it)
        for peer, (number, told) in unknown.items():
            self._say(peer, Hold(number, told))
        if not process:
            return
        if not waits:
            self._say(process, HoldDone(token))
            return
        request = _Request(process, token, len(waits))
        for number in waits:
            self._asked[number].requests.append(request)

    def _ask(self, peer: bytes) -> tuple[int, list[bytes]]:
        self._last_token += 1
        asked = self._asked[self._last_token] = _Asked(peer, [])
        return self._last_token, asked.object_ids

    def on_hold_done(self, peer: bytes, token: int) -> None:
        """The owner's peer knows of us. A repeat, or an answer to what nobody asked, changes nothing."""
        asked = self._asked.get(token)
        if asked is None or asked.peer != peer:
            return
        del self._asked[token]
        for object_id in asked.object_ids:
            if self._held.get(object_id) == token:
                self._held[object_id] = KNOWN
        self._answer(asked)

    def _answer(self, asked: _Asked) -> None:
        for request in asked.requests:
            request.missing -= 1
            if not request.missing:
                self._say(request.process, HoldDone(request.token))

    def release(self, object_id: bytes) -> None:
        """Nobody here holds it any more. No effect when it is not held."""
        if self._held.pop(object_id, None) is not None:
            self._say(peer_of(object_id), Release([object_id]))

    # -- values ------------------------------------------------------------------------------------------------------

    def fetch(self, object_ids: Iterable[bytes]) -> None:
        """Somebody here waits for these values. Those that were asked for are not asked for again."""
        wanted: dict[bytes, list[bytes]] = {}
        for object_id in object_ids:
            if object_id not in self._fetching:
                self._fetching[object_id] = None
                wanted.setdefault(peer_of(object_id), []).append(object_id)
        for peer, ids in wanted.items():
            self._say(peer, Fetch(ids))

    def refetch(self, place: Place) -> None:
        """The same for one whose present place leads to nothing."""
        if self._fetching.get(place.object_id) != place:
            self._fetching[place.object_id] = place
            self._say(peer_of(place.object_id), Refetch([place]))

    def on_fetched(self, promoted: Promoted) -> bool:
        """Its owner has answered. False: nobody had asked, or not any more; or that is the answer to an earlier
        question. The place that was said to be lost counts if there is a copy to be had now."""
        object_id = promoted.object_id
        if object_id not in self._fetching:
            return False
        if promoted.value == self._fetching[object_id] and not promoted.copied:
            return False
        del self._fetching[object_id]
        return True

    def forget(self, object_id: bytes) -> None:
        """Nobody here waits for its value any more. No effect when it was not asked for."""
        if object_id in self._fetching:
            del self._fetching[object_id]
            self._say(peer_of(object_id), Forget([object_id]))

    # -- the end of an owner -----------------------------------------------------------------------------------------

    def on_owner_gone(self, peer: bytes, object_ids: Iterable[bytes]) -> None:
        """What it owned is lost: nothing more is said of it, and nobody waits for its word. `object_ids` are all that
        this concerns, and maybe others."""
        for object_id in object_ids:
            self._held.pop(object_id, None)
            self._fetching.pop(object_id, None)
        for token in [token for token, asked in self._asked.items() if asked.peer == peer]:
            self._answer(self._asked.pop(token))

    # -- reading -----------------------------------------------------------------------------------------------------

    def mark(self) -> int:
        """The newest Hold of ours, for `is_known`."""
        return self._last_token

    def is_known(self, mark: int) -> bool:
        """Whether all Holds up to this one were answered."""
        return not self._asked or next(iter(self._asked)) > mark

    def concerns(self, object_id: bytes) -> bool:
        """Whether its owner was told that it is held here, or asked for its value."""
        return object_id in self._held or object_id in self._fetching

    def concerned(self) -> set[bytes]:
        """All of which that is so."""
        return self._held.keys() | set(self._fetching)

    def holds(self, object_id: bytes) -> bool:
        """Whether its owner was told that it is held here."""
        return object_id in self._held

    def check(self) -> None:
        """Assert that the books agree."""
        for object_id, token in self._held.items():
            if token != KNOWN:
                asked = self._asked[token]
                assert object_id in asked.object_ids, f"{object_id.hex()} is not in Hold {token}"
                assert asked.peer == peer_of(object_id), f"{object_id.hex()} was told to {asked.peer.hex()}"

    def __len__(self) -> int:
        return len(self._held) + len(self._asked) + len(self._fetching)

    def __repr__(self) -> str:
        return f"<Borrows {len(self._held)} held, {len(self._asked)} told, {len(self._fetching)} asked for>"
