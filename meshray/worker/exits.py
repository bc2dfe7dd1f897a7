"""The end of a worker in good order: what user code has registered for the end of its program."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress


def run_exit_handlers(code: int, timeout_s: float) -> None:
    """Run what tasks, actors and their modules have registered (`atexit`, `weakref.finalize`: pools to end, files to
    remove), and write what was printed. The caller ends the process then, with the exit status `code`.

    Handlers that take longer than `timeout_s` seconds are cut off: a worker that shall end does not stay for them.
    """
    watch = threading.Timer(timeout_s, os._exit, (code,))
    watch.daemon = True
    watch.start()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # replaced or closed by the user
            stream.flush()
