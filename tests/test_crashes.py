"""What a crashed peer leaves: the end of its log, bounded, for its user alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshray import crashes
from meshray.cli.showing import describe_crash, show


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("MESHRAY_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "peer.log"
    path.write_text("it began\nTraceback: boom\n")
    return path


def test_the_last_crash_of_a_name_is_kept_for_its_user_alone(runtime: Path, log: Path) -> None:
    crashes.keep(log, "desk")
    log.write_text("the second\n")
    kept = crashes.keep(log, "desk")
    assert kept == runtime / "desk.crashed.log"
    assert kept.read_text() == "the second\n"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert [crash.name for crash in crashes.found()] == ["desk"]
    assert crashes.of_peer("other") is None


def test_the_end_of_a_long_log(log: Path) -> None:
    log.write_bytes(b"x" * crashes.KEPT_MAX_BYTES + b"the end")
    kept = crashes.keep(log, "desk").read_bytes()
    assert len(kept) == crashes.KEPT_MAX_BYTES
    assert kept.endswith(b"xthe end")


def test_of_many_the_newest_stay(log: Path) -> None:
    for number in range(crashes.KEPT_MAX + 3):
        os.utime(crashes.keep(log, f"peer{number}"), (number, number))
    assert len(crashes.found()) == crashes.KEPT_MAX
    assert crashes.of_peer("peer0") is None
    assert crashes.of_peer(f"peer{crashes.KEPT_MAX + 2}") is not None


@pytest.mark.parametrize("name", ["../up", "a/b", "\n", "." * 300, "é" * 250])
def test_a_name_leads_nowhere_else(name: str, runtime: Path, log: Path) -> None:
    kept = crashes.keep(log, name)
    assert kept.parent == runtime
    crash = crashes.of_peer(name)
    assert crash is not None
    assert crash.log == kept


def test_a_link_is_replaced_and_not_followed(runtime: Path, log: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (runtime / "desk.crashed.log").symlink_to(elsewhere)
    assert crashes.found() == []
    crashes.keep(log, "desk")
    assert elsewhere.read_text() == "mine"
    assert [crash.name for crash in crashes.found()] == ["desk"]


def test_without_a_runtime_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MESHRAY_RUNTIME_DIR", str(tmp_path / "none"))
    assert crashes.found() == []


def test_status_tells_of_it(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = crashes.keep(log, "desk")
    crash = crashes.of_peer("desk")
    assert crash is not None
    assert str(kept) in describe_crash(crash)
    show(None, everything=False, as_json=False)
    assert str(kept) in capsys.readouterr().out
    show("other", everything=False, as_json=False)
    assert str(kept) not in capsys.readouterr().out
    show(None, everything=False, as_json=True)
    assert str(kept) not in capsys.readouterr().out
