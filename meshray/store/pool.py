"""Freed segments that wait to be written again: their pages are allocated, and mostly still in the page table.

Writing 100 MB into such a segment takes 10 ms, into a fresh one 50. A pool counts as used store; it is bounded, trimmed
after some seconds of rest, and given back on demand.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshray.store.files import capacity_for
from meshray.store.mapping import Mapping

_CLASSES_TRIED = 3
"""A value takes a segment of its own size class or of the next two: at most a third larger than it needs."""


class Segment:
    """A segment that this process made."""

    __slots__ = ("capacity", "freed_at", "mapping", "name", "object_id", "size")

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.capacity = capacity  # bytes of the file
        self.object_id = b""  # whose value is in it; b"" while it is written and in the pool
        self.size = 0  # bytes of that value
        self.mapping: Mapping | None = None  # made at the first need
        self.freed_at = 0.0  # when it came into the pool

    def __repr__(self) -> str:
        holds = f"holds {self.size:,} bytes of {self.object_id.hex()}" if self.object_id else "empty"
        return f"<segment {self.name} of {self.capacity:,} bytes, {holds}, {self.mapping}>"


class Pool:
    """The freed segments of one process. It forgets segments; the store unlinks them."""

    def __init__(self, max_bytes: int) -> None:
        self.nbytes = 0  # capacity of all its segments; at most `max_bytes`
        self._max_bytes = max_bytes
        self._by_capacity: dict[int, list[Segment]] = {}  # the last freed is taken first: its pages are warmest

    def __len__(self) -> int:
        return sum(map(len, self._by_capacity.values()))

    def __iter__(self) -> Iterator[Segment]:
        for segments in self._by_capacity.values():
            yield from segments

    def take(self, nbytes: int) -> Segment | None:
        """A segment that a payload of `nbytes` fits into without much waste; None when there is none."""
        capacity = capacity_for(nbytes)
        for _ in range(_CLASSES_TRIED):
            segments = self._by_capacity.get(capacity)
            if segments:
                segment = segments.pop()
                self._left(segment, segments)
                assert segment.mapping is None or not segment.mapping.viewed, f"{segment} is to be written under a view"
                return segment
            capacity = capacity_for(capacity)
        return None

    def put(self, segment: Segment, now: float) -> list[Segment]:
        """Take a freed segment in. Returns those that had to leave for it, the longest freed first."""
        segment.freed_at = now
        if segment.capacity > self._max_bytes:
            return [segment]
        removed = []
        while self.nbytes + segment.capacity > self._max_bytes:
            oldest = min(self, key=lambda found: found.freed_at)
            self._remove(oldest)
            removed.append(oldest)
        self._by_capacity.setdefault(segment.capacity, []).append(segment)
        self.nbytes += segment.capacity
        return removed

    def expired(self, before: float) -> list[Segment]:
        """Remove and return the segments that were freed before a time."""
        removed = [segment for segment in self if segment.freed_at < before]
        for segment in removed:
            self._remove(segment)
        return removed

    def clear(self) -> list[Segment]:
        """Remove and return all."""
        removed = list(self)
        self._by_capacity.clear()
        self.nbytes = 0
        return removed

    def _remove(self, segment: Segment) -> None:
        segments = self._by_capacity[segment.capacity]
        segments.remove(segment)
        self._left(segment, segments)

    def _left(self, segment: Segment, segments: list[Segment]) -> None:
        self.nbytes -= segment.capacity
        if not segments:
            del self._by_capacity[segment.capacity]
