"""What a worker is told at its birth, through its zygote: who it is, and where everything lies.

The peer packs it, `meshray.worker.main:main` unpacks it. Its job comes later, in a `Bind`: until then it serves nobody.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from meshray.config import Config

WORKER_ENTRY = "meshray.worker.main:main"
"""What the zygote calls in a new worker, with the packed settings."""


class WorkerSettings(Struct, frozen=True, array_like=True):
    """See above. Paths are absolute."""

    folder: str  # of the node: the sockets of all its processes
    store_folder: str
    process_id: bytes  # 16 bytes: node, process
    peer_pid: int  # the worker ends when that process ends
    journal: str  # the crash journal, made by the peer
    config: bytes  # msgpack of Config
    node_name: str


_encode = msgspec.msgpack.Encoder().encode
_settings = msgspec.msgpack.Decoder(WorkerSettings)
_config = msgspec.msgpack.Decoder(Config)


def pack_settings(settings: WorkerSettings) -> bytes:
    """The bytes that travel to the zygote."""
    return _encode(settings)


def unpack_settings(packed: bytes) -> WorkerSettings:
    """The inverse. Raises `msgspec.MsgspecError` for other bytes."""
    return _settings.decode(packed)


def pack_config(config: Config) -> bytes:
    """A config as it travels in `WorkerSettings` and `Attached`."""
    return _encode(config)


def unpack_config(packed: bytes) -> Config:
    """The inverse. Raises `msgspec.MsgspecError` for other bytes."""
    return _config.decode(packed)
