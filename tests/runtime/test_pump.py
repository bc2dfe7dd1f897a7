"""Leader and followers, the shield, the background thread: with a fake endpoint and real threads and signals."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from meshray.config import DEFAULT
from meshray.runtime.pump import AWAKE, POLLS, SLEEPS, Pump, Waiter
from meshray.runtime.spin import Spin

LIMIT_S = 20.0


class FakeEndpoint:
    """Messages are callables; delivering one makes the descriptor readable once (a real one: until all is read)."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.arrived: deque[Any] = deque()

    def deliver(self, message: Callable[[], object]) -> None:
        self.arrived.append(message)
        os.eventfd_write(self.fd, 1)

    def stirs(self) -> bool:
        return bool(select.select([self.fd], [], [], 0)[0])

    def receive(self, budget: int = 64, likely: bool = False) -> list[Any]:
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass  # nothing new since the last look; something may be left from it
        batch = []
        while self.arrived and len(batch) < budget:
            batch.append((b"", self.arrived.popleft()))
        return batch


class FakeHandler:
    """Runs what was delivered, and checks that nobody else is in here."""

    def __init__(self) -> None:
        self.pump: Pump
        self.inside = threading.Lock()
        self.turns = 0
        self.work: deque[Any] = deque()
        self.on_turns: dict[int, Callable[[], object]] = {}  # what happens in the n-th turn
        self.has_news = False
        self.timer_s: float | None = None
        self.failures: list[BaseException] = []
        self.deaths = 0
        self.turned_by: set[str] = set()

    def on_messages(self, batch: list[Any]) -> None:
        assert self.inside.acquire(False), "two threads turn the pump at once"
        try:
            for _, message in batch:
                message()
        finally:
            self.inside.release()

    def on_turn(self, now: float) -> None:
        assert self.inside.acquire(False), "two threads turn the pump at once"
        self.turns += 1
        self.turned_by.add(threading.current_thread().name)
        while self.work:
            self.work.popleft()()
        self.on_turns.pop(self.turns, int)()
        self.inside.release()

    def has_work(self) -> bool:
        return bool(self.work)

    def next_timer_s(self, now: float) -> float | None:
        return self.timer_s

    def on_peer_death(self) -> None:
        self.deaths += 1
        self.pump.closed = True
        self.pump.wake_all()

    def on_failure(self, error: BaseException) -> None:
        self.failures.append(error)
        self.pump.closed = True
        self.pump.wake_all()


class Bench:
    """A pump with all that it needs."""

    def __init__(self) -> None:
        self.endpoint = FakeEndpoint()
        self.handler = FakeHandler()
        self.death = os.eventfd(0, os.EFD_NONBLOCK)  # stands for the peer's pidfd
        self.pump = Pump(self.endpoint, self.handler, DEFAULT, self.death)  # type: ignore[arg-type]
        self.handler.pump = self.pump

    def waiter(self, missing: int = 1) -> Waiter:
        return Waiter(self.pump, missing)

    def locked(self) -> bool:
        return self.pump._lock.locked()

    def close(self) -> None:
        self.pump.close()
        self.pump.release_descriptors()
        os.close(self.endpoint.fd)
        os.close(self.death)


@pytest.fixture
def bench() -> Iterator[Bench]:
    before = signal.getsignal(signal.SIGINT)
    bench = Bench()
    yield bench
    bench.close()
    assert signal.getsignal(signal.SIGINT) is before


