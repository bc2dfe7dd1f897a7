"""What a handle knows of its class: the table of methods, and how it travels.

The table is made from the class once per set of options, encoded with msgspec, and passes opaquely through peers, so a
handle that was found by name or unpickled anywhere checks names and arguments without having the class.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from meshray.api.arity import ANYTHING, Arity, Described, arity_of
from meshray.api.functions import readable_name
from meshray.api.options import METHOD, check_options, freeze_exceptions

MARK = "__meshray_method__"
"""The attribute in which `@method` leaves its options."""


class _Method(msgspec.Struct, array_like=True, frozen=True):
    """One method, as it travels."""

    name: str
    parameters: tuple[Described, ...] | None
    num_returns: int = 1
    max_task_retries: int | None = None  # None: the actor's
    retry_exceptions: bool | bytes = False  # a list of types travels pickled; only programs unpickle it
    streams: bool = False  # a generator: cannot be called yet


class _Table(msgspec.Struct, array_like=True, frozen=True):
    """A class, as it travels."""

    class_name: str
    methods: list[_Method]
    max_task_retries: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Table).decode

SPECIAL = (
    _Method("__ray_ready__", ()),
    _Method(
        "__ray_call__",
        (
            ("fn", int(inspect.Parameter.POSITIONAL_ONLY), False),
            ("args", int(inspect.Parameter.VAR_POSITIONAL), False),
            ("kwargs", int(inspect.Parameter.VAR_KEYWORD), False),
        ),
    ),
    _Method("__ray_terminate__", ()),
)
"""What every actor can do: say that it is ready, run `fn(instance, *args)`, end after the calls before."""


class MethodInfo:
    """One method, ready for calls."""

    __slots__ = ("arity", "max_task_retries", "name", "num_returns", "retry_exceptions", "streams")

    def __init__(self, method: _Method, max_task_retries: int) -> None:
        own = method.max_task_retries
        exceptions = method.retry_exceptions
        self.name = method.name
        self.arity = Arity(method.parameters)
        self.num_returns = method.num_returns
        self.max_task_retries = max_task_retries if own is None else own
        self.retry_exceptions: bool | tuple[type[BaseException], ...] = (
            exceptions if isinstance(exceptions, bool) else _unpickled(exceptions)
        )
        self.streams = method.streams


class MethodTable:
    """What a handle knows of its class. One per class and process, shared by its handles."""

    def __init__(self, encoded: bytes) -> None:
        table = _decode(encoded)
        self.encoded = encoded
        self.class_name = table.class_name
        self._methods = {method.name: method for method in (*SPECIAL, *table.methods)}
        self._max_task_retries = table.max_task_retries
        self._ready: dict[str, MethodInfo] = {}

    def find(self, name: str) -> MethodInfo:
        """The method `name`.

        Raises `AttributeError` naming the class and near matches.
        """
        info = self._ready.get(name)
        if info is None:
            method = self._methods.get(name)
            if method is None:
                raise AttributeError(self._unknown(name), name=name)
            info = self._ready[name] = MethodInfo(method, self._max_task_retries)
        return info

    def names(self) -> list[str]:
        return list(self._methods)

    def _unknown(self, name: str) -> str:
        import difflib  # only for this message

        near = difflib.get_close_matches(name, self._methods, 3)
        hint = f"; near are: {', '.join(near)}" if near else ""
        return f"the actor class {self.class_name} has no method {name!r}{hint}"


@functools.lru_cache(maxsize=1024)
def table_from(encoded: bytes) -> MethodTable:
    """The table in `encoded`, shared."""
    return MethodTable(encoded)


def encode_class(cls: type, max_task_retries: int) -> bytes:
    """The table of `cls` as it travels. Inherited methods count; properties, nested classes and data do not."""
    methods = [
        _describe(cls, name, found)
        for name in dir(cls)
        if name not in vars(object)
        for found in [inspect.getattr_static(cls, name)]
        if _is_method(found)
    ]
    return _encode(_Table(readable_name(cls), methods, max_task_retries))


def is_async_class(cls: type) -> bool:
    """Whether calls of `cls` run on an event loop: it has an `async def` method."""
    return any(
        inspect.iscoroutinefunction(found) or inspect.isasyncgenfunction(found)
        for name in dir(cls)
        for found in [_bare(inspect.getattr_static(cls, name))]
    )


def _bare(found: object) -> Any:
    return found.__func__ if isinstance(found, staticmethod | classmethod) else found


def _is_method(found: object) -> bool:
    if isinstance(found, staticmethod | classmethod | functools.partialmethod):
        return True
    return callable(found) and not isinstance(found, type | types.GenericAlias)


def _describe(cls: type, name: str, found: object) -> _Method:
    bare = _bare(found)
    marks: Mapping[str, Any] = getattr(bare, MARK, {})
    exceptions = freeze_exceptions(marks.get("retry_exceptions") or False)
    return _Method(
        name=name,
        parameters=_parameters(cls, name, found).described,
        num_returns=1 if marks.get("num_returns") is None else marks["num_returns"],
        max_task_retries=marks.get("max_task_retries"),
        retry_exceptions=exceptions if isinstance(exceptions, bool) else _pickled(exceptions),
        streams=inspect.isgeneratorfunction(bare) or inspect.isasyncgenfunction(bare),
    )


def _parameters(cls: type, name: str, found: object) -> Arity:
    """What callers pass: without `self` or `cls`."""
    if isinstance(found, staticmethod):
        return arity_of(found.__func__)
    if isinstance(found, classmethod):
        return arity_of(found.__func__, drop_first=True)
    if isinstance(found, functools.partialmethod):
        return ANYTHING
    if hasattr(type(found), "__get__"):
        return arity_of(getattr(cls, name), drop_first=True)
    return arity_of(found)  # type: ignore[arg-type]  # a callable object: it is not bound


def _pickled(types_: tuple[type[BaseException], ...]) -> bytes:
    # Rarely needed, and importing us should not load cloudpickle.
    from meshray.wire.payload import dumps_function

    return dumps_function(types_)


def _unpickled(pickled: bytes) -> tuple[type[BaseException], ...]:
    from meshray.wire.payload import loads_function

    found: tuple[type[BaseException], ...] = loads_function(pickled)
    return found


def method(**options: Any) -> Callable[[Any], Any]:
    """Options of one method of an actor class: `@method(num_returns=2)`.

    Takes `num_returns`, `max_task_retries`, `retry_exceptions`, `concurrency_group`.
    """
    if not options:
        raise ValueError("@method needs at least one option, such as @method(num_returns=2)")
    check_options(METHOD, options, "a method")

    def mark(function: Any) -> Any:
        if not callable(function) and not isinstance(function, staticmethod | classmethod):
            raise TypeError(f"@method goes onto a method, got {function!r}")
        setattr(_bare(function), MARK, dict(options))
        return function

    return mark
