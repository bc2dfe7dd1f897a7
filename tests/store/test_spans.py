"""Spans of files that stay mapped: how many, how long, and which of them go first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshray.store import spans as module
from meshray.store.mapping import Mapping
from meshray.store.spans import Spans

PAGE = 4096
NAMES = [f"0000000000000000-{number}" for number in range(6)]


@pytest.fixture
def folder(shm: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(module, "SPAN_BYTES", PAGE)
    for name in NAMES:
        (shm / name).write_bytes(bytes(3 * PAGE))
    yield shm
    assert maps(shm) == 0


def maps(folder: Path) -> int:
    path = Path("/proc/self/maps")
    if not path.exists():
        pytest.skip("there is no /proc")
    return path.read_text().count(str(folder))


def map_one(spans: Spans, folder: Path, name: str, number: int = 0, capacity: int = 3 * PAGE) -> Mapping:
    descriptor = os.open(folder / name, os.O_RDWR)
    try:
        return spans.map(name, number, descriptor, capacity)
    finally:
        os.close(descriptor)


def test_it_is_found_again(folder: Path) -> None:
    spans = Spans(writable=True)
    assert spans.find(NAMES[0], 1) is None
    span = map_one(spans, folder, NAMES[0], 1)
    span.write_at(0, b"second page")
    del span
    found = spans.find(NAMES[0], 1)
    assert found is not None
    assert (found.capacity, found.writable) == (PAGE, True)
    assert (folder / NAMES[0]).read_bytes()[PAGE : PAGE + 6] == b"second"
    assert spans.find(NAMES[0], 0) is spans.find(NAMES[1], 1) is None


def test_the_last_one_of_a_file_is_shorter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPAN_BYTES", 2 * PAGE)
    spans = Spans(writable=False)
    assert [map_one(spans, folder, NAMES[0], number).capacity for number in range(2)] == [2 * PAGE, PAGE]


@pytest.mark.fault(40)
@pytest.mark.parametrize(("bound", "value"), [("MAPPED_MAX_BYTES", 3 * PAGE), ("MAPPED_MAX", 3)])
def test_those_that_were_used_longest_ago_go_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    """Memory that the kernel counts as ours, and mappings, of which a process may have a limited number."""
    monkeypatch.setattr(module, bound, value)
    spans = Spans(writable=False)
    for name in NAMES[:3]:
        map_one(spans, folder, name)
    assert spans.find(NAMES[0], 0) is not None
    map_one(spans, folder, NAMES[3])
    assert [spans.find(name, 0) is not None for name in NAMES[:4]] == [True, False, True, True]
    assert maps(folder) == 3


def test_one_that_is_too_short_is_mapped_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPAN_BYTES", 8 * PAGE)
    monkeypatch.setattr(module, "MAPPED_MAX_BYTES", 4 * PAGE)
    spans = Spans(writable=False)
    for pages in (1, 2, 3):
        map_one(spans, folder, NAMES[0], capacity=pages * PAGE)
    map_one(spans, folder, NAMES[1], capacity=PAGE)
    assert maps(folder) == 2, "what is mapped no more does not count"


def test_a_file_that_is_removed_is_forgotten(folder: Path) -> None:
    spans = Spans(writable=False)
    view = map_one(spans, folder, NAMES[0]).view(PAGE, None)
    for number in (1, 2):
        map_one(spans, folder, NAMES[0], number)
    map_one(spans, folder, NAMES[1])
    spans.forget(NAMES[0])
    assert (maps(folder), spans.given_up) == (4, 3), "each when there is time"
    assert [spans.find(NAMES[0], number) for number in range(3)] == [None] * 3
    assert [spans.end_one() for _ in range(3)] == [True] * 3
    assert (maps(folder), spans.given_up) == (2, 0), "what is in use stays as long"
    assert spans.find(NAMES[1], 0) is not None, "those that were given up go first"
    del view
    assert maps(folder) == 1


def test_files_that_others_have_removed_are_found(folder: Path) -> None:
    spans = Spans(writable=False)
    for name in NAMES[:4]:
        map_one(spans, folder, name)
    for name in NAMES[1:3]:
        (folder / name).unlink()
    spans.forget_removed(folder)
    assert spans.given_up == 2
    assert [spans.find(name, 0) is not None for name in NAMES[:4]] == [True, False, False, True]


def test_they_go_one_by_one(folder: Path) -> None:
    spans = Spans(writable=False)
    for name in NAMES[:3]:
        map_one(spans, folder, name)
    assert [(spans.end_one(), maps(folder)) for _ in range(4)] == [(True, 2), (True, 1), (False, 0), (False, 0)]
