"""One process's face to the others on its host: Unix stream sockets, without a thread of their own.

It listens on one socket and connects to one socket per destination, so a connection carries messages one way, in order.
What `send` has accepted lies in the receiver's queue in the kernel, also when the sender dies at once; only what
did not fit waits here (`clogged`). A lost local link is a dead process, and nothing else: whoever learns of a
death calls `drop`, and what is sent to somebody who does not listen any more is counted and forgotten.

On the wire a connection begins with a greeting, which names this protocol and both processes: who connects, and the
incarnation that is meant. A message is its length (4 bytes, little endian) and its encoded form. A connection that
breaks these rules is closed; what is no message of this protocol, or too large, is counted in `refused`.

Why not ZeroMQ, as between hosts: its I/O thread stands between caller and kernel, and must be woken for each message
in either direction (docs/decisions/0009-unix-sockets-on-one-host.md).

What this process lacks, descriptors above all, loses nothing: a connection then stays in the listener's queue, or a
message here, and both are tried again (`must_retry`).

`fd` is readable while something has arrived, or a clogged link takes more. No method is thread-safe, except for
`stirs`; none blocks, but for `close`.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from meshray.config import DEFAULT, Config
from meshray.ids import NODE_BYTES, PROCESS_BYTES
from meshray.wire.codec import ProtocolError, decode, encode_into
from meshray.wire.messages import Message

SOCKET_PATH_MAX_BYTES = 107
"""What the kernel allows for the path of a Unix socket, its final zero left out."""

RECEIVE_BUDGET = 64
"""Messages taken per `receive`, before its caller decides and flushes."""

LIKELY_MAX = 16
"""So often in a row only the likeliest connection is looked at: one that never rests would silence the others."""

CONNECTIONS_MAX = 4096
"""Bound on incoming connections; each process of the host has one, and there are at most `workers_max` workers."""

CLOSE_LINGER_MS = 500
"""How long a closing process waits for its last messages to leave."""

BACKLOG = 4096
"""Connections that wait to be accepted, within what the kernel allows; beyond that a sender tries again."""

SEND_BUFFER_BYTES = 1 << 20
"""Asked for per link, within what the kernel allows: a batch of tasks or results fits."""

DRAIN_READS = 64
"""Reads of what a dead process has left behind: more than its socket could hold."""

_DEAF = frozenset((errno.ECONNREFUSED, errno.ENOENT, errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN))
"""What sending to a process that has ended gives; anything else is trouble of our own."""

_SHORT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""What we lack now and may have in a moment: descriptors, the kernel's memory."""

_QUIETLY = socket.MSG_NOSIGNAL
"""Without SIGPIPE, which ends a program that has given it its default action back, as filters do."""

_GREETING = struct.Struct(f"<8s{PROCESS_BYTES}s{PROCESS_BYTES}s")
_MAGIC = b"meshray1"
_SIZE = struct.Struct("<I")
_HEAD = _SIZE.size
_READ_BYTES = 256 * 1024
_EVENTS_MAX = 64


class _Link:
    """The way to one process."""

    __slots__ = ("closed", "greeting", "queued", "sock")

    def __init__(self, greeting: bytes) -> None:
        self.greeting = greeting  # sent in front of the first message
        self.sock: socket.socket | None = None  # None until the other side has taken the connection
        self.queued: deque[bytes | bytearray | memoryview] = deque()  # what the socket did not take, oldest first
        self.closed = False  # nobody listens there: a dead process that we have not heard of yet


class _Connection:
    """What one other process sends to us."""

    __slots__ = ("partial", "sock", "source", "wanted")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.source = b""  # until its greeting has come
        self.partial = bytearray()  # the beginning of a message
        self.wanted = 0  # bytes that `partial` must have before another look at it is worth it


