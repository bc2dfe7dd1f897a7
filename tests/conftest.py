"""Fixtures for tests with real processes, and the look for leaks around each of them.

Every test below `tests/integration` (or marked `processes`) gets a runtime folder of its own and is checked afterwards.
`mesh` is a fresh mesh of two CPUs for one test; `shared_mesh` one for all tests of a module, checked when the module
ends (a module uses one of the two, since a process has one mesh at a time).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from tests.leaks import Snapshot, kill_left, runtime_folder, wait_clean

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job: programs would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

INTEGRATION = Path(__file__).parent / "integration"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.processes)


@contextmanager
def _clean_room() -> Iterator[None]:
    """A runtime folder of one's own; fails if anything is left when the block has ended."""
    import meshray
    import meshray.context

    with runtime_folder() as folder:
        before = Snapshot.take(folder)
        try:
            yield
        finally:
            if meshray.context.current_runtime() is not None:
                meshray.shutdown()
            left = wait_clean(before)
            kill_left(before)
        if left:
            pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="module")
def shared_mesh(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """A mesh for all tests of a module; gives the module `meshray`. It has two CPUs, unless the module's `MESH` names
    other arguments of `init`."""
    import meshray

    with _clean_room():
        meshray.init(**getattr(request.module, "MESH", {"num_cpus": 2}))
        yield meshray
        meshray.shutdown()


@pytest.fixture(autouse=True)
def _leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Around each process test: its own runtime folder, and nothing left behind."""
    is_process_test = request.node.get_closest_marker("processes") is not None
    if not is_process_test or "shared_mesh" in request.fixturenames:
        yield
        return
    with _clean_room():
        yield


@pytest.fixture
def mesh(_leaves_nothing: None) -> Iterator[ModuleType]:
    """A fresh mesh of two CPUs; gives the module `meshray`."""
    import meshray

    meshray.init(num_cpus=2)
    yield meshray
    meshray.shutdown()
