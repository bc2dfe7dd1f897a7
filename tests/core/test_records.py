"""What one process knows of objects: births, deaths, values, promotion, carriers."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest

from meshray.core.records import Birth, Carrier, Record, Records, Tally
from meshray.wire.messages import (
    CarrierDone,
    Failure,
    Fetch,
    Fetched,
    Hold,
    Place,
    Promote,
    Promoted,
    Release,
    Resolve,
)

NODE = b"the-node"
PEER = b"P" * 16
SENDER = b"S" * 16


def oid(number: int) -> bytes:
    return number.to_bytes(24, "big") + bytes(4)


class Shell:
    """The records of a process; `idle` are those that it let go of without a word."""

    def __init__(self) -> None:
        self.queue: deque[Any] = deque()
        self.idle: list[bytes] = []
        self.may_release = True
        self.records = Records(PEER, self.queue, lambda record: self.idle.append(record.id), lambda _: self.may_release)

    def own(self, number: int, value: bytes | None = b"v", task: Any = None) -> Record:
        record = self.records.table[oid(number)] = Record(oid(number), True, 1, task)
        record.value = value
        return record

    def born(self, number: int, carrier: Carrier | None = None) -> None:
        self.queue.append(Birth(oid(number), carrier))

    def dies(self, number: int) -> None:
        self.queue.append(oid(number))

    def said(self) -> list[Any]:
        """Account, and what was said since the last time."""
        self.records.drain()
        effects = self.records.take_effects()
        for effect in effects:
            assert effect.to == (SENDER if isinstance(effect.message, CarrierDone) else PEER)
        return [effect.message for effect in effects]

    def __contains__(self, number: int) -> bool:
        return oid(number) in self.records.table


# -- owned -------------------------------------------------------------------------------------------------------------


def test_what_a_carrier_brought_is_told_in_the_order_in_which_it_came_whatever_the_hashes() -> None:
    """Else a seed of a simulation does not repeat."""
    shell = Shell()
    carrier = Carrier(b"task" * 6, SENDER)
    numbers = list(range(40))
    random.Random(1).shuffle(numbers)
    for number in numbers:
        shell.born(number, carrier)
    shell.said()
    assert shell.records.end_carrier(carrier)
    assert shell.said() == [Hold(1, [oid(number) for number in numbers])]


def test_an_owned_object_that_never_leaves_costs_no_message() -> None:
    shell = Shell()
    shell.own(1)
    shell.born(1)
    shell.dies(1)
    assert shell.said() == []
    assert 1 in shell
    shell.dies(1)
    assert shell.said() == []
    assert 1 not in shell
    assert shell.idle == [], "of a small value nothing is left to look after"
    shell.dies(1)
    assert shell.said() == [], "of an ended mesh, say: no matter"


def test_of_what_leaves_something_behind_the_shell_is_told() -> None:
    """A segment, a failure that nobody has seen, a task of which an earlier attempt may have written one."""
    shell = Shell()
    shell.own(1).value = Place(NODE, oid(1), "segment", 1 << 20)
    shell.own(2).value = Failure("TaskError", "no")
    shell.own(3).exposed = True
    for number in (1, 2, 3):
        shell.dies(number)
    assert shell.said() == []
    assert shell.idle == [oid(1), oid(2), oid(3)]


def test_a_birth_in_the_queue_counts_before_a_death_behind_it() -> None:
    shell = Shell()
    shell.own(1)
    shell.born(1)
    shell.dies(1)
    shell.records.drain()
    assert shell.records.table[oid(1)].count == 1


def test_a_pending_record_lives_until_its_value_comes() -> None:
    shell = Shell()
    record = shell.own(1, None, task="the task")
    shell.dies(1)
    assert shell.said() == []
    assert 1 in shell
    shell.records.settle(record, b"late", None)
    assert 1 not in shell
    assert shell.idle == [oid(1)]


def test_the_first_value_counts_and_waiters_are_told_once() -> None:
    shell = Shell()
    record = shell.own(1, None, task="the task")
    told: list[Record] = []
    record.waiters = [told.append, told.append]
    shell.records.settle(record, b"one", None)
    shell.records.settle(record, b"two", None)
    assert record.value == b"one"
    assert told == [record, record]
    assert record.task is None


def test_a_run_of_values_settles_as_one_by_one() -> None:
    shell = Shell()
    waited, dead, settled, plain = (shell.own(number, None, task="the task") for number in (1, 2, 3, 4))
    told: list[Record] = []
    waited.waiters = [told.append]
    settled.value = b"before"
    dead.count = 0
    shell.records.settle_run([waited, dead, settled, plain], [b"1", b"2", b"3", b"4"])
    assert [waited.value, settled.value, plain.value] == [b"1", b"before", b"4"]
    assert told == [waited]
    assert dead.id not in shell.records.table
    assert waited.task is plain.task is None


# -- promotion ---------------------------------------------------------------------------------------------------------


def test_promotion_tells_the_value_now_or_later_and_the_end() -> None:
    shell = Shell()
    there, pending = shell.own(1), shell.own(2, None)
    for record in (there, pending, there):
        shell.records.promote(record)
    said = shell.said()
    assert all(isinstance(message, Promote) for message in said)
    assert [(p.object_id, p.value) for message in said for p in message.records] == [(oid(1), b"v"), (oid(2), None)]
    shell.records.settle(pending, Failure("TaskError", "no"), None)
    (resolve,) = shell.said()
    assert isinstance(resolve, Resolve)
    assert resolve.records[0].object_id == oid(2)
    shell.dies(1)
    shell.dies(2)
    assert shell.said() == [Release([oid(1), oid(2)])], "in one message"
    assert not shell.idle
    assert not shell.records.table


# -- borrowed ----------------------------------------------------------------------------------------------------------


def test_what_a_carrier_brought_and_nobody_kept_costs_no_message() -> None:
    shell = Shell()
    carrier = Carrier(b"t" * 24, SENDER)
    shell.born(1, carrier)
    shell.dies(1)
    assert shell.said() == []
    assert 1 not in shell
    assert not shell.records.end_carrier(carrier)
    assert shell.said() == []


def test_law_g2_the_sender_lets_go_only_when_the_owner_knows_us() -> None:
    shell = Shell()
    carrier = Carrier(b"t" * 24, SENDER)
    shell.born(1, carrier)
    shell.born(2, carrier)
    shell.dies(2)
    shell.records.drain()
    assert shell.records.end_carrier(carrier)
    (hold,) = shell.said()
    assert hold == Hold(hold.token, [oid(1)])
    shell.records.on_hold_done(hold.token)
    assert shell.said() == [CarrierDone([carrier.id])]
    shell.records.on_hold_done(hold.token)
    assert shell.said() == [], "a repeat"
    shell.dies(1)
    assert shell.said() == [Release([oid(1)])]


def test_a_release_follows_the_hold_also_when_the_handle_dies_between() -> None:
    shell = Shell()
    carrier = Carrier(b"t" * 24, SENDER)
    shell.born(1, carrier)
    shell.records.drain()
    assert shell.records.end_carrier(carrier)
    shell.dies(1)
    hold, release = shell.said()
    assert isinstance(hold, Hold)
    assert release == Release([oid(1)])
    shell.records.on_hold_done(hold.token)
    assert shell.said() == [CarrierDone([carrier.id])]


def test_two_carriers_of_one_reference() -> None:
    shell = Shell()
    first, second = Carrier(b"1" * 24, SENDER), Carrier(b"2" * 24, SENDER)
    shell.born(1, first)
    shell.born(1, second)
    shell.records.drain()
    assert not shell.records.end_carrier(first), "the second one still keeps it alive"
    assert shell.records.end_carrier(second)
    assert [type(message) for message in shell.said()] == [Hold]


def test_an_own_reference_that_comes_back_needs_no_carrier() -> None:
    shell = Shell()
    shell.own(1)
    carrier = Carrier(b"t" * 24, SENDER)
    shell.born(1, carrier)
    shell.records.drain()
    assert not shell.records.end_carrier(carrier)
    assert shell.said() == []


def test_a_reference_out_of_band_is_held_at_once() -> None:
    shell = Shell()
    shell.born(1, None)
    assert shell.said() == [Hold(0, [oid(1)])]
    shell.dies(1)
    assert shell.said() == [Release([oid(1)])]


def test_fetching_asks_once_and_tells_the_waiters() -> None:
    shell = Shell()
    carrier = Carrier(b"t" * 24, SENDER)
    record = shell.records.borrow(oid(1), carrier)
    own = shell.own(2, None)
    shell.records.fetch([record, own])
    shell.records.fetch([record])
    assert shell.said() == [Fetch([oid(1)])]
    told: list[Record] = []
    record.waiters = [told.append]
    shell.records.on_fetched(Fetched([Promoted(oid(1), b"v", []), Promoted(oid(9), b"v", [])]))
    shell.records.on_fetched(Fetched([Promoted(oid(1), b"another", [])]))
    assert record.value == b"v"
    assert told == [record]


def test_a_container_is_let_go_of_when_the_owner_knows_us_for_what_was_inside() -> None:
    shell = Shell()
    shell.born(1, None)
    shell.said()
    shell.records.on_fetched(Fetched([Promoted(oid(1), b"box", [oid(2)])]))
    inside = shell.records.table[oid(1)].inside
    assert inside is not None
    shell.born(2, inside)
    shell.dies(1)
    (hold,) = shell.said()
    assert hold == Hold(hold.token, [oid(2)])
    assert 1 in shell
    shell.records.on_hold_done(hold.token)
    assert shell.said() == [Release([oid(1)])]
    assert 1 not in shell
    assert 2 in shell


def test_a_release_that_is_put_off() -> None:
    shell = Shell()
    shell.born(1, None)
    shell.may_release = False
    shell.dies(1)
    assert not [message for message in shell.said() if isinstance(message, Release)]
    shell.may_release = True
    shell.records.let_go(oid(1))
    shell.records.let_go(oid(1))
    assert shell.said() == [Release([oid(1)])]


# -- everything at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(150))
def test_the_peer_knows_us_for_what_lives_and_for_nothing_else(seed: int) -> None:
    """Whatever handles and carriers do: while a borrowed handle lives, a carrier that has not ended covers it or the
    peer was told; when all are dead, the peer was told of the end of all that it was told of."""
    chance = random.Random(seed)
    shell = Shell()
    handles: dict[int, int] = {}
    carriers: list[Carrier] = []  # alive
    brought: dict[bytes, set[int]] = {}
    held: set[bytes] = set()
    tokens: list[int] = []
    done: set[bytes] = set()
    kept: set[bytes] = set()  # ended, and a CarrierDone is to come

    def listen() -> None:
        for message in shell.said():
            if isinstance(message, Hold):
                held.update(message.object_ids)
                tokens.append(message.token)
            elif isinstance(message, Release):
                for object_id in message.object_ids:
                    assert object_id in held
                    held.discard(object_id)
            elif isinstance(message, CarrierDone):
                done.update(message.carriers)

    def check() -> None:
        listen()
        assert done <= kept
        for number, count in handles.items():
            if count:
                covered = any(number in brought[carrier.id] for carrier in carriers)
                assert covered or oid(number) in held, f"seed {seed}: nobody keeps {number} alive"
            else:
                assert number not in shell

    for step in range(150):
        what = chance.random()
        if what < 0.25 and len(carriers) < 4:
            carrier = Carrier(step.to_bytes(24, "big"), SENDER)
            carriers.append(carrier)
            brought[carrier.id] = set()
        elif what < 0.55 and carriers:
            carrier, number = chance.choice(carriers), chance.randrange(6)
            shell.born(number, carrier)
            brought[carrier.id].add(number)
            handles[number] = handles.get(number, 0) + 1
        elif what < 0.8:
            alive = [number for number, count in handles.items() if count]
            if alive:
                number = chance.choice(alive)
                shell.dies(number)
                handles[number] -= 1
        elif what < 0.9 and carriers:
            carrier = carriers.pop(chance.randrange(len(carriers)))
            shell.records.drain()
            if shell.records.end_carrier(carrier):
                kept.add(carrier.id)
        elif tokens:
            shell.records.on_hold_done(tokens.pop(chance.randrange(len(tokens))))
        check()
    for carrier in carriers:
        shell.records.drain()
        if shell.records.end_carrier(carrier):
            kept.add(carrier.id)
    listen()
    for number, count in handles.items():
        for _ in range(count):
            shell.dies(number)
    listen()
    for token in tokens:
        shell.records.on_hold_done(token)
    listen()
    assert not held
    assert not shell.records.table
    assert done == kept


# -- waiters -----------------------------------------------------------------------------------------------------------


class Count(Tally):
    """Waits for many; how often it was told, and of how many."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def arrived(self, count: int) -> None:
        self.told.append(count)


