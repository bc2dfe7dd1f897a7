"""A small mesh of `core.links` in one thread: addresses, incarnations that die and are replaced, connections that lie.

General layout. `Net` has the clock, the addresses and the connections; `Incarnation` is one start of a peer, with the
shipped `Links` and the part of an endpoint that it needs. What a connection may do to messages is what was seen of
ZeroMQ, and worse: end at any moment, deliver a part of what it holds long after its successor has begun, swallow
everything without a word, deliver twice, take nothing for a while. What a connection holds when its sender dies, or
another one takes its place, may come much later: so do some of the words with which links begin and end. While a
message is on its way its place in the connection is kept, so one connection is first in, first out, apart from that. A
pair may be blocked, in one direction or in both: what is written vanishes, heartbeats end the connections, and new ones
need both directions.

Payloads say who sent what to whom, and in which *era*: how often the sender had heard PeerDown of the receiver.
`Net.check` compares: what arrived on a plane in an era is a beginning of what was sent in it, in one era of the
receiver; eras never mix, and both ends agree on which belong together. Nothing is delivered to another incarnation, nor
while the sender is down. Nobody is held for replaced who lives.

What membership does is done by the net: it knows who was declared dead, so whoever is told that it is dead begins anew
if that is true, and tries again if it is not.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from random import Random

import msgspec

from meshray.config import DEFAULT, Config
from meshray.core.link_effects import Delivered, Dial, Forget, PeerDown, PeerUp
from meshray.core.links import Links, UnknownPeer
from meshray.core.redials import Redials
from meshray.wire.peers import Ack, Blocks, Data, Hello, Payload, PeerMessage, Plane, Reason

CONFIG = msgspec.structs.replace(
    DEFAULT, link_window_messages=8, link_window_bytes=500, link_ack_after_messages=4, link_dial_timeout_s=1e6,
    link_least_bytes=150, link_first_bytes=450,
)  # fmt: skip
"""Windows are small, and what is longer than 150 bytes may leave in parts."""

HASTY = msgspec.structs.replace(
    CONFIG, link_stall_s=0.7, link_ask_s=0.2, link_dial_timeout_s=0.9, link_replay_after_s=0.2, link_replay_max_s=0.4,
    link_hello_again_s=0.1, links_gone_max=1, away_after_s=1e6,
)  # fmt: skip
"""Gives up while pairs are blocked, and forgets whom it gave up as soon as there is another one."""

Key = tuple[bytes, bytes, Plane]  # sender, receiver, plane


class Connection:
    """One way, from a line of an incarnation to whoever listened at an address."""

    def __init__(self, receiver: Incarnation) -> None:
        self.receiver = receiver
        self.open = True  # the sender may write
        self.swallows = False  # what is written from now on vanishes
        self.last = 0.0  # time of the last delivery: nothing overtakes it
        self.cut = float("inf")  # what would arrive later is lost
        self.made = ""  # the address of who has made it


class Incarnation:
    """One start of the peer at an address: the shell of `Links`."""

    def __init__(self, net: Net, address: str) -> None:
        self.net = net
        self.address = address
        self.node = net.random.randbytes(8)
        self.alive = True
        self.links = Links(self.node, "mesh", "3.11", [address], "key", net.config)
        self.targets: dict[bytes, str] = {}  # target -> address
        self.lines: dict[tuple[bytes, Plane], Connection | None] = {}  # None while it is being connected
        self.up: set[bytes] = set()
        self.down: dict[bytes, Reason] = {}  # those that are, and not up again
        self.era: dict[bytes, int] = defaultdict(int)  # how often each was down
        self.reasons: set[Reason] = set()
        self.redials = Redials(net.random.uniform(0.05, 0.25))
        self._timer: float | None = None

    def turn(self) -> None:
        """What a real peer does after each event."""
        now = self.net.now
        if not self.alive:
            return
        self._redial(now)
        self.links.tick(now)
        self._perform()
        while self.alive and (frame := self.links.next_frame(now)) is not None:
            if self._write(frame.target, frame.plane, frame.destination, frame.message, frame.payload or b""):
                self.links.taken(frame, now)
            else:
                self.links.not_taken(frame)
        self._perform()
        self._check_windows()
        due = min((at for at in (self.links.next_at(), self.redials.next_at()) if at is not None), default=None)
        if due is not None and (self._timer is None or due < self._timer or self._timer <= now):
            self._timer = due
            self.net.at(max(0.0, due - now), self.turn)

    def _perform(self) -> None:
        for effect in self.links.take_effects():
            if isinstance(effect, Dial):
                self._forget(effect.target)
                self.targets[effect.target] = effect.address
                self.down.pop(effect.target, None)
            elif isinstance(effect, Forget):
                self._forget(effect.target)
                self.targets.pop(effect.target, None)
            elif isinstance(effect, PeerUp):
                assert effect.node not in self.down, "up without a link"
                assert effect.node not in self.up, "up twice"
                self.up.add(effect.node)
                self.redials.on_up(effect.node)
            elif isinstance(effect, PeerDown):
                assert effect.node not in self.down, "down twice"
                self.down[effect.node] = effect.reason
                self.era[effect.node] += 1
                self.reasons.add(effect.reason)
                self.up.discard(effect.node)
                self.redials.on_down(effect.node, self.net.now)
                if effect.reason is Reason.REPLACED:
                    assert self.net.living(effect.node) is None, f"replaced, and alive: {effect.text}"
                elif effect.reason is Reason.DEAD and self.node in self.net.condemned:
                    self.net.at(self.net.random.random() * 0.1, lambda: self.net.replace(self))
            elif isinstance(effect, Delivered):
                assert effect.node in self.up, "delivered while its sender was down"
                era = self.era[effect.node]
                self.net.check((effect.node, self.node, effect.plane), _joined(effect.payload), era)

    def _forget(self, target: bytes) -> None:
        for key in [key for key in self.lines if key[0] == target]:
            self.net.cut(self.lines.pop(key))

    def _redial(self, now: float) -> None:
        """Who is a member is linked with again, as its address is known."""
        for node in self.redials.take_due(now):
            other = self.net.living(node)
            if other is None:
                self.redials.on_gone(node)
            elif not self.links.knows(node):
                self.links.connect(node, other.address, now)

    def receive(self, sender: Incarnation, to: bytes, message: PeerMessage, payload: Payload) -> None:
        """A message, as the endpoint lets it through."""
        if self.alive and (to == self.node or isinstance(message, Hello)):
            host = sender.address.partition(":")[0]
            self.links.receive(to, sender.node, host, message, payload, self.net.now)
            self.turn()

    # -- lines ---------------------------------------------------------------------------------------------------------

    def _write(self, target: bytes, plane: Plane, destination: bytes, message: PeerMessage, payload: Payload) -> bool:
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
        if listener is None or net.chance(net.blocked) or net.is_blocked(self.address, listener.address):
            net.at(0.2 + net.random.random(), lambda: self._connect(key))
            return
        connection = self.lines[key] = Connection(listener)
        connection.made = self.address
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
                config = self.net.config
                assert len(session._flight) <= config.link_window_messages, session
                assert len(session._flight) <= 1 or session._flight_bytes <= config.link_window_bytes, session


class Net:
    """Clock, addresses, connections and fate, all from one seed."""

    def __init__(self, seed: int, hosts: int = 3, config: Config = CONFIG) -> None:
        self.random = Random(seed)
        self.config = config
        self.now = 0.0
        self.listening: dict[str, Incarnation] = {}
        self.everyone: list[Incarnation] = []
        self.connections: list[tuple[Incarnation, tuple[bytes, Plane], Connection]] = []
        self.sent: dict[Key, dict[int, list[bytes]]] = defaultdict(lambda: defaultdict(list))  # by era of the sender
        self.arrived: dict[tuple[Key, int], int] = defaultdict(int)  # how many of each era
        self.eras: dict[frozenset[bytes], set[tuple[int, int]]] = defaultdict(set)  # of a pair: which belong together
        self.blocks: set[tuple[str, str]] = set()  # (from, to), addresses
        self.condemned: set[bytes] = set()  # declared dead by somebody's failure detector
        self.swallow = self.random.choice((0.0, 0.002, 0.02))  # a connection begins to swallow, per message
        self.lose = self.random.choice((0.0, 0.05))  # this one message only
        self.double = self.random.choice((0.0, 0.05, 0.3))
        self.late = 0.0  # a Hello or its answer comes once more, perhaps after the end of its sender
        self.hold = 0.0  # what is written into a blocked connection arrives late
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

    def living(self, node: bytes) -> Incarnation | None:
        return next((one for one in self.listening.values() if one.node == node), None)

    def suspect_all_dead(self, probability: float, mistaken: float = 1 / 40) -> None:
        """The failure detector of everybody speaks of those who are dead, and sometimes of one who is not."""
        for one in list(self.listening.values()):
            for node in sorted(one.up):
                dead = self.living(node) is None
                if self.chance(probability if dead else probability * mistaken):
                    self.condemned.add(node)
                    one.links.down(node, "detector", self.now)
            one.turn()

    def send(self, one: Incarnation, node: bytes, plane: Plane) -> None:
        """One message with a number, of a random length; on the plane of the values sometimes with blocks."""
        era = one.era[node]
        sent = self.sent[one.node, node, plane][era]
        count = self.random.choice((0, 0, 2)) if plane is Plane.BULK else 0
        message = f"{one.node.hex()} {node.hex()} {plane} {era} {len(sent)} ".encode()
        message, *blocks = (
            part + b"x" * self.random.choice((0, 0, 0, 0, 300, 1000)) for part in (message, *[b"block "] * count)
        )
        try:
            one.links.send(node, plane, Blocks(message, tuple(blocks)) if blocks else message, self.now)
        except UnknownPeer:
            return
        sent.append(b"".join((message, *blocks)))

    # -- connections ---------------------------------------------------------------------------------------------------

    def carry(
        self, connection: Connection, sender: Incarnation, to: bytes, message: PeerMessage, payload: Payload
    ) -> None:
        blocked = (sender.address, connection.receiver.address) in self.blocks
        held = blocked and self.chance(self.hold)  # somewhere, and comes when nobody expects it any more
        connection.swallows = connection.swallows or (blocked and not held) or self.chance(self.swallow)
        if not isinstance(message, Data | Ack) and self.chance(self.late):
            self.at(
                self.random.random() * 4.0, lambda: self._deliver(connection.receiver, sender, to, message, payload)
            )
        if connection.swallows or self.chance(self.lose):
            return
        for _ in range(2 if self.chance(self.double) else 1):
            scale = 4.0 if held else self.random.choice((0.001, 0.01, 0.2))
            time = connection.last = max(connection.last, self.now + self.random.random() * scale)

            def deliver(time: float = time) -> None:
                if time <= connection.cut:
                    self._deliver(connection.receiver, sender, to, message, payload)

            self.at(time - self.now, deliver)

    def _deliver(
        self, receiver: Incarnation, sender: Incarnation, to: bytes, message: PeerMessage, payload: bytes
    ) -> None:
        successor = self.listening.get(receiver.address)  # "delivered to whoever binds the address next"
        receiver = receiver if receiver.alive or successor is None else successor
        receiver.receive(sender, to, message, payload)

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

    def is_blocked(self, one: str, other: str) -> bool:
        return (one, other) in self.blocks or (other, one) in self.blocks

    def block(self, one: str, other: str, both: bool) -> None:
        """From one address to the other nothing passes, until `heal`. Heartbeats notice it, in their time."""
        self.blocks |= {(one, other), (other, one)} if both else {(one, other)}

        def notice() -> None:
            for sender, key, connection in self.connections:
                if self.is_blocked(connection.made, connection.receiver.address):
                    self.cut(connection)
                    sender.lost(key, connection)

        self.at(0.05 + self.random.random() * 0.3, notice)

    def heal(self) -> None:
        self.blocks.clear()

    # -- what must hold ------------------------------------------------------------------------------------------------

    def check(self, key: Key, payload: bytes, own_era: int) -> None:
        era = int(payload.split()[3])
        number = self.arrived[key, era]
        sent = self.sent[key][era]
        assert number < len(sent), f"delivered what was never sent: {payload[:80]!r}"
        assert payload == sent[number], f"number {number} is {payload[:80]!r}"
        self.arrived[key, era] = number + 1
        sender, receiver, _ = key
        pair = (era, own_era) if sender < receiver else (own_era, era)
        eras = self.eras[frozenset((sender, receiver))]
        eras.add(pair)
        ordered = sorted(eras)
        for one, other in pairwise(ordered):
            assert one[0] < other[0], f"eras mix: {ordered}"
            assert one[1] < other[1], f"eras mix: {ordered}"

    def check_all_arrived(self) -> None:
        """Everything that was sent arrived, or its sender knows that it may not have, or is dead."""
        alive = {one.node: one for one in self.everyone if one.alive}
        for (sender, receiver, plane), eras in self.sent.items():
            one = alive.get(sender)
            if one is None or (receiver not in alive and receiver not in one.up):
                continue
            assert receiver in alive, f"{one.node.hex()} does not know of a death"
            other, era = alive[receiver], one.era[receiver]
            arrived = self.arrived[(sender, receiver, plane), era]
            assert arrived == len(eras[era]), (plane, arrived, len(eras[era]), one.links, other.links)

    def check_all_linked(self) -> None:
        """All who live are up for each other, and mean the same link."""
        alive = list(self.listening.values())
        epochs = {(one.node, link.node): link.epoch for one in alive for link in one.links if link.node in one.up}
        for one in alive:
            for other in alive:
                if other is not one:
                    ours, theirs = epochs.get((one.node, other.node)), epochs.get((other.node, one.node))
                    assert ours is not None, f"{other.node.hex()} is not up: {one.links}, {other.links}"
                    assert ours == theirs, (one.links, other.links)


def _joined(payload: Payload) -> bytes:
    """A message, and the blocks behind it."""
    return b"".join((payload.message, *payload.blocks)) if isinstance(payload, Blocks) else bytes(payload)
