"""Memory for pieces on their way: taken for one message, and here again when nobody holds that any more.

Theory. A piece lies in memory from its reading until it is acknowledged, and the system gives fresh memory page by
page, each cleared first: that costs half as much as the reading. So a few buffers of one size go round. Who holds
a message is not counted by hand (the session, a socket, the thread of libzmq that encrypts it): each `take` makes one
exporter, as `store.mapping` does, and the buffer is free when that has ended, with the last view of it. This may be in
any thread at any bytecode; then one append happens.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque


class Buffers:
    """Buffers of `size` bytes each. There are never more than were in use at once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._type = ctypes.c_ubyte * size
        self._free: deque[bytearray] = deque()  # finalisers append, whatever the thread

    def take(self, size: int) -> bytearray | memoryview:
        """Writable memory of this size, with anything in it. What is larger than a buffer, or less than half of one,
        is made for this once: a part of a piece, over a slow link."""
        if not self._size // 2 <= size <= self._size:
            return bytearray(size)
        buffer = self._free.pop() if self._free else bytearray(self._size)
        exporter = self._type.from_buffer(buffer)
        weakref.finalize(exporter, self._free.append, buffer).atexit = False
        return memoryview(exporter).cast("B")[:size]

    def clear(self) -> None:
        """Let go of those that are free."""
        self._free.clear()

    def __len__(self) -> int:
        """How many are free."""
        return len(self._free)
