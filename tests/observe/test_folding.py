"""Repetitions of several processes are folded; nothing else is, and nothing is swallowed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshray.observe.folding import TEXTS_MAX, WINDOW_S, LineFolder


def say(folder: LineFolder, text: str, pid: int, now: float, host: str = "", stderr: bool = False) -> list[str]:
    return [line.text for line in folder.on_line(text, name="f", pid=pid, host=host, stderr=stderr, now=now)]


def test_first_line_comes_at_once() -> None:
    folder = LineFolder()
    assert say(folder, "hello", 1, 0.0) == ["(f pid=1) hello"]
    assert say(folder, "hello", 2, 0.0, host="other", stderr=True) == ["(f pid=2, host=other) hello"]
    assert folder.next_tick() == WINDOW_S


def test_a_line_of_nobody() -> None:
    """What a subprocess of a task wrote, before its worker printed anything."""
    (line,) = LineFolder().on_line("hello", name="", pid=1, host="", stderr=False, now=0.0)
    assert line.text == "(pid=1) hello"
    (line,) = LineFolder().on_line("hello", name="", pid=1, host="other", stderr=False, now=0.0)
    assert line.text == "(pid=1, host=other) hello"


def test_what_a_peer_says_looks_as_our_warnings_do_and_is_folded() -> None:
    """Also from one alone: forty actors may wait for the same."""
    folder = LineFolder()
    assert say(folder, "actor A waits: why", 0, 0.0) == ["meshray: actor A waits: why"]
    for _ in range(39):
        assert say(folder, "actor A waits: why", 0, 1.0) == []
    assert say(folder, "actor B waits: why", 0, 1.0, host="other") == ["meshray (host=other): actor B waits: why"]
    assert [line.text for line in folder.flush()] == ["meshray: actor A waits: why [repeated 39x]"]


def test_the_same_from_several_processes_is_folded() -> None:
    folder = LineFolder()
    say(folder, "hello", 1, 0.0)
    for pid in (2, 3, 1):
        assert say(folder, "hello", pid, 1.0) == []
    assert folder.tick(WINDOW_S - 0.01) == []
    assert [line.text for line in folder.tick(WINDOW_S)] == ["(f pid=1) hello [repeated 3x across cluster]"]


def test_one_that_goes_on_stays_folded() -> None:
    folder = LineFolder()
    for pid in (1, 2, 3):
        say(folder, "hello", pid, 0.0)
    folder.tick(WINDOW_S)
    assert say(folder, "hello", 1, WINDOW_S + 1) == []
    assert [line.text for line in folder.tick(2 * WINDOW_S)] == ["(f pid=1) hello"]
    assert say(folder, "hello", 1, 2 * WINDOW_S) == ["(f pid=1) hello"]


def test_one_process_that_repeats_itself_is_not_folded() -> None:
    folder = LineFolder()
    assert [say(folder, "step", 1, now / 10) for now in range(3)] == [["(f pid=1) step"]] * 3


def test_different_numbers_are_different_lines() -> None:
    folder = LineFolder()
    assert say(folder, "result 5", 1, 0.0) == ["(f pid=1) result 5"]
    assert say(folder, "result 7", 2, 0.0) == ["(f pid=2) result 7"]


def test_flush_gives_what_is_held() -> None:
    folder = LineFolder()
    say(folder, "a", 1, 0.0)
    say(folder, "a", 2, 0.0)
    assert [line.text for line in folder.flush()] == ["(f pid=2) a"]
    assert folder.flush() == []
    assert folder.next_tick() is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.floats(0, 3)), max_size=60))
def test_every_line_is_printed_or_counted(lines: list[tuple[str, int, float]]) -> None:
    folder = LineFolder()
    now = 0.0
    shown: list[str] = []
    for text, pid, pause in lines:
        now += pause
        shown += say(folder, text, pid, now)
    shown += [line.text for line in folder.flush()]
    total = sum(int(line.partition("[repeated ")[2].partition("x")[0] or 1) for line in shown)
    assert total == len(lines)


def test_bounded() -> None:
    folder = LineFolder()
    for number in range(3 * TEXTS_MAX):
        say(folder, str(number), 1, 0.0)
        say(folder, str(number), 2, 0.0)
    assert len(folder._windows) <= TEXTS_MAX
