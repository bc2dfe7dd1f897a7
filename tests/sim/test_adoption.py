"""Submitters die between any two messages, and what they promised is kept.

Checked after every step: the books of all cores agree (I4, I6). When all is quiet: every reference that the driver got,
at any depth, has its value or an error that is deserved (I1, I9); no task began more often than its retries allow (I2);
every slot is free, nothing of a dead submitter runs or waits (I4, I8); when the driver lets go, nothing is left (I5).
"""

from __future__ import annotations

import msgspec
import pytest

from meshray.config import preset
from meshray.wire import messages as m
from tests.sim.functions import with_room_for_few
from tests.sim.nested import Driver, History, Plan, Process
from tests.sim.nested_peer import NestedPeer
from tests.sim.seeds import seeds
from tests.sim.world import World

SEEDS = 240


class Mesh:
    """A driver, some CPUs, a tree of tasks, and kills; with `stops` also processes that are stopped for a while."""

    def __init__(self, seed: int, kills: int = 3, stops: int = 0) -> None:
        self.world = World(seed)
        self.random = self.world.random
        self.history = History()
        config = msgspec.structs.replace(preset("test"), worker_idle_s=1e6, adoption_patience_s=0.05)
        self.peer = NestedPeer(self.world, with_room_for_few(config), self.random.randint(2, 4))
        self.peer.new_worker = self.new_worker
        self.driver = Driver(self.world, self.peer, self.history)
        self.workers: list[Process] = []
        self.numbers = 0
        self.peer.leases.start(0.0)
        self.peer.perform()
        for _ in range(self.random.randint(1, 4)):
            plan = self.plan(depth=0)
            self.world.at(self.random.random() * 0.02, lambda plan=plan: self.submit(plan))
        for _ in range(self.random.randint(0, kills)):
            self.world.at(self.random.random() * 0.1, self.kill)
        for _ in range(self.random.randint(0, stops)):
            self.world.at(self.random.random() * 0.1, self.stop)

    def new_worker(self) -> Process:
        worker = Process(self.world, self.peer, f"w{len(self.workers)}", self.history)
        self.workers.append(worker)
        return worker

    def plan(self, depth: int) -> Plan:
        random = self.random
        self.numbers += 1
        plan = Plan(self.numbers, random.random() * 0.01, random.choice((0, 0, 1, 3, -1)))
        plan.expected = plan.number
        for index in range(random.randint(1, 4) if depth < 2 else 0):
            child = self.plan(depth + 1)
            if index and random.random() < 0.4:
                child.argument = random.randrange(index)
                child.expected += plan.children[child.argument].expected
            if index and random.random() < 0.3:
                child.inside = random.randrange(index)
            plan.children.append(child)
        plan.returned = [index for index in range(len(plan.children)) if random.random() < 0.8]
        return plan

    def submit(self, plan: Plan) -> None:
        if self.driver.alive:
            self.driver.ask(self.driver.submit(plan, 0))
            self.driver.turn()

    def kill(self) -> None:
        """A submitter, if there is one."""
        living = [worker for worker in self.workers if worker.alive]
        submitters = [worker for worker in living if worker.submission.busy]
        if living:
            self.random.choice(submitters or living).die()

    def stop(self) -> None:
        """Often one that runs what a worker has submitted; sometimes the driver."""
        living = [worker for worker in self.workers if worker.alive]
        executors = [worker for worker in living if worker.running and worker.running[0] != self.driver.process]
        if living:
            process = self.random.choice([*(executors or living), self.driver])
            self.world.stop(process.process, self.random.choice((0.02, 0.2, 1.0)))

    def check_values(self) -> None:
        driver = self.driver
        for object_id in driver.asked:
            assert object_id in driver.values, f"{object_id.hex()} was never answered (I1)"
            value, plan = driver.values[object_id], self.history.plans[object_id[:24]]
            if not isinstance(value, m.Failure):
                assert msgspec.msgpack.decode(value) == plan.expected, f"a wrong value for {plan} (I9)"
            elif value.kind == "OwnerDiedError":
                assert driver.owner_is_dead(object_id), f"{value} and its owner lives"
            else:
                assert value.kind == "WorkerCrashedError", value
                assert not self.healthy, f"{value}, and nobody was killed"

    @property
    def healthy(self) -> bool:
        return all(worker.alive for worker in self.workers)

    def quiet(self) -> None:
        self.run()
        self.check_values()
        for task_id, begun in self.history.begun.items():
            retries = self.history.plans[task_id].retries
            assert retries < 0 or begun <= 1 + retries, f"{self.history.plans[task_id]} began {begun} times (I2)"
        assert not self.peer.objects.stats().departures, "a death that is never settled"
        assert self.peer.leases.available() == self.peer.leases.slots.total, "a slot is not free (I4)"
        assert not self.peer.leases.waiting(), "somebody waits for ever (I1)"
        assert not self.peer.adoption.heirs(), f"left: {self.peer.adoption.heirs()} (I8)"
        self.driver.asked.clear()
        self.driver.turn()
        self.run()
        for worker in [worker for worker in self.workers if worker.alive]:
            assert worker.running is None, "it runs for ever"
            assert not worker.pins, f"{worker.label} pins {worker.pins} for ever"
            assert not worker.records.table, f"{worker.label} keeps {worker.records.table}"
        assert not self.driver.pins
        assert not self.driver.records.table, self.driver.records.table
        assert not self.peer.objects.table.records, f"left: {self.peer.objects.table.records} (I5)"

    def run(self) -> None:
        """For long enough: idle workers end only after a while, so quiet is not when no event is left."""
        end = self.world.now + 3.0
        while self.world.now < end and self.world.step():
            pass


