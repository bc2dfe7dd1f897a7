from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from meshray.api.arity import Arity, arity_of


def nothing() -> None: ...
def two(a: int, b: int) -> None: ...
def optional(a: int, b: int = 1) -> None: ...
def rest(a: int, *others: int) -> None: ...
def keyword(a: int, *, b: int) -> None: ...
def keyword_optional(a: int, *, b: int = 1) -> None: ...
def keywords(**anything: int) -> None: ...
def positional_only(a: int, /, b: int) -> None: ...


FUNCTIONS = [nothing, two, optional, rest, keyword, keyword_optional, keywords, positional_only]
CALLS: list[tuple[tuple[int, ...], dict[str, int]]] = [
    ((), {}),
    ((1,), {}),
    ((1, 2), {}),
    ((1, 2, 3), {}),
    ((1,), {"b": 2}),
    ((), {"a": 1, "b": 2}),
    ((), {"c": 1}),
    ((1, 2), {"b": 3}),
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@pytest.mark.parametrize(("args", "kwargs"), CALLS)
def test_it_refuses_what_python_refuses(
    function: Callable[..., Any], args: tuple[int, ...], kwargs: dict[str, int]
) -> None:
    try:
        function(*args, **kwargs)
        fits = True
    except TypeError:
        fits = False
    arity = Arity(arity_of(function).described)  # as rebuilt elsewhere
    in_range = not kwargs and arity.low <= len(args) <= arity.high
    assert fits or not in_range
    try:
        arity.check("f", args, kwargs)
        checked = True
    except TypeError:
        checked = False
    assert checked == fits


def test_the_error_names_the_function() -> None:
    with pytest.raises(TypeError, match=r"f\(\): missing a required argument: 'b'"):
        arity_of(two).check("f", (1,), {})


def test_a_call_with_positionals_in_range_needs_no_binding() -> None:
    assert (arity_of(two).low, arity_of(two).high) == (2, 2)
    assert (arity_of(optional).low, arity_of(optional).high) == (1, 2)
    assert arity_of(rest).high > 10**9
    assert arity_of(keyword).low > arity_of(keyword).high


def test_self_is_dropped_and_the_unknown_fits_everything() -> None:
    assert (arity_of(two, drop_first=True).low, arity_of(two, drop_first=True).high) == (1, 1)
    assert arity_of(rest, drop_first=True).low == 0
    assert arity_of(functools.partial(two, 1)).high == 1
    unknown = Arity(None)
    unknown.check("f", (1, 2, 3), {"x": 1})
    assert unknown.high > 10**9
