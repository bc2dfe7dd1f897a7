"""The drain idiom, which all cores share."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import meshray.core
from meshray.core.effects import LATE, Core


def all_cores() -> Iterator[type[Core]]:
    for module in pkgutil.iter_modules(meshray.core.__path__):
        importlib.import_module(f"meshray.core.{module.name}")
    waiting = [Core]
    while waiting:
        found = waiting.pop()
        waiting += found.__subclasses__()
        yield found


def test_what_was_decided_is_in_the_same_list_always() -> None:
    """Whoever looks at it sees at a glance whether there is anything."""
    core = Core()
    decided = core.decided
    for number in range(3):
        core._effects.append(number)
        assert decided == [number]
        assert core.take_effects() == [number]
        assert decided == core.take_effects() == []
        assert core.decided is decided


@pytest.mark.parametrize("kind", list(all_cores()), ids=lambda kind: kind.__name__)
def test_a_core_that_decides_when_it_is_asked_says_so(kind: type[Core]) -> None:
    """Else nobody would ask it while its list is empty."""
    late = kind.take_effects is not Core.take_effects
    assert late == (kind.decided is not Core.decided)
    if late:
        assert kind.decided.fget(None) is LATE  # type: ignore[attr-defined]
