"""The shield without a pump: signals that come at odd moments."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator

import pytest

from meshray.runtime.shield import Shield
from meshray.store.mapping import Mapping


@pytest.fixture
def shield() -> Iterator[Shield]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    shield = Shield()
    shield.take_over()
    yield shield
    shield.give_back()
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_in_the_end_of_a_view_is_raised_after_it(shield: Shield) -> None:
    """Python swallows what leaves a finaliser."""
    steps = []

    def on_last_view() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        steps.append(1)
        steps.append(2)

    with tempfile.TemporaryFile() as file:
        file.truncate(4096)
        mapping = Mapping(file.fileno(), 4096, writable=False)
    view = mapping.view(4096, on_last_view)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        del view
        time.sleep(60)
    assert steps == [1, 2]
    assert not mapping.viewed


def test_an_interrupt_while_it_is_up_is_raised_when_it_comes_down(shield: Shield) -> None:
    raised = shield.raise_()
    os.kill(os.getpid(), signal.SIGINT)
    assert raised
    with pytest.raises(KeyboardInterrupt):
        shield.lower_if(raised)
