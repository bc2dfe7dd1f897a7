"""Functions that several tasks hold."""

from __future__ import annotations

import pytest

from meshray.core.held import HeldFunctions
from meshray.wire.messages import Blob


def blob(number: int, size: int) -> Blob:
    return Blob(bytes([number]) * 16, "f", bytes(size))


def test_each_counts_once_while_it_is_held() -> None:
    held = HeldFunctions()
    first, same, other = blob(1, 100), blob(1, 100), blob(2, 30)
    assert held.adds(first) == 100
    assert held.hold(first) is first
    assert held.adds(same) == 0
    assert held.hold(same) is first, "one of them is enough"
    assert held.hold(other) is other
    assert (held.bytes, held.holders) == (130, 3)
    held.let_go(same)
    assert held.bytes == 130
    held.let_go(first)
    assert (held.bytes, held.holders) == (30, 1)
    assert held.hold(same) is same


def test_what_nobody_holds_cannot_be_let_go() -> None:
    held = HeldFunctions()
    held.hold(blob(1, 100))
    held.clear()
    assert (held.bytes, held.holders) == (0, 0)
    with pytest.raises(KeyError):
        held.let_go(blob(1, 100))
