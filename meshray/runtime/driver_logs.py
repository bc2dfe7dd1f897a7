"""What workers printed, at the driver: `(name pid=... host=...) text` on stdout or stderr, duplicates folded. The host
stands there for those of other hosts."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

from meshray.observe.folding import Line, LineFolder
from meshray.observe.weight import weight
from meshray.wire.messages import LogLines

FOLD_TICK_S = 1.0

LINES_AT_ONCE = 1000
"""So many are shown before the peers hear of it."""


class DriverLogs:
    """Prints log lines in a thread of its own: a slow terminal must not hold up the pump."""

    def __init__(self, enabled: bool, on_shown: Callable[[bytes, int], None]) -> None:
        """`on_shown(peer, weight)` is called after lines of that peer were shown, in the thread that shows them."""
        self._enabled = enabled
        self._on_shown = on_shown
        self._folder = LineFolder()
        self._arrived: list[tuple[bytes, LogLines]] = []  # not printed yet, by whom
        self._ready = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def on_lines(self, peer: bytes, message: LogLines) -> None:
        """Lines have come. Under the pump's lock: only takes them."""
        if not self._enabled:
            return
        with self._ready:
            self._arrived.append((peer, message))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="meshray-logs", daemon=True)
                self._thread.start()
            self._ready.notify()

    def _run(self) -> None:
        while True:
            with self._ready:
                if not self._arrived and not self._closed:
                    self._ready.wait(FOLD_TICK_S)
                arrived, self._arrived = self._arrived, []
                closed = self._closed
            now = time.monotonic()
            self._show(arrived, now)
            self._print(self._folder.flush() if closed else self._folder.tick(now))
            if closed and not arrived:
                return

    def _show(self, arrived: list[tuple[bytes, LogLines]], now: float) -> None:
        shown: Counter[bytes] = Counter()  # weight by peer, of which it has not heard
        count = 0
        for peer, message in arrived:
            host = message.host
            for line in message.lines:
                self._print(
                    self._folder.on_line(
                        line.text, name=line.source, pid=line.pid, host=host, stderr=line.stderr, now=now
                    )
                )
            shown[peer] += weight(line.text for line in message.lines)
            count += len(message.lines)
            if count >= LINES_AT_ONCE:
                self._tell(shown)
                count = 0
        self._tell(shown)

    def _tell(self, shown: Counter[bytes]) -> None:
        for peer, size in shown.items():
            self._on_shown(peer, size)
        shown.clear()

    def _print(self, printed: list[Line]) -> None:
        for line in printed:
            stream = sys.stderr if line.stderr else sys.stdout
            if stream is not None:
                stream.write(line.text + "\n")  # at once, so that what the program prints meanwhile gets no end of ours
                stream.flush()

    def close(self) -> None:
        """Print what has come, and what was folded."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        if self._thread is not None:
            self._thread.join(2.0)
