"""What leaves for one host next."""

from __future__ import annotations

from meshray.core.ways import Parcel, Way
from meshray.wire.messages import ProcessDied

HOME = b"home...."
A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
PEER, OURS = b"p" * 16, b"o" * 16


def own(text: bytes) -> Parcel:
    return Parcel(PEER, OURS, text)


def drain(way: Way) -> list[bytes]:
    said = []
    while (parcel := way.next_own() or way.next_relayed()) is not None:
        said.append(parcel.message if isinstance(parcel.message, bytes) else b"farewell")
    return said


def test_pairs_take_turns_and_keep_their_order() -> None:
    way = Way(HOME)
    for number in range(3):
        way.relay((A, C), b"a%d" % number)
    way.relay((B, C), b"b0")
    way.relay((A, B), b"x0")
    assert way.bytes_of((A, C)) == 6
    assert drain(way) == [b"a0", b"b0", b"x0", b"a1", b"a2"]
    assert not way
    assert way.bytes_of((A, C)) == 0


def test_what_the_peer_says_goes_first() -> None:
    way = Way(HOME)
    way.relay((A, C), b"a")
    way.say(own(b"mine"))
    assert way
    assert way.has_own()
    assert drain(way) == [b"mine", b"a"]


def test_a_farewell_comes_after_the_last_words() -> None:
    way = Way(HOME)
    way.introduced.add(A)
    way.dealt.add(A)
    way.relay((A, C), b"a0")
    way.relay((A, C), b"a1")
    way.relay((A, B), b"x0")
    way.relay((B, C), b"b0")
    way.farewell(A, Parcel(PEER, OURS, ProcessDied(A)))
    assert way.sources() == {A, B}
    assert drain(way) == [b"a0", b"x0", b"b0", b"a1", b"farewell"]
    assert not way.introduced | way.dealt


def test_one_who_has_nothing_to_say_any_more_says_farewell_at_once() -> None:
    way = Way(HOME)
    way.relay((B, C), b"b0")
    way.farewell(A, Parcel(PEER, OURS, ProcessDied(A)))
    assert drain(way) == [b"farewell", b"b0"]


def test_what_waits_for_a_dead_one_is_dropped() -> None:
    way = Way(HOME)
    way.relay((A, C), b"a0")
    way.relay((A, B), b"x0")
    way.farewell(A, Parcel(PEER, OURS, ProcessDied(A)))
    way.drop(C)
    assert drain(way) == [b"x0", b"farewell"]
    way.relay((B, C), b"b0")
    way.drop(C)
    assert not way


def test_what_waits_of_the_peer_itself_is_counted() -> None:
    way = Way(HOME)
    way.say(own(b"mine"))
    way.relay((OURS, C), own(b"late"))
    way.relay((OURS, B), own(b"later"))
    way.relay((A, C), b"a")
    way.farewell(A, Parcel(PEER, OURS, ProcessDied(A)))
    assert way.own_count == 3
    way.drop(B)
    assert way.own_count == 2
    assert drain(way) == [b"mine", b"late", b"a", b"farewell"]
    assert way.own_count == 0
