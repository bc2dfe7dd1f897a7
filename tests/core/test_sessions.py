"""One stream: numbers, windows, acknowledgements, replays. The adversary is in tests/sim/test_sessions.py."""

from __future__ import annotations

import weakref
from itertools import pairwise

import msgspec
import pytest

from meshray.config import DEFAULT
from meshray.core.sessions import WITH_ANSWER_S, Session, StreamFull
from meshray.wire.peers import Ack, Blocks, Data, Payload, Plane

CONFIG = msgspec.structs.replace(
    DEFAULT,
    link_window_messages=4,
    link_window_bytes=100,
    link_kept_max_messages=10,
    link_kept_max_bytes=1000,
    link_ack_after_messages=3,
    link_ack_after_bytes=50,
)


def session() -> Session:
    return Session(Plane.CONTROL, CONFIG)


def drain(one: Session, now: float = 0.0) -> list[tuple[Data | Ack, Payload | None]]:
    """Everything that it gives now."""
    frames = []
    while (frame := one.peek(now)) is not None:
        frames.append(frame)
        one.advance(frame[0], now)
    return frames


def data(*numbers: int, ack: int = 0) -> list[Data]:
    return [Data(Plane.CONTROL, number, ack) for number in numbers]


def sent(one: Session, count: int, size: int = 1) -> None:
    for _ in range(count):
        one.send(b"x" * size)


def test_messages_are_numbered_from_one() -> None:
    one = session()
    one.send(b"a")
    one.send(b"b")
    assert drain(one) == [(data(1)[0], b"a"), (data(2)[0], b"b")]
    assert drain(one) == []


def test_what_a_socket_does_not_take_stays_the_next() -> None:
    one = session()
    one.send(b"a")
    assert one.peek(0.0) == one.peek(0.0) == (data(1)[0], b"a")


def test_a_window_of_messages() -> None:
    one = session()
    sent(one, 6)
    assert [frame.sequence for frame, _ in drain(one) if isinstance(frame, Data)] == [1, 2, 3, 4]
    assert not one.window_open
    one.on_ack(Ack(Plane.CONTROL, 1), 0.0)
    assert [frame.sequence for frame, _ in drain(one) if isinstance(frame, Data)] == [5]
    one.on_ack(Ack(Plane.CONTROL, 6 - 1), 0.0)
    assert one.window_open


def test_a_window_of_bytes_and_a_message_larger_than_it() -> None:
    one = session()
    sent(one, 3, size=40)
    assert len(drain(one)) == 2
    assert not one.window_open
    one.on_ack(Ack(Plane.CONTROL, 2), 0.0)
    one.send(b"y" * 500)
    assert len(drain(one)) == 1  # the large one waits until it can travel alone
    one.on_ack(Ack(Plane.CONTROL, 3), 0.0)
    assert len(drain(one)) == 1


def test_what_is_kept_is_bounded_in_messages() -> None:
    one = session()
    sent(one, 10)
    with pytest.raises(StreamFull, match="10 messages"):
        one.send(b"")
    drain(one)
    one.on_ack(Ack(Plane.CONTROL, 1), 0.0)
    one.send(b"")


def test_what_is_kept_is_bounded_in_bytes() -> None:
    one = session()
    one.send(bytes(2000))  # one alone is always taken: it is bounded as a frame
    with pytest.raises(StreamFull, match="2000 bytes"):
        one.send(b"z")


def test_the_next_one_is_delivered_others_are_not() -> None:
    one = session()
    outcomes = [one.on_data(frame, 1, 0.0) for frame in data(2, 1, 1, 3, 2, 3)]
    assert outcomes == [False, True, False, False, True, True]
    assert one.stats()[2:5] == (3, 1, 2)  # delivered, duplicates, gaps


def test_an_acknowledgement_waits_for_company() -> None:
    one = session()
    one.on_data(data(1)[0], 1, 0.0)
    assert one.peek(0.0) is None
    assert one.next_at() == CONFIG.link_ack_after_s
    assert drain(one, CONFIG.link_ack_after_s) == [(Ack(Plane.CONTROL, 1), None)]
    assert one.next_at() is None


