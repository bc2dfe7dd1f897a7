from __future__ import annotations

import msgspec

from meshray.meshkey import MeshKey, MeshKeys
from meshray.transport.sightings import Found, Sightings, Withdrawn, node_of
from meshray.wire.advert import Advert, encode, service_name

KEY, OTHER = MeshKey(bytes(range(32))), MeshKey(bytes(range(1, 33)))
KEYS = MeshKeys(KEY.founded_mesh(), KEY)
OWN, NODE = bytes(8), bytes(range(8))
NAME = service_name(NODE)


def advert(node: bytes = NODE, serial: int = 1, addresses: tuple[bytes, ...] = (bytes([10, 0, 0, 1]),)) -> Advert:
    return Advert(
        protocol=1, version="0.1.0", python="3.11", node=node, incarnation=0, serial=serial, port=7637,
        addresses=list(addresses), cpus=10_000, gpus=0, memory_bytes=0,
    )  # fmt: skip


def record(**changes: object) -> bytes:
    return encode(msgspec.structs.replace(advert(), **changes), KEYS.mesh, KEY)


def sightings(most: int = 10) -> Sightings:
    return Sightings(KEYS, OWN, most)


def test_a_record_is_found_once_and_again_when_it_has_changed() -> None:
    seen = sightings()
    assert seen.on_records(NAME, [record()]) == Found(advert(), ("10.0.0.1",))
    assert seen.on_records(NAME, [record()]) is None
    assert seen.on_records(NAME, [record(), record(serial=2)]) == Found(advert(serial=2), ("10.0.0.1",))
    assert seen.on_records(NAME, [record(serial=2), record()]) is None  # both are in the cache, for a second
    assert (seen.there, dict(seen.dropped)) == (1, {})


def test_withdrawn_and_found_again() -> None:
    seen = sightings()
    assert seen.on_removed(NAME) is None
    seen.on_records(NAME, [record(serial=2)])
    assert seen.on_removed(NAME) == Withdrawn(NODE)
    assert seen.on_removed(NAME) is None
    assert seen.there == 0
    assert seen.on_records(NAME, [record(serial=1)]) is None  # repeated by somebody
    assert seen.dropped["stale"] == 1
    assert seen.on_records(NAME, [record(serial=2)]) is not None
    assert seen.there == 1


def test_our_own_is_no_sighting() -> None:
    seen = Sightings(KEYS, NODE)
    assert seen.on_records(NAME, [record()]) is None
    assert seen.on_removed(NAME) is None
    assert not seen.dropped


def test_a_forged_record_beside_a_sound_one_hides_nothing_and_is_counted() -> None:
    seen = sightings()
    changed = record(serial=9)[:-1] + bytes([record(serial=9)[-1] ^ 1])
    assert seen.on_records(NAME, [changed, record(), changed]) is not None
    assert seen.dropped["forged"] == 2


def test_each_refusal_is_counted_by_its_reason() -> None:
    seen = sightings()
    assert seen.on_records(NAME, [encode(advert(), OTHER.founded_mesh(), OTHER)]) is None
    assert seen.on_records(NAME, [encode(advert(), KEYS.mesh, OTHER)]) is None
    assert seen.on_records(NAME, [b"\x01x"]) is None
    assert seen.on_records("printer._meshray._tcp.local.", [record()]) is None
    assert dict(seen.dropped) == {"foreign": 1, "unknown_key": 1, "malformed": 2}
    assert len(seen.other_key) == 0, "the last one is of no key at all"
    assert seen.on_records(NAME, []) is None


def test_with_another_key_what_was_refused_is_found() -> None:
    seen = sightings()
    later = encode(advert(), KEYS.mesh, OTHER)
    assert seen.on_records(NAME, [later, record(serial=9)]) is not None
    assert len(seen.other_key) == 0, "what came last is sound"
    seen = sightings()
    assert seen.on_records(NAME, [record(serial=9), later]) is not None, "the old one stands for a second more"
    assert len(seen.other_key) == 1
    assert seen.on_removed(NAME) is not None
    assert len(seen.other_key) == 0
    seen = sightings()
    assert seen.on_records(NAME, [later]) is None
    assert len(seen.other_key) == 1
    seen.keys = MeshKeys(KEYS.mesh, KEY, OTHER)
    assert seen.on_records(NAME, [later]) is not None


def test_a_link_local_address_is_dialled_only_with_its_zone() -> None:
    seen = sightings()
    local = bytes.fromhex("fe80000000000000000000000000000a")
    text = record(addresses=[local, bytes([169, 254, 0, 1])])
    first, second = seen.on_records(NAME, [text]), seen.on_records(NAME, [text], {"fe80::a": "3"})
    assert first is not None
    assert first.hosts == ("169.254.0.1",)
    assert second is not None
    assert second.hosts == ("fe80::a%3", "169.254.0.1")


def test_they_are_bounded_and_the_one_heard_of_longest_ago_is_forgotten() -> None:
    seen = sightings(most=3)
    nodes = [bytes([number] * 8) for number in range(1, 5)]
    for node in (*nodes[:3], nodes[0], nodes[3]):
        seen.on_records(service_name(node), [record(node=node, serial=5)])
    assert seen.there == 3
    assert seen.on_removed(service_name(nodes[1])) is None
    for node in (nodes[0], nodes[2], nodes[3]):
        assert seen.on_records(service_name(node), [record(node=node, serial=4)]) is None
    assert seen.dropped["stale"] == 3


def test_names() -> None:
    assert node_of(NAME) == NODE
    assert node_of(NAME.upper()) == NODE
    for name in (
        "",
        "x",
        "00._meshray._tcp.local.",
        "00010203040506zz._meshray._tcp.local.",
        "a" * 16 + "._http._tcp.local.",
    ):
        assert node_of(name) is None
