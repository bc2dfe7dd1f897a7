"""What a peer does with all its parts at once."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import cast

import pytest

from meshray.peer.parts import Parts
from meshray.store.transit import Transit
from tests.transit import brings_pages

SIZE = 5 << 20


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no shared memory")
@brings_pages
def test_who_leaves_takes_along_what_it_has_removed() -> None:
    """Its values were sent to other hosts, and their memory would stay for as long as their mappings do."""
    with TemporaryDirectory(prefix="meshray-test-", dir="/dev/shm") as name:
        folder, dropped = Path(name), list[bytes]()
        transit, names = Transit(folder), [f"0000000000000000-{number}" for number in range(2)]
        for name in names:
            (folder / name).write_bytes(bytes(SIZE))
            assert transit.begin(name, 0, SIZE, SIZE) is not None
        (folder / names[0]).unlink()
        parts = SimpleNamespace(endpoint=SimpleNamespace(drop=dropped.append), transit=transit, store_folder=folder)
        Parts.part_with(cast(Parts, parts), b"a driver")
        assert dropped == [b"a driver"]
        assert transit.spans.given_up == 1
        assert [transit.spans.find(name, 0) is None for name in names] == [True, False]
        transit.spans.clear()
