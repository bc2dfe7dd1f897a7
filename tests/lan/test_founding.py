"""The first start of a mesh: one machine makes it, and the others are told how to join, also when all are started at
the same moment."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meshray.ids import new_node
from meshray.tokens import read_token
from meshray.wire.advert import encode, service_name
from tests.lan.network import Host, Lan, Program
from tests.lan.peers import CLI
from tests.lan.test_discovery import KEY, _advert, forge
from tests.until import until

MakeLan = Callable[..., Lan]

START = (*CLI, "start", "--preset", "test", "--num-cpus", "1")


def key_file(host: Host) -> Path:
    return host.folder / "home" / "mesh.key"


def ended(*programs: Program) -> list[int]:
    for program in programs:
        until(lambda: not program.running(), f"{program} ends")  # noqa: B023
    return [program.wait() for program in programs]


def test_the_first_makes_a_mesh_and_the_second_is_told_how_to_join(lan: MakeLan) -> None:
    network = lan("a", "b")
    told = network["a"].run(*START)
    assert "is made; its key is on this host only" in told
    assert "to bring the next machine in:  meshray token | ssh OTHER meshray join" in told
    assert key_file(network["a"]).stat().st_mode & 0o777 == 0o600
    told = network["b"].run(*START, status=1)
    assert "there is a mesh on this network already: " in told
    assert f"(a member: {network['a'].ipv4}, {network['a'].ipv6})" in told
    assert "meshray token | ssh b meshray join" in told
    assert "meshray start --new" in told
    assert not key_file(network["b"]).exists()
    token = network["a"].run("sh", "-c", f"{sys.executable} -m meshray.cli token 2>/dev/null")
    (network["b"].folder / "token").write_text(token)
    (network["b"].folder / "token").chmod(0o600)
    assert read_token(token).seeds
    network["b"].run(*CLI, "join", "--file", str(network["b"].folder / "token"))
    assert "it is in its mesh, beside a; it listens at port 7637" in network["b"].run(*START)
    until(lambda: "2 members" in network["a"].run(*CLI, "status"), "they are one mesh")
    for host in network.hosts.values():
        host.run(*CLI, "stop")


@pytest.mark.parametrize("round_", [0, *(pytest.param(more, marks=pytest.mark.slow) for more in (1, 2))])
def test_of_three_that_are_started_at_the_same_moment_one_makes_it(lan: MakeLan, round_: int) -> None:
    network = lan("a", "b", "c", seed=round_)
    programs = [host.start(*START) for host in network.hosts.values()]
    assert sorted(ended(*programs)) == [0, 1, 1], programs
    assert sum(key_file(host).exists() for host in network.hosts.values()) == 1
    for program in programs:
        if program.wait():
            assert any("makes its mesh at this moment" in line or "there is a mesh on this network" in line
                       for line in program.lines), program  # fmt: skip
    for host in network.hosts.values():
        if key_file(host).exists():
            host.run(*CLI, "stop")


def test_one_that_begins_to_listen_while_the_first_one_founds_hears_it(lan: MakeLan) -> None:
    network = lan("a", "b")
    slow = (
        "import sys\n"
        "from meshray.transport.founding import found\n"
        "def make():\n"
        "    print('makes', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    return 'made'\n"
        "print(found(make, claim=bytes([int(sys.argv[1])] * 8)), flush=True)\n"
    )
    a = network["a"].start("python", "-c", slow, "200")  # the larger one; its time is over before the other begins
    until(lambda: a.lines == ["makes"], "a is about to make it")
    b = network["b"].start("python", "-c", slow, "100")
    assert ended(b) == [0]
    assert b.lines == [f"Rival(hosts=('{network['a'].ipv4}', '{network['a'].ipv6}'))"]
    a.tell("")
    assert ended(a) == [0]
    assert a.lines[-1] == "made"


@pytest.mark.slow
def test_of_two_that_hear_each_other_the_smaller_name_goes_on(lan: MakeLan) -> None:
    network = lan("a", "b")
    program = (
        "import sys\n"
        "from meshray.transport.founding import found\n"
        "print(found(lambda: 'made', claim=bytes([int(sys.argv[1])] * 8), timeout_s=4.0), flush=True)\n"
    )
    a, b = network["a"].start("python", "-c", program, "200"), network["b"].start("python", "-c", program, "100")
    assert ended(a, b) == [0, 0]
    assert b.lines == ["made"], b
    assert a.lines[0].startswith("Rival("), a


@pytest.mark.slow
def test_of_three_the_last_is_told_of_the_one_that_makes_it_and_not_of_one_that_gave_in(lan: MakeLan) -> None:
    network = lan("a", "b", "c")
    program = (
        "import sys\n"
        "from meshray.transport.founding import found\n"
        "print(found(lambda: 'made', claim=bytes([int(sys.argv[1])] * 8), timeout_s=4.0), flush=True)\n"
    )
    claims = {"a": "100", "b": "50", "c": "200"}
    programs = [network[name].start("python", "-c", program, claim) for name, claim in claims.items()]
    assert ended(*programs) == [0, 0, 0]
    a, b, c = programs
    assert b.lines == ["made"], b
    assert a.lines == c.lines == [f"Rival(hosts=('{network['b'].ipv4}', '{network['b'].ipv6}'))"], (a, c)


def test_where_nothing_can_be_heard_it_is_made_with_a_warning(lan: MakeLan) -> None:
    network = lan("a")
    occupy = "import socket, sys; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);" \
             "s.bind(('::', 5353)); print('ready', flush=True); sys.stdin.read()"  # fmt: skip
    occupant = network["a"].start("python", "-c", occupy)
    until(lambda: "ready" in occupant.lines)
    told = network["a"].run(*START)
    assert "whether there is a mesh cannot be heard, since mDNS cannot be used (Address already in use)" in told
    assert key_file(network["a"]).exists()
    network["a"].run(*CLI, "stop")


def test_new_makes_another_one_all_the_same(lan: MakeLan) -> None:
    network = lan("a", "b")
    sound = encode(_advert(node := new_node()), KEY.founded_mesh(), KEY)
    forge(network["b"], service_name(node), sound)
    told = network["a"].run(*START, status=1)
    assert f"there is a mesh on this network already: {KEY.founded_mesh().hex()}" in told
    assert not key_file(network["a"]).exists()
    assert "is made" in network["a"].run(*START, "--new")
    network["a"].run(*CLI, "stop")


def test_where_there_is_no_lan_nobody_is_told_to_join(lan: MakeLan) -> None:
    network = lan("a")
    network["a"].ip("link set eth0 down")
    told = network["a"].run(*START, "--new")
    assert "so the peer listens nowhere" in told
    assert "it listens" not in told
    assert "meshray join" not in told
    assert "its port, once there is an interface to listen at:" in told
    network["a"].run(*CLI, "stop")
