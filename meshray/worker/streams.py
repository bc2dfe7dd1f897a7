"""Who prints."""

from __future__ import annotations

import sys

from meshray.observe.markers import SourceStream

_announced = ""  # as of the last call; names of functions are the same objects each time


def announce(name: str) -> None:
    """What is printed from here on is printed by `name`."""
    global _announced
    if name is _announced:
        return
    _announced = name
    for stream in (sys.stdout, sys.stderr):
        if type(stream) is SourceStream:
            stream.announce(name)
