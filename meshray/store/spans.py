"""Files of shared memory that stay mapped while values travel, span by span.

Theory. To map a piece of a file, bring its pages and unmap it again costs as much as to copy it. Files are written
again, and values go to several hosts, so their mappings are kept for the next time. They are cut into spans, so that
none of them takes long to end, and bounded: those that were used longest ago go first. A file that was removed keeps
its memory while it is mapped, so its spans are given up when that is known (`forget`, `forget_removed`). These end one
by one (`end_one`): with the last of a file its memory goes, which takes longer.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

from meshray.store.mapping import Mapping

SPAN_BYTES = 32 << 20
"""Of the file; its last span may be shorter. Whole pages, and whole pieces as they are asked for (`fetch_piece_bytes`).
To unmap one takes 1 ms."""

MAPPED_MAX_BYTES = (1 << 30) + SPAN_BYTES
"""A bound on what is kept mapped, a value of 1 GiB: the kernel counts it as the process's own when it looks for one to
end. A process that sends and receives has two of these."""

MAPPED_MAX = 256
"""And on the number of spans, so that thousands of small files do not take the mappings that a process may have."""


class Spans:
    """Spans of the files of one folder. `writable`: they are mapped to be written."""

    def __init__(self, *, writable: bool) -> None:
        self._writable = writable
        self._spans: dict[tuple[str, int], Mapping] = {}  # by file and number, the one that was used last at the end
        self._bytes = 0
        self._given_up: deque[Mapping] = deque()  # to be ended when there is time

    @property
    def given_up(self) -> int:
        """How many wait for `end_one`."""
        return len(self._given_up)

    def find(self, name: str, number: int) -> Mapping | None:
        """The `number`-th span of this file, where it is mapped."""
        span = self._spans.pop((name, number), None)
        if span is not None:
            self._spans[name, number] = span
        return span

    def map(self, name: str, number: int, descriptor: int, capacity: int) -> Mapping:
        """Map it; the file has `capacity` bytes, whole pages. Raises `OSError`: no room for another mapping."""
        start = number * SPAN_BYTES
        span = Mapping(descriptor, min(SPAN_BYTES, capacity - start), writable=self._writable, offset=start)
        if (name, number) in self._spans:
            self._end((name, number))  # it is too short
        self._spans[name, number] = span
        self._bytes += span.capacity
        while self._bytes > MAPPED_MAX_BYTES or len(self._spans) > MAPPED_MAX:
            self._end(next(iter(self._spans)))
        return span

    def forget(self, name: str) -> None:
        """The file is removed, or about to be. What is in use of it stays mapped as long."""
        for key in [key for key in self._spans if key[0] == name]:
            self._given_up.append(self._end(key))

    def forget_removed(self, folder: Path) -> None:
        """Somebody has removed files of this folder, whichever."""
        for name in {name for name, _ in self._spans}:
            if not (folder / name).exists():
                self.forget(name)

    def end_one(self) -> bool:
        """One goes, of those that were given up first. Whether there are more."""
        if self._given_up:
            self._given_up.popleft()
        elif self._spans:
            self._end(next(iter(self._spans)))
        return bool(self._given_up or self._spans)

    def clear(self) -> None:
        """All go."""
        self._given_up.clear()
        self._spans.clear()
        self._bytes = 0

    def _end(self, key: tuple[str, int]) -> Mapping:
        span = self._spans.pop(key)
        self._bytes -= span.capacity
        return span
