"""What a peer says to whoever reads its log: one line per event, with the time.

Standard error is the log of a standing peer (`peer.log` in its folder) and the terminal of one in the foreground.
"""

from __future__ import annotations

import sys
import time


def printable(text: str) -> str:
    """What others say, for a terminal or one line of a log: whatever could move a cursor or begin a line is a `?`."""
    return "".join(character if character.isprintable() else "?" for character in text)


def note(text: str) -> None:
    """Write it, at once."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stderr.flush()
