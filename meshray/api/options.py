"""Are these options right, and what do they ask for?

Tables, one per kind of thing: the option's name leads to its check. A check returns nothing and raises

- `TypeError` for a value of the wrong type, `ValueError` for one out of range,
- `NotImplementedError` for what this version does not do yet: an option is never swallowed.

`None` always means "not given". The frozen results are those of `meshray.options`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from meshray.ids import NODE_BYTES
from meshray.options import ActorOptions, TaskOptions
from meshray.resources import to_amounts
from meshray.strategy import ANYWHERE, TESTS_MAX, LabelTest, Strategy
from meshray.util.scheduling_strategies import (
    DoesNotExist,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)

Check = Callable[[str, Any], None]

RETURNS_MAX = 1 << 14
"""Each return has a record at its owner, made at the call, and large ones a mapping of their own, of which Linux gives
a process 65,530."""


def _number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"option {name!r} takes a number, got {value!r}")
    if not 0 <= value < 2**48:  # NaN fails as well
        raise ValueError(f"option {name!r} takes a finite number >= 0, got {value!r}")
    if value and value < 0.0001:
        raise ValueError(f"option {name!r} is exact to 0.0001, got {value!r}")


def _gpus(name: str, value: Any) -> None:
    """A part of one device, or whole ones."""
    _number(name, value)
    if value > 1 and value != int(value):
        raise ValueError(f"option {name!r} is a part of one device or a whole number of them, got {value!r}")


def _whole(name: str, value: Any, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"option {name!r} takes an int, got {value!r}")
    if value < least:
        raise ValueError(f"option {name!r} takes an int >= {least}, got {value!r}")


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"option {name!r} takes a bool, got {value!r}")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"option {name!r} takes a str, got {value!r}")
    if not value:
        raise ValueError(f"option {name!r} cannot be an empty string")
    check_text(f"option {name!r}", value)


def check_text(what: str, text: str, most: int = 1024) -> None:
    """A text that a message can carry: the receiver would refuse any other, and never answer."""
    if len(text) > most:
        raise ValueError(f"{what} takes at most {most} characters, got {len(text)}")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{what} cannot be written in UTF-8: {error}") from None


def _memory(name: str, value: Any) -> None:
    _number(name, value)
    if value != int(value):
        raise ValueError(f"option {name!r} takes a whole number of bytes, got {value!r}")


def _returns(name: str, value: Any) -> None:
    if value in ("streaming", "dynamic"):
        raise NotImplementedError(f"option num_returns={value!r} (streaming generators) is not there yet")
    _whole(name, value, least=0)
    if value > RETURNS_MAX:
        raise ValueError(
            f"option 'num_returns' is at most {RETURNS_MAX}, got {value}: return a list as one value, or put() its "
            "parts in the task and return the references"
        )


def check_resources(name: str, value: Any) -> None:
    """Custom resources: a dictionary of names and quantities, without "CPU" and "GPU"."""
    if not isinstance(value, Mapping):
        raise TypeError(f"option {name!r} takes a dict, got {value!r}")
    for key, quantity in value.items():
        if not isinstance(key, str):
            raise TypeError(f"option {name!r} takes str keys, got {key!r}")
        if key in ("CPU", "GPU"):
            raise ValueError(f"option {name!r} cannot hold {key!r}: use num_{key.lower()}s")
        if key in ("memory", "object_store_memory") or not key:
            raise ValueError(f"option {name!r} cannot hold {key!r}: use the option of that name")
        check_text(f"a key of option {name!r}", key)
        _number(f"{name}[{key!r}]", quantity)


def _retry_exceptions(name: str, value: Any) -> None:
    if isinstance(value, bool):
        return
    if not isinstance(value, list | tuple):
        raise TypeError(f"option {name!r} takes a bool or a list of exception types, got {value!r}")
    for each in value:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise TypeError(f"option {name!r} takes exception types, got {each!r}")


def check_runtime_env(name: str, value: Any) -> None:
    """A dictionary with `env_vars` at most."""
    if not isinstance(value, Mapping):
        raise TypeError(f"option {name!r} takes a dict, got {value!r}")
    for key, part in value.items():
        if key != "env_vars":
            raise NotImplementedError(f"option {name}[{key!r}] is not there yet; env_vars is")
        if not isinstance(part, Mapping):
            raise TypeError(f"option {name}['env_vars'] takes a dict, got {part!r}")
        for variable, text in part.items():
            if not isinstance(variable, str) or not isinstance(text, str):
                raise TypeError(f"option {name}['env_vars'] takes str keys and values, got {variable!r}: {text!r}")
            if not variable or "=" in variable or "\0" in variable + text:
                raise ValueError(f"option {name}['env_vars']: no such variable can be set: {variable!r}")
            check_text(f"option {name}['env_vars']: the name of a variable", variable)
            check_text(f"option {name}['env_vars'][{variable!r}]", text, 64 * 1024)


def _strategy(name: str, value: Any) -> None:
    if isinstance(value, PlacementGroupSchedulingStrategy):
        raise NotImplementedError(f"option {name}={value!r} is not there yet: placement groups are not")
    if isinstance(value, str):
        if value not in ("DEFAULT", "SPREAD"):
            raise ValueError(f"option {name!r} takes 'DEFAULT', 'SPREAD' or a strategy object, got {value!r}")
    elif isinstance(value, NodeAffinitySchedulingStrategy):
        _node(name, value.node_id)
        _flag(f"{name}.soft", value.soft)
    elif isinstance(value, NodeLabelSchedulingStrategy):
        for conditions in (value.hard, value.soft):
            _label_tests(name, conditions)
    else:
        raise TypeError(f"option {name!r} takes a str or a strategy object, got {value!r}")


def _node(name: str, text: str) -> bytes:
    """The node that a program means, by what `NodeID` in `nodes()` says."""
    try:
        node = bytes.fromhex(text)
    except ValueError:
        node = b""
    if len(node) != NODE_BYTES:
        raise ValueError(f"option {name!r} takes the NodeID of a peer, {2 * NODE_BYTES} hex digits, got {text!r}")
    return node


def _label_tests(name: str, conditions: Mapping[str, Any]) -> tuple[LabelTest, ...]:
    """The conditions of a NodeLabelSchedulingStrategy, in one order, so that equal ones are equal."""
    if len(conditions) > TESTS_MAX:
        raise ValueError(f"option {name!r} takes at most {TESTS_MAX} labels, got {len(conditions)}")
    return tuple(_label_test(name, label, conditions[label]) for label in sorted(conditions))


def _label_test(name: str, label: str, condition: Any) -> LabelTest:
    values = tuple(sorted(set(condition.values))) if isinstance(condition, In | NotIn) else ()
    if not label or len(values) > TESTS_MAX:
        raise ValueError(f"option {name!r}: a label has a name and at most {TESTS_MAX} values, got {label!r}: {values}")
    for text in (label, *values):
        check_text(f"a label of option {name!r}", text)
    return LabelTest(label, values, isinstance(condition, NotIn | DoesNotExist))


def _label_selector(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"option {name!r} takes a dict, got {value!r}")
    for label, wanted in value.items():
        if not isinstance(label, str) or not isinstance(wanted, str):
            raise TypeError(f"option {name!r} takes str keys and values, got {label!r}: {wanted!r}")
    _label_tests(name, _selected(name, value))


def _selected(name: str, selector: Mapping[str, str]) -> dict[str, In | NotIn]:
    """Ray's spelling of conditions: "value", "!value", "in(a, b)", "!in(a, b)"."""
    found: dict[str, In | NotIn] = {}
    for label, text in selector.items():
        kind = NotIn if text.startswith("!") else In
        rest = text.removeprefix("!")
        if rest.startswith("in(") and rest.endswith(")"):
            values = [value.strip() for value in rest[3:-1].split(",")]
        else:
            values = [rest]
        if not all(values) or not set("()!,").isdisjoint("".join(values)):
            raise ValueError(
                f"option {name!r} takes 'value', '!value', 'in(a,b)' or '!in(a,b)' for a label, got {label!r}: {text!r}"
            )
        found[label] = kind(*values)
    return found


