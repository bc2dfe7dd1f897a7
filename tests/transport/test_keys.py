"""Keys of the mesh: what is derived from them, and what is not shown."""

from __future__ import annotations

import pytest
import zmq

from meshray.transport.keys import KeySet, MeshKeys

ONE, TWO = bytes(range(32)), bytes(range(1, 33))


def test_the_same_mesh_key_gives_the_same_keys_on_every_host() -> None:
    assert KeySet(ONE).server == KeySet(ONE).server
    assert KeySet(ONE).id == KeySet(ONE).id == "b4bd091245eb9f8b"  # of this version: a change would split a mesh
    assert zmq.curve_public(KeySet(ONE).client.secret) == KeySet(ONE).client.public


def test_nothing_is_shared_between_roles_or_mesh_keys() -> None:
    pairs = [pair for mesh_key in (ONE, TWO) for pair in (KeySet(mesh_key).server, KeySet(mesh_key).client)]
    assert len({half for pair in pairs for half in pair}) == 8
    assert KeySet(ONE).id != KeySet(TWO).id


def test_a_mesh_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes, got 16"):
        KeySet(bytes(16))


def test_no_secret_is_shown() -> None:
    keys = MeshKeys(ONE, TWO)
    shown = repr(keys) + repr(keys.current) + repr(keys.current.server) + repr(keys.next)
    for half in (keys.current.server.secret, keys.current.client.secret):
        assert half.decode() not in shown


def test_while_there_are_two_both_are_admitted_and_either_can_be_dialled() -> None:
    keys = MeshKeys(ONE, TWO)
    assert keys.next is not None
    assert keys.admitted == {keys.current.client.public: keys.current.id, keys.next.client.public: keys.next.id}
    assert keys.of(keys.next.id) is keys.next
    assert keys.of("") is keys.of("unknown") is keys.current
    assert keys.other(keys.current.id) is keys.next
    assert keys.other(keys.next.id) is keys.current
    alone = MeshKeys(ONE)
    assert alone.other(alone.current.id) is alone.current
