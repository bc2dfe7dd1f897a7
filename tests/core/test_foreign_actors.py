"""What this host's processes know of other peers' actors."""

from __future__ import annotations

from typing import Any

import pytest

from meshray.core.effects import Send, TellCallers
from meshray.core.foreign_actors import ForeignActors
from meshray.wire import messages as m

OWNER = b"theowner" + bytes(8)
OTHER = b"theother" + bytes(8)
THIRD = b"thethird" + bytes(8)
ONE, TWO = b"thispeercaller-1", b"thispeercaller-2"
W1, W2 = b"somehostworker-1", b"somehostworker-2"
A = OWNER[:8] + b"driver--" + bytes(8)
DIED = m.Failure("ActorDiedError", "it is dead")


@pytest.fixture
def core() -> ForeignActors:
    return ForeignActors()


def effects(core: ForeignActors) -> list[Any]:
    core.check()
    return core.take_effects()


def test_an_owner_is_asked_once_for_all(core: ForeignActors) -> None:
    core.on_watch(ONE, m.WatchActor(A))
    core.on_watch(TWO, m.WatchActor(A))
    assert effects(core) == [Send(OWNER, m.WatchActor(A))]
    core.on_news(OTHER, m.ActorNews(A, 9, W2))
    assert effects(core) == []
    core.on_news(OWNER, m.ActorNews(A, 1, W1))
    assert effects(core) == [Send(ONE, m.ActorState(A, 1, W1)), Send(TWO, m.ActorState(A, 1, W1))]
    core.on_watch(TWO, m.WatchActor(A))
    assert effects(core) == [Send(TWO, m.ActorState(A, 1, W1))]


def test_each_hears_what_the_journal_says_of_its_own_calls(core: ForeignActors) -> None:
    core.on_watch(ONE, m.WatchActor(A))
    core.on_watch(TWO, m.WatchActor(A))
    effects(core)
    calls = [m.CallsOf(TWO, [m.Result(3, [b""])], [4])]
    core.on_news(OWNER, m.ActorNews(A, 2, b"", None, calls, True))
    assert effects(core) == [
        Send(ONE, m.ActorState(A, 2, all_started=True)),
        Send(TWO, m.ActorState(A, 2, b"", None, [m.Result(3, [b""])], [4], True)),
    ]


def test_the_dead_are_remembered(core: ForeignActors) -> None:
    core.on_watch(ONE, m.WatchActor(A))
    core.on_news(OWNER, m.ActorNews(A, 2, b"", DIED))
    effects(core)
    core.on_watch(TWO, m.WatchActor(A))
    assert effects(core) == [Send(TWO, m.ActorState(A, 0, b"", DIED))]
    assert core.stats().watched == 0


@pytest.mark.fault(5)
def test_the_actors_of_an_owner_that_is_gone_are_dead(core: ForeignActors) -> None:
    core.on_watch(ONE, m.WatchActor(A))
    effects(core)
    core.on_node_gone(OTHER[:8])
    assert effects(core) == []
    core.on_node_gone(OWNER[:8])
    (told,) = effects(core)
    assert (told.to, told.message.failure.kind, told.message.all_started) == (ONE, "ActorDiedError", True)
    core.on_watch(TWO, m.WatchActor(A))  # it may be there again
    assert effects(core) == [Send(OWNER, m.WatchActor(A))]


def test_a_host_where_nobody_watches_any_more_says_so(core: ForeignActors) -> None:
    core.on_watch(ONE, m.WatchActor(A))
    core.on_watch(TWO, m.WatchActor(A))
    effects(core)
    core.on_process_died(ONE)
    assert effects(core) == []
    core.on_process_died(TWO)
    assert effects(core) == [Send(OWNER, m.UnwatchActor(A))]
    core.on_news(OWNER, m.ActorNews(A, 1, W1))
    assert effects(core) == []
    assert core.stats().stale == 1


def test_kills_go_to_the_owner(core: ForeignActors) -> None:
    core.on_kill(m.KillActor(A, True))
    assert effects(core) == [Send(OWNER, m.KillActor(A, True))]


def test_an_actor_that_has_moved_is_watched_there(core: ForeignActors) -> None:
    core.on_watch(ONE, m.WatchActor(A))
    effects(core)
    core.on_moved(A, OTHER)
    assert effects(core) == [Send(OTHER, m.WatchActor(A))]
    core.on_node_gone(OWNER[:8])
    assert effects(core) == []
    core.on_news(OTHER, m.ActorNews(A, 3, W2))
    assert effects(core) == [Send(ONE, m.ActorState(A, 3, W2))]
    core.on_kill(m.KillActor(A, True))
    assert effects(core) == [Send(OTHER, m.KillActor(A, True))]


