"""The functions and classes that this worker got: pickled ones by hash, unpickled at their first use."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any

from meshray.wire.messages import Blob
from meshray.wire.payload import loads_function

LOOKED_IN = "workers look where the program's sys.path pointed at init(), not where it does now"
"""Where modules are looked for on the driver's own host, for people."""

LOADERS = ("meshray", "cloudpickle", "importlib")
"""Packages whose frames say nothing about why a module that the user's code imports is missing."""


class Functions:
    """A cache for life: a worker serves one job, so it is bounded by what that job submits."""

    def __init__(self) -> None:
        self._blobs: dict[bytes, Blob] = {}  # not unpickled yet
        self._loaded: dict[bytes, tuple[Callable[..., Any], str]] = {}
        self.get = self._loaded.get
        self.on_loaded: Callable[[Any], None] | None = None  # called once with whatever was unpickled
        self.where = LOOKED_IN
        """Where modules are looked for, for people."""

    def add(self, blobs: list[Blob]) -> None:
        """Functions that came with a push."""
        for blob in blobs:
            if blob.hash not in self._loaded:
                self._blobs[blob.hash] = blob

    def load(self, function: bytes) -> tuple[Callable[..., Any], str]:
        """A function and its name. Raises what `unpickle` raises."""
        blob = self._blobs.get(function)
        if blob is None:
            raise LookupError(f"function {function.hex()} never came to this worker")
        found = self._loaded[function] = (self.unpickle(blob), blob.name)
        del self._blobs[function]
        return found

    def unpickle(self, blob: Blob) -> Any:
        """The function or class. Raises what unpickling raises; a missing module is named, with this host."""
        try:
            loaded = loads_function(blob.pickled)
        except ModuleNotFoundError as error:
            missing = ModuleNotFoundError(
                f"{blob.name} needs the module {error.name!r}, which a worker on host {socket.gethostname()} cannot "
                f"import: {error} ({self.where})",
                name=error.name,
                path=error.path,
            )
            raise missing.with_traceback(_of_the_user(error.__traceback__)) from error.__cause__
        if self.on_loaded is not None:
            self.on_loaded(loaded)
        return loaded

    def name_of(self, function: bytes) -> str:
        """For people, also when it cannot be loaded."""
        loaded = self._loaded.get(function)
        if loaded is not None:
            return loaded[1]
        blob = self._blobs.get(function)
        return blob.name if blob is not None else function.hex()


def _of_the_user(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame of a module of the user's on, which another one needs; None when it was we who
    looked for the missing one."""
    while trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).split(".")[0] in LOADERS:
        trace = trace.tb_next
    return trace
