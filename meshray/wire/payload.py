"""User values to bytes and back: with the function caches the only room that pickles.

Theory. A value becomes a pickle (protocol 5) and, for what is large and contiguous inside (arrays), buffers beside it
that are never copied into the pickle. Together they have one *encoded form*, the same inside a message and in a segment
of the store:

- a number, a text, bytes or None is itself in MessagePack, which takes a fifth of a pickle's time, and begins neither
  as a pickle nor as a frame nor as a message of ours (an array);
- anything else without buffers is the pickle itself, which begins with 0x80;
- with buffers it is a frame::

      magic(4) count(u32) length of the pickle(u64) length of each buffer(u64 * count)   little endian
      pickle
      each buffer, at the next multiple of 64 bytes from the start

`Payload.pieces` is that form in consecutive pieces that are still the user's own memory: a large array is copied once,
into its segment. So is a large `bytes`: the C pickler hands it to its file's `write` as it is. Loading goes the other
way: arrays are read-only views into the data that they are loaded from, and keep it alive.

References inside a value are noted while it is pickled and while it is loaded. Both notes are per thread and per call,
because a `__reduce__` or a `__setstate__` may itself put and get.
"""

from __future__ import annotations

import copyreg
import functools
import itertools
import pickle
import struct
import sys
import threading
from hashlib import blake2b
from types import CodeType, NoneType
from typing import Any, Literal

import cloudpickle  # type: ignore[import-untyped]
import msgspec

from meshray.config import DEFAULT
from meshray.wire.messages import Blob
from meshray.wire.trimmed import NotWholeError, TooLargeError, Trimmed
from meshray.wire.unpicklable import (
    UnpicklableError,
    explain_argument,
    explain_unpicklable,
    find_culprit,
    raised_by_user_code,
)

__all__ = [
    "NotWholeError",
    "Payload",
    "TooLargeError",
    "UnpicklableError",
    "dump_exception",
    "dump_trimmed",
    "dumps",
    "dumps_function",
    "dumps_plain",
    "explain_argument",
    "explain_unpicklable",
    "load_exception",
    "loads",
    "loads_function",
    "loads_noting",
    "make_blob",
    "note_arrival",
    "note_ref",
]

ALIGNMENT = 64
"""Buffers begin at multiples of this: a cache line, and what vector instructions like best."""

PROTOCOL = 5

_PLAIN_TEXT_MAX = 64 * 1024
"""From here on the C pickler hands texts over without a copy, but only to a pickler with a file."""

_PLAIN_ITEMS_MAX = 16
"""Larger containers go to the general pickler: looking through them would cost more than it saves."""

_MAGIC = b"\xc1mr2"  # MessagePack never begins so
_HEADER = struct.Struct("<4sIQ")
_PADDING = bytes(ALIGNMENT)

_SAID_MAX = 200
"""Characters of what a user's code says as an exception cannot be rebuilt."""

_REF_PICKLE_MIN = 40
"""No pickle of a reference is shorter: its id alone has 28 bytes, and the name of its class comes to it."""

_SIMPLE_KINDS = frozenset("?biufcmMSU")
"""Kinds of numpy types that their short name describes in full."""

_PICKLE = 0x80
"""The first byte of a pickle; in MessagePack an empty map, which no value of ours is."""

_SCALARS = frozenset((NoneType, bool, int, float))
_TEXTS = frozenset((str, bytes))

Buffer = bytes | bytearray | memoryview

_c_dumps = pickle.dumps
_c_loads = pickle.loads
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


class Payload(msgspec.Struct, frozen=True, gc=False):
    """A value in its encoded form, never changed. Its pieces are the user's memory: use it before the user goes on."""

    pieces: tuple[Buffer, ...]  # consecutive, contiguous, one byte per item
    nbytes: int  # of the whole encoded form
    contained: list[bytes] = []  # ids of the references inside, each once, in order
    buffers: list[memoryview] = []  # those of the pieces that stand beside the pickle

    def inline(self) -> bytes:
        """The encoded form in one piece; a copy, but for values of one piece."""
        first = self.pieces[0]
        if len(self.pieces) == 1 and type(first) is bytes:
            return first
        return b"".join(self.pieces)


# -- notes about references --------------------------------------------------------------------------------------------


class _Notes(threading.local):
    """What the pickler and the unpickler of this thread met; None while neither takes notes."""

    exported: list[bytes] | None = None
    arrived: list[bytes] | None = None


_notes = _Notes()


def note_ref(object_id: bytes) -> bool:
    """A reference is being pickled. False: into no payload (a function, a pickle of the user's own), so nobody will
    ever tell when that copy is gone, and it pins the object until the job ends."""
    exported = _notes.exported
    if exported is None:
        return False
    exported.append(object_id)
    return True


