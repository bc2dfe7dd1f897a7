"""Who is linked with whom: Hellos, refusals, replacement, the dead. Tables speak to each other, message by message."""

from __future__ import annotations

import msgspec
import pytest

from meshray.config import DEFAULT
from meshray.core.link_effects import (
    Answered,
    Delivered,
    Dial,
    Effect,
    Forget,
    PeerDown,
    PeerUp,
    Probed,
    SelfDialled,
    TurnedAway,
)
from meshray.core.links import STALE_MAX, Links, UnknownPeer, where
from meshray.core.sessions import WITH_ANSWER_S
from meshray.wire.peers import (
    ANYBODY,
    EPOCH_MAX,
    PROTOCOL,
    Ack,
    Data,
    Datagram,
    Hello,
    Plane,
    Reason,
    Refused,
    Welcome,
)

A, B, C = b"node---a", b"node---b", b"node---c"
WHERE = {A: "10.0.0.1:7000", B: "10.0.0.2:7000", C: "10.0.0.2:7000"}  # C starts where B was
CONFIG = msgspec.structs.replace(DEFAULT, links_max=3, links_gone_max=2, link_kept_max_messages=2)


def table(node: bytes, mesh: str = "mesh", python: str = "3.11") -> Links:
    return Links(node, mesh, python, [WHERE[node]], "key", CONFIG)


class Wire:
    """Moves frames between tables until all is quiet; addresses lead to whoever listens there."""

    def __init__(self, *tables: Links) -> None:
        self.tables = {WHERE[one.node]: one for one in tables}
        self.targets: dict[tuple[bytes, bytes], str] = {}
        self.told: dict[bytes, list[Effect]] = {one.node: [] for one in tables}

    def run(self, now: float = 0.0) -> None:
        moved = True
        while moved:
            moved = False
            for one in list(self.tables.values()):
                self.perform(one)
                while (frame := one.next_frame(now)) is not None:
                    moved = True
                    other = self.tables.get(self.targets[one.node, frame.target])
                    one.taken(frame, now)
                    if other is not None and (frame.destination == other.node or isinstance(frame.message, Hello)):
                        host = WHERE[one.node].partition(":")[0]
                        payload = frame.payload or b""
                        other.receive(frame.destination, one.node, host, frame.message, payload, now)
                    self.perform(one)

    def perform(self, one: Links) -> None:
        for effect in one.take_effects():
            if isinstance(effect, Dial):
                self.targets[one.node, effect.target] = effect.address
            elif not isinstance(effect, Forget):
                self.told.setdefault(one.node, []).append(effect)


def linked() -> tuple[Links, Links, Wire]:
    a, b = table(A), table(B)
    wire = Wire(a, b)
    a.dial(WHERE[B], 0.0)
    wire.run()
    wire.told = {A: [], B: []}
    return a, b, wire


def test_a_seed_is_dialled_and_both_are_up() -> None:
    a, b = table(A), table(B)
    wire = Wire(a, b)
    a.dial(WHERE[B], 0.0)
    wire.run()
    answered = Answered(WHERE[B], B)
    assert wire.told == {A: [PeerUp(B, WHERE[B], "3.11", True), answered], B: [PeerUp(A, WHERE[A], "3.11", True)]}


def test_both_dial_at_once_and_are_up_once() -> None:
    a, b = table(A), table(B)
    wire = Wire(a, b)
    a.dial(WHERE[B], 0.0)
    b.connect(A, WHERE[A], 0.0)
    b.dial(WHERE[A], 0.0)
    wire.run()
    assert [sum(isinstance(effect, PeerUp) for effect in told) for told in wire.told.values()] == [1, 1]


def test_messages_on_both_planes() -> None:
    a, b, wire = linked()
    a.send(B, Plane.CONTROL, b"one", 0.0)
    a.send(B, Plane.BULK, b"two", 0.0)
    b.send(A, Plane.CONTROL, b"three", 0.0)
    wire.run()
    assert wire.told[B] == [Delivered(A, Plane.CONTROL, b"one"), Delivered(A, Plane.BULK, b"two")]
    assert wire.told[A] == [Delivered(B, Plane.CONTROL, b"three")]
    assert a.portion(B, Plane.CONTROL, 1000) > 0


def test_what_is_sent_before_the_link_is_up_waits_for_it() -> None:
    a, b = table(A), table(B)
    wire = Wire(a, b)
    a.connect(B, WHERE[B], 0.0)
    a.send(B, Plane.CONTROL, b"early", 0.0)
    wire.run()
    assert wire.told[B][-1] == Delivered(A, Plane.CONTROL, b"early")


