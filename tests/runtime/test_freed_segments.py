"""What a process does with its segments that nobody uses any more: the peer says what may be written again."""

from __future__ import annotations

import os

import pytest

from meshray.ids import OBJECT_BYTES
from meshray.wire.messages import SegmentsFree
from meshray.wire.payload import dumps
from tests.runtime.driver import PEER, driver_alone

SIZE = 200_000


@pytest.mark.parametrize("again", [True, False])
def test_what_is_not_to_be_written_again_is_not(again: bool) -> None:
    with driver_alone() as (engine, folder):
        engine.store.add_credit(10 * SIZE)
        first, second = (engine.store.write(os.urandom(OBJECT_BYTES), dumps(os.urandom(SIZE))).segment for _ in "12")
        engine.on_messages([(PEER, SegmentsFree([first], again))])
        assert [(folder / segment).exists() for segment in (first, second)] == [again, True]
        third = engine.store.write(os.urandom(OBJECT_BYTES), dumps(os.urandom(SIZE))).segment
        assert (third == first) == again
