"""`ActorClass`, `ActorHandle`, `ActorMethod`: making actors and calling them.

A handle is counted as a reference to the object `actor id + return 0`, which it holds as an ordinary `ObjectRef`. So
counting, borrowing and the pin of a handle in flight are those of references, and the actor ends with the last one.
Methods hold that reference, not the handle: a handle may cache them without a cycle, which would keep it alive until
the garbage collector comes by.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import FunctionType
from typing import Any, Never

from meshray import context
from meshray.api.arity import UNREAD, Arity, arity_of
from meshray.api.functions import readable_name
from meshray.api.methods import MethodInfo, MethodTable, encode_class, table_from
from meshray.api.options import METHOD_CALL, actor_options, check_options, freeze_exceptions
from meshray.context import ActorInfo
from meshray.ids import FIRST_RETURN, ActorID, task_of
from meshray.options import FunctionSpec, TaskOptions
from meshray.refs import ObjectRef


class ActorClass:
    """What `@remote` makes of a class: `C.remote(...)` creates an actor and returns its handle at once."""

    __name__: str

    def __init__(
        self,
        cls: type,
        options: Mapping[str, Any],
        *,
        spec: FunctionSpec | None = None,
        arity: Arity | None = None,
    ) -> None:
        """`spec` and `arity` are shared among the variants that `.options` makes."""
        self._options = actor_options(options)
        self._raw_options = dict(options)
        self._class = cls
        self._spec = spec or FunctionSpec(cls, readable_name(cls))
        self._arity = arity or arity_of(cls)
        self._methods: bytes | None = None  # encoded at the first use
        self.__name__ = cls.__name__
        self.__qualname__ = cls.__qualname__
        self.__module__ = cls.__module__
        self.__doc__ = cls.__doc__
        self.__wrapped__ = cls

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Create an actor. With `get_if_exists`, the one of that name where there is one.

        Raises `TypeError` when the arguments do not fit the constructor, `ValueError` when the name is taken.
        """
        if kwargs or not self._arity.low <= len(args) <= self._arity.high:
            if self._arity is UNREAD:
                self._arity = arity_of(self._class)
            self._arity.check(self._spec.name, args, kwargs)
        if self._methods is None:
            self._methods = encode_class(self._class, self._options.max_task_retries)
        info = context.runtime().create_actor(self._spec, args, kwargs, self._options, self._methods)
        return handle_of(info)

    def options(self, **options: Any) -> ActorClass:
        """The same class with other options; those not named stay."""
        return ActorClass(self._class, {**self._raw_options, **options}, spec=self._spec, arity=self._arity)

    def __call__(self, *args: Any, **kwargs: Any) -> Never:
        name = self._spec.name
        raise TypeError(f"an actor class cannot be instantiated directly: write {name}.remote() instead of {name}()")

    def __getattr__(self, name: str) -> Any:
        """The class's own constants, static and class methods, as if it were not remote."""
        cls = self.__dict__.get("__wrapped__")  # None in a half-built instance, in `copy` or a debugger
        if cls is None or name.startswith("_") or not hasattr(cls, name):
            raise AttributeError(f"{self!r} has no attribute {name!r}" if cls else name)
        if isinstance(inspect.getattr_static(cls, name), FunctionType):
            raise AttributeError(
                f"{cls.__name__}.{name} is a method of the actor, not of its class: "
                f"create an actor with {cls.__name__}.remote(...), and call its {name}.remote(...)"
            )
        return getattr(cls, name)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> Never:
        raise TypeError(
            f"{self._spec.name} is an actor class and takes no subclasses: "
            "derive from the plain class, and put @remote on both"
        )

    def __repr__(self) -> str:
        return f"ActorClass({self._spec.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived_class, (self._class, self._raw_options)


