"""From seeds as people write them to addresses that can be dialled.

A resolver may take seconds to answer, and the peer's loop must not wait for it, nor may libzmq. So names are resolved
in a thread, now and then anew, and what is found makes a descriptor readable. Without a name among the seeds there is
no thread.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence

from meshray.config import Config
from meshray.seeds import Seed, resolve
from meshray.transport.mesh_lines import is_numeric


class Seeding:
    """The seeds of a peer. `addresses` are those that are known already; `take` gives those that are found later."""

    def __init__(self, seeds: Sequence[Seed], config: Config, resolver: Callable[[Seed], list[Seed]] = resolve) -> None:
        self._given = [str(seed) for seed in seeds if is_numeric(str(seed))]
        self._resolved: dict[str, None] = {}  # behind names, the newest last: others may stand there each time
        self._most = config.seed_addresses_max  # of these
        self._names = [seed for seed in seeds if not is_numeric(str(seed))]
        self._again_s = config.seeds_again_s
        self._resolve = resolver
        self._lock = threading.Lock()
        self._found: list[str] = []  # since the last `take`
        self._behind: dict[Seed, list[str]] = {}  # by name, the last answer: empty if nobody knows it
        self._end = threading.Event()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable when `take` has something."""
        self._thread = threading.Thread(target=self._run, name="meshray-seeds", daemon=True)
        if self._names:
            self._thread.start()

    @property
    def addresses(self) -> list[str]:
        """Those that are known now."""
        return list(dict.fromkeys([*self._given, *self._resolved]))

    def behind(self, seed: Seed) -> list[str] | None:
        """The addresses that it stands for, as far as is known; None: it is a name, and nobody has answered yet."""
        if is_numeric(str(seed)):
            return [str(seed)]
        with self._lock:
            return self._behind.get(seed)

    def take(self) -> list[str]:
        """Addresses that were found since the last call."""
        if not self._found:
            return []
        with self._lock:
            os.eventfd_read(self.fd)
            found, self._found = self._found, []
        for address in found:
            self._resolved.pop(address, None)
            self._resolved[address] = None
        while len(self._resolved) > self._most:
            del self._resolved[next(iter(self._resolved))]
        return found

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # signals are for the main thread
        while not self._end.is_set():
            for name in self._names:
                addresses = [str(seed) for seed in self._resolve(name)]
                with self._lock:
                    self._behind[name] = addresses
                    if addresses and not self._end.is_set():
                        self._found = list(dict.fromkeys([*self._found, *addresses]))[-self._most :]
                        os.eventfd_write(self.fd, 1)
            self._end.wait(self._again_s)

    def close(self) -> None:
        """A resolver that does not answer is not waited for: its thread ends with the process, and touches nothing."""
        with self._lock:
            self._end.set()
            os.close(self.fd)
            self.fd = -1
