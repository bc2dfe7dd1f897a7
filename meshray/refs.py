"""`ObjectRef`: a reference to a value that is there, or will be.

A handle is counted by its process's runtime: born when it is submitted, put or unpickled, dropped when it is collected.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from meshray import context
from meshray.ids import (
    NIL_OBJECT,
    OBJECT_BYTES,
    JobID,
    ObjectID,
    TaskID,
    bytes_of_hex,
    checked,
    owner_process_of,
    task_of,
)

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

T = TypeVar("T")

_dropped = context.dropped.append


class ObjectRef(Generic[T]):
    """A reference to one object. Hashable, picklable (the receiver borrows it), awaitable.

    Programs get references from `.remote()` and `put`, or from what `hex()` or `binary()` gave: `from_hex` and
    `from_binary`. Calling this class is for the runtime, which has counted the handle that it makes.
    """

    __slots__ = ("__weakref__", "_id")

    def __init__(self, object_id: bytes) -> None:
        if type(object_id) is not bytes:  # counting it would end the mesh
            raise TypeError(
                f"ObjectRef takes {OBJECT_BYTES} bytes, got {object_id!r:.80}: see from_binary and from_hex"
            )
        self._id = object_id

    def __del__(self) -> None:
        try:
            _dropped(self._id)
        except AttributeError:
            return  # `__init__` refused its arguments: nothing was counted

    @classmethod
    def from_binary(cls, binary: bytes) -> ObjectRef[Any]:
        """A reference to the object of these bytes, counted like one that was unpickled.

        The bytes keep nothing alive, and tell nobody of the object: somebody must hold a reference meanwhile, and to be
        found in another process it must once have left its own as a reference. Else `get` raises, or waits for the end
        of the owner. Raises `TypeError` for what is not bytes, `ValueError` for a wrong length.
        """
        return cls.nil() if checked(binary, OBJECT_BYTES, "ObjectRef") == NIL_OBJECT else _arrived(binary)

    @classmethod
    def from_hex(cls, text: str | bytes) -> ObjectRef[Any]:
        """The same of what `hex()` gave."""
        return cls.from_binary(bytes_of_hex(text, "ObjectRef"))

    @classmethod
    def nil(cls) -> ObjectRef[Any]:
        """A reference to nothing: it is not counted, and `get` raises `ObjectLostError`."""
        return ObjectRef(NIL_OBJECT)

    @classmethod
    def size(cls) -> int:
        """The length of `binary()`."""
        return OBJECT_BYTES

    def binary(self) -> bytes:
        return self._id

    def __bytes__(self) -> bytes:
        return self._id

    def hex(self) -> str:
        return self._id.hex()

    def object_id(self) -> ObjectID:
        return ObjectID(self._id)

    def task_id(self) -> TaskID:
        """The task that makes this object."""
        return TaskID(task_of(self._id))

    def job_id(self) -> JobID:
        """The process that owns this object."""
        return JobID(owner_process_of(self._id))

    def is_nil(self) -> bool:
        return self._id == NIL_OBJECT

    def future(self) -> Future[T]:
        """A `concurrent.futures.Future` that gets the value, or the error that `get` would raise."""
        return context.runtime().future(self)

    def as_future(self) -> asyncio.Future[T]:
        """The same for the running event loop."""
        import asyncio  # 50 ms that a program without coroutines need not pay for at start

        return asyncio.wrap_future(self.future())

    def __await__(self) -> Generator[Any, None, T]:
        return self.as_future().__await__()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectRef) and other._id == self._id

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        return f"ObjectRef({self._id.hex()})"

    def __reduce__(self) -> tuple[Any, tuple[()] | tuple[bytes]]:
        if self._id == NIL_OBJECT:
            return ObjectRef.nil, ()
        context.runtime().export_ref(self._id)
        return _arrived, (self._id,)


def _arrived(object_id: bytes) -> ObjectRef[Any]:
    """Unpickling: a handle that this process did not have, or has once more."""
    (context._runtime or context.runtime()).adopt_ref(object_id)
    ref = new_ref(ObjectRef)  # ten thousand may come in one value
    ref._id = object_id
    return ref


new_ref = ObjectRef.__new__
"""A handle without the checks of `__init__`; the caller fills in an id of our own, and has counted it."""
