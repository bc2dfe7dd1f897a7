"""Peers that tell each other of wills of one job, and miss its program again and again: each question has an answer in
the end, each copy comes or cannot be had, and nobody is waited for.

`core.programs`, `core.fetches` and `core.serving` of some hosts, which speak over links that keep the order. Sessions
begin anew, stores are full for a while, the home is lost, and jobs are forgotten as soon as they may be.
"""

from __future__ import annotations

from collections import defaultdict, deque
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from meshray.config import preset
from meshray.core.effects import CopyKept, KeepCopy, LetGoCopy, SealCopy, Send, WriteCopy
from meshray.core.fetches import Fetches
from meshray.core.objects import Objects
from meshray.core.programs import JobLeft, ProgramLost, Programs
from meshray.core.serving import Serving
from meshray.core.store_accounts import StoreAccounts
from meshray.ids import peer_of
from meshray.wire import messages as m
from tests.sim.seeds import seeds
from tests.transit import none_in_transit

SEEDS = 150
SIZE = 40
CONFIG = replace(
    preset("test"), fetch_piece_bytes=10, fetch_window_bytes=20, fetch_peer_max_bytes=40, fetch_max_bytes=60,
    fetches_max=2, fetch_seeks_max=2, store_credit_bytes=100,
)  # fmt: skip
HOME = b"home...."
JOB = HOME + b"driver.."
ARCHIVE = m.Place(JOB + bytes(12), HOME, "segment", SIZE)
CODE = m.Code(b"hash", ARCHIVE.object_id, SIZE, ["/program"])
INFO = m.JobInfo(JOB, "/python", "/", [], "/program", "/program/main.py", "", code=CODE)


