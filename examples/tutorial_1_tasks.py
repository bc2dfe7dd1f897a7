"""Tasks: the same function called five times in a row, then five times at once."""

from __future__ import annotations

import time

import meshray as ray


def do_some_work(x):
    time.sleep(1)  # stands for work that takes a second
    return x


@ray.remote
def do_some_work_remotely(x):
    time.sleep(1)
    return x


def main():
    start = time.perf_counter()
    results = [do_some_work(x) for x in range(5)]
    print(f"serial:   {results} in {time.perf_counter() - start:.1f} s")

    ray.init("local", num_cpus=5)  # a mesh of its own; sleeping needs no CPU, so five at once is fine anywhere

    start = time.perf_counter()
    refs = [do_some_work_remotely.remote(x) for x in range(5)]  # returns at once, with references
    results = ray.get(refs)  # waits for the values
    print(f"parallel: {results} in {time.perf_counter() - start:.1f} s")

    ray.shutdown()


if __name__ == "__main__":
    main()
