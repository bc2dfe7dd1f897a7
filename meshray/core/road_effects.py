"""What the road asks its shell to do: see `core.road`."""

from __future__ import annotations

from msgspec import Struct

from meshray.wire.messages import JobInfo
from meshray.wire.peers import Block


class Handle(Struct, frozen=True):
    """A process or a peer of another host says this to our peer: decode it, and dispatch it."""

    source: bytes
    data: bytes | memoryview
    blocks: tuple[Block, ...] = ()  # data that came with it


class Sever(Struct, frozen=True):
    """End the link to this life of a peer; `why` in words. `over`: for good, since that life is over; else another link
    may follow."""

    life: bytes
    why: str = "its peer has begun anew"
    over: bool = True


class HostGone(Struct, frozen=True):
    """A host that was there is gone, or was cut off: whatever was said to it may not have arrived, and nothing of it
    will come. It may come back under the same id, as if for the first time."""

    home: bytes
    reason: str


class ForeignDied(Struct, frozen=True):
    """A process of another host is gone, and all that it had said to this host was heard."""

    process: bytes


class ForeignSeen(Struct, frozen=True):
    """All processes of this host that had dealt with a dead one of another host have accounted for it: its peer is to
    be answered."""

    process: bytes


class JobCame(Struct, frozen=True):
    """A job of another host is about to have work done here. `python`: the minor version of its driver. Once more when
    the job's code is known, if it was not."""

    info: JobInfo
    python: str


class JobGone(Struct, frozen=True):
    """A job of another host is over."""

    job: bytes
    reason: str


RoadEffect = Handle | Sever | HostGone | ForeignDied | ForeignSeen | JobCame | JobGone
