"""The look for leaks sees what it is meant to see."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.leaks import RUNTIME_VARIABLE, STORE_ROOT, Snapshot, kill_left, runtime_folder, wait_clean


@pytest.fixture
def runtime() -> Iterator[Path]:
    with runtime_folder() as folder:
        yield folder


def test_nothing_new_is_clean(runtime: Path) -> None:
    assert wait_clean(Snapshot.take(runtime), 0) == []


def test_a_child_is_seen_and_ended(runtime: Path) -> None:
    before = Snapshot.take(runtime)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    with child.stdin:
        left = wait_clean(before, 0)
        kill_left(before)
        child.wait()
    assert [line for line in left if line.startswith(f"process {child.pid}:")]
    assert wait_clean(before) == []


def test_a_grandchild_without_parent_is_seen_by_its_runtime_folder(runtime: Path) -> None:
    before = Snapshot.take(runtime)
    program = (
        "import subprocess, sys; "
        "p = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0, stdout=-3, stderr=-3); print(p.pid)"
    )
    reading, writing = os.pipe()  # the orphan waits for our end of it
    done = subprocess.run([sys.executable, "-c", program], stdin=reading, capture_output=True, text=True, check=True)
    os.close(reading)
    orphan = int(done.stdout)
    left = wait_clean(before, 0)
    os.close(writing)
    assert [line for line in left if line.startswith(f"process {orphan}:")]
    kill_left(before)
    assert wait_clean(before) == []


def test_a_peers_folder_is_seen(runtime: Path) -> None:
    before = Snapshot.take(runtime)
    (runtime / "0123456789abcdef").mkdir(parents=True)
    assert wait_clean(before, 0) == [f"runtime folder {runtime}/0123456789abcdef"]


def test_a_store_folder_is_seen_unless_it_is_another_programs(runtime: Path, tmp_path: Path) -> None:
    before = Snapshot.take(runtime)
    name = os.urandom(8).hex()
    existed = STORE_ROOT.exists()
    (STORE_ROOT / name).mkdir(parents=True)
    try:
        assert wait_clean(before, 0) == [f"store folder {STORE_ROOT}/{name}"]
        (tmp_path / name).mkdir()
        other = subprocess.Popen(
            [sys.executable, "-c", "print(); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, RUNTIME_VARIABLE: str(tmp_path)},
        )
        assert other.stdin is not None
        assert other.stdout is not None
        with other.stdin, other.stdout:
            other.stdout.readline()  # it is there
            left = wait_clean(before, 0)
        other.wait()
        assert not [line for line in left if line.startswith("store folder")]
    finally:
        (STORE_ROOT / name).rmdir()
        if not existed:
            STORE_ROOT.rmdir()


def test_a_descriptor_is_seen(runtime: Path, tmp_path: Path) -> None:
    before = Snapshot.take(runtime)
    with (tmp_path / "file").open("w"):
        assert wait_clean(before, 0) == [f"1 more open descriptor(s) of {tmp_path}/file"]
    assert wait_clean(before, 0) == []
