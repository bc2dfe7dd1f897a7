"""Who has copies of our objects, and who is sent where."""

from __future__ import annotations

from typing import Any

import pytest

from meshray.core.whereabouts import Whereabouts
from meshray.ids import object_of, peer_of
from meshray.wire import messages as m

ORIGIN, *HOSTS = (peer_of(bytes([97 + number]) * 8) for number in range(6))
PLACE = m.Place(object_of(bytes(24), 0), ORIGIN[:8], "ab-1", 100)


class Owner:
    def __init__(self) -> None:
        self.known = {PLACE.object_id}
        self.core = Whereabouts(self.known.__contains__)

    def said(self) -> list[tuple[bytes, Any]]:
        return [(effect.to, effect.message) for effect in self.core.take_effects()]

    def seek(self, host: bytes) -> list[bytes]:
        self.core.on_seek(host, m.Seek(PLACE))
        ((to, found),) = self.said()
        assert to == host
        return list(found.peers)


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.mark.fault(44)
def test_askers_form_a_chain(owner: Owner) -> None:
    """Each serves one other, and the place itself is named in case that one fails."""
    sources = [owner.seek(host) for host in HOSTS]
    assert [named[0] for named in sources] == [ORIGIN, *HOSTS[:-1]]
    assert all(ORIGIN in named for named in sources)


def test_nobody_is_sent_to_one_that_began_later_unless_it_is_whole(owner: Owner) -> None:
    first, second, third = HOSTS[:3]
    owner.seek(first)
    owner.seek(second)
    assert owner.seek(first) == [ORIGIN]
    owner.seek(third)
    owner.core.on_whole(third, m.Whole([PLACE]))
    assert set(owner.seek(first)) == {ORIGIN, third}


def test_who_has_it_no_more_serves_nobody(owner: Owner) -> None:
    first, second = HOSTS[:2]
    owner.seek(first)
    owner.core.on_copies_gone(first, m.CopiesGone([PLACE]))
    assert owner.seek(second) == [ORIGIN]
    owner.core.on_host_gone(ORIGIN[:8])
    assert owner.seek(first) == [second]


def test_who_has_lost_its_copy_and_begins_anew_is_sent_to_whole_ones_only(owner: Owner) -> None:
    """The second waits for the first, which must not wait for the second (seed 101043 of `test_remaking`)."""
    first, second, third = HOSTS[:3]
    owner.seek(first)
    assert owner.seek(second)[0] == first
    owner.core.on_copies_gone(first, m.CopiesGone([PLACE]))
    assert owner.seek(first) == [ORIGIN]
    owner.core.on_host_gone(ORIGIN[:8])
    assert owner.seek(first) == []
    assert owner.seek(third) == [second, first]
    owner.core.on_whole(second, m.Whole([PLACE]))
    assert owner.seek(first) == [second]


def test_who_has_lost_its_copy_when_all_others_are_whole_is_one_of_the_chain_again(owner: Owner) -> None:
    first, second, third = HOSTS[:3]
    owner.seek(first)
    owner.seek(second)
    owner.core.on_whole(second, m.Whole([PLACE]))
    owner.core.on_copies_gone(first, m.CopiesGone([PLACE]))
    owner.seek(third)
    assert third in owner.seek(first)


def test_who_asked_before_anything_was_known_of_the_object_is_told_of_its_end(owner: Owner) -> None:
    """It was asked sooner than the maker's word of the segment came (seed 330082 of `test_remaking`)."""
    first = HOSTS[0]
    owner.known.clear()
    assert owner.seek(first) == []
    owner.known.add(PLACE.object_id)
    owner.core.on_whole(first, m.Whole([PLACE]))
    owner.known.clear()
    owner.core.on_object_freed(PLACE.object_id)
    assert owner.said() == [(first, m.Expired([PLACE.object_id]))]
    assert len(owner.core) == 0


def test_when_an_object_is_freed_those_with_copies_are_told(owner: Owner) -> None:
    first, second = HOSTS[:2]
    owner.seek(first)
    owner.known.clear()
    owner.core.on_object_freed(PLACE.object_id)
    owner.core.on_object_freed(bytes(28))
    assert owner.said() == [(first, m.Expired([PLACE.object_id]))]
    assert owner.seek(second) == []
    owner.core.on_whole(first, m.Whole([PLACE]))  # it was about to be
    assert owner.said() == [(first, m.Expired([PLACE.object_id]))]
    assert len(owner.core) == 0
