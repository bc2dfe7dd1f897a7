"""Pieces that are sent from the memory of segments: what is lent, for how long, and where nothing is."""

from __future__ import annotations

import errno
import gc
import os
import socket
from pathlib import Path

import pytest
import zmq

from meshray.store import loans as module
from meshray.store.files import is_shared_memory
from meshray.store.loans import Loans
from tests.until import until

NAME, OTHER = "0000000000000000-1", "0000000000000000-2"
VALUE = os.urandom(3 * 4096 + 100)

pytestmark = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no shared memory")


def in_memory(shm: Path) -> Loans:
    assert is_shared_memory(shm)
    for name in (NAME, OTHER):
        (shm / name).write_bytes(VALUE)
    return Loans(shm)


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (0, 4096), (4096, 4096), (5000, 300), (4095, 2), (7, 9000)])
def test_what_is_lent_is_the_memory_of_the_segment(shm: Path, offset: int, size: int) -> None:
    loans = in_memory(shm)
    lent = loans.lend(NAME, offset, size)
    assert lent is not None
    assert lent == VALUE[offset : offset + size]
    assert lent.readonly
    with (shm / NAME).open("r+b") as file:
        file.seek(offset)
        file.write(b"?" * size)
    assert lent == b"?" * size, "no copy"


def test_the_end_of_a_value(shm: Path) -> None:
    """It is not the end of a page."""
    lent = in_memory(shm).lend(NAME, 8192, len(VALUE) - 8192)
    assert lent == VALUE[8192:]


def test_a_loan_lasts_until_the_last_view_of_it_has_ended(shm: Path) -> None:
    loans = in_memory(shm)
    first, second = loans.lend(NAME, 0, 100), loans.lend(NAME, 50, 5000)
    assert first is not None
    part = first[10:20]
    assert (loans.is_lent(NAME), loans.is_lent(OTHER)) == (True, False)
    del first, second
    assert loans.is_lent(NAME), "a part of it is held"
    assert part == VALUE[10:20]
    del part
    assert not loans.is_lent(NAME)


@pytest.mark.parametrize("arrives", [True, False])
def test_a_loan_lasts_while_libzmq_has_it_to_send(shm: Path, arrives: bool) -> None:
    """Its threads end it, when it was sent or its socket is closed, whoever else has let go of it before."""
    loans = in_memory(shm)
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
        lent = loans.lend(NAME, 0, len(VALUE))
        assert lent is not None
        sender.send(lent, copy=False)
        del lent
        gc.collect()
        assert loans.is_lent(NAME)
        if arrives:
            receiver.bind(address)
            assert receiver.recv() == VALUE
        else:
            sender.close()
        until(lambda: not loans.is_lent(NAME), "the loan ends")


def test_what_is_lent_outlives_its_file(shm: Path) -> None:
    loans = in_memory(shm)
    lent = loans.lend(NAME, 0, len(VALUE))
    (shm / NAME).unlink()
    assert lent == VALUE


def test_a_loan_takes_no_descriptor_and_leaves_no_mapping(shm: Path) -> None:
    def maps() -> int:
        return Path("/proc/self/maps").read_text().count(str(shm))

    loans = in_memory(shm)
    descriptors = len(os.listdir("/proc/self/fd"))
    lent = [loans.lend(NAME, 4096 * number, 4096) for number in range(3)]
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert maps() > 0
    del lent
    assert maps() == 0
    assert not loans.is_lent(NAME)


def test_what_is_not_all_there_is_not_lent(shm: Path) -> None:
    """Its pages would be missed by the thread that encrypts, and that would be the end of the process."""
    loans = in_memory(shm)
    assert loans.lend(NAME, 0, 5 * 4096) is None
    assert not loans.is_lent(NAME)


def test_a_segment_that_is_gone(shm: Path) -> None:
    loans = in_memory(shm)
    for name in ("0000000000000000-3", "../secret", ""):
        with pytest.raises(FileNotFoundError):
            loans.lend(name, 0, 1)
    (shm / "0000000000000000-4").symlink_to(shm / NAME)
    with pytest.raises(OSError, match="0000000000000000-4"):
        loans.lend("0000000000000000-4", 0, 1)


@pytest.mark.fault(40)
def test_no_room_for_another_mapping(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`vm.max_map_count`: the piece is read instead."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    loans = in_memory(shm)
    descriptors = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(module, "Mapping", full)
    assert loans.lend(NAME, 0, 100) is None
    assert not loans.is_lent(NAME)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_nothing_is_lent_from_a_disk(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(VALUE)
    loans = Loans(tmp_path)
    assert loans.lend(NAME, 0, 100) is None
    assert not loans.is_lent(NAME)
