"""Calls of an actor, without processes: what falls between two steps of the thread that runs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshray.runtime.current import Current
from meshray.wire import messages as m
from meshray.worker.actors import ActorHost
from meshray.worker.executor import CANCELLED_MAX, Executor

CALLER, ACTOR = b"c" * 16, b"a" * 24
CALLS = [CALLER + number.to_bytes(8, "big") for number in range(3)]


class Shell:
    """Stands around an actor as the executor does; `on_started` is called when a call has left the queue, and is not
    running yet."""

    def __init__(self, on_started: Callable[[bytes], None]) -> None:
        self.engine = SimpleNamespace(pump=None)
        self.bind = None
        self.queue: deque[Any] = deque()
        self.handed: deque[Any] = deque()
        self.pushers = SimpleNamespace(
            handle_of_caller=lambda caller: 1,
            journal=SimpleNamespace(started=lambda handle, seq: on_started(CALLS[seq])),
        )
        self.outcomes = SimpleNamespace(of_value=lambda source, task, name, value: value)
        self.children = SimpleNamespace(forget=lambda task_id: None)

    def journaled(self, handle: int, task: m.Task, result: Any) -> Any:
        return result


class Looking:
    """Says whether its call was cancelled, as the runtime context would."""

    def __init__(self, host: ActorHost) -> None:
        self.host = host

    def look(self) -> bool:
        current = self.host.current()
        assert current is not None
        return current.cancelled


def one_at_a_time(host: ActorHost) -> Callable[[Any], Any]:
    host._here = here = host._local.current = Current(host._around)
    return lambda item: host._call_here(item, here)


def on_a_thread(host: ActorHost) -> Callable[[Any], Any]:
    return host._call


@pytest.mark.parametrize("how", [one_at_a_time, on_a_thread])
def test_a_call_that_is_cancelled_between_the_queue_and_its_first_step_sees_it(how: Any) -> None:
    cancelled = [CALLS[1]]

    def between(task_id: bytes) -> None:
        if task_id in cancelled:
            host.on_cancel(m.Cancel(task_id, 0, False))
            for number in range(CANCELLED_MAX - 1):  # of calls that ended before they heard of it
                host.on_cancel(m.Cancel(number.to_bytes(24, "big"), 0, False))

    blob = m.Blob(b"h" * 16, "Looking", b"")
    host = ActorHost(cast(Executor, Shell(between)), m.StartActor(ACTOR, 1, blob, b"", [], 0))
    host._instance = Looking(host)
    call = how(host)
    items = [(CALLER, 0, m.Task(seq, task_id, b"look", b"")) for seq, task_id in enumerate(CALLS)]
    assert [call(item) for item in items] == [False, True, False]
