"""What a process does with its segments that nobody uses any more: the peer says what may be written again."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from meshray.config import DEFAULT
from meshray.ids import OBJECT_BYTES, new_process
from meshray.local import peer_process
from meshray.runtime.attachment import Attachment
from meshray.runtime.engine import Engine
from meshray.transport.endpoint import Endpoint
from meshray.wire.messages import SegmentsFree
from meshray.wire.payload import dumps

NODE = b"the-node"
SIZE = 200_000


@pytest.mark.parametrize("again", [True, False])
def test_what_is_not_to_be_written_again_is_not(again: bool) -> None:
    with TemporaryDirectory(prefix="mr-") as name:  # short, as paths of sockets must be
        folder, driver, peer = Path(name), new_process(NODE), peer_process(NODE)
        engine = Engine(
            Attachment(
                process_id=driver,
                peer_id=peer,
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
            engine.store.add_credit(10 * SIZE)
            first, second = (
                engine.store.write(os.urandom(OBJECT_BYTES), dumps(os.urandom(SIZE))).segment for _ in range(2)
            )
            engine.on_messages([(peer, SegmentsFree([first], again))])
            assert [(folder / segment).exists() for segment in (first, second)] == [again, True]
            third = engine.store.write(os.urandom(OBJECT_BYTES), dumps(os.urandom(SIZE))).segment
            assert (third == first) == again
        finally:
            engine.close()
