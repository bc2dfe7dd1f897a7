"""Which links that are over are to begin anew, and when?

A member that only this peer cannot reach stays a member: others see it. So whatever ended the link to it, another one
is tried again and again, until it stands or the member is gone. Not at once: one that refuses us would be asked in a
ring. (How long a trial takes is for `links` to say; the last one may still be under way when the next one is due.)
"""

from __future__ import annotations


class Redials:
    """See the head of this file. `pause_s`: between the end of a link and the next trial, and between two of those."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._due_at: dict[bytes, float] = {}  # node -> when to try; the earliest first, for all pauses are equal

    def on_down(self, node: bytes, now: float) -> None:
        """The link to it is over, or there is none to be had."""
        if node not in self._due_at:
            self._due_at[node] = now + self._pause_s

    def on_up(self, node: bytes) -> bool:
        """It stands. Whether it had been down."""
        return self._due_at.pop(node, None) is not None

    def on_gone(self, node: bytes) -> None:
        """It is no member, so there is nobody to link with."""
        self._due_at.pop(node, None)

    def take_due(self, now: float) -> list[bytes]:
        """Whom to try now. Each comes again after a pause, unless it is up or gone by then."""
        due = []
        for node, at in self._due_at.items():
            if at > now:
                break
            due.append(node)
        for node in due:
            del self._due_at[node]
            self._due_at[node] = now + self._pause_s
        return due

    def next_at(self) -> float | None:
        """When somebody is due; None: never."""
        return next(iter(self._due_at.values()), None)