def test_a_link_says_whose_lives_it_joins() -> None:
    a, b = table(A), table(B)
    a.belong(b"home---a", 1)
    b.belong(b"home---b", 3)
    wire = Wire(a, b)
    a.dial(WHERE[B], 0.0)
    wire.run()
    assert wire.told[A][0] == PeerUp(B, WHERE[B], "3.11", True, b"home---b", 3)
    assert wire.told[B][0] == PeerUp(A, WHERE[A], "3.11", True, b"home---a", 1)


def tick_on(one: Links, until: float) -> None:
    """As a shell does, whose sockets take everything and lead nowhere."""
    while (at := one.next_at()) is not None and at <= until:
        one.tick(at)
        while (frame := one.next_frame(at)) is not None:
            one.taken(frame, at)


@pytest.mark.fault(24)
@pytest.mark.parametrize("socket_takes", [True, False])
def test_one_that_acknowledges_nothing_is_given_up(socket_takes: bool) -> None:
    a, _, _ = linked()
    a.take_effects()
    tick_on(a, 1000.0)
    assert a.take_effects() == []  # it owes nothing
    a.send(B, Plane.CONTROL, b"lost", 1000.0)
    while (frame := a.next_frame(1000.0)) is not None:
        if socket_takes:
            a.taken(frame, 1000.0)
        else:
            a.not_taken(frame)
    tick_on(a, 1000.0 + CONFIG.link_stall_s - 0.1)
    assert a.take_effects() == []
    tick_on(a, 1000.0 + CONFIG.link_stall_s + 0.1)
    assert PeerDown(B, Reason.OTHER, "it acknowledges nothing any more") in a.take_effects()


def test_one_that_was_away_itself_gives_up_nobody() -> None:
    a, _, _ = linked()
    a.send(B, Plane.CONTROL, b"lost", 0.0)
    while (frame := a.next_frame(0.0)) is not None:
        a.taken(frame, 0.0)
    a.take_effects()
    a.tick(10 * CONFIG.link_stall_s)
    assert a.take_effects() == []
    assert a.knows(B)
    assert a.backlog(B, Plane.CONTROL) == len(b"lost")


def test_a_stranger_cannot_be_sent_anything() -> None:
    with pytest.raises(UnknownPeer):
        table(A).send(B, Plane.CONTROL, b"", 0.0)


def test_a_datagram_needs_no_link() -> None:
    a = table(A)
    a.receive(A, B, "10.0.0.2", Datagram(), b"ping", 0.0)
    assert a.take_effects() == [Probed(B, b"ping")]


@pytest.mark.fault(54)
def test_another_mesh_is_refused_and_both_know() -> None:
    a, b = table(A), table(B, mesh="other")
    wire = Wire(a, b)
    a.dial(WHERE[B], 0.0)
    wire.run()
    text = "who refuses belongs to mesh other, the other to mesh mesh"
    assert wire.told == {
        A: [TurnedAway(WHERE[B], Reason.MESH, text)],
        B: [TurnedAway(WHERE[A], Reason.MESH, text)],
    }
    b.tick(CONFIG.link_refusal_s)
    assert list(a) == list(b) == []


@pytest.mark.fault(52)
def test_another_protocol_is_refused_and_both_know() -> None:
    b = table(B)
    b.receive(ANYBODY, A, "10.0.0.1", Hello(0, "mesh", "3.11", 5, [WHERE[A]]), b"", 0.0)
    frame = b.next_frame(0.0)
    assert frame is not None
    text = "who refuses speaks version 1 of the protocol, the other version 0"
    assert (frame.destination, frame.message) == (A, Refused(5, Reason.PROTOCOL, text))
    assert TurnedAway(WHERE[A], Reason.PROTOCOL, text) in b.take_effects()

    a = table(A)
    a.dial(WHERE[B], 0.0)
    hello = a.next_frame(0.0)
    assert hello is not None
    assert isinstance(hello.message, Hello)
    a.receive(A, B, "10.0.0.2", Refused(hello.message.number, Reason.PROTOCOL, text), b"", 0.0)
    assert a.take_effects()[-1] == TurnedAway(WHERE[B], Reason.PROTOCOL, text)


@pytest.mark.fault(52, 54)
@pytest.mark.parametrize("reason", [Reason.PROTOCOL, Reason.MESH])
def test_who_is_none_of_us_is_not_listened_to_without_a_link_either(reason: Reason) -> None:
    """Whichever end has found it out, now and later."""
    strange = Hello(0, "mesh", "3.11", 5, [WHERE[A]])
    if reason is Reason.MESH:
        strange = Hello(PROTOCOL, "other", "3.11", 5, [WHERE[A]])
    b = table(B)
    b.receive(ANYBODY, A, "10.0.0.1", strange, b"", 0.0)
    a = table(A)
    a.dial(WHERE[B], 0.0)
    hello = a.next_frame(0.0)
    assert hello is not None
    assert isinstance(hello.message, Hello)
    a.receive(A, B, "10.0.0.2", Refused(hello.message.number, reason, "it says why"), b"", 0.0)
    for one, other in ((a, B), (b, A)):
        one.tick(CONFIG.link_refusal_s)
        one.take_effects()
        assert list(one) == []
        assert one.is_strange(other)
        one.connect(other, WHERE[other], 10.0)
        one.receive(one.node, other, "10.0.0.9", Datagram(), b"let me join", 10.0)
        assert one.take_effects() == []
        assert one.stale == 1


