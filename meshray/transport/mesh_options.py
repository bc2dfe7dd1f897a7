"""Every option of the sockets between peers, with its reason (measured with libzmq 4.3.5).

A DEALER here has **no routing id**: the ROUTER then draws one for each connection. With one of our own, a connection
that was lost without a word (a pulled cable, a proxy that holds on) blocks its successor: the ROUTER ignores the second
connection under an id that it has, and everything sent over it vanishes. (20 of 20 messages, accepted without an
error.) Who speaks stands in the envelope; the ROUTER never answers, so it needs no name for anybody.
"""

from __future__ import annotations

import zmq
import zmq.backend

from meshray.transport.keys import CurveKeys, KeySet

_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_get = zmq.backend.Socket.get

MESH_HIGH_WATER_MESSAGES = 4096
"""Four windows of a stream: it is never reached by a peer that keeps to its windows, since a ROUTER that stops reading
does not answer heartbeats either. What a member can make another keep is bounded by this times MAXMSGSIZE."""

MESH_SOCKETS_MAX = 16_384
"""Three DEALERs per peer and two sockets for the monitor of each."""

HANDSHAKE_MS = 5000
"""Whoever has not shown a key by then is disconnected."""

RECONNECT_MS = 200
RECONNECT_MAX_MS = 5000
"""The pause before dialling again, doubling; libzmq adds a random part, so that peers do not come all at once."""

CONNECT_MS = 3000
"""A host that is not there does not answer at all; the system would wait for two minutes before the next attempt."""

HEARTBEAT_MS = 2000
HEARTBEAT_TIMEOUT_MS = 6000
"""A connection on which nothing comes for so long is closed, at both ends (the TTL tells the other; it wraps at 65 s).
Python is not needed for an answer, so this finds dead hosts and broken paths only; a hung peer is found by the failure
detector."""

MESH_LINGER_MS = 500
"""How long a socket that is closed may take to send the rest. Sessions make good for what is lost."""

BACKLOG = 1024
"""A hundred peers that join within a second, with three connections each, find room."""

ANSWER_MAX_BYTES = 1024
"""What may come in on a DEALER: the commands of a handshake, 168 bytes and less, and heartbeats."""

FRAME_SLACK_BYTES = 4096
"""Over `frame_max_bytes`: a relayed message travels whole as the payload of another, and its head is a frame of its
own, so this leaves room for what a relay may add."""


def new_mesh_context() -> zmq.Context[zmq.Socket[bytes]]:
    """The context of one endpoint: a context has one ZAP handler, and one I/O thread, which encrypts."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    context.set(zmq.MAX_SOCKETS, MESH_SOCKETS_MAX)
    return context


def mesh_router(
    context: zmq.Context[zmq.Socket[bytes]], keys: CurveKeys, domain: bytes, frame_max_bytes: int
) -> zmq.Socket[bytes]:
    """The socket on which a peer receives from all others. It never sends."""
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.RCVHWM, MESH_HIGH_WATER_MESSAGES)
    router.setsockopt(zmq.MAXMSGSIZE, frame_max_bytes + FRAME_SLACK_BYTES)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.BACKLOG, BACKLOG)
    router.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    _heartbeats(router)
    router.setsockopt(zmq.CURVE_SERVER, 1)
    answer_with(router, keys)
    router.setsockopt(zmq.ZAP_DOMAIN, domain)
    router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without it, and without a handler, anyone is let in
    return router


def answer_with(router: zmq.Socket[bytes], keys: CurveKeys) -> None:
    """Ports that are bound after this answer with the current key."""
    router.setsockopt(zmq.CURVE_SECRETKEY, keys.current.server.secret)


def mesh_dealer(context: zmq.Context[zmq.Socket[bytes]], keys: KeySet | None) -> zmq.Socket[bytes]:
    """A socket on which a peer sends to one other, on one plane. It never receives. `keys` is None only for the
    stranger of the self-test."""
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.SNDHWM, MESH_HIGH_WATER_MESSAGES)
    dealer.setsockopt(zmq.RCVHWM, 1)  # nobody reads
    dealer.setsockopt(zmq.MAXMSGSIZE, ANSWER_MAX_BYTES)  # and nobody may send
    dealer.setsockopt(
        zmq.IMMEDIATE, 1
    )  # queue nothing for a connection that does not stand: it may never, or reach another
    dealer.setsockopt(zmq.LINGER, MESH_LINGER_MS)
    dealer.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    dealer.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    dealer.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    dealer.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    _heartbeats(dealer)
    if keys is not None:
        dealer.setsockopt(zmq.CURVE_SERVERKEY, keys.server.public)
        dealer.setsockopt(zmq.CURVE_PUBLICKEY, keys.client.public)
        dealer.setsockopt(zmq.CURVE_SECRETKEY, keys.client.secret)
    return dealer


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message waits. A receive that finds none says it, too, by an exception; that costs ten times as much,
    and a peer looks at a socket in each turn."""
    return bool(_get(socket, _EVENTS) & _POLLIN)  # type: ignore[operator]


def _heartbeats(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)
