"""Who prints."""

from __future__ import annotations

import sys

from meshray.observe.markers import SourceStream


def announce(name: str) -> None:
    """What is printed from here on is printed by `name`."""
    for stream in (sys.stdout, sys.stderr):
        if type(stream) is SourceStream:
            stream.source = name
