"""The peer as a member of its mesh: who is there, and how to speak with them?

A `Mesh` is there from the start of a peer to its end, and as a rule has one `MeshLife`. That is declared dead when this
peer was stopped, suspended or cut off for too long: then the next life begins, under a node id that nobody has
heard of, at the same port. (The peer's own id, by which the processes of this host know it, stays: nothing of theirs
was lost.) The new one joins through those who said so alone, for a while: through others it might meet members that
are about to learn the same, whose tables hold the rest for dead.

Into a life go seeds (given, resolved, seen last, found by discovery), the load and the keys in use (`keyring`); out of
it come the members that are remembered for the next start, what members say about keys, and what others say
(`take_events`). The loop of the peer waits for `fds` until `next_at`, and calls `turn`.
"""

from __future__ import annotations

import math
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import zmq

from meshray import meshkey
from meshray.config import Config
from meshray.core.member_effects import MemberView
from meshray.errors import MeshrayError
from meshray.launch import MeshSettings
from meshray.local import PYTHON, find_peers
from meshray.meshkey import MeshKeys
from meshray.observe.notes import note
from meshray.peer.keyring import Keyring, Reply
from meshray.peer.mesh_events import MeshEvent, OwnEnd
from meshray.peer.mesh_life import LIVING, MeshLife, Who, awake_or_not
from meshray.peer.seeding import Seeding
from meshray.resources import Amounts, to_quantities
from meshray.seeds import Seed, SeedError, last_peers, parse_seed, remember_peers
from meshray.transport.holders import describe, holder_of
from meshray.transport.interfaces import is_loopback
from meshray.transport.mesh_port import PortTaken
from meshray.transport.zap import NotProven
from meshray.wire.advert import Advert, summary_of
from meshray.wire.loads import decode_load, encode_load
from meshray.wire.peers import PROTOCOL, Payload, Plane

REOPEN_AFTER_S = 1.0
"""A new life that could not have its port tries again so often."""


class MeshStartError(MeshrayError):
    """The peer cannot be a member; the text says why, and what helps."""


class Resources(NamedTuple):
    """What a host has, and what of it is free or in use."""

    total: Amounts
    available: Amounts
    store_used: int = 0  # bytes
    store_total: int = 0


