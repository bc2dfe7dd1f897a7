"""Detached actors while their owners are stopped, die, or are cut off: hosts with wills, which drain.

General layout. `HeirNet` adds to `actor_hosts.Net` what membership does: the mesh may fall into two parts that hold
each other for dead until it heals; two hosts that only cannot reach each other stay members, for others see them both,
and at worst their session begins anew. A host that has drained says goodbye. `HeirHost` is the shell of the cores that
hand over and inherit, of `core.programs` and of `core.drain`.

`HeirNet.lives` records each start of an actor: when one begins, all earlier ones must be over.

With `strangers` a host knows no job of others but those it has asked for, and forgets each as soon as it may; hosts may
join at any time (`HeirNet.join`). Else everybody knows every job.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from meshray.config import DEFAULT
from meshray.core.actors import request_for
from meshray.core.drain import Drain, Left, Phase
from meshray.core.effects import ActorWaits, DetachedChanged, KeepCopy, LetGoCopy, RequestActorSlot, Send, TakeSlot
from meshray.core.lives import Life as Stage
from meshray.core.placement import Here, Member, Placement
from meshray.core.programs import JobLeft, ProgramLost, Programs
from meshray.core.slots import Slots
from meshray.core.wills import GivesWay, Inherits, Wills
from meshray.ids import node_of, owner_node_of, peer_of
from meshray.wire import messages as m
from tests.sim.actor_hosts import KILLING_S, WAKING_S, Caller, Host, Net, Run, Worker

RUMOUR_S = 0.5
"""How long it may take until all have heard what one has told the mesh."""

PACKING_S = 0.1
"""How long a driver takes to pack its folder."""

FETCHING_S = 8.0
"""How long a large one takes at most, to another host: less than a host that leaves waits for it."""

ARCHIVE = b"archive....."
"""The last part of the id of what it has packed."""

LOOK_S = 0.05
"""How often a host that leaves looks whether it is done."""

HOSTS_MAX = 12
"""At most so many are made."""

CPU = {"CPU": 1_000_000}


class Life(NamedTuple):
    """One start of an actor."""

    worker: bytes
    incarnation: int
    began: float  # true time


class HeirNet(Net):
    """See the head of this file."""

    def __init__(self, seed: int, hosts: int, strangers: bool = False) -> None:
        self.strangers = strangers
        self.refused: list[bytes] = []  # actors that could not be started, since their jobs were not known
        self.lives: dict[bytes, list[Life]] = {}  # by actor, in order
        self.parted: set[frozenset[bytes]] = set()  # pairs that no third host sees both of
        super().__init__(seed, hosts, HeirHost)

    def host(self, node: bytes) -> HeirHost:
        host = self.hosts[node]
        assert isinstance(host, HeirHost)
        return host

    def living(self) -> list[HeirHost]:
        return [self.host(node) for node, host in sorted(self.hosts.items()) if host.alive]

    def on_begin(self, worker: Worker, start: m.StartActor) -> None:
        lives = self.lives.setdefault(start.actor_id, [])
        for life in lives:
            other = self.hosts[node_of(life.worker)]
            before = other.processes.get(life.worker)
            late = other.asleep or self.now <= other.awake_since + WAKING_S + KILLING_S
            assert before is None or not before.alive or late, (
                f"{start.actor_id!r} begins as {worker.id!r}, and {life} lives"
            )
        lives.append(Life(worker.id, start.incarnation, self.now))

    def check_alone(self, run: Run) -> None:
        """Nothing runs in a life once a later one has begun; but a host that has just woken may not know yet, and then
        nothing of that gets out."""
        lives = self.lives[run.actor_id]
        began = next(life.began for life in lives if life.worker == run.worker)
        later = [life for life in lives if began < life.began <= run.at]
        if not later:
            return
        story = f"{run} at {run.at:.3f}, and since then {later}"
        assert run.at <= run.awake_since + WAKING_S + KILLING_S, story
        accepted = [worker for worker in self.accepted.get(run.task_id, ()) if worker == run.worker]
        assert not accepted or run.caller[:8] == run.host, f"and its result was taken: {story}"

    def has_driver(self, job: bytes) -> bool:
        """Whether a program has not ended."""
        return any(isinstance(host, HeirHost) and host.job_lives(job) for host in self.living())

    def may_join(self) -> bool:
        """Not while hosts are cut off from each other: it would see both sides, and be counted by both."""
        return len(self.hosts) < HOSTS_MAX and not self._cut and not any(host.asleep for host in self.living())

    def join(self) -> HeirHost:
        """A host more: all who live meet it soon."""
        host = HeirHost(self, b"host%04d" % len(self.hosts))
        self.note(f"JOINS {host.node!r}")
        for node in self.hosts:
            self.sessions[host.node, node] = self.sessions[node, host.node] = 0
            self._settle(host.node, node)
        self.hosts[host.node] = host
        return host

    # -- what goes wrong ---------------------------------------------------------------------------------------------

    def part(self, ones: Iterable[bytes], seconds: float) -> None:
        """These see none of the others, for so long."""
        ones = set(ones)
        pairs = {frozenset((one, other)) for one in ones for other in self.hosts if other not in ones}
        if pairs & self._cut:
            return
        self.parted |= pairs
        for one in ones:
            for other in self.hosts:
                if other not in ones:
                    self.cut(one, other, seconds)

    def _detect(self, one: bytes, other: bytes, seconds: float) -> None:
        pair = frozenset((one, other))
        if pair in self.parted or self.hosts[other].asleep:
            super()._detect(one, other, seconds)
        elif pair in self._cut and self.random.random() < 0.3:  # others see both, so at worst the session ends
            self.at(self.random.uniform(0.0, seconds), lambda: self.begin_anew(one, other))

    def apart(self, one: bytes, other: bytes) -> bool:
        return frozenset((one, other)) in self.parted

    def _heal(self, one: bytes, other: bytes) -> None:
        self.parted.discard(frozenset((one, other)))
        super()._heal(one, other)

    def begin_anew(self, one: bytes, other: bytes) -> None:
        """The session of two members ends; each hears of that before it hears anything of the next one."""
        a, b = self.host(one), self.host(other)
        if not (self.linked(one, other) and a.alive and b.alive) or a.asleep or b.asleep:
            return
        self.note(f"ANEW {one!r} {other!r}")
        self.sessions[one, other] += 1
        self.sessions[other, one] += 1
        a.on_gone(other, there=True)
        b.on_gone(one, there=True)

    def goodbye(self, node: bytes) -> None:
        """It has drained. Who cannot hear it takes it for dead, later."""
        host = self.host(node)
        host.alive = False
        self.note(f"LEFT {node!r}")
        for process in host.processes.values():
            process.alive = False
        for other in self.hosts:
            if other == node:
                continue
            hears = frozenset((node, other)) not in self._cut
            delay = self.random.random() * RUMOUR_S if hears else self.random.uniform(5.0, 25.0)
            self.at(delay, lambda other=other, hears=hears: self._hear_goodbye(other, node, hears))  # type: ignore[misc]

    def _hear_goodbye(self, one: bytes, node: bytes, left: bool) -> None:
        host = self.host(one)
        if node in host.members:
            self.sessions[one, node] += 1
            host.to_peer(lambda: host.on_gone(node, left=left) if node in host.members else None)


def _info(job: bytes) -> m.JobInfo:
    return m.JobInfo(job, "", "", [], "", "", "")


class HeirHost(Host):
    """One peer that has wills and can drain."""

    def __init__(self, net: Net, node: bytes) -> None:
        super().__init__(net, node)
        self.jobs: set[bytes] = set()  # that are known here
        self.keeping: dict[m.Place, list[bytes]] = {}  # copies that are to stay -> from whom they may come
        self._without_job: dict[bytes, TakeSlot] = {}  # actors whose job is awaited
        slots = Slots(CPU)
        self.placement = Placement(Here(node, {}, net.random), slots, DEFAULT)
        self.wills = Wills(DEFAULT, node, self.actors, self.placement.heir)
        self.cores.insert(self.cores.index(self.naming) + 1, self.wills)
        self.timed.append(self.wills)
        self.programs = Programs(DEFAULT, node, self.objects, self)
        self.programs.is_wanted = self.guests.awaits_job
        self.programs.known_job = lambda job: _info(job) if job in self.jobs else None
        self.cores.insert(self.cores.index(self.wills) + 1, self.programs)
        self.drain = Drain(DEFAULT)
        self.drained_at = 0.0  # true time at which it began

    # -- jobs --------------------------------------------------------------------------------------------------------

    def knows_job(self, job: bytes) -> bool:
        return not self._heir_net.strangers or job in self.jobs

    @property
    def _heir_net(self) -> HeirNet:
        assert isinstance(self.net, HeirNet)
        return self.net

    def caller(self, label: str) -> Caller:
        caller = super().caller(label)
        self.jobs.add(caller.id)
        return caller

    def _is_needed(self, job: bytes) -> bool:
        """As `service` says it."""
        actors = any(actor.spec.job == job and actor.life is not Stage.DEAD for actor in self.actors.all())
        needed = actors or self.guests.needs(job) or self.wills.needs(job) or self.programs.is_owed(job)
        return needed or (self.drain.phase is not Phase.SERVES and self.programs.keeps(job))

    def _forget_jobs(self) -> None:
        for job in sorted(self.jobs):
            if job not in self.processes and not self._is_needed(job):
                self.jobs.discard(job)
                self.programs.on_job_forgotten(job)

    def _on_job_wanted(self, source: bytes, job: bytes) -> None:
        """`meshray.peer.dispatch`."""
        if job not in self.jobs or not self._heir_net.has_driver(job):
            self.programs.on_wanted(source, m.ProgramWanted(job))
        else:
            self.net.carry(self.node, node_of(source), (source, self.peer, m.JobThere(_info(job), "")))

    def _on_job_came(self, job: bytes) -> None:
        """It is known here, and may be started."""
        self.jobs.add(job)
        for actor_id in [actor_id for actor_id, take in self._without_job.items() if take.job == job]:
            super()._perform(self._without_job.pop(actor_id))
        self.guests.on_job_came(job)

    def _on_program_lost(self, effect: ProgramLost) -> None:
        if not self.knows_job(effect.job):
            self.guests.on_job_lost(effect.job, effect.why, effect.whom)
            for actor in [actor for actor in self.actors.all() if actor.spec.job == effect.job]:
                self._refuse(actor.spec.actor_id)

    def _refuse(self, actor_id: bytes) -> None:
        """It cannot be started, since its job is not known."""
        actor = self.actors.actor(actor_id)
        if actor is not None and actor.life is Stage.PLACING:
            self._heir_net.refused.append(actor_id)
            self.actors.on_slot_failed(actor_id, "its job is not known")

    # -- members -----------------------------------------------------------------------------------------------------

    def find(self, node: bytes) -> None:
        self.placement.on_member(Member(node, repr(node), CPU, {}, {}))
        super().find(node)
        self.wills.on_member_up(peer_of(node))
        self.foreign.on_node_there(node)
        if self.drain.phase is not Phase.SERVES:
            self.net.carry(self.node, node, (peer_of(node), self.peer, m.PeerLeaves()))

    def lose(self, node: bytes, there: bool, left: bool) -> None:
        if not there:
            self.placement.on_gone(node, "gone")
        super().lose(node, there, left)
        self.wills.on_member_down(peer_of(node), left, self.clock())
        self.programs.on_host_gone(node)
        if there:
            self.find(node)

    def _choose(self, request: RequestActorSlot, waits_at: bytes, refused: frozenset[bytes]) -> bytes | None:
        now = self.clock()
        there = [
            node
            for node in sorted(self.members - self.placement.leaving - {waits_at} - refused)
            if not self.fencing.pause_s(peer_of(node), now)
        ]
        here = [self.node] if not waits_at and self.drain.phase is Phase.SERVES else []
        return self.net.random.choice([*there, *here]) if there or here else None

    # -- messages ----------------------------------------------------------------------------------------------------

    def on_envelope(self, destination: bytes, source: bytes, message: Any) -> None:
        if destination != self.peer:
            super().on_envelope(destination, source, message)
        elif isinstance(message, m.PeerLeaves):
            self.placement.on_leaves(node_of(source))
            self.wills.on_member_leaves(source)
        elif isinstance(message, m.JobWanted):
            self._on_job_wanted(source, message.job)
        elif isinstance(message, m.JobThere):
            self._on_job_came(message.info.job)
        elif isinstance(message, m.GuestLost):
            super().on_envelope(destination, source, message)
            if peer_of(message.worker) == source:
                self.wills.on_process_died(message.worker)
        elif isinstance(message, m.KillActor) and self.wills.passes_on(message):
            self.settle()
        elif isinstance(message, m.WillsHeld):
            self.wills.on_held(source, message)
        elif isinstance(message, m.Will):
            self.wills.on_will(source, message)
            if self.wills.awaits(message.spec.actor_id):
                self.programs.on_needed(message.spec.job, source)
        elif isinstance(message, m.ProgramWanted):
            self.programs.on_wanted(source, message)
        elif isinstance(message, m.Program):
            self.programs.on_program(source, message)
        elif isinstance(message, m.ProgramHeld):
            self.programs.on_held(source, message)
        elif isinstance(message, m.NoPiece):
            sources = self.keeping.get(message.place, [])
            if source in sources:
                sources.remove(source)
        elif isinstance(message, m.WillOver):
            self.wills.on_over(source, message)
        elif isinstance(message, m.Inherit):
            self.wills.on_inherit(source, message)
        elif isinstance(message, m.Inherited):
            self.wills.on_inherited(source, message)
        elif isinstance(message, m.GuestMoves):
            self.guests.on_moves(source, message)
        elif isinstance(message, m.GuestMoved):
            self.wills.on_guest_moved(source, message)
        elif isinstance(message, m.ActorsMoved):
            for actor_id, reign in zip(message.actor_ids, message.reigns, strict=True):
                if self.wills.on_moved(source, actor_id, reign):
                    self.foreign.on_moved(actor_id, source, reign)
        else:
            super().on_envelope(destination, source, message)

    def on_local(self, source: bytes, message: Any) -> None:
        if isinstance(message, m.KillActor) and self.wills.passes_on(message):
            return
        if isinstance(message, m.WatchActor | m.KillActor):
            if self._is_ours(message.actor_id):
                core: Any = self.actors
            else:
                core = self.foreign
            if isinstance(message, m.WatchActor):
                core.on_watch(source, message)
            elif core is self.actors:
                core.on_kill(source, message)
            else:
                core.on_kill(message)
        else:
            super().on_local(source, message)

    def _is_ours(self, actor_id: bytes) -> bool:
        if self.wills.has_inherited(actor_id):
            return True
        return owner_node_of(actor_id) == self.node and not self.wills.has_given_way(actor_id)

    # -- effects -----------------------------------------------------------------------------------------------------

    def _perform(self, effect: Any) -> None:
        now = self.clock()
        self._forget_jobs()
        if isinstance(effect, TakeSlot) and not self.knows_job(effect.job):
            if self.programs.is_coming(effect.job):
                self._without_job[effect.actor_id] = effect
            else:
                self._refuse(effect.actor_id)
        elif isinstance(effect, ActorWaits) and effect.broken:
            self._refuse(effect.actor_id)
        elif isinstance(effect, DetachedChanged):
            self.wills.on_changed(effect.actor_id)
            actor = self.actors.actor(effect.actor_id)
            if actor is not None and actor.life is not Stage.DEAD and node_of(actor.spec.job) == self.node:
                self.programs.on_needed(actor.spec.job, self.peer)
        elif isinstance(effect, KeepCopy):
            self._fetch(effect)
        elif isinstance(effect, JobLeft | ProgramLost):
            self.net.note(f"{self.node!r} hears of a program: {effect!r:.60}")
            if isinstance(effect, JobLeft):
                self._on_job_came(effect.info.job)
            else:
                self._on_program_lost(effect)
        elif isinstance(effect, LetGoCopy):
            self.net.note(f"{self.node!r} lets go of {effect.place.object_id!r}")
            self.keeping.pop(effect.place, None)
        elif isinstance(effect, Inherits):
            self._inherit(effect, now)
        elif isinstance(effect, GivesWay):
            self.foreign.on_given_way(effect.actor_id, self.actors.give_way(effect.actor_id))
        else:
            super()._perform(effect)

    def _inherit(self, effect: Inherits, now: float) -> None:
        will = effect.will
        actor_id = will.spec.actor_id
        self.foreign.on_moved(actor_id, self.peer, will.reign)
        worker = will.worker if effect.lives else b""
        lives_here = self.guests.take_over(actor_id, worker)
        if not lives_here and node_of(worker) == self.node:
            worker = b""
        if worker:
            self.lodging.on_inherited(request_for(will.spec, will.incarnation), worker, now)
        if worker and node_of(worker) != self.node:
            self.fencing.on_inherited(peer_of(worker), now)
        self.actors.on_inherit(will, worker, effect.charged, now)
        if not lives_here:
            self._free_slot(actor_id)

    def _send(self, effect: Send) -> None:
        if isinstance(effect.message, m.CodeWanted):
            self.net.at(PACKING_S, lambda: self.to_peer(lambda: self._pack(effect.to)))
            return
        if effect.to != self.peer:
            super()._send(effect)
            return
        message = effect.message
        if isinstance(message, m.WatchActor):
            self.actors.on_watch(self.peer, message)
        elif isinstance(message, m.UnwatchActor):
            self.actors.on_unwatch(self.peer, message)
        elif isinstance(message, m.KillActor):
            self.actors.on_kill(self.peer, message)
        else:
            assert isinstance(message, m.ActorNews), f"it says to itself {message!r}"
            self.foreign.on_news(self.peer, message)

    def _free_slot(self, actor_id: bytes) -> None:
        self._without_job.pop(actor_id, None)
        super()._free_slot(actor_id)

    def _grant(self, actor_id: bytes) -> None:
        if self.drain.phase is Phase.SERVES:  # else it waits, and moves on
            super()._grant(actor_id)

    def _on_death(self, worker: Worker) -> None:
        super()._on_death(worker)
        self.wills.on_process_died(worker.id)

    def end_driver(self, caller: Caller) -> None:
        """A driver ends, and its job."""
        caller.alive = False
        self.processes.pop(caller.id, None)
        self.to_peer(lambda: self._on_driver_ended(caller.id))

    def _on_driver_ended(self, job: bytes) -> None:
        self.actors.on_job_ended(job)
        self.objects.on_job_ended(job, self.actors.survivors_of(job))
        self.actors.on_process_died(job, "its driver has ended", {}, self.clock())
        self.foreign.on_process_died(job)
        self.naming.on_process_died(job, self.clock())
        self.objects.on_process_died(job)

    # -- programs ----------------------------------------------------------------------------------------------------

    def job_info(self, process: bytes) -> m.JobInfo | None:
        """Of a driver of this host that lives."""
        return _info(process) if self.job_lives(process) else None

    def job_lives(self, job: bytes) -> bool:
        process = self.processes.get(job)
        return isinstance(process, Caller) and process.alive

    def _pack(self, job: bytes) -> None:
        """Its driver answers, if it is there; some folders are small, others large."""
        if self.job_lives(job):
            archive = job + ARCHIVE
            large = self.net.random.random() < 0.5
            value = m.Place(archive, self.node, "segment", 1 << 20) if large else b"archive"
            self.objects.on_promote(job, m.Promote([m.Promoted(archive, value)]))
            self.programs.on_code(job, m.Code(b"hash", archive, 1 << 20))

    def _fetch(self, effect: KeepCopy) -> None:
        """As `core.fetches` does: a value has one copy here, which comes after a while if one of its sources is there
        then, and of which nothing is told any more when it was let go of."""
        place = effect.place
        if place in self.keeping:
            self.keeping[place].append(effect.source)
            return
        sources = self.keeping[place] = [effect.source]

        def come() -> None:
            if self.keeping.get(place) is not sources:
                return
            failure = None
            if not any(node_of(source) in self.members for source in sources):
                failure = m.Failure("ObjectLostError", "it is gone")
                del self.keeping[place]
            self.programs.on_copy(place, failure)

        self.net.at(self.net.random.uniform(0.01, FETCHING_S), lambda: self.to_peer(come))

    # -- drain -------------------------------------------------------------------------------------------------------

    def begin_drain(self, work_s: float) -> None:
        """`meshray stop`."""
        if self.drain.phase is Phase.SERVES:
            self.net.note(f"STOPPED {self.node!r}")
            self.drained_at = self.net.now
            self.to_peer(lambda: self._begin_drain(work_s))

    def _begin_drain(self, work_s: float) -> None:
        self.drain.begin(work_s, self.clock())
        self.placement.on_leaves(self.node)
        for node in sorted(self.members):
            self.net.carry(self.node, node, (peer_of(node), self.peer, m.PeerLeaves()))
        self.guests.close()
        self._look_soon()

    def _look_soon(self) -> None:
        self.net.at(LOOK_S, lambda: self.to_peer(self._look))

    def _look(self) -> None:
        """`meshray.peer.draining`."""
        busy = any(isinstance(process, Worker) and process.busy for process in self.processes.values())
        moves = not self.wills.done or not self.programs.done or bool(self.guests.hosted())
        unsaid = any(self.net.flying[self.node, node] for node in self.members)
        phase = self.drain.next(Left(busy, False, moves, unsaid), self.clock())
        if phase is Phase.MOVES:
            self.guests.send_home()
            self.wills.leave(self.clock())
        if phase is Phase.OVER:
            self.net.goodbye(self.node)
        else:
            self._look_soon()
