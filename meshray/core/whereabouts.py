"""Who has copies of our objects?

Theory. The peer of an object's owner is asked by whoever is about to fetch it (`Seek`), and notes the asker as one that
has a copy, or will have one soon: pieces are passed on as they come. It names the source that serves the fewest. So the
first asker gets the value from where it was made, the second from the first, the third from the second: a chain through
which the pieces run, in which nobody sends more than one copy at a time. Fifty hosts have a value hardly later than
one.

Nobody is sent to a source that is not whole and began after itself: so no two wait for each other, whatever breaks.
Who had a copy and has lost it may still be waited for by those who were sent to it: when it begins anew it is sent to
whole ones only.

When an object is freed those with copies are told (`Expired`).
"""

from __future__ import annotations

from collections.abc import Callable

from meshray.core.effects import Core, Send
from meshray.ids import peer_of
from meshray.wire.messages import CopiesGone, Expired, Found, Place, Seek, Whole

NAMED_MAX = 4
"""So many sources are named in one answer, and the place itself."""


class _Copies:
    """The copies of one value."""

    __slots__ = ("left", "serves", "whole")

    def __init__(self, origin: bytes) -> None:
        self.serves = {origin: 0}  # peers in the order in which they began, with how many were sent there
        self.whole = {origin}
        self.left: set[bytes] = set()  # peers that lost their copy while others were on the way to theirs

    def sources_for(self, peer: bytes) -> list[bytes]:
        """The best one first."""
        earlier = list(self.serves)
        if peer in self.left:
            earlier = []
        elif peer in self.serves:
            earlier = earlier[: earlier.index(peer)]
        sources = [*earlier, *(other for other in self.serves if other in self.whole and other not in earlier)]
        return sorted((other for other in sources if other != peer), key=lambda other: self.serves[other])


class Whereabouts(Core):
    """The copies of all objects that this peer answers for. `knows(object_id)`: whether an object is still there."""

    def __init__(self, knows: Callable[[bytes], bool]) -> None:
        super().__init__()
        self._knows = knows
        self._objects: dict[bytes, dict[Place, _Copies]] = {}  # by object; no empty ones

    def on_seek(self, sender: bytes, message: Seek) -> None:
        """Somebody is about to have a copy."""
        place = message.place
        if not self._knows(place.object_id):
            self._effects.append(Send(sender, Found(place, [])))
            return
        origin = peer_of(place.node)
        copies = self._copies_of(place)
        sources = copies.sources_for(sender)
        if sources:
            copies.serves[sources[0]] += 1
        copies.serves.setdefault(sender, 0)
        named = sources[:NAMED_MAX]
        if origin in sources and origin not in named:
            named.append(origin)
        self._effects.append(Send(sender, Found(place, named)))

    def _copies_of(self, place: Place) -> _Copies:
        of_object = self._objects.setdefault(place.object_id, {})
        copies = of_object.get(place)
        if copies is None:
            copies = of_object[place] = _Copies(peer_of(place.node))
        return copies

    def on_whole(self, sender: bytes, message: Whole) -> None:
        """The sender has all of these. It may have asked when nothing was known of the object yet."""
        for place in message.places:
            if self._knows(place.object_id):
                copies = self._copies_of(place)
                copies.serves.setdefault(sender, 0)
                copies.whole.add(sender)
            else:
                self._tell(sender, place.object_id)  # it was freed while that one fetched it

    def on_copies_gone(self, sender: bytes, message: CopiesGone) -> None:
        """The sender has these no more."""
        for place in message.places:
            self._drop(place, sender)

    def _drop(self, place: Place, peer: bytes) -> None:
        of_object = self._objects.get(place.object_id, {})
        copies = of_object.get(place)
        if copies is None:
            return
        served = copies.serves.pop(peer, None)
        copies.whole.discard(peer)
        if served is not None and copies.serves.keys() - copies.whole:
            copies.left.add(peer)
        if not any(other != peer_of(place.node) for other in copies.serves):
            del of_object[place]
            if not of_object:
                del self._objects[place.object_id]

    def on_object_freed(self, object_id: bytes) -> None:
        """Nobody needs it any more."""
        of_object = self._objects.pop(object_id, None)
        if of_object is None:
            return
        peers = {peer for place, copies in of_object.items() for peer in copies.serves if peer != peer_of(place.node)}
        for peer in sorted(peers):
            self._tell(peer, object_id)

    def _tell(self, peer: bytes, object_id: bytes) -> None:
        last = self._effects[-1] if self._effects else None
        if isinstance(last, Send) and last.to == peer and isinstance(last.message, Expired):
            last.message.object_ids.append(object_id)
        else:
            self._effects.append(Send(peer, Expired([object_id])))

    def on_host_gone(self, node: bytes) -> None:
        """What it had is gone."""
        peer = peer_of(node)
        for place in [place for of_object in self._objects.values() for place in of_object]:
            self._drop(place, peer)

    def __len__(self) -> int:
        return len(self._objects)
