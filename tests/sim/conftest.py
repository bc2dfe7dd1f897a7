"""Half of the seeds (or blocks of seeds) of each simulation run always, the others with `scripts/test --all`. Seeds
that are listed one by one, since they have failed once, all run always. With another first seed (`scripts/seeds`) only
what follows it runs: nothing else would be new."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sim.seeds import FIRST

HERE = Path(__file__).parent
SPREAD = ("seed", "block", "part")
"""Parameters that are numbers of seeds, or of blocks of them; each `part` runs always."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept = []
    for item in items:
        if HERE not in item.path.parents:
            kept.append(item)
            continue
        seeded = _seeded_by(item)
        if seeded in {"seed", "block"} and item.callspec.indices[seeded] % 2:  # type: ignore[attr-defined]
            item.add_marker(pytest.mark.slow)
        if seeded or not FIRST:
            kept.append(item)
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def _seeded_by(item: pytest.Item) -> str | None:
    """The parameter that says which seeds a test runs; None where they are fixed."""
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return None
    for name in SPREAD:
        if name in callspec.indices:
            index = callspec.indices[name]
            if callspec.params[name] in (index, FIRST + index):
                return name
    return None