def strategy_of(given: Mapping[str, Any]) -> Strategy:
    """`scheduling_strategy` and `label_selector` of checked options, as one; both must be met."""
    value = given.get("scheduling_strategy", "DEFAULT")
    selector = _label_tests("label_selector", _selected("label_selector", given.get("label_selector", {})))
    if isinstance(value, NodeAffinitySchedulingStrategy):
        return Strategy(node=_node("scheduling_strategy", value.node_id), soft=value.soft, hard=selector)
    if isinstance(value, NodeLabelSchedulingStrategy):
        hard, wished = (_label_tests("scheduling_strategy", tests) for tests in (value.hard, value.soft))
        return Strategy(hard=(*hard, *selector), wished=wished)
    if value == "SPREAD":
        return Strategy(spread=True, hard=selector)
    return Strategy(hard=selector) if selector else ANYWHERE


def _lifetime(name: str, value: Any) -> None:
    if value not in ("detached", "non_detached"):
        raise ValueError(f"option {name!r} takes None, 'detached' or 'non_detached', got {value!r}")


def _later(name: str, value: Any, *, default: object = None) -> None:
    """An option that is not built yet: only its default, which asks for nothing, is let through."""
    if type(value) is not type(default) or value != default:
        raise NotImplementedError(f"option {name!r} is not there yet (got {value!r})")


