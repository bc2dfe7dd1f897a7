"""Actors of several hosts in one thread: shipped cores, true time, clocks that go wrong, links that are cut.

General layout. `Net` has true time, and moves envelopes between hosts: first in, first out per pair, late, and not at
all once one of the two holds the other for gone. `Host` is the shell of a peer: the cores of actors, a place that
starts workers, and a clock of its own, which is up to 1 % too quick or too slow and goes on while the host sleeps.
`Worker` and `Caller` are its processes. A host that wakes lets these run on for a moment, before its peer has looked.

`Net.runs` records each call that a worker has begun, `Net.accepted` each that a caller has taken a result of.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from meshray.config import DEFAULT
from meshray.core.actors import Actors
from meshray.core.calls import Calls, Done
from meshray.core.effects import (
    ActorPlaced,
    ActorSlot,
    ActorWaits,
    CreateNamed,
    DetachedLost,
    FreeSlot,
    GuestsCame,
    GuestsLeft,
    HoldFor,
    KillProcess,
    LetGo,
    NameChanged,
    NameConflict,
    ReleaseActorSlot,
    RequestActorSlot,
    Send,
    ShrinkSlot,
    TakeSlot,
)
from meshray.core.fencing import Fenced, Fencing
from meshray.core.foreign_actors import ForeignActors
from meshray.core.guests import Guests
from meshray.core.lodging import Lodging
from meshray.core.naming import Naming
from meshray.core.objects import Objects
from meshray.core.pending import Mean, Pending
from meshray.core.store_accounts import StoreAccounts
from meshray.ids import node_of, owner_node_of, peer_of
from meshray.wire import messages as m
from tests.transit import none_in_transit

WAKING_S = 0.02
"""How long processes of a host may run on after it woke, until its peer has looked."""

PATIENCE_S = 2.0
"""How long what is said to a host that is not there waits for it."""

KILLING_S = 0.3
"""How long a kill may take; `fence_margin_s` allows for more."""


class Run(NamedTuple):
    """A call that a worker has begun."""

    actor_id: bytes
    incarnation: int
    caller: bytes
    task_id: bytes
    at: float  # true time
    worker: bytes
    awake_since: float

    @property
    def host(self) -> bytes:
        return node_of(self.worker)


class Net:
    """True time, links and fate. `make_host`: other hosts than plain ones."""

    def __init__(self, seed: int, hosts: int, make_host: Callable[[Net, bytes], Host] | None = None) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.hosts: dict[bytes, Host] = {}  # by node
        self.runs: list[Run] = []
        self.began: dict[bytes, dict[int, float]] = {}  # actor -> incarnation -> when it began to construct itself
        self.accepted: dict[bytes, list[bytes]] = {}  # call -> workers whose results a caller took
        self.log: list[str] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._next = 0
        self._last: dict[Any, float] = {}  # per link: nothing overtakes what was sent before
        self._cut: set[frozenset[bytes]] = set()
        self._waiting: dict[tuple[bytes, bytes], list[tuple[bytes, bytes, Any]]] = {}  # for hosts that are not known
        self._held: dict[tuple[bytes, bytes], list[Callable[[], None]]] = {}  # of cut links, in order
        self.sessions: dict[tuple[bytes, bytes], int] = {}  # (from, to) -> counts up each time `from` loses `to`
        self.flying: Counter[tuple[bytes, bytes]] = Counter()  # (from, to) -> envelopes on their way
        for index in range(hosts):
            host = (make_host or Host)(self, b"host%04d" % index)
            self.hosts[host.node] = host
        for host in self.hosts.values():
            for other in self.hosts.values():
                if other is not host:
                    self.sessions[host.node, other.node] = 0
                    host.members.add(other.node)
        for host in self.hosts.values():
            for node in sorted(host.members):
                host.greet(node)

    def at(self, delay: float, event: Callable[[], None]) -> None:
        self._next += 1
        heapq.heappush(self._events, (self.now + delay, self._next, event))

    def in_order(self, link: Any, scale: float, event: Callable[[], None]) -> None:
        """`event` after a while, and after all of this link before it."""
        time = max(self._last.get(link, 0.0), self.now + self.random.random() * scale)
        self._last[link] = time
        self.at(time - self.now, event)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = end

    def note(self, text: str) -> None:
        self.log.append(f"{self.now:.4f} {text}")

    def on_begin(self, worker: Worker, start: m.StartActor) -> None:
        """An incarnation begins to construct itself."""
        began = self.began.setdefault(start.actor_id, {})
        assert start.incarnation not in began, f"incarnation {start.incarnation} began twice"
        began[start.incarnation] = self.now

    # -- links -------------------------------------------------------------------------------------------------------

    def carry(self, source: bytes, to: bytes, envelope: tuple[bytes, bytes, Any]) -> None:
        """From peer to peer, if they have each other."""
        there, back = self.sessions[source, to], self.sessions[to, source]

        def goes_on() -> bool:
            return (self.sessions[source, to], self.sessions[to, source]) == (there, back) and self.linked(source, to)

        def arrive() -> None:
            if goes_on() and frozenset((source, to)) in self._cut:
                self._held.setdefault((source, to), []).append(arrive)
                return
            self.flying[source, to] -= 1
            self.hosts[to].to_peer(lambda: self.hosts[to].on_envelope(*envelope) if goes_on() else None)

        if self.linked(source, to):
            self.flying[source, to] += 1
            scale = self.random.choice((0.001, 0.005, 0.1))
            self.in_order((source, to), scale, arrive)
        elif to not in self.hosts[source].members:  # else the session is over, which `source` will hear
            if (source, to) not in self._waiting:
                self._waiting[source, to] = []
                self.at(PATIENCE_S, lambda: self._give_up(source, to))
            self._waiting[source, to].append(envelope)

    def _give_up(self, source: bytes, to: bytes) -> None:
        """What was for a host that nobody knows goes nowhere, and whoever has said it hears of that."""
        if self._waiting.pop((source, to), None):
            self.hosts[source].to_peer(lambda: self.hosts[source].on_gone(to))

    def linked(self, one: bytes, other: bytes) -> bool:
        return other in self.hosts[one].members and one in self.hosts[other].members

    def apart(self, one: bytes, other: bytes) -> bool:
        """Whether they cannot meet."""
        return frozenset((one, other)) in self._cut

    def cut(self, one: bytes, other: bytes, seconds: float) -> None:
        """Nothing passes for so long; who notices in time holds the other for gone."""
        pair = frozenset((one, other))
        if pair in self._cut:
            return
        self._cut.add(pair)
        self.note(f"CUT {one!r} {other!r} for {seconds:.1f}")
        for a, b in ((one, other), (other, one)):
            self._detect(a, b, seconds)
        self.at(seconds, lambda: self._heal(one, other))

    def _detect(self, one: bytes, other: bytes, seconds: float) -> None:
        """`one` does not hear `other`: it knows after a while."""
        detected = self.random.uniform(5.0, 25.0)
        if detected < seconds:
            self.at(detected, lambda: self.lose(one, other))

    def _heal(self, one: bytes, other: bytes) -> None:
        self._cut.discard(frozenset((one, other)))
        self.note(f"HEALED {one!r} {other!r}")
        for a, b in ((one, other), (other, one)):
            for event in self._held.pop((a, b), []):
                self.at(0.0, event)  # before what is on its way behind it
        self._settle(one, other)

    def lose(self, one: bytes, other: bytes) -> None:
        """`one` holds `other` for gone; the other hears of that when they meet."""
        host = self.hosts[one]

        def lost() -> None:
            if other in host.members:
                self.sessions[one, other] += 1  # what it has said meanwhile is lost, too
                host.on_gone(other)
            self._settle(one, other)

        if other in host.members:
            self.sessions[one, other] += 1
            host.to_peer(lost)

    def _settle(self, one: bytes, other: bytes) -> None:
        """Two that can hear each other: if one holds the other for gone, so does the other soon, and they meet anew."""
        self.at(self.random.uniform(0.01, 0.5), lambda: self._agree(one, other))

    def _agree(self, one: bytes, other: bytes) -> None:
        if self.apart(one, other) or self.linked(one, other):
            return
        a, b = self.hosts[one], self.hosts[other]
        if a.asleep or b.asleep or not (a.alive and b.alive):
            return  # it settles on waking
        for host, peer in ((a, other), (b, one)):
            if peer in host.members:
                self.sessions[host.node, peer] += 1
                host.on_gone(peer)
        a.members.add(other)
        b.members.add(one)
        a.greet(other)
        b.greet(one)
        for source, to in ((one, other), (other, one)):
            for envelope in self._waiting.pop((source, to), []):
                self.carry(source, to, envelope)

    # -- hosts -------------------------------------------------------------------------------------------------------

    def sleep(self, node: bytes, seconds: float) -> None:
        """Suspend a host."""
        host = self.hosts[node]
        if host.asleep or not host.alive:
            return
        host.asleep = True
        self.note(f"SLEEPS {node!r} for {seconds:.1f}")
        for other in self.hosts:
            if other != node:
                self._detect(other, node, seconds)
        self.at(seconds, host.wake)

    def power_off(self, node: bytes) -> None:
        host = self.hosts[node]
        host.alive = False
        self.note(f"OFF {node!r}")
        for process in host.processes.values():
            process.alive = False
        for other in self.hosts:
            if other != node:
                self.at(self.random.uniform(5.0, 25.0), lambda other=other: self.lose(other, node))  # type: ignore[misc]


class Process:
    """A worker or a caller."""

    def __init__(self, host: Host, label: str) -> None:
        self.host, self.alive = host, True
        self.id = host.node + label.encode().ljust(8, b"-")[:8]
        host.processes[self.id] = self

    def say(self, to: bytes, message: Any) -> None:
        """To the own peer, a process of this host, or through the peer to one of another host."""
        host = self.host
        if to == host.peer:
            host.local((self.id, to), lambda: host.to_peer(lambda: host.on_local(self.id, message)))
        elif node_of(to) == host.node:
            host.local((self.id, to), lambda: host.to_process(to, self.id, message))
        else:
            host.local((self.id, host.peer), lambda: host.to_peer(lambda: host.on_relay(self.id, to, message)))

    def receive(self, source: bytes, message: Any) -> None:
        raise NotImplementedError

    def on_node_gone(self, node: bytes) -> None:
        """A host is gone, says the peer."""


class Worker(Process):
    """Hosts one actor."""

    def __init__(self, host: Host, label: str) -> None:
        super().__init__(host, label)
        self.start: m.StartActor | None = None
        self.queue: list[tuple[bytes, m.Task]] = []
        self.journal: dict[bytes, tuple[list[m.Result], list[int]]] = {}
        self.busy = False

    def receive(self, source: bytes, message: Any) -> None:
        host, net = self.host, self.host.net
        if isinstance(message, m.StartActor):
            self.start = message
            net.on_begin(self, message)
            ready = m.ActorReady(message.actor_id, message.incarnation)
            host.later(self, net.random.random() * 0.05, lambda: self.say(host.peer, ready))
        elif isinstance(message, m.Push):
            finished, _ = self.journal.setdefault(source, ([], []))
            finished[:] = [result for result in finished if result.seq > message.acknowledged]
            self.queue += [(source, task) for task in message.tasks]
            self._next()
        elif isinstance(message, m.Exit):
            host.kill(self.id, "told to end")
        else:
            assert isinstance(message, m.ProcessDied | m.DeathSettled), f"a worker got {message!r}"

    def _next(self) -> None:
        if self.busy or not self.queue:
            return
        self.busy = True
        source, task = self.queue.pop(0)
        start, host, net = self.start, self.host, self.host.net
        assert start is not None, "a call overtook the start"
        finished, started = self.journal[source]
        started.append(task.seq)
        run = Run(start.actor_id, start.incarnation, source, task.task_id, net.now, self.id, host.awake_since)
        net.runs.append(run)

        def end() -> None:
            started.remove(task.seq)
            result = m.Result(task.seq, [b"value"])
            finished.append(result)
            self.say(source, m.Results(0, [result]))
            self.busy = False
            self._next()

        host.later(self, net.random.choice((0.0, 0.001, 0.05)), end)


class Caller(Process):
    """Calls actors, with the shipped core."""

    def __init__(self, host: Host, label: str) -> None:
        super().__init__(host, label)
        self.core = Calls(host.peer)
        self.made: dict[bytes, Pending] = {}
        self.done: dict[bytes, m.Result] = {}
        self.found: dict[int, m.ActorFound] = {}
        self.unfound: dict[int, str] = {}  # questions for names that are not answered
        self.named: list[tuple[str, m.ActorFound]] = []  # and those that are

    def call(self, actor_id: bytes, retries: int = 0) -> bytes:
        link = self.core.link(actor_id)
        call = Pending(self.id + (len(self.made) + 1).to_bytes(8, "big"), b"f", b"", [], Mean(), retries_left=retries)
        call.cls, call.name = link, f"call {len(self.made) + 1}"
        self.made[call.task_id] = call
        self._take(self.core.on_call(link, call, True))
        self._flush()
        return call.task_id

    def create(self, number: int, name: str = "", get_if_exists: bool = False, **options: Any) -> bytes:
        """An actor of this process."""
        actor_id = self.id + number.to_bytes(8, "big")
        blob = m.Blob(bytes(16), "Actor", b"")
        message = m.CreateActor(
            actor_id, blob, b"", [], {"CPU": 1}, {}, m.Profile(actor=True), options.get("max_restarts", 0), 0, 0,
            self.id, b"methods", name, "ns", options.get("detached", False), get_if_exists, number if name else 0,
        )  # fmt: skip
        self.say(self.host.peer, message)
        return actor_id

    def find(self, name: str) -> None:
        """By its name; what is found is called."""
        request = 1000 + len(self.unfound) + len(self.named)
        self.unfound[request] = name
        self.say(self.host.peer, m.FindActor(request, name, "ns"))

    def receive(self, source: bytes, message: Any) -> None:
        if isinstance(message, m.ActorState):
            self._take(self.core.on_state(message))
        elif isinstance(message, m.Results):
            done = self.core.on_results(source, message.results)
            for call, _ in done:
                self.host.net.accepted.setdefault(call.task_id, []).append(source)
            self._take(done)
        elif isinstance(message, m.ActorFound):
            assert message.request not in self.found, "answered twice"
            self.found[message.request] = message
            if message.request in self.unfound:
                self.named.append((self.unfound.pop(message.request), message))
                if message.failure is None:
                    self.call(message.actor_id)
        self._flush()

    def on_node_gone(self, node: bytes) -> None:
        self._take(self.core.on_node_gone(node, "gone"))
        self._flush()

    def _take(self, done: Done) -> None:
        for call, result in done:
            assert call.task_id not in self.done, f"told twice: {call!r}"
            self.done[call.task_id] = result

    def _flush(self) -> None:
        self.core.fill()
        for effect in self.core.take_effects():
            self.say(effect.to, effect.message)

    def tick(self) -> None:
        self.core.tick()
        self._flush()


class Host:
    """The shell of one peer."""

    def __init__(self, net: Net, node: bytes) -> None:
        self.net, self.node, self.peer = net, node, peer_of(node)
        self.rate = net.random.choice((0.99, 1.0, 1.01))
        self.offset = net.random.uniform(0.0, 1e6)
        self.wall_offset_ms = net.random.choice((0, 0, -3_600_000, 3_600_000))
        self.alive, self.asleep, self.awake_since = True, False, 0.0
        self.members: set[bytes] = set()
        self.processes: dict[bytes, Process] = {}
        self._deferred: list[tuple[Process | None, Callable[[], None]]] = []  # while it sleeps
        self._waking: dict[bytes, int] = {}  # process -> how much it still has to do of what came while it slept
        self._slots: dict[bytes, bytes] = {}  # actor -> worker; b"" while that is on its way
        self._ending: dict[bytes, bytes] = {}  # actor -> worker that is being killed, its slot being wanted back
        self._next_lives: set[bytes] = set()  # actors whose next slot waits for that
        self._workers = 0
        self._ticking = False
        self.objects = Objects(DEFAULT, node, StoreAccounts(DEFAULT, 1 << 40, none_in_transit))
        self.actors = Actors(DEFAULT, node, self.objects)
        self.lodging = Lodging(DEFAULT, node, self._choose, self.knows_job)
        self.guests = Guests(self.knows_job)
        self.fencing = Fencing(DEFAULT)
        self.foreign = ForeignActors()
        self.naming = Naming(DEFAULT)
        self.cores: list[Any] = [
            self.fencing, self.actors, self.lodging, self.guests, self.foreign, self.naming, self.objects
        ]  # fmt: skip
        self.timed: list[Any] = [self.actors, self.lodging, self.naming]  # besides the fences, which come first
        self.waits: list[str] = []
        self.chosen: list[bytes] = []  # where its next actors go; after that, anywhere

    def knows_job(self, job: bytes) -> bool:
        """Whether workers of it can be had here."""
        return True

    # -- time and sleep ----------------------------------------------------------------------------------------------

    def clock(self) -> float:
        """That goes on in suspend. (The other one is not modelled: what uses it here only waits longer.)"""
        return self.offset + self.rate * self.net.now

    def wall_ms(self) -> int:
        return 10_000_000 + self.wall_offset_ms + int(1000 * self.net.now)

    def local(self, link: Any, event: Callable[[], None]) -> None:
        """Something on this host, soon."""
        self.net.in_order(link, self.net.random.choice((0.0001, 0.003)), event)

    def later(self, process: Process, delay: float, event: Callable[[], None]) -> None:
        """An act of a process."""
        self.net.at(delay, lambda: self._act(process, event))

    def _act(self, process: Process, event: Callable[[], None]) -> None:
        if self.asleep:
            self._deferred.append((process, event))
        elif self._waking.get(process.id):
            self._after_waking(process, event)
        elif process.alive:
            event()

    def _after_waking(self, process: Process | None, event: Callable[[], None]) -> None:
        """In the order in which it came to this process (None: the peer)."""
        key = self.peer if process is None else process.id
        self._waking[key] = self._waking.get(key, 0) + 1

        def go_on() -> None:
            self._waking[key] -= 1
            if self.asleep:
                self._deferred.append((process, event))
            elif process is None:
                self._peer_acts(event)
            elif process.alive:
                event()

        self.net.in_order(("waking", key), WAKING_S / 4, go_on)

    def to_process(self, process_id: bytes, source: bytes, message: Any) -> None:
        process = self.processes.get(process_id)
        if process is not None:
            self._act(process, lambda: process.receive(source, message))

    def to_peer(self, event: Callable[[], None]) -> None:
        """The peer does something: but first it looks whether it may have slept."""
        if self.asleep:
            self._deferred.append((None, event))
        elif self._waking.get(self.peer):
            self._after_waking(None, event)
        else:
            self._peer_acts(event)

    def _peer_acts(self, event: Callable[[], None]) -> None:
        if self.alive:
            self.turn()
            event()
            self.settle()

    def wake(self) -> None:
        """Processes and peer go on, in any order, each with what it had to do in its order."""
        net = self.net
        self.asleep, self.awake_since = False, net.now
        net.note(f"WAKES {self.node!r}")
        deferred, self._deferred = self._deferred, []
        self._after_waking(None, lambda: None)
        for process, event in deferred:
            self._after_waking(process, event)
        for other in net.hosts:
            if other != self.node:
                net._settle(self.node, other)
        self._ticking = False
        self._tick_later()

    def turn(self) -> None:
        """What is due."""
        now = self.clock()
        self.fencing.tick(now)
        self.settle()
        for core in self.timed:
            due = core.next_deadline()
            if due is not None and due <= now:
                core.tick(now)
        self.settle()

    def _tick_later(self) -> None:
        if self._ticking or self.asleep or not self.alive:
            return
        due = [at for core in (self.fencing, *self.timed) if (at := core.next_deadline()) is not None]
        if due:
            self._ticking = True
            delay = max(0.0, (min(due) - self.clock()) / self.rate) + self.net.random.random() * 0.01
            self.net.at(min(delay, 1e6), self._tick)

    def _tick(self) -> None:
        self._ticking = False
        if not self.asleep and self.alive:
            self.turn()
            self._tick_later()

    # -- members -----------------------------------------------------------------------------------------------------

    def greet(self, node: bytes) -> None:
        """A member is there, maybe again."""
        self.find(node)
        self.settle()

    def find(self, node: bytes) -> None:
        self.naming.on_member_up(peer_of(node))

    def on_gone(self, node: bytes, there: bool = False, left: bool = False) -> None:
        """A host is gone, for this one: it has `left`, or was only cut off and is `there`."""
        if not there:
            self.members.discard(node)
        self.lose(node, there, left)
        self.settle()
        for process in list(self.processes.values()):
            self.local(
                (self.peer, process.id),
                lambda process=process: self._act(process, lambda: process.on_node_gone(node)),  # type: ignore[misc]
            )

    def lose(self, node: bytes, there: bool, left: bool) -> None:
        now = self.clock()
        self.net.note(f"{self.node!r} holds {node!r} for gone")
        self.guests.on_owner_gone(peer_of(node))
        fence_s = self.fencing.on_host_lost(peer_of(node), now)
        self.lodging.on_host_gone(node, now)
        self.actors.on_host_gone(node, fence_s, now)
        self.foreign.on_node_gone(node)
        self.naming.on_member_down(peer_of(node), now)

    def _choose(self, request: RequestActorSlot, waits_at: bytes, refused: frozenset[bytes]) -> bytes | None:
        now = self.clock()
        if waits_at:
            return None
        if self.chosen:
            return self.chosen.pop(0)
        there = [node for node in sorted(self.members - refused) if not self.fencing.pause_s(peer_of(node), now)]
        return self.net.random.choice([*there, self.node])

    # -- messages ----------------------------------------------------------------------------------------------------

    def on_envelope(self, destination: bytes, source: bytes, message: Any) -> None:
        if destination != self.peer:
            self.local((self.peer, destination), lambda: self.to_process(destination, source, message))
            return
        now = self.clock()
        if isinstance(message, m.HostActor):
            self.guests.on_host(source, message)
        elif isinstance(message, m.LeaveActor):
            self.guests.on_leave(source, message)
        elif isinstance(message, m.KillGuest):
            self.guests.on_kill(source, message)
        elif isinstance(message, m.ActorHosted):
            self.fencing.on_placed(source, now)
            self.lodging.on_hosted(source, message)
        elif isinstance(message, m.ActorWaitsThere):
            self.lodging.on_waits_there(source, message, now)
        elif isinstance(message, m.GuestReady | m.GuestExit):
            self.actors.on_guest_said(source, message, now)
        elif isinstance(message, m.GuestLost):
            self.actors.on_guest_lost(source, message, now)
        elif isinstance(message, m.FenceRenew):
            self.fencing.on_renew(source, message, now)
        elif isinstance(message, m.FenceRenewed):
            self.fencing.on_renewed(source, message, now)
        elif isinstance(message, m.WatchActor):
            self.actors.on_watch(source, message)
        elif isinstance(message, m.UnwatchActor):
            self.actors.on_unwatch(source, message)
        elif isinstance(message, m.KillActor):
            self.actors.on_kill(source, message)
        elif isinstance(message, m.ActorNews):
            self.foreign.on_news(source, message)
        elif isinstance(message, m.NameClaim):
            self.naming.on_claim(source, message)
        elif isinstance(message, m.NameAnswer):
            self.naming.on_answer(source, message, now)
        elif isinstance(message, m.NamesHeld):
            self.naming.on_held(source, message)
        elif isinstance(message, m.NameFreed):
            self.naming.on_freed(source, message)
        elif isinstance(message, m.FindActor):
            self.actors.on_find(source, message)
        elif isinstance(message, m.ActorFound):
            self.naming.on_found(source, message, now)
        else:
            assert isinstance(message, m.Release), f"a peer got {message!r}"

    def on_relay(self, source: bytes, to: bytes, message: Any) -> None:
        """A process speaks to one of another host."""
        if self.guests.is_fenced(source):
            self.net.note(f"{source!r} is fenced: nothing leaves")
        else:
            self.net.carry(self.node, node_of(to), (to, source, message))

    def on_local(self, source: bytes, message: Any) -> None:
        now = self.clock()
        if isinstance(message, m.CreateActor):
            if message.name:
                self.naming.on_create(source, message, now, self.wall_ms())
            else:
                self.actors.on_create(source, message, now)
        elif isinstance(message, m.WatchActor):
            if owner_node_of(message.actor_id) == self.node:
                self.actors.on_watch(source, message)
            else:
                self.foreign.on_watch(source, message)
        elif isinstance(message, m.KillActor):
            if owner_node_of(message.actor_id) == self.node:
                self.actors.on_kill(source, message)
            else:
                self.foreign.on_kill(message)
        elif isinstance(message, m.FindActor):
            if self.actors.has_name(message.namespace, message.name):
                self.actors.on_find(source, message)
            else:
                self.naming.on_find(source, message, now)
        elif isinstance(message, m.ActorReady):
            if not self.guests.on_ready(source, message):
                self.actors.on_ready(source, message, now)
        else:
            raise AssertionError(f"a peer got {message!r}")

    # -- effects -----------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        while effects := next((found for core in self.cores if (found := core.take_effects())), None):
            for effect in effects:
                self._perform(effect)
        self.guests.check()
        self.actors.check()
        self.foreign.check()
        self._tick_later()

    def _perform(self, effect: Any) -> None:
        now = self.clock()
        if isinstance(effect, Send):
            self._send(effect)
        elif isinstance(effect, RequestActorSlot):
            self.lodging.on_request(effect, now)
        elif isinstance(effect, ActorPlaced):
            self.lodging.on_placed(effect)
        elif isinstance(effect, ReleaseActorSlot):
            self.lodging.on_released(effect)
        elif isinstance(effect, TakeSlot):
            if effect.actor_id in self._ending:
                self._next_lives.add(effect.actor_id)
            else:
                self._take_slot(effect.actor_id)
        elif isinstance(effect, FreeSlot):
            self._free_slot(effect.actor_id)
        elif isinstance(effect, ActorSlot):
            self.actors.on_slot(effect.actor_id, effect.worker, now)
        elif isinstance(effect, KillProcess):
            self.kill(effect.process, effect.reason)
        elif isinstance(effect, GuestsCame):
            self.fencing.begin(effect.owner, now)
        elif isinstance(effect, GuestsLeft):
            self.fencing.end(effect.owner)
        elif isinstance(effect, Fenced):
            self.net.note(f"{self.node!r} has no right any more of {effect.owner!r}")
            self.guests.on_owner_gone(effect.owner)
        elif isinstance(effect, NameChanged):
            self.naming.on_changed(effect, self.wall_ms())
        elif isinstance(effect, CreateNamed):
            self.actors.on_create(effect.sender, effect.message, now)
        elif isinstance(effect, NameConflict):
            self.actors.on_name_conflict(effect.actor_id, effect.failure)
        elif isinstance(effect, ActorWaits):
            self.waits.append(effect.message)
        else:
            assert isinstance(effect, ShrinkSlot | HoldFor | LetGo | DetachedLost), effect

    def _send(self, effect: Send) -> None:
        to, message = effect.to, effect.message
        if node_of(to) == self.node:
            self.local((self.peer, to), lambda: self.to_process(to, self.peer, message))
        elif node_of(to) in self.net.hosts:
            self.net.carry(self.node, node_of(to), (to, self.peer, message))

    def _free_slot(self, actor_id: bytes) -> None:
        self._next_lives.discard(actor_id)
        worker = self._slots.pop(actor_id, b"")
        if worker:
            self._ending[actor_id] = worker
            self.kill(worker, "its slot is free")

    def _take_slot(self, actor_id: bytes) -> None:
        self._slots[actor_id] = b""
        self.net.at(self.net.random.random() * 0.05, lambda: self.to_peer(lambda: self._grant(actor_id)))

    def _grant(self, actor_id: bytes) -> None:
        if self._slots.get(actor_id) != b"":
            return
        self._workers += 1
        worker = Worker(self, f"w{self._workers}")
        self._slots[actor_id] = worker.id
        self.objects.on_process_attached(worker.id, 1)
        slot = ActorSlot(actor_id, worker.id)
        if self.guests.knows(actor_id):
            self.guests.on_slot(actor_id, worker.id)
        elif self.lodging.on_own_slot(slot):
            self.actors.on_slot(actor_id, worker.id, self.clock())

    def kill(self, process_id: bytes, reason: str) -> None:
        """SIGKILL, and soon it is dead and that is known."""
        worker = self.processes.get(process_id)
        if worker is not None and worker.alive:
            self.net.note(f"{self.node!r} kills {process_id!r}: {reason}")
            self.net.at(self.net.random.random() * KILLING_S, lambda: self.crash(process_id))

    def crash(self, process_id: bytes) -> None:
        worker = self.processes.pop(process_id, None)
        if not isinstance(worker, Worker):
            return
        worker.alive = False
        self.local((process_id, self.peer), lambda: self.to_peer(lambda: self._on_death(worker)))

    def _on_death(self, worker: Worker) -> None:
        now = self.clock()
        for actor_id in [actor_id for actor_id, its in self._slots.items() if its == worker.id]:
            del self._slots[actor_id]
        for actor_id in [actor_id for actor_id, its in self._ending.items() if its == worker.id]:
            del self._ending[actor_id]
            if actor_id in self._next_lives:
                self._next_lives.remove(actor_id)
                self._take_slot(actor_id)
        self.guests.on_process_died(worker.id, "killed", worker.journal)
        self.actors.on_process_died(worker.id, "killed", worker.journal, now)
        self.objects.on_process_died(worker.id)

    def caller(self, label: str) -> Caller:
        """A driver of this host."""
        caller = Caller(self, label)
        self.objects.on_process_attached(caller.id, 1, caller.id)
        return caller
