"""What the workers of `test_zygote.py` run."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing import resource_tracker


def report(settings: bytes) -> None:
    """Say how it looks from inside a worker."""
    facts = {
        "settings": settings.decode(),
        "pid": os.getpid(),
        "leads_session": os.getsid(0) == os.getpid(),
        "fds": sorted(int(name) for name in os.listdir("/proc/self/fd")),
        "stdin": sys.stdin.read(),
        "numpy": "numpy" in sys.modules,
        "preloaded": sorted({"msgspec", "cloudpickle"} & sys.modules.keys()),
        "threads": threading.active_count(),
        "frozen": gc.get_freeze_count() > 1000,
        "sigint_default": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "sigterm_default": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
        "variable": os.environ.get("OF_THE_REQUEST"),
        "blas": os.environ["OMP_NUM_THREADS"],
        "process": os.environ["MESHRAY_PROCESS"],
        "executable": sys.executable,
    }
    print(json.dumps(facts))


def named(settings: bytes) -> None:
    sys.stdout.source = sys.stderr.source = "first"  # type: ignore[union-attr]
    print("one")
    sys.stdout.source = sys.stderr.source = "second"  # type: ignore[union-attr]
    print("two", file=sys.stderr)
    print("without an end", end="")


def do(settings: bytes) -> None:
    """Run the program in `settings`."""
    exec(compile(settings, "<of the test>", "exec"), {"__name__": "worker"})


def wait_for_ever() -> None:
    while True:
        signal.pause()


def leave_children() -> None:
    """One child in our group, one in a session of its own, one daemon below that; then wait."""
    program = "import os, signal; signal.pause()"
    plain = subprocess.Popen([sys.executable, "-c", program])
    apart = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    nested = (
        "import subprocess, sys, signal\n"
        f"p = subprocess.Popen([sys.executable, '-c', {program!r}], start_new_session=True)\n"
        "print(p.pid, flush=True)\n"
        "signal.pause()\n"
    )
    above = subprocess.Popen([sys.executable, "-c", nested], start_new_session=True, stdout=subprocess.PIPE, text=True)
    forked = os.fork()
    if not forked:
        with suppress(KeyboardInterrupt):
            wait_for_ever()
        os._exit(0)
    assert above.stdout is not None
    print(json.dumps([plain.pid, apart.pid, above.pid, int(above.stdout.readline()), forked]), flush=True)
    wait_for_ever()


def leave_semaphore(daemon: bool = False, below: bool = False) -> None:
    """A semaphore that only multiprocessing's resource tracker takes away, and processes that hold the tracker's pipe:
    a child and its child, or a daemon of a session of its own; then wait. `below`: a child does all that."""
    if below and os.fork():
        wait_for_ever()
    semaphore = multiprocessing.get_context("spawn").Semaphore()
    ours, theirs = os.pipe()
    if not os.fork():
        if daemon:
            os.setsid()
        elif os.fork():
            wait_for_ever()
        os.write(theirs, f"{os.getpid()} {os.getppid()}".encode())
        wait_for_ever()
    last, above = map(int, os.read(ours, 100).split())
    tracker = resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]
    others = [last] if daemon else [last, above]
    name = semaphore._semlock.name.lstrip("/")  # type: ignore[attr-defined]
    print(json.dumps({"semaphore": name, "tracker": tracker, "others": others}), flush=True)
    wait_for_ever()
