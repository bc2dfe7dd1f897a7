"""Real peers on hosts: they find each other, see who is there, and notice who is gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lan.network import Lan
from tests.lan.peers import Peer, agree
from tests.until import until

MakeLan = Callable[..., Lan]


def test_three_hosts_find_each_other_and_one_that_is_switched_off_is_declared_dead(lan: MakeLan) -> None:
    network = lan("a", "b", "c")
    a, b, c = (Peer(host) for host in network.hosts.values())
    agree(a, b, c)
    row = next(member for member in a.mesh()["members"] if member["node_id"] == b.first)
    assert row["name"] == "b"
    network["c"].power_off()
    until(lambda: a.states()[c.first] == b.states()[c.first] == "dead", "both know that c is dead")
    b.stop()
    until(lambda: a.states()[b.first] == "left", "a knows that b has left")