_COMMON: dict[str, Check] = {
    "num_cpus": _number,
    "num_gpus": _gpus,
    "resources": check_resources,
    "memory": _memory,
    "name": _text,
    "runtime_env": check_runtime_env,
    "scheduling_strategy": _strategy,
    "label_selector": _label_selector,
    "fallback_strategy": _later,
    "accelerator_type": _later,
    "object_store_memory": _later,
    "placement_group": partial(_later, default="default"),
    "placement_group_bundle_index": partial(_later, default=-1),
    "placement_group_capture_child_tasks": _later,
    "enable_task_events": partial(_later, default=True),
}

TASK: dict[str, Check] = {
    **_COMMON,
    "num_returns": _returns,
    "max_retries": partial(_whole, least=-1),
    "retry_exceptions": _retry_exceptions,
    "max_calls": partial(_later, default=0),
}

ACTOR: dict[str, Check] = {
    **_COMMON,
    "max_restarts": partial(_whole, least=-1),
    "max_task_retries": partial(_whole, least=-1),
    "max_concurrency": partial(_whole, least=1),
    "namespace": _text,
    "get_if_exists": _flag,
    "lifetime": _lifetime,
    "concurrency_groups": partial(_later, default={}),
    "max_pending_calls": partial(_later, default=-1),
    "allow_out_of_order_execution": partial(_later, default=False),
}

METHOD: dict[str, Check] = {
    "num_returns": _returns,
    "max_task_retries": partial(_whole, least=-1),
    "retry_exceptions": _retry_exceptions,
    "concurrency_group": _later,
    "tensor_transport": _later,
    "enable_task_events": partial(_later, default=True),
}

METHOD_CALL: dict[str, Check] = {**METHOD, "name": _text}


def check_options(table: Mapping[str, Check], options: Mapping[str, Any], what: str) -> None:
    """Check every option against its table; `what` names the thing, such as "a remote function"."""
    for name, value in options.items():
        check = table.get(name)
        if check is None:
            raise ValueError(f"Invalid option keyword {name!r} for {what}. Valid ones are: {', '.join(sorted(table))}.")
        if value is not None:
            check(name, value)


def task_options(options: Mapping[str, Any]) -> TaskOptions:
    """What a remote function's options ask for, with Ray's defaults for what they leave open."""
    check_options(TASK, options, "a remote function")
    given = _given(options)
    return TaskOptions(
        request=_amounts(given, given.get("num_cpus", 1)),
        num_returns=given.get("num_returns", 1),
        max_retries=given.get("max_retries", 3),
        retry_exceptions=freeze_exceptions(given.get("retry_exceptions", False)),
        name=given.get("name", ""),
        env_vars=env_vars(given),
        strategy=strategy_of(given),
    )


def actor_options(options: Mapping[str, Any]) -> ActorOptions:
    """What an actor class's options ask for. A CPU that nobody asked for counts for placement only."""
    check_options(ACTOR, options, "an actor")
    given = _given(options)
    if given.get("get_if_exists") and "name" not in given:
        raise ValueError("option 'get_if_exists' needs the option 'name'")
    return ActorOptions(
        request=_amounts(given, given.get("num_cpus", 1)),
        running_request=_amounts(given, given.get("num_cpus", 0)),
        max_restarts=given.get("max_restarts", 0),
        max_task_retries=given.get("max_task_retries", 0),
        max_concurrency=given.get("max_concurrency", 0),
        name=given.get("name", ""),
        namespace=given.get("namespace"),
        get_if_exists=given.get("get_if_exists", False),
        detached=given.get("lifetime") == "detached",
        env_vars=env_vars(given),
        strategy=strategy_of(given),
    )


def freeze_exceptions(value: Any) -> bool | tuple[type[BaseException], ...]:
    """`retry_exceptions` as an immutable; an empty list is the same as False."""
    return value if isinstance(value, bool) else tuple(value) or False


def env_vars(options: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The `env_vars` of a checked `runtime_env`, in one order, so that equal ones are equal."""
    environment = options.get("runtime_env") or {}
    return tuple(sorted((environment.get("env_vars") or {}).items()))


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _amounts(given: Mapping[str, Any], num_cpus: float) -> dict[str, int]:
    quantities = dict(given.get("resources", {}))
    quantities.update(CPU=num_cpus, GPU=given.get("num_gpus", 0), memory=given.get("memory", 0))
    return to_amounts(quantities)
