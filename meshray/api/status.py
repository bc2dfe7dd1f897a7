"""What is there: nodes, resources, actors by name, and where this code runs."""

from __future__ import annotations

from typing import Any

from meshray import context
from meshray.api.actors import ActorHandle, handle_of, handle_of_self
from meshray.api.options import check_text
from meshray.ids import NODE_BYTES, task_of
from meshray.refs import ObjectRef


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """End an actor at once. With `no_restart=False` it starts again as far as its `max_restarts` allows."""
    given: object = actor
    if not isinstance(given, ActorHandle):
        hint = ": end a task with cancel()" if isinstance(given, ObjectRef) else ""
        raise ValueError(f"kill takes the handle of an actor, got {given!r}{hint}")
    if not isinstance(no_restart, bool):
        raise TypeError(f"no_restart takes a bool, got {no_restart!r}")
    context.runtime().kill_actor(task_of(actor._meshray_ref.binary()), no_restart)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """The handle of a named actor, of this program's namespace unless told.

    Raises `ValueError` when there is none of that name.
    """
    for what, text in (("name", name), ("namespace", namespace)):
        if text is None and what == "namespace":
            continue
        if not isinstance(text, str):
            raise TypeError(f"get_actor: {what} takes a str, got {text!r}")
        if not text:
            raise ValueError(f"get_actor: {what} cannot be an empty string")
        check_text(f"get_actor: {what}", text)
    return handle_of(context.runtime().find_actor(name, namespace))


def nodes() -> list[dict[str, Any]]:
    """One dictionary per peer, with Ray's keys: `NodeID Alive NodeName NodeManagerAddress Resources Labels ...`."""
    found: list[dict[str, Any]] = context.runtime().ask("nodes")
    return found


def cluster_resources() -> dict[str, float]:
    """What the mesh has in all."""
    total: dict[str, float] = context.runtime().ask("resources")["total"]
    return total


def available_resources() -> dict[str, float]:
    """What of it is free now."""
    free: dict[str, float] = context.runtime().ask("resources")["available"]
    return free


def get_gpu_ids() -> list[int]:
    """The GPUs that this task or actor has; empty in a driver."""
    return list(context.runtime().current().gpu_ids)


def get_runtime_context() -> RuntimeContext:
    """Where this code runs."""
    return RuntimeContext(context.runtime())


def timeline(filename: str | None = None) -> Any:
    """Not there yet: a trace of all tasks."""
    raise NotImplementedError("timeline() is not there yet")


class RuntimeContext:
    """Where this code runs: in which job, peer, process, task and actor. Ids are hex strings."""

    def __init__(self, runtime: context.Runtime) -> None:
        self._runtime = runtime

    def __repr__(self) -> str:
        facts = {"job": self.get_job_id(), "node": self.get_node_id(), "task": self.get_task_name()}
        return f"RuntimeContext({', '.join(f'{name}={value}' for name, value in facts.items() if value)})"

    def get_job_id(self) -> str:
        return self._runtime.job_id.hex()

    def get_node_id(self) -> str:
        return self._runtime.process_id[:NODE_BYTES].hex()

    def get_worker_id(self) -> str:
        return self._runtime.process_id.hex()

    def get_task_id(self) -> str | None:
        """None outside of a task."""
        return self._runtime.current().task_id.hex() or None

    def get_task_name(self) -> str | None:
        """None outside of a task."""
        return self._runtime.current().task_name or None

    def get_actor_id(self) -> str | None:
        """None outside of an actor."""
        return self._runtime.current().actor_id.hex() or None

    def get_actor_name(self) -> str | None:
        """None outside of an actor, "" in one without a name."""
        current = self._runtime.current()
        return current.actor_name if current.actor_id else None

    @property
    def namespace(self) -> str:
        return self._runtime.namespace

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether this actor was restarted after it died."""
        self._in_actor("was_current_actor_reconstructed")
        return self._runtime.current().restarted

    @property
    def current_actor(self) -> ActorHandle:
        """A handle to the actor that this code runs in."""
        self._in_actor("current_actor")
        current = self._runtime.current()
        return handle_of_self(current.actor_id, current.actor_methods)

    def get_assigned_resources(self) -> dict[str, float]:
        """What this task or actor holds.

        Raises `RuntimeError` in a driver, which holds nothing.
        """
        if self._runtime.is_driver:
            raise RuntimeError("get_assigned_resources() is for tasks and actors; this is a driver")
        return dict(self._runtime.current().resources)

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """The accelerators that this task or actor holds, by kind."""
        return {"GPU": [str(each) for each in self._runtime.current().gpu_ids]}

    def get(self) -> dict[str, Any]:
        """The ids in one dictionary."""
        ids = {
            "job_id": self.get_job_id(),
            "node_id": self.get_node_id(),
            "worker_id": self.get_worker_id(),
            "task_id": self.get_task_id(),
            "actor_id": self.get_actor_id(),
            "namespace": self.namespace,
        }
        return {name: value for name, value in ids.items() if value is not None}

    def get_placement_group_id(self) -> str | None:
        raise NotImplementedError("get_placement_group_id() is not there yet")

    def get_node_labels(self) -> dict[str, str]:
        raise NotImplementedError("get_node_labels() is not there yet")

    def get_runtime_env_string(self) -> str:
        raise NotImplementedError("get_runtime_env_string() is not there yet")

    def is_canceled(self) -> bool:
        """Whether the task or call that this code runs in was cancelled: a running method of an actor sees it only
        here."""
        return self._runtime.current().cancelled

    def _in_actor(self, what: str) -> None:
        if not self._runtime.current().actor_id:
            raise RuntimeError(f"{what} is for actors; this code runs in none")
