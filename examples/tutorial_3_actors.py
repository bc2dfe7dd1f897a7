"""Actors: an object with state that lives in a process of its own and counts who called it."""

from __future__ import annotations

import random

import meshray as ray

CALLERS = ["A", "B", "C"]


@ray.remote
class MethodStateCounter:
    def __init__(self):
        self.invokers = {"A": 0, "B": 0, "C": 0}

    def invoke(self, name):
        self.invokers[name] += 1
        return self.invokers[name]

    def get_invoker_state(self, name):
        return self.invokers[name]

    def get_all_invoker_state(self):
        return self.invokers


def main():
    ray.init()

    counter = MethodStateCounter.remote()  # starts the actor, in another process
    print("the actor:", counter)

    for _ in range(10):
        name = random.choice(CALLERS)
        ref = counter.invoke.remote(name)
        print(f"called by {name}: {ref} = {ray.get(ref)}")

    # Calls of one caller run in the order in which they were made, so no waiting is needed between them.
    for _ in range(10):
        counter.invoke.remote(random.choice(CALLERS))
    name = random.choice(CALLERS)
    print(f"calls by {name}:", ray.get(counter.get_invoker_state.remote(name)))
    print("all calls:", ray.get(counter.get_all_invoker_state.remote()))

    ray.shutdown()


if __name__ == "__main__":
    main()
