"""Which programs does this peer keep, so that detached actors of theirs can be started when the programs have ended?

A detached actor outlives its program, and may outlive the host that has the program's files. What it takes to start it
elsewhere is its job (`JobInfo`) and the program's own folder, which its driver packs (`Code`): an object of the
driver's, that ends with the job. So whoever may have to start an actor of a job keeps both for as long as that may be:

- **The home**, the peer of the driver, asks it (`CodeWanted`, lasting) as soon as there is such an actor, and keeps the
  object as if a constructor needed it.
- **The owner** of an actor that was created on another host asks the home (`ProgramWanted`), **an heir** its testator
  (be it the home itself, whose driver is gone, and which has forgotten the job). The answer (`Program`) has the archive
  in it if that is small; a large one is fetched like any copy, from whoever has answered, and is kept (`KeepCopy`)
  until the job is forgotten here. Until `ProgramHeld` says that it has come, the one that has answered keeps its own,
  and does not leave, within the bounds of a drain.

So a program is asked of one that has it or has asked for it before, and everybody who has it can pass it on: the heir
of an heir gets it though the home is long gone; so does another host on which an heir has an actor started (it asks
with `JobWanted`, as it knows no more than the job's name). A worker here that needs the folder asks this peer for the
driver's object, as ever, and is answered with what is kept (`archive_of`).

**Nobody waits in a circle.** Peers that own actors of one job are each other's heirs, and where all of them have missed
the program each may ask the next one. So who asks says who waits for it in turn, at first or second hand (`behind`),
and once more when that changes. A peer that was asked by somebody, and has itself asked one of these, does not let them
wait: it answers with what it has. Nor do copies wait for pieces of each other: who misses a copy tells those that fetch
it here (`NoPiece`), before it can begin another one. Who was answered in vain, or has missed the copy, asks the next
peer that has told of the job (`others`), before it holds the program for lost.

A job is forgotten (`on_job_forgotten`) by `core.leases`, which ask what is needed. What is needed and cannot be had is
told (`ProgramLost`): actors of a job of which nothing is known here cannot start. The others start without its folder,
as they may need no file of it; so do those of who asks for a program that is not kept here, but its job is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec
from msgspec import Struct

from meshray.config import Config
from meshray.core.effects import Core, KeepCopy, LetGoCopy, Send
from meshray.core.objects import Objects
from meshray.ids import node_of, peer_of
from meshray.wire.messages import (
    Code,
    CodeWanted,
    Failure,
    JobInfo,
    Message,
    NoPiece,
    Place,
    Program,
    ProgramHeld,
    ProgramWanted,
)

ARCHIVE_PART = 2
"""An archive with its index takes at most so many times what the files in it may take (`code_max_bytes`)."""

BEHIND_MAX = 1024
"""So many peers may wait for the answer to one question; the message that tells of them takes no more."""


class JobLeft(Struct, frozen=True):
    """Programs to leases: this job of another host may be over, and actors of it be started here."""

    info: JobInfo


class ProgramLost(Struct, frozen=True):
    """Programs to actors, and to people: what it takes to start actors of this job here cannot be had."""

    job: bytes
    why: str
    whom: bytes  # the peer that was asked last, or the driver


class Drivers(Protocol):
    """The drivers of this host."""

    def job_info(self, process: bytes) -> JobInfo | None:
        """The job that it has made; None when it is gone."""

    def job_lives(self, job: bytes) -> bool:
        """Whether this is a job of a driver here, and not over."""


class _Question:
    """Of whom a program was asked, and what that one was told."""

    __slots__ = ("behind", "whom")

    def __init__(self, whom: bytes) -> None:
        self.whom = whom  # the driver (its id is the job's), or a peer
        self.behind: frozenset[bytes] = frozenset()  # who waits for us, as that peer knows it


class _Kept:
    """What it takes to start an actor of one job."""

    __slots__ = ("archive", "info", "lost", "pinned", "source")

    def __init__(self, info: JobInfo, archive: bytes | Place | None, source: bytes = b"") -> None:
        self.info = info  # as the driver's host has it
        self.archive = archive  # of its own folder; None: nothing goes along
        self.source = source  # the peer from which the archive is being fetched; b"" once it is here
        self.lost = False  # it could not be fetched
        self.pinned = False  # it is the object itself, of a driver of this host


class Programs(Core):
    """See the head of this file. Other peers are named by their process ids. The shell sets `is_wanted(job)`: whether a
    guest waits for what is known of its job; and `known_job(job)`: what is known of one here without its program."""

    def __init__(self, config: Config, node: bytes, objects: Objects, drivers: Drivers) -> None:
        super().__init__()
        self.is_wanted: Callable[[bytes], bool] = _not_wanted
        self.known_job: Callable[[bytes], JobInfo | None] = _not_known
        objects.kept_archive = self.archive_of
        self._config = config
        self._node = node
        self._objects = objects
        self._drivers = drivers
        self._kept: dict[bytes, _Kept] = {}  # by job
        self._of_object: dict[bytes, _Kept] = {}  # those from other peers that have an archive, by its object
        self._asked: dict[bytes, _Question] = {}  # by job: whose answer is awaited
        self._others: dict[bytes, set[bytes]] = {}  # job -> peers that can be asked if that is in vain. No empty sets
        # By job: peers that are answered when it is known, with who waits for them in turn. None is empty.
        self._waiting: dict[bytes, dict[bytes, frozenset[bytes]]] = {}
        self._owed: dict[bytes, set[bytes]] = {}  # job -> peers that were answered, and have not got all. No empty sets

    # -- who needs it ------------------------------------------------------------------------------------------------

    def on_needed(self, job: bytes, source: bytes) -> None:
        """A detached actor of this job may be started here some day. `source`: the peer that has told of it; of an
        actor that was created here, the home's. A repeat asks again for what could not be had."""
        kept, question = self._kept.get(job), self._asked.get(job)
        comes_from = question.whom if question is not None else kept.source if kept is not None else b""
        if comes_from:
            if source not in (comes_from, peer_of(self._node)):
                self._others.setdefault(job, set()).add(source)
        elif kept is not None and not kept.lost:
            return
        elif self._drivers.job_lives(job):
            self._asked[job] = _Question(job)
            self._tell(job, CodeWanted(lasting=True))
        elif source != peer_of(self._node):
            self._ask(job, source)

    def _ask(self, job: bytes, peer: bytes) -> None:
        """A peer may know it. Nobody waits for that who is waited for by it."""
        question = self._asked[job] = _Question(peer)
        for waits in [waits for waits, behind in self._waiting.get(job, {}).items() if peer == waits or peer in behind]:
            self._refuse(job, waits)
        question.behind = self._behind(job)
        self._tell(peer, ProgramWanted(job, sorted(question.behind)))

    def on_job_wanted(self, sender: bytes, job: bytes) -> None:
        """Another peer knows no more than its name. Who waits for that one it has said, or will."""
        behind = self._waiting.get(job, {}).get(sender, ())
        self.on_wanted(sender, ProgramWanted(job, sorted(behind)))

    def on_wanted(self, sender: bytes, message: ProgramWanted) -> None:
        """Another peer needs it; or others wait for that one than before. A repeat is answered again."""
        job = message.job
        if self._drivers.job_lives(job):
            self.on_needed(job, peer_of(self._node))
        question = self._asked.get(job)
        if question is not None:
            self._waiting.setdefault(job, {})[sender] = frozenset(message.behind)
            if question.whom in (sender, *message.behind) or len(self._behind(job)) > BEHIND_MAX:
                self._refuse(job, sender)
            self._tell_behind(job)
        elif job in self._kept:
            self._answer(job, sender)
        else:
            self._tell(sender, self._without(job))

    def _tell_behind(self, job: bytes) -> None:
        """Others may wait for us than before."""
        question, behind = self._asked.get(job), self._behind(job)
        if question is not None and question.whom != job and question.behind != behind:
            question.behind = behind
            self._tell(question.whom, ProgramWanted(job, sorted(behind)))

    def _behind(self, job: bytes) -> frozenset[bytes]:
        """Who waits for us, at first hand or further."""
        waiting = self._waiting.get(job, {})
        return frozenset(waiting).union(*waiting.values())

    def _refuse(self, job: bytes, peer: bytes) -> None:
        """It shall not wait any longer: what there is now is all."""
        waiting = self._waiting[job]
        del waiting[peer]
        if not waiting:
            del self._waiting[job]
        if job in self._kept:
            self._answer(job, peer)
        else:
            self._tell(peer, self._without(job))

    def _answer(self, job: bytes, peer: bytes) -> None:
        """It may be on its way here itself: pieces of a copy are passed on as they come."""
        kept = self._kept[job]
        self._owed.setdefault(job, set()).add(peer)
        self._tell(peer, Program(job, kept.info, kept.archive))

    def on_held(self, sender: bytes, message: ProgramHeld) -> None:
        """It has got all of it, or never will."""
        _discard(self._owed, message.job, sender)

    # -- who has it --------------------------------------------------------------------------------------------------

    def on_code(self, job: bytes, code: Code) -> None:
        """A driver of this host has packed its folder."""
        info = self._drivers.job_info(job)
        if not self.is_packing(job) or info is None:
            return
        archive = self._objects.value_of(code.object_id) if code.object_id.startswith(job) else None
        kept = _Kept(msgspec.structs.replace(info, code=code), None if isinstance(archive, Failure) else archive)
        if kept.archive is not None:
            self._objects.pin_for_actor(code.object_id)
            kept.pinned = True
        self._keep(job, kept)

    def on_program(self, sender: bytes, message: Program) -> None:
        """Somebody has it, or has not. What nobody has asked for counts if it is wanted: of who was not asked while
        somebody else is, only what can be used."""
        job, info, archive = message.job, message.info, message.archive
        kept, question = self._kept.get(job), self._asked.get(job)
        is_known = info is not None and info.job == job and info.code is not None
        if question is None or question.whom != sender:
            if kept is not None or not self.is_wanted(job) or (question is not None and not is_known):
                if kept is None or kept.source != sender:  # else it is told when the copy has come
                    self._tell(sender, ProgramHeld(job))
                return
            if question is not None and question.whom != job:
                self._others.setdefault(job, set()).add(question.whom)
        if info is None or info.code is None or not is_known:
            self._tell(sender, ProgramHeld(job))
            self._lose(job, f"{self._called(sender)} does not have it", sender)
            return
        if not self._is_sound(info.code, job, archive):
            archive = None
        kept = _Kept(info, archive, sender if isinstance(archive, Place) else b"")
        self._effects.append(JobLeft(info))
        if archive is not None:
            self._of_object[info.code.object_id] = kept
        if isinstance(archive, Place):
            self._effects.append(KeepCopy(archive, sender))
        else:
            self._tell(sender, ProgramHeld(job))
        if archive is None and info.code.object_id:
            kept.lost, self._kept[job] = True, kept
            self._lose(job, f"{self._called(sender)} does not have its folder", sender)
        else:
            self._keep(job, kept)

    def _is_sound(self, code: Code, job: bytes, archive: bytes | Place | None) -> bool:
        """Whether it can be what the driver has packed."""
        if not isinstance(archive, Place):
            return code.object_id.startswith(job)
        at_most = ARCHIVE_PART * self._config.code_max_bytes
        return archive.object_id == code.object_id and code.object_id.startswith(job) and archive.size <= at_most

    def _keep(self, job: bytes, kept: _Kept) -> None:
        self._asked.pop(job, None)
        self._kept[job] = kept
        if not kept.source:
            self._others.pop(job, None)
        for peer in sorted(self._waiting.pop(job, ())):
            self._answer(job, peer)

    def on_copy(self, place: Place, failure: Failure | None) -> None:
        """A copy that is to be kept has come, or cannot be had."""
        kept = self._of_object.get(place.object_id)
        if kept is None or kept.archive != place:
            return
        job, source, kept.source = kept.info.job, kept.source, b""
        if failure is None:
            self._others.pop(job, None)
        else:
            kept.archive, kept.lost = None, True
            del self._of_object[place.object_id]
            for peer in sorted(self._owed.get(job, ())):
                self._tell(peer, NoPiece(place))
            self._lose(job, failure.message, source)
        if source:
            self._tell(source, ProgramHeld(job))

    # -- the end -----------------------------------------------------------------------------------------------------

    def on_job_ended(self, job: bytes) -> None:
        """A driver of this host is gone: it answers no more."""
        if self.is_packing(job):
            self._lose(job, "the program has ended before its folder was packed", job)

    def on_host_gone(self, node: bytes) -> None:
        """Its peer asks for nothing, and answers no more. A repeat changes nothing."""
        peer = peer_of(node)
        for book in (self._others, self._owed):
            for job in list(book):
                _discard(book, job, peer)
        left = [job for job, waiting in self._waiting.items() if waiting.pop(peer, None) is not None]
        self._waiting = {job: waiting for job, waiting in self._waiting.items() if waiting}
        for job in [job for job, question in self._asked.items() if question.whom == peer]:
            self._lose(job, f"{self._called(peer)}, which was asked for it, is gone", peer)
        for job in left:
            self._tell_behind(job)

    def _lose(self, job: bytes, why: str, whom: bytes) -> None:
        """It was asked of that one, or fetched there, in vain: the next one is asked. Without any it is lost."""
        self._asked.pop(job, None)
        if job in self._others:
            peer = min(self._others[job])
            _discard(self._others, job, peer)
            self._ask(job, peer)
        else:
            self._effects.append(ProgramLost(job, why, whom))
            self._refuse_waiting(job)

    def _refuse_waiting(self, job: bytes) -> None:
        for peer in sorted(self._waiting.get(job, ())):
            self._refuse(job, peer)

    def _without(self, job: bytes) -> Program:
        """The answer to who asks for a program that this peer does not keep: its actors do without the folder, if
        anything is known of the job."""
        info = self.known_job(job)
        if info is None:
            return Program(job)
        return Program(job, msgspec.structs.replace(info, code=info.code or Code()))

    def on_job_forgotten(self, job: bytes) -> None:
        """Nothing of this job will ever be started here again."""
        self._asked.pop(job, None)
        self._others.pop(job, None)
        kept = self._kept.pop(job, None)
        self._refuse_waiting(job)
        if kept is None or kept.archive is None:
            return
        assert kept.info.code is not None, f"an archive of nothing: {kept.info!r}"
        object_id = kept.info.code.object_id
        if kept.pinned:
            self._objects.unpin_for_actor(object_id)
            return
        del self._of_object[object_id]
        if isinstance(kept.archive, Place):
            self._effects.append(LetGoCopy(kept.archive))
        if kept.source:
            self._tell(kept.source, ProgramHeld(job))

    # -- reading -----------------------------------------------------------------------------------------------------

    def archive_of(self, object_id: bytes) -> bytes | Place | None:
        """The value of an object of another host, if it is the archive of a program that is kept here."""
        kept = self._of_object.get(object_id)
        return None if kept is None else kept.archive

    def keeps(self, job: bytes) -> bool:
        """Whether what it takes is here, or on its way."""
        return job in self._kept

    def is_coming(self, job: bytes) -> bool:
        """Whether somebody was asked for it, and has not answered."""
        return job in self._asked

    def is_owed(self, job: bytes) -> bool:
        """Whether another peer is getting it from here."""
        return job in self._owed or job in self._waiting

    def is_packing(self, job: bytes) -> bool:
        """Whether the driver of this host has still to answer."""
        question = self._asked.get(job)
        return question is not None and question.whom == job

    @property
    def done(self) -> bool:
        """Whether nobody waits for anything of this peer."""
        return not self._owed and not self._waiting

    def check(self) -> None:
        """Assert that the books agree."""
        kept = {
            kept.info.code.object_id: kept
            for kept in self._kept.values()
            if kept.archive is not None and kept.info.code is not None and not kept.pinned
        }
        assert kept == self._of_object, "others are found by their objects"
        coming = {job for job, kept in self._kept.items() if kept.source}
        assert coming.isdisjoint(self._asked), "it is asked for what comes"
        assert self._waiting.keys() <= self._asked.keys(), "somebody waits for what was not asked for"
        assert self._others.keys() <= self._asked.keys() | coming, "there are others for what nobody needs"
        assert all(self._waiting.values()), "a set of nobody"
        assert all(self._others.values()), "a set of nobody"
        assert all(self._owed.values()), "a set of nobody"
        for job, question in self._asked.items():
            assert question.whom not in self._behind(job), "it waits for itself"

    def _called(self, peer: bytes) -> str:
        return self._objects.called(node_of(peer))

    def _tell(self, process: bytes, message: Message) -> None:
        self._effects.append(Send(process, message))


def _not_wanted(job: bytes) -> bool:
    """`is_wanted` of a peer without guests."""
    return False


def _not_known(job: bytes) -> None:
    """`known_job` of a peer without leases."""


def _discard(book: dict[bytes, set[bytes]], job: bytes, peer: bytes) -> None:
    peers = book.get(job)
    if peers is not None:
        peers.discard(peer)
        if not peers:
            del book[job]
