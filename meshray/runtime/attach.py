"""How a driver becomes part of a mesh: find a peer or start one, then join it (`joining.py`).

Joining loads the whole runtime, which takes as long as the peer takes to start: both happen at once.
"""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from meshray.interrupts import HeldInterrupts
from meshray.launch import PeerSettings, PeerStartError, Started, check_descriptors, spawn_peer
from meshray.local import PeerRecord, find_peers
from meshray.options import InitSettings

if TYPE_CHECKING:
    from meshray.runtime.client import Client

_logger = logging.getLogger("meshray")

PRESET_VARIABLE = "MESHRAY_PRESET"


def attach(settings: InitSettings) -> Client:
    """Join a running peer, or start a private one; see `api.lifecycle.init`.

    Raises `ConnectionError` when `address="auto"` finds no peer or "host:port" does not lead to a mesh,
    `AuthenticationError` when that needs a key, `ValueError` for resources given to a running peer or a guest,
    `PeerStartError` when none can be started, or this process may have too few files open.
    """
    check_descriptors("a program that is part of a mesh", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    running = _choose(settings)
    if running is not None:
        if settings.shapes_a_peer:
            raise ValueError(
                f"a peer runs on this host already ({running.name!r}, pid {running.pid}): num_cpus, num_gpus, "
                "resources, labels and object_store_memory cannot be given when attaching to it. "
                'Leave them out, or pass address="local"'
            )
        return _load_runtime()(running, None, settings)
    starting = spawn_peer(_guest_settings(settings) if settings.seeds else _peer_settings(settings))
    try:
        join = _load_runtime()
    except BaseException as error:
        starting.abandon(error)
        raise
    try:
        started = starting.wait()
    except PeerStartError as error:
        if settings.seeds:
            raise ConnectionError(str(error)) from error
        raise
    for warning in started.warnings:
        _logger.warning("%s", warning)
    try:
        return join(started.record, started, settings)
    except BaseException as error:
        with HeldInterrupts(error):
            started.kill()
        raise


def _load_runtime() -> Callable[[PeerRecord, Started | None, InitSettings], Client]:
    """Import what joins. A Ctrl-C waits until that is done: not every package that was interrupted while it was
    imported can be imported again in the same process."""
    with HeldInterrupts():
        from meshray.runtime.joining import join

        return join


def _choose(settings: InitSettings) -> PeerRecord | None:
    """The running peer to join; None for a private one."""
    address = settings.address
    if address == "local" or settings.seeds:
        return None
    peers = find_peers()
    if address is None:
        return peers[0] if peers else None
    if address == "auto":
        if not peers:
            raise ConnectionError(
                'no peer runs on this host: start one with `meshray start`, or leave out address="auto"'
            )
        return peers[0]
    for peer in find_peers(private=True):
        if Path(peer.folder) == Path(address):
            return peer
    raise ConnectionError(f"no peer runs in {address}")


def _guest_settings(settings: InitSettings) -> PeerSettings:
    from meshray.runtime.guest import guest_settings  # nearly no program needs it

    return guest_settings(settings, os.environ.get(PRESET_VARIABLE, "default"))


def _peer_settings(settings: InitSettings) -> PeerSettings:
    return PeerSettings(
        num_cpus=settings.num_cpus,
        num_gpus=settings.num_gpus,
        resources=settings.resources or {},
        labels=settings.labels or {},
        object_store_memory=settings.object_store_memory,
        driver_pid=os.getpid(),
        preset=os.environ.get(PRESET_VARIABLE, "default"),
    )
