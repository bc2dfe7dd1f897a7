"""Who must still answer before a dead process may be forgotten?"""

from __future__ import annotations

from random import Random

from meshray.core.departures import Departures

A, B, C, D = (name * 16 for name in (b"a", b"b", b"c", b"d"))


def test_a_death_without_witnesses_is_settled_at_once() -> None:
    assert Departures().open(A, []) == [A]


def test_everybody_must_answer() -> None:
    departures = Departures()
    assert departures.open(A, [B, C]) == []
    assert departures.answered(B, A) == []
    assert departures.answered(B, A) == []  # a repeat changes nothing
    assert departures.answered(D, A) == []  # it was not asked
    assert (departures.unanswered_by(B), departures.unanswered_by(C)) == ([], [A])
    assert departures.answered(C, A) == [A]
    assert A not in departures
    assert departures.answered(C, A) == []


def test_a_witness_that_dies_answers_when_its_own_death_is_settled() -> None:
    departures = Departures()
    departures.open(A, [B, C])
    departures.answered(C, A)
    assert departures.open(B, [C]) == []
    assert A in departures
    assert departures.answered(C, B) == [B, A]
    assert len(departures) == 0


def test_whatever_the_order_all_is_settled_in_the_end() -> None:
    for seed in range(200):
        random = Random(seed)
        alive = [bytes([number]) * 16 for number in range(6)]
        departures, open_questions, settled = Departures(), set[tuple[bytes, bytes]](), list[bytes]()
        deaths = 0
        while len(alive) > 1 or open_questions:
            if len(alive) > 1 and (not open_questions or random.random() < 0.4):
                dead = alive.pop(random.randrange(len(alive)))
                deaths += 1
                open_questions = {question for question in open_questions if question[0] != dead}
                open_questions |= {(witness, dead) for witness in alive}
                settled += departures.open(dead, alive)
            else:
                question = random.choice(sorted(open_questions))
                open_questions.discard(question)
                settled += departures.answered(*question)
        assert len(settled) == len(set(settled)) == deaths, f"seed {seed}"
        assert len(departures) == 0, f"seed {seed}"