def test_a_welcome_of_another_protocol_is_refused_as_well() -> None:
    a = table(A)
    a.dial(WHERE[B], 0.0)
    hello = a.next_frame(0.0)
    assert hello is not None
    assert isinstance(hello.message, Hello)
    a.receive(A, B, "10.0.0.2", Welcome(2, "mesh", "3.11", hello.message.number, [WHERE[B]]), b"", 0.0)
    assert [effect.reason for effect in a.take_effects() if isinstance(effect, TurnedAway)] == [Reason.PROTOCOL]
    frame = a.next_frame(0.0)
    assert frame is not None
    assert isinstance(frame.message, Refused)
    assert frame.message.number == 0, "the number was ours, and may be that of another Hello of the other side"


@pytest.mark.fault(51)
def test_another_minor_version_of_python_is_up_and_marked() -> None:
    a, b = table(A), table(B, python="3.12")
    wire = Wire(a, b)
    a.dial(WHERE[B], 0.0)
    wire.run()
    answered = Answered(WHERE[B], B)
    assert wire.told == {A: [PeerUp(B, WHERE[B], "3.12", False), answered], B: [PeerUp(A, WHERE[A], "3.11", False)]}


@pytest.mark.fault(34)
def test_a_peer_that_dials_itself_notices() -> None:
    a = table(A)
    wire = Wire(a)
    a.dial(WHERE[A], 0.0)
    a.connect(A, WHERE[A], 0.0)
    wire.run()
    assert wire.told == {A: [SelfDialled(WHERE[A])]}
    assert list(a) == []


@pytest.mark.fault(17)
def test_a_newcomer_at_the_same_address_ends_the_old_link() -> None:
    a, _, wire = linked()
    a.send(B, Plane.CONTROL, b"for B only", 0.0)
    c = table(C)
    wire.tables[WHERE[C]] = c
    c.dial(WHERE[A], 0.0)
    wire.run()
    assert wire.told[A] == [
        PeerUp(C, WHERE[C], "3.11", True),
        PeerDown(B, Reason.REPLACED, "another peer has started at its address"),
    ]
    assert [effect for effect in wire.told[C] if isinstance(effect, Delivered)] == []


@pytest.mark.fault(17)
def test_our_hello_on_a_new_connection_finds_the_newcomer() -> None:
    a, _, wire = linked()
    c = table(C)
    wire.tables[WHERE[C]] = c
    a.on_ready(B, Plane.CONTROL, fresh=True, now=0.0)
    wire.run()
    assert [effect.reason for effect in wire.told[A] if isinstance(effect, PeerDown)] == [Reason.REPLACED]


@pytest.mark.fault(17)
def test_a_late_hello_of_a_dead_predecessor_does_not_end_the_link_to_its_successor() -> None:
    """It was in the network, or in a socket, while its sender died and another one started there."""
    a, c = table(A), table(C)
    wire = Wire(a, c)
    c.dial(WHERE[A], 0.0)
    wire.run()
    wire.told = {A: [], C: []}
    a.receive(ANYBODY, B, "10.0.0.2", Hello(1, "mesh", "3.11", 1, [WHERE[B]]), b"", 0.0)
    a.send(C, Plane.CONTROL, b"for C", 0.0)
    wire.run()
    assert wire.told[C] == [Delivered(A, Plane.CONTROL, b"for C")]
    assert downs(wire.told[A]) == [PeerDown(B, Reason.REPLACED, "refused: another peer has started at this address")]
    assert a.knows(C)


@pytest.mark.fault(17)
@pytest.mark.parametrize("named", [False, True])
def test_nor_does_its_late_answer(named: bool) -> None:
    """To our Hello, to its address or to itself; its successor was heard before it."""
    a, c = table(A), table(C)
    if named:
        a.connect(B, WHERE[B], 0.0)
    else:
        a.dial(WHERE[B], 0.0)
    asked = next(iter(a)).number
    a.receive(A, C, "10.0.0.2", Hello(1, "mesh", "3.11", 1, [WHERE[C]]), b"", 0.0)
    a.receive(A, B, "10.0.0.2", Welcome(1, "mesh", "3.11", asked, [WHERE[B]]), b"", 0.0)
    assert a.knows(C)
    c.connect(A, WHERE[A], 0.0)
    wire = Wire(a, c)
    wire.run()
    assert [link.node for link in a] == [C]
    assert [(down.node, down.reason) for down in downs(wire.told[A])] == [(B, Reason.REPLACED)]
    assert wire.told[C] == [PeerUp(A, WHERE[A], "3.11", True)]


