"""Tasks anywhere, under fire: several hosts share work, and everything that may happen between them does.

Drivers on several hosts submit tasks and tasks of tasks, some of which run only on some hosts; hosts die, are stopped
beyond their death sentence, are cut off for short or for long; workers and drivers are killed.

Checked whenever something changes: the books of each host, and what really runs there (I4).
Checked in the end: every task of a living driver has one outcome, a value unless something has died (I1); no task began
more often than it may (I2); all slots are free and nobody waits (I4); nothing works for a dead driver (I8).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest

from meshray.config import preset
from meshray.strategy import LabelTest, Strategy
from meshray.wire import messages as m
from tests.sim.functions import with_room_for_few
from tests.sim.hosts import Host, Net, Plan, Program, name
from tests.sim.seeds import seeds

SEEDS = 160
BUSY_SEEDS = 120

CONFIG = msgspec.structs.replace(
    with_room_for_few(preset("test")),
    lease_quantum_s=0.02,
    lease_yield_s=0.004,
    lease_reserve_s=0.05,
    worker_idle_s=0.5,
    ask_again_s=0.05,
    ask_renew_s=0.5,
    spread_wait_s=0.05,
)

DEATH_S = 0.25
"""So long after the last answer a host is held for dead."""

LONG_ENOUGH_S = 60.0


class Mesh:
    """Hosts, drivers on them, and what goes wrong."""

    seconds = (0.0002, 0.004, 0.03)
    """How long a task may take."""

    counts = (1, 4, 20)
    """How many a driver may submit."""

    def __init__(self, seed: int, faults: bool = True, hosts: int | None = None) -> None:
        self.net = Net(seed)
        self.random = random = self.net.random
        self.hosts: list[Host] = []
        self.drivers: list[Program] = []
        self.harmed = False  # somebody has died: tasks may fail
        self.numbers = 0
        self.meetings: Counter[frozenset[bytes]] = Counter()  # of two nodes
        self.prefix = random.choice(("h", "host"))  # the longer one: they give equal numbers to leases
        for number in range(hosts or random.randint(2, 4)):
            self.new_host(number)
        for host in self.hosts:
            self.net.at(random.random() * 0.02, lambda host=host: self.introduce(host))
        if hosts is None:
            for _ in range(random.randint(1, 3)):
                self.net.at(random.random() * 0.05, self.new_driver)
        if faults:
            for _ in range(random.randint(0, 3)):
                fault = random.choice((self.kill_worker, self.kill_host, self.kill_driver, self.cut, self.stop))
                self.net.at(0.02 + random.random() * 0.3, fault)

    def new_host(self, number: int, label: str = "") -> Host:
        total = {"CPU": self.random.randint(1, 3) * 10_000}
        if number % 4 == 1:
            total["disk"] = 20_000
        host = Host(self.net, label or f"{self.prefix}{number}", CONFIG, total, {"zone": "ab"[number % 2]})
        self.hosts.append(host)
        return host

    def introduce(self, host: Host) -> None:
        """It and all that live find each other: who is cut off from it, or holds it for a member still, does not."""
        for other in self.hosts:
            pair = frozenset((host.node, other.node))
            if other is host or not (host.alive and other.alive) or pair in self.net.cut:
                continue
            if other.node not in host.knows and host.node not in other.knows:
                self.meetings[pair] += 1
                host.meet(other)
                other.meet(host)

    # -- what is asked for -------------------------------------------------------------------------------------------

    def new_driver(self) -> None:
        random = self.random
        host = random.choice([host for host in self.hosts if host.alive])
        if host.stopped is not None:
            return
        driver = host.new_driver()
        self.drivers.append(driver)
        for _ in range(random.choice(self.counts)):
            plan = self.plan(0, 2 if random.random() < 0.2 else 0)
            self.net.act(host, random.random() * 0.2, lambda plan=plan: driver.alive and self.submit(driver, plan))

    def submit(self, driver: Program, plan: Plan) -> None:
        driver.submit(plan)
        driver.turn()

    def plan(self, depth: int, until: int) -> Plan:
        random = self.random
        self.numbers += 1
        strategy = random.choice((Strategy(), Strategy(), Strategy(), *self.strategies()))
        extra = "disk" if random.random() < 0.1 else ""
        plan = Plan(self.numbers, random.choice(self.seconds), random.choice((0, 1, 3, -1)), 10_000, extra)
        plan.strategy = strategy if not extra else Strategy()
        if depth < until:
            plan.children = [self.plan(depth + 1, until) for _ in range(random.randint(1, 3))]
            plan.waits = random.random() < 0.8 and not extra  # a disk is not lent: a child might wait for it for ever
        return plan

    def strategies(self) -> Iterator[Strategy]:
        yield Strategy(spread=True)
        yield Strategy(node=self.random.choice(self.hosts).node, soft=True)
        yield Strategy(node=self.random.choice(self.hosts).node)
        yield Strategy(wished=(LabelTest("zone", ("b",)),))
        yield Strategy(hard=(LabelTest("zone", ("a",)),))  # host0 and host2

    # -- what goes wrong ---------------------------------------------------------------------------------------------

    def kill_worker(self) -> None:
        living = [p for p in self.net.programs.values() if p.alive and p.process not in p.host.drivers]
        busy = [p for p in living if p.running is not None]
        if living:
            self.harmed = True
            self.random.choice(busy or living).die()

    def kill_driver(self) -> None:
        living = [driver for driver in self.drivers if driver.alive]
        if living:
            self.random.choice(living).die()

    def kill_host(self) -> None:
        living = [host for host in self.hosts if host.alive]
        if len(living) > 1:
            self.harmed = True
            host = self.random.choice(living)
            host.die()
            for other in living:
                delay = DEATH_S * (0.5 + self.random.random())
                self.net.act(other, delay, lambda other=other: other.lose(host.node))
            self.net.at(DEATH_S * 2, lambda: self.introduce(self.in_place_of(host)))

    def in_place_of(self, host: Host) -> Host:
        """A new one that has what only it may have had."""
        number = 1 if "disk" in host.leases.slots.total else "ab".index(host.labels["zone"]) * 3
        return self.new_host(number, f"n{len(self.hosts)}")

    def cut(self) -> None:
        """Two hosts do not hear each other, for short or for long."""
        living = [host for host in self.hosts if host.alive]
        if len(living) < 2:
            return
        a, b = self.random.sample(living, 2)
        self.net.part(a.node, b.node)
        if self.random.random() < 0.5:
            self.net.at(self.random.random() * DEATH_S * 0.8, lambda: self.net.heal(a.node, b.node))
            return
        self.harmed = True
        for here, there in ((a, b), (b, a)):
            self.lose_later(here, there, DEATH_S * (1 + self.random.random()))
        self.net.at(DEATH_S * 4, lambda: self.again(a, b))

    def lose_later(self, here: Host, there: Host, delay: float) -> None:
        """`here` holds `there` for dead then, unless they have met anew: no member is lost for what was before that."""
        pair = frozenset((here.node, there.node))
        meeting = self.meetings[pair]
        self.net.act(here, delay, lambda: self.meetings[pair] == meeting and here.lose(there.node))

    def again(self, a: Host, b: Host) -> None:
        """They meet anew, if both know by now that they had lost each other."""
        if a.node in b.knows or b.node in a.knows:
            self.net.at(DEATH_S, lambda: self.again(a, b))
            return
        self.net.heal(a.node, b.node)
        self.introduce(a)

    def stop(self) -> None:
        """SIGSTOP and SIGCONT of everything on a host; beyond its death sentence half of the time."""
        living = [host for host in self.hosts if host.alive and host.stopped is None]
        if not living:
            return
        host = self.random.choice(living)
        host.stop()
        if self.random.random() < 0.5:
            self.net.at(self.random.random() * DEATH_S * 0.8, host.go_on)
            return
        self.harmed = True
        others = [other for other in self.hosts if other is not host]
        for other in others:
            self.lose_later(other, host, DEATH_S)
        self.net.at(DEATH_S * 2, host.go_on)
        self.net.at(DEATH_S * 2 + 0.02, lambda: self.learn(host))

    def learn(self, host: Host) -> None:
        """It was declared dead: it gives up what it did for others, and joins anew."""
        if not host.alive:
            return
        for other in self.hosts:
            host.lose(other.node)
            if other.alive:
                other.lose(host.node)
        for other in self.hosts:
            self.again(host, other) if other is not host and other.alive else None

    # -- what must hold ----------------------------------------------------------------------------------------------

    def run(self, seconds: float = LONG_ENOUGH_S) -> None:
        end = self.net.now + seconds
        busy_until = self.net.now + 3.0  # gossip goes on for ever: quiet is when nothing is asked for any more
        while self.net.now < end and self.net.step():
            if self.net.now > busy_until and self.is_quiet():
                return

    def is_quiet(self) -> bool:
        return all(
            len(p.values) == len(p.tasks) and not p.submission.busy for p in self.net.programs.values() if p.alive
        ) and not any(host.leases.waiting() for host in self.hosts if host.alive)

    def quiet(self) -> None:
        self.run()
        for driver in self.drivers:
            if driver.alive:
                self.check_values(driver)
        for task_id, begun in self.net.begun.items():
            retries = self.net.plans[task_id].retries
            ended = self.net.handed_back[task_id] if retries else 0
            assert retries < 0 or begun <= 1 + retries + ended, f"{self.net.plans[task_id]} began {begun} times (I2)"
        self.run(2.0)  # idle leases go back, the dead are forgotten
        for host in self.hosts:
            if host.alive:
                self.check_host(host)

    def check_values(self, driver: Program) -> None:
        for task_id in driver.tasks:
            plan = self.net.plans[task_id]
            assert task_id in driver.values, f"{plan} of {name(driver.process)} was never answered (I1)"
            value = driver.values[task_id]
            if not isinstance(value, m.Failure):
                assert value == plan.number.to_bytes(4, "big")
            else:
                assert value.kind in ("TaskUnschedulableError", "WorkerCrashedError", "NodeDiedError"), value
                assert self.may_fail(task_id, value), f"{value} for {plan}, and nobody had died"

    def may_fail(self, task_id: bytes, failure: m.Failure) -> bool:
        """Whether something has happened that this failure may come from."""
        at_a_node = bool(self.net.plans[task_id].strategy.node)
        return self.harmed and (at_a_node or failure.kind != "TaskUnschedulableError")

    def check_host(self, host: Host) -> None:
        leases = host.leases
        assert not leases.waiting(), f"{leases.waiting()} wait for ever on {name(host.node)} (I1)"
        assert leases.available() == leases.slots.total, f"a slot of {name(host.node)} is not free: {leases.slots} (I4)"
        for job in leases.jobs.known:
            driver = self.net.programs[job]
            assert driver.alive, f"{name(host.node)} works for the dead {name(job)} (I8)"
        for worker in leases.workers:
            assert worker.key is None or worker.key.job in leases.jobs.known, f"{worker} works for nobody (I8)"


class Busy(Mesh):
    """All have long tasks to do while hosts go: so what was in flight there has to be done elsewhere."""

    seconds = (0.03, 0.2)
    counts = (10, 20)

    def __init__(self, seed: int, faults: bool = True) -> None:
        super().__init__(seed, faults)
        for _ in range(self.random.randint(1, 3)):
            self.net.at(0.1 + self.random.random() * 0.5, self.random.choice((self.kill_host, self.cut, self.stop)))


def run(seed: int, faults: bool = True, kind: type[Mesh] = Mesh) -> Mesh:
    mesh = kind(seed, faults)
    try:
        mesh.quiet()
    except Exception as error:
        error.add_note(f"seed {seed}, after:\n" + "\n".join(mesh.net.log()[-60:]))
        raise
    return mesh


@pytest.mark.fault(5, 7, 9, 11, 12, 21, 22)
@pytest.mark.parametrize("block", range(8))
def test_whatever_happens_between_hosts(block: int) -> None:
    seen: Counter[str] = Counter()
    for seed in seeds(block, SEEDS, 8):
        seen += run(seed).net.seen
    assert seen["forgotten"] > 10, "functions come and go"
    assert seen["shipped again"] > 5


@pytest.mark.fault(5, 9, 11, 22)
@pytest.mark.parametrize("block", range(8))
def test_what_was_in_flight_when_a_host_went_runs_again_or_says_why_not(block: int) -> None:
    seen: Counter[str] = Counter()
    for seed in seeds(block, BUSY_SEEDS, 8):
        net = run(seed, kind=Busy).net
        seen["again"] += sum(begun > 1 for begun in net.begun.values())
        values = [value for program in net.programs.values() for value in program.values.values()]
        seen += Counter(value.kind for value in values if isinstance(value, m.Failure))
    assert seen["again"] + seen["NodeDiedError"] > 4, f"hardly anything was in flight: {seen}"


@pytest.mark.fault(11, 22)
@pytest.mark.parametrize("seed", [100127, 101920])
def test_seeds_that_have_failed(seed: int) -> None:
    """Both for faults of the simulation: who was cut off was met over the cut link, or met anew and lost for what was
    before."""
    run(seed)


@pytest.mark.fault(21)
def test_a_worker_that_spoke_while_a_link_was_cut_is_dead_for_the_other_host_when_its_words_arrive() -> None:
    mesh = Mesh(0, faults=False, hosts=2)
    mesh.run(0.5)
    here, there = mesh.hosts
    driver = here.new_driver()
    mesh.drivers.append(driver)
    at_there = Plan(1, 0.0002, strategy=Strategy(node=there.node))
    mesh.submit(driver, at_there)  # that host knows the job
    mesh.quiet()
    mesh.net.part(here.node, there.node)
    mesh.submit(driver, Plan(2, 0.0002, 0, children=[at_there]))
    mesh.run(0.1)
    (worker,) = [process for process in mesh.net.programs.values() if process.blocked]
    mesh.harmed = True
    worker.die()
    mesh.run(0.1)
    mesh.net.heal(here.node, there.node)
    mesh.quiet()
    assert worker.process in mesh.net.introduced[there.node]


@pytest.mark.slow
@pytest.mark.timeout(600)  # about 15 s of CPU; a hang guard for machines that do much else
@pytest.mark.fault(42)
@pytest.mark.parametrize("seed", seeds(0, 2))
def test_a_hundred_join_within_a_second_while_the_first_one_works(seed: int) -> None:
    """Each of them has a program of its own, and much is left to be done on the first one: nothing fails, nothing is
    done twice, and all take part."""
    mesh = Mesh(seed, faults=False, hosts=1)
    net, random = mesh.net, mesh.random
    net.gossip_s = 0.5  # as between hosts

    def begin_program(host: Host, count: int) -> None:
        driver = host.new_driver()
        mesh.drivers.append(driver)
        for _ in range(count):
            mesh.numbers += 1
            mesh.submit(driver, Plan(mesh.numbers, 0.1, retries=0))

    def join(number: int) -> None:
        host = mesh.new_host(number)
        mesh.introduce(host)
        begin_program(host, 5)

    begin_program(mesh.hosts[0], 1000)
    for number in range(1, 101):
        net.at(random.random(), lambda number=number: join(number))
    try:
        mesh.quiet()
    except Exception as error:
        error.add_note(f"seed {seed}, after:\n" + "\n".join(net.log()[-60:]))
        raise
    assert len(mesh.hosts) == 101
    assert set(net.begun.values()) == {1}
    assert len(net.begun) == 1000 + 100 * 5
    assert set(net.ran_at) == {host.node for host in mesh.hosts}
