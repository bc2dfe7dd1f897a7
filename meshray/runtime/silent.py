"""What the user of a program hears when a host does not answer: only where the program has work or values there.

It is suspected for some seconds before it is held for dead, and meanwhile what runs there holds its slots: to a user
the program stands still. Then comes one line, and another one when it answers again or is dead. A host that comes and
goes is told of once a minute; that it is dead, always. A worker says it of what its task has submitted, in its own
prints.

Under the pump's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshray.core.gone import remember
from meshray.wire.messages import NodeSilent, Place

if TYPE_CHECKING:
    from meshray.runtime.engine import Engine

AGAIN_S = 60.0
"""So long after a host was told of it is not told of again, unless it is dead."""

HOSTS_MAX = 256
"""So many are remembered."""


class SilentHosts:
    """See the head of this file."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._told: dict[bytes, str] = {}  # those of which the last line said that they do not answer -> their names
        self._next: dict[bytes, float] = {}  # when such a line may come again

    def on_silent(self, message: NodeSilent, now: float) -> None:
        """The peer says that a host is suspected, or no longer."""
        node, who = message.node, f"host {message.name}"
        if not message.silent:
            if self._told.pop(node, ""):
                self._say(f"{who} answers again")
        elif node not in self._told and now >= self._next.get(node, now):
            if self._works_at(node):
                what = "what runs there is started again elsewhere"
            elif self._has_values_at(node):
                what = "what lies there alone is made again"
            else:
                return
            remember(self._told, node, who, HOSTS_MAX)
            remember(self._next, node, now + AGAIN_S, HOSTS_MAX)
            self._say(f"{who} is not answering: {what} once it is held for dead")

    def on_gone(self, node: bytes, reason: str) -> None:
        """It is dead for this process, or has left; nothing was done about that yet."""
        who = self._told.pop(node, "")
        works = self._works_at(node)
        if works or who:
            said = reason if reason.startswith("host ") else f"{who or 'a host'} is gone: {reason}"
            what = "what ran there is started again elsewhere, as far as max_retries and max_restarts allow"
            self._say(f"{said}; {what if works else 'what lay there alone is made again when it is needed'}")

    def _works_at(self, node: bytes) -> bool:
        engine = self._engine
        return engine.submission.works_at(node) or engine.calls.knows_at(node)

    def _has_values_at(self, node: bytes) -> bool:
        """A worker has arguments of others as well, so there it is no reason."""
        records = self._engine.records.table.values() if self._engine.at.is_driver else ()
        return any(type(record.value) is Place and record.value.node == node for record in records)

    def _say(self, text: str) -> None:
        if self._engine.on_warning is not None:
            self._engine.on_warning(text)
