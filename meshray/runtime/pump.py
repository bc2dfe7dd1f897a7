"""Leader and followers: who waits at the socket.

There is no I/O thread in the way of a reply. Whoever blocks in `wait` *turns the pump* himself: takes the lock,
receives, dispatches for everybody, flushes, lets go of the lock, and polls. The lock is held only for a turn, never
during a poll, so any thread may submit and flush at any time. Three parts:

- **The leader** is the one waiting thread that polls. **Followers** wait on a lock of their own until the leader, or
  any thread that turns the pump, completes what they wait for; one who leaves when nobody leads wakes another to lead.
- **The background thread** turns the pump when nobody has for `background_after_s`, so that leases, decrements and
  dependent tasks go on while the user computes. It is sticky: while users pump, it only ticks; while a leader waits
  long, it sleeps.
- **Interrupts** enter only at the poll, and at the spin before it (`spin.py`). Everything else in the main thread is
  shielded (`shield.py`). What comes out of a turn all the same ends this mesh: its state cannot be trusted.

A turn may leave messages that were read already in the endpoint, of which its descriptor does not tell: one that ends
early, when its thread has what it waits for, sets `_more`, and the next wait looks first.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from meshray.config import Config
from meshray.core.records import Tally
from meshray.runtime.shield import Shield
from meshray.runtime.spin import SPIN_S, Spin
from meshray.transport.endpoint import RECEIVE_BUDGET, Endpoint
from meshray.wire.messages import Message

POLL_MAX_S = 3600.0
ROUNDS_MAX = 64
"""Receive rounds per turn, before the flush: bounds how long a flood can hold the lock."""

DEEP_AFTER_TURNS_S = 0.01
"""A leader that has waited this long will wake the background thread when it leaves; until then that one ticks."""

LOOK_IN_S = 0.2
"""How often the background thread looks in while an event loop watches the endpoint."""

CLOSE_STEP_S = 0.0005
CLOSE_TIMEOUT_S = 2.0
"""How long `close` waits for other threads to leave their polls, which it has woken."""

_logger = logging.getLogger("meshray")
_monotonic = time.monotonic
_ident = threading.get_ident


class Handler(Protocol):
    """What the pump serves. All methods are called under the pump's lock."""

    def on_messages(self, batch: list[tuple[bytes, Message]]) -> None:
        """Dispatch what has arrived."""

    def on_turn(self, now: float) -> None:
        """Account, decide, flush."""

    @property
    def has_news(self) -> bool:
        """Whether `on_turn` has something to do now, but for what still lies in the endpoint."""

    def next_timer_s(self, now: float) -> float | None:
        """Seconds until `on_turn` wants to be called by itself; None for never."""

    def has_work(self) -> bool:
        """Whether something was submitted that no turn has looked at. From any thread, also without the lock."""

    def on_peer_death(self) -> None:
        """The peer's process is gone."""

    def on_failure(self, error: BaseException) -> None:
        """An exception has left a turn: what it was in the middle of is half done."""


class Waiter(Tally):
    """Something that a thread waits for: `missing` events have not come yet."""

    __slots__ = ("_pump", "lock", "missing")

    def __init__(self, pump: Pump, missing: int) -> None:
        self._pump = pump
        self.missing = missing
        self.lock: Any = None  # a follower's lock, released to wake it

    def arrived(self, count: int) -> None:
        """So many events have come. Under the pump's lock."""
        self.missing -= count
        if self.missing <= 0:
            self._pump.wake(self)


AWAKE, POLLS, SLEEPS = "", "polls", "sleeps"
"""The background thread: about its work; in its poll, or about to be; until somebody releases its nap."""


