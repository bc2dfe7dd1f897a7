"""What is on its way to other hosts straight from the memory of segments: not to be written again before it has left.

Theory. A piece of a value could be read into memory of its own before it is sent; but that copy costs as much as a
tenth of its encryption, and what it is copied from does not change. So what is sent is a mapping of the segment
(`store.spans`). Views of it are held by the session until the piece has arrived, and by libzmq until
it is encrypted. A piece is *in transit* until the last of them has ended (see `mapping`), in whichever thread.

Whoever gives a segment free asks first whether some of it is in transit (`has`). That happens to hosts that were given
up while they were sent something: the file is removed then, not written again, and what is on its way stays valid.

Only files of shared memory are sent so, whose pages are all there and stay (nobody makes a segment shorter). Of a file
on a disk a page may have to be read when it is touched, and where that fails the kernel ends the process.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from functools import partial
from pathlib import Path

from meshray.store import files
from meshray.store.mapping import Mapping
from meshray.store.spans import SPAN_BYTES, Spans

STEP_BYTES = 1 << 20
"""What is mapped of a segment ends with a multiple of this, wherever its file does: each other size makes a type of its
own (`mapping`). Nothing behind the value is touched."""


class Transit:
    """The pieces of segments in `folder` that one peer has on their way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps = files.is_shared_memory(folder)
        self.spans = Spans(writable=False)
        self._pieces: Counter[str] = Counter()  # by segment; some may have left by now. No zeros
        self._left: deque[str] = deque()  # a segment for each piece that has; finalisers append, whatever the thread

    def begin(self, name: str, offset: int, size: int, whole: int) -> memoryview | None:
        """Some bytes of a segment that holds a value of `whole` bytes, to be sent; read-only. None where that cannot
        be, or they are not all there. Of one that was removed a moment ago they are still those.

        Raises `OSError` when the segment is gone, or no descriptor is left to map it by."""
        number, start = divmod(offset, SPAN_BYTES)
        end = start + size
        if not self._maps or end > SPAN_BYTES:
            return None  # a piece that a slow link has cut anyhow may lie in two spans
        span = self.spans.find(name, number)
        if span is None or span.capacity < end:
            span = self._map(name, number, whole)
        if span is None or not span.populate(start, end):
            return None
        self._pieces[name] += 1
        _ = span.viewed  # what has ended is not to be counted for ever
        return span.view(end, partial(self._left.append, name))[start:]

    def _map(self, name: str, number: int, whole: int) -> Mapping | None:
        descriptor = files.open_segment(self._folder, name)
        try:
            return self.spans.map(name, number, descriptor, -(-whole // STEP_BYTES) * STEP_BYTES)
        except OSError:
            return None  # no room for another mapping
        finally:
            os.close(descriptor)

    def has(self, name: str) -> bool:
        """Whether some of this segment is in transit."""
        while self._left:
            left = self._left.popleft()
            self._pieces[left] -= 1
            if not self._pieces[left]:
                del self._pieces[left]
        return name in self._pieces