def test_an_acknowledgement_travels_with_a_message() -> None:
    one = session()
    one.on_data(data(1)[0], 1, 0.0)
    one.send(b"a")
    assert drain(one) == [(data(1, ack=1)[0], b"a")]
    assert drain(one, 1.0) == []


@pytest.mark.parametrize("size", [10, 1000])
def test_on_the_bulk_plane_what_asks_for_more_takes_the_acknowledgement_along(size: int) -> None:
    one = Session(Plane.BULK, CONFIG)
    assert one.on_data(Data(Plane.BULK, 1, 0), size, 0.0)
    assert one.peek(0.0) is None, "not before the turn is over"
    one.send(b"more")
    assert drain(one) == [(Data(Plane.BULK, 1, 1), b"more")]
    assert drain(one, 1.0) == []


def test_on_the_bulk_plane_it_goes_alone_right_after_the_turn() -> None:
    one = Session(Plane.BULK, CONFIG)
    for sequence, now in ((1, 0.0), (2, 0.00005)):  # the second one puts nothing off
        assert one.on_data(Data(Plane.BULK, sequence, 0), 1000, now)
    assert one.next_at() == WITH_ANSWER_S < CONFIG.link_ack_after_s
    assert drain(one, WITH_ANSWER_S) == [(Ack(Plane.BULK, 2), None)]


@pytest.mark.parametrize(("count", "size"), [(3, 1), (1, 50)])
def test_many_messages_or_bytes_are_acknowledged_at_once(count: int, size: int) -> None:
    one = session()
    for frame in data(*range(1, count + 1)):
        one.on_data(frame, size, 0.0)
    assert drain(one) == [(Ack(Plane.CONTROL, count), None)]


def test_a_duplicate_is_acknowledged_at_once() -> None:
    one = session()
    one.on_data(data(1)[0], 1, 0.0)
    drain(one, 1.0)
    one.on_data(data(1)[0], 1, 2.0)
    assert drain(one, 2.0) == [(Ack(Plane.CONTROL, 1), None)]


def test_behind_a_gap_it_asks_once_for_a_whole_tail() -> None:
    one = session()
    one.on_data(data(1)[0], 1, 0.0)
    for frame in data(3, 4):
        one.on_data(frame, 1, 0.0)
    assert drain(one) == [(Ack(Plane.CONTROL, 1, True), None)]
    one.on_data(data(5)[0], 1, 0.0)
    assert drain(one) == []
    one.on_data(data(5)[0], 1, CONFIG.link_replay_after_s)  # nothing has come of it: once more
    assert drain(one, CONFIG.link_replay_after_s) == [(Ack(Plane.CONTROL, 1, True), None)]


def test_asked_again_it_begins_behind_the_acknowledged() -> None:
    one = session()
    sent(one, 4)
    drain(one)
    one.on_ack(Ack(Plane.CONTROL, 2, True), 0.0)
    assert [frame for frame, _ in drain(one)] == data(3, 4)
    one.on_ack(Ack(Plane.CONTROL, 1, True), 0.0)  # an old one: that gap is filled
    assert drain(one) == []
    assert one.replayed == 2


def test_a_new_connection_replays() -> None:
    one = session()
    sent(one, 3)
    drain(one)
    one.on_connected(0.0)
    assert [frame for frame, _ in drain(one)] == data(1, 2, 3)


def test_a_new_connection_says_again_what_has_arrived() -> None:
    one = session()
    one.on_connected(0.0)
    assert drain(one) == []
    one.on_data(data(1)[0], 1, 0.0)
    drain(one, 1.0)
    one.on_connected(2.0)
    assert drain(one, 2.0) == [(Ack(Plane.CONTROL, 1), None)]


def asked(one: Session) -> Ack:
    """The question that it asks when it has waited long enough."""
    at = one.next_at()
    assert at is not None
    one.tick(at - 0.001)
    assert drain(one, at - 0.001) == []
    one.tick(at)
    ((question, payload),) = drain(one, at)
    assert payload is None
    assert isinstance(question, Ack)
    return question


