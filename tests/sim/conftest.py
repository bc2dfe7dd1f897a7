"""Half of the seeds (or blocks of seeds) of each simulation run always, the others with `scripts/test --all`. Seeds
that are listed one by one, since they have failed once, all run always."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
SPREAD = ("seed", "block")
"""Parameters that are numbers of seeds, or of blocks of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is None or HERE not in item.path.parents:
            continue
        for name in SPREAD:
            index = callspec.indices.get(name, 0)
            if index % 2 and callspec.params[name] == index:
                item.add_marker(pytest.mark.slow)
