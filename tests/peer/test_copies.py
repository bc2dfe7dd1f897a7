"""The files of copies, where a file system is full, or no descriptor is left; and how pieces leave."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from meshray.config import Config, preset
from meshray.core.effects import DropCopy, OpenCopy, SealCopy, Send, WriteCopy
from meshray.core.fetches import Fetches
from meshray.core.serving import Serving
from meshray.ids import object_of, peer_of
from meshray.peer.copies import CopyHands
from meshray.peer.mesh import Mesh
from meshray.peer.parts import Parts
from meshray.peer.timers import Timers
from meshray.store.copies import copy_capacity
from meshray.store.files import is_shared_memory
from meshray.store.transit import Transit
from meshray.wire import messages as m
from meshray.wire.codec import decode
from meshray.wire.envelopes import opened, with_blocks
from meshray.wire.peers import Payload, Plane
from tests.transit import brings_pages, none_in_transit

NEAR, MAKER, OWNER = b"near----", b"maker---", b"owner---"
A = NEAR + b"a" * 8
SIZE = 300_000
VALUE = bytes(number % 251 for number in range(SIZE))
CONFIG = preset("test")


def place(number: int = 1, node: bytes = MAKER) -> m.Place:
    return m.Place(object_of(OWNER + b"process-" + number.to_bytes(8, "big"), 0), node, f"{'ab' * 8}-{number}", SIZE)


class Peer:
    """A core, its hands, and what it said; there is always room."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetches = Fetches(CONFIG, NEAR, copy_capacity, none_in_transit)
        cores = SimpleNamespace(fetches=self.fetches)
        parts = SimpleNamespace(
            store_folder=folder, cores=cores, config=CONFIG, timers=Timers(), transit=Transit(folder)
        )
        self.hands = CopyHands(cast(Parts, parts))
        self.table: dict[type, Callable[[Any, float], None]] = {
            OpenCopy: self.hands.open, WriteCopy: self.hands.write, SealCopy: self.hands.seal,
            DropCopy: self.hands.drop,
        }  # fmt: skip
        self.said: list[Any] = []

    def settle(self) -> None:
        while effects := self.fetches.take_effects():
            for effect in effects:
                if not isinstance(effect, Send):
                    self.table[type(effect)](effect, 0.0)
                elif isinstance(effect.message, m.CreditRequest):
                    self.fetches.on_granted(m.CreditGranted(effect.message.request, effect.message.size), 0.0)
                else:
                    self.said.append(effect.message)
            self.fetches.check()

    def fetch(self, what: m.Place) -> m.Brought:
        """What a process that needs it is answered."""
        self.fetches.on_bring(A, m.Bring(1, what), 0.0)
        self.settle()
        self.fetches.on_piece(peer_of(MAKER), m.Piece(what, 0, [memoryview(b"x" * SIZE)]), 0.0)
        self.settle()
        said, self.said = self.said, []
        (brought,) = (message for message in said if isinstance(message, m.Brought))
        assert any(isinstance(message, m.Whole) for message in said) == (brought.failure is None)
        return brought


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    return Peer(tmp_path)


