"""Numbered datagrams between two hosts, and what became of them. Standard library only.

python -m tests.lan.echo serve PORT                    sends each back
python -m tests.lan.echo ask ADDRESS PORT COUNT        sends COUNT, waits for them, prints what came back as JSON
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time

GAP_S = 0.002  # so that no buffer overflows
PATIENCE_S = 1.0  # after the last one that came
PAYLOAD_BYTES = 512


def serve(port: int) -> None:
    both = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    both.bind(("::", port))
    print("ready", flush=True)
    while True:
        data, sender = both.recvfrom(65536)
        both.sendto(data, sender)


def ask(address: str, port: int, count: int) -> None:
    asker = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    asker.setblocking(False)
    payloads = [number.to_bytes(4, "big") + os.urandom(PAYLOAD_BYTES) for number in range(count)]
    sent_at: list[float] = []
    order: list[int] = []
    trips: list[float] = []
    damaged = 0
    selector = selectors.DefaultSelector()
    selector.register(asker, selectors.EVENT_READ)
    give_up_at = time.monotonic() + count * GAP_S + 2 * PATIENCE_S
    while time.monotonic() < give_up_at and len(set(order)) < count:
        if len(sent_at) < count:
            sent_at.append(time.monotonic())
            try:
                asker.sendto(payloads[len(sent_at) - 1], (address, port))
            except OSError:  # no way there, now: as good as lost
                pass
        if not selector.select(GAP_S if len(sent_at) < count else PATIENCE_S):
            continue
        data = asker.recv(65536)
        number = int.from_bytes(data[:4], "big")
        if number < len(sent_at) and data == payloads[number]:
            order.append(number)
            trips.append(time.monotonic() - sent_at[number])
        else:
            damaged += 1
    while selector.select(0.1):  # doubles of the last ones
        order.append(int.from_bytes(asker.recv(65536)[:4], "big"))
    first = list(dict.fromkeys(order))
    told = {
        "sent": count,
        "received": len(first),
        "doubled": len(order) - len(first),
        "damaged": damaged,
        "in_order": first == sorted(first),
        "least_s": min(trips, default=0.0),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
