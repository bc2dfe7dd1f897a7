"""What is on its way to other hosts straight from the memory of segments: not to be written again before it has left.

Theory. A piece of a value could be read into memory of its own before it is sent; but that copy costs as much as a
tenth of its encryption, and what it is copied from does not change. So the few pieces that are on their way are mapped,
and what is sent is the mapping: a *loan*. Views of it are held by the session until the piece has arrived, and by
libzmq until it is encrypted. It ends with the last of them (see `mapping`), in whichever thread.

Whoever gives a segment free asks first whether some of it is lent (`is_lent`). That happens to hosts that were given up
while they were sent something: a file that is lent is removed, not written again, and views of it stay valid.

Only files of shared memory are lent, whose pages are all there and stay (nobody makes a segment shorter). Of a file on
a disk a page may have to be read when it is touched, and where that fails the kernel ends the process.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from functools import partial
from pathlib import Path

from meshray.store import files
from meshray.store.files import PAGE_BYTES
from meshray.store.mapping import Mapping


class Loans:
    """The loans of one peer, of the segments in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lends = files.is_shared_memory(folder)
        self._lent: Counter[str] = Counter()  # segment -> loans, of which some may have ended. No zeros
        self._ended: deque[str] = deque()  # a segment for each loan that has; finalisers append, whatever the thread

    def lend(self, name: str, offset: int, size: int) -> memoryview | None:
        """Some bytes of a segment, read-only. None where they cannot be lent, or are not all there.

        Raises `OSError` when the segment is gone, or no descriptor is left."""
        if not self._lends:
            return None
        before = offset % PAGE_BYTES
        pages = -(-(before + size) // PAGE_BYTES)
        descriptor = files.open_segment(self._folder, name)
        try:
            mapping = Mapping(descriptor, pages * PAGE_BYTES, writable=False, offset=offset - before)
        except OSError:
            return None  # no room for another mapping
        finally:
            os.close(descriptor)
        if not mapping.populate():
            return None
        self._lent[name] += 1
        return mapping.view(before + size, partial(self._ended.append, name))[before:]

    def is_lent(self, name: str) -> bool:
        """Whether some of this segment is still on its way."""
        while self._ended:
            ended = self._ended.popleft()
            self._lent[ended] -= 1
            if not self._lent[ended]:
                del self._lent[ended]
        return name in self._lent
