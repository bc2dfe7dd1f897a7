"""`init` and `shutdown`: when is there a mesh in this process, and which.

Four ways in: `init()`; a first call of anything else, which calls `init()` by itself; a worker, whose runtime stands in
its slot before user code runs; a `fork()`, whose child must not touch what it inherited.
Four ways out, all through `shutdown()`: the call, the end of `with init():`, the end of the interpreter, a new `init()`
after one of these. Whatever else ends the process, the peer notices by itself.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Never, Self

from meshray import context
from meshray.api.options import check_resources, check_runtime_env, check_text, env_vars
from meshray.context import NotInitialisedError, Runtime
from meshray.errors import MeshrayError
from meshray.ids import NODE_BYTES
from meshray.interrupts import HeldInterrupts
from meshray.options import InitSettings

ADDRESS_VARIABLE = "MESHRAY_ADDRESS"

_logger = logging.getLogger("meshray")
_lock = threading.RLock()
_registered = False  # whether the interpreter's end calls us
_inherited: list[Runtime] = []  # runtimes of a forked child's parent: kept, or their sockets would be closed twice


class Context(Mapping[str, Any]):
    """What `init` returns: facts about the mesh as a mapping, and a context manager that shuts down."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.address_info = facts
        self.dashboard_url = ""
        self.python_version = sys.version.split()[0]

    def __getitem__(self, name: str) -> Any:
        return self.address_info[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.address_info)

    def __len__(self) -> int:
        return len(self.address_info)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutdown()

    def disconnect(self) -> None:
        shutdown()

    def __repr__(self) -> str:
        return f"Context({self.address_info})"


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    object_store_memory: int | None = None,
    ignore_reinit_error: bool = False,
    namespace: str | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    log_to_driver: bool = True,
    configure_logging: bool = True,
    logging_level: int | str | None = None,
    logging_format: str | None = None,
    include_dashboard: bool | None = None,
    dashboard_host: str | None = None,
    dashboard_port: int | None = None,
    **others: Any,
) -> Context:
    """Join a mesh, or make one of this machine alone.

    `address` None takes `MESHRAY_ADDRESS`, else a peer of this user that runs on this host, else a private mesh;
    "local" is always private; "auto" is a running peer or a `ConnectionError`; a path names one running peer's folder;
    "host:port" starts a private peer without resources that joins the mesh through that member, for a host where none
    runs: it needs the mesh key (`AuthenticationError`), and is a `ConnectionError` when it cannot join.
    What a private peer is like (`num_cpus`, ... `object_store_memory` in bytes) cannot be said to a running one:
    `ValueError`. There is no dashboard: its options are accepted, and asking for it only gives a warning. Keywords that
    begin with `_` are ignored. A second `init` is a `RuntimeError` unless `ignore_reinit_error`.
    """
    unknown = [name for name in others if not name.startswith("_")]
    if unknown:
        valid = sorted({*inspect.signature(init).parameters} - {"others"})
        raise ValueError(f"Invalid option keyword {unknown[0]!r} for init. Valid ones are: {', '.join(valid)}.")
    settings = InitSettings(
        address=_check_address(address),
        num_cpus=_check_number("num_cpus", num_cpus),
        num_gpus=_check_number("num_gpus", num_gpus),
        resources=_check_resources(resources),
        labels=_check_labels(labels),
        object_store_memory=_check_bytes("object_store_memory", object_store_memory),
        namespace=_check_text("namespace", namespace),
        env_vars=_check_environment(runtime_env),
        log_to_driver=_check_flag("log_to_driver", log_to_driver),
    )
    if _check_flag("configure_logging", configure_logging):
        _configure_logging(logging_level, logging_format)
    if include_dashboard:
        _logger.warning("there is no dashboard; `meshray status` shows what runs where")
    with _lock:
        running = context.current_runtime()
        if running is None:
            try:
                return _context_of(_attach(settings))
            except Exception as error:
                if type(error) is ConnectionError or isinstance(error, MeshrayError):  # of ours: its text says it all
                    error.__traceback__ = None
                raise
    if _check_flag("ignore_reinit_error", ignore_reinit_error):
        return _context_of(running)
    if not running.is_driver:
        raise RuntimeError(
            "init() was called inside a task or an actor, which is part of a mesh already. When a module calls it that "
            'workers import, too, put it under `if __name__ == "__main__":`'
        )
    raise RuntimeError("init() was called twice: call shutdown() in between, or pass ignore_reinit_error=True")


def shutdown() -> None:
    """Leave the mesh: this program's tasks are cancelled, its objects and actors go, a private mesh ends.

    Does nothing when there is none; inside a task it only warns.
    """
    with _lock:
        running = context.current_runtime()
        if running is None:
            return
        if not running.is_driver:
            _logger.warning("shutdown() inside a task or an actor does nothing")
            return
        try:
            running.shutdown()
        finally:  # not before: what still runs inside must not find an empty slot and begin a new mesh
            context.set_runtime(None)


def is_initialized() -> bool:
    """Whether this process is part of a mesh now."""
    return context.current_runtime() is not None


