"""What does membership cost? Messages and bytes per peer and second, of meshes of several sizes.

    python -m tests.sim.traffic [SIZE ...]          10, 100 and 1000 when none is given; takes some minutes of CPU

prints the table of `docs/membership.md`. A mesh joins through one seed within a second, rests for a minute, then is
measured for a minute of its own time: at rest, and with every peer having something new to say of its load twice a
second (what it may then tell is bounded, `Config.load_rate`). Bytes are those of encoded messages; envelopes,
encryption and TCP come on top. Joining is counted apart, from the first Join until all agree.
"""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass

from tests.sim.mesh import MeshWorld

REST_S = 60.0
MEASURED_S = 60.0
LOAD_BYTES = 120


@dataclass(frozen=True)
class Traffic:
    """Sent by one peer, in one second, on average."""

    messages: float
    size: float

    def __str__(self) -> str:
        return f"{self.messages:.1f} / {self.size:.0f}"


def joined(count: int, seed: int = 1, *, counts_bytes: bool = True) -> tuple[MeshWorld, float]:
    """A mesh of `count` peers that joined within a second, and how long it took until all agreed."""
    gc.disable()  # looking through a thousand tables of a thousand members for garbage would take most of the time
    try:
        return _joined(count, seed, counts_bytes)
    finally:
        gc.enable()


def _joined(count: int, seed: int, counts_bytes: bool) -> tuple[MeshWorld, float]:
    world = MeshWorld(seed, codec=False, counts_bytes=counts_bytes)
    world.add_hosts(count)
    world.hosts[0].start()
    for host in world.hosts[1:]:
        world.at(world.random.random(), lambda host=host: host.start((world.hosts[0].address,)))
    world.run_for(1.0)
    return world, 1.0 + world.run_until(world.agrees, 120.0, step_s=0.5)


def measure(world: MeshWorld, seconds: float) -> Traffic:
    world.sent = world.sent_bytes = 0
    world.run_for(seconds)
    per = len(world.hosts) * seconds
    return Traffic(world.sent / per, world.sent_bytes / per)


def busy(world: MeshWorld) -> None:
    """From now on each peer has another load twice a second."""

    def change(index: int) -> None:
        load = world.random.randbytes(LOAD_BYTES)
        world.hosts[index].event(lambda m, now: m.set_load(load, now))
        world.at(0.5, lambda: change(index))

    for host in world.hosts:
        world.at(world.random.random(), lambda index=host.index: change(index))


def main(sizes: list[int]) -> None:
    print("| peers | joining: until all agree, bytes per peer | at rest | loads change twice a second |")
    print("|---|---|---|---|")
    for count in sizes:
        world, took_s = joined(count)
        joining = world.sent_bytes / count
        world.run_for(REST_S)
        rest = measure(world, MEASURED_S)
        busy(world)
        world.run_for(max(REST_S / 2, 1.5 * count / world.config.load_rate))  # until each had its turn
        print(f"| {count} | {took_s:.1f} s, {joining / 1024:.0f} KiB | {rest} | {measure(world, MEASURED_S)} |")


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [10, 100, 1000])
