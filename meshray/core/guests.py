"""Which actors of other peers live on this host?

A guest is one incarnation of an actor whose owner is another peer. Its worker speaks to this peer only, which tells the
owner; what the owner says to it (StartActor, Exit) and what its callers say goes past this file. The life of an actor
is known to its owner alone; here a guest is no more than::

    WAITING --slot--> HOSTED --its worker is dead--> gone (GuestLost)
       |                 |
       +--LeaveActor-----+------------------> its slot is freed, its worker killed; gone when that is dead

One whose job is not known here waits for what its owner, or who has told of a will, knows of it. If that does not come,
its owner is told to look elsewhere, as it is where this host runs nothing of that job (`why_not`).

An owner that is gone, or from which the right to go on was not had in time (`core.fencing`), leaves no guests behind.
The next incarnation of an actor may be sent here while the worker of the last one is being killed: it waits for that.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from meshray.core.effects import (
    Core,
    FreeSlot,
    GuestsCame,
    GuestsLeft,
    KillProcess,
    Send,
    ShrinkSlot,
    TakeSlot,
)
from meshray.core.watchers import Journal
from meshray.wire.messages import (
    ActorExit,
    ActorHosted,
    ActorReady,
    ActorWaitsThere,
    CallsOf,
    GuestExit,
    GuestLost,
    GuestMoved,
    GuestMoves,
    GuestReady,
    HostActor,
    JobWanted,
    KillGuest,
    LeaveActor,
    Message,
)


class GuestStats(Struct, frozen=True):
    """A snapshot; counts."""

    waiting: int
    hosted: int
    stale: int  # messages about guests that are not here


class Guest:
    """One actor of another peer."""

    __slots__ = ("fenced", "following", "leaving", "owner", "strange", "told", "wish", "worker")

    def __init__(self, owner: bytes, wish: HostActor) -> None:
        self.owner = owner  # the peer that sent HostActor
        self.wish = wish
        self.worker = b""  # HOSTED
        self.strange = False  # its job is not known here, and was asked for
        self.told = ""  # why it waits, as its owner knows it
        self.leaving = False  # its worker is being killed, and nobody asks for it any more
        self.fenced = False  # it has no right to go on: nothing of what it says leaves this host any more
        self.following: tuple[bytes, HostActor] | None = None  # what waits for the end of this one, and its owner

    def __repr__(self) -> str:
        what = "leaving" if self.leaving else "hosted" if self.worker else "waiting"
        return (
            f"<Guest {self.wish.actor_id.hex()} incarnation={self.wish.incarnation} of {self.owner.hex()} {what} "
            f"worker={self.worker.hex()[-6:]}>"
        )


class Guests(Core):
    """See the head of this file. `knows_job(job)`: whether workers of it can be had here. `name`: of this host, for
    people. `why_not(job)`: why this host runs nothing of it that others send; "" when it does."""

    def __init__(
        self, knows_job: Callable[[bytes], bool], name: str = "", why_not: Callable[[bytes], str] = lambda job: ""
    ) -> None:
        super().__init__()
        self._name = name
        self._knows_job = knows_job
        self._why_not = why_not
        self._guests: dict[bytes, Guest] = {}  # actor -> from HostActor until it has no worker and nobody asks
        self._workers: dict[bytes, Guest] = {}  # HOSTED ones, by worker
        self._count: dict[bytes, int] = {}  # owner -> how many guests it has; no zeros
        self._stale = 0
        self._closed = False  # this peer leaves
        self._sent_home = False  # and nobody stays

    # -- from owners -------------------------------------------------------------------------------------------------

    def on_host(self, owner: bytes, message: HostActor) -> None:
        """A place, please."""
        guest = self._guests.get(message.actor_id)
        is_new = guest is None or guest.leaving or message.incarnation > guest.wish.incarnation
        if self._closed and is_new:
            self._tell(owner, ActorWaitsThere(message.actor_id, message.incarnation, gone=True))
            return
        if guest is None:
            self._come(owner, message)
        elif guest.leaving:
            guest.following = (owner, message)
        elif message.incarnation > guest.wish.incarnation:  # the owner has given up the one before
            self._leave(guest)
            self.on_host(owner, message)

    def _come(self, owner: bytes, message: HostActor) -> None:
        self._guests[message.actor_id] = Guest(owner, message)
        self._count[owner] = self._count.get(owner, 0) + 1
        self._effects.append(GuestsCame(owner))  # each time: the right that others came with may be over
        self._take(self._guests[message.actor_id])

    def _take(self, guest: Guest) -> None:
        wish = guest.wish
        guest.strange = not self._knows_job(wish.job)
        if why_not := self._why_not(wish.job):
            self.on_refused(wish.actor_id, f"on host {self._name}: {why_not}")
        elif guest.strange:
            self._tell(guest.owner, JobWanted(wish.job))
        else:
            take = TakeSlot(
                wish.actor_id,
                wish.job,
                wish.request,
                wish.running_request,
                wish.profile,
                name=wish.name,
                guest=True,
            )
            self._effects.append(take)

    def on_job_came(self, job: bytes) -> None:
        """This host knows the job now."""
        for guest in [guest for guest in self._guests.values() if guest.strange and guest.wish.job == job]:
            self._take(guest)

    def on_job_lost(self, job: bytes, why: str, whom: bytes) -> None:
        """This peer does not know it (`whom`: the last one that does not, either), and why: who has waited for it has
        no place here. Unless its owner may know, which is asked again: what it has said before may not have counted."""
        for guest in [guest for guest in self._guests.values() if guest.strange and guest.wish.job == job]:
            if guest.owner == whom:
                self.on_refused(guest.wish.actor_id, why)
            else:
                self._tell(guest.owner, JobWanted(job))

    def on_leave(self, owner: bytes, message: LeaveActor) -> None:
        """The owner wants no place any more."""
        guest = self._guests.get(message.actor_id)
        if guest is None or (guest.following or (guest.owner,))[0] != owner:
            self._stale += 1
        elif guest.following is not None and guest.following[1].incarnation == message.incarnation:
            guest.following = None
        elif guest.wish.incarnation == message.incarnation and not guest.leaving:
            self._leave(guest)
        else:
            self._stale += 1

    def on_moves(self, sender: bytes, message: GuestMoves) -> None:
        """A guest has another owner, which is told where its actor lives, and asked for the right to let it. Both say
        so, the owner that leaves and the new one, which may be the only one that is heard."""
        guest = self._workers.get(message.worker)
        lives = guest is not None and not guest.leaving and not guest.fenced
        if guest is None or not lives or not (message.owner in (sender, guest.owner) or guest.owner == sender):
            why = "it ended while it got another owner"
            lost = GuestLost(message.actor_id, message.incarnation, message.worker, why, all_started=True)
            self._tell(message.owner, lost)  # its journal has gone to the owner before
        elif guest.owner != message.owner:
            before, guest.owner = guest.owner, message.owner
            self._count[message.owner] = self._count.get(message.owner, 0) + 1
            self._effects.append(GuestsCame(message.owner))
            self._tell(message.owner, ActorHosted(message.actor_id, message.incarnation, message.worker))
            self._drop(before)
        self._tell(sender, GuestMoved(message.actor_id))

    def take_over(self, actor_id: bytes, worker: bytes) -> bool:
        """An actor is our own from now on. Whether it lives here, as this worker. If not, what else there is of it
        goes: whoever calls this frees its slot, before it asks for another one."""
        guest = self._guests.get(actor_id)
        if guest is None:
            return False
        if worker and guest.worker == worker and not guest.leaving and not guest.fenced:
            del self._guests[actor_id], self._workers[worker]
            self._drop(guest.owner)
            return True
        guest.following, guest.leaving = None, True
        if not guest.worker:
            self._go(guest)
        return False

    def on_kill(self, owner: bytes, message: KillGuest) -> None:
        """The owner wants this worker dead, and to hear of it."""
        guest = self._workers.get(message.worker)
        if guest is None or guest.owner != owner:
            self._stale += 1
            return
        self._effects.append(KillProcess(message.worker, message.reason))

    def on_owner_gone(self, owner: bytes) -> None:
        """The owner is dead, or the right to run its actors is over: none of them goes on. If it lives, it hears of
        each end."""
        for guest in list(self._guests.values()):
            if guest.following is not None and guest.following[0] == owner:
                guest.following = None
            if guest.owner != owner:
                continue
            if guest.worker:
                guest.fenced = True
                if not guest.leaving:
                    self._effects.append(KillProcess(guest.worker, "its owner was not heard for too long"))
            else:
                wish = guest.wish
                self._tell(owner, ActorWaitsThere(wish.actor_id, wish.incarnation, gone=True))
                self._leave(guest)

    def close(self) -> None:
        """This peer leaves: no new guests; who waits is sent away. Others stay for now."""
        self._closed = True
        for guest in self._guests.values():
            if guest.following is not None:
                owner, wish = guest.following
                guest.following = None
                self._tell(owner, ActorWaitsThere(wish.actor_id, wish.incarnation, gone=True))
        for guest in [guest for guest in self._guests.values() if not guest.worker]:
            self._tell(guest.owner, ActorWaitsThere(guest.wish.actor_id, guest.wish.incarnation, gone=True))
            self._leave(guest)

    def send_home(self) -> None:
        """Those who are still here end, and start again elsewhere if they may."""
        self._sent_home = True
        for worker, guest in self._workers.items():
            if not guest.leaving:
                self._effects.append(KillProcess(worker, "its host leaves"))

    def _leave(self, guest: Guest) -> None:
        guest.leaving = True
        self._effects.append(FreeSlot(guest.wish.actor_id))
        if not guest.worker:
            self._go(guest)

    # -- from leases -------------------------------------------------------------------------------------------------

    def on_slot(self, actor_id: bytes, worker: bytes) -> None:
        """A worker is bound and dedicated to a guest."""
        guest = self._guests.get(actor_id)
        if guest is None or guest.leaving or guest.worker:
            self._stale += 1
            self._effects.append(FreeSlot(actor_id))
            return
        guest.worker = worker
        self._workers[worker] = guest
        self._tell(guest.owner, ActorHosted(actor_id, guest.wish.incarnation, worker))

    def on_waits(self, actor_id: bytes, text: str, broken: bool) -> None:
        """Why a guest has no worker yet; "" when that has changed; `broken`: it will not have one."""
        guest = self._guests.get(actor_id)
        if guest is None or guest.worker or guest.leaving or (guest.told == text and not broken):
            return
        guest.told = text
        self._tell(guest.owner, ActorWaitsThere(actor_id, guest.wish.incarnation, text, broken))
        if broken:
            self._leave(guest)

    def on_refused(self, actor_id: bytes, why: str) -> None:
        """A guest cannot have a worker here, maybe elsewhere."""
        if self.waits(actor_id):
            guest = self._guests[actor_id]
            self._tell(guest.owner, ActorWaitsThere(actor_id, guest.wish.incarnation, why, gone=True))
            self._leave(guest)

    # -- from workers ------------------------------------------------------------------------------------------------

    def on_ready(self, worker: bytes, message: ActorReady) -> bool:
        """Its `__init__` returned, or failed. False: it hosts no guest."""
        guest = self._workers.get(worker)
        if guest is None:
            return False
        if message.failure is None and not guest.leaving:
            self._effects.append(ShrinkSlot(guest.wish.actor_id))
        self._tell(guest.owner, GuestReady(worker, message))
        return True

    def on_exit(self, worker: bytes, message: ActorExit) -> bool:
        """The actor ends itself. False: the worker hosts no guest."""
        guest = self._workers.get(worker)
        if guest is not None:
            self._tell(guest.owner, GuestExit(worker, message))
        return guest is not None

    def on_process_died(self, process: bytes, why: str, journal: Journal, all_started: bool = False) -> None:
        """Its worker is gone: the owner hears of it, with what the journal says of each caller's calls."""
        guest = self._workers.pop(process, None)
        if guest is None:
            return
        guest.worker = b""
        wish = guest.wish
        callers = [CallsOf(caller, finished, started) for caller, (finished, started) in journal.items()]
        left = self._sent_home
        if left:
            why = f"its host {self._name} was stopped" if self._name else "its host was stopped"
        self._tell(guest.owner, GuestLost(wish.actor_id, wish.incarnation, process, why, callers, all_started, left))
        if not guest.leaving:
            self._effects.append(FreeSlot(wish.actor_id))
        self._go(guest)

    def _go(self, guest: Guest) -> None:
        """It has no worker, and no slot."""
        del self._guests[guest.wish.actor_id]
        if guest.following is not None:
            self._come(*guest.following)
        self._drop(guest.owner)

    # -- owners ------------------------------------------------------------------------------------------------------

    def _drop(self, owner: bytes) -> None:
        self._count[owner] -= 1
        if not self._count[owner]:
            del self._count[owner]
            self._effects.append(GuestsLeft(owner))

    def _tell(self, process: bytes, message: Message) -> None:
        self._effects.append(Send(process, message))

    # -- reading -----------------------------------------------------------------------------------------------------

    def knows(self, actor_id: bytes) -> bool:
        """Whether an actor is a guest here."""
        return actor_id in self._guests

    def waits(self, actor_id: bytes) -> bool:
        """Whether an actor is a guest here that has no place yet, and may still get one."""
        guest = self._guests.get(actor_id)
        return guest is not None and not guest.worker and not guest.leaving

    def is_fenced(self, worker: bytes) -> bool:
        """Whether what this worker says must not leave this host: it may have run after its right was over."""
        guest = self._workers.get(worker)
        return guest is not None and guest.fenced

    def awaits_job(self, job: bytes) -> bool:
        """Whether one waits for what is known of this job."""
        return any(guest.strange and guest.wish.job == job for guest in self._guests.values())

    def needs(self, job: bytes) -> bool:
        """Whether a guest of this job may still want a worker."""
        return any(guest.wish.job == job for guest in self._guests.values())

    def survivors_of(self, job: bytes) -> frozenset[bytes]:
        """Processes that outlive this job: they host its detached actors."""
        workers = self._workers.items()
        return frozenset(worker for worker, guest in workers if guest.wish.job == job and guest.wish.detached)

    def name_of(self, actor_id: bytes) -> str:
        """The class of a guest, for people; "" when there is none."""
        guest = self._guests.get(actor_id)
        return "" if guest is None else guest.wish.name

    def owners(self) -> frozenset[bytes]:
        return frozenset(self._count)

    def hosted(self) -> dict[bytes, bytes]:
        """Actor -> worker, of those that have one."""
        return {guest.wish.actor_id: worker for worker, guest in self._workers.items()}

    def stats(self) -> GuestStats:
        return GuestStats(len(self._guests) - len(self._workers), len(self._workers), self._stale)

    def check(self) -> None:
        """Assert that the books agree."""
        counts: dict[bytes, int] = {}
        for actor_id, guest in self._guests.items():
            counts[guest.owner] = counts.get(guest.owner, 0) + 1
            assert guest.wish.actor_id == actor_id, f"in the wrong place: {guest!r}"
            assert not guest.worker or self._workers.get(guest.worker) is guest, f"hosted elsewhere: {guest!r}"
            assert guest.worker or not guest.leaving, f"it could go: {guest!r}"
            assert guest.following is None or guest.leaving, f"two incarnations: {guest!r}"
        assert counts == self._count, f"guests are counted wrongly: {counts} {self._count}"
        assert len(self._workers) == sum(1 for guest in self._guests.values() if guest.worker), "a worker of nobody"
