"""`@remote`: what makes a function a task and a class an actor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, overload

from meshray.api.actors import ActorClass, ActorHandle, ActorMethod
from meshray.api.functions import RemoteFunction
from meshray.api.methods import method
from meshray.api.options import ACTOR, TASK, check_options

__all__ = ["method", "remote"]


@overload
def remote(target: type, /) -> ActorClass: ...  # type: ignore[overload-overlap]  # classes are callable too
@overload
def remote(target: Callable[..., Any], /) -> RemoteFunction: ...
@overload
def remote(**options: Any) -> Callable[[Any], Any]: ...


def remote(*args: Any, **options: Any) -> Any:
    """Make a function or a class remote: `@remote`, or `@remote(num_cpus=2, max_retries=0)`.

    Raises `ValueError` for an unknown option or one out of range, `TypeError` for a wrong type, `NotImplementedError`
    for an option that is not built yet.
    """
    if len(args) == 1 and not options:
        return _make(args[0], {})
    if args:
        raise TypeError("@remote takes keywords only, as in @remote(num_cpus=2), or stands without parentheses")
    check_options({**TASK, **ACTOR}, options, "a remote function or an actor")
    return lambda target: _make(target, options)


def _make(target: Any, options: Mapping[str, Any]) -> RemoteFunction | ActorClass:
    if isinstance(target, RemoteFunction | ActorClass):
        raise TypeError(f"{target!r} is remote already: use .options() to change its options")
    if inspect.isclass(target):
        return ActorClass(target, options)
    if callable(target) and not isinstance(target, ActorHandle | ActorMethod):
        return RemoteFunction(target, options)
    raise TypeError(f"@remote goes onto a function or a class, got {target!r}")
