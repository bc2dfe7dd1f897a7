"""Seeds to addresses; names take their time in a thread."""

from __future__ import annotations

import threading

import msgspec

from meshray.config import DEFAULT
from meshray.peer.seeding import Seeding
from meshray.seeds import Seed
from tests.until import until

CONFIG = msgspec.structs.replace(DEFAULT, seeds_again_s=0.01)


def test_addresses_are_there_at_once_and_need_no_thread() -> None:
    seeding = Seeding([Seed("10.0.0.1", 1), Seed("fd00::1", 2)], CONFIG)
    assert seeding.addresses == ["10.0.0.1:1", "[fd00::1]:2"]
    assert seeding.take() == []
    assert seeding.behind(Seed("fd00::1", 2)) == ["[fd00::1]:2"]
    assert not seeding._thread.is_alive()
    seeding.close()


def test_names_are_resolved_beside_the_loop_and_again() -> None:
    answers = [[], [Seed("10.0.0.2", 1)], [Seed("10.0.0.2", 1), Seed("10.0.0.3", 1)]]
    asked: list[Seed] = []

    def resolver(seed: Seed) -> list[Seed]:
        asked.append(seed)
        return answers[min(len(asked), len(answers)) - 1]

    seeding = Seeding([Seed("desk.lan", 1)], CONFIG, resolver)
    found: list[str] = []
    until(lambda: seeding.behind(Seed("desk.lan", 1)) is not None, "an answer")

    def take() -> bool:
        found.extend(seeding.take())
        return "10.0.0.3:1" in found

    until(take, "the members behind the name")
    assert seeding.addresses == ["10.0.0.2:1", "10.0.0.3:1"]
    assert seeding.behind(Seed("desk.lan", 1)) == ["10.0.0.2:1", "10.0.0.3:1"]
    assert set(asked) == {Seed("desk.lan", 1)}
    seeding.close()


def test_a_resolver_that_hangs_is_not_waited_for() -> None:
    go_on, ended = threading.Event(), threading.Event()

    def resolver(seed: Seed) -> list[Seed]:
        go_on.wait()
        ended.set()
        return [Seed("10.0.0.2", 1)]

    seeding = Seeding([Seed("desk.lan", 1)], CONFIG, resolver)
    assert seeding.take() == []
    assert seeding.behind(Seed("desk.lan", 1)) is None
    seeding.close()
    go_on.set()
    assert ended.wait(30)
    assert seeding.addresses == []


def test_addresses_that_come_and_go_behind_a_name_are_bounded() -> None:
    """As in a cluster whose members get another address at each start."""
    config = msgspec.structs.replace(CONFIG, seed_addresses_max=4)
    asked = 0

    def resolver(seed: Seed) -> list[Seed]:
        nonlocal asked
        asked += 1
        return [Seed(f"10.0.{asked % 250}.{last}", 1) for last in (1, 2)]

    seeding = Seeding([Seed("10.9.9.9", 1), Seed("members.cluster", 1)], config, resolver)

    def take() -> bool:
        found = seeding.take()
        assert len(found) <= 4
        return asked > 50 and bool(found)

    until(take, "many names resolved")
    seeding.close()
    assert seeding.addresses[0] == "10.9.9.9:1"  # what was given stays
    assert len(seeding.addresses) == 5
