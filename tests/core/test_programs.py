"""What it takes to start detached actors when their programs have ended: who asks whom for it, keeps it, and lets it
go."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from meshray.config import DEFAULT
from meshray.core.effects import KeepCopy, LetGoCopy, Send
from meshray.core.objects import Objects
from meshray.core.programs import ARCHIVE_PART, BEHIND_MAX, JobLeft, ProgramLost, Programs
from meshray.core.store_accounts import StoreAccounts
from meshray.ids import node_of, peer_of
from meshray.wire.messages import (
    Code,
    CodeWanted,
    Failure,
    JobInfo,
    NoPiece,
    Place,
    Program,
    ProgramHeld,
    ProgramWanted,
    Promote,
    Promoted,
    Sealed,
    SealedSegment,
)
from tests.transit import none_in_transit

HOME, HEIR, NEXT = b"home....", b"heir....", b"next...."
PEER_HOME, PEER_HEIR, PEER_NEXT = map(peer_of, (HOME, HEIR, NEXT))
JOB = HOME + b"driver.."
OBJECT = JOB + bytes(12)
PLACE = Place(OBJECT, HOME, "segment", 5000)
CODE = Code(b"hash", OBJECT, 4900, ["/program"])
FULL = Failure("ObjectStoreFullError", "no room")


def info(code: Code | None = None) -> JobInfo:
    return JobInfo(JOB, "/python", "/", [], "/program", "/program/main.py", "", code=code)


class Rig:
    """One peer, and the driver of its host if it is the home."""

    def __init__(self, node: bytes) -> None:
        self.node, self.lives = node, node == HOME
        self.objects = Objects(DEFAULT, node, StoreAccounts(DEFAULT, 1 << 30, none_in_transit))
        self.programs = Programs(DEFAULT, node, self.objects, self)
        if self.lives:
            self.objects.on_process_attached(JOB, 1, JOB)

    def job_info(self, process: bytes) -> JobInfo | None:
        return info() if process == JOB and self.lives else None

    def job_lives(self, job: bytes) -> bool:
        return job == JOB and self.lives

    def pack(self, value: bytes | Place = PLACE) -> None:
        """The driver answers."""
        if isinstance(value, Place):
            self.objects.on_sealed(JOB, Sealed([SealedSegment(OBJECT, value.segment, value.size, value.size)]))
        self.objects.on_promote(JOB, Promote([Promoted(OBJECT, value)]))
        self.programs.on_code(JOB, CODE)

    def end_driver(self) -> None:
        self.lives = False
        self.programs.on_job_ended(JOB)
        self.objects.on_job_ended(JOB)

    def effects(self) -> list[Any]:
        self.programs.check()
        return self.programs.take_effects()


def test_the_home_asks_its_driver_once_and_keeps_the_archive_beyond_its_end() -> None:
    rig = Rig(HOME)
    rig.programs.on_needed(JOB, PEER_HOME)
    rig.programs.on_needed(JOB, PEER_HOME)
    assert rig.effects() == [Send(JOB, CodeWanted(lasting=True))]
    assert rig.programs.is_packing(JOB)
    rig.pack()
    rig.end_driver()
    assert rig.objects.value_of(OBJECT) == PLACE
    assert not rig.programs.is_packing(JOB)
    rig.programs.on_wanted(PEER_HEIR, ProgramWanted(JOB))
    assert rig.effects() == [Send(PEER_HEIR, Program(JOB, info(CODE), PLACE))]
    assert rig.programs.is_owed(JOB)
    assert not rig.programs.done
    rig.programs.on_held(PEER_HEIR, ProgramHeld(JOB))
    rig.programs.on_held(PEER_HEIR, ProgramHeld(JOB))
    assert rig.programs.done
    rig.programs.on_job_forgotten(JOB)
    rig.programs.on_job_forgotten(JOB)
    rig.objects.on_process_died(JOB)
    assert not rig.programs.keeps(JOB)
    assert not rig.objects.knows(OBJECT)


def test_who_asks_before_the_driver_has_answered_is_answered_then() -> None:
    rig = Rig(HOME)
    rig.programs.on_wanted(PEER_HEIR, ProgramWanted(JOB))
    assert rig.effects() == [Send(JOB, CodeWanted(lasting=True))]
    rig.pack(b"small")
    assert rig.effects() == [Send(PEER_HEIR, Program(JOB, info(CODE), b"small"))]


def test_a_driver_that_ends_before_it_answers_leaves_nothing() -> None:
    rig = Rig(HOME)
    rig.programs.on_wanted(PEER_HEIR, ProgramWanted(JOB))
    rig.effects()
    rig.end_driver()
    lost, told = rig.effects()
    assert isinstance(lost, ProgramLost)
    assert told == Send(PEER_HEIR, Program(JOB))
    rig.programs.on_needed(JOB, PEER_HOME)
    rig.programs.on_wanted(PEER_HEIR, ProgramWanted(JOB))
    assert rig.effects() == [Send(PEER_HEIR, Program(JOB))]


def test_who_asks_for_a_program_that_is_not_kept_hears_of_its_job_all_the_same() -> None:
    """An heir that has joined since knows nothing of it, and its actors may need no file."""
    rig = Rig(HOME)
    rig.programs.known_job = lambda job: info() if job == JOB else None
    rig.programs.on_wanted(PEER_HEIR, ProgramWanted(JOB))
    rig.end_driver()
    rig.effects()
    rig.programs.on_wanted(PEER_NEXT, ProgramWanted(JOB))
    without = Program(JOB, info(Code()))
    assert rig.effects() == [Send(PEER_NEXT, without)]
    heir = Rig(NEXT)
    heir.programs.on_needed(JOB, PEER_HOME)
    heir.programs.on_needed(JOB, PEER_HOME)
    assert heir.effects() == [Send(PEER_HOME, ProgramWanted(JOB))]
    heir.programs.on_program(PEER_HOME, without)
    assert heir.effects() == [JobLeft(info(Code())), Send(PEER_HOME, ProgramHeld(JOB))]
    assert heir.programs.keeps(JOB)


def test_whoever_waits_for_a_program_that_is_lost_hears_of_its_job_all_the_same() -> None:
    rig = Rig(HOME)
    rig.programs.known_job = lambda job: info()
    rig.programs.on_wanted(PEER_HEIR, ProgramWanted(JOB))
    rig.effects()
    rig.end_driver()
    assert rig.effects()[-1] == Send(PEER_HEIR, Program(JOB, info(Code())))


def test_a_repeat_of_the_answer_does_not_say_that_a_copy_has_come_which_is_on_its_way() -> None:
    """An heir was asked for a place for that very actor meanwhile, and has asked twice: the second answer must not let
    go of what the first one has promised."""
    rig = with_program()
    rig.effects()
    rig.programs.on_program(PEER_HOME, Program(JOB, info(CODE), PLACE))
    assert rig.effects() == []
    rig.programs.on_program(PEER_NEXT, Program(JOB, info(CODE), PLACE))
    assert rig.effects() == [Send(PEER_NEXT, ProgramHeld(JOB))], "its copy comes from elsewhere"
    rig.programs.on_copy(PLACE, None)
    assert rig.effects() == [Send(PEER_HOME, ProgramHeld(JOB))]
    rig.programs.on_program(PEER_HOME, Program(JOB, info(CODE), PLACE))
    assert rig.effects() == [Send(PEER_HOME, ProgramHeld(JOB))]


def test_an_answer_that_was_not_asked_for_changes_nothing() -> None:
    home, heir = Rig(HOME), Rig(HEIR)
    home.programs.on_code(JOB, CODE)
    assert not home.programs.keeps(JOB)
    heir.programs.on_needed(JOB, PEER_HOME)
    assert heir.effects() == [Send(PEER_HOME, ProgramWanted(JOB))]
    heir.programs.on_program(PEER_NEXT, Program(JOB, info(CODE), b"another"))
    assert heir.effects() == [Send(PEER_NEXT, ProgramHeld(JOB))]
    assert not heir.programs.keeps(JOB)


def with_program(archive: bytes | Place | None = PLACE) -> Rig:
    """An heir that was answered."""
    rig = Rig(HEIR)
    rig.programs.on_needed(JOB, PEER_HOME)
    rig.programs.on_program(PEER_HOME, Program(JOB, info(CODE), archive))
    return rig


def test_an_heir_fetches_a_large_archive_and_says_when_it_is_there() -> None:
    rig = with_program()
    assert rig.effects()[1:] == [JobLeft(info(CODE)), KeepCopy(PLACE, PEER_HOME)]
    assert rig.programs.archive_of(OBJECT) == PLACE, "whoever needs it now waits for the same copy"
    rig.programs.on_copy(PLACE, None)
    rig.programs.on_copy(PLACE, None)
    assert rig.effects() == [Send(PEER_HOME, ProgramHeld(JOB))]
    rig.programs.on_needed(JOB, PEER_NEXT)
    assert rig.effects() == []
    rig.programs.on_wanted(PEER_NEXT, ProgramWanted(JOB))
    assert rig.effects() == [Send(PEER_NEXT, Program(JOB, info(CODE), PLACE))]
    rig.programs.on_job_forgotten(JOB)
    assert rig.effects() == [LetGoCopy(PLACE)]
    assert rig.programs.archive_of(OBJECT) is None


def test_an_heir_has_a_small_archive_at_once() -> None:
    rig = with_program(b"small")
    assert rig.effects()[1:] == [JobLeft(info(CODE)), Send(PEER_HOME, ProgramHeld(JOB))]
    assert rig.programs.archive_of(OBJECT) == b"small"
    rig.programs.on_job_forgotten(JOB)
    assert rig.effects() == []
    assert rig.programs.archive_of(OBJECT) is None


def test_a_program_without_a_folder_is_a_job_all_the_same() -> None:
    rig = Rig(HEIR)
    rig.programs.on_needed(JOB, PEER_HOME)
    rig.programs.on_program(PEER_HOME, Program(JOB, info(Code())))
    assert rig.effects()[1:] == [JobLeft(info(Code())), Send(PEER_HOME, ProgramHeld(JOB))]
    assert rig.programs.keeps(JOB)
    rig.programs.on_needed(JOB, PEER_NEXT)
    assert rig.effects() == []


def test_an_archive_that_cannot_be_fetched_is_told_and_asked_for_again_with_the_next_will() -> None:
    rig = with_program()
    rig.effects()
    rig.programs.on_copy(PLACE, FULL)
    assert rig.effects() == [ProgramLost(JOB, "no room", PEER_HOME), Send(PEER_HOME, ProgramHeld(JOB))]
    assert rig.programs.archive_of(OBJECT) is None
    rig.programs.on_needed(JOB, PEER_NEXT)
    assert rig.effects() == [Send(PEER_NEXT, ProgramWanted(JOB))]
    rig.programs.on_program(PEER_NEXT, Program(JOB, info(CODE), PLACE))
    assert KeepCopy(PLACE, PEER_NEXT) in rig.effects()
    assert rig.programs.archive_of(OBJECT) == PLACE


def test_what_is_let_go_of_on_its_way_is_waited_for_by_nobody() -> None:
    rig = with_program()
    rig.effects()
    rig.programs.on_job_forgotten(JOB)
    assert rig.effects() == [LetGoCopy(PLACE), Send(PEER_HOME, ProgramHeld(JOB))]
    rig.programs.on_copy(PLACE, None)
    assert rig.effects() == []


def test_a_host_that_is_gone_answers_no_more_and_is_owed_nothing() -> None:
    rig = Rig(HEIR)
    rig.programs.on_needed(JOB, PEER_HOME)
    rig.programs.on_wanted(PEER_NEXT, ProgramWanted(JOB))
    assert not rig.programs.done
    rig.effects()
    rig.programs.on_host_gone(HOME)
    lost, told = rig.effects()
    assert isinstance(lost, ProgramLost)
    assert told == Send(PEER_NEXT, Program(JOB))
    assert rig.programs.done
    rig.programs.on_needed(JOB, PEER_NEXT)  # a newer will of another one
    assert rig.effects() == [Send(PEER_NEXT, ProgramWanted(JOB))]
    home = Rig(HOME)
    home.programs.on_wanted(PEER_HEIR, ProgramWanted(JOB))
    home.pack()
    home.programs.on_host_gone(HEIR)
    assert home.programs.done


@pytest.mark.parametrize(
    "archive",
    [
        Place(OBJECT, HOME, "segment", ARCHIVE_PART * DEFAULT.code_max_bytes + 1),
        Place(JOB + b"another one.", HOME, "segment", 5000),
    ],
)
def test_what_cannot_be_an_archive_is_not_fetched(archive: Place) -> None:
    rig = with_program(archive)
    assert not [effect for effect in rig.effects() if isinstance(effect, KeepCopy)]
    assert rig.programs.archive_of(archive.object_id) is None


def test_the_archive_of_a_job_is_its_drivers_own_object() -> None:
    """Else two jobs could have the same one."""
    other = HOME + b"driver 2"
    rig = Rig(HEIR)
    rig.programs.on_needed(other, PEER_HOME)
    told = JobInfo(other, "/python", "/", [], "/program", "/program/main.py", "", code=CODE)
    rig.programs.on_program(PEER_HOME, Program(other, told, b"archive"))
    rig.effects()
    assert rig.programs.archive_of(OBJECT) is None
    home = Rig(HOME)
    home.programs.on_needed(JOB, PEER_HOME)
    home.programs.on_code(JOB, Code(b"hash", other + bytes(12), 5))
    home.effects()
    home.programs.on_job_forgotten(JOB)
    assert not home.objects.table.records


def test_a_job_that_comes_without_its_folder_counts_and_the_folder_is_asked_for_again() -> None:
    rig = with_program(None)
    assert [type(effect) for effect in rig.effects()[1:]] == [JobLeft, Send, ProgramLost]
    rig.programs.on_needed(JOB, PEER_NEXT)
    assert rig.effects() == [Send(PEER_NEXT, ProgramWanted(JOB))]


def test_a_guest_is_told_unasked_what_its_job_is() -> None:
    rig = Rig(HEIR)
    rig.programs.is_wanted = lambda job: job == JOB
    rig.programs.on_program(PEER_HOME, Program(JOB, info(CODE), b"small"))
    assert JobLeft(info(CODE)) in rig.effects()
    assert rig.programs.keeps(JOB)


def test_the_home_that_has_forgotten_a_job_has_it_from_its_testator() -> None:
    rig = Rig(HOME)
    rig.end_driver()
    rig.programs.on_needed(JOB, PEER_HOME)
    assert rig.effects() == []
    rig.programs.on_needed(JOB, PEER_HEIR)
    assert rig.effects() == [Send(PEER_HEIR, ProgramWanted(JOB))]
    rig.programs.on_program(PEER_HEIR, Program(JOB, info(CODE), PLACE))
    rig.programs.on_copy(PLACE, None)
    assert rig.programs.archive_of(OBJECT) == PLACE
    rig.programs.on_job_forgotten(JOB)
    assert LetGoCopy(PLACE) in rig.effects()


def deliver(rigs: dict[bytes, Rig]) -> None:
    """What peers say to each other, until nobody says anything more."""
    while said := [(peer, effect) for peer, rig in rigs.items() for effect in rig.effects()]:
        for source, effect in said:
            if isinstance(effect, Send) and effect.to in rigs:
                programs = rigs[effect.to].programs
                handlers: dict[type, Any] = {
                    Program: programs.on_program,
                    ProgramWanted: programs.on_wanted,
                    ProgramHeld: programs.on_held,
                }
                handlers[type(effect.message)](source, effect.message)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_of_some_that_ask_each_other_in_a_circle_none_waits_for_ever(count: int) -> None:
    peers = [peer_of(b"peer%04d" % number) for number in range(count)]
    rigs = {peer: Rig(node_of(peer)) for peer in peers}
    for number, peer in enumerate(peers):
        rigs[peer].programs.on_needed(JOB, peers[(number + 1) % count])
    deliver(rigs)
    assert all(rig.programs.done and not rig.programs.is_coming(JOB) for rig in rigs.values())


def test_of_a_circle_each_has_it_from_one_that_knows_a_fourth() -> None:
    peers = [peer_of(b"peer%04d" % number) for number in range(3)]
    rigs = {peer: Rig(node_of(peer)) for peer in peers} | {PEER_HEIR: with_program(b"small")}
    rigs[PEER_HEIR].effects()
    for number, peer in enumerate(peers):
        rigs[peer].programs.on_needed(JOB, peers[(number + 1) % 3])
    rigs[peers[1]].programs.on_needed(JOB, PEER_HEIR)  # it was told of another will while it asks
    rigs[peers[1]].programs.on_needed(JOB, PEER_HEIR)
    deliver(rigs)
    assert rigs[peers[1]].programs.archive_of(OBJECT) == b"small"
    for peer in peers:
        rigs[peer].programs.on_needed(JOB, peers[1])
    deliver(rigs)
    assert all(rig.programs.archive_of(OBJECT) == b"small" and rig.programs.done for rig in rigs.values())


def test_who_does_not_wait_any_more_is_behind_nobody() -> None:
    """Else one that is asked later, and waits for nobody, would be taken for a part of a circle."""
    rig = Rig(HEIR)
    other = peer_of(b"another.")
    rig.programs.on_needed(JOB, PEER_NEXT)
    rig.programs.on_wanted(other, ProgramWanted(JOB, [PEER_HOME]))
    assert rig.effects() == [
        Send(PEER_NEXT, ProgramWanted(JOB)),
        Send(PEER_NEXT, ProgramWanted(JOB, sorted([other, PEER_HOME]))),
    ]
    rig.programs.on_host_gone(node_of(other))
    assert rig.effects() == [Send(PEER_NEXT, ProgramWanted(JOB))]
    rig.programs.on_wanted(PEER_HOME, ProgramWanted(JOB, [PEER_NEXT]))  # it waits for us, and so does PEER_NEXT
    rig.programs.on_host_gone(HOME)
    rig.programs.on_host_gone(NEXT)
    assert not [effect for effect in rig.effects() if isinstance(effect, Send) and effect.to == PEER_NEXT]
    assert rig.programs.done


def test_who_asks_by_the_name_of_the_job_alone_has_said_before_who_waits() -> None:
    """An actor of that job was sent there; who waits behind it still does."""
    rig = Rig(HEIR)
    other = peer_of(b"another.")
    rig.programs.on_needed(JOB, PEER_NEXT)
    rig.programs.on_wanted(other, ProgramWanted(JOB, [PEER_HOME]))
    rig.effects()
    rig.programs.on_job_wanted(other, JOB)
    assert rig.effects() == [], "nobody waits less than before"
    rig.programs.on_job_wanted(PEER_HOME, JOB)
    rig.programs.on_wanted(other, ProgramWanted(JOB))
    assert rig.effects() == [], "one that has said nothing waits alone, and was known to wait"


def test_so_many_may_wait_and_no_more() -> None:
    rig = Rig(HEIR)
    rig.programs.on_needed(JOB, PEER_NEXT)
    rig.effects()
    behind = [peer_of(number.to_bytes(8, "big")) for number in range(BEHIND_MAX - 1)]
    rig.programs.on_wanted(PEER_HOME, ProgramWanted(JOB, behind))
    (told,) = rig.effects()
    assert len(told.message.behind) == BEHIND_MAX
    rig.programs.on_wanted(peer_of(b"toomany."), ProgramWanted(JOB))
    assert rig.effects() == [Send(peer_of(b"toomany."), Program(JOB))]


def test_what_an_owner_knows_of_the_job_of_a_guest_counts_though_a_testator_is_asked() -> None:
    """Of the two only the owner may have it; the testator is asked if its copy does not come."""
    rig = Rig(HEIR)
    rig.programs.is_wanted = lambda job: True
    rig.programs.on_needed(JOB, PEER_NEXT)
    rig.programs.on_program(PEER_HOME, Program(JOB))
    assert rig.effects() == [Send(PEER_NEXT, ProgramWanted(JOB)), Send(PEER_HOME, ProgramHeld(JOB))]
    assert rig.programs.is_coming(JOB), "the testator has not answered"
    rig.programs.on_program(PEER_HOME, Program(JOB, info(CODE), PLACE))
    assert rig.effects() == [JobLeft(info(CODE)), KeepCopy(PLACE, PEER_HOME)]
    rig.programs.on_program(PEER_NEXT, Program(JOB))
    assert rig.effects() == [Send(PEER_NEXT, ProgramHeld(JOB))]
    rig.programs.on_copy(PLACE, FULL)
    assert rig.effects() == [Send(PEER_NEXT, ProgramWanted(JOB)), Send(PEER_HOME, ProgramHeld(JOB))]


def test_who_misses_a_copy_tells_those_who_fetch_it_there() -> None:
    rig = with_program()
    rig.programs.on_wanted(PEER_NEXT, ProgramWanted(JOB))
    rig.effects()
    rig.programs.on_copy(PLACE, FULL)
    assert Send(PEER_NEXT, NoPiece(PLACE)) in rig.effects()


def test_of_two_that_ask_each_other_none_waits_for_the_other() -> None:
    rig = Rig(HEIR)
    rig.programs.on_needed(JOB, PEER_NEXT)
    rig.effects()
    rig.programs.on_wanted(PEER_NEXT, ProgramWanted(JOB))
    assert rig.effects() == [Send(PEER_NEXT, Program(JOB))]
    assert rig.programs.done


@pytest.mark.parametrize("seed", range(100))
def test_every_heir_of_an_heir_gets_it_while_one_is_left_that_has_it(seed: int) -> None:
    """Hosts die one after the other, in the middle of things too: each time one that has it all is left, and the next
    one asks whoever is its testator."""
    random = Random(seed)
    nodes = [HOME, *(b"host%04d" % number for number in range(5))]
    rigs = {peer_of(node): Rig(node) for node in nodes}
    alive, said = dict(rigs), list[tuple[bytes, bytes, Any]]()
    copies = {PEER_HOME}  # who has all of the archive
    fetching: dict[bytes, bytes] = {}  # who fetches it -> from whom

    def step() -> bool:
        """One thing that can happen next; False: nothing can."""
        for peer, rig in alive.items():
            for effect in rig.effects():
                if isinstance(effect, Send):
                    said.append((peer, effect.to, effect.message))
                elif isinstance(effect, KeepCopy):
                    fetching[peer] = effect.source
        ready = [peer for peer, source in fetching.items() if source in copies or source not in alive]
        choices = [*range(len(said)), *ready]
        if not choices:
            return False
        choice = random.choice(choices)
        if isinstance(choice, bytes):
            source = fetching.pop(choice)
            if source in alive:
                copies.add(choice)
            alive[choice].programs.on_copy(PLACE, None if source in alive else Failure("ObjectLostError", "gone"))
            return True
        source, to, _ = said[choice]
        first = next(index for index, (one, other, _) in enumerate(said) if (one, other) == (source, to))
        _, _, message = said.pop(first)  # in order, per link
        if isinstance(message, CodeWanted):
            alive[PEER_HOME].pack()
        elif to in alive:
            handlers = {
                Program: alive[to].programs.on_program,
                ProgramWanted: alive[to].programs.on_wanted,
                ProgramHeld: alive[to].programs.on_held,
            }
            handlers[type(message)](source, message)
        return True

    def run(at_most: int = 1000) -> None:
        for _ in range(at_most):
            if not step():
                return

    testator = PEER_HOME
    alive[PEER_HOME].programs.on_needed(JOB, PEER_HOME)
    for heir in [peer for peer in rigs if peer != PEER_HOME]:
        alive[heir].programs.on_needed(JOB, testator)
        for early in [peer for peer in alive if peer not in (PEER_HOME, heir) and random.random() < 0.3]:
            alive[early].programs.on_needed(JOB, heir)  # whose own has not come yet
        run(random.randrange(20))
        alive[heir].programs.on_needed(JOB, testator)
        run()
        assert heir in copies, "its testator has it, and lives"
        assert alive[testator].programs.done
        del alive[testator]
        said[:] = [each for each in said if testator not in each[:2]]
        fetching.pop(testator, None)
        for rig in alive.values():
            rig.programs.on_host_gone(node_of(testator))
        testator = heir
