"""`meshray start` as far as its words go: nothing is started here."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from meshray import meshkey
from meshray.cli import commands, starting
from meshray.launch import PeerSettings, Ready, Started
from meshray.local import PeerRecord
from meshray.meshkey import MeshKey


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[PeerSettings]:
    """What would have been started."""
    monkeypatch.setenv("MESHRAY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MESHRAY_SEEDS", raising=False)
    settings: list[PeerSettings] = []
    monkeypatch.setattr(starting, "start", lambda chosen, foreground, new: settings.append(chosen))
    return settings


def start(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(commands.meshray, ["start", *words])
    assert done.exit_code == code, done.output
    assert code == 0 or "Traceback" not in done.output
    return done.output


def test_seeds_from_a_file(started: list[PeerSettings], tmp_path: Path) -> None:
    meshkey.make(MeshKey.generate())
    file = tmp_path / "seeds"
    file.write_text("10.0.0.1  # the first\n# nobody\n10.0.0.2:7000\n")
    start("--join", f"@{file}")
    (settings,) = started
    assert settings.mesh is not None
    assert settings.mesh.seeds == ["10.0.0.1:7637", "10.0.0.2:7000"]
    assert "cannot be read: No such file" in start("--join", f"@{tmp_path / 'none'}", code=1)


@pytest.mark.parametrize("name", ["x" * 255, "schränk 2"])
def test_a_name(started: list[PeerSettings], name: str) -> None:
    start("--local", "--name", name)
    assert [settings.name for settings in started] == [name]


@pytest.mark.parametrize("name", ["x" * 256, "a\nb", "\x1b[2J", "\udcff"])
def test_what_is_no_name(started: list[PeerSettings], name: str) -> None:
    assert "it has" in start("--local", "--name", name, code=2)
    assert started == []


@pytest.mark.parametrize("quantity", ["1e300", "1e15", "-1", "NaN", "Infinity", "true", '"1"'])
def test_what_is_no_quantity(started: list[PeerSettings], quantity: str) -> None:
    assert "the value of 'x'" in start("--local", "--resources", f'{{"x": {quantity}}}', code=2)
    assert started == []


def test_a_large_quantity(started: list[PeerSettings]) -> None:
    start("--local", "--resources", '{"memory": 1e14}')
    assert started[0].resources == {"memory": 1e14}


def test_a_peer_that_listens_nowhere_does_not_say_that_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    record = PeerRecord(node="ab" * 8, pid=1, name="desk", private=False, ready=True, folder="/run/ab", mesh_port=7637)
    monkeypatch.setattr(starting, "find_peers", lambda: [record])
    assert "it is the first of its mesh; it listens at port 7637\n" in starting._described(Started(1, Ready(record)))
    told = starting._described(Started(1, Ready(record, listens=False)))
    assert "it listens" not in told
    assert "meshray join" not in told
    assert "its port, once there is an interface to listen at:  7637" in told


def test_whether_it_has_found_its_mesh_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    record = PeerRecord(node="ab" * 8, pid=1, name="desk", private=False, ready=True, folder="/run/ab", mesh_port=7637)
    monkeypatch.setattr(starting, "find_peers", lambda: [record])
    told = starting._described(Started(1, Ready(record)), [])
    assert (
        "no other member of its mesh has answered yet: `meshray status` says later; it listens at port 7637\n" in told
    )
    told = starting._described(Started(1, Ready(record)), ["b\x1b", "c"])
    assert "it is in its mesh, beside b?, c; it listens at port 7637\n" in told
    assert "beside a, b, c, ...;" in starting._described(Started(1, Ready(record)), ["a", "b", "c", "d"])


def test_what_to_type_next_names_the_peer_where_several_run(monkeypatch: pytest.MonkeyPatch) -> None:
    record = PeerRecord(node="ab" * 8, pid=1, name="my desk", private=False, ready=True, folder="/run/ab")
    monkeypatch.setattr(starting, "find_peers", lambda: [record])
    told = starting._described(Started(1, Ready(record)))
    assert "meshray.init()\n" in told
    assert "--name" not in told
    monkeypatch.setattr(starting, "find_peers", lambda: [record, record])
    told = starting._described(Started(1, Ready(record)))
    assert "meshray.init('/run/ab')\n" in told
    assert "meshray status --name 'my desk'\n" in told
    assert "meshray stop --name 'my desk'\n" in told
