"""A fresh interpreter that starts one subject once and prints its times as JSON. Imports nothing before it has to."""

from __future__ import annotations

import sys
from time import perf_counter


def small_value() -> bytes:
    return b"ok"


def with_rays_api(subject: str) -> dict[str, float]:
    start = perf_counter()
    ray = __import__(subject)
    imported = perf_counter()
    ray.init()
    ray.get(ray.remote(small_value).remote())
    first = perf_counter()
    ray.shutdown()
    return times(start, imported, first, perf_counter())


def with_process_pool() -> dict[str, float]:
    start = perf_counter()
    from concurrent.futures import ProcessPoolExecutor

    imported = perf_counter()
    pool = ProcessPoolExecutor()
    pool.submit(small_value).result()
    first = perf_counter()
    pool.shutdown()
    return times(start, imported, first, perf_counter())


def with_loky() -> dict[str, float]:
    start = perf_counter()
    from loky import ProcessPoolExecutor

    imported = perf_counter()
    pool = ProcessPoolExecutor()
    pool.submit(small_value).result()
    first = perf_counter()
    pool.shutdown()
    return times(start, imported, first, perf_counter())


def with_dask() -> dict[str, float]:
    start = perf_counter()
    from distributed import Client, LocalCluster

    imported = perf_counter()
    cluster = LocalCluster(threads_per_worker=1, dashboard_address=None)
    client = Client(cluster)
    client.submit(small_value, pure=False).result()
    first = perf_counter()
    client.close()
    cluster.close()
    return times(start, imported, first, perf_counter())


def times(start: float, imported: float, first: float, end: float) -> dict[str, float]:
    return {"import": imported - start, "init to first result": first - imported, "shutdown": end - first}


if __name__ == "__main__":
    name = sys.argv[1]
    others = {"processpool": with_process_pool, "loky": with_loky, "dask": with_dask}
    result = others[name]() if name in others else with_rays_api(name)
    import json

    print(json.dumps(result), flush=True)
