"""The messages by which a mesh changes its key: a union of their own, beside those of membership.

They travel as datagrams of the probe plane, between any two members, whether or not there is a link: each may be lost,
doubled and late, so each is answered, and a repeat is answered again. That the sender is a member is proven by its
connection, and more is not needed: who has the key runs code everywhere (docs/security.md). A new key that is kept from
one member, to expel it, never travels here: that one is a member until the switch, and could ask for it.

Who sends what (I is the peer at which somebody typed `meshray key ...`, M any member)::

    I -> M   GiveKey     M -> I   KeysHere        here is the next key: keep it
    I -> M   UseKey      M -> I   KeysHere        in a moment use the next one, and forget the current one
    I -> M   WhichKeys   M -> I   KeysHere        which have you?
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from meshray.wire.messages import Count

KeyId = Annotated[bytes, Meta(max_length=8)]
"""As `meshkey.MeshKey.id`; empty: none."""

Secret = Annotated[bytes, Meta(min_length=32, max_length=32)]
Trouble = Annotated[str, Meta(max_length=500)]


class GiveKey(Struct, frozen=True, array_like=True, tag=30):
    """I -> M: the next key of the mesh. M keeps it beside the current one. A repeat finds it there."""

    number: Count  # of the question; the answer names it
    mesh: KeyId
    secret: Secret

    def __repr__(self) -> str:  # a secret never gets into a log by way of a repr
        return f"GiveKey({self.number})"


class UseKey(Struct, frozen=True, array_like=True, tag=31):
    """I -> M: make this one, your next, the current one. M answers first, and does it a moment later, when all have
    been told. A repeat finds it done."""

    number: Count
    key_id: KeyId


class WhichKeys(Struct, frozen=True, array_like=True, tag=32):
    """I -> M: which keys have you? A repeat changes nothing."""

    number: Count


class KeysHere(Struct, frozen=True, array_like=True, tag=33):
    """M -> I: the ids of my keys. The answer to each of the others; one to nothing is dropped."""

    number: Count
    current: KeyId
    next: KeyId = b""
    trouble: Trouble = ""  # why what was asked was not done; for people


RotationMessage = GiveKey | UseKey | WhichKeys | KeysHere
