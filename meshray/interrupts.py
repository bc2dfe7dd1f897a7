"""A Ctrl-C that must not come now: while modules are loaded, and while what was interrupted is ended."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class HeldInterrupts:
    """A Ctrl-C in this block is handled at its end; or not at all, if the block only ends what another one has
    interrupted (`error`): it asks for what is happening, and would only add its own traceback."""

    def __init__(self, error: BaseException | None = None) -> None:
        self._error = error
        self._before: Any = None  # the handler that stood
        self._pressed: list[FrameType | None] = []

    def __enter__(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        if callable(before) and threading.current_thread() is threading.main_thread():
            self._before = before
            signal.signal(signal.SIGINT, lambda _, frame: self._pressed.append(frame))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._before is None:
            return
        signal.signal(signal.SIGINT, self._before)
        if self._pressed and error is None and not isinstance(self._error, KeyboardInterrupt):
            self._before(signal.SIGINT, self._pressed[0])
