"""Whatever members say that can be decoded, in whatever state and order: the peer that hears it lives on.

A peer as it is built, without a loop: its workers are never born, and what it sends is forgotten. Members and their
processes say messages of all kinds, with ids that are likely to mean something; workers come and die, hosts too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import inspect

from meshray.core.effects import StartWorker
from meshray.core.placement import Member
from meshray.ids import peer_of
from meshray.launch import PeerSettings
from meshray.local import PYTHON, claim_peer
from meshray.peer import service
from meshray.peer.actors import add_member
from meshray.peer.copies import CopyHands
from meshray.peer.dispatch import Dispatcher
from meshray.peer.draining import Draining
from meshray.peer.ends import Ends
from meshray.peer.foreign import Foreign
from meshray.peer.jobs import Jobs
from meshray.peer.parts import Parts
from meshray.peer.perform import Performer
from meshray.peer.processes import Kind, Process
from meshray.peer.starts import Starts
from meshray.peer.view import PartsView
from meshray.resources import to_amounts
from meshray.transport.endpoint import Endpoint
from meshray.wire import messages as m
from meshray.wire.codec import encode
from meshray.wire.peers import Letter

HERE, B, C = b"here____", b"bbbbbbbb", b"cccccccc"
DRIVER = HERE + b"driver__"
CRASH = m.Failure("WorkerCrashedError", "killed")
STEPS = 150


class Guesses:
    """Values of any type of the schema."""

    def __init__(self, random: Random, processes: list[bytes]) -> None:
        self._random = random
        self._processes = processes  # ids that mean something

    def message(self, kind: type) -> Any:
        return self._any(inspect.type_info(kind), 0)

    def _any(self, kind: Any, depth: int) -> Any:
        random = self._random
        many = 0 if depth > 4 else random.choice((0, 1, 1, 2))
        match kind:
            case inspect.StructType():
                return kind.cls(*(self._any(field.type, depth + 1) for field in kind.fields))
            case inspect.BytesType():
                return self._id(kind.min_length or 0, kind.max_length)
            case inspect.StrType():
                return random.choice(("", "n", PYTHON, PYTHON, "../../x", "x\0y"))[: kind.max_length]
            case inspect.IntType():
                least, most = (-5 if kind.ge is None else kind.ge), (2**62 if kind.le is None else kind.le)
                return min(max(random.choice((0, 1, 1, 2, 7, 1000, least, most)), least), most)
            case inspect.FloatType():
                return random.choice((0.0, 1.0, -1.0, 1e18, float("inf"), float("nan")))
            case inspect.UnionType():
                return self._any(random.choice(kind.types), depth + 1)
            case inspect.ListType():
                return [self._any(kind.item_type, depth + 1) for _ in range(max(many, kind.min_length or 0))]
            case inspect.VarTupleType():
                return tuple(self._any(kind.item_type, depth + 1) for _ in range(many))
            case inspect.TupleType():
                return tuple(self._any(item, depth + 1) for item in kind.item_types)
            case inspect.DictType():
                words = isinstance(kind.key_type, inspect.StrType)
                keys = [random.choice(("CPU", "n")) if words else self._any(kind.key_type, 9) for _ in range(many)]
                return {key: self._any(kind.value_type, depth + 1) for key in keys}
            case inspect.MemoryViewType():
                return memoryview(bytes(random.choice((0, 1, 10))))
            case inspect.BoolType():
                return random.random() < 0.5
            case inspect.NoneType():
                return None
        raise AssertionError(f"no guess for {kind}")

    def _id(self, least: int, most: int | None) -> bytes:
        """Of a process, a node, a task, an object; or anything as short as is allowed."""
        process, number = self._random.choice(self._processes), self._random.randrange(3).to_bytes(8, "big")
        known = {8: process[:8], 16: process, 24: process + number, 28: process + number + bytes(4)}
        fit = [value for size, value in known.items() if least <= size and (most is None or size <= most)]
        return self._random.choice(fit) if fit and (least or self._random.random() < 0.8) else bytes(least)


class Deaf:
    """A peer's endpoint and zygotes: what is sent is forgotten, and no worker is born."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return {"is_clogged": lambda process: False, "start_default": lambda forked: ("/python", "/")}.get(
            name, lambda *_: []
        )


