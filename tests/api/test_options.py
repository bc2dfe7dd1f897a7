from __future__ import annotations

from typing import Any

import pytest

from meshray.api.options import (
    ACTOR,
    METHOD,
    METHOD_CALL,
    RETURNS_MAX,
    TASK,
    actor_options,
    check_options,
    task_options,
)
from meshray.options import ActorOptions, TaskOptions
from meshray.strategy import ANYWHERE, LabelTest, Strategy
from meshray.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)


def test_defaults_of_a_task_are_rays() -> None:
    assert task_options({}) == TaskOptions(
        request={"CPU": 10_000}, num_returns=1, max_retries=3, retry_exceptions=False, name="", env_vars=()
    )
    assert task_options(dict.fromkeys(TASK)) == task_options({})


def test_defaults_of_an_actor_are_rays() -> None:
    assert actor_options({}) == ActorOptions(
        request={"CPU": 10_000},
        running_request={},
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=0,
        name="",
        namespace=None,
        get_if_exists=False,
        detached=False,
        env_vars=(),
    )
    assert actor_options(dict.fromkeys(ACTOR)) == actor_options({})


def test_amounts_are_exact_and_add_up() -> None:
    request = task_options({"num_cpus": 0.5, "num_gpus": 0.0001, "resources": {"disk": 2}, "memory": 100}).request
    assert request == {"CPU": 5_000, "GPU": 1, "disk": 20_000, "memory": 1_000_000}
    assert task_options({"num_cpus": 0}).request == {}


def test_gpus_are_a_part_of_one_or_whole() -> None:
    assert task_options({"num_gpus": 2}).request["GPU"] == 20_000
    with pytest.raises(ValueError, match="'num_gpus' is a part of one device"):
        task_options({"num_gpus": 1.5})


def test_the_cpu_of_an_actor_counts_for_its_life_only_when_asked_for() -> None:
    asked = actor_options({"num_cpus": 2, "num_gpus": 1})
    assert asked.request == asked.running_request == {"CPU": 20_000, "GPU": 10_000}
    silent = actor_options({"num_gpus": 1})
    assert silent.request == {"CPU": 10_000, "GPU": 10_000}
    assert silent.running_request == {"GPU": 10_000}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_cpus", "1"),
        ("num_cpus", True),
        ("num_gpus", [1]),
        ("resources", ["disk"]),
        ("resources", {1: 2}),
        ("resources", {"disk": "2"}),
        ("memory", "1GB"),
        ("num_returns", 1.5),
        ("num_returns", True),
        ("max_retries", "3"),
        ("retry_exceptions", ValueError),
        ("retry_exceptions", [int]),
        ("retry_exceptions", ["ValueError"]),
        ("name", 5),
        ("runtime_env", "x"),
        ("runtime_env", {"env_vars": ["A=1"]}),
        ("runtime_env", {"env_vars": {"A": 1}}),
        ("scheduling_strategy", 5),
        ("scheduling_strategy", NodeAffinitySchedulingStrategy("ab" * 8, soft=1)),  # type: ignore[arg-type]
        ("label_selector", "zone"),
        ("label_selector", {"zone": 1}),
        ("label_selector", {1: "zone"}),
    ],
)
def test_wrong_types_of_task_options(option: str, value: Any) -> None:
    with pytest.raises(TypeError, match=option):
        task_options({option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_cpus", -1),
        ("num_cpus", float("nan")),
        ("num_cpus", float("inf")),
        ("num_cpus", 0.00001),
        ("num_gpus", -0.5),
        ("resources", {"CPU": 1}),
        ("resources", {"GPU": 1}),
        ("resources", {"memory": 1}),
        ("resources", {"disk": -1}),
        ("memory", -1),
        ("memory", 1.5),
        ("num_returns", -1),
        ("num_returns", RETURNS_MAX + 1),
        ("num_returns", 10**9),
        ("max_retries", -2),
        ("name", ""),
        ("runtime_env", {"env_vars": {"": "1"}}),
        ("runtime_env", {"env_vars": {"A=B": "1"}}),
        ("scheduling_strategy", "SIDEWAYS"),
        ("scheduling_strategy", NodeAffinitySchedulingStrategy("ab", soft=False)),
        ("scheduling_strategy", NodeAffinitySchedulingStrategy("no hex digits", soft=False)),
        ("scheduling_strategy", NodeLabelSchedulingStrategy({"": In("a")})),
        ("scheduling_strategy", NodeLabelSchedulingStrategy({f"l{i}": In("a") for i in range(65)})),
        ("label_selector", {"": "a"}),
        ("label_selector", {"zone": ""}),
        ("label_selector", {"zone": "in()"}),
        ("label_selector", {"zone": "in(a"}),
        ("label_selector", {"zone": "!!a"}),
        ("label_selector", {f"l{i}": "a" for i in range(65)}),
    ],
)
def test_task_options_out_of_range(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        task_options({option: value})


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("max_restarts", -2, ValueError),
        ("max_restarts", 1.0, TypeError),
        ("max_task_retries", -2, ValueError),
        ("max_concurrency", 0, ValueError),
        ("max_concurrency", "2", TypeError),
        ("name", "", ValueError),
        ("namespace", "", ValueError),
        ("namespace", 1, TypeError),
        ("get_if_exists", 1, TypeError),
        ("get_if_exists", True, ValueError),  # without a name
        ("lifetime", "forever", ValueError),
    ],
)
def test_wrong_actor_options(option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=option):
        actor_options({option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_returns", "streaming"),
        ("num_returns", "dynamic"),
        ("max_calls", 1),
        ("runtime_env", {"pip": ["numpy"]}),
        ("runtime_env", {"working_dir": "."}),
        ("scheduling_strategy", PlacementGroupSchedulingStrategy(None)),
        ("accelerator_type", "H100"),
        ("enable_task_events", False),
    ],
)
def test_task_options_of_later_marks_are_named_not_swallowed(option: str, value: Any) -> None:
    with pytest.raises(NotImplementedError, match=option):
        task_options({option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("concurrency_groups", {"io": 2}),
        ("max_pending_calls", 5),
        ("allow_out_of_order_execution", True),
        ("runtime_env", {"uv": ["numpy"]}),
    ],
)
def test_actor_options_of_later_marks_are_named_not_swallowed(option: str, value: Any) -> None:
    with pytest.raises(NotImplementedError, match=option):
        actor_options({option: value})