@pytest.mark.fault(17)
def test_who_answers_where_another_one_was_known_before_is_its_successor() -> None:
    a, _, wire = linked()
    a.dial("10.0.0.9:7000", 0.0)  # another address of the newcomer, so far
    asked = list(a)[-1].number
    a.receive(A, C, "10.0.0.2", Welcome(1, "mesh", "3.11", asked, ["10.0.0.9:7000", WHERE[C]]), b"", 0.0)
    wire.perform(a)
    assert downs(wire.told[A]) == []
    del wire.tables[WHERE[B]]
    a.connect(C, WHERE[C], 0.0)
    asked = list(a)[-1].number
    a.receive(A, C, "10.0.0.2", Welcome(1, "mesh", "3.11", asked, [WHERE[C]]), b"", 0.0)
    wire.perform(a)
    assert downs(wire.told[A]) == [PeerDown(B, Reason.REPLACED, "another peer has started at its address")]


@pytest.mark.fault(28)
def test_who_has_moved_is_not_taken_for_gone_where_it_was() -> None:
    """Somebody else has its address now, and says so late."""
    a, _, wire = linked()
    asked = next(iter(a)).number
    a.receive(A, B, "10.0.0.9", Hello(1, "mesh", "3.11", 7, ["10.0.0.9:7000"]), b"", 0.0)
    a.receive(A, C, "10.0.0.2", Refused(asked, Reason.REPLACED, "another peer has started here"), b"", 0.0)
    wire.perform(a)
    assert wire.told[A] == []
    assert a.knows(B)


@pytest.mark.parametrize("answer", [Reason.REPLACED, None])
def test_a_hello_is_said_again_until_it_is_answered_also_once_the_other_is_up(answer: Reason | None) -> None:
    """What was heard of it may be from before its end, and the answer of its successor may get lost."""
    a = table(A)
    a.receive(A, B, "10.0.0.2", Hello(1, "mesh", "3.11", 1, [WHERE[B]]), b"", 0.0)
    said = []
    for now in (0.0, CONFIG.link_hello_again_s):
        a.tick(now)
        while (frame := a.next_frame(now)) is not None:
            a.taken(frame, now)
            said.append(type(frame.message))
    assert said == [Welcome, Hello, Hello]
    number = next(iter(a)).number
    if answer is None:
        a.receive(A, B, "10.0.0.2", Welcome(1, "mesh", "3.11", number, [WHERE[B]]), b"", 2.0)
    else:
        a.receive(A, C, "10.0.0.2", Refused(number, answer, "it is gone"), b"", 2.0)
    assert a.knows(B) is (answer is None)
    tick_on(a, 1000.0)
    assert a.next_at() is None


@pytest.mark.fault(17)
def test_an_answer_from_the_last_connection_leaves_the_hello_on_the_next_one_due() -> None:
    a, _, wire = linked()
    number = next(iter(a)).number
    a.on_ready(B, Plane.CONTROL, fresh=True, now=0.0)
    a.receive(A, B, "10.0.0.2", Welcome(1, "mesh", "3.11", number, [WHERE[B]]), b"", 0.0)
    wire.tables[WHERE[C]] = table(C)
    wire.run()
    assert [effect.reason for effect in wire.told[A] if isinstance(effect, PeerDown)] == [Reason.REPLACED]


def test_a_hello_on_a_new_connection_changes_nothing_for_one_that_is_there() -> None:
    a, b, wire = linked()
    a.on_ready(B, Plane.CONTROL, fresh=True, now=0.0)
    wire.run()
    assert wire.told == {A: [], B: []}
    assert [len(list(one)) for one in (a, b)] == [1, 1]


@pytest.mark.fault(22)
@pytest.mark.parametrize("both", [False, True])
def test_who_dials_one_that_holds_it_for_dead_learns_who_that_is(both: bool) -> None:
    """For membership, which settles who of the two begins anew."""
    a, b, wire = linked()
    a.down(B, "no answer to probes", 0.0)
    if both:
        b.down(A, "no answer to probes", 0.0)
    else:
        b = wire.tables[WHERE[B]] = table(B)  # as if it had forgotten the link
    wire.run()
    b.dial(WHERE[A], 0.0)
    wire.run()
    assert wire.told[B][-1] == Answered(WHERE[A], A)
    assert not any(isinstance(effect, PeerUp) for effect in wire.told[B])


