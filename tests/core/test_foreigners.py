"""Who has met whom, and who must account for deaths."""

from __future__ import annotations

from meshray.core.foreigners import Foreigners

H, K = b"home...h", b"home...k"
X, Y, Z = H + b"xxxxxxxx", H + b"yyyyyyyy", K + b"zzzzzzzz"
A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
PEER_H, PEER_K = H + bytes(8), K + bytes(8)


def test_they_are_there_from_their_introduction_to_their_death() -> None:
    them = Foreigners()
    assert X not in them
    them.add(X, b"job")
    them.add(X, b"another")
    assert X in them
    assert them.job_of(X) == b"job"
    assert them.of_job(b"job") == [X]
    assert them.on_died(X, set())
    assert X not in them
    assert len(them) == 0
    them.add(X, b"job")  # late
    assert X not in them


def test_the_last_witness_answers_for_all() -> None:
    them = Foreigners()
    them.add(X, b"")
    for witness in (A, B):
        them.met(X, witness)
    assert them.who_met(X) == {A, B}
    them.on_died(X, {A, B})
    assert them.settles(X)
    assert not them.on_answer(C, X)
    assert not them.on_answer(A, X)
    assert not them.on_answer(A, X)
    assert them.on_answer(B, X)
    assert them.also_tell(C, X)
    assert not them.also_tell(A, X)
    assert them.on_settled(X) == [A, B, C]
    assert not them.settles(X)


def test_a_witness_that_dies_is_waited_for_until_its_own_death_is_settled() -> None:
    them = Foreigners()
    them.met(X, A)
    them.on_died(X, {A})
    them.on_local_died(A, [PEER_H, PEER_K])
    assert them.has_told(PEER_K, A)
    assert them.on_local_settled(A) == [PEER_H, PEER_K]
    assert not them.has_told(PEER_K, A)
    assert them.settled_witness(A) == [X]
    assert them.settled_witness(A) == []


def test_of_a_host_that_is_gone_nothing_is_kept() -> None:
    them = Foreigners()
    for process, witness in ((X, A), (Y, B), (Z, C)):
        them.add(process, b"")
        them.met(process, witness)
    them.on_died(Y, {B})
    them.on_local_died(B, [PEER_H, PEER_K])
    assert them.who_met_any(H) == {A}
    them.on_host_gone(H)
    assert them.who_met_any(H) == set()
    assert X not in them
    assert not them.settles(Y)
    assert Z in them
    assert them.on_local_settled(B) == [PEER_K]
