"""Which values of other hosts are needed here, and from where do they come?

Theory. A large value lies on the host that made it. Who needs it elsewhere asks its own peer (`Bring`), which fetches
it once for all of its processes, into a segment of its own: a *copy*. The stages of one::

    ROOM       it waits for its turn, or for room in the store
    FETCHING   pieces arrive, in order, from one source; those who have them may already be passed on (`core.serving`)
    SEALING    all has come; nobody hears of it before its file is known to be complete (`on_sealed`)
    WHOLE      sealed; its users are the processes that have a view, or are about to have one

What identifies a value is its *place*, the segment in which it was made: a task that ran twice has made two values of
one object, which may differ, and pieces of both must never meet in one copy.

Where from? The peer of the owner knows who has copies, whole or not (`core.whereabouts`), and tells whom to ask; a
value of one piece is asked for at its place at once. A source that is gone, has nothing, or stalls is left for the next
one; the copy goes on where it stood. Sources are whole, or began before this one, so that no two wait for each other.
When nobody is left the value is lost, and that is said. One that stalls is not lost, for links lose nothing: it is
*late*, perhaps because the way to it is slow. What it was asked for counts when it comes, and it is the source again
when nobody else is left; it says that it has nothing, or its host is gone, before it is given up.

A file that cannot be made or written is the end of its copy (`on_file_failed`), at whatever piece; nobody gets the
file, which may have holes, or not be there at all.

A copy without users stays as long as there is room: the next task may need it. It goes when the store is full, when the
owner's peer says that the object is gone (`Expired`), or when the owner's host is. One that is to be kept (`keep`, for
`core.programs`) stays whatever becomes of its object, until it is let go of. Where its file comes from, and
what becomes of that, is told in `core.copy_room`: to the books of the store copies without users are room like a pool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from msgspec import Struct

from meshray.config import Config
from meshray.core.copy_room import CopyFile, CopyRoom
from meshray.core.effects import CopyKept, Core, OpenCopy, SealCopy, Send, WriteCopy
from meshray.core.gone import by_id
from meshray.ids import peer_of
from meshray.wire.messages import (
    Bring,
    Brought,
    CopiesGone,
    CreditGranted,
    Expired,
    Failure,
    Found,
    NoPiece,
    Piece,
    Place,
    Pull,
    Seek,
    Unused,
    Whole,
)


class Stage(Enum):
    """See the head of this file."""

    ROOM = "room"
    FETCHING = "fetching"
    SEALING = "sealing"
    WHOLE = "whole"


@dataclass(slots=True, eq=False)
class Copy:
    """One value of another host."""

    place: Place
    stage: Stage = Stage.ROOM
    segment: str = ""  # its file here; "" in ROOM
    capacity: int = 0  # bytes of that file
    have: int = 0  # bytes that have come, from the first one on
    asked: int = 0  # bytes that were asked for at the present source, from the first one on
    source: bytes = b""  # the peer that is asked; b"" for none
    candidates: list[bytes] = field(default_factory=list)  # whom to try next
    failed: set[bytes] = field(default_factory=set)  # peers that are not tried again, or at all
    tried: set[bytes] = field(default_factory=set)  # peers that were a source
    late: set[bytes] = field(default_factory=set)  # sources that were left because they stalled, and have not answered
    seeking: bool = False  # the owner's peer was asked and has not answered
    seeks: int = 0
    unknown: bool = False  # the owner's peer has answered last that it knows of nobody
    progress_at: float = 0.0  # when something came last, or the present source was chosen
    waiting: list[tuple[bytes, int]] = field(default_factory=list)  # processes with their requests
    users: set[bytes] = field(default_factory=set)  # processes that may have views
    expired: bool = False  # the object is gone: nobody will ask for it any more
    kept: bool = False  # it stays all the same
    keepers: list[bytes] = field(default_factory=list)  # peers that keep it as well, or did

    @property
    def owner(self) -> bytes:
        """The peer of the object's owner."""
        return peer_of(self.place.object_id)


class FetchStats(Struct, frozen=True):
    """A snapshot."""

    whole: int
    fetching: int
    waiting: int  # for room, or for their turn
    held_bytes: int  # the files of these
    come_bytes: int  # what has come of those that are fetched or whole
    fetched: int  # copies that became whole, since the start
    failed: int
    resumed: int  # sources that were left for another one
    stale: int


