from __future__ import annotations

import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshray.meshkey import MeshKey, MeshKeys
from meshray.wire import advert as wire
from meshray.wire.advert import Advert, AdvertError, decode, encode, read_unproven, service_name

KEY = MeshKey(bytes(range(32)))
KEYS = MeshKeys(KEY.founded_mesh(), KEY)
OTHER = MeshKey(bytes(range(1, 33)))
ADVERT = Advert(
    protocol=1, version="0.1.0", python="3.11", node=bytes(range(8)), incarnation=3, serial=7, port=7637,
    addresses=[bytes([10, 77, 0, 1]), bytes(15) + b"\x01"], cpus=80_000, gpus=10_000, memory_bytes=2**34,
    resources={"disk": 20_000, "größe": 1},
)  # fmt: skip
NAME = service_name(ADVERT.node)
RECORD = encode(ADVERT, KEYS.mesh, KEY)


def reason(record: bytes, name: str = NAME, keys: MeshKeys = KEYS) -> str:
    with pytest.raises(AdvertError) as raised:
        decode(record, name, keys)
    assert str(raised.value)
    return raised.value.reason


def signed(strings: list[bytes], name: str = NAME, key: MeshKey = KEY) -> bytes:
    """A record with a right MAC over any strings."""
    before = wire._joined(strings)
    return before + wire._joined([b"mac=" + wire._mac(key, name, before)])


def strings_of(body: bytes, mesh: bytes = KEYS.mesh, key: MeshKey = KEY) -> list[bytes]:
    return [b"txtvers=1", b"mesh=" + mesh.hex().encode(), b"key=" + key.id.hex().encode(), b"a=" + body]


class TestSound:
    def test_it_comes_back_the_same(self) -> None:
        assert decode(RECORD, NAME, KEYS) == ADVERT
        assert decode(RECORD, NAME.upper(), KEYS) == ADVERT  # names of services are compared without case
        assert ADVERT.hosts() == ["10.77.0.1", "::1"]

    def test_its_ids_can_be_read_by_tools(self) -> None:
        assert b"mesh=" + KEYS.mesh.hex().encode() in RECORD
        assert read_unproven(RECORD) == (KEYS.mesh, ADVERT)

    def test_one_of_the_next_key_is_ours_too(self) -> None:
        rotating = MeshKeys(KEYS.mesh, OTHER, KEY)
        assert decode(RECORD, NAME, rotating) == ADVERT
        assert decode(encode(ADVERT, KEYS.mesh, OTHER), NAME, rotating) == ADVERT

    def test_the_largest_stays_below_400_bytes_and_says_what_it_left_out(self) -> None:
        large = msgspec.structs.replace(
            ADVERT,
            version="0.1.0.dev123456+gabcdef",
            incarnation=2**62, serial=2**62, cpus=2**62, gpus=2**62, memory_bytes=2**62,
            addresses=[os.urandom(16) for _ in range(wire.ADDRESSES_MAX)],
            resources={f"resource-{number:03}": 2**62 for number in range(200)},
        )  # fmt: skip
        record = encode(large, KEYS.mesh, KEY)
        assert len(record) < 400
        found = decode(record, NAME, KEYS)
        assert found.addresses == large.addresses
        assert found.left_out == 200 - len(found.resources) > 0
        assert list(found.resources) == sorted(large.resources)[: len(found.resources)]
        assert all(len(string) <= 255 for string in wire._strings(record))

    def test_resources_that_fit_are_all_there(self) -> None:
        found = decode(encode(ADVERT, KEYS.mesh, KEY), NAME, KEYS)
        assert found.left_out == 0
        named = msgspec.structs.replace(ADVERT, resources={"x" * 65: 1, "": 1, "y": 1})
        found = decode(encode(named, KEYS.mesh, KEY), NAME, KEYS)
        assert (found.resources, found.left_out) == ({"y": 1}, 2)

    @given(
        resources=st.dictionaries(st.text(min_size=1, max_size=64), st.integers(1, 2**63 - 1), max_size=40),
        addresses=st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=wire.ADDRESSES_MAX),
    )
    def test_any_peer_has_a_record(self, resources: dict[str, int], addresses: list[bytes]) -> None:
        any_peer = msgspec.structs.replace(ADVERT, resources=resources, addresses=addresses)
        record = encode(any_peer, KEYS.mesh, KEY)
        found = decode(record, NAME, KEYS)
        assert len(record) < 400
        assert found.resources.items() <= resources.items()
        assert len(found.resources) + found.left_out == len(resources)

    def test_only_custom_resources_stand_by_name(self) -> None:
        totals = {"CPU": 1, "GPU": 1, "memory": 1, "object_store_memory": 1, "disk": 5}
        assert wire.summary_of(totals) == {"disk": 5}


