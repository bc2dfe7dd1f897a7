"""Hosts that are stopped while they work: what runs there ends or is handed back, what waits goes elsewhere.

The mesh and its faults are those of `test_placement`; and one host or more drain, at any time, maybe at once, with next
to no time for their work or with enough; some die halfway, or while others do.

Checked in the end, besides what is checked there: where nobody has died, only what may not run again fails, and only
if a drain has ended it; nothing begins more often than 1 + `max_retries` times and once more for each time that a drain
has ended it; a host is gone within the bounds of its steps.
"""

from __future__ import annotations

import pytest

from meshray.core.drain import Phase
from meshray.wire import messages as m
from tests.sim.hosts import Host, name
from tests.sim.seeds import seeds
from tests.sim.test_placement import CONFIG, DEATH_S, Mesh

SEEDS = 48

BOUND_S = CONFIG.leave_end_s + CONFIG.leave_move_s + CONFIG.leave_say_s + 0.1
"""After its work a host is gone within this."""


class DrainMesh(Mesh):
    """See the head of this file."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, faults=seed % 2 == 1)
        self.drained = 0
        for _ in range(self.random.randint(1, 3)):
            self.net.at(0.02 + self.random.random() * 0.3, self.drain)

    def serving(self) -> list[Host]:
        return [host for host in self.hosts if host.alive and host.drain.phase is Phase.SERVES]

    def drain(self) -> None:
        """`meshray stop` on one host. Another one comes in its place: labels and resources that only it had are there
        again."""
        serving = self.serving()
        if len(serving) < 2:
            return
        host = self.random.choice(serving)
        self.drained += 1
        work_s = self.random.choice((0.0, 0.01, 0.05, 10.0))
        self.net.act(host, 0.0, lambda: self.begin(host, work_s))

    def begin(self, host: Host, work_s: float) -> None:
        host.begin_drain(work_s, lambda: self.gone(host))
        if work_s < 1.0 and host.stopped is None:
            self.net.act(host, work_s + BOUND_S, lambda: self.check_over(host))

    def check_over(self, host: Host) -> None:
        assert host.drain.phase is Phase.OVER, f"{name(host.node)} has not ended: {host.drain.phase}"

    def gone(self, host: Host) -> None:
        for other in self.hosts:
            if other.alive and host.node in other.knows:
                cut = frozenset((host.node, other.node)) in self.net.cut
                delay = DEATH_S * (0.5 + self.random.random()) if cut else self.random.random() * 0.01
                self.net.act(other, delay, lambda other=other: other.lose(host.node))
        self.net.at(DEATH_S * 2, lambda: self.introduce(self.in_place_of(host)))

    def may_fail(self, task_id: bytes, failure: m.Failure) -> bool:
        plan = self.net.plans[task_id]
        if failure.kind == "TaskUnschedulableError":
            return bool(plan.strategy.node) and (self.harmed or bool(self.drained))
        return self.harmed or (plan.retries == 0 and self.net.handed_back[task_id] == 1)


def run(seed: int) -> DrainMesh:
    mesh = DrainMesh(seed)
    try:
        mesh.quiet()
    except Exception as error:
        error.add_note(f"seed {seed}, after:\n" + "\n".join(mesh.net.log()[-60:]))
        raise
    return mesh


@pytest.mark.fault(5, 7, 16, 21, 22)
@pytest.mark.parametrize("block", range(6))
def test_what_may_be_done_elsewhere_is_done(block: int) -> None:
    for seed in seeds(block, SEEDS, 6):
        run(seed)


def test_drains_do_end_work() -> None:
    meshes = [run(seed) for seed in range(0, 20, 2)]
    assert sum(sum(mesh.net.handed_back.values()) for mesh in meshes) > 3
    assert all(not host.alive for mesh in meshes for host in mesh.hosts if host.drain.phase is Phase.OVER)
    assert sum(mesh.drained for mesh in meshes) > 10