def wait_until(condition: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < give_up_at, "it does not happen"
        time.sleep(0.001)


def deadline() -> float:
    return time.monotonic() + LIMIT_S


class Waiting(threading.Thread):
    """A thread that waits for `waiter`."""

    def __init__(self, bench: Bench, waiter: Waiter) -> None:
        super().__init__(daemon=True)
        self.bench, self.waiter = bench, waiter
        self.result: bool | None = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.bench.pump.wait(self.waiter, deadline())
        except BaseException as error:
            self.error = error

    def end(self) -> bool | None:
        self.join(LIMIT_S)
        assert not self.is_alive(), "the waiter hangs"
        return self.result


def polling(bench: Bench, waiter: Waiter) -> bool:
    """Whether this waiter leads and polls (nobody holds the lock then)."""
    return bench.pump._leader is waiter and not bench.locked()


def following(bench: Bench, waiter: Waiter) -> bool:
    return waiter in bench.pump._followers and not bench.locked()


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_what_is_there_already_needs_no_poll(bench: Bench) -> None:
    waiter = bench.waiter()
    bench.endpoint.deliver(waiter)
    assert bench.pump.wait(waiter, deadline())
    assert not bench.locked()


def test_a_poll_looks_once_at_the_least(bench: Bench) -> None:
    assert not bench.pump.wait(bench.waiter(), time.monotonic())
    waiter = bench.waiter()
    bench.endpoint.deliver(waiter)
    assert bench.pump.wait(waiter, time.monotonic())


def test_begin_runs_under_the_lock(bench: Bench) -> None:
    waiter = bench.waiter()

    def begin() -> None:
        assert bench.locked()
        waiter()

    assert bench.pump.wait(waiter, deadline(), begin)


def test_it_waits_until_the_deadline_and_not_for_ever(bench: Bench) -> None:
    assert not bench.pump.wait(bench.waiter(), time.monotonic() + 0.02)
    assert bench.pump._leader is None


def test_a_spin_ends_when_another_thread_has_brought_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshray.runtime.spin.SPIN_S", LIMIT_S)  # and not because its time is over
    monkeypatch.setattr("meshray.runtime.spin.SPIN_YIELD_S", LIMIT_S)
    waiter = bench.waiter()
    looks: list[int] = []

    def stirs() -> bool:
        looks.append(1)
        bench.pump.enter()
        waiter()
        bench.pump.leave(False)
        return False

    bench.pump.spin = Spin(stirs)
    leader = Waiting(bench, waiter)
    assert leader.end() is True
    assert len(looks) == 1


def test_timers_turn_the_pump_while_somebody_waits(bench: Bench) -> None:
    waiter = bench.waiter()
    bench.handler.timer_s = 0.001
    bench.handler.on_turns[5] = waiter
    assert bench.pump.wait(waiter, deadline())


def test_the_leader_serves_followers_and_hands_over(bench: Bench) -> None:
    first, second, third = (bench.waiter() for _ in range(3))
    leader = Waiting(bench, first)
    wait_until(lambda: polling(bench, first))
    followers = [Waiting(bench, each) for each in (second, third)]
    wait_until(lambda: following(bench, second) and following(bench, third))
    bench.endpoint.deliver(second)
    assert followers[0].end()
    assert polling(bench, first)
    bench.endpoint.deliver(first)
    assert leader.end()
    wait_until(lambda: polling(bench, third))
    bench.endpoint.deliver(third)
    assert followers[1].end()
    assert bench.pump._leader is None


def test_one_that_was_woken_to_lead_and_leaves_wakes_the_next(bench: Bench) -> None:
    """The hand-over must not be lost with its receiver, who may have got his value just then."""
    first, second, third = (bench.waiter() for _ in range(3))
    leader = Waiting(bench, first)
    wait_until(lambda: polling(bench, first))
    followers = [Waiting(bench, third)]
    wait_until(lambda: following(bench, third))
    followers.insert(0, Waiting(bench, second))
    wait_until(lambda: following(bench, second))
    hand_over = bench.pump._hand_over

    def hand_over_and_complete() -> None:
        bench.pump._hand_over = hand_over  # type: ignore[method-assign]
        hand_over()
        assert second.lock is None, "another one was woken"
        second()  # under the same lock, so before he could take it

    bench.pump._hand_over = hand_over_and_complete  # type: ignore[method-assign]
    bench.endpoint.deliver(first)
    assert leader.end()
    assert followers[0].end()
    wait_until(lambda: polling(bench, third))
    bench.endpoint.deliver(third)
    assert followers[1].end()


def test_many_threads_and_every_one_gets_his_own(bench: Bench) -> None:
    bench.pump.start()
    threads = 16
    rounds = 40
    lost: list[int] = []

    def work(number: int) -> None:
        for _ in range(rounds):
            waiter = bench.waiter()
            others.append(waiter)
            if not bench.pump.wait(waiter, deadline()):
                lost.append(number)

    others: deque[Waiter] = deque()
    workers = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(threads)]
    for worker in workers:
        worker.start()
    delivered = 0
    give_up_at = deadline()
    while delivered < threads * rounds and time.monotonic() < give_up_at:
        while others:
            bench.endpoint.deliver(others.popleft())
            delivered += 1
        time.sleep(0)
    for worker in workers:
        worker.join(LIMIT_S)
    assert not any(worker.is_alive() for worker in workers)
    assert lost == []


