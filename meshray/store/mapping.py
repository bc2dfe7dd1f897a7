"""One segment as memory: mapped once, read through views that keep it mapped and tell when the last of them is gone.

Theory. `get` gives out arrays that lie in a segment, and the segment must not be written again before the last of them
is gone, wherever the program keeps slices of slices of them. Python says so by itself: every view, array or slice holds
its *exporter*, the object whose memory it shows. For each `view()` we make one exporter, a ctypes array that lies upon
the mapping, and watch it by a weak reference. Its end may come in any thread between any two bytecodes, so all that
happens then is one append and one call.

A ctypes array made from an address keeps nothing alive; `_pins` keeps the mapping as long as the exporter lives.

Why not the `mmap` module: each of its maps keeps a descriptor open (a thousand arrays are a thousand descriptors), and
read-only ones can carry no exporter.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong)
_munmap = _libc.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_madvise = _libc.madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

_MAP_FAILED = ctypes.c_void_p(-1).value
_MADV_POPULATE_READ = 22  # Linux 5.14; older kernels refuse it, and pages come one by one

_COPY_WITHOUT_GIL_FROM = 1 << 20
"""Below 1 MiB (0.1 ms) a copy is over before another thread would have taken the interpreter."""


class _PyBuffer(ctypes.Structure):
    """`Py_buffer`, as the stable ABI has it since Python 3.11."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int)
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.POINTER(_PyBuffer),)
_release_buffer.restype = None


class _Pin(weakref.ref[Any]):
    """What happens when an exporter ends."""

    __slots__ = ("mapping", "on_last_view")
    mapping: Mapping
    on_last_view: Callable[[], None] | None


_pins: dict[int, _Pin] = {}
"""By id, every pin of a living exporter: the weak references themselves must live until they are called."""


def exporter_ended(pin: _Pin) -> None:
    """Runs in any thread at any bytecode: single atomic operations only. Signal handlers wait for its end
    (`runtime.shield`), else what they raise would be lost here."""
    _pins.pop(id(pin), None)
    pin.mapping._ended.append(None)
    if pin.on_last_view is not None:
        pin.on_last_view()


class Mapping:
    """A file in memory, or a part of one. Unmapped when neither the store nor a view holds it."""

    __slots__ = ("__weakref__", "_ended", "_views", "address", "capacity", "populated", "writable")

    def __init__(self, fd: int, capacity: int, *, writable: bool, offset: int = 0) -> None:
        """Map `capacity` bytes of the file behind `fd`, which the caller closes, from `offset` on, where a page begins.
        Takes the same time for any size. Raises `OSError`."""
        self.address = 0
        self.capacity = capacity  # bytes of the file and of the mapping
        self.writable = writable  # only its creator writes a segment; others get memory that refuses it
        self.populated = 0  # bytes from the first one on whose pages are in the page table: copying runs at full speed
        self._views = 0  # exporters given out, but those that are known to have ended; changed under the store's lock
        self._ended: list[None] = []  # one entry for each that has ended since; finalisers append
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        address = _mmap(None, capacity, protection, mmap.MAP_SHARED, fd, offset)
        if address is None or address == _MAP_FAILED:
            code = ctypes.get_errno()
            raise OSError(code, f"cannot map a segment of {capacity:,} bytes: {os.strerror(code)}")
        self.address = address

    def view(self, size: int, on_last_view: Callable[[], None] | None) -> memoryview:
        """A read-only view of the first `size` bytes. `on_last_view` is called once, after everything that was made
        from this view is gone: in any thread, between any two bytecodes, possibly while the caller's locks are held.
        """
        assert 0 <= size <= self.capacity, f"a view of {size} bytes of {self!r}"
        exporter = _array_type(self.capacity).from_address(self.address)
        self._views += 1  # first: a Ctrl-C in between may leave the count too high, never too low
        pin = _Pin(exporter, exporter_ended)
        pin.mapping = self
        pin.on_last_view = on_last_view
        _pins[id(pin)] = pin
        # a ctypes array itself gives views of a format that memoryview cannot index
        return memoryview(exporter).cast("B").toreadonly()[:size]

    @property
    def viewed(self) -> bool:
        """Whether a view lives, or anything made from one."""
        ended = len(self._ended)
        del self._ended[:ended]  # first: a Ctrl-C in between may leave the count too high, never too low
        self._views -= ended
        return self._views > 0

    def bytes_at(self, offset: int, size: int) -> bytes:
        assert 0 <= offset <= self.capacity - size, f"{size} bytes at {offset} of {self!r}"
        return ctypes.string_at(self.address + offset, size)

    def write_at(self, offset: int, piece: bytes | bytearray | memoryview) -> int:
        """Copy a contiguous piece into the mapping; returns the end. Large ones run without the interpreter's lock."""
        size = len(piece)
        assert self.writable, f"writing into {self!r}"
        assert 0 <= offset <= self.capacity - size, f"{size} bytes at {offset} of {self!r}"
        if size < _COPY_WITHOUT_GIL_FROM:
            ctypes.memmove(self.address + offset, bytes(piece), size)
            return offset + size
        source = _PyBuffer()
        _get_buffer(piece, source, 0)  # PyBUF_SIMPLE: contiguous, or BufferError
        try:
            ctypes.memmove(self.address + offset, source.buf, size)
        finally:
            _release_buffer(source)
        return offset + size

    def populate(self, start: int = 0, end: int | None = None) -> bool:
        """Bring the pages of these bytes, by default all, into the page table at once: three times as fast as at their
        first touch. Whether it is known that all are there, so that touching one cannot fail."""
        end = self.capacity if end is None else end
        if end > self.populated:
            start -= start % mmap.PAGESIZE
            if _madvise(self.address + start, end - start, _MADV_POPULATE_READ):
                return False
            if start <= self.populated:
                self.populated = end
        return True

    def __repr__(self) -> str:
        kind = "writable" if self.writable else "read-only"
        return f"<{kind} mapping of {self.capacity:,} bytes, {self._views - len(self._ended)} views>"

    def __del__(self, _munmap: Any = _munmap, _is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At the end of the interpreter arrays of the program may outlive `_pins`; the kernel unmaps soon anyway.
        if self.address and not _is_finalizing():
            _munmap(self.address, self.capacity)


@lru_cache(maxsize=64)
def _array_type(size: int) -> Any:
    """Making an array type costs more than the rest of a view, and capacities come in few sizes."""
    return ctypes.c_ubyte * size
