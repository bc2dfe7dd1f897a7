"""Errors to `Failure` messages and back.

A `Failure` names a class of `meshray.errors`. Whatever is not a `MeshrayError` came out of user code and travels as a
`TaskError`: its headline, its remote traceback, and, where that works, the pickled exception itself; by its parts if it
is too large for that, or its constructor cannot rebuild it, and the text says what is missing. An exception that fails
a task because a `get` inside it raised a `TaskError` keeps the first cause and headline, and its traceback gains one
section per hop, so nothing is lost and nothing is told twice.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from meshray import errors
from meshray.config import DEFAULT
from meshray.errors import BY_PARTS, MeshrayError, TaskError, came_by_parts, task_error
from meshray.wire.messages import Failure
from meshray.wire.payload import NotWholeError, TooLargeError, dump_exception, dump_trimmed, load_exception

MESSAGE_MAX = 16 * 1024  # characters; the schema's bound of `Text` is 64 Ki
LEFT_OUT_MAX = 10  # names of what is missing of an exception
TRACEBACK_MAX = 64 * 1024  # characters: recursion 200 deep collects one section per hop


def failure_from_exception(
    exc: BaseException, *, task_name: str = "", pid: int = 0, host: str = "", traceback_text: str = ""
) -> Failure:
    """The `Failure` for an exception that came out of user code.

    `traceback_text` is the formatted remote traceback; when it is empty, that of `exc` is taken. Never raises because
    of what the exception's own methods do.
    """
    place = {"task_name": task_name[:1024], "pid": str(pid), "host": host[:1024]}
    here = traceback_text or format_traceback(exc)
    if isinstance(exc, TaskError):
        return _next_hop(exc, here, place)
    headline = headline_of(exc)
    if here.strip() == headline.strip():
        here = ""  # no frame of the user's, and all is said
    message = clip(headline, MESSAGE_MAX)
    if message != headline:
        here = here.replace(headline, message)  # the rest of a traceback says more than the whole of a long text
    dumped = _dump(exc)
    place |= dumped.details
    if dumped.note:
        here = f"{here.rstrip()}\n{dumped.note}".lstrip()
    return Failure(
        kind="TaskError",
        message=message,
        traceback=clip(_section("in", place, here), TRACEBACK_MAX),
        cause=dumped.pickled,
        details=place,
    )


def to_failure(error: MeshrayError) -> Failure:
    """The `Failure` for an error of the mesh itself, such as `ActorDiedError`."""
    if isinstance(error, TaskError):
        return _failure_of_task_error(error)
    details = {name: clip(text, MESSAGE_MAX) for name, text in error.__dict__["_details"].items()}
    cause = error.__cause__
    pickled = b"" if cause is None else _dump(cause).pickled
    return Failure(kind=_kind_of(error), message=clip(str(error), MESSAGE_MAX), cause=pickled, details=details)


def exception_from_failure(failure: Failure) -> Exception:
    """A fresh exception for `failure`, ready to raise. Never raises itself.

    For another kind than `TaskError`, a pickled cause becomes its `__cause__`; an unknown kind a plain `MeshrayError`.
    """
    cause, why_not = load_exception(failure.cause)
    if failure.kind == "TaskError":
        told = failure.traceback
        if why_not:
            told = f"{told.rstrip()}\n{_not_rebuilt(f'it cannot be rebuilt where it has arrived: {why_not}')}".lstrip()
        return task_error(failure.message, told, dict(failure.details), cause)
    cls = getattr(errors, failure.kind, None)
    if not isinstance(cls, type) or not issubclass(cls, MeshrayError):
        return MeshrayError(f"{failure.kind}: {failure.message}", **failure.details)
    text = f"{failure.message}\n\n{failure.traceback}" if failure.traceback else failure.message
    error = cls(text)
    error._fill(text, dict(failure.details))
    if cause is not None:
        error.__cause__ = cause
    return error


def headline_of(exc: BaseException) -> str:
    """`ValueError: boom`, as the last line of a traceback says it; also when the exception's `__str__` fails."""
    name = type(exc).__qualname__
    module = type(exc).__module__
    if module not in ("builtins", "__main__"):
        name = f"{module}.{name}"
    try:
        text = str(exc)
    except Exception as error:  # user code
        text = f"<its __str__ raised {type(error).__name__}>"
    return f"{name}: {text}" if text else name