def test_a_flood_ends_the_turn_and_not_the_messages(bench: Bench) -> None:
    got: list[int] = []
    for number in range(64 * 64 + 100):
        bench.endpoint.arrived.append(lambda number=number: got.append(number))
    waiter = bench.waiter()
    bench.endpoint.deliver(waiter)
    assert bench.pump.wait(waiter, deadline())
    assert got == list(range(64 * 64 + 100))


def deliver_with_another(bench: Bench, waiter: Waiter) -> threading.Event:
    """What a polling waiter waits for, and in the same moment a message for somebody else."""
    wait_until(lambda: polling(bench, waiter))
    other = threading.Event()
    bench.endpoint.arrived.append(waiter)
    bench.endpoint.deliver(other.set)
    return other


def test_a_waiter_goes_on_at_once_and_the_next_wait_receives_the_rest(bench: Bench) -> None:
    waiter = bench.waiter()
    waiting = Waiting(bench, waiter)
    other = deliver_with_another(bench, waiter)
    assert waiting.end()
    assert not other.is_set()
    bench.pump.wait(bench.waiter(), time.monotonic())
    assert other.is_set()


def test_the_background_thread_receives_what_a_waiter_has_left(bench: Bench) -> None:
    bench.pump.start()
    waiter = bench.waiter()
    waiting = Waiting(bench, waiter)
    other = deliver_with_another(bench, waiter)
    assert waiting.end()
    assert other.wait(LIMIT_S)


@pytest.mark.parametrize(("attended", "has_news"), [(True, False), (False, True)])
def test_a_waiter_leaves_nothing_to_an_event_loop_nor_with_something_to_decide(
    bench: Bench, attended: bool, has_news: bool
) -> None:
    bench.pump.attended, bench.handler.has_news = attended, has_news
    waiter = bench.waiter()
    waiting = Waiting(bench, waiter)
    other = deliver_with_another(bench, waiter)
    assert waiting.end()
    assert other.is_set()


def test_what_was_submitted_while_the_lock_was_taken_is_seen_before_the_poll(bench: Bench) -> None:
    waiter = bench.waiter()
    leave = bench.pump._handler.next_timer_s

    def next_timer_s(now: float) -> float | None:
        bench.handler.work.append(waiter)  # somebody submits here, cannot have the lock, and goes on
        return leave(now)

    bench.handler.next_timer_s = next_timer_s  # type: ignore[method-assign]
    assert bench.pump.wait(waiter, deadline())


# -- the background thread ---------------------------------------------------------------------------------------------


def test_the_background_thread_turns_when_nobody_does(bench: Bench) -> None:
    bench.pump.start()
    done = threading.Event()
    bench.endpoint.deliver(done.set)
    assert done.wait(LIMIT_S)
    wait_until(lambda: "meshray-background" in bench.handler.turned_by)


