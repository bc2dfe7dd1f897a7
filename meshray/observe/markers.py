"""Whose line it is: workers print plain text, and say before it which task or actor prints.

A marker is `\\x01meshray:<name>\\n`, written into the stream only when something is printed under another name than
before, so tasks that print nothing cost nothing. The peer takes markers out again. What a subprocess or C code writes
itself goes under the last name that was written, or under none once a task of another name has begun.
"""

from __future__ import annotations

import io
from contextlib import suppress

_BEGIN = b"\x01meshray:"
_NAME_MAX = 200


def encode_marker(name: str) -> bytes:
    """From here on, `name` prints. Control characters are taken out, long names cut."""
    plain = "".join(character if character.isprintable() else " " for character in name[:_NAME_MAX])
    return _BEGIN + plain.encode("utf-8", "replace") + b"\n"


def split_markers(line: bytes) -> tuple[bytes, str | None]:
    """One line without its newline: the text in it, and the name that prints from the next line on.

    A marker ends its line. The text before it was printed under the old name and had no newline yet.
    """
    text, begin, name = line.partition(_BEGIN)
    return text, name.decode("utf-8", "replace") if begin else None


class SourceStream(io.TextIOWrapper):
    """stdout or stderr of a worker: lines are written as they end, under the name of the task that prints.

    Call `announce` before each task. It is not closed before its process ends, whatever tasks do to it: those that run
    there afterwards print, too.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(
            io.BufferedWriter(io.FileIO(fd, "w", closefd=False)),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        self.source = ""  # who prints; changes by `announce`
        self._announced = ""  # the name of the last marker; changes with the first text under another one

    def announce(self, source: str) -> None:
        """From here on, `source` prints. Costs nothing, but after a text under another name: what is written past this
        stream must not go under that one."""
        self.source = source
        if self._announced and self._announced != source:
            self._announced = ""
            with suppress(OSError):  # a task has closed the descriptor: one that prints nothing need not know
                super().write(encode_marker("").decode())

    def write(self, text: str, /) -> int:
        if self.source != self._announced:
            self._announced = self.source
            super().write(encode_marker(self.source).decode() + text)
            return len(text)
        return super().write(text)

    def close(self) -> None:
        """`sys.stdout.close()` in a task: what was printed is written."""
        self.flush()
