"""A change of keys as the one who asks for it sees it: questions, answers, and what is said at the end."""

from __future__ import annotations

from typing import Any

from meshray.config import DEFAULT
from meshray.core.rotation import STEPS, Kind, Report, Rotation, SwitchHere, TellMember
from meshray.wire.rotation import GiveKey, KeysHere, UseKey, WhichKeys

A, B, C = b"member-a", b"member-b", b"member-c"
OLD, NEW, OTHER = b"old key ", b"new key ", b"other-- "
MESH, SECRET = b"the mesh", b"s" * 32
FIRST = 7


class Asked:
    """A rotation and what it has asked for, by the time of its own clock."""

    def __init__(self, kind: Kind, *nodes: bytes, expel: bool = False) -> None:
        self.now = 0.0
        self.told: list[TellMember] = []
        self.reports: list[Report] = []
        self.switched = 0
        self.rotation = Rotation(kind, nodes, NEW, SECRET, MESH, FIRST, DEFAULT, self.now, expel=expel)
        self.take()

    def take(self) -> None:
        for effect in self.rotation.take_effects():
            if isinstance(effect, TellMember):
                self.told.append(effect)
            elif isinstance(effect, SwitchHere):
                self.switched += 1
            else:
                self.reports.append(effect)

    def asked(self) -> list[tuple[bytes, Any]]:
        """Whom, and what kind of question, since the last call."""
        told, self.told = self.told, []
        return [(tell.node, type(tell.message)) for tell in told]

    def answer(self, node: bytes, step: int, current: bytes = OLD, following: bytes = b"", trouble: str = "") -> None:
        self.rotation.on_answer(node, KeysHere(FIRST + step, current, following, trouble), self.now)
        self.take()

    def wait(self, seconds: float) -> None:
        """By steps, as the shell does."""
        until = self.now + seconds
        while not self.rotation.over and self.rotation.next_at() <= until:
            self.now = max(self.now, self.rotation.next_at())
            self.rotation.tick(self.now)
            self.take()
        self.now = until


def test_all_are_given_the_key_and_say_so() -> None:
    asked = Asked(Kind.STAGE, A, B)
    assert asked.told == [TellMember(node, GiveKey(FIRST, MESH, SECRET)) for node in (A, B)]
    asked.answer(A, 0, OLD, NEW)
    assert asked.reports == []
    asked.answer(B, 0, OLD, OTHER, "another one is staged")
    (report,) = asked.reports
    assert report.answers == {A: KeysHere(FIRST, OLD, NEW), B: KeysHere(FIRST, OLD, OTHER, "another one is staged")}
    assert asked.rotation.over


def test_who_does_not_answer_is_asked_again_until_the_time_is_over() -> None:
    asked = Asked(Kind.STAGE, A, B)
    asked.answer(A, 0, OLD, NEW)
    asked.asked()
    asked.wait(DEFAULT.key_ask_again_s)
    assert asked.asked() == [(B, GiveKey)]
    asked.wait(DEFAULT.key_ask_s)
    (report,) = asked.reports
    assert report.answers[B] is None
    assert report.done


def test_who_dies_is_not_waited_for() -> None:
    asked = Asked(Kind.STAGE, A, B)
    asked.answer(A, 0, OLD, NEW)
    asked.rotation.on_gone(B, asked.now)
    asked.take()
    (report,) = asked.reports
    assert set(report.answers) == {A}
    asked.rotation.on_gone(A, asked.now)  # after the end nothing matters
    asked.answer(A, 0)
    assert len(asked.reports) == 1


def test_alone_it_is_over_at_once() -> None:
    for kind, switched in ((Kind.STAGE, 0), (Kind.SWITCH, 1), (Kind.WHICH, 0)):
        asked = Asked(kind)
        assert asked.rotation.over
        assert asked.switched == switched
        assert [report.done for report in asked.reports] == [True]


