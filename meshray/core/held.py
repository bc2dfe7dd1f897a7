"""What do functions weigh that several tasks hold? Each counts once, as long as one of them holds it."""

from __future__ import annotations

from meshray.wire.messages import Blob


class HeldFunctions:
    """Functions by their hash, with how many hold each."""

    def __init__(self) -> None:
        self._blobs: dict[bytes, Blob] = {}
        self._holders: dict[bytes, int] = {}  # by hash; no zeros
        self.bytes = 0  # pickled, of all

    def adds(self, blob: Blob) -> int:
        """Bytes by which one more holder would add to all."""
        return 0 if blob.hash in self._blobs else len(blob.pickled)

    def hold(self, blob: Blob) -> Blob:
        """One more holds it. Returns the one that is here: the same function may come several times."""
        self.bytes += self.adds(blob)
        self._holders[blob.hash] = self._holders.get(blob.hash, 0) + 1
        return self._blobs.setdefault(blob.hash, blob)

    def let_go(self, blob: Blob) -> None:
        """One holds it no more."""
        left = self._holders[blob.hash] - 1
        if left:
            self._holders[blob.hash] = left
        else:
            del self._holders[blob.hash]
            self.bytes -= len(self._blobs.pop(blob.hash).pickled)

    def clear(self) -> None:
        """Nobody holds any."""
        self._blobs.clear()
        self._holders.clear()
        self.bytes = 0

    @property
    def holders(self) -> int:
        """How many hold one, in all."""
        return sum(self._holders.values())
