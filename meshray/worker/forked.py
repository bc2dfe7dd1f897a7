"""User code that forks, and whose child comes back out of it.

The child has its parent's journal, sockets and task in its hands, and must use none of them: it would answer in its
parent's name. So it ends as a program does that comes to its end: with 0, or with its traceback and 1.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import Any, NoReturn


class ChildOfWorker:
    """Stands in the child in the place of everything with which an attempt ends: any use of it ends the process."""

    def __getattr__(self, name: str) -> Any:
        end_child()


def end_child() -> NoReturn:
    """Write what was printed, and go."""
    error = sys.exception()
    if error is not None:
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed or replaced by the user
            stream.flush()
    os._exit(0 if error is None else 1)