def test_the_background_thread_sleeps_while_a_leader_waits_and_is_woken_when_he_leaves(bench: Bench) -> None:
    bench.pump.start()
    waiter = bench.waiter()
    leader = Waiting(bench, waiter)
    wait_until(lambda: polling(bench, waiter))
    bench.endpoint.deliver(int)  # a message for nobody: the leader turns, and the background thread sees that he does
    wait_until(lambda: bench.pump.rest == SLEEPS)
    bench.endpoint.deliver(waiter)
    assert leader.end()
    done = threading.Event()
    bench.endpoint.deliver(done.set)
    assert done.wait(LIMIT_S)


def test_the_background_thread_looks_at_what_was_submitted_while_it_went_to_sleep(bench: Bench) -> None:
    waiter = bench.waiter()
    leader = Waiting(bench, waiter)
    wait_until(lambda: polling(bench, waiter))
    done = threading.Event()
    assert bench.pump.rest == AWAKE
    bench.handler.work.append(done.set)  # as a thread does that relies on the background thread
    bench.pump.start()
    assert done.wait(LIMIT_S)
    bench.endpoint.deliver(waiter)
    assert leader.end()


def test_a_kick_has_the_background_thread_look(bench: Bench) -> None:
    bench.pump.start()
    wait_until(lambda: bench.pump.rest == POLLS)
    done = threading.Event()
    bench.handler.work.append(done.set)
    bench.pump.kick()
    assert done.wait(LIMIT_S)


def test_kicks_from_many_threads_at_once(bench: Bench) -> None:
    bench.pump.start()
    errors: list[BaseException] = []

    def kick() -> None:
        try:
            for _ in range(500):
                bench.pump.kick()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=kick) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert errors == []


# -- the lock ----------------------------------------------------------------------------------------------------------


def test_a_nested_call_is_refused_and_leaves_all_as_it_was(bench: Bench) -> None:
    raised = bench.pump.enter()
    with pytest.raises(RuntimeError, match="interrupted meshray"):
        bench.pump.enter()
    assert not bench.pump.try_enter()
    assert bench.locked()
    assert bench.pump.shielded
    bench.pump.leave(raised)
    assert not bench.pump.shielded
    assert bench.pump.try_enter()
    bench.pump.leave_tried()
    assert not bench.locked()


def test_try_enter_does_not_wait_for_another_user(bench: Bench) -> None:
    taken, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        raised = bench.pump.enter()
        taken.set()
        go_on.wait(LIMIT_S)
        bench.pump.leave(raised)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(LIMIT_S)
    assert not bench.pump.try_enter()
    assert not bench.pump.shielded
    go_on.set()
    holder.join(LIMIT_S)


def test_an_error_in_a_handler_lets_go_of_the_lock_and_ends_everybodys_waiting(bench: Bench) -> None:
    waiter = bench.waiter()
    leader = Waiting(bench, waiter)
    wait_until(lambda: polling(bench, waiter))
    follower = Waiting(bench, bench.waiter())
    wait_until(lambda: bench.pump._followers)

    def fail() -> None:
        raise ZeroDivisionError

    bench.endpoint.deliver(fail)
    leader.end()
    assert isinstance(leader.error, ZeroDivisionError)
    assert follower.end()
    assert isinstance(bench.handler.failures[0], ZeroDivisionError)
    assert not bench.locked()


def test_an_error_in_the_background_thread_ends_everybodys_waiting(bench: Bench, caplog: Any) -> None:
    bench.pump.start()

    def fail() -> None:
        raise ZeroDivisionError

    bench.endpoint.deliver(fail)
    wait_until(lambda: bench.handler.failures)
    assert bench.pump.wait(bench.waiter(), deadline())
    wait_until(lambda: "background thread" in caplog.text)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_close_ends_every_wait(bench: Bench) -> None:
    bench.pump.start()
    waiters = [Waiting(bench, bench.waiter()) for _ in range(4)]
    wait_until(lambda: len(bench.pump._followers) == 3)
    bench.pump.close()
    assert all(waiting.end() for waiting in waiters)
    assert not bench.pump._thread.is_alive()
    bench.pump.kick()  # nobody is there: nothing happens
    assert bench.pump.wait(bench.waiter(), deadline())


