"""User values to bytes and back."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshray.wire import payload as payloads
from meshray.wire.payload import ALIGNMENT, UnpicklableError, dumps, loads, loads_noting

Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Box:
    content: Any


class Ref:
    """Stands for a reference: tells the notes when it is pickled and unpickled."""

    def __init__(self, object_id: bytes) -> None:
        self.object_id = object_id

    def __reduce__(self) -> tuple[Any, ...]:
        Ref.noted = payloads.note_ref(self.object_id)
        return _arrived, (self.object_id,)

    noted = False
    welcomed = False


def _arrived(object_id: bytes) -> Ref:
    Ref.welcomed = payloads.note_arrival(object_id)
    return Ref(object_id)


def there_and_back(value: Any) -> Any:
    payload = dumps(value)
    data = payload.inline()
    assert type(data) is bytes
    assert payload.nbytes == len(data) == sum(map(len, payload.pieces))
    return loads(data)


# -- plain values ------------------------------------------------------------------------------------------------------

PLAIN = [
    *(None, True, False, 0, -1, 2**100, 1.5, float("inf"), "", "text", "ä€😀", b"", b"bytes"),
    *(0x7F, 0x80, -0x20, -0x21, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, -0.0, "\ud800", "t" * 300, b"b" * 70_000),
    *((), [], {}, (1, "a", None), [1, [2, [3, [4]]]], {"a": 1, "b": (2, 3)}, ((1, 2), {}), list(range(100))),
    *({1, 2}, frozenset("ab"), bytearray(b"xyz"), 1j, range(5), Point(1, 2), Box([1]), datetime.date(2020, 1, 2)),
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: f"{type(value).__name__}-{str(value)[:20]}")
def test_plain_values(value: Any) -> None:
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)
    assert loads(memoryview(dumps(value).inline())) == value


def test_plain_values_keep_every_bit() -> None:
    zero = there_and_back(-0.0)
    assert str(zero) == "-0.0"
    assert there_and_back(float("nan")) != there_and_back(float("nan"))


def test_heirs_of_plain_types_stay_what_they_are() -> None:
    class Count(int):
        pass

    back = there_and_back(Count(7))
    assert (back, type(back)) == (7, Count)


@pytest.mark.fault(47)
@pytest.mark.parametrize("data", [b"", b"\xc1", b"\xcc", b"\x01\x02", b"\xc4\x05abc", b"\xc1" * 100])
def test_what_is_no_value_of_any_form_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a payload"):
        loads(data)
    with pytest.raises(ValueError, match="not a payload"):
        loads_noting(data)


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
trees = st.recursive(
    leaves, lambda part: st.lists(part) | st.tuples(part, part) | st.dictionaries(st.text(), part), max_leaves=40
)


@given(trees)
@settings(max_examples=100, deadline=None)
def test_trees_of_plain_values(value: Any) -> None:
    assert there_and_back(value) == value


def test_shared_and_cyclic_parts_stay_so() -> None:
    shared: list[Any] = []
    back = there_and_back((shared, shared))
    assert back[0] is back[1]
    cycle: list[Any] = [1]
    cycle.append(cycle)
    assert there_and_back(cycle)[1][0] == 1


def test_large_bytes_are_not_copied_into_the_pickle() -> None:
    large, changing = bytes(100_000), bytearray(100_000)
    for value in (large, [large], {"deep": [(large,)]}):
        payload = dumps(value)
        assert any(piece is large for piece in payload.pieces)
        assert there_and_back(value) == value
    assert any(piece is changing for piece in dumps([changing]).pieces)
    assert there_and_back(changing) == changing
    assert type(there_and_back(large)) is bytes


def test_code_from_main_travels_by_value() -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec("factor = 3\ndef triple(x): return helper(x) * factor\ndef helper(x): return x", scope)
    assert there_and_back(scope["triple"])(5) == 15
    assert there_and_back([lambda x: x + 1])[0](1) == 2


def test_code_keeps_the_name_of_its_file() -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("def outer():\n    def inner(): return 1\n    return inner", "/a/script.py", "exec"), scope)
    outer = there_and_back(scope["outer"])
    assert outer.__code__.co_filename == outer().__code__.co_filename == "/a/script.py"


# -- arrays ------------------------------------------------------------------------------------------------------------

ARRAYS = {
    "1d": np.arange(10),
    "empty": np.zeros(0),
    "empty 3d": np.zeros((2, 0, 3), order="F"),
    "0d": np.array(5.0),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "with gaps": np.arange(20)[::3],
    "backwards": np.arange(20)[::-1],
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
    "read-only": np.frombuffer(b"abcdefgh", np.uint8),
    "bool": np.array([True, False]),
    "complex": np.array([1j, 2]),
    "half": np.zeros(3, np.float16),
    "big-endian": np.arange(5, dtype=">i4"),
    "texts": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"xyz"]),
    "dates": np.array(["2020-01-01", "NaT"], "M8[ns]"),
    "0d date": np.array("2020", "M8[D]"),
    "time spans": np.array([1, 2], "m8[s]"),
    "structure": np.array([(1, 2.0), (3, 4.0)], dtype="i4,f8"),
}


@pytest.mark.fault(45)
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_arrays_come_back_read_only_without_a_copy(array: np.ndarray) -> None:
    data = dumps({"deep": [array]}).inline()
    for form in (data, memoryview(data), bytearray(data)):
        back = loads(form)["deep"][0]
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert np.array_equal(back, array) or array.dtype.kind in "M"
        assert back.tobytes() == array.tobytes()
        assert not back.flags.writeable
        if array.size:
            assert np.shares_memory(back, np.frombuffer(form, np.uint8))


def test_arrays_of_objects_are_pickled_as_such() -> None:
    array = np.array([1, "a", None], object)
    back = there_and_back(array)
    assert back.tolist() == array.tolist()


def test_buffers_are_aligned_and_not_copied() -> None:
    arrays = [np.arange(n, dtype=np.uint8) for n in (1, 63, 64, 65, 1000)]
    payload = dumps(arrays)
    assert [buffer.nbytes for buffer in payload.buffers] == [1, 63, 64, 65, 1000]
    offset = 0
    for piece in payload.pieces:
        if any(piece is buffer for buffer in payload.buffers):
            assert offset % ALIGNMENT == 0
        offset += len(piece)
    assert all(np.shares_memory(np.frombuffer(b, np.uint8), a) for b, a in zip(payload.buffers, arrays, strict=True))


def test_one_array_twice_is_one_buffer() -> None:
    array = np.arange(1000)
    payload = dumps((array, array))
    assert len(payload.buffers) == 1
    back = loads(payload.inline())
    assert back[0] is back[1]


@pytest.mark.fault(47)
@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_frame_that_was_cut_off_or_scribbled_on_is_an_error(data: st.DataObject) -> None:
    whole = dumps([np.arange(50), np.arange(3)]).inline()
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises((ValueError, EOFError)):
        loads(cut)
    # the header decides where everything lies: whatever stands there, nothing beyond the data is read
    header = bytes([0xC1]) + data.draw(st.binary(min_size=40, max_size=40))
    with pytest.raises(ValueError, match="not a payload"):
        loads(header + whole[41:])


# -- references --------------------------------------------------------------------------------------------------------


def test_references_are_noted_once_in_order() -> None:
    a, b = b"a" * 28, b"b" * 28
    payload = dumps([Ref(b), {"x": Ref(a)}, Ref(b)])
    assert payload.contained == [b, a]
    _, arrived = loads_noting(payload.inline())
    assert arrived == [b, a, b]
    assert dumps([1, "x"]).contained == []
    assert loads_noting(dumps(1).inline()) == (1, [])


def test_references_beside_arrays_are_noted() -> None:
    payload = dumps((np.arange(10), Ref(b"a" * 28)))
    assert payload.contained == [b"a" * 28]
    assert loads_noting(payload.inline())[1] == [b"a" * 28]


def test_nobody_notes_outside_and_in_functions() -> None:
    assert not payloads.note_ref(b"x" * 28)
    assert not payloads.note_arrival(b"x" * 28)
    captured = Ref(b"x" * 28)
    Ref.noted = True
    pickled = payloads.dumps_function(lambda: captured)
    assert not Ref.noted
    Ref.welcomed = True
    assert payloads.loads_function(pickled)().object_id == b"x" * 28
    assert not Ref.welcomed


class Nesting:
    """Puts and gets while it is pickled and unpickled, as a program may."""

    def __reduce__(self) -> tuple[Any, ...]:
        inner = dumps([Ref(b"i" * 28)])
        assert inner.contained == [b"i" * 28]
        return _nested, (inner.inline(),)


def _nested(inner: bytes) -> str:
    assert loads_noting(inner)[1] == [b"i" * 28]
    return "nested"


def test_inner_and_outer_payloads_note_apart() -> None:
    payload = dumps([Ref(b"1" * 28), Nesting(), Ref(b"2" * 28)])
    assert payload.contained == [b"1" * 28, b"2" * 28]
    value, arrived = loads_noting(payload.inline())
    assert value[1] == "nested"
    assert arrived == [b"1" * 28, b"2" * 28]


def test_an_error_ends_the_notes() -> None:
    with pytest.raises(UnpicklableError):
        dumps([Ref(b"a" * 28), threading.Lock()])
    assert not payloads.note_ref(b"a" * 28)
    with pytest.raises(ZeroDivisionError):
        loads(dumps([Ref(b"a" * 28), Failing("load")]).inline())
    assert not payloads.note_arrival(b"a" * 28)


# -- what cannot be pickled --------------------------------------------------------------------------------------------


class Failing:
    def __init__(self, when: str) -> None:
        self.when = when

    def __reduce__(self) -> tuple[Any, ...]:
        if self.when == "dump":
            raise TypeError("the user's own")
        return _divide, (1, 0)


def _divide(a: int, b: int) -> float:
    return a / b


class Guarded:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class Slotted:
    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()


@pytest.mark.fault(49)
@pytest.mark.parametrize(
    ("value", "path"),
    [
        (threading.Lock(), []),
        ([1, threading.Lock()], ["[1]"]),
        ({"a": [1, (2, threading.Lock())]}, ["['a']", "[1]", "[1]"]),
        (Guarded(), [".lock"]),
        (Slotted(), [".lock"]),
        ([Box(Guarded())], ["[0]", ".content", ".lock"]),
        (((Box(Guarded()),), {}), ["[0]", "[0]", ".content", ".lock"]),
    ],
)
def test_what_cannot_be_pickled_is_named(value: Any, path: list[str]) -> None:
    with pytest.raises(UnpicklableError) as caught:
        dumps(value)
    assert isinstance(caught.value, TypeError)
    assert caught.value.steps == path
    assert "cannot pickle '_thread.lock' object" in str(caught.value)
    assert "".join(path) in str(caught.value)


@pytest.mark.fault(49)
def test_what_a_function_captured_is_named() -> None:
    lock = threading.Lock()
    with pytest.raises(UnpicklableError, match="closure variable 'lock'"):
        payloads.dumps_function(lambda: lock)


@pytest.mark.fault(49)
def test_an_unpicklable_argument_is_named_by_its_parameter() -> None:
    def function(first: int, second: Any, *rest: Any, option: Any = None) -> None: ...

    def text_of(*args: Any, **kwargs: Any) -> str:
        with pytest.raises(UnpicklableError) as caught:
            dumps((args, kwargs))
        return payloads.explain_argument(caught.value, function, "function")

    lock = threading.Lock()
    assert text_of(1, lock).startswith("argument 'second' of function: cannot pickle '_thread.lock' object")
    assert "argument 'second'" in text_of(1, [lock])
    assert text_of(1, [lock]).endswith("(at second[0])")
    assert "argument number 4 of" in text_of(1, 2, 3, lock)
    assert text_of(1, 2, option={"k": lock}).endswith("(at option['k'])")
    with pytest.raises(TypeError) as caught:
        dumps(Failing("dump"))
    assert "the user's own" in payloads.explain_unpicklable([Failing("dump")], caught.value)


@pytest.mark.fault(49)
def test_errors_of_user_code_come_out_as_they_are() -> None:
    with pytest.raises(TypeError, match="^the user's own$") as caught:
        dumps([Failing("dump")])
    assert not isinstance(caught.value, UnpicklableError)


@pytest.mark.fault(49)
def test_too_deep_a_nesting() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(UnpicklableError, match="nested too deeply"):
        dumps(value)
    while value:  # else its collection would recurse as deeply
        value = value[0]


# -- functions and exceptions ------------------------------------------------------------------------------------------


def test_a_function_keeps_the_name_of_its_file() -> None:
    """So that a traceback shows its lines; also of functions inside functions."""

    def outer() -> Any:
        return lambda: None

    loaded = payloads.loads_function(payloads.dumps_function(outer))
    assert loaded.__code__ is not outer.__code__
    assert loaded.__code__.co_filename == loaded().__code__.co_filename == __file__
    assert loaded.__code__ == outer.__code__


def test_functions_are_named_by_their_hash() -> None:
    pickled = payloads.dumps_function(lambda x: x + 1)
    blob = payloads.make_blob(pickled, "f" * 5000)
    assert len(blob.hash) == 16
    assert len(blob.name) == 1024
    assert payloads.make_blob(pickled, "f").hash == blob.hash
    assert payloads.make_blob(pickled + b"x", "f").hash != blob.hash
    assert payloads.loads_function(blob.pickled)(1) == 2


class BadInit(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one)


class BadReduce(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        raise RuntimeError("no")


class ExitingInit(Exception):
    def __init__(self, *args: Any) -> None:
        if not args:
            raise SystemExit(3)
        super().__init__()


class Disguised(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return str, ("not an exception",)


@pytest.mark.fault(49)
@pytest.mark.parametrize(
    "error",
    [BadInit(1, 2), BadReduce(), ExitingInit(1), Disguised(), ValueError(threading.Lock())],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_that_cannot_travel(error: BaseException) -> None:
    with pytest.raises(payloads.NotWholeError):
        payloads.dump_exception(error)


def test_an_exception_that_is_too_large_is_refused_with_its_size() -> None:
    with pytest.raises(payloads.TooLargeError) as caught:
        payloads.dump_exception(ValueError(bytes(2 << 20)))
    assert 2 << 20 < caught.value.nbytes < (2 << 20) + 1000


def test_exceptions_that_can() -> None:
    back, _ = payloads.load_exception(payloads.dump_exception(ValueError("boom", 3)))
    assert isinstance(back, ValueError)
    assert back.args == ("boom", 3)
    assert payloads.load_exception(b"") == (None, "")
    assert payloads.load_exception(b"\x80\x05garbage")[1].startswith("UnpicklingError")
    assert payloads.load_exception(payloads.dumps_function("none")) == (None, "what comes out of it is no exception")


def test_why_an_exception_cannot_travel_is_said_in_one_line() -> None:
    with pytest.raises(payloads.NotWholeError, match=r"cannot be rebuilt .*: TypeError: .*missing .* argument"):
        payloads.dump_exception(BadInit(1, 2))
    with pytest.raises(payloads.NotWholeError, match="it cannot be pickled: .*cannot pickle '_thread.lock'"):
        payloads.dump_exception(ValueError(threading.Lock()))


class ExitingText(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class RaisesOne:
    def __reduce__(self) -> tuple[Any, ...]:
        raise ExitingText


class Exits:
    def __reduce__(self) -> tuple[Any, ...]:
        raise SystemExit(3)


def test_no_word_of_a_users_code_ends_us() -> None:
    with pytest.raises(payloads.NotWholeError, match="it cannot be pickled: ExitingText"):
        payloads.dump_exception(ValueError(RaisesOne()))


@pytest.mark.parametrize("part", [BadInit(1, 2), Exits(), threading.Lock()], ids=lambda part: type(part).__name__)
def test_an_exception_keeps_its_class_whatever_it_holds(part: Any) -> None:
    error = KeyError("kept", part)
    error.also = part  # type: ignore[attr-defined]
    pickled, left_out = payloads.dump_trimmed(error)
    back, _ = payloads.load_exception(pickled)
    assert isinstance(back, KeyError)
    assert back.args[0] == "kept"
    assert left_out == ["args[1]", "also"]


def test_numpy_is_not_needed(tmp_path: Path) -> None:
    import subprocess
    import sys

    script = "import sys\nfrom meshray.wire.payload import *\nassert loads(dumps([1, {2}]).inline()) == [1, {2}]\n"
    script += "import meshray.store.segments, meshray.store.folders\nassert 'numpy' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
