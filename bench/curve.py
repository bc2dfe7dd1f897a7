"""What the machine can do between two hosts, by the means that meshray uses: a ping-pong and a stream, with CURVE.

`python -m bench.curve ADDRESS PUBLIC SECRET` is the other end: it answers each message, and of a stream the end alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import zmq

MESSAGE = b"x" * 100
PIECE_BYTES = 2 << 20  # peers fetch in pieces of 4 MiB, with which this stream is no quicker
STREAM_BYTES = 256 << 20
PIECES_WAITING_MAX = 16  # in a socket: a stream is no test of memory
PART, END = b"part", b"end"


class Key(NamedTuple):
    """Of the other end. (Everybody is let in: no ZAP handler stands behind it.)"""

    public: bytes
    secret: bytes

    @classmethod
    def new(cls) -> Key:
        return cls(*zmq.curve_keypair())


@contextmanager
def connected(address: str, server_public: bytes) -> Iterator[zmq.Socket[bytes]]:
    """A DEALER to the other end, which is there."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as caller:
        caller.setsockopt(zmq.LINGER, 0)
        caller.setsockopt(zmq.SNDHWM, PIECES_WAITING_MAX)
        caller.curve_serverkey = server_public
        caller.curve_publickey, caller.curve_secretkey = zmq.curve_keypair()
        caller.connect(f"tcp://{address}")
        round_trip(caller)
        yield caller


def round_trip(caller: zmq.Socket[bytes]) -> None:
    caller.send(MESSAGE)
    caller.recv()


def stream(caller: zmq.Socket[bytes], piece: bytes, count: int) -> None:
    """So many pieces, until all have arrived."""
    for _ in range(count):
        caller.send(PART, zmq.SNDMORE)
        caller.send(piece, copy=False)
    caller.send(END)
    caller.recv()


def rate(caller: zmq.Socket[bytes]) -> float:
    """GB/s of one stream."""
    start = time.perf_counter()
    stream(caller, bytes(PIECE_BYTES), STREAM_BYTES // PIECE_BYTES)
    return STREAM_BYTES / 1e9 / (time.perf_counter() - start)


def serve(address: str, key: Key) -> None:
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.setsockopt(zmq.RCVHWM, PIECES_WAITING_MAX)
    socket.curve_server = True
    socket.curve_publickey, socket.curve_secretkey = key
    socket.bind(f"tcp://{address}")
    while True:
        source, first, *rest = socket.recv_multipart(copy=False)
        if not (rest and first.bytes == PART):
            socket.send_multipart([source, first])


if __name__ == "__main__":
    serve(sys.argv[1], Key(sys.argv[2].encode(), sys.argv[3].encode()))
