"""CURVE keys of the mesh: what is derived from its key, and what is not shown."""

from __future__ import annotations

import zmq

from meshray.meshkey import MeshKey
from meshray.transport.keys import KeySet
from tests.transport.mesh_keys import curve_keys

ONE, TWO = MeshKey(bytes(range(32))), MeshKey(bytes(range(1, 33)))


def test_the_same_mesh_key_gives_the_same_keys_on_every_host() -> None:
    assert KeySet(ONE).server == KeySet(ONE).server
    # Of this version: a change would split a mesh.
    assert KeySet(ONE).server.public == b"OOZm!o&r%dAI:3KXN.s.W.xRLpX++3q2v-15%Nx7"
    assert zmq.curve_public(KeySet(ONE).client.secret) == KeySet(ONE).client.public


def test_nothing_is_shared_between_roles_or_mesh_keys() -> None:
    pairs = [pair for key in (ONE, TWO) for pair in (KeySet(key).server, KeySet(key).client)]
    assert len({half for pair in pairs for half in pair}) == 8
    assert KeySet(ONE).id != KeySet(TWO).id


def test_no_secret_is_shown() -> None:
    keys = curve_keys(ONE, TWO)
    shown = repr(keys) + repr(keys.current) + repr(keys.current.server) + repr(keys.next)
    for half in (keys.current.server.secret, keys.current.client.secret):
        assert half.decode() not in shown


def test_while_there_are_two_both_are_admitted_and_either_can_be_dialled() -> None:
    keys = curve_keys(ONE, TWO)
    assert keys.next is not None
    assert keys.admitted == {keys.current.client.public: keys.current.id, keys.next.client.public: keys.next.id}
    assert keys.of(keys.next.id) is keys.next
    assert keys.of("") is keys.of("unknown") is keys.current
    assert keys.other(keys.current.id) is keys.next
    assert keys.other(keys.next.id) is keys.current
    alone = curve_keys(ONE)
    assert alone.other(alone.current.id) is alone.current
