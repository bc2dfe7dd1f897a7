"""The ways out of a peer: one DEALER per other peer and plane, opened when something is to be sent.

A DEALER queues nothing while its connection does not stand (IMMEDIATE): `send` says no, and an event says when to try
again. libzmq dials again by itself after most losses, but gives a socket up for good after a refused handshake or
garbage from the other end, without a word; and it would try a wrong key forever, five times a second. So after a failed
handshake the socket is closed, and made anew after a pause that doubles, with the other key while the mesh has two: at
once where that was not tried yet, so that a switch of keys costs a connection some milliseconds. It is made anew, too,
when libzmq does not say within a second that it dials again.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import zmq
import zmq.backend
from msgspec import Struct

from meshray.seeds import ip_version
from meshray.transport.epoll import Epoll
from meshray.transport.keys import CurveKeys, KeySet
from meshray.transport.mesh_options import RECONNECT_MAX_MS, RECONNECT_MS, mesh_dealer
from meshray.transport.monitors import Happened, Monitor
from meshray.wire.peers import Block, Blocks, Payload, Plane

RETRY_KNOWN_AFTER_S = 1.0
"""A connection ended, and libzmq has not said that it dials again (it says so at once): it never will."""

COPY_BELOW_BYTES = 64 << 10
"""Payloads that libzmq gets a copy of; larger ones are encrypted from where they lie, and told of when that is done."""

SWEEP_S = 1.0
"""How often idle sockets are looked for."""

_NOW = int(zmq.DONTWAIT)
_NOW_MORE = int(zmq.DONTWAIT | zmq.SNDMORE)
_EVENTS = int(zmq.EVENTS)
_POLLOUT = int(zmq.POLLOUT)
_send = zmq.backend.Socket.send
_get = zmq.backend.Socket.get


# -- events ------------------------------------------------------------------------------------------------------------


class Ready(Struct, frozen=True):
    """A plane takes messages; `fresh`: over a connection that did not stand before."""

    target: bytes
    plane: Plane
    fresh: bool


class Lost(Struct, frozen=True):
    """A connection has ended. For the failure detector: suspect, and probe now."""

    target: bytes
    plane: Plane


class HandshakeFailed(Struct, frozen=True):
    """Somebody listens there and does not take our key, or has none of this mesh."""

    target: bytes
    plane: Plane
    text: str


class Unreachable(Struct, frozen=True):
    """Nobody could be reached there, so many times in a row; it is tried again."""

    target: bytes
    plane: Plane
    times: int


LineEvent = Ready | Lost | HandshakeFailed | Unreachable

_FAILED = {
    zmq.Event.HANDSHAKE_FAILED_AUTH: "it does not know our key",
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: "it is no port of a mesh",
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: "it broke off the handshake (another key, no peer, or one that is held up)",
}


class _Line:
    """One DEALER."""

    def __init__(self, remote: _Remote, plane: Plane, now: float) -> None:
        self.remote = remote
        self.plane = plane
        self.socket: zmq.Socket[bytes] | None = None  # None between a failure and the next attempt
        self.monitor: Monitor | None = None  # with `socket`
        self.fd = -1  # of `socket`
        self.keys_id = ""  # of the keys with which `socket` dials
        self.up = False  # a connection stands, its handshake done
        self.asked = False  # a `send` was refused, and a Ready is owed for it
        self.used_at = now  # the last message, or when it was opened
        self.again_at: float | None = None  # when the socket is to be made anew; None: libzmq sees to it
        self.failed = False  # a handshake of `socket` has failed: it is made anew whatever libzmq does with it
        self.vain = 0  # attempts since a connection stood


class _Remote:
    """Where a target is dialled, and its open lines."""

    def __init__(self, target: bytes, address: str, keys: KeySet) -> None:
        self.target = target
        self.address = address
        self.keys = keys  # of its port; the other ones after a failed handshake
        self.lines: dict[Plane, _Line] = {}


class MeshLines:
    """See the head of this file."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], keys: CurveKeys, idle_s: float, random: Random, poll: Epoll
    ) -> None:
        # The first block that is not copied has pyzmq open sockets of its own. When no descriptor is left by then, that
        # would end the peer: so it is now.
        zmq.Frame(bytes(COPY_BELOW_BYTES), copy=False, copy_threshold=0)
        self._context = context
        self._keys = keys
        self._idle_s = idle_s
        self._random = random
        self._poll = poll
        self._remotes: dict[bytes, _Remote] = {}
        self._by_fd: dict[int, _Line] = {}  # descriptor of a monitor, and of a socket that a Ready is owed for
        self._ailing: set[_Line] = set()  # lines with `again_at`
        self._sweep_at = 0.0
        self.sent = [0] * len(Plane)  # messages, by plane
        self.sent_bytes = [0] * len(Plane)
        self.counts: Counter[str] = Counter()  # connected, lost, failed, unreachable, idle
        self.met_next = False  # a port has answered with the next key, which nobody can who does not have it

    # -- whom to reach -------------------------------------------------------------------------------------------------

    def dial(self, target: bytes, address: str, key_id: str) -> None:
        """What is for `target` goes to this address from now on. Connections to another one are closed."""
        keys = self._keys.of(key_id)
        remote = self._remotes.get(target)
        if remote is not None:
            if (remote.address, remote.keys.id) == (address, keys.id):
                return
            self.forget(target)
        self._remotes[target] = _Remote(target, address, keys)

    def forget(self, target: bytes) -> None:
        """Close what is open to it; what was sent has the linger of its sockets to leave."""
        remote = self._remotes.pop(target, None)
        for line in [] if remote is None else list(remote.lines.values()):
            self._close(line)

    def rekey(self, keys: CurveKeys) -> None:
        """The keys of the mesh have changed. What stands goes on; what is dialled anew uses them."""
        self._keys, self.met_next = keys, False
        for remote in self._remotes.values():
            remote.keys = keys.of(remote.keys.id)

    # -- sending -------------------------------------------------------------------------------------------------------

    def send(self, target: bytes, plane: Plane, head: bytearray, payload: Payload | None, now: float) -> bool:
        """Give a message to the socket of a plane. False: it takes none now, a Ready will come; nothing was sent.

        True is no promise that it arrives. Raises `KeyError` for a target that was never dialled.
        """
        remote = self._remotes[target]
        line = remote.lines.get(plane)
        if line is None:
            line = remote.lines[plane] = _Line(remote, plane, now)
            self._open(line, now)
        line.used_at = now
        if not (line.up and self._give(line, head, payload)):
            self._owe(line)
            return False
        self.sent[plane] += 1
        self.sent_bytes[plane] += len(head) + (0 if payload is None else len(payload))
        return True

    def _give(self, line: _Line, head: bytearray, payload: Payload | None) -> bool:
        assert line.socket is not None, f"{line.remote.address} is up without a socket"
        try:
            self._put(line.socket, head, payload)
        except zmq.Again:
            # A socket looks at its mailbox only now and then when it is asked to send; asked for its events it does so
            # at once, and may find the connection, or the room, that it did not know of.
            if not _get(line.socket, _EVENTS) & _POLLOUT:  # type: ignore[operator]
                return False
            try:
                self._put(line.socket, head, payload)
            except zmq.Again:
                return False
        return True

    @staticmethod
    def _put(socket: zmq.Socket[bytes], head: bytearray, payload: Payload | None) -> None:
        if payload is None:
            _send(socket, head, _NOW)
            return
        _send(socket, head, _NOW_MORE)
        if isinstance(payload, Blocks):
            *first, last = payload.blocks
            try:
                for block in (payload.message, *first):
                    _put_block(socket, block, _NOW_MORE)
            except zmq.Again:  # its connection ends: libzmq drops the rest, up to the last frame of whatever comes next
                _send(socket, b"", _NOW)
                raise
            _put_block(socket, last, _NOW)
        else:
            _put_block(socket, payload, _NOW)

    def _owe(self, line: _Line) -> None:
        """Watch for the moment when a socket that is full has room. One that is not connected has its monitor."""
        if line.up and line.fd not in self._by_fd:
            self._by_fd[line.fd] = line
            self._poll.watch(line.fd)
        line.asked = True

    @property
    def clogged(self) -> int:
        """Planes of peers that could not take what was to be sent."""
        return sum(line.asked for remote in self._remotes.values() for line in remote.lines.values())

    # -- what happens --------------------------------------------------------------------------------------------------

    def look(self, fds: list[int], now: float) -> list[LineEvent]:
        """What the readable descriptors among these say."""
        events: list[LineEvent] = []
        for fd in fds:
            line = self._by_fd.get(fd)
            if line is None or line.socket is None or line.monitor is None:
                continue
            if fd == line.monitor.fd:
                for event in list(line.monitor.events()):
                    self._on_event(line, event, now, events)
                if line.failed:  # else libzmq dials again each 200 ms with a key that is refused, and nothing backs off
                    self._shut(line)
            elif line.asked and _get(line.socket, _EVENTS) & _POLLOUT:  # type: ignore[operator]
                self._unwatch(line)
                line.asked = False
                events.append(Ready(line.remote.target, line.plane, False))
        return events

    def _on_event(self, line: _Line, event: Happened, now: float, events: list[LineEvent]) -> None:
        target, kind = line.remote.target, event.kind
        if kind is zmq.Event.HANDSHAKE_SUCCEEDED:
            line.up, line.vain, line.failed = True, 0, False  # an earlier attempt may have failed that was not seen yet
            line.remote.keys = self._keys.of(line.keys_id)
            self._renew_at(line, None)
            line.asked = False
            following = self._keys.next
            self.met_next = self.met_next or (following is not None and line.keys_id == following.id)
            self.counts["connected"] += 1
            events.append(Ready(target, line.plane, True))
        elif kind in _FAILED:
            self.counts["failed"] += 1
            line.failed = True
            line.remote.keys = self._keys.other(line.keys_id)
            pause_s = self._pause(line)
            self._renew_at(line, now if line.vain == 1 and line.remote.keys.id != line.keys_id else now + pause_s)
            events.append(HandshakeFailed(target, line.plane, _FAILED[kind]))
        elif kind is zmq.Event.DISCONNECTED:
            self._unwatch(line)
            if line.up:
                line.up = False
                self.counts["lost"] += 1
                events.append(Lost(target, line.plane))
            if line.keys_id != line.remote.keys.id:  # the mesh has switched: libzmq would come with the old key again
                line.failed = True
                self._renew_at(line, now)
            elif line.again_at is None:
                self._renew_at(line, now + RETRY_KNOWN_AFTER_S)
        elif kind is zmq.Event.CLOSED:  # an attempt that reached nobody
            line.vain += 1
            self.counts["unreachable"] += 1
            events.append(Unreachable(target, line.plane, line.vain))
        elif kind is zmq.Event.CONNECT_RETRIED and not line.failed:
            self._renew_at(line, None)

    def tick(self, now: float) -> None:
        """Make anew what failed, close what is idle."""
        if self._ailing:
            for line in [line for line in self._ailing if line.again_at is not None and line.again_at <= now]:
                self._shut(line)
                self._open(line, now)
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            for remote in self._remotes.values():
                for line in [line for line in remote.lines.values() if now >= line.used_at + self._idle_s]:
                    self.counts["idle"] += 1
                    self._close(line)

    def next_at(self) -> float:
        """When `tick` is due, if nothing else happens."""
        if not self._ailing:
            return self._sweep_at
        due: list[float] = [self._sweep_at]
        due += [line.again_at for line in self._ailing if line.again_at is not None]
        return min(due)

    # -- sockets -------------------------------------------------------------------------------------------------------

    def _open(self, line: _Line, now: float) -> None:
        line.keys_id = line.remote.keys.id
        line.failed = False
        try:
            self._make(line)
        except zmq.ZMQError:  # for want of descriptors, or of sockets of the context
            self.counts["no socket"] += 1
            self._renew_at(line, now + self._pause(line))
            return
        assert line.socket is not None
        assert line.monitor is not None
        self._by_fd[line.monitor.fd] = line
        self._poll.watch(line.monitor.fd)
        if _connected(line.socket, line.remote.address):
            self._renew_at(line, None)
        else:
            self.counts["no address"] += 1
            self._renew_at(line, now + self._pause(line))

    def _make(self, line: _Line) -> None:
        """Its socket and what belongs to it: all of it, or nothing. Raises `ZMQError`."""
        dealer = mesh_dealer(self._context, line.remote.keys)
        try:
            dealer.setsockopt(zmq.IPV6, int(line.remote.address.startswith("[")))
            fd = int(dealer.getsockopt(zmq.FD))
            monitor = Monitor(self._context, dealer)
        except BaseException:
            dealer.close(linger=0)
            raise
        line.socket, line.monitor, line.fd = dealer, monitor, fd

    def _shut(self, line: _Line) -> None:
        """Close the socket; the line stays, and is owed what it was owed."""
        if line.socket is None or line.monitor is None:
            return
        self._unwatch(line)
        self._by_fd.pop(line.monitor.fd, None)
        self._poll.unwatch(line.monitor.fd)
        line.monitor.close()
        line.socket.close()
        line.socket = line.monitor = None
        line.up = False

    def _close(self, line: _Line) -> None:
        """The line is no more."""
        self._shut(line)
        self._ailing.discard(line)
        line.remote.lines.pop(line.plane, None)

    def _renew_at(self, line: _Line, at: float | None) -> None:
        line.again_at = at
        if at is None:
            self._ailing.discard(line)
        else:
            self._ailing.add(line)

    def _pause(self, line: _Line) -> float:
        """Doubles with each vain attempt, as libzmq's own; jittered, so that peers do not come all at once."""
        pause_ms: int = min(RECONNECT_MAX_MS, RECONNECT_MS << min(line.vain, 10))
        line.vain += 1
        return pause_ms / 1000 * self._random.uniform(0.5, 1.5)

    def _unwatch(self, line: _Line) -> None:
        if self._by_fd.pop(line.fd, None) is not None:
            self._poll.unwatch(line.fd)

    def close(self) -> None:
        for target in list(self._remotes):
            self.forget(target)


def _connected(socket: zmq.Socket[bytes], address: str) -> bool:
    """Whether the socket dials there from now on. An address is what others say it is: what is none shall harm nobody,
    and libzmq has the last word (a zone may be no interface of this host)."""
    if not is_numeric(address):
        return False
    try:
        socket.connect(f"tcp://{address}")
    except zmq.ZMQError:
        return False
    return True


def is_numeric(address: str) -> bool:
    """Whether this is `host:port` with an IP address for a host. libzmq resolves a name in its I/O thread, again for
    each attempt, and all connections wait meanwhile: names are resolved by whoever hears of them, off this path."""
    host, _, port = address.rpartition(":")
    if not ip_version(host.removeprefix("[").removesuffix("]")):
        return False
    return port.isascii() and port.isdigit() and 0 < int(port) < 65536 and (":" in host) == host.startswith("[")


def _put_block(socket: zmq.Socket[bytes], block: Block, flags: int) -> None:
    if len(block) < COPY_BELOW_BYTES:
        _send(socket, block, flags)
    else:
        _send(socket, block, flags, copy=False)