class Host:
    """One peer. It knows its job from its program alone."""

    def __init__(self, net: Net, node: bytes) -> None:
        self.net, self.node, self.peer = net, node, peer_of(node)
        self.objects = Objects(CONFIG, node, StoreAccounts(CONFIG, 1 << 20, none_in_transit))
        self.programs = Programs(CONFIG, node, self.objects, self)
        self.fetches = Fetches(CONFIG, node, lambda size: size, none_in_transit)
        self.serving = Serving(CONFIG, self.find)
        self.full = False  # its store
        self.has_driver = node == HOME
        self.lost = 0  # how often it has held the program for lost

    def job_info(self, process: bytes) -> m.JobInfo | None:
        return replace(INFO, code=None) if self.has_driver else None

    def job_lives(self, job: bytes) -> bool:
        return self.has_driver

    def pack(self) -> None:
        """The driver of this host has a detached actor, packs its folder, and ends."""
        objects = self.objects
        objects.on_process_attached(JOB, 1, JOB)
        self.programs.on_needed(JOB, self.peer)
        objects.on_sealed(JOB, m.Sealed([m.SealedSegment(ARCHIVE.object_id, "segment", SIZE, SIZE)]))
        objects.on_promote(JOB, m.Promote([m.Promoted(ARCHIVE.object_id, ARCHIVE)]))
        self.programs.on_code(JOB, CODE)
        self.has_driver = False
        self.programs.on_job_ended(JOB)
        self.programs.take_effects()

    def find(self, place: m.Place) -> tuple[str, int] | None:
        return ("segment", SIZE) if self.node == HOME else self.fetches.look_up(place)

    @property
    def has(self) -> bool:
        """Whether the whole of it is here."""
        where = self.find(ARCHIVE)
        return where is not None and where[1] == SIZE and self.programs.keeps(JOB)

    @property
    def waits(self) -> bool:
        """Whether something is to come."""
        return self.programs.is_coming(JOB) or not self.programs.done or bool(self.fetches.stats().fetching)

    def on_message(self, source: bytes, message: Any) -> None:
        now = self.net.now
        match message:
            case m.ProgramWanted():
                self.programs.on_wanted(source, message)
            case m.Program():
                self.programs.on_program(source, message)
            case m.ProgramHeld():
                self.programs.on_held(source, message)
            case m.Pull():
                self.serving.on_pull(source, message)
            case m.Piece():
                self.fetches.on_piece(source, message, now)
            case m.NoPiece():
                self.fetches.on_no_piece(source, message, now)
            case m.Seek():
                self.net.say(self.peer, source, m.Found(message.place, [self.peer] if self.node == HOME else []))
            case m.Found():
                self.fetches.on_found(source, message, now)
            case m.Whole() | m.CopiesGone():
                pass
            case _:
                raise AssertionError(message)

    def on_gone(self, node: bytes) -> None:
        self.fetches.on_host_gone(node, self.net.now)
        self.serving.on_host_gone(node)
        self.programs.on_host_gone(node)

    def serve(self) -> None:
        """A piece is read and sent, if one is asked for."""
        reading = self.serving.next(lambda peer: 10)
        if reading is not None:
            piece = m.Piece(reading.place, reading.offset, [memoryview(bytes(reading.size))])
            self.net.say(self.peer, reading.to, piece)

    def settle(self) -> None:
        cores: tuple[Any, ...] = (self.programs, self.fetches, self.serving)
        while effects := [effect for core in cores for effect in core.take_effects()]:
            for effect in effects:
                self.perform(effect)
        for core in cores[:2]:
            core.check()

    def perform(self, effect: Any) -> None:
        now = self.net.now
        match effect:
            case KeepCopy():
                self.fetches.keep(effect.place, effect.source, now)
            case LetGoCopy():
                self.fetches.let_go(effect.place)
            case CopyKept():
                self.programs.on_copy(effect.place, effect.failure)
            case SealCopy():
                self.fetches.on_sealed(effect.segment, now)
            case Send(to, m.CreditRequest() as request) if to == self.peer:
                failure = m.Failure("ObjectStoreFullError", "full") if self.full else None
                size = 0 if failure else request.size
                self.fetches.on_granted(m.CreditGranted(request.request, size, failure), now)
            case Send():
                if effect.to != self.peer:
                    self.net.say(self.peer, effect.to, effect.message)
            case ProgramLost():
                self.lost += 1
            case _:
                assert isinstance(effect, JobLeft | WriteCopy) or "Copy" in type(effect).__name__, effect


