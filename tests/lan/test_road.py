"""Processes of different hosts speak with each other, by way of their peers."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lan.network import Host, Lan
from tests.lan.peers import Peer, agree
from tests.lan.test_members import PARTITION_S, pause
from tests.until import until

MakeLan = Callable[..., Lan]


class Speaker:
    """A running `tests.lan.speaker`."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.program = host.start("python", "-m", "tests.lan.speaker")
        self.id = str(self.look()["process"])

    def look(self, line: str = "look") -> dict[str, Any]:
        before = len(self.program.lines)
        self.program.tell(line)
        until(lambda: len(self.program.lines) > before or not self.program.running(), f"it answers: {self.program}")
        found: list[dict[str, Any]] = self.program.json_lines()
        assert len(found) > before, self.program
        return found[before]

    def say(self, other: Speaker, count: int, size: int = 10) -> None:
        self.look(f"say {other.id} {count} {size}")

    def answered(self, other: Speaker) -> int:
        """How many answers of the other one have come."""
        return int(self.look()["last"].get(other.id, -1)) + 1


def resident_bytes(peer: Peer) -> int:
    status = Path(f"/proc/{peer.program.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def test_an_echo_between_two_hosts(lan: MakeLan) -> None:
    network = lan("a", "b")
    a, b = (Peer(host) for host in network.hosts.values())
    agree(a, b)
    row = next(member for member in a.mesh()["members"] if member["name"] == "b")
    assert row["home"] == b.status()["node_id"]
    one, other = Speaker(network["a"]), Speaker(network["b"])
    one.say(other, 1)
    until(lambda: one.answered(other) == 1, "the echo is there")
    one.say(other, 1, 3 << 20)  # larger than a window
    until(lambda: one.look()["heard"].get("Results") == 2, "a large one as well")


@pytest.mark.slow
@pytest.mark.fault(29)
def test_a_message_that_a_link_carries_in_half_a_minute_arrives(lan: MakeLan) -> None:
    """No heartbeat is seen while one frame is on its way, and no probe comes through a queue that is full of it."""
    network = lan("a", "b")
    a, b = (Peer(host, preset="default") for host in network.hosts.values())
    agree(a, b)
    one, other = Speaker(network["a"]), Speaker(network["b"])
    one.say(other, 1)
    until(lambda: one.answered(other) == 1, "they have spoken")
    network.rule("a", "b", rate=30e3 * 8, queue_bytes=200_000)
    one.say(other, 1, 1 << 20)
    until(lambda: one.look()["heard"].get("Results") == 2, "the echo is there", 90.0)
    assert one.look()["gone"] == other.look()["gone"] == []


def test_last_words_arrive_before_the_death_and_the_death_is_accounted_for(lan: MakeLan) -> None:
    network = lan("a", "b", "c")
    a, b, c = (Peer(host) for host in network.hosts.values())
    agree(a, b, c)
    one, other, third = (Speaker(host) for host in network.hosts.values())
    for receiver in (other, third):
        one.say(receiver, 3000)
    until(lambda: not one.look()["unsent"], "all has left its memory")
    one.program.kill()
    until(lambda: other.look()["died"] == third.look()["died"] == [one.id], "both know of the death")
    assert other.look()["heard"]["Results"] == third.look()["heard"]["Results"] == 3000
    until(lambda: other.look()["settled"] == third.look()["settled"] == [one.id], "it is settled")
    until(lambda: b.mesh()["foreign_processes"] == c.mesh()["foreign_processes"] == 0, "nobody speaks to them")
    other.say(one, 1)  # of which nobody knows any more
    until(lambda: len(other.look()["died"]) == 2, "it hears that again")


def test_last_words_arrive_from_behind_a_crowd(lan: MakeLan) -> None:
    network = lan("a", "b")
    a, b = (Peer(host) for host in network.hosts.values())
    agree(a, b)
    other = Speaker(network["b"])
    speakers = [Speaker(network["a"]) for _ in range(9)]
    for speaker in speakers:
        speaker.say(other, 1)
        until(lambda speaker=speaker: speaker.answered(other) == 1, "they have spoken")  # type: ignore[misc]
    a.program.signal(signal.SIGSTOP)
    for speaker in speakers:
        speaker.say(other, 250)
    unsent = [speaker.look()["unsent"] for speaker in speakers]
    speakers[-1].program.kill()
    a.program.signal(signal.SIGCONT)  # it finds all of that, and the death
    assert not any(unsent)
    until(lambda: other.look()["died"] == [speakers[-1].id], "the death is known")
    until(lambda: other.look()["heard"]["Results"] == 9 * 251, "all has arrived")


def test_a_job_is_known_where_its_processes_speak_and_ends_everywhere(lan: MakeLan) -> None:
    network = lan("a", "b")
    a, b = (Peer(host) for host in network.hosts.values())
    agree(a, b)
    one, other = Speaker(network["a"]), Speaker(network["b"])
    one.say(other, 1)
    until(lambda: one.answered(other) == 1, "they have spoken")
    assert (a.mesh()["foreign_jobs"], b.mesh()["foreign_jobs"]) == ([other.id], [one.id])
    one.program.kill()
    until(lambda: b.mesh()["foreign_jobs"] == [], "it has ended there, too")
    assert a.mesh()["foreign_jobs"] == [other.id]


@pytest.mark.fault(43)
def test_a_receiver_that_is_stopped_costs_no_memory_and_holds_up_nobody(lan: MakeLan) -> None:
    network = lan("a", "b")
    a, b = (Peer(host) for host in network.hosts.values())
    agree(a, b)
    one, other, third = Speaker(network["a"]), Speaker(network["b"]), Speaker(network["b"])
    one.say(other, 1)
    until(lambda: one.answered(other) == 1, "they have spoken")
    before = [resident_bytes(peer) for peer in (a, b)]
    other.program.signal(signal.SIGSTOP)
    count, size = 600, 100_000
    one.say(other, count, size)
    one.say(third, 10)
    until(lambda: one.answered(third) == 10, "another pair speaks")
    assert one.look()["waiting"] > count * 3 // 4
    grown = [now - then for now, then in zip([resident_bytes(peer) for peer in (a, b)], before, strict=True)]
    assert max(grown) < count * size / 4, grown
    other.program.signal(signal.SIGCONT)
    until(lambda: one.look()["heard"].get("Results") == 1 + 10 + count, "everything has arrived")
    assert one.look()["waiting"] == 0


@pytest.mark.slow
@pytest.mark.fault(21)
def test_a_short_partition_costs_nothing(lan: MakeLan) -> None:
    network = lan("a", "b")
    a, b = (Peer(host, preset="default") for host in network.hosts.values())
    agree(a, b)
    one, other = Speaker(network["a"]), Speaker(network["b"])
    one.say(other, 10)
    until(lambda: one.answered(other) == 10, "they have spoken")
    network.partition(["a"], ["b"])
    one.say(other, 500)
    pause(PARTITION_S)
    network.heal()
    until(lambda: one.look()["heard"].get("Results") == 510, "everything has arrived")
    told = one.look()
    assert told["disorder"] == 1  # where the numbers began again
    assert told["gone"] == other.look()["gone"] == []


@pytest.mark.fault(5)
def test_a_host_that_dies_is_told_to_those_who_spoke_with_it(lan: MakeLan) -> None:
    network = lan("a", "b")
    a, b = (Peer(host) for host in network.hosts.values())
    agree(a, b)
    home = b.status()["node_id"]
    one, other, third = Speaker(network["a"]), Speaker(network["b"]), Speaker(network["a"])
    one.say(other, 1)
    until(lambda: one.answered(other) == 1, "they have spoken")
    network["b"].power_off()
    until(lambda: one.look()["gone"] == [home], "it is told")
    assert third.look()["gone"] == []
    third.say(other, 1)
    until(lambda: third.look()["gone"] == [home], "whoever asks later hears it, too")
    assert a.mesh()["foreign_jobs"] == []


@pytest.mark.fault(11)
def test_a_peer_that_slept_past_its_death_speaks_anew(lan: MakeLan) -> None:
    network = lan("a", "b", "c")
    a, b, c = (Peer(host) for host in network.hosts.values())
    agree(a, b, c)
    homes = [peer.status()["node_id"] for peer in (a, b, c)]
    one, other, third = (Speaker(host) for host in network.hosts.values())
    for speaker in (one, other):
        speaker.say(third, 5)
        until(lambda speaker=speaker: speaker.answered(third) == 5, "they have spoken")  # type: ignore[misc]
    c.program.signal(signal.SIGSTOP)
    until(lambda: a.states()[c.first] == b.states()[c.first] == "dead", "both know that c is dead")
    one.say(third, 3)
    third.say(one, 3)  # it waits at c's peer, and is for nobody
    c.program.signal(signal.SIGCONT)
    until(lambda: c.mesh()["lives"] > 1, "c knows it, too")
    until(lambda: sorted(third.look()["gone"]) == sorted(homes[:2]), "and so does what runs there")
    agree(a, b, c)
    assert set(one.look()["gone"]) == set(other.look()["gone"]) == {homes[2]}
    heard = one.look()["heard"]["Results"]
    one.say(third, 4)
    third.say(one, 2)
    until(lambda: third.answered(one) == 2, "they speak anew")
    until(lambda: one.look()["heard"]["Results"] == heard + 6, "both ways")
