"""What was submitted and not looked at yet, while others submit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshray.runtime.submitted import SubmittedTasks

ACTOR, OTHER = b"a" * 16, b"b" * 16


class Racing(bytes):
    """The id of an actor; another thread calls it just while this one is compared."""

    submitted: SubmittedTasks

    def __eq__(self, other: object) -> bool:
        self.submitted.call_inbox.append((self, cast(Any, None), None))
        return bytes(self) == other

    __hash__ = bytes.__hash__


@pytest.mark.parametrize("asked", [ACTOR, OTHER])
def test_others_may_call_an_actor_while_its_calls_are_looked_for(asked: bytes) -> None:
    engine = SimpleNamespace(submission=None, calls=None, dependencies=None, finished=None)
    submitted = SubmittedTasks(cast(Any, engine))
    racing = Racing(ACTOR)
    racing.submitted = submitted
    submitted.call_inbox.append((racing, cast(Any, None), None))
    submitted.call_inbox.append((racing, cast(Any, None), None))
    assert submitted.holds_call_of(asked) == (asked == ACTOR)