def failing(real: Callable[..., Any], code: int, times: int) -> Callable[..., Any]:
    """Fails so often."""
    left = [times]

    def call(*args: Any, **options: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise OSError(code, os.strerror(code))
        return real(*args, **options)

    return call


def kind_of(brought: m.Brought) -> str:
    return "" if brought.failure is None else brought.failure.kind


def assert_goes_on(peer: Peer) -> None:
    """What comes later is not spoilt by it."""
    for number in (2, 3, 1):
        brought = peer.fetch(place(number))
        assert brought.place is not None, brought.failure
        assert (peer.folder / brought.place.segment).read_bytes()[:SIZE] == b"x" * SIZE
    assert len(list(peer.folder.iterdir())) == 3
    peer.hands.close()


def test_what_has_come_is_written_at_the_end_of_the_turn(peer: Peer) -> None:
    """What asks for the next piece leaves first."""
    segment = f"{'ab' * 8}-1"
    peer.hands.open(OpenCopy(segment, copy_capacity(SIZE), True), 0.0)
    for offset in (0, 6):
        peer.hands.write(WriteCopy(segment, offset, [b"pie", b"ces"]), 0.0)
    assert (peer.folder / segment).read_bytes() == b""
    assert peer.hands.finish(0.0)
    assert (peer.folder / segment).read_bytes() == b"piecespieces"
    assert not peer.hands.finish(0.0)
    peer.hands.close()


def test_what_has_come_is_written_before_another_copy_has_its_file(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = f"{'ab' * 8}-1"
    failed: list[str] = []
    monkeypatch.setattr(peer.fetches, "on_file_failed", lambda segment, failure, now: failed.append(segment))
    peer.hands.open(OpenCopy(segment, copy_capacity(SIZE), True), 0.0)
    peer.hands.write(WriteCopy(segment, 0, [b"of the first"]), 0.0)
    peer.hands.open(OpenCopy(segment, copy_capacity(SIZE), False), 0.0)
    assert (peer.folder / segment).read_bytes()[:12] == b"of the first"
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", failing(os.pwritev, errno.ENOSPC, 1))
        for offset in (0, 4):
            peer.hands.write(WriteCopy(segment, offset, [b"two of them"]), 0.0)
        assert peer.hands.finish(0.0)
    assert failed == [segment], "the first one, and the second was written"
    peer.hands.close()


def test_what_has_come_is_there_before_it_is_passed_on(store: Path) -> None:
    """Also when it was asked for in the same turn."""
    peer = Serves(store, CONFIG)
    (store / peer.what.segment).unlink()
    peer.hands.open(OpenCopy(peer.what.segment, copy_capacity(SIZE), True), 0.0)
    peer.hands.write(WriteCopy(peer.what.segment, 0, [VALUE]), 0.0)
    assert peer.turn()
    assert b"".join(piece_in(peer.sent[0]).data) == VALUE
    peer.hands.close()


@pytest.mark.fault(36, 37)
def test_a_full_file_system_at_the_only_piece(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", failing(os.pwritev, errno.ENOSPC, 9))
        patch.setattr("meshray.store.files._allocate", failing(os.pwrite, errno.ENOSPC, 9))
        assert kind_of(peer.fetch(place())) == "OutOfDiskError"  # no shared memory, here
    assert list(peer.folder.iterdir()) == []
    assert_goes_on(peer)


@pytest.mark.fault(36, 37)
def test_a_write_that_fails_before_a_stamp_that_does_not(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has freed some pages in between."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", failing(os.pwritev, errno.ENOSPC, 1))
        assert kind_of(peer.fetch(place())) == "OutOfDiskError"
    assert list(peer.folder.iterdir()) == []
    assert_goes_on(peer)


@pytest.mark.fault(36, 37)
def test_what_is_behind_the_value_cannot_be_allocated(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("meshray.store.files._allocate", failing(os.pwrite, errno.ENOSPC, 1))
        assert kind_of(peer.fetch(place())) == "OutOfDiskError"
    assert_goes_on(peer)


@pytest.mark.fault(40)
def test_no_descriptor_for_its_file(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """No disk is full, no object lost, and no file that was never made is written again."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(os.open, errno.EMFILE, 1))
        brought = peer.fetch(place())
    assert kind_of(brought) == "MeshrayError"
    assert "Too many open files" in str(brought.failure)
    assert_goes_on(peer)


@pytest.fixture(params=["a disk", "shared memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder for segments: pieces are read from those on a disk, and sent from the pages of those in memory."""
    if request.param == "a disk":
        yield tmp_path
    else:
        with tempfile.TemporaryDirectory(prefix="meshray-test-", dir="/dev/shm") as folder:
            yield Path(folder)


class Serves:
    """A peer that serves one value of SIZE bytes, of which it knows nothing else, to another host."""

    def __init__(self, folder: Path, config: Config, portion: int = SIZE) -> None:
        self.what = place(node=NEAR)
        (folder / self.what.segment).write_bytes(VALUE)
        self.serving, self.timers = Serving(config, lambda place: (place.segment, SIZE)), Timers()
        self.sent: list[Payload] = []
        road = SimpleNamespace(life_of=lambda home: home, is_out_of_reach=lambda home: False)
        parts = SimpleNamespace(
            store_folder=folder, cores=SimpleNamespace(serving=self.serving, road=road), config=config,
            timers=self.timers, process_id=peer_of(NEAR), transit=Transit(folder),
        )  # fmt: skip
        self.transit = parts.transit
        self._mesh = SimpleNamespace(portion=lambda life, plane, at_most: portion, send=self._send)
        self.hands = CopyHands(cast(Parts, parts))
        self.serving.on_pull(peer_of(MAKER), m.Pull(self.what, 0, SIZE))

    def _send(self, life: bytes, plane: Plane, payload: Payload, now: float) -> bool:
        assert plane is Plane.BULK
        self.sent.append(payload)
        return True

    def turn(self, now: float = 1.0) -> bool:
        return self.hands.turn(cast(Mesh, self._mesh), now)


def piece_in(payload: Payload) -> m.Piece:
    """What is in it for the asker."""
    letter = opened(payload)
    assert letter is not None
    assert letter[:2] == (peer_of(MAKER), peer_of(NEAR))
    piece = with_blocks(decode(letter.data), letter.blocks)
    assert isinstance(piece, m.Piece)
    return piece


@pytest.mark.parametrize("frame_bytes", [1_000, 30_000, SIZE - 1, SIZE, 2 * SIZE])
def test_a_piece_leaves_in_frames(store: Path, frame_bytes: int) -> None:
    peer = Serves(store, msgspec.structs.replace(CONFIG, fetch_frame_bytes=frame_bytes))
    while peer.serving.pending:
        assert peer.turn()
    came = [piece_in(payload) for payload in peer.sent]
    frames = [frame for piece in came for frame in piece.data]
    assert [len(frame) for frame in frames[:-1]] == [frame_bytes] * (len(frames) - 1)
    assert all(1 <= len(piece.data) <= m.BLOCKS_MAX for piece in came)
    assert [piece.offset for piece in came] == list(range(0, SIZE, frame_bytes * m.BLOCKS_MAX))
    assert b"".join(frames) == VALUE


@pytest.mark.fault(29)
def test_over_a_slow_link_a_piece_is_one_frame_and_small(store: Path) -> None:
    peer = Serves(store, msgspec.structs.replace(CONFIG, fetch_frame_bytes=30_000), portion=20_000)
    while peer.serving.pending:
        assert peer.turn()
    came = [piece_in(payload) for payload in peer.sent]
    assert [len(piece.data) for piece in came] == [1] * (SIZE // 20_000)
    assert b"".join(frame for piece in came for frame in piece.data) == VALUE


@brings_pages
@pytest.mark.parametrize("large", [True, False])
def test_only_what_is_acknowledged_at_once_is_sent_without_reading(store: Path, large: bool) -> None:
    """Else the file of a value that was fetched and let go of could not be written again."""
    assert CONFIG.link_ack_after_bytes < SIZE
    peer = Serves(store, CONFIG, portion=CONFIG.link_ack_after_bytes - (not large))
    peer.turn()
    assert peer.transit.has(peer.what.segment) == (large and is_shared_memory(store))
    peer.sent.clear()
    assert not peer.transit.has(peer.what.segment)


@pytest.mark.fault(40)
def test_no_descriptor_to_read_a_piece_for_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Serves(tmp_path, CONFIG)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(os.open, errno.EMFILE, 1))
        peer.turn()
    assert not peer.turn(), "it is left alone for a moment"
    assert (peer.sent, peer.serving.take_effects()) == ([], [])
    due = peer.timers.next_deadline()
    assert due is not None
    peer.timers.run_due(due)
    assert peer.turn(due)
    assert len(peer.sent) == 1
