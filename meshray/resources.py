"""Resource sets: amounts of CPU, GPU, memory and custom resources, exact to 0.0001.

An amount is an integer number of ten-thousandths, so that taking and giving back never drifts as floats do. `memory`
and `object_store_memory` count bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

UNIT = 10_000

QUANTITY_MAX = 1e14
"""Of one resource: 100 TB of memory, in bytes. In units it fits into 64 bits, as peers tell it."""

Amounts = Mapping[str, int]  # resource name -> ten-thousandths, never zero or below


def to_amounts(quantities: Mapping[str, float]) -> dict[str, int]:
    """Turn quantities as people write them into exact amounts; zero entries vanish.

    Raises `ValueError` for a negative quantity, one finer than 0.0001, and one beyond `QUANTITY_MAX`.
    """
    amounts: dict[str, int] = {}
    for name, quantity in quantities.items():
        if quantity < 0:
            raise ValueError(f"the quantity of resource {name!r} is negative: {quantity}")
        if not quantity <= QUANTITY_MAX:
            raise ValueError(f"the quantity of resource {name!r} is no number up to {QUANTITY_MAX:g}: {quantity}")
        amount = round(quantity * UNIT)
        if quantity and not amount:
            raise ValueError(f"the quantity of resource {name!r} is finer than 0.0001: {quantity}")
        if amount:
            amounts[name] = amount
    return amounts


def to_quantities(amounts: Amounts) -> dict[str, float]:
    """The inverse of `to_amounts`, as floats."""
    return {name: amount / UNIT for name, amount in amounts.items()}


def fits(request: Amounts, available: Amounts) -> bool:
    """Whether `available` covers `request`."""
    for name, amount in request.items():  # noqa: SIM110 - a third of the time of `all`, for each class and member
        if available.get(name, 0) < amount:
            return False
    return True


def missing(request: Amounts, total: Amounts) -> dict[str, int]:
    """What `request` asks beyond `total`."""
    return {name: amount - total.get(name, 0) for name, amount in request.items() if amount > total.get(name, 0)}


def describe(amounts: Amounts) -> str:
    """For people: `{CPU: 1, GPU: 0.5}`."""
    parts = (f"{name}: {amount / UNIT:g}" for name, amount in sorted(amounts.items()))
    return "{" + ", ".join(parts) + "}"
