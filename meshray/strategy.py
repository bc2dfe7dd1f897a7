"""Where a task or an actor may run, and where it would best run: the checked form of `scheduling_strategy` and
`label_selector`, in which api, runtime, messages and placement share it. Part of a scheduling class, so it is hashable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

Word = Annotated[str, Meta(max_length=1024)]
Node = Annotated[bytes, Meta(max_length=8)]

TESTS_MAX = 64
"""Conditions on labels in one strategy, and values in one of these."""


class LabelTest(Struct, frozen=True, array_like=True):
    """One condition on the labels of a host::

                  values    negated
    In            some      no
    NotIn         some      yes        also met by a host that lacks the label
    Exists        none      no
    DoesNotExist  none      yes
    """

    label: Word
    values: Annotated[tuple[Word, ...], Meta(max_length=TESTS_MAX)] = ()
    negated: bool = False

    def met_by(self, labels: Mapping[str, str]) -> bool:
        """Whether a host with these labels will do."""
        there = labels.get(self.label)
        found = there in self.values if self.values else there is not None
        return found is not self.negated

    def __str__(self) -> str:
        if not self.values:
            return f"{'no ' if self.negated else ''}{self.label}"
        values = "|".join(self.values)
        return f"{self.label}{'!=' if self.negated else '='}{values}"


LabelTests = Annotated[tuple[LabelTest, ...], Meta(max_length=TESTS_MAX)]


class Strategy(Struct, frozen=True, array_like=True):
    """Where to. Everything given must hold at once; what is soft decides between hosts that will do."""

    spread: bool = False  # one after the other in turn, instead of here first
    node: Node = b""  # this node (its home id) and no other; b"": any
    soft: bool = False  # `node` is a wish: elsewhere when it is gone, or could never run it
    hard: LabelTests = ()  # labels that the host must have
    wished: LabelTests = ()  # labels that are better

    def admits(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels of a host allow it."""
        return all(test.met_by(labels) for test in self.hard)

    def prefers(self, labels: Mapping[str, str]) -> bool:
        """Whether they are also those that were wished for."""
        return all(test.met_by(labels) for test in self.wished)

    def __str__(self) -> str:
        parts = [str(test) for test in self.hard]
        if self.node:
            parts.append(f"node {self.node.hex()}")
        return ", ".join(parts)


ANYWHERE = Strategy()
"""The default: where its large arguments are, then here, then wherever there is room."""
