"""Discovery between hosts, over real multicast: who is found, who is not, and what a record does not mean."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from meshray.ids import new_node
from meshray.meshkey import MeshKey
from meshray.wire.advert import Advert, encode, service_name
from tests.lan.finder import advert_of
from tests.lan.network import Host, Lan, Program
from tests.until import until

MakeLan = Callable[..., Lan]
KEY = MeshKey(bytes(range(32)))


def give_key(host: Host, key: MeshKey = KEY, name: str = "mesh.key") -> None:
    home = host.folder / "home"
    home.mkdir(mode=0o700, exist_ok=True)
    (home / name).write_bytes(key.secret)
    (home / name).chmod(0o600)


class Finder:
    """A running `tests.lan.finder`."""

    def __init__(self, host: Host, *bind: str, key: MeshKey | None = KEY, **offer: float) -> None:
        if key is not None:
            give_key(host, key)
        self.host = host
        self.program: Program = host.start("python", "-m", "tests.lan.finder", *bind)
        until(lambda: self.program.json_lines() or not self.program.running(), f"the finder on {host.name} starts")
        assert self.program.running(), self.program
        self.node = str(self.program.json_lines()[0]["node"])
        self.offer(**offer)

    def tell(self, **command: object) -> None:
        self.program.tell(json.dumps(command))

    def offer(self, **resources: float) -> None:
        self.tell(offer=resources)

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.program.json_lines() if kind in line]

    def now(self) -> dict[str, dict[str, Any]]:
        """The last word on each node whose record stands."""
        there: dict[str, dict[str, Any]] = {}
        for line in self.program.json_lines():
            if "found" in line:
                there[line["found"]] = line
            elif "withdrawn" in line:
                there.pop(line["withdrawn"], None)
        return there

    def sees(self, *others: Finder) -> bool:
        return set(self.now()) == {other.node for other in others}

    def stats(self) -> dict[str, Any]:
        before = len(self.told("dropped"))
        self.tell(stats=0)
        until(lambda: len(self.told("dropped")) > before, "statistics")
        return self.told("dropped")[-1]

    def dropped(self, reason: str) -> int:
        return int(self.stats()["dropped"].get(reason, 0))

    def close(self) -> None:
        self.tell(close=0)
        assert self.program.wait() == 0, self.program
        assert self.told("closed")[0]["closed"] is True


def meet(*finders: Finder) -> None:
    """Wait until each sees all the others."""
    for finder in finders:
        others = [other for other in finders if other is not finder]
        until(lambda: finder.sees(*others), f"{finder.host.name} sees the others: {finder.program}")  # noqa: B023


def forge(host: Host, name: str, record: bytes | str) -> Program:
    """Announce a record from this host, by hand."""
    what = record if isinstance(record, str) else record.hex()
    program = host.start("python", "-m", "tests.lan.forger", host.ipv4, name, what)
    until(lambda: "ready" in program.lines or not program.running(), "the forger is ready")
    assert program.running(), program
    return program


class TestFinding:
    def test_three_hosts_find_each_other_and_a_withdrawn_one_goes(self, lan: MakeLan) -> None:
        network = lan("a", "b", "c")
        a, b, c = (Finder(host, disk=number) for number, host in enumerate(network.hosts.values(), start=1))
        meet(a, b, c)
        found = a.now()[b.node]
        assert found["resources"] == {"disk": 20_000}
        assert found["hosts"] == [network["b"].ipv4, network["b"].ipv6]
        assert a.told("addresses")[-1]["addresses"] == [network["a"].ipv4, network["a"].ipv6]
        b.close()
        until(lambda: a.sees(c) and c.sees(a), "b goes")
        assert a.stats()["there"] == 1
        a.close()
        c.close()

    def test_one_that_comes_later_is_found_and_finds(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        a = Finder(network["a"])
        until(lambda: a.told("addresses"), "a has begun")
        b = Finder(network["b"])
        meet(a, b)

    @pytest.mark.parametrize("version", [4, 6])
    def test_over_one_version_of_ip(self, lan: MakeLan, version: int) -> None:
        network = lan("a", "b")
        for host in network.hosts.values():
            host.speak_only(version)
        a, b = (Finder(host) for host in network.hosts.values())
        meet(a, b)
        assert a.now()[b.node]["hosts"] == [network["b"].ipv4 if version == 4 else network["b"].ipv6]

    def test_link_local_addresses_come_with_their_zone(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        for host in network.hosts.values():
            host.ip(f"address del {host.ipv4}/24 dev eth0", f"address del {host.ipv6}/64 dev eth0")
        a, b = (Finder(host) for host in network.hosts.values())
        meet(a, b)
        until(lambda: a.now()[b.node]["hosts"], "the zone is known")
        (address,) = a.now()[b.node]["hosts"]
        assert address.startswith("fe80::")
        program = "import socket, sys; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);" \
                  "s.connect(socket.getaddrinfo(sys.argv[1], 5000)[0][4]); print(s.getsockname()[3])"  # fmt: skip
        assert network["a"].run("python", "-c", program, address) == address.partition("%")[2]

    def test_with_loss_and_delay(self, lan: MakeLan) -> None:
        network = lan("a", "b", "c", seed=3)
        network.everywhere(loss=0.2, delay=0.05, jitter=0.02, duplicate=0.1)
        meet(*(Finder(host) for host in network.hosts.values()))

    def test_only_what_is_bound(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        network["a"].ip("address add 10.77.0.101/24 dev eth0 label eth0:1")
        a, b = Finder(network["a"], "10.77.0.101"), Finder(network["b"])
        meet(a, b)
        assert b.now()[a.node]["hosts"] == ["10.77.0.101"]
        give_key(network["a"])
        told = network["a"].run("python", "-m", "tests.lan.finder", "10.77.0.99", status=1)
        assert "no interface of this host has the address 10.77.0.99 (there are:" in told
        assert "10.77.0.101 (eth0)" in told

    def test_containers_and_tunnels_are_no_lan(self, lan: MakeLan) -> None:
        network = lan("a")
        network["a"].ip(
            "link add docker0 type bridge", "address add 172.17.0.1/16 dev docker0", "link set docker0 up",
            "link add veth1 type veth peer name veth2", "address add 172.18.0.1/16 dev veth1", "link set veth1 up",
            "link set veth2 up", "tuntap add wg0 mode tun", "address add 172.19.0.1/16 dev wg0", "link set wg0 up",
        )  # fmt: skip
        a = Finder(network["a"])
        until(lambda: a.told("addresses"), "a has begun")
        assert a.told("addresses")[-1]["addresses"] == [network["a"].ipv4, network["a"].ipv6]


class TestChanges:
    def test_other_resources_arrive(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        a, b = Finder(network["a"]), Finder(network["b"])
        meet(a, b)
        for number in range(1, 21):  # the last counts; not every one makes a record
            b.offer(disk=number)
        until(lambda: a.now()[b.node]["resources"] == {"disk": 200_000}, "the last offer arrives")
        assert a.now()[b.node]["serial"] < 10
        b.offer()
        until(lambda: a.now()[b.node]["resources"] == {}, "the resource goes")
        assert not a.told("withdrawn")

    @pytest.mark.fault(28)
    def test_an_interface_that_goes_down_and_comes_up(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        a, b = Finder(network["a"]), Finder(network["b"])
        meet(a, b)
        network["b"].ip("link set eth0 down")
        until(lambda: b.told("addresses")[-1]["addresses"] == [], "b notices")
        a.offer(disk=5)  # b cannot hear it
        until(lambda: a.stats()["there"] == 1, "a goes on")
        network["b"].ip("link set eth0 up", "route replace 224.0.0.0/4 dev eth0")
        until(lambda: network["b"].ipv4 in b.told("addresses")[-1]["addresses"], "b notices")
        until(lambda: b.now()[a.node]["resources"] == {"disk": 50_000}, "b hears what it has missed")
        assert a.sees(b)  # a record that was not withdrawn stands

    @pytest.mark.fault(28)
    def test_a_cable_that_is_pulled_and_plugged(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        a = Finder(network["a"])
        network.pull_cable("b")
        b = Finder(network["b"])
        until(lambda: a.told("addresses"), "a has begun")
        assert not b.now()
        network.plug_cable("b")
        meet(a, b)
        network.pull_cable("b")
        until(lambda: b.told("addresses")[-1]["addresses"] == [], "b notices")

    @pytest.mark.fault(28)
    def test_another_address(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        a, b = Finder(network["a"]), Finder(network["b"])
        meet(a, b)
        network["b"].ip(f"address del {network['b'].ipv4}/24 dev eth0", "address add 10.77.0.55/24 dev eth0",
                        "route replace 224.0.0.0/4 dev eth0")  # fmt: skip
        expected = ["10.77.0.55", network["b"].ipv6]
        until(lambda: a.now()[b.node]["hosts"] == expected, f"a hears of it: {a.program}")
        assert b.told("addresses")[-1]["addresses"] == expected
        a.offer(disk=1)
        until(lambda: b.now()[a.node]["resources"] == {"disk": 10_000}, "b still hears")

    @pytest.mark.slow
    def test_addresses_that_are_not_ready_at_once(self, lan: MakeLan) -> None:
        """In its first second an IPv6 address is tentative: it is there, and cannot be bound."""
        network = lan("a", "b")
        network["b"].run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_dad")
        for host in network.hosts.values():
            host.ip(f"address del {host.ipv4}/24 dev eth0")
        a, b = Finder(network["a"]), Finder(network["b"])
        meet(a, b)
        network["b"].ip("link set eth0 down")
        until(lambda: b.told("addresses")[-1]["addresses"] == [], "b notices")
        a.offer(disk=1)
        network["b"].ip("link set eth0 up", f"address replace {network['b'].ipv6}/64 dev eth0")
        until(lambda: b.now()[a.node]["resources"] == {"disk": 10_000}, "b hears again")

    @pytest.mark.slow
    def test_a_port_that_somebody_else_has(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        b = Finder(network["b"])
        program = "import socket, sys; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);" \
                  "s.bind(('::', 5353)); print('ready', flush=True); sys.stdin.read()"  # fmt: skip
        occupant = network["a"].start("python", "-c", program)
        until(lambda: "ready" in occupant.lines)
        a = Finder(network["a"])
        until(lambda: a.told("trouble"), "a says so")
        assert a.told("trouble")[0]["trouble"] == "mDNS cannot be used: Address already in use"
        occupant.kill()
        meet(a, b)
        assert a.stats()["trouble_now"] == ""

    def test_a_partition_that_heals(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        network.partition("a", "b")
        a, b = Finder(network["a"]), Finder(network["b"])
        until(lambda: a.told("addresses") and b.told("addresses"), "both have begun")
        network.heal()
        meet(a, b)


class TestTrust:
    def test_the_record_of_a_killed_one_stays_so_it_never_means_alive(self, lan: MakeLan) -> None:
        network = lan("a", "b", "c")
        a, b = Finder(network["a"]), Finder(network["b"])
        meet(a, b)
        b.program.kill()
        c = Finder(network["c"])  # whose arrival shows that a goes on, and has heard nothing of b's end
        until(lambda: c.node in a.now() and a.node in c.now(), "c is found")
        assert set(a.now()) == {b.node, c.node}
        assert not a.told("withdrawn")

    @pytest.mark.fault(54)
    def test_two_meshes_never_mix(self, lan: MakeLan) -> None:
        network = lan(*"abcd")
        other = MeshKey(bytes(range(1, 33)))
        ours = [Finder(network["a"]), Finder(network["b"])]
        theirs = [Finder(network["c"], key=other), Finder(network["d"], key=other)]
        meet(*ours)
        meet(*theirs)
        for finder in (*ours, *theirs):
            until(lambda: finder.dropped("foreign") >= 2, "the others are heard")  # noqa: B023
            assert finder.stats()["there"] == 1

    @pytest.mark.fault(54)
    def test_forged_records_lead_nowhere_and_are_counted(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        a = Finder(network["a"])
        until(lambda: a.told("addresses"), "a has begun")
        stranger = MeshKey.generate()
        advert = _advert()
        sound = encode(advert, KEY.founded_mesh(), KEY)
        changed = bytearray(sound)
        changed[-1] ^= 1
        forged = {
            "forged": bytes(changed),
            "unknown_key": encode(advert, KEY.founded_mesh(), stranger),
            "foreign": encode(advert, stranger.founded_mesh(), stranger),
            "version": b"\x09txtvers=9",
            "malformed": b"\x05hello",
        }
        for reason, record in forged.items():
            forge(network["b"], service_name(new_node() if reason != "forged" else advert.node), record)
            until(lambda: a.dropped(reason), reason)  # noqa: B023
        forge(network["b"], service_name(new_node()), sound)  # right in itself, and under another name
        until(lambda: a.dropped("forged") >= 2, "forged")
        forge(network["b"], "printer._meshray._tcp.local.", sound)
        until(lambda: a.dropped("malformed") >= 2, "malformed")
        assert a.now() == {}

    def test_a_replayed_record(self, lan: MakeLan) -> None:
        """An old one is stale, also after its peer has left. The last one of a dead peer is found, since it is sound:
        the dial shows that nobody is there."""
        network = lan("a", "b", "c")
        a, b = Finder(network["a"]), Finder(network["b"], disk=1)
        meet(a, b)
        node = bytes.fromhex(b.node)
        b.offer(disk=2)
        until(lambda: a.now()[b.node]["serial"] == 2, "a newer record")
        old, last = (encode(_advert(node, serial=serial), KEY.founded_mesh(), KEY) for serial in (1, 2))
        b.close()
        until(lambda: a.now() == {}, "b goes")
        forge(network["c"], service_name(node), old).kill()
        until(lambda: a.dropped("stale"), "the replay is dropped")
        assert a.now() == {}
        forge(network["c"], service_name(node), last)
        until(lambda: b.node in a.now(), "it leads to a dial")

    @pytest.mark.slow
    def test_a_flood_of_names_is_bounded_and_hides_nobody(self, lan: MakeLan) -> None:
        network = lan("a", "b", "c")
        a = Finder(network["a"])
        until(lambda: a.told("addresses"), "a has begun")
        forge(network["c"], "-", "--names")
        b = Finder(network["b"])
        meet(a, b)
        until(lambda: a.dropped("busy") + a.dropped("unanswered") >= 100, "all of them are accounted for")
        assert a.dropped("busy") > 0
        assert a.sees(b)

    def test_what_somebody_else_withdraws_is_said_again(self, lan: MakeLan) -> None:
        network = lan("a", "b", "c")
        a, b = Finder(network["a"]), Finder(network["b"])
        meet(a, b)

        def believed() -> bool:
            """One goodbye may be lost on its way, as any datagram."""
            forge(network["c"], service_name(bytes.fromhex(b.node)), "--withdraw").kill()
            return bool(a.told("withdrawn"))

        until(believed, "a believes it")
        until(lambda: a.sees(b), "b says that it is there")

    def test_a_rotation_of_keys(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        a, b = Finder(network["a"]), Finder(network["b"])
        meet(a, b)
        following = MeshKey.generate()
        for host in network.hosts.values():  # staged everywhere
            give_key(host, following, "mesh.key.next")
            (host.folder / "home" / "mesh.id").write_text(KEY.founded_mesh().hex())
        for finder in (a, b):
            finder.tell(keys=0)
        home = network["b"].folder / "home"
        (home / "mesh.key.next").rename(home / "mesh.key")  # switched on b
        serial = a.now()[b.node]["serial"]
        b.tell(keys=0)
        until(lambda: a.now()[b.node]["serial"] > serial, "a reads the record that was made with the next key")
        assert not a.dropped("unknown_key")

    def test_a_key_that_comes_late_opens_what_was_refused(self, lan: MakeLan) -> None:
        network = lan("a", "b")
        following = MeshKey.generate()
        (network["b"].folder / "home").mkdir(mode=0o700)
        (network["b"].folder / "home" / "mesh.id").write_text(KEY.founded_mesh().hex())
        a, b = Finder(network["a"]), Finder(network["b"], key=following)
        until(lambda: a.dropped("unknown_key"), "a lacks the key")
        give_key(network["a"], following, "mesh.key.next")
        a.tell(keys=0)
        until(lambda: a.sees(b), "a has the key")


def _advert(node: bytes = b"", serial: int = 1) -> Advert:
    base = advert_of(node or new_node(), {})
    return msgspec.structs.replace(base, addresses=[bytes([10, 77, 0, 99])], serial=serial)


def test_a_stopped_finder_goes_on_where_it_was(lan: MakeLan) -> None:
    network = lan("a", "b")
    a, b = Finder(network["a"]), Finder(network["b"])
    meet(a, b)
    b.program.signal(signal.SIGSTOP)
    a.offer(disk=3)
    until(lambda: a.stats()["there"] == 1, "a goes on")
    b.program.signal(signal.SIGCONT)
    until(lambda: b.now()[a.node]["resources"] == {"disk": 30_000}, "b catches up")
