"""References under fire: kills between any two messages, and nothing is freed while it is held, nothing is left behind.

Checked after every step: the books of all cores agree (`check`), and I6 at the moment when a record ends: no living
process may hold it. Checked when all is quiet: every question was answered (I1), only with errors that are deserved,
and when every handle is dropped nothing is left (I5).
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshray.config import preset
from meshray.core.object_table import Record
from meshray.wire.messages import Failure, Place
from tests.sim.model import Process, Rules, excused
from tests.sim.peer import SimPeer, lost_in
from tests.sim.seeds import seeds
from tests.sim.world import World, name

SEEDS = 240
SEEDS_WITH_ACTORS = 100


class Mesh:
    """Two drivers, some workers, and what user code does in them."""

    def __init__(self, seed: int, rules: Rules | None = None, kills: int = 4, actors: bool = False) -> None:
        self.world = World(seed)
        self.peer = SimPeer(self.world, preset("test"))
        self.peer.on_freed = self.on_freed
        self.rules = rules or Rules()
        self.ended: set[bytes] = set()  # records that ended with a value
        random = self.world.random
        driver = self.process("driver", b"")
        for number in range(random.randint(2, 5)):
            self.process(f"w{number}", driver.process)
        if random.random() < 0.5:
            other = self.process("other", b"")
            self.process("o1", other.process)
        self.peer.new_host = self.process
        for _ in range(70):
            self.world.at(random.random() * 0.1, self.act)
        for _ in range(random.randint(0, kills)):
            self.world.at(random.random() * 0.12, self.kill)
        if actors:
            for _ in range(25):
                self.world.at(random.random() * 0.1, self.act_on_actors)
        self.world.checks.append(self.check)

    def process(self, label: str, job: bytes) -> Process:
        return Process(self.world, self.peer, label, job, self.rules)

    def living(self) -> list[Process]:
        return [party for party in self.world.parties.values() if isinstance(party, Process) and party.alive]

    # -- what happens ------------------------------------------------------------------------------------------------

    def act(self) -> None:
        living = self.living()
        if not living:
            return
        random = self.world.random
        process = random.choice(living)
        what = random.random()
        if what < 0.2:
            process.put()
        elif what < 0.6 and len(living) > 1:
            process.submit(random.choice([other.process for other in living if other is not process]))
        elif what < 0.7:
            process.get()
        else:
            process.drop()
            process.drop()

    def act_on_actors(self) -> None:
        living = self.living()
        if not living:
            return
        random = self.world.random
        process = random.choice(living)
        what = random.random()
        if what < 0.4:
            label = random.choice(("", "", "a", "b"))
            detached = bool(label) and random.random() < 0.3
            process.create_actor(label, detached, random.randint(0, 2), bool(label) and random.random() < 0.5)
        elif what < 0.65:
            process.find(random.choice("ab"))
        elif what < 0.8:
            process.watch()
        elif what < 0.9:
            process.kill_actor(no_restart=random.random() < 0.6)
        else:
            process.drop()

    def kill(self) -> None:
        living = self.living()
        random = self.world.random
        workers = [process for process in living if process.process != process.job]
        busy = [process for process in workers if process.running and process.tasks]
        if busy and random.random() < 0.7:  # the middle of a chain: it got references and has passed them on
            random.choice(busy).die()
        elif workers and random.random() < 0.85:
            random.choice(workers).die()
        elif living:
            random.choice(living).die()

    # -- what must hold ----------------------------------------------------------------------------------------------

    def on_freed(self, record: Record) -> None:
        if lost_in(record):
            return
        self.ended.add(record.id)
        for process in self.living():
            process.records.drain()
            held = process.records.table.get(record.id)
            assert held is None or not held.count or held.owned, f"{name(process.process)} holds {record!r} (I6)"

    def check(self) -> None:
        for process in self.living():
            for object_id in process.records.table.keys() & self.ended:
                record = process.records.table[object_id]
                assert record.owned or not record.count, f"{name(process.process)} got {record!r} after its end (I6)"
            for record in process.records.table.values():
                value = record.value
                if isinstance(value, Place) and record.count > 0 and value.segment not in self.peer.files:
                    raise AssertionError(
                        f"{name(process.process)} holds {record!r}, its file {value.segment} is gone (I9)"
                    )

    def quiet(self) -> None:
        """After the last fault: everything is answered, and everything goes."""
        self.world.run()
        for process in self.living():
            for object_id, failure in process.failures:
                if failure.kind == "WorkerCrashedError":
                    continue  # the value of a task that was not tried again
                assert failure.kind == "OwnerDiedError", f"{failure} for {object_id.hex()}"
                assert excused(process, object_id), f"{failure}, and its owner lives"
            asked = [record for record in process.records.table.values() if record.fetching and record.value is None]
            assert not asked, f"{name(process.process)} was never answered: {asked} (I1)"
            assert not process.tasks, f"{name(process.process)} waits for {process.tasks} (I1)"
        assert not self.peer.objects.stats().departures, "a death that is never settled"
        for process in self.living():
            process.drop_all()
        self.world.run()
        for actor in self.peer.actors.all():
            if actor.spec.detached:
                self.peer.actors._kill(actor, actor.failure or _killed())
        self.peer.perform()
        self.world.run()
        for process in self.living():
            assert not process.pins, f"{name(process.process)} pins {process.pins} for ever"
            assert not process.records.table, f"{name(process.process)} keeps {process.records.table}"
        assert not self.peer.objects.table.records, f"left behind: {self.peer.objects.table.records} (I5)"
        assert not self.peer.actors.all(), f"left behind: {self.peer.actors.all()}"
        leases = self.peer.leases
        assert leases.available() == leases.slots.total, f"a slot is not free: {leases.slots} (I4)"
        assert not leases.waiting(), f"{leases.waiting()} wait for ever (I1)"
        left = [job for job in self.peer.jobs_ended if leases.workers.of_job(job) or job in leases.jobs.known]
        assert not left, f"left of ended jobs: {left} (I8)"
        assert not self.peer.files, f"files left behind: {self.peer.files} (I5)"
        live = [self.peer.store._accounts[process.process].charged for process in self.living()]
        assert not any(live), "room is charged for nothing"


def _killed() -> Failure:
    return Failure("ActorDiedError", "killed at the end of the test")


def run(seed: int, rules: Rules | None = None, actors: bool = False) -> None:
    mesh = Mesh(seed, rules, actors=actors)
    try:
        mesh.quiet()
    except Exception as error:
        error.add_note(f"seed {seed}, after:\n" + "\n".join(mesh.world.log[-60:]))
        raise


@pytest.mark.fault(1, 7, 8, 61)
@pytest.mark.parametrize("block", range(8))
def test_nothing_is_freed_while_held_and_nothing_is_left(block: int) -> None:
    for seed in seeds(block, SEEDS, 8):
        run(seed)


@pytest.mark.fault(3, 7, 8)
@pytest.mark.parametrize("block", range(4))
def test_actors_live_as_long_as_somebody_can_call_them(block: int) -> None:
    for seed in seeds(block, SEEDS_WITH_ACTORS, 4):
        run(seed, actors=True)


@pytest.mark.parametrize(
    ("rule", "seeds", "actors"),
    [
        ("hold", range(150), False),
        ("announce", range(250), False),
        ("retried", range(250), False),
        ("settle", range(700, 950), False),
        ("calm", range(150), True),
    ],
)
def test_each_rule_of_the_runtime_is_needed(rule: str, seeds: range, actors: bool) -> None:
    """The simulation finds what goes wrong without it: so it would find a runtime that breaks it."""
    broken = replace(Rules(), **{rule: False})
    for seed in seeds:
        try:
            run(seed, broken, actors)
        except AssertionError:
            return
    pytest.fail(f"nothing went wrong without the rule {rule!r}: the simulation does not reach it any more")
