"""Several hosts in one thread: the shipped leases, placement and submission of each, and what goes wrong between them.

General layout. `Net` moves messages: within a host first in, first out per pair of processes; between two hosts through
both peers, over one ordered link per direction. A link that is cut holds what it carries, as a link session does; it
loses all of it when one side declares the other dead. What the road adds is modelled (`core.road` is simulated by
itself): a host knows a job before it hears a process of it, and hears of its end; a death is told to the hosts that
the dead one has spoken to, after all it had said; who is told that a host is gone is not heard there before it has
answered. `Host` is the shell of the cores of one peer,
and tells its processes who is gone; `Program` stands for a driver or a worker. Tasks are plans (`Plan`): how long, how
many children, whether it waits for them.

Hosts are killed, stopped beyond their death sentence, cut off for short and for long; workers and drivers are killed.
A host that drains (`core.drain`) goes through its steps, and says goodbye once all it had said has arrived.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from meshray.config import Config
from meshray.core.drain import Drain, Left, Phase
from meshray.core.effects import AbandonStart, JobForgotten, KillProcess, Send, StartWorker
from meshray.core.leases import Leases
from meshray.core.pending import DONE, Mean, Pending
from meshray.core.placement import Here, Member
from meshray.core.scheduling import SchedulingClass
from meshray.core.submission import Submission
from meshray.ids import peer_of
from meshray.strategy import ANYWHERE, Strategy
from meshray.wire import messages as m
from tests.sim.functions import Kept, function_of

LOG_MAX = 5000
OWN = ("python", "/usr")
GONE = m.Failure("NodeDiedError", "its host is gone")


@dataclass
class Plan:
    """What a task does."""

    number: int
    seconds: float
    retries: int = 3
    cpus: int = 10_000
    extra: str = ""  # a custom resource that it needs, too
    strategy: Strategy = ANYWHERE
    children: list[Plan] = field(default_factory=list)
    waits: bool = True  # for its children


class Net:
    """Clock, links and fate."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.gossip_s = 0.1  # between two tales of a host's load
        self.hosts: dict[bytes, Host] = {}
        self.programs: dict[bytes, Program] = {}
        self.begun: Counter[bytes] = Counter()  # task -> executions
        self.plans: dict[bytes, Plan] = {}  # task -> what it does
        self.ran_at: Counter[bytes] = Counter()  # home node -> tasks that began there
        self.handed_back: Counter[bytes] = Counter()  # task -> executions that a drain has ended
        self.seen: Counter[str] = Counter()  # messages by kind
        self._log: deque[tuple[float, bytes, Any, Any]] = deque(maxlen=LOG_MAX)  # time, who, to whom or "", what
        self.cut: set[frozenset[bytes]] = set()  # pairs of nodes that do not hear each other
        self.introduced: dict[bytes, set[bytes]] = {}  # host -> processes of others that have spoken to it
        self.gone: set[bytes] = set()  # processes whose peers know that they are dead
        self.barred: set[tuple[bytes, bytes]] = set()  # (process, host): it has not seen yet that the host was gone
        self._held: dict[tuple[bytes, bytes], list[Callable[[], None]]] = {}  # what has come as far as the cut
        self._epochs: Counter[frozenset[bytes]] = Counter()  # sessions between two hosts that have ended
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._last: dict[Any, float] = {}  # the time of the last delivery, by link
        self._number = 0

    def note(self, who: bytes, text: str) -> None:
        self._log.append((self.now, who, b"", text))

    def log(self) -> list[str]:
        """The last events, for a failing seed."""
        return [f"{now:.6f} {name(who)} -> {name(to)} {what!r:.160}" for now, who, to, what in self._log]

    def at(self, delay: float, event: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now + delay, self._number, event))

    def _in_order(self, link: Any, scale: float, event: Callable[[], None]) -> None:
        time = max(self._last.get(link, 0.0), self.now + self.random.random() * scale)
        self._last[link] = time
        self.at(time - self.now, event)

    def send(self, source: bytes, to: bytes, message: Any) -> None:
        self.seen[type(message).__name__] += 1
        here, there = source[:8], to[:8]
        if here == there:
            self._in_order((source, to), 0.001, lambda: self._deliver(source, to, message))
        elif source == peer_of(here):
            self._onto_link(here, there, source, to, message)
        else:  # through its own peer
            host = self.hosts[here]

            def relay() -> None:
                if host.alive and (source, there) not in self.barred and source not in self.gone:
                    self._onto_link(here, there, source, to, message)

            self._in_order((source, host.process), 0.001, relay)

    def _onto_link(self, here: bytes, there: bytes, source: bytes, to: bytes, message: Any) -> None:
        if there not in self.hosts[here].knows:
            return  # no session
        if source != peer_of(here):  # also while it is cut: what the session holds arrives later
            self._introduce(self.programs[source], here, there)
        epoch = self._epochs[frozenset((here, there))]
        scale = self.random.choice((0.001, 0.005, 0.02))
        self._in_order((here, there), scale, lambda: self._off_link(here, there, epoch, source, to, message))

    def _off_link(self, here: bytes, there: bytes, epoch: int, source: bytes, to: bytes, message: Any) -> None:
        pair = frozenset((here, there))
        if self._epochs[pair] != epoch or here not in self.hosts[there].knows:
            return  # nobody hears the dead
        if pair in self.cut:
            again = lambda: self._off_link(here, there, epoch, source, to, message)  # noqa: E731
            self._held.setdefault((here, there), []).append(again)
        elif to == peer_of(there):
            self._deliver(source, to, message)
        else:
            self._in_order((peer_of(there), to), 0.001, lambda: self._deliver(source, to, message))

    def _introduce(self, program: Program, here: bytes, there: bytes) -> None:
        """A process is about to speak to another host for the first time."""
        known = self.introduced.setdefault(there, set())
        if program.process not in known and program.job:
            known.add(program.process)
            job = self.hosts[here].leases.jobs.known.get(program.job)
            if job is not None:
                self._onto_link(here, there, peer_of(here), peer_of(there), m.JobThere(job, ""))

    def tell_job(self, job: bytes, host: Host) -> None:
        """A host hears of a job; and of its end at once, where that is known."""
        home = self.hosts[job[:8]]
        if home is host:
            return
        host.leases.on_job_started(m.JobInfo(job, *OWN, [], "/", "", "ns"))
        if home.node not in host.knows:
            host.leases.on_job_ended(job, frozenset(), self.now)
        elif home.leases.serves(job):
            home.told_of.setdefault(job, set()).add(host.node)
        else:
            self.act(host, 0.005, lambda: host.end_job(job))
        host.perform()

    def _deliver(self, source: bytes, to: bytes, message: Any) -> None:
        host = self.hosts[to[:8]]
        receiver: Any = host if to == host.process else self.programs.get(to)
        if receiver is None or not receiver.alive or not host.alive:
            return
        if host.stopped is not None:
            host.stopped.append(lambda: self._deliver(source, to, message))
            return
        self._log.append((self.now, source, to, message))
        receiver.receive(source, message)

    def act(self, host: Host, delay: float, event: Callable[[], None]) -> None:
        """`event` is an act of a host or its processes: it waits while that is stopped."""

        def now() -> None:
            if host.stopped is not None:
                host.stopped.append(now)
            elif host.alive:
                event()

        self.at(delay, now)

    # -- faults between hosts ----------------------------------------------------------------------------------------

    def part(self, a: bytes, b: bytes) -> None:
        self.cut.add(frozenset((a, b)))

    def heal(self, a: bytes, b: bytes) -> None:
        """What the session held goes on."""
        self.cut.discard(frozenset((a, b)))
        for here, there in ((a, b), (b, a)):
            for held in self._held.pop((here, there), ()):
                self.at(0.0, held)  # in order, and before what was sent later

    def has_unsaid(self, here: bytes) -> bool:
        """Whether something that this host has said is on its way."""
        late = any(at > self.now for link, at in self._last.items() if link[0] == here and len(link[1]) == len(here))
        return late or any(held for (source, _), held in self._held.items() if source == here)

    def end_session(self, a: bytes, b: bytes) -> None:
        """One of them holds the other for dead."""
        self._epochs[frozenset((a, b))] += 1
        for here, there in ((a, b), (b, a)):
            self.introduced[here] = {each for each in self.introduced.get(here, ()) if not each.startswith(there)}
        self._held.pop((a, b), None)
        self._held.pop((b, a), None)

    def step(self) -> bool:
        if not self._events:
            return False
        self.now, _, event = heapq.heappop(self._events)
        event()
        return True


