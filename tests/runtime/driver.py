"""The engine of a driver whose peer is not there: the test says what that would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from meshray.config import DEFAULT
from meshray.ids import new_process
from meshray.local import peer_process
from meshray.runtime.attachment import Attachment
from meshray.runtime.engine import Engine
from meshray.transport.endpoint import Endpoint

NODE = b"the-node"
PEER = peer_process(NODE)


@contextmanager
def driver_alone() -> Iterator[tuple[Engine, Path]]:
    """An engine, and the folder of its sockets and segments."""
    with TemporaryDirectory(prefix="mr-") as name:  # short, as paths of sockets must be
        folder, driver = Path(name), new_process(NODE)
        engine = Engine(
            Attachment(
                process_id=driver,
                peer_id=PEER,
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
            yield engine, folder
        finally:
            engine.close()
