"""Pieces that are sent from the memory of segments: what, until when, and where it is not done."""

from __future__ import annotations

import errno
import gc
import os
import socket
from pathlib import Path

import pytest
import zmq

from meshray.store import spans
from meshray.store.files import is_shared_memory
from meshray.store.transit import Transit
from tests.transit import brings_pages
from tests.until import until

NAME, OTHER = "0000000000000000-1", "0000000000000000-2"
VALUE = os.urandom(3 * 4096 + 100)

pytestmark = [pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no shared memory"), brings_pages]


def in_memory(shm: Path) -> Transit:
    assert is_shared_memory(shm)
    for name in (NAME, OTHER):
        (shm / name).write_bytes(VALUE)
    return Transit(shm)


def maps(folder: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(folder))


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (0, 4096), (4096, 4096), (5000, 300), (4095, 2), (7, 9000)])
def test_what_is_sent_is_the_memory_of_the_segment(shm: Path, offset: int, size: int) -> None:
    transit = in_memory(shm)
    piece = transit.begin(NAME, offset, size, len(VALUE))
    assert piece is not None
    assert piece == VALUE[offset : offset + size]
    assert piece.readonly
    with (shm / NAME).open("r+b") as file:
        file.seek(offset)
        file.write(b"?" * size)
    assert piece == b"?" * size, "no copy"


def test_the_end_of_a_value(shm: Path) -> None:
    """It is not the end of a page."""
    piece = in_memory(shm).begin(NAME, 8192, len(VALUE) - 8192, len(VALUE))
    assert piece == VALUE[8192:]


def test_a_piece_is_in_transit_until_the_last_view_of_it_has_ended(shm: Path) -> None:
    transit = in_memory(shm)
    first, second = transit.begin(NAME, 0, 100, len(VALUE)), transit.begin(NAME, 50, 5000, len(VALUE))
    assert first is not None
    part = first[10:20]
    assert (transit.has(NAME), transit.has(OTHER)) == (True, False)
    del first, second
    assert transit.has(NAME), "a part of it is held"
    assert part == VALUE[10:20]
    del part
    assert not transit.has(NAME)


@pytest.mark.parametrize("arrives", [True, False])
def test_a_piece_is_in_transit_while_libzmq_has_it_to_send(shm: Path, arrives: bool) -> None:
    """Its threads end it, when it was sent or its socket is closed, whoever else has let go of it before."""
    transit = in_memory(shm)
    with (
        socket.socket() as place, zmq.Context() as context,
        context.socket(zmq.DEALER) as receiver, context.socket(zmq.DEALER) as sender,
    ):  # fmt: skip
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else can
        address = f"tcp://127.0.0.1:{place.getsockname()[1]}"
        sender.linger, receiver.rcvtimeo = 0, 30_000
        sender.copy_threshold = 0
        sender.connect(address)
        piece = transit.begin(NAME, 0, len(VALUE), len(VALUE))
        assert piece is not None
        sender.send(piece, copy=False)
        del piece
        gc.collect()
        assert transit.has(NAME)
        if arrives:
            receiver.bind(address)
            assert receiver.recv() == VALUE
        else:
            sender.close()
        until(lambda: not transit.has(NAME), "it has left")


def test_what_is_in_transit_outlives_its_file(shm: Path) -> None:
    transit = in_memory(shm)
    piece = transit.begin(NAME, 0, len(VALUE), len(VALUE))
    (shm / NAME).unlink()
    assert piece == VALUE


def test_a_piece_takes_no_descriptor_and_its_mapping_serves_the_next(shm: Path) -> None:
    transit = in_memory(shm)
    descriptors = len(os.listdir("/proc/self/fd"))
    pieces = [transit.begin(NAME, 4096 * number, 4096, len(VALUE)) for number in range(3)]
    assert (len(os.listdir("/proc/self/fd")), maps(shm)) == (descriptors, 1)
    del pieces
    assert not transit.has(NAME)
    assert maps(shm) == 1
    with (shm / NAME).open("r+b") as file:
        file.write(b"the file is written again")
    assert transit.begin(NAME, 0, 8, len(VALUE)) == b"the file"
    transit.spans.clear()
    assert maps(shm) == 0


def test_what_is_in_transit_outlives_its_span(shm: Path) -> None:
    transit = in_memory(shm)
    piece = transit.begin(NAME, 0, len(VALUE), len(VALUE))
    transit.spans.clear()
    (shm / NAME).unlink()
    assert (piece, maps(shm), transit.has(NAME)) == (VALUE, 1, True)
    del piece
    assert (maps(shm), transit.has(NAME)) == (0, False)


def test_a_value_that_grows(shm: Path) -> None:
    """A copy that is passed on while it comes; then a longer value in the same file."""
    transit, half = in_memory(shm), 2 * 4096
    (shm / NAME).write_bytes(VALUE[:half])
    assert transit.begin(NAME, 0, half, len(VALUE)) == VALUE[:half]
    assert transit.begin(NAME, 0, len(VALUE), len(VALUE)) is None, "it is not all there yet"
    (shm / NAME).write_bytes(VALUE)
    assert transit.begin(NAME, 0, len(VALUE), len(VALUE)) == VALUE
    (shm / NAME).write_bytes(2 * VALUE)
    assert transit.begin(NAME, 0, 2 * len(VALUE), 2 * len(VALUE)) == 2 * VALUE
    assert maps(shm) == 1


def test_a_value_of_several_spans(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshray.store.transit.SPAN_BYTES", 4096)
    monkeypatch.setattr(spans, "SPAN_BYTES", 4096)
    transit = in_memory(shm)
    for start in range(0, len(VALUE), 2048):
        size = min(2048, len(VALUE) - start)
        assert transit.begin(NAME, start, size, len(VALUE)) == VALUE[start : start + size]
    assert transit.begin(NAME, 3000, 2000, len(VALUE)) is None, "it lies in two of them, and is read"
    assert maps(shm) > 0


def test_what_is_not_all_there_is_not_sent_so(shm: Path) -> None:
    """Its pages would be missed by the thread that encrypts, and that would be the end of the process."""
    transit = in_memory(shm)
    assert transit.begin(NAME, 0, 5 * 4096, 5 * 4096) is None
    assert not transit.has(NAME)


def test_a_segment_that_is_gone(shm: Path) -> None:
    transit = in_memory(shm)
    for name in ("0000000000000000-3", "../secret", ""):
        with pytest.raises(FileNotFoundError):
            transit.begin(name, 0, 1, len(VALUE))
    (shm / "0000000000000000-4").symlink_to(shm / NAME)
    with pytest.raises(OSError, match="0000000000000000-4"):
        transit.begin("0000000000000000-4", 0, 1, len(VALUE))


@pytest.mark.fault(40)
def test_no_room_for_another_mapping(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`vm.max_map_count`: the piece is read instead."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    transit = in_memory(shm)
    descriptors = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(spans, "Mapping", full)
    assert transit.begin(NAME, 0, 100, len(VALUE)) is None
    assert not transit.has(NAME)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_nothing_is_sent_from_the_pages_of_a_disk(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(VALUE)
    transit = Transit(tmp_path)
    assert transit.begin(NAME, 0, 100, len(VALUE)) is None
    assert not transit.has(NAME)