class Endpoint:
    """See the head of this file. `folder` holds the sockets of all processes of one peer; `process_id` is 16 bytes.

    Raises `ValueError` when the path of its socket would be longer than the kernel allows.
    """

    def __init__(self, folder: Path | str, process_id: bytes, config: Config = DEFAULT) -> None:
        self._folder = str(folder)
        self._process_id = process_id
        self._node = process_id[:NODE_BYTES]
        self._frame_max_bytes = config.frame_max_bytes
        self.detour: Callable[[bytes, Message], None] = self._go_nowhere  # what is for processes of other hosts
        path = self._path(process_id)
        if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
            raise ValueError(
                f"the socket path {path!r} is longer than {SOCKET_PATH_MAX_BYTES} bytes: "
                "set MESHRAY_RUNTIME_DIR to a shorter folder"
            )
        self._socket_path = path
        self._listener = _unix_socket()
        self._listener.bind(path)
        os.chmod(path, 0o600)  # before it listens, so nobody can be quicker
        self._listener.listen(BACKLOG)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._listener_fd = self._listener.fileno()
        self._listens = True  # the kernel is asked about it; not while we have no descriptor for who connects
        self._connections: dict[int, _Connection] = {}  # by descriptor
        self._recent: _Connection | None = None  # who was heard last: probably who is heard next
        self._likely = 0  # looks in a row at that one alone
        self._arrived: list[tuple[bytes, Message]] = []  # read and not taken yet
        self._scratch = bytearray(_READ_BYTES)  # what is read lands here
        self._view = memoryview(self._scratch)
        self._links: dict[bytes, _Link] = {}
        self._clogged: dict[bytes, _Link] = {}  # destinations with something queued
        self._clogged_fds: dict[int, bytes] = {}  # the sockets of these that the kernel is asked about
        self._data = bytearray()  # the message that is being sent
        self.fd = self._epoll.fileno()
        self.refused = 0  # messages that were no messages, or not for this incarnation; connections likewise
        self.last_refusal = ""
        self.undelivered = 0  # messages to processes that do not listen any more
        self.shortages = 0  # times that we lacked something; all was tried again
        self.trouble = ""  # see `take_trouble`

    def _path(self, process_id: bytes) -> str:
        return f"{self._folder}/{process_id[8:].hex()}"

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, destination: bytes, message: Message) -> None:
        """Send to a process of this host, in order per destination. What is too much for the link is queued here. What
        is for a process of another host takes the `detour`.

        Raises `ValueError` for a message that its receiver would refuse for its size: that would be lost in silence.
        """
        link = self._links.get(destination)
        if link is None:
            if destination[:NODE_BYTES] != self._node:
                self.detour(destination, message)
                return
            link = self._links[destination] = _Link(_GREETING.pack(_MAGIC, destination, self._process_id))
        data = self._data
        encode_into(message, data, _HEAD)
        size = len(data) - _HEAD
        if size > self._frame_max_bytes:
            self._data = bytearray()
            raise ValueError(
                f"a {type(message).__name__} of {size} bytes to process {destination.hex()} is larger than a "
                f"message may be (frame_max_bytes={self._frame_max_bytes})"
            )
        _SIZE.pack_into(data, 0, size)
        if link.sock is not None and not link.queued:
            try:
                sent = link.sock.send(data, _QUIETLY)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                if error.errno not in _SHORT:
                    self._on_deaf(destination, link, error)
                    return
                sent = 0
            if sent == len(data):
                return
            link.queued.append(bytes(memoryview(data)[sent:]))
        elif link.closed:
            self.undelivered += 1
            return
        else:
            link.queued.append(bytes(data))
        self._clogged[destination] = link
        if len(link.queued) == 1:
            self._push_out(destination, link)

    def _go_nowhere(self, destination: bytes, message: Message) -> None:
        self.undelivered += 1

    def is_clogged(self, destination: bytes) -> bool:
        """Whether something for this process waits here."""
        return destination in self._clogged

    def flush(self) -> bool:
        """Try again what the links did not take, and to take connections. True when nothing is left to send."""
        if not self._listens:
            self._epoll.register(self._listener, select.EPOLLIN)
            self._listens = True
        for destination, link in list(self._clogged.items()):
            self._push_out(destination, link)
        return not self._clogged

    @property
    def clogged(self) -> bool:
        """Whether messages wait for a link. `fd` tells when it takes more, but for what `must_retry` says."""
        return bool(self._clogged)

    @property
    def must_retry(self) -> bool:
        """Whether something waits of which `fd` does not tell: a process has not taken our connection yet, or we lack
        descriptors. So `flush` again soon."""
        return len(self._clogged) > len(self._clogged_fds) or not self._listens

    def _push_out(self, destination: bytes, link: _Link) -> None:
        """Send what is queued for one process, as far as it goes."""
        try:
            if link.sock is None:
                link.sock = self._connect(destination)
                link.queued.appendleft(link.greeting)
            queued = link.queued
            while queued:
                data = queued[0]
                sent = link.sock.send(data, _QUIETLY)
                if sent == len(data):
                    queued.popleft()
                else:
                    queued[0] = memoryview(data)[sent:]
        except BlockingIOError:
            if link.sock is not None and link.sock.fileno() not in self._clogged_fds:
                self._epoll.register(link.sock, select.EPOLLOUT)
                self._clogged_fds[link.sock.fileno()] = destination
            return
        except OSError as error:
            if error.errno in _SHORT:
                self._on_shortage(error)
            else:
                self._on_deaf(destination, link, error)
            return
        self._unclog(destination, link)

    def _connect(self, destination: bytes) -> socket.socket:
        sock = _unix_socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            sock.connect(self._path(destination))
        except BaseException:
            sock.close()
            raise
        return sock

    def _unclog(self, destination: bytes, link: _Link) -> None:
        self._clogged.pop(destination, None)
        if link.sock is not None and self._clogged_fds.pop(link.sock.fileno(), None) is not None:
            self._epoll.unregister(link.sock)

    def _on_deaf(self, destination: bytes, link: _Link, error: OSError) -> None:
        """Nobody listens there any more: the process is dead, and whoever watches it will `drop` it."""
        if error.errno not in _DEAF:
            raise error
        self.undelivered += max(1, len(link.queued))
        link.queued.clear()
        link.closed = True
        self._unclog(destination, link)
        if link.sock is not None:
            link.sock.close()
            link.sock = None

    def drop(self, process: bytes) -> None:
        """The process is gone: close the links from and to it, and forget what waits for it. What it had sent before
        is still there to be received."""
        link = self._links.pop(process, None)
        if link is not None:
            self._unclog(process, link)
            if link.sock is not None:
                link.sock.close()
        self._read_out(process)

    def drain(self, process: bytes) -> list[tuple[bytes, Message]]:
        """The process is dead: all that it had sent and was not received yet, behind what others had sent before."""
        for _ in range(BACKLOG):
            if not self._listens or not self._accept():
                break
        self._read_out(process)
        arrived, self._arrived = self._arrived, []
        return arrived

    def _read_out(self, process: bytes) -> None:
        """Read what a dead process has left behind, and close its connection."""
        for connection in [each for each in self._connections.values() if each.source == process]:
            for _ in range(DRAIN_READS):
                if not self._read(connection):
                    break
            self._close(connection)  # a forked child of the dead may keep its end open for ever

    # -- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, budget: int = RECEIVE_BUDGET, likely: bool = False) -> list[tuple[bytes, Message]]:
        """What has arrived, as (source, message), at most `budget` of them. Nothing: nothing whole was there.

        `likely`: `fd` was readable just now, so whoever was heard last is looked at before the kernel is asked.
        """
        if not self._arrived:
            recent = self._recent
            if likely and recent is not None and self._likely < LIKELY_MAX and self._read(recent):
                self._likely += 1
            if not self._arrived:
                self._likely = 0
                while self._look() and not self._arrived:
                    pass  # half a message, or a connection that has not spoken yet: a whole one may lie behind it
        arrived = self._arrived
        if len(arrived) <= budget:
            self._arrived = []
            return arrived
        self._arrived = arrived[budget:]
        return arrived[:budget]

    @property
    def holds(self) -> bool:
        """Whether something was read that nobody has taken yet: `fd` does not tell of it."""
        return bool(self._arrived)

    def stirs(self) -> bool:
        """Whether something has come since, as far as the kernel knows. From any thread."""
        return bool(self._epoll.poll(0, 1))

    def _look(self) -> bool:
        """Serve each descriptor that has something. Whether somebody has spoken, connected or left."""
        stirred = False
        for fd, _ in self._epoll.poll(0, _EVENTS_MAX):
            connection = self._connections.get(fd)
            if connection is not None:
                self._read(connection)
                stirred = True
            elif fd == self._listener_fd:
                self._accept()
                stirred = True
            elif fd in self._clogged_fds:
                destination = self._clogged_fds[fd]
                self._push_out(destination, self._links[destination])
        return stirred

    def _accept(self) -> bool:
        """Take a connection. Whether there may be another."""
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return False  # it has given up
        except OSError as error:
            if error.errno not in _SHORT:
                raise
            self._on_shortage(error)
            self._epoll.unregister(self._listener_fd)  # the connection stays in the queue, and must not wake us
            self._listens = False
            return False
        if len(self._connections) >= CONNECTIONS_MAX:
            sock.close()
            self._refuse(f"a connection beyond {CONNECTIONS_MAX}")
            return True
        sock.setblocking(False)
        connection = self._connections[sock.fileno()] = _Connection(sock)
        self._epoll.register(sock, select.EPOLLIN)
        self._read(connection)  # it has been spoken to already, most often
        return True

    def _on_shortage(self, error: OSError) -> None:
        self.shortages += 1
        if self.shortages == 1:
            self.trouble = (
                f"meshray lacks descriptors or memory ({error.strerror}), so messages of this process (pid "
                f"{os.getpid()}) wait; if it has many files open, or speaks with many actors, raise its limit: "
                "`ulimit -n`"
            )

    def take_trouble(self) -> str:
        """What people should know of, once; "" for nothing. Not told from here: who calls us may hold a lock."""
        trouble, self.trouble = self.trouble, ""
        return trouble

    def _read(self, connection: _Connection) -> bool:
        """Take what one process has sent, once. Whether there was anything."""
        try:
            size = connection.sock.recv_into(self._scratch)
        except BlockingIOError:
            return False
        except OSError:
            size = 0
        if not size:
            self._close(connection)
            return False
        self._recent = connection
        partial = connection.partial
        if not partial:
            used = self._take(connection, self._view[:size])
            if used < size:
                connection.partial = bytearray(self._view[used:size])
            return True
        partial += self._view[:size]
        if len(partial) >= connection.wanted:
            with memoryview(partial) as whole:
                used = self._take(connection, whole)
            del partial[:used]
        return True

    def _take(self, connection: _Connection, data: memoryview) -> int:
        """The messages at the beginning of `data`. Returns how many bytes they took; of a broken connection, all."""
        at, end = 0, len(data)
        if not connection.source:
            if end < _GREETING.size:
                connection.wanted = _GREETING.size
                return 0
            magic, destination, source = _GREETING.unpack_from(data)
            if magic != _MAGIC or destination != self._process_id:
                self._refuse(
                    f"a greeting for {destination.hex()}" if magic == _MAGIC else "no greeting of this protocol"
                )
                self._close(connection)
                return end
            connection.source = source
            at = _GREETING.size
        source, arrived = connection.source, self._arrived
        while end - at >= _HEAD:
            (size,) = _SIZE.unpack_from(data, at)
            following = at + _HEAD + size
            if following > end:
                if size > self._frame_max_bytes:
                    self._refuse(f"a message of {size} bytes from {source.hex()}")
                    self._close(connection)
                    return end
                connection.wanted = following - at
                return at
            try:
                arrived.append((source, decode(data[at + _HEAD : following])))
            except ProtocolError as error:
                self._refuse(str(error))
            at = following
        connection.wanted = _HEAD
        return at

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        self.last_refusal = reason

    def _close(self, connection: _Connection) -> None:
        fd = connection.sock.fileno()
        if self._connections.pop(fd, None) is None:
            return
        self._epoll.unregister(fd)  # closing is not enough where a forked child has the descriptor, too
        connection.sock.close()
        connection.partial = bytearray()
        if self._recent is connection:
            self._recent = None

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self, linger_ms: int = CLOSE_LINGER_MS) -> None:
        """Close all sockets, give what was sent `linger_ms` to leave, and remove the socket file."""
        give_up_at = time.monotonic() + linger_ms / 1000
        while not self.flush() and (left := give_up_at - time.monotonic()) > 0:
            poll = select.poll()  # not `select`, which knows only the first 1,024 descriptors
            for link in self._clogged.values():
                if link.sock is not None:
                    poll.register(link.sock, select.POLLOUT)
            poll.poll(min(left, 0.01) * 1000)
        for link in self._links.values():
            if link.sock is not None:
                link.sock.close()
        for connection in self._connections.values():
            connection.sock.close()
        self._links.clear()
        self._clogged.clear()
        self._connections.clear()
        self._listener.close()
        self._epoll.close()
        try:
            os.unlink(self._socket_path)
        except FileNotFoundError:
            return  # the folder went first


def _unix_socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock
