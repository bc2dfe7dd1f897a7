"""How long until a death is known to all, and until a healed mesh agrees? Of simulated meshes that were up a while.

    python -m tests.sim.detection [SEEDS]          30 when none is given; takes some minutes of CPU

prints the tables of `docs/membership.md`: over so many seeds the median and the 99th percentile, in seconds.
"""

from __future__ import annotations

import sys

from tests.sim.mesh import MeshWorld

UP_S = 40.0  # for so long the mesh has been up when something happens
SIZES = (3, 10, 20)
GIVE_UP_S = 600.0


def death(count: int, seed: int, noisy: bool) -> float:
    """Until the last peer knows that one has died; `noisy`: its connections close."""
    world = MeshWorld(seed)
    world.start_mesh(count, settle_s=UP_S)
    victim = world.random.choice(world.hosts)
    victim.crash(noisy)
    return world.run_until(world.agrees, GIVE_UP_S, step_s=0.05)


def healing(count: int, seed: int) -> float:
    """Until all agree after a partition of 10 to 60 s, in two parts of any sizes."""
    world = MeshWorld(seed)
    world.start_mesh(count, settle_s=UP_S)
    ones = set(world.random.sample(range(count), world.random.randrange(1, count)))
    world.cut(ones, set(range(count)) - ones)
    world.run_for(world.random.uniform(10, 60))
    world.heal()
    return world.run_until(world.agrees, GIVE_UP_S, step_s=0.05)


def middle_and_worst(times: list[float]) -> str:
    ordered = sorted(times)
    return f"{ordered[len(ordered) // 2]:.1f} s, {ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]:.1f} s"


def main() -> None:
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
    print(
        "| peers | death with closing connections: median, 99 % | silent death: median, 99 % | healing: median, 99 % |"
    )
    print("|---|---|---|---|")
    for count in SIZES:
        columns = (
            [death(count, seed, noisy=True) for seed in seeds],
            [death(count, seed, noisy=False) for seed in seeds],
            [healing(count, seed) for seed in seeds],
        )
        print(f"| {count} | {' | '.join(map(middle_and_worst, columns))} |", flush=True)


if __name__ == "__main__":
    main()
