"""A driver on a host that shares large values with others: `python -m tests.lan.sharer`.

Lines are JSON, and so are the answers, one each. Values have names here, their references too::

    {"do": "put", "name": "x", "size": 50000000, "seed": 1}     an array of that many random bytes
    {"do": "make", "name": "y", "size": ..., "seed": ..., "node": HEX}     the same, made by a task on that host
    {"do": "make", ..., "soft": true, "retries": 2}     the same, or on another one when that is gone; so often
    {"do": "grow", "name": "z", "of": "y", "node": HEX}     made of y by a task, there or elsewhere: each byte one more
    {"do": "put there", "name": "x", "size": ..., "node": HEX}     put by a task on that host
    {"do": "call", "names": [...], "node": HEX}     like "digest", by an actor there or elsewhere
    {"do": "digest", "names": [...], "nodes": [...]}   each of these hosts reads all of these, at the same time: what
                                                       each got, and that as a whole within a `list` when "nested"
    {"do": "raw", "size": ..., "seed": ..., "node": HEX}     such an array as an argument, without a reference
    {"do": "keep", "name": "x", "node": HEX}    a worker there keeps the reference for good
    {"do": "get", "name": "y"}      this process reads it
    {"do": "drop", "name": "y"}

What a value must be is known from its seed, so each answer tells hashes that the test computes by itself.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import numpy

import meshray
from meshray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.lan.out import tell


def value(size: int, seed: int) -> Any:
    return numpy.random.default_rng(seed).integers(0, 256, size, dtype=numpy.uint8)


def digest(array: Any) -> str:
    return hashlib.blake2b(array, digest_size=8).hexdigest()


@meshray.remote
def make(size: int, seed: int) -> Any:
    return value(size, seed)


@meshray.remote
def grow(array: Any) -> Any:
    return array + numpy.uint8(1)


@meshray.remote
def put_there(size: int) -> list[Any]:
    return [meshray.put(value(size, 1))]


@meshray.remote
class Reader:
    def read(self, *arrays: Any) -> list[str]:
        return [digest(array) for array in arrays]


@meshray.remote
def read(*arrays: Any) -> list[str]:
    return [digest(array) for array in arrays]


@meshray.remote
def read_nested(refs: list[Any]) -> list[str]:
    return [digest(array) for array in meshray.get(refs)]


@meshray.remote
def pass_on(refs: list[Any]) -> list[Any]:
    """References come and go; what was inside leaves with the result."""
    return list(refs)


KEPT: list[Any] = []


@meshray.remote
def keep(refs: list[Any]) -> None:
    KEPT.extend(refs)


def on(task: Any, node: str, soft: bool = False, retries: int = 1) -> Any:
    return task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft), max_retries=retries)


def act(told: dict[str, Any], refs: dict[str, Any]) -> dict[str, Any]:
    what = told["do"]
    if what == "put":
        refs[told["name"]] = meshray.put(value(told["size"], told["seed"]))
    elif what == "make":
        task = on(make, told["node"], told.get("soft", False), told.get("retries", 1))
        refs[told["name"]] = task.remote(told["size"], told["seed"])
    elif what == "grow":
        refs[told["name"]] = on(grow, told["node"], True).remote(refs[told["of"]])
    elif what == "put there":
        (refs[told["name"]],) = meshray.get(on(put_there, told["node"]).remote(told["size"]), timeout=60)
    elif what == "call":
        strategy = NodeAffinitySchedulingStrategy(told["node"], True)
        reader = Reader.options(scheduling_strategy=strategy).remote()
        return {"digests": meshray.get(reader.read.remote(*(refs[name] for name in told["names"])), timeout=60)}
    elif what == "digest":
        wanted = [refs[name] for name in told["names"]]
        if told.get("nested"):
            results = [on(read_nested, node).remote(wanted) for node in told["nodes"]]
        else:
            results = [on(read, node).remote(*wanted) for node in told["nodes"]]
        return {"digests": meshray.get(results, timeout=told.get("timeout", 60))}
    elif what == "raw":
        result = on(read, told["node"]).remote(value(told["size"], told["seed"]))
        return {"digests": meshray.get([result], timeout=60)}
    elif what == "keep":
        meshray.get(on(keep, told["node"]).remote([refs[told["name"]]]), timeout=60)
    elif what == "pass":
        (refs[told["name"]],) = meshray.get(on(pass_on, told["node"]).remote([refs[told["name"]]]), timeout=60)
    elif what == "wait":
        meshray.wait([refs[told["name"]]], timeout=60)
    elif what == "get":
        return {"digest": digest(meshray.get(refs[told["name"]], timeout=told.get("timeout", 60)))}
    elif what == "drop":
        del refs[told["name"]]
    return {}


def main() -> None:
    meshray.init("auto")
    refs: dict[str, Any] = {}
    answer: dict[str, Any] = {"node": meshray.get_runtime_context().get_node_id()}
    while True:
        tell(answer)
        line = sys.stdin.readline()
        if not line:
            break
        try:
            answer = act(json.loads(line), refs)
        except Exception as error:
            answer = {"error": type(error).__name__, "text": str(error)}
    meshray.shutdown()


if __name__ == "__main__":
    main()