@pytest.mark.fault(11)
def test_a_peer_that_was_declared_dead_learns_it_from_any_message() -> None:
    a, b, wire = linked()
    a.down(B, "no answer to probes", 0.0)
    b.send(A, Plane.CONTROL, b"I was asleep", 0.0)
    wire.run()
    assert wire.told[A][0] == PeerDown(B, Reason.OTHER, "no answer to probes")
    assert wire.told[B] == [PeerDown(A, Reason.DEAD, "refused: declared dead here")]
    a.down(B, "again", 0.0)
    wire.run()
    assert len([effect for effect in wire.told[A] if isinstance(effect, PeerDown)]) == 1


@pytest.mark.fault(11)
def test_one_that_was_forgotten_meanwhile_learns_it_from_its_hello() -> None:
    a, b, wire = linked()
    a.down(B, "dead", 0.0)
    for other in (b"dead---1", b"dead---2"):  # as many as are remembered
        a.down(other, "dead", 0.0)
    b.on_ready(A, Plane.CONTROL, fresh=True, now=0.0)
    wire.run()
    assert [effect.reason for effect in wire.told[B] if isinstance(effect, PeerDown)] == [Reason.DEAD]


@pytest.mark.fault(23)
def test_one_that_has_not_heard_our_welcome_is_not_told_that_it_is_dead() -> None:
    """It has dialled our address, and we have heard that; it has heard nothing yet, so it does not know us."""
    a, b = table(A), table(B)
    b.dial(WHERE[A], 0.0)
    hello = b.next_frame(0.0)
    assert hello is not None
    b.taken(hello, 0.0)
    a.receive(ANYBODY, B, "10.0.0.2", hello.message, b"", 0.0)
    lost = a.next_frame(0.0)
    assert lost is not None
    assert isinstance(lost.message, Welcome)
    a.taken(lost, 0.0)
    wire = Wire(a, b)
    a.on_ready(B, Plane.CONTROL, fresh=True, now=1.0)
    a.send(B, Plane.CONTROL, b"it was up all the time", 1.0)
    wire.perform(a)
    wire.perform(b)
    wire.run(1.0)
    assert downs(wire.told[A]) == downs(wire.told[B]) == []
    assert wire.told[B] == [PeerUp(A, WHERE[A], "3.11", True), Delivered(A, Plane.CONTROL, b"it was up all the time")]


@pytest.mark.fault(24)
def test_who_was_told_that_it_is_dead_may_come_again_if_it_is_not() -> None:
    """Who has forgotten the end of a link cannot tell it from a death. Membership can."""
    a, b, wire = linked()
    now = give_up(a, b, 0.0)
    for other in (b"over---1", b"over---2"):  # as many as are remembered
        a.connect(other, "10.0.0.9:7000", now)
        now += CONFIG.link_dial_timeout_s + 1.0
        tick_on(a, now)
    wire.perform(a)
    b.on_ready(A, Plane.CONTROL, fresh=True, now=now)
    wire.run(now)
    assert [down.reason for down in downs(wire.told[B])] == [Reason.DEAD]
    b.connect(A, WHERE[A], now)
    wire.run(now)
    assert [link.node for link in b] == [A]
    b.send(A, Plane.CONTROL, b"anew", now)
    wire.run(now)
    assert wire.told[A][-2:] == [PeerUp(B, WHERE[B], "3.11", True), Delivered(B, Plane.CONTROL, b"anew")]


def test_one_that_is_given_up_by_its_user_may_come_again() -> None:
    a, b, wire = linked()
    a.give_up(B, "it is too slow")
    wire.perform(a)
    assert wire.told[A] == [PeerDown(B, Reason.OTHER, "it is too slow")]
    a.give_up(B, "again")
    a.connect(B, WHERE[B], 0.0)
    wire.run()
    assert wire.told[A][-1] == PeerUp(B, WHERE[B], "3.11", True)
    assert [type(effect) for effect in wire.told[B]] == [PeerDown, PeerUp]
    assert [link.epoch for one in (a, b) for link in one] == [1, 1]


def test_the_dead_cannot_be_dialled_again() -> None:
    a, _, _ = linked()
    a.down(B, "dead", 0.0)
    a.connect(B, WHERE[B], 0.0)
    assert list(a) == []


def test_a_peer_that_keeps_up_with_nothing_is_lost() -> None:
    a, _, wire = linked()
    for _ in range(3):
        a.send(B, Plane.CONTROL, b"", 0.0)
    wire.perform(a)
    assert [type(effect) for effect in wire.told[A]] == [PeerDown]