class Pump:
    """See the head of this file."""

    def __init__(self, endpoint: Endpoint, handler: Handler, config: Config, peer_pidfd: int) -> None:
        self._endpoint = endpoint
        self._handler = handler
        self._after_s = config.background_after_s
        self._lock = threading.Lock()
        self._owner = 0  # the thread that holds the lock
        self.shield = Shield()
        self.spin = Spin(endpoint.stirs)
        self._main = self.shield.main
        self._leader: Waiter | None = None
        self._leader_thread = 0  # its thread
        self._leader_polls = False  # it is, or is about to be, in its poll
        self._followers: deque[Waiter] = deque()
        self._last_turn_s = 0.0  # of the last turn by another thread than the background's
        self.closed = False  # nobody waits any more
        self._ended = False  # `close` was called
        self._inside: list[int] = []  # the threads in `wait`
        self._more = True  # the last turn may have left something in the endpoint
        self.attended = False  # an event loop of the main thread watches the endpoint
        self.attendant: Callable[[], None] | None = None  # has that loop turn the pump soon; from any thread
        self._wake_leader = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake_background = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._peer_pidfd = peer_pidfd
        self._leader_poll = self._new_poll(self._wake_leader)
        self._background_poll = self._new_poll(self._wake_background)
        self.rest = AWAKE  # of the background thread; while it rests, nobody looks at queues by himself soon
        self._nap = threading.Lock()
        self._nap.acquire()
        self._thread = threading.Thread(target=self._background, name="meshray-background", daemon=True)
        self._background_ident = 0  # its ident, once it runs

    def _new_poll(self, wake: int) -> select.poll:
        poll = select.poll()
        for fd in (self._endpoint.fd, wake, self._peer_pidfd):
            poll.register(fd, select.POLLIN)
        return poll

    def start(self) -> None:
        """Start the background thread."""
        self._thread.start()

    # -- the lock and the shield -------------------------------------------------------------------------------------

    def enter(self) -> bool:
        """Take the lock, shielded. Returns what `leave` wants back: whether this call put the shield up."""
        me = _ident()
        raised = me == self._main
        if (self.shield.up and raised) or self._owner == me:
            raise RuntimeError("meshray was called from a signal handler or a finaliser that interrupted meshray")
        if raised:
            self.shield.up = True
        self._lock.acquire()
        self._owner = me
        return raised

    def try_enter(self) -> bool:
        """Take the lock, unless another user's thread has it. The main thread puts the shield up first, so that no
        interrupt falls between.

        The background thread is waited for, and so is one that got the lock and has not said so yet: it holds it for a
        moment only, but may be waiting for the interpreter itself, which it gets when we block (else it would get it
        after the switch interval, 5 ms, again and again).
        """
        me = _ident()
        main = me == self._main
        if self._owner == me:
            return False  # a finaliser interrupted us
        if main:
            if self.shield.up:
                return False  # a finaliser or a signal handler of the user's interrupted us
            self.shield.guard()
            self.shield.up = True
        if self._lock.acquire(self._owner == self._background_ident or not self._owner):
            self._owner = me
            return True
        if main:
            self.shield.lower()
        return False

    def leave(self, raised: bool) -> None:
        """Let go of the lock; raise the interrupt that came meanwhile."""
        self._owner = 0
        self._lock.release()
        if raised:
            self.shield.lower()

    def leave_tried(self) -> None:
        """The end of a successful `try_enter`."""
        self.leave(_ident() == self._main)

    @property
    def shielded(self) -> bool:
        """Whether the main thread is in a section that an exception must not leave."""
        return self.shield.up

    # -- turning -----------------------------------------------------------------------------------------------------

    def turn(self, likely: bool = False, waiter: Waiter | None = None) -> None:
        """Receive, dispatch, decide, flush. Under the lock. Nothing once the pump is closed. `likely`: the endpoint's
        descriptor was readable just now.

        With a `waiter`, the turn ends as soon as the first message was all that it waited for, and left nothing to
        decide: its thread goes on at once, and looks for more before it polls again, while somebody else works for it.
        """
        if self.closed:
            return
        receive, handler = self._endpoint.receive, self._handler
        self._more = False
        try:
            if likely and waiter is not None and not self.attended:  # (an event loop would not hear of the rest)
                likely = False
                batch = receive(1, True)
                if batch:
                    handler.on_messages(batch)
                    if waiter.missing <= 0 and not handler.has_news:
                        self._more = True
                        self._last_turn_s = _monotonic()
                        self._stir()
                        return
            for _ in range(ROUNDS_MAX):
                batch = receive(RECEIVE_BUDGET, likely)
                likely = False
                if batch:
                    handler.on_messages(batch)
                if len(batch) < RECEIVE_BUDGET:
                    break
            else:
                self._more = True
                self._signal(self._wake_leader)  # more is there: whoever polls must come again
                self._signal(self._wake_background)
                if self.attendant is not None:
                    self.attendant()
        except BaseException as error:
            handler.on_failure(error)
            raise
        self.push()

    def push(self) -> None:
        """Decide and flush, without a look at what has arrived: the part of a turn for who has only something to say.
        Under the lock."""
        if self.closed:
            return
        handler = self._handler
        now = _monotonic()
        try:
            handler.on_turn(now)
        except BaseException as error:
            handler.on_failure(error)
            raise
        if _ident() != self._background_ident:
            self._last_turn_s = now
            self._stir()

    def _stir(self) -> None:
        """The background thread is to leave its poll: what it would wait for may have been received already."""
        if self.rest == POLLS and _ident() != self._background_ident:
            self.rest = AWAKE
            self._signal(self._wake_background)

    def wake(self, waiter: Waiter) -> None:
        """What this waiter waits for is there. Under the lock."""
        if waiter.lock is not None:
            waiter.lock.release()
            waiter.lock = None
        elif waiter is self._leader and self._leader_polls:
            self._signal(self._wake_leader)

    def wake_all(self) -> None:
        """Everything is over: nobody shall wait on. Under the lock."""
        self._signal(self._wake_leader)
        self._signal(self._wake_background)
        self._rouse()
        if self.attendant is not None:
            self.attendant()
        for waiter in list(self._followers):
            self.wake(waiter)

    def kick(self) -> None:
        """Have the event loop that attends, or else the background thread, turn the pump soon. From any thread, with or
        without the lock."""
        if self.attendant is not None:
            self.attendant()
            return
        self._signal(self._wake_background)
        self._rouse()

    def _signal(self, fd: int) -> None:
        if not self._ended:  # afterwards the number may be another file's
            os.eventfd_write(fd, 1)

    # -- waiting -----------------------------------------------------------------------------------------------------

    def wait(self, waiter: Waiter, deadline: float | None = None, begin: Callable[[], None] | None = None) -> bool:
        """Turn the pump until `waiter` has nothing missing (True), or until `deadline` (False).

        `begin` is called first, under the lock: it tells others of the waiter. Raises `KeyboardInterrupt` from the
        poll, or whatever else a signal handler raises there. Returns True too when the pump was closed or the peer
        died: the caller looks.
        """
        me = _ident()
        if me == self._main and not self.shield.up:
            self.shield.guard()
        raised = self.enter()
        self._inside.append(me)
        outer, poll = None, self._leader_poll
        if self._leader_thread == me and self._leader is not None:
            # A signal handler waits, in the poll of the leader further down this stack: it leads for the time being.
            outer, self._leader = self._leader, None
            poll = self._new_poll(self._wake_leader)  # the other one is in use
        try:
            if begin is not None:
                begin()
            if self._more:
                self.turn()
            elif self._handler.has_news:
                self.push()  # what has come since the last turn shows at the poll
            first, looked, likely = True, False, False
            while True:
                if first:
                    first = False
                else:
                    self.turn(likely, waiter)
                if waiter.missing <= 0 or self.closed:
                    return True
                timeout_s = POLL_MAX_S if deadline is None else deadline - _monotonic()
                if timeout_s <= 0:
                    if looked:
                        return False
                    timeout_s = 0  # one look at the least
                looked = True
                if self._leader is None or self._leader is waiter:
                    likely = self._lead(waiter, timeout_s, raised, poll)
                else:
                    likely = False
                    self._follow(waiter, timeout_s, raised)
        finally:
            if raised:
                self.shield.up = True
            if self._owner != me:
                self._lock.acquire()  # whatever has raised did so before the lock was taken again
                self._owner = me
            self._inside.remove(me)
            if self._leader is waiter:
                self._leader = None
            if outer is not None and self._leader is None:
                self._leader, self._leader_polls = outer, True
                self._signal(self._wake_leader)  # what it waits for may have come meanwhile
            elif self._leader is None:
                self._hand_over()
            self.leave(raised)

    def _lead(self, waiter: Waiter, timeout_s: float, raised: bool, poll: select.poll) -> bool:
        """Poll, for all. Whether something seems to have arrived."""
        self._leader = waiter
        self._leader_thread = _ident()
        self._leader_polls = True
        timer_s = self._handler.next_timer_s(_monotonic())
        if timer_s is not None:
            timeout_s = min(timeout_s, timer_s)
        self._owner = 0
        self._lock.release()
        if self._handler.has_work():
            timeout_s = 0  # somebody submitted and could not take the lock, which we had
        try:
            if raised:
                self.shield.lower()
            if timeout_s > SPIN_S and self.spin.finds(waiter):
                timeout_s = 0
            events = poll.poll(min(timeout_s, POLL_MAX_S) * 1000 + 0.999 if timeout_s > 0 else 0)
        finally:
            if raised:
                self.shield.up = True
            self._lock.acquire()
            self._owner = _ident()
            self._leader_polls = False
        if len(events) == 1 and events[0][0] == self._endpoint.fd:
            return True
        self._look(events, self._wake_leader)
        return False

    def _follow(self, waiter: Waiter, timeout_s: float, raised: bool) -> None:
        lock = threading.Lock()
        lock.acquire()
        waiter.lock = lock
        self._followers.append(waiter)
        self._owner = 0
        self._lock.release()
        try:
            if raised:
                self.shield.lower()
            lock.acquire(timeout=min(timeout_s, POLL_MAX_S))
        finally:
            if raised:
                self.shield.up = True
            self._lock.acquire()
            self._owner = _ident()
            waiter.lock = None
            self._followers.remove(waiter)

    def _hand_over(self) -> None:
        """Nobody leads: somebody else does, or the background thread looks after things.

        One who was woken to lead may have got what he waits for meanwhile, or have given up: so everybody who leaves
        hands over when nobody leads, not only the leader. The last comes first: an earlier one of the same thread is
        interrupted by a signal handler that waits, too.
        """
        for follower in reversed(self._followers):
            if follower.lock is not None:
                self.wake(follower)
                return
        self._rouse()

    def _look(self, events: list[tuple[int, int]], wake: int) -> None:
        if self._ended:
            return  # the descriptors may be other files' by now
        for fd, _ in events:
            if fd == wake:
                try:
                    os.eventfd_read(wake)
                except BlockingIOError:
                    continue  # another signal's reader was here first
            elif fd == self._peer_pidfd and not self.closed:
                self._handler.on_peer_death()

    # -- the background thread ---------------------------------------------------------------------------------------

    def _rouse(self) -> None:
        if self.rest == SLEEPS:
            self.rest = AWAKE
            try:
                self._nap.release()
            except RuntimeError:
                return  # two threads did at once: it is awake

    def _background(self) -> None:
        self._background_ident = _ident()
        try:
            self._run_background()
        except Exception:  # `on_failure` has told everybody who waits
            _logger.exception("meshray has failed in its background thread")

    def _run_background(self) -> None:
        while not self.closed:
            quiet_s = _monotonic() - self._last_turn_s
            if self.attended:
                self._look_in(quiet_s)
            elif quiet_s < self._after_s:
                time.sleep(self._after_s - quiet_s)  # as seldom as can be: to wake costs whoever is at work
            elif self._leader is None:
                self._background_turn()
            elif quiet_s > DEEP_AFTER_TURNS_S:
                self._deep_sleep()
            else:
                time.sleep(self._after_s)

    def _look_in(self, quiet_s: float) -> None:
        """Somebody else watches the endpoint; only see that dead handles are drained, and that he is not stuck."""
        if quiet_s > LOOK_IN_S:
            self.enter()
            try:
                if not self.closed:
                    self.turn()
            finally:
                self.leave(False)
        self._nap.acquire(timeout=LOOK_IN_S)

    def _deep_sleep(self) -> None:
        self.enter()
        sleeps = self._leader is not None and not self.closed
        if sleeps:
            self.rest = SLEEPS
        self.leave(False)
        if not sleeps:
            return
        if self._handler.has_work():  # submitted before it could be seen that we shall not look
            self.enter()
            try:
                self.turn()
            finally:
                self.leave(False)
        self._nap.acquire()

    def _background_turn(self) -> None:
        self.enter()
        try:
            if self.closed or self._leader is not None:
                return
            self.turn()
            timer_s = self._handler.next_timer_s(_monotonic())
            self.rest = POLLS
        finally:
            self.leave(False)
        if self._handler.has_work():  # submitted before it could be seen that we shall not look
            timer_s = 0.0
        events = self._background_poll.poll(POLL_MAX_S * 1000 if timer_s is None else timer_s * 1000 + 0.999)
        self.enter()
        self.rest = AWAKE
        try:
            self._look(events, self._wake_background)
        finally:
            self.leave(False)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the background thread and everybody's waiting. Not under the lock. Idempotent.

        When it returns, no other thread touches the endpoint or the descriptors any more (one that hangs in a signal
        handler is not waited for). A call from within a wait, by a signal handler, is fine.
        """
        if self._ended:
            return
        raised = self.enter()
        self.closed = True
        self.wake_all()
        self.leave(raised)
        if self._thread.is_alive() and _ident() != self._thread.ident:
            self._thread.join()
        give_up_at = _monotonic() + CLOSE_TIMEOUT_S
        me = _ident()
        while any(thread != me for thread in list(self._inside)) and _monotonic() < give_up_at:
            time.sleep(CLOSE_STEP_S)
        self._ended = True
        self.shield.give_back()

    def release_descriptors(self) -> None:
        """After `close`, when nobody can wait any more."""
        os.close(self._wake_leader)
        os.close(self._wake_background)
