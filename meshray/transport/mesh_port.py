"""The TCP port of a peer: one ROUTER on which everything from other peers arrives, encrypted.

Nothing is believed before it is proven: the socket first listens on a loopback port, where a member must get in and
strangers must not (`zap.prove`), and only then on the addresses asked for.
What arrives is checked here for what a frame may be, who sent it and to which incarnation; what it means is decided
elsewhere.
"""

from __future__ import annotations

import errno
import math
import os
import socket
from collections import Counter
from collections.abc import Collection
from random import Random
from typing import NamedTuple

import zmq
import zmq.backend

from meshray.config import Config
from meshray.transport import floods
from meshray.transport.floods import Doorkeeper
from meshray.transport.keys import CurveKeys
from meshray.transport.mesh_options import BACKLOG, answer_with, mesh_router, readable
from meshray.transport.monitors import EVENTS_BUDGET, Monitor
from meshray.transport.zap import DOMAIN, Zap, prove
from meshray.wire.codec import ProtocolError
from meshray.wire.messages import BLOCKS_MAX
from meshray.wire.peer_codec import unpack
from meshray.wire.peers import (
    Ack,
    Block,
    Blocks,
    Data,
    Datagram,
    Hello,
    Payload,
    PeerMessage,
    Plane,
    has_payload,
)

COPY_BELOW_BYTES = 64 * 1024
"""A payload smaller than this is copied out of libzmq's message, which then need not be kept."""

CALLERS_REMEMBERED_MAX = 8192
"""Connections whose key was looked at; when there are more, all are looked at again."""

BROKEN_OFF = "silent or broken off"
"""A reason in `refused`: of connections that have said nothing of CURVE."""

_NOW = int(zmq.DONTWAIT)
_RCVMORE = int(zmq.RCVMORE)
_recv = zmq.backend.Socket.recv
_get = zmq.backend.Socket.get


class PortTaken(OSError):
    """Another program listens at this address and port."""


class Arrived(NamedTuple):
    """One message of a member."""

    destination: bytes  # node; another one than ours only for a Hello
    source: bytes  # node, as the sender says: the key proves that it is a member, not which
    host: str  # from where its connection comes
    message: PeerMessage
    payload: Payload


