"""Runs of plain attempts and plain results, as they travel: column by column instead of struct by struct.

Most tasks and calls that come by the thousand are alike: one function, one return, a small value, nothing else to say.
A struct of each would have to be made, encoded, decoded and dropped on either side of the wire, which costs more than
all that is decided about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshray.core.pending import Pending
from meshray.ids import TASK_BYTES
from meshray.wire.messages import Blob, Failure, Place, PlainPush, PlainResults, Result, Results, Task

RUN_MIN = 4
"""Fewer travel as they are: columns would not pay, and a synchronous caller's single task is read at once."""


def plain_push(
    lease: int, acknowledged: int, seq: int, run: list[Pending], blobs: list[Blob], forget: list[bytes]
) -> PlainPush:
    """The message for the first attempts of plain tasks (`Pending.plain`) of one function, the first one numbered
    `seq`."""
    args = [task.args for task in run]
    column: list[Any] = args if any(args) else []  # no places: those travel with tasks that are `nested`
    ids = b"".join([task.task_id for task in run])
    return PlainPush(lease, acknowledged, seq, run[0].function, ids, column, blobs, forget)


def tasks_of(push: PlainPush) -> list[Task]:
    """The attempts of a run. Whoever decoded it has checked that its columns are of one length."""
    ids, function = push.task_ids, push.function
    args: Iterable[bytes] = push.args or [b""] * (len(ids) // TASK_BYTES)
    seq = push.seq - 1
    return [
        Task(seq := seq + 1, ids[at : at + TASK_BYTES], function, each)
        for at, each in zip(range(0, len(ids), TASK_BYTES), args, strict=True)
    ]


def results_of(plain: PlainResults) -> list[Result]:
    """The outcomes of a run."""
    return [Result(seq, [value]) for seq, value in enumerate(plain.values, plain.seq)]


def results_message(lease: int, results: list[Result], busy_ns: int) -> Results | PlainResults:
    """The message for these outcomes."""
    if len(results) >= RUN_MIN:
        seq = first = results[0].seq
        values: list[bytes | Place | Failure] = []
        for result in results:
            if result.seq != seq or len(result.values) != 1 or result.contained or result.kept:
                break
            values += result.values
            seq += 1
        else:
            if set(map(type, values)) == {bytes}:
                return PlainResults(lease, first, values, busy_ns)  # type: ignore[arg-type]
    return Results(lease, results, busy_ns)
