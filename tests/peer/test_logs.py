"""Pipes of workers: lines, names, bounds, last words."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

import meshray
from meshray.config import Config
from meshray.observe.markers import encode_marker
from meshray.peer.logs import Logs

WORKER = b"worker-of-a-test"
CONFIG = msgspec.structs.replace(Config(), log_line_max_bytes=10, stderr_tail_bytes=20)


class Pipes:
    """One worker's streams, written by the test itself."""

    def __init__(self) -> None:
        self.logs = Logs(CONFIG)
        self.out, self.err = self.logs.open(WORKER)
        self.logs.on_forked(WORKER, 42)

    def said(self, out: bytes = b"", err: bytes = b"") -> list[str]:
        """Write, and the lines that this completes."""
        os.write(self.out, out)
        os.write(self.err, err)
        self.logs.on_ready()
        return [line.text for line in self.logs.take_lines().get(WORKER, [])]

    def end(self) -> list[str]:
        self.last_words = self.logs.close(WORKER)
        return [line.text for line in self.logs.take_lines().get(WORKER, [])]


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    pipes = Pipes()
    yield pipes
    pipes.logs.close_all()
    os.close(pipes.out)
    os.close(pipes.err)


def is_readable(logs: Logs) -> bool:
    poll = select.poll()
    poll.register(logs.fd, select.POLLIN)
    return bool(poll.poll(0))


def test_who_is_held_is_not_read_until_it_is_let_go(pipes: Pipes) -> None:
    other = b"another-worker--"
    out, err = pipes.logs.open(other)
    pipes.logs.on_forked(other, 43)
    for stream in (pipes.out, pipes.err, out):
        os.write(stream, b"line\n")
    for _ in range(2):
        pipes.logs.hold(lambda worker: worker == WORKER)
        pipes.logs.on_ready()
    assert {worker: len(lines) for worker, lines in pipes.logs.take_lines().items()} == {other: 1}
    assert not is_readable(pipes.logs)
    os.close(pipes.err)
    os.close(err)
    pipes.logs.on_ready()
    assert not is_readable(pipes.logs), "the end of a pipe that is held waits as well"
    pipes.logs.hold(None)
    os.write(pipes.out, b"more\n")
    pipes.logs.on_ready()
    assert sorted(line.text for line in pipes.logs.take_lines()[WORKER]) == ["line", "line", "more"]
    pipes.logs.hold(lambda worker: True)
    assert pipes.end() == []
    assert pipes.logs.close(other) == ""
    os.close(out)
    pipes.err = os.open(os.devnull, os.O_WRONLY)


def test_lines_in_pieces(pipes: Pipes) -> None:
    assert pipes.said(b"on") == []
    assert pipes.said(b"e\ntwo\nth") == ["one", "two"]
    assert pipes.end() == ["th"]


def test_nothing_is_read_before_the_pid_is_known() -> None:
    logs = Logs(CONFIG)
    out, err = logs.open(WORKER)
    os.write(out, b"too early\n")
    assert not is_readable(logs)
    logs.on_ready()
    assert logs.take_lines() == {}
    logs.close(WORKER)
    os.close(out)
    os.close(err)


def test_long_lines_go_on_and_characters_stay_whole(pipes: Pipes) -> None:
    text = "äöüß" * 5
    assert "".join(pipes.said(text.encode()) + pipes.end()) == text


def test_a_line_that_never_ends_is_bounded(pipes: Pipes) -> None:
    lines = pipes.said(b"x" * 1005)
    assert lines == ["x" * 10] * 100
    assert pipes.end() == ["x" * 5]


def test_bytes_that_are_no_text(pipes: Pipes) -> None:
    assert pipes.said(b"\xff\xfe\n") == ["\ufffd\ufffd"]


def test_progress_bars_show_their_last_state(pipes: Pipes) -> None:
    assert pipes.said(b"\r 1%\r 2%\r\n") == [" 2%"]
    assert pipes.said(b"dos\r\n\n") == ["dos", ""]


def test_names(pipes: Pipes) -> None:
    os.write(pipes.out, encode_marker("f") + b"a\npart" + encode_marker("g") + b"b\n")
    pipes.logs.on_ready()
    lines = pipes.logs.take_lines()[WORKER]
    assert [(line.source, line.text, line.pid, line.stderr) for line in lines] == [
        ("f", "a", 42, False),
        ("f", "part", 42, False),
        ("g", "b", 42, False),
    ]


def test_last_words(pipes: Pipes) -> None:
    pipes.said(err=b"".join(b"line %d\n" % number for number in range(100)))
    os.write(pipes.err, b"at the end")
    pipes.end()
    assert pipes.last_words == "line 99\nat the end"


def test_last_words_of_a_crash_are_the_users_lines() -> None:
    """What `faulthandler` writes last, and at length, would push them out."""
    logs = Logs(Config())
    out, err = logs.open(WORKER)
    logs.on_forked(WORKER, 42)
    ours = Path(meshray.__file__).parent / "worker" / "executor.py"
    users = ["Fatal Python error: Segmentation fault", "", "Current thread 0x1 (most recent call first):"]
    users += [
        '  File "/home/user/program.py", line 3 in crash',
        f'  File "{ours}", line 3, in a traceback that was printed',
    ]
    os.write(err, "\n".join([*users, *([f'  File "{ours}", line 529 in attempt'] * 100), ""]).encode())
    os.write(err, b"Extension modules: " + b"numpy.core.x, " * 1000 + b"(total: 1000)\n")
    assert logs.close(WORKER).splitlines() == users
    os.close(out)
    os.close(err)


def test_end_of_a_pipe(pipes: Pipes) -> None:
    os.close(pipes.out)
    os.close(pipes.err)
    pipes.logs.on_ready()
    assert not is_readable(pipes.logs), "closed"
    assert pipes.end() == []
    pipes.out, pipes.err = os.pipe()


def test_a_writer_that_never_stops_is_read_for_a_bounded_time(pipes: Pipes) -> None:
    os.set_blocking(pipes.out, False)
    with suppress(BlockingIOError):
        while os.write(pipes.out, b"y\n" * 1000):
            pass
    pipes.logs.on_ready()
    assert len(pipes.logs.take_lines()[WORKER]) <= 64 * 1024
    pipes.end()