class Peer:
    """What `service.Loop` is for a peer that nobody reads."""

    def __init__(self, parts: Parts, seed: int) -> None:
        self.parts, self.random, self.now = parts, Random(seed), 100.0
        parts.endpoint.close()
        parts.endpoint = cast(Endpoint, Deaf())
        parts.mesh = cast(Any, SimpleNamespace(sever=lambda life, why, over, now: None, close=lambda: None))
        parts.cores.road.linked, parts.cores.objects.alone = True, False
        starts = Starts(parts, 1)
        jobs = Jobs(parts, starts, 0)
        self.dispatcher = Dispatcher(parts, jobs, Ends(parts, starts, jobs), PartsView(parts, Draining(parts)))
        copies = CopyHands(parts)
        self.performer = Performer(parts, starts, Foreign(parts, jobs, self.dispatcher), copies)
        self.tickets: list[int] = []
        self.performer._table[StartWorker] = lambda effect, now: self.tickets.append(effect.ticket)
        job = m.JobInfo(DRIVER, "/python", "/", [], "/", "", "ns")
        parts.processes.add(Process(DRIVER, 1, Kind.DRIVER, job))
        parts.cores.leases.on_job_started(job)
        parts.cores.objects.on_process_attached(DRIVER, 1, DRIVER)
        self.lives = 0
        for home in (B, C):
            self.meet(home)
        self.ids = [DRIVER, parts.process_id, *(home + name for home in (B, C) for name in (bytes(8), b"driver__"))]
        self.guess = Guesses(self.random, self.ids)
        kinds = {*self.dispatcher._table, *self.dispatcher._of_peers}
        self.kinds = sorted(kinds, key=lambda kind: kind.__name__)

    def settle(self) -> None:
        self.performer.settle(self.now)

    def meet(self, home: bytes) -> None:
        self.lives += 1
        self.parts.cores.road.on_life(self.lives.to_bytes(8, "big"), home, self.lives, self.now)
        self.settle()
        add_member(self.parts, peer_of(home))
        cpus = to_amounts({"CPU": 2})
        self.parts.cores.leases.on_member(Member(home, home.decode(), cpus, {}, {}), self.now)

    def step(self) -> None:
        self.now += self.random.choice((0, 0.001, 0.1, 1))
        home = self.random.choice((B, C))
        do: Callable[[bytes], None] = self.random.choices(
            (self.says, self.creates, self.tick, self.worker_comes, self.worker_dies, self.host_dies),
            (70, 9, 7, 7, 5, 2),
        )[0]
        do(home)
        self.settle()

    def says(self, home: bytes) -> None:
        """A member, or one of its processes."""
        road, source = self.parts.cores.road, peer_of(home)
        if self.random.random() < 0.25:
            source = home + b"driver__"
            road.on_process_there(peer_of(home), m.ProcessThere(source, source))
        life = road.life_of(home)
        assert life is not None
        data = encode(self.guess.message(self.random.choice(self.kinds)))
        road.on_arrived(life, Letter(self.parts.process_id, source, data), self.now)

    def creates(self, home: bytes) -> None:
        """The driver here has an actor."""
        actor_id = DRIVER + self.random.randrange(3).to_bytes(8, "big")
        blob, name = m.Blob(bytes(16), "C", b""), self.random.choice(("", "n"))
        spec = m.CreateActor(
            actor_id, blob, b"", [], {"CPU": 10_000}, {}, m.Profile(actor=True), -1, 0, 0, DRIVER, b"", name,
            detached=self.random.random() < 0.5,
        )  # fmt: skip
        self.dispatcher.dispatch(DRIVER, spec, self.now)

    def tick(self, home: bytes) -> None:
        cores = self.parts.cores
        cores.leases.tick(self.now)
        for core in (cores.actors, cores.lodging, cores.naming, cores.wills, cores.adoption, cores.fetches, cores.road):
            due = core.next_deadline()
            if due is not None and due <= self.now:
                core.tick(self.now)
                self.settle()

    def worker_comes(self, home: bytes) -> None:
        if self.tickets:
            ticket = self.tickets.pop(0)
            worker = HERE + b"w" + ticket.to_bytes(7, "big")
            self.parts.processes.add(Process(worker, 2, Kind.WORKER))
            self.parts.cores.objects.on_process_attached(worker, 2)
            self.parts.cores.leases.on_worker_ready(ticket, worker, self.now)
            self.ids.append(worker)

    def worker_dies(self, home: bytes) -> None:
        workers = [process.id for process in self.parts.processes if process.kind is Kind.WORKER]
        if workers:
            worker = self.random.choice(workers)
            cores, now = self.parts.cores, self.now
            executors, served = cores.leases.workers_for(worker), cores.leases.served_by(worker)
            cores.leases.on_process_died(worker, [], [], CRASH, now, True)
            cores.actors.on_process_died(worker, "killed", {}, now, True)
            cores.guests.on_process_died(worker, "killed", {}, True)
            cores.foreign_actors.on_process_died(worker)
            cores.naming.on_process_died(worker, now)
            cores.wills.on_process_died(worker)
            abroad = cores.road.on_local_died(worker)
            cores.adoption.on_process_died(worker, [], CRASH, now, executors, served, len(abroad))
            cores.objects.on_process_died(worker, "killed", abroad)
            cores.fetches.on_process_died(worker)
            self.parts.processes.remove(worker)

    def host_dies(self, home: bytes) -> None:
        life = self.parts.cores.road.life_of(home)
        assert life is not None
        self.parts.cores.road.on_life_over(life, "it is dead")
        self.settle()
        self.meet(home)

    def check(self) -> None:
        self.parts.cores.leases.check()
        self.parts.cores.foreign_actors.check()
        assert not self.parts.counters["failed handlers"], self.parts.counters


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[Peer], None]], None]:
    """Build a peer with a seed, and do something with it."""
    monkeypatch.setenv("MESHRAY_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(service, "Zygotes", lambda config: Deaf())

    def play(seed: int, do: Callable[[Peer], None]) -> None:
        monkeypatch.setattr(service, "Loop", lambda parts, *_: SimpleNamespace(run=lambda: do(Peer(parts, seed))))
        settings = PeerSettings(num_cpus=2, num_gpus=0, object_store_memory=1 << 20, preset="test", node=HERE)
        claim, _ = claim_peer(HERE, f"peer-{seed}", private=False)
        try:
            service.serve(settings, claim, "peer", cast(Any, None), lambda store, warnings, listens: None)
        finally:
            claim.release()

    return play


@pytest.mark.fault(47)
@pytest.mark.parametrize("seed", range(12))
def test_no_message_of_a_member_ends_a_peer(play: Callable[[int, Callable[[Peer], None]], None], seed: int) -> None:
    def talk(peer: Peer) -> None:
        for _ in range(STEPS):
            peer.step()
        peer.check()

    play(seed, talk)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Callable[[Peer, Any], list[Any]]:
    """What a peer says to others when B's peer has said this to it."""

    def hear(peer: Peer, message: Any) -> list[Any]:
        road, heard = peer.parts.cores.road, list[Any]()
        life = road.life_of(B)
        assert life is not None

        def send(to: bytes, message: Any, now: float) -> bool:
            heard.append(message)
            return True

        with monkeypatch.context() as patch:
            patch.setattr(road, "send", send)
            road.on_arrived(life, Letter(peer.parts.process_id, peer_of(B), encode(message)), peer.now)
            peer.settle()
        return heard

    return hear


STRANGE = b"a_hostofa_driver"
"""A job that is over, and of which nothing is known here."""


def test_a_place_for_an_actor_of_a_job_that_nobody_knows_is_refused_with_the_reason(
    play: Callable[[int, Callable[[Peer], None]], None], said: Callable[[Peer, Any], list[Any]]
) -> None:
    actor_id = STRANGE + bytes(8)

    def talk(peer: Peer) -> None:
        wish = m.HostActor(actor_id, 1, STRANGE, {"CPU": 10_000}, {}, m.Profile(actor=True), "Counter", True)
        assert m.JobWanted(STRANGE) in said(peer, wish)
        (refused,) = [each for each in said(peer, m.Program(STRANGE)) if isinstance(each, m.ActorWaitsThere)]
        assert (refused.actor_id, refused.gone, refused.broken) == (actor_id, True, False), "others may know it"
        assert f"what is known of its program did not come to host {peer.parts.record.name}" in refused.message
        assert not peer.parts.cores.guests.knows(actor_id)
        peer.check()

    play(0, talk)


def test_who_asks_for_a_job_that_is_not_known_is_told_so(
    play: Callable[[int, Callable[[Peer], None]], None], said: Callable[[Peer, Any], list[Any]]
) -> None:
    def talk(peer: Peer) -> None:
        assert said(peer, m.JobWanted(STRANGE)) == [m.Program(STRANGE)]

    play(0, talk)
