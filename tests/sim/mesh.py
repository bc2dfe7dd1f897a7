"""A whole mesh of peers in one thread, as far as membership goes: a virtual clock, one seed, links and hosts with
faults.

General layout. `MeshWorld` moves messages between `MeshHost`s, each with a delay of its own, so they overtake each
other; links lose, double, or block them in one direction. What is blocked is lost, or, with `stalls`, comes some time
after the block has ended, as TCP does it. A host is the shell of one `Membership` after the other: when its node is
declared dead it starts as a new one. Hosts crash (their links close, or nobody hears of it), are stopped (what arrives
waits), are suspended (their clock may stand still meanwhile), and their clocks run at rates of their own and jump.

Checked all the time: each message fits the schema; no node comes back once it was down; a node that is over does
nothing any more, whatever is addressed to it; what the effects said is what the table says.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from meshray.config import DEFAULT, Config
from meshray.core.member_effects import DeclaredDead, LoadChanged, MemberDown, MemberUp, SendGossip
from meshray.core.membership import Membership
from meshray.wire.gossip import Alive, GossipMessage
from meshray.wire.gossip_codec import decode_gossip, encode_gossip

FAREWELL_S = 0.5
FALL_BACK_S = 3.0
"""A peer that could not rejoin through those who expelled it tries all that it knew after this time."""


class MeshHost:
    """One machine: an address, a clock, and a peer that may start several times."""

    def __init__(self, world: MeshWorld, index: int, python: str = "3.11") -> None:
        self.world = world
        self.index = index
        self.address = f"host{index}:7117"
        self.python = python
        self.rate, self.offset = 1.0, 0.0
        self.up = self.paused = False
        self.node = b""  # of the latest start
        self.membership: Membership = None  # type: ignore[assignment]
        self.backlog: list[tuple[bytes, GossipMessage]] = []
        self.living: set[bytes] = set()  # as the effects said
        self.buried: set[bytes] = set()
        self.loads: dict[bytes, tuple[int, bytes]] = {}
        self.starts = 0
        self._timer = float("inf")  # world time of the next tick

    def clock(self) -> float:
        return self.world.now * self.rate + self.offset

    def start(self, seeds: Iterable[str] = ()) -> None:
        world = self.world
        self.node = world.random.randbytes(8)
        self.starts += 1
        world.hosts_by_node[self.node] = self
        self.living, self.buried, self.loads = set(), set(), {}
        self.up, self.paused = True, False
        me = Alive(self.node, 0, f"host{self.index}", (self.address,), self.python)
        self.membership = Membership(world.config, me, Random(world.random.random()), self.clock())
        world.memberships[self.node] = self.membership
        self.event(lambda m, now: m.join(tuple(seeds), now))

    def event(self, happens: Callable[[Membership, float], None]) -> None:
        """An event of the core, and its effects."""
        if self.up and not self.paused:
            happens(self.membership, self.clock())
            self.perform()

    def receive(self, source: bytes, message: GossipMessage) -> None:
        if self.paused:
            self.backlog.append((source, message))
        elif self.up:
            self.membership.on_message(source, message, self.clock())
            self.perform()

    def perform(self) -> None:
        world = self.world
        for effect in self.membership.take_effects():
            kind = type(effect)
            if kind is SendGossip:
                world.send(self, effect)
            elif kind is MemberUp:
                node = effect.record.node
                assert node not in self.living, "came twice"
                assert node not in self.buried, "came back"
                self.living.add(node)
            elif kind is MemberDown:
                self.living.remove(effect.node)
                self.buried.add(effect.node)
                world.on_death(self, effect)
            elif kind is LoadChanged:
                version, _ = self.loads.get(effect.node, (0, b""))
                assert effect.version > version, "an older load"
                self.loads[effect.node] = effect.version, effect.load
            elif kind is DeclaredDead:
                self._rejoin(effect)
        self._set_timer()

    def _set_timer(self) -> None:
        due = self.membership.next_tick()
        if due == float("inf"):
            return
        at = max(self.world.now, (due - self.offset) / self.rate)
        if at < self._timer or self._timer < self.world.now:
            self._timer = at
            self.world.at(at - self.world.now, self._on_timer)

    def _on_timer(self) -> None:
        if self._timer > self.world.now + 1e-9 or not self.up or self.paused:
            return
        self._timer = float("inf")
        self.membership.tick(self.clock())
        self.perform()

    def _rejoin(self, effect: DeclaredDead) -> None:
        """As a shell does it: all work is given up, then it starts as another node."""
        world, old = self.world, self.membership
        world.rejoins.append((world.now, self.index, self.node))
        self.up = False
        world.note(f"host{self.index} was declared dead")

        def again() -> None:
            if self.membership is old and not self.up and self.index not in world.crashed:
                self.start(effect.addresses or old.last_peers())
                world.at(FALL_BACK_S, fall_back)

        def fall_back() -> None:
            if self.up and len(self.living) == 0:
                self.event(lambda m, now: m.join(old.last_peers(), now))

        world.at(world.random.random() * 0.3, again)

    # -- faults ------------------------------------------------------------------------------------------------------

    def crash(self, noisy: bool) -> None:
        """SIGKILL; `noisy`: the links close, as when the host is still there."""
        self.up = self.paused = False
        self.backlog = []
        self.world.crashed.add(self.index)
        self.world.note(f"host{self.index} crashes")
        if noisy:
            for other in self.world.hosts:
                self.world.at(self.world.random.random() * 0.05, lambda other=other: other.hears_broken(self.node))

    def hears_broken(self, node: bytes) -> None:
        self.event(lambda m, now: m.on_unreachable(node, now))

    def leave(self) -> None:
        self.event(lambda m, now: m.leave(now))
        self.up = False
        self.world.crashed.add(self.index)

    def jump(self, seconds: float) -> None:
        """Its clock does; timers of the shell go with it."""
        self.offset += seconds
        self._timer = float("inf")
        self._set_timer()

    def pause(self) -> None:
        self.paused = True
        self.world.note(f"host{self.index} is stopped")

    def resume(self, *, clock_stood_for: float = 0.0, lost: bool = False) -> None:
        """What has arrived meanwhile is read before the timer is looked at, or after."""
        self.paused = False
        self.offset -= clock_stood_for * self.rate
        self._timer = float("inf")
        self.world.note(f"host{self.index} goes on")
        backlog, self.backlog = ([] if lost else self.backlog), []
        if self.world.random.random() < 0.5:
            self.event(lambda m, now: m.tick(now))
        for source, message in backlog:
            if self.up:
                self.receive(source, message)
        self.event(lambda m, now: m.tick(now))


class MeshWorld:
    """Clock, links and fate."""

    def __init__(self, seed: int, config: Config = DEFAULT, *, codec: bool = True, counts_bytes: bool = False) -> None:
        self.random = Random(seed)
        self.config = config
        self.now = 0.0
        self.hosts: list[MeshHost] = []
        self.hosts_by_node: dict[bytes, MeshHost] = {}
        self.hosts_by_address: dict[str, MeshHost] = {}
        self.memberships: dict[bytes, Membership] = {}  # all that ever were
        self.crashed: set[int] = set()
        self.latency_s = (0.0002, 0.002)
        self.loss = self.doubling = 0.0
        self.stalls = False  # blocked messages come later
        self.blocked: set[tuple[int, int]] = set()  # directions, by host index
        self.stalled: list[tuple[int, int, bytes, bytes, GossipMessage]] = []
        self.deaths: list[tuple[float, int, bytes, str]] = []  # when, who says so, of whom, why
        self.rejoins: list[tuple[float, int, bytes]] = []
        self.sent = self.sent_bytes = 0
        self.log: list[str] = []
        self._codec = codec  # what arrives was encoded and decoded
        self._counts_bytes = counts_bytes
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._next = 0

    def add_hosts(self, count: int, *, python: str = "3.11") -> None:
        for _ in range(count):
            host = MeshHost(self, len(self.hosts), python)
            self.hosts.append(host)
            self.hosts_by_address[host.address] = host

    def start_mesh(self, count: int, *, settle_s: float = 5.0) -> None:
        """`count` hosts that know each other."""
        self.add_hosts(count)
        for host in self.hosts:
            self.at(self.random.random(), lambda host=host: host.start((self.hosts[0].address,)))
        self.run_for(settle_s)
        self.run_until(self.agrees, 60.0)

    # -- time --------------------------------------------------------------------------------------------------------

    def at(self, delay: float, event: Callable[[], None]) -> None:
        self._next += 1
        heapq.heappush(self._events, (self.now + delay, self._next, event))

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = end

    def run_until(self, condition: Callable[[], bool], within_s: float, step_s: float = 0.25) -> float:
        """How long it took. Raises `AssertionError` with the story when it took longer than `within_s`."""
        begin = self.now
        while not condition():
            assert self.now - begin <= within_s, f"not within {within_s:.1f} s\n{self.story()}"
            self.run_for(step_s)
        return self.now - begin

    # -- links -------------------------------------------------------------------------------------------------------

    def send(self, source: MeshHost, effect: SendGossip) -> None:
        message = effect.message
        if self._codec:
            data = encode_gossip(message)
            message = decode_gossip(data)
            assert message == effect.message
        elif self._counts_bytes:
            self.sent_bytes += len(encode_gossip(message))
        self.sent += 1
        to = self.hosts_by_node.get(effect.node) if effect.node else None
        if to is None:
            to = next((self.hosts_by_address[a] for a in effect.addresses if a in self.hosts_by_address), None)
        if to is None:
            return
        if (source.index, to.index) in self.blocked:
            if self.stalls:
                self.stalled.append((source.index, to.index, source.node, effect.node, message))
            return
        copies = 1
        if self.loss or self.doubling:
            copies = (self.random.random() >= self.loss) * (1 + (self.random.random() < self.doubling))
        for _ in range(copies):
            self._fly(source.node, to, effect.node, message, 0.0)

    def _fly(self, source: bytes, to: MeshHost, node: bytes, message: GossipMessage, more_s: float) -> None:
        low, high = self.latency_s
        delay = low + (high - low) * self.random.random() + more_s
        self.at(delay, lambda: self._deliver(source, to, node, message))

    def _deliver(self, source: bytes, to: MeshHost, node: bytes, message: GossipMessage) -> None:
        if node and node != to.node:
            self._haunt(source, node, message)
        else:
            to.receive(source, message)

    def _haunt(self, source: bytes, node: bytes, message: Any) -> None:
        """It is for an earlier start of the host, which would not get it; and if it did, nothing would happen (I3)."""
        old = self.memberships[node]
        if old.over:
            old.on_message(source, message, self.now)
            old.tick(self.now)
            assert old.take_effects() == [], "a node that is over has acted"

    def cut(self, ones: Iterable[int], others: Iterable[int], *, one_way: bool = False) -> None:
        for one in ones:
            for other in others:
                self.blocked.add((one, other))
                if not one_way:
                    self.blocked.add((other, one))
        self.note(f"blocked: {len(self.blocked)} directions")

    def heal(self, *, late_s: float = 1.4) -> None:
        """All links work. What stalled comes within `late_s`, when TCP tries again."""
        self.blocked.clear()
        self.note("healed")
        stalled, self.stalled = self.stalled, []
        lateness = {(a, b): self.random.random() * late_s for a, b, *_ in stalled}
        for one, other, source, node, message in stalled:
            self._fly(source, self.hosts[other], node, message, lateness[one, other])

    # -- what is checked ---------------------------------------------------------------------------------------------

    def on_death(self, by: MeshHost, effect: MemberDown) -> None:
        self.deaths.append((self.now, by.index, effect.node, effect.reason))
        self.note(f"host{by.index} holds {effect.name} {effect.node.hex()[:6]} for dead: {effect.reason}")

    def running(self) -> list[MeshHost]:
        return [host for host in self.hosts if host.up and not host.paused]

    def agrees(self) -> bool:
        """I7: all that run hold exactly each other for members."""
        running = self.running()
        nodes = {host.node for host in running}
        if not all(host.living | {host.node} == nodes for host in running):
            return False
        for host in running:
            told = {view.node for view in host.membership.view() if view.state in ("alive", "suspect")}
            assert told == nodes, "the effects said something else than the table"
        return True

    def false_deaths(self) -> list[tuple[float, int, bytes, str]]:
        """Deaths of nodes whose host runs as that node."""
        return [d for d in self.deaths if (host := self.hosts_by_node[d[2]]).up and host.node == d[2]]

    def note(self, text: str) -> None:
        self.log.append(f"{self.now:9.3f} {text}")

    def story(self) -> str:
        views = [
            f"host{host.index} {host.node.hex()[:6]}: "
            + " ".join(
                f"{view.name}:{view.node.hex()[:6]}:{view.state}"
                for view in host.membership.view()
                if view.state in ("alive", "suspect")
            )
            for host in self.running()
        ]
        return "\n".join([*self.log[-60:], *views])
