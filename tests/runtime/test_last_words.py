"""What a peer had said before it ended."""

from __future__ import annotations

from meshray.transport.endpoint import Endpoint
from meshray.wire.messages import LogLine, LogLines, PeerStops
from tests.runtime.driver import PEER, driver_alone


def test_that_it_stops_is_heard_behind_many_lines_of_log() -> None:
    with driver_alone() as (engine, folder):
        peer = Endpoint(folder, PEER)
        try:
            driver = engine.process_id
            for _ in range(3):
                peer.send(driver, LogLines([LogLine("f", 1, "x" * 1000, False)]))
            assert len(engine.endpoint.receive(1)) == 1  # the others are read, and wait for the next turn
            peer.send(driver, PeerStops("SIGTERM"))
            engine.on_peer_death()
            assert "was stopped (SIGTERM)" in str(engine.broken)
        finally:
            peer.close()
