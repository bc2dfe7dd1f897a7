"""One task of this process, or one call of an actor, from `.remote()` to its result; and the message for an attempt.

The states, as `submission` (for calls `calls`) moves them::

    WAITING  -> READY        its arguments are there
    READY    -> IN_FLIGHT    pushed to a worker
    IN_FLIGHT-> READY        given back unstarted; the worker died (within max_retries); its exception is retried
    IN_FLIGHT-> WAITING      an argument is lost: it waits for another value, or fails with it
    any      -> DONE         a result was accepted, or it was cancelled

Cancellation is a flag, not more states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from meshray.wire.messages import Blob, Failure, Place, Result, Task

if TYPE_CHECKING:
    from meshray.core.scheduling import Lease

WAITING, READY, IN_FLIGHT, DONE = "waiting", "ready", "in flight", "done"


MEAN_WEIGHT = 0.2
"""Weight of the newest batch in a function's running mean."""


class Mean:
    """The running mean of a function's duration; None until it ran once."""

    __slots__ = ("ns",)

    def __init__(self) -> None:
        self.ns: float | None = None

    def below(self, ns: float) -> bool:
        """Whether it is known to be less."""
        return self.ns is not None and self.ns < ns

    def add(self, ns: float) -> None:
        self.ns = ns if self.ns is None else self.ns + (ns - self.ns) * MEAN_WEIGHT


class Pending(Struct, gc=False, eq=False):
    """One task of this process, or one call of an actor, from `.remote()` to its result."""

    task_id: bytes
    function: bytes  # the hash of the function, or the method's name
    args: bytes | Place
    records: Sequence[Any]  # one per return, to be settled
    mean: Mean
    returns: int = 1  # what the function is asked to return; 0 has no record
    blob: Blob | None = None
    name: str = ""
    cls: Any = None  # its SchedulingClass, or its ActorLink
    retries_left: int = 0  # -1: always
    retry_exceptions: Any = False
    plain: bool = False  # one return, the function's own name, of a driver: its first attempt needs no more words
    deps: Any = ()  # values (`Argument`) of top-level references, as far as known
    dep_refs: list[Any] | None = None  # the references that `deps` stand for, in their order
    missing: int = 0  # how many of them are not there yet
    inlined: int = 0  # bytes of those of `deps` that travel along
    refs: list[Any] | None = None  # handles that live until the result is there
    lent: dict[Place, Any] | None = None  # arguments that only this host could reach: its copies, which others read
    nested: bool = False  # references or segments travel along: the worker may keep some
    lease: Lease | None = None
    state: str = WAITING
    seq: int = 0
    attempt: int = 0
    cancelled: bool = False

    def __repr__(self) -> str:
        return (
            f"<Pending {self.name} {self.task_id.hex()} {self.state} attempt={self.attempt} "
            f"retries_left={self.retries_left}{' cancelled' if self.cancelled else ''}>"
        )


def wire_task(task: Pending, seq: int, depth: int) -> Task:
    """The message for one attempt."""
    if task.plain and not task.deps and not task.nested and not task.attempt:
        return Task(seq, task.task_id, task.function, task.args)
    return Task(
        seq,
        task.task_id,
        task.function,
        task.args,
        list(task.deps),
        task.returns,
        task.attempt,
        task.nested,
        depth,
        task.name,
        bool(task.retry_exceptions),
    )


def deps_bytes(task: Pending) -> int:
    """What the values of its references add to the message that it travels in."""
    return sum(len(dep) for dep in task.deps if type(dep) is bytes)


def retriable(task: Pending, result: Result) -> bool:
    """Whether the result is an exception of the task that its options say to retry."""
    if len(result.values) != 1:
        return False
    failure = result.values[0]
    if not isinstance(failure, Failure) or failure.kind != "TaskError":
        return False
    if task.retry_exceptions is True:
        return True
    ancestors = set(failure.details.get("ancestors", "").split("\n"))
    return any(exception_name(kind) in ancestors for kind in task.retry_exceptions)


def exception_name(kind: type[BaseException] | str) -> str:
    """As a result's `ancestors` names it; an adopted task has such names instead of classes."""
    return kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__name__}"


def while_running(task: Pending, failure: Failure) -> Failure:
    """The peer knows why a worker died, we know what it ran."""
    return msgspec.structs.replace(
        failure, message=f"{task.name} failed: {failure.message}", details={**failure.details, "task_name": task.name}
    )


def gone_failure(node: bytes, reason: str) -> Failure:
    """Why what ran on a host has no result: it is gone."""
    which = "" if reason.startswith("host ") else f" (node {node.hex()})"  # else the reason calls it by its name
    text = f"the host it ran on{which} is gone: {reason}"
    return Failure("NodeDiedError", text, details={"node_id": node.hex()})


def cancelled_result(task: Pending) -> Result:
    return Result(task.seq, [Failure("TaskCancelledError", f"task {task.name} was cancelled")])