def test_silence_is_asked_about_with_growing_patience() -> None:
    one = session()
    one.send(b"a")
    drain(one)
    times = [0.0]
    for number in range(1, 6):
        times.append(one.next_at() or 0.0)
        assert asked(one).asks == number
    pauses = [round(after - before, 3) for before, after in pairwise(times)]
    assert pauses == [2.0, 4.0, 8.0, 16.0, 16.0]
    one.on_ack(Ack(Plane.CONTROL, 1), times[-1])
    assert one.next_at() is None
    assert one.replayed == 0


def test_a_question_is_answered_at_once_and_ahead_of_messages() -> None:
    one = session()
    one.on_data(data(1)[0], 1, 0.0)
    one.send(b"a")
    one.on_ack(Ack(Plane.CONTROL, 0, asks=7), 0.0)
    assert drain(one) == [(Ack(Plane.CONTROL, 1, answers=7), None), (data(1, ack=1)[0], b"a")]


@pytest.mark.fault(29)
def test_without_an_answer_nothing_is_sent_once_more() -> None:
    """The link may just be slow; then second copies would make it slower."""
    one = session()
    sent(one, 3)
    drain(one)
    for _ in range(4):
        asked(one)
    one.on_ack(Ack(Plane.CONTROL, 2), 99.0)
    assert drain(one, 99.0) == []
    assert one.replayed == 0


@pytest.mark.fault(32)
def test_an_answer_that_lacks_something_brings_it_once_more() -> None:
    one = session()
    sent(one, 3)
    drain(one)
    question = asked(one)
    one.on_ack(Ack(Plane.CONTROL, 1, answers=question.asks), 3.0)
    assert [frame for frame, _ in drain(one, 3.0)] == data(2, 3)
    one.on_ack(Ack(Plane.CONTROL, 1, answers=question.asks), 3.0)  # a second one tells nothing new
    assert drain(one, 3.0) == []


def test_an_answer_says_nothing_of_what_has_left_behind_the_question() -> None:
    one = session()
    sent(one, 1)
    drain(one)
    question = asked(one)
    sent(one, 1)
    drain(one, 2.0)
    one.on_ack(Ack(Plane.CONTROL, 1, answers=question.asks), 3.0)
    assert drain(one, 3.0) == []
    assert one.kept == 1


def test_the_answer_to_an_earlier_question_tells_nothing() -> None:
    """Of one before the last, or before all was sent once more over another connection."""
    one = session()
    sent(one, 2)
    drain(one)
    first, second = asked(one), asked(one)
    one.on_ack(Ack(Plane.CONTROL, 0, answers=first.asks), 9.0)
    assert drain(one, 9.0) == []
    one.on_connected(9.0)
    drain(one, 9.0)
    one.on_ack(Ack(Plane.CONTROL, 0, answers=second.asks), 9.0)
    assert drain(one, 9.0) == []


def test_who_asks_again_and_again_for_one_gap_is_answered_once() -> None:
    """What comes of it is behind all that is on its way; whether it is lost as well is for a question to find out."""
    one = session()
    sent(one, 3)
    drain(one)
    for _ in range(3):
        one.on_ack(Ack(Plane.CONTROL, 1, True), 1.0)
        drain(one, 1.0)
    assert one.replayed == 2
    question = asked(one)
    one.on_ack(Ack(Plane.CONTROL, 1, answers=question.asks), 4.0)
    drain(one, 4.0)
    assert one.replayed == 4


def test_who_has_asked_for_what_has_come_since_is_not_answered() -> None:
    one = session()
    sent(one, 4)
    drain(one)
    one.on_ack(Ack(Plane.CONTROL, 2), 1.0)
    one.on_ack(Ack(Plane.CONTROL, 1, True), 1.0)
    assert drain(one, 1.0) == []


def test_over_a_new_connection_a_gap_is_answered_anew() -> None:
    one = session()
    sent(one, 3)
    drain(one)
    one.on_ack(Ack(Plane.CONTROL, 1, True), 1.0)
    one.on_connected(1.0)
    drain(one, 1.0)
    one.on_ack(Ack(Plane.CONTROL, 1, True), 2.0)
    assert [frame for frame, _ in drain(one, 2.0)] == data(2, 3)


