"""The hands of `core.fetches` and `core.serving`: files are written, and pieces of them are sent.

Pieces leave on the bulk plane, whose connections are their own, and only while the link to the asker has room for them.
So nothing that decides ever waits behind a value, and a peer that serves many keeps no more than a window for each.

What has come is written at the end of the turn (`finish`), when what asks for more has left, or before it is needed.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from meshray.core.effects import DropCopy, OpenCopy, SealCopy, WriteCopy
from meshray.core.fetches import Fetches
from meshray.core.serving import Reading
from meshray.core.store_accounts import StoreAccounts
from meshray.errors import MeshrayError
from meshray.ids import NODE_BYTES
from meshray.observe.notes import note
from meshray.peer.buffers import Buffers
from meshray.peer.memory import Memory
from meshray.peer.parts import Parts
from meshray.store.copies import CopyFiles, read_piece
from meshray.wire.envelopes import enclosed_piece
from meshray.wire.messages import BLOCKS_MAX, Failure, Place
from meshray.wire.peers import Block, Plane

if TYPE_CHECKING:
    from meshray.peer.mesh import Mesh

SENT_AT_ONCE_BYTES = 8 << 20
"""So much is read and sent in one turn (10 ms of work); then the rest of the peer has its turn."""

READ_AGAIN_S = 0.1
"""After so long it is tried again to read a piece for which no descriptor was left: others are closed all the time."""


def finder(node: bytes, store: StoreAccounts, fetches: Fetches) -> Callable[[Place], tuple[str, int] | None]:
    """What tells in which file a value lies here, and how much of it is there: where it was made, or in a copy."""

    def find(place: Place) -> tuple[str, int] | None:
        if place.node == node and store.has(place.segment, place.object_id, place.size):
            return place.segment, place.size
        return fetches.look_up(place)  # of what was made here as well: it may have gone, and come back to be kept

    return find


class CopyHands:
    """See the head of this file."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._files = CopyFiles(parts.store_folder)
        self._spans = (self._files.spans, parts.transit.spans)
        self._buffers = Buffers(parts.config.fetch_frame_bytes)
        self._memory = Memory(self._let_go, parts.timers, parts.config.pool_idle_s)
        self._writes: list[WriteCopy] = []  # to be done before the turn ends
        self._left = False  # the last turn has left something that could be sent at once
        self._rests = False  # no descriptor was left to read with: until the timer says so

    def _let_go(self) -> bool:
        """No value has travelled for a while. Whether there is more to let go of."""
        self._buffers.clear()
        return any(spans.end_one() for spans in self._spans)

    @property
    def more(self) -> bool:
        """Whether the last turn has left something that could be done at once."""
        return self._left or any(spans.given_up for spans in self._spans)

    # -- files -------------------------------------------------------------------------------------------------------

    def open(self, effect: OpenCopy, now: float) -> None:
        self.finish(now)  # of who had the file before
        self._try(effect.segment, lambda: self._files.open(effect.segment, effect.capacity, effect.fresh), now)

    def write(self, effect: WriteCopy, now: float) -> None:
        self._memory.used(now)
        self._writes.append(effect)

    def finish(self, now: float) -> bool:
        """Write what has come; whether there was anything. What asks for the next pieces has left before."""
        writes, self._writes = self._writes, []
        for effect in writes:
            self._try(effect.segment, partial(self._files.write, effect.segment, effect.offset, effect.data), now)
        return bool(writes)

    def seal(self, effect: SealCopy, now: float) -> None:
        self.finish(now)
        segment, capacity = effect.segment, effect.capacity
        if self._try(segment, lambda: self._files.seal(segment, capacity, effect.object_id, effect.size), now):
            self._parts.cores.fetches.on_sealed(segment, now)

    def drop(self, effect: DropCopy, now: float) -> None:
        self.finish(now)
        self._files.drop(effect.segment)
        self._parts.transit.spans.forget(effect.segment)

    def _try(self, segment: str, act: Callable[[], None], now: float) -> bool:
        """Whether it went well. If not, whoever waits for the copy hears what went wrong with its file."""
        try:
            act()
        except MeshrayError as error:
            failure = Failure(type(error).__name__, str(error))
        except OSError as error:
            kind = "OutOfDiskError" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "MeshrayError"
            text = f"a copy of an object of another host could not be written: {error} (the object itself is not lost)"
            failure = Failure(kind, text)
        else:
            return True
        self._parts.cores.fetches.on_file_failed(segment, failure, now)
        return False

    # -- pieces ------------------------------------------------------------------------------------------------------

    def turn(self, mesh: Mesh, now: float) -> bool:
        """Send what was asked for, as far as the links take it; whether there was anything."""
        for spans in self._spans:
            if spans.given_up:
                spans.end_one()
        if self._rests:
            return False
        serving, road = self._parts.cores.serving, self._parts.cores.road
        window = self._parts.config.bulk_window_bytes
        at_most = BLOCKS_MAX * self._parts.config.fetch_frame_bytes
        lives: dict[bytes, bytes] = {}  # asker -> its present life

        def portion(peer: bytes) -> int:
            life = road.life_of(peer[:NODE_BYTES])
            if life is None or road.is_out_of_reach(peer[:NODE_BYTES]):
                return 0
            lives[peer] = life
            return min(mesh.portion(life, Plane.BULK, window), at_most)

        if self._writes and serving.pending:
            self.finish(now)  # it may be what is asked for
        left, served = SENT_AT_ONCE_BYTES, False
        while left > 0 and (reading := serving.next(portion)) is not None:
            left -= reading.size
            served = True
            try:
                blocks = self._blocks(reading)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    serving.on_unread(reading)
                    self._rests = True
                    self._parts.timers.at(now + READ_AGAIN_S, self._read_again)
                    break
                note(f"a segment could not be read for another host: {traceback.format_exc(limit=1)}")
                serving.on_unreadable(reading)
                continue
            payload = enclosed_piece(reading.to, self._parts.process_id, reading.place, reading.offset, blocks)
            if not mesh.send(lives[reading.to], Plane.BULK, payload, now):
                road.on_cut(lives[reading.to], "no link to it can be made")
        self._left = left <= 0 and serving.pending
        if served:
            self._memory.used(now)
        return served

    def _blocks(self, reading: Reading) -> Sequence[Block]:
        """The bytes, in frames. Raises `OSError`.

        Small ones are read first: they may be acknowledged so late that the value is gone by then, as it should be
        (the end of one that was fetched and let go of), and its file could not be written again."""
        frame_bytes, size = self._parts.config.fetch_frame_bytes, reading.size
        if size >= self._parts.config.link_ack_after_bytes:
            sent = self._parts.transit.begin(reading.segment, reading.offset, size, reading.place.size)
            if sent is not None:
                return [sent[done : done + frame_bytes] for done in range(0, size, frame_bytes)]
        rooms = [self._buffers.take(min(frame_bytes, size - done)) for done in range(0, size, frame_bytes)]
        read_piece(self._parts.store_folder, reading.segment, reading.offset, rooms)
        return rooms

    def _read_again(self) -> None:
        self._rests = False

    def close(self) -> None:
        self._files.close()
