"""What this host's processes know of other peers' actors."""

from __future__ import annotations

from typing import Any

import pytest

from meshray.core.effects import Send
from meshray.core.foreign_actors import ForeignActors
from meshray.wire import messages as m

OWNER = b"theowner" + bytes(8)
OTHER = b"theother" + bytes(8)
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


@pytest.mark.fault(24, 26)
def test_who_was_only_cut_off_is_asked_again_and_not_the_heir(core: ForeignActors) -> None:
    """The heir would wait for an end of the owner that does not come."""
    core.on_watch(ONE, m.WatchActor(A))
    core.on_news(OWNER, m.ActorNews(A, 1, W1, heir=OTHER))
    effects(core)
    core.on_node_gone(OWNER[:8], there=True)
    assert effects(core) == [Send(OWNER, m.WatchActor(A))]


@pytest.mark.fault(22)
def test_an_owner_that_is_there_again_is_asked_unless_another_one_has_taken_over(core: ForeignActors) -> None:
    core.on_watch(ONE, m.WatchActor(A))
    core.on_news(OWNER, m.ActorNews(A, 1, W1, heir=OTHER))
    effects(core)
    core.on_node_gone(OWNER[:8])
    assert effects(core) == [Send(OTHER, m.WatchActor(A))]
    core.on_node_there(OWNER[:8])
    assert effects(core) == [Send(OTHER, m.UnwatchActor(A)), Send(OWNER, m.WatchActor(A))]
    core.on_moved(A, OTHER)
    effects(core)
    core.on_node_there(OWNER[:8])
    assert effects(core) == []


@pytest.mark.fault(22)
def test_what_an_heir_does_not_know_is_not_dead_for_ever(core: ForeignActors) -> None:
    core.on_watch(ONE, m.WatchActor(A))
    core.on_news(OWNER, m.ActorNews(A, 1, W1, heir=OTHER))
    core.on_node_gone(OWNER[:8])
    core.on_news(OTHER, m.ActorNews(A, 0, b"", DIED))
    effects(core)
    core.on_watch(ONE, m.WatchActor(A))
    assert effects(core) == [Send(OWNER, m.WatchActor(A))]


def test_what_this_peer_has_taken_over_is_known_here(core: ForeignActors) -> None:
    core.on_moved(A, OTHER)
    assert core.has_moved(A)
    core.on_ours(A)
    assert not core.has_moved(A)
