"""The shield of the main thread: sections that no exception of a signal handler leaves.

An exception inside a transition would leave half a message or half a state. So while the shield is up, a signal is only
noted, and its handler runs when the shield comes down. For that, the Python handlers that stand are wrapped, and those
that the program installs later are when it next waits or flushes. Only the main thread runs Python's signal handlers,
and only it touches this object; other threads need no shield.

Python swallows what leaves a finaliser. Ours run whenever the program lets go of a reference or an array, so a Ctrl-C
that fell into one would be lost: its handler runs once the finaliser is over.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

from meshray.refs import ObjectRef
from meshray.store.mapping import exporter_ended

GUARDED_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGHUP,
)
"""Signals whose handlers wait for the end of a shielded section: those that programs raise exceptions from."""

_FINALISERS = frozenset((ObjectRef.__del__.__code__, exporter_ended.__code__))
"""What runs at any moment, and from which Python lets no exception out."""

_FINALISER_DEPTH = 3
"""Frames from what a finaliser of ours calls to itself."""

SEND_AGAIN_S = 0.002
"""How long a signal waits that came while a finaliser ran, which takes microseconds."""

_getsignal = _signal.getsignal  # a tenth of the cost of signal.getsignal, and asked for in each wait
_NUMBERS = tuple(map(int, GUARDED_SIGNALS))
_ident = threading.get_ident


class Shield:
    """See the head of this file. `up` is set and cleared by the main thread alone."""

    def __init__(self) -> None:
        self.main = threading.main_thread().ident
        self.up = False
        self._closed = False  # handlers were given back: none is wrapped any more
        self._interrupted = False  # a KeyboardInterrupt waits
        self._pid = os.getpid()  # a forked child has handlers of ours, and nothing to shield
        self._handlers: dict[int, Any] = {}  # guarded signal -> its handler, as it stood when we looked last
        self._standing: list[Any] = []  # the same handlers in the order of `_NUMBERS`, to compare them in one go
        self._wrapped: dict[int, Any] = {}  # guarded signal -> the handler that ours stands for
        self._deferred: deque[int] = deque()  # signals that came in a shielded section

    # -- sections ----------------------------------------------------------------------------------------------------

    def raise_(self) -> bool:
        """Put the shield up without the pump's lock, for what must not be interrupted and calls none of us. Returns
        what `lower_if` wants back: whether this call has put it up."""
        if _ident() != self.main or self.up:
            return False
        self.up = True
        return True

    def lower_if(self, raised: bool) -> None:
        """The end of `raise_`; raises what came meanwhile."""
        if raised:
            self.lower()

    def lower(self) -> None:
        """The section is over: handlers of signals that came meanwhile run, and what they raise leaves from here."""
        self.up = False
        if self._deferred:
            self._run_deferred()
        if self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt

    def interrupt_later(self) -> None:
        """Raise KeyboardInterrupt at the end of the shielded section. From a signal handler."""
        self._interrupted = True

    # -- handlers ----------------------------------------------------------------------------------------------------

    def take_over(self) -> None:
        """Guard the handlers that stand now. Main thread only; elsewhere nothing is changed."""
        if _ident() == self.main:
            self.guard()

    def guard(self) -> None:
        """Wrap the Python handlers that were installed since the last look. Main thread only, not shielded."""
        if list(map(_getsignal, _NUMBERS)) == self._standing:
            return
        handlers = self._handlers
        for number in GUARDED_SIGNALS:
            if _getsignal(number) is not handlers.get(number):
                self._wrap(number)
        self._standing = [handlers.get(number) for number in GUARDED_SIGNALS]

    def _wrap(self, number: int) -> None:
        handler = _getsignal(number)
        while getattr(handler, "stands_for", None) is not None:  # an earlier one of ours, put back by the program
            handler = handler.stands_for
        if callable(handler) and not self._closed:
            self._wrapped[number] = handler
            handler = self._standing_in(number, handler)
            signal.signal(number, handler)
        self._handlers[number] = handler

    def _standing_in(self, number: int, handler: Callable[[int, FrameType | None], Any]) -> Any:
        def handle(signum: int, frame: FrameType | None) -> None:
            if self.up and os.getpid() == self._pid:
                if number not in self._deferred:
                    self._deferred.append(number)
            elif _in_finaliser(frame):
                _thread.start_new_thread(self._send_again, (signum,))
            else:
                handler(signum, frame)

        handle.stands_for = handler  # type: ignore[attr-defined]
        return handle

    def _send_again(self, number: int) -> None:
        """In a thread of its own: a signal that came too early, as the kernel would send it; a system call that the
        main thread is in by then is interrupted. If it is still too early this happens again."""
        time.sleep(SEND_AGAIN_S)  # the main thread has let us run, so it may be just about to enter one
        assert self.main is not None
        signal.pthread_kill(self.main, number)

    def _run_deferred(self) -> None:
        """Run the handlers of signals that came in the section which has just ended. What one raises leaves from here;
        the others run at the next end of a section."""
        while self._deferred:
            number = self._deferred.popleft()
            handler = self._wrapped.get(number)
            if handler is not None:
                handler(number, None)

    def give_back(self) -> None:
        """Put the program's own handlers back where ours still stand, and wrap none any more. Main thread only;
        elsewhere ours go on to call theirs."""
        self._closed = True
        if _ident() != self.main:
            return
        for number, handler in self._wrapped.items():
            if _getsignal(number) is self._handlers[number]:
                signal.signal(number, handler)
        self._wrapped.clear()
        self._handlers.clear()
        self._standing = []


def _in_finaliser(frame: FrameType | None) -> bool:
    """Whether the signal came while a finaliser of ours ran."""
    for _ in range(_FINALISER_DEPTH):
        if frame is None:
            return False
        if frame.f_code in _FINALISERS:
            return True
        frame = frame.f_back
    return False
