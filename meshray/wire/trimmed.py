"""An exception that cannot travel as it is: too large, or its constructor does not take what it is pickled by.

Failures travel inside messages, so an exception in one is bounded (`Config.exception_max_bytes`). One that has a large
array or a long text among its arguments still is a `KeyError`, and whoever waits for it may catch just that. So its
class goes along, and every part of it that is small, as it is. In the place of a large argument stands a text that says
what was there; a large attribute is missing. The user's constructor is not called with such arguments
(`errors.rebuilt`). So is one rebuilt whose constructor takes other arguments than it passes on, or which holds
something that cannot be pickled, or not be loaded: another exception with such a constructor, say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshray.errors import fields_of, rebuilt

PARTS_MAX = 100
"""So many arguments, and as many attributes, are looked at one by one; those behind them are left out."""

TEXT_MAX = 1024
"""Characters that are left of a text or of bytes."""


class TooLargeError(Exception):
    """It pickles to more than may travel. Not for programs: they get the exception, trimmed."""

    def __init__(self, nbytes: int) -> None:
        super().__init__(f"{nbytes} bytes")
        self.nbytes = nbytes


class NotWholeError(Exception):
    """It cannot be pickled, or not be rebuilt from that. The text says why. Not for programs either."""


class Trimmed:
    """Pickles as a lesser `error`: with what takes `room` bytes at most by `nbytes_of`, which pickles a part alone, and
    raises what that raises, or its loading. What the parts share is counted more than once, the class not at all."""

    def __init__(self, error: BaseException, room: int, nbytes_of: Callable[[Any], int]) -> None:
        self._error = error
        self._room = room
        self._nbytes_of = nbytes_of
        self.left_out: list[str] = []  # once it was pickled: what does not come along, by name

    def __reduce__(self) -> tuple[Any, ...]:
        error = self._error
        self.left_out = []
        args = tuple(
            part if self._has_room(part, f"args[{index}]") else _stand_in(part)
            for index, part in enumerate(error.args[:PARTS_MAX])
        )
        if len(error.args) > PARTS_MAX:
            args += (f"<{len(error.args) - PARTS_MAX} more left out>",)
            self.left_out.append(f"args[{PARTS_MAX}:]")
        return rebuilt, (type(error), args, self._small(vars(error)), self._small(fields_of(error)))

    def _small(self, parts: dict[str, Any]) -> dict[str, Any]:
        if len(parts) > PARTS_MAX:
            self.left_out.append(f"{len(parts) - PARTS_MAX} attributes")
        return {name: part for name, part in list(parts.items())[:PARTS_MAX] if self._has_room(part, name)}

    def _has_room(self, part: Any, name: str) -> bool:
        """Whether it may come along; then its room is taken."""
        try:
            nbytes = self._nbytes_of(part)
        except (Exception, SystemExit):  # user code, or it cannot be pickled, or not be loaded
            nbytes = self._room + 1
        if nbytes > self._room:
            self.left_out.append(name)
            return False
        self._room -= nbytes
        return True


def _stand_in(part: Any) -> Any:
    """What is left of an argument: the beginning of a text or of bytes, else what it was."""
    if type(part) is str and len(part) > TEXT_MAX:
        return f"{part[:TEXT_MAX]}[... {len(part) - TEXT_MAX} characters left out]"
    if type(part) is bytes:
        return part[:TEXT_MAX]
    return f"<{type(part).__module__}.{type(part).__qualname__} left out>"
