"""Why can nobody answer for an object? Processes that have ended, with the reason, for the text of errors."""

from __future__ import annotations

from typing import TypeVar

from meshray.ids import NODE_BYTES, owner_process_of
from meshray.wire.messages import Failure

GONE_MAX = 4096
"""How many processes that have ended are remembered with the reason."""

K = TypeVar("K")
T = TypeVar("T")


class Gone:
    """The processes of one peer (`node`) that have ended."""

    def __init__(self, node: bytes) -> None:
        self._node = node
        self._why: dict[bytes, str] = {}  # bounded, the oldest go first

    def add(self, process: bytes, why: str) -> None:
        """It has ended; `why` in words. The last reason counts."""
        remember(self._why, process, why, GONE_MAX)

    def failure(self, object_id: bytes, why: str = "") -> Failure:
        """What whoever asks for an object of an ended process gets. `why`: for one of another host."""
        owner = owner_process_of(object_id)
        if not why:
            why = self._story(owner)
        text = f"object {object_id.hex()} is lost with its owner: {why}"
        return Failure("OwnerDiedError", text, details={"object_id": object_id.hex(), "owner": owner.hex()})

    def _story(self, owner: bytes) -> str:
        if owner[:NODE_BYTES] != self._node:
            return f"it belongs to another mesh, or to one that has ended (peer {owner[:NODE_BYTES].hex()})"
        return f"{self._why.get(owner, 'its process has ended')} (process {owner.hex()})"


def freed(object_id: bytes) -> Failure:
    """For what names an object that has ended: bytes that somebody kept, or a reference from before a partition."""
    text = (
        f"object {object_id.hex()} was freed with its last reference: one that is made of its bytes brings nothing back"
    )
    return Failure("ObjectFreedError", text, details={"object_id": object_id.hex()})


def by_id(node: bytes) -> str:
    """What people call a host whose name is not known."""
    return f"node {node.hex()}"


def remember(memory: dict[K, T], key: K, value: T, at_most: int) -> None:
    """Add to a memory that forgets the oldest."""
    memory[key] = value
    while len(memory) > at_most:
        del memory[next(iter(memory))]