@pytest.mark.fault(24)
@pytest.mark.parametrize("out_of_reach", [True, False])
def test_the_heir_is_asked_only_if_the_owner_is_gone_for_all(core: ForeignActors, out_of_reach: bool) -> None:
    core.on_watch(ONE, m.WatchActor(A))
    core.on_news(OWNER, m.ActorNews(A, 1, W1, heir=OTHER))
    effects(core)
    core.on_node_gone(OWNER[:8], out_of_reach)
    (told,) = effects(core)
    if out_of_reach:
        assert told.message.failure.kind == "ActorDiedError"
        assert "cannot be reached" in told.message.failure.message
        core.on_watch(ONE, m.WatchActor(A))
        assert effects(core) == [Send(OWNER, m.WatchActor(A))]
    else:
        assert told == Send(OTHER, m.WatchActor(A))


def watched(core: ForeignActors, heir: bytes = OTHER) -> None:
    """ONE watches, and knows a worker."""
    core.on_watch(ONE, m.WatchActor(A))
    core.on_news(OWNER, m.ActorNews(A, 1, W1, heir=heir))
    effects(core)


@pytest.mark.fault(22)
def test_an_heir_is_asked_only_until_the_owner_is_there_again(core: ForeignActors) -> None:
    watched(core)
    core.on_node_gone(OWNER[:8])
    assert effects(core) == [Send(OTHER, m.WatchActor(A))]
    core.on_watch(TWO, m.WatchActor(A))
    core.on_kill(m.KillActor(A, False))
    assert effects(core) == [Send(OTHER, m.KillActor(A, False))], "what was known is from before"
    core.on_node_there(THIRD[:8])
    assert effects(core) == []
    core.on_node_there(OWNER[:8])
    assert effects(core) == [Send(OTHER, m.UnwatchActor(A)), Send(OWNER, m.WatchActor(A))]
    core.on_node_there(OWNER[:8])
    assert effects(core) == []
    core.on_news(OTHER, m.ActorNews(A, 0, failure=DIED))  # it will never have it
    core.on_news(OWNER, m.ActorNews(A, 1, W1, heir=OTHER))
    state = m.ActorState(A, 1, W1, all_started=True)
    assert effects(core) == [Send(ONE, state), Send(TWO, state)]
    core.on_process_died(ONE)
    core.on_process_died(TWO)


@pytest.mark.fault(24, 26)
def test_who_was_only_cut_off_is_asked_again_and_not_the_heir(core: ForeignActors) -> None:
    """The heir would wait for an end of the owner that does not come."""
    core.on_watch(ONE, m.WatchActor(A))
    core.on_news(OWNER, m.ActorNews(A, 1, W1, heir=OTHER))
    effects(core)
    core.on_node_gone(OWNER[:8])
    core.on_node_there(OWNER[:8])
    assert effects(core)[1:] == [Send(OTHER, m.UnwatchActor(A)), Send(OWNER, m.WatchActor(A))]


@pytest.mark.fault(22)
def test_whoever_comes_while_an_heir_is_asked_asks_there_and_later_ones_at_the_owner(core: ForeignActors) -> None:
    watched(core)
    core.on_node_gone(OWNER[:8])
    core.on_process_died(ONE)
    effects(core)
    core.on_watch(TWO, m.WatchActor(A))
    assert effects(core) == [Send(OTHER, m.WatchActor(A))]
    core.on_process_died(TWO)
    core.on_node_there(OWNER[:8])
    effects(core)
    core.on_watch(TWO, m.WatchActor(A))
    assert effects(core) == [Send(OWNER, m.WatchActor(A))]


@pytest.mark.fault(22)
def test_an_heir_that_does_not_know_an_actor_does_not_say_that_it_is_dead(core: ForeignActors) -> None:
    watched(core)
    core.on_node_gone(OWNER[:8])
    effects(core)
    core.on_news(OTHER, m.ActorNews(A, 0, failure=DIED))
    assert effects(core) == [Send(OWNER, m.WatchActor(A))]
    core.on_node_gone(OWNER[:8])  # so says the road
    (told,) = effects(core)
    assert (told.to, told.message.incarnation, told.message.failure.kind) == (ONE, 1, "ActorDiedError")
    core.on_watch(TWO, m.WatchActor(A))  # it may be there again
    assert effects(core) == [Send(OWNER, m.WatchActor(A))]


