"""When is something due next? Asked of each core in each turn of a peer's loop, mostly of those that wait for nothing.

So whoever has nothing says so first, and nothing here builds a list: a comprehension is a function that is made and
called, which costs as much as all the rest where the caches are cold.
"""

from __future__ import annotations


def earliest(*times: float | None) -> float | None:
    """The first of them; None stands for never."""
    found: float | None = None
    for time in times:
        if time is not None and (found is None or time < found):
            found = time
    return found
