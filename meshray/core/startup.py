"""May we start another worker? A budget of crashes, then a growing pause.

A worker that dies before it did anything (an import that fails, a broken interpreter) would be started again for ever.
So crashes are counted per cause (an interpreter, or a job): within the budget the next start is at once; beyond it,
starts pause for 1 s, 2 s, 4 s ... up to `PAUSE_MAX_S`, and those who wait are told why (FAULTS 4).
"""

from __future__ import annotations

from collections import deque

from meshray.config import Config

PAUSE_FIRST_S = 1.0
PAUSE_MAX_S = 30.0


class CrashBudget:
    """Crashes of one cause."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._crashes: deque[float] = deque()  # times within the window
        self._pause_s = PAUSE_FIRST_S  # the next pause
        self.paused_until = 0.0  # no start before this time
        self.resumes = False  # whether `on_time` at `paused_until` has still to come
        self.text = ""  # the last crash, for people; "" once a start went well
        self._report = ""  # as it was when the budget was first used up; a text that changes is told again

    def on_crash(self, text: str, now: float) -> None:
        self._crashes.append(now)
        while self._crashes[0] < now - self._config.start_crashes_window_s:
            self._crashes.popleft()
        self.text = text
        if len(self._crashes) >= self._config.start_crashes_max:
            self.paused_until, self.resumes = now + self._pause_s, True
            self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
            self._report = self._report or (
                f"workers crash before they run anything: {len(self._crashes)} times within "
                f"{self._config.start_crashes_window_s:g} s. The last one: {text}"
            )

    def on_success(self) -> None:
        """A worker of this cause did something: the past is forgotten."""
        if self.text:
            self._crashes.clear()
            self._pause_s, self.paused_until, self.resumes = PAUSE_FIRST_S, 0.0, False
            self.text = self._report = ""

    def on_time(self, now: float) -> None:
        self.resumes = self.resumes and now < self.paused_until

    @property
    def exhausted(self) -> bool:
        """Whether those who wait should be told."""
        return self.paused_until > 0.0

    def report(self) -> str:
        """What those who wait are told; the same until a start goes well."""
        return self._report
