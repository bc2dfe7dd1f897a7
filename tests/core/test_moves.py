"""Values that lie on a host that leaves: who is asked to keep them, and what becomes of the answers."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
import pytest

from meshray.config import DEFAULT
from meshray.core.effects import Send
from meshray.core.moves import KEEPERS_MAX, PLACES_AT_ONCE, Moves
from meshray.ids import peer_of
from meshray.wire.messages import Bring, Brought, Failure, Keep, Kept, Place

ME, OWNER, OTHER = b"me......", b"owner...", b"other..."
US, PEER_OWNER, PEER_OTHER = peer_of(ME), peer_of(OWNER), peer_of(OTHER)
CONFIG = msgspec.structs.replace(DEFAULT, keeps_max=2)


def place(number: int, owner: bytes = OWNER, node: bytes = ME) -> Place:
    return Place(owner + b"process." + number.to_bytes(12, "big"), node, f"segment-{number}", 1000)


class Rig:
    def __init__(self) -> None:
        self.others = [PEER_OTHER, peer_of(b"third..."), peer_of(b"fourth..")]
        self.needed = True
        self.moves = Moves(CONFIG, ME, lambda _: self.needed, self.choose)

    def choose(self, tried: Collection[bytes]) -> bytes | None:
        return next((peer for peer in self.others if peer not in tried), None)

    def says(self) -> list[tuple[bytes, object]]:
        return [(effect.to, effect.message) for effect in self.moves.take_effects() if isinstance(effect, Send)]


def test_the_owners_peer_is_asked_first_for_many_at_once() -> None:
    rig = Rig()
    places = [place(number) for number in range(PLACES_AT_ONCE + 1)]
    rig.moves.leave(places)
    assert rig.says() == [(PEER_OWNER, Keep(places[:-1])), (PEER_OWNER, Keep(places[-1:]))]
    rig.moves.on_kept(PEER_OTHER, Kept(places))  # nobody has asked it
    assert not rig.moves.done
    rig.moves.on_kept(PEER_OWNER, Kept(places[:5]))
    rig.moves.on_kept(PEER_OWNER, Kept(places[:5]))
    rig.moves.on_kept(PEER_OWNER, Kept(places[5:]))
    assert rig.moves.done
    assert rig.moves.stats().moved == len(places)


def test_others_are_asked_when_it_has_no_room_and_not_for_ever() -> None:
    rig = Rig()
    rig.moves.leave([place(1)])
    asked = []
    while not rig.moves.done:
        ((peer, _),) = rig.says()
        asked.append(peer)
        rig.moves.on_kept(peer, Kept([place(1)], missing=True))
    assert asked == [PEER_OWNER, *rig.others[: KEEPERS_MAX - 1]]
    assert rig.moves.stats().left_behind == 1


def test_a_host_that_is_gone_keeps_nothing_and_needs_nothing() -> None:
    rig = Rig()
    rig.moves.leave([place(1), place(2, owner=b"fourth..")])
    rig.says()
    rig.moves.on_host_gone(OWNER)
    assert rig.moves.stats().moving == 1, "what it owned is lost"
    rig.moves.on_kept(peer_of(b"fourth.."), Kept([place(2, owner=b"fourth..")], missing=True))
    assert rig.says() == [(PEER_OTHER, Keep([place(2, owner=b"fourth..")]))]
    rig.moves.on_host_gone(OTHER)
    assert [peer for peer, _ in rig.says()] == [peer_of(b"third...")]


def test_what_is_to_be_kept_is_brought_and_answered_for() -> None:
    rig = Rig()
    first, second = (place(number, owner=ME, node=OTHER) for number in (1, 2))
    rig.moves.on_keep(PEER_OTHER, Keep([first, second]))
    rig.moves.on_keep(PEER_OTHER, Keep([first]))  # once more: it is under way
    assert rig.says() == [(US, Bring(1, first)), (US, Bring(2, second))]
    rig.moves.on_brought(Brought(1, place(1, owner=ME)))
    rig.moves.on_brought(Brought(2, None, Failure("ObjectStoreFullError", "full")))
    rig.moves.on_brought(Brought(2, None))
    assert rig.says() == [(PEER_OTHER, Kept([first])), (PEER_OTHER, Kept([second], missing=True))]
    rig.moves.on_keep(PEER_OTHER, Keep([first]))
    assert rig.says() == [(US, Bring(3, first))], "a repeat is answered again"


def test_what_nobody_needs_or_what_is_too_much_is_not_brought() -> None:
    rig = Rig()
    theirs = [place(number, node=OTHER) for number in range(3)]
    rig.moves.on_keep(PEER_OTHER, Keep(theirs))
    assert rig.says()[2:] == [(PEER_OTHER, Kept(theirs[2:], missing=True))]
    rig.needed = False
    ours = place(9, owner=ME, node=OTHER)
    rig.moves.on_keep(PEER_OTHER, Keep([ours]))
    assert rig.says() == [(PEER_OTHER, Kept([ours]))]
    rig.moves.on_host_gone(OTHER)
    rig.moves.on_brought(Brought(1, None))
    assert rig.says() == [], "nobody is left to be told"


@pytest.mark.fault(16)
def test_a_host_that_leaves_keeps_nothing_more() -> None:
    """What it had promised would be lost with it."""
    rig = Rig()
    first, second = (place(number, node=OTHER) for number in (1, 2))
    rig.moves.on_keep(PEER_OTHER, Keep([first]))
    rig.says()
    rig.moves.leave([])
    rig.moves.on_keep(PEER_OTHER, Keep([second]))
    assert rig.says() == [(PEER_OTHER, Kept([first], missing=True)), (PEER_OTHER, Kept([second], missing=True))]
    rig.moves.on_brought(Brought(1, first))
    assert rig.says() == []
