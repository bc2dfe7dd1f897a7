"""Whose room in the store is what: credit, pools, deaths, a full store."""

from __future__ import annotations

from typing import Any

import pytest

from meshray.config import DEFAULT
from meshray.core.effects import Send, SweepSegments, UnlinkSegment
from meshray.core.store_accounts import StoreAccounts
from meshray.wire import messages as m
from tests.transit import none_in_transit

MIB = 1 << 20
A, B = b"node____process1", b"node____process2"


@pytest.fixture
def store() -> StoreAccounts:
    accounts = StoreAccounts(DEFAULT, 1000 * MIB, none_in_transit)
    accounts.on_process_attached(A, 11)
    accounts.on_process_attached(B, 22)
    return accounts


def said(store: StoreAccounts) -> list[tuple[bytes, Any]]:
    store.check()
    return [(e.to, e.message) for e in store.take_effects() if isinstance(e, Send)]


def ask(store: StoreAccounts, process: bytes, size: int, request: int = 1, now: float = 0.0) -> None:
    store.on_credit_request(process, m.CreditRequest(request, size), now)


def seal(store: StoreAccounts, process: bytes, number: int, size: int) -> None:
    store.on_sealed(process, m.SealedSegment(bytes([number] * 28), f"s{number}", size, size))


def test_credit_comes_in_steps_and_not_beyond_the_room(store: StoreAccounts) -> None:
    ask(store, A, MIB)
    assert said(store) == [(A, m.CreditGranted(1, 64 * MIB))]
    ask(store, A, 700 * MIB)
    assert said(store) == [(A, m.CreditGranted(1, 700 * MIB))]
    ask(store, B, MIB)
    ((_, granted),) = said(store)
    assert granted.size == (1000 - 764) * MIB // 8
    assert store.used <= store.capacity


def test_what_can_never_fit_is_refused_at_once_with_both_numbers(store: StoreAccounts) -> None:
    ask(store, A, 1001 * MIB)
    ((_, granted),) = said(store)
    assert granted.failure.kind == "ObjectStoreFullError"
    assert "1001.0 MiB" in granted.failure.message
    assert "1000.0 MiB" in granted.failure.message


@pytest.mark.fault(37)
def test_a_full_store_asks_for_pools_and_serves_in_order(store: StoreAccounts) -> None:
    ask(store, A, 990 * MIB)
    said(store)
    ask(store, B, 500 * MIB, request=2)
    ask(store, B, 1 * MIB, request=3)  # would fit, and waits its turn
    assert [(to, type(message)) for to, message in said(store)] == [(A, m.TrimPool), (A, m.TrimPool)]
    store.on_trimmed(A, m.PoolTrimmed(600 * MIB))
    answers = [message for _, message in said(store)]
    assert [answer.request for answer in answers] == [2, 3]


@pytest.mark.fault(37)
def test_a_full_store_gives_up_after_a_while_and_names_the_largest_holders(store: StoreAccounts) -> None:
    ask(store, A, 990 * MIB)
    seal(store, A, 1, 400 * MIB)
    seal(store, A, 2, 500 * MIB)
    ask(store, B, 500 * MIB, now=5.0)
    assert store.next_deadline() == 5.0 + DEFAULT.store_wait_s
    store.tick(14.9)
    said(store)
    store.tick(15.0)
    ((to, granted),) = said(store)
    assert to == B
    text = granted.failure.message
    assert text.index(bytes([2] * 28).hex()) < text.index(bytes([1] * 28).hex())
    assert "pid 11" in text
    assert store.next_deadline() is None


def test_a_freed_segment_stays_charged_until_it_is_trimmed(store: StoreAccounts) -> None:
    ask(store, A, 64 * MIB)
    seal(store, A, 1, 10 * MIB)
    said(store)
    store.on_object_freed(bytes([1] * 28))
    assert said(store) == [(A, m.SegmentsFree(["s1"]))]
    assert store.used == 64 * MIB
    store.on_trimmed(A, m.PoolTrimmed(64 * MIB))
    assert store.used == 0


def test_a_segment_of_which_some_is_on_its_way_to_another_host_is_not_written_again() -> None:
    store = StoreAccounts(DEFAULT, 1000 * MIB, {"s2", "s3"}.__contains__)
    store.on_process_attached(A, 11)
    ask(store, A, 64 * MIB)
    for number in range(1, 5):
        seal(store, A, number, 10 * MIB)
    said(store)
    for number in range(1, 5):
        store.on_object_freed(bytes([number] * 28))
    assert said(store) == [
        (A, m.SegmentsFree(["s1"])), (A, m.SegmentsFree(["s2", "s3"], again=False)), (A, m.SegmentsFree(["s4"]))
    ]  # fmt: skip
    assert store.used == 64 * MIB, "until it says that they are unlinked"


def test_while_somebody_waits_nothing_rests_in_a_pool(store: StoreAccounts) -> None:
    ask(store, A, 990 * MIB)
    seal(store, A, 1, 990 * MIB)
    ask(store, B, 100 * MIB)
    said(store)
    store.on_object_freed(bytes([1] * 28))
    assert [type(message) for _, message in said(store)] == [m.SegmentsFree, m.TrimPool]


def test_a_death_returns_credit_and_pool_and_keeps_what_lives(store: StoreAccounts) -> None:
    ask(store, A, 64 * MIB)
    seal(store, A, 1, 10 * MIB)
    seal(store, A, 2, 20 * MIB)
    store.on_object_freed(bytes([1] * 28))
    store.on_process_died(A)
    assert store.used == 20 * MIB
    store.on_death_settled(A)
    assert SweepSegments(A, ("s2",)) in store.take_effects()
    store.on_object_freed(bytes([2] * 28))
    assert store.take_effects() == [UnlinkSegment("s2")]
    assert store.used == 0
    store.check()


def test_requests_of_the_dead_are_dropped(store: StoreAccounts) -> None:
    ask(store, A, 1000 * MIB)
    ask(store, B, MIB)
    store.on_process_died(B)
    said(store)
    store.on_trimmed(A, m.PoolTrimmed(1000 * MIB))
    assert said(store) == []
    assert store.stats().waiting == 0


def test_a_name_in_use_for_another_object_is_refused(store: StoreAccounts) -> None:
    seal(store, A, 1, MIB)
    assert not store.on_sealed(B, m.SealedSegment(bytes(28), "s1", 1, 1))
    assert store.stats().refused == 1
