"""The decoder against what anybody may send: bytes give a message of the schema or a `ProtocolError`, nothing else."""

from __future__ import annotations

import random
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshray.wire import messages as m
from meshray.wire.codec import ProtocolError, decode, encode, outcome_of
from meshray.wire.payload import dumps

PROCESS, TASK, OBJECT, HASH = b"p" * 16, b"t" * 24, b"o" * 28, b"h" * 16
PLACE = m.Place(OBJECT, b"n" * 8, "segment", 200_000)
FAILURE = m.Failure("TaskError", "text", "traceback", b"cause", {"pid": "1"})
LINEAGE = m.Lineage(
    TASK, HASH, m.Blob(HASH, "f", b"f"), b"args", [b"1", PLACE, m.Borrowed(OBJECT)], [OBJECT], 1, 0, 3, ["ValueError"],
    False, {"CPU": 10_000}, m.Profile(), 1, "f",
)  # fmt: skip
JOB = m.JobInfo(PROCESS, "/usr/bin/python", "/usr", ["/a"], "/", "", "ns")

SAMPLES = [
    m.Attach(1, 42, "3.11", JOB),
    m.Bind(JOB, {"OMP_NUM_THREADS": "1"}, [0, 1], {"CPU": 10_000}),
    m.Demand(1, 5, {"CPU": 10_000}, m.Profile(env_vars={"A": "b"})),
    m.LeaseLost(1, PROCESS, [m.Result(1, [b"value"])], [2], FAILURE),
    m.Push(1, 0, [m.Task(1, TASK, HASH, b"args", [b"1", PLACE])], [m.Blob(HASH, "f", b"f")], [HASH]),
    m.Results(1, [m.Result(1, [b"1", PLACE, FAILURE], [[OBJECT], [], []], True)], 1000),
    m.PlainPush(1, 0, 5, HASH, TASK + TASK, [b"args", b""], [m.Blob(HASH, "f", b"f")], [HASH]),
    m.PlainResults(1, 5, [b"1", b"2"], 1000),
    m.Orphans(PROCESS, [m.Orphan(TASK, 0, 1, 1, m.Result(1, [b"1"]))], [], [m.Orphan(TASK, 1)]),
    m.Promote([m.Promoted(OBJECT, None, [], LINEAGE), m.Promoted(OBJECT, PLACE, [OBJECT])]),
    m.Sealed([m.SealedSegment(OBJECT, "segment", 1, 4096)]),
    m.ActorState(TASK, 2, PROCESS, FAILURE, [m.Result(1, [b""])], [2]),
    m.LogLines([m.LogLine("f", 1, "text")]),
    m.Wake(),
]
TYPES = get_args(m.Message)

NOTHING_OF_OURS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=40) | st.text(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=30,
)


def read(data: bytes) -> Any:
    """What the decoder makes of it; None for a refusal. Whatever else it raises is an error of ours."""
    try:
        return decode(data)
    except ProtocolError:
        return None


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: m.Message) -> None:
    assert decode(encode(message)) == message


def test_tags_are_numbers_of_their_own() -> None:
    tags = [kind.__struct_config__.tag for kind in TYPES]
    assert len(set(tags)) == len(tags)
    assert all(isinstance(tag, int) for tag in tags)


@pytest.mark.fault(47)
@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_what_was_cut_off_is_refused(message: m.Message) -> None:
    data = encode(message)
    assert [end for end in range(len(data)) if read(data[:end]) is not None] == []
    assert read(data + b"\0") is None


@pytest.mark.fault(47)
@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_scribbled_bytes_give_a_message_or_a_refusal(message: m.Message) -> None:
    data = encode(message)
    dice = random.Random(type(message).__name__)
    for _ in range(400):
        scribbled = bytearray(data)
        for _ in range(dice.randint(1, 4)):
            scribbled[dice.randrange(len(data))] = dice.randrange(256)
        read(bytes(scribbled))


@pytest.mark.fault(47)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    read(data)


@pytest.mark.fault(47)
@given(st.sampled_from(TYPES), st.lists(NOTHING_OF_OURS, max_size=8))
def test_any_content_behind_a_known_tag(kind: Any, content: list[Any]) -> None:
    message = read(msgspec.msgpack.encode([kind.__struct_config__.tag, *content]))
    assert message is None or type(message) is kind


@pytest.mark.fault(47)
def test_too_deep_a_nesting() -> None:
    assert read(b"\x91" * 100_000) is None
    assert read(b"\x92\x46" + b"\x91" * 100_000 + b"\xc0") is None  # in the place of a field


@pytest.mark.fault(47)
@pytest.mark.parametrize(
    "wrong",
    [
        m.Hold(1, [b"short"]),
        m.ProcessDied(b"p" * 17),
        m.Demand(1, 1, {"CPU": -1}),
        m.Demand(1, 1, {"x" * 2000: 1}),
        m.Sealed([m.SealedSegment(OBJECT, "segment", 2**63, 0)]),
        m.Exit("x" * (64 * 1024 + 1)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_ids_amounts_and_texts_are_bounded(wrong: m.Message) -> None:
    with pytest.raises(ProtocolError, match="not a message"):
        decode(encode(wrong))


@pytest.mark.fault(47)
def test_an_unknown_tag_is_named() -> None:
    with pytest.raises(ProtocolError, match="9999"):
        decode(msgspec.msgpack.encode([9999]))


# -- outcomes in a journal ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [None, 0, 0x7F, -1, 1.5, True, "x" * 40, b"", b"\x95", b"y" * 300, (1, 2), [3], {4: 5}]
)
def test_a_value_alone_is_told_from_a_result(value: Any) -> None:
    alone = dumps(value).inline()
    assert outcome_of(alone, 7) == m.Result(7, [alone])
    written = m.Result(7, [alone], [], True)
    assert outcome_of(msgspec.msgpack.encode(written), 7) == written


@pytest.mark.fault(47)
@pytest.mark.parametrize(
    "junk", [b"", b"\x95\x01", b"\x92\x01\x02", b"\xc1", b"\xc4\x09ab", b"\x01\x01", b"\xdc\xff\xff"]
)
def test_a_scribbled_outcome_is_refused(junk: bytes) -> None:
    with pytest.raises(ProtocolError, match="outcome"):
        outcome_of(junk, 1)


@given(st.binary(max_size=60))
def test_any_outcome(written: bytes) -> None:
    try:
        result = outcome_of(written, 3)
    except ProtocolError:
        return
    assert isinstance(result, m.Result)