def test_links_are_bounded() -> None:
    a = table(A)
    for number in range(5):
        node = b"node%4d" % number
        a.receive(ANYBODY, node, "10.0.0.9", Hello(1, "mesh", "3.11", 1, [f"10.0.0.9:{7000 + number}"]), b"", 0.0)
    effects = a.take_effects()
    assert len([effect for effect in effects if isinstance(effect, PeerUp)]) == 3
    assert [effect.reason for effect in effects if isinstance(effect, TurnedAway)] == [Reason.FULL] * 2


def test_so_are_those_that_are_dialled() -> None:
    a = table(A)
    for number in range(5):
        a.connect(b"node%4d" % number, f"10.0.0.9:{7000 + number}", 0.0)
    assert len(list(a)) == 3
    with pytest.raises(UnknownPeer):
        a.send(b"node   4", Plane.CONTROL, b"", 0.0)
    a.take_effects()
    a.dial(WHERE[B], 0.0)
    assert [effect.reason for effect in a.take_effects() if isinstance(effect, TurnedAway)] == [Reason.FULL]
    a.down(b"node   0", "dead", 0.0)
    a.dial(WHERE[B], 0.0)
    assert len(list(a)) == 3


def test_an_address_that_never_answers_is_given_up() -> None:
    a = table(A)
    a.dial(WHERE[B], 0.0)
    hellos, now = 0, 0.0
    while list(a):
        while (frame := a.next_frame(now)) is not None:
            a.taken(frame, now)
            hellos += 1
        at = a.next_at()
        assert at is not None
        now = at
        a.tick(now)
    assert now == CONFIG.link_dial_timeout_s
    assert 3 < hellos < 10
    assert a.take_effects()[-1] == TurnedAway(WHERE[B], Reason.OTHER, "no answer within 30 s")


@pytest.mark.fault(28)
def test_a_peer_that_has_moved_is_dialled_where_it_is_now() -> None:
    a, b, wire = linked()
    moved = "10.0.0.9:7000"
    wire.tables[moved] = wire.tables.pop(WHERE[B])
    b.present([moved], "key")
    b.on_ready(A, Plane.CONTROL, fresh=True, now=0.0)
    a.send(B, Plane.CONTROL, b"found you", 0.0)
    wire.run()
    a.on_ready(B, Plane.CONTROL, fresh=True, now=0.0)
    wire.run()
    assert Delivered(A, Plane.CONTROL, b"found you") in wire.told[B]
    assert next(iter(a)).address == moved


@pytest.mark.fault(47)
def test_sound_messages_in_the_wrong_state_are_counted() -> None:
    a = table(A)
    strange = [
        Data(Plane.CONTROL, 1, 0),
        Ack(Plane.CONTROL, 1),
        Welcome(1, "mesh", "3.11", 4711, [WHERE[B]]),
        Refused(4711, 0, ""),
        Hello(1, "mesh", "3.11", 1, []),  # listens nowhere, so it cannot be answered
    ]
    for message in strange:
        a.receive(A, B, "10.0.0.2", message, b"", 0.0)
    a.receive(ANYBODY, A, "10.0.0.2", Hello(1, "mesh", "3.11", 4711, [WHERE[B]]), b"", 0.0)
    assert a.stale == len(strange) + 1
    assert list(a) == []
    assert a.take_effects() == []


# -- links that begin anew ---------------------------------------------------------------------------------------------


def give_up(one: Links, other: Links, now: float) -> float:
    """One says something that never arrives, until it gives the other one up. When that is."""
    one.send(other.node, Plane.CONTROL, b"lost", now)
    until = now + CONFIG.link_stall_s + 1.0
    tick_on(one, until)
    return until


def downs(told: list[Effect]) -> list[PeerDown]:
    return [effect for effect in told if isinstance(effect, PeerDown)]


@pytest.mark.fault(24)
def test_a_link_that_one_side_gave_up_begins_anew_and_the_other_gives_it_up_as_well() -> None:
    a, b, wire = linked()
    b.send(A, Plane.CONTROL, b"before", 0.0)
    wire.run()
    now = give_up(a, b, 0.0)
    wire.perform(a)
    assert downs(wire.told[A]) == [PeerDown(B, Reason.OTHER, "it acknowledges nothing any more")]
    with pytest.raises(UnknownPeer):
        a.send(B, Plane.CONTROL, b"", now)
    a.connect(B, WHERE[B], now)
    a.send(B, Plane.CONTROL, b"anew", now)
    b.send(A, Plane.BULK, b"from before, for b knows nothing yet", now)
    wire.run(now)
    assert wire.told[B] == [
        PeerDown(A, Reason.OTHER, "it has given up the link"),
        PeerUp(A, WHERE[A], "3.11", True),
        Delivered(A, Plane.CONTROL, b"anew"),
    ]
    assert wire.told[A][-1] == PeerUp(B, WHERE[B], "3.11", True)
    assert [link.epoch for one in (a, b) for link in one] == [1, 1]
    b.send(A, Plane.CONTROL, b"and back", now)
    wire.run(now)
    assert wire.told[A][-1] == Delivered(B, Plane.CONTROL, b"and back")


