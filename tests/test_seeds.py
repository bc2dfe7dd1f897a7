from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from meshray import seeds
from meshray.config import DEFAULT
from meshray.seeds import Seed, SeedError, parse_seeds

MESH = bytes(8)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MESHRAY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_port_is_nobodys_by_chance() -> None:
    assert 1024 < DEFAULT.mesh_port < 32768


class TestParsing:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", []),
            ("desk", [Seed("desk", DEFAULT.mesh_port)]),
            ("desk:7000", [Seed("desk", 7000)]),
            ("10.0.0.1:1,10.0.0.2", [Seed("10.0.0.1", 1), Seed("10.0.0.2", DEFAULT.mesh_port)]),
            ("[fd00::1]:65535", [Seed("fd00::1", 65535)]),
            ("[fd00::1]", [Seed("fd00::1", DEFAULT.mesh_port)]),
            ("fd00::1", [Seed("fd00::1", DEFAULT.mesh_port)]),
            ("[fe80::1%eth0]:7000", [Seed("fe80::1%eth0", 7000)]),
            ("mesh.default.svc.cluster.local.:7000", [Seed("mesh.default.svc.cluster.local.", 7000)]),
            (" a:1 ,\n b:2  a:1,", [Seed("a", 1), Seed("b", 2)]),
        ],
    )
    def test_forms(self, text: str, expected: list[Seed]) -> None:
        assert parse_seeds(text) == expected
        assert parse_seeds(",".join(map(str, expected))) == expected

    @pytest.mark.parametrize(
        "word",
        ["desk:", "desk:0", "desk:65536", "desk:x", "desk:-1", "desk:¹", ":7000", "[fd00::1", "[fd00::1]7", "[desk]:1",
         "[10.0.0.1]:1", "a:1:2", "10.0.0.300:1", "10.0.0", "-a:1", "a_b..c", "a b@c", "tcp://desk:1", "x" * 64, "é:1",
         "meshray1:AAAA", "[fe80::1%eth0@if5]:1", "[fe80::1%a b]:1", "[fe80::1%]:1", "[fe80::1%sixteen-letters-]:1",
         "fe80::1%é", "10.0.0.1%eth0"],
    )  # fmt: skip
    def test_a_wrong_one_is_named(self, word: str) -> None:
        with pytest.raises(SeedError, match="is no (address|port)"):
            parse_seeds(f"good:1,{word}")

    def test_not_too_many(self) -> None:
        text = ",".join(f"10.0.0.{number}" for number in range(DEFAULT.seeds_max + 1))
        with pytest.raises(SeedError, match=f"more than {DEFAULT.seeds_max}"):
            parse_seeds(text)
        assert len(parse_seeds(text.rpartition(",")[0])) == DEFAULT.seeds_max

    def test_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(seeds.SEEDS_VARIABLE, raising=False)
        assert seeds.seeds_from_environment() == []
        monkeypatch.setenv(seeds.SEEDS_VARIABLE, "a:1,b:2")
        assert seeds.seeds_from_environment() == [Seed("a", 1), Seed("b", 2)]
        monkeypatch.setenv(seeds.SEEDS_VARIABLE, "a:x")
        with pytest.raises(SeedError, match="MESHRAY_SEEDS: 'a:x'"):
            seeds.seeds_from_environment()

    def test_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "seeds"
        file.write_text("# the desk\ndesk:1  # the old one\n\n10.0.0.2, [fd00::1]:3\n")
        assert seeds.seeds_from_file(str(file)) == [
            Seed("desk", 1),
            Seed("10.0.0.2", DEFAULT.mesh_port),
            Seed("fd00::1", 3),
        ]
        file.write_text("desk:x")
        with pytest.raises(SeedError, match=rf"{file}: 'desk:x'"):
            seeds.seeds_from_file(str(file))
        with pytest.raises(SeedError, match=r"none cannot be read: No such file"):
            seeds.seeds_from_file(str(tmp_path / "none"))
        file.write_bytes(b"\xff\x00" * 10**6)
        with pytest.raises(SeedError, match="is no address"):
            seeds.seeds_from_file(str(file))