def test_a_switch_asks_tells_does_it_and_looks() -> None:
    asked = Asked(Kind.SWITCH, A, B)
    assert asked.asked() == [(A, WhichKeys), (B, WhichKeys)]
    asked.answer(A, 0, OLD, NEW)
    asked.answer(B, 0, OLD, NEW)
    assert asked.told == [TellMember(node, UseKey(FIRST + 1, NEW)) for node in (A, B)]
    asked.asked()
    asked.answer(A, 1, OLD, NEW)
    assert not asked.switched  # not before all have heard, or the time is over
    asked.answer(B, 1, OLD, NEW)
    assert asked.switched == 1
    assert asked.asked() == [(A, WhichKeys), (B, WhichKeys)]
    asked.answer(A, 2, OLD, NEW)  # not yet
    asked.answer(B, 2, NEW)
    asked.wait(DEFAULT.key_ask_again_s)
    assert asked.asked() == [(A, WhichKeys)]
    asked.answer(A, 2, NEW)
    (report,) = asked.reports
    assert report.done
    assert {node: answer and answer.current for node, answer in report.answers.items()} == {A: NEW, B: NEW}


def test_nothing_is_changed_when_somebody_lacks_the_key() -> None:
    asked = Asked(Kind.SWITCH, A, B)
    asked.answer(A, 0, OLD, NEW)
    asked.answer(B, 0, OLD, OTHER)
    (report,) = asked.reports
    assert not report.done
    assert not asked.switched
    assert set(report.answers) == {A, B}


def test_nothing_is_changed_when_somebody_does_not_answer() -> None:
    asked = Asked(Kind.SWITCH, A, B)
    asked.answer(A, 0, OLD, NEW)
    asked.wait(DEFAULT.key_ask_s)
    assert [report.done for report in asked.reports] == [False]
    assert not asked.switched


def test_who_is_expelled_is_not_told() -> None:
    asked = Asked(Kind.SWITCH, A, B, C, expel=True)
    asked.asked()
    asked.answer(A, 0, OLD, NEW)
    asked.answer(B, 0, OLD)
    asked.wait(DEFAULT.key_ask_s)
    assert (A, UseKey) in asked.asked()
    asked.answer(A, 1, OLD, NEW)
    asked.answer(A, 2, NEW)
    (report,) = asked.reports
    assert report.done
    assert report.answers == {A: KeysHere(FIRST + 2, NEW), B: None, C: None}


def test_a_switch_that_was_broken_off_is_begun_anew() -> None:
    """Some have switched by then: they are as good as those that have the key as their next one."""
    asked = Asked(Kind.SWITCH, A, B)
    asked.answer(A, 0, NEW)
    asked.answer(B, 0, OLD, NEW)
    for node, current in ((A, NEW), (B, OLD)):
        asked.answer(node, 1, current, NEW if current == OLD else b"")
    asked.answer(A, 2, NEW)
    asked.answer(B, 2, NEW)
    assert [report.done for report in asked.reports] == [True]


def test_one_that_falls_silent_after_it_was_told_holds_nobody_up_for_ever() -> None:
    asked = Asked(Kind.SWITCH, A, B)
    for node in (A, B):
        asked.answer(node, 0, OLD, NEW)
    asked.answer(A, 1, OLD, NEW)
    asked.wait(DEFAULT.key_ask_s)
    assert asked.switched == 1
    asked.answer(A, 2, NEW)
    asked.wait(DEFAULT.key_ask_s)
    (report,) = asked.reports
    assert report.answers == {A: KeysHere(FIRST + 2, NEW), B: None}


def test_answers_to_another_question_are_dropped() -> None:
    asked = Asked(Kind.SWITCH, A)
    asked.answer(A, 1, NEW)
    asked.answer(A, 2, NEW)
    asked.answer(A, STEPS, NEW)
    assert asked.asked() == [(A, WhichKeys)]
    asked.answer(B, 0, OLD)  # of somebody who was not asked
    asked.answer(A, 0, OLD, NEW)
    assert asked.asked() == [(A, UseKey)]