def note_arrival(object_id: bytes) -> bool:
    """A reference came out of a pickle. False: out of none that `loads_noting` reads."""
    arrived = _notes.arrived
    if arrived is None:
        return False
    arrived.append(object_id)
    return True


# -- values to payloads ------------------------------------------------------------------------------------------------


def dumps_plain(value: Any) -> bytes | None:
    """The encoded form of a value that C alone can encode for sure: a small one of a built-in type, without references
    or classes. None for all others, which `dumps` encodes."""
    kind = type(value)
    if kind in _SCALARS or (kind in _TEXTS and len(value) < _PLAIN_TEXT_MAX):
        try:
            return _pack(value)
        except (OverflowError, UnicodeEncodeError):  # beyond 64 bits; half of a surrogate pair
            return _c_dumps(value, 5)
    if (kind is tuple or kind is list or kind is dict) and _is_plain(value, 2):
        return _c_dumps(value, 5)
    return None


def dumps(value: Any) -> Payload:
    """Encode a value.

    Raises `UnpicklableError`, a `TypeError` that says what cannot be pickled and where it stands. What the value's own
    `__reduce__`, `__getstate__`, ... raise comes out as it is.
    """
    data = dumps_plain(value)
    return _dumps_any(value) if data is None else Payload((data,), len(data))


def _is_plain(value: Any, depth: int) -> bool:
    """Whether the C pickler alone does: a small tree of plain values, without references or classes."""
    if len(value) > _PLAIN_ITEMS_MAX:
        return False
    for item in value if type(value) is not dict else itertools.chain(value, value.values()):
        kind = type(item)
        if kind in _SCALARS:
            continue
        if kind in _TEXTS:
            if len(item) >= _PLAIN_TEXT_MAX:
                return False
        elif kind is tuple or kind is list or kind is dict:
            if item and (depth == 1 or not _is_plain(item, depth - 1)):
                return False
        else:
            return False
    return True


def _dumps_any(value: Any) -> Payload:
    chunks: list[Buffer] = []
    buffers: list[memoryview] = []
    exported: list[bytes] = []
    outer, _notes.exported = _notes.exported, exported
    try:
        _run_pickler(value, chunks, buffers)
        contained = list(dict.fromkeys(exported)) if exported else []
    finally:
        _notes.exported = outer
    if buffers:
        return _framed(chunks, buffers, contained)
    return Payload(tuple(chunks), sum(map(len, chunks)), contained)


def _run_pickler(value: Any, chunks: list[Buffer], buffers: list[memoryview] | None) -> None:
    """Pickle into `chunks`; buffers go beside them, or into them when `buffers` is None."""
    try:
        _Pickler(chunks, buffers).dump_plainly(value)
    except RecursionError:
        raise UnpicklableError("it is nested too deeply to be pickled", []) from None
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        if raised_by_user_code(error):
            raise
        reason, steps = find_culprit(value, error)
        raise UnpicklableError(
            reason, steps
        ) from None  # its traceback has frames of picklers alone, and it says it all


class _Sink:
    """A file that keeps what is written to it, as the very objects."""

    __slots__ = ("write",)

    def __init__(self, chunks: list[Buffer]) -> None:
        self.write = chunks.append


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """cloudpickle's, quicker to set up, with buffers beside the pickle also for arrays that are not contiguous."""

    def __init__(self, chunks: list[Buffer], buffers: list[memoryview] | None) -> None:
        self._buffers = buffers
        self.dispatch_table = _reducers()
        # No method of ours: a pickler in a circle with itself would keep all that it pickled until the next collection.
        callback = None if buffers is None else functools.partial(_beside, buffers)
        pickle.Pickler.__init__(self, _Sink(chunks), PROTOCOL, buffer_callback=callback)
        self.globals_ref: dict[int, dict[str, Any]] = {}  # cloudpickle: functions that share globals go on doing so
        self.proto = PROTOCOL
        self._ndarray = getattr(sys.modules.get("numpy"), "ndarray", _NoArray)

    def dump_plainly(self, value: Any) -> None:
        pickle.Pickler.dump(self, value)

    def reducer_override(self, value: Any) -> Any:
        if type(value) is self._ndarray:
            return _reduce_array(value) if self._buffers is not None else NotImplemented
        if value is _array_from:
            return NotImplemented  # by name; cloudpickle would first look at it for long
        return super().reducer_override(value)


def _beside(buffers: list[memoryview], buffer: pickle.PickleBuffer) -> bool:
    """Take a buffer out of band; True leaves it to the pickler (which refuses what is not contiguous)."""
    try:
        buffers.append(buffer.raw())
    except BufferError:
        return True
    return False