@pytest.mark.fault(6)
def test_the_death_of_the_peer_ends_every_wait_and_the_background_thread(bench: Bench) -> None:
    bench.pump.shield.take_over()
    bench.pump.start()
    waiters = [Waiting(bench, bench.waiter()) for _ in range(3)]
    wait_until(lambda: len(bench.pump._followers) == 2)
    bench.endpoint.deliver(int)
    wait_until(lambda: bench.pump.rest == SLEEPS)
    os.eventfd_write(bench.death, 1)
    assert all(waiting.end() for waiting in waiters)
    bench.pump._thread.join(LIMIT_S)
    assert not bench.pump._thread.is_alive()
    assert bench.handler.deaths == 1


def test_close_from_a_signal_handler_in_the_poll(bench: Bench) -> None:
    previous = signal.signal(signal.SIGUSR1, lambda *_: bench.pump.close())
    try:
        bench.pump.start()
        threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        assert bench.pump.wait(bench.waiter(), deadline())
    finally:
        signal.signal(signal.SIGUSR1, previous)


@pytest.mark.parametrize("leads", [True, False], ids=["the leader", "a follower"])
def test_a_signal_handler_in_the_poll_may_wait_too(bench: Bench, leads: bool) -> None:
    """It leads, or follows, in the place of the one that it has interrupted; which then goes on."""
    first, inner, outer = (bench.waiter() for _ in range(3))
    done: list[str] = []

    def handle(*_: object) -> None:
        threading.Timer(0.01, bench.endpoint.deliver, [first]).start()  # a leader leaves: somebody of ours must lead
        threading.Timer(0.02, bench.endpoint.deliver, [outer]).start()  # comes while the inner one waits
        threading.Timer(0.03, bench.endpoint.deliver, [inner]).start()
        done.append("inner" if bench.pump.wait(inner, deadline()) else "late")

    previous = signal.signal(signal.SIGUSR1, handle)
    try:
        bench.pump.start()
        leader = None if leads else Waiting(bench, first)
        wait_until(lambda: leads or polling(bench, first))
        threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        done.append("outer" if bench.pump.wait(outer, deadline()) else "late")
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert done == ["inner", "outer"]
    assert leader is None or leader.end()
    assert bench.pump._leader is None


# -- interrupts --------------------------------------------------------------------------------------------------------


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_in_the_poll_is_raised_at_once(bench: Bench) -> None:
    waiter = bench.waiter()
    bench.pump.shield.take_over()
    threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        bench.pump.wait(waiter, deadline())
    assert not bench.locked()
    assert bench.pump._leader is None
    bench.endpoint.deliver(waiter)
    assert bench.pump.wait(waiter, deadline())


def test_an_interrupt_in_a_turn_is_raised_at_its_end(bench: Bench) -> None:
    bench.pump.shield.take_over()
    done: list[str] = []

    def message() -> None:
        interrupt()
        done.append("the whole message")

    bench.endpoint.deliver(message)
    with pytest.raises(KeyboardInterrupt):
        bench.pump.wait(bench.waiter(), deadline())
    assert done == ["the whole message"]
    assert bench.handler.failures == []


def test_an_interrupt_of_a_follower(bench: Bench) -> None:
    bench.pump.shield.take_over()
    first = bench.waiter()
    leader = Waiting(bench, first)
    wait_until(lambda: polling(bench, first))
    threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        bench.pump.wait(bench.waiter(), deadline())
    assert not bench.pump._followers
    bench.endpoint.deliver(first)
    assert leader.end()


class Alarm(Exception):
    pass


def alarm(*_: object) -> None:
    raise Alarm


