"""What a peer consists of: its cores, its hands, and who is attached. Built once, shared by the files beside this one.

Nothing here decides or performs; each part is changed by its own methods only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from meshray.config import Config
from meshray.core.actors import Actors
from meshray.core.adoption import Adoption
from meshray.core.fencing import Fencing
from meshray.core.fetches import Fetches
from meshray.core.foreign_actors import ForeignActors
from meshray.core.guests import Guests
from meshray.core.leases import Leases
from meshray.core.lodging import Lodging
from meshray.core.moves import Moves
from meshray.core.naming import Naming
from meshray.core.objects import Objects
from meshray.core.programs import Programs
from meshray.core.road import Road
from meshray.core.serving import Serving
from meshray.core.store_accounts import StoreAccounts
from meshray.core.whereabouts import Whereabouts
from meshray.core.wills import Wills
from meshray.local import PeerRecord
from meshray.peer.children import Children
from meshray.peer.log_flow import LogFlow
from meshray.peer.logs import Logs
from meshray.peer.processes import Processes
from meshray.peer.timers import Timers
from meshray.peer.zygotes import Zygotes
from meshray.store.transit import Transit
from meshray.transport.endpoint import Endpoint

if TYPE_CHECKING:  # a peer that is off the network loads none of it
    from meshray.peer.mesh import Mesh


@dataclass(slots=True)
class Cores:
    """What decides. The order is the one in which their effects are performed: what a dead worker left is told by
    leases, actors and adoption before objects asks everybody to account for the dead, and other hosts hear last."""

    leases: Leases
    actors: Actors
    lodging: Lodging
    guests: Guests
    fencing: Fencing
    foreign_actors: ForeignActors
    naming: Naming
    wills: Wills
    programs: Programs
    adoption: Adoption
    objects: Objects
    store: StoreAccounts
    fetches: Fetches
    whereabouts: Whereabouts
    serving: Serving
    moves: Moves
    road: Road


@dataclass(slots=True)
class Parts:
    """See the head of this file."""

    config: Config
    record: PeerRecord
    labels: Mapping[str, str]
    node: bytes
    process_id: bytes  # our own
    folder: Path  # of the node: sockets
    store_folder: Path  # segments and journals
    transit: Transit  # of the segments there
    cores: Cores
    endpoint: Endpoint
    zygotes: Zygotes
    children: Children
    logs: Logs
    log_flow: LogFlow
    timers: Timers
    processes: Processes
    started_at: float  # by the monotonic clock
    mesh: Mesh | None = None  # None: off the network
    leaving: str = ""  # why the peer is about to end, in order; "" while it serves. Set once
    leave_work_s: float = 0.0  # how long what runs may go on then
    stopping: str = ""  # why the peer ends at once; "" while it does not. Set once
    counters: Counter[str] = field(default_factory=Counter)  # what was dropped or went wrong, for `status`

    def leave(self, reason: str, work_s: float) -> None:
        """End in order (`peer.draining`); what runs may go on for `work_s`. Once more: not for longer than before."""
        self.leave_work_s = min(work_s, self.leave_work_s) if self.leaving else work_s
        self.leaving = self.leaving or reason

    def stop(self, reason: str) -> None:
        """End after this batch. The first reason stays."""
        self.stopping = self.stopping or reason

    def part_with(self, process_id: bytes) -> None:
        """A process has left, or is dead: the link to it goes, and what was mapped of files that it has removed."""
        self.endpoint.drop(process_id)
        self.transit.spans.forget_removed(self.store_folder)

    def journal_path(self, process_id: bytes) -> Path:
        """The crash journal of a worker: in shared memory where there is some, so that no disk writes it back."""
        return self.store_folder / f"journal-{process_id[8:].hex()}"
