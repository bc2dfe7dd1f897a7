"""Every socket option of the mesh, in one place (measured with libzmq 4.3.5).

A routing id used twice is a black hole: no error, messages vanish. Ours are process ids, which are drawn anew at every
start, so none is ever used twice. `IMMEDIATE` stays off on local links: what is queued before the connection stands
may only reach the process that the path was made for, since no path is ever bound twice.
"""

from __future__ import annotations

import zmq

LOCAL_HIGH_WATER_MESSAGES = 10_000
"""Per link. Messages are batches of up to a MiB, but a control message counts as much: bytes have their own bounds."""

CLOSE_LINGER_MS = 500
"""How long a closing process waits for its last messages to leave."""

SOCKETS_MAX = 4096
"""One DEALER per process spoken to; libzmq's default of 1023 would be a limit below `workers_max` callers."""


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """The process's context."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
    return context


def local_router(context: zmq.Context[zmq.Socket[bytes]], frame_max_bytes: int) -> zmq.Socket[bytes]:
    """The socket on which a process receives."""
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.RCVHWM, LOCAL_HIGH_WATER_MESSAGES)
    router.setsockopt(zmq.MAXMSGSIZE, frame_max_bytes)
    router.setsockopt(zmq.LINGER, 0)
    return router


def local_dealer(context: zmq.Context[zmq.Socket[bytes]], routing_id: bytes) -> zmq.Socket[bytes]:
    """A socket on which a process sends to one other."""
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.ROUTING_ID, routing_id)
    dealer.setsockopt(zmq.SNDHWM, LOCAL_HIGH_WATER_MESSAGES)
    dealer.setsockopt(zmq.RECONNECT_IVL, 200)
    dealer.setsockopt(zmq.RECONNECT_IVL_MAX, 5000)
    dealer.setsockopt(zmq.LINGER, CLOSE_LINGER_MS)
    return dealer
