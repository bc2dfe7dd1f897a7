"""Two hosts that cannot reach each other, while a third one sees both: work goes where it can, and comes back.

All use the `test` preset: a link is given up 6 s after the last word, and nobody is declared dead, since the third host
vouches for both.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lan.network import Lan
from tests.lan.peers import Peer, agree
from tests.lan.test_actors import node_of
from tests.lan.test_road import Speaker
from tests.until import until

MakeLan = Callable[..., Lan]


def cut(network: Lan, both_ways: bool = True) -> None:
    """Nothing passes from a to b, or both ways."""
    network.rule("a", "b", block=True)
    if both_ways:
        network.rule("b", "a", block=True)


def speaks(one: Speaker, other: Speaker) -> bool:
    """One says something: whether it is answered, and not told that the other one's host is gone."""

    def told() -> tuple[int, int]:
        look = one.look()
        return look["heard"].get("Results", 0), len(look["gone"])

    before = told()
    one.say(other, 1)
    until(lambda: told() != before, "an answer, or that there is none")
    return told()[0] > before[0]


@pytest.mark.parametrize("both_ways", [pytest.param(True, marks=pytest.mark.fault(24)),
                                       pytest.param(False, marks=pytest.mark.fault(23))])  # fmt: skip
def test_a_pair_gives_each_other_up_and_speaks_anew(lan: MakeLan, both_ways: bool) -> None:
    network = lan("a", "b", "c")
    a, b, c = (Peer(host) for host in network.hosts.values())
    agree(a, b, c)
    one, other, third = (Speaker(host) for host in network.hosts.values())
    assert speaks(one, other)
    assert speaks(other, one)
    cut(network, both_ways)  # nobody says anything: it is noticed all the same
    until(lambda: one.look()["gone"] == [node_of(b)], "a has given b up")
    until(lambda: other.look()["gone"] == [node_of(a)], "and b a")
    assert speaks(third, one)
    assert speaks(third, other)
    assert not speaks(one, other)
    agree(a, b, c)
    assert (a.mesh()["lives"], b.mesh()["lives"]) == (1, 1)
    network.heal()
    until(lambda: speaks(one, other), "they speak again")
    until(lambda: speaks(other, one), "both ways")
    assert (a.mesh()["lives"], b.mesh()["lives"]) == (1, 1), "nobody was declared dead"
    assert third.look()["gone"] == []
