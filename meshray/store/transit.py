"""What is on its way to other hosts straight from the memory of segments: not to be written again before it has left.

Theory. A piece of a value could be read into memory of its own before it is sent; but that copy costs as much as a
tenth of its encryption, and what it is copied from does not change. So the few pieces that are on their way are mapped,
and what is sent is the mapping. Views of it are held by the session until the piece has arrived, and by libzmq until
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
from meshray.store.files import PAGE_BYTES
from meshray.store.mapping import Mapping


class Transit:
    """The pieces of segments in `folder` that one peer has on their way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps = files.is_shared_memory(folder)
        self._pieces: Counter[str] = Counter()  # by segment; some may have left by now. No zeros
        self._left: deque[str] = deque()  # a segment for each piece that has; finalisers append, whatever the thread

    def begin(self, name: str, offset: int, size: int) -> memoryview | None:
        """Some bytes of a segment to be sent, read-only. None where that cannot be, or they are not all there.

        Raises `OSError` when the segment is gone, or no descriptor is left."""
        if not self._maps:
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
        self._pieces[name] += 1
        return mapping.view(before + size, partial(self._left.append, name))[before:]

    def has(self, name: str) -> bool:
        """Whether some of this segment is in transit."""
        while self._left:
            left = self._left.popleft()
            self._pieces[left] -= 1
            if not self._pieces[left]:
                del self._pieces[left]
        return name in self._pieces
