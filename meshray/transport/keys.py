"""The CURVE keys of a peer: all derived from the key of its mesh, so that nothing but that key is ever handed on.

From one mesh key (32 random bytes) come a *server* pair, with which a port answers, and a *client* pair, with which a
peer dials; all members share them, so they prove membership and nothing else. The secrets are keyed BLAKE2b hashes of
the mesh key, told apart by their label; any 32 bytes are a Curve25519 secret.

A mesh key is changed in two steps (PROTOCOLS 9). *Stage*: members learn the next key; a port still answers with the
current one, but clients of either are admitted. *Switch*: the next becomes the current, and ports are bound anew with
it. A dialler picks the server's key by the key id that the other announces.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

import zmq
from zmq.utils import z85

MESH_KEY_BYTES = 32


class Pair(NamedTuple):
    """A CURVE key pair, both halves as Z85 text of 40 characters."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:  # a secret never gets into a log by way of a repr
        return f"Pair({self.public.decode()})"


class KeySet:
    """What follows from one mesh key. Raises `ValueError` unless it is 32 bytes."""

    __slots__ = ("client", "id", "server")

    def __init__(self, mesh_key: bytes) -> None:
        if len(mesh_key) != MESH_KEY_BYTES:
            raise ValueError(f"a mesh key has {MESH_KEY_BYTES} bytes, got {len(mesh_key)}")
        self.id = _derive(mesh_key, b"key id", 8).hex()  # tells keys apart in public, and says nothing about them
        self.server = _pair(_derive(mesh_key, b"curve server", 32))
        self.client = _pair(_derive(mesh_key, b"curve client", 32))

    def __repr__(self) -> str:
        return f"KeySet({self.id})"


class MeshKeys:
    """The current key of the mesh and, while it is being changed, the next one. Never changes itself."""

    __slots__ = ("admitted", "current", "next")

    def __init__(self, current: bytes, next_key: bytes | None = None) -> None:
        self.current = KeySet(current)
        self.next = None if next_key is None else KeySet(next_key)
        both = [self.current] if self.next is None else [self.current, self.next]
        self.admitted = {keys.client.public: keys.id for keys in both}  # clients' public keys -> key id

    def of(self, key_id: str) -> KeySet:
        """The keys with which to dial a port that answers with this key; the current ones for an id not known here."""
        return self.next if self.next is not None and key_id == self.next.id else self.current

    def other(self, key_id: str) -> KeySet:
        """What to try when these were refused: the other key while there are two, else the same again."""
        return self.next if self.next is not None and key_id == self.current.id else self.current

    def __repr__(self) -> str:
        return f"MeshKeys(current {self.current.id}, next {'none' if self.next is None else self.next.id})"


def _derive(mesh_key: bytes, label: bytes, size: int) -> bytes:
    return blake2b(label, digest_size=size, key=mesh_key, person=b"meshray").digest()


def _pair(secret: bytes) -> Pair:
    encoded = z85.encode(secret)
    return Pair(zmq.curve_public(encoded), encoded)
