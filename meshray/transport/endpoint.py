"""One process's face to the others on its host.

It receives on one ROUTER and sends through one DEALER per destination, so that waiting is a poll of one descriptor
however many processes speak to it. A lost local link is a dead process, and nothing else: whoever learns of a death
calls `drop`.

On the wire a message is one frame, the envelope (destination and source, 32 bytes) in front of the encoded message; the
ROUTER puts the source's routing id before it. Whether more frames follow is asked only of sources that were never heard
before: what a known source sends beyond its one frame looks like a message of an unknown one, and is refused there.
(Each question to a socket costs 1.4 us from Python, as much as receiving a frame.)

The descriptor is edge-triggered: it becomes readable when something arrives, and stays so only until the socket has
been looked at. Hence the one rule for users: poll `fd` only after a `receive` that returned nothing.
No method is thread-safe; none blocks.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

import zmq
import zmq.backend

from meshray.config import DEFAULT, Config
from meshray.ids import PROCESS_BYTES
from meshray.transport.options import CLOSE_LINGER_MS, local_dealer, local_router, new_context
from meshray.wire.codec import ProtocolError, decode, encode_into
from meshray.wire.messages import Message

IPC_PATH_MAX_BYTES = 107

RECEIVE_BUDGET = 64
"""Messages taken per `receive`, before its caller decides and flushes."""

ENVELOPE_BYTES = 2 * PROCESS_BYTES

# Plain integers, and the methods below pyzmq's convenience layer: its enumerations cost a microsecond each.
_NOW = int(zmq.DONTWAIT)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_RCVMORE = int(zmq.RCVMORE)
_send = zmq.backend.Socket.send
_recv = zmq.backend.Socket.recv
_get = zmq.backend.Socket.get


class _Link:
    """The way to one process."""

    __slots__ = ("dealer", "envelope", "queued")

    def __init__(self, dealer: zmq.Socket[bytes], envelope: bytes) -> None:
        self.dealer = dealer
        self.envelope = envelope  # destination and source: the same for every message of this link
        self.queued: deque[bytearray] = deque()  # encoded messages that met the high-water mark, oldest first


class Endpoint:
    """See the head of this file. `folder` holds the sockets of all processes of one peer; `process_id` is 16 bytes.

    Raises `ValueError` when the path of a socket would be longer than ipc:// allows.
    """

    def __init__(self, folder: Path | str, process_id: bytes, config: Config = DEFAULT) -> None:
        self._folder = str(folder)
        self._process_id = process_id
        self._data_max_bytes = config.frame_max_bytes
        path = self._path(process_id)
        if len(os.fsencode(path)) > IPC_PATH_MAX_BYTES:
            raise ValueError(
                f"the socket path {path!r} is longer than {IPC_PATH_MAX_BYTES} bytes: "
                "set MESHRAY_RUNTIME_DIR to a shorter folder"
            )
        self._context = new_context()
        self._router = local_router(self._context, config.frame_max_bytes)
        self._router.bind(f"ipc://{path}")
        os.chmod(path, 0o600)
        self._socket_path = path
        self._links: dict[bytes, _Link] = {}
        self._known: dict[bytes, bytes] = {}  # sources that have sent a sound message -> the envelope of all of theirs
        self._clogged: set[bytes] = set()  # destinations with queued messages
        self.fd = int(self._router.getsockopt(zmq.FD))
        self.refused = 0  # messages that were no messages, or not for this incarnation
        self.last_refusal = ""

    def _path(self, process_id: bytes) -> str:
        return f"{self._folder}/{process_id[8:].hex()}"

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, destination: bytes, message: Message) -> None:
        """Send to a process of this host, in order per destination. What is too much for the link is queued here.

        Raises `ValueError` for a message that its receiver would refuse for its size: that would be lost in silence.
        """
        link = self._links.get(destination)
        if link is None:
            link = self._connect(destination)
        data = bytearray(link.envelope)
        encode_into(message, data, ENVELOPE_BYTES)
        if len(data) > self._data_max_bytes:
            raise ValueError(
                f"a {type(message).__name__} of {len(data)} bytes to process {destination.hex()} is larger than a "
                f"message may be (frame_max_bytes={self._data_max_bytes})"
            )
        if link.queued:
            link.queued.append(data)
            return
        try:
            _send(link.dealer, data, _NOW)
        except zmq.Again:
            link.queued.append(data)
            self._clogged.add(destination)

    def flush(self) -> bool:
        """Try again what the links did not take. True when nothing is left."""
        for destination in list(self._clogged):
            link = self._links[destination]
            try:
                while link.queued:
                    _send(link.dealer, link.queued[0], _NOW)
                    link.queued.popleft()
            except zmq.Again:
                continue
            self._clogged.discard(destination)
        return not self._clogged

    @property
    def clogged(self) -> bool:
        """Whether messages wait for a link: then `flush` again soon."""
        return bool(self._clogged)

    def _connect(self, destination: bytes) -> _Link:
        dealer = local_dealer(self._context, self._process_id)
        dealer.connect(f"ipc://{self._path(destination)}")
        link = self._links[destination] = _Link(dealer, destination + self._process_id)
        return link

    def drop(self, destination: bytes) -> None:
        """The process is gone: close the link and forget what waits for it."""
        link = self._links.pop(destination, None)
        self._clogged.discard(destination)
        self._known.pop(destination, None)
        if link is not None:
            link.dealer.close(linger=0)

    # -- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, budget: int = RECEIVE_BUDGET, likely: bool = False) -> list[tuple[bytes, Message]]:
        """What has arrived, as (source, message), at most `budget` of them: fewer when nothing more is there.

        `likely`: the descriptor was readable, so the first one is taken without asking. What is no message of this
        protocol, or is meant for another incarnation, is counted in `refused`.
        """
        router = self._router
        arrived: list[tuple[bytes, Message]] = []
        known = self._known
        while len(arrived) < budget and (likely or _get(router, _EVENTS) & _POLLIN):  # type: ignore[operator]
            likely = False
            try:
                source = _recv(router, _NOW)
            except zmq.Again:  # it was readable for another reason
                continue
            try:
                envelope = known.get(source)
                if envelope is not None:
                    data = _recv(router, _NOW)
                    if not data.startswith(envelope):
                        raise ProtocolError(f"an envelope for {data[:ENVELOPE_BYTES].hex()} from {source.hex()}")
                    arrived.append((source, decode(memoryview(data)[ENVELOPE_BYTES:])))
                else:
                    arrived.append(self._accept([source, *self._rest(router)]))
            except ProtocolError as error:
                self.refused += 1
                self.last_refusal = str(error)
        return arrived

    @staticmethod
    def _rest(router: zmq.Socket[bytes]) -> list[bytes]:
        """What follows of the message whose first frame was received."""
        frames: list[bytes] = []
        while _get(router, _RCVMORE):
            frames.append(_recv(router, _NOW))
        return frames

    def _accept(self, frames: list[bytes]) -> tuple[bytes, Message]:
        """The message of a source that was not heard before."""
        if len(frames) != 2:
            raise ProtocolError(f"{len(frames)} frames instead of 2")
        source, data = frames
        envelope = data[:ENVELOPE_BYTES]
        if len(source) != PROCESS_BYTES or envelope != self._process_id + source:
            raise ProtocolError(f"an envelope for {envelope.hex()} from {source.hex()}")
        message = decode(memoryview(data)[ENVELOPE_BYTES:])
        self._known[source] = envelope
        return source, message

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self, linger_ms: int = CLOSE_LINGER_MS) -> None:
        """Close all sockets, give what was sent `linger_ms` to leave, and remove the socket file."""
        for link in self._links.values():
            link.dealer.close(linger=linger_ms)
        self._links.clear()
        self._clogged.clear()
        self._router.close(linger=0)
        self._context.term()
        try:
            os.unlink(self._socket_path)
        except FileNotFoundError:
            return  # the folder went first, or libzmq has removed it
