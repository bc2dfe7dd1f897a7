"""What the pure core asks its shell to do.

General layout of the core: each file answers one question with one class. Its methods are events, `on_<event>(...)`,
that take `now` (seconds of a monotonic clock) where time matters; they change the object's state and append effects.
The shell drains them with `take_effects()` and performs them in order. Nothing here knows sockets, clocks, threads,
processes, randomness or pickle, so a whole mesh runs in one thread under a virtual clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from meshray.strategy import ANYWHERE, Strategy
from meshray.wire.messages import CreateActor, Failure, JobInfo, Message, Place, Profile


class Send(Struct, frozen=True):
    """Send a message to a process (16 bytes id)."""

    to: bytes
    message: Message


class StartWorker(Struct, frozen=True):
    """Start a worker in the interpreter of a job; None: the peer's own, for whatever job comes. It is bound later, by a
    Bind. `ticket` names it until its process id is known; answered by `on_worker_ready`, or by
    `on_worker_start_failed`."""

    ticket: int
    job: JobInfo | None
    profile: Profile
    gpu_ids: tuple[int, ...] = ()


class KillProcess(Struct, frozen=True):
    """Kill a worker (SIGKILL); its death is reported by `on_process_died`."""

    process: bytes
    reason: str = ""


class AbandonStart(Struct, frozen=True):
    """Kill the worker that was started for this ticket: it took too long, nothing is to be reported of it."""

    ticket: int


class ActorSlot(Struct, frozen=True):
    """Leases, or another host, to actors: `worker` is dedicated to this actor, which now holds its request."""

    actor_id: bytes
    worker: bytes
    gpu_ids: tuple[int, ...] = ()


class ActorWaits(Struct, frozen=True):
    """Leases to the people of a job: this actor cannot be placed, and why; "" when that has changed. `broken`: no
    worker of its job can be started at all. `strange`: none can be started here, since its job is not known.
    `hopeless`: nobody can have it, nor will anybody who joins."""

    actor_id: bytes
    job: bytes
    message: str
    broken: bool = False
    hopeless: bool = False
    strange: bool = False


class RequestActorSlot(Struct, frozen=True):
    """Actors to their places: a dedicated worker for this actor, please, on whichever host. Answered by an ActorSlot,
    or taken back by ReleaseActorSlot. A detached one is not forgotten when its job ends."""

    actor_id: bytes
    job: bytes
    request: dict[str, int]  # while it is placed
    running_request: dict[str, int]  # while it lives
    profile: Profile
    detached: bool = False
    incarnation: int = 1
    name: str = ""  # of its class, for people
    strategy: Strategy = ANYWHERE


class ActorPlaced(Struct, frozen=True):
    """Actors to their places: `__init__` has returned, the slot shrinks to the running request."""

    actor_id: bytes


class TellCallers(Struct, frozen=True):
    """To the people of these processes of this host, which call an actor whose own people are gone: why it waits."""

    text: str
    processes: tuple[bytes, ...]


class ReleaseActorSlot(Struct, frozen=True):
    """Actors to their places: the actor wants no slot any more, granted or not. A repeat changes nothing."""

    actor_id: bytes


class NameChanged(Struct, frozen=True):
    """Actors to names of the mesh: an actor of this peer has this name now, or, if not `taken`, no more."""

    namespace: str
    name: str
    actor_id: bytes
    taken: bool


class DetachedChanged(Struct, frozen=True):
    """Actors to wills: a detached actor has begun, lives elsewhere, or has ended."""

    actor_id: bytes


class CreateNamed(Struct, frozen=True):
    """Names of the mesh to actors: nobody else has the name that this CreateActor of `sender` asks for."""

    sender: bytes
    message: CreateActor


class NameConflict(Struct, frozen=True):
    """Names of the mesh to actors: an older actor of another peer has the name of this one, which ends."""

    actor_id: bytes
    failure: Failure


class HoldFor(Struct, frozen=True):
    """Names of the mesh to objects: `process` holds this from now on (the handle of an actor that was found)."""

    process: bytes
    object_id: bytes


class LetGo(Struct, frozen=True):
    """Names of the mesh to objects: another peer holds this for us, and nobody here wants it."""

    object_id: bytes


class TakeSlot(Struct, frozen=True):
    """To leases: a dedicated worker of this host for an actor, our own or a guest. Answered by an ActorSlot."""

    actor_id: bytes
    job: bytes
    request: dict[str, int]
    running_request: dict[str, int]
    profile: Profile
    strategy: Strategy = ANYWHERE  # why this host may never have it
    name: str = ""  # of its class, for people
    guest: bool = False  # it is another peer's


class ShrinkSlot(Struct, frozen=True):
    """To leases: the actor has started, it takes only its running request from now on."""

    actor_id: bytes


class FreeSlot(Struct, frozen=True):
    """To leases: the slot is wanted no more; a worker that hosts the actor is killed. A repeat changes nothing."""

    actor_id: bytes


class GuestsCame(Struct, frozen=True):
    """Guests to fencing: an actor of this owner is about to live here."""

    owner: bytes


class GuestsLeft(Struct, frozen=True):
    """Guests to fencing: none of them lives here any more."""

    owner: bytes


class ThawLease(Struct, frozen=True):
    """Adoption to leases: a dead submitter left a lease on `worker`, which runs nothing for it any more; `kill`: it
    runs what nobody wants. Repeats and mistakes change nothing."""

    worker: bytes
    submitter: bytes
    kill: bool = False


class DeathOver(Struct, frozen=True):
    """Objects to the road: the death of a process that had dealt with other hosts is settled."""

    process: bytes


class Dealt(Struct, frozen=True):
    """Objects to the road: what a process of this host has read is kept alive by that other host, so it has to hear of
    its end."""

    process: bytes
    node: bytes


class UnlinkSegment(Struct, frozen=True):
    """Remove a segment whose creator is gone."""

    segment: str


class SweepSegments(Struct, frozen=True):
    """Remove what a dead process left in the store folder, but for `keep`: segments of its pool and half-written
    ones."""

    process: bytes
    keep: tuple[str, ...]


class OpenCopy(Struct, frozen=True):
    """Fetches: a file for a copy; fresh, or one that is to be written again. Failing is told by `on_file_failed`."""

    segment: str
    capacity: int
    fresh: bool


class WriteCopy(Struct, frozen=True):
    """Fetches: some bytes of a copy have come."""

    segment: str
    offset: int
    data: Sequence[bytes | memoryview]  # one after the other


class SealCopy(Struct, frozen=True):
    """Fetches: all of a copy has come, and it does not change any more. That its file is complete is told by
    `on_sealed`, that it is not by `on_file_failed`."""

    segment: str
    capacity: int
    object_id: bytes
    size: int


class DropCopy(Struct, frozen=True):
    """Fetches: remove the file of a copy."""

    segment: str


class KeepCopy(Struct, frozen=True):
    """Programs to fetches: this value is to stay here, whatever becomes of the object; `source` has it, or will have.
    Answered by CopyKept."""

    place: Place
    source: bytes


class CopyKept(Struct, frozen=True):
    """Fetches to programs: a copy that is to be kept has come, or, with `failure`, cannot be had."""

    place: Place
    failure: Failure | None = None


class LetGoCopy(Struct, frozen=True):
    """Programs to fetches: this one needs not be kept any more."""

    place: Place


class JobForgotten(Struct, frozen=True):
    """Leases to programs: a job has ended, and nothing of it is or will be here any more."""

    job: bytes


class DetachedLost(Struct, frozen=True):
    """Actors to people: a detached actor is dead, and nobody has wanted that."""

    actor_id: bytes
    failure: Failure


class Later(Struct, frozen=True):
    """Objects to the clock: call `on_later(number)` after so many seconds."""

    number: int
    seconds: float


Effect = (
    Send
    | StartWorker
    | KillProcess
    | AbandonStart
    | ActorSlot
    | ActorWaits
    | RequestActorSlot
    | ActorPlaced
    | ReleaseActorSlot
    | TellCallers
    | NameChanged
    | DetachedChanged
    | CreateNamed
    | NameConflict
    | HoldFor
    | LetGo
    | TakeSlot
    | ShrinkSlot
    | FreeSlot
    | GuestsCame
    | GuestsLeft
    | ThawLease
    | DeathOver
    | Dealt
    | UnlinkSegment
    | SweepSegments
    | OpenCopy
    | WriteCopy
    | SealCopy
    | DropCopy
    | KeepCopy
    | CopyKept
    | LetGoCopy
    | JobForgotten
    | DetachedLost
    | Later
)


LATE: list[Any] = [None]
"""What is `decided` in a core that has to be asked."""


class Core:
    """Base of the pure objects: the drain idiom."""

    def __init__(self) -> None:
        self._effects: list[Any] = []

    @property
    def decided(self) -> list[Any]:
        """The effects that were not taken yet. It is always the same list, so that a shell which has many cores can see
        at a glance that they are quiet; one that decides as late as when it is asked is never known to be (`LATE`)."""
        return self._effects

    def take_effects(self) -> list[Any]:
        """All effects since the last call, in order."""
        effects = self._effects.copy()
        self._effects.clear()
        return effects
