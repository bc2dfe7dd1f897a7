"""How far is each driver behind with what its workers print?

A driver shows lines in a thread of its own and says so (`LogsShown`). Lines that were sent and not shown are bounded by
`log_ahead_max_bytes` (`log_ahead_abroad_max_bytes` for a driver of another host): beyond that the pipes of its workers
are not read, so that what prints faster than a terminal shows is slowed down to it. A driver that shows nothing at all
for `log_stall_s` (it was stopped by Ctrl-Z, or nobody reads its output) does not hold up its tasks: then lines are read
and left out, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshray.config import Config
from meshray.observe.weight import weight
from meshray.wire.messages import LogLine


@dataclass(slots=True)
class _Behind:
    """One driver to which lines were sent that it has not shown."""

    size: int  # bytes of them
    since: float  # when it showed something last, or when the first of them was sent
    left_out: int = 0  # lines that were not sent, and of which it does not know yet


class LogFlow:
    """The drivers of one peer. All times are of the monotonic clock."""

    def __init__(self, config: Config, node: bytes = b"") -> None:
        """`node`: our own; the drivers of others may be behind by less."""
        self._config = config
        self._node = node
        self._stall_s = config.log_stall_s
        self._drivers: dict[bytes, _Behind] = {}  # those with lines on their way

    def admit(self, driver: bytes, lines: list[LogLine], now: float) -> bool:
        """Whether these may be sent; if so, they are counted as sent, else as left out."""
        behind = self._drivers.get(driver)
        if behind is None:
            behind = self._drivers[driver] = _Behind(0, now)
        if self._is_stalled(driver, behind, now):
            behind.left_out += len(lines)
            return False
        behind.size += weight(line.text for line in lines)
        return True

    def on_shown(self, driver: bytes, size: int, now: float) -> list[LogLine]:
        """The driver has shown so much. What it is to hear: how many lines were left out since it was told last."""
        behind = self._drivers.get(driver)
        if behind is None:
            return []
        notice = self.take_notice(driver)
        behind.size, behind.since = behind.size - size, now
        if behind.size <= 0:
            del self._drivers[driver]
        return notice

    def take_notice(self, driver: bytes) -> list[LogLine]:
        """How many lines were left out since it was told last, in words."""
        behind = self._drivers.get(driver)
        if behind is None or not behind.left_out:
            return []
        text = f"{behind.left_out} lines were left out here: for {self._stall_s:g} s none could be shown"
        behind.left_out = 0
        return [LogLine("", 0, text, True)]

    def forget(self, driver: bytes) -> None:
        """It is gone."""
        self._drivers.pop(driver, None)

    def forget_host(self, node: bytes) -> None:
        """All drivers of that host are gone."""
        for driver in [driver for driver in self._drivers if driver.startswith(node)]:
            del self._drivers[driver]

    def held_up(self, now: float) -> frozenset[bytes]:
        """Drivers for which nothing is to be read now."""
        if not self._drivers:
            return frozenset()
        return frozenset(
            driver
            for driver, behind in self._drivers.items()
            if behind.size >= self._at_most(driver) and not self._is_stalled(driver, behind, now)
        )

    def next_deadline(self, now: float) -> float | None:
        """When one of those that are held up will not be any more, if it shows nothing until then."""
        if not self._drivers:
            return None
        times = [self._drivers[driver].since + self._stall_s for driver in self.held_up(now)]
        return min(times, default=None)

    def _is_stalled(self, driver: bytes, behind: _Behind, now: float) -> bool:
        return behind.size >= self._at_most(driver) and now >= behind.since + self._stall_s

    def _at_most(self, driver: bytes) -> int:
        is_ours = driver.startswith(self._node)
        return self._config.log_ahead_max_bytes if is_ours else self._config.log_ahead_abroad_max_bytes
