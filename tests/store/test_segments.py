"""What one process does with the store."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from meshray.config import DEFAULT
from meshray.errors import ObjectLostError, ObjectStoreFullError
from meshray.store import files
from meshray.store.segments import NeedCredit, SegmentStore
from meshray.wire.messages import Place, SealedSegment
from meshray.wire.payload import Payload, dumps, loads

NODE = b"n" * 8
MIB = 1 << 20


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Host:
    """The processes of one host, and their peer as far as credit goes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self._processes = 0
        self._objects = 0

    def process(self, credit: int = 100 * MIB, **settings: Any) -> SegmentStore:
        self._processes += 1
        process = NODE + self._processes.to_bytes(8, "big")
        store = SegmentStore(self.folder, NODE, process, msgspec.structs.replace(DEFAULT, **settings), self.clock)
        store.add_credit(credit)
        return store

    def object_id(self) -> bytes:
        self._objects += 1
        return NODE + bytes(16) + self._objects.to_bytes(4, "big")

    def put(self, store: SegmentStore, value: Any) -> Place:
        return store.write(self.object_id(), dumps(value))

    def files(self) -> list[str]:
        return sorted(os.listdir(self.folder))


@pytest.fixture
def host(shm: Path) -> Host:
    return Host(shm)


VALUES = {
    "array": np.arange(50_000),
    "fortran": np.asfortranarray(np.arange(6000.0).reshape(60, 100)),
    "several arrays": {"a": np.arange(3000), "b": [np.zeros((0, 3)), np.arange(5000) + 1j]},
    "bytes": bytes(range(256)) * 1000,
    "many texts": [str(number) for number in range(30_000)],
    "small": 1,
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("recycled", [False, True])
@pytest.mark.parametrize("reader", ["its writer", "another process"])
def test_written_and_read(host: Host, value: Any, recycled: bool, reader: str) -> None:
    writer = host.process()
    if recycled:
        for _ in range(2):  # once not mapped yet, once mapped
            writer.free(host.put(writer, value).segment)
    place = host.put(writer, value)
    assert place.node == NODE
    assert len(host.files()) == 1
    assert writer.stats().recycled_writes == (2 if recycled else 0)
    store = writer if reader == "its writer" else host.process()
    for _ in range(2):
        np.testing.assert_equal(loads(store.open(place)), value)


def test_arrays_are_views_of_the_segment(host: Host) -> None:
    writer, other = host.process(), host.process()
    place = host.put(writer, np.arange(50_000))
    for store in (writer, other):
        array = loads(store.open(place))
        assert not array.flags.writeable
        assert array.flags.aligned
        assert array.ctypes.data % 64 == 0
        again = loads(store.open(place))
        assert again.ctypes.data == array.ctypes.data  # mapped once


def test_what_is_sealed_is_told_once(host: Host) -> None:
    store = host.process()
    payload = dumps(np.arange(50_000))
    object_id = host.object_id()
    place = store.write(object_id, payload)
    capacity = files.capacity_for(payload.nbytes)
    assert store.take_sealed() == [SealedSegment(object_id, place.segment, payload.nbytes, capacity)]
    assert store.take_sealed() == []
    assert store.created(place.segment)
    assert not host.process().created(place.segment)


def test_credit(host: Host) -> None:
    store = host.process(credit=0)
    payload = dumps(np.zeros(MIB, np.uint8))
    capacity = files.capacity_for(payload.nbytes)
    with pytest.raises(NeedCredit) as caught:
        store.write(host.object_id(), payload)
    assert caught.value.size == capacity
    assert host.files() == []
    store.add_credit(caught.value.size)
    place = store.write(host.object_id(), payload)
    assert store.credit == 0
    with pytest.raises(NeedCredit):
        store.write(host.object_id(), payload)
    store.free(place.segment)
    place = store.write(host.object_id(), payload)  # a recycled segment costs none
    assert store.credit == 0
    store.free(place.segment)
    assert store.give_back() == capacity
    assert host.files() == []


def test_give_back_and_trim(host: Host) -> None:
    store = host.process(credit=10 * MIB, store_credit_bytes=3 * MIB, pool_idle_s=5.0)
    places = [host.put(store, np.zeros(MIB, np.uint8)) for _ in range(3)]
    capacity = files.capacity_for(places[0].size)
    store.free(places[0].segment)
    host.clock.now += 3
    store.free(places[1].segment)
    assert store.trim(host.clock.now) == 10 * MIB - 3 * capacity - 3 * MIB  # credit beyond one step
    assert len(host.files()) == 3
    host.clock.now += 3
    assert store.trim(host.clock.now) == capacity  # the first has rested long enough
    assert len(host.files()) == 2
    assert store.trim(host.clock.now) == 0
    assert store.give_back() == 3 * MIB + capacity
    assert host.files() == [places[2].segment]
    assert store.stats().sealed == 1


def test_the_pool_is_bounded(host: Host) -> None:
    store = host.process(pool_max_bytes=4 * MIB)
    places = [host.put(store, np.zeros(MIB, np.uint8)) for _ in range(5)]
    too_large = host.put(store, np.zeros(5 * MIB, np.uint8))
    credit = store.credit
    for place in [*places, too_large]:
        store.free(place.segment)
        host.clock.now += 1
    stats = store.stats()
    assert stats.pooled_bytes <= 4 * MIB
    assert stats.pooled == 3
    assert host.files() == sorted(place.segment for place in places[2:])  # the longest freed have left
    assert stats.credit + stats.pooled_bytes == 100 * MIB > credit


def test_the_nearest_size_is_taken(host: Host) -> None:
    store = host.process()
    places = {size: host.put(store, np.zeros(size, np.uint8)) for size in (MIB, 2 * MIB, 8 * MIB)}
    for place in places.values():
        store.free(place.segment)
    assert host.put(store, np.zeros(2 * MIB - 100_000, np.uint8)).segment == places[2 * MIB].segment
    fresh = host.put(store, np.zeros(3 * MIB, np.uint8))  # 8 MiB would be a waste
    assert fresh.segment not in [place.segment for place in places.values()]


def test_no_segment_is_written_again_under_a_view(host: Host) -> None:
    store = host.process()
    ended: list[int] = []
    place = host.put(store, np.full(MIB, 7, np.uint8))
    array = loads(store.open(place, lambda: ended.append(1)))[5:100]
    store.free(place.segment)  # the peer would be wrong; the view is safe all the same
    assert store.stats().freed_under_view == 1
    assert store.stats().credit == 100 * MIB
    other = host.put(store, np.full(MIB, 9, np.uint8))
    assert other.segment != place.segment
    assert set(array) == {7}
    assert ended == []
    del array
    assert ended == [1]


@pytest.mark.parametrize("opened", [True, False])
def test_what_is_on_its_way_to_another_host_is_not_written_again(host: Host, opened: bool) -> None:
    store = host.process()
    place = host.put(store, np.zeros(MIB, np.uint8))
    if opened:
        loads(store.open(place))
    path, credit = store.folder / place.segment, store.credit
    capacity = path.stat().st_size
    store.free(place.segment, again=False)
    assert not path.exists()
    assert (store.stats().pooled, store.credit) == (0, credit + capacity)
    store.free(place.segment)
    assert host.put(store, np.ones(MIB, np.uint8)).segment != place.segment


def test_a_freed_place_is_stale_for_everybody(host: Host) -> None:
    writer, reader, late = host.process(), host.process(), host.process()
    mapped, unmapped = host.put(writer, np.zeros(MIB, np.uint8)), host.put(writer, np.zeros(3 * MIB, np.uint8))
    loads(writer.open(mapped))
    loads(reader.open(mapped))
    for place in (mapped, unmapped):
        writer.free(place.segment)
        for store in (writer, reader, late):
            with pytest.raises(ObjectLostError, match=place.object_id.hex()):
                store.open(place)
    again = host.put(writer, np.ones(MIB, np.uint8))
    assert again.segment == mapped.segment
    for store in (writer, reader, late):
        with pytest.raises(ObjectLostError):
            store.open(mapped)
        assert loads(store.open(again)).all()
    writer.give_back()
    writer.free(again.segment)
    writer.give_back()
    with pytest.raises(ObjectLostError, match="gone"):
        host.process().open(again)


@pytest.mark.fault(47)
@pytest.mark.parametrize("segment", ["", "lock", "../peer.json", "/etc/passwd", "0000000000000009-1/../x", "x" * 500])
def test_a_place_cannot_lead_elsewhere(host: Host, segment: str) -> None:
    with pytest.raises(ObjectLostError):
        host.process().open(Place(b"o" * 28, NODE, segment, 10))


@pytest.mark.fault(47)
def test_a_wrong_size_or_object_is_refused(host: Host) -> None:
    writer, reader = host.process(), host.process()
    place = host.put(writer, np.zeros(MIB, np.uint8))
    for store in (writer, reader):
        for change in ({"size": place.size + 1}, {"size": 1 << 50}, {"object_id": b"x" * 28}):
            with pytest.raises(ObjectLostError):
                store.open(msgspec.structs.replace(place, **change))


def test_repeats_and_strangers_are_ignored(host: Host) -> None:
    store, other = host.process(), host.process()
    place = host.put(store, np.zeros(MIB, np.uint8))
    other.free(place.segment)
    other.forget(place.segment)
    store.forget(place.segment)
    loads(other.open(place))
    store.free(place.segment)
    store.free(place.segment)
    assert store.stats().pooled == 1
    assert store.stats().credit + store.stats().pooled_bytes == 100 * MIB


def test_forgetting_unmaps_with_the_last_view(host: Host) -> None:
    writer, reader = host.process(), host.process()
    ended: list[int] = []
    place = host.put(writer, np.full(MIB, 7, np.uint8))
    array = loads(reader.open(place, lambda: ended.append(1)))
    reader.forget(place.segment)
    assert reader.stats().foreign == 0
    assert ended == []
    assert set(array) == {7}
    del array
    assert ended == [1]


@pytest.mark.fault(37)
def test_a_full_file_system_costs_the_pool_first(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    store = host.process()
    store.free(host.put(store, np.zeros(8 * MIB, np.uint8)).segment)
    real = os.pwritev

    def full_while_pooled(fd: int, buffers: list[Any], offset: int) -> int:
        if store.stats().pooled:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", full_while_pooled)
    place = host.put(store, np.ones(MIB, np.uint8))
    assert host.files() == [place.segment]
    assert loads(store.open(place)).all()


@pytest.mark.fault(36, 37)
def test_a_full_file_system_is_an_error_that_costs_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = host.process()
    monkeypatch.setattr(os, "pwritev", full)
    for _ in range(3):
        with pytest.raises(ObjectStoreFullError):
            host.put(store, np.zeros(MIB, np.uint8))
    assert host.files() == []
    assert store.credit == 100 * MIB
    assert store.take_sealed() == []


def test_an_interrupt_while_writing_costs_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    store = host.process()
    store.free(host.put(store, np.zeros(MIB, np.uint8)).segment)

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("meshray.store.mapping.Mapping.write_at", interrupted)
    with pytest.raises(KeyboardInterrupt):
        host.put(store, np.zeros(MIB, np.uint8))
    assert host.files() == []
    assert store.credit == 100 * MIB


def test_on_a_disk(tmp_path: Path) -> None:
    host = Host(tmp_path)
    store, reader = host.process(), host.process()
    for value in range(3):
        place = host.put(store, np.full(MIB, value, np.uint8))
        assert set(loads(store.open(place))) == {value}
        assert set(loads(reader.open(place))) == {value}
        store.free(place.segment)
    assert store.stats().recycled_writes == 2
    store.close()
    assert host.files() == []


def test_closing(host: Host) -> None:
    store = host.process()
    kept, freed = host.put(store, np.full(MIB, 7, np.uint8)), host.put(store, np.zeros(MIB, np.uint8))
    array = loads(store.open(kept))
    store.free(freed.segment)
    store.close()
    assert host.files() == [kept.segment]  # the peer answers for it
    assert set(array) == {7}
    assert set(loads(host.process().open(kept))) == {7}


@pytest.mark.fault(15)
def test_a_forked_child_removes_nothing(host: Host) -> None:
    store = host.process()
    place = host.put(store, np.zeros(MIB, np.uint8))
    store.free(place.segment)
    child = os.fork()
    if child == 0:
        store.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert host.files() == [place.segment]


def test_many_threads_at_once(host: Host) -> None:
    """Each thread writes, reads back and frees values of its own; the books are right in the end."""
    store = host.process(credit=2000 * MIB)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            draw = random.Random(seed)
            for step in range(30):
                size, fill = draw.randrange(100_000, 3 * MIB), (seed * 30 + step) % 251
                object_id = NODE + bytes(8) + seed.to_bytes(8, "big") + step.to_bytes(4, "big")
                place = store.write(object_id, dumps(np.full(size, fill, np.uint8)))
                array = loads(store.open(place))
                assert len(array) == size
                assert (array == fill).all()
                del array
                store.free(place.segment)
                store.trim(0.0)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    stats = store.stats()
    assert stats.freed_under_view == 0
    assert stats.sealed == 0
    assert stats.fresh_writes + stats.recycled_writes == 120
    assert stats.recycled_writes > 0
    store.give_back()
    assert host.files() == []


def test_the_reserved_size_is_the_written_one(host: Host) -> None:
    store = host.process()
    draft = store.reserve(host.object_id(), 100)
    with pytest.raises(AssertionError):
        draft.fill(Payload((b"x" * 101,), 101))
    store.abandon(draft)
    assert store.credit == 100 * MIB
