"""Do these arguments fit that signature?

Binding a signature costs 6 us, a whole submission should cost little more. So the range of positional counts that needs
no look at names is worked out once; only calls outside of it, or with keywords, are bound in full.

The description is plain data, so that it travels inside handles; defaults do not travel, only that there is one.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any

Described = tuple[str, int, bool]  # name, kind, has a default

_MANY = sys.maxsize


def _range(described: tuple[Described, ...] | None) -> tuple[int, int]:
    """The positional counts that fit without keywords; an empty range when some keyword is always needed."""
    if described is None:
        return 0, _MANY
    low = high = 0
    for _, kind, optional in described:
        if kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
            high += 1
            low += not optional
        elif kind == Parameter.VAR_POSITIONAL:
            high = _MANY
        elif kind == Parameter.KEYWORD_ONLY and not optional:
            return 1, 0
    return low, high


class Arity:
    """What a callable takes. `low <= len(args) <= high` without keywords needs no `check`."""

    __slots__ = ("_signature", "described", "high", "low")

    described: tuple[Described, ...] | None  # None: unknown, everything fits
    low: int
    high: int

    def __init__(self, described: Sequence[Described] | None) -> None:
        self._signature: Signature | None = None
        self.described = None if described is None else tuple(described)
        self.low, self.high = _range(self.described)

    def check(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise the `TypeError` that calling `name` with these would raise."""
        if self.described is None:
            return
        if self._signature is None:
            self._signature = _rebuild(self.described)
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}(): {error}") from None


ANYTHING = Arity(None)

UNREAD = Arity(None)
"""Of what was just unpickled: a function or class that refers to itself is half-built then, so it is read at the first
call. Every call takes the slow path until that has happened."""

UNREAD.low, UNREAD.high = 1, 0


def arity_of(target: Callable[..., Any], *, drop_first: bool = False) -> Arity:
    """The arity of `target`, without its first parameter (`self`) if told; `ANYTHING` when it does not say."""
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return ANYTHING
    if drop_first:
        if not parameters:
            return ANYTHING  # `def method():` fails when it is called, with Python's own message
        if parameters[0].kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
            parameters = parameters[1:]
    return Arity([(each.name, int(each.kind), each.default is not Parameter.empty) for each in parameters])


_KINDS = {
    int(kind): kind
    for kind in (
        Parameter.POSITIONAL_ONLY,
        Parameter.POSITIONAL_OR_KEYWORD,
        Parameter.VAR_POSITIONAL,
        Parameter.KEYWORD_ONLY,
        Parameter.VAR_KEYWORD,
    )
}


def _rebuild(described: tuple[Described, ...]) -> Signature:
    return Signature(
        [
            Parameter(name, _KINDS[kind], default=None if optional else Parameter.empty)
            for name, kind, optional in described
        ]
    )
