"""What a peer had said before it ended."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from meshray.config import DEFAULT
from meshray.ids import new_process
from meshray.local import peer_process
from meshray.runtime.attachment import Attachment
from meshray.runtime.engine import Engine
from meshray.transport.endpoint import Endpoint
from meshray.wire.messages import LogLine, LogLines, PeerStops

NODE = b"the-node"


def test_that_it_stops_is_heard_behind_many_lines_of_log() -> None:
    with TemporaryDirectory(prefix="mr-") as name:  # short, as paths of sockets must be
        folder, driver = Path(name), new_process(NODE)
        peer = Endpoint(folder, peer_process(NODE))
        engine = Engine(
            Attachment(
                process_id=driver,
                peer_id=peer_process(NODE),
                job_id=driver,
                node_name="here",
                peer_pidfd=os.pidfd_open(os.getpid()),
                config=DEFAULT,
                endpoint=Endpoint(folder, driver),
                store_folder=folder,
                namespace="",
                is_driver=True,
            )
        )
        try:
            for _ in range(3):
                peer.send(driver, LogLines([LogLine("f", 1, "x" * 1000, False)]))
            assert len(engine.endpoint.receive(1)) == 1  # the others are read, and wait for the next turn
            peer.send(driver, PeerStops("SIGTERM"))
            engine.on_peer_death()
            assert "was stopped (SIGTERM)" in str(engine.broken)
        finally:
            engine.close()
            peer.close()
