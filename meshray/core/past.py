"""What has become of former links? Who is dead for good, who is none of us, and from which epoch on a link may begin
anew.

A link that was given up may begin anew between the same two incarnations, but as another one: its *epoch* is larger
than that of all that are over here. So each end has at most one link of an epoch, ever. That must hold of a peer that
was forgotten as well: the epochs of links to whoever is not remembered begin above all that were forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple


class Dead(NamedTuple):
    """An incarnation that no link leads to any more."""

    address: str  # where it was last
    epoch: int  # larger than those of its links


class Past:
    """See the head of this file. Of each kind it remembers the last `at_most` peers."""

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._over: OrderedDict[bytes, int] = OrderedDict()  # node -> the least epoch of its next link
        self._dead: OrderedDict[bytes, Dead] = OrderedDict()
        self._strange: OrderedDict[bytes, None] = OrderedDict()  # of another protocol or mesh, the newest last
        self._least = 0  # the least epoch of a link to anybody else

    def on_over(self, node: bytes, epoch: int) -> None:
        """The link of this epoch is over; another one may follow."""
        self._over[node] = max(epoch + 1, self.epoch_for(node))
        self._over.move_to_end(node)
        if len(self._over) > self._at_most:
            self._least = max(self._least, self._over.popitem(last=False)[1])

    def on_dead(self, node: bytes, address: str) -> None:
        """No other one will."""
        epoch = self.epoch_for(node)
        self._over.pop(node, None)
        self._dead[node] = Dead(address, epoch)
        self._dead.move_to_end(node)
        if len(self._dead) > self._at_most:
            self._least = max(self._least, self._dead.popitem(last=False)[1].epoch)

    def on_strange(self, node: bytes) -> None:
        """It speaks another protocol, or belongs to another mesh. A node id is one start of a peer, so that stays."""
        self._strange[node] = None
        self._strange.move_to_end(node)
        if len(self._strange) > self._at_most:
            self._strange.popitem(last=False)

    def is_strange(self, node: bytes) -> bool:
        """Whether it is known to be none of us."""
        return node in self._strange

    def epoch_for(self, node: bytes) -> int:
        """The least epoch that a link to this peer may have now."""
        dead = self._dead.get(node)
        return max(self._over.get(node, 0), self._least, dead.epoch if dead is not None else 0)

    def may_begin_anew(self, node: bytes) -> bool:
        """Whether a link to this peer is over, and it lives as far as is known here."""
        return node in self._over

    def where_dead(self, node: bytes) -> str | None:
        """Where a dead incarnation was last; None for one that is not known to be dead."""
        dead = self._dead.get(node)
        return None if dead is None else dead.address

    def __contains__(self, node: bytes) -> bool:
        """Whether it is dead."""
        return node in self._dead
