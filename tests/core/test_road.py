"""The road's contracts, one by one; how they hold together is simulated (`tests/sim/test_road.py`)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshray.config import preset
from meshray.core.effects import Send
from meshray.core.road import Road
from meshray.core.road_effects import ForeignDied, ForeignSeen, Handle, HostGone, JobCame, JobGone, Sever
from meshray.local import peer_process
from meshray.wire import messages as m
from meshray.wire.peers import Letter

ME, H, K = b"me......", b"home...h", b"home...k"
A, B, DRIVER = ME + b"aaaaaaaa", ME + b"bbbbbbbb", ME + b"driver.."
X, Y, THEIR_DRIVER = H + b"xxxxxxxx", H + b"yyyyyyyy", H + b"driver.."
US, PEER_H, PEER_K = peer_process(ME), peer_process(H), peer_process(K)
LIFE, LIFE_2, LIFE_K = b"life...1", b"life...2", b"life...k"
HALF = m.RELAY_WINDOW_BYTES // 2
CONFIG = preset("test")


def info(job: bytes) -> m.JobInfo:
    return m.JobInfo(job, "python", "/usr", [], "/", "", "ns")


class Rig:
    """A road, the processes of its host, and what it says."""

    def __init__(self) -> None:
        self.processes: dict[bytes, bytes] = {A: DRIVER, B: b"", DRIVER: DRIVER}  # -> job
        self.over: set[bytes] = set()
        self.road = Road(CONFIG, ME, "3.11", self)
        self.road.linked = True
        self.road.on_life(LIFE, H, 1, 0.0)
        self.road.on_life(LIFE_K, K, 1, 0.0)
        assert self.effects() == []

    def __contains__(self, process: bytes) -> bool:
        return process in self.processes

    def job_info(self, process: bytes) -> m.JobInfo | None:
        job = self.processes[process]
        return info(job) if job else None

    def job_lives(self, job: bytes) -> bool:
        return job in self.processes and job not in self.over

    def effects(self) -> list[Any]:
        return self.road.take_effects()

    def leaves(self, home: bytes = H, takes: bool = True, relays: bool = True) -> list[tuple[bytes, bytes, Any]]:
        found = []
        while (parcel := self.road.next(home, takes, relays)) is not None:
            found.append(tuple(parcel))
        return found

    def say(self, source: bytes, destination: bytes, data: bytes = b"data") -> None:
        self.road.on_relay(source, m.Relay(destination, data), 0.0)

    def comes(self, destination: bytes, source: bytes, data: bytes = b"data", life: bytes = LIFE) -> None:
        self.road.on_arrived(life, Letter(destination, source, data), 0.0)

    def meet(self) -> None:
        """A and X have spoken, both ways."""
        self.say(A, X)
        self.road.on_process_there(PEER_H, m.ProcessThere(X))
        self.comes(A, X)
        self.leaves()
        self.effects()


@pytest.fixture
def rig() -> Rig:
    return Rig()


class TestSpeaking:
    def test_a_process_and_its_job_are_introduced_once(self, rig: Rig) -> None:
        rig.say(A, X, b"1")
        rig.say(A, Y, b"2")
        rig.say(B, X, b"3")
        assert rig.road.laden() == [H]
        assert rig.leaves() == [
            (PEER_H, US, m.JobThere(info(DRIVER), "3.11")),
            (PEER_H, US, m.ProcessThere(A, DRIVER)),
            (PEER_H, US, m.ProcessThere(B, b"")),
            (X, A, b"1"),
            (Y, A, b"2"),
            (X, B, b"3"),
        ]
        assert rig.road.laden() == []

    def test_what_is_relayed_waits_for_the_window_and_the_peer_does_not(self, rig: Rig) -> None:
        rig.say(B, X)
        rig.road.send(PEER_H, m.JobOver(DRIVER), 0.0)
        assert rig.leaves(takes=False) == []
        left = rig.leaves(relays=False)
        assert [parcel[2] for parcel in left] == [m.ProcessThere(B), m.JobOver(DRIVER)]
        assert rig.leaves() == [(X, B, b"data")]

    def test_values_that_were_asked_for_take_turns_with_what_is_relayed(self, rig: Rig) -> None:
        rig.say(A, X, b"1")
        rig.leaves()
        answers = [m.Fetched([m.Promoted(bytes([number]) * 28, bytes(90_000))]) for number in range(3)]
        for answer in answers:
            assert rig.road.send(PEER_H, answer, 0.0)
        rig.say(A, X, b"2")
        rig.say(A, X, b"3")
        rig.road.send(PEER_H, m.JobOver(DRIVER), 0.0)
        assert rig.leaves(relays=False) == [(PEER_H, US, m.JobOver(DRIVER))]
        assert [parcel[2] for parcel in rig.leaves()] == [answers[0], b"2", answers[1], b"3", answers[2]]

    def test_a_host_that_takes_our_words_too_slowly_is_cut_off_and_that_is_the_reason(self, rig: Rig) -> None:
        rig.meet()
        for _ in range(CONFIG.link_kept_max_messages):
            rig.road.send(PEER_H, m.JobOver(DRIVER), 0.0)
        assert rig.effects() == []
        rig.road.send(PEER_H, m.Fetched([]), 0.0)
        why = f"{CONFIG.link_kept_max_messages + 1} messages wait for it: it takes them too slowly"
        assert rig.effects() == [Sever(LIFE, why, over=False), Send(A, m.NodeGone(H, why)), HostGone(H, why)]
        assert rig.road.laden() == []

    def test_who_has_dealt_with_a_host_that_is_suspected_hears_it(self, rig: Rig) -> None:
        rig.road.on_silent(LIFE, "h", True)
        assert rig.effects() == [], "nobody has"
        rig.meet()
        rig.road.on_silent(LIFE_K, "k", True)
        rig.road.on_silent(LIFE_2, "h", True)
        assert rig.effects() == [], "another host, or another life of it"
        rig.road.on_silent(LIFE, "h", True)
        rig.road.on_silent(LIFE, "h", False)
        assert rig.effects() == [Send(A, m.NodeSilent(H, "h", True)), Send(A, m.NodeSilent(H, "h", False))]
        rig.road.on_life_over(LIFE, "no answer")
        rig.effects()
        rig.road.on_silent(LIFE, "h", True)
        assert rig.effects() == [], "it is gone"

    def test_what_arrives_is_passed_on_unread(self, rig: Rig) -> None:
        rig.road.on_process_there(PEER_H, m.ProcessThere(X, b""))
        rig.comes(A, X, b"\xc1 no message")
        assert rig.effects() == [Send(A, m.Relayed(X, b"\xc1 no message"))]
        rig.comes(US, X)
        rig.comes(US, PEER_H, b"from the peer")
        assert rig.effects() == [Handle(X, b"data"), Handle(PEER_H, b"from the peer")]

    def test_strangers_and_what_goes_astray(self, rig: Rig) -> None:
        rig.comes(A, X)  # not introduced
        rig.comes(K + b"somebody", PEER_H)
        rig.comes(A, ME + b"somebody")
        rig.say(A, B)
        rig.road.on_process_there(PEER_K, m.ProcessThere(X))
        rig.road.on_process_there(X, m.ProcessThere(Y))
        assert rig.effects() == []
        assert rig.road.counters == {
            "messages of strangers": 1,
            "messages gone astray": 2,
            "relays to our own host": 1,
            "messages out of place": 2,
        }

    @pytest.mark.fault(47)
    def test_blocks_are_for_our_peer_alone(self, rig: Rig) -> None:
        rig.meet()
        rig.road.on_arrived(LIFE, Letter(A, X, b"data", (b"block",)), 0.0)
        assert (rig.effects(), rig.road.counters["messages gone astray"]) == ([], 1)
        rig.road.on_arrived(LIFE, Letter(US, X, b"data", (b"block",)), 0.0)
        assert rig.effects() == [Handle(X, b"data", (b"block",))]

    def test_a_receiver_that_is_dead(self, rig: Rig) -> None:
        rig.road.on_process_there(PEER_H, m.ProcessThere(X, b""))
        dead = ME + b"dead...."
        rig.comes(dead, X)
        assert rig.leaves() == [(PEER_H, US, m.ProcessDied(dead)), (PEER_H, US, m.DeathSettled(dead))]


class TestWindows:
    def test_the_sender_hears_of_half_a_window_and_of_no_less(self, rig: Rig) -> None:
        rig.meet()
        clogged = {A}
        rig.comes(A, X, bytes(HALF - 100))
        rig.road.repay(clogged.__contains__)
        assert rig.leaves() == []
        rig.comes(A, X, bytes(200))
        rig.road.repay(clogged.__contains__)
        assert rig.leaves() == []  # it has not reached A
        clogged.clear()
        rig.road.repay(clogged.__contains__)
        rig.road.repay(clogged.__contains__)
        assert rig.leaves() == [(X, US, m.RelayTaken(A, HALF + 100 + len(b"data")))]

    def test_what_is_for_our_peer_counts_as_well(self, rig: Rig) -> None:
        rig.meet()
        rig.comes(US, X, bytes(HALF))
        rig.road.repay(lambda process: False)
        assert rig.leaves() == [(X, US, m.RelayTaken(US, HALF))]

    def test_a_process_that_does_not_keep_to_its_window_costs_no_memory(self, rig: Rig) -> None:
        for _ in range(10):
            rig.say(B, X, bytes(HALF))
        kept = [parcel for parcel in rig.leaves() if parcel[1] == B]
        assert len(kept) == 2
        assert rig.road.counters["relays beyond the window"] == 8


class TestDeaths:
    def test_ours_are_told_after_their_last_words_to_whom_they_dealt_with(self, rig: Rig) -> None:
        rig.say(A, X, b"last words")
        del rig.processes[A]
        assert rig.road.on_local_died(A) == {PEER_H}
        assert [parcel[2] for parcel in rig.leaves()][-2:] == [b"last words", m.ProcessDied(A)]
        assert rig.leaves(K) == []
        rig.road.on_local_settled(A)
        assert rig.leaves() == [(PEER_H, US, m.DeathSettled(A))]

    def test_one_that_was_only_spoken_to_is_told_as_well(self, rig: Rig) -> None:
        rig.road.on_process_there(PEER_H, m.ProcessThere(X))
        rig.comes(B, X)
        del rig.processes[B]
        assert rig.road.on_local_died(B) == {PEER_H}

    def test_of_others_are_told_to_those_who_met_them_and_answered_when_all_have(self, rig: Rig) -> None:
        rig.meet()
        rig.comes(B, X)
        rig.effects()
        rig.road.on_process_died(PEER_H, m.ProcessDied(X))
        assert rig.effects() == [ForeignDied(X), Send(A, m.ProcessDied(X)), Send(B, m.ProcessDied(X))]
        assert not rig.road.lives(X)
        rig.road.on_death_seen(A, X)
        assert rig.effects() == []
        rig.road.on_death_seen(B, X)
        assert rig.effects() == [ForeignSeen(X)]
        rig.say(DRIVER, X)  # it has not heard of it, since it had never met it
        assert rig.effects() == [Send(DRIVER, m.ProcessDied(X))]
        rig.road.on_death_settled(PEER_H, m.DeathSettled(X))
        assert [effect.to for effect in rig.effects()] == [A, B, DRIVER]

    def test_nobody_but_its_peer_says_that_a_process_died(self, rig: Rig) -> None:
        rig.meet()
        rig.road.on_process_died(PEER_K, m.ProcessDied(X))
        rig.road.on_process_died(X, m.ProcessDied(Y))
        rig.road.on_process_died(PEER_H, m.ProcessDied(PEER_H))
        assert rig.effects() == []


class TestEnds:
    def test_a_host_that_is_gone_is_told_to_those_who_dealt_with_it(self, rig: Rig) -> None:
        rig.meet()
        rig.road.on_life_over(LIFE, "no answer")
        assert rig.effects() == [Send(A, m.NodeGone(H, "no answer")), HostGone(H, "no answer")]
        rig.road.on_life_over(LIFE, "no answer")
        assert rig.effects() == []
        assert not rig.road.is_there(H)
        assert rig.road.why_gone(H) == "no answer"
        rig.say(B, X)
        assert rig.effects() == [Send(B, m.NodeGone(H, "no answer"))]
        assert rig.road.why_gone(K) == ""

    def test_what_was_said_before_its_sender_heard_of_the_end_goes_nowhere(self, rig: Rig) -> None:
        rig.meet()
        rig.road.on_life(LIFE_2, H, 2, 0.0)
        gone, *rest = rig.effects()[1:], Sever(LIFE)
        assert [type(effect) for effect in gone] == [Send, HostGone]
        assert rest == [Sever(LIFE)]
        rig.say(A, X, b"too late")
        rig.say(B, X, b"others may")
        assert [parcel[2] for parcel in rig.leaves()] == [m.ProcessThere(B), b"others may"]
        rig.road.on_seen(A, m.NodeGoneSeen(H))
        rig.say(A, X, b"anew")
        assert [parcel[2] for parcel in rig.leaves()][-2:] == [m.ProcessThere(A, DRIVER), b"anew"]

    def test_of_a_life_that_is_over_nothing_comes(self, rig: Rig) -> None:
        rig.meet()
        rig.road.on_life(LIFE_2, H, 2, 0.0)
        rig.effects()
        rig.comes(A, PEER_H, life=LIFE)
        assert rig.effects() == []
        assert rig.road.life_of(H) == LIFE_2

    @pytest.mark.fault(24)
    def test_a_host_out_of_reach_is_gone_until_there_is_a_link(self, rig: Rig) -> None:
        rig.meet()
        rig.road.on_cut(LIFE, "no answer within 30 s")
        rig.road.on_cut(LIFE, "again")
        told = m.NodeGone(H, "no answer within 30 s")
        assert rig.effects() == [Send(A, told), HostGone(H, "no answer within 30 s")]
        rig.road.on_life(LIFE, H, 1, 0.0)  # others speak of it
        rig.say(B, X)
        assert rig.effects() == [Send(B, told)]
        assert not rig.road.send(PEER_H, m.JobOver(DRIVER), 0.0)
        assert not rig.road.is_there(H)
        assert rig.road.is_out_of_reach(H)
        assert (rig.road.homes(), rig.road.dealt_with()) == ([K], [])
        assert rig.road.why_gone(H) == "no answer within 30 s"
        rig.comes(A, X)
        assert rig.road.counters["messages from out of reach"] == 1
        assert rig.road.on_linked(LIFE_K, 0.0) is None
        assert rig.road.on_linked(LIFE, 0.0) == H
        assert rig.road.is_there(H)
        assert rig.road.why_gone(H) == ""
        rig.say(A, X, b"from before")
        rig.road.on_seen(A, m.NodeGoneSeen(H))
        rig.say(A, X, b"from after")
        assert [parcel[2] for parcel in rig.leaves()][-1] == b"from after"
        assert rig.road.counters["relays from before an end"] == 1

    def test_one_with_which_there_was_nothing_is_out_of_reach_as_well(self, rig: Rig) -> None:
        """Whoever places tasks has to know."""
        rig.road.on_cut(LIFE, "no answer")
        assert rig.effects() == [HostGone(H, "no answer")]
        rig.road.on_cut(b"stranger", "no answer")
        assert rig.effects() == []

    @pytest.mark.parametrize("end", ["dead", "anew", "ours"])
    def test_an_end_while_it_is_out_of_reach(self, rig: Rig, end: str) -> None:
        rig.meet()
        rig.road.on_cut(LIFE, "no answer")
        rig.effects()
        if end == "dead":
            rig.road.on_life_over(LIFE, "dead")
            assert rig.road.why_gone(H) == "dead"
        elif end == "anew":
            rig.road.on_life(LIFE_2, H, 2, 0.0)
            assert rig.road.is_there(H)
        else:
            rig.road.on_own_end("declared dead")
            rig.road.on_life(LIFE, H, 1, 0.0)
            assert rig.road.is_there(H)
        assert rig.road.on_linked(LIFE, 0.0) is None
        assert not rig.road.is_out_of_reach(H)

    @pytest.mark.fault(24)
    def test_a_job_of_a_host_out_of_reach_is_served_for_others_and_asked_after_later(self, rig: Rig) -> None:
        rig.road.on_cut(LIFE, "no answer")
        rig.effects()
        rig.road.send(PEER_K, m.LoadNow({}), 0.0)
        rig.leaves(K)
        rig.road.on_job_there(PEER_K, m.JobThere(info(THEIR_DRIVER), "3.11"), 0.0)
        assert [type(effect) for effect in rig.effects()] == [JobCame]
        rig.road.on_linked(LIFE, 0.0)
        assert rig.leaves() == [(PEER_H, US, m.JobKnown(THEIR_DRIVER))]

    def test_our_own_end_is_that_of_all_others_for_us(self, rig: Rig) -> None:
        rig.meet()
        rig.road.send(PEER_K, m.JobOver(DRIVER), 0.0)
        rig.road.on_own_end("declared dead")
        assert rig.effects() == [
            Send(A, m.NodeGone(H, "declared dead")),
            HostGone(H, "declared dead"),
            HostGone(K, "declared dead"),
        ]
        assert rig.road.homes() == []
        rig.road.on_life(LIFE, H, 1, 0.0)
        assert rig.road.homes() == [H]

    def test_a_host_of_which_no_rumour_has_come_is_waited_for(self, rig: Rig) -> None:
        new, life = b"home.new", b"life.new"
        rig.say(B, new + b"xxxxxxxx")
        assert rig.road.laden() == []
        assert rig.road.next_deadline() == CONFIG.road_patience_s
        rig.road.on_life(life, new, 1, 0.1)
        assert rig.road.next_deadline() is None
        assert rig.leaves(new)[-1] == (new + b"xxxxxxxx", B, b"data")

    def test_and_given_up(self, rig: Rig) -> None:
        nobody = b"nobody.."
        rig.say(B, nobody + b"xxxxxxxx")
        rig.road.send(peer_process(nobody), m.JobOver(DRIVER), 0.0)
        rig.road.tick(CONFIG.road_patience_s)
        gone, host = rig.effects()
        assert (gone.to, gone.message.node) == (B, nobody)
        assert host.home == nobody
        rig.road.send(peer_process(nobody), m.JobOver(DRIVER), 0.0)
        assert rig.road.counters["sends to the gone"] == 1

    def test_off_the_network_nobody_is_anywhere(self, rig: Rig) -> None:
        rig.road = Road(CONFIG, ME, "3.11", rig)
        rig.say(A, X)
        assert rig.effects() == [Send(A, m.NodeGone(H, "this peer belongs to no mesh"))]


class TestJobs:
    def test_all_who_know_a_job_of_ours_hear_of_its_end(self, rig: Rig) -> None:
        rig.say(A, X)
        rig.road.send(PEER_K, m.JobOver(THEIR_DRIVER), 0.0)
        rig.road.on_job_known(PEER_K, m.JobKnown(DRIVER))
        rig.leaves()
        rig.leaves(K)
        rig.over.add(DRIVER)
        rig.road.on_local_job_over(DRIVER)
        assert rig.leaves() == [(PEER_H, US, m.JobOver(DRIVER))]
        assert rig.leaves(K) == [(PEER_K, US, m.JobOver(DRIVER))]
        rig.road.on_job_known(PEER_K, m.JobKnown(DRIVER))  # it has just heard of it from somebody else
        assert rig.leaves(K) == [(PEER_K, US, m.JobOver(DRIVER))]

    def test_a_host_is_awaited_until_it_has_done_with_a_job_of_ours(self, rig: Rig) -> None:
        rig.meet()
        rig.road.on_local_job_over(DRIVER)
        assert rig.road.awaits_end(DRIVER)
        rig.road.on_job_done(X, m.JobDone(DRIVER))  # no peer
        rig.road.on_job_done(PEER_K, m.JobDone(DRIVER))  # never knew it
        assert rig.road.awaits_end(DRIVER)
        rig.road.on_job_done(PEER_H, m.JobDone(DRIVER))
        assert not rig.road.awaits_end(DRIVER)

    def test_one_that_is_gone_is_not_awaited_nor_for_a_driver_that_is(self, rig: Rig) -> None:
        rig.meet()
        rig.road.on_local_job_over(DRIVER)
        rig.road.on_cut(LIFE, "cut")
        assert not rig.road.awaits_end(DRIVER)
        rig.road.on_linked(LIFE, 0.0)
        rig.meet()
        rig.road.on_local_job_over(DRIVER)
        rig.road.on_local_died(DRIVER)
        assert not rig.road.awaits_end(DRIVER)

    def test_that_a_job_of_others_has_ended_here_is_said_behind_its_last_prints(self, rig: Rig) -> None:
        lines = m.LogLines([m.LogLine("f", 1, "last words")])
        rig.road.send(PEER_H, m.LoadNow({}), 0.0)  # there is a way
        rig.road.on_job_there(PEER_H, m.JobThere(info(THEIR_DRIVER), "3.11"), 0.0)
        assert rig.road.hears(THEIR_DRIVER)
        rig.road.on_job_over(PEER_H, m.JobOver(THEIR_DRIVER))
        assert rig.road.hears(THEIR_DRIVER), "its workers are being killed"
        rig.road.send_late(THEIR_DRIVER, lines, 0.0)
        rig.road.on_foreign_job_ended(THEIR_DRIVER, 0.0)
        assert not rig.road.hears(THEIR_DRIVER)
        rig.say(B, X)
        assert [parcel[2] for parcel in rig.leaves(relays=False)] == [
            m.LoadNow({}),
            m.ProcessThere(B),
        ]
        assert rig.leaves() == [
            (THEIR_DRIVER, US, lines),
            (X, B, b"data"),
            (PEER_H, US, m.JobDone(THEIR_DRIVER)),
        ]
        rig.road.on_job_over(PEER_H, m.JobOver(THEIR_DRIVER))  # it is not known any more
        assert rig.leaves() == [(PEER_H, US, m.JobDone(THEIR_DRIVER))]

    def test_a_process_whose_job_is_over_serves_none_abroad(self, rig: Rig) -> None:
        rig.over.add(DRIVER)
        rig.say(A, X)
        assert rig.leaves()[0][2] == m.ProcessThere(A, b"")

    def test_a_job_of_others_comes_once_and_ends_by_the_word_of_its_drivers_peer(self, rig: Rig) -> None:
        job = m.JobThere(info(THEIR_DRIVER), "3.12")
        rig.comes(US, PEER_H)
        rig.effects()
        rig.road.on_job_there(PEER_H, job, 0.0)
        rig.road.on_job_there(PEER_H, job, 0.0)
        assert rig.effects() == [JobCame(job.info, "3.12")]
        rig.road.on_job_over(PEER_K, m.JobOver(THEIR_DRIVER))
        assert rig.effects() == []
        rig.road.on_job_over(PEER_H, m.JobOver(THEIR_DRIVER))
        rig.road.on_job_over(PEER_H, m.JobOver(THEIR_DRIVER))
        assert rig.effects() == [JobGone(THEIR_DRIVER, "its job ended")]

    def test_one_that_was_heard_of_from_a_third_is_asked_for_and_told_on_as_it_came(self, rig: Rig) -> None:
        job = m.JobThere(info(THEIR_DRIVER), "3.11")
        third, life = b"home.new", b"life.new"
        rig.road.on_life(life, third, 1, 0.0)
        rig.comes(US, PEER_K, life=LIFE_K)
        rig.road.on_job_there(PEER_K, job, 0.0)
        assert rig.leaves() == [(PEER_H, US, m.JobKnown(THEIR_DRIVER))]
        rig.processes[B] = THEIR_DRIVER
        rig.say(B, third + b"xxxxxxxx")
        rig.say(B, X)
        assert [parcel[2] for parcel in rig.leaves(third)][:2] == [job, m.ProcessThere(B, THEIR_DRIVER)]
        assert [parcel[2] for parcel in rig.leaves()][:1] == [m.ProcessThere(B, THEIR_DRIVER)]  # it is theirs

    def test_a_driver_is_asked_once_for_its_code_and_all_who_know_the_job_hear_it(self, rig: Rig) -> None:
        code = m.Code(b"hash")
        rig.road.on_code_ready(DRIVER, m.CodeReady(code))  # nobody has asked
        rig.say(A, X)
        rig.say(DRIVER, K + b"xxxxxxxx")
        assert rig.effects() == [Send(DRIVER, m.CodeWanted())]
        assert rig.leaves()[0][2] == m.JobThere(info(DRIVER), "3.11")
        rig.leaves(K)
        told = m.JobThere(msgspec.structs.replace(info(DRIVER), code=code), "3.11")
        rig.road.on_code_ready(A, m.CodeReady(code))  # no driver
        assert rig.leaves() == []
        rig.road.on_code_ready(DRIVER, m.CodeReady(code))
        rig.road.on_code_ready(DRIVER, m.CodeReady(m.Code(b"other")))
        assert rig.leaves() == [(PEER_H, US, told)]
        assert rig.leaves(K) == [(PEER_K, US, told)]
        third, life = b"home.new", b"life.new"  # who hears of the job now hears all of it
        rig.road.on_life(life, third, 1, 0.0)
        rig.say(A, third + b"xxxxxxxx")
        assert rig.leaves(third)[0][2] == told
        assert rig.effects() == []

    def test_who_knows_a_job_from_others_hears_its_code_from_its_drivers_peer(self, rig: Rig) -> None:
        rig.say(A, X)
        rig.road.on_code_ready(DRIVER, m.CodeReady(m.Code(b"hash")))
        rig.road.send(PEER_K, m.JobOver(THEIR_DRIVER), 0.0)
        rig.leaves(K)
        rig.road.on_job_known(PEER_K, m.JobKnown(DRIVER))
        told = m.JobThere(msgspec.structs.replace(info(DRIVER), code=m.Code(b"hash")), "3.11")
        assert rig.leaves(K) == [(PEER_K, US, told)]

    def test_the_code_of_others_comes_with_their_job_or_after_it(self, rig: Rig) -> None:
        bare = m.JobThere(info(THEIR_DRIVER), "3.11")
        whole = m.JobThere(msgspec.structs.replace(bare.info, code=m.Code(b"hash")), "3.11")
        rig.comes(US, PEER_H)
        rig.comes(US, PEER_K, life=LIFE_K)
        rig.effects()
        rig.road.on_job_there(PEER_H, bare, 0.0)
        rig.road.on_job_there(PEER_K, whole, 0.0)  # others know it, too
        for source in (PEER_H, PEER_K):
            for said in (whole, bare):
                rig.road.on_job_there(source, said, 0.0)
        assert rig.effects() == [JobCame(bare.info, "3.11"), JobCame(whole.info, "3.11")]
        assert rig.leaves() == []  # who is of the driver's host has told it itself

    def test_it_ends_with_its_drivers_host(self, rig: Rig) -> None:
        rig.comes(US, PEER_K, life=LIFE_K)
        rig.road.on_job_there(PEER_K, m.JobThere(info(THEIR_DRIVER), "3.11"), 0.0)
        rig.effects()
        rig.road.on_life_over(LIFE, "no answer")
        assert JobGone(THEIR_DRIVER, "no answer") in rig.effects()
        rig.road.on_job_there(PEER_K, m.JobThere(info(THEIR_DRIVER), "3.11"), 0.0)
        assert rig.effects() == [JobCame(info(THEIR_DRIVER), "3.11"), JobGone(THEIR_DRIVER, "no answer")]