class MeshPort:
    """See the head of this file. Not thread-safe; nothing blocks but the proof at the beginning.

    Raises `NotProven` when the encryption does not hold.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], node: bytes, keys: CurveKeys, config: Config, random: Random
    ) -> None:
        self._context = context
        self._node = node
        self._keys = keys
        self.zap = Zap(context, keys)
        self._router = mesh_router(context, keys, DOMAIN, config.frame_max_bytes)
        self._door = Doorkeeper(floods.silent_max(config.mesh_silent_max), config.mesh_pause_s, random)
        self._listeners: list[tuple[str, socket.socket]] = []  # endpoint of libzmq, our copy of the listening socket
        self._unserved: list[tuple[str, socket.socket]] = []  # those that libzmq could not take over yet
        self._callers: dict[bytes, tuple[str, str]] = {}  # routing id of a connection -> key id, host
        self.refused: Counter[str] = Counter()  # connections and messages that were refused, by reason
        self.last_refusal = ""
        self.drained = False  # the last `receive` has left nothing
        self.handshakes = 0  # connections that showed a key and were let in
        self.pauses = 0  # times the door was shut
        self.received = [0] * len(Plane)  # messages, by plane
        self.received_bytes = [0] * len(Plane)
        try:
            self._prove()
        except BaseException:
            self._router.close(linger=0)
            self.zap.close()
            raise
        self._monitor = Monitor(context, self._router)  # after the proof, which is not to be counted
        self._more = True  # whoever knocks, or what happened, may wait without its descriptor saying so
        self.fds = (int(self._router.getsockopt(zmq.FD)), self._monitor.fd, self.zap.fd)

    # -- listening -----------------------------------------------------------------------------------------------------

    def listen(self, addresses: list[str], port: int) -> int:
        """Listen on these addresses, all at the same port; 0 chooses one. Returns the port.

        Raises `PortTaken`, or another `OSError` that names the address, when one cannot be had: then none is open.
        """
        try:
            for address in addresses:
                port = self._listen(address, port)
        except OSError:
            self._close_listeners()
            raise
        return port

    def follow(self, addresses: list[str], port: int) -> list[str]:
        """The addresses of this host are these now: listen at those that are new, no longer at those that are gone.
        Returns those that can be listened at; why another cannot is in `last_refusal`."""
        for _, listener in self._unserved:
            listener.close()
        self._unserved.clear()
        there = {str(listener.getsockname()[0]): (url, listener) for url, listener in self._listeners}
        for address in there.keys() - set(addresses):
            url, listener = there.pop(address)
            self._listeners.remove((url, listener))
            self._router.unbind(url)
            listener.close()
        for address in [address for address in addresses if address not in there]:
            try:
                self._listen(address, port)
            except OSError as error:
                self.last_refusal = str(error)
            else:
                there[address] = self._listeners[-1]
        return [address for address in addresses if address in there]

    def _prove(self) -> None:
        try:
            port = self._listen("127.0.0.1", 0)
            url = f"tcp://127.0.0.1:{port}"
        except OSError:  # a host without IPv4
            port = self._listen("::1", 0)
            url = f"tcp://[::1]:{port}"
        try:
            prove(self._context, url, self._keys, self.zap.serve)
        finally:
            self._close_listeners()
        self.zap.counts.clear()

    def _listen(self, address: str, port: int) -> int:
        listener = _listener(address, port)
        port = int(listener.getsockname()[1])
        url = f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"
        try:
            self._serve(listener, url)
        except OSError:
            listener.close()
            raise
        return port

    def _serve(self, listener: socket.socket, url: str) -> None:
        """Have libzmq accept what comes to a listening socket. Raises `OSError`, for want of descriptors above all."""
        try:
            self._router.setsockopt(zmq.IPV6, int(listener.family == socket.AF_INET6))
            self._router.setsockopt(zmq.USE_FD, os.dup(listener.fileno()))  # libzmq closes its own
            self._router.bind(url)
        except (OSError, zmq.ZMQError) as error:
            raise OSError(error.errno, f"cannot listen at {url}: {error.strerror}") from error
        self._listeners.append((self._router.getsockopt_string(zmq.LAST_ENDPOINT), listener))

    def _close_listeners(self) -> None:
        """Nobody can connect any more, and the connections that came in here end."""
        for url, listener in self._listeners:
            self._router.unbind(url)
            listener.close()
        for _, listener in self._unserved:
            listener.close()
        self._listeners.clear()
        self._unserved.clear()

    def rekey(self, keys: CurveKeys) -> None:
        """Admit clients of these keys from now on. Where the current key is another one, the port is bound anew with
        it; connections end then, and come back."""
        switched = keys.current.id != self._keys.current.id
        self._keys = self.zap.keys = keys
        self._callers.clear()
        if switched:
            answer_with(self._router, keys)
            listeners, self._listeners = self._listeners, []
            for url, listener in listeners:
                self._router.unbind(url)
                self._unserved.append((url, listener))  # it stays ours: nobody else can have the port in between
            self._serve_again()

    def _serve_again(self) -> None:
        unserved, self._unserved = self._unserved, []
        for url, listener in unserved:
            try:
                self._serve(listener, url)
            except OSError as error:
                self._unserved.append((url, listener))
                self.last_refusal = str(error)

    # -- what happens --------------------------------------------------------------------------------------------------

    def look(self, ready: Collection[int], now: float) -> None:
        """Answer who knocks, count who came and went, shut the door or open it. `ready`: the descriptors of `fds` that
        are readable, among others."""
        if self._unserved:
            self._serve_again()
        if self._more or self.zap.fd in ready or self._monitor.fd in ready:
            self._more = self.zap.serve()
            self._on_events(now)
        verdict = self._door.decide(now)
        if verdict is not None:
            self._set_door(shut=verdict)

    def _on_events(self, now: float) -> None:
        events = list(self._monitor.events())
        self._more = self._more or len(events) >= EVENTS_BUDGET
        for event in events:
            self._door.on_event(event, now)
            if event.kind is zmq.Event.HANDSHAKE_SUCCEEDED:
                self.handshakes += 1
            elif event.kind is zmq.Event.HANDSHAKE_FAILED_AUTH:
                self.refused["unknown key"] += 1
            elif event.kind is zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
                self.refused["no handshake of this mesh"] += 1
            elif event.kind is zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
                self.refused[BROKEN_OFF] += 1
            elif event.kind is zmq.Event.ACCEPT_FAILED:
                self.refused["no descriptor"] += 1

    def _set_door(self, shut: bool) -> None:
        self.pauses += shut
        for _, listener in self._listeners:
            try:
                (floods.shut if shut else floods.reopen)(listener)
            except OSError as error:  # a system without packet filters: only the time-out of handshakes is left
                self.last_refusal = f"cannot shut the port against a flood: {error}"

    def next_at(self) -> float | None:
        """When `look` is due, if nothing else happens."""
        return -math.inf if self._more else self._door.shut_until

    def silent(self, now: float) -> int:
        """Connections that have shown no key yet."""
        return self._door.silent(now)

    # -- receiving -----------------------------------------------------------------------------------------------------

    def receive(self, budget: int, budget_bytes: int) -> list[Arrived]:
        """What has arrived, at most so many messages and about so many bytes; what is no message of a member to this
        incarnation is counted in `refused`. Afterwards `drained` says whether nothing was left."""
        arrived: list[Arrived] = []
        looked, taken = 0, 0
        while looked < budget and taken < budget_bytes:
            if not readable(self._router):
                break
            caller = _recv(self._router, _NOW)
            looked += 1
            try:
                came = self._accept(caller)
                taken += len(came.payload)
                arrived.append(came)
            except ProtocolError as error:
                self.last_refusal = str(error)
        self.drained = looked < budget and taken < budget_bytes
        return arrived

    def _accept(self, caller: bytes) -> Arrived:
        """The rest of a message from this connection. All its frames are taken, whatever they are."""
        known = self._callers.get(caller)
        if known is None:
            first = _recv(self._router, _NOW, False)
            head, follows = first.bytes, first.more
        else:
            head = _recv(self._router, _NOW)
            follows = bool(_get(self._router, _RCVMORE))
        bodies: list[zmq.Frame] = []
        more = 0
        while follows:
            body = _recv(self._router, _NOW, False)
            follows = body.more
            more += 1
            if more <= 1 + BLOCKS_MAX:
                bodies.append(body)
        if more > 1 + BLOCKS_MAX:
            raise self._refusal("wrong number of frames", f"{more + 1} frames behind the routing id")
        if known is None:
            known = self._meet(caller, first)
        try:
            destination, source, message = unpack(head)
        except ProtocolError as error:
            raise self._refusal("no message", str(error)) from error
        if destination != self._node and not isinstance(message, Hello):
            raise self._refusal("for another incarnation", f"a {type(message).__name__} for {destination.hex()}")
        plane = plane_of(message)
        if has_payload(message) != (more > 0) or (more > 1 and plane != Plane.BULK):
            raise self._refusal("wrong number of frames", f"{more + 1} frames of a {type(message).__name__}")
        blocks = tuple(map(_block, bodies))
        payload = Blocks(blocks[0], blocks[1:]) if more > 1 else blocks[0] if blocks else b""
        self.received[plane] += 1
        self.received_bytes[plane] += len(head) + len(payload)
        return Arrived(destination, source, known[1], message, payload)

    def _meet(self, caller: bytes, frame: zmq.Frame) -> tuple[str, str]:
        """Key id and host of a connection that is heard for the first time."""
        try:
            key_id, host = frame.get("User-Id"), frame.get("Peer-Address")
        except zmq.ZMQError as error:
            raise self._refusal("no key", "a message without a key") from error
        if not isinstance(key_id, str) or key_id not in self._keys.admitted.values():
            raise self._refusal("no key", f"a message under the key {key_id!r}, which is not admitted any more")
        if len(self._callers) >= CALLERS_REMEMBERED_MAX:
            self._callers.clear()
        known = self._callers[caller] = key_id, str(host).removeprefix("::ffff:")
        return known

    def _refusal(self, reason: str, text: str) -> ProtocolError:
        self.refused[reason] += 1
        return ProtocolError(text)

    def close(self) -> None:
        self._close_listeners()
        self._monitor.close()
        self._router.close(linger=0)
        self.zap.close()


def plane_of(message: PeerMessage) -> int:
    """The plane on which a message travels."""
    if isinstance(message, Data | Ack):
        return message.plane
    return Plane.PROBE if isinstance(message, Datagram) else Plane.CONTROL


def _block(frame: zmq.Frame) -> Block:
    return frame.bytes if len(frame) < COPY_BELOW_BYTES else frame.buffer


def _listener(address: str, port: int) -> socket.socket:
    """A listening socket. Raises `PortTaken`, or another `OSError` that names address and port."""
    try:
        family, kind, proto, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # our own predecessor's remains are no obstacle
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            text = f"port {port} of {address} is taken by another program: end it, or choose another port"
            raise PortTaken(error.errno, text) from error
        raise OSError(error.errno, f"cannot listen on {address}, port {port}: {error.strerror}") from error
    return listener
