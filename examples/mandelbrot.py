"""A picture worth watching: tiles of the Mandelbrot set, computed on all cores, drawn in the order they get ready."""

from __future__ import annotations

import argparse
import os
import sys
import time

import numpy as np

import meshray as ray

SHADES = " .:-=+*#%@"
WIDTH, HEIGHT = 96, 32  # characters
TILE_WIDTH, TILE_HEIGHT = 8, 4
CENTRE, SPAN = -0.743_643_887 + 0.131_825_904j, 0.0105  # the valley of sea horses
RATIO = 2.0  # a character is about twice as high as it is wide


def shades_of(left, top, samples, iterations_max):
    """The mean escape time of each character of one tile, `samples` x `samples` points each, as a shade from 0 to 1."""
    x = np.arange(TILE_WIDTH * samples) / samples + left - WIDTH / 2
    y = (np.arange(TILE_HEIGHT * samples) / samples + top - HEIGHT / 2) * RATIO
    c = CENTRE + (x[np.newaxis, :] + 1j * y[:, np.newaxis]) * (SPAN / WIDTH)
    escaped_after = np.full(c.shape, iterations_max)
    inside = np.arange(c.size)  # indices of the points that have not escaped yet
    points, z = c.ravel(), np.zeros(c.size, complex)
    for iteration in range(iterations_max):
        z = z * z + points
        gone = z.real * z.real + z.imag * z.imag > 4
        if gone.any():
            escaped_after.ravel()[inside[gone]] = iteration
            inside, points, z = inside[~gone], points[~gone], z[~gone]
    shades = np.log1p(escaped_after) / np.log1p(iterations_max)
    return shades.reshape(TILE_HEIGHT, samples, TILE_WIDTH, samples).mean(axis=(1, 3))


@ray.remote
def render_tile(left, top, samples, iterations_max):
    """One tile, and who computed it."""
    return shades_of(left, top, samples, iterations_max), os.getpid()


def corners():
    """The upper left corner of each tile, in characters."""
    return [(left, top) for top in range(0, HEIGHT, TILE_HEIGHT) for left in range(0, WIDTH, TILE_WIDTH)]


class Screen:
    """Draws tiles in place on a terminal; elsewhere it prints the finished picture only."""

    def __init__(self):
        self.live = sys.stdout.isatty()
        self.rows = np.full((HEIGHT, WIDTH), " ")
        if self.live:
            print("\n" * (HEIGHT + 1))

    def draw(self, left, top, shades):
        # The valley uses only a part of the scale: stretch it over the shades.
        stretched = np.clip((shades - 0.55) / 0.4, 0, 0.999)
        tile = np.array(list(SHADES))[(stretched * len(SHADES)).astype(int)]
        self.rows[top : top + TILE_HEIGHT, left : left + TILE_WIDTH] = tile

    def show(self, status):
        if self.live:
            print(f"\x1b[{HEIGHT + 2}F{self.picture()}\n\x1b[K{status}\n", flush=True)

    def picture(self):
        return "\n".join("".join(row) for row in self.rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=24, help="points per character, in each direction")
    parser.add_argument("--iterations", type=int, default=1500, help="after so many a point counts as inside")
    options = parser.parse_args()

    ray.init()
    cpus = int(ray.cluster_resources()["CPU"])
    screen = Screen()
    start = time.perf_counter()
    corner_of = {
        render_tile.remote(left, top, options.samples, options.iterations): (left, top) for left, top in corners()
    }
    waiting, tiles, by_worker = list(corner_of), len(corner_of), {}
    while waiting:
        (ready,), waiting = ray.wait(waiting)
        shades, worker = ray.get(ready)
        by_worker[worker] = by_worker.get(worker, 0) + 1
        done = tiles - len(waiting)
        bar = ("#" * (40 * done // tiles)).ljust(40, ".")
        screen.draw(*corner_of[ready], shades)
        screen.show(f"[{bar}] {done}/{tiles} tiles, {time.perf_counter() - start:.1f} s")
    if not screen.live:
        print(screen.picture())
    shares = ", ".join(f"process {worker}: {count}" for worker, count in sorted(by_worker.items()))
    print(f"{tiles} tiles in {time.perf_counter() - start:.1f} s on {cpus} CPUs ({shares})")
    ray.shutdown()


if __name__ == "__main__":
    main()