def format_traceback(exc: BaseException) -> str:
    """The traceback of `exc`, also when its `__str__` fails."""
    try:
        return "".join(traceback.format_exception(exc))
    except Exception:  # user code
        return "".join(traceback.format_tb(exc.__traceback__)) + headline_of(exc) + "\n"


def clip(text: str, limit: int) -> str:
    """`text` with its middle left out when it is longer than `limit` characters."""
    if len(text) <= limit:
        return _encodable(text)
    half = limit // 2 - 40
    return _encodable(f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}")


def _encodable(text: str) -> str:
    """Lone surrogates, which no message can carry, as escapes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return str(text.encode("utf-8", "backslashreplace"), "utf-8")
    return text


def _next_hop(exc: TaskError, here: str, place: dict[str, str]) -> Failure:
    """`exc` of another task came through this one: add our section, keep its cause and headline."""
    first = _failure_of_task_error(exc)
    own = here.replace(str(exc).rstrip(), first.message)
    sections = f"{first.traceback.rstrip()}\n\n{_section('came through', place, own)}"
    return Failure(
        kind="TaskError",
        message=first.message,
        traceback=clip(sections, TRACEBACK_MAX),
        cause=first.cause,
        details=first.details,
    )


def _failure_of_task_error(error: TaskError) -> Failure:
    own = error.__dict__
    cause = error.cause
    details = dict(own["_details"])
    if cause is None:
        pickled = b""
    elif came_by_parts(details):
        pickled, _ = dump_trimmed(cause)
    else:
        pickled = _dump(cause).pickled
    return Failure(
        kind="TaskError",
        message=clip(own.get("_headline", str(error)), MESSAGE_MAX),
        traceback=clip(own.get("_traceback", ""), TRACEBACK_MAX),
        cause=pickled,
        details=details,
    )


class _Dumped(NamedTuple):
    """A pickled exception, b"" where nothing of it can be; details of the `Failure`, and what to say of it."""

    pickled: bytes
    details: Mapping[str, str] = MappingProxyType({})
    note: str = ""


def _dump(exc: BaseException) -> _Dumped:
    try:
        return _Dumped(dump_exception(exc))
    except TooLargeError as error:
        pickled, _ = dump_trimmed(exc)
        return _Dumped(pickled, {"exception_bytes": str(error.nbytes)}, _too_large(error.nbytes, bool(pickled)))
    except NotWholeError as error:
        pickled, left_out = dump_trimmed(exc)
        if not pickled:
            return _Dumped(b"", note=_not_rebuilt(str(error)))
        return _Dumped(pickled, {BY_PARTS: "yes"}, _incomplete(left_out) if left_out else "")


def _not_rebuilt(why: str) -> str:
    return (
        f"(Only the text of this exception came, so it is not caught by its class: {why}. Have its __init__ pass all "
        "of its arguments to super().__init__, or define __reduce__, and define it where it can be imported.)"
    )


def _incomplete(left_out: list[str]) -> str:
    names = ", ".join(left_out[:LEFT_OUT_MAX]) + (", ..." if len(left_out) > LEFT_OUT_MAX else "")
    return f"(Of this exception there is missing what cannot be pickled, or is too large: {clip(names, MESSAGE_MAX)}.)"


def _too_large(nbytes: int, trimmed: bool) -> str:
    left = "what is large in it was left out" if trimmed else "only its text came"
    return (
        f"(This exception is too large to travel: it pickles to {nbytes:,} bytes, and at most "
        f"{DEFAULT.exception_max_bytes:,} go along (exception_max_bytes, which is fixed), so {left}. "
        "Put large data into the store, and the reference into the exception.)"
    )


def _section(how: str, place: dict[str, str], text: str) -> str:
    name = place["task_name"] or "a task"
    return f"{how} {name} (pid={place['pid']}, host={place['host']})\n{text.rstrip()}".rstrip() + "\n"


def _kind_of(error: MeshrayError) -> str:
    """The nearest class of `meshray.errors`: subclasses of programs have no name on the wire."""
    for cls in type(error).__mro__:
        name: str = cls.__name__
        if getattr(errors, name, None) is cls:
            return name
    return "MeshrayError"
