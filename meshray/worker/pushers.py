"""Who has pushed to this worker, as its journal names them: each lease and each caller of an actor has a handle.

Pushes are noted under the pump's lock (`on_push`). As a rule the journal belongs to the main thread, which takes the
notes in before it begins something. That of an actor whose calls overlap is shared (`share`): it has a lock of its own,
so they are taken in at once.
"""

from __future__ import annotations

from collections import deque

from meshray.store.journal import ConcurrentJournal, Journal, source_of_lease
from meshray.worker.orphans import Item

_OVER = -1
"""In a note, in the place of what is acknowledged: nothing of the pusher will be asked for any more."""


class Pushers:
    """See the head of this file."""

    def __init__(self, journal: Journal) -> None:
        self.journal: Journal | ConcurrentJournal = journal
        self._shared = False  # calls overlap: any thread writes
        self._notes: deque[tuple[bytes, int, int]] = deque()  # (source, lease, acknowledged) that the journal lacks
        self._callers: set[bytes] = set()  # of the actor here, until they are over
        self._handles: dict[bytes, int] = {}  # by what the journal calls them
        self._last_lease = 0  # the lease that has pushed last, and its handle
        self._last_handle = 0
        self._last_source = b""

    def share(self) -> None:
        """From now on calls overlap. Main thread, under the lock, before the first of them."""
        assert type(self.journal) is Journal, f"shared twice: {self.journal!r}"
        self.journal = ConcurrentJournal(self.journal)
        self._shared = True
        self.take_in()

    def on_push(self, source: bytes, lease: int, acknowledged: int) -> None:
        """Somebody has pushed, and has got all results up to `acknowledged`. Under the lock."""
        self._notes.append((source, lease, acknowledged))
        if not lease:
            self._callers.add(source)
        if self._shared:
            self.take_in()

    def on_over(self, caller: bytes) -> None:
        """Nothing of a caller runs, and nobody will ask: its place in the journal is free. Under the lock."""
        self._callers.discard(caller)
        self._notes.append((caller, 0, _OVER))
        if self._shared:
            self.take_in()

    def take_in(self) -> None:
        """Tell the journal what was noted."""
        while self._notes:
            source, lease, acknowledged = self._notes.popleft()
            if acknowledged == _OVER:
                self._forget(source)
                continue
            if lease and lease == self._last_lease:
                self.journal.acknowledged(self._last_handle, acknowledged)
                continue
            name = source_of_lease(lease) if lease else source
            handle = self._handles.get(name)
            if handle is None:
                if lease and self._last_source:
                    self._forget(self._last_source)
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
        """The same of an actor's caller. Main thread; from any thread once the journal is shared: then what was noted
        was taken in before the calls that came with it were queued."""
        if self._notes and not self._shared:
            self.take_in()
        return self._handles.get(caller, 0)

    def knows(self, caller: bytes) -> bool:
        """Whether this caller has pushed, and is not over. Under the lock."""
        return caller in self._callers

    def _forget(self, name: bytes) -> None:
        self._handles.pop(name, None)
        self.journal.forget(name)
