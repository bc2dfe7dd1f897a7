"""Where segments live."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshray.store import folders


def test_shared_memory_where_it_is_large_enough(tmp_path: Path) -> None:
    chosen = folders.choose_folder("ab" * 8, os.getuid(), 1000, tmp_path / "store", shared_memory=tmp_path)
    assert chosen == (tmp_path / f"meshray-{os.getuid()}" / ("ab" * 8), True, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(36)
def test_too_small_a_shared_memory(tmp_path: Path) -> None:
    folder, in_memory, warning = folders.choose_folder("ab", os.getuid(), 1 << 60, tmp_path / "store", tmp_path)
    assert (folder, in_memory) == (tmp_path / "store", False)
    for part in ("too small", f"{1 << 60:,}", "mount -o remount", "--shm-size", str(tmp_path / "store")):
        assert part in warning


def test_no_shared_memory(tmp_path: Path) -> None:
    chosen = folders.choose_folder("ab", os.getuid(), 1, tmp_path / "store", tmp_path / "nowhere")
    assert chosen.folder == tmp_path / "store"
    assert "no shared memory" in chosen.warning


def test_a_shared_memory_in_which_nothing_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: False)  # permissions do not keep root out
    chosen = folders.choose_folder("ab", os.getuid(), 1, tmp_path / "store", tmp_path)
    assert chosen.folder == tmp_path / "store"
    assert "read-only" in chosen.warning
    assert "Remove" not in chosen.warning, "there is nothing to remove"


@pytest.mark.parametrize("intruder", ["link", "open", "file"])
def test_a_parent_that_is_not_ours_alone(tmp_path: Path, intruder: str) -> None:
    parent = tmp_path / f"meshray-{os.getuid()}"
    if intruder == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        parent.symlink_to(tmp_path / "elsewhere")
    elif intruder == "open":
        parent.mkdir()
        parent.chmod(0o755)
    else:
        parent.touch(0o600)
    chosen = folders.choose_folder("ab", os.getuid(), 1, tmp_path / "store", tmp_path)
    assert not chosen.shared_memory
    assert str(parent) in chosen.warning


def test_making(tmp_path: Path) -> None:
    folder = folders.make_folder(tmp_path / "parent" / "node")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError):
        folders.make_folder(folder)


def test_default_capacity(tmp_path: Path) -> None:
    free = folders.free_bytes(tmp_path)
    capacity = folders.default_capacity(tmp_path / "not" / "there", 0.3)
    assert 0 < capacity <= free
    assert capacity <= folders.memory_bytes() * 0.3
    assert folders.default_capacity(tmp_path, 1e9) == pytest.approx(free * 0.95, rel=0.2)


def test_sweeping(tmp_path: Path) -> None:
    folder = folders.make_folder(tmp_path / "parent" / "node")
    kept = tmp_path / "kept"
    kept.write_bytes(b"x")
    (folder / "segment").write_bytes(bytes(100_000))
    (folder / "link").symlink_to(kept)
    assert folders.sweep(folder) >= 100_000
    assert not folder.exists()
    assert kept.exists()
    assert folders.sweep(folder) == 0