def _attach(settings: InitSettings) -> Runtime:
    # Loading the runtime takes longer than all the rest, and a program that only imports us never needs it.
    with HeldInterrupts():
        from meshray.runtime.attach import attach

    global _registered
    runtime = attach(settings)
    context.set_runtime(runtime)
    if not _registered:
        atexit.register(_at_exit)
        _registered = True
    return runtime


def _auto_init() -> None:
    """Something that needs a mesh was called before `init`."""
    with _lock:
        if context.current_runtime() is None:
            init()


def _at_exit() -> None:
    """The interpreter ends: whatever is called from now on, by finalisers say, must not start a new mesh.

    Another Ctrl-C by now ends what is waited for, and leaves no traceback: what it asks for is happening."""
    context.on_missing(_refuse_at_exit)
    while True:
        try:
            shutdown()
            return
        except KeyboardInterrupt:
            continue  # all was ended, unless it came before anything was


def _refuse_at_exit() -> Never:
    raise NotInitialisedError("the interpreter is shutting down, and the mesh is gone")


def _in_forked_child() -> None:
    """Only this thread came along, and sockets are shared with the parent: nothing that was inherited may be used."""
    global _lock
    _lock = threading.RLock()
    running = context.current_runtime()
    if running is not None:
        _inherited.append(running)
        context.set_runtime(None)
        context.on_missing(_refuse_in_child)


def _refuse_in_child() -> Never:
    raise NotInitialisedError(
        f"process {os.getpid()} was forked from a process of a mesh: references and handles from before the fork "
        "belong to the parent and cannot be used here. Start it with the 'spawn' method, or call meshray.init() in it "
        "for a mesh of its own"
    )


def _context_of(runtime: Runtime) -> Context:
    return Context(
        {
            "node_id": runtime.process_id[:NODE_BYTES].hex(),
            "job_id": runtime.job_id.hex(),
            "namespace": runtime.namespace,
        }
    )


# -- checks ------------------------------------------------------------------------------------------------------------


def _check_address(address: object) -> str | None:
    if address is None:
        address = os.environ.get(ADDRESS_VARIABLE) or None
    if address is None:
        return None
    if isinstance(address, os.PathLike):
        address = os.fspath(address)
    if not isinstance(address, str):
        raise TypeError(f"init: address takes a str, got {address!r}")
    if address in ("local", "auto"):
        return address
    if os.sep in address and "://" not in address:
        return os.path.abspath(address)
    if "://" not in address and ":" in address:
        from meshray.seeds import SeedError, parse_seeds  # loads `ipaddress`, which nearly no program needs

        try:
            return ",".join(map(str, parse_seeds(address)))
        except SeedError as error:
            raise ValueError(f"init: address: {error}") from None
    raise ValueError(
        f"init: address takes 'local', 'auto', 'host:port' or the path of a peer's folder, got {address!r}"
    )


def _check_number(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"init: {name} takes a number, got {value!r}")
    if not 0 <= value < 2**31:
        raise ValueError(f"init: {name} takes a number >= 0, got {value!r}")
    return value


def _check_bytes(name: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"init: {name} takes a number of bytes, got {value!r}")
    if not 0 < value < 2**60 or value != int(value):
        raise ValueError(f"init: {name} takes a whole number of bytes > 0, got {value!r}")
    return int(value)


def _check_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"init: {name} takes a bool, got {value!r}")
    return value


def _check_text(name: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"init: {name} takes a str, got {value!r}")
    if not value:
        raise ValueError(f"init: {name} cannot be an empty string")
    check_text(f"init: {name}", value)
    return value


def _check_resources(value: object) -> dict[str, float] | None:
    if value is None:
        return None
    check_resources("resources", value)
    assert isinstance(value, Mapping)
    return dict(value)


def _check_labels(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError(f"init: labels takes a dict, got {value!r}")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(f"init: labels takes str keys and values, got {name!r}: {text!r}")
    return dict(value)


def _check_environment(value: object) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    check_runtime_env("runtime_env", value)
    return env_vars({"runtime_env": value})


class _LastResort(logging.Handler):
    """What `logging` itself does with warnings where a program has configured nothing, but saying whose they are."""

    def emit(self, record: logging.LogRecord) -> None:
        if logging.getLogger().handlers or sys.stderr is None:
            return  # whatever is configured there shows it
        try:
            sys.stderr.write(f"meshray: {self.format(record)}\n")
        except Exception:  # as every handler: a log line is no reason to fail
            self.handleError(record)


def _configure_logging(level: int | str | None, line_format: str | None) -> None:
    """Set the level of our logger, and its format, on a handler of its own that replaces an earlier one of ours."""
    if level is not None:
        _logger.setLevel(level.upper() if isinstance(level, str) else level)
    if line_format is None and _logger.handlers:
        return
    for handler in [each for each in _logger.handlers if each.get_name() == "meshray.init"]:
        _logger.removeHandler(handler)
    handler = _LastResort(logging.WARNING) if line_format is None else logging.StreamHandler()
    handler.set_name("meshray.init")
    handler.setFormatter(logging.Formatter(line_format))
    _logger.addHandler(handler)


context.on_missing(_auto_init)
os.register_at_fork(after_in_child=_in_forked_child)
