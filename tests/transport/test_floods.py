"""The doorkeeper: whom it counts, when it shuts the door; and the door itself."""

from __future__ import annotations

import resource
import socket
from random import Random

import pytest
import zmq

from meshray.transport.floods import YOUNG_S, Doorkeeper, raise_descriptor_limit, reopen, shut, silent_max
from meshray.transport.monitors import Happened


def keeper() -> Doorkeeper:
    return Doorkeeper(most=10, pause_s=1.0, random=Random(1))


def accepted(door: Doorkeeper, fds: range, now: float) -> None:
    for fd in fds:
        door.on_event(Happened(zmq.Event.ACCEPTED, fd), now)


def test_those_who_show_a_key_or_leave_are_not_counted() -> None:
    door = keeper()
    accepted(door, range(8), 0.0)
    door.on_event(Happened(zmq.Event.HANDSHAKE_SUCCEEDED, 0), 0.1)
    door.on_event(Happened(zmq.Event.DISCONNECTED, 3), 0.1)
    assert door.silent(0.1) == 6


def test_those_who_are_older_than_a_handshake_may_take_are_sessions() -> None:
    door = keeper()
    accepted(door, range(8), 0.0)
    assert door.silent(YOUNG_S + 0.1) == 0


@pytest.mark.fault(40)
def test_too_many_shut_the_door_until_they_are_gone() -> None:
    door = keeper()
    accepted(door, range(10), 0.0)
    assert door.decide(0.0) is None
    accepted(door, range(10, 12), 0.0)
    assert door.decide(0.0) is True
    assert door.shut_until is not None
    assert 0.5 <= door.shut_until <= 1.5
    assert door.decide(0.4) is None
    assert door.decide(2.0) is None  # they are still there
    assert door.decide(YOUNG_S + 2.0) is False
    assert door.decide(YOUNG_S + 2.1) is None


@pytest.mark.fault(40)
def test_no_descriptors_shut_the_door() -> None:
    door = keeper()
    door.on_event(Happened(zmq.Event.ACCEPT_FAILED, 24), 0.0)
    assert door.decide(0.0) is True
    assert door.decide(2.0) is False


def test_members_that_come_and_go_are_no_flood() -> None:
    door = keeper()
    for number in range(1000):
        accepted(door, range(number, number + 1), number * 0.01)
        door.on_event(Happened(zmq.Event.HANDSHAKE_SUCCEEDED, 0), number * 0.01)
        assert door.decide(number * 0.01) is None


@pytest.mark.fault(40)
def test_the_limit_of_descriptors_is_raised_and_kept_below() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        assert silent_max(256) == 50
        assert raise_descriptor_limit() >= hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert silent_max(256) == min(256, hard // 4)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_shut_door_lets_nobody_in_and_keeps_those_inside() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        inside = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        shut(listener)
        outside = socket.socket()
        outside.settimeout(0.2)
        with pytest.raises(TimeoutError):
            outside.connect(listener.getsockname())
        inside.sendall(b"still here")
        assert server.recv(100) == b"still here"
        reopen(listener)
        socket.create_connection(listener.getsockname()).close()
        for end in (inside, outside, server):
            end.close()
