"""Views keep a mapping alive, and tell when the last of them is gone."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshray.store import mapping as module
from meshray.store.mapping import Mapping
from tests.transit import brings_pages

SIZE = 1 << 16


def mapped(folder: Path, *, writable: bool = True) -> Mapping:
    path = folder / "file"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    fd = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
    try:
        return Mapping(fd, SIZE, writable=writable)
    finally:
        os.close(fd)


KEEPERS: dict[str, Callable[[memoryview], Any]] = {
    "the view": lambda view: view,
    "a slice": lambda view: view[100:200][1:],
    "a memoryview of it": lambda view: memoryview(view).cast("I"),
    "a pickle buffer": pickle.PickleBuffer,
    "its raw form": lambda view: pickle.PickleBuffer(view[5:]).raw(),
    "an array": lambda view: np.frombuffer(view, np.uint8),
    "a slice of an array": lambda view: np.frombuffer(view[8:808], np.int64)[3:9][::2],
    "a view of a reshaped one": lambda view: np.frombuffer(view, np.int32).reshape(4, -1).T.view(np.uint32),
    "a memoryview of an array": lambda view: memoryview(np.frombuffer(view, np.uint8))[3:],
    "an array made by pickle": lambda view: pickle.loads(
        pickle.dumps(np.zeros(10, np.uint8), 5, buffer_callback=lambda _: None), buffers=[view[:10]]
    ),
}


@pytest.mark.parametrize("keep", KEEPERS.values(), ids=KEEPERS.keys())
@pytest.mark.parametrize("writable", [True, False])
def test_what_is_made_from_a_view_keeps_it(shm: Path, keep: Callable[[memoryview], Any], writable: bool) -> None:
    ended: list[int] = []
    mapping = mapped(shm, writable=writable)
    kept = keep(mapping.view(SIZE, lambda: ended.append(1)))
    assert mapping.viewed
    assert ended == []
    bytes(kept)
    del kept
    assert ended == [1]
    assert not mapping.viewed


@pytest.mark.parametrize("copy", [bytes, bytearray, lambda view: np.frombuffer(view, np.uint8).copy()])
def test_copies_do_not_keep_it(shm: Path, copy: Callable[[memoryview], Any]) -> None:
    ended: list[int] = []
    mapping = mapped(shm)
    kept = copy(mapping.view(SIZE, lambda: ended.append(1)))
    assert ended == [1]
    assert bytes(kept[:3]) == b"\x00\x01\x02"


def test_a_view_is_read_only(shm: Path) -> None:
    view = mapped(shm).view(10, None)
    assert (view.format, view.ndim, len(view), view[3], view.readonly) == ("B", 1, 10, 3, True)
    with pytest.raises(TypeError):
        view[0] = 1  # type: ignore[index]
    array = np.frombuffer(view, np.uint8)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
        array.flags.writeable = True


def test_each_view_ends_by_itself(shm: Path) -> None:
    ended: list[int] = []
    mapping = mapped(shm)
    views = [mapping.view(SIZE, lambda number=number: ended.append(number)) for number in range(3)]
    del views[1]
    assert ended == [1]
    assert mapping.viewed
    views.clear()
    assert sorted(ended) == [0, 1, 2]
    assert not mapping.viewed
    last = mapping.view(1, None)
    assert mapping.viewed
    del last
    assert not mapping.viewed


def test_a_view_outlives_mapping_and_file(shm: Path) -> None:
    ended: list[int] = []
    mapping = mapped(shm)
    view = mapping.view(SIZE, lambda: ended.append(1))
    del mapping
    (shm / "file").unlink()
    assert bytes(view[:4]) == b"\x00\x01\x02\x03"
    assert ended == []
    del view
    assert ended == [1]


def test_it_is_unmapped_with_its_last_holder(shm: Path) -> None:
    def maps() -> int:
        return Path("/proc/self/maps").read_text().count(str(shm))

    if not Path("/proc/self/maps").exists():
        pytest.skip("there is no /proc")
    mapping = mapped(shm)
    view = mapping.view(10, None)
    descriptors = len(os.listdir("/proc/self/fd"))
    more = [mapped(shm) for _ in range(10)]
    assert len(os.listdir("/proc/self/fd")) == descriptors  # a mapping holds no descriptor
    assert maps() == 11
    del more, mapping
    assert maps() == 1
    del view
    assert maps() == 0


@pytest.mark.parametrize("size", [0, 1, 100, 1 << 15])
def test_writing(shm: Path, size: int) -> None:
    mapping = mapped(shm)
    mapping.populate()
    piece = os.urandom(size)
    for form in (piece, bytearray(piece), memoryview(piece), memoryview(np.frombuffer(piece, np.uint8))):
        assert mapping.write_at(7, form) == 7 + size
        assert mapping.bytes_at(7, size) == piece
        assert bytes(mapping.view(SIZE, None)[7 : 7 + size]) == piece
    with pytest.raises(AssertionError):
        mapping.write_at(SIZE - size + 1, piece)


def test_a_large_read_only_piece(shm: Path) -> None:
    piece = os.urandom(3 << 20)
    path = shm / "large"
    path.write_bytes(bytes(4 << 20))
    fd = os.open(path, os.O_RDWR)
    mapping = Mapping(fd, 4 << 20, writable=True)
    os.close(fd)
    mapping.write_at(64, memoryview(piece)[5:])
    assert path.read_bytes()[64:].startswith(piece[5:])


def test_foreign_memory_cannot_be_written(shm: Path) -> None:
    mapping = mapped(shm, writable=False)
    with pytest.raises(AssertionError):
        mapping.write_at(0, b"x")
    with pytest.raises(AssertionError):
        mapping.view(SIZE + 1, None)


def test_mapping_fails_with_an_error() -> None:
    with pytest.raises(OSError, match="cannot map a segment"):
        Mapping(-1, 4096, writable=False)


def test_views_may_end_in_any_thread(shm: Path) -> None:
    mapping = mapped(shm)
    ended: list[int] = []
    for _ in range(20):
        views = [np.frombuffer(mapping.view(SIZE, lambda: ended.append(1)), np.uint8) for _ in range(40)]
        threads = [threading.Thread(target=part.clear) for part in (views[:20], views[20:])]
        views.clear()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        del threads
        assert not mapping.viewed
    assert len(ended) == 800


def test_arrays_may_outlive_the_interpreter(shm: Path) -> None:
    mapped(shm)
    script = f"""
