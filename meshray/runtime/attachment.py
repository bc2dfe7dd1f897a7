"""What a process knows once its peer has welcomed it: its engine is built from that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meshray.config import Config
from meshray.transport.endpoint import Endpoint


@dataclass(slots=True)
class Attachment:
    """See the head of this file."""

    process_id: bytes
    peer_id: bytes
    job_id: bytes
    node_name: str
    peer_pidfd: int
    config: Config
    endpoint: Endpoint
    store_folder: Path
    namespace: str
    is_driver: bool
    is_private: bool = False  # the mesh ends with this driver
    is_alone: bool = False  # there are no other hosts
