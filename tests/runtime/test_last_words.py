"""What a peer had said before it ended."""

from __future__ import annotations

import pytest

from meshray.errors import MeshrayError, NodeDiedError
from meshray.runtime.engine import Engine
from meshray.transport.endpoint import Endpoint
from meshray.wire.messages import Answer, Detach, LogLine, LogLines, PeerStops
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


def detach(engine: Engine) -> int:
    """As the end of a program asks for it; the number of the question."""
    return engine.request(Detach, lambda answer: engine.on_detached())


@pytest.mark.parametrize("read_before", [True, False])
def test_a_peer_that_has_let_go_of_us_may_end(read_before: bool) -> None:
    """Whoever still waits was shut down; no peer has died."""
    with driver_alone() as (engine, folder):
        peer = Endpoint(folder, PEER)
        try:
            number = detach(engine)
            peer.send(engine.process_id, Answer(number))
            if read_before:
                engine.on_detached()
            engine.on_peer_death()
            with pytest.raises(MeshrayError, match="was shut down") as caught:
                engine.check()
            assert not isinstance(caught.value, NodeDiedError)
        finally:
            peer.close()


def test_a_peer_that_dies_before_it_has_let_go_of_us() -> None:
    with driver_alone() as (engine, _):
        detach(engine)
        engine.on_peer_death()
        with pytest.raises(NodeDiedError, match="has died"):
            engine.check()
