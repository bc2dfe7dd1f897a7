"""What a peer keeps of the memory that it has freed, while values travel, and gives back when none has for a while.

Theory. A piece in transit is copied from memory to memory: libzmq takes three of the size of a frame for one that it
encrypts or decrypts, and frees them. What lies free at the end of a heap glibc gives back to the system as soon as
there is more than 128 KiB, or twice the largest block that was ever mapped, so each frame faults in fresh pages, which
are cleared first. That was a tenth of what a fetch costs (docs/performance.md). So this process keeps more, and the
system has it all when nothing has travelled for `pool_idle_s`.

What is kept counts per heap: the main thread's, and one of each of libzmq's threads. With a C library that has no
`mallopt` nothing is kept, and a fetch is so much dearer. Workers are forked from a zygote that never does this.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

from meshray.peer.timers import Timers

KEPT_BYTES = 32 << 20
"""At the end of a heap: two windows of a link (`link_window_bytes`)."""

MAPPED_BYTES = 8 << 20
"""A block from this size on is mapped by itself, and given back when it is freed. Frames of values are smaller."""

DEFAULT_BYTES = 128 << 10
"""Both, with glibc (mallopt(3); it raises them with what is freed, but not once they were set)."""

PAUSE_S = 0.001
"""Between two steps of letting go: others have their turn."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3), from malloc.h


def keep_freed() -> bool:
    """Let this process keep what it frees; whether its C library can."""
    return _set(KEPT_BYTES, MAPPED_BYTES)


def give_back() -> None:
    """Whole pages that are free go back to the system, of all heaps, now and as soon as they are freed."""
    if _set(DEFAULT_BYTES, DEFAULT_BYTES):
        ctypes.CDLL(None).malloc_trim(0)


def _set(kept_bytes: int, mapped_bytes: int) -> bool:
    library = ctypes.CDLL(None)
    if not (hasattr(library, "mallopt") and hasattr(library, "malloc_trim")):
        return False
    kept: int = library.mallopt(_TRIM_THRESHOLD, kept_bytes)
    mapped: int = library.mallopt(_MMAP_THRESHOLD, mapped_bytes)
    return bool(kept and mapped)


class Memory:
    """When is it kept, and when given back? `let_go` is called before, for what others keep as long, and again after a
    moment while it says that there is more."""

    def __init__(self, let_go: Callable[[], bool], timers: Timers, idle_s: float) -> None:
        self._let_go = let_go
        self._timers = timers
        self._idle_s = idle_s
        self._used = False  # since the timer was set
        self._watched = False  # a timer is set

    def used(self, now: float) -> None:
        """A piece has come, or leaves."""
        if self._watched:
            self._used = True
        else:
            keep_freed()
            self._watch(now)

    def _watch(self, now: float) -> None:
        self._used, self._watched = False, True
        self._timers.at(now + self._idle_s, self._look)

    def _look(self) -> None:
        if self._used:
            self._watch(time.monotonic())
            return
        if self._let_go():
            self._timers.at(time.monotonic() + PAUSE_S, self._look)
            return
        self._watched = False
        give_back()
