"""Who asked for an actor that is not known yet?

A handle travels from process to process faster than its CreateActor travels to the peer. What is asked meanwhile waits
here until the actor is created, or its creator dies and it never will be.
"""

from __future__ import annotations

from meshray.ids import owner_process_of
from meshray.wire.messages import KillActor, WatchActor

Question = WatchActor | KillActor
Asked = list[tuple[bytes, Question]]  # (who, what)


class EarlyQuestions:
    """At most `at_most` questions, by actor."""

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._asked: dict[bytes, Asked] = {}  # no empty lists
        self._count = 0  # questions in `_asked`

    def add(self, sender: bytes, question: Question) -> bool:
        """Keep it. False when there are too many."""
        if self._count >= self._at_most:
            return False
        self._asked.setdefault(question.actor_id, []).append((sender, question))
        self._count += 1
        return True

    def take(self, actor_id: bytes) -> Asked:
        """The actor is there: its questions, in order."""
        asked = self._asked.pop(actor_id, [])
        self._count -= len(asked)
        return asked

    def drop_watch(self, sender: bytes, actor_id: bytes) -> None:
        """It does not want to know any more."""
        asked = self.take(actor_id)
        kept = [entry for entry in asked if entry[0] != sender or not isinstance(entry[1], WatchActor)]
        if kept:
            self._asked[actor_id] = kept
            self._count += len(kept)

    def on_process_died(self, process: bytes) -> Asked:
        """It asks no more; and what it wanted to create will never be: the questions of others about that."""
        orphaned: Asked = []
        for actor_id in list(self._asked):
            asked = [entry for entry in self.take(actor_id) if entry[0] != process]
            if owner_process_of(actor_id) == process:
                orphaned.extend(asked)
            elif asked:
                self._asked[actor_id] = asked
                self._count += len(asked)
        return orphaned

    def __len__(self) -> int:
        return self._count
