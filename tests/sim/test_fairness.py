"""Several drivers on several hosts want all there is: each has its share, wherever it is. The hosts are those of
`hosts`, with the times of a real mesh; nothing goes wrong."""

from __future__ import annotations

import pytest

from meshray.config import DEFAULT
from meshray.strategy import ANYWHERE, Strategy
from tests.sim.hosts import Host, Net, Plan, Program

TASKS = 800  # more than all hosts do in the time
TASK_S = 0.02
TIME_S = 2.0


@pytest.mark.parametrize("strategy", [ANYWHERE, Strategy(spread=True)], ids=["anywhere", "SPREAD"])
@pytest.mark.parametrize(("hosts", "drivers"), [(3, 3), (2, 4)])
@pytest.mark.parametrize("seed", range(2))
def test_each_driver_has_its_share(seed: int, hosts: int, drivers: int, strategy: Strategy) -> None:
    net = Net(seed)
    mesh = [Host(net, f"{number}-host", DEFAULT, {"CPU": 20_000}, {}) for number in range(hosts)]
    for host in mesh:
        for other in mesh:
            if other is not host:
                host.meet(other)
    first, *others = [mesh[number % hosts].new_driver() for number in range(drivers)]
    submit(first, strategy)
    run(net, 1.0)
    assert first.values, "it has all for itself"
    for driver in others:
        submit(driver, strategy)
    run(net, 0.5)
    for driver in others:
        assert driver.values, "its first task begins within half a second"
    run(net, 0.5)  # hints take as long
    before = [len(driver.values) for driver in (first, *others)]
    run(net, TIME_S)
    done = [len(driver.values) - had for driver, had in zip((first, *others), before, strict=True)]
    assert min(done) > 0.8 * max(done), done
    if not strategy.spread:  # which has a lease for each task
        assert sum(done) > 0.6 * TIME_S / TASK_S * 2 * hosts, "and little is lost in between"


def submit(driver: Program, strategy: Strategy) -> None:
    for number in range(TASKS):
        plan = Plan(number, TASK_S)
        plan.strategy = strategy
        driver.submit(plan)
    driver.turn()


def run(net: Net, seconds: float) -> None:
    end = net.now + seconds
    while net.now < end and net.step():
        pass
