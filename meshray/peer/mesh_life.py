"""One life of a peer in its mesh, from a node id that nobody had to the verdict that it is dead, or its goodbye.

It holds what belongs to that id: the endpoint, the links, membership, discovery. It decides nothing; it carries events
to the core that they concern, and does what the cores ask:

    discovery   Found            -> membership.join            Addresses  -> listen there, tell everybody
    links       Probed           -> membership.on_message      PeerUp, Ready  -> on_reachable
                PeerDown, Lost   -> on_unreachable             replaced at its address  -> on_gone
                PeerDown of a member  -> redials, which have it begun anew
    members     a change of keys -> kept for `keyring`, which asks this to `tell`
    membership  SendGossip       -> a datagram (`probe_lines`); with a member a link is opened as well
                MemberDown       -> links.down                 DeclaredDead -> `verdict`

A Join goes to an address. Who listens there is asked by a Hello first, which also keeps out other protocols and other
meshes; the Join follows as a datagram to the node that has answered, or that has refused us as dead: for who gives in
after a partition is for membership to settle.

Two clocks: links live by the monotonic one; membership by one that goes on in suspend, so that it notices.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from random import Random
from typing import NamedTuple

import msgspec

from meshray.config import Config
from meshray.core.deadlines import earliest
from meshray.core.gone import remember
from meshray.core.link import State
from meshray.core.link_effects import Answered, Delivered, Effect, PeerDown, PeerUp, Probed, SelfDialled, TurnedAway
from meshray.core.links import SEED, UnknownPeer
from meshray.core.member_effects import (
    DeclaredDead,
    LoadChanged,
    MemberChanged,
    MemberDown,
    MemberUp,
    MemberView,
    SendGossip,
)
from meshray.core.membership import Membership
from meshray.core.redials import Redials
from meshray.ids import NODE_BYTES, new_node
from meshray.launch import MeshSettings
from meshray.local import PYTHON
from meshray.meshkey import MeshKeys
from meshray.observe.notes import note, printable
from meshray.peer.links import PeerLinks
from meshray.peer.mesh_events import (
    GOODBYE,
    Came,
    LifeOver,
    LifeSilent,
    LifeThere,
    LinkCut,
    LinkThere,
    LoadTold,
    MeshEvent,
)
from meshray.peer.probe_lines import PREFIX, ProbeLines
from meshray.peer.refusals import Refusals
from meshray.transport.discovery import (
    Addresses,
    Discovery,
    DiscoveryStats,
    Finding,
    Found,
    Trouble,
    Withdrawn,
)
from meshray.transport.interfaces import choose, dialled, look, without_zones
from meshray.transport.keys import CurveKeys
from meshray.transport.mesh_endpoint import MeshEndpoint, MeshStats
from meshray.transport.mesh_lines import HandshakeFailed, LineEvent, Lost, Ready, Unreachable
from meshray.wire.advert import Advert
from meshray.wire.codec import ProtocolError
from meshray.wire.gossip import LEFT, Alive, Expelled, GossipMessage
from meshray.wire.gossip_codec import decode_datagram, encode_datagram, encode_gossip
from meshray.wire.loads import decode_load
from meshray.wire.peers import Payload, Plane, Reason
from meshray.wire.rotation import RotationMessage

ROUNDS_MAX = 8
"""So often the cores may answer each other in one turn; then the rest of the peer has its turn."""

SUSPECT_ADDRESSES = 3
"""What is said to a suspect goes to so many of its addresses: datagrams may be doubled, and its life depends on it."""

JOINS_MAX = 256
"""Addresses from which an answer to a Hello is awaited; membership tries one after the other, so it is one or two."""

FOLLOW_AGAIN_S = 5.0
"""An address of this host at which it could not listen is tried again so often."""

TOLD_MAX = 256
"""Troubles that the log has been told of, records that stand, and addresses with which there is no link; beyond these
it forgets, and may tell them again."""

LIVING = ("alive", "suspect")
"""States of members."""


class Who(NamedTuple):
    """A peer, as others hear of it."""

    name: str
    version: str  # of meshray
    home: bytes  # the node that its processes and objects are named by
    life: int = 1  # the number of its present life
    labels: Mapping[str, str] = {}


class Apart(NamedTuple):
    """Why there is no link with whoever is at an address."""

    why: str
    answered: bool  # somebody is there, and it is refused, or refuses us
    handshake: bool = False  # already when connections are made, so that it is over once one stands


class MeshLife:
    """See the head of this file. `verdict` is set when it is over.

    Raises `NotProven`, `PortTaken` or another `OSError` of the endpoint, and `InterfaceError`.
    """

    def __init__(
        self, keys: MeshKeys, settings: MeshSettings, who: Who, advert: Advert, load: bytes, config: Config
    ) -> None:
        self.node = new_node()
        self.verdict: DeclaredDead | None = None
        self.peers_changed = False  # the addresses to remember may be others; whoever writes them down resets it
        self.refused_there: Counter[str] = Counter()  # connections that others refused us, by what is known of it
        self.refusals_here, self.refusals_there = Refusals(), Refusals()  # when these were, and those of our port
        self.heard: dict[bytes, list[str]] = {}  # addresses in the records that stand, by node
        self.reached: dict[str, None] = {}  # addresses to which a connection stands, without a word from there
        self.apart: dict[str, Apart] = {}  # by address: why there is no link with who is there
        self.leaving: dict[bytes, float] = {}  # members that are being stopped -> since when, by `awake_or_not`
        self._homes: dict[bytes, bytes] = {}  # of lives that were heard of: the hosts as people know them
        self.guests: dict[bytes, None] = {}  # members that run nothing, and will not be there again
        self.counts: Counter[str] = Counter()
        self.trouble = ""  # of discovery
        self._logged: set[str] = set()  # troubles
        self._joins: dict[str, GossipMessage] = {}  # by the address whose answer to a Hello they wait for
        self._found: list[str] = []  # addresses that discovery has found, and nobody has taken yet
        self._of_keys: list[tuple[bytes, RotationMessage]] = []  # members' messages that nobody has taken yet
        self._hosts: list[str] = []  # addresses of this host of which not all could be listened at
        self._follow_at: float | None = None  # when these are tried again; None: there are none
        self._more = False  # the last turn has left something to do
        self._told: list[Effect | LineEvent] = []  # by links, between two turns
        self._events: list[MeshEvent] = []  # for the road; see `take_events`
        curve = CurveKeys(keys)
        self._discovery = Discovery(keys, self.node, bind=settings.bind, config=config)
        try:
            hosts = dialled(choose(look(), settings.bind))
            self._endpoint = MeshEndpoint(self.node, curve, hosts, settings.port, config)
        except BaseException:
            self._discovery.close()
            raise
        self._links = PeerLinks(self.node, keys.mesh.hex(), PYTHON, self._endpoint, curve.current.id, config)
        self._links.links.belong(who.home, who.life)
        self._redials = Redials(config.link_anew_s)
        self._config = config
        self._lines = ProbeLines(self._endpoint, config)
        me = Alive(self.node, 0, who.name, tuple(self._endpoint.listens), PYTHON, 1, load)
        self._membership = Membership(config, me, Random(), awake_or_not())
        self._advert = _of_node(advert, self.node)
        self._discovery.start()

    # -- what the peer's loop does with it -----------------------------------------------------------------------------

    def fds(self) -> list[int]:
        """Readable when a turn is due."""
        return [self._links.fd, self._discovery.fd]

    def next_at(self, now: float) -> float:
        """When a turn is due, if none of `fds` becomes readable before."""
        if self._more:
            return now
        due = min(self._links.next_at(now), now + self._membership.next_tick() - awake_or_not())
        other = earliest(self._follow_at, self._redials.next_at())
        return due if other is None else min(due, other)

    def turn(self, now: float) -> None:
        """Do what there is to do."""
        for finding in self._discovery.take():
            self._on_finding(finding, now)
        if self._follow_at is not None and now >= self._follow_at:
            self._follow(self._hosts, now)
        self._redial(now)
        self.refusals_here.look(self._endpoint.inbound.refused, now)
        self.refusals_there.look(self.refused_there, now)
        self._more = True
        for _ in range(ROUNDS_MAX):
            told, self._told = self._told, []
            told += self._links.turn(now)
            for event in told:
                self._on_told(event, now)
            if self._membership.next_tick() <= awake_or_not():
                self._membership.tick(awake_or_not())
            if not self._perform(now) and all(type(event) is Delivered for event in told):
                self._more = False  # what is delivered is for others, and changes nothing here
                return

    def advertise(self) -> None:
        """Have others of the network find this life. A repeat changes nothing."""
        self._discovery.advertise(self._advert)

    def join(self, addresses: Iterable[str]) -> None:
        """Try these, but those of living members."""
        taken = {address for member in self.members() if member.state in LIVING
                 for address in member.addresses}  # fmt: skip
        seeds = tuple(address for address in dict.fromkeys(addresses) if address not in taken)
        if seeds:
            self._membership.join(seeds, awake_or_not())

    def take_found(self) -> list[str]:
        """Addresses that discovery has found since the last call."""
        found, self._found = self._found, []
        return found

    def take_of_keys(self) -> list[tuple[bytes, RotationMessage]]:
        """What members have said about keys since the last call, with who said it."""
        said, self._of_keys = self._of_keys, []
        return said

    def tell(self, node: bytes, message: RotationMessage, now: float) -> None:
        """Say something to a member about keys; it may get lost."""
        member = self._membership.member(node)
        if member is None or member.state not in LIVING or not member.addresses:
            self.counts["nowhere to send"] += 1
            return
        self._lines.send(node, self._lines.choose(member.addresses), encode_datagram(message), now)

    @property
    def met_next_key(self) -> bool:
        """Whether a port has answered with the next key, so that its owner has switched."""
        return self._endpoint.met_next

    def use_keys(self, keys: MeshKeys) -> None:
        """The keys have changed. Where the current one is another, all connections are made anew."""
        curve = CurveKeys(keys)
        self._links.rekey(curve)
        self._discovery.use_keys(keys)

    def set_load(self, load: bytes) -> None:
        self._membership.set_load(load, awake_or_not())

    # -- the road ------------------------------------------------------------------------------------------------------

    def take_events(self) -> list[MeshEvent]:
        """What has come, and who is there, since the last call."""
        events, self._events = self._events, []
        return events

    def send(self, node: bytes, plane: Plane, payload: Payload, now: float) -> bool:
        """One message to a member, once and in order, or there will be a LinkCut. False: there can be no link now; a
        LinkThere says when, if the member lives on. It leaves with the next `flush`."""
        links = self._links.links
        try:
            links.send(node, plane, payload, now)
        except UnknownPeer:
            member = self._membership.member(node)
            if member is None or member.state not in ("alive", "suspect") or not member.addresses:
                return False
            links.connect(node, self._lines.choose(member.addresses), now)
            try:
                links.send(node, plane, payload, now)
            except UnknownPeer:
                self._redials.on_down(node, now)
                return False
        return True

    def backlog(self, node: bytes, plane: Plane) -> int:
        """How many bytes of a plane it has not acknowledged."""
        return self._links.links.backlog(node, plane)

    def takes(self, node: bytes, plane: Plane) -> bool:
        """Whether one more message would leave at once; also where no link is known, so that one is made."""
        links = self._links.links
        return not links.knows(node) or links.window_open(node, plane)

    def portion(self, node: bytes, plane: Plane, at_most: int) -> int:
        """In pieces of which size large things may be sent to it now; 0: not now. `at_most`: what may be on its way."""
        links = self._links.links
        return links.portion(node, plane, at_most) if links.knows(node) else self._config.link_least_bytes

    def flush(self, now: float) -> None:
        """What was sent leaves now; what comes of it is looked at in the next turn."""
        self._told += self._links.push(now)
        self._more = self._more or bool(self._told)

    def sever(self, node: bytes, why: str, over: bool, now: float) -> None:
        """End the link to it. `over`: that life is; else a member is linked with again."""
        if over:
            self._links.links.down(node, why, now)
        else:
            self._links.links.give_up(node, why)
        self._more = True

    def _redial(self, now: float) -> None:
        """Begin links to members anew that are over."""
        for node in self._redials.take_due(now):
            member = self._membership.member(node)
            if member is None or member.state not in LIVING or not member.addresses:
                self._redials.on_gone(node)
            elif not self._links.links.knows(node):
                self._links.links.connect(node, self._lines.choose(member.addresses), now)

    def leave(self, now: float) -> None:
        """Say goodbye."""
        self._membership.leave(awake_or_not())
        self._perform(now)
        self._links.turn(now)

    def close(self) -> None:
        """Let go of the port. What was sent has a moment to leave."""
        self._links.close()

    def withdraw(self) -> None:
        """Let go of discovery. Blocks for a moment; any thread may do it, after the loop has forgotten `fds`."""
        self._discovery.close()

    # -- what it shows -------------------------------------------------------------------------------------------------

    @property
    def listens(self) -> list[str]:
        return self._endpoint.listens

    def members(self) -> list[MemberView]:
        return self._membership.view()

    def last_peers(self) -> tuple[str, ...]:
        return self._membership.last_peers()

    def stats(self) -> MeshStats:
        return self._endpoint.stats()

    def discovery_stats(self) -> DiscoveryStats:
        return self._discovery.stats()

    @property
    def troubles(self) -> list[str]:
        """What has kept it from linking with others, for people."""
        return sorted(self._logged)

    @property
    def beyond(self) -> int:
        return self._membership.beyond

    @property
    def stale(self) -> int:
        return self._links.links.stale

    # -- events --------------------------------------------------------------------------------------------------------

    def _on_finding(self, finding: Finding, now: float) -> None:
        if isinstance(finding, Found):
            addresses = [written(host, finding.advert.port) for host in finding.hosts]
            self._found += addresses  # we may share any network
            remember(self.heard, finding.advert.node, addresses, TOLD_MAX)
        elif isinstance(finding, Withdrawn):
            self.heard.pop(finding.node, None)
        elif isinstance(finding, Addresses):
            hosts = without_zones(finding.hosts)
            if hosts:  # cut off, it keeps those that it had: they are likely to come back
                self._follow(hosts, now)
        elif isinstance(finding, Trouble):
            self.trouble = finding.text
            note(finding.text or "mDNS works again")

    def _follow(self, hosts: list[str], now: float) -> None:
        """Listen at these addresses, and say so. One that cannot be had is tried again: somebody else has the port
        there, or it has just come or gone."""
        before = set(self._endpoint.listens)
        listens = self._endpoint.follow(hosts)
        self._follow_at = None
        if len(listens) < len(hosts):
            self._tell(self._endpoint.inbound.last_refusal)
            self._hosts, self._follow_at = hosts, now + FOLLOW_AGAIN_S
        if set(listens) == before:
            return
        self._links.present(listens)
        if before - set(listens):
            self._links.redial(now)
            self._lines.redial()
        self._membership.set_addresses(tuple(listens), awake_or_not())

    def _on_told(self, event: Effect | LineEvent, now: float) -> None:
        """One thing that links or connections tell."""
        membership = self._membership
        if isinstance(event, Probed):
            try:
                message = decode_datagram(bytes(event.payload))
            except ProtocolError:
                self.counts["datagrams that are none"] += 1
                return
            if isinstance(message, RotationMessage):
                self._of_keys.append((event.node, message))
            else:
                membership.on_message(event.node, message, awake_or_not())
        elif isinstance(event, Ready | Lost | HandshakeFailed | Unreachable):
            self._on_line(event, now)
        elif isinstance(event, PeerUp):
            if len(event.home) == NODE_BYTES:
                self._events.append(LifeThere(event.node, event.home, event.life))
            self._events.append(LinkThere(event.node))
            self._heard_from(event.address)
            member = membership.member(event.node)
            if self._redials.on_up(event.node) and member is not None:
                self._tell_home(event.node, member.load)  # it was not listened to meanwhile
            membership.on_reachable(event.node, awake_or_not())
            self._answered(event.address, event.node, now)
        elif isinstance(event, Answered):
            self._answered(event.address, event.node, now)
        elif isinstance(event, PeerDown):
            self._on_link_over(event, now)
        elif isinstance(event, Delivered):
            self._events.append(Came(event.node, event.payload))
        elif isinstance(event, TurnedAway):
            if event.reason is not Reason.DEAD:  # that is settled by membership: see the head of this file
                self._joins.pop(event.address, None)
                self._tell(f"no link with {event.address}: {event.text}")
                apart = Apart(printable(event.text), event.reason is not Reason.OTHER)
                remember(self.apart, event.address, apart, TOLD_MAX)
            self.counts[f"turned away: {event.reason.name.lower()}"] += 1
        else:
            assert isinstance(event, SelfDialled), event
            self._joins.pop(event.address, None)

    def _on_link_over(self, event: PeerDown, now: float) -> None:
        node, text = event.node, f"the link to {self.called(event.node)} has ended: {event.text}"
        self._redials.on_down(node, now)
        self._events.append(LinkCut(node, text))
        if event.reason is not Reason.REPLACED:
            self._membership.on_unreachable(node, awake_or_not())
            return
        self._membership.on_gone(node, awake_or_not())
        if self._membership.member(node) is None:  # it died before it was one, so nobody will say so
            self._events.append(LifeOver(node, text))

    def _on_line(self, event: LineEvent, now: float) -> None:
        there = address_of(event.target)
        if not isinstance(event, Ready):
            self.reached.pop(there, None)
        elif there:
            if there in self.apart and self.apart[there].handshake:
                del self.apart[there]
            if event.target == SEED + there.encode():
                remember(self.reached, there, None, TOLD_MAX)
        if isinstance(event, HandshakeFailed) and not self._has_ended(event.target):
            self.refused_there[event.text] += 1
            address = address_of(event.target)
            if address:
                self._tell(f"{address} does not let us in: {event.text}")
                remember(self.apart, address, Apart(printable(event.text), True, handshake=True), TOLD_MAX)
        if len(event.target) > NODE_BYTES and event.target.startswith(PREFIX):
            found = self._lines.on_event(event, now)
        else:
            found = (event.target, False) if isinstance(event, Lost) else None
        if found is not None:
            node, reached = found
            (self._membership.on_reachable if reached else self._membership.on_unreachable)(node, awake_or_not())

    def _has_ended(self, target: bytes) -> bool:
        """Whether a line goes to a member that has ended: that its port closes in the middle of a handshake is no
        refusal."""
        address = address_of(target)
        there = [
            member for member in self.members() if member.node == target or (address and address in member.addresses)
        ]
        return bool(there) and not any(member.state in LIVING for member in there)

    def _heard_from(self, address: str) -> None:
        self.apart.pop(address, None)
        self.reached.pop(address, None)

    def _answered(self, address: str, node: bytes, now: float) -> None:
        self._heard_from(address)
        message = self._joins.pop(address, None)
        if message is not None:
            self._lines.send(node, address, encode_gossip(message), now)

    # -- effects -------------------------------------------------------------------------------------------------------

    def _perform(self, now: float) -> bool:
        """Do what membership asks; whether it asked anything."""
        effects = self._membership.take_effects()
        for effect in effects:
            if isinstance(effect, SendGossip):
                self._send(effect, now)
            elif isinstance(effect, MemberUp):
                self.peers_changed = True
                self._tell_home(effect.record.node, effect.record.load)
                marked = f"; Python {effect.record.python}, so no closures" if effect.incompatible else ""
                note(f"member {self._as_shown(effect.record.node, effect.record.name)} is there{marked}")
            elif isinstance(effect, MemberDown):
                self._on_down(effect, now)
            elif isinstance(effect, MemberChanged):
                self.peers_changed = self.peers_changed or effect.what == "record"
                if effect.what == "state":
                    self._on_state(effect.node)
            elif isinstance(effect, LoadChanged):
                self._tell_home(effect.node, effect.load)
            elif isinstance(effect, DeclaredDead):
                self.verdict = effect
        return bool(effects)

    def _on_state(self, node: bytes) -> None:
        """A member is suspected, or was in vain. (It may be dead by now, which is told by itself.)"""
        member = self._membership.member(node)
        if member is not None and member.state in LIVING:
            self._events.append(LifeSilent(node, printable(member.name), member.state == "suspect"))

    def _tell_home(self, node: bytes, data: bytes) -> None:
        load = decode_load(data)
        if load is not None and len(load.home) == NODE_BYTES:
            remember(self._homes, node, load.home, TOLD_MAX)
            self._events.append(LifeThere(node, load.home, load.life))
            member = self._membership.member(node)
            if member is not None and member.state in ("alive", "suspect"):
                if load.leaving:
                    self.leaving.setdefault(node, awake_or_not())
                if load.guest:
                    remember(self.guests, node, None, TOLD_MAX)
                self._events.append(LoadTold(node, member.name, member.addresses, not member.incompatible, load))

    def called(self, node: bytes) -> str:
        """A member, for people."""
        member = self._membership.member(node)
        return "it" if member is None else f"host {printable(member.name)}"

    def _as_shown(self, node: bytes, name: str) -> str:
        """Name and id of a host as `meshray status` and programs have them: its home, and not this life of it."""
        home = self._homes.get(node)
        return printable(name) if home is None else f"{printable(name)} ({home.hex()})"

    def _on_down(self, effect: MemberDown, now: float) -> None:
        self.peers_changed = True
        note(f"member {self._as_shown(effect.node, effect.name)} is gone: {printable(effect.reason)}")
        self._links.links.down(effect.node, effect.reason, now)
        self._redials.on_gone(effect.node)
        self.leaving.pop(effect.node, None)
        died = f"host {printable(effect.name)} is dead: {printable(effect.reason)}"
        self._events.append(LifeOver(effect.node, GOODBYE if effect.reason == LEFT else died))
        member = self._membership.member(effect.node)
        for address in member.addresses if member is not None else ():
            self._lines.forget(address, effect.node)

    def _send(self, effect: SendGossip, now: float) -> None:
        if not effect.node:
            self._contact(effect.addresses[0], effect.message, now)
            return
        addresses = effect.addresses or tuple(link.address for link in self._links.links if link.node == effect.node)
        if not addresses:
            self.counts["nowhere to send"] += 1
            return
        address = self._lines.choose(addresses)
        if type(effect.message) is not Expelled:
            self._links.links.connect(effect.node, address, now)
        data = encode_gossip(effect.message)
        self._lines.send(effect.node, address, data, now)
        if len(addresses) > 1 and self._is_suspect(effect.node):  # a connection may hang that another one would replace
            for other in addresses[:SUSPECT_ADDRESSES]:
                if other != address:
                    self._lines.send(effect.node, other, data, now)

    def _is_suspect(self, node: bytes) -> bool:
        member = self._membership.member(node)
        return member is not None and member.state == "suspect"

    def _contact(self, address: str, message: GossipMessage, now: float) -> None:
        """A Join to whoever listens there."""
        link = next((link for link in self._links.links if link.address == address), None)
        if link is not None and self._links.links.is_strange(link.node):
            return  # it was refused, or has refused us, a moment ago
        if link is not None and link.state is not State.DIALLING:
            self._lines.send(link.node, address, encode_gossip(message), now)
            return
        if len(self._joins) >= JOINS_MAX:
            del self._joins[next(iter(self._joins))]
        self._joins[address] = message
        self._links.links.dial(address, now)

    def _tell(self, text: str) -> None:
        """Log it, once. Some of it is in the words of others."""
        text = printable(text)
        if text not in self._logged:
            if len(self._logged) >= TOLD_MAX:
                self._logged.clear()
            self._logged.add(text)
            note(text)


def awake_or_not() -> float:
    """The clock of membership: it goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_of(target: bytes) -> str:
    """The address that a line goes to, by its name; "" for a line to a node, whose id may be any bytes."""
    for prefix in (PREFIX, SEED):
        if len(target) > NODE_BYTES and target.startswith(prefix):
            return target.removeprefix(prefix).decode()
    return ""


def _of_node(advert: Advert, node: bytes) -> Advert:
    return msgspec.structs.replace(advert, node=node)
