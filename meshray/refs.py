"""`ObjectRef`: a reference to a value that is there, or will be.

A handle is counted by its process's runtime: born when it is submitted, put or unpickled, dropped when it is collected.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from meshray import context
from meshray.ids import JobID, ObjectID, TaskID, owner_process_of, task_of

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

T = TypeVar("T")

_dropped = context.dropped.append


class ObjectRef(Generic[T]):
    """A reference to one object. Hashable, picklable (the receiver borrows it), awaitable.

    Programs get references from `.remote()` and `put`; they never build one.
    """

    __slots__ = ("__weakref__", "_id")

    def __init__(self, object_id: bytes) -> None:
        self._id = object_id

    def __del__(self) -> None:
        try:
            _dropped(self._id)
        except AttributeError:
            return  # `__init__` refused its arguments: nothing was counted

    def binary(self) -> bytes:
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
        return False

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

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        context.runtime().export_ref(self._id)
        return _arrived, (self._id,)


def _arrived(object_id: bytes) -> ObjectRef[Any]:
    """Unpickling: a handle that this process did not have, or has once more."""
    (context._runtime or context.runtime()).adopt_ref(object_id)
    return ObjectRef(object_id)
