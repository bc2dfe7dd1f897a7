"""Who asked for an actor that is not known yet?"""

from __future__ import annotations

from meshray.core.early import EarlyQuestions
from meshray.wire.messages import KillActor, WatchActor

CREATOR, ASKER, OTHER = b"creator-creator-", b"asker-asker-aske", b"other-other-othe"
ACTOR, ANOTHER = CREATOR + b"\0" * 8, OTHER + b"\0" * 8


def test_questions_wait_for_the_actor_in_order() -> None:
    early = EarlyQuestions(10)
    early.add(ASKER, WatchActor(ACTOR))
    early.add(OTHER, KillActor(ACTOR, True))
    assert early.take(ANOTHER) == []
    assert early.take(ACTOR) == [(ASKER, WatchActor(ACTOR)), (OTHER, KillActor(ACTOR, True))]
    assert len(early) == 0


def test_there_is_a_bound() -> None:
    early = EarlyQuestions(2)
    assert [early.add(ASKER, WatchActor(ACTOR)) for _ in range(3)] == [True, True, False]
    early.take(ACTOR)
    assert early.add(ASKER, WatchActor(ACTOR))


def test_a_dead_asker_asks_no_more() -> None:
    early = EarlyQuestions(10)
    early.add(ASKER, WatchActor(ACTOR))
    early.add(OTHER, WatchActor(ACTOR))
    assert early.on_process_died(ASKER) == []
    assert early.take(ACTOR) == [(OTHER, WatchActor(ACTOR))]


def test_who_does_not_want_to_know_any_more_is_not_told() -> None:
    early = EarlyQuestions(10)
    for asker in (ASKER, OTHER):
        early.add(asker, WatchActor(ACTOR))
    early.add(ASKER, KillActor(ACTOR, True))
    early.drop_watch(ASKER, ACTOR)
    early.drop_watch(ASKER, ANOTHER)
    assert len(early) == 2
    assert early.take(ACTOR) == [(OTHER, WatchActor(ACTOR)), (ASKER, KillActor(ACTOR, True))]
    early.add(ASKER, WatchActor(ACTOR))
    early.drop_watch(ASKER, ACTOR)
    assert early.take(ACTOR) == []


def test_questions_about_what_a_dead_process_never_made_are_given_back() -> None:
    early = EarlyQuestions(10)
    early.add(ASKER, WatchActor(ACTOR))
    early.add(CREATOR, WatchActor(ACTOR))
    early.add(ASKER, WatchActor(ANOTHER))
    assert early.on_process_died(CREATOR) == [(ASKER, WatchActor(ACTOR))]
    assert len(early) == 1


def test_who_watches_no_more_is_forgotten_but_its_kill_is_not() -> None:
    early = EarlyQuestions(10)
    early.add(ASKER, WatchActor(ACTOR))
    early.add(ASKER, KillActor(ACTOR, True))
    early.add(OTHER, WatchActor(ACTOR))
    early.drop_watch(ASKER, ACTOR)
    early.drop_watch(ASKER, ANOTHER)
    assert len(early) == 2
    assert early.take(ACTOR) == [(ASKER, KillActor(ACTOR, True)), (OTHER, WatchActor(ACTOR))]
