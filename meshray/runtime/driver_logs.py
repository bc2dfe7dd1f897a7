"""What workers printed, at the driver: `(name pid=...) text` on stdout or stderr, duplicates folded; with `host=...` if
they are of another host."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from meshray.observe.folding import Line, LineFolder
from meshray.observe.weight import weight
from meshray.wire.messages import LogLine

FOLD_TICK_S = 1.0

LINES_AT_ONCE = 1000
"""So many are shown before the peer hears of it."""


class DriverLogs:
    """Prints log lines in a thread of its own: a slow terminal must not hold up the pump."""

    def __init__(self, enabled: bool, on_shown: Callable[[bytes, int], None]) -> None:
        """`on_shown(source, weight)` is called after lines were shown, in the thread that shows them."""
        self._enabled = enabled
        self._on_shown = on_shown
        self._folder = LineFolder()
        self._lines: list[tuple[bytes, LogLine]] = []  # not printed yet, and which peer has told
        self._ready = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def on_lines(self, source: bytes, lines: list[LogLine]) -> None:
        """Lines have come. Under the pump's lock: only takes them."""
        if not self._enabled:
            return
        with self._ready:
            self._lines += [(source, line) for line in lines]
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="meshray-logs", daemon=True)
                self._thread.start()
            self._ready.notify()

    def _run(self) -> None:
        while True:
            with self._ready:
                if not self._lines and not self._closed:
                    self._ready.wait(FOLD_TICK_S)
                lines, self._lines = self._lines, []
                closed = self._closed
            now = time.monotonic()
            for begin in range(0, len(lines), LINES_AT_ONCE):
                self._show(lines[begin : begin + LINES_AT_ONCE], now)
            self._print(self._folder.flush() if closed else self._folder.tick(now))
            if closed and not lines:
                return

    def _show(self, lines: list[tuple[bytes, LogLine]], now: float) -> None:
        shown: dict[bytes, list[str]] = {}
        for source, line in lines:
            self._print(
                self._folder.on_line(
                    line.text, name=line.source, pid=line.pid, host=line.host, stderr=line.stderr, now=now
                )
            )
            shown.setdefault(source, []).append(line.text)
        for source, texts in shown.items():
            self._on_shown(source, weight(texts))

    def _print(self, printed: list[Line]) -> None:
        for line in printed:
            stream = sys.stderr if line.stderr else sys.stdout
            if stream is not None:
                print(line.text, file=stream, flush=True)

    def close(self) -> None:
        """Print what has come, and what was folded."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        if self._thread is not None:
            self._thread.join(2.0)
