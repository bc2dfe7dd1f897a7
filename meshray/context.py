"""The slot for this process's runtime.

`ObjectRef` needs the runtime and the runtime needs `ObjectRef`. This file opens that circle: what programs hold (refs,
handles, remote functions) calls the runtime through the protocol below, and `runtime/` puts itself into the slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from meshray.errors import MeshrayError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from meshray.options import ActorOptions, FunctionSpec, TaskOptions
    from meshray.refs import ObjectRef


class ActorInfo(Protocol):
    """What a handle needs to know; `methods` is opaque to everybody but the api."""

    @property
    def actor_id(self) -> bytes: ...
    @property
    def methods(self) -> bytes: ...
    @property
    def created(self) -> bool: ...


class TaskContext(Protocol):
    """What runs in this thread; all empty in a driver."""

    task_id: bytes
    task_name: str
    cancelled: bool

    @property
    def actor_id(self) -> bytes: ...
    @property
    def actor_name(self) -> str: ...
    @property
    def actor_methods(self) -> bytes:
        """As given to `create_actor`."""

    @property
    def resources(self) -> dict[str, float]: ...
    @property
    def gpu_ids(self) -> list[int]: ...
    @property
    def restarted(self) -> bool: ...


class Runtime(Protocol):
    """What a driver or a worker can do. Every method may be called from any thread."""

    process_id: bytes  # 16 bytes: node(8) process(8)
    job_id: bytes
    namespace: str
    is_driver: bool

    def submit(
        self, function: FunctionSpec, args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions
    ) -> list[ObjectRef[Any]]: ...
    def put(self, value: object) -> ObjectRef[Any]: ...
    def get(self, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]: ...
    def wait(
        self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout: float | None, fetch_local: bool
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]: ...
    def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> None: ...
    def when_ready(self, ref: ObjectRef[Any], callback: Callable[[], None]) -> None: ...
    def future(self, ref: ObjectRef[Any]) -> Future[Any]: ...

    def create_actor(
        self, cls: FunctionSpec, args: tuple[Any, ...], kwargs: dict[str, Any], options: ActorOptions, methods: bytes
    ) -> ActorInfo: ...
    def call_actor(
        self, actor_id: bytes, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions
    ) -> list[ObjectRef[Any]]: ...
    def kill_actor(self, actor_id: bytes, no_restart: bool) -> None: ...
    def find_actor(self, name: str, namespace: str | None) -> ActorInfo: ...
    def exit_actor(self) -> None: ...

    def ask(self, what: str, argument: str = "") -> Any: ...
    def current(self) -> TaskContext: ...
    def shutdown(self) -> None: ...

    # -- counting; called by ObjectRef and ActorHandle --
    def adopt_ref(self, object_id: bytes) -> None:
        """A handle came to life from bytes (unpickling)."""

    def export_ref(self, object_id: bytes) -> None:
        """A handle is being pickled."""


dropped: deque[Any] = deque()
"""Handles that died, as object ids, and that were born, as pairs (see `core.records`), in order.

`__del__` may run in any thread at any bytecode, so it only appends here."""

_runtime: Runtime | None = None
_initialise: Callable[[], object] | None = None


class NotInitialisedError(MeshrayError, RuntimeError):
    """No mesh is there in this process, and none may be made here."""


def runtime() -> Runtime:
    """This process's runtime; made by the hook of `on_missing` when there is none yet."""
    if _runtime is None:
        if _initialise is None:
            raise NotInitialisedError("meshray is not initialised in this process: call meshray.init()")
        _initialise()
    assert _runtime is not None
    return _runtime


def current_runtime() -> Runtime | None:
    """This process's runtime, or None."""
    return _runtime


def set_runtime(new: Runtime | None) -> None:
    """Fill or empty the slot."""
    global _runtime
    _runtime = new


def on_missing(initialise: Callable[[], object] | None) -> None:
    """What `runtime()` does when the slot is empty: the api sets `init` here."""
    global _initialise
    _initialise = initialise
