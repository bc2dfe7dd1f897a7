"""A runtime that runs everything at once, in the calling thread, and writes down what it was asked."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from meshray.ids import FIRST_RETURN, object_of
from meshray.options import ActorOptions, FunctionSpec, TaskOptions
from meshray.refs import ObjectRef


@dataclass
class FakeInfo:
    actor_id: bytes
    methods: bytes
    created: bool = True


@dataclass
class FakeTask:
    task_id: bytes = b""
    task_name: str = ""
    actor_id: bytes = b""
    actor_name: str = ""
    actor_methods: bytes = b""
    resources: dict[str, float] = field(default_factory=dict)
    gpu_ids: list[int] = field(default_factory=list)
    restarted: bool = False
    cancelled: bool = False


class FakeRuntime:
    """See the module. `calls` lists `(name, arguments...)` in order."""

    def __init__(self) -> None:
        self.process_id = b"N" * 8 + b"P" * 8
        self.job_id = b"N" * 8 + b"J" * 8
        self.namespace = "here"
        self.is_driver = True
        self.task = FakeTask()
        self.calls: list[tuple[Any, ...]] = []
        self.values: dict[bytes, Any] = {}
        self.actors: dict[bytes, Any] = {}
        self.named: dict[tuple[str, str | None], FakeInfo] = {}
        self.answers: dict[str, Any] = {}
        self.exported: list[bytes] = []
        self.adopted: list[bytes] = []
        self.closed = 0
        self._counter = itertools.count(1)

    def _task_id(self) -> bytes:
        return self.process_id + next(self._counter).to_bytes(8, "big")

    def _outcome(self, value: Any, returns: int) -> list[ObjectRef[Any]]:
        task = self._task_id()
        refs: list[ObjectRef[Any]] = [ObjectRef(object_of(task, index)) for index in range(returns)]
        values = value if returns > 1 else [value]
        self.values.update({ref.binary(): each for ref, each in zip(refs, values, strict=False)})
        return refs

    def submit(
        self, function: FunctionSpec, args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions
    ) -> list[ObjectRef[Any]]:
        self.calls.append(("submit", function, args, kwargs, options))
        args = tuple(self.values[a.binary()] if isinstance(a, ObjectRef) else a for a in args)
        return self._outcome(function.target(*args, **kwargs), options.num_returns)

    def put(self, value: object) -> ObjectRef[Any]:
        return self._outcome(value, 1)[0]

    def get(self, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        self.calls.append(("get", list(refs), timeout))
        return [self.values[ref.binary()] for ref in refs]

    def wait(
        self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout: float | None, fetch_local: bool
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        return list(refs[:num_returns]), list(refs[num_returns:])

    def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
        self.calls.append(("cancel", ref, force, recursive))

    def when_ready(self, ref: ObjectRef[Any], callback: Callable[[], None]) -> None:
        callback()

    def future(self, ref: ObjectRef[Any]) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(self.values[ref.binary()])
        return future

    def create_actor(
        self, cls: FunctionSpec, args: tuple[Any, ...], kwargs: dict[str, Any], options: ActorOptions, methods: bytes
    ) -> FakeInfo:
        self.calls.append(("create_actor", cls, args, kwargs, options))
        if options.get_if_exists and (options.name, options.namespace) in self.named:
            return self.named[options.name, options.namespace]
        info = FakeInfo(self._task_id(), methods)
        self.actors[info.actor_id] = cls.target(*args, **kwargs)
        if options.name:
            self.named[options.name, options.namespace] = FakeInfo(info.actor_id, methods, created=False)
        return info

    def call_actor(
        self, actor_id: bytes, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions
    ) -> list[ObjectRef[Any]]:
        self.calls.append(("call_actor", actor_id, method, args, kwargs, options))
        if method == "__ray_call__":
            return self._outcome(args[0](self.actors[actor_id], *args[1:], **kwargs), options.num_returns)
        if method in ("__ray_ready__", "__ray_terminate__"):
            return self._outcome(True, options.num_returns)
        return self._outcome(getattr(self.actors[actor_id], method)(*args, **kwargs), options.num_returns)

    def kill_actor(self, actor_id: bytes, no_restart: bool) -> None:
        self.calls.append(("kill_actor", actor_id, no_restart))

    def find_actor(self, name: str, namespace: str | None) -> FakeInfo:
        if (name, namespace) not in self.named:
            raise ValueError(f"no actor is named {name!r}")
        return self.named[name, namespace]

    def exit_actor(self) -> None:
        raise SystemExit("exit_actor")

    def ask(self, what: str, argument: str = "") -> Any:
        return self.answers[what]

    def current(self) -> FakeTask:
        return self.task

    def shutdown(self) -> None:
        self.closed += 1

    def adopt_ref(self, object_id: bytes) -> None:
        self.adopted.append(object_id)

    def export_ref(self, object_id: bytes) -> None:
        self.exported.append(object_id)


def handle_object(actor_id: bytes) -> bytes:
    """The object as which handles of an actor are counted."""
    return actor_id + FIRST_RETURN


def travelled(value: Any) -> Any:
    """`value` as another process would get it."""
    return pickle.loads(cloudpickle.dumps(value))
