"""Whether a folder is still the one that was made."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshray.config import DEFAULT
from meshray.peer.folders import OwnFolders, describe, is_another
from meshray.peer.timers import Timers


@pytest.fixture
def own(tmp_path: Path) -> tuple[Path, tuple[int, int]]:
    folder = tmp_path / "peer"
    folder.mkdir()
    found = folder.stat()
    return folder, (found.st_dev, found.st_ino)


def test_it_is_what_is_in_it_does_not_matter(own: tuple[Path, tuple[int, int]]) -> None:
    folder, identity = own
    (folder / "socket").touch()
    assert not is_another(folder, identity)


def test_one_that_is_gone_or_has_another_in_its_place_is_another(own: tuple[Path, tuple[int, int]]) -> None:
    folder, identity = own
    folder.rename(folder.with_name("elsewhere"))
    assert is_another(folder, identity)
    folder.mkdir()
    assert is_another(folder, identity)


def test_nor_is_it_there_below_something_that_is_no_folder(own: tuple[Path, tuple[int, int]]) -> None:
    folder, identity = own
    folder.rename(folder.with_name("elsewhere"))
    folder.touch()
    assert is_another(folder / "inner", identity)


def test_what_cannot_be_looked_at_is_as_it_was(
    own: tuple[Path, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, identity = own

    def stat(_: Path) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("meshray.peer.folders.os.stat", stat)
    assert not is_another(folder, identity)


def test_people_are_told_what_prevents_it() -> None:
    sockets, segments = describe(Path("/run/user/1000/meshray/n"), False), describe(Path("/dev/shm/meshray/n"), True)
    assert "/run/user/1000/meshray/n" in sockets
    assert "loginctl enable-linger" in sockets
    assert "MESHRAY_RUNTIME_DIR" in sockets
    assert "loginctl enable-linger" in segments
    assert "MESHRAY_RUNTIME_DIR" not in segments


def parts(folder: Path, private: bool = False) -> Any:
    """What of `Parts` is used."""
    told: list[str] = []
    return SimpleNamespace(
        folder=folder, store_folder=folder, timers=Timers(), config=DEFAULT, leaving="", stopping="", told=told,
        record=SimpleNamespace(private=private), leave=lambda reason, work_s: told.append(reason),
    )  # fmt: skip


def test_it_looks_again_and_again_and_ends_the_peer_once(own: tuple[Path, tuple[int, int]]) -> None:
    folder, _ = own
    peer = parts(folder)
    folders = OwnFolders(peer)
    for _ in range(3):
        peer.timers.run_due(peer.timers.next_deadline())
    assert (peer.told, folders.lost) == ([], "")
    folder.rename(folder.with_name("elsewhere"))
    peer.timers.run_due(peer.timers.next_deadline())
    assert peer.told == [folders.lost] != [""]
    assert peer.timers.next_deadline() is None


def test_one_that_ends_anyway_is_left_alone(own: tuple[Path, tuple[int, int]]) -> None:
    folder, _ = own
    peer = parts(folder)
    folders = OwnFolders(peer)
    peer.leaving = "SIGTERM"
    folder.rename(folder.with_name("elsewhere"))
    peer.timers.run_due(peer.timers.next_deadline())
    assert (peer.told, folders.lost) == ([], "")


def test_the_peer_of_a_single_program_goes_on(own: tuple[Path, tuple[int, int]]) -> None:
    peer = parts(own[0], private=True)
    OwnFolders(peer)
    assert peer.timers.next_deadline() is None