@pytest.mark.parametrize("what", ["an answer", "a new connection"])
def test_patience_begins_anew_with(what: str) -> None:
    one = session()
    sent(one, 1)
    drain(one)
    number = [asked(one).asks for _ in range(4)][-1]
    if what == "an answer":
        one.on_ack(Ack(Plane.CONTROL, 0, answers=number), 50.0)
    else:
        one.on_connected(50.0)
    drain(one, 50.0)
    assert one.next_at() == pytest.approx(50.0 + CONFIG.link_replay_after_s, abs=0.01)


def test_a_large_message_on_its_way_has_the_time_of_a_slow_link() -> None:
    one = Session(Plane.BULK, CONFIG)
    one.send(bytes(CONFIG.link_slowest_bytes_per_s * 10))
    drain(one)
    assert one.next_at() == CONFIG.link_replay_after_s + 10


# -- messages in parts -------------------------------------------------------------------------------------------------

PARTS = msgspec.structs.replace(
    CONFIG, link_window_messages=100, link_window_bytes=1 << 20, link_kept_max_bytes=1 << 20, link_first_bytes=40,
    link_least_bytes=10,
)  # fmt: skip
"""Parts of ten bytes, of which four may be on their way, until a rate is measured."""


def in_parts(size: int = 95) -> tuple[Session, bytes]:
    one, payload = Session(Plane.CONTROL, PARTS), bytes(range(size))
    one.send(payload)
    return one, payload


def given(frames: list[tuple[Data | Ack, Payload | None]], other: Session) -> list[Payload]:
    """The messages that are whole with these."""
    found: list[Payload] = []
    for frame, payload in frames:
        assert isinstance(frame, Data)
        assert payload is not None
        if other.on_data(frame, len(payload), 0.0):
            found += other.whole(frame, payload)
    return found


@pytest.mark.fault(29)
def test_a_large_message_leaves_in_parts_as_far_as_may_be_on_its_way_and_is_delivered_whole() -> None:
    """So each part that arrives is progress, however slow the link."""
    (one, payload), other = in_parts(), Session(Plane.CONTROL, PARTS)
    one.send(b"small")
    frames = drain(one)
    assert [(frame.more, len(part or b"")) for frame, part in frames] == [(True, 10)] * 4  # type: ignore[union-attr]
    assert given(frames, other) == []
    assert one.peek(0.0) is None
    [(ack, _)] = drain(other)
    assert isinstance(ack, Ack)
    one.on_ack(ack, 4.0)  # ten bytes per second
    assert one.silent_since == 4.0
    got = []
    for now in range(5, 14):
        got += given(drain(one, now), other)
        [(ack, _)] = drain(other) or [(Ack(Plane.CONTROL, one._highest), None)]
        assert isinstance(ack, Ack)
        one.on_ack(ack, now + 1.0)
    assert got == [payload, b"small"]
    assert one.kept == 0


def test_a_message_that_a_link_carries_at_once_leaves_whole() -> None:
    one, payload = Session(Plane.CONTROL, PARTS), bytes(95)
    one.pace.rate = 1e6
    one.send(payload)
    assert drain(one) == [(data(1)[0], payload)]


def test_the_other_plane_gets_pieces_cut_to_size() -> None:
    one = Session(Plane.BULK, PARTS)
    one.send(bytes(95))
    assert [len(payload or b"") for _, payload in drain(one)] == [95]


def test_a_message_with_blocks_has_one_number() -> None:
    one, other = Session(Plane.BULK, PARTS), Session(Plane.BULK, PARTS)
    one.send(b"before")
    blocks = Blocks(b"two", (b"", bytes(95)))
    one.send(blocks)
    one.send(b"behind")
    assert (one.kept, one.kept_bytes) == (3, 6 + 98 + 6)
    assert given(drain(one), other) == [b"before", blocks, b"behind"]
    one.on_connected(1.0)
    assert given(drain(one, 1.0), other) == []
    assert other.duplicates == 3


