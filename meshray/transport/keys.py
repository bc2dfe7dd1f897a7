"""The CURVE keys of a peer: all derived from the key of its mesh, so that nothing but that key is ever handed on.

From one mesh key come a *server* pair, with which a port answers, and a *client* pair, with which a peer dials; all
members share them, so they prove membership and nothing else. Any 32 bytes are a Curve25519 secret, so each is one
derivation of `meshkey`.

A mesh key is changed in two steps (PROTOCOLS 9). *Stage*: members learn the next key; a port still answers with the
current one, but clients of either are admitted. *Switch*: the next becomes the current, and ports are bound anew with
it. A dialler picks the server's key by the key id that the other announces.
"""

from __future__ import annotations

from typing import NamedTuple

import zmq
from zmq.utils import z85

from meshray.meshkey import MeshKey, MeshKeys


class Pair(NamedTuple):
    """A CURVE key pair, both halves as Z85 text of 40 characters."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:  # a secret never gets into a log by way of a repr
        return f"Pair({self.public.decode()})"


class KeySet:
    """What follows from one mesh key."""

    __slots__ = ("client", "id", "server")

    def __init__(self, key: MeshKey) -> None:
        self.id = key.id.hex()
        self.server = _pair(key.derive(b"meshray server"))
        self.client = _pair(key.derive(b"meshray client"))

    def __repr__(self) -> str:
        return f"KeySet({self.id})"


class CurveKeys:
    """What follows from the current key of the mesh and, while it is being changed, the next one. Never changes."""

    __slots__ = ("admitted", "current", "next")

    def __init__(self, keys: MeshKeys) -> None:
        self.current = KeySet(keys.current)
        self.next = None if keys.next is None else KeySet(keys.next)
        both = [self.current] if self.next is None else [self.current, self.next]
        self.admitted = {keys.client.public: keys.id for keys in both}  # clients' public keys -> key id

    def of(self, key_id: str) -> KeySet:
        """The keys with which to dial a port that answers with this key; the current ones for an id not known here."""
        return self.next if self.next is not None and key_id == self.next.id else self.current

    def other(self, key_id: str) -> KeySet:
        """What to try when these were refused: the other key while there are two, else the same again."""
        return self.next if self.next is not None and key_id == self.current.id else self.current

    def __repr__(self) -> str:
        return f"CurveKeys(current {self.current.id}, next {'none' if self.next is None else self.next.id})"


def _pair(secret: bytes) -> Pair:
    encoded = z85.encode(secret)
    return Pair(zmq.curve_public(encoded), encoded)
