"""Detached actors while hosts drain, die, sleep and are cut off, in the middle of calls: none lives twice, none is lost
that most of the mesh could go on with, each is found by its name and by its handles from everywhere."""

from __future__ import annotations

from collections import defaultdict

import pytest

from meshray.core.drain import Phase
from meshray.core.lives import Life
from tests.sim.actor_hosts import Caller, Worker
from tests.sim.heirs import ARCHIVE, HeirHost, HeirNet
from tests.sim.seeds import seeds

SEEDS = 40

QUIET_S = 250.0
"""After the last fault: detection (25 s), the pause of heirs (60 s), fences (11 s), pauses before restarts, some."""

HEIRS_S = 90.0
"""So long after a host has died its heirs have taken over. (One that is stopped before that takes wills along.)"""

KINDS = ("stops", "deaths", "all")
"""Only stops and crashes of workers; one host that loses power, too; cuts, partitions and sleep as well."""


class Story:
    """Callers on every host, detached actors of most of them, and what happens to them."""

    def __init__(self, seed: int, strangers: bool = False) -> None:
        self.kind = KINDS[seed % 3]
        self.net = HeirNet(seed, hosts=3 + seed // 3 % 3, strangers=strangers)
        self.random = self.net.random
        self.callers: list[Caller] = []
        self.retries: dict[bytes, int] = {}  # call -> as it was allowed
        self.actors: dict[bytes, int] = {}  # detached ones -> restarts
        self.off: set[bytes] = set()
        self.off_at = -HEIRS_S
        for host in self.net.living():
            self.callers.append(host.caller("driver"))
        for number, caller in enumerate(self.callers, 1):
            restarts = self.random.choice((-1, -1, -1, 3, 0))
            actor_id = caller.create(number, name=f"n{number}", max_restarts=restarts, detached=True)
            self.actors[actor_id] = restarts
        self.net.run(3.0)

    def name(self, actor_id: bytes) -> str:
        return f"n{int.from_bytes(actor_id[-8:])}"

    def living(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.alive]

    def caller(self) -> Caller:
        """One that lives: a new one if there is none."""
        if not self.living():
            host = self.random.choice(self.net.living())
            self.callers.append(host.caller(f"c{len(self.callers)}"))
        return self.random.choice(self.living())

    def serving(self) -> list[HeirHost]:
        return [host for host in self.net.living() if host.drain.phase is Phase.SERVES]

    # -- what happens ------------------------------------------------------------------------------------------------

    def act(self) -> None:
        """One thing."""
        random, net = self.random, self.net
        what = random.random()
        serving = self.serving()
        if what < 0.75:
            self.call()
        elif what < 0.80:
            self.find()
        elif what < 0.86:
            host = random.choice(net.living())
            workers = [process for process in host.processes.values() if isinstance(process, Worker)]
            if workers and not host.asleep:
                host.crash(random.choice(workers).id)
        elif what < 0.88:
            drivers = self.living()
            if len(drivers) > 2:
                driver = random.choice(drivers)
                net.host(driver.host.node).end_driver(driver)
        elif what < 0.91:
            host = random.choice(net.living())
            if not host.asleep:
                self.callers.append(host.caller(f"c{len(self.callers)}"))
        elif what < 0.94:
            if len(serving) > 2 - (random.random() < 0.3) and net.now > self.off_at + HEIRS_S:
                random.choice(serving).begin_drain(random.choice((0.0, 0.1, 2.0)))
        elif what < 0.95 and self.kind != "stops":
            if len(serving) > 2 and not self.off:
                host = random.choice(net.living())
                self.off.add(host.node)
                self.off_at = net.now
                net.power_off(host.node)
        elif self.kind == "all":
            self.disturb(what)

    def disturb(self, what: float) -> None:
        random, net = self.random, self.net
        seconds = random.choice((random.uniform(0.5, 5.0), random.uniform(5.0, 60.0), random.uniform(60.0, 150.0)))
        one, other = random.sample(sorted(net.hosts), 2)
        if what < 0.96:
            net.begin_anew(one, other)
        elif what < 0.975:
            net.cut(one, other, seconds)
        elif what < 0.985:
            net.part(random.sample(sorted(net.hosts), random.randint(1, len(net.hosts) // 2)), seconds)
        else:
            host = random.choice(net.living())
            net.sleep(host.node, random.choice((random.uniform(0.5, 9.0), random.uniform(9.0, 60.0))))

    def call(self) -> None:
        caller, actor_id = self.caller(), self.random.choice(list(self.actors))
        retries = self.random.choice((0, 0, 2))

        def begin() -> None:
            self.retries[caller.call(actor_id, retries)] = retries

        caller.host.later(caller, 0.0, begin)

    def find(self) -> None:
        """By name, and then it is called."""
        caller, actor_id = self.caller(), self.random.choice(list(self.actors))
        caller.host.later(caller, 0.0, lambda: caller.find(self.name(actor_id)))

    def join(self) -> None:
        """A host more, which one of the first may be stopped for; not as long as one may die in just that moment."""
        self.net.join()
        self.net.run(1.0)  # it has met the others: where all who know each other are stopped, nobody can be the heir
        serving = self.serving()
        if len(serving) > 3 and (self.kind == "stops" or (self.off and self.net.now > self.off_at + HEIRS_S)):
            min(serving, key=lambda host: host.node).begin_drain(0.1)

    # -- what must hold ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        net = self.net
        times: dict[bytes, int] = defaultdict(int)
        for run in net.runs:
            times[run.task_id] += 1
            net.check_alone(run)
        last: dict[tuple[bytes, bytes], bytes] = {}
        calls = {task_id: call for caller in self.callers for task_id, call in caller.made.items()}
        for run in net.runs:
            if calls[run.task_id].attempt == 0:
                assert last.get((run.worker, run.caller), b"") < run.task_id, f"{run} ran out of order"
                last[run.worker, run.caller] = run.task_id
        for caller in self.callers:
            for task_id, call in caller.made.items():
                retries = self.retries.get(task_id, 0)
                assert times[task_id] <= 1 + retries, f"{call!r} ran {times[task_id]} times (I2)"
                assert len(net.accepted.get(task_id, ())) <= 1, f"{call!r} was answered twice"
                assert not caller.alive or task_id in caller.done, f"{call!r} was never answered (I1)"
            assert not caller.alive or not caller.unfound, f"{caller.id!r} was never told of {caller.unfound} (I1)"

    def owners(self, actor_id: bytes) -> list[HeirHost]:
        """Who has it, and holds it for living."""
        return [
            host
            for host in self.net.living()
            if (actor := host.actors.actor(actor_id)) is not None and actor.life is not Life.DEAD
        ]

    def check_end(self) -> None:
        """All is quiet: each actor has one owner, or none; everybody finds it, or is told that it is dead."""
        self.check()
        asked: list[tuple[Caller, bytes, bytes]] = []
        for host in self.net.living():
            caller = host.caller("last")
            self.callers.append(caller)
            for actor_id in self.actors:
                caller.find(self.name(actor_id))
                asked.append((caller, actor_id, caller.call(actor_id)))
        self.net.run(QUIET_S)
        self.check()
        for actor_id, restarts in self.actors.items():
            owners = self.owners(actor_id)
            assert len(owners) <= 1, f"{actor_id!r} has the owners {owners}"
            for host in owners:
                actor = host.actors.actor(actor_id)
                assert actor is not None
                assert actor.life is Life.ALIVE, f"it never came to rest: {actor!r}"
                worker = self.net.hosts[actor.worker[:8]].processes.get(actor.worker)
                assert worker is not None, f"it lives in nobody: {actor!r}"
                assert worker.alive, f"it lives in nobody: {actor!r}"
            if restarts < 0 and self.kind != "all":
                assert owners, f"{actor_id!r} was lost"
            for host in owners if self.kind == "stops" else ():
                job = actor_id[:-8]
                archive = host.objects.value_of(job + ARCHIVE) or host.programs.archive_of(job + ARCHIVE)
                assert host.programs.keeps(job), f"{host.node!r} knows nothing of the program of {actor_id!r}"
                assert archive, f"{host.node!r} has nothing of the program of {actor_id!r}"
        for caller, actor_id, call in asked:
            owners = self.owners(actor_id)
            (value,) = caller.done[call].values
            found = next(each for name, each in caller.named if name == self.name(actor_id))
            assert (value == b"value") == bool(owners), f"{caller.id!r} calls {actor_id!r} of {owners}: {value!r}"
            assert (found.failure is None) == bool(owners), f"{caller.id!r} looks for {actor_id!r} of {owners}: {found}"
            assert not owners or found.actor_id == actor_id
        for host in self.net.living():
            for actor_id, estate in host.wills._estates.items():
                testator = self.net.host(estate.testator[:8])
                heir = testator.wills.heir_of(actor_id) if testator.alive else None
                assert heir == host.peer, f"{host.node!r} has a will of {actor_id!r} that is over"
            for worker in host.guests.hosted().values():
                assert host.processes[worker].alive, "a guest that is dead"


def tell(seed: int, strangers: bool = False) -> Story:
    story = Story(seed, strangers)
    net = story.net
    try:
        for _ in range(250):
            if not net.living():
                return story  # all are stopped
            if strangers and story.random.random() < 0.04 and net.may_join():
                story.join()
            else:
                story.act()
            story.net.run(story.random.expovariate(4.0))
        story.net.run(QUIET_S)
        for caller in story.living():
            caller.tick()
        story.net.run(QUIET_S)
        story.check_end()
    except Exception as error:
        error.add_note(f"seed {seed} ({story.kind}), after:\n" + "\n".join(story.net.log[-60:]))
        raise
    return story


@pytest.mark.fault(5, 7, 16, 21, 22, 58)
@pytest.mark.parametrize("block", range(8))
def test_a_detached_actor_goes_on_once_or_ends(block: int) -> None:
    for seed in seeds(block, SEEDS, 8):
        tell(seed)


@pytest.mark.fault(5, 7, 16)
@pytest.mark.parametrize("block", range(4))
def test_an_heir_knows_the_job_of_what_it_takes_over(block: int) -> None:
    """Hosts join after programs have ended, and take the places of others."""
    for seed in seeds(block, SEEDS, 4):
        story = tell(seed, strangers=True)
        assert not story.net.refused or story.kind != "stops", f"seed {seed}: {story.net.refused}"


@pytest.mark.fault(16)
def test_an_heir_that_is_asked_for_a_place_as_well_waits_for_the_program() -> None:
    """Its owner was told that the program had come while it was on its way, and left."""
    tell(9, strangers=True)


@pytest.mark.fault(5, 16, 22)
@pytest.mark.parametrize("seed", [593, 1258, 2363, 2813])
def test_seeds_that_have_failed(seed: int) -> None:
    """593, 2363: the simulation itself; 1258: an heir that is being stopped; 2813: an earlier heir, a later owner."""
    tell(seed)