class Mesh:
    """See the head of this file. `who` is this peer; `resources` gives what its host has, and what of it is free.

    Raises `MeshStartError`, `MeshKeyError`, `FolderError`, `SeedError`, `InterfaceError`.
    """

    def __init__(
        self,
        settings: MeshSettings,
        who: Who,
        config: Config,
        resources: Callable[[], Resources],
        now: float,
    ) -> None:
        self._settings = settings
        self._who = who
        self._config = config
        self._resources = resources
        self._keyring = Keyring(meshkey.load(), config)
        self._given = [parse_seed(word) for word in settings.seeds]  # by whoever starts it
        self._leaving = False  # this peer is being stopped, and says so
        if not settings.port:  # drawn once: a later life has the same
            settings = self._settings = msgspec.structs.replace(settings, port=free_port())
        self._advert = _advert(resources().total, who.version, settings.port)
        self._load = b""
        self._load_at = now
        self._write_at: float | None = None  # when the members seen last are written down
        self._written: frozenset[str] = frozenset()
        self._hold_until = math.inf if settings.guest else now  # until then only the seeds of this life count
        self._first: tuple[str, ...] = ()  # through whom a life that is not the first one joins
        self._held: list[str] = []  # what else was found meanwhile
        self._closing: list[threading.Thread] = []  # of discoveries of lives that are over
        self.lives = 1  # begun, or about to
        self._events: list[MeshEvent] = []  # of lives that are over
        self._life: MeshLife | None = self._begin()
        self._reopen_at = now  # when there is no life
        self._counts: Counter[str] = Counter()  # of lives that are over
        last = [] if settings.guest else [at for at in last_peers(self.keys.mesh) if str(at) not in self._life.listens]
        self._seeding = Seeding([*self._given, *last], config)
        self._life.join(self._seeding.addresses)

    def _begin(self) -> MeshLife:
        """Raises `MeshStartError`, `InterfaceError`."""
        self._who = self._who._replace(life=self.lives)
        self._advert = msgspec.structs.replace(self._advert, incarnation=self.lives)
        self._load = self._say_load()
        try:
            life = MeshLife(self.keys, self._settings, self._who, self._advert, self._load, self._config)
        except NotProven as error:
            raise MeshStartError(f"the encryption of the port does not hold, so it is not opened: {error}") from error
        except PortTaken as error:
            raise MeshStartError(f"{error.strerror}. {_whose(self._settings.port)}") from error
        except (OSError, zmq.ZMQError) as error:  # the latter above all for want of descriptors
            raise MeshStartError(str(error.strerror or error)) from error
        if not self._is_guest_without:  # whoever finds it would take it in
            life.advertise()
        return life

    @property
    def keys(self) -> MeshKeys:
        """Those in use."""
        return self._keyring.keys

    # -- what the peer's loop does with it -----------------------------------------------------------------------------

    def fds(self) -> list[int]:
        return [] if self._life is None else [self._seeding.fd, *self._life.fds()]

    def next_at(self, now: float) -> float:
        if self._life is None:
            return self._reopen_at
        due = min(self._life.next_at(now), self._load_at, self._keyring.next_at() or math.inf)
        if self._write_at is not None:
            due = min(due, self._write_at)
        return min(due, self._hold_until) if self._held else due

    def is_due(self, ready: set[int], now: float) -> bool:
        """Whether there is something to do, given which descriptors are readable."""
        return not ready.isdisjoint(self.fds()) or now >= self.next_at(now)

    def turn(self, now: float) -> None:
        """Do what there is to do."""
        if self._life is None:
            if now >= self._reopen_at:
                self._reopen(now)
            return
        life = self._life
        life.turn(now)
        self._turn_keys(life, now)
        found, resolved = life.take_found(), self._seeding.take()
        if found or resolved or self._held:
            self._turn_found(life, found, resolved, now)
        if life.verdict is not None:
            self._begin_anew(life, now)
            return
        if now >= self._load_at:
            self._tell_load(life, now)
        self._remember(life, now)

    def _turn_found(self, life: MeshLife, found: list[str], resolved: list[str], now: float) -> None:
        """Try addresses, or keep them until they may be tried."""
        if self._is_guest_without:
            life.join(resolved)
            resolved = []
        self._held = list(dict.fromkeys([*self._held, *found, *resolved]))
        if now >= self._hold_until:
            life.join(self._held)
            self._held.clear()

    def ask_keys(self, what: str, argument: str, reply: Reply, now: float) -> None:
        """What a person of this host wants to know of keys, or to be done with them: see `keyring`."""
        if self._life is None:
            reply("this peer is between two lives in its mesh: ask again in a moment")
            return
        before = self.keys
        self._keyring.on_ask(what, argument, self._life, reply, now)
        self._use_keys(self._life, before)

    def _turn_keys(self, life: MeshLife, now: float) -> None:
        before = self.keys
        for node, message in life.take_of_keys():
            self._keyring.on_message(node, message, life, now)
        if life.met_next_key:
            self._keyring.on_met_next(now)
        self._keyring.tick(life, now)
        self._use_keys(life, before)

    def _use_keys(self, life: MeshLife, before: MeshKeys) -> None:
        if self.keys != before:
            life.use_keys(self.keys)

    def _tell_load(self, life: MeshLife, now: float) -> None:
        self._load_at = now + self._config.load_interval_s
        load = self._say_load()
        if load != self._load:
            self._load = load
            life.set_load(load)

    def _say_load(self) -> bytes:
        has, who = self._resources(), self._who
        return encode_load(
            who.version, has.total, has.available, who.home, who.life, who.labels, self._leaving,
            _coarsely(has.store_used, has.store_total), self._settings.guest,
        )  # fmt: skip

    def _remember(self, life: MeshLife, now: float) -> None:
        """Write down the members seen last, when they are others than those that were written."""
        if life.peers_changed and self._write_at is None:
            self._write_at = now + self._config.last_peers_write_s
        if self._write_at is not None and now >= self._write_at:
            self._write_at, life.peers_changed = None, False
            self._write(life)

    def _write(self, life: MeshLife, leaving: bool = False) -> None:
        """The members that live, but guests; this one comes last: it matters only where hosts share a home."""
        living = [member for member in life.members() if member.state in LIVING and member.addresses]
        living.sort(key=lambda member: member.is_self)
        peers = [member.addresses[0] for member in living if not _is_guest(member)]
        if frozenset(peers) != self._written or leaving:
            self._written = frozenset(peers)
            try:
                remember_peers(self.keys.mesh, _seeds_in(peers))
            except (OSError, MeshrayError) as error:
                note(f"the members seen last cannot be written down: {error}")

    # -- joining as a guest --------------------------------------------------------------------------------------------

    @property
    def _is_guest_without(self) -> bool:
        """Whether it has not joined through its seeds yet, and may not through anything else."""
        return self._hold_until == math.inf

    def wait_joined(self) -> None:
        """For a guest, before anything else runs: serve the mesh until it is a member beside others. Blocks.

        Raises `MeshStartError` that says why it did not become one within `guest_join_s`.
        """
        give_up_at = time.monotonic() + self._config.guest_join_s
        while True:
            now = time.monotonic()
            self.turn(now)
            if self._life is not None and any(m.state in LIVING and not m.is_self for m in self._life.members()):
                self._hold_until = now
                self._life.advertise()
                return
            if now >= give_up_at:
                raise MeshStartError(self._why_alone())
            poll = select.poll()
            for fd in self.fds():
                poll.register(fd, select.POLLIN)
            poll.poll(max(0.0, min(self.next_at(now), give_up_at) - now) * 1000)

    def _why_alone(self) -> str:
        where = ", ".join(self._settings.seeds)
        troubles = self._life.troubles if self._life is not None else ()
        if troubles:
            return f"the mesh cannot be joined through {where}: {'; '.join(troubles)}"
        if not self._seeding.addresses:
            return f"the mesh cannot be joined through {where}: no address is known for that name"
        if self._life is not None and (reached := [at for at in self._seeding.addresses if at in self._life.reached]):
            return f"the mesh cannot be joined through {where}: {_why_unheard(self._life, reached[0])}"
        return (
            f"the mesh cannot be joined through {where}: no peer has answered there within "
            f"{self._config.guest_join_s:g} s. Is it the right address and port, and does a peer of the mesh run there?"
        )

    # -- another life --------------------------------------------------------------------------------------------------

    def _begin_anew(self, life: MeshLife, now: float) -> None:
        """The node was declared dead."""
        verdict = life.verdict
        assert verdict is not None
        says = life.called(verdict.by)
        note(f"this peer was declared dead, says {says}: it joins its mesh anew, as another member")
        self._held = [*life.last_peers(), *self._seeding.addresses]
        self._events += [*life.take_events(), OwnEnd(f"this peer was declared dead, says {says}")]
        self._retire(life)
        self.lives += 1
        self._hold_until = now + self._config.rejoin_after_s
        self._first = verdict.addresses
        self._reopen(now)

    def _retire(self, life: MeshLife) -> None:
        self._life = None
        self._counts.update(_counts(life))
        life.close()
        thread = threading.Thread(target=life.withdraw, name="meshray-withdraw", daemon=True)
        thread.start()
        self._closing = [*(other for other in self._closing if other.is_alive()), thread]

    def _reopen(self, now: float) -> None:
        try:
            self._life = self._begin()
        except MeshrayError as error:
            note(f"the port cannot be opened again, and will be tried again: {error}")
            self._reopen_at = now + REOPEN_AFTER_S
            return
        note(f"the port is open again: this is life {self.lives} of this peer")
        self._life.join(self._first)
        if not self._first:
            self._hold_until = now

    # -- the road ------------------------------------------------------------------------------------------------------

    def take_events(self) -> list[MeshEvent]:
        """What others say, and who is there, since the last call; in order."""
        events, self._events = self._events, []
        return events + self._life.take_events() if self._life is not None else events

    def send(self, node: bytes, plane: Plane, payload: Payload, now: float) -> bool:
        """One message to a life of another peer; a link is made where there is none. It arrives once and in the order
        of its plane, or there will be a LinkCut, a LifeOver or an OwnEnd. False: there can be no link."""
        return self._life is not None and self._life.send(node, plane, payload, now)

    def backlog(self, node: bytes, plane: Plane) -> int:
        """How many bytes of a plane that life has not acknowledged."""
        return self._life.backlog(node, plane) if self._life is not None else 0

    def takes(self, node: bytes, plane: Plane) -> bool:
        """Whether one more message to that life would leave at once."""
        return self._life is not None and self._life.takes(node, plane)

    def portion(self, node: bytes, plane: Plane, at_most: int) -> int:
        """In pieces of which size large things may be sent to that life now; 0: not now. `at_most`: so much may be on
        its way, less if the link is slow."""
        return self._life.portion(node, plane, at_most) if self._life is not None else 0

    def sever(self, node: bytes, why: str, over: bool, now: float) -> None:
        """End the link to this life, for good if that is over."""
        if self._life is not None:
            self._life.sever(node, why, over, now)

    def flush(self, now: float) -> None:
        """What was sent leaves now."""
        if self._life is not None:
            self._life.flush(now)

    # -- the end -------------------------------------------------------------------------------------------------------

    def say_leaving(self, now: float) -> None:
        """This peer is being stopped: the others give it no more work."""
        self._leaving = True
        self._load_at = now
        if self._life is not None:
            self._life.leaving.setdefault(self._life.node, awake_or_not())

    def leave(self, now: float) -> None:
        """Say goodbye: the others know at once."""
        if self._life is not None:
            self._write(self._life, leaving=True)
            self._life.leave(now)

    def close(self) -> None:
        """End everything; nothing is said any more."""
        if self._life is not None:
            self._retire(self._life)
        for thread in self._closing:
            thread.join()
        self._seeding.close()

    # -- what it shows -------------------------------------------------------------------------------------------------

    @property
    def listens(self) -> bool:
        """Whether others reach its port, as far as this host knows."""
        return self._life is not None and bool(self._life.listens)

    def warnings(self) -> list[str]:
        """For whoever starts it."""
        if self._life is None:
            return []
        if self.listens:
            hosts = [address.rpartition(":")[0].strip("[]") for address in self._life.listens]
            return (
                [f"it listens at {', '.join(hosts)} alone, which no other host reaches"] if is_loopback(hosts) else []
            )
        return [
            "no interface of this host is a LAN, so the peer listens nowhere, and no other host reaches it, until one "
            "is there; `meshray doctor` says more"
        ]

    def status(self) -> dict[str, Any]:
        """For `meshray status`, as plain data."""
        life = self._life
        told: dict[str, Any] = {
            "mesh_id": self.keys.mesh.hex(),
            "key_id": self.keys.current.id.hex(),
            "next_key_id": self.keys.next.id.hex() if self.keys.next is not None else "",
            "lives": self.lives,
            "node_id": "", "listens": [], "members": [], "discovery_trouble": "",
            "refused": {}, "refused_there": {}, "refused_ago_s": {}, "refused_there_ago_s": {},
            "no_link": {}, "dropped_records": {}, "other_key": 0,
            "counters": dict(self._counts),
        }  # fmt: skip
        if life is not None:
            discovery, now = life.discovery_stats(), time.monotonic()
            told |= {
                "node_id": life.node.hex(),
                "listens": life.listens,
                "members": [_member(member, life.leaving.get(member.node)) for member in life.members()],
                "discovery_trouble": life.trouble,
                "refused": life.stats().refused,
                "refused_there": dict(life.refused_there),
                "refused_ago_s": life.refusals_here.ago(now),
                "refused_there_ago_s": life.refusals_there.ago(now),
                "no_link": self._no_link(life),
                "dropped_records": discovery.dropped,
                "other_key": discovery.other_key,
                "counters": dict(self._counts + _counts(life)),
            }
        return told

    def _no_link(self, life: MeshLife) -> dict[str, str]:
        """Address -> why there is no link: of those that refuse us, or are refused. While there is no other member,
        also of all seeds that were given, and of whomever discovery has heard."""
        told = {address: apart.why for address, apart in life.apart.items() if apart.answered}
        members = life.members()
        if any(member.state in LIVING and not member.is_self for member in members):
            return told
        awaited: list[str] = []
        for seed in self._given:
            behind = self._seeding.behind(seed)
            awaited += behind or ()
            if not behind:
                told[str(seed)] = "its address is asked for" if behind is None else "no address is known for that name"
        known = {address for member in members for address in member.addresses}  # what became of these is in their rows
        awaited += [address for addresses in life.heard.values() for address in addresses if address not in known]
        for address in awaited:
            if address not in life.listens and address not in told:
                told[address] = _why_unheard(life, address)
        return told


