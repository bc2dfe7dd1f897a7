"""Who has pushed to this worker, as its journal names them: each lease and each caller of an actor has a handle.

Pushes are noted under the pump's lock (`on_push`). Of tasks the journal belongs to the main thread, which takes the
notes in before it begins one; that of an actor has a lock of its own, so they are taken in at once.
"""

from __future__ import annotations

from collections import deque

from meshray.store.journal import ConcurrentJournal, Journal, source_of_lease
from meshray.worker.orphans import Item


class Pushers:
    """See the head of this file."""

    def __init__(self, journal: Journal) -> None:
        self.journal: Journal | ConcurrentJournal = journal
        self._notes: deque[tuple[bytes, int, int]] = deque()  # (source, lease, acknowledged) that the journal lacks
        self._handles: dict[bytes, int] = {}  # by what the journal calls them
        self._last_lease = 0  # the lease that has pushed last, and its handle
        self._last_handle = 0
        self._last_source = b""

    def on_push(self, source: bytes, lease: int, acknowledged: int) -> None:
        """Somebody has pushed, and has got all results up to `acknowledged`."""
        self._notes.append((source, lease, acknowledged))

    def take_in(self) -> None:
        """Tell the journal what was noted."""
        while self._notes:
            source, lease, acknowledged = self._notes.popleft()
            if lease and lease == self._last_lease:
                self.journal.acknowledged(self._last_handle, acknowledged)
                continue
            name = source_of_lease(lease) if lease else source
            handle = self._handles.get(name)
            if handle is None:
                if lease and self._last_source:
                    self.forget(self._last_source)
                handle = self._handles[name] = self.journal.source(name)
            if lease:
                self._last_source, self._last_lease, self._last_handle = name, lease, handle
            self.journal.acknowledged(handle, acknowledged)

    def handle(self, item: Item) -> int:
        """The journal's handle for the lease of a task; 0, which it ignores, for one that is over. Main thread."""
        if self._notes:
            self.take_in()
        lease = item[1]
        if lease == self._last_lease:
            return self._last_handle
        return self._handles.get(source_of_lease(lease), 0)

    def handle_of_caller(self, caller: bytes) -> int:
        """The same of an actor's caller. From any thread: what was noted was taken in under the lock, before the calls
        that came with it were queued."""
        return self._handles.get(caller, 0)

    def knows(self, name: bytes) -> bool:
        """Whether the journal has a place for it."""
        return name in self._handles

    def forget(self, name: bytes) -> None:
        """Nothing of it runs, and nobody will ask: its place in the journal is free."""
        self._handles.pop(name, None)
        self.journal.forget(name)