class Net:
    """The hosts, and what is on its way between them."""

    def __init__(self, seed: int, hosts: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.hosts = {peer_of(node): Host(self, node) for node in [HOME, *(b"host%04d" % n for n in range(hosts))]}
        self.links: dict[tuple[bytes, bytes], deque[Any]] = defaultdict(deque)
        self.hosts[peer_of(HOME)].pack()

    def say(self, source: bytes, to: bytes, message: Any) -> None:
        """To a host that is gone: that is said to whoever speaks."""
        if to in self.hosts:
            self.links[source, to].append(message)
        elif to == peer_of(HOME):
            self.hosts[source].on_gone(HOME)

    def others(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.node != HOME]

    def step(self) -> bool:
        """Something that can happen next; False: nothing can."""
        ready = [pair for pair, messages in sorted(self.links.items()) if messages]
        if not ready or self.random.random() < 0.3:
            for host in self.hosts.values():
                if host.serving.pending:
                    host.serve()
                    host.settle()
            return any(self.links.values())
        source, to = self.random.choice(ready)
        message = self.links[source, to].popleft()
        self.hosts[to].on_message(source, message)
        self.hosts[to].settle()
        return True

    def deliver(self, source: Host, to: Host) -> None:
        """All that the one has said to the other."""
        messages = self.links[source.peer, to.peer]
        while messages:
            to.on_message(source.peer, messages.popleft())
            to.settle()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            if not self.step():
                return

    def begin_anew(self, one: Host, other: Host) -> None:
        """The session of two ends; neither hears anything more of it."""
        for pair in ((one.peer, other.peer), (other.peer, one.peer)):
            self.links.pop(pair, None)
        for host, gone in ((one, other), (other, one)):
            host.on_gone(gone.node)
            host.settle()

    def lose_home(self) -> None:
        home = self.hosts.pop(peer_of(HOME))
        for pair in [pair for pair in self.links if home.peer in pair]:
            del self.links[pair]
        for host in self.hosts.values():
            host.on_gone(HOME)
            host.settle()

    def will(self, testator: Host, heir: Host) -> None:
        heir.programs.on_needed(JOB, testator.peer)
        heir.settle()

    def forget(self, host: Host) -> None:
        """Its last will is over."""
        if not host.programs.is_owed(JOB):
            host.programs.on_job_forgotten(JOB)
            host.settle()

    def rest(self) -> None:
        """Until nothing happens any more."""
        for _ in range(40):
            self.run(3000)
            self.now += CONFIG.fetch_stall_s
            for host in self.hosts.values():
                host.fetches.tick(self.now)
                host.settle()


def tell(seed: int) -> Net:
    net = Net(seed, hosts=3 + seed % 3)
    random = net.random
    for _ in range(80):
        one, other = random.sample(net.others(), 2)
        what = random.random()
        if what < 0.3:
            testator = random.choice([other, net.hosts.get(peer_of(HOME), other)])
            net.will(testator, one)
        elif what < 0.5:
            for each, after in zip(net.others(), [*net.others()[1:], net.others()[0]], strict=True):
                net.will(each, after)
                net.run(random.randrange(2))
        elif what < 0.6:
            one.full = not one.full
        elif what < 0.7:
            net.begin_anew(one, other)
        elif what < 0.75:
            net.forget(one)
        elif what < 0.78 and peer_of(HOME) in net.hosts:
            net.lose_home()
        net.run(random.randrange(12))
    net.rest()
    return net


@pytest.mark.fault(5, 16, 30)
@pytest.mark.parametrize("block", range(4))
def test_every_question_has_an_answer_and_every_copy_an_end(block: int) -> None:
    for seed in seeds(block, SEEDS, 4):
        net = tell(seed)
        for host in net.hosts.values():
            story = f"seed {seed}: {host.node!r} waits for ever: {host.programs._asked} {host.fetches.stats()}"
            assert not host.waits, story
            assert not host.serving.pending, f"seed {seed}: somebody waits for pieces of {host.node!r}"


@pytest.mark.fault(5, 16)
@pytest.mark.parametrize("block", range(4))
def test_who_is_told_of_a_will_by_one_that_has_the_program_gets_it(block: int) -> None:
    """Whatever has happened before, and whomever it asks at the time."""
    for seed in seeds(block, SEEDS, 4):
        net = tell(seed)
        having = [host for host in net.hosts.values() if host.has]
        for host in net.others():
            host.full = False
        for one in net.others():
            for other in net.others():
                if one is not other:
                    net.will(other, one)
                    net.run(net.random.randrange(5))
            for testator in having:
                if one is not testator:
                    net.will(testator, one)
        net.rest()
        for host in net.others():
            assert host.has or not having, f"seed {seed}: {host.node!r} has nothing, {having} have it"


def test_three_that_wait_for_pieces_of_each_other_end() -> None:
    """The one that has fetched from the home begins another copy before the others have asked it for a piece."""
    net = Net(0, hosts=3)
    home = net.hosts[peer_of(HOME)]
    first, second, third = net.others()
    for testator, heir in ((home, first), (first, second), (second, third)):
        net.will(testator, heir)
        net.deliver(heir, testator)
        net.deliver(testator, heir)
    net.lose_home()
    net.will(third, first)
    net.deliver(first, third)
    net.deliver(third, first)
    net.rest()
    assert not any(host.waits for host in net.others())
    assert all(host.lost for host in net.others())
