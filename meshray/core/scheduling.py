"""What is kept of tasks and of the workers that run them, in the process that has submitted them.

A task waits in its *scheduling class*; a *lease* is a worker that runs tasks of one class of ours; what we share with
that worker over all its leases is its *link*. `submission` moves tasks among them, `asking` asks for leases.
"""

from __future__ import annotations

from collections import deque

from meshray.core.pending import Pending
from meshray.core.shipped import Shipped
from meshray.ids import peer_of
from meshray.strategy import ANYWHERE, Strategy
from meshray.wire.messages import Profile


class WorkerLink:
    """What this process and one worker share over all leases: sequence numbers and functions shipped."""

    __slots__ = ("acknowledged", "next_seq", "shipped", "worker")

    def __init__(self, worker: bytes, functions_max_bytes: int) -> None:
        self.worker = worker
        self.next_seq = 1
        self.acknowledged = 0
        self.shipped = Shipped(functions_max_bytes)  # by the sequence numbers of the tasks that use them


class Lease:
    """A worker that runs tasks of one class of ours."""

    __slots__ = ("cls", "expected_ns", "held_up", "id", "idle_since", "in_flight", "link", "peer", "revoked", "wanted")

    def __init__(self, lease_id: int, cls: SchedulingClass, link: WorkerLink, now: float) -> None:
        self.id = lease_id
        self.cls = cls
        self.link = link
        self.peer = peer_of(link.worker)  # who has granted it
        self.in_flight: dict[int, Pending] = {}  # by sequence number, oldest first
        self.expected_ns = 0.0  # expected work of what is in flight
        self.revoked = False  # push no more
        self.held_up = False  # what runs there takes long, so it gave the rest back: push no more until it is done
        self.wanted = False  # somebody waits for it: it goes back soon after it has nothing to do
        self.idle_since = now  # since when nothing is in flight


class Asked:
    """What another peer than our own was asked for."""

    __slots__ = ("anew", "demanded", "hops", "leases", "more")

    def __init__(self) -> None:
        self.anew = False  # it was named again: perhaps it has not heard us
        self.more = 0  # so many leases it may give beyond those that it has given
        self.hops = 1  # how many peers have led there
        self.leases = 0  # those that it has given
        self.demanded = 0  # what it was told last


class SchedulingClass:
    """Tasks that any lease of the class can run."""

    __slots__ = (
        "abroad",
        "asked",
        "base",
        "demanded",
        "depth",
        "id",
        "idle",
        "job",
        "leases",
        "left_at",
        "name",
        "near",
        "profile",
        "ready",
        "request",
        "strategy",
        "stuck",
        "variants",
    )

    def __init__(
        self,
        class_id: int,
        request: dict[str, int],
        profile: Profile,
        depth: int,
        strategy: Strategy = ANYWHERE,
        job: bytes = b"",
    ) -> None:
        self.id = class_id
        self.job = job
        self.request = request
        self.profile = profile
        self.depth = depth
        self.strategy = strategy
        self.name = ""
        self.ready: deque[Pending] = deque()
        self.leases: dict[int, Lease] = {}
        self.idle = 0  # leases with nothing in flight: a new task starts there at once
        self.demanded = 0  # what our own peer was told last
        self.asked: dict[bytes, Asked] = {}  # other peers that were asked, or have given leases
        self.abroad = 0  # leases of other peers
        self.left_at = 0.0  # when something left one of its leases, or there was a new one
        self.stuck = False  # nothing has left its leases for long: what they would do at once, they do not
        self.near: dict[bytes, int] = {}  # home node -> bytes of large arguments, of the task that was ready last
        self.base: SchedulingClass | None = None  # of which this is a variant
        self.variants: dict[bytes, SchedulingClass] = {}  # home node -> the class of tasks whose arguments lie there
