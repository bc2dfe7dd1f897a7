"""Joining a peer: introduce oneself, build the runtime around what it answers."""

from __future__ import annotations

import functools
import logging
import os
import select
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from meshray.config import Config
from meshray.errors import MeshrayError
from meshray.ids import new_process
from meshray.launch import Started
from meshray.local import PYTHON, PeerRecord, open_peer, peer_process, sweep
from meshray.options import InitSettings
from meshray.runtime.attachment import Attachment
from meshray.runtime.client import Client
from meshray.runtime.driver_code import DriverCode
from meshray.runtime.driver_logs import DriverLogs
from meshray.runtime.engine import Engine
from meshray.transport.endpoint import Endpoint
from meshray.wire import messages as m

_logger = logging.getLogger("meshray")

ATTACH_TIMEOUT_S = 10.0
"""A peer answers within milliseconds; one that does not is wedged."""

RETRY_S = 0.01
"""How soon an Attach for which there was no room is sent again."""


def join(record: PeerRecord, started: Started | None, settings: InitSettings) -> Client:
    """The runtime of a driver of this peer; `started` when it is private, and ends with the driver.

    Raises `ConnectionError` when the peer refuses, is gone, or does not answer.
    """
    pidfd = open_peer(record)
    if pidfd is None:
        raise ConnectionError(f"the peer {record.name!r} (pid {record.pid}) has just ended")
    node = bytes.fromhex(record.node)
    process_id = new_process(node)
    folder = Path(record.folder)
    endpoint = Endpoint(folder, process_id)
    try:
        job = _job_info(process_id, settings)
        welcome, early = introduce(endpoint, peer_process(node), pidfd, job)
    except BaseException:
        endpoint.close(linger_ms=0)
        os.close(pidfd)
        raise
    engine = Engine(
        Attachment(
            process_id=process_id,
            peer_id=peer_process(node),
            job_id=process_id,
            node_name=welcome.node_name,
            peer_pidfd=pidfd,
            config=msgspec.msgpack.decode(welcome.config, type=Config),
            endpoint=endpoint,
            store_folder=Path(welcome.store_folder),
            namespace=job.namespace,
            is_driver=True,
            is_private=record.private and welcome.alone,
            is_alone=welcome.alone,
        )
    )
    client = Client(engine)
    code = DriverCode(client, job)
    engine.on_code_wanted = code.on_wanted
    engine.on_messages(early)
    logs = DriverLogs(settings.log_to_driver, functools.partial(_tell_shown, engine))
    engine.on_log = logs.on_lines

    def end() -> None:
        code.close()
        logs.close()
        if started is not None:
            _end_private(started, engine.config)
        elif engine.broken is not None:  # it was killed, maybe, and the next peer here may start tomorrow
            with suppress(MeshrayError):
                sweep()

    client.on_leaving, client.on_shutdown = code.finish, end
    engine.pump.shield.take_over()
    engine.pump.start()
    return client


def _tell_shown(engine: Engine, peer: bytes, size: int) -> None:
    """The peer that had sent them sends more lines then. From the thread that shows them."""
    raised = engine.pump.enter()
    try:
        if not engine.pump.closed:
            engine.send(peer, m.LogsShown(size))
    finally:
        engine.pump.leave(raised)
    engine.pump.kick()


def _end_private(started: Started, config: Config) -> None:
    """A private peer ends with its driver; one that does not is ended."""
    if not started.wait_ended(config.peer_end_timeout_s):
        _logger.warning("the private peer (pid %d) did not end in time and was killed", started.pid)
        started.kill()


def _job_info(process_id: bytes, settings: InitSettings) -> m.JobInfo:
    main = sys.modules.get("__main__")
    return m.JobInfo(
        job=process_id,
        executable=sys.executable,
        prefix=sys.prefix,
        sys_path=[os.path.abspath(path) for path in sys.path],
        folder=os.getcwd(),
        main_path=str(getattr(main, "__file__", "") or ""),
        namespace=settings.namespace or process_id.hex(),
        log_to_driver=settings.log_to_driver,
        env_vars=dict(settings.env_vars),
    )


def introduce(
    endpoint: Endpoint, peer: bytes, peer_pidfd: int, job: m.JobInfo | None
) -> tuple[m.Attached, list[tuple[bytes, m.Message]]]:
    """Say Attach and wait for the answer: it, and what came before it. (A worker may be leased to somebody whose first
    tasks overtake the peer's answer.)

    Raises `ConnectionError` when the peer refuses, has died, or does not answer.
    """
    endpoint.send(peer, m.Attach(m.PROTOCOL, os.getpid(), PYTHON, job))
    poll = select.poll()
    poll.register(endpoint.fd, select.POLLIN)
    poll.register(peer_pidfd, select.POLLIN)
    deadline = time.monotonic() + ATTACH_TIMEOUT_S
    early: list[tuple[bytes, m.Message]] = []
    while True:
        while arrived := endpoint.receive(1):
            source, message = arrived[0]
            if isinstance(message, m.Attached):
                if message.refused:
                    raise ConnectionError(f"the peer refuses this program: {message.refused}")
                return message, early
            early.append((source, message))
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise ConnectionError(
                f"the peer does not answer (waited {ATTACH_TIMEOUT_S:g} s): it may be stopped or stuck"
            )
        if endpoint.must_retry:  # many connect at once, or we lack descriptors: our Attach is still here
            endpoint.flush()
            left_s = min(left_s, RETRY_S)
        if any(fd == peer_pidfd for fd, _ in poll.poll(left_s * 1000)):
            raise ConnectionError("the peer has died while this program attached to it")
