"""The public API, held against the tables of the specification."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from typing import Any

import pytest

import meshray
from meshray.api import options

NONE, REQUIRED = None, inspect.Parameter.empty

# function -> (positional parameters, keyword-only parameters), each with its default
SIGNATURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "init": (
        {"address": NONE},
        {
            "num_cpus": NONE,
            "num_gpus": NONE,
            "resources": NONE,
            "labels": NONE,
            "object_store_memory": NONE,
            "ignore_reinit_error": False,
            "namespace": NONE,
            "runtime_env": NONE,
            "log_to_driver": True,
            "configure_logging": True,
            "logging_level": NONE,
            "logging_format": NONE,
            "include_dashboard": NONE,
            "dashboard_host": NONE,
            "dashboard_port": NONE,
        },
    ),
    "shutdown": ({}, {}),
    "is_initialized": ({}, {}),
    "get": ({"refs": REQUIRED}, {"timeout": NONE}),
    "put": ({"value": REQUIRED}, {}),
    "wait": ({"refs": REQUIRED}, {"num_returns": 1, "timeout": NONE, "fetch_local": True}),
    "cancel": ({"ref": REQUIRED}, {"force": False, "recursive": True}),
    "kill": ({"actor": REQUIRED}, {"no_restart": True}),
    "get_actor": ({"name": REQUIRED, "namespace": NONE}, {}),
    "nodes": ({}, {}),
    "cluster_resources": ({}, {}),
    "available_resources": ({}, {}),
    "get_gpu_ids": ({}, {}),
    "get_runtime_context": ({}, {}),
    "timeline": ({"filename": NONE}, {}),
}

TASK_OPTIONS = [
    "num_cpus",
    "num_gpus",
    "resources",
    "memory",
    "num_returns",
    "max_retries",
    "retry_exceptions",
    "max_calls",
    "name",
    "runtime_env",
    "scheduling_strategy",
    "label_selector",
]
ACTOR_OPTIONS = [
    "num_cpus",
    "num_gpus",
    "resources",
    "memory",
    "max_restarts",
    "max_task_retries",
    "max_concurrency",
    "concurrency_groups",
    "max_pending_calls",
    "name",
    "namespace",
    "get_if_exists",
    "lifetime",
    "allow_out_of_order_execution",
    "runtime_env",
    "scheduling_strategy",
    "label_selector",
]
METHOD_OPTIONS = ["num_returns", "concurrency_group", "max_task_retries", "retry_exceptions"]

MODULES = {
    "meshray.exceptions": ["RayError", "RayTaskError", "RayActorError", "GetTimeoutError", "NodeDiedError"],
    "meshray.actor": ["exit_actor", "ActorClass", "ActorHandle", "ActorMethod"],
    "meshray.util.scheduling_strategies": [
        "NodeAffinitySchedulingStrategy",
        "NodeLabelSchedulingStrategy",
        "PlacementGroupSchedulingStrategy",
        "In",
        "NotIn",
        "Exists",
        "DoesNotExist",
    ],
}

RUNTIME_CONTEXT = [
    "get_job_id",
    "get_node_id",
    "get_worker_id",
    "get_task_id",
    "get_actor_id",
    "get_task_name",
    "get_actor_name",
    "namespace",
    "get_assigned_resources",
    "get_accelerator_ids",
    "was_current_actor_reconstructed",
    "current_actor",
]


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    positional, keywords = SIGNATURES[name]
    found = list(inspect.signature(getattr(meshray, name)).parameters.values())
    of_kind = {
        kind: {each.name: each.default for each in found if each.kind == kind}
        for kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }
    assert of_kind[inspect.Parameter.POSITIONAL_OR_KEYWORD] == positional
    assert of_kind[inspect.Parameter.KEYWORD_ONLY] == keywords


def test_options_are_those_of_the_table() -> None:
    assert set(TASK_OPTIONS) <= set(options.TASK)
    assert set(ACTOR_OPTIONS) <= set(options.ACTOR)
    assert set(METHOD_OPTIONS) <= set(options.METHOD)
    assert not {"max_restarts", "lifetime", "max_concurrency"} & set(options.TASK)
    assert not {"max_retries", "num_returns", "max_calls"} & set(options.ACTOR)


@pytest.mark.parametrize("module", MODULES)
def test_paths_that_programs_import(module: str) -> None:
    found = importlib.import_module(module)
    assert not [name for name in MODULES[module] if not hasattr(found, name)]


def test_import_of_the_package_alone_gives_its_modules() -> None:
    """Programs write `ray.actor.exit_actor()`, `ray.util.scheduling_strategies.In`, and import nothing else."""
    paths = [f"{module}.{name}" for module, names in MODULES.items() for name in names]
    program = "import meshray; " + "; ".join(paths)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_ids() -> None:
    for name in ("ActorID", "NodeID", "JobID", "TaskID", "WorkerID", "ObjectID", "FunctionID", "PlacementGroupID"):
        cls = getattr(meshray, name)
        made = cls.from_random()
        assert cls.from_hex(made.hex()) == cls.from_binary(made.binary()) == cls(bytes(made)) == made
        assert len(made.binary()) == cls.size()
        assert cls.nil().is_nil()
        assert not made.is_nil()
        assert repr(made) == f"{name}({made.hex()})"
        for wrong in (None, 5, "text"):
            with pytest.raises(TypeError, match=name):
                cls(wrong)
        for short in (b"", made.binary() + b"x"):
            with pytest.raises(ValueError, match=name):
                cls(short)
        with pytest.raises(ValueError, match=name):
            cls.from_hex("no hexadecimal")
    methods = ["hex", "binary", "from_hex", "from_binary", "nil", "is_nil", "size"]
    methods += ["task_id", "job_id", "future", "as_future", "__await__"]
    assert not [name for name in methods if not hasattr(meshray.ObjectRef, name)]
    assert meshray.ObjectRef[int].__origin__ is meshray.ObjectRef  # type: ignore[attr-defined]


def test_the_runtime_context_has_what_it_should() -> None:
    from meshray.api.status import RuntimeContext

    assert not [name for name in RUNTIME_CONTEXT if not hasattr(RuntimeContext, name)]


def test_public_names_exist_and_are_listed() -> None:
    assert meshray.__all__ == sorted(meshray.__all__)
    assert not [name for name in meshray.__all__ if not hasattr(meshray, name)]
    assert set(SIGNATURES) | {"remote", "method", "ObjectRef", "exceptions"} <= set(meshray.__all__)
