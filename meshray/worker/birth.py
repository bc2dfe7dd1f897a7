"""How a fresh copy of the zygote becomes a worker: what it lets go of, what it gets, how it ends.

A worker leads a session of its own. So a Ctrl-C in a terminal never reaches it, and what it starts is in its process
group unless it left on purpose; the zygote kills that group when the worker dies (see `descendants.py`).
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from meshray.observe.markers import SourceStream
from meshray.wire.forking import PROCESS_VARIABLE, Fork

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int | bytes) -> None:
    """prctl(2). Raises `OSError`."""
    value = ctypes.c_ulong(argument) if isinstance(argument, int) else ctypes.c_char_p(argument)
    if _libc.prctl(ctypes.c_int(option), value, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def die_with_parent(number: int, parent: int) -> None:
    """Get signal `number` when the thread that forked this process ends; leave at once if that has happened already."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of what descendants leave behind, in place of the system's first process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_name(name: str) -> None:
    """The name that `ps` and `top` show, at most 15 bytes."""
    _prctl(_PR_SET_NAME, name.encode()[:15])


def close_all_but(keep: int) -> None:
    """Close every descriptor beyond the standard three, except one."""
    last = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, keep)
    os.closerange(keep + 1, last)


def read_nothing() -> None:
    """Let standard input be empty."""
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    if empty > 2:
        os.close(empty)


def run_worker(request: Fork, stdout: int, stderr: int, zygote: int) -> NoReturn:
    """Be the worker of `request`, to the end: this call never returns.

    Ends with the status of `SystemExit`, with 1 after another exception (its traceback goes to stderr), else with 0.
    """
    code = 1
    try:
        _settle(request, stdout, stderr, zygote)
        _load(request.entry)(request.settings)
        code = 0
    except SystemExit as end:
        code = _code_of(end)
    except BaseException:  # whatever it is: it ends here, and is told
        traceback.print_exc()
    finally:
        _flush()
        os._exit(code)


def _settle(request: Fork, stdout: int, stderr: int, zygote: int) -> None:
    """Own session, default signals, own streams, no descriptor of the zygote's, own environment."""
    die_with_parent(signal.SIGKILL, zygote)
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.FileIO(0, closefd=False))  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = SourceStream(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = SourceStream(2)  # type: ignore[misc]
    faulthandler.enable(file=2, all_threads=False)  # a segfault shows where it was, in the last lines of stderr
    set_name("meshray-worker")
    os.environ.update(request.env)
    os.environ[PROCESS_VARIABLE] = request.process_id.hex()


def _load(entry: str) -> Callable[[bytes], object]:
    """The function that `module:function` names."""
    module, _, name = entry.partition(":")
    function: Callable[[bytes], object] = getattr(importlib.import_module(module), name)
    return function


def _code_of(end: SystemExit) -> int:
    """The exit status that Python would give."""
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    sys.stderr.write(f"{end.code}\n")
    return 1


def _flush() -> None:
    """Let nothing that was printed be lost, by C code neither."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # replaced or closed by the user, or nobody reads any more
            stream.flush()
    _libc.fflush(None)
