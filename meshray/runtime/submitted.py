"""Submitted tasks and calls: from the inboxes to the cores, as soon as their arguments are known.

`.remote()` appends to the inboxes, from any thread and without the lock; whoever turns the pump next takes out.
"""

from __future__ import annotations

import functools
from collections import deque
from typing import TYPE_CHECKING, Any

from meshray.core.pending import DONE, Pending
from meshray.refs import ObjectRef

if TYPE_CHECKING:
    from meshray.runtime.engine import Engine


class SubmittedTasks:
    """See the head of this file."""

    def __init__(self, engine: Engine) -> None:
        self.inbox: deque[Pending] = deque()  # submitted, not yet looked at
        self.call_inbox: deque[tuple[bytes, Pending, list[ObjectRef[Any]] | None]] = deque()  # the same for actors
        self._submission = engine.submission
        self._calls = engine.calls
        self._dependencies = engine.dependencies
        self._finished = engine.finished

    def take_in(self) -> None:
        """Tasks from the inbox are queued once their arguments are there. Under the lock."""
        inbox, submission = self.inbox, self._submission
        ready: list[Pending] = []
        while inbox:
            task = inbox.popleft()
            if task.state == DONE:
                continue  # cancelled before anybody looked
            deps = task.dep_refs
            if deps is None or self._dependencies.resolve(task, deps, functools.partial(submission.on_ready, task)):
                ready.append(task)
        submission.on_all_ready(ready)

    def holds_call_of(self, actor_id: bytes) -> bool:
        """Whether one of its calls was not looked at yet. Of a copy, made at once: others append meanwhile."""
        return any(each[0] == actor_id for each in self.call_inbox.copy())

    def take_calls(self) -> None:
        """Calls from the inbox take their places in the order of their actors. Under the lock."""
        calls, inbox = self._calls, self.call_inbox
        while inbox:
            actor_id, call, deps = inbox.popleft()
            if call.state == DONE:
                continue  # cancelled before anybody looked
            link = call.cls = calls.link(actor_id)
            if deps is None:
                done = calls.on_call(link, call, True)
                if done:
                    self._finished.complete(done, b"")
                continue
            done = calls.on_call(link, call, False)
            if done:
                self._finished.complete(done, b"")
            elif self._dependencies.resolve(call, deps, functools.partial(calls.on_ready, link, call)):
                calls.on_ready(link, call)