def _why_unheard(life: MeshLife, address: str) -> str:
    """Why nothing has come from a peer that is dialled at `address`: each dials the other, and answers through that."""
    if address in life.reached:
        ports = ", ".join(sorted({place.rpartition(":")[2] for place in life.listens}))
        return f"it is reached, and does not reach this host: a firewall here? This peer listens at TCP port {ports}"
    return life.apart[address].why if address in life.apart else "no answer yet"


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        return int(taken.getsockname()[1])


def _seeds_in(addresses: Iterable[str]) -> list[Seed]:
    """Those that are some: a member may say anything of where it listens, and shall not keep the rest from us."""
    seeds = []
    for address in addresses:
        with suppress(SeedError):
            seeds.append(parse_seed(address))
    return seeds


def _is_guest(member: MemberView) -> bool:
    """Its port was drawn by the kernel, so it will not be there again."""
    load = decode_load(member.load)
    return load is not None and load.guest


def _counts(life: MeshLife) -> Counter[str]:
    stats = life.stats()
    return Counter(
        {
            **life.counts,
            "messages sent": sum(stats.sent),
            "messages received": sum(stats.received),
            "bytes sent": sum(stats.sent_bytes),
            "bytes received": sum(stats.received_bytes),
            "stale messages": life.stale,
            "news of members beyond the bound": life.beyond,
            "floods held off": stats.pauses,
        }
    )