def run(seed: int, kills: int = 3, stops: int = 0) -> Mesh:
    mesh = Mesh(seed, kills, stops)
    try:
        mesh.quiet()
    except Exception as error:
        error.add_note(f"seed {seed}, after:\n" + "\n".join(mesh.world.log[-80:]))
        raise
    return mesh


def test_without_a_kill_every_value_is_there() -> None:
    for seed in range(40):
        mesh = run(seed, kills=0)
        assert mesh.healthy
        assert not any(isinstance(value, m.Failure) for value in mesh.driver.values.values())


@pytest.mark.fault(8, 9)
@pytest.mark.parametrize("block", range(8))
def test_what_a_dead_submitter_promised_is_kept(block: int) -> None:
    for seed in seeds(block, SEEDS, 8):
        run(seed)


@pytest.mark.fault(8, 10)
@pytest.mark.parametrize("block", range(8))
def test_those_who_are_stopped_keep_nobody_waiting_for_ever(block: int) -> None:
    for seed in seeds(block, SEEDS, 8):
        run(seed, stops=3)


@pytest.mark.fault(8)
def test_adoption_happens() -> None:
    meshes = [run(seed) for seed in range(40)]
    assert sum(mesh.peer.adoption.adopted for mesh in meshes) > 20
    assert sum(mesh.history.seen["forgotten"] for mesh in meshes) > 200
    assert sum(mesh.history.seen["shipped again"] for mesh in meshes) > 100


@pytest.mark.fault(7, 8)
def test_the_end_of_a_job_ends_what_was_adopted() -> None:
    for seed in range(100):
        mesh = Mesh(seed)
        mesh.world.at(0.02 + mesh.random.random() * 0.08, lambda mesh=mesh: _end(mesh))
        mesh.run()
        assert not mesh.peer.adoption.heirs(), f"seed {seed}"
        assert mesh.peer.leases.available() == mesh.peer.leases.slots.total, f"seed {seed}"
        assert not mesh.peer.leases.waiting(), f"seed {seed}"


def _end(mesh: Mesh) -> None:
    mesh.driver.die()