_registered: dict[Any, Any] = {}  # what `copyreg` held when `_merged` was made
_merged: dict[Any, Any] = {}


def _reducers() -> dict[Any, Any]:
    """cloudpickle's reducers before those of `copyreg`, in one dictionary: each miss in cloudpickle's own ChainMap of
    the two costs a microsecond per object."""
    global _registered, _merged
    if not _merged or _registered != copyreg.dispatch_table:
        registered = dict(copyreg.dispatch_table)
        _merged = {**registered, **cloudpickle.Pickler._dispatch_table, CodeType: _reduce_code}
        _registered = registered
    return _merged


_CODE_FILENAME = 10
"""The place of `co_filename` among the arguments of `types.CodeType` (Python 3.11 to 3.14)."""


def _reduce_code(code: CodeType) -> Any:
    """As cloudpickle, with the name of the file, which it leaves out since 3.1.3 so that equal functions pickle
    equally: a traceback without the user's lines would be a riddle."""
    kind, args = cloudpickle.Pickler._dispatch_table[CodeType](code)
    return kind, (*args[:_CODE_FILENAME], code.co_filename, *args[_CODE_FILENAME + 1 :])


class _NoArray:
    """Stands for numpy's array while numpy is not imported."""


def _reduce_array(array: Any) -> Any:
    """An array beside the pickle, whatever its strides: a copy of it where they leave gaps.

    Shorter, and three times as quick, as what numpy does, which pickles arrays with gaps and dates in band. Arrays of
    structures and of objects are left to numpy.
    """
    dtype = array.dtype
    if dtype.kind not in _SIMPLE_KINDS or not dtype.itemsize or dtype.metadata:
        return NotImplemented
    order = "C"
    if not array.flags.c_contiguous:
        if array.flags.f_contiguous:
            order = "F"
        else:
            array = array.copy(order="C")
    shown = array.view("i8") if dtype.kind in "mM" else array  # dates export no buffer
    return _array_from, (pickle.PickleBuffer(shown), dtype.str, array.shape, order)


def _array_from(buffer: Buffer, dtype: str, shape: tuple[int, ...], order: Literal["C", "F"]) -> Any:
    """Unpickling: the array that lies in `buffer`, read-only as that is."""
    import numpy  # loaded by those who get arrays, not by every process

    return numpy.ndarray(shape, dtype, buffer, order=order)


def _framed(chunks: list[Buffer], buffers: list[memoryview], contained: list[bytes]) -> Payload:
    length = sum(map(len, chunks))
    lengths = [buffer.nbytes for buffer in buffers]
    header = _HEADER.pack(_MAGIC, len(buffers), length) + struct.pack(f"<{len(lengths)}Q", *lengths)
    pieces: list[Buffer] = [header, *chunks]
    nbytes = len(header) + length
    for buffer in buffers:
        gap = -nbytes % ALIGNMENT
        if gap:
            pieces.append(_PADDING[:gap])
        pieces.append(buffer)
        nbytes += gap + buffer.nbytes
    return Payload(tuple(pieces), nbytes, contained, buffers)


# -- payloads to values ------------------------------------------------------------------------------------------------


def loads(data: Buffer) -> Any:
    """The value of an encoded form. Arrays inside are read-only views into `data`.

    Raises `ValueError` when `data` is no encoded form, and whatever loading the value raises.
    """
    if 0 < len(data) < _REF_PICKLE_MIN:
        if data[0] == _PICKLE:
            return _c_loads(data)
        try:
            return _unpack(data)
        except msgspec.DecodeError as error:
            raise _no_payload(data, error) from None
    return loads_noting(data)[0]


def _no_payload(data: Buffer, error: msgspec.DecodeError) -> ValueError:
    return ValueError(f"not a payload: {len(data)} bytes that are no pickle, no frame and no plain value ({error})")


def loads_noting(data: Buffer) -> tuple[Any, list[bytes]]:
    """The value, and the ids of the references that arrived in it, each as often as it arrived."""
    pickled = data[:1] == b"\x80"
    if not pickled and data[:4] != _MAGIC:
        try:
            return _unpack(data), []
        except msgspec.DecodeError as error:
            raise _no_payload(data, error) from None
    if pickled and len(data) < _REF_PICKLE_MIN:
        return _c_loads(data), []
    arrived: list[bytes] = []
    outer, _notes.arrived = _notes.arrived, arrived
    try:
        value = _c_loads(data) if pickled else _load_framed(data)
    finally:
        _notes.arrived = outer
    return value, arrived


def _load_framed(data: Buffer) -> Any:
    view = memoryview(data)
    if view.ndim != 1 or view.format != "B":
        view = view.cast("B")
    view = view.toreadonly()
    pickled, buffers = _split(view)
    return _c_loads(pickled, buffers=buffers)


