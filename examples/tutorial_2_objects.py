"""Objects: tasks read two files into arrays; the arrays are added by reference, and never pass through this program."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import meshray as ray

DATA = Path(__file__).parent / "data"


@ray.remote
def read_array(path):
    return np.loadtxt(path)


@ray.remote
def add_arrays(left, right):
    return left + right  # references given as arguments arrive as the arrays they stand for


@ray.remote
def sum_array(array):
    return float(array.sum())


def main():
    ray.init()

    first = read_array.remote(DATA / "first.txt")
    second = read_array.remote(DATA / "second.txt")
    print("two arrays, being read:", first, second)

    added = add_arrays.remote(first, second)  # starts when both are there
    total = sum_array.remote(added)
    print("their sum, element by element:\n", ray.get(added))
    print("and in total:", ray.get(total))

    # A large value that many tasks need is stored once, and referred to.
    shared = ray.put(np.arange(1_000_000))
    print("a stored array, summed by three tasks:", ray.get([sum_array.remote(shared) for _ in range(3)]))

    ray.shutdown()


if __name__ == "__main__":
    main()