@pytest.mark.fault(5)
def test_an_heir_that_has_said_so_is_the_owner(core: ForeignActors) -> None:
    watched(core)
    core.on_node_gone(OWNER[:8])
    core.on_moved(A, OTHER, 1)
    effects(core)
    core.on_node_there(OWNER[:8])
    assert effects(core) == []
    core.on_news(OTHER, m.ActorNews(A, 2, b"", DIED))
    (told,) = effects(core)
    assert told.message.failure == DIED
    core.on_watch(TWO, m.WatchActor(A))
    assert effects(core) == [Send(TWO, m.ActorState(A, 0, b"", DIED))]


@pytest.mark.fault(5)
def test_an_heir_that_is_gone_too_is_asked_no_more(core: ForeignActors) -> None:
    watched(core)
    core.on_node_gone(OWNER[:8])
    effects(core)
    core.on_node_gone(OTHER[:8])
    (told,) = effects(core)
    assert told.message.failure is not None
    core.on_watch(TWO, m.WatchActor(A))
    assert effects(core) == [Send(OWNER, m.WatchActor(A))]


def test_who_has_watched_an_actor_of_our_own_watches_it_where_it_is_now(core: ForeignActors) -> None:
    core.on_moved(A, OTHER, 1)
    core.on_given_way(A, [ONE, TWO])
    assert effects(core) == [Send(OTHER, m.WatchActor(A))]
    core.on_news(OTHER, m.ActorNews(A, 2, W2))
    state = m.ActorState(A, 2, W2, all_started=True)
    assert effects(core) == [Send(ONE, state), Send(TWO, state)]


def test_of_two_that_have_taken_it_over_the_later_one_counts(core: ForeignActors) -> None:
    watched(core)
    core.on_moved(A, OTHER, 2)
    core.on_moved(A, THIRD, 1)
    assert effects(core) == [Send(OTHER, m.WatchActor(A))]
    assert core.owner_of(A) == OTHER
    core.on_moved(A, THIRD, 3)
    assert effects(core) == [Send(THIRD, m.WatchActor(A))]


@pytest.mark.fault(5, 16)
def test_an_earlier_heir_inherits_from_a_later_owner_that_is_gone(core: ForeignActors) -> None:
    """It has an older will, and so a lower reign (tests/sim/test_heirs.py, seed 2813)."""
    watched(core)
    core.on_moved(A, OTHER, 2)
    core.on_process_died(ONE)
    core.on_node_gone(OTHER[:8], out_of_reach=True)
    assert core.owner_of(A) == OTHER, "it lives, and goes on to own it"
    core.on_node_gone(OTHER[:8])
    core.on_moved(A, THIRD, 1)
    assert core.owner_of(A) == THIRD


@pytest.mark.fault(5, 16)
@pytest.mark.parametrize("worker", [b"", W2])
def test_calls_in_flight_count_as_begun_when_another_owner_has_started_it_again(
    core: ForeignActors, worker: bytes
) -> None:
    """Nobody has told what the journal of the old worker said."""
    watched(core)
    core.on_moved(A, OTHER, 1)
    core.on_news(OTHER, m.ActorNews(A, 2, worker))
    core.on_news(OTHER, m.ActorNews(A, 3, b"", None, [m.CallsOf(ONE, [], [4])]))
    assert [effect.message for effect in effects(core) if effect.to == ONE] == [
        m.ActorState(A, 2, worker, all_started=True),
        m.ActorState(A, 3, started=[4]),
    ]


def test_what_this_peer_has_taken_over_is_known_here(core: ForeignActors) -> None:
    watched(core, heir=THIRD)
    core.on_node_gone(OWNER[:8])
    core.on_moved(A, THIRD, 1)
    assert effects(core) == [Send(THIRD, m.WatchActor(A))]
    core.on_node_there(OWNER[:8])
    assert effects(core) == [], "that one is no owner any more"


def test_callers_are_told_what_an_actor_without_people_waits_for(core: ForeignActors) -> None:
    core.on_watch(ONE, m.WatchActor(A))
    effects(core)
    for _ in range(2):
        core.on_news(OWNER, m.ActorNews(A, 2, waits="it waits"))
    assert [effect for effect in effects(core) if isinstance(effect, TellCallers)] == [TellCallers("it waits", (ONE,))]
    core.on_watch(TWO, m.WatchActor(A))
    assert TellCallers("it waits", (TWO,)) in effects(core)
    core.on_news(OWNER, m.ActorNews(A, 2, W1))
    core.on_watch(TWO, m.WatchActor(A))
    assert not any(isinstance(effect, TellCallers) for effect in effects(core))
