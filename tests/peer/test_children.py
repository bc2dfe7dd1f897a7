"""Whom a peer watches; with real processes (their ends by way of a zygote: tests/integration/test_zygote.py)."""

from __future__ import annotations

import errno
import os
import select
import subprocess
from collections.abc import Iterator

import pytest

from meshray.peer.children import Children
from meshray.transport.epoll import Epoll

DRIVER, VISITOR = b"driver--", b"visitor-"
DEADLINE_MS = 20_000


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def wait_ready(children: Children) -> None:
    poll = select.poll()
    poll.register(children.fd, select.POLLIN)
    assert poll.poll(DEADLINE_MS), "somebody ends"


def test_a_driver_that_ends(sleeper: subprocess.Popen[bytes]) -> None:
    children = Children()
    children.add_driver(DRIVER, sleeper.pid)
    sleeper.kill()
    wait_ready(children)
    children.on_ready(0.0)
    assert [ended.process_id for ended in children.take_ended()] == [DRIVER]
    children.on_ready(0.0)
    assert (children.take_ended(), DRIVER in children) == ([], False)
    children.close()


def test_who_comes_is_not_taken_for_one_that_has_ended_under_the_same_number(sleeper: subprocess.Popen[bytes]) -> None:
    """One turn: a death is seen, its descriptor is closed for another reason, and somebody new has its number."""
    children = Children()
    children.add_driver(DRIVER, sleeper.pid)
    number = highest_descriptor()
    sleeper.kill()
    wait_ready(children)
    children.release(DRIVER)
    children.add_driver(VISITOR, os.getpid())
    assert highest_descriptor() == number, "the lowest number that is free"
    children.on_ready(0.0)
    assert (children.take_ended(), VISITOR in children) == ([], True)
    children.close()


def highest_descriptor() -> int:
    return max(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}"))


def test_dead_workers_whose_exit_codes_do_not_come_are_told_of_in_turn(sleeper: subprocess.Popen[bytes]) -> None:
    children = Children()
    children.add_worker(DRIVER, sleeper.pid, os.pidfd_open(sleeper.pid))
    assert children.next_expiry() is None
    sleeper.kill()
    wait_ready(children)
    children.on_ready(5.0)
    with subprocess.Popen(["sleep", "1000"]) as other:
        children.add_worker(VISITOR, other.pid, os.pidfd_open(other.pid))
        other.kill()
        wait_ready(children)
        children.on_ready(6.0)
        due = children.next_expiry()
        assert due is not None
        assert 5.0 < due < 6.0
        children.expire(due)
        assert [ended.process_id for ended in children.take_ended()] == [DRIVER]
        children.on_exit_code(VISITOR, 3)
        assert [ended.exit_text for ended in children.take_ended()] == ["exit code 3"]
        assert children.next_expiry() is None
    children.close()


def test_one_that_cannot_be_watched_is_not_kept(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    children, before = Children(), highest_descriptor()

    def refuse(self: Epoll, fd: int) -> None:
        raise OSError(errno.ENOSPC, "no watch is left")

    with monkeypatch.context() as patched:
        patched.setattr(Epoll, "watch", refuse)
        with pytest.raises(OSError, match="no watch is left"):
            children.add_driver(DRIVER, sleeper.pid)
    assert (DRIVER in children, highest_descriptor()) == (False, before)
    children.add_driver(DRIVER, sleeper.pid)
    children.close()
