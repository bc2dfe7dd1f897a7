"""Tasks for which there is no room: those that can never run fail, and of the others the user hears why they wait.

Under the pump's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshray.wire.messages import Infeasible

if TYPE_CHECKING:
    from meshray.runtime.engine import Engine

WARNED_MAX = 64
"""So many long reasons why tasks wait are remembered, so that each is told once."""


class InfeasibleTasks:
    """See the head of this file."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._warned: set[str] = set()  # texts of many lines that were told of late

    def on_infeasible(self, _: bytes, message: Infeasible) -> None:
        engine, text = self._engine, message.message
        if message.hopeless:
            engine.finished.complete(engine.submission.on_unschedulable(message.class_id, text), b"")
        elif not text:
            self._warned.clear()
        elif engine.on_warning is not None and text not in self._warned:
            if "\n" in text:  # a block of lines is told once, whoever else waits for the same
                if len(self._warned) >= WARNED_MAX:
                    self._warned.clear()
                self._warned.add(text)
            name = engine.submission.name_of(message.class_id)
            engine.on_warning(f"{name} waits: {text}" if name else text)
