"""The functions that this worker got: pickled ones by hash, unpickled at their first use.

Each submitter says what it ships, and what it will ship again before it names it (`core.shipped`): so a function stays
as long as one of its submitters counts on it, and what each of them counts on is bounded.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any

from meshray.wire.messages import Blob
from meshray.wire.payload import loads_function

AT_HAND = b""
"""Counts on a function like a submitter: what the main thread is about to use, when that one is gone."""

LOOKED_IN = "workers look where the program's sys.path pointed at init(), not where it does now"
"""Where modules are looked for on the driver's own host, for people."""

LOADERS = ("meshray", "cloudpickle", "importlib")
"""Packages whose frames say nothing about why a module that the user's code imports is missing."""


class Functions:
    """What happens to it (`on_...`) is told under the pump's lock. The main thread alone loads; nothing that it may be
    about to use goes: what a submitter lets go of it has not in flight."""

    def __init__(self) -> None:
        self._users: dict[bytes, set[bytes]] = {}  # function -> the submitters that count on it; no empty sets
        self._blobs: dict[bytes, Blob] = {}  # not unpickled yet
        self._loaded: dict[bytes, tuple[Callable[..., Any], str]] = {}
        self._dropped: list[object] = []  # whose end, which may run user code, is for the main thread, not under a lock
        self.get = self._loaded.get
        self.on_loaded: Callable[[Any], None] | None = None  # called once with whatever was unpickled
        self.where = LOOKED_IN
        """Where modules are looked for, for people."""

    def on_shipped(self, submitter: bytes, blobs: list[Blob], forget: list[bytes]) -> None:
        """Functions that came with a push, and those that this submitter does not count on any more."""
        for function in forget:
            self._leave(function, submitter)
        for blob in blobs:
            self._users.setdefault(blob.hash, set()).add(submitter)
            if blob.hash not in self._loaded:
                self._blobs[blob.hash] = blob

    def on_submitter_gone(self, submitter: bytes, at_hand: bytes) -> None:
        """It is dead, or out of reach: should it come back, it begins anew. `at_hand`: the function of what the main
        thread took last, which it may not have begun: that one stays until the next time."""
        for function, users in list(self._users.items()):
            if function == at_hand and submitter in users:
                users.add(AT_HAND)
            elif AT_HAND in users and function != at_hand:
                self._leave(function, AT_HAND)
            self._leave(function, submitter)

    def _leave(self, function: bytes, submitter: bytes) -> None:
        users = self._users.get(function)
        if users is None:
            return
        users.discard(submitter)
        if not users:
            del self._users[function]
            self._blobs.pop(function, None)
            self._dropped.append(self._loaded.pop(function, None))

    def __contains__(self, function: bytes) -> bool:
        return function in self._users

    def __len__(self) -> int:
        return len(self._users)

    def load(self, function: bytes) -> tuple[Callable[..., Any], str]:
        """A function and its name. Raises what `unpickle` raises."""
        self._dropped.clear()
        blob = self._blobs.get(function)
        if blob is None:
            raise LookupError(f"function {function.hex()} is not at this worker")
        found = self._loaded[function] = (self.unpickle(blob), blob.name)
        self._blobs.pop(function, None)
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