def test_who_waits_for_many_is_told_of_all_at_once() -> None:
    shell = Shell()
    records = [shell.own(number, None) for number in range(6)]
    first, second, heard = Count(), Count(), list[Record]()
    for record in records[:3]:
        record.add_waiter(first)
    records[3].add_waiter(second)
    for record in records[4:]:
        record.add_waiter(first)
    records[5].add_waiter(heard.append)
    shell.records.settle_run(records, [b"v"] * 6)
    assert first.told == [3, 1, 1]  # the last one on its way with another waiter
    assert second.told == [1]
    assert heard == [records[5]]
    assert not any(record.waiters for record in records)


def test_waiters_come_and_go() -> None:
    record = Shell().own(1, None)
    heard: list[str] = []
    waiters = [lambda _, name=name: heard.append(name) for name in "abc"]
    for waiter in [*waiters, waiters[0]]:
        record.add_waiter(waiter)
    record.drop_waiter(waiters[0])  # once
    record.drop_waiter(waiters[1])
    record.drop_waiter(waiters[1])  # it is gone already
    record.tell_waiters()
    assert heard == ["c", "a"]
    assert record.waiters is None
    record.add_waiter(waiters[1])
    record.drop_waiter(waiters[2])
    assert record.waiters is waiters[1]
    record.drop_waiter(waiters[1])
    record.tell_waiters()
    assert heard == ["c", "a"]