class TestResolving:
    def test_an_address_is_itself(self) -> None:
        assert seeds.resolve(Seed("10.0.0.1", 1)) == [Seed("10.0.0.1", 1)]
        assert seeds.resolve(Seed("fd00::1", 1)) == [Seed("fd00::1", 1)]

    def test_a_name_may_have_many_addresses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        answers = [(*stream, (f"10.0.{n // 200}.{n % 200}", 7)) for n in range(300)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers[:2] + answers)
        found = seeds.resolve(Seed("mesh", 7))
        assert found[:3] == [Seed("10.0.0.0", 7), Seed("10.0.0.1", 7), Seed("10.0.0.2", 7)]
        assert len(found) == DEFAULT.seed_addresses_max

    def test_an_unknown_name_has_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        assert seeds.resolve(Seed("nowhere", 1)) == []


class TestLastPeers:
    def test_the_newest_first_each_once_and_bounded(self) -> None:
        assert seeds.last_peers(MESH) == []
        seeds.remember_peers(MESH, [Seed("a", 1), Seed("fd00::1", 2)])
        seeds.remember_peers(MESH, [Seed("b", 1), Seed("a", 1), Seed("b", 1)])
        assert seeds.last_peers(MESH) == [Seed("b", 1), Seed("a", 1), Seed("fd00::1", 2)]
        seeds.remember_peers(MESH, [Seed(f"host{number}", 1) for number in range(200)])
        assert seeds.last_peers(MESH) == [Seed(f"host{number}", 1) for number in range(DEFAULT.last_peers_max)]

    def test_who_is_not_seen_any_more_goes_but_where_there_are_few(self) -> None:
        now = 1e9
        before = {Seed("long", 1): now - 500, Seed("a", 9): now - 1, Seed("b", 1): now - 2, Seed("c", 1): now - 90}
        before |= {Seed("d", 1): now - 3, Seed("e", 1): now - 4}
        few = seeds.merge([Seed("a", 1), Seed("me", 1)], before, now)
        assert list(few) == [Seed("a", 1), Seed("me", 1), Seed("b", 1), Seed("d", 1), Seed("e", 1)]
        assert len(few) == DEFAULT.last_peers_least
        assert [few[seed] for seed in few] == [now, now, now - 2, now - 3, now - 4]
        many = [Seed(f"m{number}", 1) for number in range(DEFAULT.last_peers_least)]
        assert list(seeds.merge(many, before, now)) == many

    def test_who_was_seen_too_long_ago_is_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seeds.remember_peers(MESH, [Seed("a", 1)])
        later = time.time() + DEFAULT.last_peers_kept_s + 1
        monkeypatch.setattr("meshray.seeds.time.time", lambda: later)
        assert seeds.last_peers(MESH) == []
        seeds.remember_peers(MESH, [Seed("b", 1)])
        assert seeds.last_peers(MESH) == [Seed("b", 1)]

    def test_those_of_another_mesh_are_not_ours(self) -> None:
        seeds.remember_peers(MESH, [Seed("a", 1)])
        assert seeds.last_peers(bytes(7) + b"x") == []

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{",
            b"[]",
            b'{"mesh": 1}',
            b'{"mesh": "0000000000000000", "peers": ["b:1"]}',
            b"x" * 10**6,
            b'{"mesh": "0000000000000000", "peers": [{"address": "a:x", "at": 9e9}, {"address": "b:1", "at": 9e9}]}',
        ],
    )
    def test_what_cannot_be_read_is_no_hint(self, home: Path, data: bytes) -> None:
        home.mkdir(mode=0o700)
        (home / "peers.json").write_bytes(data)
        assert seeds.last_peers(MESH) in ([], [Seed("b", 1)])
        seeds.remember_peers(MESH, [Seed("c", 1)])
        assert seeds.last_peers(MESH)[0] == Seed("c", 1)

    def test_it_is_private_and_whole(self, home: Path) -> None:
        seeds.remember_peers(MESH, [Seed("a", 1)])
        assert [path.name for path in home.iterdir()] == ["peers.json"]
        assert (home / "peers.json").stat().st_mode & 0o777 == 0o600
