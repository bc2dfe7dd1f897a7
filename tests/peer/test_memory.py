"""What is freed is kept while pieces travel, and given back after that."""

from __future__ import annotations

import platform
import subprocess
import sys
import time

import pytest

from meshray.peer import memory
from meshray.peer.buffers import Buffers
from meshray.peer.memory import Memory
from meshray.peer.timers import Timers

SIZE = 1000
IDLE_S = 5.0

KEEPS = """
import re
from pathlib import Path
from meshray.peer import memory

def resident():  # exact: the counters of `statm` are not
    return int(re.search(r"^Rss: +(\\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.M)[1]) << 10

def churn():
    pieces = [bytearray(b"x") * (1 << 20) for _ in range(16)]

memory.give_back()  # what this interpreter has freed by now would be used first
if {keep}:
    assert memory.keep_freed()
at_first = resident()
churn()
kept = resident() - at_first
memory.give_back()
left = resident() - at_first
churn()
print(kept, left, resident() - at_first)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt(3)")
@pytest.mark.parametrize("keep", [True, False])
def test_a_process_keeps_what_it_frees_until_it_gives_it_back(keep: bool) -> None:
    """In a process of its own, whose heap is its own."""
    done = subprocess.run(
        [sys.executable, "-c", KEEPS.format(keep=keep)], capture_output=True, text=True, timeout=60, check=True
    )
    kept, left, after = map(int, done.stdout.split())
    assert (kept > 15 << 20) == keep, "all sixteen, or next to nothing"
    assert left < 2 << 20
    assert after < 4 << 20, "nothing is kept any more"


class TestWhenItIsGivenBack:
    def test_when_nothing_has_travelled_for_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kept: list[int] = []
        given: list[int] = []
        monkeypatch.setattr(memory, "keep_freed", lambda: kept.append(1))
        monkeypatch.setattr(memory, "give_back", lambda: given.append(1))
        buffers, timers = Buffers(SIZE), Timers()
        watched = Memory(lambda: bool(buffers.clear()), timers, IDLE_S)
        watched.used(100.0)
        buffers.take(SIZE)
        assert kept
        assert timers.next_deadline() == 100.0 + IDLE_S, "it is looked at once for all pieces"
        watched.used(104.0)
        watched.used(104.5)
        timers.run_due(105.0)
        assert not given, "something has travelled since"
        assert len(buffers) == 1
        due = timers.next_deadline()
        assert due is not None
        timers.run_due(due)
        assert given
        assert len(buffers) == 0
        assert timers.next_deadline() is None, "who has nothing to do is not woken"

    def test_again_and_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kept: list[int] = []
        given: list[int] = []
        monkeypatch.setattr(memory, "keep_freed", lambda: kept.append(1))
        monkeypatch.setattr(memory, "give_back", lambda: given.append(1))
        timers = Timers()
        watched = Memory(Buffers(SIZE).clear, timers, IDLE_S)
        for number in range(3):
            watched.used(100.0 * number)
            assert len(kept) == number + 1
            timers.run_due(100.0 * number + IDLE_S)
            assert len(given) == number + 1

    def test_step_by_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What takes long to let go of does not hold up the rest, and may be needed again before all of it is gone."""
        left, given, timers = [1, 2, 3, 4], list[int](), Timers()
        monkeypatch.setattr(memory, "keep_freed", lambda: None)
        monkeypatch.setattr(memory, "give_back", lambda: given.append(1))
        watched = Memory(lambda: bool(left.pop()) and bool(left), timers, IDLE_S)

        def run_due() -> None:
            due = timers.next_deadline()
            assert due is not None
            timers.run_due(due)

        watched.used(0.0)
        for count in (3, 2):
            run_due()
            assert (len(left), given) == (count, [])
        watched.used(time.monotonic())
        run_due()
        assert (len(left), given) == (2, []), "a piece has come"
        run_due()  # so late that the second step is due as well
        assert (left, given, timers.next_deadline()) == ([], [1], None)
