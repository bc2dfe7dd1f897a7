"""From one machine to the next: a token, carried by hand, makes a host a member."""

from __future__ import annotations

import sys
from collections.abc import Callable

from meshray.tokens import read_token
from tests.lan.network import Lan
from tests.lan.peers import Peer
from tests.lan.test_discovery import KEY, Finder, give_key, meet


def test_a_token_names_where_the_peer_listens_and_no_other_address(lan: Callable[..., Lan]) -> None:
    network = lan("a")
    network["a"].ip("address add 10.77.0.101/24 dev eth0")
    a = Peer(network["a"], "--bind", "10.77.0.101", "--port", "7000")
    assert a.mesh()["listens"] == ["10.77.0.101:7000"]
    token = network["a"].run("sh", "-c", f"{sys.executable} -m meshray.cli token 2>/dev/null")
    assert [str(seed) for seed in read_token(token).seeds] == ["10.77.0.101:7000"]


def test_a_token_from_one_host_brings_the_next_one_in(lan: Callable[..., Lan]) -> None:
    network = lan("a", "b")
    give_key(network["a"])
    token = network["a"].run("sh", "-c", f"{sys.executable} -m meshray.cli token 2>/dev/null")
    seeds = [seed.host for seed in read_token(token).seeds]
    assert seeds == [network["a"].ipv4, network["a"].ipv6]
    (network["b"].folder / "token").write_text(token)
    told = network["b"].run("sh", "-c", f"{sys.executable} -m meshray.cli join <{network['b'].folder / 'token'}")
    assert KEY.id.hex() in told
    a, b = Finder(network["a"], key=None), Finder(network["b"], key=None)
    meet(a, b)