import builtins, os
from meshray.store.mapping import Mapping
fd = os.open({str(shm / "file")!r}, os.O_RDWR)
view = Mapping(fd, {SIZE}, writable=True).view({SIZE}, None)
class Late:
    def __init__(self, view):
        self.view, self.write, self.bytes = view, os.write, bytes
    def __del__(self):
        self.write(1, self.bytes(self.view[1:4]))
builtins.late = Late(view)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"\x01\x02\x03"


@brings_pages
def test_pages_are_brought_once_and_those_in_between_are_not_forgotten(
    shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought: list[tuple[int, int]] = []
    bring = module._madvise

    def madvise(address: int, size: int, advice: int) -> int:
        brought.append((address - mapping.address, size))
        done: int = bring(address, size, advice)
        return done

    monkeypatch.setattr(module, "_madvise", madvise)
    mapping = mapped(shm)
    assert mapping.populate(0, 5000)
    assert mapping.populate(5000, 6000), "it goes on where the last one has ended, though that is no page"
    assert mapping.populate(100, 6000)
    assert mapping.populate(9000, 10000)
    assert mapping.populate(0, 10000), "nobody has brought what is before the last one"
    assert brought == [(0, 5000), (4096, 1904), (8192, 1808), (0, 10000)]
    assert mapping.populate()
    assert mapping.populate()
    assert len(brought) == 5


@brings_pages
def test_pages_behind_the_end_of_the_file_are_not_there(shm: Path) -> None:
    """To touch one would be the end of the process."""
    path = shm / "short"
    path.write_bytes(bytes(5000))
    fd = os.open(path, os.O_RDWR)
    mapping = Mapping(fd, 4 * 4096, writable=True)
    assert mapping.populate(0, 5000)
    assert not mapping.populate(5000, 3 * 4096)
    assert not mapping.populate()
    os.ftruncate(fd, 4 * 4096)
    os.close(fd)
    assert mapping.populate()


def test_a_part_of_a_file(shm: Path) -> None:
    value = os.urandom(3 * 4096)
    path = shm / "parts"
    path.write_bytes(value)
    fd = os.open(path, os.O_RDONLY)
    mapping = Mapping(fd, 4096 + 10, writable=False, offset=4096)
    os.close(fd)
    assert mapping.view(4096 + 10, None) == value[4096 : 2 * 4096 + 10]


def test_views_that_have_ended_are_not_counted_for_ever(shm: Path) -> None:
    """Of a mapping of which some view always lives."""
    mapping = mapped(shm)
    last = mapping.view(1, None)
    for _ in range(100):
        view = mapping.view(1, None)
        last = view  # the one before ends
        assert mapping.viewed
        assert len(mapping._ended) == 0
    del view, last
    assert not mapping.viewed
