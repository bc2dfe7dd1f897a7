"""Leases under fire: several jobs share one peer, and everything that may happen to a lease does.

The shipped `core.leases` grants to drivers, workers and actors, which submit through the shipped `core.submission`.
Tasks wait for tasks (their CPU is lent), ask for one CPU or two, and come in batches that are pushed ahead; jobs
compete, so leases are called back; workers take their time to start, fail, hang, or die as soon as they are bound; any
process is stopped for a while, or killed between any two messages; drivers leave or die.

Checked after every step: the books of all cores, and what really runs (I4).
Checked in the end: every value that a living driver wants is there (I1) and right (I9), no task began more often than
it may (I2), all slots are free and nobody waits (I4), nothing of an ended job lives (I8).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
import pytest

from meshray.config import preset
from meshray.wire import messages as m
from tests.sim.functions import with_room_for_few
from tests.sim.nested import Driver, History, Plan, Process
from tests.sim.nested_peer import NestedPeer, StartFaults
from tests.sim.seeds import seeds
from tests.sim.world import World

SEEDS = 240

CONFIG = msgspec.structs.replace(
    with_room_for_few(preset("test")),
    lease_quantum_s=0.02,
    lease_yield_s=0.004,
    lease_reserve_s=0.05,
    lease_idle_s=0.03,
    worker_start_timeout_s=0.2,
    worker_idle_s=0.5,
    actor_exit_timeout_s=0.1,
    adoption_patience_s=0.05,
)
"""Everything sooner, so that it meets within the tenth of a second in which things go wrong."""

LONG_ENOUGH_S = 40.0
"""The longest pause after a crash loop is 30 s."""


class Mesh:
    """Some drivers, what they submit, and what goes wrong."""

    def __init__(self, seed: int, faults: bool = True, drivers: int | None = None) -> None:
        self.world = World(seed)
        self.random = random = self.world.random
        self.history = History()
        self.peer = NestedPeer(self.world, CONFIG, random.randint(1, 4))
        self.peer.new_worker = self.new_worker
        self.workers: list[Process] = []
        self.drivers: list[Driver] = []
        self.numbers = 0
        self.batches = random.random() < 0.5
        self.healthy = True
        if faults and random.random() < 0.5:
            self.peer.faults = StartFaults(
                random.choice((0.02, 0.05, 1.5)),
                *random.choice(((0.3, 0.2, 0.2), (1.0, 0, 0), (0, 0, 1.0), (0, 0.7, 0))),
            )
            self.healthy = False
        self.peer.leases.start(0.0)
        self.peer.perform()
        for _ in range(random.randint(1, 3) if drivers is None else drivers):
            self.world.at(random.random() * 0.03, self.new_driver)
        if faults:
            for _ in range(random.randint(0, 3)):
                self.world.at(random.random() * 0.15, self.kill)
            for _ in range(random.choice((0, 0, 1, 2))):
                self.world.at(random.random() * 0.15, self.stop)
            if random.random() < 0.4:
                self.world.at(random.random() * 0.15, self.end_driver)

    # -- what happens ------------------------------------------------------------------------------------------------

    def new_worker(self) -> Process:
        worker = Process(self.world, self.peer, f"w{len(self.workers)}", self.history)
        self.workers.append(self._prepared(worker))
        return worker

    def _prepared(self, process: Process) -> Process:
        if self.batches:
            process.mean = self.history.mean
        return process

    def add_driver(self) -> Driver:
        driver = Driver(self.world, self.peer, self.history, f"d{len(self.drivers)}")
        self._prepared(driver)
        self.drivers.append(driver)
        return driver

    def new_driver(self) -> None:
        random = self.random
        driver = self.add_driver()
        for _ in range(random.choice((1, 3, 12))):
            plan = self.plan(0, 2 if random.random() < 0.3 else 0)
            self.world.at(random.random() * 0.03, lambda plan=plan: self.submit(driver, plan))
        if random.random() < 0.3:
            chain = self.chain(random.randint(2, 6))
            self.world.at(random.random() * 0.03, lambda: self.submit(driver, chain))
        for _ in range(random.choice((0, 0, 1, 2))):
            self.world.at(random.random() * 0.05, lambda: self.create_actor(driver))
            self.world.at(0.1 + random.random() * 0.1, lambda: driver.alive and driver.let_go())

    def submit(self, driver: Driver, plan: Plan) -> None:
        if driver.alive:
            driver.ask(driver.submit(plan, 0))
            driver.turn()

    def create_actor(self, driver: Driver) -> None:
        random = self.random
        if driver.alive:
            plan = self.plan(0, 1)
            detached = random.random() < 0.3
            keeps = 0 if detached else random.choice((0, plan.cpus))
            driver.create_actor(plan, random.randint(0, 2), keeps, detached)

    def _new(self, seconds: float) -> Plan:
        random = self.random
        self.numbers += 1
        cpus = random.choice((5_000, 10_000, 10_000, 10_000, 20_000))
        cpus = min(cpus, self.peer.leases.slots.total["CPU"])
        return Plan(self.numbers, seconds, random.choice((0, 1, 3, -1)), cpus=cpus, expected=self.numbers)

    def plan(self, depth: int, until: int) -> Plan:
        """A tree of tasks."""
        random = self.random
        plan = self._new(random.choice((0.0005, 0.004, 0.015)) * random.random())
        for index in range(random.randint(1, 3) if depth < until else 0):
            child = self.plan(depth + 1, until)
            if index and random.random() < 0.3:
                child.argument = random.randrange(index)
                child.expected += plan.children[child.argument].expected
            plan.children.append(child)
        plan.gets = [index for index in range(len(plan.children)) if random.random() < 0.6]
        plan.returned = [index for index in range(len(plan.children)) if random.random() < 0.4]
        return plan

    def chain(self, length: int) -> Plan:
        """Recursion through `get`."""
        plan = self._new(0.001)
        if length:
            plan.children = [self.chain(length - 1)]
            plan.gets = [0]
        return plan

    def kill(self) -> None:
        """A worker: best one that waits, or has tasks of its own."""
        living = [worker for worker in self.workers if worker.alive]
        busy = [worker for worker in living if worker.blocked or worker.submission.busy]
        if living:
            self.healthy = False
            self.random.choice(busy or living).die()

    def stop(self) -> None:
        living = [process for process in (*self.workers, *self.drivers) if process.alive]
        if living:
            self.world.stop(self.random.choice(living).process, self.random.choice((0.02, 0.2, 1.0)))

    def end_driver(self) -> None:
        living = [driver for driver in self.drivers if driver.alive]
        if living:
            driver = self.random.choice(living)
            if self.random.random() < 0.5:
                driver.leave()
            else:
                driver.die()

    # -- what must hold ----------------------------------------------------------------------------------------------

    def quiet(self) -> None:
        self.run()
        for driver in self.drivers:
            if driver.alive:
                self.check_values(driver)
        for task_id, begun in self.history.begun.items():
            retries = self.history.plans[task_id].retries
            assert retries < 0 or begun <= 1 + retries, f"{self.history.plans[task_id]} began {begun} times (I2)"
        leases = self.peer.leases
        assert not leases.waiting(), f"{leases.waiting()} wait for ever (I1)"
        assert not self.peer.adoption.heirs(), f"left: {self.peer.adoption.heirs()} (I8)"
        assert not self.peer.objects.stats().departures, "a death that is never settled"
        self.check_ended(leases.job_is_needed)
        for driver in self.drivers:
            driver.asked.clear()
            driver.actors.clear()
            if driver.alive:
                driver.turn()
        for actor in self.peer.actors.all():
            if actor.spec.detached:
                self.peer.actors._kill(actor, m.Failure("ActorDiedError", "killed at the end of the test"))
        self.peer.perform()
        self.run()
        assert leases.available() == leases.slots.total, f"a slot is not free: {leases.slots} (I4)"
        assert not leases.waiting()
        self.check_ended(lambda _: False)
        assert not self.peer.actors.all()
        assert not self.peer.objects.table.records, f"left: {self.peer.objects.table.records} (I5)"
        counts = leases.workers.counts()
        assert counts["starting"] == counts["leased"] == 0, counts
        assert counts["idle"] <= -(-leases.slots.total["CPU"] // 10_000), f"idle for ever: {counts} (I5)"

    def check_values(self, driver: Driver) -> None:
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

    def check_ended(self, may_go_on: Callable[[bytes], bool]) -> None:
        """Nothing of an ended job works, but for its detached actors (I8)."""
        leases = self.peer.leases
        for job in self.peer.jobs_ended:
            if not may_go_on(job):
                left = [worker.process[8:] for worker in leases.workers.of_job(job)]
                assert not left, f"{left} of an ended job live (I8)"
                assert job not in leases.jobs.known, "an ended job is remembered for ever"

    def run(self) -> None:
        end = self.world.now + LONG_ENOUGH_S
        while self.world.now < end and self.world.step():
            pass


def run(seed: int, faults: bool = True) -> Mesh:
    mesh = Mesh(seed, faults)
    try:
        mesh.quiet()
    except Exception as error:
        error.add_note(f"seed {seed}, after:\n" + "\n".join(mesh.world.log[-80:]))
        raise
    return mesh


@pytest.mark.fault(1, 3, 4, 7, 8, 9)
@pytest.mark.parametrize("block", range(8))
def test_whatever_happens_to_leases(block: int) -> None:
    for seed in seeds(block, SEEDS, 8):
        run(seed)


def test_without_faults_every_value_is_there() -> None:
    for seed in range(20):
        mesh = run(seed, faults=False)
        for driver in mesh.drivers:
            assert not any(isinstance(value, m.Failure) for value in driver.values.values()), f"seed {seed}"


@pytest.mark.fault(4)
def test_all_that_may_happen_happens() -> None:
    seen: Counter[str] = Counter()
    for seed in range(24):
        seen += run(seed).peer.seen
    wanted = (
        "LeaseGranted", "LeaseWanted", "LeaseRevoked", "LeaseLost", "ThawLease", "Infeasible", "AbandonStart",
        "KillProcess", "ActorSlot", "ReleaseActorSlot", "DeathSettled", "Exit", "debt",
    )  # fmt: skip
    assert not [kind for kind in wanted if seen[kind] < 5], seen


SOON_S = CONFIG.lease_quantum_s + 0.15
"""The quantum, what is in flight, the start of a worker, and messages of up to 20 ms."""


def busy_mesh(seed: int, *first: Plan) -> tuple[Mesh, Driver]:
    """A driver that has a task for each moment, and would never give a lease back by itself."""
    mesh = Mesh(seed, faults=False, drivers=0)
    mesh.batches = False
    driver = mesh.add_driver()
    for plan in (*first, *(Plan(0, 0.004) for _ in range(400))):
        mesh.submit(driver, plan)
    return mesh, driver


@pytest.mark.parametrize("seed", seeds(0, 10))
def test_a_second_job_begins_soon(seed: int) -> None:
    mesh, _ = busy_mesh(seed)
    second = mesh.add_driver()
    mesh.world.at(0.1, lambda: mesh.submit(second, Plan(0, 0.004)))
    mesh.quiet()
    (begun,) = [begun for task_id, begun in mesh.history.first_begun.items() if task_id.startswith(second.process)]
    assert begun < 0.1 + SOON_S
    assert begun < max(mesh.history.first_begun.values()) - 0.05, "the first was done by then: nothing was shown"


@pytest.mark.parametrize("seed", seeds(0, 10))
def test_the_task_of_a_task_comes_before_more_of_its_driver(seed: int) -> None:
    parent = Plan(0, 0.004, children=[Plan(0, 0.004)])  # it does not wait, so no CPU is lent
    mesh, _ = busy_mesh(seed, parent)
    mesh.quiet()
    plans = mesh.history.plans
    begun = {id(plans[task_id]): begun for task_id, begun in mesh.history.first_begun.items()}
    child = begun[id(parent.children[0])]
    assert child < begun[id(parent)] + 0.004 + SOON_S
    assert child < max(begun.values()) - 0.05, "the others were done by then: nothing was shown"
