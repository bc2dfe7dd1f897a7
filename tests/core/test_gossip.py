"""Which news ride on a message."""

from __future__ import annotations

from collections import Counter

from meshray.config import DEFAULT
from meshray.core.gossip import Rumours, copies
from meshray.wire.gossip import Alive, Dead, Load, Suspect


def node(number: int) -> bytes:
    return number.to_bytes(8, "big")


def alive(number: int, incarnation: int = 0) -> Alive:
    return Alive(node(number), incarnation, "", ("a:1",), "3.11")


def test_each_piece_is_sent_so_many_times() -> None:
    rumours = Rumours(DEFAULT)
    for number in range(100):
        rumours.tell(alive(number))
    sent: Counter[bytes] = Counter()
    while rumours:
        picked = rumours.pick(7, 1000)
        assert 0 < len(picked) <= 7
        sent.update(piece.node for piece in picked)
    assert set(sent.values()) == {copies(DEFAULT, 1000)}
    assert copies(DEFAULT, 1000) == 16
    assert copies(DEFAULT, 9) == 4


def test_several_receivers_count_as_so_many_times() -> None:
    rumours = Rumours(DEFAULT)
    rumours.tell(alive(1))
    rounds = 0
    while rumours:
        rumours.pick(64, 5, receivers=3)
        rounds += 1
    assert rounds == 2  # 4 copies, 3 at a time


def test_what_was_sent_least_goes_first() -> None:
    rumours = Rumours(DEFAULT)
    for number in range(5):
        rumours.tell(alive(number))
    rumours.pick(5, 10)
    rumours.tell(alive(77))
    assert rumours.pick(1, 10) == [alive(77)]
    assert len(rumours.pick(6, 10)) == 6


def test_newer_news_of_a_node_replace_older_ones() -> None:
    rumours = Rumours(DEFAULT)
    rumours.tell(alive(1))
    rumours.pick(1, 10)
    rumours.tell(Suspect(node(1), 0, (node(2),)))
    rumours.tell(alive(1, 1))
    assert len(rumours) == 1
    assert rumours.pick(64, 10) == [alive(1, 1)]


def test_loads_are_sent_a_few_times_the_newest_only() -> None:
    rumours = Rumours(DEFAULT)
    rumours.tell_load(Load(node(1), 1, b"old"))
    rumours.tell_load(Load(node(1), 2, b"new"))
    sent = 0
    while rumours:
        assert rumours.pick(64, 1000) == [Load(node(1), 2, b"new")]
        sent += 1
    assert sent == DEFAULT.load_copies


def test_loads_in_one_message_are_bounded_and_take_turns() -> None:
    rumours = Rumours(DEFAULT)
    for number in range(3 * DEFAULT.load_max_news):
        rumours.tell_load(Load(node(number), 1, b""))
    firsts = [{piece.node for piece in rumours.pick(64, 10)} for _ in range(3)]
    assert [len(first) for first in firsts] == [DEFAULT.load_max_news] * 3
    assert len(set.union(*firsts)) == 3 * DEFAULT.load_max_news


def test_of_the_dead_only_the_death_is_told() -> None:
    rumours = Rumours(DEFAULT)
    rumours.tell(alive(1))
    rumours.tell_load(Load(node(1), 1, b""))
    rumours.forget(node(1))
    assert not rumours
    death = Dead(node(1), node(2), "no answer")
    rumours.tell(death)
    assert rumours.pick(64, 10) == [death]


def test_a_mesh_that_shrinks_lets_old_news_end() -> None:
    rumours = Rumours(DEFAULT)
    rumours.tell(alive(1))
    for _ in range(10):
        rumours.pick(64, 1000)
    rumours.pick(64, 5)
    assert not rumours
