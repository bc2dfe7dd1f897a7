"""Another key for a running mesh of three hosts: by two commands, with one away meanwhile, and to expel one."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.lan.network import Host, Lan
from tests.lan.peers import CLI, Peer, agree
from tests.until import until


def key_of(host: Host) -> str:
    """The id of the current key in its files."""
    lines = host.run(*CLI, "key", "show").splitlines()
    return next(line.split()[-1] for line in lines if line.split()[0] == "key")


def test_the_key_is_changed_while_members_go_on_and_one_comes_back(lan: Callable[..., Lan]) -> None:
    network = lan("a", "b", "c")
    a, b, c = (Peer(host) for host in network.hosts.values())
    agree(a, b, c)
    first = key_of(network["a"])
    mesh_id = a.mesh()["mesh_id"]

    told = network["a"].run(*CLI, "key", "stage")
    assert "All have it" in told
    assert sorted(line.split()[0] for line in told.splitlines() if "has it" in line) == ["b", "c"]
    assert "is staged here already" in network["b"].run(*CLI, "key", "stage", status=1)

    c.program.kill()  # one is away when it happens, and comes back
    until(lambda: a.states()[c.first] == b.states()[c.first] == "dead", "both know that c is dead")
    told = network["b"].run(*CLI, "key", "switch")
    assert "  c  away: its peer is dead" in told
    assert "All that are here use it; the old one is gone." in told
    second = key_of(network["a"])
    assert key_of(network["b"]) == second != first
    assert key_of(network["c"]) == first
    agree(a, b)
    assert {a.first, b.first} == a.living(), "nobody has died of it"
    c = Peer(network["c"], key=None)  # with what it had
    agree(a, b, c)
    until(lambda: key_of(network["c"]) == second, "c has followed")
    assert a.mesh()["mesh_id"] == mesh_id
    for peer in (a, b, c):
        until(lambda: peer.mesh()["no_link"] == {}, "what was said of the old key is over")  # noqa: B023


@pytest.mark.slow
def test_one_is_expelled_by_keeping_the_next_key_from_it(lan: Callable[..., Lan]) -> None:
    network = lan("a", "b", "c")
    a, b, c = (Peer(host) for host in network.hosts.values())
    agree(a, b, c)
    first = key_of(network["c"])
    network["a"].run(*CLI, "key", "stage", "--here")
    (network["b"].folder / "token").write_text(
        network["a"].run("sh", "-c", f"{sys.executable} -m meshray.cli token --next 2>/dev/null")
    )
    (network["b"].folder / "token").chmod(0o600)
    network["b"].run(*CLI, "key", "stage", "--file", str(network["b"].folder / "token"))
    told = network["a"].run(*CLI, "key", "switch", status=1)
    assert "Nothing was changed" in told
    assert any(line.split()[0] == "c" and "lacks it" in line for line in told.splitlines())
    told = network["a"].run(*CLI, "key", "switch", "--expel", status=1)
    assert any(line.split()[0] == "b" and "uses it" in line for line in told.splitlines())
    until(lambda: a.states()[c.first] == b.states()[c.first] == "dead", "c is not heard any more")
    agree(a, b)
    assert {a.first, b.first} == a.living()
    assert key_of(network["c"]) == first != key_of(network["a"])
    until(lambda: c.mesh()["other_key"] == 2 and a.mesh()["other_key"] == 1, "their records tell them of other keys")
    until(lambda: len(c.living()) == 1, "c has given the others up")
    assert "heard under another key: it was changed without this host" in network["c"].run(*CLI, "status")
    assert "away when it was changed" in network["a"].run(*CLI, "status")
    shown = network["a"].run(*CLI, "key", "show", "--all")
    assert f"b  {b.home[:8]}  key {key_of(network['a'])}, next none" in shown
