"""What travels with the promotion of a pending reference."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from meshray.config import DEFAULT, Config
from meshray.core.lineage import BATCH_BYTES, INLINED_MAX_BYTES, batches
from meshray.core.pending import Mean, Pending
from meshray.core.records import Record, Records
from meshray.core.scheduling import SchedulingClass
from meshray.core.shipped import FUNCTION_BYTES
from meshray.ids import FIRST_RETURN
from meshray.refs import ObjectRef
from meshray.wire.messages import Blob, Borrowed, Place, Profile, Promote, Promoted, Value

PEER, SELF = b"the-peer" + bytes(8), b"the-peer" + b"the-self"
CLS = SchedulingClass(1, {"CPU": 10_000}, Profile(), 1)
FUNCTION = Blob(b"f" * 16, "f", b"code")


class Process:
    """Records of a worker, and handles that live as long as this."""

    def __init__(self, config: Config | None = DEFAULT) -> None:
        self.records = Records(PEER, deque(), lambda _: None, lambda _: True, config)
        self.kept: list[Any] = []
        self.count = 0

    def own(self, value: Value | None, task: Pending | None = None) -> Record:
        self.count += 1
        task_id = task.task_id if task is not None else SELF + self.count.to_bytes(8, "big")
        record = Record(task_id + FIRST_RETURN, True, 1, task)
        record.value = value
        self.records.table[record.id] = record
        return record

    def pending(self, *arguments: Record, cls: Any = CLS, blob: Blob = FUNCTION) -> Record:
        """The record of a task with these top-level arguments."""
        self.count += 1
        task = Pending(SELF + self.count.to_bytes(8, "big"), blob.hash, b"", [], Mean(), blob=blob, cls=cls)
        task.dep_refs = [ObjectRef(record.id) for record in arguments]
        task.refs = list(task.dep_refs)
        self.kept.append(task.refs)
        return self.own(None, task)

    def promote(self, record: Record) -> dict[bytes, Promoted]:
        """What the peer is told, by object."""
        self.records.promote(record)
        messages = [effect.message for effect in self.records.take_effects()]
        assert all(isinstance(message, Promote) for message in messages)
        return {promoted.object_id: promoted for message in messages for promoted in message.records}


def test_a_chain_of_pending_tasks_goes_along() -> None:
    process = Process()
    first = process.pending()
    second = process.pending(first)
    told = process.promote(second)
    assert set(told) == {first.id, second.id}
    assert first.promoted
    assert told[second.id].lineage is not None
    assert told[second.id].lineage.deps == [Borrowed(first.id)]
    assert told[second.id].lineage.pins == [first.id]
    blobs = [each.lineage.blob for each in told.values() if each.lineage is not None]
    assert sorted(blobs, key=str) == sorted([FUNCTION, None], key=str)  # each function travels once
    assert not process.promote(first)


def test_small_arguments_stand_in_the_lineage_and_large_ones_are_borrowed() -> None:
    process = Process()
    small, bulky = process.own(b"small"), process.own(b"x" * (DEFAULT.lineage_inline_max_bytes + 1))
    place = process.own(Place(SELF + bytes(12), SELF[:8], "segment", 1 << 20))
    container = process.own(b"inside")
    container.contained = [ObjectRef(small.id)]
    task = process.pending(small, bulky, place, container)
    lineage = process.promote(task)[task.id].lineage
    assert lineage is not None
    assert lineage.deps == [b"small", Borrowed(bulky.id), Borrowed(place.id), Borrowed(container.id)]
    assert lineage.pins == [bulky.id, place.id, container.id]


def test_many_small_arguments_do_not_make_a_large_lineage() -> None:
    process = Process()
    arguments = [process.own(bytes(1000)) for _ in range(200)]
    task = process.pending(*arguments)
    told = process.promote(task)
    lineage = told[task.id].lineage
    assert lineage is not None
    assert sum(len(dep) for dep in lineage.deps if isinstance(dep, bytes)) <= INLINED_MAX_BYTES
    assert len(told) == 1 + len(lineage.pins) > 100


def test_the_closure_is_bounded() -> None:
    process = Process(msgspec.structs.replace(DEFAULT, lineage_closure_max_records=10))
    record = process.pending()
    for _ in range(50):
        record = process.pending(record)
    told = process.promote(record)
    evicted = [promoted for promoted in told.values() if promoted.evicted]
    assert len(told) <= 11
    assert len(evicted) == 1
    assert all((promoted.lineage is None) == promoted.evicted for promoted in told.values())


def test_a_long_chain_needs_no_recursion_and_travels_in_parts() -> None:
    process = Process()
    record = process.pending()
    for _ in range(5000):
        record = process.pending(record)
    promoted = list(process.promote(record).values())
    assert len(promoted) == 5001
    parts = list(batches(promoted))
    assert len(parts) > 1
    assert [each for part in parts for each in part] == promoted
    assert all(len(msgspec.msgpack.encode(part)) < 2 * BATCH_BYTES for part in parts)


def test_calls_of_actors_and_cancelled_tasks_have_no_lineage() -> None:
    process = Process()
    call, cancelled = process.pending(cls=object()), process.pending()
    assert cancelled.task is not None
    cancelled.task.cancelled = True
    for record in (call, cancelled):
        promoted = process.promote(record)[record.id]
        assert promoted.lineage is None
        assert not promoted.evicted


def test_a_driver_tells_no_lineage() -> None:
    process = Process(None)
    record = process.pending(process.pending())
    assert list(process.promote(record).values()) == [Promoted(record.id, None)]


def test_names_of_exceptions_travel_instead_of_classes() -> None:
    process = Process()
    record = process.pending()
    assert record.task is not None
    record.task.retry_exceptions = [ValueError]
    lineage = process.promote(record)[record.id].lineage
    assert lineage is not None
    assert lineage.retry_exceptions == ["builtins.ValueError"]


def test_the_peer_keeps_a_bounded_number_of_functions() -> None:
    process = Process(msgspec.structs.replace(DEFAULT, lineage_functions_max_bytes=2 * FUNCTION_BYTES))
    blobs = {number: Blob(bytes([number]) * 16, "f", b"") for number in (1, 2, 3)}
    told: list[tuple[bool, list[int]]] = []
    for number in (1, 2, 1, 3, 1, 2):
        record = process.pending(blob=blobs[number])
        lineage = process.promote(record)[record.id].lineage
        assert lineage is not None
        told.append((lineage.blob is not None, [function[0] for function in lineage.forget]))
    assert told == [(True, []), (True, []), (False, []), (True, [2]), (False, []), (True, [3])]
