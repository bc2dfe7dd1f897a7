"""Events of connections, and that nobody waits for whoever should read them."""

from __future__ import annotations

import socket

import zmq

from meshray.transport.monitors import Monitor
from tests.until import until

CONNECTIONS = 1000
"""Three events each: more than the 2,000 that fit by default, where libzmq's thread would stop."""


def test_an_unread_monitor_holds_up_nobody() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    monitor = Monitor(context, router)
    router.bind("tcp://127.0.0.1:*")
    url = router.getsockopt_string(zmq.LAST_ENDPOINT)
    port = int(url.rpartition(":")[2])
    dealer = context.socket(zmq.DEALER)
    dealer.connect(url)
    for _ in range(CONNECTIONS):
        socket.create_connection(("127.0.0.1", port), timeout=20).close()
    dealer.send(b"through")
    assert router.poll(10_000)
    seen: list[zmq.Event] = []

    def all_seen() -> bool:
        seen.extend(event.kind for event in monitor.events())
        return seen.count(zmq.Event.DISCONNECTED) == CONNECTIONS

    until(all_seen, "the events of all")
    assert seen.count(zmq.Event.ACCEPTED) == CONNECTIONS + 1
    monitor.close()
    context.destroy(linger=0)
