"""`get`, `put`, `wait`, `cancel`: objects."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar, overload

from meshray import context
from meshray.api.actors import ActorHandle
from meshray.errors import MeshrayError
from meshray.refs import ObjectRef

T = TypeVar("T")

SHIELD = "meshray.runtime.shield"
"""The module that calls the program's handlers of signals. By name: a program that only imports us does not load it."""

_ONLY_REFERENCES = {ObjectRef}


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...
@overload
def get(refs: Sequence[ObjectRef[T]], *, timeout: float | None = None) -> list[T]: ...


def get(refs: Any, *, timeout: float | None = None) -> Any:
    """The value of a reference, or the list of values of a list of references, waiting for them.

    Raises the first error among them, `GetTimeoutError` after `timeout` seconds (0 looks without waiting),
    `ValueError` or `TypeError` for what is no reference. Arrays are read-only.
    """
    if timeout is not None:
        _check_timeout(timeout)
    single = isinstance(refs, ObjectRef)
    if not single:
        if not isinstance(refs, list):
            raise ValueError(f"get takes an ObjectRef or a list of them, got {_describe(refs)}")
        _check_references("get", refs)
        if not refs:
            return refs.copy()
    try:
        values = context.runtime().get([refs] if single else refs, timeout)
    except BaseException as error:
        error.__traceback__ = _of_others(error)
        raise
    return values[0] if single else values


def put(value: T) -> ObjectRef[T]:
    """Store a value as it is now; later changes of the original do not show."""
    if isinstance(value, ObjectRef):
        raise TypeError("put takes a value, got an ObjectRef: to store a reference, put it into a list")
    return context.runtime().put(value)


def wait(
    refs: list[ObjectRef[T]], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]:
    """Wait until `num_returns` of the references are ready, or `timeout` seconds have gone.

    Returns `(ready, not_ready)`, each in the order of `refs`; `ready` has at most `num_returns`.
    """
    if not isinstance(refs, list):
        raise TypeError(f"wait takes a list of ObjectRefs, got {_describe(refs)}")
    if timeout is not None:
        _check_timeout(timeout)
    if isinstance(num_returns, bool) or not isinstance(num_returns, int):
        raise TypeError(f"num_returns takes an int, got {num_returns!r}")
    if not isinstance(fetch_local, bool):
        raise TypeError(f"fetch_local takes a bool, got {fetch_local!r}")
    _check_references("wait", refs)
    if not refs:
        return [], []
    if len({ref._id for ref in refs}) != len(refs):  # ids, not references: those hash in Python
        raise ValueError("wait takes each ObjectRef once, got duplicates")
    if not 0 < num_returns <= len(refs):
        raise ValueError(f"num_returns is {num_returns}, and must be from 1 to the number of references, {len(refs)}")
    try:
        return context.runtime().wait(refs, num_returns, timeout, fetch_local)
    except BaseException as error:
        error.__traceback__ = _of_others(error)
        raise


def cancel(ref: ObjectRef[Any], *, force: bool = False, recursive: bool = True) -> None:
    """Cancel a task. One that waits never runs; one that runs gets a `KeyboardInterrupt`, or with `force` its worker is
    killed; a finished one stays as it is. With `recursive` the tasks that it submitted as well.

    Of an actor's calls, waiting ones never run, async ones get an `asyncio.CancelledError`, and `force` is an error.
    """
    given: object = ref
    if not isinstance(given, ObjectRef):
        hint = ": end an actor with kill()" if isinstance(given, ActorHandle) else ""
        raise TypeError(f"cancel takes an ObjectRef, got {_describe(given)}{hint}")
    for name, flag in (("force", force), ("recursive", recursive)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} takes a bool, got {flag!r}")
    context.runtime().cancel(ref, force, recursive)


def _of_others(error: BaseException) -> TracebackType | None:
    """The traceback without our frames where they say nothing: of an error of ours, whose text says what happened; and
    of what a handler of signals raised while we waited (Ctrl-C), which keeps its own. Any other is a mistake of ours,
    and whoever has to mend it needs all of them."""
    if isinstance(error, MeshrayError):
        return None
    trace, found = error.__traceback__, False
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == SHIELD:
            found = True
        elif found:
            return trace  # of the handler
        trace = trace.tb_next
    return None if found else error.__traceback__


def _check_references(call: str, refs: list[Any]) -> None:
    """Cheap where all is well, since a program may wait on a thousand references a thousand times."""
    if set(map(type, refs)) <= _ONLY_REFERENCES:
        return
    for each in refs:
        if not isinstance(each, ObjectRef):
            raise TypeError(f"{call} takes a list of ObjectRefs, and there is {_describe(each)} in it")


def _check_timeout(timeout: object) -> None:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout takes a number of seconds or None, got {timeout!r}")
    if not timeout >= 0:  # NaN as well
        raise ValueError(f"timeout takes a number of seconds >= 0, got {timeout!r}")


def _describe(value: object) -> str:
    text = repr(value)
    text = text if len(text) <= 80 else text[:77] + "..."
    return f"{text} ({type(value).__qualname__})"
