"""Pickling and loading leave nothing behind that only the garbage collector could find: arrays and references would
live on with it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from meshray.runtime.failures import exception_from_failure, failure_from_exception
from meshray.wire import payload as payloads


class Thing:
    pass


class Carrying(Exception):
    pass


def carrying() -> Carrying:
    error = Carrying("text")
    error.thing = Thing()  # type: ignore[attr-defined]
    return error


def function() -> Callable[[], Any]:
    thing = Thing()
    return lambda: thing


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(
    ("make", "use"),
    [
        (lambda: np.ones(100_000), payloads.dumps),
        (Thing, payloads.dumps),
        (Thing, lambda value: payloads.dumps([value] * 30)),
        (Thing, lambda value: payloads.loads(payloads.dumps(value).inline())),
        (function, payloads.dumps_function),
        (function, payloads.dumps),
        (carrying, payloads.dump_exception),
        (carrying, lambda error: exception_from_failure(failure_from_exception(error))),
    ],
)
def test_nothing_is_kept(make: Callable[[], Any], use: Callable[[Any], object]) -> None:
    value = make()
    alive = weakref.ref(value)
    use(value)
    del value
    assert alive() is None