def name(process: bytes) -> str:
    return process.replace(b"\0", b"").decode()


class Host:
    """One peer, and what it starts."""

    def __init__(self, net: Net, label: str, config: Config, total: dict[str, int], labels: dict[str, str]) -> None:
        self.net, self.config, self.labels = net, config, labels
        self.node = label.encode().ljust(8, b"_")
        self.process = peer_of(self.node)
        self.alive = True
        self.stopped: list[Callable[[], None]] | None = None  # what happens once it goes on
        self.knows: dict[bytes, Host] = {}  # living members, as it sees them
        self.leases = Leases(total, OWN, config, here=Here(self.node, labels, net.random))
        self.programs: list[Program] = []  # all that ever were
        self.drivers: set[bytes] = set()
        self.told_of: dict[bytes, set[bytes]] = {}  # job of a driver here -> hosts that know it
        self.waits: set[bytes] = set()  # processes whose last word was Blocked
        self._told: dict[bytes, dict[str, int]] = {}  # host -> our load, as it was told last
        self.numbers = 0
        self.drain = Drain(config)
        self._tick_at = float("inf")
        net.hosts[self.node] = self
        self.leases.start(net.now)
        self.perform()
        net.act(self, 0.0, self._tell_load)

    # -- members -----------------------------------------------------------------------------------------------------

    def meet(self, other: Host) -> None:
        """A member has appeared."""
        self.knows[other.node] = other
        seen = self._seen(other)
        other._told[self.node] = seen.used
        self.leases.on_member(seen, self.net.now)
        self.perform()

    def _seen(self, other: Host) -> Member:
        slots = other.leases.slots
        return Member(other.node, name(other.node), slots.total, slots.used, other.labels)

    def _tell_load(self) -> None:
        """Gossip, twice a second or so: only what has changed since the other one heard of it. Some of it is lost, and
        told the next time."""
        for other in list(self.knows.values()):
            pair = frozenset((self.node, other.node))
            seen = self._seen(self)
            if seen.used == self._told.get(other.node) or self.node not in other.knows or pair in self.net.cut:
                continue
            if self.net.random.random() < 0.8:
                self._told[other.node] = seen.used
                self.net.act(other, self.net.random.random() * 0.01, lambda o=other, s=seen: o._hear_load(s))
        self.net.act(self, self.net.gossip_s, self._tell_load)

    def _hear_load(self, member: Member) -> None:
        if member.node in self.knows:
            self.leases.on_member(member, self.net.now)
            self.perform()

    def lose(self, node: bytes) -> None:
        """MemberDown, or the end of this life of our own in the mesh."""
        if self.knows.pop(node, None) is None:
            return
        self.net.end_session(self.node, node)
        self.net.note(self.node, f"HOLDS {name(node)} FOR DEAD")
        self.leases.on_node_gone(node, self.net.now)
        self.leases.on_member_gone(node, "dead", self.net.now)
        for job in [job for job in self.leases.jobs.known if job.startswith(node)]:
            self.leases.on_job_ended(job, frozenset(), self.net.now)
        self.perform()
        for program in self._programs():
            self.net.barred.add((program.process, node))
            self.net.send(self.process, program.process, m.NodeGone(node))

    def _programs(self) -> list[Program]:
        return [program for program in self.programs if program.alive]

    # -- processes ---------------------------------------------------------------------------------------------------

    def new_process(self, label: str) -> bytes:
        self.numbers += 1
        return self.node + f"{label}{self.numbers}".encode().ljust(8, b"\0")

    def new_driver(self) -> Program:
        driver = Program(self.net, self, self.new_process("drv"))
        driver.job = driver.process
        driver.submission.job = driver.process
        self.leases.on_job_started(m.JobInfo(driver.process, *OWN, [], "/", "", "ns"))
        self.drivers.add(driver.process)
        return driver

    def end_job(self, job: bytes) -> None:
        """JobOver."""
        self.leases.on_job_ended(job, frozenset(), self.net.now)
        self.perform()

    def process_died(self, program: Program) -> None:
        """Its pidfd is readable."""
        now = self.net.now
        if program.process in self.drivers:
            self.leases.on_job_ended(program.process, frozenset(), now)
            for node in sorted(self.told_of.pop(program.process, ())):
                self.net.send(self.process, peer_of(node), m.JobOver(program.process))
            self.leases.on_driver_gone(program.process, now)
        else:
            finished, started = program.journal.get(self.leases.lease_of(program.process), ({}, set()))
            failure = m.Failure("WorkerCrashedError", "killed")
            self.leases.on_process_died(program.process, list(finished.values()), sorted(started), failure, now)
        self.perform()
        self.net.gone.add(program.process)
        for other in self._programs():
            self.net.send(self.process, other.process, m.ProcessDied(program.process))
        for node, known in self.net.introduced.items():
            if program.process in known:
                self.net.send(self.process, peer_of(node), m.ProcessDied(program.process))

    # -- messages ----------------------------------------------------------------------------------------------------

    def receive(self, source: bytes, message: Any) -> None:
        leases, now = self.leases, self.net.now
        match message:
            case m.Demand():
                leases.on_demand(source, message, now)
            case m.LeaseReturned():
                leases.on_returned(source, message.leases, now)
            case m.Blocked():
                self.waits.add(source)
                leases.on_blocked(source, message.since, now)
            case m.Unblocked():
                self.waits.discard(source)
                leases.on_unblocked(source, message.since, now)
            case m.DeathSeen():  # nothing is adopted here: what runs for the dead is not wanted
                running = self.net.programs[source].running
                kill = running is not None and running[0] == message.process
                leases.on_thawed(source, message.process, kill, now)
            case m.LoadNow():
                leases.on_load_now(source, message, now)
            case m.PeerLeaves():
                leases.on_member_leaves(source[:8], now)
            case m.JobWanted():
                if leases.serves(message.job) and source[:8] in self.knows:
                    self.net.send(self.process, source, m.JobThere(leases.jobs.known[message.job], ""))
            case m.JobThere():
                self.net.tell_job(message.info.job, self)
            case m.JobOver():
                self.end_job(message.job)
            case m.NodeGoneSeen():
                self.net.barred.discard((source, message.node))
            case m.ProcessDied():
                leases.on_foreign_process_died(message.process, now)
            case _:
                raise AssertionError(f"a peer cannot read {message!r}")
        self.perform()

    def perform(self) -> None:
        while effects := self.leases.take_effects():
            for effect in effects:
                self._perform(effect)
        self.check()
        deadline = self.leases.deadline()
        if deadline is not None and deadline < self._tick_at:
            self._tick_at = max(deadline, self.net.now)
            self.net.act(self, self._tick_at - self.net.now, self._tick)

    def _tick(self) -> None:
        self._tick_at = float("inf")
        self.leases.tick(self.net.now)
        self.perform()

    def _perform(self, effect: Any) -> None:
        net = self.net
        match effect:
            case Send(message=m.Bind()):
                program = net.programs[effect.to]
                program.job = program.submission.job = effect.message.job.job
            case Send(message=m.Exit()):
                net.programs[effect.to].die()
            case Send():
                net.send(self.process, effect.to, effect.message)
            case StartWorker():
                net.act(self, net.random.random() * 0.02, lambda: self._started(effect.ticket))
            case KillProcess():
                net.programs[effect.process].die()
            case AbandonStart():
                raise AssertionError("no start hangs here")
            case JobForgotten():
                return  # nothing of its program is kept here
            case _:
                raise AssertionError(f"the shell cannot perform {effect!r}")

    def _started(self, ticket: int) -> None:
        worker = Program(self.net, self, self.new_process("wrk"))
        self.leases.on_worker_ready(ticket, worker.process, self.net.now)
        self.perform()

    # -- its fate ----------------------------------------------------------------------------------------------------

    def die(self) -> None:
        """Everything on it, at once."""
        self.alive = False
        self.net.note(self.node, "HOST DIES")
        for program in self._programs():
            program.alive = False

    def stop(self) -> None:
        self.stopped = []
        self.net.note(self.node, "HOST STOPS")

    def go_on(self) -> None:
        waiting, self.stopped = self.stopped or [], None
        self.net.note(self.node, "HOST GOES ON")
        for event in waiting:
            self.net.act(self, 0.0, event)

    # -- drain -------------------------------------------------------------------------------------------------------

    def begin_drain(self, work_s: float, gone: Callable[[], None]) -> None:
        """It is told to end; what runs has so long. `gone()` once it has."""
        if self.drain.phase is not Phase.SERVES or not self.alive:
            return
        self.net.note(self.node, f"LEAVES, WORKS {work_s}")
        self.drain.begin(work_s, self.net.now)
        for node in list(self.knows):
            self.net.send(self.process, peer_of(node), m.PeerLeaves())
        self.leases.leave(self.net.now)
        self.perform()
        self._look(gone)

    def _look(self, gone: Callable[[], None]) -> None:
        tasks = self.leases.works()
        left = Left(works=tasks, tasks=tasks, moves=False, unsaid=self.net.has_unsaid(self.node))
        phase = self.drain.next(left, self.net.now)
        if phase is Phase.ENDS:
            self._end_work()
        if phase is Phase.OVER:
            self.die()
            gone()
        else:
            self.net.act(self, 0.002, lambda: self._look(gone))

    def _end_work(self) -> None:
        self.net.note(self.node, "ENDS WHAT RUNS")
        before = [program for program in self._programs() if program.running is not None]
        self.leases.end_work(self.net.now)
        self.perform()
        for program in before:
            if program.running is not None and not program.alive:
                self.net.handed_back[program.running[2].task_id] += 1

    def check(self) -> None:
        """I4: the books, and what runs."""
        self.leases.check()
        taken = 0
        for program in self._programs():
            if program.running is not None:
                grant = self.leases.grant_of(program.process)
                assert grant is not None, f"{name(program.process)} runs a task without a lease"
                if program.process not in self.waits:
                    taken += grant.wanted.request.get("CPU", 0)
        slots = self.leases.slots
        assert taken <= slots.total.get("CPU", 0) + slots.debt, f"what runs takes {taken}: {slots}"


