"""What can go wrong, as programs see it.

Theory. An error crosses processes as a `wire.messages.Failure`: the name of a class of this file, a text, and details.
`runtime.failures` converts between the two; this file lies below the wire and knows nothing of it. Therefore:

- every class here is built as `Class(message, **details)`, keeps `details` (texts by name), offers each of them as an
  attribute, and can be pickled and rebuilt;
- `TaskError` stands for an exception of user code. `task_error()` builds one whose class is both `TaskError` and the
  user's own type, so that `except ValueError` works on the caller's side, with the original as `.cause`. The attributes
  of the user's exception win over ours of the same name, except `cause`.
"""

from __future__ import annotations

from functools import lru_cache
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class made by a `class` statement


class MeshrayError(Exception):
    """The base of all errors of the mesh.

    `details` says what is known beyond the text (task name, pid, ...); each is also an attribute.
    """

    details: dict[str, str]

    def __init__(self, message: str = "", **details: object) -> None:
        Exception.__init__(self, message)  # not super(): in a dual class that would be the user's own __init__
        self._fill(message, {name: str(value) for name, value in details.items()})

    def _fill(self, message: str, details: dict[str, str]) -> None:
        """Set what is ours, past any `__setattr__` of a user's class."""
        own = self.__dict__
        own.update(details)
        own["details"] = details
        own["_message"] = message
        own["_details"] = details

    def __str__(self) -> str:
        return str(self.__dict__.get("_message", ""))

    def __reduce__(self) -> tuple[Any, ...]:
        return _blank, (type(self), self.args), dict(self.__dict__)


def _blank(cls: type[MeshrayError], args: tuple[Any, ...]) -> MeshrayError:
    """Unpickling: an instance that `__setstate__` fills."""
    error = cls.__new__(cls)
    error.args = args
    return error


# -- tasks -------------------------------------------------------------------------------------------------------------


class TaskError(MeshrayError):
    """User code raised an exception. The text holds the remote traceback.

    `cause` is the original, or None when it could not be pickled or rebuilt. Of one that was too large to travel, what
    is large is left out of it: `exception_bytes` is what it took. The text says what is missing. Attributes:
    `task_name`, `pid`, `host`, `remote_traceback`, and `headline`, the exception's own type and text in one piece.
    """

    task_name: str = ""
    pid: str = ""
    host: str = ""
    headline: str = ""
    remote_traceback: str = ""
    exception_bytes: str = ""

    @property
    def cause(self) -> BaseException | None:
        return self.__dict__.get("_cause")

    def __reduce__(self) -> tuple[Any, ...]:
        own = self.__dict__
        headline = own.get("_headline", own["_message"])
        details, cause = own["_details"], own.get("_cause")
        if cause is not None and came_by_parts(details):
            cause = _ByParts(cause)
        arguments = headline, own.get("_traceback", ""), details, cause
        notes = own.get("__notes__")
        return task_error, arguments, {"__notes__": notes} if notes else None


class TaskCancelledError(MeshrayError):
    """The task was cancelled before it had a result."""

    task_name: str = ""


class WorkerCrashedError(MeshrayError):
    """The process that ran the task ended without an answer. The text says the signal or exit code and its last
    lines on stderr."""

    pid: str = ""


class TaskUnschedulableError(MeshrayError):
    """The task can run nowhere in this mesh."""


class TaskPlacementGroupRemoved(MeshrayError):
    """The placement group of a queued task was removed."""


# -- actors ------------------------------------------------------------------------------------------------------------


class ActorError(MeshrayError):
    """A call of an actor did not bring a result because of the actor itself."""

    actor_id: str = ""


class ActorDiedError(ActorError):
    """The actor is dead and will not come back. The text says why."""


class ActorUnavailableError(ActorError):
    """The actor cannot be reached now, and may come back; whether the call ran is not known."""


class ActorAlreadyExistsError(MeshrayError, ValueError):
    """The name is taken by another actor of the namespace."""


class ActorUnschedulableError(MeshrayError):
    """The actor can be placed nowhere in this mesh."""


class ActorPlacementGroupRemoved(MeshrayError):
    """The placement group of an actor was removed."""


class AsyncioActorExit(MeshrayError):
    """Raised inside an async actor by `exit_actor`; user code lets it pass."""


class PendingCallsLimitExceeded(MeshrayError):
    """More calls wait for the actor than its `max_pending_calls` allows."""


# -- objects -----------------------------------------------------------------------------------------------------------


class GetTimeoutError(MeshrayError, TimeoutError):
    """`get` did not have all values within its `timeout`."""


class ObjectLostError(MeshrayError):
    """The value is gone: every copy of it was lost."""

    object_id: str = ""


class OwnerDiedError(ObjectLostError):
    """The peer that owned the object is gone, and its values with it."""


class ObjectReconstructionFailedError(ObjectLostError):
    """The value was lost, and making it again failed."""


class ObjectFreedError(ObjectLostError):
    """The value was freed while a reference to it was still around."""


class ObjectStoreFullError(MeshrayError):
    """The value does not fit into the object store, now or ever. The text names the largest holders."""


