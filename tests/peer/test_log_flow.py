"""How far a driver may be behind with what its workers print, and what happens beyond that."""

from __future__ import annotations

import msgspec

from meshray.config import DEFAULT
from meshray.observe.weight import weight
from meshray.peer.log_flow import LogFlow
from meshray.wire.messages import LogLine

CONFIG = msgspec.structs.replace(DEFAULT, log_ahead_max_bytes=1000, log_stall_s=10.0)
DRIVER, OTHER = b"D" * 16, b"E" * 16
LINES = [LogLine("task", 1, "x" * 436)] * 2
SIZE = weight(line.text for line in LINES)


def test_a_driver_that_keeps_up_holds_up_nothing() -> None:
    flow = LogFlow(CONFIG)
    for second in range(100):
        assert flow.admit(DRIVER, LINES, second)
        assert flow.on_shown(DRIVER, SIZE, second + 0.5) == []
        assert flow.held_up(second + 0.5) == frozenset()
    assert not flow._drivers


def test_one_that_is_behind_is_waited_for_and_the_others_are_not() -> None:
    flow = LogFlow(CONFIG)
    assert flow.admit(DRIVER, LINES, 0.0)
    assert flow.admit(OTHER, LINES[:1], 0.0)
    assert flow.held_up(1.0) == {DRIVER}
    assert flow.next_deadline(1.0) == 10.0
    assert flow.on_shown(DRIVER, SIZE // 2, 5.0) == []
    assert flow.held_up(5.0) == frozenset()
    assert flow.next_deadline(5.0) is None


def test_one_that_shows_nothing_for_long_holds_up_nothing_and_hears_how_much_it_missed() -> None:
    flow = LogFlow(CONFIG)
    assert flow.admit(DRIVER, LINES, 0.0)
    assert flow.held_up(10.0) == frozenset()
    assert flow.next_deadline(10.0) is None
    for _ in range(5):
        assert not flow.admit(DRIVER, LINES, 11.0)
    (notice,) = flow.on_shown(DRIVER, SIZE, 12.0)
    assert notice.text.startswith("10 lines were left out")
    assert flow.take_notice(DRIVER) == []
    assert flow.admit(DRIVER, LINES, 12.0)


def test_one_that_is_gone_is_forgotten() -> None:
    flow = LogFlow(CONFIG)
    flow.admit(DRIVER, LINES, 0.0)
    flow.forget(DRIVER)
    assert flow.held_up(1.0) == frozenset()
    assert flow.on_shown(DRIVER, SIZE, 1.0) == []


def test_one_of_another_host_may_be_behind_by_less() -> None:
    flow = LogFlow(msgspec.structs.replace(CONFIG, log_ahead_max_bytes=2000, log_ahead_abroad_max_bytes=1000), b"D")
    assert flow.admit(DRIVER, LINES, 0.0)
    assert flow.admit(OTHER, LINES, 0.0)
    assert flow.held_up(1.0) == {OTHER}
    flow.forget_host(b"E")
    assert flow.held_up(1.0) == frozenset()
