"""One value that fifty hosts want at once: copies serve copies.

The shipped fetches, serving and whereabouts of each host; each has one way out, of limited rate. Hosts may die halfway.

Checked in the end: each host that lives has the value, byte for byte (I1, I9). Without deaths nothing is sent twice,
nobody sends it more than once, and all have it hardly later than one alone would.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest

from meshray.config import preset
from meshray.core.effects import DropCopy, OpenCopy, SealCopy, Send, WriteCopy
from meshray.core.fetches import Fetches
from meshray.core.serving import Serving
from meshray.core.whereabouts import Whereabouts
from meshray.ids import object_of, peer_of
from meshray.wire import messages as m
from tests.transit import none_in_transit

WANTED_BY = 50
SIZE = 20_000
RATE = 10_000  # bytes per second out of one host
CONFIG = msgspec.structs.replace(
    preset("test"), fetch_piece_bytes=100, fetch_window_bytes=400, fetch_peer_max_bytes=400, fetch_max_bytes=400
)
MAKER = b"maker---"
SEGMENT = f"{'ab' * 8}-1"
PLACE = m.Place(object_of(MAKER + b"process-" + bytes(8), 0), MAKER, SEGMENT, SIZE)


class Host:
    """What a host has of it, and its way out."""

    def __init__(self, mesh: Mesh, node: bytes) -> None:
        self.mesh, self.node, self.process = mesh, node, peer_of(node)
        self.alive = True
        self.files: dict[str, bytearray] = {}
        self.fetches = Fetches(CONFIG, node, lambda size: size, none_in_transit)
        self.serving = Serving(CONFIG, self.find)
        self.brought: m.Brought | None = None
        self.whole_at = 0.0
        self.free_at = 0.0  # when its way out is free again
        self._tick_at = float("inf")

    def find(self, place: m.Place) -> tuple[str, int] | None:
        return (SEGMENT, SIZE) if self.node == MAKER else self.fetches.look_up(place)

    def receive(self, source: bytes, message: Any) -> None:
        if not self.alive:
            return
        fetches, now = self.fetches, self.mesh.now
        match message:
            case m.Bring():
                fetches.on_bring(source, message, now)
            case m.Found():
                fetches.on_found(source, message, now)
            case m.Piece():
                fetches.on_piece(source, message, now)
            case m.NoPiece():
                fetches.on_no_piece(source, message, now)
            case m.Pull():
                self.serving.on_pull(source, message)
            case m.Seek():
                self.mesh.whereabouts.on_seek(source, message)
            case m.Whole():
                self.mesh.whereabouts.on_whole(source, message)
            case m.CopiesGone():
                self.mesh.whereabouts.on_copies_gone(source, message)
            case _:
                raise AssertionError(f"nobody reads {message!r}")
        self.perform()

    def lose(self, node: bytes) -> None:
        """That host is gone."""
        if self.alive:
            self.fetches.on_host_gone(node, self.mesh.now)
            self.serving.on_host_gone(node)
            if self.node == MAKER:
                self.mesh.whereabouts.on_host_gone(node)
            self.perform()

    def perform(self) -> None:
        cores = (self.fetches, self.serving, *([self.mesh.whereabouts] if self.node == MAKER else []))
        while effects := [effect for core in cores for effect in core.take_effects()]:
            for effect in effects:
                self._perform(effect)
        self.fetches.check()
        self.serve()
        due = self.fetches.next_deadline()
        if due is not None and due < self._tick_at:
            self._tick_at = due
            self.mesh.at(due, self._tick)

    def _tick(self) -> None:
        self._tick_at = float("inf")
        if self.alive:
            self.fetches.tick(self.mesh.now)
            self.perform()

    def _perform(self, effect: Any) -> None:
        match effect:
            case OpenCopy():
                self.files[effect.segment] = bytearray(effect.capacity)
            case WriteCopy():
                data = b"".join(effect.data)
                self.files[effect.segment][effect.offset : effect.offset + len(data)] = data
            case SealCopy():
                self.fetches.on_sealed(effect.segment, self.mesh.now)
            case DropCopy():
                del self.files[effect.segment]
            case Send(message=m.CreditRequest()):
                granted = m.CreditGranted(effect.message.request, effect.message.size)
                self.fetches.on_granted(granted, self.mesh.now)
            case Send(message=m.Brought()):
                assert self.brought is None, "it is brought once"
                self.brought, self.whole_at = effect.message, self.mesh.now
            case Send():
                self.mesh.send(self, effect.to, effect.message)
            case _:
                raise AssertionError(f"the shell cannot perform {effect!r}")

    def serve(self) -> None:
        """Give the way out its next piece, if it is free."""
        mesh = self.mesh
        if not self.alive or self.free_at > mesh.now:
            return
        reading = self.serving.next(lambda _: CONFIG.fetch_piece_bytes)
        if reading is None:
            return
        data = bytes(self.files[reading.segment][reading.offset : reading.offset + reading.size])
        self.free_at = mesh.now + reading.size / RATE
        mesh.sent += reading.size
        piece = m.Piece(reading.place, reading.offset, [memoryview(data)])
        mesh.at(self.free_at, lambda: mesh.send(self, reading.to, piece))
        mesh.at(self.free_at, self.serve)


class Mesh:
    """Clock, links and fate."""

    def __init__(self, seed: int, deaths: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.sent = 0  # bytes of pieces
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._last: dict[tuple[bytes, bytes], float] = {}
        self.value = self.random.randbytes(SIZE)
        self.whereabouts = Whereabouts(lambda object_id: object_id == PLACE.object_id)
        self.maker = Host(self, MAKER)
        self.maker.files[SEGMENT] = bytearray(self.value)
        self.wanting = [Host(self, b"host%04d" % number) for number in range(WANTED_BY)]
        self.hosts = {host.process: host for host in (self.maker, *self.wanting)}
        for host in self.wanting:
            self.at(
                self.random.random() * 0.1, lambda host=host: host.receive(host.node + b"program-", m.Bring(1, PLACE))
            )
        for host in self.random.sample(self.wanting, deaths):
            self.at(self.random.random() * 2.0, lambda host=host: self.kill(host))

    def at(self, time: float, event: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (max(time, self.now), self._number, event))

    def send(self, source: Host, to: bytes, message: Any) -> None:
        """First in, first out per pair; the dead say nothing more."""
        if source.alive:
            link = source.process, to
            self._last[link] = max(self._last.get(link, 0.0), self.now + 0.0002 + self.random.random() * 0.002)
            self.at(self._last[link], lambda: self.hosts[to].receive(source.process, message))

    def kill(self, host: Host) -> None:
        host.alive = False
        for other in self.hosts.values():
            self.at(self.now + 0.3 + self.random.random() * 0.3, lambda other=other: other.lose(host.node))

    def run(self) -> None:
        for _ in range(400_000):
            if not self._events:
                return
            self.now, _, event = heapq.heappop(self._events)
            event()
            if all(host.brought is not None or not host.alive for host in self.wanting):
                return
        raise AssertionError("it never ends")


@pytest.mark.fault(44)
@pytest.mark.parametrize("seed", range(4))
def test_fifty_hosts_have_it_hardly_later_than_one(seed: int) -> None:
    mesh = Mesh(seed, deaths=0)
    mesh.run()
    check_values(mesh)
    assert mesh.sent == WANTED_BY * SIZE, "nothing went twice"
    assert mesh.maker.serving.served_bytes == SIZE, "its maker has sent it once"
    assert max(host.serving.served_bytes for host in mesh.wanting) == SIZE, "and so has each other one, at most"
    assert max(host.whole_at for host in mesh.wanting) < 1.5 * SIZE / RATE


@pytest.mark.fault(30, 44)
@pytest.mark.parametrize("seed", range(8))
def test_those_that_live_have_it_whoever_dies_halfway(seed: int) -> None:
    mesh = Mesh(seed, deaths=10)
    mesh.run()
    check_values(mesh)


def check_values(mesh: Mesh) -> None:
    for host in mesh.wanting:
        if host.alive:
            assert host.brought is not None, f"{host.node!r} waits for ever (I1)"
            place = host.brought.place
            assert place is not None, host.brought
            assert bytes(host.files[place.segment][:SIZE]) == mesh.value, "it is another value (I9)"
