"""What a peer and its zygotes say to each other: one packet per message, descriptors beside it.

They speak over a pair of unix SOCK_SEQPACKET sockets, which keep the bounds of messages and carry descriptors
(SCM_RIGHTS). Both ends belong to one user and one peer, so what arrives is trusted; it is bounded all the same.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

import msgspec
from msgspec import Struct

PACKET_MAX_BYTES = 128 * 1024
"""A packet must fit into the socket's buffer, 208 KiB by default."""

FDS_MAX = 2
"""A Fork carries two descriptors, a Forked one."""

PROCESS_VARIABLE = "MESHRAY_PROCESS"
"""In the environment of each worker, and so of each program that it starts: the worker's process id, in hex. By it the
zygote knows whose a process is that outlived its worker."""


class Ready(Struct, array_like=True, tag=1):
    """Z -> P: the zygote has loaded what it could and forks from now on. Sent once."""

    pid: int
    python: str  # "3.11"
    missing: list[str]  # modules that could not be loaded, each with the reason


class Fork(Struct, array_like=True, tag=2):
    """P -> Z: fork a worker. Beside it: the write ends for its stdout and stderr. Answered with Forked or NotForked."""

    process_id: bytes
    entry: str  # "module:function", called with `settings`
    settings: bytes
    env: dict[str, str]  # laid over the zygote's environment


class Forked(Struct, array_like=True, tag=3):
    """Z -> P: the worker runs. Beside it: its pidfd, opened before anybody could reap it."""

    process_id: bytes
    pid: int


class NotForked(Struct, array_like=True, tag=4):
    """Z -> P: there is no such worker, and why."""

    process_id: bytes
    reason: str


class Exited(Struct, array_like=True, tag=5):
    """Z -> P: a worker is gone, and what was left of its process group with it. `code` < 0: killed by signal -code."""

    process_id: bytes
    code: int


ZygoteMessage = Ready | Fork | Forked | NotForked | Exited

_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[ZygoteMessage] = msgspec.msgpack.Decoder(ZygoteMessage)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends, blocking, not inherited by programs that are started."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def pack(message: ZygoteMessage) -> bytes:
    """The packet of a message. Raises `ValueError` when it is too long for one."""
    packet = _encode(message)
    if len(packet) > PACKET_MAX_BYTES:
        raise ValueError(f"a {type(message).__name__} of {len(packet)} bytes exceeds {PACKET_MAX_BYTES} bytes")
    return packet


def send_packet(sock: socket.socket, packet: bytes, fds: Sequence[int] = ()) -> None:
    """Send one packet. The descriptors stay the caller's.

    Raises `BlockingIOError` when a non-blocking socket has no room, `OSError` when the other end is gone.
    """
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([packet], ancillary, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[ZygoteMessage | None, list[int]]:
    """The next message with its descriptors, which are the caller's to close; (None, []) at the end.

    Raises `BlockingIOError` when a non-blocking socket has none, `ValueError` for a packet that is none.
    """
    space = socket.CMSG_SPACE(FDS_MAX * array.array("i").itemsize)
    packet, ancillary, flags, _ = sock.recvmsg(PACKET_MAX_BYTES, space, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    try:
        if not packet:
            return None, []
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError("a packet or its descriptors were cut off (is the limit of open files reached?)")
        message, keep = _decoder.decode(packet), list(fds)
        fds = array.array("i")
        return message, keep
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a message between peer and zygote: {error}") from error
    finally:
        for fd in fds:
            os.close(fd)
