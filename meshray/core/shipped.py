"""Which functions has somebody got from this process, and which of them may be forgotten there?

Theory. A function travels once to whoever needs it, and is named by its hash from then on. A program may make any
number of them (a lambda for each item of a loop), so the receiver cannot keep all. The sender decides, and says with
what it sends next which ones it will send again before it names them (`forget`). Messages of a pair arrive in order, so
both always agree: nothing is missed, and nothing has to be asked for.

What was used longest ago goes first. What is in flight stays: numbers count up with what is sent, so what was last used
before the oldest one in flight is not needed any more. A sender that looks at `adds` and `room` first never has more
out than the bound, or a single larger function.
"""

from __future__ import annotations

from meshray.wire.messages import Blob

FUNCTION_BYTES = 2048
"""What a function takes in a worker besides its pickled bytes: code, globals, its place in tables. (Measured: 1.4 KiB
for a lambda that pickles to 0.5 KiB.)"""


def weight_of(blob: Blob) -> int:
    """Bytes that a function counts for, roughly what it takes in a worker."""
    return len(blob.pickled) + FUNCTION_BYTES


class Shipped:
    """The functions that one receiver has from this process."""

    __slots__ = ("_last", "_max_bytes", "_newest", "_weights", "bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._last: dict[bytes, int] = {}  # function -> number of what used it last; in this order
        self._weights: dict[bytes, int] = {}
        self._newest = b""  # the last of these; it was used last, and stays so
        self.bytes = 0  # of all

    def __contains__(self, function: bytes) -> bool:
        return function in self._last

    def __len__(self) -> int:
        return len(self._last)

    def use(self, function: bytes, number: int) -> bool:
        """What is sent with this number needs the function. False: it is not there, and has to go along (`add`)."""
        last = self._last
        if function is not self._newest:
            if last.pop(function, None) is None:
                return False
            self._newest = function
        last[function] = number
        return True

    def add(self, blob: Blob, number: int) -> None:
        """It goes along with what is sent with this number."""
        assert blob.hash not in self._last, f"{blob.name} is shipped twice"
        self._last[blob.hash] = number
        self._newest = blob.hash
        weight = self._weights[blob.hash] = weight_of(blob)
        self.bytes += weight

    def adds(self, blob: Blob, oldest: int) -> int:
        """Bytes by which this function would add to those that must stay, while `oldest` is in flight."""
        last = self._last.get(blob.hash, -1)
        return weight_of(blob) if last < oldest else 0

    def room(self, oldest: int) -> int:
        """What may be added to those that must stay."""
        room = self._max_bytes
        for function, last in reversed(self._last.items()):
            if last < oldest:
                break
            room -= self._weights[function]
        return room

    def trim(self, oldest: int) -> list[bytes]:
        """What the receiver shall forget, so that the rest is within the bound. `oldest`: the smallest number that is
        still in flight."""
        forget: list[bytes] = []
        while self.bytes > self._max_bytes:  # so there is one
            function, last = next(iter(self._last.items()))
            if last >= oldest:
                break
            del self._last[function]
            self.bytes -= self._weights.pop(function)
            forget.append(function)
        if not self._last:
            self._newest = b""
        return forget