class ActorHandle:
    """A handle to an actor: `handle.method.remote(...)` calls it.

    It can be sent anywhere and kept; the actor ends when the last handle goes, unless it is detached.
    """

    _meshray_ref: ObjectRef[Any]
    _meshray_table: MethodTable

    def __init__(self, ref: ObjectRef[Any], table: MethodTable) -> None:
        """Programs never build one."""
        self.__dict__.update(_meshray_ref=ref, _meshray_table=table)

    @property
    def _actor_id(self) -> ActorID:
        return ActorID(task_of(self._meshray_ref.binary()))

    def __getattr__(self, name: str) -> ActorMethod:
        """Called when the method is not in the instance's dictionary yet."""
        if name.startswith("_meshray_"):  # a half-built instance, in `copy` or a debugger
            raise AttributeError(name)
        table = self._meshray_table
        found = ActorMethod(self._meshray_ref, table, table.find(name))
        self.__dict__[name] = found
        return found

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"the state of an actor cannot be set through its handle: {name!r}; call a method instead")

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._meshray_table.names()})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._meshray_ref == self._meshray_ref

    def __hash__(self) -> int:
        return hash(self._meshray_ref)

    def __repr__(self) -> str:
        return f"Actor({self._meshray_table.class_name}, {self._actor_id.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self._meshray_ref, self._meshray_table.encoded)


class ActorMethod:
    """One method of one actor."""

    __slots__ = ("_actor_id", "_high", "_info", "_low", "_name", "_options", "_ref", "_table")

    def __init__(
        self, ref: ObjectRef[Any], table: MethodTable, info: MethodInfo, options: TaskOptions | None = None
    ) -> None:
        """Programs never build one."""
        self._ref = ref
        self._table = table
        self._info = info
        self._name = info.name
        self._actor_id = task_of(ref.binary())
        self._low, self._high = info.arity.low, info.arity.high
        self._options = options or _method_options(info, {})
        if info.streams:
            self._low, self._high = 1, 0  # every call takes the slow path, which refuses

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method. Returns its reference: None for `num_returns=0`, a list for more than one.

        Raises `TypeError` when the arguments do not fit the method's signature.
        """
        if kwargs or not self._low <= len(args) <= self._high:
            self._check(args, kwargs)
        options = self._options
        refs = (context._runtime or context.runtime()).call_actor(self._actor_id, self._name, args, kwargs, options)
        if options.num_returns == 1:
            return refs[0]
        return refs if options.num_returns else None

    def options(self, **options: Any) -> ActorMethod:
        """The same method with other options for its calls: `num_returns`, `name`, `max_task_retries`, ..."""
        check_options(METHOD_CALL, options, "a call of an actor's method")
        return ActorMethod(self._ref, self._table, self._info, _method_options(self._info, options))

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = f"{self._table.class_name}.{self._name}"
        if self._info.streams:
            raise NotImplementedError(f"{name} is a generator: num_returns='streaming' is not there yet")
        self._info.arity.check(name, args, kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Never:
        raise TypeError(
            f"a method of an actor cannot be called directly: write {self._name}.remote() instead of {self._name}()"
        )

    def __repr__(self) -> str:
        return f"ActorMethod({self._table.class_name}.{self._name}, {self._actor_id.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived_method, (self._ref, self._table.encoded, self._name, self._options)


def handle_of(info: ActorInfo) -> ActorHandle:
    """The handle for what the runtime just created or found, and counted once for it."""
    return ActorHandle(ObjectRef(info.actor_id + FIRST_RETURN), table_from(info.methods))


def handle_of_self(actor_id: bytes, methods: bytes) -> ActorHandle:
    """One more handle to an actor, made inside of it."""
    object_id = actor_id + FIRST_RETURN
    context.runtime().adopt_ref(object_id)
    return ActorHandle(ObjectRef(object_id), table_from(methods))


def _method_options(info: MethodInfo, options: Mapping[str, Any]) -> TaskOptions:
    given = {name: value for name, value in options.items() if value is not None}
    return TaskOptions(
        request={},
        num_returns=given.get("num_returns", info.num_returns),
        max_retries=given.get("max_task_retries", info.max_task_retries),
        retry_exceptions=freeze_exceptions(given.get("retry_exceptions", info.retry_exceptions)),
        name=given.get("name", ""),
    )


def _arrived_class(cls: type, options: Mapping[str, Any]) -> ActorClass:
    """Unpickling."""
    return ActorClass(cls, options, arity=UNREAD)


def _arrived(ref: ObjectRef[Any], encoded: bytes) -> ActorHandle:
    """Unpickling."""
    return ActorHandle(ref, table_from(encoded))


def _arrived_method(ref: ObjectRef[Any], encoded: bytes, name: str, options: TaskOptions) -> ActorMethod:
    """Unpickling."""
    table = table_from(encoded)
    return ActorMethod(ref, table, table.find(name), options)
