"""What a task is called with: values that came with it, and those that its worker has to fetch."""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshray.runtime.client import Client
from meshray.runtime.copies import NotHere
from meshray.wire import messages as m
from meshray.worker.arguments import Arguments

X, Y = b"x" * 28, b"y" * 28
FAR = m.Place(b"z" * 28, b"far-----", "abcdabcdabcdabcd-1", 100)


class Shell:
    """What the arguments need of a worker, without processes."""

    def __init__(self) -> None:
        self.fetches: list[list[bytes]] = []  # what its worker had to ask for, each time
        self.here: set[m.Place] = set()
        self.engine = SimpleNamespace(queue=deque())
        waiting = SimpleNamespace(get=self.get, bring=self.bring)
        self.client = SimpleNamespace(values=SimpleNamespace(load=self.load), waiting=waiting, engine=self.engine)

    def load(self, value: Any, carrier: object) -> Any:
        if value == b"arguments":
            return [None, "between", None, None, None], {}, [0, 2, 3, 4, "k"]
        if isinstance(value, m.Place) and value not in self.here:
            raise NotHere(value)
        return [value]

    def get(self, refs: list[bytes], timeout: float | None) -> list[str]:
        self.fetches.append(refs)
        return [f"value of {ref!r}" for ref in refs]

    def bring(self, values: list[Any], timeout: float | None) -> AbstractContextManager[None]:
        self.here.update(value for value in values if isinstance(value, m.Place))
        return nullcontext()


def test_large_ones_come_at_the_same_time_and_each_to_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshray.worker.arguments.ObjectRef", lambda object_id: object_id)  # nobody counts, here
    shell = Shell()
    task = m.Task(0, bytes(24), b"f", b"arguments", [m.Borrowed(X), b"small", FAR, b"small", m.Borrowed(Y)])
    args, kwargs = Arguments(cast(Client, shell.client)).of(task, None)
    assert args == [f"value of {X!r}", "between", [b"small"], [FAR], [b"small"]]
    assert kwargs == {"k": f"value of {Y!r}"}
    assert args[2] is not args[4], "equal arguments are not one and the same"
    assert shell.fetches == [[X, Y]]
    births = [(birth.id, birth.carrier) for birth in shell.engine.queue]
    assert births == [(X, None), (Y, None)], "each handle is counted"


def test_why_one_cannot_be_brought_is_all_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that it was not here, by a name of ours and with an id in bytes."""
    shell = Shell()

    def bring(values: list[Any], timeout: float | None) -> AbstractContextManager[None]:
        raise MemoryError("no room for it here")

    monkeypatch.setattr(shell.client.waiting, "bring", bring)
    task = m.Task(0, bytes(24), b"f", b"arguments", [b"small", b"small", FAR, b"small", b"small"])
    with pytest.raises(MemoryError) as raised:
        Arguments(cast(Client, shell.client)).of(task, None)
    assert raised.value.__context__ is None
