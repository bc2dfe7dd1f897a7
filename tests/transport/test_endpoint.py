"""Endpoints: order, envelopes, what is refused, links that are full or whose process is gone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import zmq

from meshray.ids import new_process
from meshray.transport.endpoint import IPC_PATH_MAX_BYTES, RECEIVE_BUDGET, Endpoint
from meshray.transport.options import LOCAL_HIGH_WATER_MESSAGES
from meshray.wire.codec import encode
from meshray.wire.messages import HoldDone, Message, Release, Wake
from tests.until import until

NODE = b"the-node"


class Host:
    """Endpoints in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: list[Endpoint] = []

    def endpoint(self, process: bytes | None = None) -> tuple[bytes, Endpoint]:
        process = process or new_process(NODE)
        endpoint = Endpoint(self.folder, process)
        self._open.append(endpoint)
        return process, endpoint

    def close(self, endpoint: Endpoint) -> None:
        self._open.remove(endpoint)
        endpoint.close(linger_ms=0)

    def close_all(self) -> None:
        for endpoint in list(self._open):
            self.close(endpoint)


@pytest.fixture
def host() -> Iterator[Host]:
    with TemporaryDirectory(prefix="mr-") as folder:  # short, as paths of sockets must be
        host = Host(Path(folder))
        yield host
        host.close_all()


def received(endpoint: Endpoint, count: int) -> list[tuple[bytes, Message]]:
    """The next `count` messages."""
    arrived: list[tuple[bytes, Message]] = []

    def look() -> bool:
        arrived.extend(endpoint.receive())
        return len(arrived) >= count

    until(look, f"{count} messages")
    return arrived


def refused(endpoint: Endpoint, count: int) -> None:
    """Wait for so many refusals; nothing else may arrive."""

    def look() -> bool:
        assert endpoint.receive() == []
        return endpoint.refused >= count

    until(look, f"{count} refusals")


@pytest.fixture
def stranger(host: Host) -> Iterator[zmq.Socket[bytes]]:
    """A socket of somebody who belongs to this user, but not to the mesh."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.ROUTING_ID, b"s" * 16)
    yield socket
    socket.close()
    context.term()


def test_messages_arrive_in_order_with_their_source(host: Host) -> None:
    to, receiver = host.endpoint()
    source, sender = host.endpoint()
    for number in range(300):
        sender.send(to, HoldDone(number))
    assert received(receiver, 300) == [(source, HoldDone(number)) for number in range(300)]


def test_one_look_takes_no_more_than_its_budget(host: Host) -> None:
    to, receiver = host.endpoint()
    _, sender = host.endpoint()
    count = 3 * RECEIVE_BUDGET
    for number in range(count):
        sender.send(to, HoldDone(number))
    sizes: list[int] = []

    def look() -> bool:
        sizes.append(len(receiver.receive()))
        return sum(sizes) == count

    until(look, "all of them")
    assert max(sizes) <= RECEIVE_BUDGET


def test_the_socket_is_private_and_goes_with_its_process(host: Host) -> None:
    process, endpoint = host.endpoint()
    path = host.folder / process[8:].hex()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    host.close(endpoint)
    assert not path.exists()


def test_too_long_a_path_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MESHRAY_RUNTIME_DIR"):
        Endpoint(tmp_path / ("x" * IPC_PATH_MAX_BYTES), new_process(NODE))


@pytest.mark.fault(47)
def test_what_is_for_a_predecessor_is_refused(host: Host) -> None:
    """The next process at the same address: what was meant for the one before does nothing (I3)."""
    to, receiver = host.endpoint()
    source, sender = host.endpoint()
    sender.send(to, Wake())
    received(receiver, 1)
    link = sender._links[to]
    for envelope in (NODE + b"earlier!" + source, to + NODE + b"somebody"):
        link.dealer.send(envelope + encode(Wake()))
    refused(receiver, 2)
    assert "envelope" in receiver.last_refusal
    sender.send(to, HoldDone(1))
    assert received(receiver, 1) == [(source, HoldDone(1))]


@pytest.mark.fault(47)
@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"short"],
        [b"garbage that is longer than the envelope, much longer"],
        [b"", b""],
        [b"s" * 16] * 3,
        [b"x"] * 1000,
    ],
    ids=["empty", "short", "garbage", "two", "three", "many"],
)
def test_garbage_of_strangers_is_counted_and_nobody_falls_out_of_step(
    host: Host, stranger: zmq.Socket[bytes], frames: list[bytes]
) -> None:
    to, receiver = host.endpoint()
    source, sender = host.endpoint()
    sender.send(to, HoldDone(0))
    received(receiver, 1)
    stranger.connect(f"ipc://{host.folder / to[8:].hex()}")
    for number in range(1, 4):
        stranger.send_multipart(frames)
        refused(receiver, number)
        sender.send(to, HoldDone(number))
        assert received(receiver, 1) == [(source, HoldDone(number))]


@pytest.mark.fault(47)
def test_a_known_source_that_sends_too_many_frames(host: Host) -> None:
    to, receiver = host.endpoint()
    source, sender = host.endpoint()
    sender.send(to, HoldDone(0))
    received(receiver, 1)
    sender._links[to].dealer.send_multipart([to + source + encode(HoldDone(1)), b"too", b"much"])
    sender.send(to, HoldDone(2))
    assert received(receiver, 2) == [(source, HoldDone(1)), (source, HoldDone(2))]
    assert receiver.refused == 1


def test_what_a_full_link_does_not_take_is_kept_in_order(host: Host) -> None:
    to, receiver = host.endpoint()
    source, sender = host.endpoint()
    count = 3 * LOCAL_HIGH_WATER_MESSAGES
    for number in range(count):
        sender.send(to, HoldDone(number))
    assert sender.clogged
    arrived: list[tuple[bytes, Message]] = []

    def look() -> bool:
        sender.flush()
        arrived.extend(receiver.receive())
        return len(arrived) == count

    until(look, "all of them")
    assert arrived == [(source, HoldDone(number)) for number in range(count)]
    assert not sender.clogged


def test_what_waits_for_the_dead_is_forgotten(host: Host) -> None:
    dead = new_process(NODE)
    source, sender = host.endpoint()
    for number in range(2 * LOCAL_HIGH_WATER_MESSAGES):
        sender.send(dead, HoldDone(number))
    sender.drop(dead)
    assert sender.flush()
    _, successor = host.endpoint(dead)  # as if the address were used again
    sender.send(dead, Wake())
    assert received(successor, 1) == [(source, Wake())]


def test_a_socket_that_was_removed_already_is_no_error(host: Host) -> None:
    process, endpoint = host.endpoint()
    os.unlink(host.folder / process[8:].hex())
    host.close(endpoint)


def test_a_message_that_would_be_refused_for_its_size_is_not_sent(host: Host) -> None:
    _, ours = host.endpoint()
    other, theirs = host.endpoint()
    with pytest.raises(ValueError, match="Release of .* is larger than a message may be"):
        ours.send(other, Release([bytes(28)] * 2_500_000))
    ours.send(other, Wake())
    assert [message for _, message in received(theirs, 1)] == [Wake()]
