"""Files of copies: written piece by piece, sealed, written again, read by pieces."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshray.store.copies import CopyFiles, copy_capacity, read_piece
from meshray.store.files import STAMP_BYTES
from meshray.store.segments import SegmentStore
from meshray.wire.messages import Place

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
        files.write(NAME, offset, data[offset : offset + 1000])
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
    files.write(NAME, 0, PAYLOAD[:500])
    write(files, PAYLOAD, fresh=False, capacity=capacity)
    files.seal(NAME, capacity, OBJECT, len(PAYLOAD))
    assert read(tmp_path, NAME, 0, len(PAYLOAD)) == PAYLOAD
    assert (tmp_path / NAME).stat().st_blocks * 512 >= capacity, "no hole is left behind the value"


def test_pieces_are_read_also_while_it_is_written(tmp_path: Path) -> None:
    files = CopyFiles(tmp_path)
    files.open(NAME, copy_capacity(len(PAYLOAD)), True)
    files.write(NAME, 0, PAYLOAD[:2000])
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
