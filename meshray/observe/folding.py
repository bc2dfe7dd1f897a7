"""Lines of workers as the driver prints them: `(name pid=1, host=h) text`, repetitions folded.
Without a name, nobody knows whose it is: a subprocess of a task wrote it, or C code. What peers say themselves looks as
our warnings in the driver do: `meshray: text`, or `meshray (host=h): text`.

As in Ray: a text is printed at once the first time. While the same text comes from several processes within a window,
it is counted instead, and printed once more at the window's end with `[repeated 3x across cluster]`. One process that
repeats itself is not folded: that is its own output, not noise of parallelism; but a peer is, which says the same of
forty actors. Unlike Ray, texts that differ only in a
number are different texts: results that differ are never swallowed.
"""

from __future__ import annotations

from msgspec import Struct

WINDOW_S = 5.0
TEXTS_MAX = 1000
"""How many different texts are remembered at once; beyond, the oldest window ends early."""


class Line(Struct, frozen=True):
    """One line to print, complete."""

    text: str
    stderr: bool


class _Window(Struct):
    """What happened to one text since it was printed."""

    since: float
    sources: set[tuple[str, int]]  # host and pid that printed it
    last: str  # the prefix of the last one that was held back
    held: int = 0  # how often it came and was not printed


class LineFolder:
    """Decides which lines to print. Texts in, lines out, time passed in."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._windows: dict[tuple[str, bool], _Window] = {}  # (text, stderr) -> its window, oldest first

    def on_line(self, text: str, *, name: str, pid: int, host: str, stderr: bool, now: float) -> list[Line]:
        """A worker printed `text`; with `pid` 0, a peer says it. `host` is "" on the driver's own host."""
        lines = self.tick(now)
        prefix = _prefix(name, pid, host)
        window = self._windows.get((text, stderr))
        if window is None or not text:
            if text:
                self._windows[text, stderr] = _Window(now, {(host, pid)}, prefix)
            lines.append(Line(f"{prefix} {text}", stderr))
        else:
            window.sources.add((host, pid))
            if pid and len(window.sources) == 1:
                lines.append(Line(f"{prefix} {text}", stderr))
            else:
                window.held += 1
                window.last = prefix
        while len(self._windows) > TEXTS_MAX:
            lines += self._close(*next(iter(self._windows.items())), now)
        return lines

    def tick(self, now: float) -> list[Line]:
        """The lines whose windows have ended."""
        lines: list[Line] = []
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if now - window.since < self._window_s:
                break
            lines += self._close(key, window, now)
        return lines

    def flush(self) -> list[Line]:
        """Everything that is still held back: the program ends."""
        lines: list[Line] = []
        for (text, stderr), window in self._windows.items():
            lines += _held(text, stderr, window)
        self._windows.clear()
        return lines

    def next_tick(self) -> float | None:
        """When `tick` has something to do at the latest; None when nothing is remembered."""
        window = next(iter(self._windows.values()), None)
        return None if window is None else window.since + self._window_s

    def _close(self, key: tuple[str, bool], window: _Window, now: float) -> list[Line]:
        """End a window; a text that goes on repeating stays folded, in a new one."""
        del self._windows[key]
        if window.held > 1 and len(self._windows) < TEXTS_MAX:
            self._windows[key] = _Window(now, window.sources, window.last)
        return _held(key[0], key[1], window)


def _prefix(name: str, pid: int, host: str) -> str:
    if not pid:
        return f"meshray (host={host}):" if host else "meshray:"
    who = f"{name} pid={pid}" if name else f"pid={pid}"
    return f"({who}, host={host})" if host else f"({who})"


def _held(text: str, stderr: bool, window: _Window) -> list[Line]:
    """What stands for the lines that a window held back."""
    if not window.held:
        return []
    where = " across cluster" if len(window.sources) > 1 else ""
    repeated = f" [repeated {window.held}x{where}]" if window.held > 1 else ""
    return [Line(f"{window.last} {text}{repeated}", stderr)]