@pytest.mark.fault(24)
def test_both_sides_gave_up_one_of_them_more_often() -> None:
    a, b, wire = linked()
    give_up(a, b, 0.0)
    now = give_up(b, a, 0.0)
    wire.perform(a)
    a.connect(B, WHERE[B], now)
    a.send(B, Plane.CONTROL, b"in vain", now)
    now += CONFIG.link_dial_timeout_s + 1.0
    tick_on(a, now)
    for one in (a, b):
        wire.perform(one)
    assert [len(downs(told)) for told in wire.told.values()] == [2, 1]
    b.connect(A, WHERE[A], now)
    b.send(A, Plane.CONTROL, b"b is behind", now)
    a.connect(B, WHERE[B], now)
    a.send(B, Plane.CONTROL, b"a is ahead", now)
    wire.told = {A: [], B: []}
    wire.run(now)
    assert wire.told == {
        A: [PeerUp(B, WHERE[B], "3.11", True), Delivered(B, Plane.CONTROL, b"b is behind")],
        B: [PeerUp(A, WHERE[A], "3.11", True), Delivered(A, Plane.CONTROL, b"a is ahead")],
    }
    assert [link.epoch for one in (a, b) for link in one] == [2, 2]


@pytest.mark.fault(23)
def test_who_hears_but_is_not_heard_is_not_up_before_it_says_the_same_epoch() -> None:
    a, b, _ = linked()
    b.take_effects()
    hello = Hello(1, "mesh", "3.11", 7, [WHERE[A]], epoch=3)
    b.receive(B, A, "10.0.0.1", hello, b"", 0.0)
    assert [type(effect) for effect in b.take_effects()] == [Forget, PeerDown, Dial, PeerUp]
    a.receive(A, B, "10.0.0.2", Data(Plane.CONTROL, 1, 0, 3), b"of a link that a has not", 0.0)
    assert a.take_effects() == []
    assert a.stale == 1


def test_frames_of_an_earlier_link_do_nothing() -> None:
    a, b, wire = linked()
    now = give_up(a, b, 0.0)
    a.connect(B, WHERE[B], now)
    wire.run(now)
    wire.told = {A: [], B: []}
    for late in (Data(Plane.CONTROL, 1, 0, 0), Ack(Plane.CONTROL, 0, True, 0), Hello(1, "mesh", "3.11", 1, [WHERE[B]])):
        a.receive(A, B, "10.0.0.2", late, b"late", now)
    wire.run(now)
    assert wire.told == {A: [], B: []}
    assert [link.epoch for one in (a, b) for link in one] == [1, 1]


def test_a_late_refusal_of_an_earlier_hello_does_nothing() -> None:
    a, b, wire = linked()
    number = next(iter(a)).number
    now = give_up(a, b, 0.0)
    a.connect(B, WHERE[B], now)
    wire.run(now)
    a.receive(A, B, "10.0.0.2", Refused(number, Reason.FULL, "no room"), b"", now)
    assert a.take_effects() == []
    assert a.knows(B)


@pytest.mark.fault(24)
@pytest.mark.parametrize("answers", [True, False])
def test_one_that_waits_for_an_answer_asks_whether_the_other_is_still_there(answers: bool) -> None:
    a, b, wire = linked()
    a.send(B, Plane.CONTROL, b"a question that arrives", 0.0)
    wire.run(0.0)
    b.tick(CONFIG.link_ack_after_s)
    wire.run(CONFIG.link_ack_after_s)
    assert a.backlog(B, Plane.CONTROL) == 0
    wire.told = {A: [], B: []}
    end = 3 * CONFIG.link_stall_s
    if not answers:
        tick_on(a, end)
    while answers and (at := min(one.next_at() or end for one in (a, b))) < end:
        for one in (a, b):
            one.tick(at)
        wire.run(at)
    wire.perform(a)
    if answers:
        assert wire.told == {A: [], B: []}
    else:
        assert wire.told[A] == [PeerDown(B, Reason.OTHER, "nothing is heard of it")]


def test_a_link_that_was_never_used_asks_nothing() -> None:
    a, _, _ = linked()
    a.tick(1000.0)
    assert a.next_frame(1000.0) is None
    assert a.next_at() is None


