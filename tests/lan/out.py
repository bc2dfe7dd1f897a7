"""How the programs on hosts answer the tests: a line each, most often of JSON."""

from __future__ import annotations

import json
import sys


def tell(what: object) -> None:
    """As JSON."""
    show(json.dumps(what))


def show(*words: object) -> None:
    """In one write, which `print` does not do: lines of workers, printed by another thread, do not come between."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()
