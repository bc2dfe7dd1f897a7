"""What of a value cannot be pickled, and where it stands in it.

Theory. The pickler says `cannot pickle '_thread.lock' object` and no more. So the parts of the value are pickled one by
one; the first that fails by itself is to blame, and its parts are looked through in turn, three levels deep at most.
This costs a few more picklings, on an error only.
"""

from __future__ import annotations

import inspect
import itertools
import pickle
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

_DIG_DEPTH = 3
_DIG_PARTS_MAX = 1000
_PICKLING_MODULES = frozenset(("meshray.wire.payload", "cloudpickle.cloudpickle", "copyreg", "pickle"))


class UnpicklableError(TypeError):
    """A value cannot be pickled. `reason` says what cannot be; `steps` where it stands, from outside in."""

    def __init__(self, reason: str, steps: list[str]) -> None:
        where = f" (at value{''.join(steps)})" if steps else ""
        super().__init__(reason + where)
        self.reason = reason
        self.steps = steps

    def __reduce__(self) -> tuple[Any, ...]:
        return UnpicklableError, (self.reason, self.steps)


def explain_unpicklable(value: Any, error: BaseException, name: str = "value") -> str:
    """Say what of `value` cannot be pickled: the reason, and the path to it from `name`, three levels deep at most."""
    if isinstance(error, UnpicklableError):
        reason, steps = error.reason, error.steps
    else:
        reason, steps = find_culprit(value, error)
    return f"{reason} (at {name}{''.join(steps)})" if steps else f"{reason} ({name} is a {type(value).__name__})"


def explain_argument(error: UnpicklableError, function: Callable[..., Any], name: str) -> str:
    """The same for `error` of a payload of `(args, kwargs)`: names the argument of `function` that is to blame."""
    match error.steps:
        case ["[0]", index, *rest] if index.startswith("["):
            argument = _parameter_name(function, int(index[1:-1]))
        case ["[1]", key, *rest] if key.startswith("["):
            argument = key[2:-2]
        case _:
            return f"an argument of {name}: {error.reason}"
    where = f" (at {argument}{''.join(rest)})" if rest else ""
    quoted = argument if argument.startswith("number ") else repr(argument)
    return f"argument {quoted} of {name}: {error.reason}{where}"


def _parameter_name(function: Callable[..., Any], index: int) -> str:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return f"number {index + 1}"
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if index < len(parameters) and parameters[index].kind in positional:
        return parameters[index].name
    return f"number {index + 1}"


def raised_by_user_code(error: BaseException) -> bool:
    """Whether the innermost Python frame is not one of those that pickle."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_globals.get("__name__") not in _PICKLING_MODULES


def find_culprit(value: Any, error: BaseException) -> tuple[str, list[str]]:
    """Go down to the innermost part that fails by itself. Each level costs one more pickling of its parts."""
    steps: list[str] = []
    for _ in range(_DIG_DEPTH + _leading_containers(value)):
        for step, part in itertools.islice(_parts(value), _DIG_PARTS_MAX):
            failure = _failure_of(part)
            if failure is not None:
                steps.append(step)
                value, error = part, failure
                break
        else:
            break
    return str(error) or type(error).__name__, steps


def _leading_containers(value: Any) -> int:
    """The two levels of `(args, kwargs)` do not count."""
    match value:
        case (tuple(), dict()):
            return 2
    return 0


def _failure_of(part: Any) -> Exception | None:
    try:
        cloudpickle.dumps(part, protocol=5, buffer_callback=_drop_buffer)
    except Exception as error:
        return error
    return None


def _drop_buffer(_: pickle.PickleBuffer) -> None:
    """Large arrays are no trouble, and are not copied to find that out."""


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What `value` is pickled by, each with the step that leads to it."""
    match value:
        case tuple() | list():
            for index, item in enumerate(value):
                yield f"[{index}]", item
        case dict():
            for key, item in value.items():
                yield f"[{_short(key)}]", item
                yield f" key {_short(key)}", key
        case set() | frozenset():
            for item in value:
                yield f" element {_short(item)}", item
        case FunctionType():
            yield from _captured(value)
        case _:
            yield from _attributes(value)


def _captured(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function that is pickled by value takes along."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            part = cell.cell_contents
        except ValueError:
            continue  # a variable that has no value yet
        yield f" closure variable {name!r}", part
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            yield f" global variable {name!r}", function.__globals__[name]
    for index, default in enumerate(function.__defaults__ or ()):
        yield f" default [{index}]", default


def _global_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    names = itertools.chain(
        getattr(value, "__dict__", ()), *(getattr(base, "__slots__", ()) for base in type(value).__mro__)
    )
    for name in names:
        try:
            part = inspect.getattr_static(value, name) if isinstance(value, type) else getattr(value, name)
        except Exception:  # noqa: S112  # a user's descriptor may raise anything; then it is not what was pickled
            continue
        yield f".{name}", part


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # a user's repr
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