def receive_large(a: Links, b: Links, now: float) -> None:
    a.send(B, Plane.BULK, bytes(CONFIG.link_ack_after_bytes), now)
    frame = a.next_frame(now)
    assert frame is not None
    assert frame.payload is not None
    a.taken(frame, now)
    b.receive(B, A, "10.0.0.1", frame.message, frame.payload, now)
    assert b.next_frame(now) is None


def answer(a: Links, b: Links, now: float) -> None:
    b.send(A, Plane.BULK, b"more", now)
    frame = b.next_frame(now)
    assert frame is not None
    assert frame.payload is not None
    b.taken(frame, now)
    a.receive(A, B, "10.0.0.2", frame.message, frame.payload, now)
    for one in (a, b):
        assert one.next_frame(now) is None


def test_nobody_wakes_for_an_acknowledgement_that_has_travelled_with_a_message() -> None:
    a, b, _ = linked()
    receive_large(a, b, 0.0)
    due = b.next_at()
    assert due is not None
    assert due <= WITH_ANSWER_S, "it is due right after this turn"
    answer(a, b, 0.0)
    later = b.next_at()
    assert later is not None
    assert later > WITH_ANSWER_S
    assert later == b.next_at()


def test_nobody_wakes_for_what_was_due_before_the_last_message() -> None:
    """Each message sets other deadlines; whoever waits for the earliest of those that were ever set wakes as often as
    there were messages."""
    a, b, wire = linked()
    for number in range(100):
        receive_large(a, b, 0.01 * number)
        if number % 3:
            b.next_at()  # it may be asked in between, or not
        answer(a, b, 0.01 * number)
        b.next_at()
    wakes, end = 0, 1.0 + CONFIG.link_ask_s
    while (at := b.next_at()) is not None and at < end:
        b.tick(at)
        while (frame := b.next_frame(at)) is not None:
            b.taken(frame, at)
        wakes += 1
    assert wakes <= 2 + end / CONFIG.link_replay_after_s, "questions, for what was never acknowledged"
    wire.perform(b)


def test_deadlines_that_do_not_hold_any_more_do_not_pile_up() -> None:
    """Each message moves them, and the earliest one is another link's, which stays as it is."""
    a, b, _ = linked()
    b.dial("10.0.0.9:7000", 0.0)
    while (frame := b.next_frame(0.0)) is not None:
        b.taken(frame, 0.0)
    for number in range(1000):
        receive_large(a, b, 1e-4 * number)
        b.next_at()
        answer(a, b, 1e-4 * number)
        b.next_at()
    assert len(b._timers) <= 4 * len(list(b)) + STALE_MAX + 1
    assert b.next_at() == min(at for link in b if (at := link.next_at()) is not None)


def test_an_epoch_beyond_belief_is_the_last_one() -> None:
    a, b, wire = linked()
    a.receive(A, B, "10.0.0.2", Hello(1, "mesh", "3.11", 9, [WHERE[B]], epoch=EPOCH_MAX), b"", 0.0)
    wire.perform(a)
    now = give_up(a, b, 0.0)
    wire.perform(a)
    assert len(downs(wire.told[A])) == 2
    a.connect(B, WHERE[B], now)
    assert list(a) == []


@pytest.mark.parametrize("reason", [Reason.FULL, Reason.OTHER])
def test_who_is_refused_for_want_of_room_may_come_again(reason: Reason) -> None:
    a, _, wire = linked()
    a.receive(A, B, "10.0.0.2", Refused(0, reason, "no room"), b"", 0.0)
    wire.perform(a)
    assert downs(wire.told[A]) == [PeerDown(B, reason, "refused: no room")]
    a.connect(B, WHERE[B], 0.0)
    assert a.knows(B)


def test_nothing_is_sent_over_the_next_link_before_the_end_of_the_last_one_is_told() -> None:
    a, _, wire = linked()
    for _ in range(3):
        a.send(B, Plane.CONTROL, b"", 0.0)  # more than is kept
    a.connect(B, WHERE[B], 0.0)
    with pytest.raises(UnknownPeer):
        a.send(B, Plane.CONTROL, b"its sender does not know yet", 0.0)
    wire.perform(a)
    a.send(B, Plane.CONTROL, b"now it does", 0.0)
    wire.run()
    assert [e.payload for e in wire.told[B] if isinstance(e, Delivered)] == [b"now it does"]


def test_where_a_peer_is_dialled() -> None:
    listens = ["10.0.0.1:7000", "192.168.1.5:7000", "[fe80::1]:7000"]
    assert where(listens, "192.168.1.5") == "192.168.1.5:7000"
    assert where(listens, "fe80::1") == "[fe80::1]:7000"
    assert where(listens, "172.16.0.1") == "10.0.0.1:7000"
    assert where([], "10.0.0.1") == ""
