"""Actors on other hosts while workers die, links are cut, hosts sleep and lose power: nobody lives twice, nobody waits
for ever, calls keep their order and run as often as they may."""

from __future__ import annotations

from collections import defaultdict

import pytest

from meshray.config import DEFAULT
from meshray.core.calls import DEAD
from meshray.core.lives import Life
from tests.sim.actor_hosts import KILLING_S, WAKING_S, Caller, Net, Run
from tests.sim.seeds import seeds

QUIET_S = 200.0
"""After the last fault: detection (25 s), fences (11 s), pauses before restarts, and some."""


class Story:
    """Callers on every host, actors of all of them, and what happens to them."""

    def __init__(self, seed: int) -> None:
        self.net = Net(seed, hosts=3 + seed % 3)
        self.random = self.net.random
        self.callers = [host.caller(f"call{i}") for i, host in enumerate(self.net.hosts.values())]
        self.actors: list[bytes] = []
        self.off: set[bytes] = set()
        for number, caller in enumerate(self.callers * 2, 1):
            if number <= 4:
                restarts = self.random.choice((-1, -1, 3))
                self.actors.append(caller.create(number, max_restarts=restarts))
        self.net.run(1.0)

    def living(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.alive]

    def act(self, power: bool) -> None:
        """One thing happens."""
        random, net = self.random, self.net
        what = random.random()
        hosts = [host for host in net.hosts.values() if host.alive]
        if what < 0.80:
            caller = random.choice(self.living())
            net.hosts[caller.host.node].later(
                caller, 0.0, lambda: caller.call(random.choice(self.actors), random.choice((0, 0, 2))) and None
            )
        elif what < 0.88:
            host = random.choice(hosts)
            workers = [process for process in host.processes if b"call" not in process]
            if workers and not host.asleep:
                host.crash(random.choice(workers))
        elif what < 0.94:
            one, other = random.sample(sorted(net.hosts), 2)
            net.cut(one, other, random.choice((random.uniform(0.5, 5.0), random.uniform(5.0, 60.0))))
        elif what < 0.98:
            net.sleep(random.choice(hosts).node, random.choice((random.uniform(0.5, 9.0), random.uniform(9.0, 60.0))))
        elif power and len(hosts) > 2 and not self.off:
            self.off.add(random.choice(hosts).node)
            net.power_off(*self.off)

    def check(self) -> None:
        net = self.net
        per_actor: dict[bytes, list[Run]] = defaultdict(list)
        times: dict[bytes, int] = defaultdict(int)
        last: dict[tuple[bytes, int, bytes, bytes], bytes] = {}
        for run in net.runs:
            per_actor[run.actor_id].append(run)
            times[run.task_id] += 1
            self.check_alone(run)
        for caller in self.callers:
            for task_id, call in caller.made.items():
                allowed = 1 + (call.attempt if call.retries_left >= 0 else 0)
                assert times[task_id] <= allowed, f"{call!r} ran {times[task_id]} times (I2)"
                assert len(net.accepted.get(task_id, ())) <= 1, f"{call!r} was answered twice"
                assert not caller.alive or task_id in caller.done, f"{call!r} was never answered (I1)"
        for run in net.runs:
            key = (run.actor_id, run.incarnation, run.caller, run.host)
            call = next(caller.made[run.task_id] for caller in self.callers if run.task_id in caller.made)
            if call.attempt == 0:
                assert last.get(key, b"") < run.task_id, f"{call!r} ran out of order"
                last[key] = run.task_id

    def check_alone(self, run: Run) -> None:
        """Nothing runs in an incarnation once a later one has begun; but a host that has just woken may not know yet,
        and then nothing of that gets out."""
        net = self.net
        later = [at for incarnation, at in net.began[run.actor_id].items() if incarnation > run.incarnation]
        if not later or run.at < min(later):
            return
        story = f"incarnation {run.incarnation} ran at {run.at:.3f}, a later one since {min(later):.3f}: {run}"
        assert run.at <= run.awake_since + WAKING_S + KILLING_S, story
        accepted = [worker for worker in net.accepted.get(run.task_id, ()) if worker == run.worker]
        assert not accepted or run.caller[:8] == run.host, f"and its result was taken: {story}"


def tell(seed: int, power: bool) -> Story:
    story = Story(seed)
    for _ in range(400):
        story.act(power)
        story.net.run(story.random.expovariate(4.0))
    story.net.run(QUIET_S)
    for caller in story.living():
        caller.tick()
    story.net.run(QUIET_S)
    return story


@pytest.mark.fault(5, 21, 22, 24, 26, 57, 58)
@pytest.mark.parametrize("seed", seeds(0, 60))
def test_no_actor_lives_twice(seed: int) -> None:
    power = seed % 2 == 0
    story = tell(seed, power)
    story.check()
    for caller in story.living():
        for actor_id in story.actors:
            if actor_id[:8] not in story.off:
                caller.call(actor_id)
    story.net.run(QUIET_S)
    story.check()
    for host in story.net.hosts.values():
        if not host.alive:
            continue
        for actor in host.actors.all():
            assert actor.life in (Life.ALIVE, Life.DEAD), f"it never came to rest: {actor!r}"
        for worker in host.guests.hosted().values():
            assert host.processes[worker].alive, "a guest that is dead"


def tell_of_three(seed: int) -> Story:
    """An owner, a host, a third one that calls without pause. The host sleeps, or is cut off from the owner, for about
    as long as it has a right; the caller may be cut off from the owner meanwhile, and know nothing of it."""
    net = Net(seed, hosts=3)
    story = Story.__new__(Story)
    story.net, story.random, story.off = net, net.random, set()
    owner, host, third = net.hosts.values()
    creator, caller = owner.caller("create"), third.caller("caller")
    story.callers = [creator, caller]
    owner.chosen = [host.node, host.node, third.node, owner.node]
    story.actors = [creator.create(1, max_restarts=-1)]

    def call() -> None:
        caller.call(story.actors[0], retries=-1)
        third.later(caller, net.random.expovariate(20.0), call)

    call()
    net.run(1.0)
    for _ in range(6):
        net.run(net.random.uniform(0.0, 5.0))
        around = net.random.uniform(0.8, 1.6) * DEFAULT.fence_right_s
        if net.random.random() < 0.5:
            net.sleep(host.node, around)
        else:
            net.cut(owner.node, host.node, around)
        if net.random.random() < 0.7:
            net.run(net.random.uniform(0.0, 5.0))
            net.cut(owner.node, third.node, net.random.uniform(0.5, 1.8) * DEFAULT.fence_right_s)
        net.run(around + 10.0)
        if caller.core.known(story.actors[0]) is None or caller.core.link(story.actors[0]).state == DEAD:
            break  # the owner was held for gone
    return story


@pytest.mark.fault(22, 24, 57, 58)
@pytest.mark.parametrize("seed", seeds(0, 150))
def test_a_host_that_has_lost_its_right_does_not_answer(seed: int) -> None:
    story = tell_of_three(seed)
    assert story.net.runs
    for run in story.net.runs:
        story.check_alone(run)
