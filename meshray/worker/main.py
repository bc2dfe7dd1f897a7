"""A worker's life, from the fork to the end: introduce itself, be bound to a job, run tasks or host one actor.

- `executor.py`  runs attempts one after the other: arguments in, outcome out, the journal
- `unsent.py`    sends their results
- `outcomes.py`  turns what a function returned or raised into a `Result`
- `functions.py` the functions this worker got, unpickled once
- `actors.py`    the actor it hosts, if any: in order, on threads, or on an event loop
- `code.py`      the copy of the program's own folder that it sees if the driver is on another host
- `zygote.py`, `birth.py`, `descendants.py`  where workers come from, and what becomes of their children
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import NoReturn

from meshray import context
from meshray.core.records import Birth
from meshray.errors import OwnerDiedError, RuntimeEnvSetupError
from meshray.ids import NODE_BYTES
from meshray.local import peer_process
from meshray.refs import ObjectRef
from meshray.runtime.attachment import Attachment
from meshray.runtime.client import Client
from meshray.runtime.engine import Engine
from meshray.runtime.joining import introduce
from meshray.runtime.pump import Waiter
from meshray.store.journal import Journal
from meshray.transport.endpoint import Endpoint
from meshray.wire import messages as m
from meshray.wire.boot import unpack_config, unpack_settings
from meshray.worker.actors import ActorHost
from meshray.worker.code import Moved, move_in
from meshray.worker.executor import Executor


def main(packed: bytes) -> NoReturn:
    """Be a worker until the peer says Exit, or dies. Called in a fresh fork of the zygote, in its main thread."""
    settings = unpack_settings(packed)
    config = unpack_config(settings.config)
    pidfd = os.pidfd_open(settings.peer_pid)
    node = settings.process_id[:NODE_BYTES]
    endpoint = Endpoint(Path(settings.folder), settings.process_id, config)
    welcome, early = introduce(endpoint, peer_process(node), pidfd, None)
    engine = Engine(
        Attachment(
            process_id=settings.process_id,
            peer_id=peer_process(node),
            job_id=b"",
            node_name=settings.node_name,
            peer_pidfd=pidfd,
            config=config,
            endpoint=endpoint,
            store_folder=Path(settings.store_folder),
            namespace="",
            is_driver=False,
            is_alone=welcome.alone,
        )
    )
    client = Client(engine)
    executor = Executor(client, Journal(settings.journal), ActorHost)
    engine.host = executor
    waiter = executor.bound = Waiter(engine.pump, 1)
    engine.on_messages(early)
    engine.pump.start()
    engine.pump.wait(waiter)
    if executor.bind is None:
        os._exit(1)  # the peer died first
    job = executor.bind.job
    if job.code is not None and job.job[:NODE_BYTES] != node:
        job = _move_in(job, Path(settings.folder), executor)
    _settle_in(job, executor.bind.env, client)
    executor.on_bound(executor.bind)
    executor.run()


def _move_in(job: m.JobInfo, node_folder: Path, executor: Executor) -> m.JobInfo:
    """Have a copy of the program's own folder, and see the job's paths there. A worker that cannot have one ends: its
    peer tells those who wait, and tries again after a while. Only where nobody has the folder any more, since a
    detached actor goes on when its driver's host is gone, that actor has to do without."""
    code, client = job.code, executor.client
    assert code is not None

    def fetch() -> bytes | memoryview:
        client.engine.queue.append(Birth(code.object_id))
        archive: bytes | memoryview = client.get([ObjectRef(code.object_id)], None)[0]
        return archive

    try:
        moved = move_in(code, node_folder, client.engine.config, fetch)
    except RuntimeEnvSetupError as error:
        if not isinstance(error.__cause__, OwnerDiedError):
            raise
        sys.stderr.write(f"meshray: the program's own folder cannot be had any more: {error.__cause__}\n")
        moved = Moved()
    executor.functions.on_loaded = moved.function
    executor.functions.where = executor.outcomes.where = moved.where
    executor.outcomes.missing = moved.missing
    return moved.job(job)


def _settle_in(job: m.JobInfo, env: dict[str, str], client: Client) -> None:
    """See what the job's driver sees: environment, folder, modules. Before any user code."""
    os.environ.update(job.env_vars)
    os.environ.update(env)
    try:
        os.chdir(job.folder)
    except OSError as error:
        sys.stderr.write(f"meshray: the driver's folder {job.folder} cannot be entered: {error}\n")
    sys.path[:] = job.sys_path
    sys.argv = [job.main_path or "meshray-worker"]
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    client.engine.at.job_id = client.engine.submission.job = client.job_id = job.job
    client.engine.at.namespace = client.namespace = job.namespace
    context.set_runtime(client)
