"""What printed lines count for on their way from a peer to a driver, the same on both sides."""

from __future__ import annotations

from collections.abc import Iterable

LINE_OVERHEAD_BYTES = 64


def weight(texts: Iterable[str]) -> int:
    """Of these lines."""
    return sum(len(text) + LINE_OVERHEAD_BYTES for text in texts)