class TestRefused:
    @pytest.mark.fault(54)
    def test_another_mesh_and_another_key(self) -> None:
        assert reason(encode(ADVERT, OTHER.founded_mesh(), OTHER)) == wire.FOREIGN
        assert reason(encode(ADVERT, KEYS.mesh, OTHER)) == wire.UNKNOWN_KEY

    @pytest.mark.fault(54)
    def test_a_stranger_who_copies_our_ids_has_no_key(self) -> None:
        body = wire._fitting_body(ADVERT)
        assert reason(signed(strings_of(body), key=OTHER)) == wire.FORGED

    def test_a_record_under_another_name(self) -> None:
        assert reason(RECORD, service_name(bytes(8))) == wire.FORGED
        assert reason(signed(strings_of(wire._fitting_body(ADVERT)), service_name(bytes(8))),
                      service_name(bytes(8))) == wire.MALFORMED  # fmt: skip

    @given(place=st.integers(0, len(RECORD) - 1), bit=st.integers(0, 7))
    def test_every_flipped_bit(self, place: int, bit: int) -> None:
        changed = bytearray(RECORD)
        changed[place] ^= 1 << bit
        assert reason(bytes(changed)) in {
            wire.MALFORMED, wire.VERSION, wire.FOREIGN, wire.UNKNOWN_KEY, wire.FORGED
        }  # fmt: skip

    @given(cut=st.integers(0, len(RECORD) - 1))
    def test_every_cut(self, cut: int) -> None:
        assert reason(RECORD[:cut]) == wire.MALFORMED

    @given(record=st.binary(max_size=600))
    def test_garbage(self, record: bytes) -> None:
        assert reason(record) in {wire.MALFORMED, wire.VERSION}
        with pytest.raises(AdvertError):
            read_unproven(record)

    def test_one_that_is_too_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sound in itself, by somebody with the key."""
        many = msgspec.structs.replace(ADVERT, resources={f"resource {number:02}": 1 for number in range(24)})
        body = wire._encoder.encode(many)
        record = signed([*strings_of(body[: wire._PIECE_BYTES]), b"b=" + body[wire._PIECE_BYTES :]])
        assert reason(record) == wire.MALFORMED
        monkeypatch.setattr(wire, "RECORD_MAX_BYTES", len(record))
        assert decode(record, NAME, KEYS) == many

    def test_a_record_of_a_later_version(self) -> None:
        assert reason(signed([b"txtvers=2", b"mesh=x"])) == wire.VERSION

    def test_strings_that_are_missing_doubled_or_out_of_order(self) -> None:
        first, mesh, key, body = strings_of(wire._fitting_body(ADVERT))
        for strings in (
            [first, mesh, key],
            [first, key, mesh, body],
            [first, mesh, mesh, key, body],
            [first, mesh, key, body, b"c=x"],
            [first, mesh, key, body, b"b=", b"b="],
            [first, mesh, key, body, b""],
            [first, b"mesh=" + b"AB" * 8, key, body],
            [first, mesh + b"00", key, body],
            [first, b"mesh= " + b"0" * 15, key, body],
        ):
            assert reason(signed(strings)) == wire.MALFORMED, strings

    @given(body=st.binary(max_size=253))
    def test_any_body_that_a_member_may_have_signed(self, body: bytes) -> None:
        assert reason(signed(strings_of(body))) == wire.MALFORMED

    @pytest.mark.parametrize(
        ("field", "value"),
        [("port", 0), ("port", 65536), ("addresses", []), ("addresses", [b"12345"]), ("addresses", [bytes(4)] * 7),
         ("node", bytes(7)), ("serial", -1), ("python", "x" * 17), ("resources", {"x": -1}), ("resources", {"": 1})],
    )  # fmt: skip
    def test_values_out_of_bounds_that_a_member_may_have_signed(self, field: str, value: object) -> None:
        body = wire._encoder.encode(msgspec.structs.replace(ADVERT, **{field: value}))
        assert reason(signed(strings_of(body))) == wire.MALFORMED

    def test_a_field_too_many(self) -> None:
        fields = msgspec.msgpack.decode(wire._encoder.encode(ADVERT))
        assert reason(signed(strings_of(msgspec.msgpack.encode([*fields, 1])))) == wire.MALFORMED
