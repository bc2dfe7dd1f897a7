"""Hears all that comes to and leaves a host's `eth0`, as one at a mirroring port: `python -m tests.lan.sniffer`.

Prints "hears" when it does. Each line of standard input is a JSON list of words, as hexadecimal digits; each answer is
one line of JSON, with what was heard until now::

    {
        "tcp": [{"from": "10.77.0.1:40000", "to": ..., "bytes": 1234, "begins": HEX, "found": [words]}, ...],
        "udp": {"bytes": ..., "found": [words]},
    }

A way of a TCP connection is put together in the order in which its segments were heard.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
from collections import defaultdict

from tests.lan.out import tell

ETH_P_ALL, IPV4, IPV6 = 0x0003, 0x0800, 0x86DD
TCP, UDP = 6, 17
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 64 << 20
FRAME_MAX_BYTES = 65_600
BEGINS_BYTES = 64


class Heard:
    """All that was heard."""

    def __init__(self) -> None:
        self.tcp: dict[tuple[str, str], bytearray] = defaultdict(bytearray)  # by from and to
        self.udp = bytearray()  # datagrams, one after the other

    def take(self, frame: bytes) -> None:
        kind = int.from_bytes(frame[12:14], "big")
        packet = frame[14:]
        if kind == IPV4 and len(packet) >= 20:
            protocol, whole = packet[9], int.from_bytes(packet[2:4], "big")
            source, target = (socket.inet_ntop(socket.AF_INET, packet[at : at + 4]) for at in (12, 16))
            content = packet[(packet[0] & 15) * 4 : whole]  # behind it a short frame is filled up
        elif kind == IPV6 and len(packet) >= 40:
            protocol, whole = packet[6], 40 + int.from_bytes(packet[4:6], "big")
            source, target = (f"[{socket.inet_ntop(socket.AF_INET6, packet[at : at + 16])}]" for at in (8, 24))
            content = packet[40:whole]
        else:
            return
        if protocol == TCP and len(content) >= 20:
            ports = struct.unpack(">HH", content[:4])
            way = self.tcp[f"{source}:{ports[0]}", f"{target}:{ports[1]}"]
            way += content[(content[12] >> 4) * 4 :]
        elif protocol == UDP:
            self.udp += content[8:]

    def tell(self, words: list[str]) -> None:
        def found(data: bytearray) -> list[str]:
            return [word for word in words if bytes.fromhex(word) in data]

        ways = [
            {"from": ends[0], "to": ends[1], "bytes": len(way), "begins": way[:BEGINS_BYTES].hex(), "found": found(way)}
            for ends, way in self.tcp.items()
        ]
        tell({"tcp": ways, "udp": {"bytes": len(self.udp), "found": found(self.udp)}})


def main() -> None:
    heard, pending = Heard(), b""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as wire:
        wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        wire.bind(("eth0", ETH_P_ALL))
        wire.setblocking(False)
        print("hears", flush=True)
        while True:
            readable, _, _ = select.select([0, wire], [], [])
            while frame := _next(wire):
                heard.take(frame)
            if 0 in readable:
                data = os.read(0, 65536)
                if not data:
                    return
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    heard.tell(json.loads(line))


def _next(wire: socket.socket) -> bytes:
    try:
        return wire.recv(FRAME_MAX_BYTES)
    except BlockingIOError:
        return b""


if __name__ == "__main__":
    main()
