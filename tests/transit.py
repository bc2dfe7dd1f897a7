"""For tests of what is sent from the memory of segments (`store.transit`), and of cores that know nothing of it."""

from __future__ import annotations

import platform

import pytest

brings_pages = pytest.mark.skipif(
    platform.system() != "Linux" or tuple(map(int, platform.release().split(".")[:2])) < (5, 14),
    reason="MADV_POPULATE_READ is of Linux 5.14: pieces are read, and written through the file system, without it",
)


def none_in_transit(_: str) -> bool:
    """Nothing is sent from the memory of segments."""
    return False
