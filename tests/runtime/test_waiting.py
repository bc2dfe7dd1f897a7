"""`get`, `wait` and callbacks over records that change, with a pump that another thread feeds."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from meshray.core.records import Record
from meshray.errors import GetTimeoutError, MeshrayError, ObjectLostError, TaskError
from meshray.refs import ObjectRef
from meshray.runtime.copies import Loans, NotHere
from meshray.runtime.waiting import TimeIsUp, Waiting
from meshray.wire.messages import Failure, Place

LIMIT_S = 20.0


class FakePump:
    """A lock, and what happens while somebody waits."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.closed = False
        self.events: deque[Callable[[], object]] = deque()
        self.kicked = threading.Event()

    def enter(self) -> bool:
        assert self.lock.acquire(timeout=LIMIT_S), "the lock is taken twice"
        return False

    def leave(self, raised: bool) -> None:
        self.lock.release()

    def turn(self) -> None:
        while self.events:
            self.events.popleft()()

    def wake(self, waiter: Any) -> None:
        pass

    def kick(self) -> None:
        self.kicked.set()

    def wait(self, waiter: Any, deadline: float | None = None, begin: Callable[[], None] | None = None) -> bool:
        end = min(deadline or 1e18, time.monotonic() + LIMIT_S)
        self.enter()
        try:
            if begin is not None:
                begin()
            while waiter.missing > 0 and not self.closed:
                if self.events:
                    self.events.popleft()()
                elif time.monotonic() >= end:
                    return False
            return True
        finally:
            self.leave(False)


class FakeRecords:
    def __init__(self) -> None:
        self.table: dict[bytes, Record] = {}
        self.fetched: list[bytes] = []

    def fetch(self, records: list[Record]) -> None:
        for record in records:
            if not record.owned and record.value is None:
                record.fetching = True
                self.fetched.append(record.id)

    def drain(self) -> None:
        pass


class FakeEngine:
    process_id = b"here"

    def __init__(self) -> None:
        self.pump = FakePump()
        self.copies = SimpleNamespace(ask=None, events=deque())
        self.records = FakeRecords()
        self.on_broken: Callable[[], None] = lambda: None
        self.told: list[Record] = []

    def await_record(self, record: Record, waiter: Callable[[Record], None]) -> None:
        record.add_waiter(waiter)
        if not record.owned:
            self.records.fetch([record])

    def check(self) -> None:
        if self.pump.closed:
            raise MeshrayError("this mesh was shut down")

    def tell(self, records: list[Record]) -> None:
        self.told += [record for record in records if isinstance(record.value, Failure)]


class FakeValues:
    def load(self, value: Any, carrier: Any = None) -> Any:
        if isinstance(value, Failure):
            raise TaskError(value.message)
        return value

    loads = load


class Shell:
    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.pump = self.engine.pump
        self.waiting = Waiting(self.engine, FakeValues())  # type: ignore[arg-type]

    def refs(self, count: int, owned: bool = True) -> list[ObjectRef[Any]]:
        ids = [len(self.engine.records.table).to_bytes(24, "big") + n.to_bytes(4, "big") for n in range(count)]
        for object_id in ids:
            self.engine.records.table[object_id] = Record(object_id, owned, 1)
        return [ObjectRef(object_id) for object_id in ids]

    def record(self, ref: ObjectRef[Any]) -> Record:
        return self.engine.records.table[ref.binary()]

    def settle(self, ref: ObjectRef[Any], value: Any) -> None:
        """As `Records.settle`: under the lock."""
        record = self.record(ref)
        record.value = value
        record.tell_waiters()

    def later(self, ref: ObjectRef[Any], value: Any) -> None:
        self.pump.events.append(lambda: self.settle(ref, value))


@pytest.fixture
def shell() -> Iterator[Shell]:
    shell = Shell()
    yield shell
    shell.pump.closed = True
    shell.waiting.close()


def failure(text: str) -> Failure:
    return Failure("TaskError", text)


def test_get_waits_for_all_and_keeps_the_order(shell: Shell) -> None:
    refs = shell.refs(3)
    for ref, value in ((refs[2], b"2"), (refs[0], b"0"), (refs[1], b"1")):
        shell.later(ref, value)
    assert shell.waiting.get([*refs, refs[0]], None) == [b"0", b"1", b"2", b"0"]
    assert shell.waiting.get([], 0) == []


