"""Which values of other hosts are fetched, from where, and what becomes of their copies."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from meshray.config import preset
from meshray.core.effects import CopyKept, DropCopy, OpenCopy, SealCopy, Send, WriteCopy
from meshray.core.fetches import Fetches
from meshray.ids import object_of, peer_of
from meshray.wire import messages as m

NEAR, MAKER, OWNER, THIRD = b"near----", b"maker---", b"owner---", b"third---"
HERE = peer_of(NEAR)
A, B = NEAR + b"a" * 8, NEAR + b"b" * 8
CONFIG = replace(
    preset("test"), fetch_piece_bytes=10, fetch_window_bytes=30, fetch_peer_max_bytes=40, fetch_max_bytes=60,
    fetches_max=3, fetch_seeks_max=3, store_credit_bytes=100,
)  # fmt: skip


def place(number: int = 1, size: int = 100, node: bytes = MAKER) -> m.Place:
    return m.Place(object_of(OWNER + b"process-" + number.to_bytes(8, "big"), 0), node, f"{'ab' * 8}-{number}", size)


class Peer:
    """The core, what it said, and its files. Room is there when `room` says so."""

    def __init__(self, room: int = 1 << 20) -> None:
        self.core = Fetches(CONFIG, NEAR, lambda size: size, self._in_transit, lambda node: f"<{node.hex()}>")
        self.transit: set[str] = set()  # segments of which some is on its way to another host
        self.room = room
        self.files: dict[str, bytearray] = {}
        self.sealed: set[str] = set()
        self.kept: list[CopyKept] = []  # what was told of copies that are to be kept
        self.now = 0.0

    def _in_transit(self, segment: str) -> bool:
        return segment in self.transit

    def said(self, *kinds: type) -> list[tuple[bytes, Any]]:
        """Without what is between this core and the store."""
        said: list[tuple[bytes, Any]] = []
        while effects := self.core.take_effects():
            for effect in effects:
                if isinstance(effect, OpenCopy):
                    assert effect.fresh != (effect.segment in self.files)
                    self.files[effect.segment] = bytearray(effect.capacity)
                    self.sealed.discard(effect.segment)
                elif isinstance(effect, WriteCopy):
                    data = b"".join(effect.data)
                    self.files[effect.segment][effect.offset : effect.offset + len(data)] = data
                elif isinstance(effect, SealCopy):
                    self.sealed.add(effect.segment)
                    self.core.on_sealed(effect.segment, self.now)
                elif isinstance(effect, DropCopy):
                    del self.files[effect.segment]
                elif isinstance(effect, Send) and isinstance(effect.message, m.CreditRequest):
                    self.answer(effect.message)
                elif isinstance(effect, Send) and isinstance(effect.message, m.PoolTrimmed):
                    self.room += effect.message.size
                elif isinstance(effect, CopyKept):
                    self.kept.append(effect)
                else:
                    said.append((effect.to, effect.message))
            self.core.check()
        return [each for each in said if not kinds or type(each[1]) in kinds]

    def answer(self, request: m.CreditRequest) -> None:
        if request.size <= self.room:
            self.room -= request.size
            self.core.on_granted(m.CreditGranted(request.request, request.size), self.now)
        else:
            failure = m.Failure("ObjectStoreFullError", "full")
            self.core.on_granted(m.CreditGranted(request.request, 0, failure), self.now)

    def bring(self, process: bytes, what: m.Place, request: int = 1) -> None:
        self.core.on_bring(process, m.Bring(request, what), self.now)

    def found(self, what: m.Place, *peers: bytes) -> None:
        self.core.on_found(peer_of(OWNER), m.Found(what, list(peers)), self.now)

    def serve(self, pulls: list[tuple[bytes, Any]]) -> None:
        """Whoever was asked answers."""
        for to, pull in pulls:
            data = bytes((pull.offset + i) % 251 for i in range(pull.size))
            self.core.on_piece(to, m.Piece(pull.place, pull.offset, [memoryview(data)]), self.now)

    def serve_all(self) -> list[tuple[bytes, Any]]:
        """Until nothing is asked for any more; what else was said."""
        rest: list[tuple[bytes, Any]] = []
        while True:
            said = self.said()
            pulls = [each for each in said if isinstance(each[1], m.Pull)]
            rest += [each for each in said if not isinstance(each[1], m.Pull)]
            if not pulls:
                return rest
            self.serve(pulls)


@pytest.fixture
def peer() -> Peer:
    return Peer()


def fetched(peer: Peer, what: m.Place, process: bytes = A) -> m.Place:
    """Bring it, by the way."""
    peer.bring(process, what)
    peer.said()
    peer.found(what, peer_of(MAKER))
    ((_, brought),) = [each for each in peer.serve_all() if isinstance(each[1], m.Brought)]
    assert brought.place is not None
    return brought.place


# -- fetching ----------------------------------------------------------------------------------------------------------


def test_the_owner_is_asked_who_has_it_and_pieces_come_in_order(peer: Peer) -> None:
    what = place()
    peer.bring(A, what)
    assert peer.said() == [(peer_of(OWNER), m.Seek(what))]
    peer.found(what, peer_of(MAKER))
    assert [(to, pull.offset) for to, pull in peer.said()] == [(peer_of(MAKER), at) for at in (0, 10, 20)]
    peer.core.on_piece(peer_of(MAKER), m.Piece(what, 0, [memoryview(bytes(10))]), peer.now)
    assert [pull.offset for _, pull in peer.said()] == [30]
    peer.serve([(peer_of(MAKER), m.Pull(what, at, 10)) for at in (10, 20, 30)])
    said = peer.serve_all()
    (segment,) = peer.files
    local = m.Place(what.object_id, NEAR, segment, 100)
    assert said == [(peer_of(OWNER), m.Whole([what])), (A, m.Brought(1, local))]
    assert peer.sealed == {segment}
    assert peer.files[segment][10:] == bytes(i % 251 for i in range(10, 100))


def test_one_piece_does_not_wait_for_the_owner(peer: Peer) -> None:
    what = place(size=10)
    peer.bring(A, what)
    assert peer.said() == [(peer_of(OWNER), m.Seek(what)), (peer_of(MAKER), m.Pull(what, 0, 10))]


def test_all_processes_of_a_host_share_one_copy(peer: Peer) -> None:
    what = place()
    peer.bring(A, what, 1)
    peer.bring(B, what, 2)
    peer.bring(A, what, 3)
    peer.said()
    peer.found(what, peer_of(MAKER))
    brought = [(to, message.request) for to, message in peer.serve_all() if isinstance(message, m.Brought)]
    assert brought == [(A, 1), (B, 2), (A, 3)]
    peer.bring(B, what, 4)
    assert [message.request for _, message in peer.said(m.Brought)] == [4]
    assert peer.core.stats().fetched == 1


def test_what_is_here_is_not_fetched(peer: Peer) -> None:
    here = place(node=NEAR)
    peer.bring(A, here)
    assert peer.said() == [(A, m.Brought(1, here))]


def test_bytes_in_flight_are_bounded_per_value_per_peer_and_in_all(peer: Peer) -> None:
    for number, node in ((1, MAKER), (2, MAKER), (3, THIRD), (4, THIRD)):
        peer.bring(A, place(number, node=node), number)
    assert len(peer.said(m.Seek)) == 3, "no more than `fetches_max` at a time"
    for number, node in ((1, MAKER), (2, MAKER), (3, THIRD)):
        peer.found(place(number, node=node), peer_of(node))
    asked: dict[bytes, int] = {}
    for to, pull in peer.said(m.Pull):
        asked[to] = asked.get(to, 0) + pull.size
    assert asked == {peer_of(MAKER): 40, peer_of(THIRD): 20}


# -- sources that fail -------------------------------------------------------------------------------------------------


def began(peer: Peer, what: m.Place, *sources: bytes) -> None:
    """Its first 20 bytes are here."""
    peer.bring(A, what)
    peer.said()
    peer.found(what, *sources)
    peer.serve(peer.said(m.Pull)[:2])
    peer.said()


@pytest.mark.fault(30)
def test_a_source_that_is_gone_is_replaced_where_it_stood(peer: Peer) -> None:
    what = place()
    began(peer, what, peer_of(THIRD), peer_of(MAKER))
    peer.core.on_host_gone(THIRD, peer.now)
    assert [(to, pull.offset) for to, pull in peer.said()] == [(peer_of(MAKER), at) for at in (20, 30, 40)]
    peer.core.on_piece(peer_of(THIRD), m.Piece(what, 20, [memoryview(b"too late .."[:10])]), peer.now)
    assert peer.core.stats().stale == 1
    peer.serve([(peer_of(MAKER), m.Pull(what, at, 10)) for at in (20, 30, 40)])
    assert any(isinstance(message, m.Brought) for _, message in peer.serve_all())
    assert peer.core.stats().resumed == 1


@pytest.mark.fault(31)
def test_a_source_that_stalls_is_left(peer: Peer) -> None:
    what = place()
    began(peer, what, peer_of(THIRD), peer_of(MAKER))
    due = peer.core.next_deadline()
    assert due == CONFIG.fetch_stall_s
    peer.core.tick(due)
    assert {to for to, _ in peer.said(m.Pull)} == {peer_of(MAKER)}


def stall(peer: Peer) -> list[tuple[bytes, Any]]:
    """Nothing comes for so long; what is said then."""
    due = peer.core.next_deadline()
    assert due is not None
    peer.now = due
    peer.core.tick(due)
    return peer.said()


@pytest.mark.fault(19, 31)
def test_the_only_source_is_waited_for_however_slow_it_is(peer: Peer) -> None:
    what = place()
    began(peer, what, peer_of(MAKER))
    seeks = [each for _ in range(3 * CONFIG.fetch_seeks_max) for each in stall(peer)]
    assert seeks == [(peer_of(OWNER), m.Seek(what))], "somebody else may have it by now"
    peer.found(what, peer_of(MAKER))
    peer.serve([(peer_of(MAKER), m.Pull(what, at, 10)) for at in (20, 30, 40)])
    assert any(isinstance(message, m.Brought) and message.place for _, message in peer.serve_all())


@pytest.mark.fault(31)
def test_what_a_source_sends_that_was_left_for_being_slow_counts(peer: Peer) -> None:
    what = place()
    began(peer, what, peer_of(THIRD), peer_of(MAKER))
    stall(peer)
    peer.serve([(peer_of(THIRD), m.Pull(what, 20, 10))])
    assert [(to, pull.offset) for to, pull in peer.said()] == [(peer_of(THIRD), at) for at in (30, 40, 50)]
    peer.serve([(peer_of(MAKER), m.Pull(what, 20, 10))])  # it has come already
    assert peer.core.stats().stale == 1
    peer.serve([(peer_of(MAKER), m.Pull(what, 30, 10))])
    assert {to for to, _ in peer.said()} == {peer_of(MAKER)}
    peer.core.on_piece(peer_of(THIRD), m.Piece(what, 40, [memoryview(bytes(90))]), peer.now)  # nobody asked for so much
    assert {to for to, _ in peer.said()} == {peer_of(MAKER)}
    peer.serve([(peer_of(MAKER), m.Pull(what, at, 10)) for at in (40, 50, 60)])
    assert any(isinstance(message, m.Brought) and message.place for _, message in peer.serve_all())


@pytest.mark.fault(30, 31)
@pytest.mark.parametrize("gone", [True, False])
def test_a_slow_source_is_the_source_again_when_nobody_else_is_left(peer: Peer, gone: bool) -> None:
    what = place()
    began(peer, what, peer_of(THIRD), peer_of(MAKER))
    stall(peer)
    peer.core.on_no_piece(peer_of(MAKER), m.NoPiece(what), peer.now)
    assert [(to, pull.offset) for to, pull in peer.said()] == [(peer_of(THIRD), at) for at in (20, 30, 40)]
    if gone:
        peer.core.on_host_gone(THIRD, peer.now)
    else:
        peer.core.on_no_piece(peer_of(THIRD), m.NoPiece(what), peer.now)
    for _ in range(CONFIG.fetch_seeks_max):
        peer.found(what, peer_of(THIRD), peer_of(MAKER))
    assert [message.failure.kind for _, message in peer.said(m.Brought)] == ["ObjectLostError"]


def test_who_has_it_no_more_says_so_and_the_owner_is_asked_again(peer: Peer) -> None:
    what = place()
    began(peer, what, peer_of(MAKER))
    peer.core.on_no_piece(peer_of(THIRD), m.NoPiece(what), peer.now)  # nobody asked that one
    assert peer.said() == []
    peer.core.on_no_piece(peer_of(MAKER), m.NoPiece(what), peer.now)
    assert peer.said() == [(peer_of(OWNER), m.Seek(what))]
    peer.found(what, peer_of(MAKER), peer_of(THIRD))
    assert {to for to, _ in peer.said()} == {peer_of(THIRD)}


@pytest.mark.fault(5)
def test_when_nobody_is_left_it_is_lost_and_everybody_who_waits_hears_it(peer: Peer) -> None:
    what = place()
    began(peer, what, peer_of(MAKER))
    peer.bring(B, what, 2)
    peer.core.on_host_gone(MAKER, peer.now)
    for _ in range(CONFIG.fetch_seeks_max):
        peer.found(what, peer_of(MAKER))
    said = peer.said()
    lost = [(to, message.failure.kind) for to, message in said if isinstance(message, m.Brought)]
    assert lost == [(A, "ObjectLostError"), (B, "ObjectLostError")]
    assert (peer_of(OWNER), m.CopiesGone([what])) in said
    assert peer.core.stats().fetching == 0
    peer.bring(A, what, 3)  # maybe it can be had again
    assert peer.said(m.Seek)


@pytest.mark.fault(22)
def test_a_place_of_which_its_owners_peer_has_not_heard_is_tried(peer: Peer) -> None:
    """It was made again behind a partition, and the word of that is slower than the question."""
    what = place()
    peer.bring(A, what)
    peer.said()
    peer.found(what)
    assert {to for to, _ in peer.said(m.Pull)} == {peer_of(MAKER)}
    peer.core.on_no_piece(peer_of(MAKER), m.NoPiece(what), peer.now)
    while peer.said(m.Seek):
        peer.found(what)
    peer.bring(A, what, 2)
    peer.said()
    peer.core.on_host_gone(MAKER, peer.now)
    for _ in range(CONFIG.fetch_seeks_max):
        peer.found(what)
    ((_, brought),) = peer.said(m.Brought)
    told = brought.failure.message
    assert f"100 bytes that lay on <{MAKER.hex()}> cannot be had any more" in told
    assert "its owner's host does not know of it any more; nothing had come, no host could be tried" in told


def test_hosts_that_are_gone_meanwhile_and_had_nothing_of_it_were_not_tried(peer: Peer) -> None:
    peer.bring(A, place())
    peer.said()
    peer.core.on_host_gone(THIRD, peer.now)
    peer.core.on_host_gone(OWNER, peer.now)
    peer.core.on_host_gone(MAKER, peer.now)
    ((_, brought),) = peer.said(m.Brought)
    assert "nothing had come, 1 host was tried" in brought.failure.message


def test_a_value_that_was_made_twice_expires_twice(peer: Peer) -> None:
    one, other = place(1), m.Place(place(1).object_id, MAKER, f"{'ab' * 8}-2", 100)
    here = [fetched(peer, what) for what in (one, other)]
    peer.core.on_unused(A, m.Unused([copy.segment for copy in here]))
    peer.core.on_expired(peer_of(OWNER), m.Expired([one.object_id]))
    assert [peer.core.look_up(what) for what in (one, other)] == [None, None]
    peer.core.check()


@pytest.mark.fault(5)
def test_without_its_owner_it_comes_from_its_place_or_not_at_all(peer: Peer) -> None:
    what, other = place(1), place(2)
    peer.bring(A, what, 1)
    peer.bring(B, other, 2)
    peer.said()
    peer.core.on_host_gone(OWNER, peer.now)
    assert {to for to, _ in peer.said(m.Pull)} == {peer_of(MAKER)}
    peer.core.on_no_piece(peer_of(MAKER), m.NoPiece(other), peer.now)
    assert [message.failure.kind for _, message in peer.said(m.Brought)] == ["ObjectLostError"]


def test_a_source_that_sends_what_nobody_asked_for_is_left(peer: Peer) -> None:
    what = place()
    began(peer, what, peer_of(THIRD), peer_of(MAKER))
    peer.core.on_piece(peer_of(THIRD), m.Piece(what, 20, [memoryview(bytes(90))]), peer.now)
    assert {to for to, _ in peer.said(m.Pull)} == {peer_of(MAKER)}


# -- room --------------------------------------------------------------------------------------------------------------


def test_without_room_whoever_waits_hears_why() -> None:
    peer = Peer(room=50)
    peer.bring(A, place())
    ((to, brought),) = peer.said()
    assert (to, brought.failure.kind) == (A, "ObjectStoreFullError")


def test_what_nobody_uses_goes_when_the_store_is_full(peer: Peer) -> None:
    one, two = place(1), place(2)
    used = fetched(peer, one, A)
    unused = fetched(peer, two, B)
    peer.core.on_unused(B, m.Unused([unused.segment, used.segment]))  # of `used` it is no user
    peer.core.on_trim_pool()
    assert peer.said() == [(peer_of(OWNER), m.CopiesGone([two]))]
    assert set(peer.files) == {used.segment}
    assert peer.core.charged == 100
    peer.core.on_process_died(A)
    peer.core.on_trim_pool()
    peer.said()
    assert not peer.files
    assert peer.core.charged == 0


@pytest.mark.fault(37)
def test_a_file_that_cannot_be_written_fails_the_fetch(peer: Peer) -> None:
    peer.bring(A, place())
    peer.said()
    (segment,) = peer.files
    peer.core.on_file_failed(segment, m.Failure("OutOfDiskError", "no space"), peer.now)
    assert [message.failure.kind for _, message in peer.said(m.Brought)] == ["OutOfDiskError"]
    assert not peer.files, "nobody knows what is in it: it is not written again"
    assert peer.core.charged == 0
    assert peer.room == 1 << 20


@pytest.mark.fault(36, 37)
def test_nobody_has_a_value_before_its_file_is_known_to_be_complete(peer: Peer) -> None:
    what = place(size=10)
    peer.bring(A, what)
    peer.said()
    (segment,) = peer.files
    peer.core.on_piece(peer_of(MAKER), m.Piece(what, 0, [memoryview(bytes(10))]), peer.now)
    effects = peer.core.take_effects()
    assert [type(effect) for effect in effects] == [WriteCopy, SealCopy], "and no word to anybody"
    peer.bring(B, what, 2)
    peer.core.on_host_gone(MAKER, peer.now)  # it is not needed any more
    peer.core.on_no_piece(peer_of(MAKER), m.NoPiece(what), peer.now)
    assert peer.core.next_deadline() is None
    peer.core.check()
    peer.core.on_file_failed(segment, m.Failure("ObjectStoreFullError", "no room"), peer.now)
    peer.core.on_sealed(segment, peer.now)  # the write had failed, and the stamp had not
    said = [effect for effect in peer.core.take_effects() if not isinstance(effect, DropCopy)]
    brought = [(effect.to, effect.message.failure.kind) for effect in said if isinstance(effect.message, m.Brought)]
    assert brought == [(A, "ObjectStoreFullError"), (B, "ObjectStoreFullError")]
    assert not any(isinstance(effect.message, m.Whole) for effect in said)
    assert peer.core.stats().fetched == 0
    peer.core.check()


def test_a_freed_file_is_written_again_and_then_removed(peer: Peer) -> None:
    one, two = place(1), place(2, size=90)
    local = fetched(peer, one)
    peer.core.on_unused(A, m.Unused([local.segment]))
    peer.core.on_expired(peer_of(OWNER), m.Expired([one.object_id]))
    peer.now = 0.5
    assert fetched(peer, two).segment == local.segment
    peer.core.on_unused(A, m.Unused([local.segment]))
    peer.core.on_expired(peer_of(OWNER), m.Expired([two.object_id]))
    due = peer.core.next_deadline()
    assert due is not None
    peer.core.tick(due)
    peer.said()
    assert not peer.files
    assert peer.core.next_deadline() is None


def test_a_freed_file_of_which_some_is_on_its_way_to_another_host_is_removed(peer: Peer) -> None:
    one, two = place(1), place(2)
    local = fetched(peer, one)
    peer.core.on_unused(A, m.Unused([local.segment]))
    peer.transit.add(local.segment)
    peer.core.on_expired(peer_of(OWNER), m.Expired([one.object_id]))
    peer.said()
    assert local.segment not in peer.files
    peer.core.check()
    assert fetched(peer, two).segment != local.segment
    peer.core.check()


# -- the end of objects ------------------------------------------------------------------------------------------------


def test_a_copy_of_an_object_that_is_gone_stays_under_a_view(peer: Peer) -> None:
    what = place()
    local = fetched(peer, what)
    peer.core.on_expired(peer_of(THIRD), m.Expired([what.object_id]))  # not its object
    peer.core.on_expired(peer_of(OWNER), m.Expired([what.object_id]))
    assert peer.core.look_up(what) == (local.segment, 100)
    peer.core.on_unused(A, m.Unused([local.segment]))
    assert peer.core.look_up(what) is None


@pytest.mark.fault(5)
def test_copies_of_a_dead_owner_go_when_nobody_uses_them(peer: Peer) -> None:
    local = fetched(peer, place())
    peer.core.on_host_gone(OWNER, peer.now)
    assert peer.core.stats().whole == 1
    peer.core.on_unused(A, m.Unused([local.segment]))
    assert peer.core.stats().whole == 0


@pytest.mark.fault(16)
def test_what_this_peer_keeps_for_others_is_known(peer: Peer) -> None:
    what = place(1)
    fetched(peer, place(2))
    assert peer.core.kept() == []
    peer.core.on_bring(peer_of(NEAR), m.Bring(7, what), peer.now)
    assert peer.core.kept() == [], "it has not come yet"
    peer.said()
    peer.found(what, peer_of(MAKER))
    peer.serve_all()
    assert peer.core.kept() == [what]


# -- copies that are to be kept ----------------------------------------------------------------------------------------


def test_a_kept_copy_stays_whatever_becomes_of_its_object_until_it_is_let_go_of(peer: Peer) -> None:
    what = place()
    peer.core.keep(what, peer_of(MAKER), peer.now)
    peer.said()
    peer.found(what, peer_of(MAKER))
    peer.serve_all()
    assert peer.kept == [CopyKept(what)]
    peer.core.keep(what, peer_of(THIRD), peer.now)
    peer.said()
    assert peer.kept == [CopyKept(what)] * 2
    peer.core.on_trim_pool()
    peer.core.on_expired(peer_of(OWNER), m.Expired([what.object_id]))
    peer.core.on_host_gone(OWNER, peer.now)
    peer.core.on_host_gone(MAKER, peer.now)
    assert peer.said() == []
    assert peer.core.stats().whole == 1
    peer.bring(A, what)
    ((_, brought),) = peer.said()
    assert brought.place.node == NEAR
    peer.core.let_go(what)
    peer.said()
    assert peer.core.stats().whole == 1, "somebody reads it"
    peer.core.on_unused(A, m.Unused([brought.place.segment]))
    peer.said()
    assert peer.core.stats().whole == 0
    peer.core.let_go(what)


def test_one_that_was_let_go_of_is_a_copy_like_any(peer: Peer) -> None:
    what = place()
    peer.core.keep(what, peer_of(MAKER), peer.now)
    peer.core.let_go(what)
    peer.said()
    peer.found(what, peer_of(MAKER))
    peer.serve_all()
    assert peer.kept == []
    peer.core.on_trim_pool()
    peer.said()
    assert peer.core.stats().whole == 0


@pytest.mark.parametrize("size", [100, 5])
def test_it_comes_from_whoever_keeps_it_when_its_owner_and_its_maker_are_gone(peer: Peer, size: int) -> None:
    what = place(size=size)
    peer.core.keep(what, peer_of(THIRD), peer.now)
    pulls = peer.said(m.Pull)
    peer.core.on_host_gone(OWNER, peer.now)
    peer.core.on_host_gone(MAKER, peer.now)
    peer.serve(pulls)
    peer.serve_all()
    assert peer.kept == [CopyKept(what)]


def test_who_is_named_first_is_not_asked_for_ever(peer: Peer) -> None:
    what = place()
    peer.core.keep(what, peer_of(THIRD), peer.now)
    peer.said()
    peer.found(what)
    ((to, _), *_) = peer.said(m.Pull)
    assert to == peer_of(THIRD)
    peer.core.on_no_piece(peer_of(THIRD), m.NoPiece(what), peer.now)
    assert {to for to, _ in peer.said(m.Pull)} == {peer_of(MAKER)}
    peer.core.on_host_gone(MAKER, peer.now)
    peer.core.on_host_gone(OWNER, peer.now)
    peer.said()
    ((kept,),) = [peer.kept]
    assert kept.failure is not None
    assert kept.failure.kind == "ObjectLostError"
    assert peer.core.stats().whole == peer.core.stats().fetching == 0


def test_it_is_told_that_there_is_no_room_for_it() -> None:
    peer = Peer(room=10)
    peer.core.keep(place(), peer_of(MAKER), peer.now)
    peer.said()
    ((kept,),) = [peer.kept]
    assert kept.failure is not None
    assert kept.failure.kind == "ObjectStoreFullError"


def test_of_a_copy_that_is_to_be_kept_others_may_wait_for_pieces_before_there_is_room(peer: Peer) -> None:
    """They were told of it at once; other copies are told of when they have a file."""
    peers = Peer(), Peer()
    for each in peers:
        each.answer = lambda request: None  # type: ignore[method-assign]
    kept, brought = peers
    kept.core.keep(place(), peer_of(THIRD), 0.0)
    brought.bring(A, place())
    assert [each.said() for each in peers] == [[], []]
    assert [each.core.look_up(place()) for each in peers] == [("", 0), None]


@pytest.mark.fault(30)
def test_a_keeper_that_has_missed_it_is_not_asked_until_it_says_otherwise(peer: Peer) -> None:
    what = place()
    peer.core.keep(what, peer_of(THIRD), peer.now)
    peer.said()
    peer.found(what, peer_of(MAKER))
    assert {to for to, _ in peer.said(m.Pull)} == {peer_of(MAKER)}
    peer.core.on_no_piece(peer_of(THIRD), m.NoPiece(what), peer.now)
    peer.core.on_no_piece(peer_of(MAKER), m.NoPiece(what), peer.now)
    assert [message for _, message in peer.said()] == [m.Seek(what)], "it was not asked again"
    peer.core.keep(what, peer_of(THIRD), peer.now)
    peer.core.on_host_gone(OWNER, peer.now)
    assert {to for to, _ in peer.said(m.Pull)} == {peer_of(THIRD)}


def test_who_has_lost_the_file_of_its_own_value_and_keeps_a_copy_does_not_forget_that(peer: Peer) -> None:
    what = place(node=NEAR)
    peer.core.keep(what, peer_of(THIRD), peer.now)
    peer.said()
    peer.bring(A, what)
    assert [message.place for _, message in peer.said(m.Brought)] == [what]
    assert peer.core.look_up(what) is not None
