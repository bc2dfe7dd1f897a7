"""Whom a peer watches; with real processes (their ends by way of a zygote: tests/integration/test_zygote.py)."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Iterator

import pytest

from meshray.peer.children import Children

DRIVER, VISITOR = b"driver--", b"visitor-"
DEADLINE_MS = 20_000


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def wait_dead(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(DEADLINE_MS), "it ends"


def test_a_driver_that_ends(sleeper: subprocess.Popen[bytes]) -> None:
    children = Children()
    children.add_driver(DRIVER, sleeper.pid)
    (fd,) = children.fds()
    sleeper.kill()
    wait_dead(fd)
    children.on_readable(fd, 0.0)
    assert [ended.process_id for ended in children.take_ended()] == [DRIVER]
    assert (children.fds(), children.take_ended(), DRIVER in children) == ([], [], False)


def test_who_comes_is_not_taken_for_one_that_has_ended_under_the_same_number(sleeper: subprocess.Popen[bytes]) -> None:
    """One turn: a death is seen, its descriptor is closed for another reason, and somebody new has its number."""
    children = Children()
    children.add_driver(DRIVER, sleeper.pid)
    (ready,) = children.fds()
    sleeper.kill()
    wait_dead(ready)
    children.release(DRIVER)
    children.add_driver(VISITOR, os.getpid())
    assert children.fds() == [ready], "the lowest number that is free"
    children.on_readable(ready, 0.0)
    assert (children.take_ended(), VISITOR in children, children.fds()) == ([], True, [ready])
    children.release(VISITOR)
