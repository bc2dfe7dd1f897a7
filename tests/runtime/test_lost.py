"""What the owner of a value does when somebody else cannot have it: its own peer fetches a copy first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from meshray.core.effects import Send
from meshray.core.pending import IN_FLIGHT, WAITING, Pending
from meshray.core.records import Record
from meshray.runtime.copies import Copies
from meshray.runtime.lost import LostValues
from meshray.wire import messages as m
from tests.core.test_remaking import CONFIG, PEER, SELF, Handle, Process

LOST = m.Failure("ObjectLostError", "no host has it any more")


class Owner:
    """A process as `LostValues` sees it: also in place of its `submission` and `dependencies`."""

    def __init__(self) -> None:
        self.process = Process()
        self.config, self.records, self.peer, self.process_id = CONFIG, self.process.records, PEER, SELF
        self.at = SimpleNamespace(is_alone=False)
        self.store = SimpleNamespace(forget=lambda segment: None)
        self.sent: list[Any] = []
        self.replies: dict[m.Place, Callable[[Any], None]] = {}
        self.inbox: deque[Pending] = deque()
        self.starved: list[tuple[Pending, m.Result]] = []
        self.ready: list[Pending] = []
        self.failed: list[m.Failure] = []
        self.submission = self.dependencies = self
        self.copies = Copies(self)  # type: ignore[arg-type]
        self.lost = LostValues(self)  # type: ignore[arg-type]
        self.lost.remaking = self.process.core

    def request(self, make: Any, reply: Callable[[Any], None]) -> int:
        self.replies[make(0).place] = reply
        return 0

    def send(self, destination: bytes, message: Any) -> None:
        self.sent.append(message)

    def on_ready(self, task: Pending) -> None:
        self.ready.append(task)

    def fail(self, task: Pending, failure: m.Failure) -> None:
        self.failed.append(failure)

    def resolve(self, task: Pending, refs: list[Any], ready: Callable[[], None]) -> bool:
        task.deps = [self.records.table[ref.binary()].value for ref in refs]
        return None not in task.deps

    # -- what happens ------------------------------------------------------------------------------------------------

    def brought(self, place: m.Place, failure: m.Failure | None = None) -> None:
        """The answer of its peer."""
        local = m.Place(place.object_id, PEER[:8], "copy-1", place.size)
        self.replies.pop(place)(m.Brought(0, None if failure else local, failure))

    def reader(self, *refs: Handle) -> Pending:
        """A task with these arguments, under way."""
        task = self.process.task_of(self.process.submit(*refs)[0])
        self.resolve(task, task.dep_refs or [], lambda: None)
        task.state = IN_FLIGHT
        return task

    def starve(self, task: Pending, *places: m.Place) -> None:
        """It comes back."""
        task.state = WAITING
        self.starved.append((task, m.Result(1, [LOST], [], False, places)))
        self.lost.on_starved()

    def unused(self) -> bool:
        self.copies.drain()
        return m.Unused(["copy-1"]) in self.sent

    def told(self) -> list[Any]:
        """What its peer was told of the values, since the last look."""
        messages = [effect.message for effect in self.records.take_effects() if isinstance(effect, Send)]
        return [message for message in messages if isinstance(message, m.Resolve | m.Promote)]


def owned() -> tuple[Owner, Handle, m.Place]:
    """An owner, a large value of it, and where that lies."""
    owner = Owner()
    value = owner.process.make()
    return owner, value, owner.process.value(value)


def test_a_task_goes_again_once_there_is_a_copy_which_stays_until_it_is_done() -> None:
    owner, value, place = owned()
    task = owner.reader(value)
    owner.starve(task, place)
    assert owner.ready == []
    owner.brought(place)
    assert owner.ready == [task]
    assert not owner.inbox, "nothing is made again"
    assert owner.process.value(value) == place
    assert not owner.unused()
    task.lent = None  # as when it is done
    assert owner.unused()


def test_what_its_own_peer_cannot_have_either_is_made_again() -> None:
    owner = Owner()
    value, other = owner.process.make(), owner.process.make()
    gone, there = owner.process.value(value), owner.process.value(other)
    task = owner.reader(value, other)
    owner.starve(task, gone, there)
    owner.brought(there)
    owner.brought(gone, LOST)
    assert [each.task_id for each in owner.inbox] == [gone.object_id[:24]]
    assert owner.process.value(other) == there
    assert owner.ready == []


def test_a_task_that_lacks_it_in_spite_of_the_copy_waits_for_another_value() -> None:
    owner, value, place = owned()
    task = owner.reader(value)
    owner.starve(task, place)
    owner.brought(place)
    owner.starve(task, place)
    assert not owner.replies
    assert len(owner.inbox) == 1


def test_one_that_fails_says_which_of_its_arguments_cannot_be_made_again() -> None:
    """Its worker says why of the first alone, which may be another one (seed 411745 of `test_remaking`)."""
    owner = Owner()
    first, spent = owner.process.make(), owner.process.make(retries=0)
    places = owner.process.value(first), owner.process.value(spent)
    task = owner.reader(first, spent)
    owner.starve(task, *places)
    for place in places:
        owner.brought(place, LOST)
    assert [each.task_id for each in owner.inbox] == [places[0].object_id[:24]]
    (failure,) = owner.failed
    assert failure.details["object_id"] == places[1].object_id.hex()
    assert "nothing to make it again of" in failure.message
    task = owner.reader(spent)
    owner.starve(task, places[1])
    owner.brought(places[1], LOST)
    (again,) = owner.failed[1:]
    assert again.message.startswith(f"{LOST.message}. It is not made again: its owner has nothing to make it again of")


def test_large_arguments_by_value_are_lost_whatever_else_it_lacks() -> None:
    owner = Owner()
    value = owner.process.make()
    arguments = owner.process.place(owner.process.new_task_id() + bytes(4))
    task = owner.reader(value)
    owner.starve(task, owner.process.value(value), arguments)
    owner.brought(owner.process.value(value))
    (failure,) = owner.failed
    assert failure.details["object_id"] == arguments.object_id.hex()
    assert owner.ready == []


def test_one_that_was_cancelled_meanwhile_stays_so() -> None:
    owner, value, place = owned()
    task = owner.reader(value)
    owner.starve(task, place)
    task.state = "done"
    owner.brought(place)
    assert (owner.ready, owner.failed, list(owner.inbox)) == ([], [], [])


def test_whoever_asks_by_way_of_the_peer_is_sent_to_the_copy_once() -> None:
    owner, value, place = owned()
    owner.records.promote(owner.process.record(value))
    owner.told()
    owner.lost.on_remake(m.Remake([place]))
    owner.lost.on_remake(m.Remake([place]))  # a repeat
    assert owner.told() == []
    owner.brought(place)
    assert owner.told() == [m.Resolve([m.Promoted(place.object_id, place, copied=True)])]
    assert owner.unused(), "it stays while there is room"
    owner.lost.on_remake(m.Remake([place]))
    assert not owner.replies
    assert len(owner.inbox) == 1


def test_one_that_was_not_promoted_is_promoted_with_its_copy() -> None:
    owner, _value, place = owned()
    owner.lost.on_remake(m.Remake([place]))
    owner.brought(place)
    assert owner.told() == [m.Promote([m.Promoted(place.object_id, place, copied=True)])]


def test_one_that_was_let_go_of_here_is_looked_for_too() -> None:
    owner = Owner()
    place = m.Place(SELF + bytes(12), b"far-node", "abcd-9", 5000)
    owner.lost.on_remake(m.Remake([place]))
    owner.brought(place)
    assert owner.told() == [m.Resolve([m.Promoted(place.object_id, place, copied=True)])]
    owner.lost.on_out_of_scope(m.OutOfScope([place.object_id]))
    owner.lost.on_remake(m.Remake([place]))
    owner.brought(place, LOST)
    assert owner.told() == [m.Resolve([m.Promoted(place.object_id, place)])], "nothing can make it again"


def test_what_lies_on_its_own_host_is_not_looked_for() -> None:
    owner = Owner()
    place = m.Place(SELF + bytes(12), PEER[:8], "abcd-9", 5000)
    owner.records.table[place.object_id] = Record(place.object_id, True, 1, None, place, promoted=True)
    owner.lost.on_remake(m.Remake([place]))
    assert not owner.replies
    assert owner.told() == [m.Resolve([m.Promoted(place.object_id, place)])]
