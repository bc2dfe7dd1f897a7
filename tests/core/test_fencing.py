"""The right of a host to run another peer's actors, and the pause of an owner that has lost a host."""

from __future__ import annotations

from meshray.config import DEFAULT
from meshray.core.effects import Send
from meshray.core.fencing import SKEW, UNANSWERED_MAX, Fenced, Fencing
from meshray.wire.messages import FenceRenew, FenceRenewed

OWNER, HOST = b"o" * 16, b"h" * 16
T, EVERY = DEFAULT.fence_right_s, DEFAULT.fence_renew_s
PAUSE = SKEW * T + DEFAULT.fence_margin_s


def asked(fencing: Fencing) -> list[int]:
    """The numbers of the requests that go out now; nothing else does."""
    effects = fencing.take_effects()
    assert all(isinstance(effect, Send) and effect.to == OWNER for effect in effects)
    assert all(type(effect.message) is FenceRenew for effect in effects)
    return [effect.message.number for effect in effects]


def test_a_host_asks_at_once_and_then_every_two_seconds() -> None:
    host = Fencing(DEFAULT)
    assert host.next_deadline() is None
    host.begin(OWNER, 5.0)
    assert asked(host) == [1]
    host.begin(OWNER, 6.0)
    assert asked(host) == []
    assert host.next_deadline() == 5.0 + EVERY
    host.tick(5.0 + EVERY)
    assert asked(host) == [2]


def test_an_answer_counts_from_when_its_request_was_sent() -> None:
    host = Fencing(DEFAULT)
    host.begin(OWNER, 0.0)
    host.tick(2.0)
    host.on_renewed(OWNER, FenceRenewed(2), 9.0)
    assert host.right_until(OWNER) == 2.0 + T
    host.on_renewed(OWNER, FenceRenewed(1), 9.5)  # late: it takes nothing away
    assert host.right_until(OWNER) == 2.0 + T
    host.on_renewed(OWNER, FenceRenewed(2), 9.6)
    host.on_renewed(OWNER, FenceRenewed(77), 9.7)
    assert host.right_until(OWNER) == 2.0 + T
    assert host.stale == 2


def test_without_an_answer_the_right_ends_once() -> None:
    host = Fencing(DEFAULT)
    host.begin(OWNER, 0.0)
    asked(host)
    host.tick(T)
    assert host.take_effects() == [Fenced(OWNER)]
    host.tick(T + 1)
    assert host.take_effects() == []
    assert host.next_deadline() is None


def test_a_host_that_slept_has_no_right_whatever_it_finds_in_its_post() -> None:
    host = Fencing(DEFAULT)
    host.begin(OWNER, 0.0)
    asked(host)
    host.on_renewed(OWNER, FenceRenewed(1), 600.0)
    assert host.right_until(OWNER) == T
    host.tick(600.0)
    assert host.take_effects() == [Fenced(OWNER)]


def test_a_host_without_actors_of_an_owner_does_not_ask() -> None:
    host = Fencing(DEFAULT)
    host.begin(OWNER, 0.0)
    asked(host)
    host.end(OWNER)
    host.tick(100.0)
    assert host.take_effects() == []
    host.begin(OWNER, 100.0)
    assert asked(host) == [2]  # an answer to the first one would be no answer to this
    host.on_renewed(OWNER, FenceRenewed(1), 100.1)
    assert host.right_until(OWNER) == 100.0 + T


def test_unanswered_requests_are_bounded() -> None:
    host = Fencing(DEFAULT)
    host.begin(OWNER, 0.0)
    for number in range(1, 4 * UNANSWERED_MAX):
        host.on_renewed(OWNER, FenceRenewed(number), number * EVERY)  # just the one before
        host.tick(number * EVERY)
    assert len(host._rights[OWNER].sent) <= UNANSWERED_MAX


def test_an_owner_waits_from_its_last_answer_on() -> None:
    owner = Fencing(DEFAULT)
    owner.on_renew(HOST, FenceRenew(7), 100.0)
    assert owner.take_effects() == [Send(HOST, FenceRenewed(7))]
    assert owner.pause_s(HOST, 104.0) == 0.0
    assert owner.on_host_lost(HOST, 104.0) == 100.0 + PAUSE - 104.0
    assert owner.pause_s(HOST, 105.0) == 100.0 + PAUSE - 105.0
    owner.tick(100.0 + PAUSE)
    assert owner.pause_s(HOST, 100.0 + PAUSE) == 0.0


def test_the_pause_for_an_inherited_actor_begins_when_the_owner_before_must_be_gone() -> None:
    """Its host may hear of the new owner late, and be cut off from it just then."""
    owner = Fencing(DEFAULT)
    owner.on_inherited(HOST, 100.0)
    late = 100.0 + DEFAULT.leave_move_s + DEFAULT.leave_say_s + T
    assert owner.on_host_lost(HOST, 101.0) == late + PAUSE - 101.0
    owner = Fencing(DEFAULT)
    owner.on_inherited(HOST, 100.0)
    owner.on_placed(HOST, 101.0)  # it has heard
    assert owner.on_host_lost(HOST, 102.0) == 101.0 + PAUSE - 102.0


def test_a_host_that_never_asked_runs_nothing() -> None:
    assert Fencing(DEFAULT).on_host_lost(HOST, 3.0) == 0.0


def test_a_lost_host_is_not_answered_until_its_right_is_over() -> None:
    owner = Fencing(DEFAULT)
    owner.on_renew(HOST, FenceRenew(1), 0.0)
    owner.on_host_lost(HOST, 1.0)
    owner.take_effects()
    owner.on_renew(HOST, FenceRenew(2), PAUSE - 0.1)
    assert owner.take_effects() == []
    assert owner.on_host_lost(HOST, PAUSE - 0.1) > 0.0  # lost once more: the same pause
    owner.on_renew(HOST, FenceRenew(3), PAUSE)
    assert owner.take_effects() == [Send(HOST, FenceRenewed(3))]
    assert owner.stale == 1


def test_the_pause_is_longer_than_the_right_by_any_two_clocks() -> None:
    """Rates wrong by 1 %, the request under way for no time or for as long as it may be."""
    for host_rate in (0.99, 1.0, 1.01):
        for owner_rate in (0.99, 1.0, 1.01):
            for under_way in (0.0, 1.0, T):
                stops_at = T / host_rate  # by a true clock, after sending
                starts_at = under_way + PAUSE / owner_rate
                assert starts_at - stops_at > 0.9 * DEFAULT.fence_margin_s
