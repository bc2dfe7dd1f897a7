"""A folder in shared memory for each test, removed afterwards with a look at what the test left mapped."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshray.store import folders, mapping


@pytest.fixture
def shm() -> Iterator[Path]:
    """An empty folder in shared memory, or on a disk where there is none."""
    parent = folders.SHARED_MEMORY if folders.SHARED_MEMORY.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="meshray-test-", dir=parent))
    gc.collect()
    before = len(mapping._pins)
    yield folder
    folders.sweep(folder)
    gc.collect()
    assert not folder.exists()
    assert len(mapping._pins) == before, "views outlived the test"
