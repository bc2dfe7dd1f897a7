"""The first words of a process to its peer."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from meshray.ids import new_process
from meshray.local import peer_process
from meshray.runtime.joining import introduce
from meshray.transport.endpoint import Endpoint
from meshray.wire.messages import Attach, Attached
from tests.until import until

NODE = b"the-node"


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="mr-") as folder:  # short, as paths of sockets must be
        yield Path(folder)


def test_an_attach_for_which_there_was_no_room_is_sent_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many processes connect to a peer that is busy, and the kernel's queue of connections is full."""
    monkeypatch.setattr("meshray.transport.endpoint.BACKLOG", 0)
    peer = Endpoint(folder, peer_process(NODE))
    before, ours = Endpoint(folder, new_process(NODE)), Endpoint(folder, new_process(NODE))
    before.send(peer_process(NODE), Attach(1, 1, "3.11"))  # takes the only place

    def answer() -> None:
        until(lambda: ours.must_retry, "the Attach to find no room")
        attached: set[bytes] = set()

        def look() -> bool:
            attached.update(source for source, _ in peer.receive())
            return len(attached) == 2

        until(look, "both of them")
        for source in attached:
            peer.send(source, Attached(refused="no"))

    answering = threading.Thread(target=answer)
    answering.start()
    pidfd = os.pidfd_open(os.getpid())
    try:
        with pytest.raises(ConnectionError, match="refuses this program: no"):
            introduce(ours, peer_process(NODE), pidfd, None)
    finally:
        os.close(pidfd)
        answering.join()
        for endpoint in (peer, before, ours):
            endpoint.close(linger_ms=0)
