"""Files of copies: written piece by piece, sealed, written again, read by pieces."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshray.errors import ObjectStoreFullError
from meshray.store import spans
from meshray.store.copies import CopyFiles, copy_capacity, read_piece
from meshray.store.files import STAMP_BYTES, is_shared_memory
from meshray.store.mapping import Mapping
from meshray.store.segments import SegmentStore
from meshray.wire.messages import Place
from tests.transit import brings_pages

NODE = b"thisnode"
PROCESS = NODE + b"process1"
NAME = "0000000000000000-1"
OBJECT = bytes(27) + b"x"
PAYLOAD = bytes(range(256)) * 40


def read(folder: Path, name: str, offset: int, size: int) -> bytearray:
    data = bytearray(size)
    read_piece(folder, name, offset, [memoryview(data)])
    return data


def write(files: CopyFiles, data: bytes, fresh: bool = True, capacity: int = 0) -> int:
    capacity = capacity or copy_capacity(len(data))
    files.open(NAME, capacity, fresh)
    for offset in range(0, len(data), 1000):
        files.write(NAME, offset, [data[offset : offset + 1000]])
    return capacity


def test_a_sealed_copy_is_a_segment_like_others(tmp_path: Path) -> None:
    files, reader = CopyFiles(tmp_path), SegmentStore(tmp_path, NODE, PROCESS)
    capacity = write(files, PAYLOAD)
    place = Place(OBJECT, NODE, NAME, len(PAYLOAD))
    files.seal(NAME, capacity, OBJECT, len(PAYLOAD))
    assert (tmp_path / NAME).stat().st_size == capacity
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    assert bytes(reader.open(place)) == PAYLOAD
    reader.close()
    files.close()


def test_what_is_written_again_cannot_be_opened_by_its_old_place(tmp_path: Path) -> None:
    files, reader = CopyFiles(tmp_path), SegmentStore(tmp_path, NODE, PROCESS)
    capacity = write(files, PAYLOAD)
    files.seal(NAME, capacity, OBJECT, len(PAYLOAD))
    other = PAYLOAD[:-100]
    write(files, other, fresh=False, capacity=capacity)
    with pytest.raises(Exception, match="another object by now, or none"):
        reader.open(Place(OBJECT, NODE, NAME, len(PAYLOAD)))
    files.seal(NAME, capacity, OBJECT[::-1], len(other))
    assert bytes(reader.open(Place(OBJECT[::-1], NODE, NAME, len(other)))) == other
    reader.close()


def test_one_that_was_given_up_halfway_serves_the_next(tmp_path: Path) -> None:
    """Its file is shorter than it will be."""
    files = CopyFiles(tmp_path)
    capacity = copy_capacity(len(PAYLOAD))
    files.open(NAME, capacity, True)
    files.write(NAME, 0, [PAYLOAD[:500]])
    write(files, PAYLOAD, fresh=False, capacity=capacity)
    files.seal(NAME, capacity, OBJECT, len(PAYLOAD))
    assert read(tmp_path, NAME, 0, len(PAYLOAD)) == PAYLOAD
    assert (tmp_path / NAME).stat().st_blocks * 512 >= capacity, "no hole is left behind the value"


def test_pieces_are_read_also_while_it_is_written(tmp_path: Path) -> None:
    files = CopyFiles(tmp_path)
    files.open(NAME, copy_capacity(len(PAYLOAD)), True)
    files.write(NAME, 0, [PAYLOAD[:1500], PAYLOAD[1500:2000]])
    assert read(tmp_path, NAME, 500, 1500) == PAYLOAD[500:2000]
    with pytest.raises(OSError, match="too early"):
        read(tmp_path, NAME, 1500, 1000)
    with pytest.raises(FileNotFoundError):
        read(tmp_path, "../secret", 0, 1)
    files.drop(NAME)
    files.drop(NAME)
    with pytest.raises(FileNotFoundError):
        read(tmp_path, NAME, 0, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_fresh_file_takes_nobody_elses_name(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"mine")
    files = CopyFiles(tmp_path)
    with pytest.raises(FileExistsError):
        files.open(NAME, 4096, True)
    assert (tmp_path / NAME).read_bytes() == b"mine"


def test_there_is_room_for_the_stamp() -> None:
    for size in (1, 4096 - STAMP_BYTES, 4096 - STAMP_BYTES + 1, 4096, 1 << 20):
        assert size + STAMP_BYTES <= copy_capacity(size) < size + STAMP_BYTES + 4096


class TestWrittenAgainInMemory:
    """Files that were written before are mapped, where they are memory."""

    @pytest.fixture
    def copies(self, shm: Path) -> Iterator[CopyFiles]:
        if not is_shared_memory(shm):
            pytest.skip("there is no shared memory")
        copies = CopyFiles(shm)
        yield copies
        copies.close()
        assert maps(shm) == 0

    def test_its_pages_are_written_and_its_mapping_is_kept(self, copies: CopyFiles, shm: Path) -> None:
        capacity = write(copies, PAYLOAD)
        copies.seal(NAME, capacity, OBJECT, len(PAYLOAD))
        assert maps(shm) == 0, "fresh pages need not be cleared first"
        for number in range(3):
            other = bytes([number]) * (len(PAYLOAD) - 100 * number)
            write(copies, other, fresh=False, capacity=capacity)
            copies.seal(NAME, capacity, OBJECT, len(other))
            assert (maps(shm), read(shm, NAME, 0, len(other))) == (1, other)

    @brings_pages
    def test_through_the_mapping(self, copies: CopyFiles, shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        capacity = write(copies, PAYLOAD)
        copies.seal(NAME, capacity, OBJECT, len(PAYLOAD))
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", no_room)
            write(copies, PAYLOAD[::-1], fresh=False, capacity=capacity)
        copies.seal(NAME, capacity, OBJECT, len(PAYLOAD))
        assert read(shm, NAME, 0, len(PAYLOAD)) == PAYLOAD[::-1]

    @pytest.mark.fault(36, 37)
    def test_pages_that_are_not_there_are_left_to_the_file_system(
        self, copies: CopyFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was given up after a few bytes: a hole, which shared memory may have no room for."""
        capacity = copy_capacity(len(PAYLOAD))
        copies.open(NAME, capacity, True)
        copies.write(NAME, 0, [PAYLOAD[:10]])
        monkeypatch.setattr(os, "pwritev", no_room)
        monkeypatch.setattr(Mapping, "populate", lambda mapping, start, end: end <= 4096)
        copies.open(NAME, capacity, False)
        copies.write(NAME, 0, [PAYLOAD[:4096]])
        with pytest.raises(ObjectStoreFullError):
            copies.write(NAME, 4096, [PAYLOAD[4096:]])

    def test_it_is_unmapped_when_it_goes_and_when_nothing_was_written_for_a_while(
        self, copies: CopyFiles, shm: Path
    ) -> None:
        capacity = write(copies, PAYLOAD)
        write(copies, PAYLOAD, fresh=False, capacity=capacity)
        assert maps(shm) == 1
        copies.spans.clear()
        assert maps(shm) == 0
        copies.write(NAME, 1000, [PAYLOAD[1000:]])
        assert maps(shm) == 1
        copies.seal(NAME, capacity, OBJECT, len(PAYLOAD))
        assert read(shm, NAME, 0, len(PAYLOAD)) == PAYLOAD
        write(copies, PAYLOAD, fresh=False, capacity=capacity)
        assert maps(shm) == 1
        copies.drop(NAME)
        assert not copies.spans.end_one(), "when there is time"
        assert maps(shm) == 0

    def test_a_value_of_several_spans(self, copies: CopyFiles, shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A piece that lies in two of them goes through the file system."""
        monkeypatch.setattr("meshray.store.copies.SPAN_BYTES", 4096)
        monkeypatch.setattr(spans, "SPAN_BYTES", 4096)
        capacity = write(copies, PAYLOAD)
        copies.seal(NAME, capacity, OBJECT, len(PAYLOAD))
        write(copies, PAYLOAD[::-1], fresh=False, capacity=capacity)
        copies.seal(NAME, capacity, OBJECT, len(PAYLOAD))
        assert (maps(shm) > 0, read(shm, NAME, 0, len(PAYLOAD))) == (True, PAYLOAD[::-1])

    @pytest.mark.fault(40)
    def test_no_room_for_another_mapping(self, copies: CopyFiles, shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        capacity = write(copies, PAYLOAD)
        monkeypatch.setattr(spans, "Mapping", no_room)
        write(copies, PAYLOAD[::-1], fresh=False, capacity=capacity)
        assert read(shm, NAME, 0, len(PAYLOAD)) == PAYLOAD[::-1]


def maps(folder: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(folder))


def no_room(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
