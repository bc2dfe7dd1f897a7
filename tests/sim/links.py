"""A small mesh of `core.links` in one thread: addresses, incarnations that die and are replaced, connections that lie.

General layout. `Net` has the clock, the addresses and the connections; `Incarnation` is one start of a peer, with the
shipped `Links` and the part of an endpoint that it needs. What a connection may do to messages is what was seen of
ZeroMQ, and worse: end at any moment, deliver a part of what it holds long after its successor has begun, swallow
everything without a word, deliver twice, take nothing for a while. While a message is on its way its place in the
connection is kept, so one connection is first in, first out, apart from that.

Payloads say who sent what to whom, and `Net.check` compares: what arrived on a plane between two incarnations is a
beginning of what was sent, nothing is delivered to another incarnation, and nothing from one that is down.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable
from random import Random

import msgspec

from meshray.config import DEFAULT
from meshray.core.link_effects import Delivered, Dial, Forget, PeerDown, PeerUp
from meshray.core.links import Links, UnknownPeer
from meshray.wire.peers import Hello, PeerMessage, Plane, Reason

CONFIG = msgspec.structs.replace(
    DEFAULT, link_window_messages=8, link_window_bytes=500, link_ack_after_messages=4, link_dial_timeout_s=1e6
)

Key = tuple[bytes, bytes, Plane]  # sender, receiver, plane


class Connection:
    """One way, from a line of an incarnation to whoever listened at an address."""

    def __init__(self, receiver: Incarnation) -> None:
        self.receiver = receiver
        self.open = True  # the sender may write
        self.swallows = False  # what is written from now on vanishes
        self.last = 0.0  # time of the last delivery: nothing overtakes it
        self.cut = float("inf")  # what would arrive later is lost


class Incarnation:
    """One start of the peer at an address: the shell of `Links`."""

    def __init__(self, net: Net, address: str) -> None:
        self.net = net
        self.address = address
        self.node = net.random.randbytes(8)
        self.alive = True
        self.links = Links(self.node, "mesh", "3.11", [address], "key", CONFIG)
        self.targets: dict[bytes, str] = {}  # target -> address
        self.lines: dict[tuple[bytes, Plane], Connection | None] = {}  # None while it is being connected
        self.up: set[bytes] = set()
        self.down: dict[bytes, Reason] = {}
        self._timer: float | None = None

    def turn(self) -> None:
        """What a real peer does after each event."""
        now = self.net.now
        if not self.alive:
            return
        self.links.tick(now)
        self._perform()
        while self.alive and (frame := self.links.next_frame(now)) is not None:
            if self._write(frame.target, frame.plane, frame.destination, frame.message, frame.payload or b""):
                self.links.taken(frame, now)
            else:
                self.links.not_taken(frame)
        self._perform()
        self._check_windows()
        due = self.links.next_at()
        if due is not None and (self._timer is None or due < self._timer or self._timer <= now):
            self._timer = due
            self.net.at(max(0.0, due - now), self.turn)

    def _perform(self) -> None:
        for effect in self.links.take_effects():
            if isinstance(effect, Dial):
                self._forget(effect.target)
                self.targets[effect.target] = effect.address
            elif isinstance(effect, Forget):
                self._forget(effect.target)
                self.targets.pop(effect.target, None)
            elif isinstance(effect, PeerUp):
                assert effect.node not in self.down, "up after down"
                assert effect.node not in self.up, "up twice"
                self.up.add(effect.node)
            elif isinstance(effect, PeerDown):
                assert effect.node not in self.down, "down twice"
                self.down[effect.node] = effect.reason
                self.up.discard(effect.node)
                if effect.reason is Reason.DEAD:  # the other says that we are dead: begin anew
                    self.net.at(self.net.random.random() * 0.1, lambda: self.net.replace(self))
            elif isinstance(effect, Delivered):
                assert effect.node not in self.down, "delivered after its sender was down"
                self.net.check((effect.node, self.node, effect.plane), bytes(effect.payload))

    def _forget(self, target: bytes) -> None:
        for key in [key for key in self.lines if key[0] == target]:
            self.net.cut(self.lines.pop(key))

    def receive(self, sender: Incarnation, to: bytes, message: PeerMessage, payload: bytes) -> None:
        """A message, as the endpoint lets it through."""
        if self.alive and (to == self.node or isinstance(message, Hello)):
            host = sender.address.partition(":")[0]
            self.links.receive(to, sender.node, host, message, payload, self.net.now)
            self.turn()

    # -- lines ---------------------------------------------------------------------------------------------------------

    def _write(self, target: bytes, plane: Plane, destination: bytes, message: PeerMessage, payload: bytes) -> bool:
        net, key = self.net, (target, plane)
        if key not in self.lines:
            self.lines[key] = None
            net.at(net.random.random() * 0.01, lambda: self._connect(key))
            return False
        connection = self.lines[key]
        if connection is None:
            return False
        if net.chance(net.full):
            net.at(net.random.random() * 0.05, lambda: self._ready(key, connection))
            return False
        net.carry(connection, self, destination, message, payload)
        return True

    def _ready(self, key: tuple[bytes, Plane], connection: Connection) -> None:
        if self.alive and self.lines.get(key) is connection:
            self.links.on_ready(*key, fresh=False, now=self.net.now)
            self.turn()

    def _connect(self, key: tuple[bytes, Plane]) -> None:
        """The attempt of a line: it succeeds where somebody listens and the network lets it through."""
        net = self.net
        if not self.alive or key not in self.lines or self.lines[key] is not None:
            return
        listener = net.listening.get(self.targets[key[0]])
        if listener is None or net.chance(net.blocked):
            net.at(0.2 + net.random.random(), lambda: self._connect(key))
            return
        connection = self.lines[key] = Connection(listener)
        net.connections.append((self, key, connection))
        self.links.on_ready(*key, fresh=True, now=net.now)
        self.turn()

    def lost(self, key: tuple[bytes, Plane], connection: Connection) -> None:
        """A connection has ended: dial again."""
        if self.alive and self.lines.get(key) is connection:
            self.lines[key] = None
            self.net.at(0.01 + self.net.random.random() * 0.3, lambda: self._connect(key))

    def _check_windows(self) -> None:
        for link in self.links:
            for session in link.sessions.values():
                assert len(session._flight) <= CONFIG.link_window_messages, session
                assert len(session._flight) <= 1 or session._flight_bytes <= CONFIG.link_window_bytes, session


class Net:
    """Clock, addresses, connections and fate, all from one seed."""

    def __init__(self, seed: int, hosts: int = 3) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.listening: dict[str, Incarnation] = {}
        self.everyone: list[Incarnation] = []
        self.connections: list[tuple[Incarnation, tuple[bytes, Plane], Connection]] = []
        self.sent: dict[Key, list[bytes]] = defaultdict(list)
        self.arrived: dict[Key, int] = defaultdict(int)
        self.swallow = self.random.choice((0.0, 0.002, 0.02))  # a connection begins to swallow, per message
        self.lose = self.random.choice((0.0, 0.05))  # this one message only
        self.double = self.random.choice((0.0, 0.05, 0.3))
        self.full = self.random.choice((0.0, 0.02, 0.2))
        self.blocked = self.random.choice((0.0, 0.3))
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        for number in range(hosts):
            self.start(f"10.0.0.{number}:7000")

    def at(self, delay: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + delay, self._count, event))

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.random.random() < probability

    def run(self, until: float = float("inf"), steps: int = 200_000) -> None:
        """Until that time, or until nothing is left to happen."""
        for _ in range(steps):
            if not self._events or self._events[0][0] > until:
                return
            self.now, _, event = heapq.heappop(self._events)
            event()
        raise AssertionError("not quiet: " + repr([one.links for one in self.listening.values()]))

    # -- peers ---------------------------------------------------------------------------------------------------------

    def start(self, address: str) -> None:
        one = Incarnation(self, address)
        others = [other for other in self.listening if other != address]
        self.listening[address] = one
        self.everyone.append(one)
        for other in others:
            one.links.dial(other, self.now)
        self.at(0.0, one.turn)

    def kill(self, one: Incarnation) -> None:
        """It is gone with all its connections; what it had written arrives in part."""
        if not one.alive:
            return
        one.alive = False
        del self.listening[one.address]
        for sender, key, connection in self.connections:
            if sender is one or connection.receiver is one:
                self.cut(connection)
                sender.lost(key, connection)

    def replace(self, one: Incarnation) -> None:
        if one.alive:
            self.kill(one)
            self.at(self.random.random() * 0.3, lambda: self.start(one.address))

    def suspect_all_dead(self, probability: float) -> None:
        """The failure detector of everybody speaks of those who are dead, and sometimes of one who is not."""
        for one in list(self.listening.values()):
            for node in list(one.up):
                dead = not any(other.node == node for other in self.listening.values())
                if self.chance(probability if dead else probability / 40):
                    one.links.down(node, "detector", self.now)
            one.turn()

    def send(self, one: Incarnation, node: bytes, plane: Plane) -> None:
        """One message with a number, of a random length."""
        key = one.node, node, plane
        payload = (f"{one.node.hex()} {node.hex()} {plane} {len(self.sent[key])} ").encode()
        payload += b"x" * self.random.choice((0, 0, 0, 0, 300, 1000))
        try:
            one.links.send(node, plane, payload, self.now)
        except UnknownPeer:
            return
        self.sent[key].append(payload)

    # -- connections ---------------------------------------------------------------------------------------------------

    def carry(
        self, connection: Connection, sender: Incarnation, to: bytes, message: PeerMessage, payload: bytes
    ) -> None:
        connection.swallows = connection.swallows or self.chance(self.swallow)
        if connection.swallows or self.chance(self.lose):
            return
        for _ in range(2 if self.chance(self.double) else 1):
            scale = self.random.choice((0.001, 0.01, 0.2))
            time = connection.last = max(connection.last, self.now + self.random.random() * scale)

            def deliver(time: float = time) -> None:
                receiver = connection.receiver
                if time <= connection.cut:
                    successor = self.listening.get(receiver.address)  # "delivered to whoever binds the address next"
                    receiver = receiver if receiver.alive or successor is None else successor
                    receiver.receive(sender, to, message, payload)

            self.at(time - self.now, deliver)

    def cut(self, connection: Connection | None) -> None:
        """Of what it holds a part arrives, and only when it would have: perhaps after what its successor carries."""
        if connection is not None and connection.open:
            connection.open = False
            connection.cut = (
                self.random.uniform(self.now, connection.last * 1.0001) if connection.last > self.now else 0
            )

    def cut_some(self) -> None:
        alive = [entry for entry in self.connections if entry[2].open]
        self.connections = alive
        if alive:
            sender, key, connection = self.random.choice(alive)
            self.cut(connection)
            sender.lost(key, connection)

    # -- what must hold ------------------------------------------------------------------------------------------------

    def check(self, key: Key, payload: bytes) -> None:
        number = self.arrived[key]
        assert number < len(self.sent[key]), f"delivered what was never sent: {payload[:80]!r}"
        assert payload == self.sent[key][number], f"number {number} is {payload[:80]!r}"
        self.arrived[key] = number + 1

    def check_all_arrived(self) -> None:
        """Everything that was sent arrived, or its sender knows that it may not have, or is dead."""
        alive = {one.node: one for one in self.everyone if one.alive}
        for (sender, receiver, plane), payloads in self.sent.items():
            one = alive.get(sender)
            if one is None or receiver in one.down:
                continue
            assert receiver in alive, f"{one.node.hex()} does not know of a death"
            assert self.arrived[sender, receiver, plane] == len(payloads), (plane, one.links, alive[receiver].links)
