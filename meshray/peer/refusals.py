"""When was each reason of a refusal counted last? A count alone stays for ever, long after what caused it is over."""

from __future__ import annotations

from collections.abc import Mapping


class Refusals:
    """Looks at counts that only grow, by reason."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}  # as `look` has seen them last
        self._at: dict[str, float] = {}  # when that was found to have grown

    def look(self, counts: Mapping[str, int], now: float) -> None:
        """The counts are these now."""
        for reason, count in counts.items():
            if count != self._seen.get(reason):
                self._seen[reason], self._at[reason] = count, now

    def ago(self, now: float) -> dict[str, float]:
        """Reason -> how many seconds ago it was counted last."""
        return {reason: now - at for reason, at in self._at.items()}
