"""In which order a peer ends, and within which bounds."""

from __future__ import annotations

import pytest

from meshray.config import DEFAULT
from meshray.core.drain import Drain, Left, Phase

NOTHING = Left(works=False, tasks=False, moves=False, unsaid=False)
EVERYTHING = Left(works=True, tasks=True, moves=True, unsaid=True)


def test_who_has_nothing_to_do_ends_without_a_pause() -> None:
    drain = Drain(DEFAULT)
    assert drain.next(NOTHING, 5.0) is None, "it serves"
    assert drain.next_deadline() is None
    drain.begin(10.0, 5.0)
    assert [drain.next(NOTHING, 5.0) for _ in range(4)] == [Phase.MOVES, Phase.SAYS, Phase.OVER, None]
    assert drain.next_deadline() is None


def test_whatever_others_do_it_ends_within_its_bounds() -> None:
    drain = Drain(DEFAULT)
    drain.begin(10.0, 0.0)
    now, seen = 0.0, []
    while drain.phase is not Phase.OVER:
        assert drain.next(EVERYTHING, now) is None
        deadline = drain.next_deadline()
        assert deadline is not None
        now = deadline
        seen.append((drain.next(EVERYTHING, now), now))
    ends, moves, says = DEFAULT.leave_end_s, DEFAULT.leave_move_s, DEFAULT.leave_say_s
    assert seen == [
        (Phase.ENDS, 10.0),
        (Phase.MOVES, 10.0 + ends),
        (Phase.SAYS, 10.0 + ends + moves),
        (Phase.OVER, 10.0 + ends + moves + says),
    ]


def test_each_step_is_over_when_it_has_nothing_left() -> None:
    drain = Drain(DEFAULT)
    drain.begin(10.0, 0.0)
    assert drain.next(EVERYTHING, 9.0) is None
    assert drain.next(EVERYTHING._replace(works=False, tasks=False), 9.0) is Phase.MOVES
    assert drain.next(EVERYTHING, 10.0) is None
    assert drain.next(EVERYTHING._replace(moves=False), 10.0) is Phase.SAYS
    assert drain.next(EVERYTHING, 11.0) is None
    assert drain.next(NOTHING, 11.0) is Phase.OVER


def test_calls_of_actors_have_their_time_and_are_not_ended_one_by_one() -> None:
    drain = Drain(DEFAULT)
    drain.begin(10.0, 0.0)
    calls = NOTHING._replace(works=True)
    assert drain.next(calls, 9.9) is None
    assert drain.next(calls, 10.0) is Phase.MOVES


@pytest.mark.parametrize(("again_s", "until"), [(1.0, 3.0), (60.0, 10.0)])
def test_who_is_told_once_more_ends_no_later(again_s: float, until: float) -> None:
    drain = Drain(DEFAULT)
    drain.begin(10.0, 0.0)
    drain.begin(again_s, 2.0)
    assert drain.next_deadline() == until