def _member(member: MemberView, leaving_at: float | None) -> dict[str, Any]:
    """`leaving_at`: since when it is being stopped, which is a state of its own for people."""
    load = decode_load(member.load)
    since_s = member.since_s
    if leaving_at is not None and member.state == "alive":
        since_s = awake_or_not() - leaving_at
    return {
        "name": member.name,
        "node_id": member.node.hex(),
        "home": load.home.hex() if load is not None else "",
        "is_self": member.is_self,
        "state": member.state,
        "since_s": since_s,
        "reachable": member.reachable,
        "round_trip_s": member.rtt_s,
        "addresses": list(member.addresses),
        "python": member.python,
        "incompatible": member.incompatible,
        "version": load.version if load is not None else "",
        "total": to_quantities(load.total) if load is not None else {},
        "used": to_quantities(load.used) if load is not None else {},
        "leaving": load is not None and load.leaving,
        "guest": load is not None and load.guest,
        "store_used_bytes": load.store_used if load is not None else 0,
        "store_total_bytes": round(to_quantities(load.total).get("object_store_memory", 0)) if load is not None else 0,
        "reason": member.reason,
    }


def _coarsely(used: int, total: int) -> int:
    """Rounded up to a percent of the store: the mesh need not hear of each object."""
    step = max(1, total // 100)
    return min(total, -(-used // step) * step)


def _advert(total: Mapping[str, int], version: str, port: int) -> Advert:
    return Advert(
        protocol=PROTOCOL,
        version=version,
        python=PYTHON,
        node=b"\0" * 8,  # filled in by each life, as is the next one
        incarnation=0,
        serial=0,
        port=port,
        addresses=[],
        cpus=total.get("CPU", 0),
        gpus=total.get("GPU", 0),
        memory_bytes=round(to_quantities(total).get("memory", 0)),
        resources=summary_of(total),
    )


def _whose(port: int) -> str:
    """Who may have the port, for people."""
    for record in find_peers():
        if record.mesh_port == port:
            return (
                f"It is that of the peer {record.name!r} on this host (pid {record.pid}): stop that one, attach to it, "
                "or give this one another --port"
            )
    holder = holder_of(port)
    if holder is not None:
        return describe(holder)
    return (
        f"It may be a peer of another user of this host, or any other program (`ss -tlnp 'sport = :{port}'` shows it "
        "to root): give this one another --port, or start it with --local"
    )
