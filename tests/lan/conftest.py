"""`lan` makes hosts: `network = lan("a", "b", seed=1)`. At the end of the test everything of them is gone, and that is
checked. Where no hosts can be made, the tests that want some are skipped with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.lan.network import Lan, why_not

HERE = Path(__file__).parent

_why_not = cache(why_not)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and "lan" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.processes)


@pytest.fixture
def lan(_leaves_nothing: None) -> Iterator[Callable[..., Lan]]:
    """Makes a `Lan` with the hosts that are named."""
    reason = _why_not()
    if reason:
        pytest.skip(reason)
    made: list[Lan] = []

    def make(*names: str, seed: int = 0, offload: bool = False) -> Lan:
        made.append(Lan(*names, seed=seed, offload=offload))
        return made[-1]

    yield make
    for network in made:
        network.close()
    left = [line for network in made for line in network.left()]
    assert not left, "left behind:\n  " + "\n  ".join(left)
