"""What members tell of their resources."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshray.wire.gossip import LOAD_MAX_BYTES
from meshray.wire.loads import MemberLoad, decode_load, encode_load


def test_what_is_in_use_is_what_is_not_available() -> None:
    data = encode_load("0.1.0", {"CPU": 40_000, "disk": 10_000}, {"CPU": 25_000, "disk": 10_000})
    assert decode_load(data) == MemberLoad("0.1.0", {"CPU": 40_000, "disk": 10_000}, {"CPU": 15_000})


def test_too_many_resources_are_cut_and_counted() -> None:
    total = {"CPU": 10_000, **{f"resource {number:03}": 10_000 for number in range(200)}}
    data = encode_load("0.1.0", total, {})
    load = decode_load(data)
    assert len(data) <= LOAD_MAX_BYTES
    assert load is not None
    assert "CPU" in load.total
    assert load.left_out + len(load.total) == len(total)


def test_a_name_that_nobody_would_read_is_left_out_and_not_the_rest() -> None:
    load = decode_load(encode_load("0.1.0", {"CPU": 10_000, "x" * 256: 10_000}, {}))
    assert load == MemberLoad("0.1.0", {"CPU": 10_000}, {"CPU": 10_000}, left_out=1)


@given(st.binary(max_size=64))
def test_garbage_is_no_load(data: bytes) -> None:
    load = decode_load(data)
    assert load is None or isinstance(load, MemberLoad)


def test_none() -> None:
    assert decode_load(b"") is None
