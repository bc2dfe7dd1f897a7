"""Where a task should run, as values of the option `scheduling_strategy`. Those of placement groups, and all of them
for actors, are still refused with `NotImplementedError`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "DoesNotExist",
    "Exists",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "PlacementGroupSchedulingStrategy",
]


@dataclass(frozen=True)
class PlacementGroupSchedulingStrategy:
    """Inside a bundle of a placement group; -1 is any bundle."""

    placement_group: Any
    placement_group_bundle_index: int = -1
    placement_group_capture_child_tasks: bool | None = None


@dataclass(frozen=True)
class NodeAffinitySchedulingStrategy:
    """On the peer of this id; with `soft`, elsewhere when it is gone."""

    node_id: Any  # hex, or a NodeID; kept as hex
    soft: bool

    def __post_init__(self) -> None:
        if not isinstance(self.node_id, str):
            if not hasattr(self.node_id, "hex"):
                raise TypeError(f"node_id takes the NodeID of a peer, 16 hex digits, got {self.node_id!r}")
            object.__setattr__(self, "node_id", self.node_id.hex())


@dataclass(frozen=True, init=False)
class In:
    """The label has one of these values."""

    values: tuple[str, ...]

    def __init__(self, *values: str) -> None:
        object.__setattr__(self, "values", _checked(values))


@dataclass(frozen=True, init=False)
class NotIn:
    """The label has none of these values."""

    values: tuple[str, ...]

    def __init__(self, *values: str) -> None:
        object.__setattr__(self, "values", _checked(values))


@dataclass(frozen=True)
class Exists:
    """The label is there."""


@dataclass(frozen=True)
class DoesNotExist:
    """The label is not there."""


Condition = In | NotIn | Exists | DoesNotExist


@dataclass(frozen=True)
class NodeLabelSchedulingStrategy:
    """On peers whose labels meet the `hard` conditions, those that meet the `soft` ones first."""

    hard: dict[str, Condition]
    soft: dict[str, Condition] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        for conditions in (self.hard, self.soft):
            for label, condition in conditions.items():
                if not _are(str, label) or not _are(In | NotIn | Exists | DoesNotExist, condition):
                    raise TypeError(f"labels map to In, NotIn, Exists or DoesNotExist, got {label!r}: {condition!r}")


def _are(kind: Any, value: object) -> bool:
    return isinstance(value, kind)


def _checked(values: tuple[Any, ...]) -> tuple[str, ...]:
    if not values or not all(isinstance(value, str) for value in values):
        raise TypeError(f"takes one label value or more, as str, got {values!r}")
    return values
