from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshray import context
from tests.api.fake import FakeRuntime


@pytest.fixture
def fake() -> Iterator[FakeRuntime]:
    """A fake runtime in this process's slot."""
    runtime = FakeRuntime()
    context.set_runtime(runtime)
    yield runtime
    context.set_runtime(None)