def test_what_other_handlers_raise_waits_for_the_end_of_the_turn_too(bench: Bench) -> None:
    previous = signal.signal(signal.SIGALRM, alarm)
    try:
        done: list[str] = []

        def message() -> None:
            signal.raise_signal(signal.SIGALRM)
            done.append("the whole message")

        bench.endpoint.deliver(message)
        with pytest.raises(Alarm):
            bench.pump.wait(bench.waiter(), deadline())
        assert done == ["the whole message"]
        assert bench.handler.failures == []
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_handlers_are_given_back_and_changing_them_often_wraps_them_once(bench: Bench) -> None:
    previous = signal.signal(signal.SIGALRM, alarm)
    try:
        for _ in range(50):
            bench.pump.wait(bench.waiter(0), deadline())
            ours = signal.signal(signal.SIGALRM, lambda *_: None)
            bench.pump.wait(bench.waiter(0), deadline())
            signal.signal(signal.SIGALRM, ours)
        bench.pump.wait(bench.waiter(0), deadline())
        assert getattr(signal.getsignal(signal.SIGALRM), "stands_for", None) is alarm
        bench.pump.close()
        assert signal.getsignal(signal.SIGALRM) is alarm
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_another_thread_is_not_shielded_and_not_interrupted(bench: Bench) -> None:
    waiter = bench.waiter()
    waiting = Waiting(bench, waiter)
    wait_until(lambda: polling(bench, waiter))
    assert not bench.pump.shielded
    bench.endpoint.deliver(waiter)
    assert waiting.end()


def _lines(bench: Bench) -> Iterator[int]:
    """1, 2, ... as long as there are that many lines to interrupt."""
    number = 0
    while True:
        number += 1
        yield number


class _At:
    """Raises SIGINT before the n-th line of pump.py that the main thread executes."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename != Pump.wait.__code__.co_filename or frame.f_code.co_name == "handle":
            return None
        if event == "line" and self.left:
            self.left -= 1
            if not self.left:
                interrupt()
        return self


def test_ctrl_c_at_every_line_of_the_leader(bench: Bench) -> None:
    """Wherever the interrupt falls: nothing is held, nothing is lost, and it is raised exactly once."""
    bench.pump.shield.take_over()
    for number in _lines(bench):
        waiter = bench.waiter()
        got: list[int] = []
        threading.Timer(0.001, lambda g=got, w=waiter: bench.endpoint.deliver(lambda: (g.append(1), w()))).start()
        tracer = _At(number)
        interrupted = 0
        sys.settrace(tracer)
        try:
            bench.pump.wait(waiter, deadline())
        except KeyboardInterrupt:
            interrupted = 1
        finally:
            sys.settrace(None)
        assert not bench.locked(), number
        assert not bench.pump.shielded, number
        assert bench.pump._leader is None, number
        assert not bench.pump._inside, number
        assert bench.handler.failures == [], number
        assert bench.pump.wait(waiter, deadline()), number
        assert got == [1], number
        if tracer.left:
            assert not interrupted
            break
        assert interrupted, number
    assert number > 20


def test_a_storm_of_interrupts_loses_nothing(bench: Bench) -> None:
    armed: list[bool] = []
    raised = 0

    def handle(*_: object) -> None:
        if armed:
            armed.clear()
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, handle)
    bench.pump.start()
    stop = threading.Event()
    me = threading.main_thread().ident
    assert me is not None

    def storm() -> None:
        while not stop.is_set():
            signal.pthread_kill(me, signal.SIGINT)
            time.sleep(0.0003)

    got: list[int] = []
    thread = threading.Thread(target=storm)
    thread.start()
    try:
        for number in range(300):
            waiter = bench.waiter()
            threading.Timer(0.0005, bench.endpoint.deliver, [lambda n=number, w=waiter: (got.append(n), w())]).start()
            while waiter.missing > 0:
                try:
                    armed.append(True)
                    bench.pump.wait(waiter, deadline())
                    armed.clear()
                except KeyboardInterrupt:
                    raised += 1
    finally:
        stop.set()
        thread.join(LIMIT_S)
        bench.pump.close()
        signal.signal(signal.SIGINT, previous)
    assert raised > 0
    assert got == list(range(300))
    assert bench.handler.failures == []
    assert not bench.locked()