def _split(view: memoryview) -> tuple[memoryview, list[memoryview]]:
    """The pickle and the buffers of a frame."""
    if len(view) < _HEADER.size:
        raise ValueError(f"not a payload: {len(view)} bytes that are no pickle")
    magic, count, length = _HEADER.unpack_from(view)
    start = _HEADER.size + 8 * count
    if magic != _MAGIC or start + length > len(view):
        raise ValueError("not a payload: it begins with neither a pickle nor a frame, or it was cut off")
    lengths = struct.unpack_from(f"<{count}Q", view, _HEADER.size)
    pickled = view[start : start + length]
    buffers = []
    end = start + length
    for nbytes in lengths:
        begin = end + -end % ALIGNMENT
        end = begin + nbytes
        if end > len(view):
            raise ValueError("not a payload: a buffer of its frame was cut off")
        buffers.append(view[begin:end])
    return pickled, buffers


# -- functions and exceptions ------------------------------------------------------------------------------------------


def dumps_function(function: Any) -> bytes:
    """Pickle a function or a class, by value where its module cannot be imported elsewhere.

    References that it captured are noted in no payload (`note_ref` says False): they are pinned until the job ends.
    Raises as `dumps`.
    """
    chunks: list[Buffer] = []
    outer, _notes.exported = _notes.exported, None
    try:
        _run_pickler(function, chunks, None)
    finally:
        _notes.exported = outer
    return b"".join(chunks)


def loads_function(pickled: Buffer) -> Any:
    """The function or class. Raises what loading it raises: `ModuleNotFoundError` for a module that is not here, ..."""
    return _c_loads(pickled)


def make_blob(pickled: bytes, name: str) -> Blob:
    """A pickled function with the hash that names it."""
    return Blob(hash=blake2b(pickled, digest_size=16).digest(), name=name[:1024], pickled=pickled)


def dump_exception(error: BaseException, max_bytes: int = DEFAULT.exception_max_bytes) -> bytes:
    """Pickle an exception that can be rebuilt. Raises `NotWholeError` when it cannot be, and `TooLargeError` beyond
    `max_bytes`.

    It is rebuilt here for a trial, since a class whose `__init__` takes other arguments than it passes on can be
    pickled but not loaded. The receiver is not to be bothered with what fails either way, so any error of the user's
    methods, even `SystemExit`, only means that.
    """
    try:
        pickled = dumps_function(error)
    except (Exception, SystemExit) as trouble:
        raise NotWholeError(f"it cannot be pickled: {_said(trouble)}") from None
    if len(pickled) > max_bytes:
        raise TooLargeError(len(pickled))
    _, why_not = load_exception(pickled)
    if why_not:
        raise NotWholeError(f"it cannot be rebuilt from what it is pickled by: {why_not}")
    return pickled


def dump_trimmed(error: BaseException, max_bytes: int = DEFAULT.exception_max_bytes) -> tuple[bytes, list[str]]:
    """Pickle an exception by its parts, without those that are large, cannot be pickled or not be loaded
    (`wire.trimmed`), and what these are; b"" when that does not work, or is still larger."""

    def nbytes_of(part: Any) -> int:
        pickled = dumps_function(part)
        if len(pickled) <= max_bytes:
            _load_apart(pickled)
        return len(pickled)

    trimmed = Trimmed(error, max_bytes // 2, nbytes_of)
    try:
        pickled = dumps_function(trimmed)
    except (Exception, SystemExit):
        return b"", []
    if len(pickled) > max_bytes or load_exception(pickled)[0] is None:
        return b"", []
    return pickled, trimmed.left_out


def load_exception(pickled: bytes) -> tuple[BaseException | None, str]:
    """What `dump_exception` or `dump_trimmed` made; None when there is nothing, or it cannot be rebuilt here, and why
    it cannot."""
    if not pickled:
        return None, ""
    try:
        error = _load_apart(pickled)
    except (Exception, SystemExit) as trouble:
        return None, _said(trouble)
    if not isinstance(error, BaseException):
        return None, "what comes out of it is no exception"
    return error, ""


def _said(trouble: BaseException) -> str:
    """In one line, bounded; what fails here may be anything that a user has written."""
    try:
        text = " ".join(str(trouble).split())
    except (Exception, SystemExit):  # user code
        text = ""
    name = type(trouble).__name__
    return f"{name}: {text[:_SAID_MAX]}" if text else name


def _load_apart(pickled: bytes) -> Any:
    """Load without a note in the payload that this thread may be loading around it."""
    outer, _notes.arrived = _notes.arrived, None
    try:
        return _c_loads(pickled)
    finally:
        _notes.arrived = outer