def test_get_raises_the_first_failure_in_order_as_soon_as_there_is_one(shell: Shell) -> None:
    pending, one, two, there = shell.refs(4)
    shell.settle(there, b"v")
    shell.later(two, failure("two"))
    with pytest.raises(TaskError, match="two"):
        shell.waiting.get([there, pending, one, two], None)
    assert not shell.record(pending).waiters, "nobody waits for it any more"
    assert not shell.record(one).waiters
    shell.settle(one, failure("one"))
    with pytest.raises(TaskError, match="one"):
        shell.waiting.get([there, pending, one, two], None)
    assert {record.id for record in shell.engine.told} == {one.binary(), two.binary()}


def test_get_times_out_and_leaves_nothing_behind(shell: Shell) -> None:
    refs = shell.refs(2)
    shell.later(refs[0], b"v")
    for timeout in (0.01, 0):
        with pytest.raises(GetTimeoutError, match=rf"^get timed out after {timeout} s: 1 of 2 values are not there$"):
            shell.waiting.get(refs, timeout)
    assert not shell.record(refs[1]).waiters
    with pytest.raises(GetTimeoutError, match=r"^get timed out after 0 s: the value is not there$"):
        shell.waiting.get(refs[1:], 0)


def test_a_time_out_counts_all_that_was_asked_for_and_names_the_time_that_was_given(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are there, and one of them comes only after 3 of 5 s, from another host, where the third stays."""
    clock = [0.0]
    monkeypatch.setattr("meshray.runtime.waiting.time", SimpleNamespace(monotonic=lambda: clock[0]))
    refs = shell.refs(4)
    shell.settle(refs[0], b"v")
    shell.settle(refs[1], b"w")
    there, away = (Place(ref.binary(), b"far-away", ref.hex(), 9) for ref in refs[2:])

    def ask(places: list[Place], loans: Loans, waiter: Callable[[], None]) -> None:
        assert places == [there, away]
        loans.on_brought(there, None)
        waiter()

    def load(value: Any, carrier: Any = None) -> Any:
        if isinstance(value, Place):
            raise NotHere
        return value

    monkeypatch.setattr(shell.engine.copies, "ask", ask)
    monkeypatch.setattr(shell.waiting._values, "load", load)
    shell.later(refs[2], there)
    shell.later(refs[3], away)
    shell.pump.events.append(lambda: clock.__setitem__(0, 3.0))
    shell.pump.events.rotate(1)
    with pytest.raises(GetTimeoutError) as caught:
        shell.waiting.get(refs, 5)
    assert str(caught.value) == (
        "get timed out after 5 s: 1 of 4 values are not there, 1 of them made on other hosts and on their way"
    )
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("count", [1, 2])
def test_the_time_for_a_value_is_time_for_its_copy_as_well(
    shell: Shell, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after 3 of 5 s, and lies on another host."""
    clock, asked = [0.0], list[float | None]()
    monkeypatch.setattr("meshray.runtime.waiting.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def load(value: Any, carrier: Any = None) -> Any:
        raise NotHere

    def bring(values: Any, deadline: float | None) -> Any:
        asked.append(deadline)
        raise TimeIsUp

    monkeypatch.setattr(shell.waiting._values, "load", load)
    monkeypatch.setattr(shell.waiting, "bring", bring)
    refs = shell.refs(count)
    for ref in refs:
        shell.later(ref, Place(ref.binary(), b"far-away", "segment", 9))
    shell.pump.events.append(lambda: clock.__setitem__(0, 3.0))
    shell.pump.events.rotate(1)
    with pytest.raises(GetTimeoutError):
        shell.waiting.get(refs, 5)
    assert asked == [5.0]


def test_an_interrupt_leaves_nothing_behind(shell: Shell) -> None:
    refs = shell.refs(2)

    def interrupt() -> None:
        raise KeyboardInterrupt

    shell.pump.events.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        shell.waiting.get(refs, None)
    assert not any(shell.record(ref).waiters for ref in refs)
    shell.pump.events.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        shell.waiting.wait(refs, 1, None)
    assert not any(shell.record(ref).waiters for ref in refs)


def test_borrowed_values_are_asked_for_once(shell: Shell) -> None:
    refs = shell.refs(2, owned=False)
    for ref in refs:
        shell.later(ref, b"v")
    assert shell.waiting.get(refs, None) == [b"v", b"v"]
    assert shell.engine.records.fetched == [ref.binary() for ref in refs]


def test_wait_gives_at_most_what_was_asked_for_in_order(shell: Shell) -> None:
    refs = shell.refs(4)
    shell.later(refs[3], failure("an error is ready too"))
    shell.later(refs[1], b"v")
    assert shell.waiting.wait(refs, 2, None) == ([refs[1], refs[3]], [refs[0], refs[2]])
    assert shell.waiting.wait(refs, 1, None) == ([refs[1]], [refs[0], refs[2], refs[3]])
    assert shell.waiting.wait(refs, 3, 0.01) == ([refs[1], refs[3]], [refs[0], refs[2]])
    shell.later(refs[0], b"v")
    assert shell.waiting.wait(refs, 3, 0)[0] == [refs[0], refs[1], refs[3]], "a poll looks, too"
    assert not shell.record(refs[2]).waiters


def test_a_reference_that_no_record_stands_behind(shell: Shell) -> None:
    stranger: ObjectRef[Any] = ObjectRef(b"x" * 28)
    for call in (
        lambda: shell.waiting.get([stranger], 0),
        lambda: shell.waiting.wait([stranger], 1, 0),
        lambda: shell.waiting.future(stranger),
    ):
        with pytest.raises(ObjectLostError, match="ended"):
            call()


def test_callbacks_run_outside_of_the_lock_and_survive_errors(shell: Shell) -> None:
    there, later = shell.refs(2)
    shell.settle(there, b"v")
    ran: list[str] = []
    done = threading.Event()

    def callback() -> None:
        assert shell.pump.lock.acquire(timeout=LIMIT_S)
        shell.pump.lock.release()
        ran.append(threading.current_thread().name)
        done.set()

    shell.waiting.when_ready(later, callback)
    assert not ran
    shell.pump.enter()
    shell.settle(later, b"v")
    shell.pump.leave(False)
    assert done.wait(LIMIT_S)
    shell.waiting.when_ready(there, callback)
    assert shell.waiting.future(there).result(LIMIT_S) == b"v"
    assert ran == ["meshray-callbacks"] * 2


def test_futures_take_errors_and_may_be_cancelled(shell: Shell) -> None:
    one, two = shell.refs(2)
    future, dropped = shell.waiting.future(one), shell.waiting.future(two)
    assert dropped.cancel()
    shell.settle(one, failure("no"))
    shell.settle(two, b"v")
    assert isinstance(future.exception(LIMIT_S), TaskError)
    assert dropped.cancelled()


def test_what_is_outstanding_at_the_end_is_told(shell: Shell) -> None:
    one, two = shell.refs(2)
    future = shell.waiting.future(one)
    shell.pump.closed = True
    shell.engine.on_broken()
    with pytest.raises(MeshrayError, match="shut down"):
        future.result(LIMIT_S)
    with pytest.raises(MeshrayError, match="shut down"):
        shell.waiting.future(two)
    with pytest.raises(MeshrayError, match="shut down"):
        shell.waiting.get([two], None)
    with pytest.raises(MeshrayError, match="shut down"):
        shell.waiting.wait([two], 1, None)


class Blocker:
    def __init__(self) -> None:
        self.said: list[str] = []

    def before_wait(self) -> None:
        pass

    def begin_block(self) -> object:
        self.said.append("begin")
        return 7

    def end_block(self, token: object) -> None:
        self.said.append(f"end {token}")


def test_only_a_long_wait_is_told_to_the_worker(shell: Shell) -> None:
    short, long = shell.refs(2)
    blocker = shell.waiting.blocker = Blocker()  # type: ignore[assignment]
    shell.later(short, b"v")
    shell.waiting.get([short], None)
    assert blocker.said == []
    timer = threading.Timer(0.05, shell.later, [long, b"v"])
    timer.start()
    assert shell.waiting.get([long], None) == [b"v"]
    timer.join()
    assert blocker.said == ["begin", "end 7"]
