"""What a task or an actor asks for, checked and frozen, in the form in which api and runtime share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meshray.strategy import ANYWHERE, Strategy


@dataclass(slots=True, eq=False)
class FunctionSpec:
    """A remote function or class, pickled once per process, at its first use.

    `blob` is filled by the runtime: its hash names it in messages.
    """

    target: Callable[..., Any]
    name: str
    blob: Any = None  # wire.messages.Blob, once it was pickled
    statistics: Any = None  # the runtime's running mean of its duration


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Options of one remote function, or of one method call (there `request` is empty)."""

    request: dict[str, int] = field(default_factory=lambda: {"CPU": 10_000})  # resources.Amounts
    num_returns: int = 1
    max_retries: int = 3  # -1: always
    retry_exceptions: bool | tuple[type[BaseException], ...] = False
    name: str = ""  # "" = the function's
    env_vars: tuple[tuple[str, str], ...] = ()
    strategy: Strategy = ANYWHERE


@dataclass(frozen=True, slots=True)
class ActorOptions:
    """Options of one actor class. `num_cpus` counts for placement only when it was not given (as in Ray)."""

    request: dict[str, int] = field(default_factory=lambda: {"CPU": 10_000})  # while it is placed
    running_request: dict[str, int] = field(default_factory=dict)  # while it lives
    max_restarts: int = 0  # -1: always
    max_task_retries: int = 0  # -1: always
    max_concurrency: int = 0  # 0 = the default: 1 for sync classes, 1000 for those with async methods
    name: str = ""
    namespace: str | None = None
    get_if_exists: bool = False
    detached: bool = False
    env_vars: tuple[tuple[str, str], ...] = ()
    strategy: Strategy = ANYWHERE


@dataclass(frozen=True, slots=True)
class InitSettings:
    """What `init` was asked for, checked; None means "not given"."""

    address: str | None = None  # None, "local", "auto", the path of a peer's folder, or "host:port[,...]"
    num_cpus: float | None = None
    num_gpus: float | None = None
    resources: dict[str, float] | None = None  # custom ones
    labels: dict[str, str] | None = None
    object_store_memory: int | None = None  # bytes
    namespace: str = ""  # "" = a fresh anonymous one
    env_vars: tuple[tuple[str, str], ...] = ()
    log_to_driver: bool = True

    @property
    def seeds(self) -> list[str]:
        """The members through which a private peer shall join their mesh."""
        address = self.address or ""
        return address.split(",") if ":" in address and "/" not in address else []

    @property
    def shapes_a_peer(self) -> bool:
        """Whether it says what a peer is to be like, which a running one cannot be told any more."""
        shape = (self.num_cpus, self.num_gpus, self.resources, self.labels, self.object_store_memory)
        return any(part is not None for part in shape)