def test_actors_are_placed_like_tasks() -> None:
    for options in ({"scheduling_strategy": "SPREAD"}, {"label_selector": {"zone": "a"}}):
        assert actor_options(options).strategy == task_options(options).strategy != actor_options({}).strategy


def test_the_defaults_of_later_marks_ask_for_nothing() -> None:
    assert task_options({"max_calls": 0, "scheduling_strategy": "DEFAULT", "runtime_env": {}}) == task_options({})
    defaults = {"max_pending_calls": -1, "allow_out_of_order_execution": False}
    assert actor_options(defaults) == actor_options({})


ALIKE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"label_selector": {"zone": "a"}}, {"zone": In("a")}),
    ({"label_selector": {"zone": "!a"}}, {"zone": NotIn("a")}),
    ({"label_selector": {"zone": "in(b, a)", "disk": "ssd"}}, {"disk": In("ssd"), "zone": In("a", "b")}),
    ({"label_selector": {"zone": "!in(a,b)"}}, {"zone": NotIn("b", "a")}),
]


@pytest.mark.parametrize(("selected", "hard"), ALIKE)
def test_a_label_selector_is_a_strategy_in_other_words(selected: dict[str, Any], hard: dict[str, Any]) -> None:
    options = task_options({"scheduling_strategy": NodeLabelSchedulingStrategy(hard)})
    assert task_options(selected) == options
    assert hash(options.strategy)


def test_a_node_is_named_by_its_id() -> None:
    with pytest.raises(TypeError, match="node_id takes the NodeID of a peer, 16 hex digits, got 5"):
        NodeAffinitySchedulingStrategy(5, soft=False)


def test_strategies_are_frozen_and_both_must_be_met() -> None:
    assert task_options({"scheduling_strategy": "SPREAD"}).strategy == Strategy(spread=True)
    affinity = NodeAffinitySchedulingStrategy("ab" * 8, soft=True)
    given = {"scheduling_strategy": affinity, "label_selector": {"zone": "a"}}
    wanted = Strategy(node=b"\xab" * 8, soft=True, hard=(LabelTest("zone", ("a",)),))
    assert task_options(given).strategy == wanted
    soft = NodeLabelSchedulingStrategy({"a": Exists()}, soft={"b": DoesNotExist()})
    wanted = Strategy(hard=(LabelTest("a"),), wished=(LabelTest("b", (), True),))
    assert task_options({"scheduling_strategy": soft}).strategy == wanted
    assert task_options({"label_selector": {}}).strategy is ANYWHERE


@pytest.mark.parametrize("table", [TASK, ACTOR, METHOD, METHOD_CALL])
def test_unknown_options(table: Any) -> None:
    with pytest.raises(ValueError, match="Invalid option keyword 'num_cpu'"):
        check_options(table, {"num_cpu": 1}, "this")


def test_options_of_the_other_kind_are_unknown() -> None:
    with pytest.raises(ValueError, match="Invalid option keyword 'max_restarts' for a remote function"):
        task_options({"max_restarts": 1})
    with pytest.raises(ValueError, match="Invalid option keyword 'max_retries' for an actor"):
        actor_options({"max_retries": 1})


def test_env_vars_are_ordered_so_that_equal_ones_are_equal() -> None:
    one = task_options({"runtime_env": {"env_vars": {"B": "2", "A": "1"}}})
    assert one.env_vars == (("A", "1"), ("B", "2"))


def test_strategies_check_what_they_hold() -> None:
    with pytest.raises(TypeError):
        In()
    with pytest.raises(TypeError):
        NodeLabelSchedulingStrategy({"zone": "a"})  # type: ignore[dict-item]
