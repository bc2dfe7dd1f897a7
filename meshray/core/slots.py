"""What is free here? The books of one peer's resources.

Per resource: `used` is what was granted less what blocked workers gave back. A grant needs room below `total`. A
worker that wakes from `get` runs at once, so `used` may pass `total`: the excess is a debt, and while there is one
nothing that needs the resource is granted (PROTOCOLS 5, invariant I4)::

    granted - blocked = used <= total + debt

Only CPUs are ever given back by a blocked worker: a device or a licence is still held by whoever waits.

GPUs are more than an amount: a request gets device ids. A fraction stays on one device, more than one must be whole.
"""

from __future__ import annotations

from collections.abc import Mapping

from meshray.resources import UNIT, Amounts, describe, fits, missing

CPU = "CPU"
GPU = "GPU"


class Slots:
    """Amounts and GPU devices of one peer; all amounts in ten-thousandths."""

    def __init__(self, total: Amounts) -> None:
        self.total: dict[str, int] = dict(total)  # never changes
        self.used: dict[str, int] = dict.fromkeys(total, 0)  # granted less blocked; keys as `total`
        self.debt = 0  # CPU by which `used` passes `total`; grows in `wake` only, shrinks in `give`
        devices, rest = divmod(self.total.get(GPU, 0), UNIT)
        self._gpu_free: list[int] = [UNIT] * devices + ([rest] if rest else [])  # per device id, what is free of it

    def why_never(self, request: Amounts) -> str:
        """Why `request` can never be met here, for people; "" when it can."""
        gpu = request.get(GPU, 0)
        if gpu > UNIT and gpu % UNIT:
            return f"it asks for {gpu / UNIT:g} GPUs: more than one must be a whole number"
        short = missing(request, self.total)
        if short:
            there = {name: self.total.get(name, 0) for name in request}
            return f"it asks for {describe(request)}, there is {describe(there)}"
        return ""

    def free(self) -> dict[str, int]:
        """What could be granted now; never negative."""
        return {name: max(0, amount - self.used[name]) for name, amount in self.total.items()}

    def fits(self, request: Amounts) -> bool:
        """Whether `take(request)` would work now."""
        if not all(self.used.get(name, 0) + amount <= self.total.get(name, 0) for name, amount in request.items()):
            return False
        gpu = request.get(GPU, 0)
        return not gpu or self._find_gpus(gpu) is not None

    def take(self, request: Amounts) -> tuple[int, ...]:
        """Grant `request`, which fits; the GPU ids that it got, ascending."""
        assert fits(request, self.free()), f"granted {describe(request)} of {self}"
        for name, amount in request.items():
            self.used[name] += amount
        gpu = request.get(GPU, 0)
        if not gpu:
            return ()
        found = self._find_gpus(gpu)
        assert found is not None, f"granted {gpu / UNIT:g} GPUs of {self._gpu_free}"
        for device in found:
            self._gpu_free[device] -= min(gpu, UNIT)
        return found

    def give(self, amounts: Amounts, gpu_ids: tuple[int, ...] = ()) -> None:
        """Take back what was granted, with the GPU ids that `take` returned; repays debt."""
        for name, amount in amounts.items():
            self.used[name] -= amount
        gpu = amounts.get(GPU, 0)
        for device in gpu_ids if gpu else ():
            self._gpu_free[device] += min(gpu, UNIT)
        self.debt = max(0, min(self.debt, self.used.get(CPU, 0) - self.total.get(CPU, 0)))
        self.check()

    def block(self, cpu: int) -> None:
        """A worker that was granted `cpu` waits: others may use it."""
        if cpu:
            self.give({CPU: cpu})

    def wake(self, cpu: int) -> None:
        """That worker runs again, at once, whatever is free."""
        if cpu:
            self.used[CPU] += cpu
            self.debt = max(self.debt, self.used[CPU] - self.total[CPU])
            self.check()

    def check(self) -> None:
        """Invariant I4 of FAULTS.md."""
        for name, amount in self.used.items():
            allowed = self.total[name] + (self.debt if name == CPU else 0)
            assert 0 <= amount <= allowed, f"I4 broken for {name}: {self}"
        assert all(0 <= free <= UNIT for free in self._gpu_free), f"I4 broken for GPU ids: {self._gpu_free}"

    def _find_gpus(self, amount: int) -> tuple[int, ...] | None:
        """Devices for `amount`, or None. A fraction goes where it fits most tightly, so whole devices stay whole."""
        if amount >= UNIT:
            whole = [device for device, free in enumerate(self._gpu_free) if free == UNIT]
            count = amount // UNIT
            return tuple(whole[:count]) if len(whole) >= count and not amount % UNIT else None
        fitting = [(free, device) for device, free in enumerate(self._gpu_free) if free >= amount]
        return (min(fitting)[1],) if fitting else None

    def __repr__(self) -> str:
        debt = f", debt {self.debt / UNIT:g} CPU" if self.debt else ""
        return f"Slots(used {describe(self.used)} of {describe(self.total)}{debt})"


def subtract(amounts: Mapping[str, int], less: Amounts) -> dict[str, int]:
    """What of `amounts` is beyond `less`, without zero entries."""
    rest = {name: amount - less.get(name, 0) for name, amount in amounts.items()}
    return {name: amount for name, amount in rest.items() if amount > 0}