class Fetches(Core):
    """The copies of one peer. `capacity_for(size)` is the size of the file for a value, `called(node)` what people call
    a host, `in_transit(segment)` whether some of a file is on its way to another host (`store.transit`)."""

    def __init__(
        self,
        config: Config,
        node: bytes,
        capacity_for: Callable[[int], int],
        in_transit: Callable[[str], bool],
        called: Callable[[bytes], str] = by_id,
    ) -> None:
        super().__init__()
        self._config = config
        self._node = node
        self._peer = peer_of(node)
        self._capacity_for = capacity_for
        self._called = called
        self._copies: dict[Place, Copy] = {}  # the one that was used last at the end
        self._by_segment: dict[str, Copy] = {}
        # By the peer of the owner, and the object: its copies (of more than one place where a task ran more than once).
        self._of_owner: dict[bytes, dict[bytes, list[Copy]]] = {}
        self._fetching: dict[Place, Copy] = {}  # those in FETCHING and SEALING, the first begun first
        self._turns: list[Copy] = []  # ROOM, not looked at yet; first come, first served
        self._asked: dict[int, Copy] = {}  # ROOM, by the request for credit
        self._room = CopyRoom(config, node, in_transit, self._emit)
        self._in_flight: dict[bytes, int] = {}  # source -> bytes asked for and not come. No zeros
        self._fetched = self._failed = self._resumed = self._stale = 0

    def _emit(self, effect: object) -> None:
        self._effects.append(effect)

    # -- processes of this host --------------------------------------------------------------------------------------

    def on_bring(self, sender: bytes, message: Bring, now: float) -> None:
        """A process needs this value."""
        place = message.place
        if place.node == self._node:
            self._effects.append(Send(sender, Brought(message.request, place)))
            return
        copy = self._copies.pop(place, None)
        if copy is None:
            copy = self._new(place)
        self._copies[place] = copy
        if copy.stage is Stage.WHOLE:
            copy.users.add(sender)
            self._effects.append(Send(sender, Brought(message.request, self._local(copy))))
            return
        copy.waiting.append((sender, message.request))
        self._begin(now)

    def _new(self, place: Place) -> Copy:
        copy = Copy(place)
        self._turns.append(copy)
        self._of_owner.setdefault(copy.owner, {}).setdefault(place.object_id, []).append(copy)
        return copy

    def keep(self, place: Place, source: bytes, now: float) -> None:
        """This value stays here, whether its object lives or not. `source`: a peer that has it, or fetches it as well.
        Answered by `CopyKept`."""
        copy = self._copies.pop(place, None)
        if copy is None:
            copy = self._new(place)
        self._copies[place] = copy
        copy.kept = True
        copy.failed.discard(source)  # it says otherwise now
        if source not in copy.keepers:
            copy.keepers.append(source)
        if source not in (copy.source, *copy.candidates):
            copy.candidates.append(source)
        if copy.stage is Stage.WHOLE:
            self._effects.append(CopyKept(place))
        else:
            self._begin(now)

    def let_go(self, place: Place) -> None:
        """It needs not stay any more."""
        copy = self._copies.get(place)
        if copy is not None:
            copy.kept = False
            self._remove_expired(copy)

    def on_unused(self, sender: bytes, message: Unused) -> None:
        """It has no views of these copies any more."""
        for segment in message.segments:
            copy = self._by_segment.get(segment)
            if copy is not None:
                copy.users.discard(sender)
                self._remove_expired(copy)

    def on_process_died(self, process: bytes) -> None:
        """It uses nothing, and waits for nothing. What is on its way for it alone comes all the same: it may be needed
        by the next attempt of its task."""
        for copy in list(self._copies.values()):
            copy.users.discard(process)
            copy.waiting = [each for each in copy.waiting if each[0] != process]
            self._remove_expired(copy)

    def _local(self, copy: Copy) -> Place:
        return Place(copy.place.object_id, self._node, copy.segment, copy.place.size)

    # -- room --------------------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        """Whose turn it is gets a file, or asks for room."""
        active = len(self._fetching) + len(self._asked)
        while self._turns and active < self._config.fetches_max:
            self._find_room(self._turns.pop(0), now)
            active += 1
        self._ask(now)

    def _find_room(self, copy: Copy, now: float) -> None:
        need = self._capacity_for(copy.place.size)
        file = self._room.take(need)
        if file is None:
            self._asked[self._room.request(need)] = copy
        else:
            self._start(copy, file, now)

    def on_granted(self, message: CreditGranted, now: float) -> None:
        """Room in the store, or why there is none."""
        self._room.grant(message.size)
        copy = self._asked.pop(message.request, None)
        if copy is None:
            return
        if message.failure is not None:
            self._fail(copy, message.failure)
        else:
            self._find_room(copy, now)
        self._begin(now)

    def on_trim_pool(self) -> None:
        """The store is full: what nobody uses goes."""
        self._evict([copy for copy in self._copies.values() if _is_idle(copy)])
        self._room.give_back()

    def _evict(self, copies: list[Copy]) -> None:
        gone: dict[bytes, list[Place]] = {}
        for copy in copies:
            self._remove(copy)
            gone.setdefault(copy.owner, []).append(copy.place)
        for owner, places in gone.items():
            self._effects.append(Send(owner, CopiesGone(places)))

    def _remove(self, copy: Copy) -> None:
        """Out of the books; its file is free."""
        self._forget(copy)
        if copy.segment:
            self._room.free(copy.segment, copy.capacity, copy.progress_at)

    def _forget(self, copy: Copy) -> None:
        """Out of the books; the caller sees to its file."""
        del self._copies[copy.place]
        of_owner = self._of_owner[copy.owner]
        of_owner[copy.place.object_id].remove(copy)
        if not of_owner[copy.place.object_id]:
            del of_owner[copy.place.object_id]
            if not of_owner:
                del self._of_owner[copy.owner]
        self._fetching.pop(copy.place, None)
        if copy.segment:
            del self._by_segment[copy.segment]

    def _start(self, copy: Copy, file: CopyFile, now: float) -> None:
        copy.stage = Stage.FETCHING
        self._fetching[copy.place] = copy
        copy.segment, copy.capacity = file.segment, file.capacity
        copy.progress_at = now
        self._by_segment[copy.segment] = copy
        self._effects.append(OpenCopy(*file))
        copy.candidates = self._sources(copy, [])
        self._seek(copy)
        if copy.place.size <= self._config.fetch_piece_bytes:
            self._choose(copy, now)

    def on_file_failed(self, segment: str, failure: Failure, now: float) -> None:
        """The file of a copy cannot be made, written or completed: it goes, since nobody knows what is in it. What is
        still under way for it changes nothing."""
        copy = self._by_segment.get(segment)
        if copy is not None and copy.stage in (Stage.FETCHING, Stage.SEALING):
            self._forget(copy)
            self._room.drop([(segment, copy.capacity)])
            self._tell_failed(copy, failure)
            self._begin(now)

    # -- sources -----------------------------------------------------------------------------------------------------

    def _seek(self, copy: Copy) -> None:
        copy.seeking = True
        copy.seeks += 1
        self._effects.append(Send(copy.owner, Seek(copy.place)))

    def on_found(self, sender: bytes, message: Found, now: float) -> None:
        """The owner's peer tells who has it."""
        copy = self._copies.get(message.place)
        if copy is None or copy.stage is not Stage.FETCHING or not copy.seeking or copy.owner != sender:
            self._stale += 1
            return
        copy.seeking = False
        copy.candidates = self._sources(copy, message.peers)
        copy.unknown = not message.peers
        if not copy.source:
            self._choose(copy, now)
        self._ask(now)

    def _sources(self, copy: Copy, told: list[bytes]) -> list[bytes]:
        """Whom to try, the best one first. `told`: by the owner's peer. The place itself comes last: what lies there
        may not have been told to the owner's peer yet."""
        sources = dict.fromkeys([*told, *copy.keepers, peer_of(copy.place.node)])
        return [peer for peer in sources if peer not in (self._peer, copy.source)]

    def _choose(self, copy: Copy, now: float) -> None:
        """The next source; none: one that is late, or ask the owner's peer again, or give up."""
        while copy.candidates:
            peer = copy.candidates.pop(0)
            if peer not in copy.failed and peer not in copy.late:
                copy.source, copy.asked, copy.progress_at = peer, copy.have, now
                copy.tried.add(peer)
                if copy.have == copy.place.size:
                    self._finish(copy, now)
                return
        if copy.seeking:
            return
        if copy.late:
            copy.source, copy.asked, copy.progress_at = min(copy.late), copy.have, now
            copy.late.discard(copy.source)
            return
        if copy.owner not in copy.failed and copy.seeks < self._config.fetch_seeks_max:
            copy.progress_at = now
            self._seek(copy)
            return
        self._fail(copy, _lost(copy, self._called(copy.place.node)))

    def _leave(self, copy: Copy, now: float) -> None:
        """The present source is no good."""
        self._release(copy)
        if copy.source:
            copy.failed.add(copy.source)
            self._resumed += 1
        copy.source = b""
        self._choose(copy, now)

    def _stall(self, copy: Copy, now: float) -> None:
        """Nothing has come for long. Others are tried; without any it is waited for."""
        if not copy.source:
            copy.seeking = False
            self._choose(copy, now)
            return
        if any(peer not in copy.failed and peer not in copy.late for peer in copy.candidates):
            self._release(copy)
            copy.late.add(copy.source)
            self._resumed += 1
            copy.source = b""
            self._choose(copy, now)
            return
        copy.progress_at = now
        if not copy.seeking and copy.owner not in copy.failed and copy.seeks < self._config.fetch_seeks_max:
            self._seek(copy)  # somebody may have it by now

    def _release(self, copy: Copy) -> None:
        """What was asked for and has not come will not come any more, or is not waited for."""
        self._count(copy.source, copy.have - copy.asked)
        copy.asked = copy.have

    def _count(self, source: bytes, size: int) -> None:
        left = self._in_flight.get(source, 0) + size
        if left > 0:
            self._in_flight[source] = left
        else:
            self._in_flight.pop(source, None)

    def on_no_piece(self, sender: bytes, message: NoPiece, now: float) -> None:
        """It is not there; maybe no more, as who keeps it tells those whom it has named it to (`core.programs`)."""
        copy = self._copies.get(message.place)
        if copy is None or copy.stage is not Stage.FETCHING or copy.source != sender:
            if copy is not None and sender in (*copy.late, *copy.keepers):
                copy.late.discard(sender)
                copy.failed.add(sender)
            self._stale += 1
            return
        self._leave(copy, now)
        self._begin(now)

    def on_host_gone(self, node: bytes, now: float) -> None:
        """A source or an owner is gone. A repeat changes nothing."""
        peer = peer_of(node)
        for copy in self._coming():
            copy.candidates = [candidate for candidate in copy.candidates if candidate != peer]
            copy.failed.add(peer)
            copy.late.discard(peer)
            if copy.owner == peer:
                copy.seeking = False
            if copy.source == peer or not copy.source:
                self._leave(copy, now)
        for copies in list(self._of_owner.get(peer, {}).values()):
            for copy in list(copies):
                self._expire(copy)  # nobody will say so
        self._begin(now)

    def _coming(self) -> list[Copy]:
        """Those that need something of other hosts."""
        return [copy for copy in self._fetching.values() if copy.stage is Stage.FETCHING]

    # -- pieces ------------------------------------------------------------------------------------------------------

    def _ask(self, now: float) -> None:
        """Ask for pieces, one for each value in turn, as far as the bounds allow."""
        active = [copy for copy in self._fetching.values() if copy.source]
        while active:
            active = [copy for copy in active if self._ask_one(copy, now)]

    def _ask_one(self, copy: Copy, now: float) -> bool:
        """One piece. False: nothing more for this one now."""
        config = self._config
        size = min(config.fetch_piece_bytes, copy.place.size - copy.asked)
        there = self._in_flight.get(copy.source, 0)
        everywhere = sum(self._in_flight.values())
        if size <= 0 or (copy.asked > copy.have and copy.asked - copy.have + size > config.fetch_window_bytes):
            return False
        if there and (there + size > config.fetch_peer_max_bytes or everywhere + size > config.fetch_max_bytes):
            return False
        if everywhere and everywhere + size > config.fetch_max_bytes:
            return False
        if copy.asked == copy.have:
            copy.progress_at = now  # until now it was our turn
        self._effects.append(Send(copy.source, Pull(copy.place, copy.asked, size)))
        copy.asked += size
        self._count(copy.source, size)
        return True

    def on_piece(self, sender: bytes, message: Piece, now: float) -> None:
        """Some bytes have come. Only the next ones count, of the present source or of one that is late."""
        copy = self._copies.get(message.place)
        if copy is None or copy.stage is not Stage.FETCHING or message.offset != copy.have:
            self._stale += 1
            return
        if sender in copy.late:
            self._on_late(copy, sender, sum(map(len, message.data)))
        if copy.source != sender:
            self._stale += 1
            return
        size = sum(map(len, message.data))
        if not 0 < size <= copy.asked - copy.have:
            self._stale += 1
            self._leave(copy, now)
            self._begin(now)
            return
        self._count(sender, -size)
        self._effects.append(WriteCopy(copy.segment, copy.have, message.data))
        copy.have += size
        copy.progress_at = now
        if copy.have == copy.place.size:
            self._finish(copy, now)
        self._ask(now)

    def _on_late(self, copy: Copy, sender: bytes, size: int) -> None:
        """A source that was left sends the next bytes after all: it is the source again, and the other one is late."""
        self._release(copy)
        copy.late.discard(sender)
        if copy.source:
            copy.late.add(copy.source)
        copy.source = sender
        copy.asked = min(copy.have + size, copy.place.size)
        self._count(sender, copy.asked - copy.have)

    def _finish(self, copy: Copy, now: float) -> None:
        """All has come. Whether it was written is known when the effects up to this one were performed."""
        copy.stage = Stage.SEALING
        copy.source, copy.candidates, copy.seeking = b"", [], False
        copy.progress_at = now
        self._effects.append(SealCopy(copy.segment, copy.capacity, copy.place.object_id, copy.place.size))

    def on_sealed(self, segment: str, now: float) -> None:
        """The file of a copy is complete: it may be read."""
        copy = self._by_segment.get(segment)
        if copy is None or copy.stage is not Stage.SEALING:
            return  # an earlier write had failed
        copy.stage = Stage.WHOLE
        del self._fetching[copy.place]
        self._fetched += 1
        self._effects.append(Send(copy.owner, Whole([copy.place])))
        if copy.kept:
            self._effects.append(CopyKept(copy.place))
        waiting, copy.waiting = copy.waiting, []
        for process, request in waiting:
            copy.users.add(process)
            self._effects.append(Send(process, Brought(request, self._local(copy))))
        self._remove_expired(copy)
        self._begin(now)

    def _fail(self, copy: Copy, failure: Failure) -> None:
        self._remove(copy)
        self._tell_failed(copy, failure)

    def _tell_failed(self, copy: Copy, failure: Failure) -> None:
        self._release(copy)
        self._failed += 1
        if copy.kept:
            self._effects.append(CopyKept(copy.place, failure))
        for process, request in copy.waiting:
            self._effects.append(Send(process, Brought(request, None, failure)))
        if copy.segment and copy.owner not in copy.failed:
            self._effects.append(Send(copy.owner, CopiesGone([copy.place])))

    # -- the end of objects ------------------------------------------------------------------------------------------

    def on_expired(self, sender: bytes, message: Expired) -> None:
        """The objects are gone: what nobody uses goes at once, the rest when nobody does any more."""
        for object_id in message.object_ids:
            for copy in list(self._of_owner.get(sender, {}).get(object_id, ())):
                self._expire(copy)

    def _expire(self, copy: Copy) -> None:
        copy.expired = True
        copy.users.discard(self._peer)  # it keeps what has lain on a host that is gone (`core.moves`)
        self._remove_expired(copy)

    def _remove_expired(self, copy: Copy) -> None:
        if copy.expired and _is_idle(copy):
            self._remove(copy)

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        times = [copy.progress_at + self._config.fetch_stall_s for copy in self._fetching.values() if _is_due(copy)]
        if (rest_at := self._room.next_deadline()) is not None:
            times.append(rest_at)
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Sources that stall are left; files that rest go."""
        stall_s = self._config.fetch_stall_s
        for copy in [copy for copy in self._fetching.values() if _is_due(copy) and copy.progress_at + stall_s <= now]:
            self._stall(copy, now)
        self._room.tick(now)
        self._begin(now)

    # -- reading -----------------------------------------------------------------------------------------------------

    def kept(self) -> list[Place]:
        """What this peer keeps for other owners, since it lay on hosts that have left (`core.moves`)."""
        return [place for place, copy in self._copies.items() if self._peer in copy.users and copy.owner != self._peer]

    def look_up(self, place: Place) -> tuple[str, int] | None:
        """The file of our copy, and how much of the value is in it; None when there is none, or no room for it yet. Of
        one that is to be kept others were told all the same: ("", 0)."""
        copy = self._copies.get(place)
        if copy is None or (copy.stage is Stage.ROOM and not copy.kept):
            return None
        return copy.segment, copy.have

    def stats(self) -> FetchStats:
        stages = [copy.stage for copy in self._copies.values()]
        held = sum(copy.capacity for copy in self._copies.values())
        return FetchStats(
            stages.count(Stage.WHOLE), len(self._fetching), stages.count(Stage.ROOM), held,
            sum(copy.have for copy in self._copies.values()),
            self._fetched, self._failed, self._resumed, self._stale,
        )  # fmt: skip

    @property
    def charged(self) -> int:
        """What it has of the store, in bytes: copies, pool and credit."""
        return sum(copy.capacity for copy in self._copies.values()) + self._room.charged

    def check(self) -> None:
        """Assert that the books agree."""
        in_flight: dict[bytes, int] = {}
        for place, copy in self._copies.items():
            assert copy.place is place or copy.place == place, repr(copy)
            assert 0 <= copy.have <= copy.asked <= place.size or copy.stage is not Stage.FETCHING, repr(copy)
            assert (copy.stage is Stage.ROOM) == (not copy.segment), repr(copy)
            assert copy.stage is not Stage.WHOLE or not copy.waiting, repr(copy)
            if copy.stage is Stage.FETCHING:
                assert copy.source or copy.seeking, f"waits for nothing: {copy!r}"
                if copy.asked > copy.have:
                    in_flight[copy.source] = in_flight.get(copy.source, 0) + copy.asked - copy.have
            elif copy.stage is Stage.ROOM:
                assert copy in self._turns or copy in self._asked.values(), repr(copy)
            elif copy.stage is Stage.SEALING:
                assert copy.have == place.size, repr(copy)
                assert not copy.source, repr(copy)
        assert in_flight == self._in_flight, f"{in_flight} are in flight, not {self._in_flight}"
        assert set(self._by_segment) == {copy.segment for copy in self._copies.values() if copy.segment}
        fetching = [place for place, copy in self._copies.items() if copy.stage in (Stage.FETCHING, Stage.SEALING)]
        assert set(fetching) == set(self._fetching), "another set is fetched"
        self._room.check()
        of_owner = [copy for objects in self._of_owner.values() for copies in objects.values() for copy in copies]
        assert len(of_owner) == len(self._copies), "another set is indexed by owner"
        assert all(self._copies[copy.place] is copy for copy in of_owner), "another set is indexed by owner"


def _is_idle(copy: Copy) -> bool:
    """Whether it is of no use at the moment."""
    return copy.stage is Stage.WHOLE and not copy.users and not copy.kept


def _is_due(copy: Copy) -> bool:
    """Of one that is fetched: whether somebody else has to do something for it."""
    return copy.stage is Stage.FETCHING and (copy.asked > copy.have or not copy.source)


def _lost(copy: Copy, host: str) -> Failure:
    """The story, for people."""
    place = copy.place
    known = "its owner's host does not know of it any more; " if copy.unknown else ""
    came = f"{copy.have:,} had come" if copy.have else "nothing had come"
    count = len(copy.tried)
    tried = {0: "no host could be tried", 1: "1 host was tried"}.get(count, f"{count} hosts were tried")
    text = (
        f"object {place.object_id.hex()} is lost: {place.size:,} bytes that lay on {host} cannot be had any more, and "
        f"no other host has them ({known}{came}, {tried})"
    )
    return Failure("ObjectLostError", text, details={"object_id": place.object_id.hex(), "node": place.node.hex()})
