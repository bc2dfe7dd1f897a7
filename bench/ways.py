"""What it takes to get pieces out of a segment, through CURVE, and into one, without a mesh: `python -m bench.ways`.

No row of the table. Two processes on two hosts, a DEALER to a ROUTER; the receiver tells what has come, and the sender
keeps a window on its way. Each way is a pair of how a piece is had (`OUT`) and what is done with it (`IN`). They take
turns; the medians are printed, in ms of processor time per 100 MB: of libzmq's thread and of the program's own, at both
ends. What a fetch costs beyond the same way here is the work of the peers (`bench.fetching`).
"""

from __future__ import annotations

import json
import mmap
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from bench import curve
from bench.cables import Bridged
from meshray.peer.buffers import Buffers

TOTAL_BYTES = 256 << 20
ROUNDS = 5
UNIT_BYTES = 100_000_000
PORT = 7000
POPULATE_READ, POPULATE_WRITE = 22, 23  # of madvise(2), since Linux 5.14
SEGMENT = Path("/dev/shm/meshray-bench-ways")  # of each host, whose shared memory is its own


class Way(NamedTuple):
    """One way, and in which pieces."""

    out: str  # zeros: the same memory, never touched; read: into buffers that go round; map: sent from the mapping
    into: str  # drop; write: pwrite; map: into a mapping that is kept
    piece_bytes: int
    window_bytes: int


MIB = 1 << 20
WAYS = (
    Way("zeros", "drop", 2 * MIB, 32 * MIB),
    *(Way("read", "write", piece * MIB, 8 * MIB) for piece in (1, 2, 4)),
    Way("map", "write", 4 * MIB, 8 * MIB),
    *(Way("map", "map", piece * MIB, max(8, 2 * piece) * MIB) for piece in (1, 2, 4, 8, 16)),
)


def main() -> None:
    key = curve.Key.new()
    with Bridged("near", "far", shared_memory_bytes=2 * TOTAL_BYTES) as hosts:
        address = f"{hosts['far'].ipv4}:{PORT}"
        receiver = hosts["far"].start(
            "python", "-m", "bench.ways", "receive", address, key.public.decode(), key.secret.decode()
        )
        sender = hosts["near"].start("python", "-m", "bench.ways", "send", address, key.public.decode())
        status = sender.wait(24 * 3600)
        print("\n".join(sender.lines if status == 0 else [*sender.lines, *receiver.lines]))


def spent() -> tuple[float, float]:
    """Milliseconds of processor time of this process until now: of other threads (libzmq), of this one."""
    own = others = 0.0
    for thread in Path("/proc/self/task").iterdir():
        milliseconds = int((thread / "schedstat").read_text().split()[0]) / 1e6
        if thread.name == str(os.getpid()):
            own += milliseconds
        else:
            others += milliseconds
    return others, own


def segment(fill: bytes) -> tuple[int, mmap.mmap]:
    """A file of shared memory, with every page in place, and its mapping."""
    descriptor = os.open(SEGMENT, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    for offset in range(0, TOTAL_BYTES, len(fill)):
        os.pwrite(descriptor, fill, offset)
    return descriptor, mmap.mmap(descriptor, TOTAL_BYTES)


# -- the two ends ------------------------------------------------------------------------------------------------------


def receive(address: str, key: curve.Key) -> None:
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.curve_server = True
    socket.curve_publickey, socket.curve_secretkey = key
    socket.bind(f"tcp://{address}")
    descriptor, mapping = segment(bytes(MIB))
    mapping.madvise(POPULATE_WRITE)
    room = memoryview(mapping)
    into, offset, before = "", 0, spent()
    while True:
        source, first, *rest = socket.recv_multipart(copy=False)
        if rest:
            data = rest[0].buffer
            if into == "write":
                os.pwrite(descriptor, data, offset)
            elif into == "map":
                room[offset : offset + len(data)] = data
            offset += len(data)
            socket.send_multipart([source, str(len(data)).encode()])
        elif first.bytes == curve.END:
            took = [after - at_first for after, at_first in zip(spent(), before, strict=True)]
            socket.send_multipart([source, json.dumps(took).encode()])
        else:  # how the next ones are to be taken
            into, offset, before = first.bytes.decode(), 0, spent()
            socket.send_multipart([source, first])


def send(address: str, public: bytes) -> None:
    descriptor, mapping = segment(os.urandom(MIB))
    view = memoryview(mapping)
    buffers = {way.piece_bytes: Buffers(way.piece_bytes) for way in WAYS}

    def read(offset: int, size: int) -> Any:
        taken = buffers[size].take(size)
        os.preadv(descriptor, [taken], offset)
        return taken

    def lend(offset: int, size: int) -> Any:
        mapping.madvise(POPULATE_READ, offset, size)
        return view[offset : offset + size]

    rows: dict[Way, list[list[float]]] = {way: [] for way in WAYS}
    with curve.connected(address, public) as socket:
        for _ in range(ROUNDS):
            for way in WAYS:
                zeros = bytes(way.piece_bytes)
                out: dict[str, Callable[[int, int], Any]] = {"zeros": lambda *_, zeros=zeros: zeros, "read": read}
                rows[way].append(once(socket, way, out.get(way.out, lend)))
    print("out    into       piece   sender: libzmq, own   receiver: libzmq, own   together")
    for way, found in rows.items():
        columns = [statistics.median(column) for column in zip(*found, strict=True)]
        columns.append(statistics.median(sum(row) for row in found))
        figures = "".join(f"{figure:{width}.0f}" for figure, width in zip(columns, (17, 6, 19, 6, 11), strict=True))
        print(f"{way.out:6} {way.into:6} {way.piece_bytes >> 20:5} MiB{figures}")


def once(socket: zmq.Socket[bytes], way: Way, out: Callable[[int, int], Any]) -> list[float]:
    """Milliseconds per 100 MB: libzmq and own of the sender, then of the receiver."""
    socket.send(way.into.encode())
    socket.recv()
    before, flight = spent(), 0
    for offset in range(0, TOTAL_BYTES, way.piece_bytes):
        while flight + way.piece_bytes > way.window_bytes:
            flight -= int(socket.recv())
        socket.send(curve.PART, zmq.SNDMORE)
        socket.send(out(offset, way.piece_bytes), copy=False)
        flight += way.piece_bytes
    while flight:
        flight -= int(socket.recv())
    took = [after - at_first for after, at_first in zip(spent(), before, strict=True)]
    socket.send(curve.END)
    return [milliseconds * UNIT_BYTES / TOTAL_BYTES for milliseconds in (*took, *json.loads(socket.recv()))]


if __name__ == "__main__":
    if sys.argv[1:2] == ["receive"]:
        receive(sys.argv[2], curve.Key(sys.argv[3].encode(), sys.argv[4].encode()))
    elif sys.argv[1:2] == ["send"]:
        send(sys.argv[2], sys.argv[3].encode())
    else:
        main()
