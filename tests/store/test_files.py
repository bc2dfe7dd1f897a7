"""One segment as a file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshray.errors import ObjectStoreFullError, OutOfDiskError
from meshray.store import files

OBJECT = b"o" * 28


@given(st.integers(0, 1 << 40))
def test_size_classes_hold_the_payload_and_waste_an_eighth_at_most(nbytes: int) -> None:
    capacity = files.capacity_for(nbytes)
    needed = nbytes + files.STAMP_BYTES
    assert capacity >= needed
    assert capacity % files.PAGE_BYTES == 0
    assert capacity - needed < max(files.PAGE_BYTES, capacity / 9)
    assert files.capacity_for(capacity - files.STAMP_BYTES) == capacity
    assert files.capacity_for(capacity - files.STAMP_BYTES + 1) > capacity


def test_arrays_of_common_sizes_waste_little() -> None:
    for exponent in range(17, 34):
        capacity = files.capacity_for((1 << exponent) + 1000)  # the array and the pickle around it
        assert capacity == (1 << exponent) + files.PAGE_BYTES


@given(st.integers(1 << 16, 1 << 40))
def test_there_are_eight_size_classes_per_doubling(nbytes: int) -> None:
    classes = {files.capacity_for(nbytes + nbytes * step // 64) for step in range(64)}
    assert len(classes) <= 10  # eight, and both ends


def test_names() -> None:
    process = b"n" * 8 + bytes(range(8))
    name = files.segment_name(process, 255)
    assert name == "0001020304050607-ff"
    assert files.is_segment_name(name)
    for bad in (
        "",
        "lock",
        "../etc-1",
        "0001020304050607-",
        "0001020304050607/-1",
        "0001020304050607-1/2",
        "a-b",
        "-1",
    ):
        assert not files.is_segment_name(bad)


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (100_000, 0, 5), (3,) * 3000, (200_000, 7, 70_000)])
def test_a_fresh_file_is_written_and_allocated_in_full(shm: Path, sizes: tuple[int, ...]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    whole = b"".join(pieces)
    capacity = files.capacity_for(len(whole))
    path = shm / "0001020304050607-1"
    files.create(path, capacity, pieces, files.stamp(OBJECT, len(whole)))
    found = path.stat()
    assert found.st_size == capacity
    assert found.st_blocks * 512 >= capacity  # no hole: touching one on a full file system kills the process
    assert found.st_mode & 0o777 == 0o600
    data = path.read_bytes()
    assert data.startswith(whole)
    assert files.is_stamped(data[-files.STAMP_BYTES :], OBJECT, len(whole))
    assert not files.is_stamped(data[-files.STAMP_BYTES :], OBJECT, len(whole) + 1)
    with pytest.raises(FileExistsError):
        files.create(path, capacity, pieces, b"")
    assert path.exists()  # what stood there before is not ours to remove


def test_short_writes_go_on_where_they_stopped(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, offset: real(fd, [bytes(buffers[0])[:7]], offset))
    pieces = [os.urandom(30), b"", os.urandom(7), os.urandom(1)]
    path = shm / "0001020304050607-1"
    files.create(path, files.capacity_for(38), pieces, files.NO_STAMP)
    assert path.read_bytes().startswith(b"".join(pieces))


@pytest.mark.fault(36)
@pytest.mark.parametrize(("in_memory", "kind"), [(True, ObjectStoreFullError), (False, OutOfDiskError)])
@pytest.mark.parametrize("step", ["pwritev", "posix_fallocate"])
def test_a_full_file_system_is_an_ordinary_error(
    shm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool, kind: type[Exception], step: str
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    folder = shm if in_memory else tmp_path
    with pytest.raises(kind, match="no room for"):
        files.create(folder / "0001020304050607-1", 8192, [b"x" * 5000], files.NO_STAMP)
    assert list(folder.iterdir()) == []


def test_other_errors_leave_nothing_either(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "pwritev", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.create(shm / "0001020304050607-1", 8192, [b"x"], files.NO_STAMP)
    assert list(shm.iterdir()) == []


def test_removing(shm: Path) -> None:
    one, other = b"n" * 8 + b"1" * 8, b"n" * 8 + b"2" * 8
    for process, number in ((one, 1), (one, 17), (other, 1)):
        files.create(shm / files.segment_name(process, number), 4096, [b"x"], files.NO_STAMP)
    (shm / "lock").touch()
    assert files.segments_of(shm, one) == [files.segment_name(one, 1), files.segment_name(one, 17)]
    assert files.unlink_segment(shm, files.segment_name(one, 1)) == 4096
    assert files.unlink_segment(shm, files.segment_name(one, 1)) == 0
    assert files.unlink_segment(shm, "lock") == 0
    assert (shm / "lock").exists()