class OutOfDiskError(MeshrayError):
    """The file system of the object store is full."""


# -- the mesh ----------------------------------------------------------------------------------------------------------


class OutOfMemoryError(MeshrayError):
    """The host ran out of memory and the worker was ended."""


class NodeDiedError(MeshrayError):
    """A peer is gone."""

    node_id: str = ""


PeerDiedError = NodeDiedError


class RuntimeEnvSetupError(MeshrayError):
    """The environment that a task or an actor asked for could not be made."""


class AuthenticationError(MeshrayError):
    """The other side does not hold the key of this mesh."""


# -- an exception of user code on its way back -------------------------------------------------------------------------


def task_error(
    headline: str, remote_traceback: str, details: dict[str, str], cause: BaseException | None = None
) -> TaskError:
    """The `TaskError` for an exception of user code.

    `headline` is the exception's own type and text, such as `ValueError: boom`. The result is an instance of the type
    of `cause` as well, unless there is no cause, that type takes no subclasses, or is no `Exception` (a `SystemExit`
    of a task must not end its caller).
    """
    text = f"{headline}\n\n{remote_traceback}" if remote_traceback else headline
    dual = None if cause is None else _dual_of(cause)
    theirs = {} if dual is None else dict(dual.__dict__)
    error = TaskError(text) if dual is None else dual
    own = error.__dict__
    own.update(details, details=details, headline=headline, remote_traceback=remote_traceback)
    own.update(theirs)
    own.update(_message=text, _details=details, _cause=cause, _headline=headline, _traceback=remote_traceback)
    return error


BY_PARTS = "exception_by_parts"
"""A detail of a `TaskError` whose cause is rebuilt without its constructor, though it is not too large."""


def came_by_parts(details: dict[str, str]) -> bool:
    """Whether the constructor of the cause may not be called with what it has for arguments."""
    return "exception_bytes" in details or BY_PARTS in details


class _ByParts:
    """Pickles as the exception, and is rebuilt without its constructor: it has no use for what is there."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        error = self._error
        return rebuilt, (type(error), error.args, dict(vars(error)), fields_of(error))


def _dual_of(cause: BaseException) -> TaskError | None:
    """An instance of both `TaskError` and the type of `cause`, with the state of `cause`; None when there can be none.

    No constructor of the user's runs: the instance is made by the built-in base alone. Any trouble with a user's class
    only costs the second type, therefore every error is met with None.
    """
    if not isinstance(cause, Exception) or isinstance(cause, TaskError):
        return None
    try:
        dual_type: type[TaskError] = _dual_type(type(cause))  # type: ignore[arg-type]  # mypy: classes do have a hash
        builtin = next(base for base in dual_type.__mro__ if not base.__flags__ & _HEAP_TYPE)
        error: TaskError = builtin.__new__(dual_type, *cause.args)
        BaseException.__setattr__(error, "args", cause.args)
        _copy_state(cause, error)
    except Exception:
        return None
    return error


@lru_cache(maxsize=256)
def _dual_type(cause_type: type[Exception]) -> type[TaskError]:
    name = f"TaskError({cause_type.__name__})"
    namespace = {"__module__": __name__, "__qualname__": name, "__doc__": TaskError.__doc__}
    return type(name, (TaskError, cause_type), namespace)


def _copy_state(source: BaseException, target: BaseException) -> None:
    """Copy attributes: the dictionary, and the fields of built-in types and of `__slots__`."""
    target.__dict__.update(source.__dict__)
    for field in _fields(type(source)):
        try:
            field.__set__(target, field.__get__(source, type(source)))
        except (AttributeError, TypeError):
            continue  # an empty slot, or a field that is derived from others


def _fields(cls: type[BaseException]) -> list[MemberDescriptorType | GetSetDescriptorType]:
    """The fields of built-in types and of `__slots__`, but for what every exception has."""
    return [
        field
        for base in cls.__mro__
        if base not in (BaseException, Exception, object)
        for name, field in list(vars(base).items())
        if not name.startswith("__") and isinstance(field, MemberDescriptorType | GetSetDescriptorType)
    ]


def fields_of(error: BaseException) -> dict[str, Any]:
    """What an exception holds beside its `args` and its `__dict__`."""
    found: dict[str, Any] = {}
    for field in _fields(type(error)):
        try:
            found.setdefault(field.__name__, field.__get__(error, type(error)))
        except (AttributeError, TypeError):
            continue  # an empty slot
    return {name: value for name, value in found.items() if value is not None}  # which is an empty one as well


def rebuilt(
    cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any], fields: dict[str, Any]
) -> BaseException:
    """An exception of these parts. No constructor of the user's runs, since some of the parts may be missing, or texts
    in the place of what they were. Raises what the built-in base of `cls` raises for such `args`."""
    builtin = next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE)
    error: BaseException = builtin.__new__(cls, *args)
    BaseException.__setattr__(error, "args", args)
    error.__dict__.update(state)
    for field in _fields(cls):
        if field.__name__ in fields:
            try:
                field.__set__(error, fields[field.__name__])
            except (AttributeError, TypeError):
                continue  # derived from others
    return error