Item = tuple[bytes, int, m.Task]  # submitter, lease, task


class Program:
    """A driver or a worker: both submit; a worker runs what is pushed to it, in order."""

    def __init__(self, net: Net, host: Host, process: bytes) -> None:
        self.net, self.host, self.process = net, host, process
        self.alive = True
        self.job = b""
        self.submission = Submission(host.process, host.config)
        self.values: dict[bytes, Any] = {}  # task -> its outcome
        self.tasks: dict[bytes, Pending] = {}  # that it has submitted
        self.items: deque[Item] = deque()
        self.functions = Kept(host.config, net.seen)
        self.running: Item | None = None
        self.running_since = 0.0
        self.blocked = False
        self.journal: dict[int, tuple[dict[int, m.Result], set[int]]] = {}
        self.dead: set[bytes] = set()
        self._since = 0
        self._classes: dict[Any, SchedulingClass] = {}
        self._means: dict[float, Mean] = {}
        self._waiters: dict[bytes, Callable[[], None]] = {}
        self._count = 0
        self._ticking = False
        net.programs[process] = self
        host.programs.append(self)

    # -- submitting --------------------------------------------------------------------------------------------------

    def submit(self, plan: Plan, depth: int = 0) -> bytes:
        self._count += 1
        task_id = self.process + self._count.to_bytes(8, "big")
        self.net.plans[task_id] = plan
        key = (plan.cpus, plan.extra, plan.strategy, depth)
        cls = self._classes.get(key)
        if cls is None:
            request = {name: amount for name, amount in (("CPU", plan.cpus), (plan.extra, 10_000)) if name and amount}
            cls = self._classes[key] = self.submission.new_class(request, m.Profile(), depth, plan.strategy)
        blob = function_of(plan.number)
        task = Pending(task_id, blob.hash, b"", [], self._means.setdefault(plan.seconds, Mean()))
        task.blob, task.name, task.cls, task.retries_left = blob, f"plan{plan.number}", cls, plan.retries
        self.tasks[task_id] = task
        self.submission.on_ready(task)
        return task_id

    def receive(self, source: bytes, message: Any) -> None:
        submission, now = self.submission, self.net.now
        if source in self.dead:
            return
        match message:
            case m.Push():
                self._on_push(source, message)
            case m.Results():
                self._complete(submission.on_results(source, message.lease, message.results, message.busy_ns, now))
            case m.GivenBack():
                self._complete(submission.on_given_back(source, message.lease, message.seqs, now))
            case m.LeaseGranted():
                submission.on_granted(message, now)
            case m.AskAlso():
                submission.on_ask_also(message)
            case m.LeaseWanted():
                submission.on_wanted(message.lease)
            case m.LeaseRevoked():
                submission.on_revoked(message.lease)
            case m.LeaseLost():
                self._complete(submission.on_lost(message, now))
            case m.NodeGone():
                self.items = deque(item for item in self.items if not item[0].startswith(message.node))
                self.functions.on_host_gone(message.node, self._at_hand)
                self._complete(submission.on_node_gone(message.node, GONE, now))
                self.net.send(self.process, self.host.process, m.NodeGoneSeen(message.node))
            case m.ProcessDied():
                self.dead.add(message.process)
                self.items = deque(item for item in self.items if item[0] != message.process)
                self.functions.on_submitter_gone(message.process, self._at_hand)
                submission.on_process_died(message.process)
                self.net.send(self.process, self.host.process, m.DeathSeen(message.process))
            case m.Infeasible():
                if message.hopeless:
                    self._complete(submission.on_unschedulable(message.class_id, message.message))
            case _:
                raise AssertionError(f"a program cannot read {message!r}")
        self.turn()

    def _complete(self, done: list[tuple[Pending, m.Result]]) -> None:
        for task, result in done:
            assert task.state == DONE
            assert task.task_id not in self.values, f"{task!r} has two outcomes"
            self.values[task.task_id] = result.values[0]
            waiter = self._waiters.pop(task.task_id, None)
            if waiter is not None:
                waiter()

    def turn(self) -> None:
        if not self.alive:
            return
        self.submission.fill(self.net.now)
        for effect in self.submission.take_effects():
            if effect.to not in self.dead:
                self.net.send(self.process, effect.to, effect.message)
        if self.submission.busy and not self._ticking:
            self._ticking = True
            self.net.act(self.host, 0.02, self._tick)
        if self.running is None and self.items:
            self._begin(self.items.popleft())

    def _tick(self) -> None:
        self._ticking = False
        if self.alive:
            self.submission.tick(self.net.now, 0.03)
            self.turn()

    # -- running -----------------------------------------------------------------------------------------------------

    @property
    def _at_hand(self) -> bytes:
        return self.running[2].function if self.running is not None else b""

    def _on_push(self, source: bytes, message: m.Push) -> None:
        self.functions.on_push(source, message)
        if message.lease not in self.journal:
            self.journal = {message.lease: ({}, set())}
        finished, _ = self.journal[message.lease]
        for seq in [seq for seq in finished if seq <= message.acknowledged]:
            del finished[seq]
        self.items.extend((source, message.lease, task) for task in message.tasks)
        if self.running is not None:
            self.net.act(self.host, self.host.config.hold_back_after_s, self._hold_back)

    def _hold_back(self) -> None:
        if self.alive and self.running and self.net.now - self.running_since >= self.host.config.hold_back_after_s:
            self._give_back()
            self.turn()

    def _give_back(self) -> None:
        items, self.items = self.items, deque()
        for source, lease, task in items:
            self.net.send(self.process, source, m.GivenBack(lease, [task.seq]))

    def _begin(self, item: Item) -> None:
        self.running, self.running_since = item, self.net.now
        _, lease, task = item
        assert task.function in self.functions, f"{name(self.process)} lacks the function of {task}"
        self.journal[lease][1].add(task.seq)
        self.net.begun[task.task_id] += 1
        self.net.ran_at[self.host.node] += 1
        self.host.check()
        plan = self.net.plans[task.task_id]
        if self.items:
            self.net.act(self.host, self.host.config.hold_back_after_s, self._hold_back)
        self.net.act(self.host, plan.seconds, lambda: self._ran(item, plan))

    def _ran(self, item: Item, plan: Plan) -> None:
        if not self.alive:
            return
        children = [self.submit(child, item[2].depth + 1) for child in plan.children]
        if not children or not plan.waits:
            self._end(item, plan)
            return
        self._give_back()
        self._since += 1
        self.blocked = True
        self.net.send(self.process, self.host.process, m.Blocked(self._since))
        left = len(children)

        def on_value() -> None:
            nonlocal left
            left -= 1
            if not left:
                self.net.act(self.host, 0.0, lambda: self.alive and self._wake(item, plan))

        for child in children:
            self._waiters[child] = on_value
        self.turn()

    def _wake(self, item: Item, plan: Plan) -> None:
        self.blocked = False
        self.net.send(self.process, self.host.process, m.Unblocked(self._since))
        self._end(item, plan)

    def _end(self, item: Item, plan: Plan) -> None:
        source, lease, task = item
        result = m.Result(task.seq, [plan.number.to_bytes(4, "big")])
        finished, started = self.journal[lease]
        started.discard(task.seq)
        finished[task.seq] = result
        self.running = None
        if source not in self.dead:
            busy_ns = int((self.net.now - self.running_since) * 1e9)
            self.net.send(self.process, source, m.Results(lease, [result], busy_ns))
        self.turn()

    def die(self) -> None:
        if self.alive:
            self.alive = False
            self.net.note(self.process, "KILLED")
            self.net.act(self.host, self.net.random.random() * 0.003, lambda: self.host.process_died(self))
