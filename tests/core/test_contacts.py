"""Which addresses are tried."""

from __future__ import annotations

from random import Random

import pytest

from meshray.config import DEFAULT
from meshray.core.contacts import Contacts
from meshray.core.members import Members
from meshray.wire.gossip import LEFT
from tests.core.test_members import alive, members


def contacts(table: Members) -> Contacts:
    return Contacts(DEFAULT, table, Random(1), 0.0)


def test_who_knows_nobody_tries_seeds_quickly_then_slower() -> None:
    one = contacts(members())
    one.add_seeds(("s:1",), 5.0)
    assert one.next_at == 5.0
    pauses, now = [], 5.0
    for _ in range(6):
        assert one.next(now) == "s:1"
        pauses.append(one.next_at - now)
        now = one.next_at
    assert pauses == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_without_addresses_there_is_nothing_to_try() -> None:
    one = contacts(members())
    assert one.next(1.0) is None
    assert one.next_at > 1.0


@pytest.mark.fault(34)
def test_addresses_of_the_living_and_one_s_own_are_not_tried() -> None:
    one = contacts(members("a"))
    one.add_seeds(("a:7117", "me:7117", "s:1"), 0.0)
    assert {one.next(float(turn)) for turn in range(5)} == {"s:1"}


@pytest.mark.fault(22)
def test_each_of_the_dead_gets_its_turn_but_not_those_that_left() -> None:
    table = members("a", "b", "c", "d")
    table.bury(alive("a").node, "no answer", 0.0)
    table.bury(alive("b").node, LEFT, 0.0)
    table.bury(alive("c").node, "no answer", 0.0)
    one = contacts(table)
    one.add_seeds(("s:1",), 0.0)
    for _ in range(3):
        assert {one.next(0.0) for _ in range(3)} == {"a:7117", "c:7117", "s:1"}


def test_of_too_many_seeds_the_newest_count() -> None:
    one = contacts(members())
    for number in range(DEFAULT.contacts_max + 2):
        one.add_seeds((f"s{number}:1", "s0:1"), 0.0)
    found = {one.next(0.0) for _ in range(DEFAULT.contacts_max)}
    assert len(found) == DEFAULT.contacts_max
    assert "s0:1" in found
    assert f"s{DEFAULT.contacts_max + 1}:1" in found
    assert "s1:1" not in found


def test_seeds_and_the_dead_are_bounded() -> None:
    table = members(*(f"m{number}" for number in range(200)), remembered_max=200)
    for number in range(200):
        table.bury(alive(f"m{number}").node, "no answer", 0.0)
    one = contacts(table)
    one.add_seeds(tuple(f"s{number}:1" for number in range(200)), 0.0)
    tried = {one.next(0.0) for _ in range(2 * DEFAULT.contacts_max)}
    assert len(tried) == 2 * DEFAULT.contacts_max
    assert "m199:7117" in tried, "those that died last"
    assert len(one.last_peers()) == DEFAULT.contacts_max


def test_the_last_peers_are_the_living_first() -> None:
    table = members("a", "b", "c", "d")
    table.bury(alive("a").node, "no answer", 0.0)
    one = contacts(table)
    table.bury(alive("d").node, LEFT, 0.0)
    one.add_seeds(("s:1",), 0.0)
    assert one.last_peers() in (
        ("b:7117", "c:7117", "a:7117", "s:1"),
        ("c:7117", "b:7117", "a:7117", "s:1"),
    )