@pytest.mark.fault(48)
@pytest.mark.parametrize("first", [b"a part", Blocks(b"a", (b"part",))], ids=["block", "blocks"])
def test_blocks_are_no_part_of_anything(first: Payload) -> None:
    """Whoever says so is a member, and mistaken: the message is dropped and counted."""
    one = Session(Plane.BULK, PARTS)
    assert one.on_data(Data(Plane.BULK, 1, 0, more=True), 6, 0.0)
    assert one.whole(Data(Plane.BULK, 1, 0, more=True), first) == ()
    assert one.on_data(Data(Plane.BULK, 2, 0), 2, 0.0)
    assert one.whole(Data(Plane.BULK, 2, 0), Blocks(b"a", (b"b",))) == ()
    assert one.strange == 1
    assert one.on_data(Data(Plane.BULK, 3, 0), 4, 0.0)
    assert one.whole(Data(Plane.BULK, 3, 0), b"next") == (b"next",)


@pytest.mark.fault(26)
def test_parts_that_were_lost_are_sent_again_and_nothing_comes_twice() -> None:
    (one, payload), other = in_parts(), Session(Plane.CONTROL, PARTS)
    one.pace.rate = 1.0  # so it stays slow
    given(drain(one)[:2], other)
    got = []
    for now in range(1, 20):
        one.on_connected(float(now))
        got += given(drain(one, float(now)), other)
        one.on_ack(Ack(Plane.CONTROL, other._received), float(now))
        drain(other, float(now))
    assert got == [payload]
    assert one.kept == 0


@pytest.mark.fault(26)
def test_what_was_sent_whole_is_sent_whole_again_though_the_link_is_slow_by_now() -> None:
    """It may have arrived, under its number."""
    one, payload = Session(Plane.CONTROL, PARTS), bytes(95)
    one.pace.rate = 1e6
    one.send(payload)
    drain(one)
    one.pace.rate = 1.0
    one.on_connected(1.0)
    assert drain(one, 1.0) == [(data(1)[0], payload)]


@pytest.mark.fault(48)
def test_a_message_without_end_is_not_kept() -> None:
    """A member that says that more follows, again and again."""
    config = msgspec.structs.replace(PARTS, frame_max_bytes=100)
    one = Session(Plane.CONTROL, config)
    for number in range(1, 50):
        frame = Data(Plane.CONTROL, number, 0, more=number < 49)
        assert one.on_data(frame, 10, 0.0)
        assert one.whole(frame, bytes(10)) == ()
        assert len(one._parts or b"") <= 2 * config.frame_max_bytes
    assert one.strange == 1
    frame = Data(Plane.CONTROL, 50, 0)
    assert one.on_data(frame, 4, 0.0)
    assert one.whole(frame, b"next") == (b"next",)


@pytest.mark.fault(48)
@pytest.mark.parametrize("size", [0, 1])
def test_of_parts_without_number_no_more_is_kept_than_their_bytes(size: int) -> None:
    """Each frame of a socket is an object of some hundred bytes, whatever is in it."""
    one = Session(Plane.CONTROL, PARTS)
    kept = [memoryview(bytearray(size)) for _ in range(1000)]
    alive = [weakref.ref(each) for each in kept]
    for number in range(1, 1000):
        frame = Data(Plane.CONTROL, number, 0, more=True)
        assert one.on_data(frame, size, 0.0)
        assert one.whole(frame, kept.pop()) == ()
    del kept[:]
    assert not any(each() is not None for each in alive)
    last = Data(Plane.CONTROL, 1000, 0)
    assert one.on_data(last, 4, 0.0)
    assert [bytes(whole) for whole in one.whole(last, b"last")] == [bytes(size * 999) + b"last"]
    after = Data(Plane.CONTROL, 1001, 0)
    assert one.on_data(after, 5, 0.0)
    assert one.whole(after, b"after") == (b"after",)


def test_acknowledged_after_a_rewind() -> None:
    """What was on its way when the connection ended may have arrived."""
    one = session()
    sent(one, 4)
    drain(one)
    one.on_connected(0.0)
    one.advance(one.peek(0.0)[0], 0.0)  # type: ignore[index]
    one.on_ack(Ack(Plane.CONTROL, 3), 0.0)
    assert [frame for frame, _ in drain(one)] == data(4)
    assert one.kept == 1


@pytest.mark.fault(47)
def test_an_acknowledgement_of_what_was_never_sent() -> None:
    one = session()
    one.send(b"a")
    one.on_ack(Ack(Plane.CONTROL, 1), 0.0)
    assert one.strange == 1
    assert one.kept == 1
