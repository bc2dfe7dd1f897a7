"""`RemoteFunction`: a function whose calls are tasks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from meshray import context
from meshray.api.arity import UNREAD, Arity, arity_of
from meshray.api.options import task_options
from meshray.options import FunctionSpec


class RemoteFunction:
    """What `@remote` makes of a function: `f.remote(...)` submits a task and returns at once.

    It can be captured by other remote functions and sent anywhere: it travels as its function and its options.
    """

    __name__: str

    def __init__(
        self,
        function: Callable[..., Any],
        options: Mapping[str, Any],
        *,
        spec: FunctionSpec | None = None,
        arity: Arity | None = None,
    ) -> None:
        """`spec` and `arity` are shared among the variants that `.options` makes."""
        checked = task_options(options)
        if spec is None:
            _refuse_generators_and_coroutines(function)
            spec = FunctionSpec(function, readable_name(function))
        if arity is None:
            arity = arity_of(function)
        functools.update_wrapper(self, function)  # first: it copies the function's attributes over
        self._raw_options = dict(options)
        self._options = checked
        self._function = function
        self._spec = spec
        self._arity = arity
        self._low, self._high = arity.low, arity.high
        self._returns = checked.num_returns

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submit a task. Returns its reference: None for `num_returns=0`, a list of references for more than one.

        Raises `TypeError` when the arguments do not fit the function's signature.
        """
        if kwargs or not self._low <= len(args) <= self._high:
            self._check(args, kwargs)
        refs = (context._runtime or context.runtime()).submit(self._spec, args, kwargs, self._options)
        if self._returns == 1:
            return refs[0]
        return refs if self._returns else None

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._arity is UNREAD:
            self._arity = arity_of(self._function)
            self._low, self._high = self._arity.low, self._arity.high
        self._arity.check(self._spec.name, args, kwargs)

    def options(self, **options: Any) -> RemoteFunction:
        """The same function with other options; those not named stay."""
        return RemoteFunction(self._function, {**self._raw_options, **options}, spec=self._spec, arity=self._arity)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self._spec.name
        raise TypeError(f"a remote function cannot be called directly: write {name}.remote() instead of {name}()")

    def __repr__(self) -> str:
        return f"RemoteFunction({self._spec.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self._function, self._raw_options)


def _arrived(function: Callable[..., Any], options: Mapping[str, Any]) -> RemoteFunction:
    """Unpickling."""
    return RemoteFunction(function, options, spec=FunctionSpec(function, readable_name(function)), arity=UNREAD)


def readable_name(target: Callable[..., Any]) -> str:
    """For people: the qualified name without the functions around it."""
    name = getattr(target, "__qualname__", None) or getattr(target, "__name__", None) or type(target).__name__
    return str(name).rpartition("<locals>.")[2]


def _refuse_generators_and_coroutines(function: Callable[..., Any]) -> None:
    name = readable_name(function)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise NotImplementedError(
            f"{name} is a generator function: num_returns='streaming' is not there yet; return a list instead"
        )
    if inspect.iscoroutinefunction(function):
        raise ValueError(
            f"'async def' cannot be a remote function: wrap it in one that calls asyncio.run({name}(...)), "
            "or make it a method of an actor"
        )
